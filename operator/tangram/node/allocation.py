"""The choice of device ids, and the last word on what a GPU can take: pure, a refusal is an answer.

The scheduler has decided which GPU; here its record is turned into the kubelet's ids, and everything that could go
wrong on the way is checked once more: that the GPU is here and well, and that nobody is given what somebody else holds.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from tangram.api.objects import DeviceShare
from tangram.node.gpus import Condition, Gpu, Health, Holding, Inventory, Isolation
from tangram.node.isolation import CONTRACTS
from tangram.node.records import Claimant, Want
from tangram.node.slots import Slots, uuid_of
from tangram.units import HUNDREDTHS_PER_GPU

_MOST_DIGITS = 4
"""Of a device's place on its node; longer numbers are no places."""


class RefusalReason(StrEnum):
    """Why a container gets no GPU: the label of a metric."""

    NOT_PLACED = "NotPlaced"
    """No pod that our scheduler placed here asks for it, or the pod's record does not count."""
    UNKNOWN_GPU = "UnknownGpu"
    UNHEALTHY_GPU = "UnhealthyGpu"
    OVERFILLED = "Overfilled"
    WRONG_DEVICES = "WrongDevices"
    """The kubelet cannot take, or did not take, ids of the GPU that the record names."""
    STILL_IN_USE = "StillInUse"
    """Processes of a pod that is gone have not ended, and have memory that would be given out."""
    NOT_SHARED = "NotShared"
    """A part of a GPU on a node that gives out whole GPUs or slices only."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, and the sentence that reaches the pod's Event."""

    reason: RefusalReason
    text: str
    gpus: tuple[str, ...] = ()
    """Uuids of the GPUs themselves that are not given out."""
    pod: str = ""
    """Uid of the pod."""


@dataclass(frozen=True, slots=True)
class Devices:
    """The node's GPUs, or the slices that stand for them: every one seen since the agent started.

    So one that fell off keeps its ids.
    """

    gpus: tuple[Gpu, ...] = ()
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    """By uuid of the GPU itself: its slices are as it is."""

    def find(self, device: str) -> Gpu | None:
        """The GPU that a record names: by uuid, or by its place where that was written before uuids were known."""
        if device.isdecimal() and len(device) <= _MOST_DIGITS:
            return self.gpus[int(device)] if int(device) < len(self.gpus) else None
        return next((gpu for gpu in self.gpus if gpu.uuid == device), None)

    def health(self, gpu: Gpu) -> Condition:
        """How a GPU is; one without a report is healthy."""
        return self.conditions.get(gpu.physical, Condition(Health.HEALTHY))

    def is_healthy(self, uuid: str) -> bool:
        """Whether a GPU itself, by its uuid, takes new work."""
        return uuid not in self.conditions or self.conditions[uuid].health is Health.HEALTHY

    def updated(self, inventory: Inventory, conditions: Mapping[str, Condition]) -> "Devices":
        """After another probe: a GPU that is no longer found stays, as an unhealthy one.

        A slice of a GPU that is found does not: an administrator has cut it anew, and nobody had it (the driver keeps
        slices that are in use).
        """
        here = {gpu.physical for gpu in inventory.gpus}
        gone = [gpu for gpu in self.gpus if gpu.physical not in here]
        lost = {gpu.physical: Condition(Health.UNHEALTHY, "the driver no longer finds it") for gpu in gone}
        known = {uuid: one for uuid, one in conditions.items() if uuid in here or one.health is Health.UNHEALTHY}
        return Devices(tuple(sorted((*inventory.gpus, *gone), key=lambda gpu: (gpu.index, gpu.uuid))), lost | known)


@dataclass(frozen=True, slots=True)
class Grant:
    """What a container gets: the shares of the record with the GPUs that they name."""

    claimant: Claimant
    want: Want
    parts: tuple[tuple[Gpu, DeviceShare], ...]

    def ids_of(self, slots: Slots) -> Counter[str]:
        """Number of ids that it takes of each GPU, by uuid."""
        return Counter({gpu.uuid: share.share // slots.hundredths for gpu, share in self.parts})


class Terms(NamedTuple):
    """On what terms GPUs are given out."""

    isolation: Isolation
    overcommit_percent: int
    """Part of a GPU's memory that its tenants may be promised."""


def grant(claimant: Claimant, want: Want, devices: Devices, held: Iterable[Holding], terms: Terms) -> Grant | Refusal:
    """Whether the container may have what its record names, beside what all other containers hold."""
    where = f"{claimant}, container {want.container}"
    if claimant.fault:
        return Refusal(RefusalReason.NOT_PLACED, f"{where}: {claimant.fault}", pod=claimant.uid)
    # A finished init container's devices go to the pod's next containers, so they are not in this one's way.
    yielding = {want.container} | {other.container for other in claimant.wants if other.passing}
    others = [one for one in held if one.pod_uid != claimant.uid or one.container not in yielding]
    parts: list[tuple[Gpu, DeviceShare]] = []
    for share in want.shares:
        gpu = devices.find(share.id)
        if gpu is None:
            text = f"{where}: its record names GPU {share.id}, which is not here"
            return Refusal(RefusalReason.UNKNOWN_GPU, text, pod=claimant.uid)
        problem = _unfit(gpu, share, devices, terms.isolation)
        problem = problem or _overfull(gpu, share, others, claimant, terms.overcommit_percent)
        if problem is not None:
            text = f"{where}: GPU {gpu.uuid} {problem.text}"
            return Refusal(problem.reason, text, (gpu.physical,), claimant.uid)
        parts.append((gpu, share))
    return Grant(claimant, want, tuple(parts))


def _unfit(gpu: Gpu, share: DeviceShare, devices: Devices, isolation: Isolation) -> Refusal | None:
    condition = devices.health(gpu)
    if condition.health is not Health.HEALTHY:
        reason = f" ({condition.reason})" if condition.reason else ""
        return Refusal(RefusalReason.UNHEALTHY_GPU, f"is {condition.health}{reason} and takes no new work")
    if not CONTRACTS[isolation].fractions and share.share != HUNDREDTHS_PER_GPU:
        return Refusal(RefusalReason.NOT_SHARED, f"is given out as a whole only, and the record names {share.share}")
    return None


def _overfull(
    gpu: Gpu, share: DeviceShare, others: Iterable[Holding], claimant: Claimant, overcommit_percent: int
) -> Refusal | None:
    here = [one for one in others if one.uuid == gpu.uuid]
    taken = sum(one.share for one in here)
    holders = ", ".join(
        sorted({f"{one.namespace}/{one.pod} {one.share}" for one in here if one.pod_uid != claimant.uid})
    )
    if taken + share.share > HUNDREDTHS_PER_GPU:
        free = max(0, HUNDREDTHS_PER_GPU - taken)
        return Refusal(
            RefusalReason.OVERFILLED, f"has {free} % free and the record names {share.share}; held: {holders}"
        )
    capacity = gpu.memory_mib * overcommit_percent // 100
    memory = sum(_memory(gpu, one.share, one.memory_mib) for one in here)
    wanted = _memory(gpu, share.share, share.memory_mib)
    if capacity and memory + wanted > capacity:
        free = max(0, capacity - memory)
        return Refusal(
            RefusalReason.OVERFILLED, f"has {free} MiB of memory free and the record names {wanted}; held: {holders}"
        )
    return None


def _memory(gpu: Gpu, share: int, memory_mib: int) -> int:
    return memory_mib or gpu.memory_mib * share // HUNDREDTHS_PER_GPU


def prefer(
    granted: Grant, slots: Slots, available: Iterable[str], must_include: Iterable[str]
) -> tuple[str, ...] | Refusal:
    """Ids of the granted GPUs out of those that the kubelet has free, with those that it insists on."""
    needed = granted.ids_of(slots)
    chosen = sorted(set(must_include))
    for device_id in chosen:
        needed[uuid_of(device_id)] -= 1
    if min(needed.values(), default=0) < 0:
        return _wrong(granted, "insists on devices", chosen)
    offered = sorted(set(available).difference(chosen))
    for device_id in offered:
        if needed[uuid_of(device_id)] > 0:
            needed[uuid_of(device_id)] -= 1
            chosen.append(device_id)
    if any(needed.values()):
        return _wrong(granted, "has free", offered)
    return tuple(chosen)


def agree(granted: Grant, slots: Slots, device_ids: Iterable[str]) -> Refusal | None:
    """Whether the ids that the kubelet has taken are those that the record means."""
    ids = sorted(set(device_ids))
    if Counter(map(uuid_of, ids)) == granted.ids_of(slots):
        return None
    return _wrong(granted, "has taken", ids)


def _wrong(granted: Grant, verb: str, device_ids: Iterable[str]) -> Refusal:
    counts = sorted(Counter(map(uuid_of, device_ids)).items())
    found = " and ".join(f"{count} of {uuid}" for uuid, count in counts) or "nothing"
    named = " and ".join(f"{share.share} % of {gpu.uuid}" for gpu, share in granted.parts)
    return Refusal(
        RefusalReason.WRONG_DEVICES,
        f"{granted.claimant}, container {granted.want.container}: its record names {named}, "
        f"but the kubelet {verb} {found}",
        tuple(gpu.physical for gpu, _ in granted.parts),
        granted.claimant.uid,
    )
