"""InferenceService: replicas that answer requests, rolled out by weight."""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from tangram.api import names
from tangram.api.common import (
    Conditions,
    Counts,
    Duration,
    GpuRequest,
    HeldGpus,
    Metadata,
    Model,
    Name,
    QueueName,
    Replicas,
    RoleName,
    Time,
    parse,
)
from tangram.api.phases import ServicePhase
from tangram.api.schema import IntOrText, Is, ListMap, ListSet, Rule, Text, refuse, rules, with_rules
from tangram.api.template import PodTemplate

Metric = Literal[
    "cpu_utilization", "gpu_utilization", "rps", "concurrency", "latency_p99_ms", "queue_depth", "prometheus"
]

DEMAND_METRICS = ("rps", "concurrency", "queue_depth", "prometheus")
"""Metrics that exist while no replica runs, so that a service at zero can wake."""


class HeaderMatch(Model):
    """A request header that sends the request to a revision whatever the weights say."""

    name: Annotated[str, Text("[A-Za-z0-9!#$%&'*+.^_`|~-]+", "a header name such as X-User-Group", 256)]
    """Name of the header; upper and lower case are the same."""
    value: Annotated[str, Field(min_length=1, max_length=4096)]
    """Value, or regular expression, that it must have."""
    type: Literal["Exact", "RegularExpression"] = "Exact"
    """How the value is compared."""


class Revision(Model):
    """One version of the service."""

    name: RoleName
    """Name of the revision, such as v1."""
    template: PodTemplate
    """Pod template of its replicas."""
    weight: Annotated[int, Field(ge=0, le=100)] | None = None
    """Share of the replicas in percent, and so of the requests, as far as whole replicas express it. All weights make
    100; left out, 100 for a single revision, else 0."""
    headers: Annotated[tuple[HeaderMatch, ...], ListMap("name", 8)] = ()
    """Requests that carry all of these headers go to this revision (A/B tests)."""
    gpus: GpuRequest | None = None
    """GPUs of each replica; left out, the resources in the template are all that is asked for."""


class Behavior(Model):
    """How quickly the number of replicas follows the metric."""

    up_window: Duration = "0s"
    """Time for which the metric must ask for more before replicas are added."""
    down_window: Duration = "5m"
    """Time for which the metric must ask for fewer before replicas are removed."""
    tolerance_percent: Annotated[int, Field(ge=0, le=100)] = 10
    """Distance from the target, in percent of it, that changes nothing."""
    max_step_up: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Replicas added at one time, at most."""
    max_step_down: Annotated[int, Field(ge=1, le=10_000)] = 100
    """Replicas removed at one time, at most."""


class Autoscale(Model):
    """Scaling by one metric towards a target."""

    model_config = with_rules(
        Rule("self.min <= self.max", "min must not be above max", ".min"),
        Rule(
            "(self.metric == 'prometheus') == has(self.query)",
            "query belongs to the metric prometheus, and to no other",
            ".query",
        ),
        Rule(
            "self.min > 0 || self.metric in ['rps', 'concurrency', 'queue_depth', 'prometheus']",
            "min 0 needs a metric that exists without replicas: rps, concurrency, queue_depth or prometheus",
            ".min",
        ),
        Rule(
            "self.metric != 'gpu_utilization' || self.target <= 100",
            "a GPU utilisation is at most 100 percent",
            ".target",
        ),
    )

    metric: Metric
    """What is measured: utilisation in percent, requests per second, requests in flight or queued (each per replica),
    99th percentile of latency in milliseconds, or a Prometheus query."""
    target: Annotated[int, Field(ge=1, le=1_000_000_000)]
    """Value that the metric should have; for a query, the value per replica."""
    min: Replicas = 1
    """Fewest replicas; 0 lets the service go to zero."""
    max: Annotated[int, Field(ge=1, le=10_000)]
    """Most replicas."""
    query: Annotated[str, Field(min_length=1, max_length=4096)] | None = None
    """PromQL query whose result is one number, for the metric prometheus."""
    idle_after: Duration = "10m"
    """Time without demand after which the last replica goes, when min is 0."""
    behavior: Behavior = Field(default_factory=Behavior)
    """How quickly the number of replicas follows the metric."""

    @model_validator(mode="after")
    def _sense(self) -> Self:
        if self.min > self.max:
            refuse("min", self.min, f"at most max ({self.max})")
        if (self.metric == "prometheus") != (self.query is not None):
            refuse("query", self.query, "a query for the metric prometheus, and none for any other")
        if self.min == 0 and self.metric not in DEMAND_METRICS:
            refuse("min", 0, f"1 or more; 0 needs one of the metrics {', '.join(DEMAND_METRICS)}")
        if self.metric == "gpu_utilization" and self.target > 100:
            refuse("target", self.target, "at most 100 percent")
        return self


class Sla(Model):
    """What the service promises."""

    model_config = with_rules(
        Rule(
            "has(self.latencyP99Ms) || has(self.availability)",
            "promise something: latencyP99Ms or availability",
            reason="FieldValueRequired",
        )
    )

    latency_p99_ms: Annotated[int, Field(ge=1, le=3_600_000)] | None = None
    """99th percentile of latency, in milliseconds, that must not be exceeded."""
    availability: Annotated[float, Field(gt=0, le=100)] | None = None
    """Percent of requests that must be answered without a server's error, such as 99.9."""

    @model_validator(mode="after")
    def _some_promise(self) -> Self:
        if self.latency_p99_ms is None and self.availability is None:
            refuse("", None, "a promise: latencyP99Ms or availability")
        return self


_COUNT_OR_PERCENT = IntOrText("([0-9]{1,5}|(100|[1-9]?[0-9])%)", "a number of replicas such as 1, or 0% to 100%", 5)
CountOrPercent = Annotated[
    str, _COUNT_OR_PERCENT, rules(Rule("type(self) == string || self <= 99999", "must be at most 99999"))
]


class Strategy(Model):
    """How replicas of an older template are replaced, in the words of a Deployment's rolling update."""

    model_config = with_rules(
        Rule(
            "!(has(self.maxSurge) && has(self.maxUnavailable) && string(self.maxSurge) in ['0', '0%']"
            " && string(self.maxUnavailable) in ['0', '0%'])",
            "maxUnavailable must not be 0 when maxSurge is 0",
            ".maxUnavailable",
        )
    )

    max_surge: CountOrPercent | None = None
    """Replicas above the number wanted, as a number or in percent of it, rounded up; 1 when left out."""
    max_unavailable: CountOrPercent | None = None
    """Replicas of those wanted that may be missing, as a number or in percent, rounded down. Left out: 0, and 1 when a
    new replica has found no room for 30 s and another one serves."""

    @model_validator(mode="after")
    def _moves(self) -> Self:
        none = ("0", "0%")
        if self.max_surge in none and self.max_unavailable in none:
            refuse("maxUnavailable", self.max_unavailable, "more than 0 when maxSurge is 0")
        return self


class ModelSource(Model):
    """Where the model comes from."""

    training_job: Name
    """TrainingJob of the same namespace whose checkpoint is served; replicas start when it is Complete."""


MOST_REVISIONS = 8


class InferenceSpec(Model):
    """Desired inference service."""

    revisions: Annotated[
        tuple[Revision, ...],
        ListMap("name", MOST_REVISIONS, shortest=1),
        rules(
            Rule(
                "self.map(r, has(r.weight) ? r.weight : (size(self) == 1 ? 100 : 0)).sum() == 100",
                "the weights of all revisions must make 100 together",
            )
        ),
    ]
    """Versions of the service; a second one with a small weight is a canary."""
    replicas: Replicas = 1
    """Replicas wanted in all, shared among the revisions by weight; autoscale, kubectl scale or an HPA write it."""
    autoscale: Autoscale | None = None
    """Scaling by demand; without it the number of replicas stays as written."""
    warm_standbys: Annotated[int, Field(ge=0, le=1000)] = 0
    """Replicas that are loaded but get no requests, so that scaling up has no cold start; their GPUs are lent."""
    sla: Sla | None = None
    """What the service promises; it is scaled up and moved to keep it."""
    source: ModelSource | None = Field(default=None, alias="from")
    """Where the model comes from, when a TrainingJob makes it."""
    strategy: Strategy = Field(default_factory=Strategy)
    """How replicas of an older template are replaced."""
    progress_deadline: Duration = "10m"
    """Time without progress after which the service counts as stalled (reason ProgressDeadlineExceeded)."""
    paused: bool = False
    """Hold the rollout: replicas are scaled and replaced, but those that are there keep their template."""
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    """Port of the containers that answers requests."""
    queue: QueueName = "default"
    """Queue of the service."""
    priority_class: Name | None = None
    """Class of the HybridPolicy; defaults to the first class in spec.priorityClasses that it matches."""

    @model_validator(mode="after")
    def _weights(self) -> Self:
        total = sum(self.weights().values())
        if total != 100:
            refuse("revisions", f"weights that make {total}", "weights that make 100 together")
        return self

    def weights(self) -> dict[str, int]:
        """Percent of the replicas for each revision, in the order written."""
        single = len(self.revisions) == 1
        return {
            revision.name: (100 if single else 0) if revision.weight is None else revision.weight
            for revision in self.revisions
        }


class FailedRollout(Model):
    """A rollout that was stopped because its new template does not work."""

    templates: Annotated[tuple[Annotated[str, Field(max_length=63)], ...], ListSet(8)] = ()
    """Hashes of the pod templates that do not work; they are not tried again."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """How it showed, such as the container that crashes with its exit code."""


LONGEST_SPEC = 262_144
"""Most characters of a spec that a status remembers; a service with a longer one is not rolled back."""


class Proven(Model):
    """What has been seen to work."""

    templates: Annotated[tuple[Annotated[str, Field(max_length=63)], ...], ListSet(8)] = ()
    """Hashes of further pod templates of the service of which a replica has been ready for a minute."""
    spec: Annotated[str, Field(max_length=LONGEST_SPEC)] = ""
    """Revisions, port, queue and class as JSON, as they were when each revision with a share of the replicas had last
    served (a replica was ready for a minute) without replicas of an older template; where a rollout that does not work
    goes back to. A revision that had no share and never served has the weight 0."""


class InferenceStatus(Model):
    """Observed state of the service."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation that this status was computed from."""
    phase: ServicePhase | None = None
    """Summary of the state."""
    conditions: Conditions = ()
    """Ready, Admitted, ModelReady, Reconciling, Stalled, GpusHealthy, FieldsWithoutEffect."""
    reason: Annotated[str, Field(max_length=128)] = ""
    """Why the service is in this phase, as one code."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """The reason as a human-readable message."""
    replicas: Replicas = 0
    """Replicas that exist."""
    ready_replicas: Replicas = 0
    """Replicas that answer requests."""
    updated_replicas: Replicas = 0
    """Replicas that exist and are of the present template."""
    ready_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation with which the service was last ready; 0 before it was for the first time."""
    progress_time: Time | None = None
    """When the service last came nearer to its spec; missing when it is as its spec wants it, or is not on its way."""
    selector: Annotated[str, Field(max_length=1024)] = ""
    """Label selector of the replicas, as text, for autoscalers."""
    ready: Annotated[str, Field(max_length=32)] = ""
    """Replicas that are ready of those wanted, such as 2/3."""
    gpus: Annotated[str, Field(max_length=32)] = ""
    """GPUs that the service holds, such as 4 or 1.5."""
    revisions: Annotated[tuple[Counts, ...], ListMap("name", MOST_REVISIONS)] = ()
    """Replicas of each revision by state."""
    url: Annotated[str, Field(max_length=2048)] = ""
    """Address at which the service answers inside the cluster."""
    held: HeldGpus | None = None
    """What the service holds at present."""
    gpu_seconds: Annotated[int, Field(ge=0)] = 0
    """Whole-GPU seconds used so far; a fraction counts as that fraction."""
    accounted_time: Time | None = None
    """Time up to which GPU-seconds are counted."""
    failed_rollout: FailedRollout | None = None
    """The rollout that was stopped; the service runs what worked before, until its spec names something else."""
    proven: Proven | None = None
    """What has been seen to work; missing until something has."""


_NAME = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")


class InferenceService(Model):
    """An inference service on whole GPUs or fractions of them."""

    model_config = with_rules(
        Rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name: at most 63 of a-z, 0-9 and '-', a letter first, because it is a DNS name",
        ),
        Rule(
            "self.spec.revisions.all(r, size(self.metadata.name) + size(r.name) <= 55)",
            "metadata.name: the names of the service and of a revision have at most 55 characters together, "
            "because the pods' names are made of them",
        ),
    )

    api_version: Annotated[str, Is(names.API_VERSION)]
    kind: Literal["InferenceService"]
    metadata: Metadata
    spec: InferenceSpec
    """Desired inference service."""
    status: InferenceStatus | None = None
    """Observed state of the service; written by tangram."""

    @model_validator(mode="after")
    def _name_fits(self) -> Self:
        name = self.metadata.name
        if _NAME.fullmatch(name) is None:
            refuse("metadata.name", name, "at most 63 of a-z, 0-9 and '-', a letter first")
        longest = max(len(revision.name) for revision in self.spec.revisions)
        if len(name) + longest > 55:
            refuse("metadata.name", name, f"at most {55 - longest} characters (55 with the longest revision name)")
        return self


def parse_inference_service(
    obj: Mapping[str, Any], *, unknown: Literal["ignore", "forbid"] = "ignore"
) -> InferenceService:
    """Read an InferenceService; raises InvalidInput naming object, field, value and what is allowed."""
    return parse(InferenceService, obj, unknown=unknown)
