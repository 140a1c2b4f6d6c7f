"""Every extension point, one sentence each. Built-in plugins come through the same doors as everybody else's.

A plugin is an object with a ``name`` and one or more of the methods below; which ones it has decides what it extends,
and its attributes (``Declares``) say what else there is to know of it. What the policy gives it as ``args`` are the
arguments that it is made with. All arrays it is given are read-only; all answers are arrays or small values. A plugin
that raises, or whose answer is not of the form said below, is named in the plan's ``faults`` and skipped for the cycle;
while one fails that forbids nodes, the pods that it concerns wait. Numbers that are out of their range are named there
too, and count as the nearest that is in it.

One more door is not for strangers: a built-in plugin may place a whole line of pods about whose nodes and devices
nobody else has a say (``price.line.Placer``), in compiled code and with the answers of its ``score`` and ``devices``.
It writes to the pool, so it is internal and changes without notice.
"""

from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from tangram.decide.sealed import sealed
from tangram.errors import PluginError
from tangram.snapshot.arrays import Bool, Int32, Int64, Nodes, Prices, Shapes, Snapshot
from tangram.snapshot.values.labels import LabelColumn

INTERFACE = 1
"""The version of all that is said here, and of the arrays that plugins are shown. It grows when a plugin that was
written for the one before would no longer be right."""


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

    def node_label(self, key: str) -> LabelColumn:
        """[N] a label of nodes; raises PluginError unless a plugin names it in ``node_labels``."""
        return _read(self._source.labels.nodes, key, "node_labels")

    def pod_label(self, key: str) -> LabelColumn:
        """[S] a label of pods that wait; raises PluginError unless a plugin names it in ``pod_labels``."""
        return _read(self._source.labels.pods, key, "pod_labels")

    def _part(self, name: str) -> Any:
        arrays = getattr(self._source, name)
        known = self._parts.get(name)
        if known is None or known[0] is not arrays:
            known = self._parts[name] = arrays, sealed(arrays)
        return known[1]


def _read(columns: Mapping[str, LabelColumn], key: str, declared: str) -> LabelColumn:
    column = columns.get(key)
    if column is None:
        known = ", ".join(columns) or "none"
        raise PluginError(f"label {key!r} is not read; allowed: those that {declared} of a plugin names ({known})")
    return column


class Declares(Protocol):
    """What a plugin says of itself; all but the name can be left out."""

    name: str
    """The name that the policy and the entry point give it."""
    interface: int
    """The ``INTERFACE`` that it was written for; 1 unless it says so."""
    node_labels: tuple[str, ...]
    """Keys of the labels of nodes that it reads (``View.node_label``)."""
    pod_labels: tuple[str, ...]
    """Keys of the labels of pods that it reads (``View.pod_label``)."""


@runtime_checkable
class Prepare(Protocol):
    """Look at the pool before scores are asked for."""

    name: str

    def prepare(self, view: View) -> bool:
        """Refresh what the plugin derives from the whole pool; True when scores given earlier no longer hold."""


@runtime_checkable
class Concerns(Protocol):
    """Leave pods alone that the plugin has nothing to say about, so that they are placed as fast as without it."""

    name: str

    def concerns(self, view: View, shapes: Int32) -> Bool:
        """[len(shapes)] whether ``allow``, ``score`` and ``devices`` are to be asked of each shape; once a cycle."""


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


HOOKS = (Prepare, Concerns, Filter, Score, Devices, Order, Victims)
"""All extension points."""
