"""What the agent reads of its node's pods: as much as the scheduler does, and which containers run."""

from collections.abc import Iterable

import msgspec

from tangram.api import objects
from tangram.api.objects import Pod, PodStatus


class ContainerStatus(objects.ContainerStatus, frozen=True, rename="camel", gc=False):
    """A container as the kubelet has reported it."""

    container_id: str = msgspec.field(default="", name="containerID")
    """Such as ``containerd://<64 hexadecimal digits>``; empty before it runs."""


class NodePodStatus(PodStatus, frozen=True, rename="camel", gc=False):
    """How the pod and its containers are."""

    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class NodePod(Pod, frozen=True, rename="camel", gc=False):
    """A pod of this node."""

    status: NodePodStatus = NodePodStatus()

    def __post_init__(self) -> None:
        """Keep all of it: what containers are called is asked for here."""


def containers_by_id(pods: Iterable[NodePod]) -> dict[str, str]:
    """Names of the pods' containers by their ids, which are those of control groups."""
    return {
        container.container_id.rpartition("/")[2]: container.name
        for pod in pods
        for container in (*pod.status.container_statuses, *pod.status.init_container_statuses)
        if container.container_id
    }
