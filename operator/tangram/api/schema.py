"""What a type says beyond Python's types: text forms, list keys and CEL rules.

Each marker here stands inside ``typing.Annotated`` and speaks twice: to pydantic, which refuses a bad value, and to
the generated CustomResourceDefinition, where the API server refuses the same value before it is stored.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

Json = dict[str, Any]


def refuse(field: str, value: object, allowed: str) -> NoReturn:
    """Refuse a value from inside a validator.

    ``field`` is the path from the object being validated ("" for the object itself); ``allowed`` says what would be
    accepted. ``common.parse`` joins the parts into the sentence that the user reads.
    """
    raise PydanticCustomError("refused", "allowed: {allowed}", {"field": field, "value": value, "allowed": allowed})


@dataclass(frozen=True, slots=True)
class Rule:
    """One CEL rule (``x-kubernetes-validations``) of an object or a list; ``field`` is relative to it."""

    cel: str
    message: str
    field: str = ""
    reason: str = "FieldValueInvalid"

    def as_json(self) -> Json:
        """The rule as the CustomResourceDefinition writes it."""
        place = {"fieldPath": self.field} if self.field else {}
        return {"rule": self.cel, "message": self.message, "reason": self.reason, **place}


def with_rules(*rules: Rule) -> ConfigDict:
    """Model configuration that carries CEL rules about the whole object."""
    return ConfigDict(json_schema_extra={"x-kubernetes-validations": [rule.as_json() for rule in rules]})


@dataclass(frozen=True, slots=True, eq=False)
class Extra:
    """Put keywords into the generated schema as they are; says nothing to pydantic."""

    keywords: Json

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        return {**handler(schema), **self.keywords}


def rules(*items: Rule) -> Extra:
    """CEL rules about one field, mostly a list seen as a whole."""
    return Extra({"x-kubernetes-validations": [rule.as_json() for rule in items]})


@dataclass(frozen=True, slots=True)
class Is:
    """One text and no other, as ``Literal`` says it of one that stands in the code."""

    value: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.literal_schema([self.value])


@dataclass(frozen=True, slots=True)
class Text:
    """A string of one form. ``pattern`` is matched against all of it, in the syntax common to RE2 and Python."""

    pattern: str
    allowed: str
    longest: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        form = re.compile(self.pattern)

        def check(value: str) -> str:
            if not 1 <= len(value) <= self.longest or form.fullmatch(value) is None:
                refuse("", value, self.allowed)
            return value

        return core_schema.no_info_after_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        return {**handler(schema), "pattern": f"^{self.pattern}$", "minLength": 1, "maxLength": self.longest}


@dataclass(frozen=True, slots=True)
class IntOrText:
    """A number written as an integer or as text, as Kubernetes quantities are; Python always sees the text."""

    pattern: str
    allowed: str
    longest: int

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        form = re.compile(self.pattern)

        def check(value: Any) -> str:
            known = isinstance(value, str | int) and not isinstance(value, bool)
            text = str(value)
            if not known or len(text) > self.longest or form.fullmatch(text) is None:
                refuse("", value, self.allowed)
            return text

        return core_schema.no_info_before_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "minimum": 0,
            "pattern": f"^{self.pattern}$",
            "maxLength": self.longest,
        }


def _unique(keys: Callable[[Any], Any], field: str) -> Callable[[Any], Any]:
    def check(items: Any) -> Any:
        seen = set()
        for place, item in enumerate(items):
            key = keys(item)
            if key in seen:
                refuse(f"[{place}]{field}", key, "each one at most once")
            seen.add(key)
        return items

    return check


@dataclass(frozen=True, slots=True)
class ListMap:
    """A list in which each item is known by one of its fields, so that two writers can own different items."""

    key: str
    longest: int
    shortest: int = 0

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        bounds = core_schema.no_info_after_validator_function(_bounds(self.shortest, self.longest), handler(source))
        return core_schema.no_info_after_validator_function(
            _unique(lambda item: getattr(item, self.key), f".{self.key}"), bounds
        )

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        shortest = {"minItems": self.shortest} if self.shortest else {}
        keys = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}
        return {**handler(schema), **shortest, "maxItems": self.longest, **keys}


@dataclass(frozen=True, slots=True)
class ListSet:
    """A list of plain values without repetition."""

    longest: int
    shortest: int = 0

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        bounds = core_schema.no_info_after_validator_function(_bounds(self.shortest, self.longest), handler(source))
        return core_schema.no_info_after_validator_function(_unique(lambda item: item, ""), bounds)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> Json:
        shortest = {"minItems": self.shortest} if self.shortest else {}
        return {**handler(schema), **shortest, "maxItems": self.longest, "x-kubernetes-list-type": "set"}


def _bounds(shortest: int, longest: int) -> Callable[[Any], Any]:
    def check(items: Any) -> Any:
        if not shortest <= len(items) <= longest:
            refuse("", f"{len(items)} items", f"{shortest} to {longest} items")
        return items

    return check
