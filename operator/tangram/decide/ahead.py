"""A decision that places nobody whom the next ones would evict at once: made, looked at, and made again.

How many decisions that takes is bounded by what one costs: by pods, nodes, and how often victims are looked for.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, TypeAlias

import numpy as np

from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.decide.foresight import Yielding
from tangram.decide.memory import Memory
from tangram.decide.preempt.order import may_stand_above
from tangram.decide.preempt.preemption import Preemption
from tangram.snapshot.arrays import Snapshot
from tangram.snapshot.values.levels import Topology

_MOST_AHEAD, _LEAST_AHEAD = 64, 4
"""How often a decision is made ahead, or made again, at most in one cycle: as often as what it costs allows."""
_PAIRS_AHEAD = 2_000_000
"""Pairs of a waiting pod and a node that decisions ahead may look at in one cycle, about a microsecond each."""
_PAIRS_A_SEARCH, _PAIRS_A_NODE = 250, 12
"""What it costs to look for victims for lone pods of one request: at least, and for each node with some to leave."""
_PAIRS_A_GANG, _PAIRS_A_DOMAIN, _TIMES_A_NODE = 2000, 500, 2
"""The same for members of a gang of one request: at least, for each further domain in which they may be made room, and
how often as much as for a lone pod for each node."""
_MOST_DOMAINS = 64
"""Domains that are counted of those in which a gang may be made room."""


class Made(NamedTuple):
    """A decision that has been made, but for the reasons why pods wait."""

    preemption: Preemption
    full: bool
    """A whole batch was placed, or evicted, before everybody had had a turn."""
    again: bool
    """Whether another one at once may place more."""
    asked: bool
    """Whether anybody had a turn."""


Make: TypeAlias = Callable[[Snapshot, Memory], Made]
"""Makes one decision, without regard to the next."""


def with_foresight(snapshot: Snapshot, memory: Memory, make: Make) -> tuple[Made, Yielding]:
    """A decision that places nobody whom the next ones would evict at once, and who gives way in it.

    First it is found who would be evicted, then who of these gives way in vain. Who does, and would be evicted all the
    same, is placed, and all begins anew. Where any of it takes too long nobody gives way: who did, without it being
    known for whose good, could wait for ever.
    """
    made = make(snapshot, memory)
    attempts = _Attempts(snapshot, memory, make, _Budget(made.preemption.decision))
    yielding = Yielding.nobody_yet(snapshot)
    while True:
        made = attempts.until_nobody_is_evicted(made, yielding)
        if not yielding.evictions:
            return made, yielding
        made, yielding = attempts.without_the_vain(made, yielding)
        untied = attempts.untied(made, yielding)
        if attempts.budget.exceeded:
            return make(snapshot, memory), Yielding()
        if untied is None:
            return made, yielding
        yielding, made = untied, make(snapshot, memory)


@dataclass(frozen=True, slots=True)
class _Attempts:
    """Decisions made of one snapshot, and of what will be true after them."""

    snapshot: Snapshot
    memory: Memory
    make: Make
    budget: "_Budget"

    def until_nobody_is_evicted(self, made: Made, yielding: Yielding) -> Made:
        """The decision in which all give way who would be evicted; they are noted in ``yielding``."""
        while yielding.learn(made.preemption, self._ahead):
            self.budget.take()
            made = self._of(yielding)
        return made

    def without_the_vain(self, made: Made, yielding: Yielding) -> tuple[Made, Yielding]:
        """The same decision, but nobody gives way for nobody's good who would not be evicted."""
        self.budget.renew()
        while not self.budget.exceeded and not made.full and (vain := yielding.in_vain(made.preemption)):
            self.budget.take()
            if yielding.would_be_left_out(vain, made.preemption, self._ahead):
                yielding.keep(vain)
                continue
            better = self._without_any(yielding, vain)
            if better is None:
                yielding.keep(vain)
            else:
                yielding, made = better
        if yielding.needed and not self.budget.exceeded:
            made = self._of(yielding)  # what has been tried since was tried in the same pool
        return made, yielding

    def _without_any(self, yielding: Yielding, slots: set[int]) -> tuple[Yielding, Made] | None:
        """Let all of these give way no longer; or else some of them who belong together and keep their places then,
        though others give way instead; None: those whom that concerned would be evicted each time."""
        for part in yielding.parts(self.snapshot, slots):
            tried = yielding.without(part)
            made = self._of(tried)
            if part == slots:
                if not tried.learn(made.preemption, self._ahead):
                    return tried, made
                continue
            made = self.until_nobody_is_evicted(made, tried)
            if self.budget.exceeded:
                return None
            if part.isdisjoint(tried.evictions) and part <= {one.slot for one in made.preemption.decision.draft.placed}:
                return tried, made
        return None

    def untied(self, made: Made, yielding: Yielding) -> Yielding | None:
        """To begin anew with, where some give way for nobody's good though they would be evicted; None: none do, or
        that cannot be found out."""
        known = made.full or not yielding.needed or self.budget.exceeded
        return None if known else yielding.untied(made.preemption, self._ahead)

    def _of(self, yielding: Yielding) -> Made:
        return self.make(yielding.applied(self.snapshot), self.memory)

    def _ahead(self, following: Snapshot) -> Preemption | None:
        return self.make(following, self.memory.ahead).preemption if self.budget.take() else None


class _Budget:
    """How many more decisions may be made ahead, or made again, in one cycle."""

    def __init__(self, decision: Decision) -> None:
        """``decision``: the first of the cycle. Only once somebody asks is it found out how large the pool is: in most
        cycles nobody does."""
        self._decision, self._renewed = decision, False

    @cached_property
    def _most(self) -> int:
        return _decisions_ahead(self._decision)

    @cached_property
    def _left(self) -> int:
        return self._most

    @property
    def exceeded(self) -> bool:
        """Whether one more was taken than may be."""
        return self._left < 0

    def take(self) -> bool:
        """Take one; whether there was one left."""
        self._left -= 1
        return self._left >= 0

    def renew(self) -> None:
        """Begin anew, once a cycle, unless too many have been taken already."""
        if self._left >= 0 and not self._renewed:
            self._left, self._renewed = self._most, True


def _decisions_ahead(decision: Decision) -> int:
    """How often, after a decision, others may be made ahead, or again: one of many pods and nodes takes long, and a
    cycle must not take longer than a Lease is held. Nodes that are not for a pod, be they empty, cost nothing."""
    snapshot, scores = decision.snapshot, decision.scores
    shapes, counts = np.unique(snapshot.pending.shape[snapshot.pending.waiting], return_counts=True)
    pairs = len(shapes) * int(np.count_nonzero(snapshot.nodes.present))
    if pairs <= _PAIRS_AHEAD:
        each = zip(shapes.tolist(), np.minimum(counts, snapshot.batch).tolist(), strict=True)
        pairs = sum(count * int(np.count_nonzero(scores.statics(shape) == codes.FITS)) for shape, count in each)
    pairs, searched = max(pairs, len(shapes) * _PAIRS_A_SEARCH), _searched(snapshot)
    fewest = min(_LEAST_AHEAD, _PAIRS_AHEAD // max(searched, 1))
    return min(_MOST_AHEAD, max(fewest, _PAIRS_AHEAD // max(pairs + searched, 1)))


def _searched(snapshot: Snapshot) -> int:
    """What it costs to look for victims for those that wait and may have a right to any, in pairs: for each request of
    lone pods, and of each gang, in every domain that it may be made room in, and on every node there."""
    pending, running, topology = snapshot.pending, snapshot.running, snapshot.topology
    slots = np.flatnonzero(pending.waiting).astype(np.int32)
    slots = slots[may_stand_above(snapshot, slots)]
    if not len(slots):
        return 0
    nodes = len(np.unique(running.node[running.present & running.evictable]))
    kinds = np.unique(np.stack([pending.gang[slots], pending.shape[slots]]), axis=1)
    gangs, counts = np.unique(kinds[0], return_counts=True)
    further = np.array([_domains(topology, gang) - 1 for gang in gangs.tolist()])
    of_gang = _PAIRS_A_GANG + further * _PAIRS_A_DOMAIN + nodes * _PAIRS_A_NODE * _TIMES_A_NODE
    return int((counts * np.where(gangs >= 0, of_gang, _PAIRS_A_SEARCH + nodes * _PAIRS_A_NODE)).sum())


def _domains(topology: Topology, gang: int) -> int:
    """How many domains a gang may be made room in, one after the other."""
    level = topology.required.get(gang)
    if level is not None:
        return min(_MOST_DOMAINS, max(1, len(topology.names[level])))
    return _MOST_DOMAINS if gang in topology.shared else 1
