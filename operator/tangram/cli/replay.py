"""``tangram replay``: jobs of a trace that arrive, wait, run and end, under several orders of service."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tangram.cli.options import output_option
from tangram.cli.simulate import Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tangram.simulate.trace import TraceJob
    from tangram.simulate.turnaround import Figures

_MOST_JOBS = 1_000_000


@click.command()
@click.option(
    "--jobs", type=click.Path(path_type=Path), metavar="FILE", required=True, help="Job list in Philly's format (CSV)."
)
@click.option("--skip", type=click.IntRange(0, _MOST_JOBS), default=0, show_default=True, help="Leave out the first.")
@click.option("--limit", type=click.IntRange(1, _MOST_JOBS), default=5000, show_default=True, help="Jobs to replay.")
@click.option(
    "--load",
    type=click.FloatRange(0.01, 10.0),
    default=0.85,
    show_default=True,
    help="Part of the pool in use on average if no job had to wait; it sets the number of nodes.",
)
@click.option("--nodes", type=click.IntRange(1, 20_000), help="Nodes of 8 GPUs, instead of --load.")
@click.option("--wide", type=click.IntRange(1), default=64, show_default=True, help="GPUs from which a job is wide.")
@output_option
def replay(jobs: Path, skip: int, limit: int, load: float, nodes: int | None, wide: int, output: str) -> None:
    """Replay jobs with their durations and compare how long they wait and take.

    Strictly first in, first out; tangram without reservations, and as it is by default, where jobs say nothing, a rough
    or the exact word of their duration; and shortest remaining time first, which knows and may do everything.
    """
    from tangram.errors import InvalidInput, NotReachable
    from tangram.simulate.report import figures_as_json, print_figures
    from tangram.simulate.trace import read_jobs
    from tangram.simulate.turnaround import GPUS_PER_NODE, nodes_for

    try:
        found = read_jobs(jobs)[skip : skip + limit]
    except NotReachable as error:
        raise Unreadable(str(error)) from None
    if len(found) < 2:
        raise InvalidInput("replay", "--skip", skip, "a number that leaves at least two jobs")
    count = nodes or nodes_for(found, load)
    widest = max(job.gpus for job in found)
    if widest > count * GPUS_PER_NODE:
        raise InvalidInput("replay", "--nodes", count, f"at least {-(-widest // GPUS_PER_NODE)}, for the widest job")
    rows = list(_compare(found, count, wide))
    if output == "json":
        click.echo(figures_as_json(rows, len(found), count * GPUS_PER_NODE))
    else:
        print_figures(rows, len(found), count * GPUS_PER_NODE, wide, sys.stdout)


def _compare(jobs: "Sequence[TraceJob]", nodes: int, wide: int) -> "Iterator[Figures]":
    from tangram.cli.processes import calm_collector
    from tangram.scheduler.warm import warm_kernels
    from tangram.settings import SchedulerSettings
    from tangram.simulate.turnaround import ESTIMATES, GPUS_PER_NODE, figures, run_production, shortest_remaining

    warm_kernels()
    calm_collector()
    gpus, settings = nodes * GPUS_PER_NODE, SchedulerSettings()
    plain, silent = replace(settings, reservation_delay=-1), ESTIMATES["none"]
    in_order = run_production(jobs, nodes, silent, plain, one_by_one=True)
    yield figures("first in, first out", in_order, gpus, wide)
    yield figures("tangram, no reservations", run_production(jobs, nodes, silent, plain), gpus, wide)
    for name, say in ESTIMATES.items():
        yield figures(f"tangram, estimates: {name}", run_production(jobs, nodes, say, settings), gpus, wide)
    yield figures("shortest remaining (model)", shortest_remaining(jobs, gpus), gpus, wide)
