"""Which devices of a node a pod gets."""

import numpy as np

from tangram.decide.kernels import memory_of, tightest
from tangram.decide.memory import Memory

Devices = tuple[tuple[int, int, int], ...]
"""(device index, milli, MiB), one entry for each device of each ask, in order of the asks."""


def choose_devices(memory: Memory, shape: int, row: int) -> tuple[Devices, ...]:
    """Devices for each ask of the shape on a node that was found to fit; a plugin's choice holds only if it fits."""
    shapes, nodes = memory.view.shapes, memory.view.nodes
    asks = int(np.count_nonzero(shapes.ask_count[shape]))
    if asks == 0:
        return ()
    free, memory_free = memory.device_free[row], memory.device_memory_free[row]
    count, size = int(nodes.device_count[row]), int(nodes.device_memory[row])
    if asks == 1:
        milli, wanted = int(shapes.ask_milli[shape, 0]), int(shapes.ask_count[shape, 0])
        need = memory_of(milli, int(shapes.ask_memory[shape, 0]), size)
        chosen = memory.devices(shape, row)
        if chosen is not None:
            devices = chosen.tolist()
            if len(devices) == len(set(devices)) == wanted and all(
                0 <= device < count and free[device] >= milli and memory_free[device] >= need for device in devices
            ):
                return (tuple((device, milli, need) for device in sorted(devices)),)
    free, memory_free = free.copy(), memory_free.copy()
    out: list[Devices] = [()] * asks
    for ask in np.argsort(-shapes.ask_milli[shape, :asks]).tolist():
        milli = int(shapes.ask_milli[shape, ask])
        need = memory_of(milli, int(shapes.ask_memory[shape, ask]), size)
        given = []
        for _ in range(int(shapes.ask_count[shape, ask])):
            device = tightest(free, memory_free, count, milli, need)
            free[device] -= milli
            memory_free[device] -= need
            given.append((device, milli, need))
        out[ask] = tuple(sorted(given))
    return tuple(out)
