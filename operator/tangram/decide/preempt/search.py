"""Where evictions help a pod most cheaply: every node's least victims, looked at again only when something changed."""

import numpy as np

from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.decide.fit.kernels import asked_by
from tangram.decide.preempt.cheapest import (
    TIE,
    Case,
    Field,
    Lineup,
    Room,
    allowed_kinds,
    amounts_of,
    cheapest_row,
    set_bounds,
    sort_units,
)
from tangram.decide.preempt.claim import Claimant, among, entitlement_of
from tangram.decide.preempt.gains import Gains
from tangram.decide.preempt.legal import BY_GUARANTEE, BY_SHARE, Among, Rules
from tangram.decide.preempt.order import PreemptionOrder
from tangram.decide.preempt.victims import NO_COST, Runs, may_alone
from tangram.decide.queues.balance import Tree
from tangram.decide.queues.fairness import Turns
from tangram.decide.queues.rights import GPU
from tangram.snapshot.arrays import PREEMPT, Bool, Int32, Int64

Cost = tuple[int, ...]
"""What the victims cost (see ``victims.TIER``), and the node's place in ties: least first."""
_ROUNDING = 1e-9
"""More than shares of whole numbers differ by when they are equal."""
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
        self._goes_to = self._rows()
        self._damage = self._damage_of()
        self._units, self._rules = self._bundles()
        self._lineup = self._lined_up()
        self._goes_to = self._goes_to & (np.frombuffer(who.allowed, np.bool_) if who.allowed else np.True_)
        self._runs = self._runs_of(self._lineup.order)
        self._elsewhere = self._owing() if who.wide else np.zeros(0, np.int32)
        self._lowest: Int64 | None = None
        """As ``Field.lowest``; None: evictions help nowhere."""
        self._best, self._seen = -1, len(gains.touched)
        if self._has_rights:
            first = self._lineup.first
            rows = np.arange(len(first) - 1) if who.wide else np.flatnonzero(first[1:] > first[:-1])
            self._set_bounds(np.union1d(rows, np.array(gains.touched, np.int64)))

    @property
    def entitled(self) -> int:
        """The queue row whose guarantee is taken back; -1: none."""
        return self._who.entitled

    @property
    def owes(self) -> bool:
        """Whether a limit lets the claimant come only once others have left, wherever they are."""
        return bool(self._who.owed)

    def evictable(self, allowed: Bool | None, *, promised: bool) -> Int64:
        """[X] what all pods on the ``allowed`` [N] node rows use that may be evicted, each seen for itself;
        ``promised``: by a guarantee too.

        By share no row loses GPUs that it is promised, or so many that the claimant's has more of them.
        """
        slots = self._lineup.order[self._precedence.present[self._lineup.order]]
        if allowed is not None:
            slots = slots[allowed[self._snapshot.running.node[slots]]]
        why = self._claim.why[self._precedence.unit[slots]]
        if not promised:
            slots, why = slots[why != BY_GUARANTEE], why[why != BY_GUARANTEE]
        amounts = self._precedence.amounts[slots]
        found: Int64 = amounts.sum(axis=0)
        by_share = np.flatnonzero(why >= BY_SHARE)
        if len(by_share) and self._claim.asked[GPU]:
            branch, each = self._claim.sides.branch, np.zeros(len(self._rules.parent), np.int64)
            np.add.at(each, branch[self._precedence.queue[slots[by_share]]], amounts[by_share, GPU])
            found[GPU] -= np.maximum(each - self._beyond_share(), 0).sum()
        return found

    def _beyond_share(self) -> Int64:
        """[Q] milli-GPU that each row beside the claimant's can lose by share at most."""
        sides, rules = self._claim.sides, self._rules
        keeps = rules.guarantee[:, GPU].copy()
        if rules.guarantee.shape[1] == GPU + 1:  # of single models any may be the largest part
            part = sides.part[:, GPU]
            share = np.divide(sides.mine[:, GPU], part, out=np.zeros_like(part), where=part > 0)
            keeps = np.maximum(keeps, np.floor(share * (1 - _ROUNDING)).astype(np.int64))
        return np.asarray(np.maximum(rules.cover[:, 0, GPU] - keeps, 0), np.int64)

    def weigh(self, turns: Turns, others: Int64 | int = 0) -> None:
        """Take in what the claimant's queue, and those above it, use by now; ``others`` [X] is what its gang needs
        beside it, and has to be covered too."""
        self._tree.weigh(self._claim.sides, self._claim.beside, self._claim.asked + others, turns)

    def reason(self, slot: int) -> int:
        """Why the running pod may be evicted."""
        return int(self._claim.why[self._precedence.unit[slot]])

    def sides(self, slot: int) -> tuple[int, int]:
        """The queue rows at which the claimant's queue and the running pod's part."""
        other = int(self._claim.sides.branch[self._precedence.queue[slot]])
        return next(row for row, others in self._claim.beside if other in others), other

    def best(self) -> tuple[Cost, int, list[int]] | None:
        """(cost, node row, slots of the pods to evict there; none when enough are leaving already) at least cost."""
        if self._has_rights and self._seen < len(self._gains.touched):
            self._set_bounds(np.unique(self._gains.touched[self._seen :]))
            self._seen = len(self._gains.touched)
        if self._lowest is None:
            return None
        row, places = cheapest_row(self._field(self._lowest), self._case())
        self._best = row
        if row < 0:
            self._lowest = None  # thousands of claimants may find nothing
            return None
        slots = list[int]()
        for unit, begin, end in places.tolist():
            slots += self._runs.order[begin:end].tolist() or [unit]  # the number of a unit is a slot of it
        return tuple(self._lowest[row].tolist()), row, slots

    def refuse(self) -> None:
        """The best node does not do for another reason: forget it."""
        if self._lowest is not None:
            self._lowest[self._best, 0] = NO_COST

    def _set_bounds(self, rows: Int64) -> None:
        nodes = self._snapshot.nodes
        if self._lowest is None:
            self._lowest = np.full((len(nodes.present), TIE + 1), NO_COST, np.int64)
            self._lowest[:, TIE] = nodes.tie_rank
        set_bounds(rows, self._field(self._lowest), self._case())

    def _case(self) -> Case:
        if self._rules.cover is not self._precedence.cover:  # a rollback has put other arrays there
            self._units, self._rules = self._bundles()
        asked = asked_by(self._snapshot.shapes, self._snapshot.nodes.counts_devices)
        some = self._runs, self._units, self._rules, self._claim.sides, self._room()
        return Case(self._who.shape, asked, *some)

    def _room(self) -> Room:
        """What is left of nodes as things are, and what they gain."""
        pool, gains, nodes = self._pool, self._gains, self._snapshot.nodes
        return Room(
            pool.free, pool.device_free, pool.device_memory_free, gains.free, gains.device, gains.memory,
            nodes.device_count, nodes.device_memory,
        )  # fmt: skip

    def _field(self, lowest: Int64) -> Field:
        return Field(self._lineup, self._goes_to, self._elsewhere, lowest)

    def _runs_of(self, order: Int32) -> Runs:
        running = self._snapshot.running
        return Runs(order, self._precedence.unit, running.shape, running.parts)

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

    def _lined_up(self) -> Lineup:
        """Units that may be evicted where the shape may run; the same for all claimants for which it has to be."""
        precedence, why, rules = self._precedence, self._claim.why, self._rules
        kind, count = precedence.kinds
        allowed = allowed_kinds(kind, count, self._units, rules, self._claim.sides)
        preferred = self._preferred()
        damage = self._damage[: self._damage.any() * len(self._damage)]
        differs = why, allowed, self._goes_to, preferred, rules.tier, damage
        key = (self._weight(), *(some.tobytes() for some in differs))
        if key in precedence.lineups:
            return precedence.lineups[key]
        unit, node = precedence.unit, self._snapshot.running.node
        possible = precedence.ran & (why[unit] >= 0) & allowed[kind[unit]] & self._possible(preferred)
        slots: Int32 = precedence.by_node[possible[precedence.by_node]]
        sort_units(slots, node, unit, self._units, rules.tier)
        first = np.searchsorted(node[slots], np.arange(len(preferred) + 1))
        total, most = amounts_of(slots, first, self._runs_of(slots), self._snapshot.shapes.request)
        found = precedence.lineups[key] = Lineup(slots, first, total, most)
        return found

    def _damage_of(self) -> Int64:
        """[U] what plugins say of evicting units where the shape may run."""
        precedence = self._precedence
        found = np.zeros(len(precedence.unit), np.int64)
        if self._scores.plugins.judge_victims:
            slots = np.flatnonzero(self._possible(self._preferred())).astype(np.int32)
            np.add.at(found, precedence.unit[slots], self._scores.damage(self._who.shape, slots))
        return found

    def _possible(self, preferred: Bool) -> Bool:
        """[V] pods that the claimant has a right to evict where it may go."""
        precedence, why = self._precedence, self._claim.why[self._precedence.unit]
        node = self._snapshot.running.node[: len(why)]
        found = precedence.ran & (why >= 0) & self._goes_to[node]
        # By class alone nobody is evicted where the claimant would rather not be.
        by_class = (why != BY_GUARANTEE) & (precedence.weight < self._weight())
        return np.asarray(found & (~by_class | preferred[node]), np.bool_)

    def _preferred(self) -> Bool:
        """[N] node rows where pods may be evicted by class alone."""
        if self._snapshot.classes.fallback == PREEMPT:
            return self._scores.preferred(self._who.shape)
        return np.ones(len(self._goes_to), np.bool_)

    def _weight(self) -> int:
        """That of the claimant's class."""
        return int(np.append(self._snapshot.classes.weight, 0)[self._snapshot.shapes.priority_class[self._who.shape]])

    def _rows(self) -> Bool:
        """[N] node rows on which the shape may run, whoever else is there."""
        scores, who, nodes = self._scores, self._who, self._snapshot.nodes
        rows = nodes.present & (scores.statics(who.shape) == codes.FITS)
        if who.model >= 0:
            rows &= nodes.model == who.model
        return np.asarray(rows & scores.preferred(who.shape) if who.on_preferred_nodes else rows, np.bool_)
