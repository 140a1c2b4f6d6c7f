"""The classic policies, each alone: which of two nodes a pod goes to, as their definitions say."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.budget import examples
from tests.worlds import START, World, bound, cluster, node, pod, policy

from tangram.api.objects import Container, Resources
from tangram.decide.hooks import Score
from tangram.decide.memory import Memory
from tangram.decide.price import pricing
from tangram.decide.registry import BUILT_IN, Registry
from tangram.snapshot.arrays import PluginChoice

CLASSIC = ("random", "dot-product", "gpu-clustering", "gpu-packing", "best-fit")


def only(plugin):
    return policy(placement={"plugins": [{"name": "bid-price", "weight": 0}, {"name": plugin, "weight": 1}]})


def chosen(plugin, nodes, running, waiting):
    """The node to which one waiting pod goes, with that plugin alone."""
    world = World(nodes, [*running, waiting], only(plugin))
    plan = world.step()
    assert plan.faults == ()
    return world.where[waiting.metadata.name]


def on(name, where, gpu=0, whole=0, devices=(), **asked):
    """A pod that runs: ``devices`` are the indices that it holds."""
    given = {"main": [(str(device), gpu or 100) for device in devices]}
    return bound(pod(name, gpu, whole, **asked), where, given)


def test_gpu_packing_fills_shared_gpus_then_used_nodes_then_idle_nodes():
    nodes = cluster("3x2xA100")
    shared, used = on("a", "n0", gpu=50, devices=[0]), on("b", "n1", whole=1, devices=[0])
    assert chosen("gpu-packing", nodes, [shared, used], pod("p", gpu=50)) == "n0"
    assert chosen("gpu-packing", nodes, [used], pod("p", gpu=50)) == "n1"
    assert chosen("gpu-packing", nodes, [shared, on("c", "n1", whole=2, devices=[0, 1])], pod("p", gpu=80)) == "n0"


def test_gpu_packing_takes_the_fuller_of_two_shared_gpus_and_the_smaller_of_two_idle_nodes():
    nodes = cluster("2x2xA100")
    running = [on("a", "n0", gpu=30, devices=[1]), on("b", "n1", gpu=60, devices=[1])]
    assert chosen("gpu-packing", nodes, running, pod("p", gpu=20)) == "n1"
    assert chosen("gpu-packing", cluster("1x8xA100", "1x2xA100"), [], pod("p", whole=1)) == "n1"


def test_gpu_clustering_joins_its_like_and_keeps_away_from_others():
    nodes = cluster("3x4xA100")
    share, whole = on("a", "n0", gpu=20, devices=[0]), on("b", "n1", whole=1, devices=[0])
    assert chosen("gpu-clustering", nodes, [share, whole], pod("p", gpu=50)) == "n0"
    assert chosen("gpu-clustering", nodes, [share, whole], pod("p", whole=1)) == "n1"
    assert chosen("gpu-clustering", nodes, [share], pod("p", whole=1)) in ("n1", "n2")


def test_gpu_clustering_prefers_only_its_like_over_a_mixed_company():
    mixed = [on("a", "n0", gpu=20, devices=[0]), on("b", "n0", whole=2, devices=[1, 2])]
    running = [*mixed, on("c", "n1", gpu=20, devices=[0])]
    assert chosen("gpu-clustering", cluster("2x4xA100"), running, pod("p", gpu=20)) == "n1"


def test_best_fit_leaves_least_behind():
    running = [on("a", "n1", whole=5, devices=range(5))]
    assert chosen("best-fit", cluster("2x8xA100"), running, pod("p", whole=2)) == "n1"
    assert chosen("best-fit", [node("n0", cpu=96), node("n1", cpu=16)], [], pod("p", whole=2)) == "n1"


def test_dot_product_shuns_nodes_rich_in_what_the_pod_wants():
    running = [on("a", "n1", whole=5, devices=range(5))]
    assert chosen("dot-product", cluster("2x8xA100"), running, pod("p", whole=2)) == "n1"
    nodes = [node("n0", gpus=2, cpu=96), node("n1", gpus=8, cpu=16)]
    assert chosen("dot-product", nodes, [], pod("p", cpu=15)) == "n1"


def test_random_scatters_and_repeats_itself():
    waiting = [pod(f"p{index}", gpu=10, cpu=1 + index % 8) for index in range(32)]
    first, second = (World(cluster("8x4xA100"), waiting, only("random")).settle().where for _ in range(2))
    assert first == second
    assert len(set(first.values())) > 4


def test_random_differs_between_shapes():
    nodes = cluster("16x2xA100")
    homes = {chosen("random", nodes, [], pod("p", gpu=share)) for share in range(10, 60, 5)}
    assert len(homes) > 3


@pytest.mark.parametrize("plugin", CLASSIC)
def test_every_kind_of_pod_is_placed_by_every_policy(plugin):
    nodes = [*cluster("2x4xA100", "1xcpu"), node("tiny", gpus=1, cpu=2)]
    waiting = [pod("none"), pod("part", gpu=30), pod("one", whole=1), pod("four", whole=4), pod("big", cpu=95)]
    world = World(nodes, waiting, only(plugin)).settle()
    assert world.waiting == []
    assert world.cycle.last_plan.faults == ()


@pytest.mark.parametrize("plugin", CLASSIC)
@settings(max_examples=examples(10), deadline=None)
@given(
    order=st.permutations(range(6)),
    gpus=st.lists(st.integers(0, 8), min_size=6, max_size=6),
    asks=st.lists(st.sampled_from([(0, 0), (30, 0), (70, 0), (0, 1), (0, 2), (0, 8)]), max_size=20),
)
def test_scores_are_in_range_and_rows_in_any_order_give_the_same_placements(plugin, order, gpus, asks):
    nodes = [node(f"n{index}", count) for index, count in enumerate(gpus)]
    waiting = [pod(f"p{index}", share, whole) for index, (share, whole) in enumerate(asks)]
    first = World(nodes, waiting, only(plugin)).settle()
    assert World([nodes[index] for index in order], waiting, only(plugin)).settle().where == first.where
    scorer, view = Registry().create(plugin), first.view
    if hasattr(scorer, "prepare"):
        scorer.prepare(view)
    for shape in range(len(first.cycle.builder.shapes.requests)):
        rows = first.view.nodes.present.nonzero()[0].astype("int32")
        scores = scorer.score(view, shape, rows)
        assert scores.dtype == "int32"
        assert ((scores >= 0) & (scores <= 1000)).all()


SCORERS = sorted(name for name in BUILT_IN if isinstance(Registry().create(name), Score))


@pytest.mark.slow
@pytest.mark.parametrize("plugin", SCORERS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_scores_are_in_range_where_others_have_taken_more_than_there_is(plugin, seed):
    """A static pod is never refused, and what a node can give out may shrink: what is free can be less than nothing."""
    chance = np.random.default_rng(seed)
    cpus, memories = chance.choice(["0", "1m", "10", "4000"], 6), chance.choice(["0", "1Mi", "1Ti", "4000Ti"], 6)
    gpus = [2, 0, 8, 1, 0, 0]
    nodes = [node(f"n{n}", gpus[n], cpu=str(cpus[n]), memory=str(memories[n])) for n in range(6)]
    nothing = pod("e", containers=[Container("main", Resources({}))])
    waiting = [pod("a", gpu=30), pod("b", whole=2), pod("c", cpu="50m"), pod("d", whole=8), nothing]
    snapshot = World(nodes, waiting).cycle.builder.snapshot(START)
    if seed % 2:
        snapshot = replace(snapshot, prices=pricing.learn(snapshot))
    free = chance.integers(-100_000, 20_000, snapshot.nodes.free.shape)
    free[chance.random(free.shape) < 0.3] = chance.choice([-(1 << 40), -1, 0, 1, 1 << 40])
    left = replace(
        snapshot.nodes,
        free=np.minimum(free, snapshot.nodes.capacity),
        device_free=chance.integers(-1000, 1001, snapshot.nodes.device_free.shape).astype(np.int32),
    )
    _, known = Memory().observe(replace(snapshot, nodes=left, scores=(PluginChoice(plugin, 1),)))
    for shape in np.unique(snapshot.pending.shape[snapshot.pending.waiting]).tolist():
        assert known.scores(shape).max() <= 1000
    assert (known.plugins.clipped, known.plugins.faults) == ({}, {})


@pytest.mark.parametrize("strategy", ["pack", "spread"])
def test_a_strategy_goes_on_where_a_node_is_overfilled(strategy):
    full = bound(pod("static", cpu="9900m", memory="150Gi", scheduler="default-scheduler"), "cpu0")
    nodes = [node("gpu0", 4), *(node(f"cpu{number}", 0, cpu=10, memory="100Gi") for number in range(2))]
    small = pod("web", containers=[Container("main", Resources({"cpu": "50m"}))])
    plan = World(nodes, [full, small], policy(placement={"strategy": strategy})).step()
    assert plan.faults == ()
    assert plan.place[0].node == {"pack": "cpu0", "spread": "cpu1"}[strategy]
