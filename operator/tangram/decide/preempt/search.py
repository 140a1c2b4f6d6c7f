"""Where evictions help a pod most cheaply: every node's least victims, looked at again only when something changed."""

import heapq
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np

from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.decide.fit.kernels import asked_by
from tangram.decide.journal import Journal, Restore
from tangram.decide.pool import Part, Row
from tangram.decide.preempt.order import GPU, Standing, kinds, rank
from tangram.decide.preempt.victims import BY_CLASS, BY_GUARANTEE, BY_RANK, BY_SHARE, IN_KIND, Left, enough, spare
from tangram.decide.queues.balance import Tree
from tangram.decide.queues.fairness import Turns, charge_of
from tangram.snapshot.arrays import PREEMPT, Bool, Int8, Int32, Int64, Snapshot

Cost = tuple[int, int, int, int, int]
"""Rank of the highest victim, damage by plugins, work lost, pods, the node's place in ties: least first."""


@dataclass(frozen=True, slots=True)
class Claimant:
    """Everything about a waiting pod that decides whom it may have evicted."""

    shape: int
    priority: int
    gang: int
    """Its gang row: no pod makes room for its own gang by evicting it."""
    model: int
    """GPU model of the nodes to look at; -1: all of them."""
    entitled: int
    """Queue row that its guarantee is of; -1: none."""
    owed: tuple[int, ...]
    """Per column what its queue would use beyond its limits."""
    at_home: bool
    """Look only at nodes that its class prefers."""


class Demand(NamedTuple):
    """What one pod takes of a node row."""

    request: Int64
    """[R]"""
    parts: list[Part]


class Gains:
    """What nodes gain beyond the pool once all victims have left and all claimants have come. N node rows."""

    def __init__(self, snapshot: Snapshot, journal: Journal) -> None:
        nodes, leaving = snapshot.nodes, snapshot.leaving
        self._journal = journal
        self.free, self.device = np.zeros_like(nodes.free), np.zeros_like(nodes.device_free)
        self.memory = np.zeros_like(nodes.device_memory_free)
        self.touched: list[int] = leaving.node.tolist()
        """Rows that have gained, in order of time."""
        if len(leaving.node):
            self.free[leaving.node] += leaving.free
            self.device[leaving.node] += leaving.device
            self.memory[leaving.node] += leaving.memory

    def of(self, row: int) -> Row:
        """A copy of what a node row gains."""
        return Row(self.free[row].copy(), self.device[row].copy(), self.memory[row].copy())

    def add(self, snapshot: Snapshot, slot: int) -> None:
        """A running pod will leave."""
        running = snapshot.running
        row = int(running.node[slot])
        self._touch(row)
        self.free[row] += snapshot.shapes.request[running.shape[slot]]
        for device, milli, mib in running.parts[slot].tolist():
            if device >= 0:
                self.device[row, device] += milli
                self.memory[row, device] += mib

    def claim(self, row: int, before: Row, after: Row, demand: Demand) -> None:
        """Count a claim on a row, of which as much is left as ``after`` says: it gains what will be left once all have
        left and the claimant has come, and is not now."""
        self._touch(row)
        self.free[row] += before.free - demand.request - after.free
        self.device[row] += before.device - after.device
        self.memory[row] += before.memory - after.memory
        for device, milli, mib in demand.parts:
            self.device[row, device] -= milli
            self.memory[row, device] -= mib

    def _touch(self, row: int) -> None:
        self._journal.keep(("gains", row), self._copy_row, row)
        self._journal.keep(("gains", "touched"), self._copy_touched)
        self.touched.append(row)

    def _copy_row(self, row: int) -> Restore:
        return partial(self._put_back, row, self.of(row))

    def _put_back(self, row: int, kept: Row) -> None:
        self.free[row], self.device[row], self.memory[row] = kept

    def _copy_touched(self) -> Restore:
        return partial(self.touched.__delitem__, slice(len(self.touched), None))


class Search:
    """The cheapest evictions for equal claimants, on every node."""

    def __init__(self, decision: Decision, standing: Standing, tree: Tree, gains: Gains, who: Claimant) -> None:
        snapshot, turns = decision.snapshot, decision.turns
        self._snapshot, self._pool, self._scores = snapshot, decision.pool, decision.scores
        self._standing, self._gains, self._who = standing, gains, who
        shapes, queues = snapshot.shapes, snapshot.queues
        leaf = int(shapes.leaf[who.shape])
        self._own = int(queues.parent[leaf]) if leaf >= 0 else -1
        self._on_path = np.zeros(len(queues.names), np.bool_)
        self._on_path[list(standing.path(self._own))] = True
        asked = charge_of(snapshot, who.shape, who.model)
        self._gpus = bool(asked[2])
        self._unasked = asked == 0
        kind = kinds(asked)
        everything = np.ones(len(asked), np.bool_)
        self._judged = np.array([everything, everything, kind if self._gpus else everything, everything, everything])
        self._brings = np.where(kind, asked, np.iinfo(np.int64).max)
        self._tree, self._asked = tree, asked
        self._sides, self._beside = tree.sides(self._own, gpus=self._gpus)
        self.weigh(turns)
        self._owed = np.array(who.owed, np.int64)
        self._guarantee = queues.guarantee[: len(standing.cover)]  # leaves are promised nothing
        self._why = self._reasons()
        self._damage = np.zeros(len(standing.units.level), np.int64)
        self._order = self._candidates()
        rows = snapshot.running.node[self._order]
        first = np.searchsorted(rows, np.arange(len(snapshot.nodes.present) + 1)).tolist()
        self._span = {row: (first[row], first[row + 1]) for row in np.unique(rows).tolist()}
        self._heap: list[tuple[Cost, int]] = []
        self._seen = len(gains.touched)
        for row in sorted({*self._span, *gains.touched}) if self._has_rights else ():
            self._look(row)

    @property
    def entitled(self) -> int:
        """The queue row whose guarantee is taken back; -1: none."""
        return self._who.entitled

    def evictable(self, asked: int, turns: Turns) -> int:
        """milli-GPU of all pods that may be evicted so that ``asked`` fit, each seen for itself."""
        row, why = self._who.entitled, self._why[self._standing.unit[self._order]]
        slots = self._order
        if row >= 0:
            left = int(self._snapshot.queues.guarantee[row, GPU]) - turns.used(row)[GPU]
            slots = slots[(why != BY_GUARANTEE) | (left >= asked) | (self._snapshot.queues.guarantee[row, GPU] == 0)]
        return int(self._standing.amounts[slots, GPU].sum())

    def weigh(self, turns: Turns) -> None:
        """Take in what the claimant's queue, and those above it, use by now."""
        self._tree.weigh(self._sides, self._beside, self._asked, turns)

    def reason(self, slot: int) -> int:
        """Why the running pod may be evicted."""
        return int(self._why[self._standing.unit[slot]])

    def sides(self, slot: int) -> tuple[int, int]:
        """The queue rows at which the claimant's queue and the running pod's part."""
        other = int(self._sides.branch[self._standing.queue[slot]])
        return next(row for row, others in self._beside if other in others), other

    def best(self) -> tuple[Cost, int, list[int]] | None:
        """(cost, node row, slots of the pods to evict there; none when enough are leaving already) at least cost."""
        touched = self._gains.touched if self._has_rights else []
        for row in sorted(set(touched[self._seen :])):
            self._look(row)
        self._seen = len(touched)
        while self._heap:
            cost, row = self._heap[0]
            now = self._cost(row)
            if now is None or now[0] != cost:  # by now it costs more: others have been evicted, or have taken room
                heapq.heappop(self._heap)
                if now is not None:
                    heapq.heappush(self._heap, (now[0], row))
                continue
            return cost, row, now[1]
        return None

    def refuse(self) -> None:
        """The best node does not do for another reason: forget it."""
        heapq.heappop(self._heap)

    def _look(self, row: int) -> None:
        found = self._cost(row) if self._may_use[row] else None
        if found is not None:
            heapq.heappush(self._heap, (found[0], row))

    def _cost(self, row: int) -> tuple[Cost, list[int]] | None:
        standing, snapshot, shape = self._standing, self._snapshot, self._who.shape
        running, units, shapes, nodes = snapshot.running, standing.units, snapshot.shapes, snapshot.nodes
        first, last = self._span.get(row, (0, 0))
        chosen, owing = np.zeros(last - first, np.bool_), self._owed.copy()
        asked, left = asked_by(shapes, nodes.counts_devices), self._left(row)
        if not enough(
            first, last, self._order, standing.unit, running.shape, running.parts,
            units.level, units.queue, units.head, units.amounts, self._why, units.gone,
            snapshot.queues.parent, self._on_path, self._guarantee, standing.cover, self._judged,
            self._unasked, self._own, owing, self._sides, self._brings, shape, asked, left, chosen,
        ):  # fmt: skip
            return None
        if chosen.any():
            spare(
                first, last, self._order, standing.unit, running.shape, running.parts,
                units.queue, units.head, units.amounts, self._own, owing, shape, asked, left, chosen,
            )  # fmt: skip
        slots = self._order[first:last][chosen]
        one = np.unique(standing.unit[slots])
        highest = int(units.level[one].max(initial=-1))
        hurt, lost, pods = int(self._damage[one].sum()), int(units.lost[one].sum()), int(units.size[one].sum())
        return (highest, hurt, lost, pods, int(nodes.tie_rank[row])), slots.tolist()

    def _left(self, row: int) -> Left:
        """What will be left of a node as things are, to be written to."""
        pool, gains, nodes, one = self._pool, self._gains, self._snapshot.nodes, slice(row, row + 1)
        return Left(
            pool.free[one] + gains.free[one],
            pool.device_free[one] + gains.device[one],
            pool.device_memory_free[one] + gains.memory[one],
            nodes.device_count[one],
            nodes.device_memory[one],
        )

    def _reasons(self) -> Int8:
        """[U] why each unit may be evicted; -1: it may not."""
        standing, snapshot, who = self._standing, self._snapshot, self._who
        back, reclaimable = self._taken_back()
        rows = standing.queue
        weight = int(np.append(snapshot.classes.weight, 0)[snapshot.shapes.priority_class[who.shape]])
        mine, theirs = rank(snapshot, np.array([weight]), np.array([who.priority])), self._ranks()
        outright = back[rows] & (self._gpus | (standing.amounts[:, 2] == 0))
        same = (rows == self._own) & (theirs < mine)
        beneath = (rows != self._own) & (standing.weight < weight) & reclaimable[rows]
        beneath &= snapshot.classes.fallback == PREEMPT
        shared = self._shared(weight, mine - theirs, reclaimable)
        found = np.where(outright, BY_GUARANTEE, np.where(same, BY_RANK, np.where(beneath, BY_CLASS, shared)))
        of_gang = snapshot.running.gang[: len(rows)]
        found[(of_gang == who.gang) & (who.gang >= 0)] = -1
        self._has_rights = bool((found[snapshot.running.present[: len(found)]] >= 0).any())
        """What others leave is reserved only for pods that might have had somebody evicted."""
        least = np.full(len(rows), IN_KIND, np.int8)
        most = np.full(len(rows), -1, np.int8)
        slots = np.flatnonzero(standing.present)
        np.minimum.at(least, standing.unit[slots], found[slots].astype(np.int8))
        np.maximum.at(most, standing.unit[slots], found[slots].astype(np.int8))
        out: Int8 = np.where((least == most) & standing.units.whole, least, np.int8(-1)).astype(np.int8)
        return out

    def _shared(self, weight: int, above: Int64, reclaimable: Bool) -> Int64:
        """[U] the right by which each pod may go if its queue has more than its share; -1: none. ``above`` [U] is how
        far the claimant is above it in rank."""
        standing, rows, gpus = self._standing, self._standing.queue, self._standing.amounts[:, GPU] > 0
        if not self._asked[kinds(self._asked)].any():
            return np.full(len(rows), -1, np.int64)
        others, crowded = np.append(self._sides.branch, -1)[rows], self._tree.crowded(self._own)
        possible = (others >= 0) & reclaimable[rows] & (gpus <= self._gpus)
        if self._snapshot.classes.fallback == PREEMPT:
            possible &= standing.weight == weight
        within = np.array([self._tree.parent(row) in crowded for row in range(len(self._sides.branch))] + [False])
        strictly = within[others] & (above <= 0)
        in_kind = strictly & (above == 0) & (gpus == self._gpus)
        return np.where(possible & ~strictly, BY_SHARE, np.where(possible & in_kind, IN_KIND, -1))

    def _ranks(self) -> Int64:
        return rank(self._snapshot, self._standing.weight, self._standing.priority)

    def _taken_back(self) -> tuple[Bool, Bool]:
        """[Q + 1] queue rows outside the claimant's promised part of the tree that may be taken from by it; and rows
        that may be taken from at all. The last is for pods whose queue is gone."""
        queues = self._snapshot.queues
        inside = np.zeros(len(queues.names) + 1, np.bool_)
        reclaimable = np.ones(len(queues.names) + 1, np.bool_)
        for row, parent in enumerate(queues.parent.tolist()):
            inside[row] = row == self._who.entitled or (parent >= 0 and inside[parent])
            if not self._on_path[row]:
                reclaimable[row] = queues.reclaimable[row] and (parent < 0 or reclaimable[parent])
        return (reclaimable & ~inside) if self._who.entitled >= 0 else np.zeros_like(inside), reclaimable

    def _candidates(self) -> Int32:
        """Slots of pods that may be evicted where the shape may run, by node, then those first that hurt least."""
        standing, who, scores = self._standing, self._who, self._scores
        self._may_use = self._rows()
        node = self._snapshot.running.node[: len(standing.queue)]
        possible = standing.present & (self._why[standing.unit] >= 0) & self._may_use[node]
        if self._snapshot.classes.fallback == PREEMPT:  # by class alone nobody is evicted where it would rather not be
            weight = int(np.append(self._snapshot.classes.weight, 0)[self._snapshot.shapes.priority_class[who.shape]])
            by_class = (self._why[standing.unit] != BY_GUARANTEE) & (standing.weight < weight)
            possible &= ~by_class | scores.preferred(who.shape)[node]
        slots: Int32 = np.flatnonzero(possible).astype(np.int32)
        unit = standing.unit[slots]
        np.add.at(self._damage, unit, scores.damage(who.shape, slots) if len(slots) else np.zeros(0, np.int64))
        units = standing.units
        keys = (
            self._snapshot.running.tie[slots], unit, units.tie[unit],
            units.lost[unit], self._damage[unit], units.level[unit], node[slots],
        )  # fmt: skip
        ordered: Int32 = slots[np.lexsort(keys)]
        return ordered

    def _rows(self) -> Bool:
        """[N] node rows on which the shape may run, whoever else is there."""
        scores, who, nodes = self._scores, self._who, self._snapshot.nodes
        rows = nodes.present & (scores.statics(who.shape) == codes.FITS)
        if who.model >= 0:
            rows &= nodes.model == who.model
        return np.asarray(rows & scores.preferred(who.shape) if who.at_home else rows, np.bool_)
