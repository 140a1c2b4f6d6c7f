"""What tangram reads of Kubernetes' own kinds: msgspec projections, decoded straight from the wire.

Only the fields that a decision needs are here; everything else (managedFields above all) is skipped by the decoder
without becoming Python objects. Values are immutable: a changed object is a new object.
"""

from collections.abc import Mapping

import msgspec
from msgspec.structs import force_setattr


class Struct(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """Base of all projections: frozen, camelCase on the wire, unknown fields skipped."""


class OwnerReference(Struct, frozen=True):
    """Who made the object."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    controller: bool = False
    api_version: str = ""


class Metadata(Struct, frozen=True):
    """Object metadata."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    owner_references: tuple[OwnerReference, ...] = ()


class Resources(Struct, frozen=True):
    """Requests and limits of a container, as written (quantities are text or numbers)."""

    requests: dict[str, str | int | float] = {}
    limits: dict[str, str | int | float] = {}


class ContainerPort(Struct, frozen=True):
    """A port; only host ports matter to placement."""

    host_port: int = 0
    protocol: str = "TCP"
    host_ip: str = msgspec.field(default="", name="hostIP")


class Container(Struct, frozen=True):
    """A container's share of the pod's request; ``restart_policy`` Always marks a sidecar among init containers."""

    name: str
    resources: Resources = Resources()
    ports: tuple[ContainerPort, ...] = ()
    restart_policy: str | None = None


class Toleration(Struct, frozen=True):
    """A taint that the pod tolerates."""

    key: str = ""
    operator: str = "Equal"
    value: str = ""
    effect: str = ""


class Requirement(Struct, frozen=True):
    """One clause over a node's labels or fields: ``key operator values``."""

    key: str
    operator: str
    values: tuple[str, ...] = ()


class NodeSelectorTerm(Struct, frozen=True):
    """Clauses that must all hold."""

    match_expressions: tuple[Requirement, ...] = ()
    match_fields: tuple[Requirement, ...] = ()


class NodeSelector(Struct, frozen=True):
    """Terms of which one must hold."""

    node_selector_terms: tuple[NodeSelectorTerm, ...] = ()


class PreferredTerm(Struct, frozen=True):
    """A term that is liked with a weight of 1 to 100."""

    weight: int
    preference: NodeSelectorTerm


class NodeAffinity(Struct, frozen=True):
    """Node affinity."""

    required: NodeSelector | None = msgspec.field(default=None, name="requiredDuringSchedulingIgnoredDuringExecution")
    preferred: tuple[PreferredTerm, ...] = msgspec.field(
        default=(), name="preferredDuringSchedulingIgnoredDuringExecution"
    )


class LabelSelector(Struct, frozen=True):
    """Labels that must be there and clauses that must hold; without any it selects everything."""

    match_labels: dict[str, str] = {}
    match_expressions: tuple[Requirement, ...] = ()


class PodAffinityTerm(Struct, frozen=True):
    """Pods, selected by namespace and labels, and the node label whose equal values count as one place."""

    topology_key: str
    label_selector: LabelSelector | None = None
    namespaces: tuple[str, ...] = ()
    namespace_selector: LabelSelector | None = None


class WeightedPodAffinityTerm(Struct, frozen=True):
    """A term that is liked, or disliked, with a weight of 1 to 100."""

    weight: int
    pod_affinity_term: PodAffinityTerm


class PodAffinity(Struct, frozen=True):
    """Affinity or anti-affinity to other pods."""

    required: tuple[PodAffinityTerm, ...] = msgspec.field(
        default=(), name="requiredDuringSchedulingIgnoredDuringExecution"
    )
    preferred: tuple[WeightedPodAffinityTerm, ...] = msgspec.field(
        default=(), name="preferredDuringSchedulingIgnoredDuringExecution"
    )


class TopologySpreadConstraint(Struct, frozen=True):
    """How unevenly the selected pods may be spread over the values of a node label."""

    max_skew: int
    topology_key: str
    when_unsatisfiable: str
    label_selector: LabelSelector | None = None
    min_domains: int | None = None
    node_affinity_policy: str | None = None
    node_taints_policy: str | None = None
    match_label_keys: tuple[str, ...] = ()


class Affinity(Struct, frozen=True):
    """Affinity to nodes and to other pods."""

    node_affinity: NodeAffinity | None = None
    pod_affinity: PodAffinity | None = None
    pod_anti_affinity: PodAffinity | None = None


class SchedulingGate(Struct, frozen=True):
    """A reason, set by somebody else, not to schedule the pod yet."""

    name: str


class ClaimReference(Struct, frozen=True):
    """A persistent volume claim, by name."""

    claim_name: str


class EphemeralVolume(Struct, frozen=True):
    """A volume for which a claim is made with the pod."""


class PodVolume(Struct, frozen=True):
    """A volume; only ones with a claim matter to placement."""

    name: str
    persistent_volume_claim: ClaimReference | None = None
    ephemeral: EphemeralVolume | None = None


class PodResourceClaim(Struct, frozen=True):
    """A claim to devices by dynamic resource allocation (DRA)."""

    name: str


class SchedulingGroup(Struct, frozen=True):
    """The PodGroup of Kubernetes' own gang scheduling that the pod is in."""

    pod_group_name: str = ""


class PodSpec(Struct, frozen=True):
    """What the pod asks for."""

    containers: tuple[Container, ...] = ()
    init_containers: tuple[Container, ...] = ()
    overhead: dict[str, str | int | float] = {}
    node_name: str = ""
    restart_policy: str = ""
    scheduler_name: str = ""
    node_selector: dict[str, str] = {}
    affinity: Affinity | None = None
    tolerations: tuple[Toleration, ...] = ()
    priority: int = 0
    priority_class_name: str = ""
    preemption_policy: str = "PreemptLowerPriority"
    scheduling_gates: tuple[SchedulingGate, ...] = ()
    topology_spread_constraints: tuple[TopologySpreadConstraint, ...] = ()
    host_network: bool = False
    volumes: tuple[PodVolume, ...] = ()
    resources: Resources | None = None
    """What the pod asks for as a whole, of CPU, memory and huge pages; the containers share it."""
    resource_claims: tuple[PodResourceClaim, ...] = ()
    scheduling_group: SchedulingGroup | None = None


class Condition(Struct, frozen=True):
    """A condition of any kind of object."""

    type: str
    status: str = "Unknown"
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None
    observed_generation: int = 0


class ContainerStatus(Struct, frozen=True):
    """What a container has by now, where that is not what its spec asks for."""

    name: str
    resources: Resources | None = None
    """What it runs with; None: the kubelet does not say."""
    allocated_resources: dict[str, str | int | float] = {}
    """What the kubelet has set aside for it."""


class PodStatus(Struct, frozen=True):
    """How the pod is."""

    phase: str = "Pending"
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()
    nominated_node_name: str = ""
    start_time: str | None = None
    container_statuses: tuple[ContainerStatus, ...] = ()
    """Of the containers and sidecars, kept only while the pod is resized in place, as are the two below."""
    init_container_statuses: tuple[ContainerStatus, ...] = ()
    resources: Resources | None = None
    """What the pod as a whole runs with, where it asks for something as a whole."""
    allocated_resources: dict[str, str | int | float] = {}


class Pod(Struct, frozen=True):
    """A pod."""

    metadata: Metadata
    spec: PodSpec = PodSpec()
    status: PodStatus = PodStatus()

    def __post_init__(self) -> None:
        """Keep what containers have only where it is not what they ask for: nearly always the kubelet repeats it."""
        status = self.status
        if not (status.container_statuses or status.init_container_statuses or status.resources is not None):
            return
        if not is_resized(self):
            plain = PodStatus(
                status.phase, status.reason, status.message, status.conditions, status.nominated_node_name,
                status.start_time,
            )  # fmt: skip
            force_setattr(self, "status", plain)


class FailedPodSpec(Struct, frozen=True):
    """Who has placed the pod, and where."""

    node_name: str = ""
    scheduler_name: str = ""


class FailedPod(Struct, frozen=True):
    """A pod that has failed: thousands stay in a cluster until they are collected."""

    metadata: Metadata
    spec: FailedPodSpec = FailedPodSpec()
    status: PodStatus = PodStatus()


def is_resized(pod: Pod) -> bool:
    """Whether a container, or the pod as a whole, has by now something else than it asks for."""
    spec, status = pod.spec, pod.status
    whole, now = spec.resources, status.resources
    if whole is not None and now is not None and _differs(whole, now, status.allocated_resources):
        return True
    for containers, known in (
        (spec.containers, status.container_statuses),
        (spec.init_containers, status.init_container_statuses),
    ):
        for one in known:
            if one.resources is None:
                continue
            for container in containers:
                if container.name == one.name and _differs(container.resources, one.resources, one.allocated_resources):
                    return True
    return False


def _differs(asked: Resources, actual: Resources, allocated: Mapping[str, object]) -> bool:
    wanted = asked.requests
    return actual.requests != wanted or bool(allocated and allocated != wanted)


class Taint(Struct, frozen=True):
    """A mark on a node that keeps pods away unless tolerated."""

    key: str
    effect: str
    value: str = ""


class NodeSpec(Struct, frozen=True):
    """What an administrator wrote of a node."""

    unschedulable: bool = False
    taints: tuple[Taint, ...] = ()


class NodeStatus(Struct, frozen=True):
    """What the kubelet wrote of a node."""

    allocatable: dict[str, str | int | float] = {}
    conditions: tuple[Condition, ...] = ()


class Node(Struct, frozen=True):
    """A node."""

    metadata: Metadata
    spec: NodeSpec = NodeSpec()
    status: NodeStatus = NodeStatus()


class Namespace(Struct, frozen=True):
    """A namespace, for its labels."""

    metadata: Metadata


class WorkDone(Struct, frozen=True):
    """Status of a batch Job."""

    succeeded: int = 0
    """Pods that have ended with success, whether or not they are still there."""


class Job(Struct, frozen=True):
    """A batch Job, as far as it reports what is done."""

    metadata: Metadata
    status: WorkDone = WorkDone()


class DeviceShare(msgspec.Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    """One device of a container in the annotation ``names.GPUS``.

    ``id`` is the device's uuid where the node agent has published an inventory, else its index on the node as text.
    ``share`` is in hundredths of the device (100 = the whole device); ``memory_mib`` 0 means "in proportion to share".
    """

    id: str
    share: int
    memory_mib: int = msgspec.field(default=0, name="memoryMiB")


_SHARES = msgspec.json.Decoder(dict[str, tuple[DeviceShare, ...]])


def read_gpus(annotation: str) -> dict[str, tuple[DeviceShare, ...]]:
    """Decode the reserved annotation: container name -> devices. Raises ValueError when it cannot be trusted."""
    try:
        shares = _SHARES.decode(annotation)
    except (msgspec.DecodeError, UnicodeError) as error:
        raise ValueError(f"the annotation cannot be read: {error}") from None
    for devices in shares.values():
        for device in devices:
            if not 1 <= device.share <= 100 or device.memory_mib < 0 or not device.id:
                raise ValueError(f"the annotation names an impossible share: {device}")
    return shares


LARGEST_ANNOTATIONS = 256 * 1024
"""Bytes that keys and values of an object's annotations may have together. A binding does not check it, and every later
write of an object that has more is refused, the kubelet's included."""


def annotation_bytes(annotations: Mapping[str, str]) -> int:
    """How many bytes annotations have as Kubernetes counts them."""
    return sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items())


def write_gpus(shares: dict[str, tuple[DeviceShare, ...]]) -> str:
    """Encode the reserved annotation; containers in name order so that equal decisions are equal bytes."""
    return msgspec.json.encode(dict(sorted(shares.items()))).decode()
