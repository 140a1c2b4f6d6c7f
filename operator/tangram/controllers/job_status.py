"""A TrainingJob's status, computed afresh from its pods: counts, placement, phase and conditions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tangram.api import names
from tangram.api.common import Counts
from tangram.api.effect import set_in_vain
from tangram.api.phases import ConditionType, JobPhase
from tangram.api.training import Role, TrainingJob, TrainingStatus
from tangram.api.views import PodView
from tangram.controllers import accounting
from tangram.controllers.amounts import gpu_text
from tangram.controllers.manifests import template_milli
from tangram.controllers.reasons import Why, fault_of, waiting_reason
from tangram.controllers.status import IDLE, NOT_STALLED, Conditions, reason_code, shorten
from tangram.controllers.verdict import Members, attempt_number, attempt_of
from tangram.units import rfc3339

_WORKING = (JobPhase.PENDING, JobPhase.ADMITTED, JobPhase.RESTARTING)
_BOUND, _ENOUGH_BOUND = "all replicas are bound", "as many replicas are bound as the job needs"


def describe(
    job: TrainingJob, status: TrainingStatus, members: Members, account: accounting.Account, *, ended: bool
) -> TrainingStatus:
    """The status with everything that can be counted. ``ended``: who succeeded or failed is settled already."""
    before = {counts.name: counts for counts in status.roles}
    roles = tuple(
        _count(job, role, members.current, before.get(role.name) if ended else None) for role in job.spec.roles
    )
    elastic = job.spec.elastic
    own = [pod for pod in members.current if elastic is None or pod.label(names.ROLE) == elastic.role]
    selector = f"{names.JOB}={job.metadata.name}" + (f",{names.ROLE}={elastic.role}" if elastic is not None else "")
    desired = sum(counts.desired for counts in roles)
    asked = sum(job.spec.replicas_of(role) * template_milli(role.template, role.gpus) for role in job.spec.roles)
    changed: dict[str, Any] = {
        "observed_generation": job.metadata.generation,
        "roles": roles,
        "replicas": sum(not pod.ended for pod in own),
        "selector": selector,
        "ready": f"{sum(counts.running for counts in roles)}/{desired}",
        "gpus": gpu_text(asked),
        "held": account.held,
        "gpu_seconds": account.gpu_seconds,
        "accounted_time": account.time,
    }
    if not ended:  # where it ran is worth knowing after the end too
        changed["placement"] = accounting.placement(members.current)
    return status.model_copy(update=changed)


def _count(job: TrainingJob, role: Role, pods: tuple[PodView, ...], final: Counts | None) -> Counts:
    own = [pod for pod in pods if pod.label(names.ROLE) == role.name]

    def number(holds: Callable[[PodView], bool]) -> int:
        return sum(holds(pod) for pod in own)

    return Counts(
        name=role.name,
        desired=job.spec.replicas_of(role),
        pending=number(lambda pod: pod.status.phase == "Pending"),
        running=number(lambda pod: pod.status.phase == "Running" and not pod.terminating),
        ready=number(lambda pod: pod.ready),
        succeeded=final.succeeded if final else number(lambda pod: pod.status.phase == "Succeeded"),
        failed=final.failed if final else number(lambda pod: pod.status.phase == "Failed"),
    )


def progress_of(
    job: TrainingJob, members: Members, status: TrainingStatus, attempt: int, failures: str
) -> tuple[JobPhase, str, str]:
    """How far the gang is: phase, reason code and sentence; ``failures`` is what has failed of its GPUs."""
    if members.stale:
        # Whoever resumes or resizes waits for old pods too, but nothing has failed then.
        text = f"waiting for {len(members.stale)} old pods to terminate"
        resumes = status.phase in (JobPhase.SUSPENDED, JobPhase.PENDING)
        if resumes or all(attempt_of(pod) == attempt for pod in members.stale):
            return JobPhase.PENDING, Why.CREATING_PODS, text
        known = status.phase is JobPhase.RESTARTING  # why it restarts, which is shown until it has
        return JobPhase.RESTARTING, *((status.reason, status.message) if known else (Why.RESTARTING, text))
    if _enough(job, members, lambda pod: pod.started):
        if failures:
            return JobPhase.RUNNING, Why.GPU_UNHEALTHY, failures
        desired = sum(job.spec.replicas_of(role) for role in job.spec.roles)
        done = sum(pod.ended for pod in members.current)
        running = sum(pod.started for pod in members.current) - done
        number = "all" if running >= desired else f"{running} of {desired}"
        ended = f"; {done} {'has' if done == 1 else 'have'} ended" if done else ""
        return JobPhase.RUNNING, Why.RUNNING, f"{number} replicas are running{ended}"
    fault, sentence = fault_of(members.current)
    if _enough(job, members, lambda pod: pod.bound or pod.ended):
        return JobPhase.ADMITTED, fault or Why.STARTING, sentence or "containers are starting"
    reason, message = waiting_reason(pod for pod in members.current if not pod.bound and not pod.ended)
    # A place may become free by itself; a fault of a container that has one stays until somebody corrects it.
    return (
        JobPhase.PENDING,
        fault or reason or Why.CREATING_PODS,
        sentence or message or "the pods are being created",
    )


def _enough(job: TrainingJob, members: Members, holds: Callable[[PodView], bool]) -> bool:
    """Whether of every role as many pods as the job cannot do without are in a state."""
    elastic = job.spec.elastic
    for role in job.spec.roles:
        varies = elastic is not None and elastic.role == role.name
        needed = elastic.min_replicas if elastic is not None and varies else role.replicas
        if sum(pod.label(names.ROLE) == role.name and holds(pod) for pod in members.current) < needed:
            return False
    return True


@dataclass(frozen=True, slots=True)
class Said:
    """How far a job is, and why."""

    phase: JobPhase
    reason: str
    message: str
    stalled: bool = False
    """It does not go on by itself."""


def with_phase(status: TrainingStatus, job: TrainingJob, now_so: Said, now: float, failures: str) -> TrainingStatus:
    """The status with phase, reason and conditions; ``failures``: what has failed of the job's GPUs, empty: nothing."""
    phase, reason, message, stalled = now_so.phase, now_so.reason, now_so.message, now_so.stalled
    conditions = Conditions(status.conditions, job.metadata.generation, now)
    failed = phase is JobPhase.FAILED
    placed = phase in (JobPhase.ADMITTED, JobPhase.RUNNING)
    if phase is not JobPhase.COMPLETE:  # a complete job had its places
        conditions.set(
            ConditionType.ADMITTED,
            placed,
            Why.PLACED if placed else reason,
            (_BOUND if job.spec.elastic is None else _ENOUGH_BOUND) if placed else message,
        )
    ready = phase in (JobPhase.RUNNING, JobPhase.COMPLETE, JobPhase.SUSPENDED)
    conditions.set(ConditionType.READY, ready, reason, message)
    working = phase in _WORKING and not stalled
    conditions.set(ConditionType.RECONCILING, working, *((reason, message) if working else IDLE))
    stuck = stalled or failed
    conditions.set(ConditionType.STALLED, stuck, *((reason, message) if stuck else NOT_STALLED))
    suspended = phase is JobPhase.SUSPENDED
    said = (Why.SUSPENDED, "the job is suspended") if suspended else (Why.NOT_SUSPENDED, "the job is not suspended")
    conditions.set(ConditionType.SUSPENDED, suspended, *said)
    conditions.set_gpus(failures)
    conditions.set_in_vain(set_in_vain("TrainingJob", job.spec))
    if phase in (JobPhase.COMPLETE, JobPhase.FAILED):
        conditions.set(phase.value, True, reason, message)
    changed: dict[str, Any] = {
        "phase": phase,
        "reason": reason_code(reason),
        "message": shorten(message),
        "conditions": conditions.value,
    }
    if phase is JobPhase.RUNNING:
        changed |= {"start_time": status.start_time or rfc3339(now), "started_attempt": attempt_number(status)}
    return status.model_copy(update=changed)
