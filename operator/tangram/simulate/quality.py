"""How far placement policies fill the openb pool, list by list, beside what was published and what is possible at all.

Every figure is measured when it is asked for: the production cycle replays each list once for each seed and policy.
Only what others published, and the level that this scheduler sets itself, stand here as numbers.
"""

import math
import multiprocessing
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tangram.api import names
from tangram.api.policy import HybridPolicy, parse_policy
from tangram.decide.registry import Registry
from tangram.errors import InvalidInput
from tangram.simulate.bound import allocation_bound
from tangram.simulate.replay import ARRIVALS_PER_CYCLE, Options, replay, warm_up
from tangram.simulate.trace import TraceNode, TracePod, read_nodes, read_pods
from tangram.simulate.workload import gpu_capacity, in_order, traced_jobs, traced_nodes

DEFAULT_POLICY = "bid-price"
NODES_FILE = "openb_node_list_gpu_node.csv"
_PODS_FILE = "openb_pod_list_{}.csv"

PUBLISHED: Mapping[float, Mapping[str, Mapping[str, float]]] = {
    1.0: {
        "default": {
            "random": 86.30, "dot-product": 90.62, "gpu-clustering": 91.65, "gpu-packing": 91.78, "best-fit": 92.86,
            "fragmentation": 95.23,
        },
        "cpu100": {
            "random": 87.44, "dot-product": 91.73, "gpu-clustering": 92.42, "gpu-packing": 92.50, "best-fit": 93.26,
            "fragmentation": 95.21,
        },
        "gpushare40": {
            "random": 84.86, "dot-product": 89.30, "gpu-clustering": 89.76, "gpu-packing": 89.77, "best-fit": 91.44,
            "fragmentation": 93.96,
        },
        "gpuspec20": {
            "random": 85.90, "dot-product": 88.29, "gpu-clustering": 89.11, "gpu-packing": 89.28, "best-fit": 88.46,
            "fragmentation": 94.66,
        },
        "multigpu30": {
            "random": 86.63, "dot-product": 93.11, "gpu-clustering": 94.55, "gpu-packing": 94.70, "best-fit": 94.57,
            "fragmentation": 96.36,
        },
    },
    1.3: {
        "default": {"fragmentation": 95.39},
        "cpu100": {"fragmentation": 95.35},
        "gpushare40": {"fragmentation": 94.15},
        "gpuspec20": {"fragmentation": 94.84},
        "multigpu30": {"fragmentation": 96.46},
    },
}  # fmt: skip
"""Load -> list -> policy -> mean of ten seeds in percent ("Beware of Fragmentation", USENIX ATC 2023, artifact)."""

TARGET: Mapping[float, Mapping[str, float]] = {
    1.0: {"default": 96.0, "cpu100": 96.0, "gpushare40": 94.6, "gpuspec20": 95.4, "multigpu30": 96.8}
}
"""Load -> list -> percent that the default policy has to reach on the mean of ten seeds."""


@dataclass(frozen=True, slots=True)
class Task:
    """Replays of one list: by one policy, or none for the upper bound."""

    traces: Path
    list: str
    seeds: tuple[int, ...]
    load: float
    policy: str = ""


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of a task, in the order of its seeds."""

    task: Task
    percent: tuple[float, ...]
    seconds: tuple[float, ...] = ()
    """Wall time of each replay; none for the bound."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table; percent of the GPU capacity, seconds of wall time."""

    list: str
    policy: str
    mean: float
    worst: float
    """The seed that ended lowest."""
    published: float | None
    target: float | None
    bound: float | None
    """Mean over the seeds of what any scheduler could reach at most; None without the solver."""
    seconds: float
    """Wall time of the fastest replay: others on the machine only ever add to it."""
    percent: tuple[float, ...]
    """By seed."""


def lists_in(traces: Path) -> tuple[str, ...]:
    """Names of the pod lists in a folder, the published ones first; none where the node list is missing."""
    if not (traces / NODES_FILE).exists():
        return ()
    prefix, suffix = _PODS_FILE.split("{}")
    found = {path.name.removeprefix(prefix).removesuffix(suffix) for path in traces.glob(_PODS_FILE.format("*"))}
    published = [name for name in PUBLISHED[1.0] if name in found]
    return (*published, *sorted(found.difference(published)))


def tasks(traces: Path, lists: Sequence[str], policies: Sequence[str], seeds: Sequence[int], load: float) -> list[Task]:
    """What has to be measured; of the ``policies`` "" is the upper bound.

    Raises InvalidInput for a list that is not there, PluginError for an unknown policy.
    """
    found = lists_in(traces)
    for name in lists:
        if name not in found:
            raise InvalidInput("quality", "lists", name, ", ".join(found))
    registry = _registry()
    for policy in filter(None, policies):
        registry.create(policy)
    return [Task(traces, name, tuple(seeds), load, policy) for name in lists for policy in policies]


def measure(task: Task) -> Measured:
    """Do a task. Deterministic but for the seconds."""
    pods = read_pods(task.traces / _PODS_FILE.format(task.list))
    nodes = read_nodes(task.traces / NODES_FILE, with_models=any(pod.models for pod in pods))
    if not task.policy:
        return Measured(task, tuple(_bound(nodes, pods, seed, task.load) for seed in task.seeds))
    objects, jobs = traced_nodes(nodes), traced_jobs(pods)
    demand = math.ceil(task.load * gpu_capacity(objects))
    options = Options(policy=only(task.policy), registry=_registry(), arrivals_per_cycle=ARRIVALS_PER_CYCLE)
    warm_up(objects, in_order(jobs, task.seeds[0], demand), options)
    runs = [replay(objects, in_order(jobs, seed, demand), seed, options) for seed in task.seeds]
    return Measured(task, tuple(run.gpu_allocation_percent for run in runs), tuple(run.seconds for run in runs))


def measure_all(work: Sequence[Task], processes: int) -> Iterator[Measured]:
    """Do all tasks, several at a time, in the order in which they end."""
    if processes == 1:
        yield from map(measure, work)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(measure, task) for task in work]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def table(measured: Sequence[Measured]) -> list[Row]:
    """Lines of the table, in the order in which lists and policies were asked for."""
    bounds = {one.task.list: _mean(one.percent) for one in measured if not one.task.policy}
    rows = []
    for one in measured:
        task = one.task
        if task.policy:
            target = TARGET.get(task.load, {}).get(task.list) if task.policy == DEFAULT_POLICY else None
            published = PUBLISHED.get(task.load, {}).get(task.list, {}).get(task.policy)
            rows.append(
                Row(
                    task.list, task.policy, _mean(one.percent), min(one.percent), published, target,
                    bounds.get(task.list), min(one.seconds), one.percent,
                )
            )  # fmt: skip
    return rows


def only(plugin: str) -> HybridPolicy:
    """A HybridPolicy that scores by one plugin alone."""
    weights = {DEFAULT_POLICY: 0} | {plugin: 1}
    plugins = [{"name": name, "weight": weight} for name, weight in weights.items()]
    return parse_policy(
        {
            "apiVersion": names.API_VERSION,
            "kind": "HybridPolicy",
            "metadata": {"name": plugin},
            "spec": {"placement": {"strategy": DEFAULT_POLICY, "plugins": plugins}},
        }
    )


def _bound(nodes: Sequence[TraceNode], pods: Sequence[TracePod], seed: int, load: float) -> float:
    jobs = traced_jobs(pods)
    row_of = {id(job): pod for job, pod in zip(jobs, pods, strict=True)}
    demand = math.ceil(load * gpu_capacity(traced_nodes(nodes)))
    return allocation_bound(nodes, (row_of[id(job)] for job in in_order(jobs, seed, demand))).gpu_allocation_percent


def _registry() -> Registry:
    registry = Registry()
    registry.add_entry_points()
    return registry


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
