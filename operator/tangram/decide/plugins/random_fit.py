"""Use a node by lot: the yardstick that every other policy has to beat."""

import numpy as np
import numpy.typing as npt

from tangram.decide.hooks import View
from tangram.snapshot.arrays import CPU, MEMORY, Int32

Word = npt.NDArray[np.uint64]


def _mixed(words: Word) -> Word:
    """Spread every bit over all bits (the finalizer of SplitMix64: Steele, Lea and Flood, OOPSLA 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


class RandomFit:
    """Score: a fixed hash of the shape, the node and how full it is, so that equal pools have equal answers."""

    name = "random"

    def score(self, view: View, shape: int, rows: Int32) -> Int32:
        """0 to 1000, every number as likely as the other."""
        shapes = view.shapes
        words = view.nodes.tie_rank[rows].astype(np.uint64)
        for number in (*shapes.request[shape, [CPU, MEMORY]], shapes.gpu_milli(shape)):
            words = _mixed(words + np.uint64(number))
        words = _mixed(words + view.free[rows, CPU].astype(np.uint64))
        return (words % np.uint64(1001)).astype(np.int32)

    def devices(self, view: View, shape: int, row: int) -> Int32:
        """Any devices with room."""
        count, milli = int(view.shapes.ask_count[shape, 0]), int(view.shapes.ask_milli[shape, 0])
        fitting = np.flatnonzero(view.device_free[row] >= milli)
        words = (fitting + 1).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        turn = np.argsort(_mixed(words + view.free[row, CPU].astype(np.uint64)), kind="stable")
        return fitting[turn][:count].astype(np.int32)
