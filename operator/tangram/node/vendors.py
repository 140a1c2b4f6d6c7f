"""Devices of vendors whose libraries the agent does not speak: as many as their device plugins report to the kubelet.

What such a plugin offers less than it has is out of order; which of its devices these are is not reported, so the last
ones are taken to be.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tangram.api import names
from tangram.node.gpus import Condition, Gpu, Health, Inventory, Reading
from tangram.node.nvml import MOST_GPUS, MOST_MIB

_PLAIN = Condition(Health.HEALTHY)


@dataclass(frozen=True, slots=True)
class NodeResources:
    """What the kubelet reports of a node."""

    capacity: Mapping[str, str]
    allocatable: Mapping[str, str]
    labels: Mapping[str, str]


class VendorProbe:
    """The ``Probe`` of whole devices that only have a resource name; ``read`` gives what the kubelet reports now."""

    def __init__(self, read: Callable[[], NodeResources]) -> None:
        self._read = read
        self._seen: dict[str, Gpu] = {}

    def inventory(self) -> Inventory:
        """The devices that the node has."""
        gpus = tuple(gpu for gpu, _ in devices_of(self._read()))
        self._seen |= {gpu.uuid: gpu for gpu in gpus}
        return Inventory(gpus)

    def conditions(self) -> dict[str, Condition]:
        """Health by what is offered of what is there."""
        gone = dict.fromkeys(self._seen, Condition(Health.UNHEALTHY, "its device plugin no longer reports it"))
        return gone | {gpu.uuid: condition for gpu, condition in devices_of(self._read())}

    def check(self) -> tuple[Inventory, dict[str, Condition]]:
        """Both."""
        return self.inventory(), self.conditions()

    def watch(self, wake: Callable[[], None]) -> None:
        """Nothing: nobody tells."""

    def readings(self) -> tuple[Reading, ...]:
        """Nothing: there is nobody to ask."""
        return ()


def has_devices(reported: NodeResources) -> bool:
    """Whether the node has devices of a vendor other than NVIDIA."""
    return bool(devices_of(reported))


def devices_of(reported: NodeResources) -> tuple[tuple[Gpu, Condition], ...]:
    """Devices with their condition, in the order of the vendor table, numbered through."""
    found: list[tuple[Gpu, Condition]] = []
    for vendor in names.VENDORS:
        if vendor.resource == names.GPU_RESOURCE:
            continue
        count = _count(reported.capacity.get(vendor.resource, ""), MOST_GPUS)
        offered = _count(reported.allocatable.get(vendor.resource, ""), MOST_GPUS)
        model = reported.labels.get(vendor.model_label, "")[:63] or vendor.name
        memory = _count(reported.labels.get(vendor.memory_label or "", ""), MOST_MIB)
        for number in range(count):
            if len(found) == MOST_GPUS:
                return tuple(found)
            reason = f"{vendor.resource}: {offered} of {count} are offered"
            condition = _PLAIN if number < offered else Condition(Health.UNHEALTHY, reason)
            index = len(found)
            gpu = Gpu(f"{vendor.name}-{index}", index, model, memory, resource=vendor.resource)
            found.append((gpu, condition))
    return tuple(found)


def _count(text: str, most: int) -> int:
    return min(most, int(text)) if text.isascii() and text.isdecimal() and len(text) < 12 else 0
