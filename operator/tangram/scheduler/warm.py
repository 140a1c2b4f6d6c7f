"""Compile the kernels before the first decision is asked for."""

from tangram.api import names
from tangram.api.objects import Container, Metadata, Node, NodeStatus, Pod, PodSpec, Resources
from tangram.scheduler.cycle import Cycle


def warm_kernels() -> None:
    """Place a few pods in a world of one node: every kernel is compiled, or read from numba's cache."""
    cycle = Cycle()
    allocatable: dict[str, str | int | float] = {
        "cpu": 64, "memory": "64Gi", "pods": 110, names.GPU_RESOURCE: 8, names.FRACTION_RESOURCE: 800
    }  # fmt: skip
    labels = {"nvidia.com/gpu.product": "A100"}
    cycle.builder.put_node(Node(Metadata("n", labels=labels), status=NodeStatus(allocatable=allocatable)))
    fraction, whole = {names.FRACTION_RESOURCE: "30"}, {names.GPU_RESOURCE: "2"}
    too_much = [[{"cpu": "1000"}], [{names.GPU_RESOURCE: "8"}]]
    for number, requests in enumerate(([fraction], [whole], [{"cpu": "1"}], [fraction, fraction], *too_much)):
        containers = tuple(
            Container(f"c{index}", Resources(requests=dict(request))) for index, request in enumerate(requests)
        )
        metadata = Metadata(f"p{number}", "default", uid=f"u{number}")
        cycle.observe_pod(None, Pod(metadata, PodSpec(containers=containers, scheduler_name=names.SCHEDULER_NAME)))
    for moment in (0, 1, 2 * cycle.settings.reservation_delay):  # one that waits is first told, then waited for
        cycle.decide(moment)
