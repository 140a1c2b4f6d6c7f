"""Requests that nobody makes any more give their rows back, and nobody notices."""

import random
from typing import Any

import numpy as np
import pytest
from tests.worlds import START, World, bound, cluster, node, pod, policy, with_spec

from tangram.api import names
from tangram.api.objects import (
    Affinity,
    Container,
    ContainerPort,
    LabelSelector,
    Pod,
    PodAffinity,
    PodAffinityTerm,
    TopologySpreadConstraint,
)
from tangram.snapshot import legal
from tangram.snapshot.arrays import Snapshot
from tangram.snapshot.build import Builder
from tangram.snapshot.pods import shapes
from tangram.snapshot.values.rules import Relations

HOST = "kubernetes.io/hostname"
TEAM = PodAffinityTerm(HOST, LabelSelector({"team": "t0"}))


@pytest.fixture(autouse=True)
def _few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are given back sooner than in production, so that small histories do it many times."""
    monkeypatch.setattr(shapes, "_FEW", 12)
    monkeypatch.setattr(shapes, "_COMMONEST", 6)


def rows(builder: Builder) -> dict[str, int]:
    """How many rows there are of everything that a request can bring along."""
    return {
        "requests": len(builder.shapes.keys),
        "shapes": len(builder.shapes.rules),
        "clauses": len(builder.nodes.clauses.values),
        "groups": len(builder.relations.arrays(builder.shapes.rules, 0).counts),
        "resources": builder.nodes.columns.width,
        "topologies": len(builder.nodes.topologies.values),
        "labels": len(builder.relations._by_label),
        "amounts": len(builder.queues._amounts),
    }


def loner(name: str, **options: Any) -> Pod:
    """A pod that stays away from pods with its own label, and is spread by it."""
    one = pod(name, **options)
    one.metadata.labels["app"] = name
    mine = LabelSelector({"app": name})
    apart = PodAffinity(required=(PodAffinityTerm(HOST, mine),))
    spread = TopologySpreadConstraint(1, HOST, "DoNotSchedule", mine)
    return with_spec(one, affinity=Affinity(pod_anti_affinity=apart), topology_spread_constraints=(spread,))


def picky(name: str, number: int, **options: Any) -> Pod:
    """A pod that stays away from the pods of one team, in words that nobody has used before."""
    team = LabelSelector({"team": f"t{number % 3}"})
    term = PodAffinityTerm(HOST, team, namespaces=("default", f"other-{number}"))
    return with_spec(pod(name, **options), affinity=Affinity(pod_anti_affinity=PodAffinity(required=(term,))))


def befriended(name: str, *terms: PodAffinityTerm, **options: Any) -> Pod:
    """A pod that must be near one that all terms select."""
    return with_spec(pod(name, **options), affinity=Affinity(pod_affinity=PodAffinity(required=terms)))


def with_port(one: Pod, port: int, address: str = "10.0.0.1") -> Pod:
    """The pod as it is when it needs a port of its host, at one address."""
    main = one.spec.containers[0]
    return with_spec(
        one, containers=(Container("main", main.resources, ports=(ContainerPort(port, host_ip=address),)),)
    )


def new_request(number: int) -> Pod:
    """A pod of a kind that nobody has seen before."""
    name, cpu = f"p{number}", f"{number + 1}m"
    kinds = (
        pod(name, gpu=1 + number % 90, cpu=cpu),
        pod(name, whole=1, cpu=cpu, selector={f"mark-{number}": "x"} if number % 10 == 1 else {HOST: "n0"}),
        loner(name, gpu=10, cpu=cpu),
        picky(name, number, gpu=10, cpu=cpu),
        befriended(name, TEAM, PodAffinityTerm(HOST, LabelSelector({}), namespaces=("default", name)), cpu=cpu),
        with_port(pod(name, cpu=cpu), 1000 + number),
        pod(name, cpu=cpu, extra={f"foo.example/{number}": 1}),
        befriended(name, PodAffinityTerm(f"place-{number}", LabelSelector({"team": "t0"})), cpu=cpu),
        pod(name, whole="none", cpu=cpu),
    )
    return kinds[number % len(kinds)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_fault_18_a_day_of_ever_new_requests_keeps_to_the_rows_that_are_used(seed: int) -> None:
    """Every step compares with a scheduler that remembers nothing, and with counts from nothing."""
    chance = random.Random(seed)
    queues = [{"name": "q", "guarantee": {"gpu": "4"}}, {"name": "r", "limit": {"gpuModels": {"A100": "3"}}}]
    first = {"name": "first", "nodeSelector": {HOST: "n1"}}
    world = World(cluster("3x4xA100"), policy=policy(first, queues=queues), reservation_delay=20)
    before = world.cycle.builder.nodes.generation
    for number in range(200):
        one = new_request(number)
        daily = pod(f"daily-{number}", gpu=40, priority=chance.choice([0, 5]))
        one.metadata.labels[names.QUEUE] = chance.choice(["default", "q", "r"])
        daily.metadata.labels["team"] = chance.choice(["t0", "t1", "t2"])
        world.add(one, daily)
        while len(world.live) > 10:
            world.delete(chance.choice(list(world.live.values())).metadata.name)
        world.step()
    builder = world.cycle.builder
    assert builder.nodes.generation > before + 5
    assert max(rows(builder).values()) <= 48, rows(builder)
    assert rows(builder)["labels"] <= 16
    builder.shapes._most = 0
    assert plain(builder) == plain(told_again(world))


def told_again(world: World) -> Builder:
    """A builder that knows only what is there now."""
    builder = Builder(reservation_delay=world.reservation_delay)
    builder.set_policy(world.policy)
    for one in world.nodes:
        builder.put_node(one)
    for one in world.live.values():
        builder.put_pod(one)
    return builder


def plain(builder: Builder) -> dict[str, Any]:
    """What a snapshot says of each pod, whatever rows it uses for that."""
    snapshot = builder.snapshot(START)
    nodes, pending, queues = snapshot.nodes, snapshot.pending, snapshot.queues
    leaving = builder.departures.arrays(builder.pods, builder.scheduler_name, 20, START)
    waiting = np.flatnonzero(pending.waiting).tolist()
    running = np.flatnonzero(snapshot.running.present).tolist()
    gone = np.flatnonzero(leaving.present).tolist()
    return {
        "classes": [nodes.hold(selector).tolist() for selector in snapshot.classes.selector],
        "waiting": {str(pending.names[slot]): request(snapshot, int(pending.shape[slot])) for slot in waiting},
        "running": {
            str(snapshot.running.names[slot]): request(snapshot, int(snapshot.running.shape[slot])) for slot in running
        },
        "leaving": sorted(str(request(snapshot, int(leaving.shape[slot]))) for slot in gone),
        "left": {
            nodes.names[row]: by_resource(snapshot, nodes.free[row]) for row in np.flatnonzero(nodes.present).tolist()
        },
        "used": {queues.names[row]: queues.usage[row].tolist() for row in np.flatnonzero(queues.usage.any(axis=1))},
    }


def by_resource(snapshot: Snapshot, amounts: Any) -> dict[str, int]:
    """Amounts in any columns, by what these are of."""
    return {name: amount for name, amount in zip(snapshot.resources, amounts.tolist(), strict=True) if amount}


def request(snapshot: Snapshot, shape: int) -> list[Any]:
    """A shape, by what its rows mean."""
    found, relations = snapshot.shapes, snapshot.relations
    rules = relations.rules[shape]
    reachable = [
        [snapshot.nodes.hold(clauses).tolist() for clauses in alternatives]
        for alternatives in (found.required[shape], *found.reachable[shape])
    ]
    return [
        by_resource(snapshot, found.request[shape]),
        found.ask_count[shape].tolist(),
        found.ask_milli[shape].tolist(),
        found.models[shape],
        reachable,
        snapshot.queues.names[found.leaf[shape]],
        rules and sorted(str(group_of(relations, group)) for group in {*rules.members, *rules.others}),
    ]


def group_of(relations: Relations, group: int) -> list[Any]:
    """Where the pods of a group are, and where those that have rules about them."""
    speakers = (*relations.forbids[group], *relations.likes[group])
    about = [(relations.counts[carriers].tolist(), weight) for carriers, _, *weight in speakers]
    return [relations.counts[group].tolist(), sorted(about)]


def others_come_and_go(world: World) -> None:
    """Requests enough for rows to be given back."""
    for number in range(20):
        world.add(pod(f"p{number}", cpu=f"{number + 1}m"), loner(f"loner-{number}"))
        world.step()
        world.delete(f"p{number}", f"loner-{number}")


def test_what_a_pod_that_waits_is_to_keep_away_from_is_known_though_nobody_is_that_yet() -> None:
    world = World([node("n0", 1)], [pod("full", whole=1, age=9), with_port(pod("patient", whole=1), 80)]).settle()
    others_come_and_go(world)
    world.add(with_port(pod("anywhere"), 80, "0.0.0.0"))
    world.step()
    world.delete("full")
    world.settle()
    assert world.waiting == ["patient"]
    assert world.reason("patient") == "HostPortTaken"


def test_a_pod_in_a_row_that_is_used_again_is_looked_at_again_once_its_neighbour_has_come() -> None:
    world = World([node("n0", 1), node("n1", 2)])
    world.add(befriended("before", TEAM, whole=1, selector={HOST: "n0"}))
    world.live["uid-before"].metadata.labels["team"] = "t0"
    world.add(world.live["uid-before"])
    world.settle()
    others_come_and_go(world)
    neighbour = pod("neighbour", gpu=10, selector={HOST: "n1"})
    neighbour.metadata.labels["team"] = "t0"
    world.add(befriended("friend", TEAM, whole=1, age=9), neighbour)
    assert [place.pod.name for place in world.step().place] == ["neighbour"]
    assert world.cycle.last_plan.again
    assert [place.pod.name for place in world.step().place] == ["friend"]


def test_a_row_that_is_used_again_says_nothing_of_who_had_it_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_COMMONEST", 0)
    builder = Builder()
    builder.put_node(node("n0", 4, labels={"zone": "a"}))
    builder.put_pod(pod("x", gpu=10, gpu_memory="1Gi", models="T4", selector={"zone": "a"}))
    builder.remove_pod("uid-x")
    for number in range(30):
        builder.put_pod(pod(f"p{number}", cpu=f"{number + 1}m"))
        builder.snapshot(START)
        builder.remove_pod(f"uid-p{number}")
    found = builder.snapshot(START).shapes
    assert not any(found.required)
    assert not any(found.models)
    assert not found.ask_memory.any()
    assert len(builder.shapes.rules) < 30


def test_a_pod_whose_request_cannot_be_read_leaves_nothing_behind() -> None:
    builder = Builder()
    for number in range(100):
        builder.put_pod(pod(f"p{number}", whole=f"none-{number}"))
        builder.snapshot(START)
        builder.remove_pod(f"uid-p{number}")
    assert len(builder.shapes.keys) <= 14


def test_the_commonest_requests_keep_their_prices_while_nobody_makes_them() -> None:
    world = World(cluster("4x8xA100"))
    for number in range(40):
        world.add(pod(f"often-{number}", gpu=50))
        world.step()
        world.delete(f"often-{number}")
    row = world.cycle.builder.shapes.row_of(pod("often", gpu=50))
    price = world.cycle.builder.prices.pod[row]
    assert price > 0
    for number in range(60):
        world.add(pod(f"once-{number}", gpu=1 + number))
        world.step()
        world.delete(f"once-{number}")
    builder = world.cycle.builder
    assert row in builder.shapes.requests
    assert builder.prices.pod[row] > 0
    assert list(legal.miscounted(builder)) == []


def test_a_standby_gives_rows_back_as_its_leader_does() -> None:
    leader, standby = Builder(), Builder()
    for builder in (leader, standby):
        builder.put_node(node("n0", 4, labels={"zone": "a"}))
    for number in range(200):
        for builder in (leader, standby):
            builder.put_pod(new_request(number))
        leader.snapshot(START + number)
        standby.pass_time(START + number)
        for builder in (leader, standby):
            builder.remove_pod(f"uid-p{number}")
    assert rows(standby) == rows(leader)


def test_a_column_that_is_used_again_counts_nothing_of_who_had_it_before() -> None:
    builder = Builder()
    seen = set[int]()
    for number in range(60):
        builder.put_node(node("n0", 4, extra={f"foo.example/{number}": 99}))
        runs = bound(pod(f"p{number}", cpu="1m", extra={f"foo.example/{number}": number + 1}), "n0")
        builder.put_pod(runs)
        found = builder.snapshot(START)
        row = builder.shapes.row_of_amounts(runs)
        column = found.resources.index(f"foo.example/{number}")
        assert found.shapes.request[row, column] == number + 1
        assert np.count_nonzero(found.shapes.request[row]) == 4
        seen.add(column)
        builder.remove_pod(f"uid-p{number}")
    assert len(seen) < 30
    builder.put_node(node("n0", 4, extra={"foo.example/new": 7}))
    builder.put_pod(pod("last", cpu="1m", extra={"foo.example/new": 1}))
    found = builder.snapshot(START)
    assert found.nodes.free[0, found.resources.index("foo.example/new")] == 7
    assert list(legal.miscounted(builder)) == []
