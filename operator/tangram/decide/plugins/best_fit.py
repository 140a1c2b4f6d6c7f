"""Use the node where least is left: best fit over several resources, as compared in the work named below.

"Beware of Fragmentation" (USENIX ATC 2023) weighs CPU and GPU by one half each, both in parts of the largest node.
"""

import numpy as np

from tangram.decide.hooks import View
from tangram.snapshot.arrays import CPU, Int32


class BestFit:
    """Score: how little CPU and GPU the node has left once the pod is there."""

    name = "best-fit"

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
        left = 0.5 * (view.free[rows, CPU] - int(shapes.request[shape, CPU])) / cpu
        left += 0.5 * (view.device_free[rows].sum(axis=1) - asked) / gpu
        steps: Int32 = (100 * np.clip(1 - left, 0, 1)).astype(np.int32)
        return 10 * steps
