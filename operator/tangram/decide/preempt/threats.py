"""Which waiting pods could have a right to evict certain running ones: a quick test, which may say yes too often.

All pods are tested at once by what is necessary for each right (``claim``): level by level up the tree of queues, by
amounts of whole rows. What it lets through is decided by making the decision.
"""

from typing import NamedTuple

import numpy as np

from tangram.decide.preempt.order import rank
from tangram.decide.queues.fairness import charge_of, share_per_unit
from tangram.decide.queues.rights import GPU, kinds
from tangram.decide.queues.units import smallest
from tangram.snapshot.arrays import PREEMPT, Bool, Float64, Int32, Int64, Queues, Snapshot

_EQUAL = 1e-12
"""As in ``balance``."""
_NOBODY = np.iinfo(np.int64).max


class _Kinds(NamedTuple):
    """Distinct requests of waiting pods. K of them."""

    queue: Int32
    """[K] queue row; -1: none."""
    asked: Int64
    """[K, X]"""
    judged: Bool
    """[K, X] columns by which they are judged."""
    rank: Int64
    weight: Int64


class _Prey(NamedTuple):
    """The running pods in question. Q queue rows."""

    below: Int64
    """[Q] how many are below each row."""
    without_gpus: Int64
    """[Q] how many of these have no GPUs."""
    lowest: Int64
    """[Q] the lowest rank of those in each row itself."""
    weight: int
    """The lowest weight of their classes."""


def may_stand_above_placed(snapshot: Snapshot, placed: list[int]) -> bool:
    """Whether ``could_evict`` may say yes to anybody who waits beside these slots, which are placed: not where all are
    of one queue and nobody who waits ranks above any of these."""
    pending, shapes = snapshot.pending, snapshot.shapes
    waiting = pending.waiting & (pending.claim < 0)
    waiting[placed] = False
    slots = waiting.nonzero()[0]
    both = np.concatenate([slots, np.array(placed, np.int64)])
    shape = pending.shape[both]
    queue = _queue_of(snapshot, shape)
    if (queue != queue[0]).any():
        return True
    weight = np.append(snapshot.classes.weight, 0).astype(np.int64)[shapes.priority_class[shape]]
    ranks = rank(snapshot, weight, pending.priority[both].astype(np.int64))
    return bool(ranks[: len(slots)].max(initial=-_NOBODY) > ranks[len(slots) :].min(initial=_NOBODY))


def could_evict(snapshot: Snapshot, slots: Int32, prey: Int64) -> Bool:
    """[len(slots)] which of these waiting pods could have a right to evict one of these running slots, or another pod
    for what these have brought to their queues."""
    pending, running, queues = snapshot.pending, snapshot.running, snapshot.queues
    if not len(slots) or not len(prey):
        return np.zeros(len(slots), np.bool_)
    priority = pending.priority[slots].astype(np.int64)
    alike = (pending.shape[slots].astype(np.int64) << 32) + priority  # sorting pairs costs ten times as much
    _, first, which = np.unique(alike, return_index=True, return_inverse=True)
    weight = np.append(snapshot.classes.weight, 0).astype(np.int64)
    shapes = pending.shape[slots[first]]
    asked = np.array([charge_of(snapshot, shape, -1) for shape in shapes.tolist()], np.int64)
    some = _Kinds(
        queue=_queue_of(snapshot, shapes),
        asked=asked,
        judged=np.array([kinds(one) for one in asked], np.bool_) & (asked > 0),
        rank=rank(snapshot, weight[snapshot.shapes.priority_class[shapes]], priority[first]),
        weight=weight[snapshot.shapes.priority_class[shapes]],
    )
    theirs = weight[snapshot.shapes.priority_class[running.shape[prey]]]
    rows, ranks = (
        _queue_of(snapshot, running.shape[prey]),
        rank(snapshot, theirs, running.priority[prey].astype(np.int64)),
    )
    below, without_gpus = np.zeros(len(queues.names), np.int64), np.zeros(len(queues.names), np.int64)
    lowest, plain = np.full(len(queues.names) + 1, _NOBODY), snapshot.shapes.ask_count[running.shape[prey], 0] == 0
    np.minimum.at(lowest, rows, ranks)
    for row in _upwards(rows, queues):
        np.add.at(below, row[row >= 0], 1)
        np.add.at(without_gpus, row[plain & (row >= 0)], 1)
    found = _Prey(below, without_gpus, lowest, int(theirs.min()))
    able = _by_rank(snapshot, some, found)
    if (some.queue != rows[0]).any() or (rows != rows[0]).any():  # the other rights are between queues
        able |= _by_promise(snapshot, some, found) | _by_share(snapshot, some, found)
    return np.asarray(pending.preempts[slots] & able[which.reshape(-1)], np.bool_)


def _queue_of(snapshot: Snapshot, shapes: Int32) -> Int32:
    """The queue rows of shapes; -1: none."""
    leaf = snapshot.shapes.leaf[shapes]
    return np.where(leaf >= 0, snapshot.queues.parent[leaf], -1).astype(np.int32)


def _upwards(rows: Int32, queues: Queues) -> list[Int32]:
    """The rows, those above them, and so on; -1 beyond the top."""
    found = []
    while (rows >= 0).any():
        found.append(rows)
        rows = np.where(rows >= 0, queues.parent[rows], -1).astype(np.int32)
    return found


def _by_rank(snapshot: Snapshot, some: _Kinds, prey: _Prey) -> Bool:
    """[K] lower in the same queue, or of a lower class where classes preempt."""
    by_class = (snapshot.classes.fallback == PREEMPT) & (some.weight > prey.weight)
    return np.asarray((some.rank > prey.lowest[some.queue]) | by_class, np.bool_)


def _by_promise(snapshot: Snapshot, some: _Kinds, prey: _Prey) -> Bool:
    """[K] whether a row on the way up is within a promise with the pod, at least once lower ones of its queue have
    left, and any of the prey is outside of it."""
    queues, running = snapshot.queues, snapshot.running
    there = np.flatnonzero(running.present)
    weight = np.append(snapshot.classes.weight, 0).astype(np.int64)[
        snapshot.shapes.priority_class[running.shape[there]]
    ]
    lowest = np.full(len(queues.names) + 1, _NOBODY)
    ranks = rank(snapshot, weight, running.priority[there].astype(np.int64))
    np.minimum.at(lowest, _queue_of(snapshot, running.shape[there]), ranks)
    alone = some.rank <= lowest[some.queue]
    asks_gpus = some.asked[:, GPU : GPU + 1]
    wanted = np.where(np.arange(some.asked.shape[1]) > GPU, asks_gpus, some.asked)  # whichever model it may get
    judged = some.judged | ((np.arange(some.asked.shape[1]) > GPU) & (asks_gpus > 0))
    able = np.zeros(len(some.queue), np.bool_)
    for row in _upwards(some.queue, queues):
        after = np.where(alone[:, None], queues.usage[row], 0) + wanted
        covered = (judged & (queues.guarantee[row] > 0) & (after <= queues.guarantee[row])).any(axis=1)
        able |= (row >= 0) & covered & (prey.below[row] < prey.below[queues.parent < 0].sum())
    return able


def _by_share(snapshot: Snapshot, some: _Kinds, prey: _Prey) -> Bool:
    """[K] whether a row on the way up has, with the pod, no more than one beside it that has prey keeps when the least
    that could be taken from it has been."""
    queues, part = snapshot.queues, share_per_unit(snapshot)
    taken = smallest(snapshot, lambda shape, model: charge_of(snapshot, shape, model).tolist())
    least = np.array(taken, np.int64).reshape(queues.usage.shape)
    least[:, GPU:][prey.without_gpus > 0] = 0
    kept = (np.maximum(queues.usage - least, 0) * part).max(axis=1)
    kept = np.where((prey.below > 0) & queues.reclaimable & ~queues.is_leaf, kept, -1.0)
    most = _most_beside(kept, queues)
    able = np.zeros(len(some.queue), np.bool_)
    for row in _upwards(some.queue, queues):
        after = ((queues.usage[row] + some.asked) * part[row]).max(axis=1)
        able |= (row >= 0) & (after <= most[row] * (1 + _EQUAL))
    return able


def _most_beside(kept: Float64, queues: Queues) -> Float64:
    """[Q] the most that is kept in a row beside each; -1: in none."""
    found = np.full(len(kept), -1.0)
    for parent in np.unique(queues.parent[~queues.is_leaf]).tolist():
        rows = np.flatnonzero((queues.parent == parent) & ~queues.is_leaf)
        best = int(np.argmax(kept[rows]))
        found[rows] = kept[rows[best]]
        found[rows[best]] = np.delete(kept[rows], best).max(initial=-1.0)
    return found
