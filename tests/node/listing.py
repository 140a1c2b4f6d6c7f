"""What the kubelet says of who holds what, for tests that have no event loop."""

from pathlib import Path

import grpc

from tangram.api.names import FRACTION_RESOURCE
from tangram.node.wire import podresources_pb2, podresources_pb2_grpc


def list_held(socket: Path) -> dict[tuple[str, str], set[str]]:
    """(pod, container) -> the device ids of fractions that it holds."""
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        lister = podresources_pb2_grpc.PodResourcesListerStub(channel)
        listed = lister.List(podresources_pb2.ListPodResourcesRequest(), timeout=10)
    found: dict[tuple[str, str], set[str]] = {}
    for pod in listed.pod_resources:
        for container in pod.containers:
            ids = {i for d in container.devices if d.resource_name == FRACTION_RESOURCE for i in d.device_ids}
            if ids:
                found[pod.name, container.name] = ids
    return found
