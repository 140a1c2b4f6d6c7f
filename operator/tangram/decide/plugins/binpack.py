"""Fill the fullest nodes first, GPUs before anything else."""

import numpy as np

from tangram.decide.hooks import View
from tangram.decide.jit import kernel
from tangram.snapshot.arrays import Int32, Int64


@kernel
def _fullness(rows: Int32, free: Int64, capacity: Int64, device_free: Int32, device_count: Int32) -> Int32:
    out = np.zeros(len(rows), np.int32)
    for index in range(len(rows)):
        row = rows[index]
        if device_count[row] > 0:
            left = device_free[row, : device_count[row]].sum() // device_count[row]
            out[index] = min(max(1000 - left, 0), 1000)
        else:
            used = 0
            for resource in range(2):
                if capacity[row, resource] > 0:
                    left = max(free[row, resource], 0)  # what others put there can be more than there is
                    used += 500 * (capacity[row, resource] - left) // capacity[row, resource]
            out[index] = used
    return out


class Binpack:
    """Score: how full the node's GPUs are (CPU and memory on nodes without GPUs)."""

    name = "binpack"

    def score(self, view: View, shape: int, rows: Int32) -> Int32:
        """1000 for a full node, 0 for an empty one; pods that want no GPU go where no GPUs are."""
        nodes = view.nodes
        fullness = _fullness(rows, view.free, nodes.capacity, view.device_free, nodes.device_count)
        if view.shapes.ask_count[shape, 0] == 0:
            return np.where(nodes.device_count[rows] > 0, fullness // 2, 500 + fullness // 2).astype(np.int32)
        return fullness
