"""Whose turn it is: weighted dominant-resource fairness down the tree of queues, guarantees first, limits always.

A queue's share is the largest part of any resource of the pool that it uses, divided by its weight for it (dominant
resource fairness, NSDI 2011, with weights). At every level the child goes first whose next pod stays within what is
promised, then the one that has the smallest share with it, as evictions count it (``rights``): what is placed now is
not taken back by the next cycle. Where that leaves a choice, past use decides, then priority and age of the pod. A
priority class is a child of its queue with the class's weight.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial

import numpy as np

from tangram.decide.journal import Journal, Restore
from tangram.decide.queues.ranking import Ranking, Request, Tree, lower
from tangram.decide.queues.units import InOrder, Units, smallest
from tangram.snapshot.arrays import UNLIMITED, Bool, Float64, Int32, Int64, Snapshot

_FIXED = 3
"""Columns cpu, memory, gpu; the ones after them are single GPU models."""
_GPU = 2
_DIGITS = 12
Fitting = Callable[[int, Bool | None], int | None]
"""(shape, [N] node rows that its queue may use or None for all) -> a node row on which the shape fits now."""


def anywhere(shape: int, allowed: Bool | None) -> int | None:
    """Of a pool that has room for everybody."""
    return 0


class Turns:
    """Hands out waiting slots in the order of fairness while usage grows within one decision."""

    def __init__(
        self,
        snapshot: Snapshot,
        line: InOrder,
        journal: Journal,
        fitting: Fitting = anywhere,
        at_limit: Callable[[], Container[int]] = frozenset,
    ) -> None:
        """Charges are in the journal. ``fitting`` says what can still be placed: of the others none decides when its
        queue has its turn. ``at_limit``: the shapes that are over a limit by now, of which no pod can be helped."""
        queues, slots = snapshot.queues, line.slots
        self._snapshot, self._journal, self._fitting, self._at_limit = snapshot, journal, fitting, at_limit
        self._limited = bool(np.count_nonzero(queues.limit < UNLIMITED))
        self._limited_models = self._limited and bool(np.count_nonzero(queues.limit[:, _FIXED:] < UNLIMITED))
        self._slots = slots
        self._one_line = _is_one_line(snapshot, slots)
        self._ordered = not self._one_line or self._limited or bool(np.count_nonzero(queues.guarantee))
        self._parent: list[int] = queues.parent.tolist()
        self._usage: list[list[int]] = []
        self._least: list[list[int]] = []
        """[Q, X] as ``Tree.smallest``; nothing where there is no choice whose turn it is."""
        self._ranking: Ranking | None = None
        self.counts = self._ordered or (bool(np.count_nonzero(snapshot.running.present)) and _are_several(snapshot))
        """Whether anybody asks what a queue uses by now."""
        if self.counts:
            self._usage = queues.usage.tolist()
            self._limit: list[list[int]] = queues.limit.tolist()
            self._charges: dict[tuple[int, int], list[int]] = {}
        if not self._one_line:
            self._limited_rows = set(np.flatnonzero((queues.limit < UNLIMITED).any(axis=1)).tolist())
            self._below: dict[int, list[int]] = {}
            """Limited row -> leaves below it."""
            free = snapshot.nodes.device_free[snapshot.nodes.present].sum(dtype=np.int64)
            self._gpus = int(free + queues.usage[queues.parent < 0, _GPU].sum())
            self._ranking = self._ranked(line)

    @property
    def fixed(self) -> bool:
        """Whether nothing that is placed changes who comes next or may use what: the order is that of the slots."""
        return not self._ordered

    @property
    def ranked(self) -> bool:
        """Whether there is a choice whose turn it is: then each member that its gang can do without has its own."""
        return self._ranking is not None

    def __iter__(self) -> Iterator[int]:
        """Waiting slots; each next one is chosen when it is asked for, by what has been charged until then.

        Where there is a choice at all, what a gang needs is there by its first member, and each further one by itself.
        """
        if self._ranking is None:
            pending = self._snapshot.pending
            shapes, gangs = pending.shape[self._slots].tolist(), pending.gang[self._slots].tolist()
            for slot, shape, gang in zip(self._slots.tolist(), shapes, gangs, strict=True):
                if gang >= 0 or shape not in self._at_limit():
                    yield slot
            return
        while (unit := self._ranking.take()) is not None:
            yield int(self._slots[unit.position])

    def fits(self, request: Request) -> int | None:
        """A node row on which the pod, or a member of the gang, fits now and within the limits of its queue; None: it
        cannot be placed."""
        if self._limited and not any(self._within_limits(request.shape, asked) for asked in request.asked):
            return None
        if request.is_gang and request.asked[0][_GPU] > self._free_gpus():
            return None
        return self._fitting(request.shape, self.rows_within_limits(request.shape))

    def needs_no_turn(self, request: Request, positions: list[int]) -> bool:
        """Whether it is known of these that fit nowhere why they do, so that nothing follows from their turns: another
        pod of the shape was found to be over a limit, and all of them stand alone."""
        if request.is_gang or request.shape not in self._at_limit():
            return False
        return not (self._snapshot.pending.gang[self._slots[positions]] >= 0).any()

    def may_use(self, shape: int) -> bool:
        """Whether no limit forbids one more pod of the shape, whatever GPU model it would get."""
        return not self._limited or self._within_limits(shape, self._charge_of(shape, -1))

    def is_limited(self, shape: int) -> bool:
        """Whether the shape's queue, or one above it, has a limit."""
        limit, leaf = self._snapshot.queues.limit, int(self._snapshot.shapes.leaf[shape])
        return self._limited and any((limit[row] < UNLIMITED).any() for row in self._path(leaf))

    def rows_within_limits(self, shape: int) -> Bool | None:
        """[N] node rows whose GPU model the shape's queue may still use; None: all."""
        if not self._limited_models or self._snapshot.shapes.ask_count[shape, 0] == 0:
            return None
        models = range(len(self._snapshot.models))
        forbidden = [model for model in models if not self._within_limits(shape, self._charge_of(shape, model))]
        return ~np.isin(self._snapshot.nodes.model, forbidden) if forbidden else None

    def charge(self, shape: int, node_row: int) -> None:
        """Count a placement for the shape's leaf and everything above it."""
        if not self.counts:
            return
        leaf = int(self._snapshot.shapes.leaf[shape])
        amounts = self._charge_of(shape, int(self._snapshot.nodes.model[node_row]))
        for row in self._path(leaf):
            self._journal.keep(("turns", row), self._copy, row)
            usage = self._usage[row]
            for column, amount in enumerate(amounts):
                usage[column] += amount
        if self._ranking is not None:
            self._ranking.charged(leaf, node_row)
            for row in self._limited_rows.intersection(self._path(leaf)):
                self._ranking.doubt(self._below.get(row, ()))

    def used(self, row: int) -> list[int]:
        """[X] what a queue row uses by now."""
        return self._usage[row] if self.counts else self._snapshot.queues.usage[row].tolist()

    def _copy(self, row: int) -> Restore:
        return partial(self._put_back, row, list(self._usage[row]), list(self._least[row]) if self._least else [])

    def _put_back(self, row: int, usage: list[int], least: list[int]) -> None:
        self._usage[row][:] = usage
        if self._ranking is not None:
            self._least[row][:] = least
            self._ranking.changed(row)

    def _path(self, row: int) -> Iterator[int]:
        while row >= 0:
            yield row
            row = self._parent[row]

    def _within_limits(self, shape: int, amounts: list[int]) -> bool:
        row = int(self._snapshot.shapes.leaf[shape])
        while row >= 0:
            usage, limit = self._usage[row], self._limit[row]
            for column, amount in enumerate(amounts):
                if amount and usage[column] + amount > limit[column]:
                    return False
            row = self._parent[row]
        return True

    def _charge_of(self, shape: int, model: int) -> list[int]:
        found = self._charges.get((shape, model))
        if found is None:
            found = self._charges[shape, model] = charge_of(self._snapshot, shape, model).tolist()
        return found

    def _ranked(self, line: InOrder) -> Ranking:
        """The lines of what waits, and the tree that orders them."""
        queues, part = self._snapshot.queues, share_per_unit(self._snapshot)
        lines = Units(self._snapshot, line, self._charge_of).lines()
        for leaf in lines:
            for row in self._limited_rows.intersection(self._path(leaf)):
                self._below.setdefault(row, []).append(leaf)
        past = past_share(self._snapshot)
        least = self._least = smallest(self._snapshot, self._charge_of)
        nominated = self._snapshot.pending.nominated[line.slots] >= 0
        for slot in line.slots[nominated].tolist():  # they come before all others
            shape = int(self._snapshot.pending.shape[slot])
            for row in self._path(int(self._snapshot.shapes.leaf[shape])):
                lower(least[row], self._charge_of(shape, -1))
        tree = Tree(self._parent, self._usage, queues.guarantee.tolist(), part.tolist(), past.tolist(), least)
        return Ranking(tree, lines, self)

    def _free_gpus(self) -> int:
        """milli-GPU that are left in the whole pool."""
        used = sum(self._usage[row][_GPU] for row, above in enumerate(self._parent) if above < 0)
        return self._gpus - used


def _is_one_line(snapshot: Snapshot, slots: Int32) -> bool:
    """Whether there is no choice whose turn it is. Where gangs are, whoever else waits counts, even if it is known to
    fit nowhere: a gang takes more than it needs only where nobody else might have a turn."""
    pending, leaf = snapshot.pending, snapshot.shapes.leaf
    if not len(slots):
        return True
    leaves = leaf[pending.shape[slots]]
    is_one = not np.count_nonzero(leaves != leaves[0])
    if is_one and np.count_nonzero(pending.gang[slots] >= 0):
        leaves = leaf[pending.shape[pending.waiting.nonzero()[0]]]
        is_one = not np.count_nonzero(leaves != leaves[0])
    return is_one


def _are_several(snapshot: Snapshot) -> bool:
    """Whether there is more than one queue."""
    is_leaf = snapshot.queues.is_leaf
    return bool(len(is_leaf) - np.count_nonzero(is_leaf) > 1)


def charge_of(snapshot: Snapshot, shape: int, model: int) -> Int64:
    """[X] what one pod of the shape uses of each column on a node of the model (-1: of no model)."""
    return snapshot.shapes.charge(shape, snapshot.queues.columns, snapshot.models[model] if model >= 0 else "")


def charges_of(snapshot: Snapshot, slots: Sequence[int]) -> Int64:
    """[len(slots) + 1, X] what the first waiting pods of these ask for together, of whatever GPU model."""
    shapes, which = np.unique(snapshot.pending.shape[list(slots)], return_inverse=True)
    each = np.array([charge_of(snapshot, shape, -1) for shape in shapes.tolist()], np.int64)
    sums = np.zeros((len(slots) + 1, len(snapshot.queues.columns)), np.int64)
    np.cumsum(each[which], axis=0, out=sums[1:])
    return sums


def past_share(snapshot: Snapshot) -> Float64:
    """[Q] the weighted dominant share of what has been used of late."""
    shares: Float64 = np.round((snapshot.queues.recent * share_per_unit(snapshot)).max(axis=1), _DIGITS)
    return shares


def share_per_unit(snapshot: Snapshot) -> Float64:
    """[Q, X] what one unit of a column counts for a row's share: part of the pool, by the row's weight for it."""
    weights = snapshot.queues.weights.astype(np.float64)
    capacity = np.maximum(snapshot.capacity(), 1.0)
    found: Float64 = np.where(weights > 0, 1.0 / np.maximum(weights, 1.0), 0.0) / capacity
    return found
