"""GPUNode: what the agent on a node found there. It has no spec; ``kubectl get gpunodes`` is the pool at a glance."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from tangram.api import names
from tangram.api.common import Conditions, LabelValue, Metadata, Model, Time, parse
from tangram.api.schema import Is, ListMap, ListSet

DeviceId = Annotated[str, Field(min_length=1, max_length=128)]
Health = Literal["Healthy", "Degraded", "Unhealthy"]
Isolation = Literal["mps", "time-slice", "exclusive", "mig", "none"]


class Link(Model):
    """A direct way from one device to another."""

    peer: DeviceId
    """The other device's uuid."""
    type: Literal["NVLink", "PCIe", "Host", "System"]
    """NVLink, one PCIe switch or bridge, one CPU's host bridge, or across CPUs."""
    lanes: Annotated[int, Field(ge=0, le=64)] = 0
    """NVLink lanes of the connection."""


class Allocation(Model):
    """What one container holds of a device."""

    namespace: Annotated[str, Field(max_length=63)]
    """Namespace of the pod."""
    pod: Annotated[str, Field(max_length=253)]
    """Name of the pod."""
    pod_uid: Annotated[str, Field(max_length=64)] = Field(default="", alias="podUID")
    """Identity of the pod."""
    container: Annotated[str, Field(max_length=63)]
    """Name of the container."""
    share: Annotated[int, Field(ge=1, le=100)]
    """Percent of the device."""
    memory_mib: Annotated[int, Field(ge=0)] = 0
    """Memory limit in MiB; 0 means in proportion to share."""


class GpuDevice(Model):
    """One GPU."""

    uuid: DeviceId
    """Identity of the device, the same after a reboot."""
    index: Annotated[int, Field(ge=0, le=255)]
    """Number of the device on its node; MIG slices have that of their GPU."""
    model: LabelValue
    """Model, as the node's label has it; placement goes by it where no label does."""
    memory_mib: Annotated[int, Field(ge=0)]
    """Memory in MiB, 0 when not known; placement goes by it rather than by the node's label."""
    health: Health
    """Healthy; Degraded (works, takes no new work); Unhealthy."""
    health_reason: Annotated[str, Field(max_length=1024)] = ""
    """What is wrong, such as an XID and its meaning."""
    last_transition_time: Time | None = None
    """When it became as healthy, or unhealthy, as it is."""
    at_risk: Annotated[str, Field(max_length=1024)] = ""
    """Why it is likely to fail soon; placement takes other devices first."""
    allocated: Annotated[int, Field(ge=0, le=100)] = 0
    """Percent that is allocated."""
    allocated_memory_mib: Annotated[int, Field(ge=0)] = 0
    """Memory in MiB that is given out."""
    allocations: Annotated[tuple[Allocation, ...], Field(max_length=128)] = ()
    """Containers that use it, and how much of it."""
    isolation: Isolation = "none"
    """How tenants are kept apart: mps holds them to compute and memory, time-slice only lets them take turns, exclusive
    gives whole devices only, mig cuts slices in hardware, none trusts them."""
    isolation_reason: Annotated[str, Field(max_length=1024)] = ""
    """Why it is not the node's mode, or what the mode does not hold on this device."""
    links: Annotated[tuple[Link, ...], ListMap("peer", 64)] = ()
    """Direct ways to other devices of the node."""
    numa_node: Annotated[int, Field(ge=-1, le=1023)] = -1
    """NUMA node of the device; -1 when not known."""
    pci_address: Annotated[str, Field(max_length=32)] = ""
    """Address on the PCI bus."""
    utilization_percent: Annotated[int, Field(ge=0, le=100)] | None = None
    """Measured use of the device's compute."""
    memory_used_mib: Annotated[int, Field(ge=0)] | None = None
    """Measured use of its memory in MiB."""
    temperature_celsius: Annotated[int, Field(ge=-50, le=250)] | None = None
    """Measured temperature."""
    power_watts: Annotated[int, Field(ge=0, le=100_000)] | None = None
    """Measured power."""


class GpuNodeStatus(Model):
    """Observed state of the node's GPUs."""

    conditions: Conditions = ()
    """Ready: the agent works; Healthy: every device is healthy, else which one is not and who uses it; RecordsAgree:
    every container holds the devices that its pod's record names, else which one does not; AtRisk: a device is likely
    to fail soon."""
    devices: Annotated[tuple[GpuDevice, ...], ListMap("uuid", 64)] = ()
    """The node's GPUs."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """Number of GPUs."""
    model: Annotated[str, Field(max_length=256)] = ""
    """Model of the GPUs; several are separated by commas."""
    allocated: Annotated[str, Field(max_length=32)] = ""
    """GPUs that are given out, such as 2.5."""
    free: Annotated[str, Field(max_length=32)] = ""
    """GPUs that are free and healthy, such as 5.5."""
    health: Health | None = None
    """Health of the worst device."""
    isolation: Isolation | None = None
    """How tenants of one GPU are kept apart on this node."""
    device_injection: Literal["env", "device-nodes", "cdi"] | None = None
    """How GPUs get into containers here: by NVIDIA's runtime, as plain device files, or by CDI."""
    driver_version: Annotated[str, Field(max_length=64)] = ""
    """Version of the GPU driver."""
    cuda_version: Annotated[str, Field(max_length=64)] = ""
    """Highest CUDA version that the driver supports."""
    agent_version: Annotated[str, Field(max_length=64)] = ""
    """Version of the node agent."""
    runtime_version: Annotated[str, Field(max_length=64)] = ""
    """Container runtime as the kubelet reports it, such as containerd://2.2.5."""
    toolkit_version: Annotated[str, Field(max_length=64)] = ""
    """Version of NVIDIA's container toolkit; empty where it is not found."""
    known_holes: Annotated[tuple[Annotated[str, Field(max_length=256)], ...], ListSet(32)] = ()
    """Holes that let containers out and that these versions have by their numbers; a distribution may have mended them
    without another number. The policy may keep pods away (placement.vulnerableNodes)."""
    heartbeat_time: Time | None = None
    """When the agent last reported."""


class GPUNode(Model):
    """The GPUs of one node: model, memory, health, links and who holds what. It has the node's name and no spec."""

    api_version: Annotated[str, Is(names.API_VERSION)]
    kind: Literal["GPUNode"]
    metadata: Metadata
    status: GpuNodeStatus | None = None
    """Observed state of the node's GPUs; written by the node agent."""


def parse_gpu_node(obj: Mapping[str, Any], *, unknown: Literal["ignore", "forbid"] = "ignore") -> GPUNode:
    """Read a GPUNode; raises InvalidInput naming object, field, value and what is allowed."""
    return parse(GPUNode, obj, unknown=unknown)
