"""What waits as units, and the least that could be taken from what runs.

A unit is one pod, or what a gang needs to start; members beyond that are units of their own.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from tangram.decide.queues.ranking import UNTAKEN, Amounts, Dead, Kind, Line, Request, lower
from tangram.snapshot.arrays import PREEMPT, Int8, Int32, Snapshot

_FIXED = 3
"""Columns cpu, memory, gpu; the ones after them are single GPU models."""
Charge = Callable[[int, int], Amounts]
"""(shape, GPU model or -1) -> [X] what a pod of the shape uses of each column."""


class InOrder(NamedTuple):
    """Pods that are to have a turn, in order of priority and age. S of them."""

    slots: Int32
    """[S]"""
    dead: Int8
    """[S] which turn each has if it fits nowhere (``Dead``)."""


class Units:
    """What waits: pods, gangs by their first members, and members beyond what their gangs need."""

    def __init__(self, snapshot: Snapshot, line: InOrder, charge: Charge) -> None:
        self._snapshot, self._charge = snapshot, charge
        self._slots, self._dead = line
        self._further: list[int] = []
        """Slots of members that their gangs can do without."""
        self._gangs = self._of_gangs()
        """By the slot of the first member."""

    def lines(self) -> dict[int, Line]:
        """What waits in each leaf row, by kind: of one shape, priority and right, or one gang."""
        pending = self._snapshot.pending
        gang, shape, priority = pending.gang[self._slots], pending.shape[self._slots], pending.priority[self._slots]
        alone = gang < 0
        if self._further:
            alone |= np.isin(self._slots, self._further)
        first = alone | np.isin(self._slots, list(self._gangs)) if self._gangs else alone
        places = np.flatnonzero(first)[::-1]
        code = np.where(alone, shape, -1 - gang)
        keys = self._dead[places], priority[places], code[places]
        places = places[np.lexsort(keys)]
        ends = np.flatnonzero(np.any([np.diff(key[places]) != 0 for key in (self._dead, priority, code)], axis=0)) + 1
        lines: dict[int, Line] = {}
        for some in np.split(places, ends) if len(places) else ():
            slot = int(self._slots[some[-1]])
            request = self._gangs.get(slot) or self._request([int(pending.shape[slot])], is_gang=False, alone=True)
            kind = Kind(request, int(pending.priority[slot]), some.tolist(), Dead(self._dead[some[-1]]))
            lines.setdefault(request.leaf, Line([])).alive.append(kind)
        for line in lines.values():
            line.alive.sort()
        return lines

    def _of_gangs(self) -> dict[int, Request]:
        """First slot of each waiting gang -> what the gang needs at least."""
        pending, gangs = self._snapshot.pending, self._snapshot.gangs
        members: dict[int, list[int]] = {}
        for slot in self._slots[pending.gang[self._slots] >= 0].tolist():
            members.setdefault(int(pending.gang[slot]), []).append(slot)
        found = {}
        for gang, slots in members.items():
            missing = gangs.missing(gang)
            needed = slots[: max(1, missing)]
            self._further += slots[len(needed) :]
            shapes = pending.shape[needed].tolist()
            found[slots[0]] = self._request(shapes, is_gang=True, alone=missing <= 0)
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
    models = len(snapshot.models) + 1
    keys = np.where(tight, gang + 1, 0) * len(snapshot.shapes.leaf) + running.shape[slots].astype(np.int64)
    keys = keys * models + snapshot.nodes.model[running.node[slots]] + 1
    for key, count in zip(*(found.tolist() for found in np.unique(keys, return_counts=True)), strict=True):
        (whose, shape), model = divmod(key // models, len(snapshot.shapes.leaf)), key % models - 1
        leaf, amounts = int(snapshot.shapes.leaf[shape]), charge(shape, model)
        if not whose:
            _note(queues.parent, out, leaf, amounts)
            continue
        before = together.get(whose, (leaf, [0] * len(amounts)))[1]
        together[whose] = leaf, [one + count * other for one, other in zip(before, amounts, strict=True)]
    for leaf, amounts in together.values():
        _note(queues.parent, out, leaf, amounts)
    return out


def _note(parent: Int32, out: list[Amounts], row: int, amounts: Amounts) -> None:
    while row >= 0:
        lower(out[row], amounts)
        row = int(parent[row])
