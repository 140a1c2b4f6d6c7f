"""Which pods have to leave a GPU that failed: by the policy, and never at the first sign."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tangram.api import names
from tangram.api.objects import Pod, read_gpus
from tangram.plan import Cause, Evict, PodName
from tangram.scheduler.policies import Inventory

CHECK_SECONDS = 5
"""Pods are looked through at most so often."""
AGAIN_SECONDS = 60
"""An eviction that was refused, by a PodDisruptionBudget say, is asked for again after so long."""


@dataclass(frozen=True, slots=True)
class _Failure:
    since: int
    text: str


class Rescue:
    """Follows the health of devices; ``due`` says whom to evict."""

    def __init__(self) -> None:
        self._failed: dict[str, dict[str, _Failure]] = {}
        """By node and device, as records may name it: by its uuid, and by its place on the node."""
        self._asked: dict[str, int] = {}
        self._checked = 0

    def observe(self, node: str, inventory: Inventory | None, now: int) -> None:
        """A GPUNode has changed, or is gone."""
        before = self._failed.pop(node, {})
        failed: dict[str, _Failure] = {}
        devices = inventory.status.devices if inventory is not None else ()
        for place, device in enumerate(sorted(devices, key=lambda one: one.index)):
            if device.health == "Unhealthy":
                text = f"GPU {device.uuid} is unhealthy: {device.health_reason or 'no reason is known'}"
                since = before[device.uuid].since if device.uuid in before else now
                failed[device.uuid] = failed[str(place)] = _Failure(since, text)
        if failed:
            self._failed[node] = failed

    def due(self, now: int, after: int, pods: Iterable[Pod]) -> list[Evict]:
        """Evictions of the pods whose records name a device that has been unhealthy for ``after`` seconds."""
        self._rebase(now)
        if not self._failed or now < self._checked + CHECK_SECONDS:
            return []
        self._checked = now
        found: list[Evict] = []
        asked: dict[str, int] = {}
        for pod in pods:
            uid, reason = pod.metadata.uid, self._reason(pod, now - after)
            if not reason:
                continue
            asked[uid] = self._asked.get(uid, now)
            if uid not in self._asked or now >= asked[uid] + AGAIN_SECONDS:
                asked[uid] = now
                name = PodName(pod.metadata.namespace, pod.metadata.name, uid)
                found.append(Evict(name, pod.spec.node_name, None, reason, cause=Cause.GPU_UNHEALTHY))
        self._asked = asked
        return found

    def _rebase(self, now: int) -> None:
        """If the clock was ahead, what was noted then was noted now at the latest."""
        if self._checked <= now and all(
            one.since <= now for failed in self._failed.values() for one in failed.values()
        ):
            return
        self._checked = min(self._checked, now)
        self._asked = {uid: min(asked, now) for uid, asked in self._asked.items()}
        for failed in self._failed.values():
            failed |= {device: replace(one, since=min(one.since, now)) for device, one in failed.items()}

    def _reason(self, pod: Pod, until: int) -> str:
        """Why the pod has to leave; empty: it may stay."""
        failed = self._failed.get(pod.spec.node_name)
        annotation = pod.metadata.annotations.get(names.GPUS)
        if failed is None or annotation is None or pod.metadata.deletion_timestamp is not None:
            return ""
        try:
            held = {share.id for shares in read_gpus(annotation).values() for share in shares}
        except ValueError:
            return ""
        for device in sorted(held & failed.keys()):
            if failed[device].since <= until:
                return failed[device].text
        return ""
