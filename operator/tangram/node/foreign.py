"""Devices that another vendor's plugin gives out: which of those that the GPUNode names a container has. Pure.

The plugin's ids (addresses on the bus, serial numbers, places) are its own, and ours are made up from the number of
devices that it offers. So what is true is how many a container holds. Which ones is a matter of books: those of the
pod's record, which the scheduler counts by, where the numbers agree, else the first that nobody has.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tangram.api import names
from tangram.api.objects import Pod, read_gpus
from tangram.node.allocation import Devices
from tangram.node.gpus import Gpu
from tangram.node.podresources import Listed

Key = tuple[str, str, str]
"""(namespace, pod, container)."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What one container holds of one such resource."""

    container: Key
    resource: str
    count: int
    named: tuple[str, ...] = ()
    """The devices that its pod's record names for it."""


def key_of(listed: Listed) -> Key:
    """Which container of the node it is."""
    return listed.namespace, listed.pod, listed.container


def named_in(pod: Pod | None, container: str, devices: Devices) -> tuple[str, ...]:
    """Uuids of the devices that a pod's record names for a container; none where no record can be read."""
    text = pod.metadata.annotations.get(names.GPUS) if pod is not None else None
    if text is None:
        return ()
    try:
        shares = read_gpus(text).get(container, ())
    except ValueError:
        return ()
    return tuple(gpu.uuid for share in shares if (gpu := devices.find(share.id)) is not None)


def matched(taken: Iterable[Taken], gpus: Sequence[Gpu]) -> dict[Key, tuple[str, ...]]:
    """The uuids of the devices that each container has; a device is nobody's twice.

    Of more devices than there are (the plugin has lost some since) as many as there are.
    """
    free = {gpu.uuid: gpu.resource for gpu in gpus if gpu.resource}
    found: dict[Key, tuple[str, ...]] = {}

    def take(one: Taken, uuids: tuple[str, ...]) -> None:
        found[one.container] = found.get(one.container, ()) + uuids
        for uuid in uuids:
            del free[uuid]

    rest = []
    for one in sorted(taken, key=lambda one: (one.container, one.resource)):
        own = tuple(uuid for uuid in dict.fromkeys(one.named) if free.get(uuid) == one.resource)
        if len(own) == one.count:
            take(one, own)
        else:
            rest.append(one)
    for one in rest:
        take(one, tuple(uuid for uuid, resource in free.items() if resource == one.resource)[: one.count])
    return found
