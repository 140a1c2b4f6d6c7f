"""Keep what is left usable: prefer the placement after which popular pods can still use most of the idle GPUs.

Fragmentation gradient descent ("Beware of Fragmentation", USENIX ATC 2023): the fragmentation of a node is the
expected part of its idle GPU that a pod drawn from the workload cannot use; a pod goes where it grows least. The
workload is learned from the pods that have arrived.
"""

import math
from typing import NamedTuple

import numpy as np

from tangram.decide.fit.kernels import Asked, Space, asked_by, memory_of
from tangram.decide.hooks import View
from tangram.decide.jit import kernel
from tangram.snapshot.arrays import CPU, Bool, Int32, Int64

_COVERED = 0.95
_WITHOUT_GPUS = 501
"""The score of nodes without GPUs: a little above that of those that are as usable as before, 500."""


class _Types(NamedTuple):
    """The popular pods of the workload."""

    cpu: Int64
    devices: Int32
    """How many each of them asks for."""
    milli: Int32
    """milli-GPU of each."""
    weight: Int64
    """How many have arrived."""
    model: Bool
    """[K, M] models that they may run on."""


class _Question(NamedTuple):
    """Which node rows are to be scored for a shape, and the answers, to be written."""

    rows: Int32
    shape: int
    score: Int32
    """[len(rows)]"""
    device: Int32
    """[len(rows)] the device of a pod that wants one; -1 for several."""


@kernel
def _fragment(cpu: int, free: Int32, count: int, model: int, types: _Types) -> float:
    """Expected milli-GPU of the node that a pod of the workload cannot use."""
    total = 0
    for device in range(count):
        total += free[device]
    if total == 0:
        return 0.0
    expected = 0.0
    for row in range(len(types.cpu)):
        unusable = total
        if types.devices[row] > 0 and types.cpu[row] <= cpu and types.model[row, model]:
            usable, pieces = 0, 0
            for device in range(count):
                if free[device] >= types.milli[row]:
                    pieces += 1
                    usable += free[device]
            if pieces >= types.devices[row]:
                unusable = total - usable
        expected += types.weight[row] * unusable
    return expected


@kernel
def _gradient(question: _Question, asked: Asked, space: Space, model: Int32, types: _Types) -> None:
    """Score rows for the shape's first ask."""
    rows, shape = question.rows, question.shape
    weights = max(types.weight.sum(), 1)
    cpu_request, count, milli = asked.request[shape, CPU], asked.number[shape, 0], asked.milli[shape, 0]
    for index in range(len(rows)):
        row = rows[index]
        devices = space.device_free[row].copy()
        cpu = space.free[row, CPU]
        slots = space.device_count[row]
        question.score[index] = _WITHOUT_GPUS
        question.device[index] = -1
        if slots == 0:
            continue
        before = _fragment(cpu, devices, slots, model[row], types)
        need = memory_of(milli, asked.memory[shape, 0], space.device_memory[row])
        best, best_device = -1.0, -1
        if count == 1 and milli < 1000:
            seen = -1
            for device in range(slots):
                crowded = space.device_memory_free[row, device] < need
                if devices[device] < milli or crowded or devices[device] == seen:
                    continue
                seen = devices[device]
                devices[device] -= milli
                after = _fragment(cpu - cpu_request, devices, slots, model[row], types)
                devices[device] += milli
                value = 1.0 / (1.0 + math.exp(-(before - after) / weights / 1000.0))
                if value > best:
                    best, best_device = value, device
        else:
            left = count
            for device in range(slots):
                if left > 0 and devices[device] >= milli and space.device_memory_free[row, device] >= need:
                    devices[device] -= milli
                    left -= 1
            after = _fragment(cpu - cpu_request, devices, slots, model[row], types)
            best = 1.0 / (1.0 + math.exp(-(before - after) / weights / 1000.0))
        question.score[index] = int(100 * best) * 10
        question.device[index] = best_device


class Fragmentation:
    """Score and devices by the growth of fragmentation."""

    name = "fragmentation"

    def __init__(self) -> None:
        self._seen = (-1, -1, -1)
        self._types = _no_types()

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
        nodes, count = view.nodes, len(rows)
        question = _Question(rows, shape, np.empty(count, np.int32), np.empty(count, np.int32))
        space = Space(view.free, view.device_free, view.device_memory_free, nodes.device_count, nodes.device_memory)
        _gradient(question, asked_by(view.shapes, nodes.counts_devices), space, nodes.model, self._types)
        return question.score, question.device


def popular_types(view: View) -> _Types:
    """The shapes that cover most arrivals."""
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
    return _Types(
        np.array([key[0] for key, _ in chosen], np.int64),
        np.array([key[1] for key, _ in chosen], np.int32),
        np.array([key[2] for key, _ in chosen], np.int32),
        np.array([weight for _, weight in chosen], np.int64),
        allowed,
    )


def _no_types() -> _Types:
    none = np.zeros(0, np.int32)
    return _Types(np.zeros(0, np.int64), none, none, np.zeros(0, np.int64), np.ones((0, 1), np.bool_))
