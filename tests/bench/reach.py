"""How far the engine reaches on clusters with company, each figure beside its target.

DaemonSets on every node, a standby that watches for a day, requests that nothing can help, claims by the thousand,
policies with many queues, taints with ever new values, rules by label, other schedulers, nodes that come and go, and
pods that are resized in place. Everything runs in this process by the production cycle, without a network; times are
CPU seconds of one core, and each part has a process of its own, so that memory is its own too.
"""

import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import msgspec
from tests.bench.rates import jobs_for, peak, resident
from tests.worlds import START, bound, cluster, gang, placed, pod, policy, requires, with_spec

from tangram.api import names
from tangram.api.objects import (
    ClaimReference,
    ContainerStatus,
    Metadata,
    Node,
    NodeSelectorTerm,
    Pod,
    PodVolume,
    Requirement,
    Resources,
    Taint,
)
from tangram.cli.processes import calm_collector
from tangram.decide.registry import GROUP, Registry
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.warm import warm_kernels
from tangram.settings import SchedulerSettings
from tangram.simulate.clock import VirtualClock
from tangram.simulate.loop import Loop
from tangram.simulate.storage import Driver, claim, delayed_class
from tangram.simulate.surroundings import surroundings
from tangram.simulate.workload import pods_of
from tangram.simulate.world import Kind, World

DAEMON_SETS, GPUS = 8, 8
EXAMPLE = Path(__file__).parents[2] / "examples" / "custom-plugin"
_QUIET_TRIES = 5
_SETTLING = 200
"""Cycles at most until one has nothing new to say."""
_AGEING = 5
"""Seconds after which the youngest pod has waited long enough to have nodes held for it."""
_LOOKED_AT = 30
"""Seconds between two decisions of the hour with a foreign taint."""
_STEP = 4
"""Seconds between two pods of the day that a standby watches."""


@dataclass(frozen=True)
class Figure:
    """What was measured, and what it may be at most."""

    name: str
    value: float
    target: float
    unit: str

    def line(self) -> str:
        """One line to read."""
        verdict = "ok" if self.value <= self.target else "MISSED"
        return f"  {self.name:75} {self.value:9.2f} of {self.target:7.2f} {self.unit:5} {verdict}"


def spent(action: Callable[[], object]) -> float:
    """CPU seconds that it takes."""
    begun = time.process_time()
    action()
    return time.process_time() - begun


def cycle_on(nodes: Iterable[Node], settings: SchedulerSettings | None = None) -> Cycle:
    """A cycle that knows these nodes."""
    found, cycle = list(nodes), Cycle(settings or SchedulerSettings())
    cycle.builder.nodes.reserve(len(found))
    for one in found:
        cycle.builder.put_node(one)
    return cycle


def settled(cycle: Cycle, now: int = START) -> int:
    """Decide until a cycle changes and says nothing; the second after it."""
    for second in range(now, now + _SETTLING):
        plan = cycle.decide(second)
        for place in plan.place:
            waiting = cycle.builder.pods[place.pod.uid].pod
            assert waiting is not None
            cycle.observe_pod(waiting, placed(waiting, place, second))
        if not (plan.place or plan.hold or plan.evict or plan.claims or plan.again):
            return second + 1
    raise AssertionError(f"no rest after {_SETTLING} cycles")


def quiet(cycle: Cycle) -> float:
    """Milliseconds of the dearest of several cycles in which nothing has changed."""
    now = settled(cycle)
    for second in range(now, now + _AGEING):
        cycle.decide(second)
    now += _AGEING
    gc.collect()
    return 1000 * max(spent(partial(cycle.decide, now + after)) for after in range(_QUIET_TRIES))


def beside_others(cycle: Cycle) -> float:
    """Milliseconds of the dearest of several cycles in each of which one small pod that has come is placed, where what
    has been worked out once is known."""
    now, taken = settled(cycle) + _AGEING, list[float]()
    for number in range(2 * _QUIET_TRIES):
        came = pod(f"came-{number}", cpu="100m")
        cycle.observe_pod(None, came)
        begun = time.process_time()
        plan = cycle.decide(now + number)
        taken.append(time.process_time() - begun)
        assert [place.pod.name for place in plan.place] == [came.metadata.name]
        cycle.observe_pod(came, placed(came, plan.place[0], now + number))
    return 1000 * max(taken[_QUIET_TRIES:])


def daemon(number: int, node: str) -> Pod:
    """A pod of a DaemonSet as its controller makes them: held on its node by the node's name."""
    here = requires(NodeSelectorTerm(match_fields=(Requirement("metadata.name", "In", (node,)),)))
    made = pod(f"daemon-{number}-{node}", cpu="100m", memory="100Mi", scheduler="default-scheduler", affinity=here)
    return bound(made, node)


def daemon_sets(nodes: int = 5_000, running: int = 35_000, waiting: int = 15_000) -> list[Figure]:
    """A cluster as it is found: eight DaemonSets, and pods that run and wait."""
    pool = cluster(f"{nodes}x{GPUS}xA100", pods=250)
    cycle, begun = cycle_on(pool), time.process_time()
    for number in range(DAEMON_SETS):
        for one in pool:
            cycle.observe_pod(None, daemon(number, one.metadata.name))
    for number in range(running):
        where, device = f"n{number % nodes}", str(number // nodes)
        cycle.observe_pod(None, bound(pod(f"running-{number}", whole=1), where, {"main": [(device, 100)]}))
    for number, job in enumerate(jobs_for(nodes, waiting)):
        for one in pods_of(job, number, START):
            cycle.observe_pod(None, one)
    reading = time.process_time() - begun
    first = spent(partial(cycle.decide, START))
    size = f"{nodes} nodes, {DAEMON_SETS} DaemonSets, {running + waiting} pods"
    return [
        Figure(f"{size}: memory at most", peak(), 800, "MiB"),
        Figure(f"{size}: first decision (reading took {reading:.1f} s)", first, 1, "s"),
    ]


def day(role: str, nodes: int = 500, hours: int = 24) -> float:
    """MiB of a scheduler that has seen an ever new request every few seconds for so long, each there for an hour.

    A standby only watches, and is asked for its first decision at the end; its leader decides all along.
    """
    cycle, there = cycle_on(cluster(f"{nodes}x{GPUS}xA100", pods=250)), list[Pod]()
    for number in range(hours * 3600 // _STEP):
        now = START + number * _STEP
        waiting = pod(f"p{number}", 30, cpu=f"{number + 1}m", uid=f"u{number}")
        cycle.observe_pod(None, waiting)
        where = bound(waiting, f"n{number % nodes}", {"main": [(str(number // nodes % GPUS), 30)]}, now)
        if role == "leader":
            where = placed(waiting, cycle.decide(now).place[0], now)
        else:
            cycle.pass_time(now)
        cycle.observe_pod(waiting, where)
        there.append(where)
        if len(there) > 3600 // _STEP:
            cycle.observe_pod(there.pop(0), None)
    cycle.observe_pod(None, pod("first", 30))
    assert cycle.decide(START + hours * 3600).place
    gc.collect()
    return resident()


def standby() -> list[Figure]:
    """A standby beside its leader."""
    leader, other = (alone("day", role) for role in ("leader", "standby"))
    name = f"standby after 24 h of ever new requests ({other:.0f} MiB; its leader {leader:.0f} MiB): ratio"
    return [Figure(name, other / leader, 1.1, "")]


def waiting_gangs(nodes: int = 2_000, gangs: int = 300) -> list[Figure]:
    """Gangs that wait for whole nodes, all of which are in use; one of those who run says when it ends."""
    name, unequal = f"gangs wait on {nodes} nodes", _gangs(nodes, gangs, unequal=True)
    return [
        Figure(f"nothing changed: {gangs} {name}", quiet(_gangs(nodes, gangs)), 2, "ms"),
        Figure(f"one other pod a cycle: {gangs} unequal {name}", beside_others(unequal), 40, "ms"),
    ]


def _gangs(nodes: int, gangs: int, *, unequal: bool = False) -> Cycle:
    """``unequal``: every other member asks for more CPU."""
    cycle = cycle_on(cluster(f"{nodes}x{GPUS}xA100"))
    for number in range(nodes):
        says = {names.ESTIMATED_DURATION: "1h"} if number == 0 else None
        one = with_spec(pod(f"r{number}", whole=GPUS, annotations=says), restart_policy="Never")
        devices = [(str(device), 100) for device in range(GPUS)]
        cycle.observe_pod(None, bound(one, f"n{number}", {"main": devices}))
    for number in range(gangs):
        small, large = (
            gang(f"g{number}", 4, whole=GPUS, cpu=f"{cpu + number}m", age=gangs - number)
            for cpu in (1_000, 2_000 if unequal else 1_000)
        )
        for member in (*small[:2], *large[2:]):
            cycle.observe_pod(None, member)
    return cycle


def hopeless(nodes: int = 1_000, requests: int = 20) -> list[Figure]:
    """Requests of high priority that no eviction helps, beside gangs of low priority that run."""
    name = f"{requests} hopeless requests on {nodes} nodes"
    return [
        Figure(f"nothing changed: {name}", quiet(_hopeless(nodes, requests)), 2, "ms"),
        Figure(f"one other pod a cycle: {name}", beside_others(_hopeless(nodes, requests)), 10, "ms"),
    ]


def _hopeless(nodes: int, requests: int) -> Cycle:
    cycle = cycle_on(cluster(f"{nodes}x{GPUS}xA100"))
    for number in range(nodes * GPUS):
        where, device = divmod(number, GPUS)
        one = pod(f"r{number}", whole=1, gang=f"g{where}", gang_min=GPUS)
        cycle.observe_pod(None, bound(one, f"n{where}", {"main": [(str(device), 100)]}))
    for number in range(requests):
        cycle.observe_pod(None, pod(f"w{number}", whole=2 * GPUS, priority=1000, cpu=f"{number + 1}m"))
    return cycle


def at_limits(pods: int = 50_000, queues: int = 10) -> list[Figure]:
    """Pods whose queues have all that they may have."""
    cycle = cycle_on(cluster(f"100x{GPUS}xA100"))
    limits = [{"name": f"q{number}", "limit": {"gpu": "2"}} for number in range(queues)]
    cycle.builder.set_policy(policy({"name": "a", "weight": 1}, queues=limits))
    for number in range(pods):
        cycle.observe_pod(None, pod(f"w{number}", 30, age=pods - number, queue=f"q{number % queues}"))
    return [Figure(f"nothing changed: {pods} pods wait at the limits of {queues} queues", quiet(cycle), 2, "ms")]


def claims(pods: int = 4_000) -> list[Figure]:
    """Pods that come with a claim each; every claim is made, chosen for, and bound to a volume."""
    nodes = cluster(f"{pods // 40}xcpu", cpu=96)
    cycle, clock = Cycle(SchedulerSettings()), VirtualClock(START)
    world = World(nodes, clock)
    loop = Loop(world, cycle)
    world.follow(surroundings(cycle.builder, loop.wake))
    world.put(Kind.STORAGE_CLASS, "local", delayed_class("local"))
    world.put_class("local", Driver(seconds=1))
    cycle.builder.volumes_are_known()

    def come_and_run() -> None:
        for number in range(pods):
            world.put(Kind.CLAIM, ("default", f"c{number}"), claim("default", f"c{number}", "local"))
            volume = PodVolume("data", persistent_volume_claim=ClaimReference(f"c{number}"))
            world.submit(with_spec(pod(f"p{number}"), volumes=(volume,)))
        loop.run(START + 60)

    seconds = spent(come_and_run)
    unbound = [one for one in world.pods.values() if not one.spec.node_name]
    assert not unbound, f"{len(unbound)} pods wait still"
    return [Figure(f"{pods} pods waiting for claims, created and bound", seconds, 3, "s")]


def policy_edit(queues: int = 250, classes: int = 4) -> list[Figure]:
    """A policy with as many queues as are allowed is edited while a pod of each leaf waits."""
    there = [{"name": f"c{number}", "weight": 1} for number in range(classes)]
    before, after = (
        policy(*there, queues=[{"name": f"q{number}", "weight": weight} for number in range(queues)])
        for weight in (1, 2)
    )
    cycle = cycle_on(cluster(f"20x{GPUS}xA100"))
    cycle.builder.set_policy(before)
    for number in range(queues):
        for klass in range(classes):
            cycle.observe_pod(None, pod(f"w{number}-{klass}", whole=16, queue=f"q{number}", klass=f"c{klass}"))
    settled(cycle)
    seconds = spent(partial(cycle.builder.set_policy, after))
    return [Figure(f"edit of a policy of {queues} queues x {classes} classes", 1000 * seconds, 50, "ms")]


def taints(nodes: int = 500, hour: int = 3_600) -> list[Figure]:
    """A foreign taint that carries the time as its value comes and goes each second, while 300 requests wait."""
    pool = cluster(f"{nodes}x{GPUS}xA100")
    cycle, quarters = cycle_on(pool), list[float]()
    for number in range(300):
        cycle.observe_pod(None, pod(f"w{number}", whole=16, cpu=f"{number + 1}m"))
    settled(cycle)
    memory = resident()
    for begin in range(0, hour, hour // 4):
        begun = time.process_time()
        for second in range(begin, begin + hour // 4):
            one = pool[second % nodes]
            mark = Taint("DeletionCandidateOfClusterAutoscaler", "PreferNoSchedule", str(START + second))
            marked = msgspec.structs.replace(one.spec, taints=(mark,))
            cycle.builder.put_node(msgspec.structs.replace(one, spec=marked))
            if second % _LOOKED_AT == 0:
                cycle.decide(START + second)
            cycle.builder.put_node(one)
        quarters.append(time.process_time() - begun)
    name = "a new taint value each second for an hour"
    return [
        Figure(f"{name}: last quarter's time by the first's", quarters[-1] / quarters[0], 1.1, ""),
        Figure(f"{name}: growth", resident() - memory, 2, "MiB"),
    ]


def rules(nodes: int = 1_000, waiting: int = 10_000) -> list[Figure]:
    """Rules by label, from the documentation: what pods cost that they do not concern; one in a hundred they do."""
    sys.path.insert(0, str(EXAMPLE))
    registry = Registry()
    registry.add_entry_points([EntryPoint("team-cells", "team_cells:TeamCells", GROUP)])
    registry.add_entry_points([EntryPoint("cheap-region", "cheap_region:CheapRegion", GROUP)])
    chosen = [
        {"name": "team-cells", "args": {"cells": {"vision": "x"}}},
        {"name": "cheap-region", "weight": 4, "args": {"regions": ["north"]}},
    ]

    def placing(plugins: list[dict[str, Any]]) -> float:
        """CPU seconds that placing all of them takes."""
        cycle, seconds = Cycle(registry=registry), 0.0
        cycle.builder.set_policy(policy(placement={"plugins": plugins}))
        for number, one in enumerate(cluster(f"{nodes}x{GPUS}xA100", labels={"cell": "x"})):
            labels = one.metadata.labels | {"topology.kubernetes.io/region": "north" if number % 2 else "south"}
            cycle.builder.put_node(msgspec.structs.replace(one, metadata=Metadata(one.metadata.name, labels=labels)))
        for number in range(waiting):
            one = pod(f"p{number}", 30 + 20 * (number % 2), cpu=1 + number % 3)
            labels = {"team": "vision", "spend": "saving"} if number % 100 == 0 else {}
            cycle.observe_pod(None, msgspec.structs.replace(one, metadata=Metadata(**_named(one), labels=labels)))
        while (left := waiting - cycle.counters.placed) > 0:
            seconds += spent(partial(cycle.decide, START))
            assert waiting - cycle.counters.placed < left
        return seconds

    placing(chosen)
    without, with_rules = (min(placing(plugins) for _ in range(3)) for plugins in ([], chosen))
    name = f"placing {waiting} pods on {nodes} nodes with two rules by label, by the time without"
    return [Figure(name, with_rules / without, 1.5, "")]


def company(nodes: int = 1_000, waiting: int = 2_560, others: int = 100, moving: int = 10) -> list[Figure]:
    """Other schedulers bind pods between our decisions, every tenth with a GPU of which nobody knows which it is; nodes
    go while those that went before come back; pods that run are resized in place, and the kubelet follows."""
    residents = [bound(pod(f"r{number}", cpu="1"), f"n{number % nodes}") for number in range(10 * others)]
    pool = cluster(f"{nodes}x{GPUS}xA100", pods=250)

    def foreign(cycle: Cycle, turn: int) -> None:
        for number in range(turn * others, (turn + 1) * others):
            one = pod(f"f{number}", whole=number % 10 == 0, cpu="100m", scheduler="default-scheduler")
            cycle.observe_pod(None, bound(one, f"n{number * 7 % nodes}"))

    def moves(cycle: Cycle, turn: int) -> None:
        for number in range(moving):
            cycle.builder.remove_node(f"n{(turn * moving + number) % nodes}")
            if turn:
                cycle.builder.put_node(pool[((turn - 1) * moving + number) % nodes])

    def resizes(cycle: Cycle, turn: int) -> None:
        for number in range(turn * others, (turn + 1) * others):
            old, before, now = residents[number % len(residents)], f"{1 + turn % 2}", f"{2 - turn % 2}"
            for running in (before, now):  # the spec says so at once, the kubelet a little later
                cycle.observe_pod(None, _resized(old, now, running))

    def placing(*between: Callable[[Cycle, int], None], there: Sequence[Pod] = ()) -> float:
        """CPU seconds until all are placed, taking in what others do included."""
        cycle, seconds, turn = cycle_on(pool), 0.0, 0
        for one in there:
            cycle.observe_pod(None, one)
        for number in range(waiting):
            cycle.observe_pod(None, pod(f"p{number}", 30 + 20 * (number % 2), cpu=f"{1 + number % 3}"))
        while cycle.counters.placed < waiting:
            seconds += sum(spent(partial(what, cycle, turn)) for what in between)
            before = cycle.counters.placed
            seconds += spent(partial(cycle.decide, START + turn))
            assert cycle.counters.placed > before
            turn += 1
        return seconds

    placing(foreign, moves, resizes)
    alone, with_foreign, with_moves = (
        min(placing(*between) for _ in range(3)) for between in ((), (foreign,), (moves,))
    )
    at_rest, with_resizes = (min(placing(*between, there=residents) for _ in range(3)) for between in ((), (resizes,)))
    name = f"placing {waiting} pods on {nodes} nodes while"
    return [
        Figure(f"{name} others bind {others} a cycle, by the time alone", with_foreign / alone, 2, ""),
        Figure(f"{name} {moving} nodes a cycle go and come, by the time alone", with_moves / alone, 2, ""),
        Figure(f"{name} {others} pods a cycle are resized in place, by the time alone", with_resizes / at_rest, 2, ""),
    ]


def _resized(one: Pod, asked: str, running: str) -> Pod:
    """The pod with other CPUs in its spec, and what its container runs with."""
    container = one.spec.containers[0]
    amounts = {cpus: Resources(container.resources.requests | {"cpu": cpus}) for cpus in (asked, running)}
    container = msgspec.structs.replace(container, resources=amounts[asked])
    status = msgspec.structs.replace(
        one.status, container_statuses=(ContainerStatus(container.name, amounts[running]),)
    )
    spec = msgspec.structs.replace(one.spec, containers=(container,))
    return Pod(one.metadata, spec, status)


def _named(one: Pod) -> dict[str, str]:
    return {"name": one.metadata.name, "namespace": one.metadata.namespace, "uid": one.metadata.uid}


PARTS: dict[str, Callable[[], list[Figure]]] = {
    "daemon-sets": daemon_sets, "standby": standby, "gangs": waiting_gangs, "hopeless": hopeless,
    "limits": at_limits, "claims": claims, "policy-edit": policy_edit, "taints": taints,
    "rules": rules, "company": company,
}  # fmt: skip


def alone(part: str, *arguments: str) -> Any:
    """The answer of one measurement in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.reach", part, *arguments]
    return msgspec.json.decode(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)


def run() -> list[Figure]:
    """Run and print the measurements."""
    print("reach: clusters with company (CPU time of one core; figure of target)")
    found = [Figure(**one) for part in PARTS for one in alone(part)]
    print("\n".join(figure.line() for figure in found))
    return found


if __name__ == "__main__":
    warm_kernels()
    calm_collector()  # as whoever schedules does
    part, *arguments = sys.argv[1:]
    answer = day(*arguments) if part == "day" else PARTS[part]()
    print(msgspec.json.encode(answer).decode())
