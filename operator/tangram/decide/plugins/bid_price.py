"""Put each pod where the pool loses the least future value, at prices learned from the workload (see ``pricing``)."""

import numpy as np

from tangram.decide.hooks import View
from tangram.decide.jit import kernel
from tangram.decide.pricing import LEVELS, PARTS, UNIT, Tables, learned, node_worth, tables
from tangram.snapshot.arrays import CPU, Float64, Int32, Int64, Prices

QUANTUM = 20.0
"""Losses are compared in whole multiples of this (milli-GPU): near-equal nodes tie on purpose, so that they fill in
one fixed order instead of all a little."""


@kernel
def _after_part(left: int, units: int, idle: int, taken: Float64, part_value: Float64, idle_value: Float64) -> float:
    """The node's value once ``units`` of a device with ``left`` milli-GPU are gone; ``taken``: worth less the CPU."""
    after = 1e18
    for level in range(len(taken)):
        changed = taken[level]
        if left >= 1000:
            changed += idle_value[level, idle - 1] - idle_value[level, idle] + part_value[level, PARTS - units]
        else:
            part = left // UNIT
            changed += part_value[level, max(part - units, 0)] - part_value[level, part]
        after = min(after, changed)
    return after


@kernel
def _best_part(
    milli: int, need: int, slots: int, free: Int32, memory_free: Int32, idle: int,
    taken: Float64, part_value: Float64, idle_value: Float64,
) -> tuple[float, int]:  # fmt: skip
    """(value after, device) for the device whose part costs the node least; the fullest among equals."""
    best, chosen, tried_idle = -1e18, -1, False
    for device in range(slots):
        left = free[device]
        if left < milli or memory_free[device] < need or (left >= 1000 and tried_idle):
            continue
        tried_idle = tried_idle or left >= 1000
        after = _after_part(left, (milli + UNIT - 1) // UNIT, idle, taken, part_value, idle_value)
        if after > best + 1e-9 or (after > best - 1e-9 and left < free[chosen]):
            best, chosen = after, device
    return best, chosen


@kernel
def _after_whole(slots: int, count: int, idle: int, taken: Float64, idle_value: Float64) -> float:
    """The node's value when ``count`` idle devices are taken."""
    after = 1e18
    for level in range(len(taken)):
        changed = taken[level]
        if slots > 0 and count > 0:
            changed += idle_value[level, max(idle - count, 0)] - idle_value[level, idle]
        after = min(after, changed)
    return after


@kernel
def _score(
    rows: Int32, pod_cpu: int, count: int, milli: int, memory: int,
    free: Int64, device_free: Int32, device_memory_free: Int32, device_memory: Int32, device_count: Int32, model: Int32,
    levels: Float64, part_value: Float64, idle_value: Float64, out: Int32, chosen: Int32,
) -> None:  # fmt: skip
    """Score rows by the node value lost; ``chosen`` gets the device of a pod that takes a part of one, else -1."""
    worth = np.zeros(len(levels))
    for index in range(len(rows)):
        row = rows[index]
        slots, kind = device_count[row], model[row]
        least = node_worth(max(free[row, CPU], 0), device_free[row], slots, kind, levels, part_value, idle_value, worth)
        value, idle = worth[least], 0
        for device in range(slots):
            if device_free[row, device] >= 1000:
                idle += 1
        taken = worth - levels * pod_cpu
        chosen[index] = -1
        if count == 1 and milli < 1000:
            need = memory if memory > 0 else milli * device_memory[row] // 1000
            after, chosen[index] = _best_part(
                milli, need, slots, device_free[row], device_memory_free[row], idle,
                taken, part_value[kind], idle_value[kind],
            )  # fmt: skip
        else:
            after = _after_whole(slots, count, idle, taken, idle_value[kind])
        out[index] = max(1000 - int(np.floor(max(value - after, 0.0) / QUANTUM + 0.5)), 0)


class BidPrice:
    """Score and devices by the loss of the pool's future value."""

    name = "bid-price"

    def __init__(self) -> None:
        self._prices: Prices | None = None
        self._seen: tuple[int, ...] = ()
        self._levels: Float64 = LEVELS
        self._tables: Tables

    def prepare(self, view: View) -> bool:
        """Work out what free space is worth, when the prices have moved."""
        snapshot = view.snapshot
        prices = snapshot.prices
        seen = (len(snapshot.models), view.device_free.shape[1])
        if prices is self._prices and seen == self._seen:
            return False
        self._prices, self._seen = prices, seen
        wanted, price = learned(snapshot)
        self._levels = prices.cpu + LEVELS
        self._tables = tables(wanted, price, prices.cpu, len(snapshot.models), view.device_free.shape[1])
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

    def _work_out(self, view: View, shape: int, rows: Int32) -> tuple[Int32, Int32]:
        shapes, nodes = view.shapes, view.nodes
        count = int(shapes.ask_count[shape].sum())
        milli = int(shapes.ask_milli[shape, 0]) if count == 1 else 1000
        out, chosen = np.empty(len(rows), np.int32), np.empty(len(rows), np.int32)
        _score(
            rows, shapes.request[shape, CPU], count, milli, shapes.ask_memory[shape, 0],
            view.free, view.device_free, view.device_memory_free,
            nodes.device_memory, nodes.device_count, nodes.model,
            self._levels, self._tables.part_value, self._tables.idle_value, out, chosen,
        )  # fmt: skip
        return out, chosen
