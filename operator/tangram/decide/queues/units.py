"""What waits as units, one pod or what a gang needs to start, and the least that could be taken from what runs."""

from collections.abc import Callable

import numpy as np

from tangram.decide.queues.ranking import UNTAKEN, Amounts, Line, Request, Unit, lower
from tangram.snapshot.arrays import PREEMPT, Int32, Snapshot

_FIXED = 3
"""Columns cpu, memory, gpu; the ones after them are single GPU models."""
Charge = Callable[[int, int], Amounts]
"""(shape, GPU model or -1) -> [X] what a pod of the shape uses of each column."""


class Units:
    """Units by their place in the order of priority and age."""

    def __init__(self, snapshot: Snapshot, slots: Int32, charge: Charge) -> None:
        """``slots`` in that order."""
        self._snapshot, self._slots, self._charge = snapshot, slots, charge
        self._singles: dict[int, Request] = {}
        """By shape."""
        self._gangs = self._of_gangs()

    def unit(self, position: int) -> Unit:
        """The pod, or the gang whose first member stands, at this place."""
        slot, pending = int(self._slots[position]), self._snapshot.pending
        request = self._gangs.get(slot)
        if request is None:
            shape = int(pending.shape[slot])
            request = self._singles.get(shape)
            if request is None:
                request = self._singles[shape] = self._request([shape], is_gang=False, alone=True)
        return Unit(request, slot, position, int(pending.priority[slot]))

    def lines(self) -> dict[int, Line]:
        """By leaf row the places of its units: of a gang that of its first member."""
        pending, shapes = self._snapshot.pending, self._snapshot.shapes
        gang, shape = pending.gang[self._slots], pending.shape[self._slots]
        first = gang < 0
        if self._gangs:
            first |= np.isin(self._slots, list(self._gangs))
        places = np.flatnonzero(first)
        leaves = shapes.leaf[shape[places]]
        order = np.argsort(leaves, kind="stable")
        places, leaves = places[order], leaves[order]
        kind = np.where(gang < 0, shape, -1 - gang)
        lines = {}
        for some in np.split(places, np.flatnonzero(np.diff(leaves)) + 1):
            equal = bool((kind[some] == kind[some[0]]).all())
            lines[int(shapes.leaf[shape[some[0]]])] = Line(some.tolist(), equal)
        return lines

    def _of_gangs(self) -> dict[int, Request]:
        """First slot of each waiting gang -> what the gang needs at least."""
        pending, gangs = self._snapshot.pending, self._snapshot.gangs
        members: dict[int, list[int]] = {}
        for slot in self._slots[pending.gang[self._slots] >= 0].tolist():
            members.setdefault(int(pending.gang[slot]), []).append(slot)
        found = {}
        for gang, slots in members.items():
            needed = slots[: max(1, gangs.missing(gang))]
            shapes = pending.shape[needed].tolist()
            found[slots[0]] = self._request(shapes, is_gang=True, alone=len(needed) < len(slots))
        return found

    def _request(self, shapes: list[int], *, is_gang: bool, alone: bool) -> Request:
        """What pods of these shapes ask for together; ``alone``: one of them can be taken without the others."""
        snapshot, first = self._snapshot, shapes[0]
        models = [-1]
        if len(snapshot.queues.columns) > _FIXED and snapshot.shapes.ask_count[first, 0]:
            models = list(snapshot.shapes.models[first] or range(len(snapshot.models))) or models
        asked: dict[tuple[int, ...], Amounts] = {}
        for model in models:
            total = [sum(column) for column in zip(*(self._charge(one, model) for one in shapes), strict=True)]
            asked.setdefault(tuple(total), total)
        every, klass = tuple(asked.values()), int(snapshot.shapes.priority_class[first])
        preempts = snapshot.classes.fallback == PREEMPT and klass >= 0
        return Request(
            leaf=int(snapshot.shapes.leaf[first]),
            shape=first,
            asked=every,
            least=self._charge(first, models[0]) if alone else every[0],
            weight=int(snapshot.classes.weight[klass]) if preempts else 0,
            is_gang=is_gang,
        )


def smallest(snapshot: Snapshot, charge: Charge) -> list[Amounts]:
    """[Q, X] the least that could be taken at once from what runs in each queue row: a pod, or a gang that needs all
    of its members."""
    queues, running, gangs = snapshot.queues, snapshot.running, snapshot.gangs
    out = [[UNTAKEN] * len(queues.columns) for _ in queues.names]
    slots = np.flatnonzero(running.present)
    gang = running.gang[slots]
    tight = gang >= 0
    tight[tight] = gangs.bound[gang[tight]] <= gangs.minimum[gang[tight]]
    together: dict[int, tuple[int, Amounts]] = {}
    keys = np.stack([np.where(tight, gang, -1), running.shape[slots], snapshot.nodes.model[running.node[slots]]])
    for (whose, shape, model), count in zip(*_counted(keys), strict=True):
        leaf, amounts = int(snapshot.shapes.leaf[shape]), [count * one for one in charge(shape, model)]
        if whose >= 0:
            before = together.get(whose, (leaf, [0] * len(amounts)))[1]
            together[whose] = leaf, [one + other for one, other in zip(before, amounts, strict=True)]
        else:
            _note(queues.parent, out, leaf, charge(shape, model))
    for leaf, amounts in together.values():
        _note(queues.parent, out, leaf, amounts)
    return out


def _counted(keys: Int32) -> tuple[list[list[int]], list[int]]:
    found, count = np.unique(keys, axis=1, return_counts=True)
    return found.T.tolist(), count.tolist()


def _note(parent: Int32, out: list[Amounts], row: int, amounts: Amounts) -> None:
    while row >= 0:
        lower(out[row], amounts)
        row = int(parent[row])
