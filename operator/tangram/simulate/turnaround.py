"""How long jobs wait and take when they arrive, wait, run and end: the production scheduler on a trace of jobs.

The production loop runs in the simulated world; shown one job at a time it is strictly first in, first out. Beside it
stands a scheduler that is only a model: shortest remaining time first knows every duration, stops and resumes jobs at
will and for nothing, and counts GPUs without knowing of nodes. No real scheduler can do that; it is there to show how
far mean times could fall.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from tangram import units
from tangram.api import names
from tangram.api.objects import Container, Node, Pod, PodSpec, Resources
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings
from tangram.simulate.loop import Loop
from tangram.simulate.trace import TraceJob, TraceNode
from tangram.simulate.workload import Job, pods_of, traced_nodes
from tangram.simulate.world import World
from tangram.snapshot.arrays import Float64, Int64

GPUS_PER_NODE = 8
_CORES_PER_GPU = 4
_MEMORY_PER_GPU_MIB = 32 * 1024
_USUAL = tuple(60 * minutes for minutes in (10, 30, 60, 120, 240, 480, 1440, 3 * 1440, 7 * 1440, 14 * 1440, 90 * 1440))
"""What people say when they are asked how long a job runs: the next larger of these."""

Say = Callable[[int], int | None]
"""What a job says of its duration, in seconds, by how long it runs; None: nothing."""
ESTIMATES: dict[str, Say] = {
    "none": lambda _seconds: None,
    "rough": lambda seconds: _USUAL[min(bisect_left(_USUAL, seconds), len(_USUAL) - 1)],
    "exact": lambda seconds: seconds,
}


@dataclass(frozen=True, slots=True)
class Times:
    """When each job came, started and ended, in seconds; jobs in the order of their arrival."""

    arrival: Int64
    start: Int64
    """The first start, where a job was stopped and resumed."""
    end: Int64
    gpus: Int64
    seconds: Int64
    """How long it runs when nothing stops it."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What comes of a schedule. Times are in seconds."""

    name: str
    mean_completion: float
    p99_completion: float
    """From arrival to end."""
    mean_wait: float
    p99_wait: float
    """From arrival to the first start."""
    utilisation_percent: float
    """GPU time used while jobs arrived, of all there was."""
    worst_rho: float
    unfair_percent: float
    """Jobs with a finish-time fairness above 1."""
    wide_wait: float
    """Longest wait of a wide job."""


def nodes_for(jobs: Sequence[TraceJob], load: float) -> int:
    """Nodes of eight GPUs, so that the jobs would use ``load`` of them on average while they arrive if none waited.

    There are never too few for the widest job.
    """
    last, span = jobs[-1].arrival, max(1, jobs[-1].arrival - jobs[0].arrival)
    mean = sum(job.gpus * (min(last, job.arrival + job.seconds) - job.arrival) for job in jobs) / span
    widest = max(job.gpus for job in jobs)
    return max(1, round(mean / load / GPUS_PER_NODE), -(-widest // GPUS_PER_NODE))


def run_production(
    jobs: Sequence[TraceJob], nodes: int, say: Say, settings: SchedulerSettings, *, one_by_one: bool = False
) -> Times:
    """The production loop with jobs that say of their duration what ``say`` makes of it.

    ``one_by_one``: it is shown a job only when the one before has started, which makes it first in, first out.
    """
    begin = jobs[0].arrival
    world = World(_pool(nodes))
    loop = Loop(world, Cycle(settings))
    start, specs = np.full(len(jobs), -1, np.int64), dict[int, PodSpec]()

    def arrive(number: int) -> None:
        job = jobs[number]
        for pod in pods_of(_as_pods(job, specs, say(job.seconds)), number, job.arrival - begin + 1):
            world.submit(pod, duration=job.seconds)

    def arrive_at(number: int) -> None:
        if number < len(jobs):
            world.schedule(jobs[number].arrival - begin + 1, partial(arrive, number))

    def note(_old: Pod | None, new: Pod | None) -> None:
        number = int(new.metadata.name.split("-")[1]) if new is not None and new.spec.node_name else -1
        if number >= 0 and start[number] < 0:
            start[number] = world.clock.now
            if one_by_one:
                world.schedule(world.clock.now + 1, partial(arrive_at, number + 1))

    world.watch(lambda _old, _new: None, note)
    for number in range(1 if one_by_one else len(jobs)):
        arrive_at(number)
    while (moment := world.next_moment()) is not None:
        loop.run(until=moment)
    arrival, gpus, seconds = _columns(jobs)
    return Times(arrival, start, start + seconds, gpus, seconds)


def _columns(jobs: Sequence[TraceJob]) -> tuple[Int64, Int64, Int64]:
    begin = jobs[0].arrival
    arrival = np.array([job.arrival - begin + 1 for job in jobs], np.int64)
    return arrival, np.array([job.gpus for job in jobs], np.int64), np.array([job.seconds for job in jobs], np.int64)


def _pool(nodes: int) -> list[Node]:
    cores, memory = 1000 * _CORES_PER_GPU * GPUS_PER_NODE, _MEMORY_PER_GPU_MIB * GPUS_PER_NODE
    rows = (TraceNode(f"node-{number:04d}", cores, memory, GPUS_PER_NODE, "P100") for number in range(nodes))
    return traced_nodes(rows)


def _as_pods(job: TraceJob, specs: dict[int, PodSpec], said: int | None) -> Job:
    """As few equal pods as no node is too small for; more than one is a gang."""
    size = next(size for size in range(1, job.gpus + 1) if job.gpus % size == 0 and job.gpus // size <= GPUS_PER_NODE)
    each = job.gpus // size
    if each not in specs:
        amounts: dict[str, str | int | float] = {
            "cpu": _CORES_PER_GPU * each,
            "memory": f"{_MEMORY_PER_GPU_MIB * each}Mi",
            names.GPU_RESOURCE: each,
        }
        container = Container("main", Resources(requests=amounts))
        specs[each] = PodSpec((container,), restart_policy="Never", scheduler_name=names.SCHEDULER_NAME)
    notes = {} if said is None else {names.ESTIMATED_DURATION: f"{said}s"}
    return Job(specs[each], each * units.MILLI_PER_GPU, size, notes, job.seconds)


def shortest_remaining(jobs: Sequence[TraceJob], gpus: int) -> Times:
    """At every arrival and end the GPUs go to the jobs with the least left to do, as far as they fit."""
    arrival, wanted, seconds = _columns(jobs)
    left, start, end = seconds.copy(), np.full(len(jobs), -1, np.int64), np.zeros(len(jobs), np.int64)
    active, came, now = np.zeros(0, np.int64), 0, int(arrival[0])
    while came < len(jobs) or len(active):
        fresh = int(np.searchsorted(arrival, now, side="right"))
        active, came = np.concatenate([active, np.arange(came, fresh)]), fresh
        active = active[np.argsort(left[active], kind="stable")]
        runs = active[_given(wanted[active], gpus)]
        start[runs[start[runs] < 0]] = now
        step = int(left[runs[0]]) if len(runs) else 1 << 60
        step = min(step, int(arrival[came]) - now) if came < len(jobs) else step
        left[runs] -= step
        now += step
        done = runs[left[runs] == 0]
        end[done] = now
        active = active[left[active] > 0]
    return Times(arrival, start, end, wanted, seconds)


def _given(wanted: Int64, gpus: int) -> Int64:
    """Places of those that fit when GPUs are handed out in order, and those that ask for too many are passed over."""
    found: list[int] = []
    for place, ask in enumerate(wanted.tolist()):
        if ask <= gpus:
            found.append(place)
            gpus -= ask
            if not gpus:
                break
    return np.array(found, np.int64)


def finish_time_fairness(times: Times, gpus: int) -> Float64:
    """[jobs] rho of each job: its completion time by the one that it would have alone on its share of the pool.

    Finish-time fairness as in Themis (NSDI 2020). The share is 1/N of the GPUs, N being the mean number of jobs that
    were there, waiting or running, while the job was (at least 1). A job that asks for more than its share would take
    that many times longer on it. Above 1 the job would have been better off alone.
    """
    moments = np.concatenate([times.arrival, times.end])
    change = np.concatenate([np.ones(len(times.arrival)), -np.ones(len(times.end))])
    order = np.argsort(moments, kind="stable")
    moments, there = moments[order], np.cumsum(change[order])
    area = np.concatenate([[0.0], np.cumsum(there[:-1] * np.diff(moments))])

    def until(moment: Int64) -> Float64:
        """Jobs x seconds up to a moment."""
        place = np.searchsorted(moments, moment, side="right") - 1
        return np.asarray(area[place] + there[place] * (moment - moments[place]), np.float64)

    taken = times.end - times.arrival
    mean_jobs = np.maximum(1.0, (until(times.end) - until(times.arrival)) / taken)
    alone = times.seconds * np.maximum(1.0, times.gpus * mean_jobs / gpus)
    return np.asarray(taken / alone, np.float64)


def figures(name: str, times: Times, gpus: int, wide: int) -> Figures:
    """The figures of a schedule on so many GPUs; jobs with ``wide`` GPUs or more are wide."""
    completion, wait = times.end - times.arrival, times.start - times.arrival
    first, last = int(times.arrival[0]), int(times.arrival[-1])
    # A job that was stopped counts as if it had run in one piece up to its end, which is where its last part was.
    inside = np.clip(np.minimum(times.end, last) - np.maximum(times.end - times.seconds, first), 0, None)
    rho, are_wide = finish_time_fairness(times, gpus), times.gpus >= wide
    return Figures(
        name=name,
        mean_completion=float(completion.mean()),
        p99_completion=float(np.percentile(completion, 99)),
        mean_wait=float(wait.mean()),
        p99_wait=float(np.percentile(wait, 99)),
        utilisation_percent=100 * float((inside * times.gpus).sum()) / (gpus * max(1, last - first)),
        worst_rho=float(rho.max()),
        unfair_percent=100 * float((rho > 1).mean()),
        wide_wait=float(wait[are_wide].max()) if are_wide.any() else 0.0,
    )
