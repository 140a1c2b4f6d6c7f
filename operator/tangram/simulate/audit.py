"""A second opinion on what runs where, made from the pods' own records and never from the scheduler's counts."""

from collections import defaultdict
from collections.abc import Iterator

from tangram import units
from tangram.api import names
from tangram.api.objects import Pod, read_gpus
from tangram.simulate.world import World
from tangram.snapshot.requests.request import Request, read_request, resource_units


def overfilled(world: World) -> Iterator[str]:
    """Sentences about nodes and devices that hold more than they have, and pods whose devices are not what they ask."""
    used: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    shares: defaultdict[tuple[str, str], int] = defaultdict(int)
    for key, pod in sorted(world.pods.items()):
        node = pod.spec.node_name
        if not node:
            continue
        request = read_request(pod)
        for resource, value in request.resources:
            used[node][resource] += value
        yield from _count_devices(f"{key[0]}/{key[1]}", pod, request, shares)
    for node, resources in sorted(used.items()):
        if node not in world.nodes:
            yield f"pods run on {node}, which is not there"
            continue
        allocatable = world.nodes[node].status.allocatable
        for resource, value in sorted(resources.items()):
            has = resource_units(resource, allocatable.get(resource, 0), round_up=False)
            if value > has:
                yield f"node {node} has {has} of {resource}, its pods hold {value}"
    for (node, device), hundredths in sorted(shares.items()):
        if hundredths > units.HUNDREDTHS_PER_GPU:
            yield f"node {node} device {device} is given away {hundredths} hundredths"


def _count_devices(who: str, pod: Pod, request: Request, shares: defaultdict[tuple[str, str], int]) -> Iterator[str]:
    text = pod.metadata.annotations.get(names.GPUS)
    given = read_gpus(text) if text is not None else {}
    for one in request.containers:
        container, ask, devices = one.container, one.part, given.get(one.container, ())
        share = ask.milli * units.HUNDREDTHS_PER_GPU // units.MILLI_PER_GPU
        if len({device.id for device in devices}) != ask.count or any(device.share != share for device in devices):
            yield f"pod {who} container {container} asks for {ask.count} x {share} hundredths and has {devices}"
    for main in pod.spec.containers:
        for device in given.get(main.name, ()):
            shares[pod.spec.node_name, device.id] += device.share
