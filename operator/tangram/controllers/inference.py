"""The life of an InferenceService: what to do next, from what is seen now. Pure; the same view gives the same answer.

Pods are made directly, without a Deployment: placement, rollout and the choice of whom to stop belong together.
"""

from collections.abc import Iterable
from dataclasses import replace

from tangram import errors
from tangram.api import names
from tangram.api.inference import InferenceStatus
from tangram.api.phases import INFERENCE_SERVICE, ConditionType, ServicePhase, condition
from tangram.api.views import PodView, ServicePort, ServiceView
from tangram.cluster.paths import INFERENCE_SERVICES, PODS, SERVICES, Resource
from tangram.controllers import accounting, manifests
from tangram.controllers.actions import Action, Create, Delete, Manifest, Patch, RecordEvent, Ref, Requeue
from tangram.controllers.budgets import budget_steps
from tangram.controllers.observed import ObservedService
from tangram.controllers.ports import sending
from tangram.controllers.progress import time_left, with_deadline
from tangram.controllers.reasons import Why
from tangram.controllers.rollback import aim_of, proven_by, until_served, with_former_memory
from tangram.controllers.rollout import Replicas, limits_of, plan, sort_replicas, split, wanted_replicas
from tangram.controllers.service_status import State, describe, model_was_ready, state_of
from tangram.controllers.status import advance, change_status, failure_events, failures_of, ref_of, unreadable
from tangram.units import timestamp_seconds

_MEMORY = ("gpuSeconds", "held", "accountedTime", "progressTime", "failedRollout", "proven")
"""What a status alone remembers: where it cannot be read it stays as it is stored, and the service goes on."""
EXCEEDED_QUOTA = "exceeded quota"
"""What the API server's refusal has in it when a ResourceQuota has nothing left (its admission plugin's words)."""


def reconcile(observed: ObservedService, now: float) -> tuple[Action, ...]:
    """What to do for the service at ``now`` (seconds since the epoch)."""
    service = observed.service
    if service.metadata.deletion_timestamp is not None:
        return ()  # what it owns goes with it
    observed = with_former_memory(observed)
    aim = aim_of(observed, now)
    desired = split(wanted_replicas(service), aim.service.spec.weights())
    if not has_model(observed):
        desired = dict.fromkeys(desired, 0)
    groups = sort_replicas(aim.service, observed.pods, desired, observed.whole, now)
    steps = plan(groups, now, limits_of(service, sum(desired.values())), refused_since(observed))
    fault = ""
    try:
        creations = [
            Create(manifests.service_pod(aim.service, revision, index, observed.scheduler_name))
            for revision, index in steps.create
        ]
        budgets = budget_steps(aim.service, observed.pods, observed.budgets)
    except errors.InvalidInput as error:
        creations, budgets, fault = [], (), str(error)
    account = _account(observed, now)
    sent = sending(observed, aim.service, groups)
    state = state_of(observed, aim, groups, fault)
    state = with_deadline(observed, groups, replace(state, message=state.message + sent.said), now)
    proven = proven_by(observed, aim, groups, now)
    written = _write(observed, groups, account, replace(state, proven=proven), now)
    others = (*_services(sent.services, observed.services), *budgets)
    return (
        *written,
        *(action for action in others if not isinstance(action, Create)),
        # As they were judged: one that looked broken, and is ready by now, may be the last that answers.
        *(Delete(_ref(PODS, pod), why, pod.metadata.resource_version) for pod, why in steps.delete),
        # Last: what the server refuses to create keeps nothing else waiting.
        *(action for action in others if isinstance(action, Create)),
        *creations,
        *_requeue(
            [
                steps.wait,
                accounting.next_settlement(account, now),
                time_left(observed, state, now),
                until_served(observed, proven, now),
            ]
        ),
    )


def refused_since(observed: ObservedService) -> float | None:
    """When a quota began to refuse a replica, in seconds since the epoch; None when none does.

    Other refusals say that the template cannot become a pod: no replica has to go for that.
    """
    if EXCEEDED_QUOTA not in observed.refused:
        return None
    stalled = condition(observed.status.conditions, ConditionType.STALLED)
    if stalled is None or (stalled.status, stalled.reason) != ("True", Why.REFUSED):
        return None
    return timestamp_seconds(stalled.last_transition_time)


def has_model(observed: ObservedService) -> bool:
    """Whether the model is there: none is made by a TrainingJob, that job is complete, or it once was.

    What has once been served goes on when the job is deleted: that is what its time to live is for.
    """
    if observed.source is None or observed.source.phase == "Complete" or observed.pods:
        return True
    return model_was_ready(observed.status, observed.source.name)


def _services(wanted: tuple[Manifest, ...], there: tuple[ServiceView, ...]) -> tuple[Action, ...]:
    """Create, correct and remove Services."""
    known = {item.name: item for item in there}
    actions: list[Action] = []
    for manifest in wanted:
        name = manifest["metadata"]["name"]
        if name not in known:
            actions.append(Create(manifest))
            continue
        change = _difference(manifest, known[name])
        if change:
            actions.append(Patch(_ref(SERVICES, known[name]), change))
    names_wanted = {manifest["metadata"]["name"] for manifest in wanted}
    actions += [
        Delete(_ref(SERVICES, item), "the revision is no longer named")
        for item in there
        if item.name not in names_wanted and item.metadata.deletion_timestamp is None
    ]
    return tuple(actions)


def _difference(manifest: Manifest, there: ServiceView) -> Manifest:
    """The merge patch that makes a Service what it should be; empty when it is."""
    change: Manifest = {}
    spec = manifest["spec"]
    ports = tuple(
        ServicePort(port["port"], port["name"], port["targetPort"], port["protocol"]) for port in spec["ports"]
    )
    if there.spec.selector != spec["selector"]:
        removed = dict.fromkeys(there.spec.selector.keys() - spec["selector"].keys())
        change["spec"] = {"selector": {**removed, **spec["selector"]}}
    if there.spec.ports != ports:
        change.setdefault("spec", {})["ports"] = spec["ports"]
    # None of ours stands on a Service: an earlier version wrote some.
    former = [key for key in there.metadata.annotations if key.startswith(f"{names.GROUP}/")]
    if former:
        change["metadata"] = {"annotations": dict.fromkeys(former)}
    return change


def _account(observed: ObservedService, now: float) -> accounting.Account:
    status = observed.status
    account = accounting.Account(status.gpu_seconds, status.held, status.accounted_time)
    other = accounting.unseen(account, observed.pods, now)
    return accounting.accrue(account, accounting.held_milli(observed.pods), now, other)


def _write(
    observed: ObservedService, groups: list[Replicas], account: accounting.Account, state: State, now: float
) -> tuple[Action, ...]:
    service, old = observed.service, observed.status
    step = advance(INFERENCE_SERVICE, old.phase, state.phase, ServicePhase.PENDING)
    new: InferenceStatus = describe(observed, groups, account, state, now).model_copy(update={"phase": step})
    unread = {field for field in _MEMORY if unreadable(InferenceStatus, observed.stored, {field})}
    if state.proven is not None:
        unread -= {"proven"}  # what is seen now is as good as what was written
    written = change_status(INFERENCE_SERVICES, service.metadata, observed.stored, new, unread)
    ref = ref_of(INFERENCE_SERVICES, service.metadata)
    events = failure_events(ref, old.conditions, failures_of(observed.pods, observed.failures))
    if written and step != old.phase:
        warning = step in (ServicePhase.FAILED, ServicePhase.DEGRADED)
        events = (RecordEvent(ref, str(step), f"{state.reason}: {state.message}", warning), *events)
    return (*written, *events)


def _requeue(waits: Iterable[float | None]) -> tuple[Requeue, ...]:
    due = [wait for wait in waits if wait is not None and wait > 0]
    return (Requeue(max(0.1, min(due))),) if due else ()


def _ref(resource: Resource, item: PodView | ServiceView) -> Ref:
    return Ref(resource, item.metadata.name, item.metadata.namespace, item.metadata.uid)
