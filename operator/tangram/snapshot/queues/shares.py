"""What each queue would have if everybody had a fair share of what they want: the yardstick beside what it uses."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from tangram.snapshot.arrays import CPU, MEMORY, Float64, Int32, Int64, Queues, Snapshot

Numbers = TypeVar("Numbers", Int32, Int64)

_HALVINGS = 60
"""Steps of a search by halves: then nothing is left between its ends."""


def waiting_pods(snapshot: Snapshot) -> Int32:
    """[Q] pods that wait in each queue and below it, those included that are not to be tried for now or as they are."""
    out, pending = np.zeros(len(snapshot.queues.names), np.int32), snapshot.pending
    aside = [slot for slot in pending.invalid if pending.shape[slot] >= 0]
    slots = np.concatenate((np.flatnonzero(pending.waiting), np.array(aside, np.int64)))
    np.add.at(out, snapshot.shapes.leaf[pending.shape[slots]], 1)
    np.add.at(out, np.array(list(pending.queue.values()), np.int64), 1)
    return _summed(snapshot.queues, out)


def bound_pods(queues: Queues) -> Int32:
    """[Q] pods that are bound in each queue and below it."""
    return _summed(queues, queues.pods.copy())


def fair_shares(queues: Queues, asked: Int64, capacity: Sequence[float]) -> Float64:
    """[Q, X] a fair share of each column, level by level down the tree.

    Of its parent's share (at the top: of the pool) every queue has its guarantee, and in total so much for its weight
    as those beside it have (max-min fairness), but never more than it wants: what it uses and what its waiting pods
    ask for, as far as its limit and those of the queues below it allow. This is where evictions and the order of
    placement lead. Columns of single GPU models, for which pods that take any model ask for nothing, count only what
    is used.
    """
    wanted = _wanted(queues, asked).astype(np.float64)
    out = np.zeros(wanted.shape)
    weight = np.where(queues.weights > 0, queues.weights, queues.weight[:, None]).astype(np.float64)
    for parent in range(-1, len(queues.names)):
        rows = np.flatnonzero(queues.parent == parent)
        for column in range(len(capacity)) if len(rows) else ():
            total = capacity[column] if parent < 0 else out[parent, column]
            kept = queues.guarantee[rows, column].astype(np.float64)
            out[rows, column] = _divided(total, wanted[rows, column], kept, weight[rows, column])
    return out


def _wanted(queues: Queues, asked: Int64) -> Int64:
    """[Q, X] what each row could use if it got all that it wants: what those below it could, up to its limit."""
    out: Int64 = np.where(queues.is_leaf[:, None], queues.usage + asked, 0)
    for row in range(len(out) - 1, -1, -1):
        out[row] = np.minimum(out[row], queues.limit[row])
        if queues.parent[row] >= 0:
            out[queues.parent[row]] += out[row]
    return out


def _divided(total: float, wanted: Float64, kept: Float64, weight: Float64) -> Float64:
    """Guarantees first, in proportion where they are more than there is; then in total as even, by weight, as they and
    what is wanted allow."""
    least = np.minimum(wanted, kept)
    if least.sum() >= total:
        return least * (total / least.sum()) if least.sum() else least
    if wanted.sum() <= total:
        return wanted
    low, high = 0.0, float((wanted / weight).max())
    for _ in range(_HALVINGS):
        level = (low + high) / 2
        low, high = (level, high) if np.clip(level * weight, least, wanted).sum() <= total else (low, level)
    return np.clip(low * weight, least, wanted)


def asked_by_queue(snapshot: Snapshot) -> Int64:
    """[Q, X] what waiting pods ask for."""
    shapes, pending, queues = snapshot.shapes, snapshot.pending, snapshot.queues
    out = np.zeros(queues.usage.shape, np.int64)
    shape, count = np.unique(pending.shape[np.flatnonzero(pending.waiting)], return_counts=True)
    leaf = shapes.leaf[shape]
    milli = np.array([shapes.gpu_milli(row) for row in shape.tolist()], np.int64)
    for column, each in enumerate((shapes.request[shape, CPU], shapes.request[shape, MEMORY], milli)):
        np.add.at(out[:, column], leaf, count * each)
    return _summed(queues, out)


def _summed(queues: Queues, amounts: Numbers) -> Numbers:
    """The amounts of each row with those of all rows below it."""
    for row in range(len(amounts) - 1, -1, -1):
        parent = int(queues.parent[row])
        if parent >= 0:
            amounts[parent] += amounts[row]
    return amounts
