"""Kubernetes' own kinds, and GPUNodes, as the controllers read them.

Projections are decoded straight from the wire and hold only what a decision needs, so that the copy of ten thousand
pods stays small. Those that the scheduler reads are in ``objects``.
"""

import msgspec

from tangram.api import names
from tangram.api.objects import Condition, Metadata, OwnerReference, Resources, Struct
from tangram.units import timestamp_seconds


class Terminated(Struct, frozen=True):
    """How a container ended."""

    exit_code: int = 0
    reason: str = ""
    message: str = ""
    finished_at: str | None = None


class Waiting(Struct, frozen=True):
    """Why a container does not run yet."""

    reason: str = ""
    message: str = ""


class ContainerState(Struct, frozen=True):
    """What a container does."""

    terminated: Terminated | None = None
    waiting: Waiting | None = None


class ContainerStatus(Struct, frozen=True):
    """A container, as the kubelet sees it."""

    name: str
    ready: bool = False
    restart_count: int = 0
    state: ContainerState = ContainerState()
    last_state: ContainerState = ContainerState()
    """How the life before this one ended."""


class ContainerView(Struct, frozen=True):
    """What a container asks for."""

    name: str
    resources: Resources = Resources()
    restart_policy: str = ""
    """Of an init container: ``Always`` where it runs beside the others."""


class PodSpecView(Struct, frozen=True):
    """Where a pod runs and what it holds there."""

    node_name: str = ""
    containers: tuple[ContainerView, ...] = ()
    init_containers: tuple[ContainerView, ...] = ()


class PodStatusView(Struct, frozen=True):
    """How a pod is."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()
    container_statuses: tuple[ContainerStatus, ...] = ()
    init_container_statuses: tuple[ContainerStatus, ...] = ()


class PodView(Struct, frozen=True):
    """A pod of ours."""

    metadata: Metadata
    spec: PodSpecView = PodSpecView()
    status: PodStatusView = PodStatusView()

    @property
    def name(self) -> str:
        """Name of the pod."""
        return self.metadata.name

    @property
    def terminating(self) -> bool:
        """Whether the pod was asked to go."""
        return self.metadata.deletion_timestamp is not None

    @property
    def ended(self) -> bool:
        """Whether no container of the pod will run again."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def started(self) -> bool:
        """Whether its containers run, or have run."""
        return self.status.phase in ("Running", "Succeeded", "Failed")

    @property
    def bound(self) -> bool:
        """Whether the pod has its node (and its devices)."""
        return bool(self.spec.node_name)

    @property
    def ready(self) -> bool:
        """Whether the pod answers."""
        condition = self.condition("Ready")
        alive = self.status.phase == "Running" and not self.terminating
        return alive and condition is not None and condition.status == "True"

    @property
    def ready_since(self) -> int:
        """Seconds since the epoch since which a ready pod is ready; never before its creation: the clock of its node
        may be late, and the API server's says when it was created."""
        condition = self.condition("Ready")
        return max(self.created, timestamp_seconds(condition.last_transition_time) if condition is not None else 0)

    @property
    def created(self) -> int:
        """Seconds since the epoch at which the pod was created."""
        return timestamp_seconds(self.metadata.creation_timestamp)

    @property
    def bound_at(self) -> int:
        """Seconds since the epoch at which it got its node; 0 when that is not known."""
        scheduled = self.condition("PodScheduled")
        known = scheduled is not None and scheduled.status == "True"
        return timestamp_seconds(scheduled.last_transition_time) if scheduled is not None and known else 0

    @property
    def ended_at(self) -> int:
        """Seconds since the epoch at which the last container ended; 0 when it is not known."""
        ends = (
            timestamp_seconds(status.state.terminated.finished_at)
            for status in self.status.container_statuses
            if status.state.terminated is not None
        )
        return max(ends, default=0)

    @property
    def finished(self) -> int:
        """The same, but the creation when it is not known."""
        return self.ended_at or self.created

    def label(self, key: str) -> str:
        """A label, empty when it is missing."""
        return self.metadata.labels.get(key, "")

    def condition(self, kind: str) -> Condition | None:
        """A condition by its type."""
        return next((item for item in self.status.conditions if item.type == kind), None)


class ServicePort(Struct, frozen=True):
    """A port of a Service."""

    port: int
    name: str = ""
    target_port: int | str = 0
    protocol: str = "TCP"


class ServiceSpecView(Struct, frozen=True):
    """What a Service selects and offers."""

    selector: dict[str, str] = msgspec.field(default_factory=dict)
    ports: tuple[ServicePort, ...] = ()


class ServiceView(Struct, frozen=True):
    """A Service of ours."""

    metadata: Metadata
    spec: ServiceSpecView = ServiceSpecView()

    @property
    def name(self) -> str:
        """Name of the Service."""
        return self.metadata.name


class NodeStatusView(Struct, frozen=True):
    """What a node has."""

    allocatable: dict[str, str | int | float] = msgspec.field(default_factory=dict)


class NodeView(Struct, frozen=True):
    """A node, as far as a policy speaks about it."""

    metadata: Metadata
    status: NodeStatusView = NodeStatusView()


class HolderView(Struct, frozen=True):
    """A container that holds a part of a GPU."""

    pod_uid: str = msgspec.field(default="", name="podUID")


class GpuView(Struct, frozen=True):
    """A GPU, as its node's agent sees it."""

    uuid: str
    index: int = 0
    health: str = ""
    health_reason: str = ""
    allocations: tuple[HolderView, ...] = ()


class GpuNodeStatusView(Struct, frozen=True):
    """The GPUs of a node."""

    devices: tuple[GpuView, ...] = ()


class GpuNodeView(Struct, frozen=True):
    """A GPUNode, as far as it reports GPUs that have failed and of the pods that hold them."""

    metadata: Metadata
    status: GpuNodeStatusView = GpuNodeStatusView()

    @property
    def failures(self) -> dict[str, str]:
        """By uid of a pod: the sentence about the GPU that it holds and that has failed."""
        return {
            holder.pod_uid: f"GPU {gpu.index} ({gpu.uuid}) of {self.metadata.name} is unhealthy: "
            f"{gpu.health_reason or 'no reason is known'}"
            for gpu in self.status.devices
            if gpu.health == "Unhealthy"
            for holder in gpu.allocations
            if holder.pod_uid
        }


class OwnedView(Struct, frozen=True):
    """Anything, as far as it says whose it is."""

    metadata: Metadata


def controller_of(metadata: Metadata) -> OwnerReference | None:
    """The owner that manages the object, if there is one."""
    return next((owner for owner in metadata.owner_references if owner.controller), None)


def is_of_kind(owner: OwnerReference | None, kind: str) -> bool:
    """Whether the owner is of a kind of ours: other groups have kinds of the same name."""
    return owner is not None and owner.kind == kind and owner.api_version.partition("/")[0] == names.GROUP
