"""How much of the pool's GPUs is given out, to whom, and how busy they are: by node and by workload.

What an agent reports of its node's devices (the GPUNode) comes first. Of nodes without an agent only the number is
known, by what the kubelet offers; what is given out there is what the pods' own records say.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import msgspec

from tangram.api import names
from tangram.api.objects import Metadata, Namespace, Node, OwnerReference, Pod, Struct, read_gpus
from tangram.errors import InvalidInput
from tangram.snapshot.pods.access import Access
from tangram.snapshot.queues.queues import DEFAULT_QUEUE
from tangram.snapshot.requests.amounts import pod_amounts
from tangram.snapshot.requests.request import VENDOR_RESOURCES
from tangram.snapshot.values.offers import offered_gpus, offered_model
from tangram.units import HUNDREDTHS_PER_GPU, MILLI_PER_GPU

_MILLI_PER_HUNDREDTH = MILLI_PER_GPU // HUNDREDTHS_PER_GPU
_WHOLE = HUNDREDTHS_PER_GPU
_ENDED = ("Succeeded", "Failed")
_KNOWN_GROUPS = ("", "apps", "batch", names.GROUP)


class Device(Struct, frozen=True):
    """A GPU as the agent of its node reports it."""

    uuid: str
    index: int = 0
    health: str = ""
    allocated: int = 0
    memory_mib: int = msgspec.field(default=0, name="memoryMiB")
    memory_used_mib: int | None = msgspec.field(default=None, name="memoryUsedMiB")
    utilization_percent: int | None = None


class DeviceStatus(Struct, frozen=True):
    """Status of a GPUNode, as much as is shown."""

    devices: tuple[Device, ...] = ()
    model: str = ""
    health: str | None = None


class GpuNode(Struct, frozen=True):
    """A GPUNode."""

    metadata: Metadata
    status: DeviceStatus = DeviceStatus()


@dataclass(frozen=True, slots=True)
class NodeUse:
    """The GPUs of one node; None: nobody has reported it."""

    name: str
    model: str
    gpus: int
    allocated_milli: int | None
    pods: int | None
    """Running pods that hold a GPU."""
    utilization_percent: float | None = None
    """Mean of all GPUs of the node that are measured."""
    memory_used_mib: int | None = None
    memory_mib: int | None = None
    health: str = ""


@dataclass(frozen=True, slots=True)
class WorkloadUse:
    """What the pods of one workload hold."""

    namespace: str
    kind: str
    name: str
    queue: str
    pods: int
    gpu_milli: int
    nodes: tuple[str, ...]
    utilization_percent: float | None
    """Mean of the GPUs that its pods are on, by how much of each they hold: that of others on them is in it."""


def node_uses(nodes: Iterable[Node], gpu_nodes: Iterable[GpuNode], pods: Iterable[Pod] | None) -> list[NodeUse]:
    """All nodes that have GPUs, those first of which most is given out; ``pods`` None: they may not be read."""
    reported = {one.metadata.name: one.status for one in gpu_nodes if one.status.devices}
    held: dict[str, list[int]] | None = None if pods is None else {}
    for pod, milli in _holding(pods or ()):
        assert held is not None
        held.setdefault(pod.spec.node_name, []).append(milli)
    found = []
    for node in nodes:
        name = node.metadata.name
        records = None if held is None else held.get(name, [])
        count = None if records is None else len(records)
        if name in reported:
            found.append(_reported_use(name, reported[name], count))
            continue
        labels, allocatable = node.metadata.labels, node.status.allocatable
        if gpus := offered_gpus(labels, allocatable):
            total = None if records is None else sum(records)
            found.append(NodeUse(name, offered_model(labels, allocatable), gpus, total, count))
    return sorted(found, key=lambda one: (-(one.allocated_milli or 0), one.name))


def workload_uses(
    pods: Iterable[Pod], gpu_nodes: Iterable[GpuNode], namespaces: Iterable[Namespace] = ()
) -> list[WorkloadUse]:
    """All workloads that hold GPUs, those first that hold most.

    The queue is the one that the pods name, or the label of their namespace, as far as ``namespaces`` has it.
    """
    access = Access()
    for one in namespaces:
        access.set_namespace(one.metadata.name, one.metadata.labels)
    measured = {one.metadata.name: _measured(one.status.devices) for one in gpu_nodes}
    groups: dict[tuple[str, str, str], list[tuple[Pod, int]]] = {}
    for pod, milli in _holding(pods):
        groups.setdefault((pod.metadata.namespace, *workload_of(pod)), []).append((pod, milli))
    found = [
        WorkloadUse(
            namespace=namespace,
            kind=kind,
            name=name,
            queue=next((queue for pod, _ in members if (queue := access.queue_of(pod.metadata))), DEFAULT_QUEUE),
            pods=len(members),
            gpu_milli=sum(milli for _, milli in members),
            nodes=tuple(sorted({pod.spec.node_name for pod, _ in members})),
            utilization_percent=_utilization([pod for pod, _ in members], measured),
        )
        for (namespace, kind, name), members in groups.items()
    ]
    return sorted(found, key=lambda one: (-one.gpu_milli, one.namespace, one.kind, one.name))


def workload_of(pod: Pod) -> tuple[str, str]:
    """Kind and name of what the pod is a part of; the pod itself where it stands alone.

    The kind is in lower case; one of a group that is neither built in nor ours stands with it, as in ``job.GROUP``.
    """
    labels = pod.metadata.labels
    for label, kind in ((names.JOB, "trainingjob"), (names.SERVICE, "inferenceservice"), (names.GANG, "gang")):
        if labels.get(label):
            return kind, labels[label]
    owner = next((owner for owner in pod.metadata.owner_references if owner.controller), None)
    if owner is None or owner.kind == "Node":
        return "pod", pod.metadata.name
    if owner.kind == "ReplicaSet" and labels.get("pod-template-hash"):  # of a Deployment, after which it is named
        return "deployment", owner.name.removesuffix(f"-{labels['pod-template-hash']}")
    return _kind_of(owner), owner.name


def _kind_of(owner: OwnerReference) -> str:
    """The kind alone of the groups that are built in, which have each kind once; of others, whose kinds may have the
    names of these or of ours, with the group as kubectl writes it."""
    group = owner.api_version.rpartition("/")[0]
    kind = owner.kind.lower()
    return kind if group in _KNOWN_GROUPS else f"{kind}.{group}"


def _reported_use(name: str, status: DeviceStatus, pods: int | None) -> NodeUse:
    devices = status.devices
    busy = [one.utilization_percent for one in devices if one.utilization_percent is not None]
    used = [one.memory_used_mib for one in devices if one.memory_used_mib is not None]
    return NodeUse(
        name=name,
        model=status.model,
        gpus=len(devices),
        allocated_milli=sum(one.allocated for one in devices) * _MILLI_PER_HUNDREDTH,
        pods=pods,
        utilization_percent=sum(busy) / len(busy) if busy else None,
        memory_used_mib=sum(used) if used else None,
        memory_mib=sum(one.memory_mib for one in devices) or None,
        health=status.health or "",
    )


def _holding(pods: Iterable[Pod]) -> Iterator[tuple[Pod, int]]:
    """Pods that hold some GPU, and how much in milli-GPU."""
    for pod in pods:
        if pod.spec.node_name and pod.status.phase not in _ENDED:
            milli = held_milli(pod)
            if milli:
                yield pod, milli


def held_milli(pod: Pod) -> int:
    """What a bound pod holds, in milli-GPU: by its record, and where it has none by what it asks for."""
    try:
        return sum(share for _, share in _shares(pod)) * _MILLI_PER_HUNDREDTH
    except ValueError:
        pass
    try:
        asked = pod_amounts(pod)
    except (ValueError, InvalidInput):
        return 0
    return sum(amount for resource, amount in asked.items() if resource in VENDOR_RESOURCES) * MILLI_PER_GPU


def _shares(pod: Pod) -> Iterator[tuple[str, int]]:
    """Device id and percent of each device in the pod's record; one that containers share in turn counts once, by the
    largest. Raises ValueError where there is no record that can be read."""
    held: dict[str, int] = {}
    for devices in read_gpus(pod.metadata.annotations.get(names.GPUS, "")).values():
        for device in devices:
            held[device.id] = held.get(device.id, 0) + device.share
    yield from ((device, min(share, _WHOLE)) for device, share in held.items())


def _utilization(pods: Iterable[Pod], measured: Mapping[str, Mapping[str, int]]) -> float | None:
    busy = total = 0
    for pod in pods:
        of_node = measured.get(pod.spec.node_name, {})
        try:
            shares = list(_shares(pod))
        except ValueError:
            continue
        for device, share in shares:
            if device in of_node:
                busy, total = busy + of_node[device] * share, total + share
    return busy / total if total else None


def _measured(devices: Iterable[Device]) -> dict[str, int]:
    """Utilization by each id under which a record may name the device: its uuid, and its index."""
    found: dict[str, int] = {}
    for one in devices:
        if one.utilization_percent is not None:
            found |= {one.uuid: one.utilization_percent, str(one.index): one.utilization_percent}
    return found
