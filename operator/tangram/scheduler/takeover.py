"""What a process that has just come to hold the Lease waits for: everything that its predecessor wrote.

Its watch of the pods may be late, by milliseconds or, over a connection that died silently, by a minute. What it shows
in order of versions is complete up to the last one shown. So the new holder writes something of no consequence on a pod
that waits, and decides nothing before its watch has shown this very write.
"""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import msgspec

from tangram import errors
from tangram.api.objects import Pod
from tangram.cluster.lease import Lease
from tangram.cluster.mirror import number_of
from tangram.cluster.paths import PODS
from tangram.cluster.rest import STRATEGIC_MERGE_PATCH, Client, Sending
from tangram.cluster.watch import ListWatch
from tangram.cluster.wire import DECODE_ERRORS

_log = logging.getLogger(__name__)
_POD = msgspec.json.Decoder(Pod)
_CONDITION = "PodScheduled"


class Takeover:
    """One process's look back at the beginning of each of its terms as holder of ``lease``."""

    def __init__(self, client: Client, lease: Lease, pods: ListWatch[Pod], scheduler_name: str) -> None:
        self._client, self._lease, self._pods, self._scheduler_name = client, lease, pods, scheduler_name
        self._term = 0
        """The last term in which the mark was written."""
        self._mark = 0
        """The version of the mark that the watch has yet to show; 0: it has."""

    async def complete(self) -> bool:
        """Whether everything written before this term is known; as long as nobody waits there is no need to know.

        False: ask again when the watch has shown something, or a moment later.
        """
        if self._mark and self._pods_number >= self._mark:
            self._mark = 0
        if self._term == self._lease.terms:
            return not self._mark
        term = self._lease.terms
        pod = next(iter(self._waiting()), None)
        if pod is None:
            return True
        try:
            mark = await self._write(pod)
        except (errors.NotFound, errors.Conflict, errors.NotReachable):
            return False
        except (errors.TangramError, *DECODE_ERRORS) as error:
            _log.warning("cannot mark what the last holder of the lease wrote, going on without: %s", error)
            mark = 0
        if mark is None:
            return False
        self._term, self._mark = term, mark
        return self._pods_number >= mark

    @property
    def _pods_number(self) -> int:
        return number_of(self._pods.resource_version)

    def _waiting(self) -> Iterable[Pod]:
        for pod in self._pods.objects.values():
            if pod.spec.scheduler_name == self._scheduler_name and not pod.spec.node_name:
                yield pod

    async def _write(self, pod: Pod) -> int | None:
        """Write the time of a cycle on the pod; returns the version that this made, None when it made none."""
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        condition: dict[str, Any] = {"type": _CONDITION, "lastProbeTime": now}
        if all(one.type != _CONDITION for one in pod.status.conditions):
            # Not the reason "Unschedulable": autoscalers add nodes for that.
            condition |= {"status": "False", "reason": "SchedulerChanged", "message": "a scheduler has just taken over"}
        patch = {"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [condition]}}
        path = PODS.path(pod.metadata.name, pod.metadata.namespace, "status")
        body = msgspec.json.encode(patch)
        answer = await self._client.request(
            "PATCH", path, body=body, sending=Sending(STRATEGIC_MERGE_PATCH, guarded=True)
        )
        version = number_of(_POD.decode(answer).metadata.resource_version)
        # Of two marks on one pod within one second the second changes nothing, and the watch will not show it.
        return version if version > number_of(pod.metadata.resource_version) else None
