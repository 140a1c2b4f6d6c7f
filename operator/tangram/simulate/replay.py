"""Replays arrivals through the production cycle and says how much of the pool they came to use.

The protocol is that of the published openb results: pods arrive one a second, are placed in the order of their
arrival and never moved, and one that does not fit when it arrives leaves.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tangram.api.objects import Node
from tangram.api.policy import HybridPolicy
from tangram.decide.registry import Registry
from tangram.errors import PluginError, TangramError
from tangram.plan import Plan
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.warm import warm_kernels
from tangram.settings import SchedulerSettings
from tangram.simulate.audit import overfilled
from tangram.simulate.loop import Loop
from tangram.simulate.workload import Job, gpu_capacity, pods_of
from tangram.simulate.world import PodKey, World

ARRIVALS_PER_CYCLE = 32
"""Arrivals between two cycles; the decisions differ from one cycle per arrival only within noise."""
_WARM_UP_JOBS = 64
_PERCENT = 100.0


@dataclass(frozen=True, slots=True)
class Options:
    """How to replay."""

    policy: HybridPolicy | None = None
    registry: Registry | None = None
    arrivals_per_cycle: int = ARRIVALS_PER_CYCLE
    debug: bool = False
    """Check the invariants of every snapshot and plan; slow."""


@dataclass(frozen=True, slots=True)
class Run:
    """One replay."""

    seed: int
    gpu_allocation_percent: float
    """Of the GPU capacity, held by pods at the end."""
    pods: int
    """Pods that arrived."""
    unschedulable: int
    """Pods that arrived and do not run at the end."""
    seconds: float
    """Wall time from the first arrival to the last decision; nodes are known and kernels compiled before."""
    placements: tuple[tuple[str, str], ...] = ()
    """(pod, node) by pod name."""

    @property
    def decisions_per_second(self) -> float:
        """Pods decided upon in a second of wall time."""
        return self.pods / self.seconds if self.seconds else 0.0


def warm_up(nodes: Sequence[Node], jobs: Sequence[Job], options: Options) -> None:
    """Compile everything that a replay will run, so that its time is not the compiler's."""
    warm_kernels()
    Replay(nodes, options).run(jobs[:_WARM_UP_JOBS])


def replay(nodes: Sequence[Node], jobs: Sequence[Job], seed: int, options: Options | None = None) -> Run:
    """Let the jobs arrive in the order given; ``seed`` only labels the answer.

    Raises PluginError when a plugin of the policy fails, and TangramError should a node end up overfilled.
    """
    capacity = gpu_capacity(nodes)
    one = Replay(nodes, options or Options())
    before = time.perf_counter()
    arrived = one.run(jobs)
    seconds = time.perf_counter() - before
    for sentence in overfilled(one.world):
        raise TangramError(f"the replay is void: {sentence}")
    bound = {pod.metadata.uid: pod.spec.node_name for pod in one.world.pods.values() if pod.spec.node_name}
    held = sum(one.gpu_milli[uid] for uid in bound)
    return Run(
        seed=seed,
        gpu_allocation_percent=_PERCENT * held / capacity,
        pods=arrived,
        unschedulable=arrived - len(bound),
        seconds=seconds,
        placements=tuple(sorted(bound.items())),
    )


class Replay:
    """One world, one scheduler, and the pods that arrive."""

    def __init__(self, nodes: Sequence[Node], options: Options) -> None:
        self.gpu_milli: dict[str, int] = {}
        """What each pod that arrived asks for."""
        self._per_cycle = options.arrivals_per_cycle
        settings = SchedulerSettings(debug=options.debug, reservation_delay=-1)  # nobody waits here
        settings = replace(settings, batch=max(settings.batch, self._per_cycle))
        cycle = Cycle(settings, options.registry)
        cycle.builder.nodes.reserve(len(nodes))
        cycle.builder.set_policy(options.policy)
        self.world = World(nodes)
        self.loop = Loop(self.world, cycle)
        self._first_moment = self.world.clock.now + 1

    def run(self, jobs: Sequence[Job]) -> int:
        """Let all jobs arrive; how many pods they were."""
        for start in range(0, len(jobs), self._per_cycle):
            self._arrive(start, jobs[start : start + self._per_cycle])
        return len(self.gpu_milli)

    def _arrive(self, start: int, jobs: Sequence[Job]) -> None:
        world, came = self.world, list[PodKey]()
        for number, job in enumerate(jobs, start):
            moment = self._first_moment + number
            world.run(moment)
            for pod in pods_of(job, number, moment):
                self.gpu_milli[pod.metadata.uid] = job.gpu_milli
                came.append((pod.metadata.namespace, pod.metadata.name))
                world.submit(pod, duration=job.duration)
        self.loop.run_to_rest()
        _refuse_faults(self.loop.cycle.last_plan)
        waiting = self._waiting(came)
        while waiting:
            # What has just been bound can be evicted from now on: a policy that preempts may still make room.
            plan = self.loop.turn()
            self.loop.run_to_rest()
            waiting = self._waiting(came)
            if not plan.place and not plan.evict:
                break
        for key in waiting:
            world.delete(*key)

    def _waiting(self, came: Sequence[PodKey]) -> list[PodKey]:
        pods = self.world.pods
        return [key for key in came if key in pods and not pods[key].spec.node_name]


def _refuse_faults(plan: Plan) -> None:
    for fault in plan.faults:
        raise PluginError(f"plugin {fault}")
