"""A second opinion on what runs where, made from the pods' own records and never from the scheduler's counts."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from tangram import units
from tangram.api import names
from tangram.api.objects import Pod, read_gpus
from tangram.scheduler.policies import node_devices
from tangram.simulate import storage
from tangram.simulate.watching import Kind
from tangram.simulate.world import World
from tangram.snapshot.requests.amounts import resource_units
from tangram.snapshot.requests.request import Request, read_request

_OVER = ("Succeeded", "Failed")


@dataclass(slots=True)
class _Counts:
    """What pods hold, by node."""

    resources: defaultdict[str, defaultdict[str, int]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(int))
    )
    shares: defaultdict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))
    """By (node, device), hundredths."""
    unrecorded: defaultdict[str, int] = field(default_factory=lambda: defaultdict(int))
    """Devices of pods that other schedulers placed, which nobody names."""


def overfilled(world: World) -> Iterator[str]:
    """Sentences about nodes and devices that hold more than they have, and pods whose devices are not what they ask."""
    counts = _Counts()
    for key, pod in sorted(world.pods.items()):
        node = pod.spec.node_name
        if not node or pod.status.phase in _OVER:
            continue
        request = read_request(pod)
        for resource, value in request.resources:
            counts.resources[node][resource] += value
        if pod.spec.scheduler_name != names.SCHEDULER_NAME and names.GPUS not in pod.metadata.annotations:
            counts.unrecorded[node] += sum(one.part.count for one in request.containers)
            continue
        yield from _count_devices(f"{key[0]}/{key[1]}", pod, request, _ids(world, node), counts.shares)
    yield from _overfilled_nodes(world, counts)
    for (node, device), hundredths in sorted(counts.shares.items()):
        if hundredths > units.HUNDREDTHS_PER_GPU:
            yield f"node {node} device {device} is given away {hundredths} hundredths"


def _overfilled_nodes(world: World, counts: _Counts) -> Iterator[str]:
    devices = Counter(node for node, _ in counts.shares)
    for node, resources in sorted(counts.resources.items()):
        if node not in world.nodes:
            yield f"pods run on {node}, which is not there"
            continue
        allocatable = world.nodes[node].status.allocatable
        for resource, value in sorted(resources.items()):
            has = resource_units(resource, allocatable.get(resource, 0), round_up=False)
            if value > has:
                yield f"node {node} has {has} of {resource}, its pods hold {value}"
        taken, unrecorded = devices[node], counts.unrecorded[node]
        has = max(int(allocatable.get(names.GPU_RESOURCE, 0)), len(node_devices(world.inventories.get(node))))
        if unrecorded and taken + unrecorded > has:
            yield f"node {node} has {has} devices, {taken} are given away and pods of others hold {unrecorded}"


def misplaced(world: World) -> Iterator[str]:
    """Sentences about pods of ours that run without a volume of theirs, or where it cannot be reached, and nodes that
    have more volumes than they can attach."""
    attached: defaultdict[str, set[str]] = defaultdict(set)
    for (namespace, name), pod in sorted(world.pods.items()):
        node = world.nodes.get(pod.spec.node_name)
        if node is None or not pod.spec.volumes or pod.spec.scheduler_name != names.SCHEDULER_NAME:
            continue
        for key in storage.without_volume(pod, world.claims):
            yield f"pod {namespace}/{name} runs, and its claim {key[1]} has no volume"
        for volume in storage.out_of_reach(pod, node, world.claims, world.volumes):
            yield f"pod {namespace}/{name} runs on {pod.spec.node_name}, which cannot reach its volume {volume}"
        if pod.status.phase not in _OVER:
            attached[pod.spec.node_name] |= storage.attached(pod, world.claims, world.volumes)
    for name, drivers in sorted(world.objects[Kind.DRIVERS].items()):
        most = drivers.spec.limits.get(storage.DRIVER)
        if most is not None and len(attached[name]) > most:
            yield f"node {name} can have {most} volumes, its pods have {sorted(attached[name])}"


def _ids(world: World, node: str) -> dict[str, str]:
    """What records may call the node's devices -> the one name that counts: a place on the node is also a uuid."""
    return {str(place): device.id for place, device in enumerate(node_devices(world.inventories.get(node)))}


def _count_devices(
    who: str, pod: Pod, request: Request, ids: dict[str, str], shares: defaultdict[tuple[str, str], int]
) -> Iterator[str]:
    text = pod.metadata.annotations.get(names.GPUS)
    given = read_gpus(text) if text is not None else {}
    for one in request.containers:
        container, ask, devices = one.container, one.part, given.get(one.container, ())
        share = ask.milli * units.HUNDREDTHS_PER_GPU // units.MILLI_PER_GPU
        if len({device.id for device in devices}) != ask.count or any(device.share != share for device in devices):
            yield f"pod {who} container {container} asks for {ask.count} x {share} hundredths and has {devices}"
    for main in pod.spec.containers:
        for device in given.get(main.name, ()):
            shares[pod.spec.node_name, ids.get(device.id, device.id)] += device.share
