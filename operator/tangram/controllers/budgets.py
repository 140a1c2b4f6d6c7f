"""The PodDisruptionBudget of a service: one replica at a time may be evicted. Pure.

Replicas that wait because their queue is held come back when it is let go, and not by waiting for them: those do not
count, else the first one that is evicted of a queue that is drained would keep all others where they are.

The eviction API refuses a pod for which there are two budgets, so a service for whose pods somebody else has written
one gets none of ours, and loses the one that it has.
"""

from collections.abc import Iterable, Mapping

from tangram.api.disruption import PodDisruptionBudget
from tangram.api.inference import InferenceService
from tangram.api.objects import Requirement
from tangram.api.views import PodView, controller_of, is_of_kind
from tangram.cluster.paths import POD_DISRUPTION_BUDGETS
from tangram.controllers.actions import Create, Delete, Patch, Ref
from tangram.controllers.manifests import service_budget, service_pod
from tangram.plan import Reason

_HELD = f"{Reason.QUEUE_HELD}: "
"""How the scheduler's words on a pod of a held queue begin."""


def put_budget(known: dict[str, dict[str, PodDisruptionBudget]], budget: PodDisruptionBudget, *, there: bool) -> None:
    """Note in ``known``, by namespace and uid, that a budget is there, or is there no more."""
    metadata = budget.metadata
    same = known.setdefault(metadata.namespace, {})
    if there:
        same[metadata.uid] = budget
    else:
        same.pop(metadata.uid, None)
    if not same:
        del known[metadata.namespace]


def budget_steps(
    service: InferenceService, pods: Iterable[PodView], there: Iterable[PodDisruptionBudget] | None
) -> tuple[Create | Delete | Patch, ...]:
    """Create, correct or delete the service's budget; ``there``: all budgets of its namespace, None while they are
    not known.

    Raises InvalidInput when no pod can be made from the service.
    """
    if there is None:
        return ()
    pods = tuple(pods)
    own: list[PodDisruptionBudget] = []
    others: list[PodDisruptionBudget] = []  # of other services neither: their selectors name these
    for item in there:
        owner = controller_of(item.metadata)
        if not is_of_kind(owner, service.kind):
            others.append(item)
        elif owner is not None and owner.uid == service.metadata.uid:
            own.append(item)
    if others and any(_is_for(item, labels) for labels in _labels(service, pods) for item in others):
        why = "somebody else has written one for the same pods"
        return tuple(Delete(_ref(item), why) for item in own if item.metadata.deletion_timestamp is None)
    wanted = service_budget(service, 1 + sum(map(_is_held, pods)))
    if not own:
        return (Create(wanted),)
    may_leave = wanted["spec"]["maxUnavailable"]
    return tuple(
        Patch(_ref(item), {"spec": {"maxUnavailable": may_leave}})
        for item in own
        if item.metadata.deletion_timestamp is None and item.spec.max_unavailable not in (None, may_leave)
    )


def _is_held(pod: PodView) -> bool:
    """Whether a replica waits because its queue is held."""
    said = pod.condition("PodScheduled")
    waits = said is not None and said.status == "False" and said.message.startswith(_HELD)
    return waits and pod.metadata.deletion_timestamp is None


def _labels(service: InferenceService, pods: Iterable[PodView]) -> list[dict[str, str]]:
    """Labels that replicas have, or will."""
    made = (service_pod(service, revision, 0)["metadata"]["labels"] for revision in service.spec.revisions)
    return [*(pod.metadata.labels for pod in pods), *made]


def _is_for(budget: PodDisruptionBudget, labels: Mapping[str, str]) -> bool:
    selector = budget.spec.selector
    if selector is None:
        return False
    return selector.match_labels.items() <= labels.items() and all(
        _holds(clause, labels.get(clause.key)) for clause in selector.match_expressions
    )


def _holds(clause: Requirement, value: str | None) -> bool:
    match clause.operator:
        case "In":
            return value in clause.values
        case "NotIn":
            return value not in clause.values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    return False


def _ref(budget: PodDisruptionBudget) -> Ref:
    metadata = budget.metadata
    return Ref(POD_DISRUPTION_BUDGETS, metadata.name, metadata.namespace, metadata.uid)
