"""What to write: decisions as frozen values that explain themselves.

A plan names objects, never rows of an array, so that it can be printed, stored, compared byte for byte and applied
by somebody who has never seen the snapshot it came from.
"""

from enum import StrEnum
from typing import TypeAlias

import msgspec


class Value(msgspec.Struct, frozen=True, gc=False):
    """Base of all decisions: made by the thousand, so cheap to make and nothing for the garbage collector to visit."""


class Reason(StrEnum):
    """Why a pod waits: the same code in conditions, Events, printer columns and the command line."""

    SCHEDULED = "Scheduled"
    """It does not. The first of all, so that it is 0 in arrays."""
    # why a pod waits, in the order in which one of them is called dominant
    INVALID_REQUEST = "InvalidRequest"
    FIELD_NOT_SUPPORTED = "FieldNotSupported"
    EXCEEDS_NODE_CAPACITY = "ExceedsNodeCapacity"
    GANG_INCOMPLETE = "GangIncomplete"
    GANG_TIMEOUT = "GangTimeout"
    QUEUE_UNKNOWN = "QueueUnknown"
    QUEUE_NOT_ALLOWED = "QueueNotAllowed"
    CLASS_UNKNOWN = "ClassUnknown"
    CLASS_NOT_ALLOWED = "ClassNotAllowed"
    QUEUE_HELD = "QueueHeld"
    QUEUE_LIMIT = "QueueLimit"
    NODE_UNSCHEDULABLE = "NodeUnschedulable"
    TAINT_NOT_TOLERATED = "TaintNotTolerated"
    NODE_SELECTOR_MISMATCH = "NodeSelectorMismatch"
    CLASS_NODES_FULL = "ClassNodesFull"
    GPU_MODEL_MISMATCH = "GpuModelMismatch"
    SHARING_NOT_ALLOWED = "SharingNotAllowed"
    ISOLATION_MISMATCH = "IsolationMismatch"
    VOLUME_NOT_READY = "VolumeNotReady"
    VOLUME_MISMATCH = "VolumeMismatch"
    VOLUME_IN_USE = "VolumeInUse"
    BINDING_REFUSED = "BindingRefused"
    NODE_REJECTED = "NodeRejected"
    HOST_PORT_TAKEN = "HostPortTaken"
    TOPOLOGY_SPREAD = "TopologySpread"
    POD_AFFINITY = "PodAffinity"
    POD_ANTI_AFFINITY = "PodAntiAffinity"
    INSUFFICIENT_GPU = "InsufficientGpu"
    GPU_FRAGMENTED = "GpuFragmented"
    INSUFFICIENT_GPU_MEMORY = "InsufficientGpuMemory"
    INSUFFICIENT_CPU = "InsufficientCpu"
    INSUFFICIENT_MEMORY = "InsufficientMemory"
    INSUFFICIENT_PODS = "InsufficientPods"
    INSUFFICIENT_RESOURCE = "InsufficientResource"
    NO_NODES = "NoNodes"
    PLUGIN_REJECTED = "PluginRejected"
    WAITING_FOR_EVICTION = "WaitingForEviction"
    WAITING_FOR_TURN = "WaitingForTurn"
    GANG_UNSCHEDULABLE = "GangUnschedulable"
    RESERVED = "Reserved"
    TOPOLOGY_DOMAIN_FULL = "TopologyDomainFull"


class Cause(StrEnum):
    """Why a pod is evicted for nobody: the code of the Event on it. None of them is the usual one."""

    GANG_TIMEOUT = Reason.GANG_TIMEOUT.value
    GPU_UNHEALTHY = "GpuUnhealthy"
    QUEUE_DRAINED = "QueueDrained"


class PodName(Value, frozen=True, order=True):
    """Who a decision is about; ``uid`` keeps a pod that was re-created under the same name apart."""

    namespace: str
    name: str
    uid: str = ""

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class Device(Value, frozen=True):
    """A device given to a container: ``index`` on the node, ``milli`` of 1000, ``memory_mib`` (0: in proportion)."""

    id: str
    index: int
    milli: int
    memory_mib: int = 0


DevicesByContainer: TypeAlias = tuple[tuple[str, tuple[Device, ...]], ...]
"""(container, devices), containers in name order."""


class Place(Value, frozen=True):
    """Bind the pod to the node and give each container its devices."""

    pod: PodName
    node: str
    devices: DevicesByContainer = ()
    gang: str = ""

    def __str__(self) -> str:
        devices = [device for _, devices in self.devices for device in devices]
        gpus = ", ".join(f"GPU {one.id}" + (f" ({one.milli / 10:g}%)" if one.milli < 1000 else "") for one in devices)
        return f"{self.pod} to {self.node}" + (f", {gpus}" if gpus else "")


class Evict(Value, frozen=True):
    """Evict the pod so that ``claimant`` can be placed."""

    pod: PodName
    node: str
    claimant: PodName | None
    """None: for nobody, but for ``cause``."""
    reason: str
    gang: str = ""
    """The gang that is given up with it."""
    cause: str = ""
    """One of ``Cause``; empty when it is for a claimant."""

    def __str__(self) -> str:
        return f"{self.pod} on {self.node}: {self.note}"

    @property
    def code(self) -> str:
        """The code of the Event on the pod."""
        return "Preempted" if self.claimant is not None else self.cause or "Evicted"

    @property
    def note(self) -> str:
        """Who it is evicted for, and why: for the Event on it."""
        return f"{f'Preempted by {self.claimant}' if self.claimant is not None else 'Evicted'}: {self.reason}"


class Claim(Value, frozen=True):
    """Places that are held for a pod, or for the members of a gang together, until they can be bound there.

    They are free once the victims, and whoever is leaving already, are gone; or they are free now, and ``volumes``
    names those of the pods whose volumes have to be made first.
    """

    places: tuple[Place, ...]
    victims: tuple[PodName, ...] = ()
    volumes: tuple[PodName, ...] = ()
    elsewhere: tuple[PodName, ...] = ()
    """Those of the victims that only leave with others of their gangs: nothing here has to wait for them."""

    def __str__(self) -> str:
        waits = ", ".join(map(str, (*self.victims, *self.volumes)))
        until = f" until volumes of {waits} exist" if self.volumes else f" until {waits} left" if waits else ""
        return "; ".join(f"{place.node} for {place.pod}" for place in self.places) + until


class Provision(Value, frozen=True):
    """Have the volume of a claim made for the node that the pod will go to."""

    pod: PodName
    claim: str
    """Name of the PersistentVolumeClaim, in the pod's namespace."""
    node: str

    def __str__(self) -> str:
        return f"claim {self.pod.namespace}/{self.claim} on {self.node}"


class Hold(Value, frozen=True):
    """A message to a pod that waits, from which nothing follows: one of ``Reason``, and a sentence for a person."""

    pod: PodName
    reason: str
    message: str
    gang: str = ""
    nominated_node: str = ""
    """Where the pod will go once evictions that make room for it are through."""

    def __str__(self) -> str:
        return f"{self.pod}: {self.reason}: {self.message}"


class Plan(Value, frozen=True):
    """Everything that one cycle leads to."""

    place: tuple[Place, ...] = ()
    evict: tuple[Evict, ...] = ()
    claims: tuple[Claim, ...] = ()
    provision: tuple[Provision, ...] = ()
    hold: tuple[Hold, ...] = ()
    faults: tuple[str, ...] = ()
    """Plugins that failed in this cycle: ``name: what happened``. They were skipped, or their numbers cut to what is
    allowed."""
    again: bool = False
    """Another decision at once may place more."""

    def __str__(self) -> str:
        verbs = (
            ("place", self.place), ("evict", self.evict), ("claim", self.claims), ("provision", self.provision),
            ("hold", self.hold),
        )  # fmt: skip
        lines = [f"{verb} {action}" for verb, actions in verbs for action in actions]
        return "\n".join(lines + [f"fault {fault}" for fault in self.faults])
