"""The status of this node's GPUNode, worked out from what the agent knows: pure, a plain object as on the wire.

Measurements are rounded coarsely, so that an idle or evenly busy node has nothing new to say; whoever wants them
exactly reads the agent's metrics. All lists and texts keep to the bounds of the API, whatever drivers say.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tangram.api import names
from tangram.node.gpus import Condition, Gpu, Health, Holding, Isolation, Reading
from tangram.node.isolation import memory_limit, possible, remark
from tangram.node.software import Software
from tangram.units import HUNDREDTHS_PER_GPU

Object = dict[str, Any]
_MOST_DEVICES = 64
_MOST_HOLDINGS = 128
_LONGEST_REASON = 1024
_LONGEST_MESSAGE = 4096
_MOST_HOLES = 32
_LONGEST_HOLE = 256
_WORST = (Health.UNHEALTHY, Health.DEGRADED, Health.HEALTHY)
_WELL = Condition(Health.HEALTHY)
_STEPS = {"percent": 10, "celsius": 5, "watts": 25, "mib": 512}
"""What measurements are rounded to."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the agent knows at one time."""

    node: str
    gpus: Sequence[Gpu] = ()
    """Every GPU that was seen since the agent started, also those that fell off; a slice stands for itself."""
    conditions: Mapping[str, Condition] = field(default_factory=dict)
    """By uuid of the GPU itself: its slices are as it is."""
    readings: Sequence[Reading] = ()
    holdings: Sequence[Holding] = ()
    isolation: Isolation | None = None
    """None: nobody keeps tenants apart."""
    driver_version: str = ""
    cuda_version: str = ""
    agent_version: str = ""
    problems: Mapping[str, str] = field(default_factory=dict)
    """What is wrong with the agent itself, by its part."""
    known: bool = True
    """Whether the agent has seen its GPUs and their holders since it started."""
    unidentified: Sequence[str] = ()
    """A sentence for each GPU that was lost before the agent started."""
    mismatches: Sequence[str] = ()
    """A sentence for each container that holds other GPUs than its pod's record names."""
    injection: str = ""
    """How GPUs get into containers; empty: nobody has found out yet."""
    software: Software = field(default_factory=Software)


def manifest(node: str, node_uid: str) -> Object:
    """The GPUNode as it is created: owned by its Node, so that it goes with it."""
    owner = {"apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid}
    return _object(node) | {"metadata": {"name": node, "ownerReferences": [owner]}}


def with_status(node: str, status: Object) -> Object:
    """The GPUNode as its status is applied."""
    return _object(node) | {"status": status}


def _object(node: str) -> Object:
    return {"apiVersion": names.API_VERSION, "kind": "GPUNode", "metadata": {"name": node}}


def status_of(facts: Facts, before: Object | None, now: str) -> Object:
    """The status; ``before`` is the one it follows (for the times of its conditions), ``now`` an RFC 3339 time."""
    held = _held(facts)
    facts = _with_lost(facts, before, held)
    if facts.known:
        devices = [_device(gpu, facts, held.get(gpu.uuid, [])) for gpu in facts.gpus[:_MOST_DEVICES]]
    else:
        devices = [_unseen(device) for device in (before or {}).get("devices") or ()]
    devices = _since(devices, before, now)
    allocated = sum(device.get("allocated", 0) for device in devices)
    free = sum(
        HUNDREDTHS_PER_GPU - device["allocated"] for device in devices if device["health"] == Health.HEALTHY.value
    )
    status: Object = {
        "conditions": [_dated(one, before, now) for one in _conditions(facts, devices)],
        "devices": devices,
        "gpus": len(facts.gpus) if facts.known else len(devices),
        "model": ",".join(sorted({device["model"] for device in devices}))[:256],
        "allocated": f"{allocated / HUNDREDTHS_PER_GPU:g}",
        "free": f"{free / HUNDREDTHS_PER_GPU:g}",
        "isolation": _spelled(facts.isolation),
        **({"deviceInjection": facts.injection} if facts.injection else {}),
        "driverVersion": facts.driver_version[:64],
        "cudaVersion": facts.cuda_version[:64],
        "agentVersion": facts.agent_version[:64],
        "runtimeVersion": facts.software.runtime[:64],
        "toolkitVersion": facts.software.toolkit[:64],
        "knownHoles": [one[:_LONGEST_HOLE] for one in facts.software.holes[:_MOST_HOLES]],
    }
    if devices:
        status["health"] = next(one.value for one in _WORST if any(one == device["health"] for device in devices))
    return status


def _spelled(isolation: Isolation | None) -> str:
    return isolation.value if isolation is not None else "none"


def _held(facts: Facts) -> dict[str, list[Holding]]:
    """What is held of each GPU."""
    held: dict[str, list[Holding]] = {}
    for holding in sorted(facts.holdings, key=lambda one: (one.namespace, one.pod, one.container, one.uuid)):
        held.setdefault(holding.uuid, []).append(holding)
    return held


def _with_lost(facts: Facts, before: Object | None, held: Mapping[str, Sequence[Holding]]) -> Facts:
    """The facts with the GPUs that an earlier agent saw and this one never has, for as long as containers hold them.

    A record that names a GPU that is not reported could mean any of the node's: placement would leave all alone.
    """
    seen = {gpu.uuid for gpu in facts.gpus}
    lost = tuple(
        Gpu(device["uuid"], device["index"], device["model"], device["memoryMiB"])
        for device in (before or {}).get("devices") or ()
        if device["uuid"] in held and device["uuid"] not in seen
    )
    unhealthy = Condition(Health.UNHEALTHY, "the driver has not found it since the agent started")
    return replace(
        facts, gpus=(*facts.gpus, *lost), conditions={**facts.conditions, **{gpu.uuid: unhealthy for gpu in lost}}
    )


def _since(devices: Sequence[Object], before: Object | None, now: str) -> list[Object]:
    """The devices with the times since which their health is what it is."""
    known = {(one.get("uuid"), one.get("health")): one for one in (before or {}).get("devices") or ()}
    same = [known.get((one["uuid"], one["health"]), {}) for one in devices]
    return [
        one | {"lastTransitionTime": earlier.get("lastTransitionTime") or now}
        for one, earlier in zip(devices, same, strict=True)
    ]


def _unseen(device: Object) -> Object:
    """A device as an earlier agent left it: without it placement would take the node's resources at their word."""
    return device | {"health": Health.DEGRADED.value, "healthReason": "the agent has not seen it since it started"}


def _device(gpu: Gpu, facts: Facts, held: Sequence[Holding]) -> Object:
    condition = facts.conditions.get(gpu.physical, _WELL)
    reading = _reading(gpu, facts.readings)
    allocations = [_allocation(gpu, one) for one in held]
    measured = {
        "utilizationPercent": _rounded(reading.sm_percent, "percent"),
        "memoryUsedMiB": _rounded(reading.memory_used_mib, "mib"),
        "temperatureCelsius": _rounded(reading.temperature_celsius, "celsius"),
        "powerWatts": _rounded(reading.power_watts, "watts"),
    }
    return {
        "uuid": gpu.uuid,
        "index": gpu.index,
        "model": gpu.model,
        "memoryMiB": gpu.memory_mib,
        "health": condition.health.value,
        "healthReason": condition.reason[:_LONGEST_REASON],
        "atRisk": condition.at_risk[:_LONGEST_REASON],
        "allocated": min(HUNDREDTHS_PER_GPU, sum(one["share"] for one in allocations)),
        "allocatedMemoryMiB": sum(one["memoryMiB"] for one in allocations),
        "allocations": allocations[:_MOST_HOLDINGS],
        "isolation": _spelled(possible(facts.isolation, gpu)[0] if facts.isolation is not None else None),
        "isolationReason": remark(facts.isolation, gpu)[:_LONGEST_REASON] if facts.isolation is not None else "",
        "links": [{"peer": link.peer, "type": link.type, "lanes": link.lanes} for link in gpu.links[:_MOST_DEVICES]],
        "numaNode": gpu.numa_node,
        "pciAddress": gpu.pci_address[:32],
    } | {name: value for name, value in measured.items() if value is not None}


def _reading(gpu: Gpu, readings: Sequence[Reading]) -> Reading:
    """What is measured of a device; a slice has the heat of its GPU, and what the GPU draws is not the slice's."""
    found = next((one for one in readings if one.uuid == gpu.physical), Reading(gpu.uuid))
    return Reading(gpu.uuid, temperature_celsius=found.temperature_celsius) if gpu.parent else found


def _allocation(gpu: Gpu, holding: Holding) -> Object:
    return {
        "namespace": holding.namespace,
        "pod": holding.pod,
        "podUID": holding.pod_uid,
        "container": holding.container,
        "share": min(HUNDREDTHS_PER_GPU, max(1, holding.share)),
        "memoryMiB": memory_limit(gpu, holding.share, holding.memory_mib),
    }


def _rounded(value: float | None, unit: str) -> int | None:
    return None if value is None else round(value / _STEPS[unit]) * _STEPS[unit]


def _conditions(facts: Facts, devices: Sequence[Object]) -> list[Object]:
    trouble = "; ".join(f"{part}: {text}" for part, text in sorted(facts.problems.items()))
    ready = ("False", "AgentProblem", trouble) if trouble else ("True", "AgentWorks", "the agent works")
    risks = [f"{_called(device)}: {device['atRisk']}" for device in devices if device.get("atRisk")]
    found = (
        ("Ready", *ready),
        ("Healthy", *_healthy(devices, facts.unidentified)),
        ("RecordsAgree", *_agreement(facts)),
        ("AtRisk", "True", "FailureExpected", "; ".join(risks))
        if risks
        else ("AtRisk", "False", "NothingExpected", "no device is expected to fail"),
    )
    return [
        {"type": kind, "status": status, "reason": reason, "message": message[:_LONGEST_MESSAGE]}
        for kind, status, reason, message in found
    ]


def _healthy(devices: Sequence[Object], unidentified: Sequence[str]) -> tuple[str, str, str]:
    counts = Counter(device["health"] for device in devices)
    if len(devices) == counts[Health.HEALTHY.value] and not unidentified:
        return "True", "AllHealthy", "every device is healthy"
    named = [
        f"{_called(device)} is {device['health']}: {device['healthReason'] or 'no reason is known'}{_users(device)}"
        for health in _WORST[:2]
        for device in devices
        if device["health"] == health.value
    ]
    reason = "GpuUnhealthy" if unidentified or counts[Health.UNHEALTHY.value] else "GpuDegraded"
    return "False", reason, "; ".join((*named, *unidentified))


def _agreement(facts: Facts) -> tuple[str, str, str]:
    if facts.mismatches:
        return "False", "GpuMismatch", "; ".join(facts.mismatches)
    if not facts.known:
        return "Unknown", "NotCompared", "what containers hold was not compared with their records yet"
    return "True", "AllAgree", "every container holds the GPUs that its pod's record names"


def _called(device: Object) -> str:
    return f"GPU {device['index']} ({device['uuid']})"


def _users(device: Object) -> str:
    pods = sorted({f"{one['namespace']}/{one['pod']}" for one in device.get("allocations", ())})
    return f", used by {', '.join(pods)}" if pods else ""


def _dated(condition: Object, before: Object | None, now: str) -> Object:
    """The condition with the time since which its status is what it is."""
    for old in (before or {}).get("conditions") or ():
        if old.get("type") == condition["type"] and old.get("status") == condition["status"]:
            return condition | {"lastTransitionTime": old.get("lastTransitionTime") or now}
    return condition | {"lastTransitionTime": now}
