"""Put each pod where the pool loses the least future value, at prices learned from the workload (see ``pricing``)."""

from typing import NamedTuple

import numpy as np

from tangram.decide.codes import FITS
from tangram.decide.fit.kernels import WHOLE, Asked, memory_of
from tangram.decide.hooks import View
from tangram.decide.jit import kernel, lean_kernel
from tangram.decide.price.line import Known, Line, LinePool, choose_whole, mark_last, pick, rows_to_score, take
from tangram.decide.price.pricing import learned
from tangram.decide.price.worth import LEVEL_COUNT, LEVELS, PARTS, UNIT, empty_tables, fill, node_worth
from tangram.snapshot.arrays import CPU, Float64, Int32, Int64, Prices

QUANTUM = 20.0
"""Losses are compared in whole multiples of this (milli-GPU): near-equal nodes tie on purpose, so that they fill in
one fixed order instead of all a little."""


class _Worth(NamedTuple):
    """Prices, and what each node row is worth at them."""

    levels: Float64
    part_value: Float64
    idle_value: Float64
    """As in ``worth.Tables``, by model."""
    at_level: Float64
    """[N, L]"""
    least: Int64
    """[N] the level at which the row is worth least."""
    idle: Int64
    """[N] devices that nobody uses."""
    seen: Int64
    """[N] ``LinePool.changes`` of the row that the above holds for; -1: for none."""


@lean_kernel
def _after_part(row: int, left: int, units: int, model: int, cpu: int, worth: _Worth) -> float:
    """The node's value once ``units`` of a device with ``left`` milli-GPU are gone, and the CPU at each level."""
    after, idle, part = 1e18, worth.idle[row], left // UNIT
    for level in range(LEVEL_COUNT):
        changed = worth.at_level[row, level] - worth.levels[level] * cpu
        if left >= 1000:
            before = worth.idle_value[model, idle, level]
            changed += worth.idle_value[model, idle - 1, level] - before + worth.part_value[model, PARTS - units, level]
        else:
            before = worth.part_value[model, part, level]
            changed += worth.part_value[model, max(part - units, 0), level] - before
        if changed < after:
            after = changed
    return after


@lean_kernel
def _best_part(
    row: int, milli: int, need: int, slots: int, model: int, free: Int32, memory_free: Int32, cpu: int, worth: _Worth
) -> tuple[float, int]:
    """(value after, device) for the device whose part costs the node least; the fullest among equals.

    Devices of which as much is left cost the same: one after the other of them is looked at once.
    """
    best, chosen, tried = -1e18, -1, -1
    for device in range(slots):
        left = free[row, device]
        if left < milli or memory_free[row, device] < need or left == tried:
            continue
        tried = left
        after = _after_part(row, left, (milli + UNIT - 1) // UNIT, model, cpu, worth)
        if after > best + 1e-9 or (after > best - 1e-9 and left < free[row, chosen]):
            best, chosen = after, device
    return best, chosen


@lean_kernel
def _after_whole(row: int, slots: int, count: int, model: int, cpu: int, worth: _Worth) -> float:
    """The node's value when ``count`` idle devices are taken, and the CPU at each level."""
    after, idle = 1e18, worth.idle[row]
    for level in range(LEVEL_COUNT):
        changed = worth.at_level[row, level] - worth.levels[level] * cpu
        if slots > 0 and count > 0:
            left = worth.idle_value[model, max(idle - count, 0), level]
            changed += left - worth.idle_value[model, idle, level]
        if changed < after:
            after = changed
    return after


@lean_kernel
def _score_row(
    row: int, count: int, milli: int, memory: int, cpu: int,
    free: Int64, device_free: Int32, device_memory_free: Int32, device_memory: Int32, device_count: Int32, model: Int32,
    worth: _Worth,
) -> tuple[int, int]:  # fmt: skip
    """(score by the node value lost, device of a pod that takes a part of one, else -1)."""
    slots, kind, chosen = device_count[row], model[row], -1
    value = worth.at_level[row, worth.least[row]]
    if count == 1 and milli < 1000:
        need = memory_of(milli, memory, device_memory[row])
        after, chosen = _best_part(row, milli, need, slots, kind, device_free, device_memory_free, cpu, worth)
    else:
        after = _after_whole(row, slots, count, kind, cpu, worth)
    return max(1000 - int(np.floor(max(value - after, 0.0) / QUANTUM + 0.5)), 0), chosen


@lean_kernel
def _appraise(row: int, free: Int64, device_free: Int32, device_count: Int32, model: Int32, worth: _Worth) -> None:
    """Work out what a row is worth."""
    worth.least[row], worth.idle[row] = node_worth(
        row, max(free[row, CPU], 0), device_free, device_count[row], model[row],
        worth.levels, worth.part_value, worth.idle_value, worth.at_level[row],
    )  # fmt: skip


@lean_kernel
def _score(
    rows: Int32, cpu: int, count: int, milli: int, memory: int,
    free: Int64, device_free: Int32, device_memory_free: Int32, device_memory: Int32, device_count: Int32, model: Int32,
    worth: _Worth, out: Int32, chosen: Int32,
) -> None:  # fmt: skip
    """Score rows by the node value lost; ``chosen`` gets the device of a pod that takes a part of one, else -1."""
    for index in range(len(rows)):
        row = rows[index]
        _appraise(row, free, device_free, device_count, model, worth)
        worth.seen[row] = -1
        out[index], chosen[index] = _score_row(
            row, count, milli, memory, cpu,
            free, device_free, device_memory_free, device_memory, device_count, model, worth,
        )  # fmt: skip


@lean_kernel
def _rescore(
    shape: int, line: Line, log_length: int, pool: LinePool, asked: Asked, known: Known, worth: _Worth
) -> None:
    """Bring the shape's scores up to date."""
    cpu, count = asked.request[shape, CPU], asked.number[shape, 0]
    milli, mine = asked.milli[shape, 0] if count == 1 else WHOLE, known.row_of[shape]
    for index in range(rows_to_score(shape, log_length, pool, asked, known, line.scratch)):
        row = line.scratch[index]
        if known.code[mine, row] != FITS:
            continue
        if worth.seen[row] != pool.changes[row]:
            _appraise(row, pool.free, pool.device_free, pool.device_count, pool.model, worth)
            worth.seen[row] = pool.changes[row]
        score, _ = _score_row(
            row, count, milli, asked.memory[shape, 0], cpu, pool.free, pool.device_free, pool.device_memory_free,
            pool.device_memory, pool.device_count, pool.model, worth,
        )  # fmt: skip
        known.score[mine, row] = line.weight * score


@lean_kernel
def _choose_part(index: int, shape: int, row: int, line: Line, pool: LinePool, asked: Asked, worth: _Worth) -> None:
    """Give the pod at ``index`` a part of a device."""
    milli = asked.milli[shape, 0]
    need = memory_of(milli, asked.memory[shape, 0], pool.device_memory[row])
    _, line.device[index, 0] = _best_part(
        row, milli, need, pool.device_count[row], pool.model[row], pool.device_free, pool.device_memory_free,
        asked.request[shape, CPU], worth,
    )  # fmt: skip


@kernel
def _place_line(line: Line, pool: LinePool, asked: Asked, known: Known, worth: _Worth) -> tuple[int, int]:
    """Place the line; (pods that have been decided, rows in the log now)."""
    placed, log_length = 0, line.log_length
    mark_last(line, pool)
    for index in range(len(line.shape)):
        shape = line.shape[index]
        line.row[index] = -1
        if placed == line.most:
            return index, log_length
        row = -1
        if known.dead[shape] != line.freed:
            _rescore(shape, line, log_length, pool, asked, known, worth)
            row = pick(shape, line, pool, known)
        if row < 0:
            known.dead[shape] = line.freed
            if not line.patient:
                return index, log_length
            continue
        if asked.number[shape, 0] == 1 and asked.milli[shape, 0] < WHOLE:
            _choose_part(index, shape, row, line, pool, asked, worth)
        else:
            choose_whole(index, shape, row, line, pool, asked)
        take(index, shape, row, log_length, line, pool, asked, known)
        log_length += 1
        placed += 1
    return len(line.shape), log_length


class BidPrice:
    """Score and devices by the loss of the pool's future value."""

    name = "bid-price"

    def __init__(self) -> None:
        self._prices: Prices | None = None
        self._seen: tuple[int, ...] = ()
        self._worth: _Worth

    def prepare(self, view: View) -> bool:
        """Work out what free space is worth, when the prices have moved."""
        prices = view.prices
        seen = (len(view.models), *view.device_free.shape)
        if prices is self._prices and seen == self._seen:
            return False
        self._prices, self._seen = prices, seen
        wanted, price = learned(view.shapes, len(view.models), prices)
        made = empty_tables(wanted, view.device_free.shape[1])
        fill(made, wanted, price, prices.cpu + LEVELS)
        rows = len(view.device_free)
        self._worth = _Worth(
            prices.cpu + LEVELS, made.part_value[made.of_model], made.idle_value[made.of_model],
            np.empty((rows, LEVEL_COUNT)), np.empty(rows, np.int64), np.empty(rows, np.int64), np.full(rows, -1),
        )  # fmt: skip
        return True

    def score(self, view: View, shape: int, rows: Int32) -> Int32:
        """1000 less the loss in steps of ``QUANTUM`` milli-GPU."""
        return self._work_out(view, shape, rows)[0]

    def devices(self, view: View, shape: int, row: int) -> Int32:
        """The device of least loss, the fullest among equals; no opinion of whole GPUs, which are worth the same."""
        shapes = view.shapes
        if shapes.ask_count[shape, 0] == 1 and shapes.ask_milli[shape, 0] < 1000:
            return self._work_out(view, shape, np.array([row], np.int32))[1]
        return np.zeros(0, np.int32)

    def place_line(self, line: Line, pool: LinePool, asked: Asked, known: Known) -> tuple[int, int]:
        """The same choices for a whole line."""
        return _place_line(line, pool, asked, known, self._worth)

    def _work_out(self, view: View, shape: int, rows: Int32) -> tuple[Int32, Int32]:
        shapes, nodes = view.shapes, view.nodes
        count = int(shapes.ask_count[shape].sum())
        milli = int(shapes.ask_milli[shape, 0]) if count == 1 else 1000
        out, chosen = np.empty(len(rows), np.int32), np.empty(len(rows), np.int32)
        _score(
            rows, shapes.request[shape, CPU], count, milli, shapes.ask_memory[shape, 0],
            view.free, view.device_free, view.device_memory_free,
            nodes.device_memory, nodes.device_count, nodes.model,
            self._worth, out, chosen,
        )  # fmt: skip
        return out, chosen
