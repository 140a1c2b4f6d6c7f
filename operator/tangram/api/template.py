"""Pod templates: kept as they were written, because Kubernetes itself checks the pods that are made from them.

Only what would otherwise be found out late is checked here: that there are containers, and that a fraction of a GPU
is one that can be given.
"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator

from tangram.api.names import FRACTION_RESOURCE, MOST_GPUS
from tangram.api.schema import Extra, Json, Rule, refuse
from tangram.units import HUNDREDTHS_PER_GPU

_SHARE = "1 to 100 percent of a GPU, or a multiple of 100 for several whole GPUs"
_WHOLE = re.compile("[1-9][0-9]?|([1-9]|[1-5][0-9]|6[0-4])00")  # up to MOST_GPUS


def _object(value: Any, where: str) -> Json:
    if not isinstance(value, dict):
        refuse(where, value, "an object")
    return value


def _template(template: Json) -> Json:
    _object(template.get("metadata", {}), ".metadata")
    spec = _object(template.get("spec"), ".spec")
    containers = spec.get("containers")
    if not isinstance(containers, list) or not 1 <= len(containers) <= 64:
        refuse(".spec.containers", containers, "a list of 1 to 64 containers")
    for place, container in enumerate(containers):
        where = f".spec.containers[{place}]"
        name = _object(container, where).get("name")
        if not isinstance(name, str) or not 1 <= len(name) <= 63:
            refuse(f"{where}.name", name, "a name of at most 63 characters; every container has one")
        resources = _object(container.get("resources", {}), f"{where}.resources")
        for side in ("limits", "requests"):
            amounts = _object(resources.get(side, {}), f"{where}.resources.{side}")
            _check_share(amounts, f"{where}.resources.{side}")
    return template


def _check_share(amounts: Json, where: str) -> None:
    if FRACTION_RESOURCE in amounts:
        written = amounts[FRACTION_RESOURCE]
        known = isinstance(written, str | int) and not isinstance(written, bool)
        if not known or _WHOLE.fullmatch(str(written)) is None:
            refuse(f"{where}.{FRACTION_RESOURCE}", written, _SHARE)


_OPEN = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
_AMOUNTS = {
    **_OPEN,
    "description": "Amounts by resource name.",
    "properties": {
        FRACTION_RESOURCE: {
            "x-kubernetes-int-or-string": True,
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "minimum": 1,
            "maximum": MOST_GPUS * HUNDREDTHS_PER_GPU,
            "maxLength": 8,
            "pattern": f"^({_WHOLE.pattern})$",
            "description": "Percent of one GPU; above 100 only multiples of 100, which are whole GPUs.",
            "x-kubernetes-validations": [
                Rule("type(self) == string || self <= 100 || self % 100 == 0", f"must be {_SHARE}").as_json()
            ],
        }
    },
}
_CONTAINER = {
    **_OPEN,
    "description": "A container, in every field that Kubernetes knows.",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 63, "description": "Name of the container."},
        "resources": {
            **_OPEN,
            "description": "Requests and limits of the container.",
            "properties": {"limits": _AMOUNTS, "requests": _AMOUNTS},
        },
    },
}
_SCHEMA = {
    **_OPEN,
    "additionalProperties": None,  # pydantic's for a dict; the properties below take its place
    "required": ["spec"],
    "properties": {
        "metadata": {**_OPEN, "description": "Labels and annotations of the pods."},
        "spec": {
            **_OPEN,
            "description": "Spec of the pods, in every field that Kubernetes knows.",
            "required": ["containers"],
            "properties": {
                "containers": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": 64,
                    "items": _CONTAINER,
                    "description": "Containers of the pods; at least one.",
                }
            },
        },
    },
}

PodTemplate = Annotated[dict[str, Any], AfterValidator(_template), Extra(_SCHEMA)]
"""A pod template as it was written."""
