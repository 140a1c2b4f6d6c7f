"""What a reconcile sees: the parsed object and what it owns, as immutable values."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tangram.api import names
from tangram.api.disruption import PodDisruptionBudget
from tangram.api.inference import InferenceService, InferenceStatus
from tangram.api.policy import HybridPolicy
from tangram.api.training import TrainingJob, TrainingStatus
from tangram.api.views import NodeView, PodView, ServiceView

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "tangram"
"""Value of the label ``MANAGED_BY`` on all that the controllers create; their watches ask for it."""


@dataclass(frozen=True, slots=True)
class ObservedJob:
    """All that a decision about a TrainingJob hangs on."""

    job: TrainingJob
    status: TrainingStatus
    stored: Mapping[str, Any] = field(default_factory=dict)
    """The status as it is stored."""
    pods: tuple[PodView, ...] = ()
    """Pods that the job owns."""
    services: tuple[ServiceView, ...] = ()
    """Services that the job owns."""
    refused: str = ""
    """Why the server did not let the last attempt create something; empty when it did."""
    fresh: bool = False
    """Whether the pods were read from the server for this reconcile."""
    scheduler_name: str = names.SCHEDULER_NAME
    """Who places the pods."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """By uid of a pod: the sentence about a GPU that it holds and that has failed."""


@dataclass(frozen=True, slots=True)
class Source:
    """The TrainingJob that makes a service's model."""

    name: str
    phase: str = ""
    """Its phase; empty when there is no such job."""


@dataclass(frozen=True, slots=True)
class ObservedService:
    """All that a decision about an InferenceService hangs on."""

    service: InferenceService
    status: InferenceStatus
    stored: Mapping[str, Any] = field(default_factory=dict)
    pods: tuple[PodView, ...] = ()
    services: tuple[ServiceView, ...] = ()
    refused: str = ""
    source: Source | None = None
    """None when the service names no TrainingJob."""
    scheduler_name: str = names.SCHEDULER_NAME
    failures: Mapping[str, str] = field(default_factory=dict)
    """By uid of a pod: the sentence about a GPU that it holds and that has failed."""
    whole: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By uid: the pods that another version of the controller has made, as the server has them."""
    budgets: tuple[PodDisruptionBudget, ...] | None = None
    """All PodDisruptionBudgets of the namespace; None while they are not known."""


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy as it is stored; ``policy`` is None when it cannot be used, and ``fault`` says why."""

    raw: Mapping[str, Any]
    policy: HybridPolicy | None
    fault: str = ""


@dataclass(frozen=True, slots=True)
class ObservedPolicies:
    """All policies together: which one is in force depends on the others."""

    policies: tuple[StoredPolicy, ...]
    nodes: tuple[NodeView, ...] | None = None
    """None when the nodes could not be read."""


def by_name(pods: Iterable[PodView]) -> dict[str, PodView]:
    """Pods by their names, in name order."""
    return {pod.name: pod for pod in sorted(pods, key=lambda pod: pod.name)}
