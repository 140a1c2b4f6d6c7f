"""``decide(snapshot, memory) -> Plan``: order the queue, place what fits, say why the rest waits."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tangram.decide import codes, reasons, reclaim
from tangram.decide.devices import choose_devices
from tangram.decide.draft import Draft
from tangram.decide.fairness import Turns
from tangram.decide.kernels import best_row
from tangram.decide.memory import KeptRow, Memory
from tangram.plan import Device, Place, Plan
from tangram.snapshot.arrays import PREEMPT, STRICT, Bool, Int32, Snapshot


def decide(snapshot: Snapshot, memory: Memory | None = None) -> Plan:
    """The plan for what is true now. Pure: the same snapshot gives the same plan, with or without ``memory``."""
    memory = memory or Memory()
    memory.observe(snapshot)
    draft = Draft()
    _place_all(snapshot, memory, draft, in_order(snapshot, memory))
    draft.hold.extend(reasons.holds(snapshot, memory, draft))
    faults = tuple(f"{name}: {text}" for name, text in sorted(memory.faults.items()))
    return Plan(tuple(draft.place), tuple(draft.evict), tuple(draft.hold), faults)


def in_order(snapshot: Snapshot, memory: Memory) -> Int32:
    """Slots of waiting pods that may fit, first come first: plugin's order, then priority, age, name."""
    pending = snapshot.pending
    slots = np.flatnonzero(pending.waiting).astype(np.int32)
    if not len(slots):
        return slots
    first = memory.order(slots)
    hopeful = ~memory.dead_shapes()[pending.shape[slots]] | (pending.gang[slots] >= 0)
    slots = slots[hopeful]
    keys: list[npt.NDArray[Any]] = [pending.tie[slots], pending.created[slots], -pending.priority[slots]]
    if first is not None:
        keys.append(first[hopeful])
    ordered: Int32 = slots[np.lexsort(keys)]
    return ordered


def _place_all(snapshot: Snapshot, memory: Memory, draft: Draft, slots: Int32) -> None:
    pending, turns = snapshot.pending, Turns(snapshot, slots)
    members: dict[int, list[int]] = {}
    for slot in slots[pending.gang[slots] >= 0].tolist():
        members.setdefault(int(pending.gang[slot]), []).append(slot)
    for slot in turns:
        if len(draft.place) >= snapshot.batch:
            return
        gang, shape = int(pending.gang[slot]), int(pending.shape[slot])
        if gang >= 0:
            if gang in members:
                code = _place_gang(snapshot, memory, draft, turns, gang, members.pop(gang))
                if code != codes.FITS:
                    draft.gang_codes[gang] = code
        elif not memory.is_dead(shape) and shape not in draft.over_limit:
            if not turns.may_use(shape):
                draft.over_limit.add(shape)
                continue
            found = choose(memory, shape, turns.rows_within_limits(shape))
            if found is None:
                reclaim.make_room(snapshot, memory, draft, slot)
            else:
                commit(snapshot, memory, draft.place, slot, found)
                turns.charge(shape, found)


def choose(memory: Memory, shape: int, allowed: Bool | None = None) -> int | None:
    """The best node row for the shape under its class's fallback strategy; None when it has to wait.

    ``allowed`` [N] leaves node rows out on which the shape's queue would exceed a limit.
    """
    scores = memory.scores(shape)
    if allowed is not None:
        scores = np.where(allowed, scores, np.int32(-1))
    liked, any_row = best_row(scores, memory.view.nodes.tie_rank, memory.preferred(shape))
    if liked >= 0:
        return liked
    if any_row < 0:
        if allowed is None:
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


def _place_gang(snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, gang: int, members: list[int]) -> int:
    """Place as many members as fit, at least the minimum, or none: tried on the scratch, dropped when too few fit."""
    gangs = snapshot.gangs
    missing = int(gangs.minimum[gang] - gangs.bound[gang])
    if len(members) < missing:
        return codes.GANG_INCOMPLETE
    name, state = gangs.names[gang], (memory.freed, len(members))
    if memory.dead_gangs.get(name) == state:
        return codes.GANG_CANNOT_PLACE
    usage = turns.keep()
    placed, kept, over_limit = _try_members(snapshot, memory, turns, members, missing)
    if len(placed) < max(missing, 1):
        for row in kept.values():
            memory.restore(row)
        memory.forget_dead(shape for shape in {int(snapshot.pending.shape[slot]) for slot in members})
        turns.restore(usage)
        if over_limit:
            return codes.QUEUE_LIMIT
        memory.dead_gangs[name] = state
        return codes.GANG_CANNOT_PLACE
    memory.dead_gangs.pop(name, None)
    draft.place.extend(placed)
    return codes.FITS


def _try_members(
    snapshot: Snapshot, memory: Memory, turns: Turns, members: list[int], missing: int
) -> tuple[list[Place], dict[int, KeptRow], bool]:
    """(placed members, rows as they were, whether a limit was in the way); stops when too few can be placed."""
    kept, placed, over_limit = dict[int, KeptRow](), list[Place](), False
    for index, slot in enumerate(members):
        if len(placed) + len(members) - index < missing:
            break
        shape = int(snapshot.pending.shape[slot])
        if not turns.may_use(shape):
            over_limit = True
            continue
        row = choose(memory, shape, turns.rows_within_limits(shape))
        if row is not None:
            if row not in kept:
                kept[row] = memory.keep(row)
            commit(snapshot, memory, placed, slot, row)
            turns.charge(shape, row)
    return placed, kept, over_limit
