"""What node agents report of their nodes' devices, in their ``GPUNode``: it overrides what labels and resources say."""

from typing import TypeAlias, TypeVar

import msgspec
import numpy as np

from tangram.api import names
from tangram.api.objects import Node
from tangram.errors import InvalidInput
from tangram.snapshot.arrays import OTHER, Int32
from tangram.snapshot.requests.isolation import reported_bits
from tangram.snapshot.values.asks import LARGEST_DEVICE_MIB, MOST_DEVICES
from tangram.snapshot.values.offers import labelled_devices, sharers

Distances: TypeAlias = tuple[tuple[int, ...], ...]
"""How far each device of a node is from each, in index order; equal rows and columns. Empty: not reported."""

_STRATEGIES = {"mps": "mps", "time-slicing": "time-slice"}
"""What the label of NVIDIA's plugin calls the ways to share -> what we do."""
_FARTHEST = 1 << 20
"""Sums over all pairs of devices of a node stay far from overflowing."""
_DIGITS = 5
"""A uuid of as many digits is no index."""


class NodeDevice(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One device as its node's agent reports it. In recordings it is a list, and older ones end after ``healthy``."""

    id: str
    healthy: bool
    memory_mib: int = 0
    """0 when not known; so is a size that no device has."""
    model: str = ""
    """As the node's label would have it; empty when not known."""
    isolation: str = ""
    """How its tenants are kept apart; empty when not known."""


Reported = TypeVar("Reported", tuple[NodeDevice, ...], Distances)


class InventoryTable:
    """Devices as reported by node agents, by node name; kept while the node is absent, for when it comes back."""

    def __init__(self) -> None:
        self._devices: dict[str, tuple[NodeDevice, ...]] = {}
        self._distances: dict[str, Distances] = {}
        self._at_risk: set[str] = set()
        self.vulnerable: set[str] = set()
        """Nodes whose container software has known holes."""

    def set_devices(self, name: str, devices: tuple[NodeDevice, ...]) -> bool:
        """Take in a node's devices, in index order; empty: no agent reports of them. False when that is nothing new.

        Raises InvalidInput for ids by which pods' devices could not be told apart.
        """
        _check_ids(name, [device.id for device in devices])
        return _keep(self._devices, name, devices)

    def set_distances(self, name: str, distances: Distances) -> bool:
        """Take in how far a node's devices are from each other. False when that is nothing new.

        Raises InvalidInput for what is no distance.
        """
        _check_distances(name, distances)
        return _keep(self._distances, name, distances)

    def set_at_risk(self, name: str, at_risk: bool, vulnerable: bool) -> bool:
        """Take in whether a device of the node is likely to fail soon, and whether its container software has known
        holes. False when that is nothing new."""
        is_new = (name in self._at_risk) != at_risk or (name in self.vulnerable) != vulnerable
        (self._at_risk.add if at_risk else self._at_risk.discard)(name)
        (self.vulnerable.add if vulnerable else self.vulnerable.discard)(name)
        return is_new

    def is_at_risk(self, name: str) -> bool:
        """Whether a device of the node is likely to fail soon."""
        return name in self._at_risk

    def unhealthy(self, name: str) -> frozenset[int]:
        """Indices of the node's devices that are broken."""
        return frozenset(index for index, device in enumerate(self._devices.get(name, ())) if not device.healthy)

    def isolation(self, node: Node) -> int:
        """Bits of the modes that a node's healthy devices are given out in, of all devices where none is healthy.

        Where no agent reports, another plugin's labels say whether it gives its devices to several at once.
        """
        reported = self._devices.get(node.metadata.name, ())
        healthy = [device for device in reported if device.healthy]
        shared = not reported and sharers(node.metadata.labels) != 1
        strategy = node.metadata.labels.get(names.SHARING_STRATEGY, "")
        modes = [_STRATEGIES.get(strategy, "time-slice")] if shared else []
        return reported_bits([*modes, *(device.isolation for device in healthy or reported)]) or OTHER

    def ids(self, name: str, count: int) -> tuple[str, ...]:
        """What the annotation calls each of ``count`` devices: its id, or its index where no id is reported."""
        known = tuple(device.id for device in self._devices.get(name, ())[:count])
        return known + tuple(str(index) for index in range(len(known), count))

    def links(self, name: str, count: int) -> Int32 | None:
        """[count, count] distances between a node's devices; None: not reported.

        A device that is not reported is as far from the others as any is.
        """
        reported = self._distances.get(name, ())
        if not reported or not count:
            return None
        links = np.full((count, count), max(map(max, reported)), np.int32)
        known = min(count, len(reported))
        links[:known, :known] = np.array(reported, np.int32)[:known, :known]
        np.fill_diagonal(links, 0)
        links.setflags(write=False)
        return links

    def offered(self, node: Node, capacity: dict[str, int]) -> tuple[int, str, int]:
        """(devices, model, MiB of one device) of a node; ``unknown`` and 0 when no agent reports.

        The driver knows the memory better than a label, which somebody may have written by hand; of devices with
        unlike memory the smallest counts, so that what is given out fits on each. The model is the label's, by which
        policies and requests name it, and the agent's only where no label names one and the devices are alike.
        """
        count, model, memory = labelled_devices(node.metadata.labels, capacity)
        reported = self._devices.get(node.metadata.name, ())
        sizes = [device.memory_mib for device in reported if 0 < device.memory_mib <= LARGEST_DEVICE_MIB]
        models = {device.model for device in reported}
        if not model and len(models) == 1:
            [model] = models
        return min(max(count, len(reported)), MOST_DEVICES), model or "unknown", min(sizes, default=memory)


def _check_ids(name: str, ids: list[str]) -> None:
    """Every device is found by its id in the records of pods, and one that is not reported by its index."""
    field, seen = "status.devices[].uuid", set[str]()
    for one in ids:
        if not one or one in seen:
            raise InvalidInput(f"GPUNode {name}", field, one, "a uuid that no other device of the node has")
        if one.isdecimal() and len(one) < _DIGITS and len(ids) <= int(one) < MOST_DEVICES:
            raise InvalidInput(f"GPUNode {name}", field, one, "no index of a device that is not reported")
        seen.add(one)


def _check_distances(name: str, distances: Distances) -> None:
    """What a recording says is as untrusted as what an agent does."""
    if any(len(row) != len(distances) for row in distances):
        raise InvalidInput(f"GPUNode {name}", "links", str(distances), "as many distances for each device as devices")
    for one in (one for row in distances for one in row):
        if not 0 <= one <= _FARTHEST:
            raise InvalidInput(f"GPUNode {name}", "links", one, f"0 to {_FARTHEST}")


def _keep(reported: dict[str, Reported], name: str, value: Reported) -> bool:
    """Keep a value, or nothing in place of an empty one. False when that is nothing new."""
    if reported.get(name, ()) == value:
        return False
    if value:
        reported[name] = value
    else:
        del reported[name]
    return True
