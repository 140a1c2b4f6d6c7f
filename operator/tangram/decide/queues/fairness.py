"""Whose turn it is: weighted dominant-resource fairness down the tree of queues, guarantees first, limits always.

A queue's share is the largest part of any resource of the pool that it uses, divided by its weight for it (dominant
resource fairness, NSDI 2011, with weights). At every level the child that is below its guarantee goes first, then the
one with the smallest share; a priority class is a child of its queue with the class's weight.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np

from tangram.decide.journal import Journal, Restore
from tangram.snapshot.arrays import CPU, MEMORY, UNLIMITED, Bool, Float64, Int32, Int64, Snapshot

_FIXED = 3
"""Columns cpu, memory, gpu; the ones after them are single GPU models."""


class Turns:
    """Hands out waiting slots in the order of fairness while usage grows within one decision."""

    def __init__(self, snapshot: Snapshot, slots: Int32, journal: Journal) -> None:
        """``slots`` are in order of priority and age; charges are in the journal."""
        queues = snapshot.queues
        self._snapshot, self._journal = snapshot, journal
        self._limited = bool(np.count_nonzero(queues.limit < UNLIMITED))
        self._limited_models = bool(np.count_nonzero(queues.limit[:, _FIXED:] < UNLIMITED))
        leaves = snapshot.shapes.leaf[snapshot.pending.shape[slots]]
        self._line: list[int] | None = slots.tolist()
        self._ordered = self._limited or bool(np.count_nonzero(queues.guarantee))
        self._parent: list[int] = queues.parent.tolist()
        self._usage: list[list[int]] = []
        if len(slots) and np.count_nonzero(leaves != leaves[0]):
            self._line, self._ordered = None, True
        several = len(queues.is_leaf) - np.count_nonzero(queues.is_leaf) > 1
        self.counts = self._ordered or (several and bool(np.count_nonzero(snapshot.running.present)))
        """Whether anybody asks what a queue uses by now."""
        if self.counts:
            self._usage = queues.usage.tolist()
            self._limit: list[list[int]] = queues.limit.tolist()
            self._guarantee: list[list[int]] = queues.guarantee.tolist()
            self._weights: list[list[int]] = queues.weights.tolist()
            self._capacity: list[float] = pool_capacity(snapshot).tolist()
            self._charges: dict[tuple[int, int], list[int]] = {}
        if self._line is None:
            self._share = [self._share_of(row) for row in range(len(self._parent))]
            self._waiting: dict[int, deque[int]] = {}
            for slot, leaf in zip(slots.tolist(), leaves.tolist(), strict=True):
                self._waiting.setdefault(leaf, deque()).append(slot)
            self._children: dict[int, set[int]] = {}
            for leaf in self._waiting:
                self._announce(leaf)

    @property
    def fixed(self) -> bool:
        """Whether nothing that is placed changes who comes next or may use what: the order is that of the slots."""
        return not self._ordered

    def __iter__(self) -> Iterator[int]:
        """Waiting slots; each next one is chosen when it is asked for, by what has been charged until then."""
        if self._line is not None:
            yield from self._line
            return
        names = self._snapshot.queues.names  # rows are numbered as they come, which must not matter
        while self._waiting:
            row = -1
            while children := self._children.get(row):
                row = min(children, key=lambda child: (self._share[child], names[child]))
            waiting = self._waiting[row]
            slot = waiting.popleft()
            if not waiting:
                del self._waiting[row]
                self._withdraw(row)
            yield slot

    def may_use(self, shape: int) -> bool:
        """Whether no limit forbids one more pod of the shape, whatever GPU model it would get."""
        return not self._limited or self._within_limits(shape, self._charge_of(shape, -1))

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
        amounts = self._charge_of(shape, int(self._snapshot.nodes.model[node_row]))
        row = int(self._snapshot.shapes.leaf[shape])
        while row >= 0:
            self._journal.keep(("turns", row), self._copy, row)
            usage = self._usage[row]
            for column, amount in enumerate(amounts):
                usage[column] += amount
            if self._line is None:
                self._share[row] = self._share_of(row)
            row = self._parent[row]

    def used(self, row: int) -> list[int]:
        """[X] what a queue row uses by now."""
        return self._usage[row] if self.counts else self._snapshot.queues.usage[row].tolist()

    def over_limit(self, shape: int, model: int, leaving: Mapping[int, Int64]) -> Int64:
        """[X] what the shape's queue would use beyond its limits with one more pod on a GPU model, -1: whatever it is,
        once what is ``leaving`` (by row, [X]) has left."""
        amounts = charge_of(self._snapshot, shape, model)
        out = np.zeros(len(amounts), np.int64)
        row = int(self._snapshot.shapes.leaf[shape])
        while row >= 0:
            over = np.array(self.used(row), np.int64) + amounts - self._snapshot.queues.limit[row]
            over -= leaving.get(row, 0)
            out = np.maximum(out, np.where(amounts > 0, over, 0))
            row = self._parent[row]
        return out

    def _copy(self, row: int) -> Restore:
        return partial(self._put_back, row, list(self._usage[row]))

    def _put_back(self, row: int, usage: list[int]) -> None:
        self._usage[row] = usage
        if self._line is None:
            self._share[row] = self._share_of(row)

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

    def _share_of(self, row: int) -> tuple[int, float]:
        """(0 while below the guarantee, else 1; used part of it, or weighted dominant share)."""
        usage, guarantee = self._usage[row], self._guarantee[row]
        kept = [used / promised for used, promised in zip(usage, guarantee, strict=True) if promised]
        if kept and max(kept) < 1:
            return 0, max(kept)
        parts = zip(usage, self._capacity, self._weights[row], strict=True)
        return 1, max(used / total / weight for used, total, weight in parts if weight)

    def _announce(self, row: int) -> None:
        while row >= 0:
            siblings = self._children.setdefault(self._parent[row], set())
            if row in siblings:
                return
            siblings.add(row)
            row = self._parent[row]

    def _withdraw(self, row: int) -> None:
        while row >= 0 and not self._children.get(row):
            self._children[self._parent[row]].discard(row)
            row = self._parent[row]


def charge_of(snapshot: Snapshot, shape: int, model: int) -> Int64:
    """[X] what one pod of the shape uses of each column on a node of the model (-1: of no model)."""
    shapes, columns = snapshot.shapes, snapshot.queues.columns
    out = np.zeros(len(columns), np.int64)
    out[0], out[1] = shapes.request[shape, CPU], shapes.request[shape, MEMORY]
    out[2] = int((shapes.ask_count[shape].astype(np.int64) * shapes.ask_milli[shape]).sum())
    column = f"gpu/{snapshot.models[model]}" if model >= 0 else ""
    if out[2] and column in columns:
        out[columns.index(column)] = out[2]
    return out


def pool_capacity(snapshot: Snapshot) -> Float64:
    """[X] how much of each queue column the whole pool has, never zero."""
    nodes = snapshot.nodes
    present, devices = nodes.present, nodes.device_count.astype(np.int64)
    totals = [int(nodes.capacity[present, CPU].sum()), int(nodes.capacity[present, MEMORY].sum())]
    totals.append(1000 * int(devices[present].sum()))
    for column in snapshot.queues.columns[_FIXED:]:
        known = snapshot.models.index(column[4:]) if column[4:] in snapshot.models else -2
        totals.append(1000 * int(devices[present & (nodes.model == known)].sum()))
    return np.maximum(np.array(totals, np.float64), 1.0)
