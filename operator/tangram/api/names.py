"""The words of the public interface: group, kinds, labels, annotations, resource names, reason codes."""

from dataclasses import dataclass
from enum import StrEnum

GROUP = "scheduling.example.com"
VERSION = "v1"
API_VERSION = f"{GROUP}/{VERSION}"
SCHEDULER_NAME = "tangram"

# Labels on pods.
GANG = f"{GROUP}/gang"
QUEUE = f"{GROUP}/queue"
PRIORITY_CLASS = f"{GROUP}/priority-class"
ROLE = f"{GROUP}/role"
JOB = f"{GROUP}/job"
SERVICE = f"{GROUP}/service"
INDEX = f"{GROUP}/index"
REVISION = f"{GROUP}/revision"

# Annotations on pods that users (or our controllers) write.
GANG_MIN = f"{GROUP}/gang-min"
GANG_ROLE_MIN = f"{GROUP}/gang-role-min"
GANG_TIMEOUT = f"{GROUP}/gang-timeout"
GPU_MEMORY = f"{GROUP}/gpu-memory"
GPU_MODELS = f"{GROUP}/gpu-models"
GPU_ISOLATION = f"{GROUP}/gpu-isolation"
LAST_CHECKPOINT = f"{GROUP}/last-checkpoint"
ESTIMATED_DURATION = f"{GROUP}/estimated-duration"
TOPOLOGY_REQUIRED = f"{GROUP}/topology-required"
TOPOLOGY_PREFERRED = f"{GROUP}/topology-preferred"
NEAREST = f"{GROUP}/nearest"

# Reserved: written by the scheduler only, together with the Binding.
GPUS = f"{GROUP}/gpus"
RESERVED_ANNOTATIONS = (GPUS,)

# On the scheduler's Lease, for those who ask how it decides: its name and settings as JSON.
SCHEDULER_SETTINGS = f"{GROUP}/scheduler-settings"

# Key of a taint that users may tolerate; it stands on no Node, but is as if it did.
AT_RISK = f"{GROUP}/at-risk"

# Resources.
FRACTION_RESOURCE = f"{GROUP}/gpu"
GPU_RESOURCE = "nvidia.com/gpu"


@dataclass(frozen=True, slots=True)
class Vendor:
    """One vendor's whole-device resource and the node labels that hold its model and memory."""

    name: str
    resource: str
    model_label: str
    memory_label: str | None = None
    """Label whose value is the memory of one device in MiB."""


# Vendors as data: a new one is a row here, not code.
VENDORS: tuple[Vendor, ...] = (
    Vendor("nvidia", GPU_RESOURCE, "nvidia.com/gpu.product", "nvidia.com/gpu.memory"),
    Vendor("amd", "amd.com/gpu", "amd.com/gpu.product-name", "amd.com/gpu.vram"),
    Vendor("ascend", "huawei.com/Ascend910", "node.kubernetes.io/npu.chip.name"),
    Vendor("ascend", "huawei.com/Ascend910B", "node.kubernetes.io/npu.chip.name"),
    Vendor("ascend", "huawei.com/Ascend310P", "node.kubernetes.io/npu.chip.name"),
    Vendor("cambricon", "cambricon.com/mlu", "cambricon.com/mlu.product"),
    Vendor("hygon", "hygon.com/dcunum", "hygon.com/dcu.product"),
    Vendor("metax", "metax-tech.com/gpu", "metax-tech.com/gpu.product"),
    Vendor("iluvatar", "iluvatar.ai/gpu", "iluvatar.ai/gpu.product"),
    Vendor("intel", "gpu.intel.com/i915", "gpu.intel.com/product"),
)


class Reason(StrEnum):
    """Why something is as it is: the same code in conditions, Events, printer columns and the command line."""

    SCHEDULED = "Scheduled"
    # why a pod waits, in the order in which one of them is called dominant
    INVALID_REQUEST = "InvalidRequest"
    EXCEEDS_NODE_CAPACITY = "ExceedsNodeCapacity"
    GANG_INCOMPLETE = "GangIncomplete"
    GANG_TIMEOUT = "GangTimeout"
    QUEUE_UNKNOWN = "QueueUnknown"
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
    BINDING_REFUSED = "BindingRefused"
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
    GANG_UNSCHEDULABLE = "GangUnschedulable"
    RESERVED = "Reserved"
    TOPOLOGY_DOMAIN_FULL = "TopologyDomainFull"
