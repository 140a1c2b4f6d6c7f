"""``tangram quality``: how far each placement policy fills the published production pool."""

import json
import math
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from tangram.simulate.quality import Row

_TRACES = Path(__file__).resolve().parents[3].parent / "shared" / "traces" / "openb"
_MOST_SEEDS = 1000
_MOST_LOAD = 10.0
_HEADINGS = ("LIST", "POLICY", "MEAN %", "WORST SEED", "PUBLISHED", "TARGET", "BOUND", "GAP", "S/REPLAY")


def _seeds(_context: click.Context, _parameter: click.Parameter, text: str) -> tuple[int, ...]:
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})(?:-(\d{1,9}))?\s*", part, re.ASCII)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < first + _MOST_SEEDS:
            raise click.BadParameter(f"{text!r} is not allowed; allowed: numbers and ranges, such as 42-51 or 42,43")
        seeds.extend(range(first, last + 1))
    return tuple(dict.fromkeys(seeds))


def _names(_context: click.Context, _parameter: click.Parameter, text: str | None) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in (text or "").split(",") if part.strip()))


def _load(_context: click.Context, _parameter: click.Parameter, load: float) -> float:
    if not (math.isfinite(load) and 0 < load <= _MOST_LOAD):
        raise click.BadParameter(f"{load} is not allowed; allowed: a number above 0 and up to {_MOST_LOAD:g}")
    return load


@click.command()
@click.option(
    "--traces",
    type=click.Path(file_okay=False, path_type=Path),
    default=_TRACES,
    metavar="DIR",
    help="Folder with the openb lists.  [default: shared/traces/openb beside the checkout]",
)
@click.option("--lists", callback=_names, metavar="A,B", help="Pod lists to replay.  [default: all that are there]")
@click.option("--seeds", default="42-51", show_default=True, callback=_seeds, help="One replay for each.")
@click.option(
    "--policies",
    default="bid-price,fragmentation",
    show_default=True,
    callback=_names,
    metavar="A,B",
    help="Score plugins to compare, each alone.",
)
@click.option("--load", type=float, default=1.0, show_default=True, callback=_load, help="GPUs asked for, per GPU.")
@click.option("--processes", type=click.IntRange(1, 64), default=2, show_default=True, help="Replays at a time.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["table", "json", "markdown"]),
    default="table",
    show_default=True,
    help="Form of the answer.",
)
def quality(
    traces: Path,
    lists: tuple[str, ...],
    seeds: tuple[int, ...],
    policies: tuple[str, ...],
    load: float,
    processes: int,
    output: str,
) -> None:
    """Replay the openb pod lists with each policy and print how full the pool gets.

    Figures are percent of the GPU capacity, means over the seeds, beside the published means, the level that the
    default policy has to reach, and an upper bound for any scheduler (with the extra 'quality' installed).
    """
    from tangram.simulate.bound import solver_is_there
    from tangram.simulate.quality import lists_in, measure_all, table, tasks

    found = lists_in(traces)
    if not found:
        click.echo(f"skipped: no openb lists in {traces}; name their folder with --traces", err=True)
        return
    bound = solver_is_there()
    if not bound:
        click.echo("no upper bound: install the extra 'quality', as make quality does", err=True)
    work = tasks(traces, lists or found, [*policies, *([""] if bound else [])], seeds, load)
    done = {}
    for measured in measure_all(work, min(processes, len(work))):
        done[measured.task] = measured
        click.echo(f"{len(done)}/{len(work)} {measured.task.list} {measured.task.policy or 'bound'}", err=True)
    rows = table([done[task] for task in work])
    {"table": _print_table, "json": _print_json, "markdown": _print_markdown}[output](rows, seeds, load)


def _cells(row: "Row") -> tuple[str, ...]:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    gap = None if row.bound is None else row.bound - row.mean
    figures = (row.mean, row.worst, row.published, row.target, row.bound, gap, row.seconds)
    return (row.list, row.policy, *map(number, figures))


def _print_table(rows: "list[Row]", seeds: tuple[int, ...], load: float) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    made = Table(box=box.SIMPLE, title=f"GPU allocation, {len(seeds)} seeds, load {load:g}")
    for index, heading in enumerate(_HEADINGS):
        made.add_column(heading, justify="left" if index < 2 else "right")
    for before, row in zip([None, *rows], rows, strict=False):
        if before is not None and before.list != row.list:
            made.add_section()
        made.add_row(*_cells(row))
    Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120).print(made)


def _print_markdown(rows: "list[Row]", _seeds: tuple[int, ...], _load: float) -> None:
    click.echo(f"| {' | '.join(heading.lower() for heading in _HEADINGS)} |")
    click.echo("|---|---|" + "---:|" * (len(_HEADINGS) - 2))
    for row in rows:
        click.echo(f"| {' | '.join(_cells(row))} |")


def _print_json(rows: "list[Row]", seeds: tuple[int, ...], load: float) -> None:
    from dataclasses import asdict

    click.echo(json.dumps({"load": load, "seeds": list(seeds), "rows": [asdict(row) for row in rows]}))
