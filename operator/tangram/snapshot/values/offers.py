"""How many GPUs a node offers, by its resources and labels alone: what an agent reports is asked elsewhere."""

import contextlib
from collections.abc import Mapping

from tangram.api import names
from tangram.snapshot.values.asks import MOST_DEVICES
from tangram.units import HUNDREDTHS_PER_GPU, quantity

_DIGITS = 5
"""Of the largest number of sharers that is believed."""


def sharers(labels: Mapping[str, str]) -> int:
    """To how many at once another plugin gives each of the node's devices; 0: to several, and nobody says how many.

    It offers each device so many times then (time-slicing, MPS): what it offers is no whole device.
    """
    replicas = labels.get(names.REPLICAS, "1")
    known = int(replicas) if replicas.isdecimal() and len(replicas) < _DIGITS else 0
    shared = labels.get(names.VENDORS[0].model_label, "").endswith("-SHARED")
    return known if known > 1 else 0 if shared else 1


def whole_devices(labels: Mapping[str, str], capacity: dict[str, int]) -> dict[str, int]:
    """The capacity with whole devices in place of shares in them that another plugin offers: as many as there can be
    with one tenant each, none where nobody says how many."""
    several, resource = sharers(labels), names.GPU_RESOURCE
    if several == 1 or resource not in capacity:
        return capacity
    return {**capacity, resource: capacity[resource] // several if several else 0}


def labelled_devices(labels: Mapping[str, str], capacity: Mapping[str, int]) -> tuple[int, str, int]:
    """(devices, model, MiB of one device), by whole-device resources and labels, or by hundredths where only those are
    offered. A node has GPUs of one vendor, and hundredths are the same devices counted otherwise."""
    count, model, memory = capacity.get(names.FRACTION_RESOURCE, 0) // HUNDREDTHS_PER_GPU, "", 0
    for vendor in names.VENDORS:
        offered = capacity.get(vendor.resource, 0)
        count = max(count, offered)
        if (offered or not model) and vendor.model_label in labels:
            model = labels[vendor.model_label]
            memory = _label_mib(labels.get(vendor.memory_label or "", "0"))
    return count, model, memory


def offered(labels: Mapping[str, str], allocatable: Mapping[str, str | int | float]) -> tuple[int, str]:
    """(GPUs, model) of a node as the scheduler counts them; what cannot be read is not offered."""
    capacity: dict[str, int] = {}
    for resource in _COUNTED & allocatable.keys():
        with contextlib.suppress(ValueError):
            capacity[resource] = quantity(allocatable[resource], round_up=False)
    count, model, _ = labelled_devices(labels, whole_devices(labels, capacity))
    return min(count, MOST_DEVICES), model


def _label_mib(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 9 else 0


_COUNTED = frozenset({names.FRACTION_RESOURCE, *(vendor.resource for vendor in names.VENDORS)})
