"""What a queue is promised and what it would have to give back: one definition for whose turn it is and for evictions.

A pod that asks for GPUs is judged by what is promised and used in GPUs (of any model and of the node's), any other by
CPU and memory. A queue is *within its promise* with one more pod where what it then uses is covered in every column
by which the pod is judged and for which something is promised. Beyond that it borrows, and what it borrows is compared
by its *share with the pod*: a queue that has less than another with the pod counted in takes from that one.

Small pure functions of integers: X columns are cpu, memory, gpu, then ``gpu/MODEL``; Q queue rows.
"""

from collections.abc import Callable, Iterable

import numpy as np

from tangram.snapshot.arrays import Bool, Float64, Int64, Queues

GPU = 2
"""The queue column of GPUs of any model; columns of single models follow it."""

Owed = tuple[tuple[int, tuple[int, ...]], ...]
"""(queue row, per column what it would use beyond its limit), of the rows that would."""


def kinds(asked: Int64) -> Bool:
    """[X] the columns by which a pod that asks for so much is judged: GPUs if it asks for any, else CPU and memory."""
    gpus = np.arange(len(asked)) >= GPU
    return gpus if asked[GPU] else ~gpus


def is_within(used: Int64, asked: Int64, promised: Int64) -> bool:
    """Whether a queue that uses so much and is promised so much, all [X], is within its promise with the pod too."""
    counted = kinds(asked) & (asked > 0) & (promised > 0)
    return bool(counted.any() and (used + asked <= promised)[counted].all())


def entitled(path: Iterable[int], guarantee: Int64, used: Callable[[int], Int64], asked: Int64) -> int:
    """The first row of a path, from a queue upwards, that is within its promise with the pod; -1: none.

    ``guarantee`` [Q, X]; ``used`` gives what a row uses [X].
    """
    for row in path:
        if is_within(used(row), asked, guarantee[row]):
            return row
    return -1


def share_with(used: Int64, asked: Int64, part: Float64) -> float:
    """The weighted dominant share of a queue with the pod; ``part`` [X] is what one unit of each column counts."""
    return float(((used + asked) * part).max())


def turn(used: Int64, asked: Int64, promised: Int64, part: Float64) -> tuple[int, float]:
    """Orders queues, the least first, by what their next pod would make of them.

    (0, part of its promise) where the queue is within its promise with the pod, else (1, share with the pod).
    """
    if is_within(used, asked, promised):
        counted = kinds(asked) & (asked > 0) & (promised > 0)
        return 0, float(((used + asked)[counted] / promised[counted]).max())
    return 1, share_with(used, asked, part)


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
