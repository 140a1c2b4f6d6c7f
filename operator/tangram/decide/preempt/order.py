"""Who stands above whom: ranks within a queue, what guarantees cover, and which pods can only leave together.

A pod's rank is its priority, below its class's weight where the policy preempts. A queue's guarantee covers its
highest-ranked pods first; what is beyond it is borrowed. Pods with GPUs have a claim on what is promised in GPUs, pods
without on CPU and memory, and never against pods with GPUs.

Why nothing goes in circles: for a queue and a resource let F be, rank by rank from the highest, the smaller of the
guarantee and what pods of at least that rank use. Taking back a guarantee raises F of the queue at its level of the
tree and lowers none at that level or below, GPUs before CPU and memory; an eviction by rank lowers none at all and
exchanges lower-ranked pods for a higher-ranked one. So with what has arrived there is only a finite number of either
(potential argument in docs/queues-and-preemption.md, also for units that are covered in part, which lower F).
"""

from collections import Counter
from collections.abc import Hashable, Iterator
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from tangram.decide.journal import Journal, Restore
from tangram.decide.preempt.cheapest import Lineup
from tangram.decide.queues.balance import behind
from tangram.decide.queues.fairness import charge_of
from tangram.decide.queues.rights import GPU, least_runtime
from tangram.snapshot.arrays import PREEMPT, Bool, Int8, Int32, Int64, Snapshot
from tangram.snapshot.values.hashing import is_numbered, number_in_gang

_CPU_WORTH = 100
"""Milli-CPU that weigh as much as a milli-GPU in what is lost by a pod without GPUs."""
_LEVELS = 1 << 33
"""More than there are priorities: a class's weight counts above any of them."""


class Units:
    """Pods that leave together: one pod alone, or what a gang cannot run without. U units."""

    def __init__(self, count: int, columns: int) -> None:
        self.level = np.zeros(count, np.int32)
        """[U] rank of the highest pod among all ranks that run, 0 the lowest."""
        self.lost = np.zeros(count, np.int64)
        """[U] milli-GPU x seconds of work that would be lost."""
        self.size = np.zeros(count, np.int32)
        """[U] pods."""
        self.queue = np.full(count, -1, np.int32)
        """[U] queue row; -1: a queue that does not exist any more."""
        self.gang = np.full(count, -1, np.int32)
        """[U] gang row of a unit that takes its gang with it; -1: nobody else has to leave."""
        self.head = np.full(count, -1, np.int32)
        """[U] the unit that would take this one along, itself where it takes its gang; -1: there is none."""
        self.amounts = np.zeros((count, columns), np.int64)
        """[U, X] what their queue would no longer use."""
        self.core = np.zeros((count, columns), np.int64)
        """[U, X] the same without members that could leave alone."""
        self.tie = np.full(count, np.iinfo(np.int64).max, np.int64)
        self.whole = np.ones(count, np.bool_)
        """[U] every pod of it can be evicted now."""
        self.gone = np.zeros(count, np.bool_)
        """[U] it is evicted in this cycle."""


class PreemptionOrder:
    """Ranks, amounts and guarantees of everything that runs, in one decision. V running slots, K ranks, Q rows."""

    def __init__(self, snapshot: Snapshot, journal: Journal) -> None:
        running, queues, shapes = snapshot.running, snapshot.queues, snapshot.shapes
        self._snapshot, self._journal = snapshot, journal
        count = len(running.names)
        self.ran: Bool = running.present[:count] & ~running.doomed[:count]
        """[V] whether the pod runs, as things were before this decision."""
        self.present: Bool = self.ran.copy()
        shape = running.shape[:count]
        leaf = shapes.leaf[shape]
        self.queue: Int32 = np.where(leaf >= 0, queues.parent[leaf], -1).astype(np.int32)
        self.weight: Int64 = np.append(snapshot.classes.weight, 0).astype(np.int64)[shapes.priority_class[shape]]
        self.priority: Int64 = running.priority[:count].astype(np.int64)
        key = rank(snapshot, self.weight, self.priority)
        self.ranks, level = np.unique(
            np.where(self.present, key, key[self.present].min(initial=0)), return_inverse=True
        )
        self.level: Int32 = level.astype(np.int32)
        self.amounts = self._amounts(shape, running.node[:count])
        self.may_leave: Bool = may_leave_now(snapshot)
        gpus, cores = self.amounts[:, GPU], np.maximum(self.amounts[:, 0] // _CPU_WORTH, 1)
        self.lost = np.where(gpus > 0, gpus, cores) * self._unsaved(snapshot)
        self.cover = self._cover()
        self.loose = np.zeros_like(self.cover)
        """[Q, K, X] what pods of a rank that may leave use in a queue itself."""
        loose = self.may_leave & (self.queue >= 0)
        np.add.at(self.loose, (self.queue[loose], self.level[loose]), self.amounts[loose])
        self.unit, self.units = self._together()
        self.gangs = frozenset(running.gang[:count][self.ran].tolist())
        """Gang rows of which pods run."""
        self.reasons: dict[Hashable, Int8] = {}
        """[U] by which right units may be evicted, by what that depends on; see ``claim``."""
        self.lineups: dict[Hashable, Lineup] = {}
        """Units that may be evicted, by what that depends on; see ``search``."""

    @cached_property
    def by_node(self) -> Int32:
        """Slots of all that run by node, then by the level of their units and by what is lost with them."""
        slots = np.flatnonzero(self.ran).astype(np.int32)
        units, unit, running = self.units, self.unit[slots], self._snapshot.running
        keys = running.tie[slots], unit, units.tie[unit], units.lost[unit], units.level[unit], running.node[slots]
        found: Int32 = slots[np.lexsort(keys)]
        return found

    @cached_property
    def kinds(self) -> tuple[Int32, int]:
        """([U] a number that is the same for units of which guarantees and shares say the same, how many there are)."""
        snapshot, units, count = self._snapshot, self.units, len(self.ran)
        shape, gang = snapshot.running.shape[:count].astype(np.int64), snapshot.running.gang[:count] + 1
        key = shape * (len(snapshot.models) + 1) + snapshot.nodes.model[snapshot.running.node[:count]] + 1
        key = key * (int(units.level.max(initial=0)) + 1) + units.level
        key = (key * (int(gang.max(initial=0)) + 1) + gang) * 2 + (units.gang >= 0)
        found, kind = np.unique(key, return_inverse=True)
        return kind.astype(np.int32), len(found)

    def path(self, queue: int) -> Iterator[int]:
        """A queue row and those above it."""
        while queue >= 0:
            yield queue
            queue = int(self._snapshot.queues.parent[queue])

    def leave(self, slot: int) -> None:
        """The pod is evicted: guarantees cover the others from now on."""
        self._journal.keep("precedence", self._copy)
        if self.may_leave[slot] and self.queue[slot] >= 0:
            self.loose[self.queue[slot], self.level[slot]] -= self.amounts[slot]
        self.present[slot] = self.may_leave[slot] = False
        self.units.gone[self.unit[slot]] = True
        head = self.units.head[self.unit[slot]]
        if head >= 0:
            self.units.amounts[head] -= self.amounts[slot]
        for row in self.path(int(self.queue[slot])):
            self.cover[row, : self.level[slot] + 1] -= self.amounts[slot]

    def lower(self, queue: int, mine: Int64) -> Int64:
        """[X] what pods below a rank [1], which may leave, use in a queue itself."""
        found: Int64 = self.loose[queue, : int(np.searchsorted(self.ranks, mine)[0])].sum(axis=0)
        return found

    def _copy(self) -> Restore:
        units = self.units
        amounts = units.amounts.copy(), self.cover.copy(), self.loose.copy()
        return partial(self._put_back, (self.present.copy(), self.may_leave.copy(), units.gone.copy()), amounts)

    def _put_back(self, marks: tuple[Bool, Bool, Bool], amounts: tuple[Int64, Int64, Int64]) -> None:
        self.present, self.may_leave, self.units.gone = marks
        self.units.amounts, self.cover, self.loose = amounts

    def members(self, slots: list[int]) -> list[int]:
        """The slots with everybody who has to leave with them."""
        gangs = {int(self.units.gang[self.unit[slot]]) for slot in slots} - {-1}
        if not gangs:
            return slots
        of_gang = self._snapshot.running.gang[: len(self.present)]
        return sorted({*slots, *np.flatnonzero(self.present & np.isin(of_gang, list(gangs))).tolist()})

    def _amounts(self, shape: Int32, node: Int32) -> Int64:
        """[V, X] what each pod is charged for."""
        snapshot, columns = self._snapshot, self._snapshot.queues.columns
        out = np.zeros((len(shape), len(columns)), np.int64)
        model = snapshot.nodes.model[node].astype(np.int64)
        both = shape.astype(np.int64) * (len(snapshot.models) + 1) + model + 1
        for key in np.unique(both[self.present]).tolist():
            one, of_model = divmod(key, len(snapshot.models) + 1)
            out[both == key] = charge_of(snapshot, one, of_model - 1)
        return out

    def _unsaved(self, snapshot: Snapshot) -> Int64:
        """[V] seconds since the pod started, or since its last checkpoint where that can be believed."""
        started, checkpoint = (
            one[: len(self.present)] for one in (snapshot.running.started, snapshot.running.checkpoint)
        )
        since = np.where((checkpoint > started) & (checkpoint <= snapshot.now), checkpoint, started)
        unsaved: Int64 = (
            snapshot.now - since
        )  # clocks differ: a pod may have started in the future, and is the youngest
        return unsaved

    def _cover(self) -> Int64:
        """[Q, K, X] what pods of at least a rank use in a queue and below."""
        queues = self._snapshot.queues
        ranks = int(self.level.max(initial=0)) + 1
        rows = int(np.flatnonzero(~queues.is_leaf).max(initial=-1)) + 1  # leaves follow the queues
        out = np.zeros((rows, ranks, len(queues.columns)), np.int64)
        counted = self.present & (self.queue >= 0)
        np.add.at(out, (self.queue[counted], self.level[counted]), self.amounts[counted])
        for row in range(rows - 1, -1, -1):
            if queues.parent[row] >= 0:
                out[queues.parent[row]] += out[row]
        return np.ascontiguousarray(out[:, ::-1].cumsum(axis=1)[:, ::-1])

    def _together(self) -> tuple[Int32, Units]:
        """[V] the unit of each slot: its own, or its gang's where the gang cannot do without it."""
        count = len(self.present)
        unit = np.arange(count, dtype=np.int32)
        gang = self._snapshot.running.gang[:count]
        members: dict[int, list[int]] = {}
        for slot in np.flatnonzero(self.present & (gang >= 0)).tolist():
            members.setdefault(int(gang[slot]), []).append(slot)
        bound: list[tuple[int, int]] = []
        for row, slots in sorted(members.items()):
            needed, spared = self._parted(row, self.in_order(slots))
            self._raise_lost(spared)
            if not needed:
                continue
            unit[needed] = needed[0]
            bound.append((row, needed[0]))
        units = Units(count, self.amounts.shape[1])
        self._set_units(units, unit, self.present)
        units.core = units.amounts.copy()
        for row, first in bound:
            units.gang[first] = row
            units.head[unit[members[row]]] = first
            units.size[first], units.lost[first] = 0, 0
            units.amounts[first] = 0
            everybody = np.zeros(count, np.bool_)
            everybody[members[row]] = True  # those it could spare leave with it
            self._set_units(units, np.full(count, first, np.int32), everybody)
        return unit, units

    def _parted(self, gang: int, slots: list[int]) -> tuple[list[int], list[int]]:
        """Of the members, given in the order in which they may leave, those that the gang cannot do without, and the
        others."""
        gangs, role = self._snapshot.gangs, self._snapshot.running.role
        finished = gangs.role_finished[gang]
        minimum = {one: least - finished.get(one, 0) for one, least in gangs.role_minimum[gang].items()}
        there = Counter(role[slot] for slot in slots)
        spare, first = len(slots) + int(gangs.finished[gang] - gangs.minimum[gang]), self.first_of(slots)
        needed, spared = list[int](), list[int]()
        for slot in slots:
            able = slot not in first and spare > len(spared)
            if able and there[role[slot]] > minimum.get(role[slot], 0):
                there[role[slot]] -= 1
                spared.append(slot)
            else:
                needed.append(slot)
        return needed, spared

    def may_leave_alone(self, members: list[int]) -> list[int]:
        """Slots of the members of a gang that run in the order in which they may leave, without those that come first:
        they leave with all the others only."""
        first = self.first_of(members)
        return [slot for slot in self.in_order(members) if slot not in first]

    def units_of(self, slots: list[int]) -> list[int]:
        """The units of these running pods, the largest first."""
        size, found = self.units.core, dict.fromkeys(self.unit[slots].tolist())
        return sorted(found, key=lambda unit: (-int(size[unit, GPU]), -int(size[unit, 0]), unit))

    def first_of(self, slots: list[int]) -> set[int]:
        """The members with the lowest number, whom the others meet at: one, or one of each role. Nobody where names say
        nothing of an order, or no controller has given them: then it is true that any will do."""
        tie = self._snapshot.running.tie
        number = {slot: number_in_gang(int(tie[slot])) for slot in slots}
        lowest = min(number.values())
        first = {slot for slot in slots if number[slot] == lowest}
        return {slot for slot in first if is_numbered(int(tie[slot]))} if len(first) < len(slots) else set()

    def in_order(self, slots: list[int]) -> list[int]:
        """Members of a gang in the order in which they may leave.

        Those that come first leave last, whatever else is said of them. Of the others those go first that can leave
        now, of the lowest rank, with the highest number, and with which least is lost.
        """
        tie, lost, first = self._snapshot.running.tie, self.lost, self.first_of(slots)

        def key(slot: int) -> tuple[int, ...]:
            stays, number = not self.may_leave[slot], number_in_gang(int(tie[slot]))
            return slot in first, stays, int(self.level[slot]), -number, int(lost[slot]), int(tie[slot])

        return sorted(slots, key=key)

    def _raise_lost(self, spared: list[int]) -> None:
        """Let no member that its gang can do without, given in the order in which they may leave, cost as little as one
        with a higher number that asks for the same.

        They go on together from what was saved last, so that each loses as much as any other; a thousandth of a
        GPU-second keeps those of one age in order.
        """
        shape, tie, before = self._snapshot.running.shape, self._snapshot.running.tie, dict[int, tuple[int, int]]()
        for slot in spared:
            number, lost, like = number_in_gang(int(tie[slot])), int(self.lost[slot]), int(shape[slot])
            above, least = before.get(like, (number, lost))
            self.lost[slot] = lost = max(lost, least + 1) if number < above else lost
            before[like] = number, lost

    def _set_units(self, units: Units, unit: Int32, among: Bool) -> None:
        slots = np.flatnonzero(among)
        of = unit[slots]
        np.maximum.at(units.level, of, self.level[slots])
        np.add.at(units.lost, of, self.lost[slots])
        np.add.at(units.size, of, 1)
        np.add.at(units.amounts, of, self.amounts[slots])
        np.minimum.at(units.tie, of, self._snapshot.running.tie[slots])
        units.queue[of] = self.queue[slots]
        np.logical_and.at(units.whole, of, self.may_leave[slots] & (self.queue[slots] == units.queue[of]))


class Kind(NamedTuple):
    """All of a waiting pod that says whom it might have a right to evict, by a quick look."""

    queue: int
    """-1: it does not exist any more."""
    weight: int
    """Of the priority class."""
    rank: int
    from_others: bool
    """Guarantees or shares may let it evict pods of whatever rank and queue."""


class PreemptionRights:
    """What gives waiting pods a right to evict anybody, by a quick look at queues and classes. S shapes, Q rows."""

    def __init__(self, snapshot: Snapshot) -> None:
        queues, shapes = snapshot.queues, snapshot.shapes
        self._snapshot = snapshot
        self._kinds: dict[tuple[int, int, bool, int], Kind] = {}
        """(leaf, class, whether it asks for GPUs, priority) -> the kind of claimant."""
        self.weight: Int64 = np.append(snapshot.classes.weight, 0).astype(np.int64)[shapes.priority_class]
        """[S] that of the shape's class."""
        self.queue: Int32 = np.where(shapes.leaf >= 0, queues.parent[shapes.leaf], -1).astype(np.int32)
        """[S] the shape's queue row; -1: the queue does not exist any more."""
        self._promised: Bool = np.append(queues.guarantee.any(axis=1), values=False)
        for row, parent in enumerate(queues.parent.tolist()):
            self._promised[row] |= self._promised[parent]  # the last row, where -1 leads to, is promised nothing

    @cached_property
    def _behind(self) -> Bool:
        return behind(self._snapshot)

    def kind(self, slot: int) -> Kind:
        """What kind of claimant a waiting pod is."""
        pending, shapes = self._snapshot.pending, self._snapshot.shapes
        shape, priority = int(pending.shape[slot]), int(pending.priority[slot])
        asks = bool(shapes.ask_count[shape, 0])
        like = int(shapes.leaf[shape]), int(shapes.priority_class[shape]), asks, priority
        found = self._kinds.get(like)
        if found is None:
            from_others = bool(self.takes_from_others(np.array([shape], np.int32))[0])
            mine = int(self.rank(np.array([slot], np.int32))[0])
            found = self._kinds[like] = Kind(int(self.queue[shape]), int(self.weight[shape]), mine, from_others)
        return found

    def may_evict(self, kind: Kind, slots: Int32) -> Bool:
        """[len(slots)] whether a claimant of the kind might have a right to evict each of these running pods."""
        running, fallback = self._snapshot.running, self._snapshot.classes.fallback
        shape = running.shape[slots]
        weight = self.weight[shape]
        lower = rank(self._snapshot, weight, running.priority[slots].astype(np.int64)) < kind.rank
        by_class = (fallback == PREEMPT) & (weight < kind.weight)
        return np.asarray(kind.from_others | (lower & (self.queue[shape] == kind.queue)) | by_class, np.bool_)

    def rank(self, slots: Int32) -> Int64:
        """[len(slots)] the ranks of waiting pods."""
        pending = self._snapshot.pending
        return rank(self._snapshot, self.weight[pending.shape[slots]], pending.priority[slots].astype(np.int64))

    def takes_from_others(self, shapes: Int32) -> Bool:
        """[len(shapes)] whether guarantees or shares may let such pods evict others, of whatever rank and queue."""
        own, gpus = self.queue[shapes], (self._snapshot.shapes.ask_count[shapes, 0] > 0).astype(np.int8)
        return np.asarray(self._promised[own] | self._behind[own, gpus], np.bool_)


def may_leave_now(snapshot: Snapshot) -> Bool:
    """[V] running pods that can be evicted now: they are not leaving, and have run as long as their queue lets them."""
    running = snapshot.running
    count = len(running.names)
    leaf = snapshot.shapes.leaf[running.shape[:count]]
    least = least_runtime(snapshot.queues)[np.where(leaf >= 0, snapshot.queues.parent[leaf], -1)]
    has_run = (least == 0) | (snapshot.now - running.started[:count] >= least)
    return np.asarray(running.present[:count] & ~running.doomed[:count] & running.evictable[:count] & has_run, np.bool_)


def may_stand_above(snapshot: Snapshot, slots: Int32) -> Bool:
    """[len(slots)] whether a waiting pod may have a right to evict anybody, by a quick test of queues and ranks."""
    pending, running = snapshot.pending, snapshot.running
    there = running.present.nonzero()[0]
    if not len(there):
        return np.zeros(len(slots), np.bool_)
    rights = PreemptionRights(snapshot)
    lowest, theirs = np.full(len(snapshot.queues.parent) + 1, np.iinfo(np.int64).max), running.shape[there]
    weight = rights.weight[theirs]
    np.minimum.at(lowest, rights.queue[theirs], rank(snapshot, weight, running.priority[there].astype(np.int64)))
    shape = pending.shape[slots]
    above = rights.rank(slots) > lowest[rights.queue[shape]]
    by_class = (snapshot.classes.fallback == PREEMPT) & (rights.weight[shape] > weight.min())
    return np.asarray(pending.preempts[slots] & (above | by_class | rights.takes_from_others(shape)), np.bool_)


def rank(snapshot: Snapshot, weight: Int64, priority: Int64) -> Int64:
    """What is compared when one pod wants another's place: the class's weight, if it counts, before the priority."""
    return weight * _LEVELS * (snapshot.classes.fallback == PREEMPT) + priority
