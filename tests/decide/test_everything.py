"""All features at once: whatever queues, gangs, levels, durations, losses and restarts meet, every step is legal, no
work is evicted again and again, and without news everything comes to rest.

``TANGRAM_WORLDS`` sets how many histories are tried (seeds 0, 1, …).
"""

import os
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
from msgspec.structs import replace
from tests.budget import examples
from tests.worlds import START, World, node, pod, policy, with_spec

from tangram.api import names
from tangram.api.objects import Node, Pod
from tangram.plan import Plan

WORLDS = int(os.environ.get("TANGRAM_WORLDS", examples(48)))
_GROUPS = 8
"""The histories are run in so many tests, so that several processes can share them."""
_LONGEST = 300
_QUIET = 4
_MOST_EVICTIONS = 12
"""Times that one and the same work may be evicted in a history: it is created anew each time."""
RACK = "topology.kubernetes.io/rack"


@dataclass(slots=True)
class History:
    """A world in which controllers create evicted pods anew."""

    chance: random.Random
    modes: random.Random
    """Of modes of isolation only, so that they change nothing else in a history."""
    queues: list[dict[str, Any]] = field(default_factory=list)
    evicted: Counter[str] = field(default_factory=Counter)
    """By the name of the work, whichever pod does it."""
    generation: Counter[str] = field(default_factory=Counter)
    world: World = field(init=False)

    def __post_init__(self) -> None:
        chance = self.chance
        self.queues = some_queues(chance)
        classes = [{"name": "gold", "weight": 5}, {"name": "tin", "weight": 1}]
        if chance.random() < 0.3:
            classes[0] |= {"nodeSelector": {RACK: "r0"}}
        nodes = [some_node(chance, number) for number in range(chance.randint(2, 5))]
        self.world = World(
            nodes,
            policy=policy(
                *classes[: chance.choice([0, 2, 2])],
                fallback=chance.choice(["best-effort", "preempt", "strict"]),
                queues=self.queues,
            ),
            batch=chance.choice([3, 256]),
            grace=chance.choice([0, 0, 2]),
            gang_timeout=chance.choice([0, 5, 60]),
            reservation_delay=chance.choice([-1, 0, 20, 3600]),
        )
        for one in nodes[1:]:
            self.tell(one)

    def tell(self, there: Node) -> None:
        """The node's agent tells how it gives out its GPUs; some nodes have no agent."""
        if self.modes.random() < 0.3:
            mode = self.modes.choice(["exclusive", "mps", "time-slice", "mig"])
            self.world.give_out(there.metadata.name, mode, int(there.status.allocatable[names.GPU_RESOURCE]))

    def create(self, number: int) -> None:
        """One pod, or the pods of a gang."""
        chance = self.chance
        options: dict[str, Any] = {
            "queue": chance.choice(["", *(queue["name"] for queue in self.queues)]) if self.queues else "",
            "priority": chance.choice([0, 0, 0, 5, 9]),
            "klass": chance.choice(["", "gold", "tin"]),
            "models": chance.choice(["", "", "", "H100"]),
            **chance.choice([{"whole": 1}, {"whole": 1}, {"whole": 2}, {"gpu": 50}, {"gpu": 30}, {}]),
            "cpu": chance.choice([1, 1, 3]),
        }
        notes = {names.ESTIMATED_DURATION: chance.choice(["5s", "40s"])} if chance.random() < 0.4 else {}
        if self.modes.random() < 0.1:
            notes[names.GPU_ISOLATION] = self.modes.choice(["mps", "mps|time-slice", "mps|exclusive"])
        count = chance.choice([1, 1, 1, 2, 3, 4])
        minimum = max(1, count - chance.choice([0, 0, 1, 2]))
        roles = ["leader", *["worker"] * (count - 1)] if count > 1 and chance.random() < 0.4 else [""] * count
        if count > 1:
            options |= {"gang": f"g{number}", "gang_min": minimum}
            if roles[0] and minimum > 1:
                notes[names.GANG_ROLE_MIN] = f"leader=1,worker={minimum - 1}"
            for level in (names.TOPOLOGY_REQUIRED, names.TOPOLOGY_PREFERRED):
                if chance.random() < 0.35:
                    notes[level] = chance.choice(["rack", "rack", "host"])
        peaceful = chance.random() < 0.1
        for member, role in enumerate(roles):
            one = pod(f"p{number}-{member}", annotations=notes, age=START - self.world.now, **options)
            one = with_spec(one, preemption_policy="Never" if peaceful else "PreemptLowerPriority")
            self.world.add(labelled(one, **({names.ROLE: role} if role else {})))
        if chance.random() < 0.1:
            self.world.protected.add(f"p{number}-0")

    def step(self) -> Plan:
        """One look; what was evicted and has left is created anew."""
        world, before = self.world, len(self.world.evicted)
        there = dict(world.live)
        plan = world.step()
        self.evicted.update(evict.pod.name for evict in world.evicted[before:])
        for uid, one in there.items():
            if uid not in world.live:
                self.begin_anew(one)
        self.within_limits()
        self.near()
        self.kept_apart(plan)
        return plan

    def begin_anew(self, old: Pod) -> None:
        name = old.metadata.name
        self.generation[name] += 1
        notes = {key: value for key, value in old.metadata.annotations.items() if key != names.GPUS}
        fresh = pod(name, uid=f"uid-{name}.{self.generation[name]}", age=START - self.world.now).metadata
        self.world.add(
            Pod(
                replace(fresh, labels=old.metadata.labels, annotations=notes),
                with_spec(Pod(old.metadata, old.spec), node_name="").spec,
            )
        )

    def lose(self, lost: Node) -> None:
        """A node is gone, and the pods on it."""
        self.world.nodes.remove(lost)
        self.world.cycle.builder.remove_node(lost.metadata.name)
        for one in [one for one in self.world.live.values() if one.spec.node_name == lost.metadata.name]:
            self.world.delete(one.metadata.name)
            self.begin_anew(one)

    def news(self) -> None:
        """A node is lost or comes, the scheduler starts again, or a pod ends."""
        chance, world = self.chance, self.world
        what = chance.random()
        if self.modes.random() < 0.1:
            self.tell(self.modes.choice(world.nodes))
        if what < 0.05 and len(world.nodes) > 1:
            self.lose(chance.choice(world.nodes))
        elif what < 0.1:
            added = some_node(chance, 10 + len(world.seen))
            world.nodes.append(added)
            world.cycle.builder.put_node(added)
            self.tell(added)
        elif what < 0.2:
            self.start_again()
        elif what < 0.5 and world.where:
            world.delete(chance.choice(list(world.where)))
        elif what < 0.6:
            world.now += chance.choice([6, 70, 4000])

    def start_again(self) -> None:
        """A new scheduler that sees everything in another order."""
        self.chance.shuffle(self.world.nodes)
        items = list(self.world.live.items())
        self.chance.shuffle(items)
        self.world.live = dict(items)
        self.world.start_again()

    def within_limits(self) -> None:
        """What runs in every queue and below it is within the queue's limits, in all and by model."""
        model = {one.metadata.name: one.metadata.labels.get("nvidia.com/gpu.product", "") for one in self.world.nodes}
        used: Counter[tuple[str, str]] = Counter()
        parents = {queue["name"]: queue.get("parent") for queue in self.queues}
        for one in self.world.live.values():
            if one.spec.node_name:
                requests = one.spec.containers[0].resources.requests
                milli = 1000 * int(requests.get(names.GPU_RESOURCE, 0))
                milli += 10 * int(requests.get(names.FRACTION_RESOURCE, 0))
                queue: str | None = one.metadata.labels.get(names.QUEUE)
                while queue is not None:
                    used[queue, ""] += milli
                    used[queue, model[one.spec.node_name]] += milli
                    queue = parents[queue]
        for one_queue in self.queues:
            limit, name = one_queue.get("limit", {}), one_queue["name"]
            for kind, most in {"": limit.get("gpu"), **limit.get("gpuModels", {})}.items():
                assert most is None or used[name, kind] <= 1000 * int(most), f"{name} uses {used[name, kind]} of {kind}"

    def near(self) -> None:
        """Gangs that must be within one domain are."""
        levels = {"rack": RACK, "host": "kubernetes.io/hostname"}
        labels = {one.metadata.name: one.metadata.labels for one in self.world.nodes}
        homes: dict[tuple[str, str], set[str | None]] = {}
        for one in self.world.live.values():
            level = one.metadata.annotations.get(names.TOPOLOGY_REQUIRED)
            if level and one.spec.node_name and not one.metadata.deletion_timestamp:
                home = labels[one.spec.node_name].get(levels[level])
                homes.setdefault((one.metadata.labels[names.GANG], level), set()).add(home)
        for gang, found in homes.items():
            assert len(found) == 1, f"{gang} is in {found}"
            assert None not in found, f"{gang} is nowhere"

    def kept_apart(self, plan: Plan) -> None:
        """Parts of GPUs are given out where a mode holds that shares, and that the pod accepts."""
        for place in plan.place:
            if any(device.milli < 1000 for _, devices in place.devices for device in devices):
                told = self.world.inventories.get(place.node, ())
                accepted = self.world.pod(place.pod.name).metadata.annotations.get(names.GPU_ISOLATION)
                assert {one.isolation for one in told} <= {*(accepted or "mps|time-slice").split("|")}, place
                assert told or not accepted, place

    def rest(self) -> None:
        """Without news everything comes to rest, also for a scheduler that starts then."""
        quiet = 0
        for _ in range(_LONGEST):
            plan = self.step()
            quiet = 0 if plan.place or plan.evict or self.world.ending else quiet + 1
            if quiet == 1:
                self.world.now += 70  # refused evictions, minimum runtimes, timeouts and lost requests are over
            if quiet == _QUIET:
                return
        raise AssertionError(f"no rest; last {self.world.cycle.last_plan}")


def labelled(one: Pod, **labels: str) -> Pod:
    """The pod with further labels."""
    return replace(one, metadata=replace(one.metadata, labels=one.metadata.labels | labels))


def some_node(chance: random.Random, number: int) -> Node:
    labels = {RACK: chance.choice(["r0", "r1"])} if chance.random() < 0.9 else {}
    cpu = chance.choice([8, 16, 96])
    return node(f"n{number}", chance.choice([1, 2, 4]), chance.choice(["A100", "A100", "H100"]), cpu=cpu, labels=labels)


def some_queues(chance: random.Random) -> list[dict[str, Any]]:
    """A tree of two levels; guarantees may be more than there is."""
    found: list[dict[str, Any]] = []
    for number in range(chance.randint(0, 4)):
        one: dict[str, Any] = {"name": f"q{number}", "weight": chance.randint(1, 3)}
        if found and chance.random() < 0.4:
            one["parent"] = chance.choice(found)["name"]
        if chance.random() < 0.5:
            one["guarantee"] = {"gpu": str(chance.randint(1, 4))}
            if chance.random() < 0.3:
                one["guarantee"] |= {"gpuModels": {"H100": "1"}}
        if chance.random() < 0.5:
            least = int(one.get("guarantee", {}).get("gpu", "1"))
            one["limit"] = {"gpu": str(least + chance.randint(0, 4))}
            if chance.random() < 0.5:
                one["limit"] |= {"gpuModels": {chance.choice(["A100", "H100"]): str(chance.randint(1, 2))}}
        one["reclaimable"] = chance.random() < 0.85
        one["minRuntime"] = chance.choice(["0s", "0s", "5s"])
        found.append(one)
    return found


def live_through(seed: int) -> History:
    """One history, to its end."""
    chance = random.Random(seed)
    history = History(chance, random.Random(seed))
    for number in range(chance.randint(5, 14)):
        history.create(number)
        for _ in range(chance.randrange(3)):
            history.step()
            history.news()
    history.world.protected.clear()
    history.rest()
    most = history.evicted.most_common(3)
    assert max(history.evicted.values(), default=0) <= _MOST_EVICTIONS, f"seed {seed}: {most}"
    assert history.world.cycle.builder.claims.live() == []
    history.start_again()
    history.rest()
    return history


@pytest.mark.slow
@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("group", range(_GROUPS))
def test_everything_at_once_ends_quiet(group: int) -> None:
    evictions = [len(live_through(seed).world.evicted) for seed in range(group, WORLDS, _GROUPS)]
    assert WORLDS < 5 * _GROUPS or sum(evictions) > 0, "the histories are not about evictions"
