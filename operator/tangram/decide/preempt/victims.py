"""The loop that finds whom to evict on a node: a legal set after which the pod fits, at the least cost.

On a node with few units every set is looked at that could still be cheaper than the best one (``EXACT``), for every
part of a legal set is legal; on others the least damage is taken first, then the largest units, then one after the
other of those that were taken is left out.
"""

from typing import NamedTuple

import numpy as np

from tangram.decide.codes import FITS
from tangram.decide.fit.kernels import Asked, Space, fits_many_asks, why_not_on
from tangram.decide.jit import kernel
from tangram.decide.preempt.legal import (
    BY_RANK,
    PROTECTED,
    STRADDLES,
    Among,
    Rules,
    counts,
    lost_below,
    paid,
    promised,
    shared,
)
from tangram.decide.queues.balance import Sides
from tangram.snapshot.arrays import Bool, Int32, Int64

EXACT = 10
"""Units on a node up to which every set is looked at."""
NO_COST = np.iinfo(np.int64).max
"""Every part of the cost where no set was found."""
_STEPS = 1 << 12
_RETRIES = 4
TIER, LEVEL, UNEVEN, DAMAGE, LOST, PODS = range(6)
"""What a set costs, least first: whose right it takes (0 borrowers', 1 in part covered, 2 whatever else while something
is promised), the highest rank, units that would take others' places by share at once, plugins' damage, work, pods."""


class Left(NamedTuple):
    """What is left of one node, to be written to; one row each."""

    free: Int64
    device: Int32
    memory: Int32
    device_count: Int32
    device_memory: Int32


class Runs(NamedTuple):
    """Pods that run. V slots."""

    order: Int32
    """Slots that may be evicted, by node, then those first that hurt least."""
    unit: Int32
    shape: Int32
    parts: Int32
    """[V, W, 3]"""


@kernel
def fits_in(shape: int, asked: Asked, left: Left) -> bool:
    """Whether a shape fits in what is left of a node."""
    space = Space(left.free, left.device, left.memory, left.device_count, left.device_memory)
    code = why_not_on(0, shape, asked, space)
    if code != FITS or asked.number.shape[1] == 1 or asked.number[shape, 1] == 0:
        return bool(code == FITS)
    return bool(fits_many_asks(0, shape, asked, space) == FITS)


@kernel
def uneven(picked: Int32, among: Among, rules: Rules, sides: Sides, total: Int64, most: Int64) -> int:
    """How many of the picked units could take back by share from another queue what they lose here.

    Victims that all come from one of several equal borrowers would have the others give way in a second round.
    """
    found = 0
    for one in picked:
        row = sides.branch[among.queue[one]] if among.queue[one] >= 0 else -1
        if row < 0 or among.why[one] == BY_RANK or not counts(one, picked, among):
            continue
        lost_below(row, -1, picked, among, rules.parent, total, most)
        mine = ((rules.cover[row, 0] - total + among.amounts[one]) * sides.part[row]).max()
        for other in range(len(rules.parent)):
            if other == row or rules.parent[other] != rules.parent[row] or rules.on_path[other]:
                continue
            lost_below(other, -1, picked, among, rules.parent, total, most)
            kept = rules.cover[other, 0] - total - among.amounts[one]
            covered = False
            for column in range(len(kept)):
                covered |= among.amounts[one, column] > 0 and kept[column] < rules.guarantee[other, column]
            if not covered and kept.min() >= 0 and mine <= (kept * sides.part[other]).max():
                found += 1
                break
    return found


@kernel
def move(begin: int, end: int, sign: int, runs: Runs, request: Int64, left: Left) -> None:
    """Give back (1), or take again (-1), what the pods at these places of the order hold."""
    for place in range(begin, end):
        slot = runs.order[place]
        left.free[0] += sign * request[runs.shape[slot]]
        for part in range(runs.parts.shape[1]):
            device = runs.parts[slot, part, 0]
            if device >= 0:
                left.device[0, device] += sign * runs.parts[slot, part, 1]
                left.memory[0, device] += sign * runs.parts[slot, part, 2]


@kernel
def is_less(one: Int64, other: Int64) -> bool:
    """Whether a cost is below another one."""
    for place in range(len(one)):
        if one[place] != other[place]:
            return bool(one[place] < other[place])
    return False


@kernel
def may_alone(units: Int32, among: Among, rules: Rules, sides: Sides) -> Bool:
    """[n] which of these units may leave at all."""
    total, most = np.zeros(rules.guarantee.shape[1], np.int64), np.zeros(rules.guarantee.shape[1], np.int64)
    found = np.zeros(len(units), np.bool_)
    for place in range(len(units)):
        one, alone = units[place], units[place : place + 1]
        if not among.gone[one] and among.why[one] >= 0 and promised(alone, among, rules, total, most):
            found[place] = shared(alone, among, rules, sides, total, most)
    return found


@kernel
def places_of(first: int, last: int, runs: Runs, among: Among, rules: Rules, sides: Sides) -> Int32:
    """[n, 3] units among these places of the order that may leave at all, where each begins, and where it ends."""
    found, count, place = np.empty((last - first, 3), np.int32), 0, first
    while place < last:
        one, end = runs.unit[runs.order[place]], place + 1
        while end < last and runs.unit[runs.order[end]] == one:
            end += 1
        found[count, 0], found[count, 1], found[count, 2] = one, place, end
        count, place = count + 1, end
    return found[:count][may_alone(found[:count, 0].copy(), among, rules, sides)]


@kernel
def could_give(places: Int32, runs: Runs, request: Int64) -> tuple[Int64, Int64]:
    """[n + 1, R] and [n + 1] what this unit and all after it hold of the node, and in milli-GPU."""
    count = len(places)
    held, milli = np.zeros((count + 1, request.shape[1]), np.int64), np.zeros(count + 1, np.int64)
    for index in range(count - 1, -1, -1):
        held[index], milli[index] = held[index + 1], milli[index + 1]
        for place in range(places[index, 1], places[index, 2]):
            slot = runs.order[place]
            held[index] += request[runs.shape[slot]]
            for part in range(runs.parts.shape[1]):
                if runs.parts[slot, part, 0] >= 0:
                    milli[index] += runs.parts[slot, part, 1]
    return held, milli


@kernel
def is_hopeless(shape: int, asked: Asked, left: Left, held: Int64, milli: int) -> bool:
    """Whether the shape would not even fit with so much more of the node."""
    for resource in range(len(held)):
        wanted = asked.request[shape, resource]
        if wanted > 0 and not asked.counts_devices[resource] and left.free[0, resource] + held[resource] < wanted:
            return True
    wanted = 0
    for ask in range(asked.number.shape[1]):
        wanted += asked.number[shape, ask] * asked.milli[shape, ask]
    for device in range(left.device_count[0] if wanted else 0):
        milli += left.device[0, device]
    return bool(milli < wanted)


@kernel
def add_cost(cost: Int64, one: int, among: Among, rules: Rules, out: Int64) -> None:
    """The least that a set can cost which one more unit belongs to."""
    out[TIER] = max(cost[TIER], rules.tier[among.why[one]])
    out[LEVEL], out[UNEVEN] = max(cost[LEVEL], among.level[one]), 0
    out[DAMAGE], out[LOST] = cost[DAMAGE] + among.damage[one], cost[LOST] + among.lost[one]
    out[PODS] = cost[PODS] + among.size[one]


@kernel
def search_sets(
    places: Int32, steps: int, runs: Runs, among: Among, rules: Rules, sides: Sides,
    shape: int, asked: Asked, left: Left, best: Int64, chosen: Bool,
) -> bool:  # fmt: skip
    """Look at sets of these units, each with those before it, for one that costs less than ``best`` [6].

    ``chosen`` [n] marks the cheapest and ``best`` becomes its cost. After so many ``steps`` what was found is kept.
    False when the search ended because of that.
    """
    count, columns = len(places), rules.guarantee.shape[1]
    held, milli = could_give(places, runs, asked.request)
    total, most = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
    picked, at = np.empty(count, np.int32), np.empty(count, np.int32)
    costs = np.zeros((count + 1, 6), np.int64)
    costs[0, LEVEL] = -1
    depth, index, tried, whole, fresh = 0, 0, 0, True, True
    while True:
        cost, further = costs[depth], False
        if fresh and fits_in(shape, asked, left) and paid(picked[:depth], among, rules, total, most):
            cost[UNEVEN] = uneven(picked[:depth], among, rules, sides, total, most)
            if is_less(cost, best):
                best[:] = cost
                chosen[:] = False
                for place in range(depth):
                    chosen[at[place]] = True
            index = count
        while index < count and not further and not is_hopeless(shape, asked, left, held[index], milli[index]):
            tried += 1
            if tried > steps:
                whole = False
                break
            one, then = places[index, 0], costs[depth + 1]
            picked[depth], at[depth] = one, index
            index += 1
            add_cost(cost, one, among, rules, then)
            if not is_less(then, best):
                continue
            says = promised(picked[: depth + 1], among, rules, total, most)
            then[TIER] = max(then[TIER], 1 if says == STRADDLES else 0)
            further = says != PROTECTED and is_less(then, best)
            further = further and shared(picked[: depth + 1], among, rules, sides, total, most)
        fresh = further
        if further:
            move(places[at[depth], 1], places[at[depth], 2], 1, runs, asked.request, left)
            depth += 1
        elif depth == 0:
            return whole
        else:
            depth -= 1
            move(places[at[depth], 1], places[at[depth], 2], -1, runs, asked.request, left)
            index = at[depth] + 1 if whole else count


@kernel
def spare(
    places: Int32, runs: Runs, among: Among, rules: Rules, shape: int, asked: Asked, left: Left, chosen: Bool
) -> None:
    """Let those of the chosen units stay, the ones that hurt most first, without which the shape fits all the same."""
    columns = rules.guarantee.shape[1]
    total, most = np.zeros(columns, np.int64), np.zeros(columns, np.int64)
    picked = np.empty(len(places), np.int32)
    for index in range(len(places)):
        if chosen[index]:
            move(places[index, 1], places[index, 2], 1, runs, asked.request, left)
    for index in range(len(places) - 1, -1, -1):
        if not chosen[index]:
            continue
        chosen[index] = False
        move(places[index, 1], places[index, 2], -1, runs, asked.request, left)
        count = 0
        for other in range(len(places)):
            if chosen[other]:
                picked[count] = places[other, 0]
                count += 1
        if not fits_in(shape, asked, left) or not paid(picked[:count], among, rules, total, most):
            chosen[index] = True
            move(places[index, 1], places[index, 2], 1, runs, asked.request, left)
    for index in range(len(places)):
        if chosen[index]:
            move(places[index, 1], places[index, 2], -1, runs, asked.request, left)


@kernel
def least_on(
    places: Int32, runs: Runs, among: Among, rules: Rules, sides: Sides, shape: int, asked: Asked, left: Left,
    chosen: Bool,
) -> Int64:  # fmt: skip
    """[6] the cost of the cheapest set that was found among a node's units, which ``chosen`` [n] marks.

    All of it is ``NO_COST`` where there is none.
    """
    best = np.full(6, NO_COST, np.int64)
    count = len(places)
    if count <= EXACT:
        search_sets(places, _STEPS, runs, among, rules, sides, shape, asked, left, best, chosen)
        return best
    order, steps = np.arange(count), 2 * count + 32
    for attempt in range(2 + _RETRIES):
        if attempt == 1:  # the largest first
            held, milli = could_give(places, runs, asked.request)
            order = np.argsort(-((milli[:-1] - milli[1:]) * 1000 + (held[:-1, 0] - held[1:, 0])), kind="mergesort")
        elif attempt > 1:  # each of the least harmful is left out once
            order = np.delete(np.arange(count), attempt - 2)
        some, marks = places[order], np.zeros(len(order), np.bool_)
        search_sets(some, steps, runs, among, rules, sides, shape, asked, left, best, marks)
        if marks.any():
            chosen[:] = False
            for index in range(len(order)):
                chosen[order[index]] = marks[index]
        if best[TIER] < NO_COST:
            break
    if best[TIER] < NO_COST:
        spare(places, runs, among, rules, shape, asked, left, chosen)
        few = places[chosen]
        marks = np.ones(len(few), np.bool_)
        best[:] = NO_COST
        search_sets(few, _STEPS, runs, among, rules, sides, shape, asked, left, best, marks)
        which = np.flatnonzero(chosen)
        for index in range(len(few)):
            chosen[which[index]] = marks[index]
    return best
