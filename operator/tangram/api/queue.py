"""Queues of a HybridPolicy: a tree in which one queue is one business line."""

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from tangram.api.common import Amounts, Duration, LabelValue, Model, QueueName
from tangram.api.schema import Extra, Rule, refuse, rules, with_rules
from tangram.api.selector import NamespaceSelector

MOST_QUEUES = 256
"""Queues that a policy can have, and that its status can list."""


class Weights(Model):
    """A queue's weight for single resources."""

    cpu: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Weight for CPU."""
    memory: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Weight for memory."""
    gpu: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Weight for GPUs of any model."""
    gpu_models: Annotated[
        dict[LabelValue, Annotated[int, Field(ge=1, le=1000)]], Field(max_length=32), Extra({"maxProperties": 32})
    ] = Field(default_factory=dict)
    """Weights for GPUs of single models, which are named as in ``guarantee``."""


def _limit_rule(resource: str) -> Rule:
    guarantee, limit = f"self.guarantee.{resource}", f"self.limit.{resource}"
    return Rule(
        f"!has(self.guarantee) || !has(self.limit) || !has({guarantee}) || !has({limit}) || "
        f"quantity(string({limit})).compareTo(quantity(string({guarantee}))) >= 0",
        f"the limit of {resource} must not be below its guarantee",
        f".limit.{resource}",
    )


class Queue(Model):
    """A queue; one queue is one business line. Queues form a tree: a parent's amounts are shared by its children."""

    model_config = with_rules(
        Rule("!has(self.parent) || self.parent != self.name", "a queue cannot be its own parent", ".parent"),
        *(_limit_rule(resource) for resource in ("cpu", "memory", "gpu")),
        Rule(
            "!has(self.guarantee) || !has(self.limit) || "
            "!has(self.guarantee.gpuModels) || !has(self.limit.gpuModels) || "
            "self.limit.gpuModels.all(m, !(m in self.guarantee.gpuModels) || "
            "quantity(string(self.limit.gpuModels[m])).compareTo(quantity(string(self.guarantee.gpuModels[m]))) >= 0)",
            "the limit of a GPU model must not be below its guarantee",
            ".limit.gpuModels",
        ),
    )

    name: QueueName
    """Name by which workloads choose the queue."""
    parent: QueueName | None = None
    """Queue above this one; none means a queue at the top."""
    guarantee: Amounts | None = None
    """Capacity that the queue can always reclaim, by preemption of borrowers if necessary; none by default. Pods that
    another queue's guarantee covers in part are preempted only where no others would do."""
    limit: Amounts | None = None
    """Capacity that the queue can never exceed; resources left out are not limited."""
    weight: Annotated[int, Field(ge=1, le=1000)] = 1
    """Share relative to the queue's siblings, beyond guarantees."""
    weights: Weights | None = None
    """Weights for single resources and GPU models; ``weight`` holds for those left out."""
    reclaimable: bool = True
    """Whether other queues can reclaim what the queue, and those below it, use beyond their guarantees."""
    min_runtime: Duration = "0s"
    """How long a workload of the queue, or of a queue below it, runs before other queues can preempt it; the longest
    of the queue and those above it holds."""

    hold: Literal["None", "Hold", "HoldAndDrain"] = "None"
    """Hold: pods of the queue, and of those below it, are not started. HoldAndDrain: those that run are evicted too, as
    their PodDisruptionBudgets allow."""
    namespace_selector: NamespaceSelector | None = None
    """Namespaces whose pods may use the queue and those below it; all by default. A pod of another namespace waits with
    the reason QueueNotAllowed."""

    @model_validator(mode="after")
    def _limit_covers_guarantee(self) -> Self:
        if self.parent == self.name:
            refuse("parent", self.parent, "another queue; a queue cannot be its own parent")
        if self.guarantee is None or self.limit is None:
            return self
        limits = self.limit.milli()
        for resource, amount in self.guarantee.milli().items():
            if limits.get(resource, amount) < amount:
                part, _, model = resource.partition("/")
                field = f"limit.gpuModels.{model}" if model else f"limit.{part}"
                written = self.limit.gpu_models[model] if model else getattr(self.limit, part)
                refuse(field, written, "a limit that is not below the guarantee")
        return self


DEPTH = 8
"""Levels that the queue tree may have: more than an organisation needs, few enough for the API server to check."""


def _deep_rule() -> str:
    """CEL: every queue is on one of ``DEPTH`` levels counted from the top, where no cycle is.

    CEL has neither recursion nor variables: each level is bound by a comprehension over a list of one, and as every
    queue is on at most one level, it is enough to count them.
    """
    count = " + ".join(f"size(l{level})" for level in range(DEPTH))
    rule = f"{count} == size(self)"
    for level in range(DEPTH - 1, 0, -1):
        below = f"self.filter(q, has(q.parent) && q.parent in l{level - 1}).map(q, q.name)"
        rule = f"[{below}].all(l{level}, {rule})"
    return f"[self.filter(q, !has(q.parent)).map(q, q.name)].all(l0, {rule})"


TREE_RULES = rules(
    Rule(
        "[self.map(q, q.name)].all(names, self.all(q, !has(q.parent) || q.parent in names))",
        "a parent must be a queue of this policy",
    ),
    Rule(
        _deep_rule(),
        f"queues must make a tree without cycles of at most {DEPTH} levels",
    ),
)


def check_tree(queues: Sequence[Queue]) -> None:
    """Refuse parents that do not exist and trees that are too deep; a cycle is endlessly deep."""
    parents = {queue.name: queue.parent for queue in queues}
    for place, queue in enumerate(queues):
        if queue.parent is not None and queue.parent not in parents:
            refuse(f"queues[{place}].parent", queue.parent, f"a queue of this policy: {', '.join(sorted(parents))}")
    for place, queue in enumerate(queues):
        above, levels = queue.parent, 1
        while above is not None and levels < DEPTH:
            above, levels = parents[above], levels + 1
        if above is not None:
            refuse(f"queues[{place}].parent", queue.parent, f"a tree without cycles of at most {DEPTH} levels")


class QueueUse(Model):
    """What a queue uses at present, and has used."""

    name: QueueName
    """Name of the queue."""
    used: Amounts = Field(default_factory=Amounts)
    """What its pods use, including what is claimed for pods whose victims are terminating."""
    fair_share: Amounts = Field(default_factory=Amounts)
    """What it would use if every queue had its fair share of what its pods request."""
    dominant_share_percent: int = 0
    """The largest part of any resource of the pool that it uses, divided by its weight for it. Queues beside each
    other are compared by this."""
    running: int = 0
    """Bound pods."""
    pending: int = 0
    """Pending pods."""
    recent_gpu_seconds: Annotated[int, Field(ge=0)] = 0
    """GPUs x seconds that it has used; what was used one ``usageHalfLife`` ago counts half. Written at least once a
    minute while it changes; a scheduler that starts goes on from here."""
    recent_cpu_seconds: Annotated[int, Field(ge=0)] = 0
    """CPUs x seconds that it has used, counted in the same way."""
