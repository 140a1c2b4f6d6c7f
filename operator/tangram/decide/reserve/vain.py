"""What is remembered of pods that no words help: they would not fit even once all have ended who say when they end."""

from collections.abc import Hashable

import numpy as np

from tangram.decide.decision import Decision
from tangram.snapshot.arrays import UNLIMITED, Bool, Departures, Int32, Int64


class Vain:
    """Whether equal pods would not fit even then: remembered until more may be free on any node, now or then.

    Only of pods with one ask: of unequal ones it depends on who leaves first.
    """

    def __init__(
        self, decision: Decision, departures: Departures, groups: tuple[tuple[int, int], ...], allowed: Bool | None
    ) -> None:
        """``groups``: (shape, number of pods); ``allowed`` [N]: node rows that may be used, None: all."""
        shapes = decision.snapshot.shapes
        self._decision, self._departures = decision, departures
        self._key: Hashable = groups, b"" if allowed is None else allowed.tobytes()
        self._rules = any(decision.pool.neighbours.rules(shape) is not None for shape, _ in groups)
        self._equal = len(groups) == 1 and not shapes.ask_count[groups[0][0], 1:].any()

    @property
    def is_known(self) -> bool:
        """Whether it has been found, and nothing has happened since that could make it another answer."""
        scores = self._decision.scores
        return self._key in scores.vain and scores.vain[self._key] == self._state()

    def note(self) -> None:
        """It has been found."""
        if self._equal:
            scores = self._decision.scores
            scores.vain[self._key] = self._state()

    def _state(self) -> tuple[int, int, int]:
        """Another value whenever more may be free, now or then, or others are near."""
        neighbours = self._decision.pool.neighbours
        return self._decision.scores.freed, self._promises(), neighbours.version if self._rules else 0

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


def _is_more(now: Int64 | Int32, before: Int64 | Int32) -> bool:
    """Whether anything is more than it was."""
    return bool(np.any(now > before))
