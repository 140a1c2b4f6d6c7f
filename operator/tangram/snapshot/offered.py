"""The devices that a node offers, told by its resources and labels."""

from tangram import units
from tangram.api import names
from tangram.api.objects import Node
from tangram.snapshot.request import MOST_DEVICES, VENDOR_RESOURCES


def offered_devices(node: Node, capacity: dict[str, int]) -> tuple[int, str, int]:
    """(devices, model, MiB of one): from whole-device resources, or from hundredths where only those are offered."""
    labels = node.metadata.labels
    count, model, memory = capacity.get(names.FRACTION_RESOURCE, 0) // units.HUNDREDTHS_PER_GPU, "", 0
    for vendor in names.VENDORS:
        offered = capacity.get(vendor.resource, 0) if vendor.resource in VENDOR_RESOURCES else 0
        count = max(count, offered)
        if (offered or not model) and vendor.model_label in labels:
            model = labels[vendor.model_label]
            memory = _label_mib(labels.get(vendor.memory_label or "", "0"))
    return min(count, MOST_DEVICES), model or "unknown", memory


def _label_mib(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 9 else 0
