"""What is free in a world and what each queue uses, counted from the pods' own records: a second opinion."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from tangram.api import names
from tangram.api.objects import Node, Pod, read_gpus
from tangram.scheduler.policies import node_devices
from tangram.simulate.world import World
from tangram.snapshot.requests.existing import reaches, size_of
from tangram.snapshot.requests.touched import claims_of
from tangram.units import HUNDREDTHS_PER_GPU

_OVER = ("Succeeded", "Failed")


@dataclass(slots=True)
class Ask:
    """What a pod of the histories asks for: one container, whole devices or a part of one."""

    cpu: int
    devices: int = 0
    share: int = 0
    """Of each device, in hundredths."""

    @property
    def hundredths(self) -> int:
        return self.devices * self.share

    @property
    def resource(self) -> str:
        """As what the kubelet counts it."""
        return names.GPU_RESOURCE if self.share == HUNDREDTHS_PER_GPU else names.FRACTION_RESOURCE

    @property
    def amount(self) -> int:
        return self.devices if self.share == HUNDREDTHS_PER_GPU else self.share


@dataclass(slots=True)
class Room:
    """What is free on a node."""

    node: Node
    cpu: int
    pods: int
    offered: Counter[str]
    """What the kubelet has left of whole devices and of hundredths: it may know of fewer than the node's agent."""
    devices: dict[str, int]
    """Hundredths free of each healthy device."""

    def holds(self, ask: Ask) -> bool:
        if self.offered[ask.resource] < ask.amount:
            return False
        fitting = sum(1 for free in self.devices.values() if free >= ask.share) if ask.devices else 0
        return self.cpu >= ask.cpu and self.pods >= 1 and fitting >= ask.devices

    def take(self, ask: Ask) -> None:
        self.count(ask)
        fitting = sorted((free, name) for name, free in self.devices.items() if free >= ask.share)
        for _, name in fitting[: ask.devices]:
            self.devices[name] -= ask.share

    def count(self, ask: Ask) -> None:
        """Take all but devices."""
        self.cpu -= ask.cpu
        self.pods -= 1
        self.offered[ask.resource] -= ask.amount


def ask_of(pod: Pod) -> Ask:
    """What a pod asks for."""
    requests = pod.spec.containers[0].resources.requests
    cpu, whole, share = (int(requests.get(name, 0)) for name in ("cpu", names.GPU_RESOURCE, names.FRACTION_RESOURCE))
    if whole:
        return Ask(cpu, whole, HUNDREDTHS_PER_GPU)
    return Ask(cpu, int(share > 0), share)


def rooms(world: World) -> dict[str, Room] | None:
    """What is free on each node; None where it cannot be known, for pods of others hold devices that nobody names."""
    found: dict[str, Room] = {}
    known: dict[str, set[str]] = {}
    for name, node in world.nodes.items():
        offers, reported = node.status.allocatable, node_devices(world.inventories.get(name))
        known[name] = {str(index) for index in range(max(int(offers.get(names.GPU_RESOURCE, 0)), len(reported)))}
        devices = {str(index): HUNDREDTHS_PER_GPU for index in range(int(offers.get(names.GPU_RESOURCE, 0)))}
        for index, device in enumerate(reported):
            if not device.healthy:
                devices.pop(str(index), None)
        offered = Counter({one: int(offers.get(one, 0)) for one in (names.GPU_RESOURCE, names.FRACTION_RESOURCE)})
        found[name] = Room(node, int(offers["cpu"]), int(offers["pods"]), offered, devices)
    for pod in world.pods.values():
        room = found.get(pod.spec.node_name)
        if room is None or pod.status.phase in _OVER:
            continue
        ask = ask_of(pod)
        if ask.devices and names.GPUS not in pod.metadata.annotations:
            return None
        room.count(ask)
        if ask.devices:
            ids = {
                device.id: str(index)
                for index, device in enumerate(node_devices(world.inventories.get(room.node.metadata.name)))
            }
            for given in read_gpus(pod.metadata.annotations[names.GPUS]).values():
                for share in given:
                    index = ids.get(share.id, share.id)
                    if index in room.devices:
                        room.devices[index] -= share.share
                    elif index not in known[room.node.metadata.name]:
                        room.devices.clear()  # it may be any of them (docs/decisions/004)
    return found


def queue_of(pod: Pod, policy: Any) -> list[str]:
    """The pod's queue and those above it; empty without a policy, or when there is no such queue."""
    parents = {queue.name: queue.parent for queue in policy.spec.queues} if policy is not None else {}
    name, found = pod.metadata.labels.get(names.QUEUE, ""), []
    while name and name in parents:
        found.append(name)
        name = parents[name] or ""
    return found


def usage(world: World, policy: Any) -> Counter[str]:
    """Hundredths of GPUs that pods of ours hold, by queue, those below it included."""
    used: Counter[str] = Counter()
    for pod in world.pods.values():
        if pod.spec.node_name and pod.status.phase not in _OVER and pod.spec.scheduler_name == names.SCHEDULER_NAME:
            for queue in queue_of(pod, policy):
                used[queue] += ask_of(pod).hundredths
    return used


def limits(policy: Any) -> dict[str, int]:
    """Hundredths of GPUs that each queue with a limit may use."""
    if policy is None:
        return {}
    return {
        queue.name: HUNDREDTHS_PER_GPU * int(queue.limit.gpu)
        for queue in policy.spec.queues
        if queue.limit is not None and queue.limit.gpu is not None
    }


def near_volumes(world: World, pod: Pod) -> set[str] | None:
    """Names of the nodes where the pod has its local volume, or could get one; all of them where it needs none. None:
    its volume is made for it."""
    if not pod.spec.volumes:
        return set(world.nodes)
    found: set[str] | None = None
    for key in claims_of(pod):
        claim = world.claims.get(key)
        if claim is None or claim.spec.storage_class_name != "local":
            return None
        wanted, mine = size_of(claim.spec.resources.requests), claim.spec.volume_name
        able = [
            one
            for one in world.volumes.values()
            if one.metadata.name == mine
            or (not mine and one.spec.claim_ref is None and one.spec.capacity and size_of(one.spec.capacity) >= wanted)
        ]
        near = {name for name, node in world.nodes.items() if any(reaches(one, node) for one in able)}
        found = near if found is None else found & near
    return found
