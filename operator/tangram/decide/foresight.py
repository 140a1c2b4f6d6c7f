"""What the next decision would evict of what this one places: nobody gets a place that would be preempted at once.

The order of turns says who comes first, the rules of preemption say who may preempt whom. Where the two do not agree
(because of a limit, a class's preferred nodes, a full batch, or a member that its gang can do without), one decision
would place a pod that the next one evicts. So where pods are pending that may preempt others, the next decisions are
made ahead, on the state after this one has been carried out. A pod that they would evict gives way in this one, and its
claimant gets the place.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import numpy as np

from tangram.decide.decision import Decision
from tangram.decide.draft import Draft
from tangram.decide.following import after, nobody_leaves, once_gone, outlook, unclaimed
from tangram.decide.preempt.legal import BY_GUARANTEE, BY_RANK, BY_SHARE, IN_KIND
from tangram.decide.preempt.preemption import Preemption
from tangram.decide.preempt.threats import may_stand_above_placed
from tangram.decide.walk import Walk, asking_of
from tangram.plan import DevicesByContainer, Evict, PodName
from tangram.snapshot.arrays import (
    Int32,
    Int64,
    Snapshot,
)

_STEPS, _STEPS_OF_FEW = 4, 16
"""States that are looked at ahead at most, and where few wait."""
_MOST_PAIRS = 4_000_000
"""Pairs of a waiting request and a node that are scored to know whether all fit; of more only amounts are compared."""
_FEW = 256
"""Pods that wait whose next decisions are made to know whether all fit: each may, and their sum, and one not in the end
for what the others have taken."""
_OF_QUEUES = (BY_GUARANTEE, BY_SHARE, IN_KIND)
"""Rights that a pod loses its place by for what its whole queue has."""


Ahead: TypeAlias = Callable[[Snapshot], Preemption | None]


@dataclass(slots=True)
class Yielding:
    """Who gives way in a decision, and who goes first."""

    evictions: dict[int, Evict] = field(default_factory=dict)
    """Slot -> the eviction that it is spared."""
    first: dict[int, tuple[int, DevicesByContainer]] = field(default_factory=dict)
    """Slot -> the node row, and the devices there, that it gets before anybody else is asked."""

    found: dict[int, int] = field(default_factory=dict)
    """Slot -> after how many others it was found that it would be evicted."""

    outranked: set[int] = field(default_factory=set)
    """Slots of those that would be evicted for their priority alone."""

    needed: set[int] = field(default_factory=set)
    """Slots of those that give way though nobody gets anything by it, for they would be evicted all the same."""

    firm: set[int] = field(default_factory=set)
    """Slots of those, and of the others of their gangs, that do not give way to evictions of others of their queue."""

    stubborn: set[int] = field(default_factory=set)
    """Slots of those, and of the others of their gangs, that do not give way at all."""

    @classmethod
    def nobody_yet(cls, snapshot: Snapshot) -> "Yielding":
        """Before anything is looked at. Others were evicted for whoever is nominated, by rights that it had: that an
        older pod of its queue would be evicted for what it brings takes nothing back from it."""
        pending = snapshot.pending
        slots = np.flatnonzero(pending.waiting & (pending.nominated >= 0))
        gangs = np.unique(pending.gang[slots][pending.gang[slots] >= 0])
        of_gangs = np.flatnonzero(pending.waiting & np.isin(pending.gang, gangs)) if len(gangs) else slots
        return cls(firm={*slots.tolist(), *of_gangs.tolist()})

    def applied(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot as if those that give way were not there."""
        pending = snapshot.pending
        waiting, nominated, kept = pending.waiting.copy(), pending.nominated.copy(), dict(pending.kept)
        for slot, (row, devices) in self.first.items():
            nominated[slot], kept[slot] = row, devices
        waiting[list(self.evictions)] = False
        return replace(snapshot, pending=replace(pending, waiting=waiting, nominated=nominated, kept=kept))

    def sentences(self, snapshot: Snapshot) -> dict[int, str]:
        """Slot -> why one that gives way waits."""
        names = snapshot.pending.names
        return {slot: _why(names[slot], evict) for slot, evict in self.evictions.items()}

    def learn(self, made: Preemption, ahead: Ahead) -> bool:
        """Find who would be evicted at once of those that a decision places, or let somebody be evicted by what it
        brings to its queue; whether there is anybody. ``ahead`` makes a decision of a snapshot, or (None) no more
        of them: then nobody else is found."""
        snapshot, placed, given = made.decision.snapshot, made.decision.draft.placed, self._given(made)
        if not given or not (np.count_nonzero(snapshot.pending.waiting) > len(placed) or self.evictions):
            return False  # nobody waits any more who could have anybody evicted
        everybody = _is_cut_short(made)
        if not (everybody or self.evictions) and nobody_leaves(made) and not self._anybody_asks(made):
            return False
        few = bool(np.count_nonzero(snapshot.pending.waiting) <= _FEW)
        is_held = few and made.decision.draft.reservation is not None
        walk = Walk(self._with_those_that_give_way(after(made)), everybody=everybody, all_come=few)
        for _ in range(_STEPS_OF_FEW if few else _STEPS):
            if walk.following is None:
                return False
            mine = _there(walk.following, given, len(snapshot.running.names))
            asking = walk.asking(mine, is_held=is_held)
            if not asking.any():
                walk.wait()
                continue
            step = ahead(walk.asked(asking))
            if step is None:
                return False
            found = _undone(step, mine, self._firm_of(snapshot, walk.following, mine))
            if found:
                self._note(snapshot, found, step)
                return True
            walk.go_on(step, asking)
        return False

    def _given(self, made: Preemption) -> set[PodName]:
        """Whom a decision gives a place, now or once others have left, and who may give way."""
        snapshot, draft = made.decision.snapshot, made.decision.draft
        stubborn = {snapshot.pending.names[slot] for slot in self.stubborn}
        held = {place.pod for claim in draft.claims for place in claim.places}
        return ({one.place.pod for one in draft.placed} | held) - stubborn

    def _anybody_asks(self, made: Preemption) -> bool:
        """Whether anybody could have one of those evicted that a decision places, where nobody leaves."""
        snapshot, placed = made.decision.snapshot, made.decision.draft.placed
        mine = len(snapshot.running.names) + np.flatnonzero([one.slot not in self.stubborn for one in placed])
        stand_above = may_stand_above_placed(snapshot, [one.slot for one in placed])
        return stand_above and bool(asking_of(outlook(made), mine).any())

    def in_vain(self, made: Preemption) -> set[int]:
        """Slots of those last found who give way for pods, or gangs, that get nothing by a decision, and of the others
        of their gangs: whether they would be evicted all the same only a decision without them can tell."""
        snapshot = made.decision.snapshot
        vain = self._vain(snapshot, [made.decision.draft]) - self.needed
        if not vain:
            return set()
        latest = max(self.found[slot] for slot in vain)  # who was found before may not be vain without those
        return self._with_gangs(snapshot, vain, latest)

    def without(self, slots: set[int]) -> "Yielding":
        """The same, but these do not give way, nor to evictions of others of their queues."""
        evictions = {slot: evict for slot, evict in self.evictions.items() if slot not in slots}
        first, found, outranked = dict(self.first), dict(self.found), set(self.outranked)
        return replace(self, evictions=evictions, first=first, found=found, outranked=outranked, firm=self.firm | slots)

    def would_be_left_out(self, slots: set[int], made: Preemption, ahead: Ahead) -> bool:
        """Whether nothing would be free for these after a decision, nor made free, though they gave way no longer: then
        nothing stands idle because they do. False where that is not known."""
        step = ahead(self._with_those_that_give_way(unclaimed(after(made), list(self.evictions))))
        if step is None:
            return False
        draft = step.decision.draft
        return slots.isdisjoint(one.slot for one in draft.placed) and slots.isdisjoint(draft.claimants)

    def parts(self, snapshot: Snapshot, slots: set[int]) -> list[set[int]]:
        """All of these, and, where there are several, each lone pod and the members of each gang that have never been
        let go: the last found first, who give way for what they bring to their queues."""
        gang, parts = snapshot.pending.gang, dict[int, set[int]]()
        for slot in (slot for slot in reversed(self.evictions) if slot in slots):
            parts.setdefault(int(gang[slot]) if gang[slot] >= 0 else -1 - slot, set()).add(slot)
        return [slots, *(part for part in parts.values() if len(parts) > 1 and part.isdisjoint(self.firm))]

    def keep(self, slots: set[int]) -> None:
        """These give way, for it has been tried without them."""
        self.needed |= slots

    def untied(self, made: Preemption, ahead: Ahead) -> "Yielding | None":
        """Nobody gives way yet, but the first of those who do so in a circle, or who are owed their places, and the
        others of their gangs, will not; where there are none of them, the first of those who do so for one of higher
        priority that gives way itself, and will go on doing so; None: none do.

        Who gives way for one that gives way itself, and so on, waits beside what is free for as long as that lasts
        where none of them gets anything by it, neither now nor once all who are leaving are gone: it is better placed.
        So is whoever has its guarantee back, though one of its own queue comes before it there.
        """
        snapshot, drafts = made.decision.snapshot, [made.decision.draft]
        later: Snapshot | None = None
        following: Snapshot | None = unclaimed(after(made), list(self.evictions))
        while following is not None and len(drafts) <= _STEPS_OF_FEW and self._vain(snapshot, drafts):
            step = ahead(following)
            if step is None:
                return None
            drafts.append(step.decision.draft)
            changes, later = drafts[-1].placed or drafts[-1].evict, following
            following = after(step) if changes else once_gone(following)
        vain = self._vain(snapshot, drafts)
        step = ahead(self._with_those_that_give_way(later)) if vain and later is not None else None
        if step is None or later is None:
            return None
        names, placed, owed = snapshot.pending.names, {one.slot for one in step.decision.draft.placed}, _owed(step)
        idle = {slot for slot in vain & placed if self._in_the_end(snapshot, slot)[1]}
        idle |= {slot for slot in vain if names[slot] in owed}
        if not idle:
            giving = {names[slot] for slot in self.evictions}
            tied = {slot for slot in vain & self.outranked if self.evictions[slot].claimant in giving}
            alone = ahead(_with(later, tied)) if tied else None
            idle = tied & {one.slot for one in alone.decision.draft.placed} if alone is not None else set()
        if not idle:
            return None  # there is nothing free for them, and nothing that they are owed
        first = min(self.found[slot] for slot in idle)
        return replace(Yielding.nobody_yet(snapshot), stubborn=self.stubborn | self._with_gangs(snapshot, idle, first))

    def _with_gangs(self, snapshot: Snapshot, slots: set[int], number: int) -> set[int]:
        """Those of the slots that were found after so many others, and all that give way of their gangs."""
        gang = snapshot.pending.gang
        found = {slot for slot in slots if self.found[slot] == number}
        gangs = {int(gang[slot]) for slot in found} - {-1}
        return found | {slot for slot in self.evictions if int(gang[slot]) in gangs}

    def _vain(self, snapshot: Snapshot, drafts: list[Draft]) -> set[int]:
        """Slots of those who give way for pods, or gangs, that have neither places nor claims by any of the drafts."""
        places = [one.place for draft in drafts for one in draft.placed]
        places += [place for draft in drafts for claim in draft.claims for place in claim.places]
        served, gangs = {place.pod for place in places}, {place.gang for place in places} - {""}
        gang_of, found = _gang_names(snapshot), set[int]()
        for slot in self.evictions:
            whom, _ = self._in_the_end(snapshot, slot)
            if whom not in served and gang_of.get(whom) not in gangs:
                found.add(slot)
        return found

    def _in_the_end(self, snapshot: Snapshot, slot: int) -> tuple[PodName | None, bool]:
        """For whom a slot gives way, if that one does not give way in turn; and whether that goes on in a circle."""
        names = snapshot.pending.names
        gives_way = {names[one]: evict.claimant for one, evict in self.evictions.items()}
        whom, seen = self.evictions[slot].claimant, {names[slot]}
        while whom in gives_way and whom not in seen:
            seen.add(whom)
            whom = gives_way[whom]
        return whom, whom in seen

    def _with_those_that_give_way(self, following: Snapshot) -> Snapshot:
        """They go on waiting: they ask too, and come where places are held for them."""
        return _with(following, self.evictions)

    def _firm_of(self, snapshot: Snapshot, following: Snapshot, mine: Int64) -> set[int]:
        """Of these running pods those that are firm."""
        if not self.firm:
            return set()
        firm = {snapshot.pending.names[slot] for slot in self.firm}
        return {one for one in mine.tolist() if following.running.names[one] in firm}

    def _note(self, snapshot: Snapshot, found: dict[PodName, Evict], step: Preemption) -> None:
        names, rows = snapshot.pending.names, {name: row for row, name in enumerate(snapshot.nodes.names)}
        slots = {names[slot]: slot for slot in np.flatnonzero(snapshot.pending.waiting).tolist()}
        self.found |= dict.fromkeys((slots[pod] for pod in found), len(self.found))
        self.evictions |= {slots[pod]: evict for pod, evict in found.items()}
        ranked = {step.decision.snapshot.running.names[one] for one in step.victims if step.rights.get(one) == BY_RANK}
        self.outranked -= {slots[pod] for pod in found}
        self.outranked |= {slots[pod] for pod in found.keys() & ranked}
        for claim in step.decision.draft.claims:
            if claim.victims and all(victim in found for victim in claim.victims):
                places = [one for one in claim.places if one.pod in slots]
                self.first |= {slots[one.pod]: (rows[one.node], one.devices) for one in places}
        self.first = {slot: place for slot, place in self.first.items() if slot not in self.evictions}


def _with(following: Snapshot, slots: Collection[int]) -> Snapshot:
    """The snapshot in which these wait too."""
    waiting = following.pending.waiting.copy()
    waiting[list(slots)] = True
    return replace(following, pending=replace(following.pending, waiting=waiting))


def _owed(step: Preemption) -> set[PodName]:
    """For whom a decision has others evicted by a guarantee."""
    names = step.decision.snapshot.running.names
    taken_back = {names[victim] for victim in step.victims if step.rights.get(victim) == BY_GUARANTEE}
    claims = step.decision.draft.claims
    return {place.pod for claim in claims if taken_back.intersection(claim.victims) for place in claim.places}


def _why(pod: PodName, evict: Evict) -> str:
    """Why a pod waits that is spared an eviction, or another pod of its queue for what it would bring to that."""
    what = "it would be preempted by" if evict.pod == pod else "a pod of its queue would, if it ran, be preempted by"
    return f"{what} {evict.claimant} at once: {evict.reason}"


def _gang_names(snapshot: Snapshot) -> dict[PodName | None, str]:
    """The gangs of all pods that are members of one."""
    pending, names = snapshot.pending, snapshot.gangs.names
    return {pending.names[slot]: names[pending.gang[slot]] for slot in np.flatnonzero(pending.gang >= 0).tolist()}


def _is_cut_short(made: Preemption) -> bool:
    """Whether a full batch ended a decision while pods wait, some in another queue than one who is placed, that do not
    all fit: what is placed after the batch may give others a right to what it has placed."""
    decision = made.decision
    snapshot, draft, scores = decision.snapshot, decision.draft, decision.scores
    pending, shapes = snapshot.pending, snapshot.shapes
    if len(draft.placed) < snapshot.batch or len(snapshot.queues.names) <= 1:
        return False
    placed = [one.slot for one in draft.placed]
    queue = np.where(shapes.leaf >= 0, snapshot.queues.parent[shapes.leaf], -1)
    waiting = pending.waiting & pending.preempts
    waiting[placed] = False
    slots, gotten = np.flatnonzero(waiting), np.unique(queue[pending.shape[placed]])
    if len(gotten) == 1:
        slots = slots[queue[pending.shape[slots]] != gotten[0]]
    if not len(slots):
        return False
    if len(slots) <= _FEW or (pending.gang[slots] >= 0).any() or _is_short(decision, np.flatnonzero(waiting)):
        return True
    kinds = np.unique(pending.shape[slots])
    if len(kinds) * np.count_nonzero(snapshot.nodes.present) > _MOST_PAIRS:
        return _is_too_large(decision, kinds)
    return any(scores.scores(shape).max(initial=-1) < 0 for shape in kinds.tolist())


def _is_too_large(decision: Decision, kinds: Int32) -> bool:
    """Whether pods of some shape ask for more of a resource than any node has left of it."""
    snapshot, pool = decision.snapshot, decision.pool
    plain = ~snapshot.nodes.counts_devices
    most = pool.free[snapshot.nodes.present][:, plain].max(axis=0, initial=0)
    return bool((snapshot.shapes.request[kinds][:, : len(plain)][:, plain] > most).any())


def _is_short(decision: Decision, slots: Int64) -> bool:
    """Whether pods ask together for more than is left of the pool."""
    snapshot, pool = decision.snapshot, decision.pool
    shapes, nodes = snapshot.shapes, snapshot.nodes
    kinds, counts = np.unique(snapshot.pending.shape[slots], return_counts=True)
    gpus = int((counts * np.array([shapes.gpu_milli(shape) for shape in kinds.tolist()], np.int64)).sum())
    if gpus > int(pool.device_free[nodes.present].sum(dtype=np.int64)):
        return True
    plain = ~nodes.counts_devices
    asked = (counts[:, None] * shapes.request[kinds][:, : len(plain)][:, plain]).sum(axis=0)
    return bool((asked > np.maximum(pool.free[nodes.present][:, plain], 0).sum(axis=0)).any())


def _there(following: Snapshot, given: set[PodName], count: int) -> Int64:
    """Running slots of these pods, which have come after ``count`` others."""
    come = following.running.names[count:]
    return np.array([slot for slot, name in enumerate(come, count) if name in given], np.int64)


def _undone(step: Preemption, mine: Int64, firm: set[int]) -> dict[PodName, Evict]:
    """Who gives way: of these running pods those that a decision evicts for somebody, and, for each other one that it
    evicts because its queue has more than others let it, the last one of that queue, unless that is ``firm``; with a
    member of a gang all of them."""
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
        if other is not None and other not in firm:
            gang = int(running.gang[other])
            whole = [one for one in latest if running.gang[one] == gang] if gang >= 0 else [other]
            found |= {running.names[one]: evicts[name] for one in whole}
    return found
