"""TrainingJob: training on one or many GPUs, started all together or not at all."""

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
    LabelKey,
    Metadata,
    Model,
    Name,
    QueueName,
    Replicas,
    RoleName,
    Time,
    parse,
)
from tangram.api.phases import JobPhase
from tangram.api.schema import Is, ListMap, ListSet, Rule, Text, refuse, with_rules
from tangram.api.template import PodTemplate

Framework = Literal["pytorch", "tensorflow", "paddle", "mxnet", "mindspore", "mpi", "custom"]

ExitAction = Literal["Restart", "RestartUncounted", "Fail", "Succeed"]


class Role(Model):
    """Replicas of one kind, such as workers or parameter servers."""

    name: RoleName
    """Name of the role, such as worker, master, ps or launcher."""
    replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Number of replicas; for the elastic role spec.elastic.replicas counts instead."""
    template: PodTemplate
    """Pod template of the replicas."""
    gpus: GpuRequest | None = None
    """GPUs of each replica; left out, the resources in the template are all that is asked for."""


class Elastic(Model):
    """One role grows into idle GPUs and shrinks when they are needed elsewhere."""

    model_config = with_rules(
        Rule("self.minReplicas <= self.maxReplicas", "minReplicas must not be above maxReplicas", ".minReplicas"),
        Rule(
            "self.replicas >= self.minReplicas && self.replicas <= self.maxReplicas",
            "replicas must be from minReplicas to maxReplicas",
            ".replicas",
        ),
    )

    role: RoleName
    """The role whose replicas vary."""
    replicas: Annotated[int, Field(ge=1, le=10_000)]
    """Replicas wanted now; kubectl scale and autoscalers write it."""
    min_replicas: Annotated[int, Field(ge=1, le=10_000)] = 1
    """Replicas without which the job does not start."""
    max_replicas: Annotated[int, Field(ge=1, le=10_000)]
    """Replicas beyond which the job does not grow."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if self.min_replicas > self.max_replicas:
            refuse("minReplicas", self.min_replicas, f"at most maxReplicas ({self.max_replicas})")
        if not self.min_replicas <= self.replicas <= self.max_replicas:
            refuse("replicas", self.replicas, f"{self.min_replicas} to {self.max_replicas}")
        return self


class Topology(Model):
    """How close to each other the replicas run.

    A level is region, zone, rack, nvlink-domain, host, or another one that the HybridPolicy names; its node label names
    it too.
    """

    model_config = with_rules(
        Rule(
            "has(self.required) || has(self.preferred)",
            "name a level: required or preferred",
            reason="FieldValueRequired",
        )
    )

    required: LabelKey | None = None
    """Level of which all replicas must share one domain, such as rack."""
    preferred: LabelKey | None = None
    """Level of which all replicas share one domain if possible, else one of the next wider level."""

    @model_validator(mode="after")
    def _some_level(self) -> Self:
        if self.required is None and self.preferred is None:
            refuse("", None, "a level: required or preferred")
        return self


class RunPolicy(Model):
    """How the job runs, ends and is cleaned up."""

    suspend: bool = False
    """Stop the job and release its GPUs; false starts it again."""
    backoff_limit: Annotated[int, Field(ge=0, le=1000)] = 3
    """Restarts after failures, after which the job has failed."""
    active_deadline: Duration | None = None
    """Time from the first start, after which the job has failed."""
    ttl_after_finished: Duration | None = None
    """Time after the end, after which the job is deleted; never, when left out."""
    clean_pod_policy: Literal["None", "Running", "All"] = "Running"
    """Which pods are deleted when the job has ended: none, those that still run, or all."""
    success_role: RoleName | None = None
    """The job is complete when every replica of this role has ended with success. Left out, it is the framework's
    leading role (master, chief, launcher) where there is one, else every role but parameter servers."""


class CodeRange(Model):
    """Exit codes from ``first`` to ``last``, both included."""

    model_config = with_rules(Rule("self.first <= self.last", "first must not be above last", ".first"))

    first: Annotated[int, Field(ge=1, le=255)]
    """Lowest exit code."""
    last: Annotated[int, Field(ge=1, le=255)]
    """Highest exit code."""

    @model_validator(mode="after")
    def _order(self) -> Self:
        if self.first > self.last:
            refuse("first", self.first, f"at most last ({self.last})")
        return self


class ExitCodeRule(Model):
    """What follows when a replica's container ends with certain exit codes; the first rule that matches counts."""

    model_config = with_rules(
        Rule(
            "has(self.codes) != has(self.range)",
            "give either codes or range",
            ".codes",
        ),
    )

    codes: Annotated[tuple[Annotated[int, Field(ge=1, le=255)], ...], ListSet(255, shortest=1)] | None = None
    """Single exit codes."""
    range: CodeRange | None = None
    """A range of exit codes."""
    action: ExitAction
    """Restart counts towards the backoff limit, RestartUncounted does not; Fail ends the job as failed, Succeed counts
    the replica as succeeded."""
    roles: Annotated[tuple[RoleName, ...], ListSet(16)] = ()
    """Roles to which the rule applies; all when none is named."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.codes is None) == (self.range is None):
            refuse("codes", self.codes, "either codes or range")
        return self

    def matches(self, role: str, code: int) -> bool:
        """Whether the rule speaks about this exit code of this role."""
        if self.roles and role not in self.roles:
            return False
        if self.range is not None:
            return self.range.first <= code <= self.range.last
        return self.codes is not None and code in self.codes


class Checkpoint(Model):
    """How the job saves its progress: regularly, and before its GPUs are reclaimed."""

    model_config = with_rules(
        Rule("has(self.command) != has(self.signal)", "give either command or signal", ".command"),
    )

    command: (
        Annotated[tuple[Annotated[str, Field(max_length=4096)], ...], Field(min_length=1, max_length=64)] | None
    ) = None
    """Command that is run in the container and writes a checkpoint before it ends."""
    signal: Literal["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2"] | None = None
    """Signal on which the training process writes a checkpoint."""
    role: RoleName | None = None
    """Role whose first replica is asked; the job's first role when left out."""
    container: Name | None = None
    """Container that is asked; the first one when left out."""
    grace: Duration = "60s"
    """Time that writing a checkpoint may take before the replicas are stopped anyway."""
    period: Duration | None = None
    """Time between checkpoints; left out, only before the GPUs are reclaimed."""
    path: Annotated[str, Text("/[^\\x00-\\x1f]*", "an absolute path", 1024)] | None = None
    """Folder of the checkpoints inside the containers; replicas find it in TANGRAM_CHECKPOINT_PATH."""

    @model_validator(mode="after")
    def _one_of(self) -> Self:
        if (self.command is None) == (self.signal is None):
            refuse("command", self.command, "either command or signal")
        return self


_ROLE_NAMES = "self.roles.exists(r, r.name == "


class TrainingSpec(Model):
    """Desired training job."""

    model_config = with_rules(
        Rule(f"!has(self.elastic) || {_ROLE_NAMES}self.elastic.role)", "must be one of the roles", ".elastic.role"),
        Rule(
            f"!has(self.runPolicy.successRole) || {_ROLE_NAMES}self.runPolicy.successRole)",
            "must be one of the roles",
            ".runPolicy.successRole",
        ),
        Rule(
            f"!has(self.checkpoint) || !has(self.checkpoint.role) || {_ROLE_NAMES}self.checkpoint.role)",
            "must be one of the roles",
            ".checkpoint.role",
        ),
        Rule(
            f"!has(self.exitCodeRules) || self.exitCodeRules.all(e, !has(e.roles) || e.roles.all(n, {_ROLE_NAMES}n)))",
            "every role named must be one of the roles",
            ".exitCodeRules",
        ),
        Rule(
            "self.framework == oldSelf.framework",
            "the framework cannot be changed",
            ".framework",
            "FieldValueForbidden",
        ),
        Rule(
            "self.queue == oldSelf.queue || oldSelf.runPolicy.suspend || self.runPolicy.suspend",
            "the queue can be changed only while the job is suspended",
            ".queue",
            "FieldValueForbidden",
        ),
    )

    framework: Framework
    """Framework; it decides which environment the replicas get to find each other (custom: only the neutral one)."""
    roles: Annotated[tuple[Role, ...], ListMap("name", 16, shortest=1)]
    """Roles of the job, the leading one first. All replicas start together or not at all."""
    elastic: Elastic | None = None
    """Lets one role grow and shrink; without it the job has a fixed size."""
    queue: QueueName = "default"
    """Queue of the job."""
    priority_class: Name | None = None
    """Class of the HybridPolicy; defaults to the first class in spec.priorityClasses that it matches."""
    topology: Topology | None = None
    """How close to each other the replicas run."""
    run_policy: RunPolicy = Field(default_factory=RunPolicy)
    """How the job runs, ends and is cleaned up."""
    exit_code_rules: Annotated[tuple[ExitCodeRule, ...], Field(max_length=32)] = ()
    """What follows from exit codes; where no rule matches, a failure restarts the job and counts."""
    checkpoint: Checkpoint | None = None
    """How the job saves its progress; without it an eviction loses the work since the start."""
    estimated_duration: Duration | None = None
    """How long the job will run, as well as its owner knows; lets short jobs backfill reserved nodes."""

    @model_validator(mode="after")
    def _roles_exist(self) -> Self:
        names = {
            "elastic.role": self.elastic.role if self.elastic else None,
            "runPolicy.successRole": self.run_policy.success_role,
            "checkpoint.role": self.checkpoint.role if self.checkpoint else None,
            **{
                f"exitCodeRules[{place}].roles[{index}]": name
                for place, rule in enumerate(self.exit_code_rules)
                for index, name in enumerate(rule.roles)
            },
        }
        known = [role.name for role in self.roles]
        for field, name in names.items():
            if name is not None and name not in known:
                refuse(field, name, f"one of the roles: {', '.join(known)}")
        return self

    def replicas_of(self, role: Role) -> int:
        """Replicas wanted of a role, elastic or not."""
        return self.elastic.replicas if self.elastic is not None and self.elastic.role == role.name else role.replicas

    def role_min(self, role: Role) -> int:
        """Replicas of a role that must start together: all of a fixed one, the minimum of the elastic one."""
        elastic = self.elastic
        return elastic.min_replicas if elastic is not None and elastic.role == role.name else role.replicas

    def gang_min(self) -> int:
        """Replicas that must start together."""
        return sum(self.role_min(role) for role in self.roles)


class NodePlacement(Model):
    """Replicas of the job on one node."""

    node: Annotated[str, Field(min_length=1, max_length=253)]
    """Name of the node."""
    replicas: Replicas
    """Replicas on the node."""
    gpus: Annotated[tuple[Annotated[str, Field(max_length=128)], ...], Field(max_length=64)] = ()
    """Ids of the GPUs that they use."""


class TrainingStatus(Model):
    """Observed state of the job."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation that this status was computed from."""
    phase: JobPhase | None = None
    """Summary of the state."""
    conditions: Conditions = ()
    """Ready, Admitted, Suspended, Complete, Failed, Reconciling, Stalled, GpusHealthy, FieldsWithoutEffect."""
    reason: Annotated[str, Field(max_length=128)] = ""
    """Why the job is in this phase, as a code; while it is pending, the dominant reason of its pods."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """The reason as a human-readable message."""
    replicas: Replicas = 0
    """Replicas of the elastic role that exist (of all roles when none is elastic)."""
    selector: Annotated[str, Field(max_length=1024)] = ""
    """Label selector of these replicas, as text, for autoscalers."""
    roles: Annotated[tuple[Counts, ...], ListMap("name", 16)] = ()
    """Replicas of each role by state."""
    ready: Annotated[str, Field(max_length=32)] = ""
    """Replicas that run of those wanted, such as 3/4."""
    gpus: Annotated[str, Field(max_length=32)] = ""
    """GPUs that the job asks for or holds, such as 8 or 0.30."""
    restarts: Annotated[int, Field(ge=0)] = 0
    """Restarts that counted towards the backoff limit."""
    uncounted_restarts: Annotated[int, Field(ge=0)] = 0
    """Restarts that did not count: evictions, lost nodes, forgiven exit codes, the start after a suspension."""
    suspended_attempt: Annotated[int, Field(ge=0)] | None = None
    """The attempt whose pods a suspension ends, or has ended; pods that are made after it belong to the next one."""
    suspended_replicas: Annotated[int, Field(ge=0)] | None = None
    """Replicas of the elastic role that had a place when the suspension began; missing when there is none."""
    resumes: Annotated[int, Field(ge=0)] = 0
    """Starts after a suspension; they are among uncountedRestarts, and no back-off grows with them."""
    started_attempt: Annotated[int, Field(ge=0)] | None = None
    """The attempt (restarts and uncountedRestarts) in which as many replicas have run as the job needs; missing while
    none has, and after it was suspended."""
    placement: Annotated[tuple[NodePlacement, ...], ListMap("node", 2048)] = ()
    """Where the replicas are."""
    held: HeldGpus | None = None
    """What the job holds at present."""
    gpu_seconds: Annotated[int, Field(ge=0)] = 0
    """Whole-GPU seconds used so far; a fraction counts as that fraction."""
    accounted_time: Time | None = None
    """Time up to which GPU-seconds are counted."""
    start_time: Time | None = None
    """When the job first ran with all its replicas."""
    completion_time: Time | None = None
    """When the job ended."""


_NAME = re.compile("[a-z]([-a-z0-9]*[a-z0-9])?")


class TrainingJob(Model):
    """A training job: its replicas get their GPUs all together or wait all together."""

    model_config = with_rules(
        Rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "metadata.name: at most 63 of a-z, 0-9 and '-', a letter first, because replicas find each other by DNS",
        ),
        Rule(
            "self.spec.roles.all(r, size(self.metadata.name) + size(r.name) <= 56)",
            "metadata.name: the names of the job and of a role have at most 56 characters together, "
            "because the pods' names are made of them",
        ),
    )

    api_version: Annotated[str, Is(names.API_VERSION)]
    kind: Literal["TrainingJob"]
    metadata: Metadata
    spec: TrainingSpec
    """Desired training job."""
    status: TrainingStatus | None = None
    """Observed state of the job; written by tangram."""

    @model_validator(mode="after")
    def _name_fits(self) -> Self:
        name = self.metadata.name
        if _NAME.fullmatch(name) is None:
            refuse("metadata.name", name, "at most 63 of a-z, 0-9 and '-', a letter first")
        longest = max(len(role.name) for role in self.spec.roles)
        if len(name) + longest > 56:
            refuse("metadata.name", name, f"at most {56 - longest} characters (56 together with the longest role name)")
        return self


def parse_training_job(obj: Mapping[str, Any], *, unknown: Literal["ignore", "forbid"] = "ignore") -> TrainingJob:
    """Read a TrainingJob; raises InvalidInput naming object, field, value and what is allowed."""
    return parse(TrainingJob, obj, unknown=unknown)
