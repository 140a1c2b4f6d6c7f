"""How replays are reported: a table for people, JSON for programs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import IO

from tangram.simulate.replay import Run
from tangram.simulate.turnaround import Figures

_HOUR = 3600.0


def mean_allocation(runs: Sequence[Run]) -> float:
    """Mean of the runs' GPU allocation in percent."""
    return sum(run.gpu_allocation_percent for run in runs) / len(runs)


def as_json(runs: Sequence[Run]) -> str:
    """``{"runs": [...], "mean_gpu_allocation_percent": ...}``, one line."""
    return json.dumps(
        {
            "runs": [
                {
                    "seed": run.seed,
                    "gpu_allocation_percent": round(run.gpu_allocation_percent, 4),
                    "pods": run.pods,
                    "unschedulable": run.unschedulable,
                    "seconds": round(run.seconds, 4),
                    "decisions_per_second": round(run.decisions_per_second, 1),
                }
                for run in runs
            ],
            "mean_gpu_allocation_percent": round(mean_allocation(runs), 4),
        }
    )


def print_table(runs: Sequence[Run], stream: IO[str]) -> None:
    """A row per run and the mean; plain text where the stream is not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE)
    for heading in ("SEED", "GPU ALLOCATION %", "PODS", "UNSCHEDULABLE", "SECONDS", "DECISIONS/S"):
        table.add_column(heading, justify="right")
    for run in runs:
        table.add_row(
            str(run.seed),
            f"{run.gpu_allocation_percent:.2f}",
            str(run.pods),
            str(run.unschedulable),
            f"{run.seconds:.2f}",
            f"{run.decisions_per_second:.0f}",
        )
    if len(runs) > 1:
        table.add_section()
        table.add_row("mean", f"{mean_allocation(runs):.2f}", "", "", "", "")
    Console(file=stream, width=None if stream.isatty() else 100).print(table)


def figures_as_json(rows: Sequence[Figures], jobs: int, gpus: int) -> str:
    """``{"jobs": ..., "gpus": ..., "schedules": [...]}``, one line; times in seconds."""
    rounded = [
        {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(row).items()}
        for row in rows
    ]
    return json.dumps({"jobs": jobs, "gpus": gpus, "schedules": rounded})


def print_figures(rows: Sequence[Figures], jobs: int, gpus: int, wide: int, stream: IO[str]) -> None:
    """A row per schedule, times in hours; plain text where the stream is not a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=f"{jobs} jobs on {gpus} GPUs; times in hours")
    table.add_column("")
    headings = (
        "JCT",
        "P99 JCT",
        "WAIT",
        "P99 WAIT",
        "GPUS USED %",
        "WORST RHO",
        "RHO > 1 %",
        f"LONGEST WAIT >= {wide}",
    )
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in rows:
        times = (row.mean_completion, row.p99_completion, row.mean_wait, row.p99_wait)
        table.add_row(
            row.name,
            *(f"{seconds / _HOUR:.2f}" for seconds in times),
            f"{row.utilisation_percent:.1f}",
            f"{row.worst_rho:.1f}",
            f"{row.unfair_percent:.1f}",
            f"{row.wide_wait / _HOUR:.2f}",
        )
    Console(file=stream, width=None if stream.isatty() else 140).print(table)
