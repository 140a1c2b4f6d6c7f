"""``decide(snapshot, memory) -> Plan``: order the queue, place what fits, say why the rest waits."""

from typing import Any

import numpy as np
import numpy.typing as npt

from tangram.decide import codes, reasons, reclaim
from tangram.decide.devices import choose_devices, decision
from tangram.decide.draft import Draft
from tangram.decide.fairness import Turns
from tangram.decide.kernels import best_row
from tangram.decide.memory import KeptRow, Memory
from tangram.plan import Place, Plan
from tangram.snapshot.arrays import CPU, PREEMPT, STRICT, Bool, Int32, Snapshot


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
    given = _place_nominated(snapshot, memory, draft, turns, slots)
    members: dict[int, list[int]] = {}
    for slot in slots[pending.gang[slots] >= 0].tolist():
        members.setdefault(int(pending.gang[slot]), []).append(slot)
    for slot in turns:
        if len(draft.place) >= snapshot.batch:
            return
        gang = int(pending.gang[slot])
        if gang < 0 and slot not in given:
            _place_one(snapshot, memory, draft, turns, slot)
        elif gang in members:
            code = _place_gang(snapshot, memory, draft, turns, gang, members.pop(gang))
            if code != codes.FITS:
                draft.gang_codes[gang] = code


def _place_nominated(snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, slots: Int32) -> set[int]:
    """Give the pods for which others were evicted their places before anybody else is asked; the slots so placed."""
    nominated, given = snapshot.pending.nominated[slots], set[int]()
    for slot, row in zip(slots[nominated >= 0].tolist(), nominated[nominated >= 0].tolist(), strict=True):
        shape = int(snapshot.pending.shape[slot])
        allowed = turns.rows_within_limits(shape)
        if turns.may_use(shape) and (allowed is None or allowed[row]) and memory.fits_on(shape, row):
            commit(snapshot, memory, draft.place, slot, row)
            turns.charge(shape, row)
            given.add(slot)
    return given


def _place_one(snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, slot: int) -> None:
    """Place a pod that stands alone, or make room for it where the policy allows that."""
    shape, evicts = int(snapshot.pending.shape[slot]), snapshot.classes.fallback == PREEMPT
    if shape in draft.over_limit or (memory.is_dead(shape) and (not evicts or shape in memory.hopeless)):
        return
    if not turns.may_use(shape):
        draft.over_limit.add(shape)
        return
    claims, allowed = bool(snapshot.pending.claim[slot] >= 0), turns.rows_within_limits(shape)
    found = choose(memory, shape, allowed, evicts=evicts, claims=claims)
    if found is not None:
        commit(snapshot, memory, draft.place, slot, found)
        turns.charge(shape, found)
    elif evicts and not claims and reclaim.make_room(snapshot, memory, draft, slot, allowed):
        return
    elif allowed is not None and not memory.is_dead(shape):
        draft.over_limit.add(shape)


def choose(
    memory: Memory, shape: int, allowed: Bool | None = None, *, evicts: bool = False, claims: bool = False
) -> int | None:
    """The best node row for the shape under its class's fallback strategy; None when it has to wait.

    ``allowed`` [N] leaves node rows out on which the shape's queue would exceed a limit. ``evicts``: it waits too when
    evictions could make room where its class prefers to run; ``claims``: they do.
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
        if allowed is None:
            memory.set_dead(shape)
        return None
    if memory.has_class_nodes(shape) and (claims or (evicts and reclaim.could_help(memory, shape))):
        return None
    return any_row


def commit(snapshot: Snapshot, memory: Memory, place: list[Place], slot: int, row: int) -> None:
    """Put the pod of a slot on a node row: choose its devices, count them, write the decision down."""
    shape = int(snapshot.pending.shape[slot])
    devices = choose_devices(memory, shape, row)
    memory.take(shape, row, [device for ask in devices for device in ask])
    place.append(decision(snapshot, slot, row, devices))


def _place_gang(snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, gang: int, members: list[int]) -> int:
    """Place as many members as fit, at least the minimum, or none: tried on the scratch, dropped when too few fit.

    Evictions are not made for gangs: where the policy preempts, a gang takes any nodes that fit.
    """
    gangs = snapshot.gangs
    missing = int(gangs.minimum[gang] - gangs.bound[gang])
    if len(members) < missing:
        return codes.GANG_INCOMPLETE
    shapes = snapshot.pending.shape[members].tolist()
    key, state = (missing, *shapes), memory.changes
    if memory.dead_gangs.get(key) == state:
        return codes.GANG_CANNOT_PLACE
    alive, over_limit = [shape for shape in dict.fromkeys(shapes) if not memory.is_dead(shape)], False
    for order in dict.fromkeys((tuple(members), _largest_first(snapshot, members))):
        usage = turns.keep()
        placed, kept, limited = _try_members(snapshot, memory, turns, order, missing)
        if len(placed) >= max(missing, 1):
            draft.place.extend(placed)
            return codes.FITS
        for row in kept.values():
            memory.restore(row)
        memory.forget_dead(alive)
        memory.changes = state
        turns.restore(usage)
        over_limit = over_limit or limited
    if over_limit:
        return codes.QUEUE_LIMIT
    memory.dead_gangs[key] = state
    return codes.GANG_CANNOT_PLACE


def _largest_first(snapshot: Snapshot, members: list[int]) -> tuple[int, ...]:
    """The order in which unequal members fit best; equal ones keep theirs."""
    shapes = snapshot.shapes

    def size(slot: int) -> tuple[int, int]:
        shape = int(snapshot.pending.shape[slot])
        milli = int((shapes.ask_count[shape].astype(np.int64) * shapes.ask_milli[shape]).sum())
        return -milli, -int(shapes.request[shape, CPU])

    return tuple(sorted(members, key=size))


def _try_members(
    snapshot: Snapshot, memory: Memory, turns: Turns, members: tuple[int, ...], missing: int
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
        row = None if memory.is_dead(shape) else choose(memory, shape, turns.rows_within_limits(shape))
        if row is not None:
            if row not in kept:
                kept[row] = memory.keep(row)
            commit(snapshot, memory, placed, slot, row)
            turns.charge(shape, row)
    return placed, kept, over_limit
