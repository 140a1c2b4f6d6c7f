"""What a decision costs on simulated pools of any size: at full load, in a trickle, and after a day of churn.

Everything runs in this process, without a network: the production cycle in the simulated world, by the default policy.
A decision is a pod that has been placed or told why it waits. Time is that of one core, spent by this process, so that
whatever else the machine does stays out of it.
"""

import gc
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tests.bench.plot import Curve, drawn
from tests.bench.workload import TRACES

from tangram.api import names
from tangram.api.objects import Container, Metadata, Node, NodeStatus, PodSpec, Resources
from tangram.cli.processes import calm_collector
from tangram.plan import Plan
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.warm import warm_kernels
from tangram.simulate.loop import Loop
from tangram.simulate.replay import ARRIVALS_PER_CYCLE, Options, Replay, warm_up
from tangram.simulate.trace import read_nodes, read_pods
from tangram.simulate.workload import (
    Job,
    generated_jobs,
    gpu_capacity,
    in_order,
    pods_of,
    traced_jobs,
    traced_nodes,
)
from tangram.simulate.world import World

GPUS = 8
POOLS = ((5_000, 50_000), (12_500, 100_000))
"""(nodes, pods) of the measurements at full load."""
PER_LOOK = (16, ARRIVALS_PER_CYCLE, 64)
"""Arrivals between two looks in the replay of the trace."""
SIZES = (100, 300, 1_000, 3_000, 5_000, 12_500)
"""Nodes of the pools of the curve."""
FULL_LOAD_PODS, TRICKLE_PODS = 5_000, 300
FILLED = 0.7
DAY = 24 * 3600
_CHURN_EVERY, _CHURN_MEAN = 8, 3600


@dataclass
class Pool:
    """A simulated pool with its scheduler, and how long the scheduler has thought."""

    world: World
    loop: Loop
    deciding: float = 0.0
    came: int = 0

    def submit(self, jobs: Iterator[Job] | list[Job], duration: int | None = None) -> int:
        """Let jobs arrive now; how many pods they were."""
        before = self.came
        for job in jobs:
            for pod in pods_of(job, self.came, self.world.clock.now):
                self.world.submit(pod, duration=duration)
                self.came += 1
        return self.came - before


def pool(nodes: int) -> Pool:
    """An empty pool."""
    objects = [node(number) for number in range(nodes)]
    cycle, world = Cycle(), World(objects)
    cycle.builder.nodes.reserve(nodes)
    made = Pool(world, Loop(world, cycle))
    cycle.decide = timed(made, cycle.decide)  # type: ignore[method-assign]
    return made


def timed(made: Pool, decide: Callable[[int], Plan]) -> Callable[[int], Plan]:
    """The same with its time added to the pool's."""

    def measured(now: int) -> Plan:
        begun = time.process_time()
        plan = decide(now)
        made.deciding += time.process_time() - begun
        return plan

    return measured


def node(number: int) -> Node:
    """A node of eight GPUs."""
    name = f"node-{number:05}"
    labels = {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": "A100"}
    amounts: dict[str, str | int | float] = {
        "cpu": "128", "memory": "1024Gi", "pods": 250, names.GPU_RESOURCE: GPUS, names.FRACTION_RESOURCE: 100 * GPUS
    }  # fmt: skip
    return Node(Metadata(name, labels=labels), status=NodeStatus(allocatable=amounts))


def jobs_for(nodes: int, count: int, seed: int = 42) -> list[Job]:
    """The generated mix without gangs: CPU pods, parts of GPUs, whole GPUs."""
    drawn_jobs = generated_jobs([node(0)], seed, count=count * 2)
    return [job for job in drawn_jobs if job.size == 1][:count]


def full_load(nodes: int, pods: int) -> dict[str, float]:
    """Everything is there at once: pods decided per second, by the whole loop and by ``Cycle.decide`` alone."""
    made, jobs = pool(nodes), jobs_for(nodes, pods)
    begun = time.process_time()
    made.submit(jobs)
    made.loop.run_to_rest(100_000)
    seconds = time.process_time() - begun
    return {
        "nodes": nodes, "pods": pods, "placed": made.loop.cycle.counters.placed,
        "whole": pods / seconds, "decide": pods / made.deciding,
        "resident": peak(),
    }  # fmt: skip


def openb(per_look: int, seed: int = 42, times: int = 5) -> dict[str, float]:
    """The openb default list: decisions per second of the best of several equal replays; ``per_look`` arrivals between
    two looks of the scheduler."""
    nodes = traced_nodes(read_nodes(TRACES / "openb_node_list_gpu_node.csv"))
    jobs = in_order(traced_jobs(read_pods(TRACES / "openb_pod_list_default.csv")), seed, gpu_capacity(nodes))
    options = Options(arrivals_per_cycle=per_look)
    warm_up(nodes, jobs, options)
    whole, alone = [], []
    for _ in range(times):
        replay = Replay(nodes, options)
        made = Pool(replay.world, replay.loop)
        replay.loop.cycle.decide = timed(made, replay.loop.cycle.decide)  # type: ignore[method-assign]
        begun = time.process_time()
        pods = replay.run(jobs)
        whole.append(time.process_time() - begun)
        alone.append(made.deciding)
    return {"pods": pods, "whole": pods / min(whole), "decide": pods / min(alone), "seconds": min(whole)}


def cost(nodes: int) -> dict[str, float]:
    """Microseconds for a decision on a pool that is filled to ``FILLED``: many at once, and one at a time."""
    made = pool(nodes)
    fill = int(FILLED * nodes * GPUS / 1.3)
    made.submit(jobs_for(nodes, fill))
    made.loop.run_to_rest(100_000)
    load = jobs_for(nodes, FULL_LOAD_PODS, seed=1)[: min(FULL_LOAD_PODS, fill // 8)]
    gc.collect()
    begun = time.process_time()
    count = made.submit(load)
    made.loop.run_to_rest(100_000)
    many = (time.process_time() - begun) / count
    running = [key for key, pod in made.world.pods.items() if pod.spec.node_name]
    random.Random(1).shuffle(running)
    spent = []
    for job, key in zip(jobs_for(nodes, TRICKLE_PODS, seed=2), running, strict=False):
        begun = time.process_time()
        made.world.delete(*key)
        made.submit([job])
        made.loop.run_to_rest()
        spent.append(time.process_time() - begun)
    return {"nodes": nodes, "many": 1e6 * many, "single": 1e6 * statistics.median(spent)}


def churn(nodes: int = 100) -> dict[str, float]:
    """A day of pods that run about an hour, each fourth of a shape never seen before: memory by the hour."""
    made, chance, hours = pool(nodes), random.Random(7), list[float]()
    jobs = jobs_for(nodes, DAY // _CHURN_EVERY)
    for number, job in enumerate(jobs):
        moment = number * _CHURN_EVERY
        made.loop.run(moment)
        made.submit([job if number % 4 else unseen(number)], duration=int(chance.expovariate(1 / _CHURN_MEAN)) + 1)
        made.loop.run_to_rest()
        if moment % 3600 == 0:
            gc.collect()
            hours.append(resident())
    later = hours[6:]
    slope = statistics.linear_regression(range(len(later)), later).slope
    return {"pods": made.came, "first": later[0], "last": later[-1], "slope": slope}


def unseen(number: int) -> Job:
    """A job whose request nobody else has."""
    requests: dict[str, str | int | float] = {"cpu": f"{1000 + number % 20_000}m", "memory": f"{1 + number % 7}Gi"}
    spec = PodSpec(containers=(Container("main", Resources(requests=requests)),), scheduler_name=names.SCHEDULER_NAME)
    return Job(spec, 0)


def resident() -> float:
    """MiB that the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def peak() -> float:
    """MiB that the process held at most; ``ru_maxrss`` would count what its parent held before it was this program."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1024


def alone(part: str, *arguments: int) -> Any:
    """The answer of one measurement in a process of its own, so that memory is its own too."""
    command = [sys.executable, "-m", "tests.bench.rates", part, *map(str, arguments)]
    return msgspec.json.decode(subprocess.run(command, capture_output=True, check=True).stdout)


def run() -> dict[str, Any]:
    """Run and print the measurements."""
    print("decisions on simulated pools of 8-GPU nodes (CPU seconds of one core; nothing but the scheduler's own work)")
    if TRACES.exists():
        for per_look in PER_LOOK:
            trace = alone("openb", per_look)
            print(
                f"  openb, {trace['pods']} pods, {per_look:2} arrivals a look: {trace['whole']:.0f}/s whole loop "
                f"({trace['seconds']:.2f} s), {trace['decide']:.0f}/s decide alone"
            )
    loads = [alone("full_load", *sizes) for sizes in POOLS]
    for found in loads:
        print(
            f"  {found['nodes']:6} nodes, {found['pods']:6} pods at once: {found['whole']:6.0f}/s whole loop, "
            f"{found['decide']:6.0f}/s decide alone, {found['placed']} placed, {found['resident']:.0f} MiB at most"
        )
    curve = [alone("cost", nodes) for nodes in SIZES]
    print("  nodes:                                " + "".join(f"{found['nodes']:8}" for found in curve))
    for name, meaning in (("many", "us a decision, many waiting"), ("single", "us a decision, one at a time")):
        print(f"    {meaning:35} " + "".join(f"{found[name]:8.0f}" for found in curve))
    day = alone("churn")
    print(
        f"  24 h of {day['pods']} pods on 100 nodes: {day['first']:.0f} MiB after 6 h, {day['last']:.0f} MiB after 24, "
        f"{1024 * day['slope']:+.0f} KiB an hour"
    )
    return {"loads": loads, "curve": curve, "day": day}


def plot(curve: list[dict[str, float]]) -> str:
    """The curve as a picture."""
    return drawn(
        "CPU time of one decision by the size of the pool", "nodes of 8 GPUs", "microseconds",
        [
            Curve("many pods waiting", [(found["nodes"], found["many"]) for found in curve]),
            Curve("one pod at a time", [(found["nodes"], found["single"]) for found in curve]),
        ],
    )  # fmt: skip


PARTS: dict[str, Callable[..., Any]] = {"full_load": full_load, "cost": cost, "churn": churn, "openb": openb}

if __name__ == "__main__":
    if sys.argv[1] == "plot":
        Path(sys.argv[2]).write_text(plot([alone("cost", nodes) for nodes in SIZES]))
    else:
        warm_kernels()
        calm_collector()  # as whoever schedules or simulates does
        print(msgspec.json.encode(PARTS[sys.argv[1]](*map(int, sys.argv[2:]))).decode())
