"""Queue rows: the policy's tree, a leaf for each priority class of a queue, and what each of them uses."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from tangram.api.policy import HybridPolicy
from tangram.api.queue import Queue
from tangram.snapshot.arrays import UNLIMITED, Int64, Queues, Shapes
from tangram.snapshot.queues.past_use import PastUse
from tangram.units import duration_seconds

DEFAULT_QUEUE = "default"
_FIRST_COLUMNS = ("cpu", "memory", "gpu")


@dataclass(frozen=True, slots=True)
class _Row:
    name: str
    parent: int
    weight: int
    queue: Queue | None = None
    is_leaf: bool = False


class QueueTable:
    """Keeps ``arrays.Queues`` true. Leaves are (queue, class) pairs: a class's weight is its share within its queue."""

    def __init__(self) -> None:
        self.revision = 0
        self.past = PastUse()
        self._usage: list[Int64]
        """Per row its view of ``Queues.usage``."""
        self._unbound: list[Int64]
        """Per row, how much of its usage is no pod's that is known to be bound: decisions that were sent and not yet
        confirmed, and places that are held. It takes room, and is no past use."""
        self._all_unbound: Int64
        """[Q, X] the same for all rows."""
        self._reserved: defaultdict[int, list[Int64]] = defaultdict(list)
        self._confirmed: defaultdict[int, list[Int64]] = defaultdict(list)
        """By leaf the amounts of bindings that were sent, and of those that were seen to hold, and are to be counted
        before anybody reads what queues use: many are added up at once."""
        self.columns: tuple[str, ...] = _FIRST_COLUMNS
        self.counts_models = False
        """Whether any queue is promised, or may use at most, so many GPUs of one model."""
        self._rows: list[_Row] = []
        self._leaves: dict[tuple[int, int], int] = {}
        self._arrays = _arrays([], self.columns)
        self.set_policy(None)

    @property
    def arrays(self) -> Queues:
        """What is true now."""
        self.count()
        return self._arrays

    @property
    def unbound(self) -> Int64:
        """[Q, X] how much of the usage of each row is no pod's that is known to be bound."""
        self.count()
        return self._all_unbound

    def set_policy(self, policy: HybridPolicy | None) -> None:
        """Follow the policy; all usage has to be counted again."""
        queues = policy.spec.queues if policy is not None else ()
        past = dict(zip(self.arrays.names, self.arrays.recent[:, : len(_FIRST_COLUMNS)], strict=True))
        self._amounts: dict[tuple[int, str], Int64] = {}
        self._class_weights = [found.weight for found in policy.spec.priority_classes] if policy is not None else []
        self._rows = []
        self._by_name: dict[str, int] = {}
        self._leaves = {}
        ordered = _parents_first(queues)
        models = sorted({name for queue in ordered for name in _models_of(queue)})
        self.columns, self.counts_models = (*_FIRST_COLUMNS, *(f"gpu/{model}" for model in models)), bool(models)
        for queue in ordered:
            self._by_name[queue.name] = len(self._rows)
            self._rows.append(_Row(queue.name, self._by_name.get(queue.parent or "", -1), queue.weight, queue))
        if DEFAULT_QUEUE not in self._by_name:
            self._by_name[DEFAULT_QUEUE] = len(self._rows)
            self._rows.append(_Row(DEFAULT_QUEUE, -1, 1))
        self._take(_arrays(self._rows, self.columns), np.zeros((len(self._rows), len(self.columns)), np.int64))
        self.past.follow(policy, past, self.arrays)

    def at(self, now: int) -> Queues:
        """The arrays, with past use as of ``now`` in seconds since the epoch."""
        self.past.count(now, self.arrays, self.unbound)
        return self.arrays

    @property
    def contend(self) -> bool:
        """Whether there are several queues, which may take from each other."""
        return len(self._by_name) > 1

    def leaf(self, queue: str, priority_class: int) -> int:
        """The row of a class in a queue, made when it is new; -1 when there is no such queue."""
        row = self._by_name.get(queue or DEFAULT_QUEUE)
        if row is None:
            return -1
        if (row, priority_class) not in self._leaves:
            self.add_leaves({(queue, priority_class)})
        return self._leaves[row, priority_class]

    def add_leaves(self, wanted: set[tuple[str, int]]) -> None:
        """Make the rows of classes in queues, (queue, row of class), all that are new at once."""
        added: list[_Row] = []
        for queue, priority_class in sorted(wanted):
            row = self._by_name.get(queue or DEFAULT_QUEUE)
            if row is None or (row, priority_class) in self._leaves:
                continue
            self._leaves[row, priority_class] = len(self._rows) + len(added)
            weight = self._class_weights[priority_class] if priority_class >= 0 else 1
            added.append(_Row(f"{self._rows[row].name}/{priority_class}", row, weight, is_leaf=True))
        if added:
            self._rows += added
            more = np.zeros((len(added), len(self.columns)), np.int64)
            self._take(_joined(self.arrays, _arrays(added, self.columns)), np.concatenate([self.unbound, more]))
            self.past.grow(self.arrays)

    def row(self, queue: str) -> int:
        """The row of a queue; -1 when there is none of that name."""
        return self._by_name.get(queue or DEFAULT_QUEUE, -1)

    def known(self) -> str:
        """Names of the queues that exist."""
        return ", ".join(sorted(self._by_name))

    def charge(self, leaf: int, amounts: Int64, sign: int) -> None:
        """Count a pod that is known to be bound, and what it uses, for a leaf and everything above it, or no longer."""
        if leaf < 0:
            return
        self.arrays.pods[leaf] += sign
        for row in self._upwards(leaf):
            usage = self._usage[row]
            if sign > 0:
                usage += amounts
            else:
                self.past.shrinks(row, usage - self._unbound[row])
                usage -= amounts

    def reserve(self, leaf: int, amounts: Int64, sign: int) -> None:
        """Add to, or take from, the usage of a leaf and everything above it what nobody is known to be bound with."""
        if leaf >= 0:
            self._reserved[leaf].append(amounts if sign > 0 else -amounts)

    def confirm(self, leaf: int, amounts: Int64) -> None:
        """A pod that was charged when its binding was sent is bound."""
        if leaf >= 0:
            self._confirmed[leaf].append(amounts)

    def count(self) -> None:
        """Count what has been reserved and confirmed."""
        if not (self._reserved or self._confirmed):
            return
        reserved, confirmed = self._reserved, self._confirmed
        self._reserved, self._confirmed = defaultdict(list), defaultdict(list)
        for leaf, amounts in reserved.items():
            total = _sum(amounts)
            for row in self._upwards(leaf):
                self._usage[row] += total
                self._unbound[row] += total
        for leaf, amounts in confirmed.items():
            self._arrays.pods[leaf] += len(amounts)
            total = _sum(amounts)
            for row in self._upwards(leaf):
                self._unbound[row] -= total

    def _upwards(self, row: int) -> Iterator[int]:
        """A row and those above it."""
        while row >= 0:
            yield row
            row = self._rows[row].parent

    def amounts(self, shapes: Shapes, shape: int, model: str) -> Int64:
        """[X] what a pod of the shape uses of each column on a node of the model; read-only."""
        known = self._amounts.get((shape, model))
        if known is not None:
            return known
        out = shapes.charge(shape, self.columns, model)
        out.setflags(write=False)
        self._amounts[shape, model] = out
        return out

    def forget_amounts(self) -> None:
        """Work amounts out again: rows of shapes may mean others now."""
        self._amounts = {}

    def _take(self, arrays: Queues, unbound: Int64) -> None:
        """Go on with these arrays, as long as there are rows."""
        self._arrays, self._all_unbound = arrays, unbound
        self._usage, self._unbound = list(arrays.usage), list(unbound)
        self.revision += 1


def _sum(amounts: list[Int64]) -> Int64:
    """[X] all of these together; an array of arrays takes numpy twice as long to make."""
    total: Int64 = np.concatenate(amounts).reshape(len(amounts), -1).sum(axis=0)
    return total


def _arrays(rows: list[_Row], columns: tuple[str, ...]) -> Queues:
    """The rows as arrays; nobody uses, or has used, anything."""
    shape = len(rows), len(columns)
    guarantee, limit = np.zeros(shape, np.int64), np.full(shape, UNLIMITED, np.int64)
    for row, found in enumerate(rows):
        if found.queue is not None:
            _put_amounts(guarantee[row], columns, found.queue.guarantee.milli() if found.queue.guarantee else {})
            _put_amounts(limit[row], columns, found.queue.limit.milli() if found.queue.limit else {})
    return Queues(
        names=tuple(found.name for found in rows),
        columns=columns,
        parent=np.array([found.parent for found in rows], np.int32),
        weight=np.array([found.weight for found in rows], np.int32),
        weights=np.array([_weights(found, columns) for found in rows], np.int32).reshape(shape),
        guarantee=guarantee,
        limit=limit,
        usage=np.zeros(shape, np.int64),
        pods=np.zeros(len(rows), np.int32),
        recent=np.zeros(shape),
        is_leaf=np.array([found.is_leaf for found in rows], np.bool_),
        reclaimable=np.array([found.queue is None or found.queue.reclaimable for found in rows], np.bool_),
        min_runtime=np.array([_min_runtime(found) for found in rows], np.int64),
    )


def _joined(first: Queues, more: Queues) -> Queues:
    """The rows of both, which have the same columns."""
    arrays: dict[str, Any] = {
        column.name: np.concatenate([getattr(first, column.name), getattr(more, column.name)])
        for column in fields(first)
        if isinstance(getattr(first, column.name), np.ndarray)
    }
    return replace(first, names=first.names + more.names, **arrays)


def _put_amounts(row: Int64, columns: tuple[str, ...], amounts: dict[str, int]) -> None:
    for name, amount in amounts.items():
        row[columns.index(name)] = amount


def _min_runtime(row: _Row) -> int:
    return duration_seconds(row.queue.min_runtime) if row.queue is not None else 0


def _weights(row: _Row, columns: tuple[str, ...]) -> list[int]:
    """The weight of each column: cpu, memory and GPUs always count, single models where the queue weighs them."""
    single = row.queue.weights if row.queue is not None else None
    if single is None:
        return [row.weight] * len(_FIRST_COLUMNS) + [0] * (len(columns) - len(_FIRST_COLUMNS))
    first = [weight or row.weight for weight in (single.cpu, single.memory, single.gpu)]
    return first + [single.gpu_models.get(column[4:], 0) for column in columns[len(_FIRST_COLUMNS) :]]


def _models_of(queue: Queue) -> set[str]:
    named = {model for amounts in (queue.guarantee, queue.limit) if amounts for model in amounts.gpu_models}
    return named | set(queue.weights.gpu_models if queue.weights is not None else ())


def _parents_first(queues: tuple[Queue, ...]) -> list[Queue]:
    """The queues so that every parent stands before its children; the API border has refused cycles."""
    out: list[Queue] = []
    placed: set[str | None] = {None}
    rest = list(queues)
    while rest:
        ready = [queue for queue in rest if queue.parent in placed]
        if not ready:
            break
        out += ready
        placed |= {queue.name for queue in ready}
        rest = [queue for queue in rest if queue.name not in placed]
    return out
