"""Put each pod where the pool loses the least future value, at prices learned from the workload (see ``pricing``)."""

from typing import NamedTuple

import numpy as np

from tangram.decide.codes import FITS
from tangram.decide.fit.kernels import WHOLE, Asked, asked_by, memory_of, tightest
from tangram.decide.hooks import View
from tangram.decide.jit import kernel, lean_kernel
from tangram.decide.price.line import (
    Known,
    Line,
    LinePool,
    Turn,
    Work,
    choose_whole,
    mark_last,
    pick,
    rows_to_score,
    take,
)
from tangram.decide.price.pricing import learned
from tangram.decide.price.worth import (
    LEVEL_COUNT,
    LEVELS,
    PARTS,
    UNIT,
    FreeNode,
    Values,
    empty_tables,
    fill_tables,
    node_worth,
)
from tangram.snapshot.arrays import CPU, Float64, Int32, Int64, Prices

QUANTUM = 20.0
"""Losses are compared in whole multiples of this (milli-GPU): near-equal nodes tie on purpose, so that they fill in
one fixed order instead of all a little."""


class _Worth(NamedTuple):
    """Prices, and what each node row is worth at them."""

    values: Values
    """By model."""
    at_level: Float64
    """[N, L]"""
    least: Int64
    """[N] the level at which the row is worth least."""
    idle: Int64
    """[N] devices that nobody uses."""
    seen: Int64
    """[N] ``LinePool.changes`` of the row that the above holds for; -1: for none."""


class _Nodes(NamedTuple):
    """What is free on each node row, and what its devices are; as ``LinePool``."""

    free: Int64
    device_free: Int32
    device_memory_free: Int32
    device_memory: Int32
    device_count: Int32
    model: Int32


class _Scores(NamedTuple):
    """What is to be scored, and the scores."""

    rows: Int32
    out: Int32
    """[len(rows)] to be written."""


class _Pod(NamedTuple):
    """What a pod asks for."""

    cpu: int
    number: int
    """Devices."""
    milli: int
    """Of each."""
    memory: int
    """MiB of each; 0: in proportion."""


@lean_kernel
def _after_part(row: int, left: int, pod: _Pod, model: int, worth: _Worth) -> float:
    """The node's value once the pod has its part of a device with ``left`` milli-GPU, and its CPU, at each level."""
    after, idle, part, units = 1e18, worth.idle[row], left // UNIT, (pod.milli + UNIT - 1) // UNIT
    values = worth.values
    for level in range(LEVEL_COUNT):
        changed = worth.at_level[row, level] - values.levels[level] * pod.cpu
        if left >= 1000:
            before = values.idle[model, idle, level]
            changed += values.idle[model, idle - 1, level] - before + values.part[model, PARTS - units, level]
        else:
            before = values.part[model, part, level]
            changed += values.part[model, max(part - units, 0), level] - before
        if changed < after:
            after = changed
    return after


@lean_kernel
def _best_part(row: int, pod: _Pod, nodes: _Nodes, worth: _Worth) -> tuple[float, int]:
    """(value after, device) for the device whose part costs the node least; the fullest among equals.

    Devices of which as much is left cost the same: one after the other of them is looked at once.
    """
    best, chosen, tried, free, model = -1e18, -1, -1, nodes.device_free, nodes.model[row]
    need = memory_of(pod.milli, pod.memory, nodes.device_memory[row])
    for device in range(nodes.device_count[row]):
        left = free[row, device]
        if left < pod.milli or nodes.device_memory_free[row, device] < need or left == tried:
            continue
        tried = left
        after = _after_part(row, left, pod, model, worth)
        if after > best + 1e-9 or (after > best - 1e-9 and left < free[row, chosen]):
            best, chosen = after, device
    return best, chosen


@lean_kernel
def _after_whole(row: int, pod: _Pod, nodes: _Nodes, worth: _Worth) -> float:
    """The node's value when the pod has its idle devices and its CPU, at each level."""
    after, idle, values, model = 1e18, worth.idle[row], worth.values, nodes.model[row]
    for level in range(LEVEL_COUNT):
        changed = worth.at_level[row, level] - values.levels[level] * pod.cpu
        if nodes.device_count[row] > 0 and pod.number > 0:
            left = values.idle[model, max(idle - pod.number, 0), level]
            changed += left - values.idle[model, idle, level]
        if changed < after:
            after = changed
    return after


@lean_kernel
def _score_row(row: int, pod: _Pod, nodes: _Nodes, worth: _Worth) -> tuple[int, int]:
    """(score by the node value lost, device of a pod that takes a part of one, else -1)."""
    chosen, value = -1, worth.at_level[row, worth.least[row]]
    if pod.number == 1 and pod.milli < 1000:
        after, chosen = _best_part(row, pod, nodes, worth)
    else:
        after = _after_whole(row, pod, nodes, worth)
    lost = int(np.floor(max(value - after, 0.0) / QUANTUM + 0.5))
    if pod.number == 0 and nodes.device_count[row] > 0:
        lost += 1  # what is learned may not know yet who will want these CPUs beside their GPUs
    return max(1000 - lost, 0), chosen


@lean_kernel
def _appraise(row: int, nodes: _Nodes, worth: _Worth) -> None:
    """Work out what a row is worth."""
    cpu, devices = max(nodes.free[row, CPU], 0), nodes.device_free[row]
    node = FreeNode(cpu, devices, nodes.device_count[row], nodes.model[row])
    worth.least[row], worth.idle[row] = node_worth(node, worth.values, worth.at_level[row])


@lean_kernel
def _score(
    rows: Int32, cpu: int, number: int, milli: int, memory: int,
    free: Int64, device_free: Int32, device_memory_free: Int32, device_memory: Int32, device_count: Int32, model: Int32,
    worth: _Worth, out: Int32, chosen: Int32,
) -> None:  # fmt: skip
    """Score rows by the node value lost; ``chosen`` gets the device of a pod that takes a part of one, else -1.

    It is called from Python for one pod after the other, where each bundle costs (docs/decisions/012).
    """
    pod = _Pod(cpu, number, milli, memory)
    nodes = _Nodes(free, device_free, device_memory_free, device_memory, device_count, model)
    for index in range(len(rows)):
        row = rows[index]
        _appraise(row, nodes, worth)
        worth.seen[row] = -1
        out[index], chosen[index] = _score_row(row, pod, nodes, worth)


@kernel
def _score_several(shape: int, asked: Asked, nodes: _Nodes, worth: _Worth, scores: _Scores) -> None:
    """Score rows by the node value lost to a pod with several asks, each of which, largest first, gets the fullest
    devices that have room."""
    order, cpu = np.argsort(-asked.milli[shape], kind="mergesort"), asked.request[shape, CPU]
    after = np.empty(LEVEL_COUNT)
    for index in range(len(scores.rows)):
        row = scores.rows[index]
        count = nodes.device_count[row]
        _appraise(row, nodes, worth)
        worth.seen[row] = -1
        free, memory_free = nodes.device_free[row].copy(), nodes.device_memory_free[row].copy()
        for ask in order:
            milli = asked.milli[shape, ask]
            need = memory_of(milli, asked.memory[shape, ask], nodes.device_memory[row])
            for _ in range(asked.number[shape, ask]):
                device = tightest(free, memory_free, count, milli, need)
                if device >= 0:
                    free[device] -= milli
                    memory_free[device] -= need
        node = FreeNode(max(nodes.free[row, CPU], 0) - cpu, free, count, nodes.model[row])
        least, _ = node_worth(node, worth.values, after)
        lost = worth.at_level[row, worth.least[row]] - after[least]
        scores.out[index] = max(1000 - int(np.floor(max(lost, 0.0) / QUANTUM + 0.5)), 0)


@lean_kernel
def _nodes_of(pool: LinePool) -> _Nodes:
    return _Nodes(
        pool.free, pool.device_free, pool.device_memory_free, pool.device_memory, pool.device_count, pool.model
    )


@lean_kernel
def _rescore(shape: int, log_length: int, work: Work, worth: _Worth) -> None:
    """Bring the shape's scores up to date."""
    line, pool, asked, known = work
    count = asked.number[shape, 0]
    milli, mine = asked.milli[shape, 0] if count == 1 else WHOLE, known.row_of[shape]
    nodes, pod = _nodes_of(pool), _Pod(asked.request[shape, CPU], count, milli, asked.memory[shape, 0])
    for index in range(rows_to_score(shape, log_length, work, line.scratch)):
        row = line.scratch[index]
        if known.code[mine, row] != FITS:
            continue
        if worth.seen[row] != pool.changes[row]:
            _appraise(row, nodes, worth)
            worth.seen[row] = pool.changes[row]
        score, _ = _score_row(row, pod, nodes, worth)
        known.score[mine, row] = line.weight * score


@lean_kernel
def _choose_part(turn: Turn, work: Work, worth: _Worth) -> None:
    """Give the pod a part of a device."""
    index, shape, row = turn
    asked = work.asked
    pod = _Pod(asked.request[shape, CPU], 1, asked.milli[shape, 0], asked.memory[shape, 0])
    _, work.line.device[index, 0] = _best_part(row, pod, _nodes_of(work.pool), worth)


@kernel
def _place_line(line: Line, pool: LinePool, asked: Asked, known: Known, worth: _Worth) -> tuple[int, int]:
    """Place the line; (pods that have been decided, rows in the log now)."""
    placed, log_length, work = 0, line.log_length, Work(line, pool, asked, known)
    mark_last(line, pool)
    for index in range(len(line.shape)):
        shape = line.shape[index]
        line.row[index] = -1
        if placed == line.most:
            return index, log_length
        row = -1
        if known.dead[shape] != line.freed:
            _rescore(shape, log_length, work, worth)
            row = pick(shape, line, pool, known)
        if row < 0:
            known.dead[shape] = line.freed
            if not line.patient:
                return index, log_length
            continue
        turn = Turn(index, shape, row)
        if asked.number[shape, 0] == 1 and asked.milli[shape, 0] < WHOLE:
            _choose_part(turn, work, worth)
        else:
            choose_whole(turn, line, pool, asked)
        take(turn, log_length, work)
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
        fill_tables(made, wanted, price, prices.cpu + LEVELS)
        rows = len(view.device_free)
        self._worth = _Worth(
            Values(prices.cpu + LEVELS, made.part_value[made.of_model], made.idle_value[made.of_model]),
            np.empty((rows, LEVEL_COUNT)), np.empty(rows, np.int64), np.empty(rows, np.int64), np.full(rows, -1),
        )  # fmt: skip
        return True

    def score(self, view: View, shape: int, rows: Int32) -> Int32:
        """1000 less the loss in steps of ``QUANTUM`` milli-GPU; for a pod without GPUs a step less beside some."""
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
        out, chosen = np.empty(len(rows), np.int32), np.full(len(rows), -1, np.int32)
        if shapes.ask_count[shape, 1:].any():
            space = _Nodes(
                view.free, view.device_free, view.device_memory_free,
                nodes.device_memory, nodes.device_count, nodes.model,
            )  # fmt: skip
            asked = asked_by(shapes, nodes.counts_devices)
            _score_several(shape, asked, space, self._worth, _Scores(rows, out))
            return out, chosen
        count = int(shapes.ask_count[shape, 0])
        milli = int(shapes.ask_milli[shape, 0]) if count == 1 else 1000
        _score(
            rows, shapes.request[shape, CPU], count, milli, shapes.ask_memory[shape, 0],
            view.free, view.device_free, view.device_memory_free,
            nodes.device_memory, nodes.device_count, nodes.model,
            self._worth, out, chosen,
        )  # fmt: skip
        return out, chosen
