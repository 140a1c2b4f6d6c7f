"""What queues, and the priority classes within them, hold, and what they may."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tangram.decide.queues.fairness import share_per_unit
from tangram.snapshot.arrays import UNLIMITED, Int32, Int64, Snapshot
from tangram.snapshot.build import Builder

POOLED = 3
"""Queue columns of the whole pool: CPU, memory, GPUs; single models follow."""


@dataclass(frozen=True, slots=True)
class QueueUse:
    """A queue, or a priority class within one."""

    name: str
    gpu_milli: int
    """What its pods hold; places that are still being made free for some do not count."""
    share_percent: float
    """Largest part that it holds of any resource of the pool, divided by its weight, as in the policy's status."""
    weight: int
    guarantee_milli: int
    """0: nothing is promised."""
    limit_milli: int | None
    waiting: int
    own: bool
    """Whether the pod asked about is in it."""


def queue_uses(builder: Builder, snapshot: Snapshot, shape: int) -> tuple[QueueUse, ...]:
    """The queues, and the classes that hold something or have pods that wait, by name; ``shape``: of the pod asked
    about."""
    queues, gpu, held = snapshot.queues, snapshot.queues.columns.index("gpu"), _held(builder, snapshot)
    shares = (held * share_per_unit(snapshot)).max(axis=1)
    waiting = _waiting(snapshot)
    own = set(upwards(snapshot, int(snapshot.shapes.leaf[shape])))
    found = []
    for row in range(len(queues.names)):
        limit = int(queues.limit[row, gpu])
        one = QueueUse(
            name=_full_name(snapshot, row),
            gpu_milli=int(held[row, gpu]),
            share_percent=round(100 * float(shares[row]), 1),
            weight=int(queues.weight[row]),
            guarantee_milli=int(queues.guarantee[row, gpu]),
            limit_milli=limit if limit < UNLIMITED else None,
            waiting=int(waiting[row]),
            own=row in own,
        )
        if one.waiting or one.share_percent or not queues.is_leaf[row]:
            found.append(one)
    return tuple(sorted(found, key=lambda one: one.name))


def upwards(snapshot: Snapshot, row: int) -> Iterator[int]:
    """The queue rows from a row to the top of the tree."""
    while row >= 0:
        yield row
        row = int(snapshot.queues.parent[row])


def queue_name(snapshot: Snapshot, leaf: int) -> str:
    """Name of the queue of a leaf row; empty: it has none."""
    return snapshot.queues.names[int(snapshot.queues.parent[leaf])] if leaf >= 0 else ""


def _held(builder: Builder, snapshot: Snapshot) -> Int64:
    """[Q, X] what pods hold: of what is charged to queues without the places that others have yet to leave."""
    held: Int64 = snapshot.queues.usage.copy()
    for uid, claim in builder.claims.held.items():
        spot = claim.spots[uid]
        for row in upwards(snapshot, spot.leaf):
            held[row, : len(spot.charged)] -= spot.charged
    return held


def _waiting(snapshot: Snapshot) -> Int64:
    """[Q] pods that wait."""
    pending = snapshot.pending
    found: Int64 = np.zeros(len(snapshot.queues.names), np.int64)
    slots: Int32 = np.flatnonzero(pending.waiting).astype(np.int32)
    for leaf in snapshot.shapes.leaf[pending.shape[slots]].tolist():
        for row in upwards(snapshot, leaf):
            found[row] += 1
    return found


def _full_name(snapshot: Snapshot, row: int) -> str:
    """The queue's name; for a leaf the queue's and the class's."""
    queues = snapshot.queues
    if not queues.is_leaf[row]:
        return queues.names[row]
    number = int(queues.names[row].rpartition("/")[2])
    klass = snapshot.classes.names[number] if number >= 0 else "(no class)"
    return f"{queue_name(snapshot, row)} / {klass}"
