"""Every extension point, one sentence each. Built-in plugins come through the same doors as everybody else's.

A plugin is an object with a ``name`` and one or more of the methods below; which ones it has decides what it extends.
All arrays it is given are read-only; all answers are arrays or small values. A plugin that raises, or whose answer is
not of the form said below, is named in the plan's ``faults`` and skipped for the cycle.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from tangram.snapshot.arrays import Bool, Int32, Int64, Nodes, Shapes, Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class View:
    """The pool as it will be once the decisions made so far in this cycle hold."""

    snapshot: Snapshot
    free: Int64
    """[N, R] as ``Nodes.free``."""
    device_free: Int32
    """[N, D] milli-GPU left on each device."""
    device_memory_free: Int32
    """[N, D] MiB left on each device."""

    @property
    def nodes(self) -> Nodes:
        """What does not change within a cycle: capacity, labels, models."""
        return self.snapshot.nodes

    @property
    def shapes(self) -> Shapes:
        """The pod shapes."""
        return self.snapshot.shapes


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
