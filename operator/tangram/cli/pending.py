"""``tangram explain`` without a name: a line for everything that is pending."""

from typing import TYPE_CHECKING, Any

import click

from tangram.api.names import GROUP
from tangram.cli.output import Answer, Form, emit, for_programs
from tangram.cli.worlds import span, table

if TYPE_CHECKING:
    from tangram.questions.pending import Pending, PendingWorkload

_OURS = ("trainingjob", "inferenceservice")
_LONGEST = 100
"""Characters of a sentence in a line that is not wide."""


def show_pending(found: "Pending", now: int, output: Form, namespace: str) -> None:
    """Say what is pending in a namespace, or in all (``""``)."""
    for note in found.notes:
        click.echo(f"Warning: {note}", err=True)
    if not found.workloads and output.is_table:
        where = f"in namespace {namespace}" if namespace else "in any namespace"
        click.echo(f"Nothing is pending {where}.", err=True)
        return
    names = [_full_name(one) for one in found.workloads]
    emit(output, Answer(names, lambda: _plain(found), lambda wide: _show(found, now, not namespace, wide)))


def _full_name(one: "PendingWorkload") -> str:
    return f"{one.kind}.{GROUP}/{one.name}" if one.kind in _OURS else f"{one.kind}/{one.name}"


def _plain(found: "Pending") -> dict[str, Any]:
    return {"items": [for_programs(one) for one in found.workloads], "notes": list(found.notes)}


def _show(found: "Pending", now: int, namespaces: bool, wide: bool) -> None:
    head = (*(("NAMESPACE",) if namespaces else ()), "WORKLOAD", "PENDING", "AGE", "REASON", "MESSAGE")
    rows = [
        (
            *((one.namespace,) if namespaces else ()),
            f"{one.kind}/{one.name}",
            f"{one.pending}/{one.pods}",
            span(max(0, now - one.since)) if one.since else "-",
            one.reason,
            one.message if wide or len(one.message) <= _LONGEST else f"{one.message[: _LONGEST - 1]}…",
        )
        for one in found.workloads
    ]
    table(head, rows, most=len(rows))
