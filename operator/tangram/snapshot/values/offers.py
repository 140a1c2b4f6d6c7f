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
    offered."""
    model, memory = "", 0
    for vendor in names.VENDORS:
        if (capacity.get(vendor.resource, 0) or not model) and vendor.model_label in labels:
            model = labels[vendor.model_label]
            memory = _label_mib(labels.get(vendor.memory_label or "", "0"))
    return _count(capacity), model, memory


def offered_gpus(labels: Mapping[str, str], allocatable: Mapping[str, str | int | float]) -> int:
    """GPUs of a node as the scheduler counts them; what cannot be read is not offered."""
    return min(MOST_DEVICES, _count(whole_devices(labels, _read(allocatable))))


def offered_model(labels: Mapping[str, str], allocatable: Mapping[str, str | int | float]) -> str:
    """Their model, as the node's labels have it; empty where none does."""
    return labelled_devices(labels, whole_devices(labels, _read(allocatable)))[1]


def _count(capacity: Mapping[str, int]) -> int:
    """A node has GPUs of one vendor, and hundredths are the same devices counted otherwise."""
    count = 0
    for resource, amount in capacity.items():
        if resource == names.FRACTION_RESOURCE:
            count = max(count, amount // HUNDREDTHS_PER_GPU)
        elif resource in _WHOLE:
            count = max(count, amount)
    return count


def _read(allocatable: Mapping[str, str | int | float]) -> dict[str, int]:
    capacity: dict[str, int] = {}
    for resource, text in allocatable.items():
        if resource in _WHOLE or resource == names.FRACTION_RESOURCE:
            with contextlib.suppress(ValueError):
                capacity[resource] = quantity(text, round_up=False)
    return capacity


def _label_mib(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 9 else 0


_WHOLE = frozenset(vendor.resource for vendor in names.VENDORS)
