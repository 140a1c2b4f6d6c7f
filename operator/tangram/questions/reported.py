"""What the scheduler has reported on a pod that waits, where a fresh decision cannot know it.

A refusal by the API server, and a place that is being made free, are memory of the scheduler's process. In no object
but the pod's own condition can they be read.
"""

from collections.abc import Collection
from dataclasses import dataclass

from tangram.api.objects import Pod
from tangram.decide.reasons import FAILS
from tangram.plan import Hold, Reason
from tangram.snapshot.pods.claims import REFUSED, WAITS_FOR
from tangram.snapshot.pods.suspension import SPARES_OTHERS
from tangram.snapshot.recording import reason_of

_NO_WORDS = "a file has no messages of conditions: see condition PodScheduled of the pod"


@dataclass(frozen=True, slots=True)
class Reported:
    """The reason on a pod, and its sentence."""

    reason: str
    """One of plan.Reason."""
    message: str

    @property
    def refused_eviction(self) -> str:
        """What it says of an eviction that the API server refuses; empty: nothing."""
        return self.message[self.message.index(WAITS_FOR) :] if self._refuses_eviction else ""

    @property
    def spares_others(self) -> str:
        """What it says of a pod for which nobody is preempted for now; empty: nothing."""
        return self.message.rpartition("; ")[2] if SPARES_OTHERS in self.message else ""

    @property
    def victim(self) -> str:
        """``namespace/name`` of the pod whose eviction is refused; empty: there is none."""
        return self.refused_eviction.removeprefix(WAITS_FOR).partition(",")[0].strip()

    @property
    def _refuses_eviction(self) -> bool:
        return WAITS_FOR in self.message and REFUSED in self.message


def reported(pod: Pod, pods: Collection[Pod], fresh: Hold | None) -> Reported | None:
    """What has been reported of a pod, if it is what keeps the pod waiting, and a fresh decision does not know it.

    ``fresh``: why it waits by a fresh decision; None: that one places the pod. ``pods``: all that there are.
    """
    found = next((one for condition in pod.status.conditions if (one := reason_of(condition))), None)
    if found is None:
        return None
    said = Reported(found[0], found[1] or _NO_WORDS)
    if said.reason == Reason.WAITING_FOR_EVICTION:
        return said if pod.status.nominated_node_name else None
    if said.reason in (Reason.BINDING_REFUSED, Reason.NODE_REJECTED) or (
        said.reason == Reason.VOLUME_NOT_READY and fresh is None
    ):
        return said
    if fresh is None and FAILS in said.message:
        return said  # a plugin that is not there, or does not fail, where the question is asked
    if said.reason == Reason.GANG_TIMEOUT and fresh is not None and fresh.reason == Reason.GANG_INCOMPLETE:
        return said  # since when its members are missing is known to the scheduler only
    if said.spares_others and fresh is not None:
        return said
    there = any(f"{one.metadata.namespace}/{one.metadata.name}" == said.victim for one in pods if said.victim)
    return said if there and fresh is not None else None
