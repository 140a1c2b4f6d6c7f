"""An InferenceService's status, computed afresh from its pods: counts, phase and conditions."""

from dataclasses import dataclass, replace
from typing import Any

from tangram.api import names
from tangram.api.common import Counts
from tangram.api.effect import set_in_vain
from tangram.api.inference import MOST_REVISIONS, FailedRollout, InferenceService, InferenceStatus, Proven
from tangram.api.phases import ConditionType, ServicePhase, condition
from tangram.controllers import accounting
from tangram.controllers.amounts import gpu_text
from tangram.controllers.observed import ObservedService
from tangram.controllers.reasons import Why, fault_of, obstacle
from tangram.controllers.rollback import Aim
from tangram.controllers.rollout import RELABELLED_SECONDS, Replicas, wanted_replicas
from tangram.controllers.status import IDLE, NOT_STALLED, Conditions, failures_of, reason_code, shorten


@dataclass(frozen=True, slots=True)
class State:
    """Where a service is, with a reason code and a sentence."""

    phase: ServicePhase
    reason: str
    message: str
    stalled: bool = False
    failed: FailedRollout | None = None
    """The rollout that has been stopped."""
    stuck: tuple[str, str] | None = None
    """Why it is stalled, where that is another reason than that of the phase."""
    progress_time: str | None = None
    """When it last came nearer to its spec."""
    proven: Proven | None = None
    """What has been seen to work."""


def state_of(observed: ObservedService, aim: Aim, groups: list[Replicas], fault: str) -> State:
    """The state of a service that is to be as ``aim`` says; ``fault``: why its pods cannot be made."""
    return replace(_state_of(observed, aim, groups, fault), failed=aim.failed)


def _state_of(observed: ObservedService, aim: Aim, groups: list[Replicas], fault: str) -> State:
    if fault:
        return State(ServicePhase.FAILED, Why.INVALID_SPEC, fault, stalled=True)
    desired = sum(group.desired for group in groups)
    ready = _ready(groups)
    if aim.failed is not None and desired:
        running = f"{ready} of {desired} replicas run what was ready before"
        waits = f"; until that is mended or has no weight these wait: {', '.join(aim.withheld)}" if aim.withheld else ""
        text = f"the rollout was stopped: {aim.failed.message}; {observed.refused or running}{waits}"
        return State(ServicePhase.DEGRADED, Why.ROLLOUT_FAILED, text, stalled=True)
    if observed.refused:
        phase = ServicePhase.DEGRADED if ready else ServicePhase.PENDING
        return State(phase, Why.REFUSED, observed.refused, stalled=True)
    alive = [pod for group in groups for pod in group.alive]
    if desired == 0:
        return _without_replicas(observed, len(alive))
    old = sum(len(group.old) for group in groups)
    if observed.service.spec.paused and (aim.held or old):
        text = f"the rollout is paused; {ready} of {desired} replicas are ready"
        return State(ServicePhase.PROGRESSING if ready else ServicePhase.PENDING, Why.ROLLOUT_PAUSED, text)
    if all(group.ready() == group.desired == len(group.alive) for group in groups) and not old:
        return State(ServicePhase.READY, Why.READY, f"all {desired} replicas are ready")
    return _on_the_way(observed, groups, ready, desired, old)


def _ready(groups: list[Replicas]) -> int:
    return sum(group.ready() for group in groups)


def _without_replicas(observed: ObservedService, alive: int) -> State:
    waiting = _waiting_for_model(observed)
    if waiting is not None:
        return waiting
    if alive:
        return State(ServicePhase.PROGRESSING, Why.SCALING, f"{alive} replicas are terminating")
    return State(ServicePhase.IDLE, Why.SCALED_TO_ZERO, "scaled to zero")


def _waiting_for_model(observed: ObservedService) -> State | None:
    source = observed.source
    if source is None or observed.pods or source.phase == "Complete":
        return None
    if wanted_replicas(observed.service) == 0 or model_was_ready(observed.status, source.name):
        return None
    if source.phase == "Failed":
        text = f"TrainingJob {source.name} has failed: there is no model to serve"
        return State(ServicePhase.PENDING, Why.MODEL_FAILED, text, stalled=True)
    if not source.phase:
        text = f"TrainingJob {source.name} does not exist"
        return State(ServicePhase.PENDING, Why.MODEL_MISSING, text, stalled=True)
    text = f"TrainingJob {source.name} makes the model and is {source.phase}"
    return State(ServicePhase.PENDING, Why.WAITING_FOR_MODEL, text)


def model_was_ready(status: InferenceStatus, job: str) -> bool:
    """Whether the model of this very job has been there before."""
    found = condition(status.conditions, ConditionType.MODEL_READY)
    return found is not None and found.status == "True" and job in found.message.split()


def _on_the_way(observed: ObservedService, groups: list[Replicas], ready: int, desired: int, old: int) -> State:
    """Fewer, more or other replicas than wanted: why, and whether that is progress or a loss."""
    reason, message = _obstacle(groups)
    alive = [pod for group in groups for pod in group.alive]
    if not any(pod.bound for pod in alive):
        return State(ServicePhase.PENDING, reason or Why.CREATING_PODS, message or "the pods are being created")
    old -= sum(len(group.relabelled) for group in groups)
    if old:
        outdated = f"{old} replicas have an outdated template"
        fault, sentence = fault_of(pod for group in groups for pod in group.fresh if pod.bound)
        if fault:
            return State(ServicePhase.PROGRESSING, fault, f"{sentence}; {outdated}")
        text = outdated + (f"; {message}" if message else "")
        return State(ServicePhase.PROGRESSING, Why.ROLLING_OUT, text)
    if _was_ready(observed) and ready < desired:
        return State(
            ServicePhase.DEGRADED, reason or Why.REPLICAS_UNREADY, message or f"{ready} of {desired} replicas are ready"
        )
    surplus = sum(len(group.surplus) for group in groups)
    counted = f"{surplus} replicas are to go" if surplus else f"{ready} of {desired} replicas are ready"
    return State(ServicePhase.PROGRESSING, reason or Why.SCALING, message or counted)


def _was_ready(observed: ObservedService) -> bool:
    """Whether the service has been all there with the spec that it has; a status that was written before it remembered
    that says so by its phase."""
    status, generation = observed.status, observed.service.metadata.generation
    if not status.ready_generation and status.observed_generation == generation:
        return status.phase in (ServicePhase.READY, ServicePhase.DEGRADED)
    return status.ready_generation == generation


def _obstacle(groups: list[Replicas]) -> tuple[str, str]:
    """What keeps replicas from answering: changed labels, broken ones, missing places, containers that do not start."""
    relabelled = _relabelled(groups)
    if relabelled:
        return Why.REPLICAS_UNREADY, relabelled
    broken = [pod for group in groups for pod in group.ended]
    fresh = [pod for group in groups for pod in group.fresh]
    wanted = sum(group.desired for group in groups)
    if broken and len(fresh) < wanted:
        last = max(broken, key=lambda pod: (pod.finished, pod.name))
        why = last.status.reason or last.status.message or "its containers ended"
        return Why.REPLICAS_BROKEN, f"{len(broken)} replicas ended lately, the last one, {last.name}: {why}"
    return obstacle(fresh)


def _relabelled(groups: list[Replicas]) -> str:
    """The sentence about replicas whose labels somebody changes; empty where nobody does."""
    unreached = [pod for group in groups for pod in group.unreached]
    label, effect = names.SERVICE, "no Service reaches"
    if not unreached:
        unreached = [pod for group in groups for pod in group.relabelled]
        label, effect = names.REVISION, "the Service of their revision does not reach"
    if not unreached:
        return ""
    first = f"{unreached[0].name} has {unreached[0].label(label) or 'none'}"
    text = f"{effect} {len(unreached)} replicas, whose label {label} was changed ({first})"
    return f"{text}; each is replaced when it is {RELABELLED_SECONDS} s old"


def describe(
    observed: ObservedService,
    groups: list[Replicas],
    account: accounting.Account,
    state: State,
    now: float,
) -> InferenceStatus:
    """The status for a state, with the phase of before."""
    service, before = observed.service, observed.status
    metadata = service.metadata
    alive = [pod for group in groups for pod in group.alive]
    ready = _ready(groups)
    changed: dict[str, Any] = {
        "observed_generation": metadata.generation,
        "reason": reason_code(state.reason),
        "message": shorten(state.message),
        "conditions": _conditions(observed, groups, state, now),
        "replicas": len(alive),
        "ready_replicas": ready,
        "selector": f"{names.SERVICE}={metadata.name}",
        "ready": f"{ready}/{wanted_replicas(service)}",
        "gpus": gpu_text(accounting.held_milli(observed.pods)),
        "revisions": _revisions(service, groups),
        "url": f"http://{metadata.name}.{metadata.namespace}.svc",
        "held": account.held,
        "gpu_seconds": account.gpu_seconds,
        "accounted_time": account.time,
        "failed_rollout": state.failed,
        "proven": state.proven,
        "ready_generation": metadata.generation if state.phase is ServicePhase.READY else before.ready_generation,
        "updated_replicas": sum(len(group.fresh) for group in groups),
        "progress_time": state.progress_time,
    }
    return before.model_copy(update=changed)


def _revisions(service: InferenceService, groups: list[Replicas]) -> tuple[Counts, ...]:
    """Counts of the revisions that there are, and of those that the spec names and that are held back."""
    found = tuple(_counts(group) for group in groups if group.revision is not None)
    known = {one.name for one in found}
    others = (Counts(name=one.name) for one in service.spec.revisions if one.name not in known)
    return (*found, *others)[:MOST_REVISIONS]


def _counts(group: Replicas) -> Counts:
    assert group.revision is not None
    return Counts(
        name=group.revision.name,
        desired=group.desired,
        pending=sum(pod.status.phase == "Pending" for pod in group.alive),
        running=sum(pod.status.phase == "Running" for pod in group.alive),
        ready=group.ready(),
        succeeded=sum(pod.status.phase == "Succeeded" for pod in group.ended),
        failed=sum(pod.status.phase != "Succeeded" for pod in group.ended),
    )


def _conditions(observed: ObservedService, groups: list[Replicas], state: State, now: float) -> Any:
    conditions = Conditions(observed.status.conditions, observed.service.metadata.generation, now)
    source = observed.source
    if source is not None:
        if source.phase == "Complete":
            text = f"TrainingJob {source.name} is complete"
            conditions.set(ConditionType.MODEL_READY, True, Why.TRAINING_JOB_COMPLETE, text)
        elif not model_was_ready(observed.status, source.name):
            conditions.set(
                ConditionType.MODEL_READY, False, Why.WAITING_FOR_MODEL, f"TrainingJob {source.name} is not complete"
            )
    fresh = [pod for group in groups for pod in group.fresh]
    desired = sum(group.desired for group in groups)
    placed = len([pod for pod in fresh if pod.bound]) >= desired and state.reason != Why.WAITING_FOR_MODEL
    conditions.set(
        ConditionType.ADMITTED,
        placed,
        Why.PLACED if placed else state.reason,
        "all replicas are bound" if placed else state.message,
    )
    # Ready means "as the spec wants it": during a rollout the service answers, but tools that wait must go on waiting.
    done = state.phase in (ServicePhase.READY, ServicePhase.IDLE)
    conditions.set(ConditionType.READY, done, state.reason, state.message)
    working = not done and not state.stalled
    said = (state.reason, state.message)
    conditions.set(ConditionType.RECONCILING, working, *(said if working else IDLE))
    conditions.set(ConditionType.STALLED, state.stalled, *((state.stuck or said) if state.stalled else NOT_STALLED))
    conditions.set_gpus(failures_of(observed.pods, observed.failures))
    conditions.set_in_vain(set_in_vain("InferenceService", observed.service.spec))
    return conditions.value
