"""Use the nodes whose free space, weighted by what the pod asks for, is least.

The alignment of demand and free space follows Tetris (Grandl et al., SIGCOMM 2014), turned round as the comparison of
"Beware of Fragmentation" (USENIX ATC 2023) does: there the best-aligned node is the emptiest and goes last.
"""

import numpy as np

from tangram.decide.hooks import View
from tangram.snapshot.arrays import CPU, Int32


class DotProduct:
    """Score: how small the dot product of (CPU, GPU) asked for and left is, both in parts of the largest node."""

    name = "dot-product"

    def __init__(self) -> None:
        self._largest = (0, 0)

    def prepare(self, view: View) -> bool:
        """Look how large the largest node is."""
        before = self._largest
        self._largest = (int(view.nodes.capacity[:, CPU].max(initial=1)), 1000 * max(1, view.device_free.shape[1]))
        return self._largest != before

    def score(self, view: View, shape: int, rows: Int32) -> Int32:
        """0 to 1000 in steps of 10, as published: near-equal nodes tie."""
        (cpu, gpu), shapes = self._largest, view.shapes
        asked = shapes.gpu_milli(shape)
        product = view.free[rows, CPU] / cpu * (int(shapes.request[shape, CPU]) / cpu)
        product += view.device_free[rows].sum(axis=1) / gpu * (asked / gpu)
        steps: Int32 = (100 * np.clip(1 - product / 2, 0, 1)).astype(np.int32)
        return 10 * steps
