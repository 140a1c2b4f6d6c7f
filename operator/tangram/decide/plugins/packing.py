"""Use shared GPUs before idle ones, and idle GPUs of used nodes before those of idle nodes.

GPU packing as compared in "Beware of Fragmentation" (USENIX ATC 2023).
"""

import numpy as np

from tangram.decide.hooks import View
from tangram.snapshot.arrays import Int32


class GpuPacking:
    """Score: 50 to 100 on used GPUs, 33 to 50 with idle GPUs of used nodes, below on idle nodes; all times ten."""

    name = "gpu-packing"

    def score(self, view: View, shape: int, rows: Int32) -> Int32:
        """0 to 1000 in steps of 10; 0 everywhere for pods without GPUs."""
        shapes, free = view.shapes, view.device_free[rows]
        count, milli = int(shapes.ask_count[shape].sum()), int(shapes.ask_milli[shape].max())
        if not count:
            return np.zeros(len(rows), np.int32)
        idle = (free >= 1000).sum(axis=1)
        # The fullest devices that have room, as many as the pod wants; 2000 stands for "no such device".
        taken = np.sort(np.where(free >= milli, free, 2000), axis=1)[:, :count]
        opened = (taken >= 1000).sum(axis=1)
        on_used_gpus = np.maximum(100 - taken.sum(axis=1) // 100, 50)
        on_used_node = np.maximum(50 - opened, 33)
        on_idle_node = np.maximum(33 - idle, np.minimum(idle, 33))
        on_used = np.where(opened > 0, on_used_node, on_used_gpus)
        everywhere = np.where(idle == view.nodes.device_count[rows], on_idle_node, on_used)
        score: Int32 = (10 * everywhere).astype(np.int32)
        return score
