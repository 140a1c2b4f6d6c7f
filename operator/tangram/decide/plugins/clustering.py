"""Keep pods that ask for GPUs in the same way together, so that the others find nodes without leftovers.

GPU clustering as compared in "Beware of Fragmentation" (USENIX ATC 2023), after the affinity of Gandiva (Xiao et al.,
OSDI 2018). Pods in part of a GPU and pods with whole GPUs differ in the extended resource that they hold; how
many whole GPUs a pod on a node holds is not in a snapshot, so pods of one and of several GPUs count as alike here.
"""

import numpy as np

from tangram.decide.hooks import View
from tangram.snapshot.arrays import FIXED_RESOURCES, Int32

_FIRST = len(FIXED_RESOURCES)


class GpuClustering:
    """Score: from 750 among only its like, 500 among others too, 250 on idle nodes, else from 0; fuller ones higher."""

    name = "gpu-clustering"

    def score(self, view: View, shape: int, rows: Int32) -> Int32:
        """0 to 1000 in steps of 10, the fuller the higher within each band; 0 everywhere for pods without GPUs."""
        if not view.shapes.ask_count[shape, 0]:
            return np.zeros(len(rows), np.int32)
        held = view.nodes.capacity[rows, _FIRST:] > view.free[rows, _FIRST:]
        alike = view.shapes.request[shape, _FIRST:] > 0
        with_like, with_other = held[:, alike].any(axis=1), held[:, ~alike].any(axis=1)
        band = np.where(with_like, np.where(with_other, 50, 75), np.where(with_other, 0, 25))
        most = 1000 * view.device_free.shape[1]
        used = most - view.device_free[rows].sum(axis=1, dtype=np.int64)
        score: Int32 = (10 * (band + 25 * np.clip(used, 0, most) // most)).astype(np.int32)
        return score
