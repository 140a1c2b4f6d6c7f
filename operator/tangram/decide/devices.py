"""Which devices of a node a pod gets, and the decision in names."""

from collections.abc import Iterator

import numpy as np

from tangram.decide.kernels import WHOLE, memory_of, tightest
from tangram.decide.links import nearest
from tangram.decide.memory import Memory
from tangram.plan import Device, Place
from tangram.snapshot.arrays import Int32, Snapshot

Devices = tuple[tuple[int, int, int], ...]
"""(device index, milli, MiB), one entry for each device of each ask, in order of the asks."""


def choose_devices(memory: Memory, shape: int, row: int) -> tuple[Devices, ...]:
    """Devices for each ask of the shape on a node that was found to fit; a plugin's choice holds only if it fits.

    Whole devices are those nearest to each other where it is known how the node's devices are linked, else the first.
    """
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
    for ask in np.argsort(-shapes.ask_milli[shape, :asks], kind="stable").tolist():
        milli = int(shapes.ask_milli[shape, ask])
        need = memory_of(milli, int(shapes.ask_memory[shape, ask]), size)
        wanted, links = int(shapes.ask_count[shape, ask]), nodes.links[row]
        if milli < WHOLE:
            given = [tightest(free, memory_free, count, milli, need)]  # an ask for a part is for one device
        else:
            able = np.flatnonzero((free[:count] >= milli) & (memory_free[:count] >= need)).astype(np.int32)
            given = (able[:wanted] if links is None else nearest(links, able, wanted)).tolist()
        free[given] -= milli
        memory_free[given] -= need
        out[ask] = tuple((device, milli, need) for device in given)
    return tuple(out)


def line_decisions(snapshot: Snapshot, slots: Int32, rows: list[int], devices: list[list[int]]) -> Iterator[Place]:
    """The decisions in names about pods with one ask at most; row -1: none. Devices by index, -1 after the last."""
    names, nodes, shapes = snapshot.pending.names, snapshot.nodes, snapshot.shapes
    shape = snapshot.pending.shape[slots]
    columns = (slots, shape, shapes.ask_count[shape, 0], shapes.ask_milli[shape, 0], shapes.ask_memory[shape, 0])
    asks = zip(*(column.tolist() for column in columns), strict=True)
    for (slot, one, count, milli, memory), row, given in zip(asks, rows, devices, strict=False):
        if row < 0:
            continue
        containers = shapes.ask_containers[one]
        if not containers:
            yield Place(names[slot], nodes.names[row])
            continue
        ids = nodes.device_ids[row]
        shares = tuple([Device(ids[index], index, milli, memory) for index in given[:count]])
        yield Place(names[slot], nodes.names[row], tuple([(name, shares) for name, _ in containers]))


def decision(snapshot: Snapshot, slot: int, row: int, devices: tuple[Devices, ...]) -> Place:
    """The decision in names: the pod of a slot on a node row, with devices for each ask."""
    shape, nodes, gang = int(snapshot.pending.shape[slot]), snapshot.nodes, int(snapshot.pending.gang[slot])
    ids, asked = nodes.device_ids[row], snapshot.shapes.ask_memory[shape]
    given = [
        tuple(Device(ids[index], index, milli, mib if asked[ask] else 0) for index, milli, mib in devices[ask])
        for ask in range(len(devices))
    ]
    named = tuple((container, given[ask]) for container, ask in snapshot.shapes.ask_containers[shape])
    return Place(snapshot.pending.names[slot], nodes.names[row], named, snapshot.gangs.names[gang] if gang >= 0 else "")
