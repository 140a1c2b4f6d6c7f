"""A pod without GPUs must leave CPUs beside idle GPUs, or no training can start there."""

import numpy as np

from tangram.decide.hooks import View
from tangram.snapshot.arrays import CPU, Bool, Int32


class GpuReserve:
    """Keep half of the CPUs that belong to each idle GPU for pods with GPUs."""

    name = "gpu-reserve"

    def allow(self, view: View, shape: int, rows: Int32) -> Bool:
        """Pods with GPUs: everywhere. Others: where the reserve is left once the pod is there."""
        nodes, shapes = view.nodes, view.shapes
        if shapes.ask_count[shape].any():
            return np.ones(len(rows), np.bool_)
        idle = (view.device_free[rows] == 1000).sum(axis=1)
        reserve = nodes.capacity[rows, CPU] * idle // np.maximum(nodes.device_count[rows], 1) // 2
        return view.free[rows, CPU] - shapes.request[shape, CPU] >= reserve
