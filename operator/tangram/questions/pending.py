"""All that is pending, one reason for each workload: what the scheduler would report of its pods now."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tangram import units
from tangram.api.objects import Pod
from tangram.decide.registry import Registry
from tangram.questions.gpu_use import workload_of
from tangram.questions.notes import of_namespaces, of_plugins, of_policy
from tangram.questions.observe import Forecast, cycle_of, run_to_rest
from tangram.questions.reported import reported
from tangram.snapshot.recording import Recording, Stalled, Workload, reason_of

_UNREPORTED = "WaitingForScheduler", "the scheduler has not reported on the pod yet"
_UNOBSERVED = "NotReconciled", "no controller has reconciled it yet"
_WAITS = ("", "Pending")
"""Phases in which a workload without pods wants some."""
_OVER = ("Complete", "Failed")
Why = Callable[[Pod], tuple[str, str]]
"""Reason and sentence of a pod that is pending."""


@dataclass(frozen=True, slots=True)
class PendingWorkload:
    """A workload of which something is pending."""

    namespace: str
    kind: str
    """In lower case; ``pod`` for one that stands alone."""
    name: str
    pending: int
    """Its pods that have no node."""
    pods: int
    reason: str
    """The most frequent of its pods' reasons; the controller's own where that cannot go on."""
    message: str
    since: int
    """When the oldest of its pending pods was created, in seconds since the epoch; 0: not known."""


@dataclass(frozen=True, slots=True)
class Pending:
    """Everything that is pending, by namespace, kind and name, and what was left out in finding out."""

    workloads: tuple[PendingWorkload, ...]
    notes: tuple[str, ...] = ()


def pending(recorded: Recording, namespace: str, registry: Registry | None = None) -> Pending:
    """What is pending in a namespace, or in all (``""``), by a decision on a copy of the world."""
    cycle = cycle_of(recorded, registry)
    outcome = run_to_rest(cycle, recorded.now)
    notes = (*of_policy(recorded), *of_namespaces(recorded), *of_plugins(outcome.faults))
    return Pending(_workloads(recorded, namespace, lambda pod: _decided(recorded, outcome, pod)), notes)


def pending_as_reported(recorded: Recording, namespace: str) -> Pending:
    """The same by what has been reported on the pods: for those who may not read what a decision depends on."""
    return Pending(_workloads(recorded, namespace, _said))


def _workloads(recorded: Recording, namespace: str, why: Why) -> tuple[PendingWorkload, ...]:
    groups: dict[tuple[str, str, str], list[Pod]] = {}
    for pod in recorded.pods:
        if namespace in ("", pod.metadata.namespace) and pod.spec.scheduler_name == recorded.scheduler_name:
            groups.setdefault((pod.metadata.namespace, *workload_of(pod)), []).append(pod)
    stalled = {(one.namespace, one.kind.lower(), one.name): one for one in recorded.stalled}
    own = {(one.namespace, one.kind.lower(), one.name): one for one in recorded.workloads}
    own = {key: one for key, one in own.items() if namespace in ("", key[0])}
    found = {
        key: _of_pods(key, pods, why, stalled.get(key))
        for key, pods in groups.items()
        if any(_is_pending(pod) for pod in pods)
    }
    for key, one in own.items():
        wants_pods = not one.suspended and one.phase not in _OVER and (one.phase in _WAITS or key in stalled)
        if key not in found and wants_pods:
            found[key] = _of_status(key, one, len(groups.get(key, ())), stalled.get(key))
    return tuple(found[key] for key in sorted(found))


def _of_pods(key: tuple[str, str, str], pods: Iterable[Pod], why: Why, stalled: Stalled | None) -> PendingWorkload:
    pods = list(pods)
    waiting = [pod for pod in pods if _is_pending(pod)]
    said = Counter(why(pod) for pod in waiting)
    by_reason = Counter(code for code, _ in said.elements())
    reason = min(by_reason, key=lambda code: (-by_reason[code], code))
    message = min((one for one in said if one[0] == reason), key=lambda one: (-said[one], one))[1]
    if stalled is not None:  # that does not heal by itself, a missing place may
        reason, message = stalled.reason, stalled.message
    created = (units.timestamp_seconds(pod.metadata.creation_timestamp) for pod in waiting)
    return PendingWorkload(*key, len(waiting), len(pods), reason, message, min(filter(None, created), default=0))


def _of_status(key: tuple[str, str, str], one: Workload, pods: int, stalled: Stalled | None) -> PendingWorkload:
    """A workload of which no pod is pending: its own word."""
    reason, message = (one.reason, one.message) if one.phase else _UNOBSERVED
    if stalled is not None:
        reason, message = stalled.reason, stalled.message
    return PendingWorkload(*key, 0, pods, reason, message, 0)


def _is_pending(pod: Pod) -> bool:
    return not pod.spec.node_name and not pod.metadata.deletion_timestamp


def _decided(recorded: Recording, outcome: Forecast, pod: Pod) -> tuple[str, str]:
    if gated := _gates(pod):
        return gated
    uid = pod.metadata.uid
    place, hold = outcome.placed.get(uid), outcome.holds.get(uid)
    if place is None and hold is None:
        return _said(pod)
    said = reported(pod, recorded.pods, None if place is not None else hold)
    if said is not None:
        return said.reason, said.message
    if place is not None:
        return "Scheduled", f"it fits: the scheduler would bind it to {place.node}"
    assert hold is not None
    return str(hold.reason), hold.message


def _said(pod: Pod) -> tuple[str, str]:
    """What the scheduler has written on the pod."""
    if gated := _gates(pod):
        return gated
    return next((one for condition in pod.status.conditions if (one := reason_of(condition))), _UNREPORTED)


def _gates(pod: Pod) -> tuple[str, str] | None:
    gates = ", ".join(gate.name for gate in pod.spec.scheduling_gates)
    return ("SchedulingGated", f"it has scheduling gates: {gates}") if gates else None
