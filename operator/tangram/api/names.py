"""The words of the public interface: group, kinds, labels, annotations, resource names."""

from dataclasses import dataclass

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

# On pods, by our controllers only.
ATTEMPT = f"{GROUP}/attempt"
"""Of a job: how often the job had been restarted when the pod was made."""
GANG_SHAPE = f"{GROUP}/gang-shape"
"""Of a job: hash of what every member must agree on, such as the number of replicas."""
HOSTFILE = f"{GROUP}/hostfile"
HOSTFILE_HYDRA = f"{GROUP}/hostfile.hydra"
"""Of the launcher of an MPI job: the hosts of its gang, in two forms."""
TEMPLATE_HASH = f"{GROUP}/template-hash"
"""Label, of a service: hash of what the pod was made from."""

# On a TrainingJob, by our controller: pods have been made for it.
STARTED = f"{GROUP}/started"

# Reserved: written by the scheduler only, together with the Binding.
GPUS = f"{GROUP}/gpus"
RESERVED_ANNOTATIONS = (GPUS,)

# On the scheduler's Lease, for those who ask how it decides: its name and settings as JSON.
SCHEDULER_SETTINGS = f"{GROUP}/scheduler-settings"

# Keys of taints that users may tolerate; they stand on no Node, but are as if they did.
AT_RISK = f"{GROUP}/at-risk"
VULNERABLE = f"{GROUP}/vulnerable"

# Resources.
FRACTION_RESOURCE = f"{GROUP}/gpu"
MOST_GPUS = 64
"""Whole GPUs that one container may ask for, whichever way it asks."""
GPU_RESOURCE = "nvidia.com/gpu"

# Labels by which NVIDIA's plugin says that it gives each GPU to several containers at once, and how.
REPLICAS = "nvidia.com/gpu.replicas"
SHARING_STRATEGY = "nvidia.com/gpu.sharing-strategy"


@dataclass(frozen=True, slots=True)
class Vendor:
    """One vendor's whole-device resource and the node labels that hold its model and memory."""

    name: str
    resource: str
    model_label: str = ""
    """Empty where the vendor labels no node with it."""
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
    Vendor("intel", "gpu.intel.com/xe", "gpu.intel.com/product"),
    Vendor("gaudi", "habana.ai/gaudi"),
    Vendor("tpu", "google.com/tpu", "cloud.google.com/gke-tpu-accelerator"),
)
