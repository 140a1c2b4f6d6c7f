"""The loops that find the node on which evictions cost least, without looking closely at every node.

What evictions on a node cost at least is quickly said: how many units have to leave there at least, and what the
cheapest so many cost. Sets of victims are looked for only where that is below what another node is known to cost.
"""

from typing import NamedTuple

import numpy as np

from tangram.decide.fit.kernels import Asked
from tangram.decide.jit import kernel
from tangram.decide.preempt.legal import Among, Rules, promised, shared
from tangram.decide.preempt.victims import (
    DAMAGE,
    LEVEL,
    LOST,
    NO_COST,
    PODS,
    TIER,
    Left,
    Runs,
    is_less,
    least_on,
    places_of,
)
from tangram.decide.queues.balance import Sides
from tangram.snapshot.arrays import Bool, Int8, Int32, Int64

TIE = 6
"""After what victims cost (``victims.TIER`` to ``PODS``): the node's place in ties."""


class Room(NamedTuple):
    """What is left of N node rows now, and what they gain."""

    free: Int64
    """[N, R]"""
    device: Int32
    """[N, D] milli-GPU."""
    memory: Int32
    """[N, D] MiB."""
    more_free: Int64
    more_device: Int32
    more_memory: Int32
    device_count: Int32
    device_memory: Int32


class Lineup(NamedTuple):
    """Units that may be evicted where a claimant may go. N node rows, R resources."""

    order: Int32
    """Their slots by node, those first that hurt least; also of those that are evicted in this cycle."""
    first: Int64
    """[N + 1] where those of each row begin; its last entry is where those of the last end."""
    total: Int64
    """[N, R + 1] what all of a row's hold, of each resource and in milli-GPU."""
    most: Int64
    """[N, R + 1] the most that one of them does."""


class Field(NamedTuple):
    """Where evictions may be of use to a claimant, and what they cost. N node rows."""

    lineup: Lineup
    goes_to: Bool
    """[N] whether the claimant may go there."""
    elsewhere: Int32
    """Units that may leave together with those of any row."""
    lowest: Int64
    """[N, 7] what evictions there cost at least, as far as is known; ``NO_COST`` where they do not help."""


class Case(NamedTuple):
    """A claimant, whom it may have evicted, and what is left of nodes."""

    shape: int
    asked: Asked
    runs: Runs
    among: Among
    rules: Rules
    sides: Sides
    room: Room


@kernel
def allowed_kinds(kind: Int32, count: int, among: Among, rules: Rules, sides: Sides) -> Bool:
    """[count] by kind of units [U] whether guarantees and shares let one of them leave at all."""
    known, alone = np.zeros(count, np.int8), np.zeros(1, np.int32)
    total, most = np.zeros(rules.guarantee.shape[1], np.int64), np.zeros(rules.guarantee.shape[1], np.int64)
    for one in range(len(kind)):
        if known[kind[one]] == 0 and among.why[one] >= 0 and not among.gone[one]:
            alone[0], known[kind[one]] = one, 1
            if promised(alone, among, rules, total, most) and shared(alone, among, rules, sides, total, most):
                known[kind[one]] = 2
    found: Bool = known == 2
    return found


@kernel
def sort_units(slots: Int32, node: Int32, unit: Int32, among: Among, tier: Int8) -> None:
    """Bring slots in the order of the tier, level and damage of their units within each node; they are sorted by node
    already, and what is in order among equals stays so."""
    for place in range(1, len(slots)):
        slot, one, before = slots[place], unit[slots[place]], place - 1
        while before >= 0 and node[slots[before]] == node[slot]:
            other = unit[slots[before]]
            if tier[among.why[other]] != tier[among.why[one]]:
                behind = tier[among.why[other]] > tier[among.why[one]]
            elif among.level[other] != among.level[one]:
                behind = among.level[other] > among.level[one]
            else:
                behind = among.damage[other] > among.damage[one]
            if not behind:
                break
            slots[before + 1] = slots[before]
            before -= 1
        slots[before + 1] = slot


@kernel
def missing_of(row: int, shape: int, asked: Asked, room: Room, short: Int64) -> None:
    """Write down [R + 1] what a node row will lack for the shape, of each resource and in milli-GPU."""
    columns, wanted = asked.request.shape[1], 0
    for column in range(columns):
        amount, short[column] = asked.request[shape, column], 0
        if amount > 0 and not asked.counts_devices[column]:
            short[column] = amount - room.free[row, column] - room.more_free[row, column]
    for ask in range(asked.number.shape[1]):
        wanted += asked.number[shape, ask] * asked.milli[shape, ask]
    short[columns] = wanted
    for device in range(room.device_count[row]):
        short[columns] -= room.device[row, device] + room.more_device[row, device]


@kernel
def amounts_of(order: Int32, first: Int64, runs: Runs, request: Int64) -> tuple[Int64, Int64]:
    """``Lineup.total`` and ``Lineup.most``."""
    columns = request.shape[1]
    total, most = np.zeros((len(first) - 1, columns + 1), np.int64), np.zeros((len(first) - 1, columns + 1), np.int64)
    held = np.zeros(columns + 1, np.int64)
    for row in range(len(first) - 1):
        for place in range(first[row], first[row + 1]):
            slot = order[place]
            if place == first[row] or runs.unit[slot] != runs.unit[order[place - 1]]:
                held[:] = 0
            held[:columns] += request[runs.shape[slot]]
            total[row, :columns] += request[runs.shape[slot]]
            for part in range(runs.parts.shape[1]):
                if runs.parts[slot, part, 0] >= 0:
                    held[columns] += runs.parts[slot, part, 1]
                    total[row, columns] += runs.parts[slot, part, 1]
            for column in range(columns + 1):
                most[row, column] = max(most[row, column], held[column])
    return total, most


@kernel
def fewest(short: Int64, total: Int64, most: Int64) -> int:
    """How many of a node's units have to leave at least for as much as is missing; -1: all are not enough.

    No unit gives more of anything than the one that gives most of it. All [R + 1].
    """
    needed = 0
    for column in range(len(short)):
        if short[column] > total[column]:
            return -1
        if short[column] > 0:
            needed = max(needed, (short[column] + most[column] - 1) // most[column])
    return needed


@kernel
def add_least(row: int, needed: int, field: Field, case: Case) -> None:
    """Write down what the cheapest so many of a row's units cost at least, whatever forbids them.

    They come in the order of tier, level, damage and what is lost. Where the first so many are not all of one tier and
    level, others may be chosen of which less is lost.
    """
    order, unit, among, cost = case.runs.order, case.runs.unit, case.among, field.lowest[row]
    cost[: PODS + 1] = 0
    cost[LEVEL], cost[PODS] = -1, needed
    place, last = field.lineup.first[row], field.lineup.first[row + 1]
    found, first_tier, first_level, negative, further = 0, 0, 0, 0, 0
    while place < last and needed:
        one = unit[order[place]]
        while place < last and unit[order[place]] == one:
            place += 1
        if among.gone[one]:
            continue
        found += 1
        less = min(among.lost[one], 0)  # clocks differ: who started in the future takes what is lost down
        negative += less
        if found > needed:
            further += less
            continue
        cost[TIER], cost[LEVEL] = case.rules.tier[among.why[one]], among.level[one]
        cost[DAMAGE] += among.damage[one]
        cost[LOST] += among.lost[one]
        if found == 1:
            first_tier, first_level = cost[TIER], cost[LEVEL]
    if cost[TIER] != first_tier or cost[LEVEL] != first_level:
        cost[DAMAGE], cost[LOST] = 0, negative
    else:
        cost[LOST] += further
    if cost[TIER] != first_tier:
        cost[LEVEL] = -1


@kernel
def set_bounds(rows: Int64, field: Field, case: Case) -> None:
    """Write down what evictions cost at least on these node rows."""
    line, short = field.lineup, np.zeros(case.asked.request.shape[1] + 1, np.int64)
    for row in rows:
        needed = 0
        field.lowest[row, : PODS + 1] = NO_COST
        if not field.goes_to[row]:
            continue
        if len(field.elsewhere) == 0:
            missing_of(row, case.shape, case.asked, case.room, short)
            needed = fewest(short, line.total[row], line.most[row])
        if needed >= 0:
            add_least(row, needed, field, case)


@kernel
def units_on(row: int, field: Field, case: Case) -> Int32:
    """[n, 3] the units that may leave for a place on a node row, as ``places_of``; others hold nothing of it."""
    first, last, among = field.lineup.first[row], field.lineup.first[row + 1], case.among
    here = places_of(first, last, case.runs, among, case.rules, case.sides)
    found, count = np.zeros((len(here) + len(field.elsewhere), 3), np.int32), len(here)
    found[:count] = here
    for one in field.elsewhere:
        if not among.gone[one] and not (here[:, 0] == one).any():
            found[count, 0] = one
            count += 1
    return found[:count]


@kernel
def left_of(row: int, room: Room) -> Left:
    """What will be left of a node row as things are, to be written to."""
    one = slice(row, row + 1)
    return Left(
        room.free[one] + room.more_free[one],
        room.device[one] + room.more_device[one],
        room.memory[one] + room.more_memory[one],
        room.device_count[one],
        room.device_memory[one],
    )


@kernel
def cheapest_row(field: Field, case: Case) -> tuple[int, Int32]:
    """The node row where evictions cost least, -1: they help nowhere; and the units that leave, as ``places_of``.

    ``Field.lowest`` becomes what they cost on each row that is looked at.
    """
    lowest, best, start = field.lowest, -1, 0
    victims = np.zeros((0, 3), np.int32)
    for row in range(1, len(lowest)):
        if is_less(lowest[row], lowest[start]):
            start = row
    for turn in range(-1, len(lowest)):
        row = turn if turn >= 0 else start
        if turn == start or lowest[row, TIER] == NO_COST or (best >= 0 and not is_less(lowest[row], lowest[best])):
            continue
        places, left = units_on(row, field, case), left_of(row, case.room)
        chosen = np.zeros(len(places), np.bool_)
        lowest[row, : PODS + 1] = least_on(
            places, case.runs, case.among, case.rules, case.sides, case.shape, case.asked, left, chosen
        )
        if lowest[row, TIER] != NO_COST and (best < 0 or is_less(lowest[row], lowest[best])):
            best, victims = row, places[chosen]
    return best, victims
