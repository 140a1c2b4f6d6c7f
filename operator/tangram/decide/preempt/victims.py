"""The loop that finds whom to evict on a node: least damage first, as few as it takes, no guarantee broken."""

from typing import NamedTuple

import numpy as np

from tangram.decide.codes import FITS
from tangram.decide.fit.kernels import Asked, fits_many_asks, why_not_on
from tangram.decide.jit import kernel
from tangram.decide.queues.balance import Sides, keeps_enough
from tangram.snapshot.arrays import Bool, Int8, Int32, Int64

BY_RANK, BY_CLASS, BY_GUARANTEE, BY_SHARE, IN_KIND = range(5)
"""Why a pod may be evicted: lower in the same queue, of a lower class anywhere, it uses what others are promised, or
its queue has more than its share, where some must not lose more than they get."""


class Left(NamedTuple):
    """What is left of one node, to be written to; one row each."""

    free: Int64
    device: Int32
    memory: Int32
    device_count: Int32
    device_memory: Int32


@kernel
def fits_in(shape: int, asked: Asked, left: Left) -> bool:
    """Whether a shape fits in what is left of a node."""
    code = why_not_on(0, shape, asked, left.free, left.device, left.memory, left.device_count, left.device_memory)
    if code != FITS or asked.number.shape[1] == 1 or asked.number[shape, 1] == 0:
        return bool(code == FITS)
    return bool(
        fits_many_asks(
            left.device[0], left.memory[0], left.device_count[0], left.device_memory[0],
            asked.number[shape], asked.milli[shape], asked.memory[shape],
        ) == FITS
    )  # fmt: skip


@kernel
def covered(
    queue: int, level: int, amounts: Int64, why: int,
    parent: Int32, on_path: Bool, guarantee: Int64, cover: Int64, taken: Int64, judged: Bool, unasked: Bool,
) -> bool:  # fmt: skip
    """Whether a guarantee holds the unit: without it, a queue that it is in would use less than it was promised.

    Where queues part from the claimant's, all ``judged`` columns [3, X] of the reason count; in queues that both are
    in, for an eviction by rank or class only the columns that the claimant does not ask for.
    """
    row = queue
    while row >= 0:
        for column in range(len(amounts)):
            if amounts[column] == 0 or guarantee[row, column] == 0:
                continue
            counts = judged[why, column] if not on_path[row] else (why != BY_GUARANTEE and unasked[column])
            if counts and cover[row, level, column] - taken[row, column] - amounts[column] < guarantee[row, column]:
                return True
        row = parent[row]
    return False


@kernel
def has_more(
    queue: int, level: int, amounts: Int64, why: int, cover: Int64, taken: Int64, sides: Sides,
    given_up: Int64, brings: Int64,
) -> bool:  # fmt: skip
    """Whether the unit may go as far as shares are concerned: evictions for other reasons do not ask for them."""
    if why == IN_KIND and (given_up + amounts > brings).any():
        return False
    return why < BY_SHARE or keeps_enough(queue, amounts, level, cover, taken, sides)


@kernel
def add_unit(
    first: int, last: int, order: Int32, sign: int, shapes: Int32, request: Int64, parts: Int32, left: Left
) -> None:
    """Give back (1), or take again (-1), what the pods at these places of the order hold."""
    for place in range(first, last):
        slot = order[place]
        left.free[0] += sign * request[shapes[slot]]
        for part in range(parts.shape[1]):
            device = parts[slot, part, 0]
            if device >= 0:
                left.device[0, device] += sign * parts[slot, part, 1]
                left.memory[0, device] += sign * parts[slot, part, 2]


@kernel
def end_of(place: int, last: int, order: Int32, unit: Int32) -> int:
    """Where the unit that begins at a place of the order ends."""
    end = place + 1
    while end < last and unit[order[end]] == unit[order[place]]:
        end += 1
    return end


@kernel
def count_up(row: int, amounts: Int64, parent: Int32, taken: Int64) -> None:
    """Add amounts to a queue row and all above it."""
    while row >= 0:
        taken[row] += amounts
        row = parent[row]


@kernel
def gives(one: int, first: int, order: Int32, unit: Int32, head: Int32, amounts: Int64, chosen: Bool) -> Int64:
    """[X] what the queue of a unit no longer uses when it leaves too, besides the chosen ones.

    What a gang cannot run without takes everybody along: those of them that are chosen by themselves count once.
    """
    out: Int64 = amounts[one].copy()
    for index in range(len(chosen) if head[one] >= 0 else 0):
        other = unit[order[first + index]]
        if chosen[index] and other != one and head[other] == head[one]:
            if other == head[one]:
                out[:] = 0
                return out
            if one == head[one]:
                out -= amounts[other]
    return out


@kernel
def enough(
    first: int, last: int, order: Int32, unit: Int32, shapes: Int32, parts: Int32,
    level: Int32, queue: Int32, head: Int32, amounts: Int64, why: Int8, gone: Bool,
    parent: Int32, on_path: Bool, guarantee: Int64, cover: Int64, judged: Bool, unasked: Bool, own: int, owing: Int64,
    sides: Sides, brings: Int64, shape: int, asked: Asked, left: Left, chosen: Bool,
) -> bool:  # fmt: skip
    """Whether the first units in order, one node's, make the shape fit; ``chosen`` [last - first] marks their places.

    ``left`` is what will be left of the node as things are; units that leave are added.
    ``owing`` [X] is what pods of the claimant's queue ``own`` have to give so that it keeps within its limits.
    ``brings`` [X] is the most that may leave where some must not lose more than they get.
    """
    taken, now_level, place, given_up = np.zeros_like(guarantee), -1, first, np.zeros_like(owing)
    while True:
        if (owing <= 0).all() and fits_in(shape, asked, left):  # fmt: skip
            return True
        if place >= last:
            return False
        one, end = unit[order[place]], end_of(place, last, order, unit)
        if level[one] != now_level:  # what lower ranks give up does not lessen what covers higher ones
            taken[:] = 0
            now_level = level[one]
        given = gives(one, first, order, unit, head, amounts, chosen)
        if not gone[one] and not covered(
            queue[one], level[one], given, why[one],
            parent, on_path, guarantee, cover, taken, judged, unasked,
        ) and has_more(queue[one], level[one], given, why[one], cover, taken, sides, given_up, brings):  # fmt: skip
            add_unit(place, end, order, 1, shapes, asked.request, parts, left)
            chosen[place - first : end - first] = True
            count_up(queue[one], given, parent, taken)
            given_up += given
            if queue[one] == own:
                owing -= given
        place = end


@kernel
def spare(
    first: int, last: int, order: Int32, unit: Int32, shapes: Int32, parts: Int32,
    queue: Int32, head: Int32, amounts: Int64, own: int, owing: Int64,
    shape: int, asked: Asked, left: Left, chosen: Bool,
) -> None:  # fmt: skip
    """Let those of the chosen units stay, the ones that hurt most first, without which the shape fits all the same."""
    end = last
    while end > first:
        begin = end - 1
        one = unit[order[begin]]
        while begin > first and unit[order[begin - 1]] == one:
            begin -= 1
        if chosen[begin - first]:
            given = (queue[one] == own) * gives(one, first, order, unit, head, amounts, chosen)
            add_unit(begin, end, order, -1, shapes, asked.request, parts, left)
            owing += given
            if (owing <= 0).all() and fits_in(shape, asked, left):  # fmt: skip
                chosen[begin - first : end - first] = False
            else:
                add_unit(begin, end, order, 1, shapes, asked.request, parts, left)
                owing -= given
        end = begin
