"""Room for what is worked out for shapes on every node row: for those that are asked about, not for all there were."""

import numpy as np

from tangram.snapshot.arrays import Bool, Int32, Int64

KEPT = 512
"""Shapes that keep their row though no pod waits with them, as more pods of them may come: those asked about last."""
_FEWEST = 32


class ScoreRows:
    """A row is a shape's from when it is asked about until no pod waits with it and ``KEPT`` others were asked about
    later."""

    def __init__(self, nodes: int) -> None:
        self.of: Int32 = np.zeros(0, np.int32)
        """[S] the shape's row below; -1: it has none."""
        self.score = np.zeros((0, nodes), np.int32)
        """[K, N] -1 where the shape does not fit."""
        self.code = np.zeros((0, nodes), np.int8)
        """[K, N] reason codes."""
        self.statics = np.zeros((0, nodes), np.int8)
        """[K, N] reason codes from labels, taints and models."""
        self._free: list[int] = []

    def add_shapes(self, more: int) -> None:
        """Know of so many more shapes."""
        self.of = np.concatenate([self.of, np.full(more, -1, np.int32)])

    def take(self, shape: int) -> int:
        """The shape's row; what is in a new one is left from another shape."""
        row = int(self.of[shape])
        if row < 0:
            if not self._free:
                self._resize(max(_FEWEST, 2 * len(self.score)))
            row = self.of[shape] = self._free.pop()
        return row

    @property
    def crowded(self) -> bool:
        """Whether more shapes have a row than keep theirs without pods that wait."""
        return len(self.score) - len(self._free) > KEPT

    def give_back(self, waits: Bool, asked: Int64) -> Int32:
        """Take the rows of shapes that need none any more; these shapes. ``waits`` [S]: a pod waits with the shape;
        ``asked`` [S]: larger the later it was asked about."""
        idle = np.flatnonzero((self.of >= 0) & ~waits).astype(np.int32)
        gone = idle[np.argsort(-asked[idle], kind="stable")[KEPT:]]
        self._free += self.of[gone].tolist()
        self.of[gone] = -1
        used = len(self.score) - len(self._free)
        if 4 * max(used, KEPT) < len(self.score):
            self._resize(2 * used)
        return gone

    def _resize(self, rows: int) -> None:
        """Have so many rows, the used ones first."""
        shapes = np.flatnonzero(self.of >= 0)
        used, held = len(shapes), self.of[shapes]
        for name in ("score", "code", "statics"):
            old = getattr(self, name)
            new = np.empty((rows, old.shape[1]), old.dtype)
            new[:used] = old[held]
            setattr(self, name, new)
        self.of[shapes] = np.arange(used, dtype=np.int32)
        self._free = list(range(rows - 1, used - 1, -1))
