"""Jobs that arrive, wait, run and end: small traces with known answers, and the published one."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tangram.cli.main import tangram
from tangram.errors import InvalidTrace
from tangram.settings import SchedulerSettings
from tangram.simulate.trace import TraceJob, read_jobs
from tangram.simulate.turnaround import (
    ESTIMATES,
    figures,
    finish_time_fairness,
    nodes_for,
    run_production,
    shortest_remaining,
)

PHILLY = Path(__file__).resolve().parents[3] / "shared" / "traces" / "philly" / "philly.csv"
HEADER = "timestamp,duration,num_gpus,cluster"


def jobs(*rows: tuple[int, int, int]) -> list[TraceJob]:
    """Jobs by (arrival, seconds, GPUs)."""
    return [TraceJob(1_000_000 + arrival, seconds, gpus) for arrival, seconds, gpus in rows]


def plain(found: list[TraceJob], *, one_by_one: bool = False) -> list[int]:
    """Seconds each job waits on one node, nobody saying how long it runs."""
    settings = SchedulerSettings(reservation_delay=-1, debug=True)
    times = run_production(found, 1, ESTIMATES["none"], settings, one_by_one=one_by_one)
    return (times.start - times.arrival).tolist()


def test_the_production_loop_lets_small_jobs_pass_a_large_one() -> None:
    found = jobs((0, 100, 6), (10, 50, 8), (20, 30, 2))
    assert plain(found) == [0, 90, 0]


def test_one_by_one_nobody_passes_anybody() -> None:
    found = jobs((0, 100, 6), (10, 50, 8), (20, 30, 2))
    assert plain(found, one_by_one=True) == [0, 90, 130]


def test_a_job_that_no_node_holds_is_a_gang() -> None:
    settings = SchedulerSettings(debug=True)
    times = run_production(jobs((0, 100, 24), (5, 10, 8)), 3, ESTIMATES["exact"], settings)
    assert (times.start - times.arrival).tolist() == [0, 95]


@pytest.mark.slow
def test_reservations_keep_a_wide_job_from_starving() -> None:
    """Jobs of four GPUs come so often that one of the two halves of the node is always taken."""
    stream = [(60 * number, 90, 4) for number in range(60)]
    found = jobs(*stream[:2], (61, 10, 8), *stream[2:])
    kept = run_production(found, 1, ESTIMATES["exact"], SchedulerSettings(debug=True))
    without, held = plain(found)[2], int(kept.start[2] - kept.arrival[2])
    assert held <= 90
    assert without > 3000


@pytest.mark.slow
@pytest.mark.parametrize("said", list(ESTIMATES))
def test_equal_jobs_give_equal_times(said: str) -> None:
    """More than the pool can run at once, so that somebody is always the first in line."""
    rng = random.Random(1)
    found = jobs(*[(20 * number, rng.randint(60, 3600), rng.choice([1, 1, 2, 4, 8, 16])) for number in range(80)])
    settings = SchedulerSettings(reservation_delay=300)
    first, second = (run_production(found, 2, ESTIMATES[said], settings) for _ in range(2))
    assert first.start.tolist() == second.start.tolist()
    assert first.end.tolist() == second.end.tolist()


def test_shortest_remaining_first_stops_a_long_job_for_a_short_one() -> None:
    times = shortest_remaining(jobs((0, 100, 8), (10, 20, 8)), 8)
    assert (times.start - times.arrival).tolist() == [0, 0]
    assert (times.end - times.arrival).tolist() == [120, 20]


def test_fairness_is_completion_by_what_it_would_be_alone_on_a_share() -> None:
    """Two jobs of the whole pool one after the other: the first loses nothing, the second waited for it."""
    times = shortest_remaining(jobs((0, 100, 8), (0, 101, 8)), 8)
    first, second = finish_time_fairness(times, 8)
    assert first == pytest.approx(100 / 200)  # two jobs all the while: alone on half the pool it takes twice as long
    assert second == pytest.approx(201 / (101 * (2 * 100 + 101) / 201))
    assert figures("x", times, 8, 8).wide_wait == 100


def test_the_pool_is_sized_by_what_would_run_and_holds_the_widest() -> None:
    assert nodes_for(jobs((0, 100, 16), (100, 1, 1)), 1.0) == 2
    assert nodes_for(jobs((0, 100, 16), (100, 1, 1)), 0.5) == 4
    assert nodes_for(jobs((0, 1, 1), (100, 1, 64)), 1.0) == 8


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ("yesterday,1.0,1,a", "timestamp"),
        ("2017-10-09 07:01:55,-1,1,a", "duration"),
        ("2017-10-09 07:01:55,1,x,a", "num_gpus"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: str, column: str) -> None:
    path = tmp_path / "jobs.csv"
    path.write_text(f"{HEADER}\n2017-10-09 07:01:55,66.0,1,a\n{row}\n")
    with pytest.raises(InvalidTrace, match=rf"3.*{column}"):
        read_jobs(path)


@pytest.mark.slow
def test_the_command_compares_schedules(tmp_path: Path) -> None:
    path = tmp_path / "jobs.csv"
    rows = [f"2017-10-09 07:{minute:02}:00,600.0,{1 + minute % 8},a" for minute in range(40)]
    path.write_text("\n".join([HEADER, *rows]))
    answer = CliRunner().invoke(tangram, ["replay", "--jobs", str(path), "--load", "1.2", "--wide", "8", "-o", "json"])
    assert answer.exit_code == 0, answer.output
    told = json.loads(answer.output)
    by_name = {row["name"]: row for row in told["schedules"]}
    assert told["jobs"] == 40
    best = by_name["shortest remaining (model)"]["mean_completion"]
    assert all(row["mean_completion"] >= best - 1 for row in by_name.values())
    table = CliRunner().invoke(tangram, ["replay", "--jobs", str(path), "--limit", "5"])
    assert "first in, first out" in table.output


@pytest.mark.slow
def test_of_the_published_trace_every_job_runs_once() -> None:
    if not PHILLY.exists():
        pytest.skip(f"the Philly trace is not at {PHILLY}: put the published philly.csv there")
    found = read_jobs(PHILLY)[5000:5300]
    nodes = nodes_for(found, 1.0)
    times = run_production(found, nodes, ESTIMATES["rough"], SchedulerSettings(debug=True))
    assert (times.start >= times.arrival).all()
    moments = np.concatenate([times.start, times.end])
    change = np.concatenate([times.gpus, -times.gpus])[np.lexsort((np.repeat([1, 0], len(found)), moments))]
    assert np.cumsum(change).max() <= 8 * nodes
