"""Pods and the Node as the agent of one node reads them: as much as the scheduler does, and which containers run."""

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


class OwnNodeMetadata(msgspec.Struct, frozen=True):
    """Which node it is."""

    uid: str = ""
    labels: dict[str, str] = {}


class OwnNodeInfo(msgspec.Struct, frozen=True):
    """What software the node runs."""

    container_runtime_version: str = msgspec.field(default="", name="containerRuntimeVersion")


class OwnNodeStatus(msgspec.Struct, frozen=True):
    """What the kubelet has, and what it gives out."""

    capacity: dict[str, str] = {}
    allocatable: dict[str, str] = {}
    node_info: OwnNodeInfo = msgspec.field(default_factory=OwnNodeInfo, name="nodeInfo")


class OwnNode(msgspec.Struct, frozen=True):
    """The Node that the agent runs on."""

    metadata: OwnNodeMetadata = OwnNodeMetadata()
    status: OwnNodeStatus = OwnNodeStatus()
