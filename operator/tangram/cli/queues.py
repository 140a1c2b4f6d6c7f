"""``tangram queues``: the queue tree, and how much each queue uses of what it may."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tangram.cli.options import cluster_options
from tangram.cli.output import Answer, Form, emit, form_option

if TYPE_CHECKING:
    from tangram.cluster.kubeconfig import Access
    from tangram.cluster.rest import Client
    from tangram.questions.queue_tree import QueueRow

_INDENT = "  "
_MODEL = "gpu/"
"""What stands before the name of a model in the names of amounts."""


@click.command()
@click.argument("name", metavar="[QUEUE]", required=False)
@form_option
@cluster_options
def queues(name: str | None, output: Form, kubeconfig: Path | None, context: str | None) -> None:
    """Show the queue tree: GPUs used, guarantee, limit, fair share, running and pending pods, and holds.

    With QUEUE, that queue and those below it. The figures are those that the scheduler has reported in the status of
    the HybridPolicy in force; `-o wide` adds weight, share, CPU and memory.
    """
    from tangram.cli.reading import ask, listed, published_leases
    from tangram.cli.worlds import warn_of_silence
    from tangram.cluster.paths import HYBRID_POLICIES
    from tangram.errors import Missing
    from tangram.questions.queue_tree import other_version, policy_in_force, queue_rows, subtree
    from tangram.questions.suggest import did_you_mean
    from tangram.scheduler.silence import Now, silences

    async def read(client: "Client", _: "Access") -> tuple[list[dict[str, Any]], list[str]]:
        leases = await published_leases(client)
        silent = silences(leases, Now(time.time(), client.server_clock.now() or 0))
        return await listed(client, HYBRID_POLICIES), silent

    policies, silent = ask(kubeconfig, context, read)
    warn_of_silence(*silent)
    policy = policy_in_force(policies)
    rows = queue_rows(policy)
    if name is not None:
        known = [row.name for row in rows]
        rows = subtree(rows, name)
        if not rows:
            raise Missing(f'queue "{name}" not found{did_you_mean(name, known)}')
    if version := other_version(policy):
        click.echo(f"Note: {version}", err=True)
    if policy is None:
        click.echo(
            "No HybridPolicy is in force: there is no queue but default, and workloads that name another one wait.",
            err=True,
        )
    elif not any(row.is_reported for row in rows):
        click.echo("The scheduler has not reported yet what the queues use.", err=True)
    emit(output, Answer([f"queue/{row.name}" for row in rows], lambda: as_plain(rows), lambda wide: show(rows, wide)))


def as_plain(rows: "list[QueueRow]") -> dict[str, Any]:
    """The queues for programs; amounts as the HybridPolicy writes them."""
    return {"items": [_plain(row) for row in rows]}


def _plain(row: "QueueRow") -> dict[str, Any]:
    known = {
        "used": _quantities(row.used),
        "fairShare": _quantities(row.fair_share),
        "dominantSharePercent": row.share_percent,
        "running": row.running,
        "pending": row.pending,
    }
    return {
        "name": row.name,
        "parent": row.parent or None,
        "weight": row.weight,
        "hold": row.hold,
        "guarantee": _quantities(row.guarantee),
        "limit": _quantities(row.limit),
        **(known if row.is_reported else dict.fromkeys(known)),
    }


def _quantities(amounts: Mapping[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: f"{amount}Mi" if name == "memory" else _plain_amount(amount)
        for name, amount in amounts.items()
        if name not in _models(amounts)
    }
    models = {name[len(_MODEL) :]: _plain_amount(amount) for name, amount in _models(amounts).items()}
    return found | ({"gpuModels": models} if models else {})


def _models(amounts: Mapping[str, int]) -> dict[str, int]:
    return {name: amount for name, amount in amounts.items() if name.startswith(_MODEL)}


def _plain_amount(thousandths: int) -> str:
    return f"{thousandths}m" if thousandths % 1000 else str(thousandths // 1000)


def show(rows: "list[QueueRow]", wide: bool) -> None:
    """The tree for a person: a queue stands two columns to the right of the one above it."""
    from tangram.cli.worlds import table

    more = ("WEIGHT", "SHARE", "CPU", "CPU-GUARANTEE", "CPU-LIMIT", "MEMORY", "MEMORY-GUARANTEE", "MEMORY-LIMIT")
    head = ("QUEUE", "GPUS", "GUARANTEE", "LIMIT", "FAIR-SHARE", "RUNNING", "PENDING", "HOLD", *(more if wide else ()))
    least = min((row.depth for row in rows), default=0)
    table(head, [_cells(row, row.depth - least, wide) for row in rows])


def _cells(row: "QueueRow", depth: int, wide: bool) -> tuple[str, ...]:
    def known(text: str) -> str:
        return text if row.is_reported else "-"

    cells = (
        f"{_INDENT * depth}{row.name}",
        known(_shown(_present(row.used), "gpu")),
        _shown(row.guarantee, "gpu"),
        _shown(row.limit, "gpu"),
        known(_shown(_present(row.fair_share), "gpu")),
        known(str(row.running)),
        known(str(row.pending)),
        "-" if row.hold == "None" else row.hold,
    )
    if not wide:
        return cells
    others = [
        known(_shown(amounts, resource)) if amounts is row.used else _shown(amounts, resource)
        for resource in ("cpu", "memory")
        for amounts in (row.used, row.guarantee, row.limit)
    ]
    return (*cells, str(row.weight), known(f"{row.share_percent}%"), *others)


def _present(amounts: Mapping[str, int]) -> Mapping[str, int]:
    """Without the models of which there is nothing: one that another queue names is reported for all."""
    return {name: amount for name, amount in amounts.items() if amount or not name.startswith(_MODEL)}


def _shown(amounts: Mapping[str, int], resource: str) -> str:
    amount = amounts.get(resource)
    if resource == "gpu" and _models(amounts):
        models = ", ".join(f"{name[len(_MODEL) :]} {amount / 1000:g}" for name, amount in _models(amounts).items())
        return models if amount is None else f"{amount / 1000:g} ({models})"
    if amount is None:
        return "-"
    if resource == "memory":
        return f"{amount / 1024:.4g}Gi" if amount >= 1024 else f"{amount}Mi"
    return f"{amount / 1000:g}"
