"""Which pods have to leave a GPU that failed: by the policy, and never at the first sign.

How long a GPU has been unhealthy is known by a steady clock where this process has seen it become so, and otherwise by
the time that its GPUNode says, against the API server's clock: the wall clock of this process is asked for nothing. An
agent that is silent has said its last word long ago, and nobody is evicted for that.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tangram.api import names
from tangram.api.objects import Pod, read_gpus
from tangram.plan import Cause, Evict, PodName
from tangram.scheduler.policies import DeviceEntry, Inventory
from tangram.units import timestamp_seconds

CHECK_SECONDS = 5
"""Pods are looked through at most so often."""
AGAIN_SECONDS = 60
"""An eviction that was refused, by a PodDisruptionBudget say, is asked for again after so long."""
SILENT_SECONDS = 900
"""An agent that has not reported for so long is not believed any more; it does so every five minutes."""


@dataclass(frozen=True, slots=True)
class _Failure:
    since: float
    """On the steady clock."""
    text: str


@dataclass(frozen=True, slots=True)
class _Reported:
    """What a GPUNode said last."""

    heartbeat: str
    alive_at: float
    """On the steady clock, when the agent reported at the latest."""
    failed: Mapping[str, _Failure] = field(default_factory=dict)
    """By device, as records may name it: by its uuid, and by its place on the node."""


class Rescue:
    """Follows the health of devices; ``due`` says whom to evict. All times are seconds of one steady clock."""

    def __init__(self) -> None:
        self._reported: dict[str, _Reported] = {}
        """By node, of all that have been seen."""
        self._asked: dict[str, float] = {}
        self._checked = float("-inf")

    def observe(self, node: str, inventory: Inventory | None, now: float, server_now: int | None) -> None:
        """A GPUNode has changed, or is gone; ``server_now``: what time the API server has, None when not known."""
        if inventory is None:
            self._reported.pop(node, None)
            return
        before, status = self._reported.get(node), inventory.status
        failed: dict[str, _Failure] = {}
        for place, device in enumerate(sorted(status.devices, key=lambda one: one.index)):
            if device.health == "Unhealthy":
                text = f"GPU {device.uuid} is unhealthy: {device.health_reason or 'no reason is known'}"
                failed[device.uuid] = failed[str(place)] = _Failure(_since(device, before, now, server_now), text)
        alive_at = now
        if before is None:
            alive_at -= _age(status.heartbeat_time, server_now)
        elif before.heartbeat == status.heartbeat_time:
            alive_at = before.alive_at
        self._reported[node] = _Reported(status.heartbeat_time, alive_at, failed)

    def due(self, now: float, after: int, pods: Iterable[Pod]) -> list[Evict]:
        """Evictions of the pods whose records name a device that has been unhealthy for ``after`` seconds."""
        if now < self._checked + CHECK_SECONDS or not any(one.failed for one in self._reported.values()):
            return []
        self._checked = now
        found: list[Evict] = []
        asked: dict[str, float] = {}
        for pod in pods:
            uid, reason = pod.metadata.uid, self._reason(pod, now, after)
            if not reason:
                continue
            asked[uid] = self._asked.get(uid, now)
            if uid not in self._asked or now >= asked[uid] + AGAIN_SECONDS:
                asked[uid] = now
                name = PodName(pod.metadata.namespace, pod.metadata.name, uid)
                found.append(Evict(name, pod.spec.node_name, None, reason, cause=Cause.GPU_UNHEALTHY))
        self._asked = asked
        return found

    def _reason(self, pod: Pod, now: float, after: int) -> str:
        """Why the pod has to leave; empty: it may stay."""
        reported = self._reported.get(pod.spec.node_name)
        annotation = pod.metadata.annotations.get(names.GPUS)
        if reported is None or annotation is None or pod.metadata.deletion_timestamp is not None:
            return ""
        if not reported.failed or now > reported.alive_at + SILENT_SECONDS:
            return ""
        try:
            held = {share.id for shares in read_gpus(annotation).values() for share in shares}
        except ValueError:
            return ""
        for device in sorted(held & reported.failed.keys()):
            if reported.failed[device].since <= now - after:
                return reported.failed[device].text
        return ""


def _since(device: DeviceEntry, before: _Reported | None, now: float, server_now: int | None) -> float:
    """When it became unhealthy: as this process has seen it, or else as its agent says."""
    if before is None:
        return now - _age(device.last_transition_time, server_now)
    return before.failed[device.uuid].since if device.uuid in before.failed else now


def _age(said: str, server_now: int | None) -> int:
    """Seconds since a time that an agent has written; 0 when either is not known."""
    at = timestamp_seconds(said)
    return max(0, server_now - at) if at and server_now is not None else 0
