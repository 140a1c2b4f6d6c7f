"""PodDisruptionBudgets that allow fewer evictions than a decision asks for: the API server will refuse the others."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tangram.api.disruption import PodDisruptionBudget
from tangram.api.objects import Pod
from tangram.plan import PodName
from tangram.snapshot.affinity.selecting import clauses_of, hold
from tangram.snapshot.recording import Recording


@dataclass(frozen=True, slots=True)
class Exceeded:
    """A budget, and pods for which it is that would all have to leave."""

    budget: str
    """``namespace/name``."""
    allowed: int
    """How many of them it lets go now."""
    pods: tuple[PodName, ...]

    def __str__(self) -> str:
        """As a sentence."""
        named = ", ".join(map(str, self.pods))
        evictions = f"{self.allowed} eviction{'' if self.allowed == 1 else 's'}"
        return (
            f"PodDisruptionBudget {self.budget} allows {evictions} now, and {len(self.pods)} would be needed "
            f"({named}): for as long as that is so the API server refuses"
        )


def exceeded(recorded: Recording, leaving: Iterable[PodName]) -> tuple[Exceeded, ...]:
    """The budgets that evictions of these pods would violate, by name."""
    uids = {one.uid for one in leaving}
    victims = [pod for pod in recorded.pods if pod.metadata.uid in uids and not _needs_no_leave(pod)]
    found = (_exceeded(budget, victims) for budget in recorded.budgets)
    return tuple(sorted((one for one in found if one is not None), key=lambda one: one.budget))


def _exceeded(budget: PodDisruptionBudget, victims: Iterable[Pod]) -> Exceeded | None:
    metadata, allowed = budget.metadata, max(0, budget.status.disruptions_allowed)
    pods = sorted(_protected(budget, victims))
    return Exceeded(f"{metadata.namespace}/{metadata.name}", allowed, tuple(pods)) if len(pods) > allowed else None


def _protected(budget: PodDisruptionBudget, victims: Iterable[Pod]) -> Iterator[PodName]:
    clauses = clauses_of(budget.spec.selector)
    for pod in victims:
        metadata = pod.metadata
        mine = metadata.namespace == budget.metadata.namespace and clauses is not None
        if mine and hold(clauses or (), metadata.labels) and not _may_go_unready(budget, pod):
            yield PodName(metadata.namespace, metadata.name, metadata.uid)


def _needs_no_leave(pod: Pod) -> bool:
    """Whether no budget is asked about the pod: it has not begun, or it is going already."""
    return pod.status.phase in ("Pending", "Succeeded", "Failed") or pod.metadata.deletion_timestamp is not None


def _may_go_unready(budget: PodDisruptionBudget, pod: Pod) -> bool:
    ready = any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions)
    return budget.spec.unhealthy_pod_eviction_policy == "AlwaysAllow" and not ready
