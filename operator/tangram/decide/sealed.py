"""Values whose arrays cannot be written to, over the same memory: what strangers are shown."""

from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import numpy as np

Value = TypeVar("Value")


def sealed(value: Value) -> Value:
    """The same value with read-only arrays; the very same where none of them can be written to.

    Arrays are looked for in fields of dataclasses, in lists and in dicts; one whose first entry is no array has none.
    """
    shown: Any = value
    if isinstance(value, np.ndarray):
        shown = _read_only(value) if value.flags.writeable else value
    elif is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value)}
        changed = {name: seal for name, part in parts.items() if (seal := sealed(part)) is not part}
        shown = replace(shown, **changed) if changed else value
    elif isinstance(value, list) and value and isinstance(value[0], np.ndarray):
        entries = [sealed(entry) for entry in value]
        shown = value if all(map(_same, entries, value)) else entries
    elif isinstance(value, dict) and value and isinstance(next(iter(value.values())), np.ndarray):
        shown = {key: sealed(entry) for key, entry in value.items()}
    sealed_one: Value = shown
    return sealed_one


def _same(one: object, other: object) -> bool:
    return one is other


def _read_only(array: Any) -> Any:
    """A view of the array that nobody can make writable again, as ``setflags`` could one of numpy's own."""
    return np.asarray(array.data.toreadonly())
