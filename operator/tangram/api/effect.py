"""The fields that nothing acts on yet, and who sets them.

A field that is accepted and does nothing is a promise that is not kept. So every leaf of every schema stands in one of
two tables: ``acts.ACTS`` names the function that reads or writes it, ``WITHOUT_EFFECT`` says why nothing does yet.
Whoever sets one of the latter is told by the condition ``FieldsWithoutEffect``, and its description says so.
"""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel

from tangram.api.acts import Paths

_MEASURED = "load is reported and not used for placement yet"
_MOVES = "nothing is moved yet; pods leave GPUs that have failed by evictFromUnhealthyAfter alone"
_SCALED = "demand is not measured yet; min and max bound spec.replicas, which an HPA or KEDA can set"

WITHOUT_EFFECT: Mapping[str, Paths] = {
    "HybridPolicy": {
        "spec.pools": "pools neither steer placement nor reserve GPUs yet",
        "spec.sharing": "the options of the node agent decide how far a GPU is shared",
        "spec.loadAware": _MEASURED,
        "spec.rescheduling.dryRun": _MOVES,
        "spec.rescheduling.schedule": _MOVES,
        "spec.rescheduling.timeZone": _MOVES,
        "spec.rescheduling.sla": _MOVES,
        "spec.rescheduling.budgets": _MOVES,
        "spec.prices": "no costs are computed yet",
    },
    "TrainingJob": {
        f"spec.checkpoint.{field}": "nobody is asked for a checkpoint yet; path reaches the containers"
        for field in ("command", "signal", "role", "container", "grace", "period")
    },
    "InferenceService": {
        "spec.revisions[].headers": "requests are not routed by their headers yet",
        "spec.autoscale.metric": _SCALED,
        "spec.autoscale.target": _SCALED,
        "spec.autoscale.query": _SCALED,
        "spec.autoscale.idleAfter": _SCALED,
        "spec.autoscale.behavior": _SCALED,
        "spec.warmStandbys": "no replicas are kept loaded yet",
        "spec.sla": "latency and availability are not measured yet",
    },
    "GPUNode": {
        "status.conditions[].observedGeneration": "a GPUNode has no spec that could be newer than its status",
    },
}
"""Kind -> path -> why nothing acts on it yet. Later versions make the list shorter."""


def without_effect(kind: str, path: str) -> str:
    """Why nothing acts on a field yet; empty where something does."""
    return next((why for start, why in WITHOUT_EFFECT[kind].items() if is_in(path, start)), "")


def is_in(path: str, start: str) -> bool:
    """Whether a path is another one, or below it."""
    return path == start or path.startswith((f"{start}.", f"{start}[]"))


def leaves(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    """The paths of a structural schema below which there are no more fields of ours. A pod template is one."""
    inner = schema["items"] if "properties" in schema.get("items", {}) else schema
    if "properties" not in inner or "x-kubernetes-preserve-unknown-fields" in inner:
        yield path
        return
    here = f"{path}[]" if inner is not schema else path
    for name, field in inner["properties"].items():
        yield from leaves(field, f"{here}.{name}")


def set_in_vain(kind: str, spec: BaseModel) -> dict[str, str]:
    """Path -> why it is without effect, for what a spec sets, that is: what is not as if it were left out."""
    return {path: why for path in _set(spec, "spec") if (why := without_effect(kind, path))}


def _set(model: BaseModel, path: str) -> Iterator[str]:
    """The paths of all values that are not the defaults."""
    for name, field in type(model).model_fields.items():
        here, value = f"{path}.{field.alias or name}", getattr(model, name)
        items = value if isinstance(value, tuple) else ()
        if isinstance(value, BaseModel):
            yield from _set(value, here)
        elif items and isinstance(items[0], BaseModel):
            yield from dict.fromkeys(found for item in items for found in _set(item, f"{here}[]"))
        elif value != _default(type(model), name):
            yield here


@cache
def _default(model: type[BaseModel], name: str) -> Any:
    field = model.model_fields[name]
    return ... if field.is_required() else field.get_default(call_default_factory=True)
