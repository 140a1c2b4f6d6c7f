"""Make room by evictions: by rank within a queue, by class, or because a queue wants back what it was promised.

Nothing is evicted unless whoever asked for it then fits: all places of a claim are found in an attempt first, those
of a gang together. What leaves is counted as free for whoever comes next in the same decision, so that a pod that
leaves more than was asked for serves the next claimant too.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.decide.devices import choose_devices, place_of
from tangram.decide.journal import Restore
from tangram.decide.preempt.claim import ANY, Claimant, Terms
from tangram.decide.preempt.company import to_spare
from tangram.decide.preempt.gains import Demand, Gains
from tangram.decide.preempt.order import PreemptionOrder, may_stand_above, rank
from tangram.decide.preempt.search import Cost, Search
from tangram.decide.preempt.upper_bound import UpperBound
from tangram.decide.preempt.words import waits_for, why
from tangram.decide.queues.balance import Tree
from tangram.decide.queues.fairness import charge_of, charges_of
from tangram.decide.queues.rights import GPU, entitled, kinds, owed_to_limits
from tangram.plan import Claim, Evict, Hold
from tangram.snapshot.arrays import CPU, MEMORY, STRICT, Bool, Int64, Leaving

_RETRIES = 4
"""How often others are looked for on a node, where the pod may not lose the cheapest ones as it has to be near them."""


class _Found(NamedTuple):
    """The cheapest evictions on a node."""

    cost: Cost
    search: Search
    row: int
    victims: list[int]
    """Slots."""


class Preemption:
    """What evictions can make free in one decision."""

    def __init__(self, decision: Decision) -> None:
        self.decision = decision
        self._snapshot, self._draft, self._turns = decision.snapshot, decision.draft, decision.turns
        self._models = len(decision.snapshot.queues.columns) > GPU + 1
        self._searches: dict[Claimant, Search] = {}
        self._hopeless: dict[tuple[int, int, int, bytes, Terms, bytes], int] = {}
        """(shape, priority, gang, what that needs, terms, rows that are allowed) -> how often room had been gained
        when no eviction helped such a pod."""
        self.victims: list[int] = []
        """Slots of the pods that were evicted in this decision."""
        self.rights: dict[int, int] = {}
        """By slot of some of these the right by which it was; those of what was rolled back are left there."""
        self.cut_short = False
        """Whether the cheapest victims of somebody were more than one cycle evicts: in time others may be cheaper."""
        self._needed: Int64 = np.zeros(len(decision.snapshot.queues.columns), np.int64)
        """[X] what the gang whose turn it is needs and has no place for yet."""

    @cached_property
    def _possible(self) -> bool:
        return bool(self._snapshot.running.present.any())

    @cached_property
    def precedence(self) -> PreemptionOrder:
        """Worked out when the first pod asks: most decisions evict nobody."""
        return PreemptionOrder(self._snapshot, self.decision.journal)

    @cached_property
    def _tree(self) -> Tree:
        return Tree(self._snapshot)

    @cached_property
    def _gains(self) -> Gains:
        return Gains(self._snapshot, self.decision.journal)

    @cached_property
    def _bound(self) -> UpperBound:
        return UpperBound(self.decision, self._gains)

    @cached_property
    def _leaving(self) -> dict[int, Int64]:
        """Queue row -> [X] what is leaving it."""
        found: dict[int, Int64] = {}
        for leaf, amounts in self._snapshot.leaving.charges.items():
            _count(found, self.precedence.path(leaf), amounts)
        return found

    @cached_property
    def _rights(self) -> Bool:
        """[P] by slot, whether the pod may have a right to evict anybody, as things were before this decision.

        Nothing that is decided gives anybody a right, and whoever has none has no claim on what others leave either.
        So a pod that is known to fit nowhere need not be asked, and whether it is known changes nothing.
        """
        waiting = self._snapshot.pending.waiting
        found = np.zeros(len(waiting), np.bool_)
        slots = np.flatnonzero(waiting).astype(np.int32)
        found[slots] = may_stand_above(self._snapshot, slots)
        return found

    def may_ask(self, slot: int) -> bool:
        """Whether the pod may have others evicted at all: it may have a right to that, and it has no claim yet."""
        return self._possible and bool(self._snapshot.pending.claim[slot] < 0) and bool(self._rights[slot])

    def may_any_ask(self, shape: int) -> bool:
        """Whether any waiting pod of the shape may have others evicted at all."""
        pending = self._snapshot.pending
        return self._possible and bool((self._rights & (pending.shape == shape) & (pending.claim < 0)).any())

    def could_help(self, slot: int, allowed: Bool | None) -> bool:
        """Whether evictions could let the pod run on nodes that its class prefers; ``allowed`` as in ``make``."""
        if not self.may_ask(slot) or not self._bound.most(slot, allowed):
            return False
        return self._cheapest(slot, allowed, ANY, on_preferred_nodes=True) is not None

    def make(self, slot: int, allowed: Bool | None = None, terms: Terms = ANY) -> bool:
        """Have others evicted for a pod that fits nowhere it may go; it waits for them and its place is held.

        ``allowed`` [N]: node rows that it may go to at all. False when no eviction would help.
        """
        if not self.may_ask(slot) or not self._bound.most(slot, allowed):
            return False
        self._keep_searches()
        pending = self._snapshot.pending
        kind = int(pending.shape[slot]), int(pending.priority[slot]), int(pending.gang[slot])
        like = *kind, self._needed.tobytes(), terms, _bytes(allowed)
        if self._hopeless.get(like) == len(self._gains.touched):
            return False
        choosy = self.decision.scores.has_class_nodes(like[0])
        if choosy and self._claim(slot, allowed, terms, on_preferred_nodes=True):
            return True
        anywhere = not (choosy and self._snapshot.classes.fallback == STRICT)
        if anywhere and self._claim(slot, allowed, terms, on_preferred_nodes=False):
            return True
        self._hopeless[like] = len(self._gains.touched)
        return False

    def places(self, slots: list[int], allowed: Bool | None) -> int:
        """How many of the waiting pods have places at most that are free or could be made free, if each kind of them
        had the nodes to itself; a quick test. ``allowed`` as in ``make``."""
        pending = self._snapshot.pending
        kinds = list(zip(pending.shape[slots].tolist(), pending.priority[slots].tolist(), strict=True))
        slot_of = dict(zip(kinds, slots, strict=True))
        return sum(self._bound.most(slot_of[kind], allowed, number) for kind, number in Counter(kinds).items())

    def may_be_enough(self, slots: list[int], allowed: Bool | None = None) -> bool:
        """Whether all that is free and all that may be evicted is as much as the pods ask for; a quick test.
        ``allowed`` as in ``make``."""
        pool, gains, asked = self.decision.pool, self._gains, charges_of(self._snapshot, slots)[-1]
        there, counted = np.zeros_like(asked), kinds(asked)
        rows = slice(None) if allowed is None else np.flatnonzero(allowed)
        free = np.maximum(pool.free[rows] + gains.free[rows], 0).sum(axis=0)
        there[0], there[1] = free[CPU], free[MEMORY]
        there[GPU] = (pool.device_free[rows] + gains.device[rows]).sum(dtype=np.int64)
        for one in self._unlike(slots):
            for model in self._models_for(int(self._snapshot.pending.shape[one])):
                who = self._claimant(one, model, ANY, on_preferred_nodes=False)
                if who.entitled < 0:
                    who = self._combined(who) or who
                there = there + self._search(who).evictable(allowed, promised=who.entitled >= 0)
            if (asked <= there)[counted][: 1 if asked[GPU] else None].all():
                return True
        return False

    def _unlike(self, slots: list[int]) -> list[int]:
        """One of each kind of these waiting pods: what they ask for, and of which priority they are."""
        pending, found = self._snapshot.pending, dict[tuple[int, int], int]()
        for slot in slots:
            found.setdefault((int(pending.shape[slot]), int(pending.priority[slot])), slot)
        return list(found.values())

    @contextmanager
    def together(self, needed: Int64) -> Iterator[None]:
        """Within it a member of a gang claims as one with others that its gang needs and that have no place yet, itself
        included: by guarantee and share it has a right to all of that, ``needed`` [X], or to nothing."""
        before, self._needed = self._needed, needed
        try:
            yield
        finally:
            self._needed = before

    def reserve(self, slot: int, row: int, victims: list[int], *, owes: bool = True) -> None:
        """Hold a place on a node for the pod: what it needs there is free once the victims have left.

        What counts as free afterwards is free both now and once the pod has come in the victims' stead. ``owes``:
        whether limits let it come only once the victims on other nodes have left, too.
        """
        snapshot, pool, gains = self._snapshot, self.decision.pool, self._gains
        shape, before = int(snapshot.pending.shape[slot]), pool.row(row)
        request = snapshot.shapes.request[shape]
        pool.add(row, gains.of(row))
        devices = choose_devices(self.decision, shape, row)
        parts = [part for ask in devices for part in ask]
        pool.take(shape, row, request, parts)
        pool.lower(row, before)
        gains.claim(row, before, pool.row(row), Demand(request, parts))
        pool.take_volumes(slot, row)
        self._turns.charge(shape, row)
        self._draft.add_claimant(slot)
        place, leaving = place_of(snapshot, slot, row, devices), tuple(snapshot.running.names[one] for one in victims)
        running = snapshot.running
        away = [running.names[one] for one in victims if not owes and int(running.node[one]) != row]
        self._draft.add_claim(Claim((place,), leaving, elsewhere=tuple(away)))
        text = waits_for(place.node, [one.name for one in leaving])
        reason = codes.NAMES[codes.WAITING_FOR_EVICTION]
        self._draft.add_holds((Hold(place.pod, reason, text, place.gang, place.node),))

    def keep_place(self, slot: int, row: int) -> bool:
        """Hold a place on that has been made free for a pod and that only limits keep it from, as long as others who
        count against them are leaving; whether it is held."""
        snapshot, shape = self._snapshot, int(self._snapshot.pending.shape[slot])
        asked = charge_of(snapshot, shape, int(snapshot.nodes.model[row]))
        owed = owed_to_limits(self._path(shape), snapshot.queues.limit, self._once_gone, asked)
        if not owed and self.decision.scores.fits_on(shape, row):
            self.reserve(slot, row, [])
        return slot in self._draft.claimants

    def may_straddle(self, slots: list[int]) -> bool:
        """Whether any of the pods claims what its queue is promised, so that pods may leave whom a guarantee covers in
        part."""
        whos = (
            self._claimant(one, model, ANY, on_preferred_nodes=False)
            for one in self._unlike(slots)
            for model in self._models_for(int(self._snapshot.pending.shape[one]))
        )
        return any(who.entitled >= 0 or self._combined(who) is not None for who in whos)

    def leaving(self) -> Leaving:
        """What will be free once all that leaves by now is gone, less what is claimed there."""
        before = self._snapshot.leaving
        if not self._draft.claims and not self.victims:
            return before
        rows = np.unique(self._gains.touched).astype(np.int32)
        charges = {leaf: amounts.copy() for leaf, amounts in before.charges.items()}
        for victim in self.victims:
            leaf = int(self._snapshot.shapes.leaf[self._snapshot.running.shape[victim]])
            _count(charges, [leaf], self.precedence.amounts[victim])
        gains = self._gains
        return Leaving(rows, gains.free[rows], gains.device[rows], gains.memory[rows], charges)

    def _keep_searches(self) -> None:
        """What is searched for in an attempt does not hold once that is rolled back."""
        self.decision.journal.keep(("preemption", "searches"), lambda: self._forget)

    def _forget(self) -> None:
        self._searches, self._hopeless = {}, {}

    def _copy_leaving(self) -> Restore:
        return partial(setattr, self, "_leaving", dict(self._leaving))

    def _claim(self, slot: int, allowed: Bool | None, terms: Terms, *, on_preferred_nodes: bool) -> bool:
        found = self._cheapest(slot, allowed, terms, on_preferred_nodes=on_preferred_nodes)
        if found is None:
            return False
        if len(self._draft.evict) + len(found[2]) > self._snapshot.evictions:
            self.cut_short = True
            return False
        search, row, victims = found
        for victim in victims:
            self._evict(slot, victim, why(self._snapshot, slot, victim, search))
            self.rights[victim] = search.reason(victim)
        self.reserve(slot, row, victims, owes=search.owes)
        return True

    def _cheapest(
        self, slot: int, allowed: Bool | None, terms: Terms, *, on_preferred_nodes: bool
    ) -> tuple[Search, int, list[int]] | None:
        """(search, node row, everybody who has to leave) of the cheapest evictions after which the pod fits there."""
        shape, rows, fit = int(self._snapshot.pending.shape[slot]), _bytes(allowed), list[_Found]()
        left = _RETRIES
        while (found := self._best(slot, rows, terms, on_preferred_nodes=on_preferred_nodes)) is not None:
            if (whole := self._fitting(shape, found)) is not None:
                fit.append(whole)
                break
            found.search.refuse()
            victims = self.precedence.members(found.victims) if left else []
            here = np.zeros(len(self._snapshot.nodes.present), np.bool_)
            here[found.row] = True
            for spared in to_spare(self.decision, shape, victims, self.precedence.unit):
                left = max(left - 1, 0)
                others = terms._replace(banned=terms.banned | spared)
                other = self._best(slot, _bytes(here), others, on_preferred_nodes=on_preferred_nodes)
                if other is not None and (whole := self._fitting(shape, other)) is not None:
                    fit.append(whole)
                    break
        best = min(fit, key=lambda one: one.cost, default=None)
        return (best.search, best.row, best.victims) if best is not None else None

    def _fitting(self, shape: int, found: _Found) -> _Found | None:
        """The same with everybody who has to leave; None: the pod does not fit then."""
        whole = found._replace(victims=self.precedence.members(found.victims))
        return whole if self._fits(shape, whole.row, whole.victims) else None

    def _fits(self, shape: int, row: int, victims: list[int]) -> bool:
        """Whether rules about other pods and plugins have nothing against the place either."""
        with self.decision.journal.attempt():
            for victim in victims:
                self._gains.add(self._snapshot, victim)
            self.decision.pool.add(row, self._gains.of(row))
            scores, neighbours = self.decision.scores, self.decision.pool.neighbours
            if not scores.fits_on(shape, row):
                return False
            if neighbours.rules(shape) is None:
                return True
            running, names = self._snapshot.running, self._snapshot.nodes.names
            for victim in {*self.victims, *victims}:  # it may be one of them that the pod has to be near
                node = int(running.node[victim])
                neighbours.leave(running.names[victim], names[node], node, int(running.shape[victim]))
            return scores.fits_on(shape, row)

    def take_place_of(self, slot: int, victim: int, reason: str) -> bool:
        """Have a running pod evicted and hold its node for the pod, where it then fits and no limit forbids it."""
        snapshot, running = self._snapshot, self._snapshot.running
        shape, row = int(snapshot.pending.shape[slot]), int(running.node[victim])
        same_leaf = snapshot.shapes.leaf[shape] == snapshot.shapes.leaf[running.shape[victim]]
        gives = self.precedence.amounts[victim] if same_leaf else np.zeros(len(snapshot.queues.columns), np.int64)
        asked = charge_of(snapshot, shape, int(snapshot.nodes.model[row])) - gives
        if (asked > 0).any() and not self._turns.may_use(shape):
            return False
        if len(self._draft.evict) >= snapshot.evictions or not self._fits(shape, row, [victim]):
            return False
        self._evict(slot, victim, reason)
        self.reserve(slot, row, [victim])
        return True

    def _evict(self, slot: int, victim: int, reason: str) -> None:
        snapshot, running = self._snapshot, self._snapshot.running
        node, claimant = snapshot.nodes.names[int(running.node[victim])], snapshot.pending.names[slot]
        self.decision.journal.keep(("preemption", "leaving"), self._copy_leaving)
        evict = Evict(running.names[victim], node, claimant, reason)
        self._draft.add_evictions((evict,))
        self._gains.add(snapshot, victim)
        self.precedence.leave(victim)
        self.decision.journal.keep(
            ("preemption", "victims"), lambda: partial(setattr, self, "victims", [*self.victims])
        )
        self.victims.append(victim)
        leaf = int(snapshot.shapes.leaf[running.shape[victim]])
        _count(self._leaving, self.precedence.path(leaf), self.precedence.amounts[victim])

    def _best(self, slot: int, allowed: bytes, terms: Terms, *, on_preferred_nodes: bool) -> _Found | None:
        """The cheapest evictions for the pod. Only where none help does it claim what it is promised once pods of its
        own queue have left too; and last, what is owed to limits, or by its own queue, may come from other nodes."""
        models = self._models_for(int(self._snapshot.pending.shape[slot]))
        mine = (self._claimant(slot, model, terms, on_preferred_nodes=on_preferred_nodes) for model in models)
        whos = [replace(who, allowed=allowed) for who in mine]
        found = self._cheapest_of(whos)
        if found is not None:
            return found
        combined = [both for both in map(self._combined, whos) if both is not None]
        modest = (who for who in combined if who.is_modest(charge_of(self._snapshot, who.shape, who.model)))
        wide = [replace(who, wide=True) for who in (*whos, *modest) if who.owed]
        return self._cheapest_of(combined) or self._cheapest_of(wide)

    def _cheapest_of(self, whos: list[Claimant]) -> _Found | None:
        best: _Found | None = None
        for who in whos:
            search = self._search(who)
            found = search.best()
            if found is not None and (best is None or found[0] < best.cost):
                best = _Found(found[0], search, found[1], found[2])
        return best

    def _models_for(self, shape: int) -> Iterable[int]:
        """Nodes are looked at by GPU model where guarantees, limits or weights are."""
        asks = bool(self._snapshot.shapes.ask_count[shape, 0])
        return range(len(self._snapshot.models)) if self._models and asks else (-1,)

    def _claimant(self, slot: int, model: int, terms: Terms, *, on_preferred_nodes: bool) -> Claimant:
        """The pod as one who claims by what it has a right to as things are."""
        snapshot, pending = self._snapshot, self._snapshot.pending
        shape, guarantee = int(pending.shape[slot]), snapshot.queues.guarantee
        asked, path = charge_of(snapshot, shape, model), self._path(shape)
        together = asked + self._others(asked)
        row = entitled(path, guarantee, self._turns_used, together)
        owed = owed_to_limits(path, snapshot.queues.limit, self._once_gone, asked)
        within = self._turns_used(row) + together <= guarantee[row] if row >= 0 else asked < 0
        return Claimant(
            shape, int(pending.priority[slot]), int(pending.gang[slot]), model, row, tuple(within.tolist()), owed,
            combined=False, on_preferred_nodes=on_preferred_nodes, terms=terms,
        )  # fmt: skip

    def _combined(self, who: Claimant) -> Claimant | None:
        """The same pod as one who is within its promise when lower pods of its own queue leave too; None: it is not."""
        asked, guarantee = charge_of(self._snapshot, who.shape, who.model), self._snapshot.queues.guarantee
        lower = self._lower(who)
        if who.terms.growing or not lower.any():
            return None
        together = asked + self._others(asked)
        row = entitled(self._path(who.shape), guarantee, lambda one: self._turns_used(one) - lower, together)
        if row < 0 or row == who.entitled:
            return None
        after = self._turns_used(row) + asked
        counted = kinds(asked) & (asked > 0) & (guarantee[row] > 0)
        due = np.where(counted, np.maximum(after - guarantee[row], 0), 0).tolist()
        owed = (*who.owed, (row, tuple(due)))
        within = tuple((after + self._others(asked) - lower <= guarantee[row]).tolist())
        return replace(who, entitled=row, within=within, owed=owed, combined=True)

    def _path(self, shape: int) -> list[int]:
        """The queue of a shape and those above it."""
        leaf = int(self._snapshot.shapes.leaf[shape])
        return list(self.precedence.path(int(self._snapshot.queues.parent[leaf]))) if leaf >= 0 else []

    def _others(self, asked: Int64) -> Int64:
        """[X] what members ask for that the gang needs beside one that asks for so much, and that have no place yet."""
        return np.asarray(np.maximum(self._needed - asked, 0), np.int64)

    def _turns_used(self, row: int) -> Int64:
        return np.array(self._turns.used(row), np.int64)

    def _once_gone(self, row: int) -> Int64:
        """[X] what a queue row uses once those who are leaving are gone."""
        found: Int64 = self._turns_used(row) - self._leaving.get(row, 0)
        return found

    def _lower(self, who: Claimant) -> Int64:
        """[X] what pods of a lower rank than the claimant's, which may leave, use in its own queue."""
        snapshot, own = self._snapshot, self._path(who.shape)[:1]
        weight = np.append(snapshot.classes.weight, 0)[snapshot.shapes.priority_class[who.shape]]
        mine = rank(snapshot, np.array([weight], np.int64), np.array([who.priority], np.int64))
        return self.precedence.lower(own[0], mine) if own else np.zeros(len(snapshot.queues.columns), np.int64)

    def _search(self, who: Claimant) -> Search:
        self._keep_searches()
        found = self._searches.get(who)
        if found is None:
            found = self._searches[who] = Search(self.decision, self.precedence, self._tree, self._gains, who)
        found.weigh(self._turns, self._others(charge_of(self._snapshot, who.shape, who.model)))
        return found


def _bytes(allowed: Bool | None) -> bytes:
    return b"" if allowed is None else allowed.tobytes()


def _count(total: dict[int, Int64], rows: Iterable[int], amounts: Int64) -> None:
    for row in rows:
        total[row] = total.get(row, np.zeros_like(amounts)) + amounts
