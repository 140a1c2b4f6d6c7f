"""The kinds as a table: names, scope, printer columns, subresources. ``crd`` turns each row into a definition."""

from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from tangram.api.gpunode import GPUNode
from tangram.api.inference import InferenceService
from tangram.api.policy import HybridPolicy
from tangram.api.training import TrainingJob


@dataclass(frozen=True, slots=True)
class Column:
    """A column of ``kubectl get``; ``wide`` ones are shown with ``-o wide`` only."""

    name: str
    path: str
    description: str
    type: Literal["string", "integer", "number", "boolean", "date"] = "string"
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Scale:
    """Paths of the scale subresource."""

    spec_replicas: str
    status_replicas: str
    selector: str


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of the group."""

    model: type[BaseModel]
    plural: str
    short_names: tuple[str, ...]
    columns: tuple[Column, ...]
    namespaced: bool = True
    categories: tuple[str, ...] = ("tangram",)
    selectable: tuple[str, ...] = ()
    """Paths that ``--field-selector`` knows; at most 8."""
    scale: Scale | None = None

    @property
    def name(self) -> str:
        """Name of the kind."""
        return self.model.__name__


def _condition(kind: str, name: str, description: str, wide: bool = False) -> Column:
    return Column(name, f'.status.conditions[?(@.type=="{kind}")].status', description, wide=wide)


_AGE = Column("Age", ".metadata.creationTimestamp", "Time since creation.", "date")
_PHASE = Column("Phase", ".status.phase", "Summary of the state.")
_REASON = Column("Reason", ".status.reason", "Why it is in this phase.")
_QUEUE = Column("Queue", ".spec.queue", "Queue that it names; default: the one that its namespace names, if any.")
_GPUS = Column("GPUs", ".status.gpus", "GPUs that it asks for or holds.")
_CLASS = Column("Class", ".spec.priorityClass", "Class that it names.", wide=True)

KINDS: tuple[Kind, ...] = (
    Kind(
        model=HybridPolicy,
        plural="hybridpolicies",
        short_names=("hp", "hpol"),
        namespaced=False,
        selectable=(".spec.fallbackStrategy",),
        columns=(
            _condition("Active", "Active", "Whether this policy is in force."),
            _condition("Ready", "Ready", "Whether the policy can be used."),
            Column("Fallback", ".spec.fallbackStrategy", "What happens when no preferred node fits."),
            Column("Placement", ".spec.placement.strategy", "How a node is chosen."),
            Column("Classes", ".spec.priorityClasses[*].name", "Classes of workloads.", wide=True),
            Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', "Why it is (not) ready."),
            _AGE,
        ),
    ),
    Kind(
        model=TrainingJob,
        plural="trainingjobs",
        short_names=("tj", "tjob"),
        selectable=(".spec.queue", ".spec.priorityClass", ".spec.framework", ".status.phase", ".status.reason"),
        scale=Scale(".spec.elastic.replicas", ".status.replicas", ".status.selector"),
        columns=(
            _PHASE,
            Column("Ready", ".status.ready", "Replicas that run of those wanted."),
            _QUEUE,
            _GPUS,
            _REASON,
            Column("Restarts", ".status.restarts", "Restarts that counted towards the limit.", "integer"),
            Column("Framework", ".spec.framework", "Framework.", wide=True),
            _CLASS,
            Column("GPU-seconds", ".status.gpuSeconds", "Whole-GPU seconds used.", "integer", wide=True),
            _AGE,
        ),
    ),
    Kind(
        model=InferenceService,
        plural="inferenceservices",
        short_names=("infer",),
        selectable=(".spec.queue", ".spec.priorityClass", ".status.phase", ".status.reason"),
        scale=Scale(".spec.replicas", ".status.replicas", ".status.selector"),
        columns=(
            _PHASE,
            Column("Ready", ".status.ready", "Replicas that answer of those wanted."),
            _QUEUE,
            _GPUS,
            _REASON,
            Column("Min", ".spec.autoscale.min", "Fewest replicas.", "integer", wide=True),
            Column("Max", ".spec.autoscale.max", "Most replicas.", "integer", wide=True),
            _CLASS,
            Column("URL", ".status.url", "Address inside the cluster.", wide=True),
            _AGE,
        ),
    ),
    Kind(
        model=GPUNode,
        plural="gpunodes",
        short_names=("gn", "gpun"),
        namespaced=False,
        selectable=(".status.health", ".status.isolation"),
        columns=(
            Column("Model", ".status.model", "Model of the GPUs."),
            Column("GPUs", ".status.gpus", "Number of GPUs.", "integer"),
            Column("Allocated", ".status.allocated", "GPUs that are given out."),
            Column("Free", ".status.free", "GPUs that are free and healthy."),
            Column("Health", ".status.health", "Health of the worst device."),
            _condition("Ready", "Ready", "Whether the node's agent works."),
            Column("Isolation", ".status.isolation", "How tenants of one GPU are kept apart.", wide=True),
            Column("Driver", ".status.driverVersion", "Version of the GPU driver.", wide=True),
            Column("Heartbeat", ".status.heartbeatTime", "When the agent last reported.", "date", wide=True),
            _AGE,
        ),
    ),
)
