"""What the next decision would take back of this one: nobody is given a place that somebody else has a right to.

Turns say who comes first, rights say who may have whom evicted; where they do not agree (a limit, a class's nodes, a
full batch or a member that its gang can spare lies between them) one decision would place what the next one evicts.
So where pods wait that have a right to evictions, the next decisions are made ahead, on what will be true once this one
has been carried out. A pod that they would evict gives way in this one, and who they would evict it for has its place.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.decide.fit.kernels import memory_of
from tangram.decide.pool import Part
from tangram.decide.preempt.order import may_stand_above
from tangram.decide.preempt.preemption import Preemption
from tangram.plan import Claim, DevicesByContainer, Evict, Hold, Place
from tangram.snapshot.arrays import NOBODY_LEAVES, Bool, Gangs, Int8, Int32, Pending, Queues, Running, Snapshot
from tangram.snapshot.values.levels import Topology

_STEPS = 4
"""States that are looked at ahead at most."""
_LEAST = 64
"""Pods that a decision that is made ahead may place at least, however small the batch."""
_CRITICAL = 2_000_000_000
"""The priority of ``system-cluster-critical``: who has it is never evicted."""


@dataclass(slots=True)
class Yielding:
    """Who gives way in a decision, and who goes first."""

    evictions: dict[int, Evict] = field(default_factory=dict)
    """Slot -> the eviction that it is spared."""
    first: dict[int, tuple[int, DevicesByContainer]] = field(default_factory=dict)
    """Slot -> the node row, and the devices there, that it gets before anybody else is asked."""

    def applied(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot as if those that give way were not there."""
        pending = snapshot.pending
        waiting, nominated, kept = pending.waiting.copy(), pending.nominated.copy(), dict(pending.kept)
        for slot, (row, devices) in self.first.items():
            nominated[slot], kept[slot] = row, devices
        waiting[list(self.evictions)] = False
        return replace(snapshot, pending=replace(pending, waiting=waiting, nominated=nominated, kept=kept))

    def holds(self, snapshot: Snapshot, known: Int8 | None) -> list[Hold]:
        """Why those that give way wait; of those whose reason is ``known`` [P] already nothing is said."""
        names, code = snapshot.pending.names, codes.WAITING_FOR_TURN
        return [
            Hold(names[slot], codes.NAMES[code], f"it would be preempted by {evict.claimant} at once: {evict.reason}")
            for slot, evict in sorted(self.evictions.items(), key=lambda entry: names[entry[0]])
            if known is None or known[slot] != code
        ]

    def learn(self, made: Preemption, ahead: Callable[[Snapshot], Preemption]) -> bool:
        """Find who would be evicted at once of those that a decision places; whether there is anybody.

        ``ahead`` makes a decision of a snapshot.
        """
        decision = made.decision
        mine = {place.pod.uid for place in decision.draft.place}
        if not mine or np.count_nonzero(decision.snapshot.pending.waiting) == len(mine):
            return False  # nobody waits any more who could have anybody evicted
        following: Snapshot | None = after(made)
        for _ in range(_STEPS):
            if following is None:
                return False
            if not may_evict(following):
                following = once_gone(following)
                continue
            step = ahead(following)
            draft = step.decision.draft
            found = {evict.pod.uid: evict for evict in draft.evict if evict.pod.uid in mine and evict.claimant}
            if found:
                self._note(decision.snapshot, found, draft.claims)
                return True
            following = after(step) if draft.place or draft.evict else once_gone(following)
        return False

    def _note(self, snapshot: Snapshot, found: dict[str, Evict], claims: list[Claim]) -> None:
        names, rows = snapshot.pending.names, {name: row for row, name in enumerate(snapshot.nodes.names)}
        slots = {names[slot].uid: slot for slot in np.flatnonzero(snapshot.pending.waiting).tolist()}
        self.evictions |= {slots[uid]: evict for uid, evict in found.items()}
        for claim in claims:
            if claim.victims and all(victim.uid in found for victim in claim.victims):
                places = [one for one in claim.places if one.pod.uid in slots]
                self.first |= {slots[one.pod.uid]: (rows[one.node], one.devices) for one in places}
        self.first = {slot: place for slot, place in self.first.items() if slot not in self.evictions}


@dataclass(frozen=True, slots=True)
class _Placed:
    """A pod that a decision places."""

    slot: int
    row: int
    place: Place


def may_evict(snapshot: Snapshot) -> bool:
    """Whether anybody who waits may have a right to evictions."""
    pending = snapshot.pending
    waiting = np.flatnonzero(pending.waiting & (pending.claim < 0)).astype(np.int32)
    return bool(len(waiting)) and bool(may_stand_above(snapshot, waiting).any())


def after(made: Preemption) -> Snapshot:
    """What will be true once a decision has been carried out and nothing else has happened.

    Victims are leaving then. How long a pod has to run before it can be evicted does not count.
    """
    decision = made.decision
    snapshot, draft, pool = decision.snapshot, decision.draft, decision.pool
    slots = {snapshot.pending.names[slot].uid: slot for slot in np.flatnonzero(snapshot.pending.waiting).tolist()}
    rows = {name: row for row, name in enumerate(snapshot.nodes.names)}
    placed = [_Placed(slots[place.pod.uid], rows[place.node], place) for place in draft.place]
    held = {slots[place.pod.uid]: rows[place.node] for claim in draft.claims for place in claim.places}
    return replace(
        snapshot,
        batch=max(snapshot.batch, _LEAST),
        nodes=replace(
            snapshot.nodes,
            free=pool.free.copy(),
            device_free=pool.device_free.copy(),
            device_memory_free=pool.device_memory_free.copy(),
        ),
        pending=_pending(snapshot.pending, placed, held),
        running=_running(made, placed),
        gangs=_gangs(snapshot, placed),
        queues=_queues(decision, placed),
        leaving=made.leaving(),
        relations=pool.neighbours.relations(),
        topology=_topology(snapshot, placed),
    )


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
    bound, waiting = snapshot.gangs.bound.copy(), snapshot.gangs.waiting.copy()
    come = np.flatnonzero(pending.waiting & (pending.claim >= 0)).tolist()
    running = _joined(snapshot, _Joining(come, pending.claim[come], [[] for _ in come], np.zeros(len(come), np.bool_)))
    gangs = pending.gang[come][pending.gang[come] >= 0]
    np.add.at(bound, gangs, 1)
    np.subtract.at(waiting, gangs, 1)
    return replace(
        snapshot,
        nodes=replace(nodes, free=free, device_free=device, device_memory_free=memory),
        queues=replace(queues, usage=usage),
        pending=replace(pending, waiting=pending.waiting & (pending.claim < 0)),
        gangs=replace(snapshot.gangs, bound=bound, waiting=waiting),
        running=replace(running, present=running.present & ~running.doomed),
        leaving=NOBODY_LEAVES,
    )


def _pending(pending: Pending, placed: list[_Placed], held: dict[int, int]) -> Pending:
    """``held``: slot -> node row of places that are held."""
    waiting, claim = pending.waiting.copy(), pending.claim.copy()
    waiting[[one.slot for one in placed]] = False
    claim[list(held)] = list(held.values())
    return replace(pending, waiting=waiting, claim=claim, nominated=np.full_like(pending.nominated, -1))


class _Joining(NamedTuple):
    """Pods that run from now on."""

    slots: list[int]
    rows: Int32
    parts: list[list[Part]]
    evictable: Bool


def _running(made: Preemption, placed: list[_Placed]) -> Running:
    """What runs, with what has been placed; who is evicted is doomed."""
    snapshot, pending = made.decision.snapshot, made.decision.snapshot.pending
    slots, rows = [one.slot for one in placed], np.array([one.row for one in placed], np.int32)
    uncertain = snapshot.nodes.uncertain[rows] if len(snapshot.nodes.uncertain) else np.zeros(len(rows), np.bool_)
    evictable = ~uncertain & (pending.priority[slots] < _CRITICAL)
    running = _joined(snapshot, _Joining(slots, rows, [_parts(snapshot, one) for one in placed], evictable))
    running.evictable[made.victims] = False
    running.doomed[made.victims] = True
    return running


def _joined(snapshot: Snapshot, joining: _Joining) -> Running:
    """A copy of what runs, with others."""
    before, pending, slots = snapshot.running, snapshot.pending, joining.slots
    count, more = len(before.names), len(joining.slots)
    held = np.full((count + more, max([before.parts.shape[1], *map(len, joining.parts)]), 3), -1, np.int32)
    held[:count, : before.parts.shape[1]] = before.parts[:count]
    for index, some in enumerate(joining.parts, count):
        held[index, : len(some)] = np.array(some, np.int32).reshape(-1, 3)
    now = np.full(more, snapshot.now, np.int64)
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
        started=np.concatenate([before.started[:count], now]),
        checkpoint=np.concatenate([before.checkpoint[:count], np.zeros_like(now)]),
        tie=np.concatenate([before.tie[:count], pending.tie[slots]]),
        parts=held,
    )


def _parts(snapshot: Snapshot, one: _Placed) -> list[Part]:
    """The parts of devices that a placed pod holds: containers may hand the devices of one ask on."""
    shapes, shape = snapshot.shapes, int(snapshot.pending.shape[one.slot])
    size, found = int(snapshot.nodes.device_memory[one.row]), dict[tuple[int, int], Part]()
    for given, (_, devices) in zip(shapes.ask_containers[shape], one.place.devices, strict=True):
        milli = int(shapes.ask_milli[shape, given.ask])
        need = memory_of(milli, int(shapes.ask_memory[shape, given.ask]), size)
        found |= {(given.ask, device.index): (device.index, milli, need) for device in devices}
    return list(found.values())


def _gangs(snapshot: Snapshot, placed: list[_Placed]) -> Gangs:
    """Gangs with the members that have been placed; none is late."""
    gangs, pending = snapshot.gangs, snapshot.pending
    bound, waiting, role_bound = gangs.bound.copy(), gangs.waiting.copy(), list(gangs.role_bound)
    for one in placed:
        gang, role = int(pending.gang[one.slot]), pending.role[one.slot]
        if gang >= 0:
            bound[gang] += 1
            waiting[gang] -= 1
            role_bound[gang] = role_bound[gang] | {role: role_bound[gang].get(role, 0) + 1}
    return replace(gangs, bound=bound, waiting=waiting, role_bound=role_bound, overdue={})


def _queues(decision: Decision, placed: list[_Placed]) -> Queues:
    """Queues with what they use by now."""
    snapshot, turns = decision.snapshot, decision.turns
    queues, pods = snapshot.queues, snapshot.queues.pods.copy()
    leaves = snapshot.shapes.leaf[snapshot.pending.shape[[one.slot for one in placed]]]
    np.add.at(pods, leaves[leaves >= 0], 1)
    usage = np.array([turns.used(row) for row in range(len(queues.names))], np.int64).reshape(queues.usage.shape)
    return replace(queues, usage=usage, pods=pods, min_runtime=np.zeros_like(queues.min_runtime))


def _topology(snapshot: Snapshot, placed: list[_Placed]) -> Topology:
    """Where members of gangs are by now."""
    taken = dict(snapshot.topology.taken)
    for one in placed:
        gang = int(snapshot.pending.gang[one.slot])
        if gang >= 0:
            before = taken.get(gang, np.zeros(0, np.int32))
            taken[gang] = np.unique(np.append(before, np.int32(one.row)))
    return replace(snapshot.topology, taken=taken) if snapshot.topology.levels else snapshot.topology
