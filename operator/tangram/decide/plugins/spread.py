"""Use the emptiest nodes first: for services that should not share their fate."""

import numpy as np

from tangram.decide.hooks import View
from tangram.decide.jit import kernel
from tangram.snapshot.arrays import Int32, Int64


@kernel
def _emptiness(rows: Int32, free: Int64, capacity: Int64, device_free: Int32, device_count: Int32) -> Int32:
    out = np.zeros(len(rows), np.int32)
    for index in range(len(rows)):
        row = rows[index]
        if device_count[row] > 0:
            left = device_free[row, : device_count[row]].sum() // device_count[row]
            out[index] = min(max(left, 0), 1000)
        else:
            for resource in range(2):
                if capacity[row, resource] > 0:  # what others put there can be more than there is
                    out[index] += 500 * max(free[row, resource], 0) // capacity[row, resource]
    return out


class Spread:
    """Score: how empty the node's GPUs are (CPU and memory on nodes without GPUs); devices: the emptiest."""

    name = "spread"

    def score(self, view: View, shape: int, rows: Int32) -> Int32:
        """1000 for an empty node, 0 for a full one; pods that want no GPU go where no GPUs are."""
        nodes = view.nodes
        emptiness = _emptiness(rows, view.free, nodes.capacity, view.device_free, nodes.device_count)
        if view.shapes.ask_count[shape, 0] == 0:
            return np.where(nodes.device_count[rows] > 0, emptiness // 2, 500 + emptiness // 2).astype(np.int32)
        return emptiness

    def devices(self, view: View, shape: int, row: int) -> Int32:
        """The emptiest devices, lowest index first among equals."""
        count = int(view.nodes.device_count[row])
        order = np.argsort(-view.device_free[row, :count], kind="stable")
        return order[: int(view.shapes.ask_count[shape, 0])].astype(np.int32)
