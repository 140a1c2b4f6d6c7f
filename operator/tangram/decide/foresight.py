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
from tangram.decide.preempt.preemption import Preemption
from tangram.decide.preempt.threats import could_evict
from tangram.decide.preempt.victims import BY_GUARANTEE, BY_SHARE, IN_KIND
from tangram.decide.queues.rights import least_runtime
from tangram.plan import Claim, DevicesByContainer, Evict, Hold, Place, PodName
from tangram.snapshot.arrays import (
    NOBODY_LEAVES,
    Bool,
    Gangs,
    Int8,
    Int32,
    Int64,
    Leaving,
    Pending,
    Queues,
    Running,
    Snapshot,
)
from tangram.snapshot.values.levels import Topology

_STEPS = 4
"""States that are looked at ahead at most."""
_OF_QUEUES = (BY_GUARANTEE, BY_SHARE, IN_KIND)
"""Rights that a pod loses its place by for what its whole queue has."""


@dataclass(slots=True)
class Yielding:
    """Who gives way in a decision, and who goes first."""

    evictions: dict[int, Evict] = field(default_factory=dict)
    """Slot -> the eviction that it is spared."""
    first: dict[int, tuple[int, DevicesByContainer]] = field(default_factory=dict)
    """Slot -> the node row, and the devices there, that it gets before anybody else is asked."""

    found: dict[int, int] = field(default_factory=dict)
    """Slot -> after how many others it was found that it would be evicted."""

    firm: set[int] = field(default_factory=set)
    """Slots of those that do not give way, and the other members of their gangs: who they gave way for got nothing."""

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
        """Find who would be evicted at once of those that a decision places, or let somebody be evicted by what it
        brings to its queue; whether there is anybody. ``ahead`` makes a decision of a snapshot."""
        snapshot, places = made.decision.snapshot, made.decision.draft.place
        if not places or not (snapshot.pending.waiting.any() or self.evictions):
            return False
        following: Snapshot | None = self._with_those_that_give_way(after(made))
        mine = np.arange(len(snapshot.running.names), len(snapshot.running.names) + len(places))
        for _ in range(_STEPS):
            if following is None:
                return False
            asking = _asking(following, mine)
            if not asking.any():
                following = once_gone(following)
                continue
            pending = replace(following.pending, waiting=asking)
            step = ahead(replace(following, pending=pending))
            found = _undone(step, mine[~np.isin(mine, self._firm_of(snapshot, following, mine))])
            if found:
                self._note(snapshot, found, step.decision.draft.claims)
                return True
            if not step.decision.draft.evict:
                following = once_gone(following)
                continue
            others = following.pending.waiting & ~asking
            following = after(step)
            pending = replace(following.pending, waiting=following.pending.waiting | others)
            following = replace(following, pending=pending)
        return False

    def retract(self, made: Preemption, ahead: Callable[[Snapshot], Preemption]) -> bool:
        """Let those no longer give way whose claimants have neither places nor claims by a decision, nor by the one
        after it: a right may need more than is seen ahead. Whether there is anybody.

        Where pods are leaving, or places are held, their claimants may get something once that is over: till then they
        go on giving way.
        """
        if not self.evictions:
            return False
        snapshot, moving = made.decision.snapshot, made.leaving().node
        vain = self._vain(made, set(self.evictions))
        vain -= {slot for slot in vain if self.evictions[slot].node in {snapshot.nodes.names[row] for row in moving}}
        following: Snapshot | None = self._with_those_that_give_way(after(made)) if vain else None
        for _ in range(2):  # what is to come, and that once all who are leaving are gone
            if following is not None and vain:
                asking = self._claimants(following, vain)
                vain = self._vain(ahead(replace(following, pending=replace(following.pending, waiting=asking))), vain)
                following = once_gone(following)
        vain = self._latest(vain)
        together = snapshot.pending.gang[list(vain)]
        mates = np.flatnonzero((snapshot.pending.gang >= 0) & np.isin(snapshot.pending.gang, together))
        self.firm |= vain | set(mates.tolist())  # a gang does not give way with another member instead
        self.evictions = {slot: evict for slot, evict in self.evictions.items() if slot not in self.firm}
        return bool(vain)

    def _latest(self, slots: set[int]) -> set[int]:
        """Those of the slots who were the last to be found: who was found before them may not be vain without them."""
        latest = max((self.found[slot] for slot in slots), default=0)
        return {slot for slot in slots if self.found[slot] == latest}

    def _vain(self, made: Preemption, slots: set[int]) -> set[int]:
        """Those of the slots who give way for pods, or gangs, that have neither places nor claims by a decision."""
        draft, snapshot = made.decision.draft, made.decision.snapshot
        places = [*draft.place, *(place for claim in draft.claims for place in claim.places)]
        served, gangs = {place.pod for place in places}, {place.gang for place in places} - {""}
        gang_of = _gang_names(snapshot)
        return {
            slot
            for slot in slots
            if (evict := self.evictions[slot]).claimant not in served
            and gang_of.get(evict.claimant or evict.pod) not in gangs
        }

    def _claimants(self, following: Snapshot, slots: set[int]) -> Bool:
        """[P] for whom these give way, with the other members of gangs."""
        pending, gang_of = following.pending, _gang_names(following)
        pods = {self.evictions[slot].claimant for slot in slots}
        gangs = {gang_of[pod] for pod in pods if pod in gang_of}
        asking = np.zeros_like(pending.waiting)
        for slot in np.flatnonzero(pending.waiting).tolist():
            name = pending.names[slot]
            asking[slot] = name in pods or gang_of.get(name) in gangs
        return asking

    def _with_those_that_give_way(self, following: Snapshot) -> Snapshot:
        """They go on waiting: they ask too, and come where places are held for them."""
        waiting = following.pending.waiting.copy()
        waiting[list(self.evictions)] = True
        return replace(following, pending=replace(following.pending, waiting=waiting))

    def _firm_of(self, snapshot: Snapshot, following: Snapshot, mine: Int64) -> list[int]:
        """Of these running pods those that do not give way."""
        spared = {snapshot.pending.names[slot] for slot in self.firm}
        return [one for one in mine.tolist() if following.running.names[one] in spared]

    def _note(self, snapshot: Snapshot, found: dict[PodName, Evict], claims: list[Claim]) -> None:
        names, rows = snapshot.pending.names, {name: row for row, name in enumerate(snapshot.nodes.names)}
        slots = {names[slot]: slot for slot in np.flatnonzero(snapshot.pending.waiting).tolist()}
        self.found |= dict.fromkeys((slots[pod] for pod in found), len(self.found))
        self.evictions |= {slots[pod]: evict for pod, evict in found.items()}
        for claim in claims:
            if claim.victims and all(victim in found for victim in claim.victims):
                places = [one for one in claim.places if one.pod in slots]
                self.first |= {slots[one.pod]: (rows[one.node], one.devices) for one in places}
        self.first = {slot: place for slot, place in self.first.items() if slot not in self.evictions}


def _gang_names(snapshot: Snapshot) -> dict[PodName | None, str]:
    """The gangs of all pods that are members of one."""
    pending, names = snapshot.pending, snapshot.gangs.names
    return {pending.names[slot]: names[pending.gang[slot]] for slot in np.flatnonzero(pending.gang >= 0).tolist()}


def _asking(snapshot: Snapshot, mine: Int64) -> Bool:
    """[P] who could have one of these running pods evicted, with the other members of gangs."""
    pending = snapshot.pending
    waiting = np.flatnonzero(pending.waiting & (pending.claim < 0)).astype(np.int32)
    asking = np.zeros_like(pending.waiting)
    asking[waiting[could_evict(snapshot, waiting, mine)]] = True
    gangs = pending.gang[asking & (pending.gang >= 0)]
    if len(gangs):
        asking |= pending.waiting & np.isin(pending.gang, gangs)
    return asking


def _undone(step: Preemption, mine: Int64) -> dict[PodName, Evict]:
    """Who gives way: of these running pods those that a decision evicts for somebody, and, for each other one that it
    evicts because its queue has more than others let it, the last one of that queue; with a member of a gang all of
    them."""
    running, shapes = step.decision.snapshot.running, step.decision.snapshot.shapes
    evicts = {evict.pod: evict for evict in step.decision.draft.evict if evict.claimant is not None}
    found = {
        running.names[slot]: evicts[running.names[slot]] for slot in mine.tolist() if running.names[slot] in evicts
    }
    leaf, latest = shapes.leaf[running.shape[: len(running.names)]], mine.tolist()[::-1]
    for victim in step.victims:
        name = running.names[victim]
        if name in found or name not in evicts or step.rights.get(victim) not in _OF_QUEUES:
            continue
        other = next((one for one in latest if leaf[one] == leaf[victim] and running.names[one] not in found), None)
        if other is not None:
            gang = int(running.gang[other])
            whole = [one for one in latest if running.gang[one] == gang] if gang >= 0 else [other]
            found |= {running.names[one]: evicts[name] for one in whole}
    return found


@dataclass(frozen=True, slots=True)
class _Placed:
    """A pod that a decision places, or for which it holds a place."""

    slot: int
    row: int
    place: Place


def after(made: Preemption) -> Snapshot:
    """What will be true once a decision has been carried out and nothing else has happened.

    Victims are leaving then, and what has been placed has run for as long as it is protected by ``minRuntime``.
    """
    decision = made.decision
    snapshot, draft, pool = decision.snapshot, decision.draft, decision.pool
    slots = {snapshot.pending.names[slot].uid: slot for slot in np.flatnonzero(snapshot.pending.waiting).tolist()}
    rows = {name: row for row, name in enumerate(snapshot.nodes.names)}
    placed = [_Placed(slots[place.pod.uid], rows[place.node], place) for place in draft.place]
    held = [_Placed(slots[place.pod.uid], rows[place.node], place) for claim in draft.claims for place in claim.places]
    return replace(
        snapshot,
        nodes=replace(
            snapshot.nodes,
            free=pool.free.copy(),
            device_free=pool.device_free.copy(),
            device_memory_free=pool.device_memory_free.copy(),
        ),
        pending=_pending(snapshot.pending, placed, held),
        running=_running(made, placed),
        gangs=_gangs(snapshot, [one.slot for one in placed]),
        queues=_queues(decision, placed),
        leaving=_without_claims(snapshot, made.leaving(), [one.slot for one in placed]),
        relations=pool.neighbours.relations(),
        topology=_topology(snapshot, [(one.slot, one.row) for one in placed]),
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
    come = np.flatnonzero(pending.waiting & (pending.claim >= 0)).tolist()
    rows = pending.claim[come]
    parts = [
        _parts(snapshot, slot, row, pending.kept.get(slot, ())) for slot, row in zip(come, rows.tolist(), strict=True)
    ]
    running = _joined(snapshot, _Joining(come, rows, parts, _evictable(snapshot, come, rows)))
    places = list(zip(come, pending.claim[come].tolist(), strict=True))
    return replace(
        snapshot,
        nodes=replace(nodes, free=free, device_free=device, device_memory_free=memory),
        queues=replace(queues, usage=usage),
        pending=replace(pending, waiting=pending.waiting & (pending.claim < 0)),
        gangs=_gangs(snapshot, come),
        topology=_topology(snapshot, places),
        running=replace(running, present=running.present & ~running.doomed),
        leaving=NOBODY_LEAVES,
    )


def _without_claims(snapshot: Snapshot, leaving: Leaving, slots: list[int]) -> Leaving:
    """What will be free without the claims of these pods: they have been placed, be it elsewhere."""
    pending, at = snapshot.pending, {row: place for place, row in enumerate(leaving.node.tolist())}
    claimed = [(slot, at[int(pending.claim[slot])]) for slot in slots if int(pending.claim[slot]) in at]
    if not claimed:
        return leaving
    free, device, memory = leaving.free.copy(), leaving.device.copy(), leaving.memory.copy()
    for slot, place in claimed:
        row = int(leaving.node[place])
        free[place] += snapshot.shapes.request[pending.shape[slot]]
        for index, milli, mib in _parts(snapshot, slot, row, pending.kept.get(slot, ())):
            device[place, index] += milli
            memory[place, index] += mib
    return replace(leaving, free=free, device=device, memory=memory)


def _pending(pending: Pending, placed: list[_Placed], held: list[_Placed]) -> Pending:
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


def _running(made: Preemption, placed: list[_Placed]) -> Running:
    """What runs, with what has been placed; who is evicted is doomed."""
    snapshot = made.decision.snapshot
    slots, rows = [one.slot for one in placed], np.array([one.row for one in placed], np.int32)
    held = [(one.slot, one.row, one.place.devices) for one in placed]
    parts = [_parts(snapshot, *one) for one in held]
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


def _parts(snapshot: Snapshot, slot: int, row: int, by_container: DevicesByContainer) -> list[Part]:
    """The parts of devices of a node that a pod holds by a decision: containers may hand the devices of one ask on."""
    shapes, shape = snapshot.shapes, int(snapshot.pending.shape[slot])
    size, found = int(snapshot.nodes.device_memory[row]), dict[tuple[int, int], Part]()
    for given, (_, devices) in zip(shapes.ask_containers[shape], by_container, strict=False):
        milli = int(shapes.ask_milli[shape, given.ask])
        need = memory_of(milli, int(shapes.ask_memory[shape, given.ask]), size)
        found |= {(given.ask, device.index): (device.index, milli, need) for device in devices}
    return list(found.values())


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


def _queues(decision: Decision, placed: list[_Placed]) -> Queues:
    """Queues with what they use by now."""
    snapshot, turns = decision.snapshot, decision.turns
    queues, pods = snapshot.queues, snapshot.queues.pods.copy()
    leaves = snapshot.shapes.leaf[snapshot.pending.shape[[one.slot for one in placed]]]
    np.add.at(pods, leaves[leaves >= 0], 1)
    usage = np.array([turns.used(row) for row in range(len(queues.names))], np.int64).reshape(queues.usage.shape)
    return replace(queues, usage=usage, pods=pods)


def _topology(snapshot: Snapshot, places: list[tuple[int, int]]) -> Topology:
    """Where members of gangs are once pods of slots have come to node rows."""
    taken = dict(snapshot.topology.taken)
    for slot, row in places:
        gang = int(snapshot.pending.gang[slot])
        if gang >= 0:
            before = taken.get(gang, np.zeros(0, np.int32))
            taken[gang] = np.unique(np.append(before, np.int32(row)))
    return replace(snapshot.topology, taken=taken) if snapshot.topology.levels else snapshot.topology
