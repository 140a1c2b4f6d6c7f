"""Put one pod on one node: choose the node under the class's fallback strategy, then its devices."""

from collections.abc import Callable

import numpy as np

from tangram.decide.devices import choose_devices, decision, line_decisions
from tangram.decide.fit.kernels import best_row
from tangram.decide.scores import Memory
from tangram.plan import Place
from tangram.snapshot.arrays import STRICT, Bool, Int32, Snapshot


def choose(
    memory: Memory, shape: int, allowed: Bool | None = None, waits: Callable[[], bool] | None = None
) -> int | None:
    """The best node row for the shape under its class's fallback strategy; None when it has to wait.

    ``allowed`` [N] leaves node rows out on which the shape's queue would exceed a limit. ``waits`` says whether
    it waits rather than run where its class would rather not: because evictions make room for it, or could.
    """
    scores = memory.scores(shape)
    if allowed is not None:
        scores = np.where(allowed, scores, np.int32(-1))
    liked, any_row = best_row(scores, memory.view.nodes.tie_rank, memory.preferred(shape))
    if liked >= 0:
        return liked
    if any_row < 0:
        if allowed is None:
            memory.set_dead(shape)
        return None
    fallback = memory.view.snapshot.classes.fallback
    if fallback == STRICT and memory.has_class_nodes(shape):
        if allowed is None:
            memory.set_dead(shape)
        return None
    if memory.has_class_nodes(shape) and waits is not None and waits():
        return None
    return any_row


def place_line(
    snapshot: Snapshot, memory: Memory, place: list[Place], slots: Int32, most: int, *, patient: bool
) -> list[int]:
    """Put pods that are plain (``Memory.plain``) on nodes in one go; the node row of each that was decided."""
    shapes = snapshot.pending.shape[slots]
    rows, devices = memory.place_line(shapes, most, patient=patient)
    place.extend(line_decisions(snapshot, slots, rows, devices))
    return rows


def commit(snapshot: Snapshot, memory: Memory, place: list[Place], slot: int, row: int) -> None:
    """Put the pod of a slot on a node row: choose its devices, count them, write the decision down."""
    shape = int(snapshot.pending.shape[slot])
    devices = choose_devices(memory, shape, row)
    memory.take(shape, row, [device for ask in devices for device in ask])
    place.append(decision(snapshot, slot, row, devices))
