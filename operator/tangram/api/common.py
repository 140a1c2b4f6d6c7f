"""What the kinds share: the base model, metadata, conditions, quantities, durations, pod templates, GPU requests."""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from tangram.api.names import GPU_RESOURCE, MOST_GPUS, VENDORS
from tangram.api.schema import Extra, IntOrText, ListMap, ListSet, Rule, Text, refuse, rules, with_rules
from tangram.errors import InvalidInput, UnknownField
from tangram.units import HUNDREDTHS_PER_GPU, cpu_milli, gpu_share, memory_mib, quantity

_WORDS = {"gpu": "GPU", "gpus": "GPUs", "cpu": "CPU", "mib": "MiB", "id": "ID", "url": "URL"}


def camel_case(name: str) -> str:
    """A field's name in objects, from its name in Python."""
    first, *rest = name.split("_")
    return first + "".join(_WORDS.get(word, word.capitalize()) for word in rest)


class Model(BaseModel):
    """Base of every part of our kinds: frozen, camelCase on the wire, no silent conversions.

    Unknown fields are ignored, because a newer definition may already be in the cluster while an older process still
    runs; ``parse(..., unknown="forbid")`` is for what a person has just written.
    """

    model_config = ConfigDict(
        alias_generator=camel_case,
        validate_by_alias=True,
        validate_by_name=True,
        frozen=True,
        strict=True,
        extra="ignore",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Metadata(Model):
    """The parts of ``metadata`` that tangram reads."""

    name: str = ""
    """Name, unique in the namespace."""
    namespace: str = ""
    """Namespace; empty for cluster-scoped kinds."""
    uid: str = ""
    """Identity that survives no re-creation."""
    resource_version: str = ""
    """Version for optimistic concurrency."""
    generation: int = 0
    """Counts changes of the spec."""
    creation_timestamp: str | None = None
    """When the object was created (RFC 3339)."""
    deletion_timestamp: str | None = None
    """When the object was asked to go (RFC 3339)."""
    labels: dict[str, str] = Field(default_factory=dict)
    """Labels."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations."""


# Forms of text. The API server applies the same patterns.
Name = Annotated[
    str, Text("[a-z0-9]([-a-z0-9]*[a-z0-9])?", "at most 63 of a-z, 0-9 and '-', a letter or digit at both ends", 63)
]
QueueName = Annotated[
    str,
    Text("[a-z0-9]([-a-z0-9.]*[a-z0-9])?", "at most 63 of a-z, 0-9, '-' and '.', a letter or digit at both ends", 63),
]
RoleName = Annotated[
    str, Text("[a-z0-9]([-a-z0-9]*[a-z0-9])?", "at most 32 of a-z, 0-9 and '-', a letter or digit at both ends", 32)
]
LabelKey = Annotated[
    str,
    Text(
        "([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?",
        "a label key such as topology.kubernetes.io/zone",
        317,
    ),
]
LabelValue = Annotated[
    str,
    Text(
        "[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?",
        "a label value: at most 63 letters, digits, '-', '_' and '.', a letter or digit at both ends",
        63,
    ),
]
Duration = Annotated[
    str,
    Text("([0-9]{1,6}d)?([0-9]{1,8}h)?([0-9]{1,9}m)?([0-9]{1,10}s)?", "a duration such as 90s, 15m, 2h30m or 3d", 36),
]
_LARGEST = "1P"


def _real(text: str) -> str:
    try:
        real = quantity(text, 1, 1000) <= quantity(_LARGEST, 1, 1000)
    except ValueError:
        real = False
    return text if real else refuse("", text, f"at most {_LARGEST}")


Quantity = Annotated[
    str,
    IntOrText(
        r"\+?[0-9]{1,18}(\.[0-9]{0,18})?([eE][+-]?[0-9]{1,2}|n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei)?",
        "a quantity of zero or more such as 4, 500m or 16Gi",
        44,
    ),
    AfterValidator(_real),
    rules(Rule(f"quantity(string(self)).compareTo(quantity('{_LARGEST}')) <= 0", f"must be at most {_LARGEST}")),
]
Time = Annotated[str, Extra({"format": "date-time"})]
Percent = Annotated[int, Field(ge=1, le=100)]
Replicas = Annotated[int, Field(ge=0, le=10_000)]
Hash = Annotated[str, Field(max_length=256)]

_KEY = re.compile("([a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")


def _selector(labels: dict[str, str]) -> dict[str, str]:
    if len(labels) > 16:
        refuse("", f"{len(labels)} labels", "at most 16 labels")
    for key, value in labels.items():
        if _KEY.fullmatch(key) is None:
            refuse("", key, "label keys such as accelerator or nvidia.com/gpu.product")
        if _VALUE.fullmatch(value) is None:
            refuse(f".{key}", value, "a label value of at most 63 letters, digits, '-', '_' and '.'")
    return labels


NodeSelector = Annotated[
    dict[str, str],
    AfterValidator(_selector),
    Extra(
        {
            "maxProperties": 16,
            "additionalProperties": {"type": "string", "maxLength": 63, "pattern": f"^{_VALUE.pattern}$"},
        }
    ),
    rules(
        Rule(
            f"self.all(key, size(key) <= 317 && key.matches('^{_KEY.pattern}$'))",
            "every key must be a label key such as accelerator or nvidia.com/gpu.product",
        )
    ),
]
"""Labels that a node must carry."""


class Condition(Model):
    """One observation of an object's state (metav1.Condition)."""

    type: Annotated[str, Text("[A-Za-z]([-A-Za-z0-9_./]*[A-Za-z0-9])?", "a CamelCase condition type", 316)]
    """Kind of the condition, in CamelCase."""
    status: Literal["True", "False", "Unknown"]
    """Whether the condition holds."""
    observed_generation: Annotated[int, Field(ge=0)] | None = None
    """The metadata.generation that the condition was computed from."""
    last_transition_time: Time
    """When status last changed."""
    reason: Annotated[str, Text("[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", "a CamelCase reason code", 1024)]
    """Why, as a CamelCase code."""
    message: Annotated[str, Field(max_length=32768)] = ""
    """Why, as a human-readable message."""


Conditions = Annotated[tuple[Condition, ...], ListMap("type", 16)]


class Amounts(Model):
    """An amount of each resource."""

    cpu: Quantity | None = None
    """CPU cores, such as 64 or 500m."""
    memory: Quantity | None = None
    """Memory, such as 512Gi."""
    gpu: Quantity | None = None
    """GPUs of any model; fractions are allowed, such as 2.5."""
    gpu_models: Annotated[dict[LabelValue, Quantity], Field(max_length=32), Extra({"maxProperties": 32})] = Field(
        default_factory=dict
    )
    """GPUs of single models, by a word of the model's name or all of it, as the node's label has it: A100, say."""

    def milli(self) -> dict[str, int]:
        """Amounts as integers: ``cpu`` in milli-cores, ``memory`` in MiB, ``gpu`` and ``gpu/MODEL`` in milli-GPU."""
        named = {
            "cpu": None if self.cpu is None else cpu_milli(self.cpu),
            "memory": None if self.memory is None else memory_mib(self.memory),
            "gpu": None if self.gpu is None else quantity(self.gpu, 1, 1000),
            **{f"gpu/{model}": quantity(amount, 1, 1000) for model, amount in self.gpu_models.items()},
        }
        return {name: amount for name, amount in named.items() if amount is not None}


class HeldGpus(Model):
    """What a workload holds."""

    gpu: Quantity | None = None
    """GPUs of any model; a fraction counts as that fraction, such as 2.5."""


def _resource(name: str) -> str:
    known = [vendor.resource for vendor in VENDORS]
    if name not in known:
        refuse("", name, f"one of {', '.join(known)}")
    return name


class GpuRequest(Model):
    """GPUs of one replica: whole ones (``count``), a fraction (``share``) or a slice of memory (``memory``)."""

    model_config = with_rules(
        Rule(
            "has(self.count) || has(self.share) || has(self.memory)",
            "say how much: count (whole GPUs), share (percent of one GPU) or memory",
            reason="FieldValueRequired",
        ),
        Rule("!(has(self.count) && has(self.share))", "count and share exclude each other", ".share"),
        Rule(
            "!has(self.share) || self.share <= 100 || self.share % 100 == 0",
            "share is in percent of a GPU: 1 to 100, or a multiple of 100 for several whole GPUs",
            ".share",
        ),
        Rule(
            "!has(self.isolation) || size(self.isolation) == 0 || has(self.count)"
            " || (has(self.share) && self.share >= 100) || self.isolation.exists(mode, mode in ['mps', 'time-slice'])",
            "a part of a GPU is asked for, which can be had with mps or time-slice only",
            ".isolation",
        ),
    )

    count: Annotated[int, Field(ge=1, le=MOST_GPUS)] | None = None
    """Whole GPUs."""
    share: Annotated[int, Field(ge=1, le=MOST_GPUS * HUNDREDTHS_PER_GPU)] | None = None
    """Percent of one GPU: 30 is 30 % of a GPU. Above 100 only multiples of 100, which are whole GPUs."""
    memory: Quantity | None = None
    """GPU memory that is needed on each device, such as 8Gi; alone it asks for a slice of one GPU by memory."""
    models: Annotated[tuple[LabelValue, ...], ListSet(16)] = ()
    """Allowed GPU models, in order of preference; any model by default. Names are those of the node's label."""
    isolation: Annotated[tuple[Literal["mps", "time-slice", "exclusive", "mig"], ...], ListSet(4)] = ()
    """How tenants of one GPU may be kept apart where the replica runs; none named means any. For fractional
    GPUs: mps or time-slice. For whole GPUs: exclusive or mig (MIG slices)."""
    resource: Annotated[str, AfterValidator(_resource), Extra({"enum": [vendor.resource for vendor in VENDORS]})] = (
        GPU_RESOURCE
    )
    """Resource name of the vendor's whole GPUs."""
    container: Name | None = None
    """Container that gets the GPUs; the first one when none is named."""

    @model_validator(mode="after")
    def _how_much(self) -> Self:
        if self.count is None and self.share is None and self.memory is None:
            refuse("", None, "count (whole GPUs), share (percent of one GPU) or memory")
        if self.count is not None and self.share is not None:
            refuse("share", self.share, "either count or share, not both")
        if self.share is not None and self.share > 100 and self.share % 100:
            refuse("share", self.share, "1 to 100 percent of a GPU, or a multiple of 100 for several whole GPUs")
        if self.isolation and self.hundredths() < 100 and not {"mps", "time-slice"} & set(self.isolation):
            refuse("isolation", list(self.isolation), "mps, time-slice or both for a part of a GPU")
        return self

    def hundredths(self) -> int:
        """The request as ``names.FRACTION_RESOURCE`` counts it; 1 when only memory is asked for."""
        return self.count * 100 if self.count is not None else self.share or 1

    def milli(self) -> int:
        """The request in milli-GPU."""
        devices, each = gpu_share(self.hundredths())
        return devices * each


class Counts(Model):
    """How many replicas of a role or revision are in which state."""

    name: Name
    """Name of the role or revision."""
    desired: int = 0
    """Replicas that should be there."""
    pending: int = 0
    """Replicas that are not bound, or whose containers have not started."""
    running: int = 0
    """Replicas that run."""
    ready: int = 0
    """Running replicas that are ready."""
    succeeded: int = 0
    """Replicas that ended with exit code 0."""
    failed: int = 0
    """Replicas that failed."""


M = TypeVar("M", bound=BaseModel)


def parse(model: type[M], obj: Mapping[str, Any], *, unknown: Literal["ignore", "forbid"] = "ignore") -> M:
    """Read an object as it came from the API server or from a file.

    Raises InvalidInput that names the object, the field, the value and what is allowed. ``unknown="forbid"`` also
    refuses fields that the kind does not have (never in ``metadata``, which is Kubernetes' own).
    """
    metadata = obj.get("metadata") or {}
    if unknown == "forbid" and isinstance(metadata, dict):
        known = {camel_case(name) for name in Metadata.model_fields}
        obj = {**obj, "metadata": {key: value for key, value in metadata.items() if key in known}}
    try:
        return model.model_validate_json(json.dumps(obj, default=str), extra=unknown)
    except ValidationError as error:
        raise _invalid(model.__name__, metadata, error) from None


def _invalid(kind: str, metadata: Any, error: ValidationError) -> InvalidInput:
    names = (
        [str(metadata[key]) for key in ("namespace", "name") if metadata.get(key)] if isinstance(metadata, dict) else []
    )
    where = f"{kind} {'/'.join(names)}".strip()
    first, *others = error.errors(include_url=False)
    more = f" (and {len(others)} more faults)" if others else ""
    allowed = _allowed(first) + more
    context = first.get("ctx", {})
    value = context["value"] if first["type"] == "refused" else None if first["type"] == "missing" else first["input"]
    path = _path(first["loc"], str(context.get("field", "")))
    if first["type"] == "extra_forbidden":
        return UnknownField(where, path, more)
    return InvalidInput(where, path, value, allowed)


def _path(location: tuple[int | str, ...], field: str) -> str:
    path = ""
    for part in location:
        if part == "[key]":  # pydantic's word for "the key itself"
            continue
        path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return (path + (field if field[:1] in ("", "[", ".") else f".{field}")).lstrip(".")


def _allowed(error: ErrorDetails) -> str:
    if error["type"] == "refused":
        return str(error["ctx"]["allowed"])
    if error["type"] == "missing":
        return "a value (the field is required)"
    message = error["msg"].removeprefix("Input should be ")
    return message[:1].lower() + message[1:]


def to_object(model: BaseModel) -> dict[str, Any]:
    """The model as the API server takes it; fields that are None are left out (a merge patch cannot clear them so)."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)
