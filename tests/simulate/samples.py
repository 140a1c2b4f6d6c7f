"""Small worlds for the simulator's tests."""

from tangram.api import names
from tangram.api.objects import Container, Metadata, Node, NodeStatus, Pod, PodSpec, Resources
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings
from tangram.simulate.audit import overfilled
from tangram.simulate.loop import Loop
from tangram.simulate.world import World


def node(name: str, gpus: int = 8) -> Node:
    allocatable: dict[str, str | int | float] = {
        "cpu": 64,
        "memory": "512Gi",
        "pods": 110,
        names.GPU_RESOURCE: gpus,
        names.FRACTION_RESOURCE: 100 * gpus,
    }
    return Node(Metadata(name, labels={"nvidia.com/gpu.product": "A100"}), status=NodeStatus(allocatable=allocatable))


def pod(name: str, gpus: int = 0, share: int = 0, gang: str = "", minimum: int = 1) -> Pod:
    requests: dict[str, str | int | float] = {"cpu": 1}
    if gpus:
        requests[names.GPU_RESOURCE] = gpus
    if share:
        requests[names.FRACTION_RESOURCE] = share
    labels = {names.GANG: gang} if gang else {}
    annotations = {names.GANG_MIN: str(minimum)} if gang else {}
    containers = (Container("main", Resources(requests=requests)),)
    return Pod(
        Metadata(name, "default", labels=labels, annotations=annotations),
        PodSpec(containers=containers, scheduler_name=names.SCHEDULER_NAME),
    )


def scheduled(world: World) -> Loop:
    """The production cycle in the world, with every invariant checked in every turn."""
    return Loop(world, Cycle(SchedulerSettings(debug=True)))


def bound(world: World) -> dict[str, str]:
    """Pod -> node; the audit, which counts by itself, finds no fault."""
    assert list(overfilled(world)) == []
    return {found.metadata.name: found.spec.node_name for found in world.pods.values() if found.spec.node_name}
