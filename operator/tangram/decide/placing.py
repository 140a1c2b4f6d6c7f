"""Put one pod on one node: choose the node under the class's fallback strategy, then its devices."""

from collections.abc import Callable

import numpy as np

from tangram.decide.decision import Decision
from tangram.decide.devices import Devices, choose_devices, line_places, place_of
from tangram.decide.draft import Placed
from tangram.decide.fit.kernels import Ties, best_row
from tangram.decide.scores import Scores
from tangram.snapshot.arrays import STRICT, Bool, Int32

_SPREAD = 7919
"""A prime: shapes are likely to be given different nodes."""


def choose(
    scores: Scores, shape: int, allowed: Bool | None = None, waits: Callable[[], bool] | None = None
) -> int | None:
    """The best node row for the shape under its class's fallback strategy; None when it has to wait.

    ``allowed`` [N] leaves node rows out on which the shape's queue would exceed a limit. ``waits`` says whether
    it waits rather than run where its class would rather not: because evictions make room for it, or could.
    """
    found = scores.scores(shape)
    if allowed is not None:
        found = np.where(allowed, found, np.int32(-1))
    nodes, idle_last = scores.snapshot.nodes, not scores.snapshot.prices.any_known
    ties = Ties(scores.view.device_free, nodes.device_count, nodes.tie_rank, idle_last)
    liked, any_row = best_row(found, ties, scores.preferred(shape))
    if liked >= 0:
        return liked
    if any_row < 0:
        if allowed is None:
            scores.set_dead(shape)
        return None
    fallback = scores.snapshot.classes.fallback
    if fallback == STRICT and scores.has_class_nodes(shape):
        if allowed is None:
            scores.set_dead(shape)
        return None
    if scores.has_class_nodes(shape) and waits is not None and waits():
        return None
    return any_row


def fitting_node(scores: Scores, shape: int, allowed: Bool | None) -> int | None:
    """A node row on which one more pod of the shape fits now, of the ``allowed`` [N] ones if not None; None: nowhere.

    Not the best one, which the next placement is likely to take away: any, but for equal pods always the same.
    """
    if scores.is_dead(shape):
        return None
    fits = scores.scores(shape) >= 0
    if scores.view.snapshot.classes.fallback == STRICT and scores.has_class_nodes(shape):
        fits &= scores.preferred(shape)
    rows = np.flatnonzero(fits if allowed is None else fits & allowed)
    return int(rows[shape * _SPREAD % len(rows)]) if len(rows) else None


def place_line(decision: Decision, slots: Int32, most: int, *, patient: bool) -> list[int]:
    """Put pods that are plain (``Scores.plain``) on nodes in one go; the node row of each that was decided."""
    shapes = decision.snapshot.pending.shape[slots]
    rows, devices = decision.scores.place_line(shapes, most, patient=patient)
    decision.draft.add_places(line_places(decision.snapshot, slots, rows, devices))
    return rows


def commit(decision: Decision, slot: int, row: int, kept: tuple[Devices, ...] | None = None) -> None:
    """Put the pod of a slot on a node row: choose its devices unless some are ``kept`` for it, count them, charge its
    queue, write the place down."""
    snapshot = decision.snapshot
    shape = int(snapshot.pending.shape[slot])
    devices = choose_devices(decision, shape, row) if kept is None else kept
    decision.pool.take(shape, row, snapshot.shapes.request[shape], [part for ask in devices for part in ask])
    decision.pool.take_volumes(slot, row)
    decision.turns.charge(shape, row)
    decision.draft.add_places((Placed(slot, row, place_of(snapshot, slot, row, devices)),))
