"""What fits nowhere is not searched again before there may be more room, and where a quick test says that no search
helps none is made; ``World.step`` compares each plan with one that is made without a memory."""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace
from tests.budget import seeds
from tests.worlds import START, World, bound, cluster, gang, node, pod, policy, with_spec

from tangram.api import names
from tangram.decide.gangs import gang as gangs
from tangram.decide.gangs import preemption as gangs_preemption
from tangram.decide.memory import Memory
from tangram.decide.pipeline import decide
from tangram.decide.preempt import preemption
from tangram.decide.preempt.upper_bound import UpperBound
from tangram.decide.reserve import reservation
from tangram.decide.reserve.vain import Vain
from tangram.snapshot.arrays import Snapshot
from tangram.snapshot.build import Builder


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, world: World) -> Iterator[list[str]]:
    """What the scheduler that remembers looks for: places for gangs, when nodes will be free, and victims."""
    made, trial, soonest, hold = list[str](), gangs._try_members, reservation._Future.soonest, gangs.may_hold
    search = preemption.Search

    def ours(scores: Any) -> bool:
        known = world.cycle.memory._known
        return known is not None and scores is known[1]

    def try_members(decision: Any, *rest: Any) -> Any:
        made.extend(["gang"] * ours(decision.scores))
        return trial(decision, *rest)

    def free(self: Any, *rest: Any) -> Any:
        made.extend(["reservation"] * ours(self._decision.scores))
        return soonest(self, *rest)

    def may_hold(decision: Any, *rest: Any) -> bool:
        made.extend(["gang"] * ours(decision.scores))
        return hold(decision, *rest)

    def victims(decision: Any, *rest: Any) -> Any:
        made.extend(["victims"] * ours(decision.scores))
        return search(decision, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(gangs, "_try_members", try_members)
        patch.setattr(gangs, "may_hold", may_hold)
        patch.setattr(preemption, "Search", victims)
        patch.setattr(reservation._Future, "soonest", free)
        yield made


def runs(name: str, where: str, **options: Any) -> Any:
    one = with_spec(pod(name, whole=2, **options), restart_policy="Never")
    return bound(one, where, {"main": [("0", 100), ("1", 100)]})


def full(nodes: int = 4, waiting: int = 3, *, unequal: bool = False) -> World:
    """Nodes whose GPUs are in use, one of them for an hour; different gangs wait for two nodes each."""
    world = World(cluster(f"{nodes}x2xA100"), reservation_delay=100)
    says = {names.ESTIMATED_DURATION: "1h"}
    world.add(*(runs(f"r{number}", f"n{number}", annotations=says if number == 0 else None) for number in range(nodes)))
    for number in range(waiting):
        members = gang(f"g{number}", 2, whole=2, cpu=2 + number, age=60 - number)
        if unequal:
            first = pod(f"g{number}-first", whole=1, gang=f"g{number}", gang_min=2, cpu=9 + number, age=60 - number)
            members = [first, members[1]]
        world.add(*members)
    return world.settle()


@pytest.mark.parametrize("unequal", [False, True], ids=["equal members", "unequal members"])
def test_gangs_are_not_tried_again_while_others_take_room(monkeypatch: pytest.MonkeyPatch, *, unequal: bool) -> None:
    world = full(unequal=unequal)
    with counted(monkeypatch, world) as made:
        for number in range(4):
            world.add(pod(f"single-{number}"))
            assert [place.pod.name for place in world.step().place] == [f"single-{number}"]
    assert made == []


def test_a_label_that_nobody_reads_makes_no_gang_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = full()
    with counted(monkeypatch, world) as made:
        world.cycle.builder.put_node(node("n1", 2, labels={"team": "blue"}))
        world.step()
    assert made == []


def another_node(world: World) -> None:
    world.cycle.builder.put_node(node("late", 4))


def a_pod_leaves(world: World) -> None:
    world.delete("r1", "r2")


def another_label(world: World) -> None:
    world.cycle.builder.put_node(node("n1", 2, model="T4"))


@pytest.mark.parametrize("change", [another_node, a_pod_leaves, another_label])
def test_gangs_are_tried_again_once_there_may_be_more_room(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    world = full()
    with counted(monkeypatch, world) as made:
        change(world)
        world.step()
    assert "gang" in made


def test_whoever_says_now_when_it_ends_gives_hope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes will be free in an hour then: they are held for the first gang."""
    world = full()
    with counted(monkeypatch, world) as made:
        one = world.pod("r1")
        notes = one.metadata.annotations | {names.ESTIMATED_DURATION: "1h"}
        world.add(replace(one, metadata=replace(one.metadata, annotations=notes)))
        world.step()
    assert "reservation" in made


def test_a_limit_that_comes_first_is_the_reason_then() -> None:
    """What a gang lacks is remembered, which of two reasons it has is not where its queue has a limit."""
    world = World(cluster("2x2xA100"), policy=policy(queues=[{"name": "q", "limit": {"gpu": "4"}}]))
    world.add(runs("r0", "n0"), *gang("g", 2, whole=2, queue="q", age=5))
    world.step()
    world.add(pod("first", whole=2, queue="q", priority=5))
    for _ in range(3):
        world.step()
    assert world.told[-1][1] in ("QueueLimit", "GangUnschedulable")


def held_by(priority: int, world: World) -> None:
    """Two nodes of two GPUs, each held by a gang of this priority."""
    for number in range(2):
        for one in gang(f"r{number}", 2, whole=1, priority=priority):
            device = one.metadata.name[-1]
            world.add(bound(one, f"n{number}", {"main": [(device, 100)]}))


@pytest.mark.parametrize(
    ("asks", "priority"), [({"whole": 4}, 5), ({"whole": 2}, 9), ({"whole": 1, "cpu": 500}, 5)],
    ids=["more GPUs than a node has", "held by pods of a higher rank", "more CPU than a node has"],
)  # fmt: skip
def test_no_victims_are_looked_for_where_no_eviction_makes_enough_room(
    monkeypatch: pytest.MonkeyPatch, asks: dict[str, int], priority: int
) -> None:
    """Somebody of a lower rank runs too, so that it cannot be said at once that nobody may be evicted."""
    world = World([*cluster("2x2xA100"), node("small", 0)])
    held_by(priority, world)
    world.add(bound(pod("low", cpu=1), "small"), *(pod(f"w{number}", priority=7, **asks) for number in range(3)))
    with counted(monkeypatch, world) as made:
        for number in range(3):
            world.add(pod(f"single-{number}"))
            assert [place.pod.name for place in world.step().place] == [f"single-{number}"]
    assert made == []


def test_victims_are_looked_for_where_an_eviction_may_help(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(cluster("2x2xA100"))
    held_by(5, world)
    world.add(pod("w", whole=2, priority=7))
    with counted(monkeypatch, world) as made:
        assert len(world.step().evict) == 2
    assert "victims" in made


def test_no_room_is_made_in_a_rack_where_less_may_leave_than_a_gang_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the eight pods in each rack two are covered by a guarantee, whatever all racks together could give."""
    there = policy(queues=[{"name": "a", "guarantee": {"gpu": "24"}}, {"name": "b", "guarantee": {"gpu": "8"}}])
    rack = "topology.kubernetes.io/rack"
    world = World([node(f"n{number}", 4, labels={rack: f"r{number // 2}"}) for number in range(8)], policy=there)
    for number in range(8):
        for index in range(4):
            one = pod(f"r{number}-{index}", whole=1, queue="b", priority=5 if index == 0 else 0)
            world.add(bound(one, f"n{number}", {"main": [(str(index), 100)]}))
    world.add(*gang("g", 8, whole=1, queue="a", annotations={"scheduling.example.com/topology-required": rack}))
    tried = list[int]()
    monkeypatch.setattr(gangs_preemption, "_make_room_for_all", lambda *_: bool(tried.append(1)))
    assert world.step().evict == ()
    assert tried == []


POLICIES = [
    None,
    policy(queues=[{"name": "a", "guarantee": {"gpu": 3}}, {"name": "b", "limit": {"gpu": 4}}]),
    policy(
        {"name": "high", "weight": 3},
        {"name": "low", "weight": 1},
        fallback="preempt",
        queues=[{"name": "a"}, {"name": "b"}],
    ),
]


def crowded(chance: random.Random) -> Snapshot:
    """Small nodes, nearly full of pods and gangs of all ranks, and pods and gangs that want some of them."""
    builder = Builder(reservation_delay=100)
    builder.set_policy(found := chance.choice(POLICIES))
    for one in cluster("2x2xA100 2x3xT4"):
        builder.put_node(one)

    def options(age: int) -> dict[str, Any]:
        said = {names.ESTIMATED_DURATION: "1h"} if chance.random() < 0.5 else None
        klass = {"klass": chance.choice(["high", "low"])} if found is POLICIES[2] else {}
        return {"queue": chance.choice("ab"), "age": age, "annotations": said, "priority": chance.randrange(3), **klass}

    for name in range(4):
        for device in range(2 + name // 2):
            asks = chance.choice([{"whole": 1}, {"whole": 1}, {"gpu": 50}, {}])
            if asks:
                group = {"gang": f"r{chance.randrange(3)}", "gang_min": 2} if chance.random() < 0.4 else {}
                one = with_spec(pod(f"r{name}-{device}", **asks, **group, **options(500)), restart_policy="Never")
                share = 100 if "whole" in asks else 50
                builder.put_pod(bound(one, f"n{name}", {"main": [(str(device), share)]}, started=START - 400))
    for number in range(chance.randrange(1, 6)):
        each, age = options(chance.choice([1, 30, 300])), chance.randrange(1, 4)
        for member in range(chance.choice([1, 2, 3])):
            asks = chance.choice([{"whole": 1}, {"whole": 2}, {"gpu": 50}, {"whole": 3, "cpu": 50}, {"cpu": 90}])
            builder.put_pod(pod(f"w{number}-{member}", gang=f"g{number}", gang_min=age, **asks, **each))
        builder.put_pod(pod(f"s{number}", **chance.choice([{"whole": 2}, {"gpu": 70}, {"whole": 4}]), **each))
    return builder.snapshot(START)


@pytest.mark.parametrize("seed", seeds(60))
def test_quick_tests_change_no_plan(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Whatever they rule out would have been looked for in vain."""
    snapshot = crowded(random.Random(seed))
    quick, memory = decide(snapshot), Memory()
    decide(snapshot, memory)
    memory.rest = None
    with monkeypatch.context() as patch:
        patch.setattr(UpperBound, "most", lambda self, slot, allowed, number=1: number)
        patch.setattr(gangs, "may_hold", lambda *of: True)
        patch.setattr(Vain, "is_known", lambda self: False)
        assert decide(snapshot) == quick
    assert decide(snapshot, memory) == quick
