"""What a pod holds on its node: read from the annotation of a bound pod, or taken from a decision about one."""

import numpy as np

from tangram import units
from tangram.api import names
from tangram.api.objects import DeviceShare, Pod, read_gpus
from tangram.plan import Place
from tangram.snapshot.arrays import Int64
from tangram.snapshot.nodes import NodeTable, Usage
from tangram.snapshot.request import Ask, Request

Parts = dict[int, tuple[int, int, int]]
"""Device index -> (index, milli, MiB)."""


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
        given = read_gpus(annotation)
    except ValueError:
        return Usage(amounts, (), unknown=-1)
    held: Parts = {}
    seen: set[int] = set()
    size = nodes.device_memory(node)
    for container, index in request.containers:
        if index in seen:
            continue
        seen.add(index)
        shares = given.get(container, ())
        if not _as_asked(shares, request.asks[index]):
            return Usage(amounts, (), unknown=-1)
        for share in shares:
            device = nodes.device_row(node, share.id)
            if device is None:
                return Usage(amounts, (), unknown=-1)
            _add(held, device, _milli(share), share.memory_mib, size)
    return Usage(amounts, tuple(held[index] for index in sorted(held)))


def usage_of_place(place: Place, amounts: Int64, request: Request, nodes: NodeTable) -> Usage:
    """What a pod will hold by a decision: containers that share an ask name the same devices, which count once."""
    ask_of, size = dict(request.containers), nodes.device_memory(place.node) if place.devices else 0
    held: Parts = {}
    seen: set[int] = set()
    for container, given in place.devices:
        if ask_of[container] not in seen:
            seen.add(ask_of[container])
            for device in given:
                _add(held, device.index, device.milli, device.memory_mib, size)
    return Usage(amounts, tuple(held[index] for index in sorted(held)))


def _as_asked(shares: tuple[DeviceShare, ...], ask: Ask) -> bool:
    return len(shares) == ask.count and all(_milli(share) == ask.milli for share in shares)


def _milli(share: DeviceShare) -> int:
    return share.share * units.MILLI_PER_GPU // units.HUNDREDTHS_PER_GPU


def _add(held: Parts, device: int, milli: int, said_mib: int, device_mib: int) -> None:
    """Add a part of a device; never more memory than the device has, whatever the annotation says."""
    mib = min(said_mib or milli * device_mib // units.MILLI_PER_GPU, device_mib)
    before = held.get(device)
    held[device] = (
        (device, milli, mib) if before is None else (device, before[1] + milli, min(before[2] + mib, device_mib))
    )
