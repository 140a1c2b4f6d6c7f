"""What a pod holds on its node: read from the annotation of a bound pod, or taken from a decision about one."""

from collections.abc import Iterable
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from tangram import units
from tangram.api import names
from tangram.api.objects import DeviceShare, Pod, read_gpus
from tangram.plan import Device, Place
from tangram.snapshot.arrays import Int64
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.nodes.usage import Usage
from tangram.snapshot.requests.request import Request
from tangram.snapshot.values.asks import Ask, Given

Part: TypeAlias = tuple[int, int, int]
"""(device index, milli, MiB)."""
Parts: TypeAlias = tuple[Part, ...]
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
        parts = _named(annotation, request.containers, *nodes.devices(node))
    except ValueError:
        return Usage(amounts, (), unknown=-1)
    return Usage(amounts, parts)


def usage_of_place(place: Place, amounts: Int64, request: Request, nodes: NodeTable) -> Usage:
    """What a pod will hold by a decision: containers that share an ask name the same devices, which count once."""
    given = place.devices
    if not given:
        return Usage(amounts, ())
    size, containers = nodes.device_memory(place.node), request.containers
    match given, containers:
        case ((name, (share,)),), (one,) if name == one.container:  # most: then nothing has to be added up
            mib = share.memory_mib or share.milli * size // units.MILLI_PER_GPU
            return Usage(amounts, ((share.index, share.milli, mib if mib < size else size),))
    return Usage(amounts, _decided(given, containers, size))


@lru_cache(maxsize=_REMEMBERED)
def _named(annotation: str, containers: tuple[Given, ...], ids: tuple[str, ...], size: int) -> Parts:
    """The parts of devices that an annotation names; raises ValueError for one that is not what is asked for."""
    given, held = read_gpus(annotation), _Held(size)
    for one in containers:
        shares = given.get(one.container, ())
        if not _as_asked(shares, one.part):
            raise ValueError(f"container {one.container} is given something else than it asks for")
        held.add([(_index(share.id, ids), _milli(share), share.memory_mib) for share in shares], passing=one.passing)
    return held.parts()


@lru_cache(maxsize=_REMEMBERED)
def _decided(devices: tuple[tuple[str, tuple[Device, ...]], ...], containers: tuple[Given, ...], size: int) -> Parts:
    """The parts of devices that a decision gives to containers."""
    given, held = dict(devices), _Held(size)
    for one in containers:
        shares = given.get(one.container, ())
        held.add([(share.index, share.milli, share.memory_mib) for share in shares], passing=one.passing)
    return held.parts()


class _Held:
    """Adds up what a pod's containers have of each device: what those that run together have, and at least what any
    that ends before them had; never more memory than the device of ``size`` MiB has, whatever anybody says."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lasting: dict[int, Part] = {}
        self._passing: list[Part] = []

    def add(self, parts: Iterable[Part], *, passing: bool) -> None:
        """Count a container's parts; 0 MiB: in proportion."""
        for device, milli, said in parts:
            mib = min(said or milli * self._size // units.MILLI_PER_GPU, self._size)
            if passing:
                self._passing.append((device, milli, mib))
            else:
                _, before, memory = self._lasting.get(device, (device, 0, 0))
                self._lasting[device] = device, before + milli, min(memory + mib, self._size)

    def parts(self) -> Parts:
        """All of it, by device."""
        held = dict(self._lasting)
        for device, milli, mib in self._passing:
            _, before, memory = held.get(device, (device, 0, 0))
            held[device] = device, max(before, milli), max(memory, mib)
        return tuple(held[device] for device in sorted(held))


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
