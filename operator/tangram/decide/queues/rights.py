"""What a queue is promised and what it would have to give back: one definition for whose turn it is and for evictions.

A pod that asks for GPUs is judged by what is promised and used in GPUs (of any model and of the node's), any other by
CPU and memory. A queue is *within its promise* with one more pod where what it then uses is covered in every column
by which the pod is judged and for which something is promised. Beyond that it borrows, and what it borrows is compared
by its *share with the pod*: a queue that has less than another with the pod counted in takes from that one.

Small pure functions of integers: X columns are cpu, memory, gpu, then ``gpu/MODEL``; Q queue rows.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from tangram.snapshot.arrays import Bool, Int64, Queues

GPU = 2
"""The queue column of GPUs of any model; columns of single models follow it."""

_DIGITS = 12
"""Digits of a share that count: amounts and weights are whole numbers, what comes after is rounding."""

Share = tuple[float, float, float, float, float]
"""Weighted parts of the pool: the largest of all columns; for ties the largest and the sum of those of GPUs, then of
CPU and memory. Of two, the smaller has less."""

Owed = tuple[tuple[int, tuple[int, ...]], ...]
"""(queue row, per column what it would use beyond its limit), of the rows that would."""


def kinds(asked: Int64) -> Bool:
    """[X] the columns by which a pod that asks for so much is judged: GPUs if it asks for any, else CPU and memory."""
    gpus = np.arange(len(asked)) >= GPU
    return gpus if asked[GPU] else ~gpus


def promise_used(promised: Sequence[int], used: Sequence[int], asked: Sequence[int]) -> tuple[float, float] | None:
    """The largest part of its promise, all [X], that a queue uses without and with the pod, of the columns by which the
    pod is judged; None: with the pod it is not within its promise, or nothing is promised there."""
    before, after = 0.0, 0.0
    for column in range(GPU, len(asked)) if asked[GPU] else range(GPU):
        if not asked[column] or not promised[column]:
            continue
        with_it = used[column] + asked[column]
        if with_it > promised[column]:
            return None
        before, after = max(before, used[column] / promised[column]), max(after, with_it / promised[column])
    return (round(before, _DIGITS), round(after, _DIGITS)) if after else None


def is_within(used: Int64, asked: Int64, promised: Int64) -> bool:
    """Whether a queue that uses so much and is promised so much, all [X], is within its promise with the pod too."""
    return promise_used(promised.tolist(), used.tolist(), asked.tolist()) is not None


def entitled(path: Iterable[int], guarantee: Int64, used: Callable[[int], Int64], asked: Int64) -> int:
    """The first row of a path, from a queue upwards, that is within its promise with the pod; -1: none.

    ``guarantee`` [Q, X]; ``used`` gives what a row uses [X].
    """
    for row in path:
        if is_within(used(row), asked, guarantee[row]):
            return row
    return -1


def share(used: Sequence[int], part: Sequence[float]) -> Share:
    """The share of a queue that uses so much; ``part`` [X] is what one unit of a column counts for it."""
    cpu, memory, gpus = (round(used[column] * part[column], _DIGITS) for column in (0, 1, GPU))
    most, total = gpus, gpus
    for column in range(GPU + 1, len(used)):
        model = round(used[column] * part[column], _DIGITS)
        most, total = max(most, model), total + model
    rest = max(cpu, memory)
    return max(most, rest), most, total, rest, cpu + memory


def dominant(used: Sequence[int], part: Sequence[float]) -> float:
    """The first number of ``share``."""
    return round(max(amount * one for amount, one in zip(used, part, strict=True)), _DIGITS)


def owed_to_limits(path: Iterable[int], limit: Int64, used: Callable[[int], Int64], asked: Int64) -> Owed:
    """What has to be given up below each row of the path so that the pod keeps within all their limits.

    ``limit`` [Q, X]. Only the columns that the pod asks for count; rows that have room for it are left out.
    """
    found = []
    for row in path:
        over = np.where(asked > 0, np.maximum(used(row) + asked - limit[row], 0), 0)
        if over.any():
            found.append((row, tuple(over.tolist())))
    return tuple(found)


def least_runtime(queues: Queues) -> Int64:
    """[Q + 1] seconds that a pod of the queue runs before it can be evicted: the longest that it or a queue above it
    says. The last row is for pods whose queue is gone."""
    found = np.append(queues.min_runtime, 0)
    for row, parent in enumerate(queues.parent.tolist()):
        if parent >= 0:
            found[row] = max(found[row], found[parent])
    return found
