"""Which pods have to leave because their queue is drained."""

from collections.abc import Callable, Iterable, Set

from tangram.api.objects import Metadata, Pod
from tangram.plan import Cause, Evict, PodName
from tangram.snapshot.pods.running import never_evicted
from tangram.snapshot.queues.queues import DEFAULT_QUEUE

CHECK_SECONDS = 5
"""Pods are looked through at most so often."""
AGAIN_SECONDS = 60
"""An eviction that was refused, by a PodDisruptionBudget say, is asked for again after so long."""


class Drain:
    """Says whom to evict of the queues that are drained; ``queue_of`` a pod: empty means the default queue."""

    def __init__(self, scheduler_name: str, queue_of: Callable[[Metadata], str]) -> None:
        self._scheduler_name, self._queue_of = scheduler_name, queue_of
        self._asked: dict[str, int] = {}
        """By uid of a pod when it was last asked to leave."""
        self._checked = 0

    def due(self, now: int, queues: Set[str], pods: Iterable[Pod]) -> list[Evict]:
        """Evictions of the pods of these queues that run and have not been asked to leave of late."""
        if now < self._checked:  # the clock was ahead
            self._checked, self._asked = now, {uid: min(asked, now) for uid, asked in self._asked.items()}
        if not queues or now < self._checked + CHECK_SECONDS:
            self._asked = self._asked if queues else {}
            return []
        self._checked, before, self._asked = now, self._asked, {}
        found: list[Evict] = []
        for pod in pods:
            queue, uid = self._queue_of(pod.metadata) or DEFAULT_QUEUE, pod.metadata.uid
            if queue not in queues or not self._is_ours(pod):
                continue
            asked = self._asked[uid] = before.get(uid, now - AGAIN_SECONDS)
            if now >= asked + AGAIN_SECONDS:
                self._asked[uid] = now
                name = PodName(pod.metadata.namespace, pod.metadata.name, uid)
                why = f"queue {queue} is drained by the policy"
                found.append(Evict(name, pod.spec.node_name, None, why, cause=Cause.QUEUE_DRAINED))
        return found

    def _is_ours(self, pod: Pod) -> bool:
        """Whether a pod of ours runs, and is not leaving yet."""
        over = pod.status.phase in ("Succeeded", "Failed") or pod.metadata.deletion_timestamp
        ours = pod.spec.scheduler_name == self._scheduler_name and not never_evicted(pod)
        return bool(ours and pod.spec.node_name and not over)
