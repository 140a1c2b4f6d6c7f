"""Replays: the protocol, its repeatability, and what it says of the published production trace."""

import random

import pytest
from tests.simulate.samples import node

from tangram.api.policy import parse_policy
from tangram.errors import InvalidInput, PluginError
from tangram.simulate.replay import Options, replay
from tangram.simulate.trace import TraceNode, TracePod, read_nodes, read_pods
from tangram.simulate.workload import (
    MIX,
    generated_jobs,
    gpu_capacity,
    in_order,
    pods_of,
    traced_jobs,
    traced_nodes,
)

NODES = traced_nodes(TraceNode(f"n{index}", 64_000, 262_144, 8, "A100") for index in range(4))
JOBS = traced_jobs(
    [TracePod(4000, 8192, 1, 300, ""), TracePod(4000, 8192, 1, 1000, "A100|T4")] * 5
    + [TracePod(32_000, 65_536, 4, 1000, ""), TracePod(2000, 1024, 0, 0, "")]
)


def policy(**spec):
    return parse_policy(
        {
            "apiVersion": "scheduling.example.com/v1",
            "kind": "HybridPolicy",
            "metadata": {"name": "p"},
            "spec": spec,
        }
    )


def test_pods_are_drawn_from_the_list_until_they_ask_for_the_load():
    arrived = in_order(JOBS, 42, 20_000)
    total = sum(job.demand for job in arrived)
    assert total >= 20_000 > total - arrived[-1].demand
    first_round = arrived[: len(JOBS)]
    assert sorted(map(id, first_round)) == sorted(map(id, JOBS))
    assert in_order(JOBS, 42, 20_000) == arrived
    assert in_order(JOBS, 43, 20_000) != arrived


def test_a_list_that_asks_for_no_gpu_cannot_reach_a_load():
    with pytest.raises(InvalidInput, match="pods"):
        in_order(traced_jobs([TracePod(1, 1, 0, 0, "")]), 42, 1000)
    with pytest.raises(InvalidInput, match="GPU"):
        gpu_capacity(traced_nodes([TraceNode("n", 1, 1, 0, "")]))


def test_equal_rows_share_one_spec_and_shares_are_rounded_up_to_hundredths():
    one, other, odd = traced_jobs([TracePod(1, 1, 1, 460, ""), TracePod(1, 1, 1, 460, ""), TracePod(1, 1, 1, 461, "")])
    assert one.spec is other.spec
    assert (one.gpu_milli, odd.gpu_milli) == (460, 470)


def test_a_pod_that_does_not_fit_when_it_arrives_leaves():
    whole = traced_jobs([TracePod(1000, 1024, 8, 1000, "")])
    run = replay(NODES[:1], whole * 3, 1, Options(debug=True))
    assert (run.pods, run.unschedulable, run.gpu_allocation_percent) == (3, 2, 100.0)


def test_the_same_seed_gives_the_same_placements():
    first, second = (replay(NODES, in_order(JOBS, 7, 32_000), 7) for _ in range(2))
    assert first.placements == second.placements
    assert first.pods > first.unschedulable


def test_the_order_of_node_rows_changes_no_placement():
    arrived = in_order(JOBS, 7, 32_000)
    permuted = list(NODES)
    random.Random(3).shuffle(permuted)
    assert replay(permuted, arrived, 7).placements == replay(NODES, arrived, 7).placements


@pytest.mark.parametrize("per_cycle", [1, 5, 1000])
def test_every_arrival_is_decided_however_many_come_between_two_looks(per_cycle):
    arrived = in_order(JOBS, 7, 48_000)
    run = replay(NODES, arrived, 7, Options(arrivals_per_cycle=per_cycle, debug=True))
    assert run.pods == len(arrived)
    assert len(run.placements) == run.pods - run.unschedulable
    assert 80 < run.gpu_allocation_percent <= 100


def test_generated_jobs_follow_the_mix_and_gangs_stay_whole():
    nodes = [node(f"n{index}") for index in range(8)]
    jobs = generated_jobs(nodes, 1, count=400)
    assert sum(kind.percent for kind in MIX) == 100
    assert generated_jobs(nodes, 1, count=400) == jobs
    assert generated_jobs(nodes, 2, count=400) != jobs
    assert {job.size for job in jobs} == {1, 2, 4, 8}
    run = replay(nodes, jobs, 1, Options(debug=True))
    assert run.pods == sum(job.size for job in jobs)
    placed = {name for name, _ in run.placements}
    for number, job in enumerate(jobs):
        members = {pod.metadata.name for pod in pods_of(job, number, 1)}
        assert members <= placed or not members & placed


def test_no_generated_pod_asks_for_more_gpus_than_a_node_has():
    jobs = generated_jobs([node("n", gpus=2)], 1, demand=100_000)
    assert max(job.gpu_milli for job in jobs) == 2000
    assert sum(job.demand for job in jobs) >= 100_000


def test_a_policy_decides_how_pods_are_placed():
    arrived = traced_jobs([TracePod(1000, 1024, 1, 1000, "")]) * 4
    placed = {}
    for strategy in ("pack", "spread"):
        options = Options(policy=policy(placement={"strategy": strategy}), debug=True)
        placed[strategy] = {name for _, name in replay(NODES, arrived, 1, options).placements}
    assert (len(placed["pack"]), len(placed["spread"])) == (1, 4)


def test_a_class_that_preempts_gets_the_room_of_a_lower_one():
    """GPU pods name no class: they get the first that asks for accelerators; the rest gets the other one."""
    options = Options(
        policy=policy(
            priorityClasses=[
                {"name": "gpu", "weight": 3, "nodeSelector": {"accelerator": "nvidia-tesla"}},
                {"name": "cpu", "weight": 1},
            ],
            fallbackStrategy="preempt",
        ),
        debug=True,
    )
    jobs = traced_jobs([TracePod(64_000, 1024, 0, 0, ""), TracePod(32_000, 1024, 1, 1000, "")])
    run = replay(NODES[:1], jobs, 1, options)
    assert [name for name, _ in run.placements] == ["pod-1"]
    assert (run.pods, run.unschedulable) == (2, 1)


def test_a_plugin_that_fails_makes_no_figure():
    class Broken:
        name = "broken"

        def score(self, view, shape, rows):
            raise ValueError("no")

    from tangram.decide.registry import Registry

    registry = Registry()
    registry.add("broken", Broken)
    options = Options(policy=policy(placement={"plugins": [{"name": "broken", "weight": 1}]}), registry=registry)
    with pytest.raises(PluginError, match="broken: ValueError: no"):
        replay(NODES, JOBS, 1, options)


@pytest.fixture(scope="session")
def production(openb):
    nodes = traced_nodes(read_nodes(openb("node_list_gpu_node")))
    jobs = traced_jobs(read_pods(openb("pod_list_default")))
    return nodes, in_order(jobs, 42, gpu_capacity(nodes))


@pytest.mark.slow
def test_the_production_trace_fills_the_pool_further_than_the_best_published_policy(production):
    """95.23 % is the published mean of fragmentation gradient descent; a replay must not fall behind it."""
    nodes, arrived = production
    run = replay(nodes, arrived, 42)
    assert run.pods == 8328
    assert run.gpu_allocation_percent > 95.23


def test_the_production_trace_keeps_every_invariant(production):
    nodes, arrived = production
    run = replay(nodes, arrived[:600], 42, Options(debug=True, arrivals_per_cycle=50))
    assert run.unschedulable == 0
