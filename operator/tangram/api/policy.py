"""HybridPolicy: how the pool is shared, and the pure questions that the other rooms ask of it."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from tangram.api import names
from tangram.api.common import Conditions, Duration, Metadata, Model, Name, NodeSelector, parse
from tangram.api.queue import MOST_QUEUES, TREE_RULES, Queue, QueueUse, check_tree
from tangram.api.schema import Extra, Is, ListMap, refuse
from tangram.api.selector import NamespaceSelector
from tangram.api.topology import DEFAULT_LEVELS, TopologyLevel
from tangram.api.tuning import (
    MOST_PLUGINS,
    LoadAware,
    Placement,
    PluginFault,
    Prices,
    Rescheduling,
    Sharing,
)
from tangram.units import duration_seconds

DEFAULT_POLICY = "default"
"""Name of the policy that is in force before any other."""

FallbackStrategy = Literal["best-effort", "strict", "preempt"]


def _not_empty(selector: dict[str, str]) -> dict[str, str]:
    if not selector:
        refuse("", selector, "at least one label")
    return selector


class PriorityClass(Model):
    """A class of workloads: its share when classes contend and where it prefers to run."""

    name: Name
    """Name by which workloads choose the class."""
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    """Share of a contended resource over time, relative to other classes; of two classes the lighter is the lower."""
    node_selector: NodeSelector = Field(default_factory=dict)
    """Labels of the nodes where the class prefers to run; none means any node."""
    namespace_selector: NamespaceSelector | None = None
    """Namespaces whose pods may be of the class; all by default. A pod of another namespace that names it waits with
    the reason ClassNotAllowed; one that names none gets the first class that it matches and may be of."""


class Pool(Model):
    """A part of the nodes that is kept at one temperature."""

    name: Name
    """Name of the pool."""
    tier: Literal["hot", "warm", "cold"]
    """hot serves at once, warm holds loaded standbys, cold is for work that can wait for its start."""
    node_selector: Annotated[NodeSelector, AfterValidator(_not_empty), Extra({"minProperties": 1})]
    """Labels of the pool's nodes."""
    reserved_gpus: Annotated[int, Field(ge=0, le=100_000)] = 0
    """GPUs of the pool that stay free for services that scale up."""


class PolicySpec(Model):
    """How the pool is shared."""

    priority_classes: Annotated[tuple[PriorityClass, ...], ListMap("name", 64)] = ()
    """Classes of workloads, in the order in which a workload that names none is matched to them. One that names a class
    that is not here waits with the reason ClassUnknown."""
    fallback_strategy: FallbackStrategy = "best-effort"
    """What happens when no node that the class prefers fits: best-effort takes any node that fits, strict waits,
    preempt evicts lower classes on preferred nodes first and then takes any node."""
    pools: Annotated[tuple[Pool, ...], ListMap("name", 64)] = ()
    """Hot, warm and cold parts of the cluster."""
    queues: Annotated[tuple[Queue, ...], ListMap("name", MOST_QUEUES), TREE_RULES] = ()
    """Queue tree."""
    usage_half_life: Duration = "24h"
    """Time after which past use of a queue counts half. Of queues that are about even the one goes first that has used
    less for its weight; 0s: the past does not count."""
    placement: Placement = Field(default_factory=Placement)
    """How a node is chosen among those that fit."""
    topology_levels: Annotated[tuple[TopologyLevel, ...], ListMap("name", 16)] = DEFAULT_LEVELS
    """Levels at which nodes are near each other, widest first."""
    sharing: Sharing = Field(default_factory=Sharing)
    """How far one GPU is shared."""
    load_aware: LoadAware = Field(default_factory=LoadAware)
    """Placement by measured load."""
    rescheduling: Rescheduling = Field(default_factory=Rescheduling)
    """Moving running work so that pending work fits."""
    prices: Prices = Field(default_factory=Prices)
    """What a GPU costs."""

    @model_validator(mode="after")
    def _references(self) -> Self:
        check_tree(self.queues)
        return self


class InForce(Model):
    """Which version of a policy decides."""

    generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation of the spec that decides; behind that of the policy while that cannot be read."""
    message: Annotated[str, Field(max_length=4096)] = ""
    """Why the policy is not in force as it is stored, and what is instead; empty: it is."""


class PolicyStatus(Model):
    """Observed state of the policy."""

    observed_generation: Annotated[int, Field(ge=0)] = 0
    """The metadata.generation that this status was computed from."""
    conditions: Conditions = ()
    """Ready: the policy can be used, and its plugins answer; Active: it is the one in force; Overcommitted: queues are
    guaranteed more together than the queue above them has."""
    in_force: InForce | None = None
    """Which version of the policy decides; missing while another policy does."""
    queues: Annotated[tuple[QueueUse, ...], ListMap("name", MOST_QUEUES)] = ()
    """What each queue uses."""
    failed_plugins: Annotated[tuple[PluginFault, ...], ListMap("name", MOST_PLUGINS)] = ()
    """Plugins of the policy in force that the scheduler cannot ask, or whose answers are none. The pods that such a one
    may forbid nodes to wait."""


class HybridPolicy(Model):
    """How training and inference share the GPUs of the cluster.

    One policy is in force: the one named default, else the oldest.
    """

    api_version: Annotated[str, Is(names.API_VERSION)]
    kind: Literal["HybridPolicy"]
    metadata: Metadata
    spec: PolicySpec
    """How the pool is shared."""
    status: PolicyStatus | None = None
    """Observed state of the policy; written by tangram."""

    @property
    def half_life(self) -> int:
        """``spec.usageHalfLife`` in seconds."""
        return duration_seconds(self.spec.usage_half_life)


def parse_policy(obj: Mapping[str, Any], *, unknown: Literal["ignore", "forbid"] = "ignore") -> HybridPolicy:
    """Read a HybridPolicy; raises InvalidInput naming object, field, value and what is allowed."""
    return parse(HybridPolicy, obj, unknown=unknown)


def active_policy(policies: Iterable[HybridPolicy]) -> HybridPolicy | None:
    """The policy in force: the one named ``default``, else the oldest, else (same age) the first by name.

    Policies are never merged: the others are shadowed and say so in their condition ``Active``.
    """

    return min(policies, key=lambda policy: precedence(policy.metadata), default=None)


def precedence(metadata: Metadata) -> tuple[bool, str, str]:
    """What the policy in force has least of, as ``active_policy`` says it."""
    return metadata.name != DEFAULT_POLICY, metadata.creation_timestamp or "", metadata.name


_ACCELERATOR_WORDS = frozenset({"accelerator", "accelerators", "gpu", "gpus", "npu", "mlu", "dcu", "gcu", "xpu", "tpu"})
_WORD = re.compile(r"[A-Za-z0-9]+")


def names_accelerator(selector: Mapping[str, str]) -> bool:
    """Whether a node selector asks for nodes with accelerators, judged by the words of its keys.

    ``accelerator``, ``nvidia.com/gpu.product`` and ``cloud.google.com/gke-accelerator`` do; ``nvidia.com/gpu.present``
    with the value ``false`` does not.
    """
    for key, value in selector.items():
        words = {word.lower() for word in _WORD.findall(key.rpartition("/")[2])}
        if words & _ACCELERATOR_WORDS and value.lower() not in ("", "false", "none", "0"):
            return True
    return False


def class_of(policy: HybridPolicy | None, named: str | None, wants_gpu: bool) -> PriorityClass | None:
    """The class of a workload: the one it names, else the first whose profile fits.

    A workload with GPUs fits the first class whose selector names an accelerator, else the first that takes any
    node; one without GPUs fits the first class whose selector names none. None: there is no such class (the caller
    knows by ``named`` whether a class was asked for in vain) and the workload has weight 1 and no preferred nodes.
    """
    classes = policy.spec.priority_classes if policy is not None else ()
    if named:
        return next((item for item in classes if item.name == named), None)
    return first_match(classes, wants_gpu)


def first_match(classes: Sequence[PriorityClass], wants_gpu: bool) -> PriorityClass | None:
    """The first of these classes whose profile fits a workload that names none, as ``class_of`` says it."""
    if not wants_gpu:
        return next((item for item in classes if not names_accelerator(item.node_selector)), None)
    accelerated = next((item for item in classes if names_accelerator(item.node_selector)), None)
    return accelerated or next((item for item in classes if not item.node_selector), None)
