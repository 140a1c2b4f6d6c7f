"""What the statuses of all kinds have in common: steps between phases, conditions, the difference to what is stored."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from tangram.api.common import Condition, Metadata, to_object
from tangram.api.phases import ConditionType, P, Phases, set_condition
from tangram.api.views import PodView
from tangram.cluster.paths import Resource
from tangram.controllers.actions import RecordEvent, Ref, SetStatus
from tangram.controllers.reasons import Why
from tangram.units import rfc3339, timestamp_seconds

_REASON_LENGTH, _MESSAGE_LENGTH = 128, 4096
_SHOWN = 80
"""Characters of a value that are shown."""

S = TypeVar("S", bound=BaseModel)


def truth(value: bool) -> Literal["True", "False"]:
    """A condition's status."""
    return "True" if value else "False"


def advance(table: Phases[P], now: P | None, wanted: P, between: P) -> P:
    """The phase to write: ``wanted``, or the step towards it when the table does not allow to go there at once."""
    if table.may(now, wanted):
        return wanted
    if table.may(now, between) and table.may(between, wanted):
        return between
    return now if now is not None else between


def shorten(text: str, longest: int = _MESSAGE_LENGTH) -> str:
    """A text that fits into a status."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def reason_code(text: str) -> str:
    """A reason that the API takes as a condition's reason, whoever has written it."""
    kept = "".join(letter for letter in text if letter.isascii() and (letter.isalnum() or letter == "_"))
    kept = kept.lstrip("0123456789_")[:_REASON_LENGTH]
    return kept or Why.STARTING.value


IDLE = (Why.IDLE, "nothing is left to do")
NOT_STALLED = (Why.NOT_STALLED, "nothing is stuck")


class Conditions:
    """Conditions being set one after the other, with what is the same for all of them."""

    def __init__(self, conditions: Sequence[Condition], generation: int, now: float) -> None:
        self.value = tuple(conditions)
        self._generation, self._now = generation, now

    def set(self, kind: ConditionType | str, status: bool, reason: str, message: str = "") -> None:
        """Set one condition."""
        new = Condition(
            type=str(kind),
            status=truth(status),
            observed_generation=self._generation,
            last_transition_time=rfc3339(self._now),
            reason=reason_code(reason),
            message=shorten(message),
        )
        self.value = set_condition(self.value, new)

    def set_gpus(self, failures: str) -> None:
        """Set whether the GPUs are well; said from the first time that one is not."""
        if failures or any(one.type == ConditionType.GPUS_HEALTHY for one in self.value):
            why = Why.GPU_UNHEALTHY if failures else Why.GPUS_HEALTHY
            self.set(ConditionType.GPUS_HEALTHY, not failures, why, failures or "all GPUs are healthy")

    def set_in_vain(self, fields: Mapping[str, str]) -> None:
        """Say which fields are set that nothing acts on yet: path -> why. Nothing is said where there are none."""
        if not fields:
            self.value = tuple(one for one in self.value if one.type != ConditionType.FIELDS_WITHOUT_EFFECT)
            return
        paths = dict[str, list[str]]()
        for path, why in fields.items():
            paths.setdefault(why, []).append(path)
        message = "; ".join(f"{', '.join(found)}: {why}" for why, found in paths.items())
        self.set(ConditionType.FIELDS_WITHOUT_EFFECT, True, Why.NOT_IN_EFFECT, message)


def failures_of(pods: Iterable[PodView], failures: Mapping[str, str]) -> str:
    """What has failed of the GPUs that these pods hold, as one sentence; empty: nothing.

    ``failures`` are the sentences of nodes, by uid of the pod.
    """
    return "; ".join(
        f"pod {pod.name}: {failures[pod.metadata.uid]}"
        for pod in sorted(pods, key=lambda pod: pod.name)
        if pod.metadata.uid in failures and not pod.ended
    )


def failure_events(ref: Ref, before: Sequence[Condition], failures: str) -> tuple[RecordEvent, ...]:
    """The Event about GPUs that have failed, when there was none for the failures ``before``."""
    known = any(one.type == ConditionType.GPUS_HEALTHY and one.status == "False" for one in before)
    return (RecordEvent(ref, Why.GPU_UNHEALTHY, failures, warning=True),) if failures and not known else ()


def ref_of(resource: Resource, metadata: Metadata) -> Ref:
    """The object that the metadata belongs to."""
    return Ref(resource, metadata.name, metadata.namespace, metadata.uid)


def change_status(
    resource: Resource, metadata: Metadata, stored: Mapping[str, Any], status: BaseModel, theirs: Collection[str] = ()
) -> tuple[SetStatus, ...]:
    """The write that makes the stored status equal to ``status``; none when it is so already.

    ``theirs`` are fields, by their names in the object, that others write.
    """
    wanted = to_object(status)
    fields = type(status).model_fields
    known = {field.alias or name for name, field in fields.items()} - set(theirs)
    change = {key: wanted.get(key) for key in sorted(known) if stored.get(key) != wanted.get(key)}
    if not change:
        return ()
    return (SetStatus(ref_of(resource, metadata), change, metadata.resource_version),)


def read_status(model: type[S], raw: Mapping[str, Any]) -> tuple[S, Mapping[str, Any]]:
    """The stored status parsed, field by field, and as it is; what cannot be read counts as missing."""
    stored = raw.get("status") or {}
    if not isinstance(stored, Mapping):
        return model(), {}
    left = dict(stored)
    for _ in range(len(left) + 1):
        try:
            return model.model_validate(left, strict=False), stored
        except ValidationError as error:
            for one in error.errors(include_url=False, include_context=False, include_input=False):
                left.pop(str(one["loc"][0]) if one["loc"] else "", None)
    return model(), stored


def unreadable(model: type[BaseModel], stored: Mapping[str, Any], fields: Collection[str]) -> str:
    """Which of these fields of a stored status, by their names in the object, cannot be read, and why; empty: none."""
    found = list[str]()
    for field in sorted(fields & stored.keys()):
        try:
            model.model_validate({field: stored[field]}, strict=False)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            found.append(f"status.{field}: {str(stored[field])[:_SHOWN]!r} cannot be read: {first['msg']}")
            continue
        if field.endswith("Time") and not timestamp_seconds(stored[field]):
            found.append(f"status.{field}: {str(stored[field])[:_SHOWN]!r} cannot be read: it is no RFC 3339 time")
    return "; ".join(found)


def reject(
    resource: Resource, raw: Mapping[str, Any], phase: str | None, fault: str, now: float
) -> tuple[SetStatus, ...]:
    """The status of an object whose spec cannot be used: it says why and waits for a person."""
    metadata = Metadata.model_validate(raw.get("metadata") or {}, strict=False)
    stored = raw.get("status") or {}
    old, _ = read_status(_ConditionsOnly, raw)
    conditions = Conditions(old.conditions, metadata.generation, now)
    conditions.set(ConditionType.READY, False, Why.INVALID_SPEC, fault)
    conditions.set(ConditionType.RECONCILING, False, Why.INVALID_SPEC, fault)
    conditions.set(ConditionType.STALLED, True, Why.INVALID_SPEC, fault)
    wanted: dict[str, Any] = {
        "conditions": [to_object(condition) for condition in conditions.value],
        "observedGeneration": metadata.generation,
    }
    if phase is not None:
        wanted |= {"phase": phase, "reason": Why.INVALID_SPEC.value, "message": shorten(fault)}
    change = {key: value for key, value in wanted.items() if stored.get(key) != value}
    return (SetStatus(ref_of(resource, metadata), change, metadata.resource_version),) if change else ()


class _ConditionsOnly(BaseModel):
    conditions: tuple[Condition, ...] = ()
