"""Reason codes as small integers, for arrays; their names are ``api.names.Reason``'s, which a test compares."""

FITS = 0
NAMES = (
    "Scheduled",
    "InvalidRequest",
    "NeverFits",
    "GangIncomplete",
    "GangCannotPlace",
    "QueueLimit",
    "NodeUnschedulable",
    "TaintNotTolerated",
    "NodeSelectorMismatch",
    "ClassNodesFull",
    "GpuModelMismatch",
    "InsufficientGpu",
    "GpuFragmented",
    "InsufficientGpuMemory",
    "InsufficientCpu",
    "InsufficientMemory",
    "InsufficientPods",
    "InsufficientResource",
    "NoNodes",
    "PluginRejected",
    "WaitingForEviction",
)
(
    _SCHEDULED,
    INVALID_REQUEST,
    NEVER_FITS,
    GANG_INCOMPLETE,
    GANG_CANNOT_PLACE,
    QUEUE_LIMIT,
    NODE_UNSCHEDULABLE,
    TAINT_NOT_TOLERATED,
    NODE_SELECTOR_MISMATCH,
    CLASS_NODES_FULL,
    GPU_MODEL_MISMATCH,
    INSUFFICIENT_GPU,
    GPU_FRAGMENTED,
    INSUFFICIENT_GPU_MEMORY,
    INSUFFICIENT_CPU,
    INSUFFICIENT_MEMORY,
    INSUFFICIENT_PODS,
    INSUFFICIENT_RESOURCE,
    NO_NODES,
    PLUGIN_REJECTED,
    WAITING_FOR_EVICTION,
) = range(len(NAMES))

# Reasons that no freeing of capacity can change: they come from labels, taints and models.
STATIC = (NODE_UNSCHEDULABLE, TAINT_NOT_TOLERATED, NODE_SELECTOR_MISMATCH, GPU_MODEL_MISMATCH, PLUGIN_REJECTED)

SENTENCES = {
    NODE_UNSCHEDULABLE: "are cordoned",
    TAINT_NOT_TOLERATED: "have a taint that the pod does not tolerate",
    NODE_SELECTOR_MISMATCH: "do not match the node selector or affinity",
    CLASS_NODES_FULL: "match the priority class but are full",
    GPU_MODEL_MISMATCH: "have another GPU model",
    INSUFFICIENT_GPU: "have too few free GPUs",
    GPU_FRAGMENTED: "have enough free GPU in total, but in pieces too small",
    INSUFFICIENT_GPU_MEMORY: "have too little free GPU memory",
    INSUFFICIENT_CPU: "have too little free CPU",
    INSUFFICIENT_MEMORY: "have too little free memory",
    INSUFFICIENT_PODS: "have no room for another pod",
    INSUFFICIENT_RESOURCE: "have too little of another resource",
    PLUGIN_REJECTED: "were rejected by a plugin",
}
