"""What tangram reads of PodDisruptionBudgets: see ``objects``."""

from tangram.api.objects import LabelSelector, Metadata, Struct


class BudgetSpec(Struct, frozen=True):
    """Which pods a budget is for, and how many of them may be away; without a selector it is for none."""

    selector: LabelSelector | None = None
    min_available: int | str | None = None
    max_unavailable: int | str | None = None
    unhealthy_pod_eviction_policy: str = ""


class BudgetStatus(Struct, frozen=True):
    """How many more may leave now."""

    disruptions_allowed: int = 0


class PodDisruptionBudget(Struct, frozen=True):
    """Bounds how many pods are evicted at a time; the API server keeps to it."""

    metadata: Metadata
    spec: BudgetSpec = BudgetSpec()
    status: BudgetStatus = BudgetStatus()
