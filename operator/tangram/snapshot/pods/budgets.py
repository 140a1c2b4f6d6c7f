"""PodDisruptionBudgets: when one allows more than it did, evictions that were refused are worth another attempt.

Whether an eviction is allowed is the API server's to say. A budget that allows no more than it has allowed since the
refusal ends nothing: it does so again each time that the pods that have left are made anew, and whoever was evicted
would lose work time and again for a claim that the others thwart.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tangram.api.disruption import BudgetSpec, PodDisruptionBudget
from tangram.snapshot.affinity.selecting import clauses_of, hold
from tangram.snapshot.pods.claims import ClaimTable
from tangram.snapshot.pods.pods import PodRow

BudgetKey = tuple[str, str]
"""(namespace, name)."""


@dataclass(frozen=True, slots=True)
class _Known:
    """A budget, and the most that it has allowed since it was written."""

    spec: BudgetSpec
    most: int


class BudgetTable:
    """Budgets by name."""

    def __init__(self, pods: Mapping[str, PodRow], claims: ClaimTable) -> None:
        self._pods, self._claims = pods, claims
        self._budgets: dict[BudgetKey, _Known] = {}

    def put(self, key: BudgetKey, budget: PodDisruptionBudget | None) -> bool:
        """Take in a budget, None: it is gone. Whether pods may be chosen again whose eviction was refused."""
        known = self._budgets.pop(key, None)
        if budget is not None:
            allowed = budget.status.disruptions_allowed
            same = known is not None and known.spec == budget.spec
            most = max(known.most, allowed) if known is not None and same else allowed
            self._budgets[key] = _Known(budget.spec, most)
            if known is None or (same and allowed <= known.most):
                return False
        if known is None:
            return False
        freed = [uid for uid in self._refused_in(key[0]) if self._is_for(known.spec, uid)]
        for uid in freed:
            self._claims.forgive(uid)
        return bool(freed)

    def _refused_in(self, namespace: str) -> Iterator[str]:
        """Uids of pods of the namespace whose eviction was refused."""
        for uid, one in self._claims.spared.items():
            if one.tries and uid in self._pods and self._pods[uid].name.namespace == namespace:
                yield uid

    def _is_for(self, spec: BudgetSpec, uid: str) -> bool:
        pod, clauses = self._pods[uid].pod, clauses_of(spec.selector)
        return pod is not None and clauses is not None and hold(clauses, pod.metadata.labels)
