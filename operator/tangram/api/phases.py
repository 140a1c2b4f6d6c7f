"""The state machines of the kinds, as tables, and the conditions by which other programs know them.

Rules of this file:

- A phase is a summary for people (``kubectl get``); programs read the conditions. Nothing is decided from a phase:
  what has to be remembered has a field or a condition of its own.
- A phase is computed afresh from what is seen. A table only says which step from the last one can be true: steps may
  be skipped (a controller that was away sees Pending, then Complete), but time does not run backwards.
- ``None`` is the state before the first reconcile. Staying is always legal. A phase without a way out is final.
- An illegal step is a fault in the caller and raises InvalidInput; it is never "corrected" in silence.
- A new phase is a new member, a new row here, and a line in docs/api.md. Nothing else knows the steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from tangram.api.common import Condition
from tangram.errors import InvalidInput


class JobPhase(StrEnum):
    """Phases of a TrainingJob."""

    PENDING = "Pending"
    ADMITTED = "Admitted"
    RUNNING = "Running"
    RESTARTING = "Restarting"
    SUSPENDED = "Suspended"
    COMPLETE = "Complete"
    FAILED = "Failed"


class ServicePhase(StrEnum):
    """Phases of an InferenceService."""

    PENDING = "Pending"
    PROGRESSING = "Progressing"
    READY = "Ready"
    DEGRADED = "Degraded"
    IDLE = "Idle"
    FAILED = "Failed"


class ConditionType(StrEnum):
    """Types of the conditions that tangram writes."""

    READY = "Ready"
    """The object is as its spec wants it (kstatus, Helm's and kubectl's ``wait``)."""
    RECONCILING = "Reconciling"
    """Work towards the spec is going on (abnormal-true, kstatus)."""
    STALLED = "Stalled"
    """No progress without a person (abnormal-true, kstatus)."""
    ACTIVE = "Active"
    """HybridPolicy: this policy is the one in force."""
    OVERCOMMITTED = "Overcommitted"
    """HybridPolicy: queues are guaranteed more together than the queue above them has (abnormal-true)."""
    ADMITTED = "Admitted"
    """TrainingJob, InferenceService: every replica has its place and its GPUs."""
    SUSPENDED = "Suspended"
    """TrainingJob: stopped by its owner."""
    GPUS_HEALTHY = "GpusHealthy"
    """TrainingJob, InferenceService: no GPU that a replica holds has failed; there once one has."""
    COMPLETE = "Complete"
    """TrainingJob: finished with success."""
    FAILED = "Failed"
    """TrainingJob: finished without success."""
    MODEL_READY = "ModelReady"
    """InferenceService: the TrainingJob that makes its model is complete; it stays true when the job is gone."""
    FIELDS_WITHOUT_EFFECT = "FieldsWithoutEffect"
    """HybridPolicy, TrainingJob, InferenceService: fields are set that nothing acts on yet (abnormal-true)."""
    HEALTHY = "Healthy"
    """GPUNode: every device is healthy."""
    AT_RISK = "AtRisk"
    """GPUNode: a device is likely to fail soon."""
    RECORDS_AGREE = "RecordsAgree"
    """GPUNode: every container holds the devices that its pod's record names."""


P = TypeVar("P", bound=StrEnum)


@dataclass(frozen=True, slots=True)
class Phases(Generic[P]):
    """One state machine: ``steps[None]`` are the phases to begin in, ``steps[phase]`` those that may follow."""

    kind: str
    steps: Mapping[P | None, frozenset[P]]

    def may(self, now: P | None, then: P) -> bool:
        """Whether ``then`` can follow ``now``."""
        return now == then or then in self.steps[now]

    def final(self, phase: P) -> bool:
        """Whether nothing follows ``phase``."""
        return not self.steps[phase]

    def step(self, now: P | None, then: P) -> P:
        """Answer ``then``; raises InvalidInput when it cannot follow ``now``."""
        if not self.may(now, then):
            allowed = ", ".join(sorted(self.steps[now])) or "nothing: the phase is final"
            raise InvalidInput(self.kind, f"status.phase after {now or 'creation'}", str(then), allowed)
        return then


_J, _S = JobPhase, ServicePhase

TRAINING_JOB: Phases[JobPhase] = Phases(
    "TrainingJob",
    {
        # complete at once: its status was lost
        None: frozenset({_J.PENDING, _J.SUSPENDED, _J.COMPLETE, _J.FAILED}),
        # waits for places: its reason is the dominant pending reason
        _J.PENDING: frozenset({_J.ADMITTED, _J.RUNNING, _J.RESTARTING, _J.SUSPENDED, _J.COMPLETE, _J.FAILED}),
        # the whole gang has places, containers are starting
        _J.ADMITTED: frozenset({_J.PENDING, _J.RUNNING, _J.RESTARTING, _J.SUSPENDED, _J.COMPLETE, _J.FAILED}),
        # back to Pending when its pods are evicted (reclaimed, drained)
        _J.RUNNING: frozenset({_J.PENDING, _J.RESTARTING, _J.SUSPENDED, _J.COMPLETE, _J.FAILED}),
        # after a failure that the rules forgive
        _J.RESTARTING: frozenset({_J.PENDING, _J.ADMITTED, _J.RUNNING, _J.SUSPENDED, _J.COMPLETE, _J.FAILED}),
        # resumes as a job that waits; its deadline may pass meanwhile, and its pods may have ended before they could go
        _J.SUSPENDED: frozenset({_J.PENDING, _J.COMPLETE, _J.FAILED}),
        _J.COMPLETE: frozenset(),
        _J.FAILED: frozenset(),
    },
)

INFERENCE_SERVICE: Phases[ServicePhase] = Phases(
    "InferenceService",
    {
        None: frozenset({_S.PENDING, _S.IDLE, _S.FAILED}),
        # no replica has a place yet
        _S.PENDING: frozenset({_S.PROGRESSING, _S.READY, _S.DEGRADED, _S.IDLE, _S.FAILED}),
        # rolling out or scaling, and serving as far as it did before
        _S.PROGRESSING: frozenset({_S.PENDING, _S.READY, _S.DEGRADED, _S.IDLE, _S.FAILED}),
        _S.READY: frozenset({_S.PENDING, _S.PROGRESSING, _S.DEGRADED, _S.IDLE, _S.FAILED}),
        # serves with fewer replicas than wanted, or misses its SLA
        _S.DEGRADED: frozenset({_S.PENDING, _S.PROGRESSING, _S.READY, _S.IDLE, _S.FAILED}),
        # scaled to zero on purpose; wakes on demand
        _S.IDLE: frozenset({_S.PENDING, _S.PROGRESSING, _S.READY, _S.FAILED}),
        # the spec cannot work; a changed spec begins again
        _S.FAILED: frozenset({_S.PENDING, _S.IDLE}),
    },
)


def set_condition(conditions: Sequence[Condition], new: Condition) -> tuple[Condition, ...]:
    """The conditions with one of them set, as metav1 means it: others keep their place and their values.

    Its ``lastTransitionTime`` counts only when ``status`` changes, so that setting the same again gives an equal tuple
    and no write is needed.
    """
    old = condition(conditions, new.type)
    if old is None:
        return (*conditions, new)
    if old.status == new.status:
        new = new.model_copy(update={"last_transition_time": old.last_transition_time})
    return tuple(new if one.type == new.type else one for one in conditions)


def ended_as(conditions: Sequence[Condition]) -> JobPhase | None:
    """How a TrainingJob with these conditions has ended; None when it has not."""
    for phase, type in ((JobPhase.COMPLETE, ConditionType.COMPLETE), (JobPhase.FAILED, ConditionType.FAILED)):  # noqa: A001
        found = condition(conditions, type)
        if found is not None and found.status == "True":
            return phase
    return None


def condition(conditions: Sequence[Condition], type: str) -> Condition | None:  # noqa: A002 - as above
    """The condition of this type, if there is one."""
    return next((item for item in conditions if item.type == type), None)
