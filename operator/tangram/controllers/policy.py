"""The status of HybridPolicies: which one is in force, whether each can be used, what its classes match. Pure."""

from collections.abc import Iterable, Mapping
from typing import Any

from tangram.api import names
from tangram.api.common import Metadata
from tangram.api.effect import set_in_vain
from tangram.api.phases import ConditionType
from tangram.api.policy import HybridPolicy, InForce, PolicyStatus, PriorityClass, precedence
from tangram.api.queue import Queue
from tangram.api.views import NodeView
from tangram.cluster.paths import HYBRID_POLICIES
from tangram.controllers.actions import Action
from tangram.controllers.guarantees import overcommitments
from tangram.controllers.observed import ObservedPolicies, StoredPolicy
from tangram.controllers.reasons import Why
from tangram.controllers.status import IDLE, NOT_STALLED, Conditions, change_status, read_status, reject
from tangram.snapshot.values.models import model_matches
from tangram.snapshot.values.offers import offered_gpus

_SHOWN = 16
_THE_SCHEDULERS = ("queues", "failedPlugins", "inForce")
"""What the scheduler writes of a policy's status: it knows."""


def reconcile(observed: ObservedPolicies, now: float) -> tuple[Action, ...]:
    """The writes that bring the status of every policy up to date at ``now`` (seconds since the epoch)."""
    known = [(one, _in_force(one)) for one in observed.policies]
    candidates = [_metadata(one) for one, in_force in known if one.policy is not None or in_force is not None]
    active = min(candidates, key=precedence, default=None)
    actions: list[Action] = []
    for stored, in_force in known:
        if stored.policy is None:
            fault = in_force.message if in_force is not None and in_force.message else stored.fault
            actions += reject(HYBRID_POLICIES, stored.raw, None, fault, now)
        elif stored.policy.metadata.deletion_timestamp is None:
            actions += _status(stored, stored.policy, active, observed.nodes, now)
    return tuple(actions)


def _metadata(stored: StoredPolicy) -> Metadata:
    if stored.policy is not None:
        return stored.policy.metadata
    return Metadata.model_validate(stored.raw.get("metadata") or {}, strict=False)


def _in_force(stored: StoredPolicy) -> InForce | None:
    """What the scheduler says of the version that decides; None: the policy is not in force, or nothing is said."""
    said = (stored.raw.get("status") or {}).get("inForce")
    try:
        return InForce.model_validate(said, strict=False) if said else None
    except ValueError:
        return None


def _status(
    stored: StoredPolicy,
    policy: HybridPolicy,
    active: Metadata | None,
    nodes: tuple[NodeView, ...] | None,
    now: float,
) -> tuple[Action, ...]:
    metadata: Metadata = policy.metadata
    status, raw = read_status(PolicyStatus, stored.raw)
    conditions = Conditions(status.conditions, metadata.generation, now)
    in_force = active is not None and active.name == metadata.name
    # What a policy that is not in force says of plugins is of the time when it was: the scheduler takes it away.
    failed = "; ".join(f"plugin {one.name}: {one.message}" for one in status.failed_plugins) if in_force else ""
    if failed:
        conditions.set(ConditionType.READY, False, Why.PLUGIN_FAILED, failed)
    else:
        strange = "".join(f"; {text}" for text in strange_models(policy, nodes))
        conditions.set(ConditionType.READY, True, Why.VALID, matches(policy, nodes) + strange)
    if in_force:
        conditions.set(ConditionType.ACTIVE, True, Why.IN_FORCE, "the policy is in effect")
    else:
        by = active.name if active is not None else ""
        text = f"not in effect: policy {by!r} takes precedence"
        conditions.set(ConditionType.ACTIVE, False, Why.SHADOWED, text)
    over = overcommitments(policy.spec.queues)
    if over:
        more = f"; and {len(over) - _SHOWN} more" if len(over) > _SHOWN else ""
        conditions.set(ConditionType.OVERCOMMITTED, True, Why.GUARANTEES_EXCEED, "; ".join(over[:_SHOWN]) + more)
    else:
        conditions.set(
            ConditionType.OVERCOMMITTED,
            False,
            Why.GUARANTEES_FIT,
            "no guarantees exceed what the queue above has; those at the top are not compared with the pool",
        )
    conditions.set(ConditionType.RECONCILING, False, *IDLE)
    conditions.set(ConditionType.STALLED, bool(failed), *((Why.PLUGIN_FAILED, failed) if failed else NOT_STALLED))
    conditions.set_in_vain(set_in_vain("HybridPolicy", policy.spec))
    changed: dict[str, Any] = {"conditions": conditions.value, "observed_generation": metadata.generation}
    return change_status(HYBRID_POLICIES, metadata, raw, status.model_copy(update=changed), _THE_SCHEDULERS)


def matches(policy: HybridPolicy, nodes: tuple[NodeView, ...] | None) -> str:
    """What each class matches now, as a sentence: ``gpu-intensive: 8 nodes with 64 GPUs; cpu-bound: any node``."""
    classes = policy.spec.priority_classes
    if not classes:
        return "no classes: all workloads are equal"
    parts = [f"{item.name}: {_matched(item, nodes)}" for item in classes[:_SHOWN]]
    if len(classes) > _SHOWN:
        parts.append(f"and {len(classes) - _SHOWN} more classes")
    return "; ".join(parts)


def _matched(item: PriorityClass, nodes: tuple[NodeView, ...] | None) -> str:
    if not item.node_selector:
        return "any node"
    if nodes is None:
        return "nodes are not known"
    found = [node for node in nodes if item.node_selector.items() <= node.metadata.labels.items()]
    if not found:
        return "no node now"
    gpus = whole_gpus(found)
    return f"{len(found)} node{'s' if len(found) > 1 else ''} with {gpus} GPU{'s' if gpus != 1 else ''}"


def strange_models(policy: HybridPolicy, nodes: tuple[NodeView, ...] | None) -> list[str]:
    """A sentence for each queue that names models of GPUs which no node has: a slip of the pen, or nodes to come.

    Nothing is said while nodes do not tell their models by a label.
    """
    named = {queue.name: models for queue in policy.spec.queues if (models := _models_of(queue))}
    if not named:  # as with most policies; a pool may have thousands of nodes
        return []
    offering = [node.metadata.labels for node in nodes or () if _gpus_of(node)]
    models = {
        labels[vendor.model_label] for labels in offering for vendor in names.VENDORS if labels.get(vendor.model_label)
    }
    if not models or not all(_names_model(labels) for labels in offering):
        return []
    found = []
    for queue, wanted in named.items():
        unknown = sorted(name for name in wanted if not any(model_matches(name, model) for model in models))
        if unknown:
            found.append(f"queue {queue}: no node now has GPUs of the model {', '.join(unknown)}")
    return found[:_SHOWN]


def _models_of(queue: Queue) -> set[str]:
    """Models of GPUs that the amounts of a queue name."""
    parts = (queue.guarantee, queue.limit, queue.weights)
    return {model for part in parts if part is not None for model in part.gpu_models}


def _names_model(labels: Mapping[str, str]) -> bool:
    return any(labels.get(vendor.model_label) for vendor in names.VENDORS)


def whole_gpus(nodes: Iterable[NodeView]) -> int:
    """GPUs that nodes offer."""
    return sum(_gpus_of(node) for node in nodes)


def _gpus_of(node: NodeView) -> int:
    return offered_gpus(node.metadata.labels, node.status.allocatable)
