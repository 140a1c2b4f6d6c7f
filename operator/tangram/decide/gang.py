"""Gangs: as many members as fit, at least the minimum, or none."""

import numpy as np

from tangram.decide import codes
from tangram.decide.draft import Draft
from tangram.decide.fairness import Turns
from tangram.decide.memory import KeptRow, Memory
from tangram.decide.placing import choose, commit
from tangram.plan import Place
from tangram.snapshot.arrays import CPU, Snapshot


def place_gang(snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, gang: int, members: list[int]) -> int:
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
