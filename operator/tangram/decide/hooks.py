"""Every extension point, one sentence each. Built-in plugins come through the same doors as everybody else's.

A plugin is an object with a ``name`` and one or more of the methods below; which ones it has decides what it extends.
All arrays it is given are read-only; all answers are arrays or small values. A plugin that raises, or whose answer is
not of the form said below, is named in the plan's ``faults`` and skipped for the cycle; numbers that are out of their
range are named there too, and count as the nearest that is in it.

One more door is not for strangers: a built-in plugin that is the only one with a say about nodes and devices may place
a whole line of pods at once (``price.line.Placer``), in compiled code and with the answers of its ``score`` and
``devices``. It writes to the pool, so it is internal and changes without notice.
"""

from dataclasses import fields, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from tangram.decide.sealed import sealed
from tangram.snapshot.arrays import Bool, Int32, Int64, Nodes, Prices, Shapes, Snapshot


class View:
    """The pool as it will be once the decisions made so far in this cycle hold. Nothing in it can be written to."""

    def __init__(
        self,
        snapshot: Snapshot,
        free: Int64,
        device_free: Int32,
        device_memory_free: Int32,
        before: "View | None" = None,
    ) -> None:
        """``before``: the view of the last decision, of which what has stayed need not be sealed again."""
        self.free: Int64 = sealed(free[...])
        """[N, R] as ``Nodes.free``."""
        self.device_free: Int32 = sealed(device_free[...])
        """[N, D] milli-GPU left on each device."""
        self.device_memory_free: Int32 = sealed(device_memory_free[...])
        """[N, D] MiB left on each device."""
        self.models = snapshot.models
        """Names of device models."""
        self.choices = snapshot.scores
        """The plugins that have a say, with their weights."""
        self._source = snapshot
        self._parts: dict[str, tuple[object, object]] = {} if before is None else before._parts

    @cached_property
    def snapshot(self) -> Snapshot:
        """What was true when the cycle began."""
        return replace(self._source, **{field.name: self._part(field.name) for field in fields(Snapshot)})

    @cached_property
    def nodes(self) -> Nodes:
        """What does not change within a cycle: capacity, labels, models."""
        nodes: Nodes = self._part("nodes")
        return nodes

    @cached_property
    def shapes(self) -> Shapes:
        """The pod shapes."""
        shapes: Shapes = self._part("shapes")
        return shapes

    @cached_property
    def prices(self) -> Prices:
        """What has been learned of the workload; the same object until more has been learned."""
        prices: Prices = self._part("prices")
        return prices

    def _part(self, name: str) -> Any:
        arrays = getattr(self._source, name)
        known = self._parts.get(name)
        if known is None or known[0] is not arrays:
            known = self._parts[name] = arrays, sealed(arrays)
        return known[1]


@runtime_checkable
class Prepare(Protocol):
    """Look at the pool before scores are asked for."""

    name: str

    def prepare(self, view: View) -> bool:
        """Refresh what the plugin derives from the whole pool; True when scores given earlier no longer hold."""


@runtime_checkable
class Filter(Protocol):
    """Forbid nodes to a shape."""

    name: str

    def allow(self, view: View, shape: int, rows: Int32) -> Bool:
        """[len(rows)] whether the shape may be placed on each node row."""


@runtime_checkable
class Score(Protocol):
    """Prefer nodes for a shape."""

    name: str

    def score(self, view: View, shape: int, rows: Int32) -> Int32:
        """[len(rows)] 0 (worst) to 1000 (best) for each node row on which the shape fits."""


@runtime_checkable
class Devices(Protocol):
    """Choose devices within a node for a shape with one ask."""

    name: str

    def devices(self, view: View, shape: int, row: int) -> Int32:
        """Device indices, as many as the shape's first ask counts; any other number is no opinion."""


@runtime_checkable
class Order(Protocol):
    """Order the queue."""

    name: str

    def order(self, view: View, slots: Int32) -> Int64:
        """[len(slots)] a number for each waiting slot; smaller goes first, before priority and age."""


@runtime_checkable
class Victims(Protocol):
    """Say whose eviction would hurt most."""

    name: str

    def damage(self, view: View, shape: int, slots: Int32) -> Int64:
        """[len(slots)] 0 to 1000000 for each slot of ``Snapshot.running``; least goes first, before number and age."""


HOOKS = (Prepare, Filter, Score, Devices, Order, Victims)
"""All extension points."""
