"""``plan.Reason`` as small integers, for arrays, in its order."""

from tangram.plan import Reason

NAMES = tuple(map(str, Reason))
_CODE = {reason: code for code, reason in enumerate(Reason)}

FITS = _CODE[Reason.SCHEDULED]
INVALID_REQUEST = _CODE[Reason.INVALID_REQUEST]
EXCEEDS_NODE_CAPACITY = _CODE[Reason.EXCEEDS_NODE_CAPACITY]
GANG_INCOMPLETE = _CODE[Reason.GANG_INCOMPLETE]
GANG_TIMEOUT = _CODE[Reason.GANG_TIMEOUT]
QUEUE_UNKNOWN = _CODE[Reason.QUEUE_UNKNOWN]
QUEUE_LIMIT = _CODE[Reason.QUEUE_LIMIT]
NODE_UNSCHEDULABLE = _CODE[Reason.NODE_UNSCHEDULABLE]
TAINT_NOT_TOLERATED = _CODE[Reason.TAINT_NOT_TOLERATED]
NODE_SELECTOR_MISMATCH = _CODE[Reason.NODE_SELECTOR_MISMATCH]
CLASS_NODES_FULL = _CODE[Reason.CLASS_NODES_FULL]
GPU_MODEL_MISMATCH = _CODE[Reason.GPU_MODEL_MISMATCH]
SHARING_NOT_ALLOWED = _CODE[Reason.SHARING_NOT_ALLOWED]
ISOLATION_MISMATCH = _CODE[Reason.ISOLATION_MISMATCH]
VOLUME_NOT_READY = _CODE[Reason.VOLUME_NOT_READY]
VOLUME_MISMATCH = _CODE[Reason.VOLUME_MISMATCH]
VOLUME_IN_USE = _CODE[Reason.VOLUME_IN_USE]
BINDING_REFUSED = _CODE[Reason.BINDING_REFUSED]
NODE_REJECTED = _CODE[Reason.NODE_REJECTED]
HOST_PORT_TAKEN = _CODE[Reason.HOST_PORT_TAKEN]
TOPOLOGY_SPREAD = _CODE[Reason.TOPOLOGY_SPREAD]
POD_AFFINITY = _CODE[Reason.POD_AFFINITY]
POD_ANTI_AFFINITY = _CODE[Reason.POD_ANTI_AFFINITY]
INSUFFICIENT_GPU = _CODE[Reason.INSUFFICIENT_GPU]
GPU_FRAGMENTED = _CODE[Reason.GPU_FRAGMENTED]
INSUFFICIENT_GPU_MEMORY = _CODE[Reason.INSUFFICIENT_GPU_MEMORY]
INSUFFICIENT_CPU = _CODE[Reason.INSUFFICIENT_CPU]
INSUFFICIENT_MEMORY = _CODE[Reason.INSUFFICIENT_MEMORY]
INSUFFICIENT_PODS = _CODE[Reason.INSUFFICIENT_PODS]
INSUFFICIENT_RESOURCE = _CODE[Reason.INSUFFICIENT_RESOURCE]
NO_NODES = _CODE[Reason.NO_NODES]
PLUGIN_REJECTED = _CODE[Reason.PLUGIN_REJECTED]
WAITING_FOR_EVICTION = _CODE[Reason.WAITING_FOR_EVICTION]
WAITING_FOR_TURN = _CODE[Reason.WAITING_FOR_TURN]
GANG_UNSCHEDULABLE = _CODE[Reason.GANG_UNSCHEDULABLE]
RESERVED = _CODE[Reason.RESERVED]
TOPOLOGY_DOMAIN_FULL = _CODE[Reason.TOPOLOGY_DOMAIN_FULL]

# Reasons that no freeing of capacity can change: they come from labels, taints, models and isolation.
STATIC = (
    NODE_UNSCHEDULABLE,
    TAINT_NOT_TOLERATED,
    NODE_SELECTOR_MISMATCH,
    GPU_MODEL_MISMATCH,
    SHARING_NOT_ALLOWED,
    ISOLATION_MISMATCH,
    PLUGIN_REJECTED,
    VOLUME_MISMATCH,
)

# Reasons that go away when pods leave the node.
OCCUPIED = (
    INSUFFICIENT_GPU,
    GPU_FRAGMENTED,
    INSUFFICIENT_GPU_MEMORY,
    INSUFFICIENT_CPU,
    INSUFFICIENT_MEMORY,
    INSUFFICIENT_PODS,
    INSUFFICIENT_RESOURCE,
    HOST_PORT_TAKEN,
)

SENTENCES = {
    NODE_UNSCHEDULABLE: "unschedulable (cordoned)",
    TAINT_NOT_TOLERATED: "untolerated taint",
    NODE_SELECTOR_MISMATCH: "node selector or affinity mismatch",
    CLASS_NODES_FULL: "preferred by the priority class, but full",
    GPU_MODEL_MISMATCH: "GPU model mismatch",
    SHARING_NOT_ALLOWED: "whole GPUs or MIG slices only (isolation exclusive or mig)",
    ISOLATION_MISMATCH: "GPU isolation mismatch",
    INSUFFICIENT_GPU: "insufficient free GPUs",
    GPU_FRAGMENTED: "fragmented GPUs (enough free in total, too little on each)",
    INSUFFICIENT_GPU_MEMORY: "insufficient free GPU memory",
    INSUFFICIENT_CPU: "insufficient free CPU",
    INSUFFICIENT_MEMORY: "insufficient free memory",
    INSUFFICIENT_PODS: "too many pods",
    INSUFFICIENT_RESOURCE: "insufficient extended resources, attachable volumes or free local volumes",
    PLUGIN_REJECTED: "rejected by a plugin",
    VOLUME_MISMATCH: "volume node affinity conflict",
    VOLUME_IN_USE: "volume claim for one pod at a time in use by another",
    HOST_PORT_TAKEN: "host port conflict",
    TOPOLOGY_SPREAD: "topology spread constraint not satisfied",
    POD_AFFINITY: "pod affinity not satisfied",
    POD_ANTI_AFFINITY: "pod anti-affinity not satisfied",
}
"""What stands after a number of nodes in a message: ``2 insufficient free GPUs``."""
