"""The ``args`` of a plugin: what its class, or the function that makes it, takes by name."""

import inspect
from collections.abc import Callable, Collection
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import msgspec

from tangram.errors import InvalidInput

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_PLAIN = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}


def arguments(name: str, factory: Callable[..., object], args: str) -> dict[str, Any]:
    """The arguments for the factory of the plugin from ``PluginChoice.args``.

    They have to be of the types that the factory annotates them with. Raises InvalidInput naming plugin, argument,
    value and what is allowed.
    """
    where, given = f"plugin {name!r}", msgspec.json.decode(args) if args else {}
    taken = inspect.signature(factory).parameters
    known = {key: one for key, one in taken.items() if one.kind in _BY_NAME}
    takes_any = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in taken.values())
    for key, value in given.items():
        if key not in known and not takes_any:
            raise InvalidInput(where, f"args.{key}", value, _choice(known))
    types = get_type_hints(_of_arguments(factory), include_extras=True) if known else {}
    for key, one in known.items():
        if key not in given and one.default is inspect.Parameter.empty:
            raise InvalidInput(where, f"args.{key}", None, f"{_words(types.get(key, Any))}; it has no default")
    return {key: _converted(where, key, value, types.get(key, Any)) for key, value in given.items()}


def _of_arguments(factory: Callable[..., object]) -> Callable[..., object]:
    return factory.__init__ if isinstance(factory, type) else factory  # type: ignore[misc]


def _choice(known: Collection[str]) -> str:
    return f"the arguments {', '.join(known)}" if known else "no arguments"


def _converted(where: str, key: str, value: object, kind: Any) -> object:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        allowed = f"{_words(kind)} ({error})"
        raise InvalidInput(where, f"args.{key}", value, allowed) from None


def _words(kind: Any) -> str:
    """A type, for somebody who writes YAML."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _words(parts[0])
    if origin is Literal:
        return "one of " + ", ".join(map(repr, parts))
    if origin in (Union, UnionType):
        return " or ".join(map(_words, parts))
    if origin is dict:
        return f"a map of {_words(parts[0])} to {_words(parts[1])}"
    if origin in (list, tuple, set, frozenset):
        return f"a list of {_words(parts[0])}"
    return "anything" if kind is Any else _PLAIN.get(kind, getattr(kind, "__name__", str(kind)))
