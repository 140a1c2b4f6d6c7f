"""GPUs at which pods are refused again and again: the scheduler takes them for healthy, the agent does not give them.

Something is wrong there that no probe sees: an MPS daemon that does not answer, a kubelet that chooses other devices.
As Degraded the GPU takes no new work, and pods that are made again and again do not fail here without end.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from tangram.node.allocation import RefusalReason
from tangram.node.gpus import Condition, Health

MANY = 3
"""So many pods refused for one reason make a GPU Degraded."""
WITHIN_SECONDS = 600.0
"""What lies further back counts no more; so a GPU that is Degraded for this is tried again after so long."""
_MOST = 256
"""Refusals that are remembered of one GPU."""


@dataclass(frozen=True, slots=True)
class _Refused:
    pod: str
    reason: RefusalReason
    at: float


@dataclass(slots=True)
class RefusedGpus:
    """Remembers who was refused; memory of the process, which a few more refusals bring back."""

    clock: Callable[[], float] = time.monotonic
    _known: dict[str, list[_Refused]] = field(default_factory=dict)
    """By uuid of the GPU."""

    def note(self, gpus: Iterable[str], pod: str, reason: RefusalReason) -> None:
        """A pod, by its uid, was refused at each of these GPUs, which are healthy."""
        for uuid in gpus:
            entry = _Refused(pod, reason, self.clock())
            self._known[uuid] = [*self._recent(uuid), entry][-_MOST:]

    def held_back(self, conditions: Mapping[str, Condition]) -> dict[str, Condition]:
        """The conditions with those GPUs as Degraded that are well otherwise."""
        found = dict(conditions)
        for uuid in list(self._known):
            recent = self._recent(uuid)
            self._known[uuid] = recent
            if not recent:
                del self._known[uuid]
            before, problem = found.get(uuid, Condition(Health.HEALTHY)), _problem(recent)
            if problem and before.health is Health.HEALTHY:
                found[uuid] = replace(before, health=Health.DEGRADED, reason=problem)
        return found

    def _recent(self, uuid: str) -> list[_Refused]:
        since = self.clock() - WITHIN_SECONDS
        return [one for one in self._known.get(uuid, ()) if one.at > since]


def _problem(recent: Iterable[_Refused]) -> str:
    """What is said of the GPU; empty: nothing. No count, which would make another text of it each time."""
    by_reason = Counter(reason for reason, _ in {(one.reason, one.pod) for one in recent})
    for reason, count in sorted(by_reason.items()):
        if count >= MANY:
            return f"pods that were placed on it have been refused again and again ({reason})"
    return ""
