"""Keep what is left usable: prefer the placement after which popular pods can still use most of the idle GPUs.

Fragmentation gradient descent ("Beware of Fragmentation", USENIX ATC 2023): the fragmentation of a node is the
expected part of its idle GPU that a pod drawn from the workload cannot use; a pod goes where it grows least. The
workload is learned from the pods that have arrived.
"""

import math

import numpy as np

from tangram.decide.hooks import View
from tangram.decide.jit import kernel
from tangram.snapshot.arrays import CPU, Bool, Int32, Int64

_COVERED = 0.95


@kernel
def _fragment(
    cpu: int, free: Int32, count: int, model: int,
    type_cpu: Int64, type_count: Int32, type_milli: Int32, type_weight: Int64, type_model: Bool,
) -> float:  # fmt: skip
    """Expected milli-GPU of the node that a pod of the workload cannot use."""
    total = 0
    for device in range(count):
        total += free[device]
    if total == 0:
        return 0.0
    expected = 0.0
    for row in range(len(type_cpu)):
        unusable = total
        if type_count[row] > 0 and type_cpu[row] <= cpu and type_model[row, model]:
            usable, pieces = 0, 0
            for device in range(count):
                if free[device] >= type_milli[row]:
                    pieces += 1
                    usable += free[device]
            if pieces >= type_count[row]:
                unusable = total - usable
        expected += type_weight[row] * unusable
    return expected


@kernel
def _gradient(
    rows: Int32, cpu_request: int, count: int, milli: int, memory: int,
    free: Int64, device_free: Int32, device_memory_free: Int32, device_memory: Int32, device_count: Int32, model: Int32,
    type_cpu: Int64, type_count: Int32, type_milli: Int32, type_weight: Int64, type_model: Bool,
    out: Int32, chosen: Int32,
) -> None:  # fmt: skip
    """Score rows for one ask; ``chosen`` gets the device of a single-device ask (-1 for several)."""
    weights = max(type_weight.sum(), 1)
    for index in range(len(rows)):
        row = rows[index]
        devices = device_free[row].copy()
        cpu = free[row, CPU]
        slots = device_count[row]
        out[index] = 500
        chosen[index] = -1
        if slots == 0:
            continue
        before = _fragment(cpu, devices, slots, model[row], type_cpu, type_count, type_milli, type_weight, type_model)
        need = memory if memory > 0 else milli * device_memory[row] // 1000
        best, best_device = -1.0, -1
        if count == 1 and milli < 1000:
            seen = -1
            for device in range(slots):
                if devices[device] < milli or device_memory_free[row, device] < need or devices[device] == seen:
                    continue
                seen = devices[device]
                devices[device] -= milli
                after = _fragment(
                    cpu - cpu_request, devices, slots, model[row],
                    type_cpu, type_count, type_milli, type_weight, type_model,
                )  # fmt: skip
                devices[device] += milli
                value = 1.0 / (1.0 + math.exp(-(before - after) / weights / 1000.0))
                if value > best:
                    best, best_device = value, device
        else:
            left = count
            for device in range(slots):
                if left > 0 and devices[device] >= milli and device_memory_free[row, device] >= need:
                    devices[device] -= milli
                    left -= 1
            after = _fragment(
                cpu - cpu_request, devices, slots, model[row],
                type_cpu, type_count, type_milli, type_weight, type_model,
            )  # fmt: skip
            best = 1.0 / (1.0 + math.exp(-(before - after) / weights / 1000.0))
        out[index] = int(100 * best) * 10
        chosen[index] = best_device


class Fragmentation:
    """Score and devices by the growth of fragmentation."""

    name = "fragmentation"

    def __init__(self) -> None:
        self._seen = (-1, -1, -1)
        self._types: tuple[Int64, Int32, Int32, Int64, Bool] = _no_types()

    def prepare(self, view: View) -> bool:
        """Learn the workload's popular shapes anew when enough pods have arrived."""
        snapshot = view.snapshot
        seen = (snapshot.workload_revision, len(snapshot.models), len(snapshot.resources))
        if seen == self._seen:
            return False
        self._seen = seen
        self._types = popular_types(view)
        return True

    def score(self, view: View, shape: int, rows: Int32) -> Int32:
        """0 to 1000 in steps of 10: near-equal nodes tie on purpose, which fills nodes in one fixed order."""
        return self._work_out(view, shape, rows)[0]

    def devices(self, view: View, shape: int, row: int) -> Int32:
        """The device that leaves least fragmentation; the first free ones for whole GPUs."""
        return self._work_out(view, shape, np.array([row], np.int32))[1]

    def _work_out(self, view: View, shape: int, rows: Int32) -> tuple[Int32, Int32]:
        shapes, nodes = view.shapes, view.nodes
        out, chosen = np.empty(len(rows), np.int32), np.empty(len(rows), np.int32)
        _gradient(
            rows, shapes.request[shape, CPU],
            shapes.ask_count[shape, 0], shapes.ask_milli[shape, 0], shapes.ask_memory[shape, 0],
            view.free, view.device_free, view.device_memory_free,
            nodes.device_memory, nodes.device_count, nodes.model,
            *self._types, out, chosen,
        )  # fmt: skip
        return out, chosen


def popular_types(view: View) -> tuple[Int64, Int32, Int32, Int64, Bool]:
    """(milli-CPU, devices, milli-GPU, weight, allowed models) of the shapes that cover most arrivals."""
    shapes, models = view.shapes, max(1, len(view.models))
    tally: dict[tuple[int, int, int, tuple[int, ...]], int] = {}
    for shape in np.flatnonzero(shapes.popularity):
        key = (
            int(shapes.request[shape, CPU]),
            int(shapes.ask_count[shape, 0]),
            int(shapes.ask_milli[shape, 0]),
            shapes.models[shape],
        )
        tally[key] = tally.get(key, 0) + int(shapes.popularity[shape])
    enough, covered, chosen = _COVERED * sum(tally.values()), 0, []
    for key, weight in sorted(tally.items(), key=lambda item: (-item[1], item[0])):
        if covered >= enough:
            break
        covered += weight
        chosen.append((key, weight))
    allowed = np.ones((len(chosen), models), np.bool_)
    for row, ((_, _, _, wanted), _) in enumerate(chosen):
        if wanted:
            allowed[row] = np.isin(np.arange(models), wanted)
    return (
        np.array([key[0] for key, _ in chosen], np.int64),
        np.array([key[1] for key, _ in chosen], np.int32),
        np.array([key[2] for key, _ in chosen], np.int32),
        np.array([weight for _, weight in chosen], np.int64),
        allowed,
    )


def _no_types() -> tuple[Int64, Int32, Int32, Int64, Bool]:
    none = np.zeros(0, np.int32)
    return np.zeros(0, np.int64), none, none, np.zeros(0, np.int64), np.ones((0, 1), np.bool_)
