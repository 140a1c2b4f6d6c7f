"""Templates of ``-o jsonpath=``, as kubectl understands them (kubernetes.io/docs/reference/kubectl/jsonpath).

``{.items[*].metadata.name}``, ``{range .items[*]}{.name}{"\\n"}{end}``, filters ``[?(@.gpus>1)]``, ``..``, unions,
slices and escaped dots. What is not there prints nothing, as with ``kubectl get``.
"""

import json
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from tangram.errors import InvalidInput

Step = Callable[[Any, Any], Iterator[Any]]
"""From one value, and the whole object, to the values that follow it on a path."""

_TOKEN = re.compile(r"""\s*(?:"((?:[^"\\]|\\.)*)"|'((?:[^'\\]|\\.)*)'|(range\b|end\b)|(?=[.\[$@]))""")
_FIELD = re.compile(r"(?:[^\s.\[\]{}()\\,|&<>=!]|\\.)+")
_SLICE = re.compile(r"(-?\d*):(-?\d*)(?::(-?\d*))?$")
_FILTER = re.compile(r"\?\(\s*(.*?)\s*(?:(==|!=|<=|>=|<|>)\s*(.*?)\s*)?\)$", re.DOTALL)
_COMPARE: Mapping[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_MISSING = object()


@dataclass(frozen=True, slots=True)
class _Path:
    steps: tuple[Step, ...]

    def values(self, here: Any, root: Any) -> list[Any]:
        found = [here]
        for step in self.steps:
            found = list(chain.from_iterable(step(value, root) for value in found))
        return found

    def text(self, here: Any, root: Any) -> str:
        return " ".join(map(_printed, self.values(here, root)))


@dataclass(frozen=True, slots=True)
class _Text:
    content: str

    def text(self, _here: Any, _root: Any) -> str:
        return self.content


@dataclass(frozen=True, slots=True)
class _Range:
    over: _Path
    body: "tuple[_Part, ...]"

    def text(self, here: Any, root: Any) -> str:
        return "".join(part.text(value, root) for value in self.over.values(here, root) for part in self.body)


_Part = _Path | _Text | _Range


@dataclass(frozen=True, slots=True)
class Template:
    """A template that has been read."""

    parts: tuple[_Part, ...]

    def render(self, value: Any) -> str:
        """What it prints of a value made of dictionaries, lists and plain values."""
        return "".join(part.text(value, value) for part in self.parts)


def parse(template: str) -> Template:
    """Read a template; one without braces is taken as one path. Raises InvalidInput naming what cannot be read."""
    if template and "{" not in template:
        template = f"{{{'' if template[0] in '.$@[' else '.'}{template}}}"
    reader = _Reader(template)
    return Template(reader.parts(closing=False))


class _Reader:
    """A template and how far it has been read."""

    def __init__(self, template: str) -> None:
        self._template, self._at, self._inside = template, 0, False

    def parts(self, *, closing: bool) -> tuple[_Part, ...]:
        """Everything up to the end of the template, or of a range."""
        found: list[_Part] = []
        while self._at < len(self._template):
            if not self._inside:
                found.append(self._outside())
                continue
            if self._skip("}"):
                self._inside = False
                continue
            match = self._match(_TOKEN, "a path, a quoted text, range or end")
            quoted, word = match[1] if match[1] is not None else match[2], match[3]
            if word == "end":
                if not closing:
                    raise self._wrong("end", "a range before its end")
                return tuple(found)
            if word == "range":
                found.append(_Range(_Path(self._steps()), self.parts(closing=True)))
            elif quoted is not None:
                found.append(_Text(_unquoted(quoted)))
            else:
                found.append(_Path(self._steps()))
        if self._inside or closing:
            raise self._wrong(self._template, "a closing }" if self._inside else "an {end} for every range")
        return tuple(found)

    def _outside(self) -> _Text:
        before, brace, _ = self._template[self._at :].partition("{")
        self._at += len(before) + len(brace)
        self._inside = bool(brace)
        return _Text(before)

    def _steps(self) -> tuple[Step, ...]:
        steps: list[Step] = []
        self._skip_blanks()
        if self._skip("$"):
            steps.append(_root)
        else:
            self._skip("@")
        while self._at < len(self._template):
            if self._skip(".."):
                steps += (_descend, self._named())
            elif self._skip("."):
                if not self._is_next("[") and not self._is_next("}"):  # {.} is the value itself
                    steps.append(self._named())
            elif self._skip("["):
                steps.append(_bracket(self._bracketed()))
            else:
                break
        return tuple(steps)

    def _named(self) -> Step:
        name = self._match(_FIELD, "the name of a field")[0]
        return _every if name == "*" else _field(re.sub(r"\\(.)", r"\1", name))

    def _bracketed(self) -> str:
        """What stands between brackets; those in quotes, and within others, do not close it."""
        start, depth, quote = self._at, 1, ""
        while self._at < len(self._template):
            letter = self._template[self._at]
            self._at += 1
            if quote:
                quote = "" if letter == quote else quote
            elif letter in "'\"":
                quote = letter
            else:
                depth += (letter == "[") - (letter == "]")
                if not depth:
                    return self._template[start : self._at - 1].strip()
        raise self._wrong(self._template[start - 1 :], "a closing ]")

    def _match(self, pattern: re.Pattern[str], allowed: str) -> re.Match[str]:
        found = pattern.match(self._template, self._at)
        if found is None:
            raise self._wrong(self._template[self._at :], allowed)
        self._at = found.end()
        return found

    def _skip(self, text: str) -> bool:
        if text == "}":
            self._skip_blanks()
        found = self._is_next(text)
        self._at += len(text) if found else 0
        return found

    def _skip_blanks(self) -> None:
        while self._at < len(self._template) and self._template[self._at].isspace():
            self._at += 1

    def _is_next(self, text: str) -> bool:
        return self._template.startswith(text, self._at)

    def _wrong(self, value: str, allowed: str) -> InvalidInput:
        return InvalidInput("jsonpath", f"template, character {self._at + 1}", value, allowed)


def _bracket(inner: str) -> Step:
    """One of ``*``, a slice, a filter, or names and numbers between commas."""
    if inner == "*":
        return _every
    if found := _SLICE.match(inner):
        if found[3] and not int(found[3]):
            raise InvalidInput("jsonpath", f"[{inner}]", found[3], "a step other than 0")
        return _slice(*(int(part) if part else None for part in found.groups()))
    if found := _FILTER.match(inner):
        return _filter(found[1], found[2], found[3])
    chosen = [_choice(part.strip()) for part in re.findall(r"""\s*(?:'[^']*'|"[^"]*"|[^,]+)""", inner)]
    if not chosen:
        raise InvalidInput("jsonpath", "[]", inner, "*, a number, a slice, a filter or a quoted name")
    return lambda value, root: chain.from_iterable(step(value, root) for step in chosen)


def _choice(part: str) -> Step:
    if part[:1] in "'\"" and part[:1] == part[-1:] and len(part) > 1:
        return _field(part[1:-1])
    if re.fullmatch(r"-?\d+", part):
        return _slice_of_one(int(part))
    raise InvalidInput("jsonpath", "[]", part, "*, a number, a slice, a filter or a quoted name")


def _filter(left: str, compare: str | None, right: str | None) -> Step:
    one, other = _operand(left), _operand(right) if right is not None else None

    def step(value: Any, root: Any) -> Iterator[Any]:
        for item in _children(value):
            found = one(item, root)
            if compare is None or other is None:
                fits = found is not _MISSING
            else:
                fits = _compared(_COMPARE[compare], found, other(item, root))
            if fits:
                yield item

    return step


def _compared(compare: Callable[[Any, Any], Any], one: Any, other: Any) -> bool:
    if one is _MISSING or other is _MISSING:
        return False
    try:
        return bool(compare(one, other))
    except TypeError:  # a number and a text
        return False


def _operand(text: str) -> Callable[[Any, Any], Any]:
    if text[:1] in ("@", "$"):
        path = _Path(_Reader(text)._steps())
        return lambda value, root: next(iter(path.values(value, root)), _MISSING)
    if text[:1] == "'" and text[-1:] == "'":
        text = json.dumps(text[1:-1])
    try:
        constant = json.loads(text)
    except ValueError:
        raise InvalidInput("jsonpath", "filter", text, "a path that begins with @, a number or a quoted text") from None
    return lambda _value, _root: constant


def _root(_value: Any, root: Any) -> Iterator[Any]:
    yield root


def _every(value: Any, _root: Any) -> Iterator[Any]:
    yield from _children(value)


def _descend(value: Any, root: Any) -> Iterator[Any]:
    """The value and everything in it."""
    yield value
    for child in _children(value):
        yield from _descend(child, root)


def _field(name: str) -> Step:
    def step(value: Any, _root: Any) -> Iterator[Any]:
        if isinstance(value, dict) and name in value:
            yield value[name]

    return step


def _slice(start: int | None, stop: int | None, by: int | None = None) -> Step:
    def step(value: Any, _root: Any) -> Iterator[Any]:
        if isinstance(value, list | tuple):
            yield from value[start:stop:by]

    return step


def _slice_of_one(index: int) -> Step:
    return _slice(index, index + 1 or None)


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list | tuple) else ()


def _unquoted(text: str) -> str:
    named = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(r"\\(.)", lambda found: named.get(found[1], found[1]), text)


def _printed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))
