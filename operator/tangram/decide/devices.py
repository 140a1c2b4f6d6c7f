"""Which devices of a node a pod gets, and the decision in names."""

import numpy as np

from tangram.decide.decision import Decision
from tangram.decide.draft import Placed
from tangram.decide.fit.kernels import WHOLE, memory_of, tightest
from tangram.decide.fit.links import nearest
from tangram.decide.pool import Part
from tangram.plan import Device, DevicesByContainer, Place
from tangram.snapshot.arrays import Int32, Snapshot
from tangram.snapshot.values.asks import Given

Devices = tuple[tuple[int, int, int], ...]
"""(device index, milli, MiB), one entry for each device of each ask, in order of the asks."""


def choose_devices(decision: Decision, shape: int, row: int) -> tuple[Devices, ...]:
    """Devices for each ask of the shape on a node that was found to fit; a plugin's choice holds only if it fits.

    Whole devices are those nearest to each other where it is known how the node's devices are linked, else the first.
    """
    shapes, nodes, pool = decision.snapshot.shapes, decision.snapshot.nodes, decision.pool
    asks = int(np.count_nonzero(shapes.ask_count[shape]))
    if asks == 0:
        return ()
    free, memory_free = pool.device_free[row], pool.device_memory_free[row]
    count, size = int(nodes.device_count[row]), int(nodes.device_memory[row])
    if asks == 1:
        milli, wanted = int(shapes.ask_milli[shape, 0]), int(shapes.ask_count[shape, 0])
        need = memory_of(milli, int(shapes.ask_memory[shape, 0]), size)
        chosen = decision.scores.devices(shape, row)
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


def kept_devices(decision: Decision, slot: int, row: int) -> tuple[Devices, ...] | None:
    """The devices that have been kept for the pod of a slot on a node, by its asks; None: none have, or not all of
    them are free."""
    snapshot, pool = decision.snapshot, decision.pool
    shapes, shape = snapshot.shapes, int(snapshot.pending.shape[slot])
    given = dict(snapshot.pending.kept.get(slot, ()))
    count, size = int(snapshot.nodes.device_count[row]), int(snapshot.nodes.device_memory[row])
    free, memory_free = pool.device_free[row].copy(), pool.device_memory_free[row].copy()
    out: list[Devices] = []
    for ask in range(int(np.count_nonzero(shapes.ask_count[shape]))):
        found = {
            one.first + place: device.index
            for one in shapes.ask_containers[shape]
            if one.ask == ask
            for place, device in enumerate(given.get(one.container, ()))
        }
        devices = list(dict.fromkeys(found[place] for place in sorted(found)))
        milli = int(shapes.ask_milli[shape, ask])
        need = memory_of(milli, int(shapes.ask_memory[shape, ask]), size)
        if len(devices) != shapes.ask_count[shape, ask] or max(devices) >= count:
            return None
        if (free[devices] < milli).any() or (memory_free[devices] < need).any():
            return None
        free[devices] -= milli
        memory_free[devices] -= need
        out.append(tuple((device, milli, need) for device in devices))
    return tuple(out)


def line_places(snapshot: Snapshot, slots: Int32, rows: list[int], devices: list[list[int]]) -> list[Placed]:
    """The decisions about pods with one ask at most; row -1: none. Devices by index, first those chosen."""
    names, nodes, asking = snapshot.pending.names, snapshot.nodes, snapshot.shapes.ask_containers
    shapes = snapshot.pending.shape[slots].tolist()
    return [
        Placed(slot, row, Place(names[slot], nodes.names[row], _parts(asking[shape], nodes.device_ids[row], [given])))
        for slot, shape, row, given in zip(slots.tolist(), shapes, rows, devices, strict=False)
        if row >= 0
    ]


def place_of(snapshot: Snapshot, slot: int, row: int, devices: tuple[Devices, ...]) -> Place:
    """The decision in names: the pod of a slot on a node row, with devices for each ask."""
    shape, nodes, gang = int(snapshot.pending.shape[slot]), snapshot.nodes, int(snapshot.pending.gang[slot])
    given = [[index for index, _, _ in ask] for ask in devices]
    parts = _parts(snapshot.shapes.ask_containers[shape], nodes.device_ids[row], given)
    return Place(snapshot.pending.names[slot], nodes.names[row], parts, snapshot.gangs.names[gang] if gang >= 0 else "")


def _parts(asking: tuple[Given, ...], ids: tuple[str, ...], given: list[list[int]]) -> DevicesByContainer:
    """The containers' parts of the devices that each ask was given."""
    found = []
    for one in asking:
        part, first, indices = one.part, one.first, given[one.ask]
        devices: tuple[Device, ...] = (Device(ids[indices[first]], indices[first], part.milli, part.memory),)
        if part.count > 1:
            some = indices[first : first + part.count]
            devices = tuple([Device(ids[index], index, part.milli, part.memory) for index in some])
        found.append((one.container, devices))
    return tuple(found)


def parts_of(snapshot: Snapshot, slot: int, row: int, by_container: DevicesByContainer) -> list[Part]:
    """The parts of devices of a node that a pod holds by a decision: containers may hand the devices of one ask on."""
    shapes, shape = snapshot.shapes, int(snapshot.pending.shape[slot])
    size, found = int(snapshot.nodes.device_memory[row]), dict[tuple[int, int], Part]()
    for given, (_, devices) in zip(shapes.ask_containers[shape], by_container, strict=False):
        milli = int(shapes.ask_milli[shape, given.ask])
        need = memory_of(milli, int(shapes.ask_memory[shape, given.ask]), size)
        found |= {(given.ask, device.index): (device.index, milli, need) for device in devices}
    return list(found.values())
