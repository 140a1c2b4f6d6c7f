"""``decide(snapshot, memory) -> Plan``: order the queue, place what fits, say why the rest waits."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tangram.decide import codes, reasons, reclaim
from tangram.decide.devices import choose_devices
from tangram.decide.draft import Draft
from tangram.decide.kernels import best_row
from tangram.decide.memory import Memory
from tangram.plan import Device, Place, Plan
from tangram.snapshot.arrays import PREEMPT, STRICT, Int32, Snapshot


def decide(snapshot: Snapshot, memory: Memory | None = None) -> Plan:
    """The plan for what is true now. Pure: the same snapshot gives the same plan, with or without ``memory``."""
    memory = memory or Memory()
    memory.observe(snapshot)
    draft = Draft()
    _place_all(snapshot, memory, draft, in_order(snapshot, memory))
    draft.hold.extend(reasons.holds(snapshot, memory, draft.gang_codes))
    faults = tuple(f"{name}: {text}" for name, text in sorted(memory.faults.items()))
    return Plan(tuple(draft.place), tuple(draft.evict), tuple(draft.hold), faults)


def in_order(snapshot: Snapshot, memory: Memory) -> Int32:
    """Slots of waiting pods that may fit, first come first: plugin's order, then priority, age, name."""
    pending = snapshot.pending
    slots = np.flatnonzero(pending.waiting).astype(np.int32)
    if not len(slots):
        return slots
    slots = slots[~memory.dead_shapes()[pending.shape[slots]] | (pending.gang[slots] >= 0)]
    keys: list[npt.NDArray[Any]] = [pending.tie[slots], pending.created[slots], -pending.priority[slots]]
    first = memory.order(slots)
    if first is not None:
        keys.append(first)
    ordered: Int32 = slots[np.lexsort(keys)]
    return ordered


def _place_all(snapshot: Snapshot, memory: Memory, draft: Draft, slots: Int32) -> None:
    pending, seen_gangs = snapshot.pending, set[int]()
    shapes, gangs = pending.shape[slots].tolist(), pending.gang[slots].tolist()
    for position, slot in enumerate(slots.tolist()):
        if len(draft.place) >= snapshot.batch:
            return
        gang, shape = gangs[position], shapes[position]
        if gang < 0:
            if memory.is_dead(shape):
                continue
            found = choose(memory, shape)
            if found is None:
                reclaim.make_room(snapshot, memory, draft, slot)
            else:
                commit(snapshot, memory, draft.place, slot, found)
        elif gang not in seen_gangs:
            seen_gangs.add(gang)
            members = [slots[index] for index in range(position, len(gangs)) if gangs[index] == gang]
            code = _place_gang(snapshot, memory, draft, gang, members)
            if code != codes.FITS:
                draft.gang_codes[gang] = code


def choose(memory: Memory, shape: int) -> int | None:
    """The best node row for the shape under its class's fallback strategy; None when it has to wait."""
    liked, any_row = best_row(memory.scores(shape), memory.view.nodes.tie_rank, memory.preferred(shape))
    if liked >= 0:
        return liked
    if any_row < 0:
        memory.set_dead(shape)
        return None
    fallback = memory.view.snapshot.classes.fallback
    if fallback == STRICT and memory.has_class_nodes(shape):
        memory.set_dead(shape)
        return None
    if fallback == PREEMPT and memory.has_class_nodes(shape) and reclaim.could_help(memory, shape):
        return None
    return any_row


def commit(snapshot: Snapshot, memory: Memory, place: list[Place], slot: int, row: int) -> None:
    """Put the pod of a slot on a node row: choose its devices, count them, write the decision down."""
    shape = int(snapshot.pending.shape[slot])
    devices = choose_devices(memory, shape, row)
    memory.take(shape, row, tuple(device for ask in devices for device in ask))
    nodes, gang = snapshot.nodes, int(snapshot.pending.gang[slot])
    ids, asked = nodes.device_ids[row], snapshot.shapes.ask_memory[shape]
    given = [
        tuple(Device(ids[index], index, milli, mib if asked[ask] else 0) for index, milli, mib in devices[ask])
        for ask in range(len(devices))
    ]
    named = tuple((container, given[ask]) for container, ask in sorted(snapshot.shapes.ask_containers[shape]))
    place.append(
        Place(snapshot.pending.names[slot], nodes.names[row], named, snapshot.gangs.names[gang] if gang >= 0 else "")
    )


def _place_gang(snapshot: Snapshot, memory: Memory, draft: Draft, gang: int, members: list[int]) -> int:
    """Place as many members as fit, at least the minimum, or none: tried on the scratch, dropped when too few fit."""
    gangs = snapshot.gangs
    missing = int(gangs.minimum[gang] - gangs.bound[gang])
    if len(members) < missing:
        return codes.GANG_INCOMPLETE
    name, state = gangs.names[gang], (memory.freed, len(members))
    if memory.dead_gangs.get(name) == state:
        return codes.GANG_CANNOT_PLACE
    kept, placed = {}, list[Place]()
    for index, slot in enumerate(members):
        if len(placed) + len(members) - index < missing:
            break
        row = choose(memory, int(snapshot.pending.shape[slot]))
        if row is not None:
            if row not in kept:
                kept[row] = memory.keep(row)
            commit(snapshot, memory, placed, slot, row)
    if len(placed) < max(missing, 1):
        for row in kept:
            memory.restore(kept[row])
        memory.forget_dead(shape for shape in {int(snapshot.pending.shape[slot]) for slot in members})
        memory.dead_gangs[name] = state
        return codes.GANG_CANNOT_PLACE
    memory.dead_gangs.pop(name, None)
    draft.place.extend(placed)
    return codes.FITS
