"""One answer for one state of the cluster: whatever the order of rows, and however often it is asked for."""

import random
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import strategies as worlds
from tests.budget import examples, seeds
from tests.worlds import START, World, cluster, gang, pod

from tangram.api.objects import Node, Pod
from tangram.api.policy import HybridPolicy
from tangram.decide.memory import Memory
from tangram.decide.pipeline import decide
from tangram.decide.plugins.bid_price import BidPrice
from tangram.decide.price import pricing
from tangram.decide.registry import BUILT_IN, Registry
from tangram.decide.reported import Reported
from tangram.plan import Plan, Reason
from tangram.snapshot.build import Builder
from tangram.snapshot.nodes.inventory import Distances


def plan_of(nodes: list[Node], pods: list[Pod], policy: HybridPolicy | None) -> Plan:
    """The plan for a cluster whose objects are told in this order."""
    builder = Builder()
    builder.set_policy(policy)
    for one in pods[: len(pods) // 2]:
        builder.put_pod(one)
    for node in nodes:
        builder.put_node(node)
    for one in pods[len(pods) // 2 :]:
        builder.put_pod(one)
    return decide(builder.snapshot(START), Memory())


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    nodes=st.lists(worlds.nodes(), min_size=1, max_size=4, unique_by=lambda one: one.metadata.name),
    pods=st.lists(worlds.pods(), min_size=1, max_size=10, unique_by=lambda one: one.metadata.name),
    policy=worlds.policies(),
    seed=st.integers(0, 1000),
)
def test_rows_in_another_order_give_the_same_plan(
    nodes: list[Node], pods: list[Pod], policy: HybridPolicy | None, seed: int
) -> None:
    plan = plan_of(nodes, pods, policy)
    chance = random.Random(seed)
    chance.shuffle(nodes)
    chance.shuffle(pods)
    other = plan_of(nodes, pods, policy)
    assert str(other) == str(plan)
    assert other == plan


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    nodes=st.lists(worlds.nodes(), min_size=1, max_size=4, unique_by=lambda one: one.metadata.name),
    pods=st.lists(worlds.pods(), min_size=1, max_size=10, unique_by=lambda one: one.metadata.name),
    policy=worlds.policies(),
    seed=st.integers(0, 1000),
)
def test_what_has_been_reported_changes_nothing_but_what_is_said(
    nodes: list[Node], pods: list[Pod], policy: HybridPolicy | None, seed: int
) -> None:
    builder, chance = Builder(reservation_delay=0), np.random.default_rng(seed)
    builder.set_policy(policy)
    for node in nodes:
        builder.put_node(node)
    for one in pods:
        builder.put_pod(one)
    snapshot = builder.snapshot(START)
    slots = len(snapshot.pending.waiting)
    codes = chance.integers(-1, len(Reason), slots).astype(np.int8)
    reported = Reported(codes, chance.integers(-1, len(nodes), slots).astype(np.int32), {})
    plan, news = decide(snapshot, Memory()), decide(snapshot, Memory(), reported)
    assert msgspec.structs.replace(news, hold=plan.hold) == plan
    assert set(news.hold) <= set(plan.hold)


class OneByOne:
    """The default plugin without its way of placing a whole line of pods."""

    name = "bid-price"

    def __init__(self) -> None:
        plugin = BidPrice()
        self.prepare, self.score, self.devices = plugin.prepare, plugin.score, plugin.devices


@settings(max_examples=examples(150), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    nodes=st.lists(worlds.nodes(), min_size=1, max_size=4, unique_by=lambda one: one.metadata.name),
    pods=st.lists(worlds.pods(), min_size=1, max_size=24, unique_by=lambda one: one.metadata.name),
    policy=worlds.policies(),
    distances=worlds.links(),
)
@pytest.mark.slow
def test_a_line_of_pods_is_placed_as_if_they_came_one_by_one(
    nodes: list[Node], pods: list[Pod], policy: HybridPolicy | None, distances: Distances
) -> None:
    builder = Builder()
    builder.set_policy(policy)
    for node in nodes:
        builder.put_node(node)
    builder.set_links(nodes[0].metadata.name, distances)
    line, one_by_one = Memory(), Memory(Registry({**BUILT_IN, "bid-price": OneByOne}))
    for part in (pods[::2], pods[1::2]):  # what is remembered of the first half counts for the second
        for one in part:
            builder.put_pod(one)
        snapshot = builder.snapshot(START)
        snapshot = replace(snapshot, prices=pricing.learn(snapshot))
        plan = decide(snapshot, line)
        assert decide(snapshot, one_by_one) == plan
        for place in plan.place:
            builder.overlay(place)


def test_the_same_snapshot_twice_gives_the_same_plan_to_the_byte() -> None:
    world = World(cluster("3x4xA100"), [pod(f"p{i}", gpu=30) for i in range(9)] + gang("g", 3, whole=2))
    snapshot = world.cycle.builder.snapshot(START)
    memory = Memory()
    first = repr(decide(snapshot, memory)).encode()
    assert repr(decide(snapshot, memory)).encode() == first
    assert repr(decide(snapshot)).encode() == first


@pytest.mark.parametrize("seed", seeds(6))
def test_forgetting_everything_changes_no_answer(seed: int) -> None:
    """Longer histories than the state machine's, with popular shapes, so that the learned workload moves."""
    chance = random.Random(seed)
    world = World(cluster("4x4xA100", "2x2xT4"), batch=5)
    for number in range(60):
        ask = chance.choice([{"gpu": 30}, {"gpu": 50}, {"whole": 1}, {"whole": 4}, {"gpu": 20, "models": "T4"}])
        if chance.random() < 0.1:
            world.add(*gang(f"g{number}", 3, whole=chance.choice([1, 2, 3])))
        world.add(pod(f"p{number}", age=chance.randrange(99), **ask))
        if chance.random() < 0.3 and world.where:
            world.delete(chance.choice(sorted(world.where)))
        world.step()  # which compares


def test_who_fits_nowhere_is_told_by_the_look_that_fills_no_batch() -> None:
    """A full batch ends a look before everybody's turn, so it depends on memory who is known to fit nowhere by then."""
    world = World(cluster("1x4xA100"), [pod("large", whole=8)], batch=2).settle()
    world.add(pod("a", gpu=10, age=2), pod("b", gpu=10, age=1), pod("larger", whole=8))
    assert not world.step().hold
    assert [hold.pod.name for hold in world.step().hold] == ["larger"]
