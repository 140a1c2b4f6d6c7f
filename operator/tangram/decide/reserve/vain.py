"""What is remembered of pods that no words help: they would not fit even once all have ended who say when they end."""

from collections.abc import Hashable, Sequence

import numpy as np

from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.decide.fit.kernels import Space, asked_by
from tangram.decide.fit.upper_bounds import Group, most_together
from tangram.snapshot.arrays import STRICT, UNLIMITED, Bool, Departures, Int32, Int64


class Vain:
    """Whether pods would not fit even then: remembered until more may be free on any node, now or then.

    What a quick test says of any pods is remembered, and what is found by letting one after the other leave only of
    equal ones with one ask: of others it depends on who leaves first.
    """

    def __init__(self, decision: Decision, departures: Departures, groups: Sequence[Group]) -> None:
        shapes = decision.snapshot.shapes
        self._decision, self._departures = decision, departures
        self._groups = groups
        self._key: Hashable = tuple((shape, number, rows.tobytes()) for shape, number, rows in groups)
        self._rules = any(decision.pool.neighbours.rules(one.shape) is not None for one in groups)
        self._equal = len(groups) == 1 and not shapes.ask_count[groups[0].shape, 1:].any()

    def is_known(self) -> bool:
        """Whether it has been found, and nothing has happened since that could make it another answer; or a quick test
        says so, whoever they have to be near."""
        scores, state = self._decision.scores, self._state()
        if scores.vain.get(self._key) == state:
            return True
        found = self._is_too_little()
        if found:
            scores.vain[self._key] = state
        return found

    def note(self) -> None:
        """It has been found."""
        if self._equal:
            scores = self._decision.scores
            scores.vain[self._key] = self._state()

    def _state(self) -> tuple[int, int, int]:
        """Another value whenever more may be free, now or then, or others are near."""
        neighbours = self._decision.pool.neighbours
        return self._decision.scores.freed, self._promises(), neighbours.version if self._rules else 0

    def _is_too_little(self) -> bool:
        """Whether nodes hold too little, even where each group had them to itself, once all have ended who say when."""
        decision, shapes = self._decision, self._decision.snapshot.shapes
        promised, nodes = decision.scores.promised, decision.snapshot.nodes
        assert promised is not None
        groups = [Group(shape, count, rows_for(decision, shape, rows)) for shape, count, rows in self._groups]
        space = Space(*promised, nodes.device_count, nodes.device_memory)
        held, left = most_together(groups, asked_by(shapes, nodes.counts_devices), space)
        wanted = sum(one.number * shapes.gpu_milli(one.shape) for one in groups)
        return wanted > left or any(there < one.number for one, there in zip(groups, held, strict=True))

    def _promises(self) -> int:
        """``Scores.promises`` as of now."""
        decision, left = self._decision, self._departures
        scores, pool, snapshot = decision.scores, decision.pool, decision.snapshot
        known = scores.promised_of
        if known is not None and known[0] is snapshot and known[1] == pool.version:
            return scores.promises
        slots = np.flatnonzero(left.present & (left.ends < UNLIMITED))
        rows, width = left.node[slots], min(left.milli.shape[1], pool.device_free.shape[1])
        now = pool.free.copy(), pool.device_free.copy(), pool.device_memory_free.copy()
        np.add.at(now[0], rows, snapshot.shapes.request[left.shape[slots]])
        np.add.at(now[1][:, :width], rows, left.milli[slots, :width])
        np.add.at(now[2][:, :width], rows, left.memory[slots, :width])
        before = scores.promised
        if before is None or any(_is_more(now[part], before[part]) for part in range(len(now))):
            scores.promises += 1
        scores.promised, scores.promised_of = now, (snapshot, pool.version)
        return scores.promises


def rows_for(decision: Decision, shape: int, allowed: Bool | None) -> Bool:
    """[N] rows that the shape may use as far as labels, taints, models, its class and limits (``allowed``) go."""
    snapshot, scores = decision.snapshot, decision.scores
    rows = snapshot.nodes.present & (scores.statics(shape) == codes.FITS)
    if snapshot.classes.fallback == STRICT and scores.has_class_nodes(shape):
        rows &= scores.preferred(shape)
    return np.asarray(rows if allowed is None else rows & allowed, np.bool_)


def _is_more(now: Int64 | Int32, before: Int64 | Int32) -> bool:
    """Whether anything is more than it was."""
    return bool(np.any(now > before))
