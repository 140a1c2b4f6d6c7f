"""How many GPUs a node offers, by its resources and labels alone: what an agent reports is asked elsewhere."""

from collections.abc import Mapping

from tangram.api import names
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


def offered_gpus(labels: Mapping[str, str], allocatable: Mapping[str, str | int | float]) -> int:
    """Whole GPUs of a node, 0 where its amounts cannot be read.

    As the scheduler counts them: a node has GPUs of one vendor, and hundredths are the same devices counted otherwise.
    """
    several = sharers(labels)
    try:
        found = {resource: quantity(amount) for resource, amount in allocatable.items() if resource in _COUNTED}
    except ValueError:
        return 0
    if several != 1 and names.GPU_RESOURCE in found:
        found[names.GPU_RESOURCE] = found[names.GPU_RESOURCE] // several if several else 0
    hundredths = found.pop(names.FRACTION_RESOURCE, 0)
    return max(hundredths // HUNDREDTHS_PER_GPU, max(found.values(), default=0))


_COUNTED = frozenset({names.FRACTION_RESOURCE, *(vendor.resource for vendor in names.VENDORS)})
