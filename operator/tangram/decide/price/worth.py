"""What free space is worth at given prices: knapsacks over the parts of a device and over the idle devices of a node.

The value of a node under the prices is bounded by the Lagrangian over its CPU::

    value(node) = min over levels l:  l * free CPU + idle_value[idle GPUs] + sum of part_value[free part] of used GPUs

``part_value`` is a knapsack of one GPU's free part, ``idle_value`` the same for idle GPUs of a node, pods of several
GPUs included; both are small tables per GPU model and CPU price level, so a score costs a few look-ups.
"""

from collections.abc import Hashable, Iterable
from typing import NamedTuple

import numpy as np

from tangram.decide.jit import kernel, lean_kernel
from tangram.snapshot.arrays import Bool, Float64, Int32, Int64

UNIT = 10
"""milli-GPU by which a device is divided in the tables."""
PARTS = 1000 // UNIT
LEVELS = np.array([0, 4, 8, 16, 28, 44, 64, 96, 160, 320]) / 1000.0
"""CPU price levels above the price for pods without GPUs, milli-GPU for a milli-CPU."""
LEVEL_COUNT = len(LEVELS)
RISES = 1e-6
"""A node's worth falls and then rises with the level, as it is a sum of the largest of lines: once it is so much more
than the least so far, no further level has less. Rounding is far smaller."""


class Demand(NamedTuple):
    """The priced shapes as plain arrays, one entry for each."""

    shape: Int64
    """Row in ``Snapshot.shapes``."""
    cpu: Int64
    devices: Int64
    """On how many at least what a pod asks for finds room."""
    milli: Int64
    """milli-GPU of each device; 1000 when there are several."""
    allowed: Bool
    """[K, M] models that the shape may run on."""
    arrived: Float64
    """How many have arrived."""
    gpu: Float64
    """milli-GPU that a pod asks for."""


class Tables(NamedTuple):
    """Worth of free space by CPU level, and the shape that the best packing would put there.

    Models that the same shapes may run on have one table. Levels come last, next to each other: whoever asks for a
    worth asks for it at all levels.
    """

    first: Int64
    """[T] the first model of each table."""
    of_model: Int64
    """[M] the table of each model."""
    part_value: Float64
    """[T, PARTS + 1, L] worth of a device's free part."""
    idle_value: Float64
    """[T, D + 1, L] worth of so many idle devices of a node."""
    part_choice: Int64
    """[T, L, PARTS + 1]"""
    idle_choice: Int64
    """[T, L, D + 1]"""


class Values(NamedTuple):
    """What free space is worth, by model or table of models."""

    levels: Float64
    """[L] price of a milli-CPU."""
    part: Float64
    """As ``Tables.part_value``."""
    idle: Float64
    """As ``Tables.idle_value``."""


class FreeNode(NamedTuple):
    """What is free of one node."""

    cpu: int
    device: Int32
    """[D] milli-GPU."""
    device_count: int
    table: int
    """Row of ``Values.part`` and ``Values.idle``."""


def row_bytes(table: Bool) -> list[bytes]:
    """Each row as bytes, which are equal where rows are."""
    rows, width = table.shape
    content = table.tobytes()
    return [content[row * width : (row + 1) * width] for row in range(rows)]


def numbered(keys: Iterable[Hashable]) -> Int64:
    """The number of each key among the different ones, in the order in which they come."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def empty_tables(wanted: Demand, most_devices: int) -> Tables:
    """Tables to ``fill_tables``, for nodes of at most so many devices."""
    of_model = numbered(row_bytes(wanted.allowed.T))
    _, first = np.unique(of_model, return_index=True)
    count = len(first)
    return Tables(
        first, of_model,
        np.zeros((count, PARTS + 1, LEVEL_COUNT)), np.zeros((count, most_devices + 1, LEVEL_COUNT)),
        np.full((count, LEVEL_COUNT, PARTS + 1), -1), np.full((count, LEVEL_COUNT, most_devices + 1), -1),
    )  # fmt: skip


@kernel
def fill_tables(made: Tables, wanted: Demand, price: Float64, levels: Float64) -> None:
    """Work the tables out for these prices of pods and of CPU."""
    most = made.idle_value.shape[1] - 1
    for table in range(len(made.first)):
        model = made.first[table]
        for level in range(LEVEL_COUNT):
            gain, who = np.zeros(PARTS + 1), np.full(PARTS + 1, -1, np.int64)
            many_gain, many_who = np.zeros(most + 1), np.full(most + 1, -1, np.int64)
            for k in range(len(price)):
                devices = wanted.devices[k]
                if devices == 0 or devices > most or not wanted.allowed[k, model]:
                    continue
                net = price[k] - levels[level] * wanted.cpu[k]
                if devices == 1:
                    size = (wanted.milli[k] + UNIT - 1) // UNIT
                    if net > gain[size]:
                        gain[size], who[size] = net, k
                elif net > many_gain[devices]:
                    many_gain[devices], many_who[devices] = net, k
            _pack_parts(gain, who, made.part_value[table, :, level], made.part_choice[table, level])
            _pack_idle(many_gain, many_who, made.part_value[table, PARTS, level], made.idle_value[table, :, level],
                       made.idle_choice[table, level])  # fmt: skip


@kernel
def _pack_parts(gain: Float64, who: Int64, value: Float64, choice: Int64) -> None:
    sizes = np.flatnonzero(who >= 0)
    for part in range(1, PARTS + 1):
        best, chosen = value[part - 1], -1
        for size in sizes:
            if size > part:
                break
            worth = value[part - size] + gain[size]
            if worth > best + 1e-9:
                best, chosen = worth, who[size]
        value[part], choice[part] = best, chosen


@kernel
def _pack_idle(gain: Float64, who: Int64, one_device: float, value: Float64, choice: Int64) -> None:
    for idle in range(1, len(value)):
        best, chosen = value[idle - 1] + one_device, -1
        for size in range(2, idle + 1):
            if who[size] >= 0:
                worth = value[idle - size] + gain[size]
                if worth > best + 1e-9:
                    best, chosen = worth, who[size]
        value[idle], choice[idle] = best, chosen


@lean_kernel
def node_worth(node: FreeNode, values: Values, worth: Float64) -> tuple[int, int]:
    """Write the Lagrangian of one node at every CPU level; (level at which it is least, idle devices)."""
    idle, least = 0, 0
    for level in range(LEVEL_COUNT):
        worth[level] = values.levels[level] * node.cpu
    for device in range(node.device_count):
        left = node.device[device]
        if left >= 1000:
            idle += 1
        elif left > 0:
            for level in range(LEVEL_COUNT):
                worth[level] += values.part[node.table, left // UNIT, level]
    if node.device_count > 0:
        for level in range(LEVEL_COUNT):
            worth[level] += values.idle[node.table, idle, level]
    for level in range(LEVEL_COUNT):
        if worth[level] < worth[least]:
            least = level
    return least, idle


class FreeParts(NamedTuple):
    """What is free of the devices of each node, apart from what is whole or nothing."""

    in_part: Int64
    """[N] devices of which a part is free."""
    part: Int64
    """[N, D] that part in units of ``UNIT``, in the order of the devices."""
    idle: Int64
    """[N] devices that nobody uses."""


@kernel
def free_parts(device_free: Int32, device_count: Int32) -> FreeParts:
    """Sort out the devices of each node."""
    rows = len(device_count)
    count, part, idle = np.zeros(rows, np.int64), np.zeros(device_free.shape, np.int64), np.zeros(rows, np.int64)
    for row in range(rows):
        for device in range(device_count[row]):
            left = device_free[row, device]
            if left >= 1000:
                idle[row] += 1
            elif left > 0:
                part[row, count[row]] = left // UNIT
                count[row] += 1
    return FreeParts(count, part, idle)


class Place(NamedTuple):
    """One node of ``FreeParts``."""

    row: int
    cpu: int
    table: int
    """Row of ``Values.part`` and ``Values.idle``."""


@lean_kernel
def _worth_at(level: int, place: Place, free: FreeParts, values: Values) -> float:
    """The Lagrangian of one node at one CPU level, added up in the order of ``node_worth``."""
    row, table = place.row, place.table
    worth = values.levels[level] * place.cpu
    for index in range(free.in_part[row]):
        worth += values.part[table, free.part[row, index], level]
    return float(worth + values.idle[table, free.idle[row], level])


@lean_kernel
def least_worth(place: Place, free: FreeParts, values: Values, start: int) -> tuple[float, int]:
    """(the least Lagrangian of one node, its level) as of ``node_worth``, looked for around a level."""
    best, least = start, _worth_at(start, place, free, values)
    for level in range(start + 1, LEVEL_COUNT):
        worth = _worth_at(level, place, free, values)
        if worth < least:
            best, least = level, worth
        elif worth > least + RISES:
            break
    for level in range(start - 1, -1, -1):
        worth = _worth_at(level, place, free, values)
        if worth <= least:
            best, least = level, worth
        elif worth > least + RISES:
            break
    return least, best
