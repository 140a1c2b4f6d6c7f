"""Forms of an answer about objects, spelled as kubectl spells them: ``-o wide|name|json|yaml|jsonpath=TEMPLATE``."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum
from typing import Any

import click
from click.shell_completion import CompletionItem

from tangram.cli.options import Command

TABLE, WIDE, NAME, JSON, YAML, JSONPATH = "table", "wide", "name", "json", "yaml", "jsonpath"
FORMS = (TABLE, WIDE, NAME, JSON, YAML)


@dataclass(frozen=True, slots=True)
class Form:
    """How an answer is printed."""

    name: str
    template: str = ""
    """Of ``jsonpath``."""

    @property
    def is_table(self) -> bool:
        """Whether a person reads it."""
        return self.name in (TABLE, WIDE)

    @property
    def is_wide(self) -> bool:
        """Whether nothing is left out of the table."""
        return self.name == WIDE


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer in all its forms."""

    names: Sequence[str]
    """``kind.group/name`` of each object, for ``-o name``."""
    plain: Callable[[], Any]
    """Dictionaries, lists and plain values, for programs."""
    show: Callable[[bool], None]
    """Print it for a person; True: leave nothing out."""


class _FormType(click.ParamType[Form]):
    name = "form"

    def convert(self, value: str | Form, param: click.Parameter | None, ctx: click.Context | None) -> Form:
        from tangram.cli.jsonpath import parse
        from tangram.errors import InvalidInput

        if isinstance(value, Form):
            return value
        name, equals, template = value.partition("=")
        if value in FORMS:
            return Form(value)
        if name != JSONPATH or not equals or not template:
            self.fail(f"{value!r} is not allowed; allowed: {', '.join(FORMS)}, jsonpath=TEMPLATE", param, ctx)
        try:
            parse(template)
        except InvalidInput as error:
            self.fail(str(error), param, ctx)
        return Form(JSONPATH, template)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        known = (*FORMS, f"{JSONPATH}=")
        return [CompletionItem(name) for name in known if name.startswith(incomplete)]


def form_option(command: Command) -> Command:
    """How a verb answers about objects, as ``output``."""
    option = click.option(
        "-o",
        "--output",
        type=_FormType(),
        default=TABLE,
        show_default=True,
        metavar="FORM",
        help=f"{', '.join(FORMS)} or jsonpath=TEMPLATE.",
    )
    return option(command)


def for_programs(value: Any) -> Any:
    """Values, sequences and mappings as JSON has them; fields are spelled as in the Kubernetes API (``gpuMilli``)."""
    import msgspec

    if isinstance(value, msgspec.Struct):
        return {camel(one.encode_name): for_programs(getattr(value, one.name)) for one in msgspec.structs.fields(value)}
    if is_dataclass(value) and not isinstance(value, type):
        return {camel(one.name): for_programs(getattr(value, one.name)) for one in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): for_programs(one) for key, one in value.items()}
    if isinstance(value, list | tuple | frozenset | set):
        return [for_programs(one) for one in (sorted(value) if isinstance(value, frozenset | set) else value)]
    return value.value if isinstance(value, Enum) else value


def camel(name: str) -> str:
    """``gpu_milli`` as ``gpuMilli``."""
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


def emit(form: Form, answer: Answer) -> None:
    """Print an answer."""
    if form.is_table:
        answer.show(form.is_wide)
    elif form.name == NAME:
        for name in answer.names:
            click.echo(name)
    else:
        click.echo(_text(form, answer.plain()), nl=form.name == JSON)


def _text(form: Form, answer: Any) -> str:
    if form.name == JSON:
        return json.dumps(answer, indent=2)
    if form.name == JSONPATH:
        from tangram.cli.jsonpath import parse

        return parse(form.template).render(json.loads(json.dumps(answer)))
    import yaml

    # Through JSON, which knows no tuples and writes an object twice that occurs twice.
    return str(yaml.safe_dump(json.loads(json.dumps(answer)), sort_keys=False, allow_unicode=True))
