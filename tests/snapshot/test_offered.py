"""What no node offers takes no room however many pods hold it, and counts exactly once a node comes to offer it."""

import random
from typing import Any

import numpy as np
import pytest
from tests.budget import seeds
from tests.worlds import START, World, bound, cluster, leaving, node, pod, policy

from tangram.api import names
from tangram.api.objects import Node, Pod
from tangram.snapshot import legal
from tangram.snapshot.build import Builder
from tangram.snapshot.pods import shapes

LINK, DISK = "example.com/link", "example.com/disk"
TWO_QUEUES = policy(queues=[{"name": "q"}])
"""With them running pods are followed always, and not only once there are several priorities."""


def elsewhere(name: str, on: str, extra: dict[str, str | int]) -> Pod:
    """A pod that another scheduler, or its owner, has put onto a node."""
    return bound(pod(name, cpu="1m", scheduler="default-scheduler", extra=extra), on)


def left(builder: Builder, resource: str) -> dict[str, int]:
    """Node -> what is left there of a resource that some node offers."""
    snapshot = builder.snapshot(START)
    column = snapshot.resources.index(resource)
    return {name: int(snapshot.nodes.free[row, column]) for name, row in builder.nodes.rows.items()}


def test_pods_with_a_place_need_no_column_for_what_no_node_offers() -> None:
    builder = Builder("tangram")
    for one in cluster("20x1xA100"):
        builder.put_node(one)
    before, generation = builder.nodes.columns.width, builder.snapshot(START).generation
    for number in range(50):
        builder.put_pod(elsewhere(f"p{number}", f"n{number % 20}", {f"example.com/r{number}": 1}))
    builder.put_pod(elsewhere("early", "not-there-yet", {LINK: 1}))
    assert builder.snapshot(START).generation == generation
    assert builder.nodes.columns.width == before


@pytest.mark.parametrize("pods_first", [True, False])
def test_who_holds_what_a_node_comes_to_offer_counts_from_then_on(*, pods_first: bool) -> None:
    """Its own node's pods, those of a node that never offers it, and of two resources at different times."""
    builder = Builder("tangram")
    pods = [elsewhere("a", "n0", {LINK: 2}), elsewhere("b", "n0", {LINK: 1, DISK: 4}), elsewhere("c", "n1", {LINK: 1})]
    for one in pods if pods_first else []:
        builder.put_pod(one)
    for name in ("n0", "n1"):
        builder.put_node(node(name, 0))
    for one in pods if not pods_first else []:
        builder.put_pod(one)
    builder.snapshot(START)
    builder.put_node(node("n0", 0, extra={LINK: 8}))
    assert left(builder, LINK) == {"n0": 5, "n1": -1}
    builder.put_node(node("n0", 0, extra={LINK: 8, DISK: 8}))
    assert (left(builder, LINK)["n0"], left(builder, DISK)["n0"]) == (5, 4)
    builder.remove_pod(pods[1].metadata.uid)
    assert (left(builder, LINK)["n0"], left(builder, DISK)["n0"]) == (6, 8)
    assert list(legal.miscounted(builder)) == []


def test_a_pod_that_leaves_before_the_next_look_gives_back_what_it_was_counted_for() -> None:
    builder = Builder("tangram")
    builder.put_node(node("n0", 0))
    gone, stays = elsewhere("gone", "n0", {LINK: 2}), elsewhere("stays", "n0", {LINK: 3})
    builder.put_pod(gone)
    builder.put_pod(stays)
    builder.snapshot(START)
    builder.put_node(node("n0", 0, extra={LINK: 8}))
    builder.put_pod(elsewhere("same", "n0", {LINK: 3}))
    builder.remove_pod(gone.metadata.uid)
    assert left(builder, LINK) == {"n0": 2}
    assert list(legal.miscounted(builder)) == []


def test_a_pod_that_waited_for_what_is_held_elsewhere_gets_only_what_is_left() -> None:
    """A place for it is found, or somebody of lower priority evicted, by what is left once the holder counts."""
    holder = bound(pod("holder", cpu=1, extra={LINK: 1}), "n0")
    world = World([node("n0", 0), node("n1", 0)], [holder, pod("waits", cpu=1, extra={LINK: 1}, priority=5)])
    assert (world.step().place, world.evicted) == ((), [])
    world.nodes[0] = node("n0", 0, extra={LINK: 1})
    world.cycle.builder.put_node(world.nodes[0])
    world.settle()
    assert [evict.pod.name for evict in world.evicted] == ["holder"]
    assert world.where == {"waits": "n0"}


def test_all_that_a_node_is_the_first_to_offer_is_made_room_for_at_once() -> None:
    builder = Builder("tangram")
    builder.put_node(node("n0", 0))
    generation = builder.snapshot(START).generation
    builder.put_node(node("n0", 0, extra={f"example.com/r{number}": number + 1 for number in range(30)}))
    assert builder.snapshot(START).generation == generation + 1
    assert left(builder, "example.com/r29") == {"n0": 30}


@pytest.mark.parametrize("seed", seeds(6))
def test_counts_are_those_of_a_builder_that_is_told_all_anew(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes come, go, and come to offer things or no more, while pods that hold and want them come and go."""
    monkeypatch.setattr(shapes, "_FEW", 6)
    monkeypatch.setattr(shapes, "_COMMONEST", 3)
    chance = random.Random(seed)
    world = World([random_node(f"n{number}", chance) for number in range(3)], policy=TWO_QUEUES, grace=1)
    for number in range(60):
        change(world, number, chance)
        if chance.random() < 0.7:
            world.step()
        if chance.random() < 0.5:
            builder = world.cycle.builder
            told = plain(builder, world.now)
            assert list(legal.miscounted(builder)) == []
            if not builder.claims.held and not builder.claims.victims():  # nobody can be told of those
                assert told == plain(told_again(world, chance), world.now)
                holding(builder)


def random_node(name: str, chance: random.Random) -> Node:
    """A node that offers any of four resources."""
    offers = {f"example.com/r{number}": chance.choice([0, 2, 5]) for number in range(4) if chance.random() < 0.4}
    return node(name, 2, extra=offers)


def change(world: World, number: int, chance: random.Random) -> None:
    """Something that happens to the cluster between two looks."""
    builder, kind = world.cycle.builder, chance.random()
    if kind < 0.25:
        at = chance.randrange(len(world.nodes))
        world.nodes[at] = random_node(world.nodes[at].metadata.name, chance)
        builder.put_node(world.nodes[at])
        return
    if kind < 0.32 and len(world.nodes) > 1:
        builder.remove_node(world.nodes.pop(chance.randrange(len(world.nodes))).metadata.name)
        return
    if kind < 0.4:
        new = random_node(f"n{number % 5}", chance)
        world.nodes[:] = [one for one in world.nodes if one.metadata.name != new.metadata.name] + [new]
        builder.put_node(new)
        return
    if kind < 0.55 and world.live:
        one = chance.choice(list(world.live.values()))
        world.add(leaving(one)) if chance.random() < 0.3 else world.delete(one.metadata.name)
        return
    extra: dict[str, str | int] = {
        f"example.com/r{one}": chance.choice([1, 2]) for one in range(6) if chance.random() < 0.4
    }
    share, priority = chance.choice([0, 50]), chance.choice([0, 0, 5])
    new_pod = pod(f"p{number}", share, cpu="100m", extra=extra, priority=priority)
    if chance.random() < 0.6:
        others = chance.random() < 0.5
        if others:
            new_pod = pod(f"p{number}", cpu="100m", extra=extra, scheduler="default-scheduler")
        elif share:
            notes = {names.GPUS: '{"main":[{"id":"0","share":50}]}'}
            new_pod = pod(f"p{number}", share, cpu="100m", extra=extra, priority=priority, annotations=notes)
        new_pod = bound(new_pod, f"n{chance.randrange(5)}")
    world.add(new_pod)


def told_again(world: World, chance: random.Random) -> Builder:
    """A builder that is told what is there now, in any order."""
    builder = Builder(reservation_delay=world.reservation_delay)
    builder.set_policy(world.policy)
    puts = [(builder.put_node, one) for one in world.nodes] + [(builder.put_pod, one) for one in world.live.values()]
    chance.shuffle(puts)  # type: ignore[arg-type]
    for put, one in puts:
        put(one)  # type: ignore[arg-type]
        if chance.random() < 0.1:
            builder.snapshot(world.now)
    return builder


def plain(builder: Builder, now: int) -> dict[str, Any]:
    """What a snapshot counts, by names; what no node offers is the same whatever it is called."""
    snapshot = builder.snapshot(now)
    nodes, pending, running = snapshot.nodes, snapshot.pending, snapshot.running
    there = np.flatnonzero(nodes.present).tolist()
    offered = {name for column, name in enumerate(snapshot.resources) if name and nodes.capacity[there, column].any()}

    def of(amounts: Any) -> dict[str, int]:
        found = sorted(zip(snapshot.resources, amounts.tolist(), strict=True))
        return {name: amount for name, amount in found if amount and name in offered}

    def unmet(amounts: Any) -> bool:
        found = zip(snapshot.resources, amounts.tolist(), strict=True)
        return any(amount and name not in offered for name, amount in found)

    gone = builder.departures.arrays(builder.pods, builder.scheduler_name, 20, now)
    requests = snapshot.shapes.request
    waiting = np.flatnonzero(pending.waiting).tolist()
    runs = np.flatnonzero(running.present).tolist()
    leaves = snapshot.leaving
    return {
        "capacity": {nodes.names[row]: of(nodes.capacity[row]) for row in there},
        "free": {nodes.names[row]: of(nodes.free[row]) for row in there},
        "devices": {nodes.names[row]: nodes.device_free[row].tolist() for row in there},
        "waiting": {
            str(pending.names[slot]): (of(requests[pending.shape[slot]]), unmet(requests[pending.shape[slot]]))
            for slot in waiting
        },
        "running": {str(running.names[slot]): of(requests[running.shape[slot]]) for slot in runs},
        "departures": sorted(str(of(requests[gone.shape[slot]])) for slot in np.flatnonzero(gone.present).tolist()),
        "leaving": sorted(
            (nodes.names[row], str(of(free))) for row, free in zip(leaves.node, leaves.free, strict=True)
        ),
    }


def holding(builder: Builder) -> None:
    """Every pod with a place counts for all of its request that has a column, and for nothing else."""
    of = builder.nodes.columns.of
    for row in builder.pods.values():
        if row.holding is None or row.shape < 0:
            continue
        held = row.holding.usage.request
        asked = dict(builder.shapes.requests[row.shape].resources)
        found = {name: int(held[column]) for name, column in of.items() if column < len(held) and held[column]}
        assert found == {name: amount for name, amount in asked.items() if name in of}, row.name
