"""What will be true once a decision has been carried out and nothing else has happened."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tangram.decide.decision import Decision
from tangram.decide.devices import parts_of
from tangram.decide.draft import Placed
from tangram.decide.fit.neighbours import Neighbours
from tangram.decide.journal import Journal
from tangram.decide.pool import Part
from tangram.decide.preempt.preemption import Preemption
from tangram.decide.queues.rights import least_runtime
from tangram.decide.reserve.departing import joined, with_placed
from tangram.snapshot.arrays import (
    NOBODY_LEAVES,
    Bool,
    Departures,
    Gangs,
    Int32,
    Int64,
    Leaving,
    Queues,
    Running,
    Snapshot,
)
from tangram.snapshot.values.levels import Topology
from tangram.snapshot.values.pending import Pending
from tangram.snapshot.values.rules import Relations


def nobody_leaves(made: Preemption) -> bool:
    """Whether all will still be there then, and no places are held."""
    draft, snapshot = made.decision.draft, made.decision.snapshot
    return not (draft.evict or draft.claims or len(snapshot.leaving.node))


def outlook(made: Preemption) -> Snapshot:
    """As much of ``after`` as tells who could have whom evicted, where nobody leaves: who waits, who runs where, and
    what queues use."""
    decision = made.decision
    snapshot, placed = decision.snapshot, decision.draft.placed
    pending, running, count = snapshot.pending, snapshot.running, len(snapshot.running.names)
    slots, rows = [one.slot for one in placed], [one.row for one in placed]
    waiting = pending.waiting.copy()
    waiting[slots] = False
    return replace(
        snapshot,
        pending=replace(pending, waiting=waiting),
        running=replace(
            running,
            present=np.append(running.present[:count], np.ones(len(slots), np.bool_)),
            node=np.append(running.node[:count], np.array(rows, np.int32)),
            shape=np.append(running.shape[:count], pending.shape[slots]),
            priority=np.append(running.priority[:count], pending.priority[slots]),
            gang=np.append(running.gang[:count], pending.gang[slots]),
        ),
        gangs=_gangs(snapshot, slots) if (pending.gang[slots] >= 0).any() else snapshot.gangs,
        queues=replace(snapshot.queues, usage=_usage(decision)),
    )


def after(made: Preemption) -> Snapshot:
    """What will be true once a decision has been carried out and nothing else has happened.

    Victims are leaving then, and what has been placed has run for as long as it is protected by ``minRuntime``.
    """
    decision = made.decision
    snapshot, draft, pool = decision.snapshot, decision.draft, decision.pool
    placed, held = draft.placed, _held(decision)
    return replace(
        snapshot,
        nodes=replace(
            snapshot.nodes,
            free=pool.shared.less_owed(pool.free),
            device_free=pool.device_free.copy(),
            device_memory_free=pool.device_memory_free.copy(),
        ),
        pending=_pending(snapshot.pending, placed, held),
        running=_running(made, placed),
        gangs=_without_members(_gangs(snapshot, [one.slot for one in placed]), snapshot.running, made.victims),
        queues=_queues(decision, placed),
        departures=with_placed(decision),
        leaving=_without_claims(snapshot, made.leaving(), [one.slot for one in placed]),
        relations=_counted(snapshot, pool.neighbours.relations(), [(one.slot, one.row) for one in held], -1),
        topology=_topology(_left(snapshot, made.victims), [(one.slot, one.row) for one in placed]),
        shared_volumes=pool.shared.left(),
    )


def _held(decision: Decision) -> list[Placed]:
    """The places that a decision holds."""
    snapshot, claims = decision.snapshot, decision.draft.claims
    if not claims:
        return []
    slots = {snapshot.pending.names[slot].uid: slot for slot in np.flatnonzero(snapshot.pending.waiting).tolist()}
    rows = {name: row for row, name in enumerate(snapshot.nodes.names)}
    return [Placed(slots[place.pod.uid], rows[place.node], place) for claim in claims for place in claim.places]


def once_gone(snapshot: Snapshot) -> Snapshot | None:
    """The same once all who are leaving are gone, and those for whom places are held have come; None: nobody leaves."""
    if not len(snapshot.leaving.node):
        return None
    leaving, pending, nodes, queues = snapshot.leaving, snapshot.pending, snapshot.nodes, snapshot.queues
    free, device, memory = nodes.free.copy(), nodes.device_free.copy(), nodes.device_memory_free.copy()
    free[leaving.node] += leaving.free
    device[leaving.node] += leaving.device
    memory[leaving.node] += leaving.memory
    usage = queues.usage.copy()
    for leaf, amounts in leaving.charges.items():
        row = leaf
        while row >= 0:
            usage[row] -= amounts
            row = int(queues.parent[row])
    come = _coming(snapshot)
    rows = pending.claim[come]
    given = [(slot, row, pending.kept.get(slot, ())) for slot, row in zip(come, rows.tolist(), strict=True)]
    parts = [parts_of(snapshot, *one) for one in given]
    running = _joined(snapshot, _Joining(come, rows, parts, _evictable(snapshot, come, rows)))
    places = [(slot, row) for slot, row, _ in given]
    return replace(
        snapshot,
        nodes=replace(nodes, free=free, device_free=device, device_memory_free=memory),
        queues=replace(queues, usage=usage),
        pending=_without(pending, come),
        gangs=_gangs(snapshot, come),
        topology=_topology(snapshot, places),
        running=replace(running, present=running.present & ~running.doomed),
        departures=joined(
            _departures(snapshot), snapshot, [(slot, row, pending.kept.get(slot, ())) for slot, row in places]
        ),
        leaving=NOBODY_LEAVES,
        relations=_once_moved(snapshot, places),
    )


def _coming(snapshot: Snapshot) -> list[int]:
    """Slots of the pods that come where places are held for them, once all who are leaving are gone: all but those
    that others have kept from being near whom they have to be near."""
    pending = snapshot.pending
    come: list[int] = np.flatnonzero(pending.waiting & (pending.claim >= 0)).tolist()
    if not snapshot.relations.counts:
        return come
    neighbours, found = Neighbours(Journal()), list[int]()
    neighbours.observe(replace(snapshot, relations=_once_moved(snapshot, [])))
    for slot in come:
        shape, row = int(pending.shape[slot]), int(pending.claim[slot])
        near = neighbours.near_company(shape)
        if near is None or near[row]:
            neighbours.take(shape, row)
            found.append(slot)
    return found


def _without(pending: Pending, come: list[int]) -> Pending:
    """Those that wait once some have come; of the others nobody has a claim any more."""
    waiting = pending.waiting.copy()
    waiting[come] = False
    return replace(pending, waiting=waiting, claim=np.where(waiting, -1, pending.claim).astype(pending.claim.dtype))


def _once_moved(snapshot: Snapshot, come: list[tuple[int, int]]) -> Relations:
    """Who is where once those who are doomed are gone and pods of slots have come to node rows."""
    relations, running, nodes = snapshot.relations, snapshot.running, snapshot.nodes
    found = _counted(snapshot, relations, come, 1)
    for slot in np.flatnonzero(running.present & running.doomed).tolist() if relations.counts else ():
        row = int(running.node[slot])
        for group in relations.groups_of(nodes.names[row], running.names[slot].uid, int(running.shape[slot])):
            found.counts[group][row] -= 1
    return found


def _counted(snapshot: Snapshot, relations: Relations, places: list[tuple[int, int]], number: int) -> Relations:
    """Who is where with pods of slots on node rows, or (-1) without them."""
    if not relations.counts:
        return relations
    counts = [count.copy() for count in relations.counts]
    for slot, row in places:
        shape = int(snapshot.pending.shape[slot])
        rules = relations.rules[shape] if shape < len(relations.rules) else None
        for group in rules.members if rules is not None else ():
            counts[group][row] += number
    return replace(relations, counts=counts, revision=-1)


def _departures(snapshot: Snapshot) -> Departures | None:
    """When pods will end, without those that are gone: of equal ones on a node with one of a victim's request any."""
    departures, running = snapshot.departures, snapshot.running
    if departures is None:
        return None
    present = departures.present & ~departures.leaving
    for slot in np.flatnonzero(running.present & running.doomed).tolist():
        here = present & (departures.node == running.node[slot]) & (departures.shape == running.shape[slot])
        present[np.flatnonzero(here)[:1]] = False
    return replace(departures, present=present)


def unclaimed(snapshot: Snapshot, slots: list[int]) -> Snapshot:
    """The same without the claims of these pods: what will be free is for others."""
    return replace(snapshot, leaving=_without_claims(snapshot, snapshot.leaving, slots))


def _without_claims(snapshot: Snapshot, leaving: Leaving, slots: list[int]) -> Leaving:
    """What will be free without the claims of these pods."""
    pending, at = snapshot.pending, {row: place for place, row in enumerate(leaving.node.tolist())}
    claimed = [(slot, at[int(pending.claim[slot])]) for slot in slots if int(pending.claim[slot]) in at]
    if not claimed:
        return leaving
    free, device, memory = leaving.free.copy(), leaving.device.copy(), leaving.memory.copy()
    for slot, place in claimed:
        row = int(leaving.node[place])
        free[place] += snapshot.shapes.request[pending.shape[slot]]
        for index, milli, mib in parts_of(snapshot, slot, row, pending.kept.get(slot, ())):
            device[place, index] += milli
            memory[place, index] += mib
    return replace(leaving, free=free, device=device, memory=memory)


def _pending(pending: Pending, placed: list[Placed], held: list[Placed]) -> Pending:
    """``held``: places that are held."""
    waiting, claim = pending.waiting.copy(), pending.claim.copy()
    waiting[[one.slot for one in placed]] = False
    claim[[one.slot for one in held]] = [one.row for one in held]
    kept = pending.kept | {one.slot: one.place.devices for one in held}
    return replace(pending, waiting=waiting, claim=claim, kept=kept, nominated=np.full_like(pending.nominated, -1))


class _Joining(NamedTuple):
    """Pods that run from now on."""

    slots: list[int]
    rows: Int32
    parts: list[list[Part]]
    evictable: Bool


def _running(made: Preemption, placed: list[Placed]) -> Running:
    """What runs, with what has been placed; who is evicted is doomed."""
    snapshot = made.decision.snapshot
    slots, rows = [one.slot for one in placed], np.array([one.row for one in placed], np.int32)
    held = [(one.slot, one.row, one.place.devices) for one in placed]
    parts = [parts_of(snapshot, *one) for one in held]
    running = _joined(snapshot, _Joining(slots, rows, parts, _evictable(snapshot, slots, rows)))
    running.evictable[made.victims] = False
    running.doomed[made.victims] = True
    return running


def _evictable(snapshot: Snapshot, slots: list[int], rows: Int32) -> Bool:
    """[len(slots)] whether these waiting pods may be evicted once they run on these node rows."""
    uncertain = snapshot.nodes.uncertain[rows] if len(snapshot.nodes.uncertain) else np.zeros(len(rows), np.bool_)
    return np.asarray(~uncertain & ~snapshot.pending.exempt[slots], np.bool_)


def _joined(snapshot: Snapshot, joining: _Joining) -> Running:
    """A copy of what runs, with others."""
    before, pending, slots = snapshot.running, snapshot.pending, joining.slots
    count, more = len(before.names), len(joining.slots)
    held = np.full((count + more, max([before.parts.shape[1], *map(len, joining.parts)]), 3), -1, np.int32)
    held[:count, : before.parts.shape[1]] = before.parts[:count]
    for index, some in enumerate(joining.parts, count):
        held[index, : len(some)] = np.array(some, np.int32).reshape(-1, 3)
    leaf, least = snapshot.shapes.leaf[pending.shape[slots]], least_runtime(snapshot.queues)
    started = snapshot.now - least[np.where(leaf >= 0, snapshot.queues.parent[leaf], -1)]
    return Running(
        names=[*before.names, *(pending.names[slot] for slot in slots)],
        present=np.concatenate([before.present[:count], np.ones(more, np.bool_)]),
        exempt=np.concatenate([before.exempt[:count], ~joining.evictable]),
        evictable=np.concatenate([before.evictable[:count], joining.evictable]),
        doomed=np.concatenate([before.doomed[:count], np.zeros(more, np.bool_)]),
        node=np.concatenate([before.node[:count], joining.rows]),
        shape=np.concatenate([before.shape[:count], pending.shape[slots]]),
        priority=np.concatenate([before.priority[:count], pending.priority[slots]]),
        gang=np.concatenate([before.gang[:count], pending.gang[slots]]),
        role=[*before.role[:count], *(pending.role[slot] for slot in slots)],
        started=np.concatenate([before.started[:count], started]),
        checkpoint=np.concatenate([before.checkpoint[:count], np.zeros(more, np.int64)]),
        tie=np.concatenate([before.tie[:count], pending.tie[slots]]),
        parts=held,
    )


def _gangs(snapshot: Snapshot, slots: list[int]) -> Gangs:
    """Gangs with waiting members that have come; none is late."""
    gangs, pending = snapshot.gangs, snapshot.pending
    bound, waiting, role_bound = gangs.bound.copy(), gangs.waiting.copy(), list(gangs.role_bound)
    for slot in slots:
        gang, role = int(pending.gang[slot]), pending.role[slot]
        if gang >= 0:
            bound[gang] += 1
            waiting[gang] -= 1
            role_bound[gang] = role_bound[gang] | {role: role_bound[gang].get(role, 0) + 1}
    return replace(gangs, bound=bound, waiting=waiting, role_bound=role_bound, overdue={})


def _without_members(gangs: Gangs, running: Running, victims: list[int]) -> Gangs:
    """Gangs without members that are evicted: who is leaving is none any more."""
    members = [slot for slot in victims if running.gang[slot] >= 0]
    if not members:
        return gangs
    bound, role_bound = gangs.bound.copy(), list(gangs.role_bound)
    for slot in members:
        gang, role = int(running.gang[slot]), running.role[slot]
        bound[gang] -= 1
        role_bound[gang] = role_bound[gang] | {role: role_bound[gang].get(role, 0) - 1}
    return replace(gangs, bound=bound, role_bound=role_bound)


def _left(snapshot: Snapshot, victims: list[int]) -> Snapshot:
    """The same where nodes hold members of gangs no more that are evicted."""
    running, taken = snapshot.running, dict(snapshot.topology.taken)
    gone = np.zeros(len(running.present), np.bool_)
    gone[victims] = True
    for gang in {int(running.gang[slot]) for slot in victims} & taken.keys():
        rows = running.node[running.present & ~running.doomed & ~gone & (running.gang == gang)]
        taken[gang] = np.unique(rows).astype(np.int32)
    return replace(snapshot, topology=replace(snapshot.topology, taken=taken))


def _queues(decision: Decision, placed: list[Placed]) -> Queues:
    """Queues with what they use by now."""
    snapshot = decision.snapshot
    queues, pods = snapshot.queues, snapshot.queues.pods.copy()
    leaves = snapshot.shapes.leaf[snapshot.pending.shape[[one.slot for one in placed]]]
    np.add.at(pods, leaves[leaves >= 0], 1)
    return replace(queues, usage=_usage(decision), pods=pods)


def _usage(decision: Decision) -> Int64:
    """[Q, X] what queues use by now."""
    turns, usage = decision.turns, decision.snapshot.queues.usage
    return np.array([turns.used(row) for row in range(len(usage))], np.int64).reshape(usage.shape)


def _topology(snapshot: Snapshot, places: list[tuple[int, int]]) -> Topology:
    """Where members of gangs are once pods of slots have come to node rows."""
    taken = dict(snapshot.topology.taken)
    for slot, row in places:
        gang = int(snapshot.pending.gang[slot])
        if gang >= 0:
            before = taken.get(gang, np.zeros(0, np.int32))
            taken[gang] = np.unique(np.append(before, np.int32(row)))
    return replace(snapshot.topology, taken=taken) if len(snapshot.topology.domain) else snapshot.topology
