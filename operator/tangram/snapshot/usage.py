"""What a pod holds on its node: read from the annotation of a bound pod, or taken from a decision about one."""

from functools import lru_cache
from typing import TypeAlias

import numpy as np

from tangram import units
from tangram.api import names
from tangram.api.objects import DeviceShare, Pod, read_gpus
from tangram.plan import Device, Place
from tangram.snapshot.arrays import Int64
from tangram.snapshot.nodes import NodeTable, Usage
from tangram.snapshot.request import Ask, Request

Part: TypeAlias = tuple[int, int, int]
"""(device index, milli, MiB)."""
Parts: TypeAlias = tuple[Part, ...]
Containers: TypeAlias = tuple[tuple[str, int], ...]
"""As in ``Request.containers``."""
_REMEMBERED = 8192
"""Most pods are given what another one of their shape was given on another node, or has left: that is read once."""


def anything() -> Usage:
    """What a pod holds of which nothing is known: it may be any device, so all count as held."""
    return Usage(np.zeros(0, np.int64), (), unknown=-1)


def usage_of_pod(pod: Pod, amounts: Int64, request: Request, nodes: NodeTable, node: str) -> Usage:
    """What a bound pod holds: ``amounts`` of the resources, and the devices that its annotation names.

    Without the annotation (another scheduler placed it) as many whole devices as it asks for, whichever they are; with
    one that cannot be read, or that does not say what the pod asks for, all devices of the node.
    """
    if not request.asks:
        return Usage(amounts, ())
    annotation = pod.metadata.annotations.get(names.GPUS)
    if annotation is None:
        return Usage(amounts, (), unknown=sum(ask.count for ask in request.asks))
    try:
        parts = _named(annotation, request.asks, request.containers, nodes.device_ids(node), nodes.device_memory(node))
    except ValueError:
        return Usage(amounts, (), unknown=-1)
    return Usage(amounts, parts)


def usage_of_place(place: Place, amounts: Int64, request: Request, nodes: NodeTable) -> Usage:
    """What a pod will hold by a decision: containers that share an ask name the same devices, which count once."""
    if not place.devices:
        return Usage(amounts, ())
    return Usage(amounts, _decided(place.devices, request.containers, nodes.device_memory(place.node)))


@lru_cache(maxsize=_REMEMBERED)
def _named(annotation: str, asks: tuple[Ask, ...], containers: Containers, ids: tuple[str, ...], size: int) -> Parts:
    """The parts of devices that an annotation names; raises ValueError for one that is not what is asked for."""
    given, held, seen = read_gpus(annotation), dict[int, Part](), set[int]()
    for container, index in containers:
        if index in seen:
            continue
        seen.add(index)
        shares = given.get(container, ())
        if not _as_asked(shares, asks[index]):
            raise ValueError(f"container {container} is given something else than it asks for")
        for share in shares:
            _add(held, _index(share.id, ids), _milli(share), share.memory_mib, size)
    return tuple(held[index] for index in sorted(held))


@lru_cache(maxsize=_REMEMBERED)
def _decided(devices: tuple[tuple[str, tuple[Device, ...]], ...], containers: Containers, size: int) -> Parts:
    """The parts of devices that a decision gives to containers; containers that share an ask count once."""
    ask_of, held, seen = dict(containers), dict[int, Part](), set[int]()
    for container, given in devices:
        if ask_of[container] not in seen:
            seen.add(ask_of[container])
            for device in given:
                _add(held, device.index, device.milli, device.memory_mib, size)
    return tuple(held[index] for index in sorted(held))


def _index(device: str, ids: tuple[str, ...]) -> int:
    """Index of a device by the id that an annotation gives; raises ValueError when the node has no such device."""
    if device in ids:
        return ids.index(device)
    if device.isdecimal() and len(device) < 5 and int(device) < len(ids):
        return int(device)
    raise ValueError(f"the node has no device {device}")


def _as_asked(shares: tuple[DeviceShare, ...], ask: Ask) -> bool:
    return len(shares) == ask.count and all(_milli(share) == ask.milli for share in shares)


def _milli(share: DeviceShare) -> int:
    return share.share * units.MILLI_PER_GPU // units.HUNDREDTHS_PER_GPU


def _add(held: dict[int, Part], device: int, milli: int, said_mib: int, device_mib: int) -> None:
    """Add a part of a device; never more memory than the device has, whatever the annotation says."""
    mib = min(said_mib or milli * device_mib // units.MILLI_PER_GPU, device_mib)
    before = held.get(device)
    held[device] = (
        (device, milli, mib) if before is None else (device, before[1] + milli, min(before[2] + mib, device_mib))
    )
