"""Where evictions help a pod most cheaply: every node's least victims, looked at again only when something changed."""

import heapq

import numpy as np

from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.decide.fit.kernels import asked_by
from tangram.decide.preempt.claim import Claimant, among, entitlement_of
from tangram.decide.preempt.gains import Gains
from tangram.decide.preempt.order import PreemptionOrder
from tangram.decide.preempt.victims import (
    BY_GUARANTEE,
    NO_COST,
    Among,
    Left,
    Rules,
    Runs,
    least_on,
    may_alone,
    places_of,
)
from tangram.decide.queues.balance import Tree
from tangram.decide.queues.fairness import Turns
from tangram.snapshot.arrays import PREEMPT, Bool, Int32, Int64

Cost = tuple[int, ...]
"""What the victims cost (see ``victims.TIER``), and the node's place in ties: least first."""


_ELSEWHERE = 32
"""Units on other nodes that are looked at where what is owed to limits is more than those of the node can give."""


class Search:
    """The cheapest evictions for equal claimants, on every node."""

    def __init__(
        self, decision: Decision, precedence: PreemptionOrder, tree: Tree, gains: Gains, who: Claimant
    ) -> None:
        snapshot = decision.snapshot
        self._snapshot, self._pool, self._scores = snapshot, decision.pool, decision.scores
        self._precedence, self._gains, self._who = precedence, gains, who
        self._tree, self._claim = tree, entitlement_of(snapshot, precedence, tree, who)
        self._has_rights = bool((self._claim.why[precedence.unit[precedence.present]] >= 0).any())
        """What others leave is reserved only for pods that might have had somebody evicted."""
        self.weigh(decision.turns)
        self._damage = np.zeros(len(precedence.units.level), np.int64)
        self._may_use = self._rows()
        self._goes_to = self._may_use & (np.frombuffer(who.allowed, np.bool_) if who.allowed else np.True_)
        order = self._candidates()
        self._runs = Runs(order, precedence.unit, snapshot.running.shape, snapshot.running.parts)
        rows = snapshot.running.node[order]
        first = np.searchsorted(rows, np.arange(len(snapshot.nodes.present) + 1)).tolist()
        self._span = {row: (first[row], first[row + 1]) for row in np.unique(rows).tolist()}
        self._heap: list[tuple[Cost, int]] = []
        self._seen = len(gains.touched)
        self._asked = asked_by(snapshot.shapes, snapshot.nodes.counts_devices)
        self._units, self._rules = self._bundles()
        self._elsewhere = self._owing() if who.wide else np.zeros(0, np.int32)
        where = np.flatnonzero(self._goes_to).tolist() if who.wide else [*self._span, *gains.touched]
        for row in sorted(set(where)) if self._has_rights else ():
            self._examine(row)

    @property
    def entitled(self) -> int:
        """The queue row whose guarantee is taken back; -1: none."""
        return self._who.entitled

    def evictable(self, *, promised: bool) -> Int64:
        """[X] what all pods use that may be evicted, each seen for itself; ``promised``: by a guarantee too."""
        why, slots = self._claim.why[self._precedence.unit[self._runs.order]], self._runs.order
        found: Int64 = self._precedence.amounts[slots if promised else slots[why != BY_GUARANTEE]].sum(axis=0)
        return found

    def weigh(self, turns: Turns) -> None:
        """Take in what the claimant's queue, and those above it, use by now."""
        self._tree.weigh(self._claim.sides, self._claim.beside, self._claim.asked, turns)

    def reason(self, slot: int) -> int:
        """Why the running pod may be evicted."""
        return int(self._claim.why[self._precedence.unit[slot]])

    def sides(self, slot: int) -> tuple[int, int]:
        """The queue rows at which the claimant's queue and the running pod's part."""
        other = int(self._claim.sides.branch[self._precedence.queue[slot]])
        return next(row for row, others in self._claim.beside if other in others), other

    def best(self) -> tuple[Cost, int, list[int]] | None:
        """(cost, node row, slots of the pods to evict there; none when enough are leaving already) at least cost."""
        touched = self._gains.touched if self._has_rights else []
        for row in sorted(set(touched[self._seen :])):
            self._examine(row)
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

    def _examine(self, row: int) -> None:
        found = self._cost(row) if self._goes_to[row] else None
        if found is not None:
            heapq.heappush(self._heap, (found[0], row))

    def _cost(self, row: int) -> tuple[Cost, list[int]] | None:
        snapshot, sides = self._snapshot, self._claim.sides
        if self._rules.cover is not self._precedence.cover:  # a rollback has put other arrays there
            self._units, self._rules = self._bundles()
        units, rules, asked = self._units, self._rules, self._asked
        places = places_of(*self._span.get(row, (0, 0)), self._runs, units, rules, sides)
        if len(self._elsewhere):  # they hold nothing of this node
            others = self._elsewhere[~units.gone[self._elsewhere] & ~np.isin(self._elsewhere, places[:, 0])]
            places = np.concatenate([places, np.stack([others, np.zeros_like(others), np.zeros_like(others)], axis=1)])
        chosen = np.zeros(len(places), np.bool_)
        cost = least_on(places, self._runs, units, rules, sides, self._who.shape, asked, self._left(row), chosen)
        if cost[0] == NO_COST:
            return None
        slots = list[int]()
        for unit, begin, end in places[chosen].tolist() if chosen.any() else ():
            slots += self._runs.order[begin:end].tolist() or [unit]  # the number of a unit is a slot of it
        return (*cost.tolist(), int(snapshot.nodes.tie_rank[row])), slots

    def _bundles(self) -> tuple[Among, Rules]:
        """Units and rules as compiled code takes them."""
        units = among(self._precedence, self._claim, self._damage)
        return units, self._claim.rules._replace(cover=self._precedence.cover)

    def _owing(self) -> Int32:
        """Units anywhere whose leaving would lessen what is owed, those first that hurt least; not many of them."""
        precedence, claim = self._precedence, self._claim
        units, rules = self._units, self._rules
        below = np.zeros(len(rules.parent) + 1, np.bool_)
        for row, parent in enumerate(rules.parent.tolist()):
            below[row] = row in rules.owed_row or (parent >= 0 and below[parent])
        found = np.unique(precedence.unit[precedence.present])
        found = found[below[units.queue[found]] & (claim.why[found] >= 0) & ~units.gone[found]]
        found = found[may_alone(found, units, rules, claim.sides)]
        tier = np.append(rules.tier, 0)[claim.why[found]]
        keys = (precedence.units.tie[found], units.lost[found], self._damage[found], units.level[found], tier)
        return found[np.lexsort(keys)][:_ELSEWHERE]

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

    def _candidates(self) -> Int32:
        """Slots of pods that may be evicted where the shape may run, by node, then those first that hurt least."""
        precedence, who, scores, why = self._precedence, self._who, self._scores, self._claim.why
        node = self._snapshot.running.node[: len(precedence.queue)]
        possible = precedence.present & (why[precedence.unit] >= 0) & self._may_use[node]
        if self._snapshot.classes.fallback == PREEMPT:  # by class alone nobody is evicted where it would rather not be
            weight = int(np.append(self._snapshot.classes.weight, 0)[self._snapshot.shapes.priority_class[who.shape]])
            by_class = (why[precedence.unit] != BY_GUARANTEE) & (precedence.weight < weight)
            possible &= ~by_class | scores.preferred(who.shape)[node]
        slots: Int32 = np.flatnonzero(possible).astype(np.int32)
        unit = precedence.unit[slots]
        np.add.at(self._damage, unit, scores.damage(who.shape, slots) if len(slots) else np.zeros(0, np.int64))
        units = precedence.units
        keys = (
            self._snapshot.running.tie[slots], unit, units.tie[unit], units.lost[unit], self._damage[unit],
            units.level[unit], self._claim.rules.tier[why[unit]], node[slots],
        )  # fmt: skip
        ordered: Int32 = slots[np.lexsort(keys)]
        return ordered

    def _rows(self) -> Bool:
        """[N] node rows on which the shape may run, whoever else is there."""
        scores, who, nodes = self._scores, self._who, self._snapshot.nodes
        rows = nodes.present & (scores.statics(who.shape) == codes.FITS)
        if who.model >= 0:
            rows &= nodes.model == who.model
        return np.asarray(rows & scores.preferred(who.shape) if who.on_preferred_nodes else rows, np.bool_)
