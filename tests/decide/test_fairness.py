"""Queues and classes: shares follow weights, guarantees come first, no limit is ever exceeded.

``TANGRAM_HISTORIES`` sets in how many histories limits are watched (seeds 0, 1, …).
"""

import os
import random
from collections import Counter
from typing import Any

import pytest
from tests.budget import examples

from tangram.api.objects import Container, Metadata, Node, NodeStatus, Pod, PodSpec, Resources
from tangram.api.policy import HybridPolicy, parse_policy
from tangram.plan import Place
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings

HISTORIES = int(os.environ.get("TANGRAM_HISTORIES", examples(40)))
_GROUPS = 8
"""The histories are run in so many tests, so that several processes can share them."""
QUEUE, CLASS = "scheduling.example.com/queue", "scheduling.example.com/priority-class"


def policy(**spec: Any) -> HybridPolicy:
    return parse_policy(
        {
            "apiVersion": "scheduling.example.com/v1",
            "kind": "HybridPolicy",
            "metadata": {"name": "default"},
            "spec": spec,
        }
    )


def node(name: str, gpus: int = 8, model: str = "A100") -> Node:
    allocatable: dict[str, str | int | float] = {
        "cpu": "64", "memory": "512Gi", "pods": "110",
        "nvidia.com/gpu": gpus, "scheduling.example.com/gpu": 100 * gpus,
    }  # fmt: skip
    return Node(Metadata(name, labels={"nvidia.com/gpu.product": model}), status=NodeStatus(allocatable=allocatable))


def pod(name: str, labels: dict[str, str], **amounts: str) -> Pod:
    requests: dict[str, str | int | float] = {
        {"gpu": "nvidia.com/gpu", "share": "scheduling.example.com/gpu"}.get(key, key): value
        for key, value in amounts.items()
    }
    metadata = Metadata(name, "default", uid=name, labels=labels, creation_timestamp="2026-01-01T00:00:00Z")
    return Pod(
        metadata, PodSpec(containers=(Container("main", Resources(requests=requests)),), scheduler_name="tangram")
    )


class Pool:
    """A cycle, the pods that run, and what they hold by label."""

    def __init__(self, chosen: HybridPolicy, nodes: int = 5) -> None:
        self.cycle = Cycle(SchedulerSettings(debug=True, batch=64))
        self.cycle.builder.set_policy(chosen)
        for index in range(nodes):
            self.cycle.builder.put_node(node(f"node-{index}"))
        self.pods: dict[str, Pod] = {}
        self.running: dict[str, Place] = {}

    def submit(self, one: Pod) -> None:
        self.pods[one.metadata.name] = one
        self.cycle.observe_pod(None, one)

    def turn(self) -> list[Place]:
        placed = list(self.cycle.decide(0).place)
        self.running |= {place.pod.name: place for place in placed}
        return placed

    def finish(self, name: str) -> None:
        del self.running[name]
        self.cycle.observe_pod(self.pods.pop(name), None)

    def held(self, label: str) -> Counter[str]:
        """milli-GPU by the label's value."""
        out: Counter[str] = Counter()
        for name, place in self.running.items():
            milli = sum(device.milli for _, devices in place.devices for device in devices)
            out[self.pods[name].metadata.labels[label]] += milli
        return out


def contend(pool: Pool, label: str, values: list[str], rounds: int = 150) -> dict[str, float]:
    """Keep a backlog for each value, end a tenth of what runs per round; the parts of GPU time after a warm-up."""
    rng, number = random.Random(1), 0
    total: Counter[str] = Counter()
    for turn in range(rounds):
        for value in values:
            waiting = sum(1 for name, one in pool.pods.items() if one.metadata.labels[label] == value) - sum(
                1 for name in pool.running if pool.pods[name].metadata.labels[label] == value
            )
            for _ in range(12 - waiting):
                number += 1
                amount = rng.choice([{"gpu": "1"}, {"gpu": "2"}, {"share": "50"}])
                pool.submit(pod(f"p{number}", {label: value}, **amount))
        while pool.turn():
            pass
        if turn > 30:
            total.update(pool.held(label))
        for name in rng.sample(sorted(pool.running), max(1, len(pool.running) // 10)):
            pool.finish(name)
    return {value: total[value] / total.total() for value in values}


@pytest.mark.slow
def test_queues_share_the_pool_by_weight_when_they_contend() -> None:
    pool = Pool(policy(queues=[{"name": "ads", "weight": 3}, {"name": "search", "weight": 1}]))

    shares = contend(pool, QUEUE, ["ads", "search"])

    assert shares["ads"] == pytest.approx(0.75, abs=0.05)


@pytest.mark.slow
def test_classes_of_one_queue_share_it_by_weight() -> None:
    pool = Pool(policy(priorityClasses=[{"name": "training", "weight": 3}, {"name": "notebooks", "weight": 1}]))

    shares = contend(pool, CLASS, ["training", "notebooks"])

    assert shares["training"] == pytest.approx(0.75, abs=0.05)


@pytest.mark.slow
def test_a_tree_shares_level_by_level() -> None:
    pool = Pool(
        policy(
            queues=[
                {"name": "left"}, {"name": "right"},
                {"name": "right-a", "parent": "right"}, {"name": "right-b", "parent": "right"},
            ]
        )
    )  # fmt: skip

    shares = contend(pool, QUEUE, ["left", "right-a", "right-b"])

    assert shares["left"] == pytest.approx(0.5, abs=0.05)
    assert shares["right-a"] == pytest.approx(0.25, abs=0.05)


def test_what_is_idle_is_lent_and_a_guarantee_goes_first() -> None:
    pool = Pool(policy(queues=[{"name": "a", "guarantee": {"gpu": "8"}}, {"name": "b", "weight": 100}]), nodes=2)
    for index in range(16):
        pool.submit(pod(f"b{index}", {QUEUE: "b"}, gpu="1"))
    pool.turn()
    assert pool.held(QUEUE)["b"] == 16_000

    for index in range(20):
        pool.submit(pod(f"a{index}", {QUEUE: "a"}, gpu="1"))
        pool.submit(pod(f"c{index}", {QUEUE: "b"}, gpu="1"))
    for index in range(8):
        pool.finish(f"b{index}")
    pool.turn()

    assert pool.held(QUEUE) == {"a": 8_000, "b": 8_000}


def test_a_queue_at_its_limit_waits_and_says_so() -> None:
    pool = Pool(policy(queues=[{"name": "small", "limit": {"gpu": "2.5"}}]))
    for index in range(3):
        pool.submit(pod(f"whole{index}", {QUEUE: "small"}, gpu="1"))
    pool.submit(pod("part", {QUEUE: "small"}, share="50"))

    plan = pool.cycle.decide(0)

    assert len(plan.place) == 3
    (hold,) = plan.hold
    assert hold.reason == "QueueLimit"
    assert "queue small" in hold.message


def test_a_limit_on_one_model_sends_the_rest_elsewhere() -> None:
    pool = Pool(policy(queues=[{"name": "q", "limit": {"gpuModels": {"A100": "1"}}}]), nodes=1)
    pool.cycle.builder.put_node(node("other", model="T4"))
    for index in range(4):
        pool.submit(pod(f"p{index}", {QUEUE: "q"}, gpu="1"))

    places = pool.turn()

    assert Counter(place.node for place in places) == {"node-0": 1, "other": 3}


def test_a_gang_over_the_limit_holds_nothing() -> None:
    pool = Pool(policy(queues=[{"name": "q", "limit": {"gpu": "3"}}]))
    for index in range(4):
        one = pod(f"g{index}", {QUEUE: "q", "scheduling.example.com/gang": "g"}, gpu="1")
        annotations = {"scheduling.example.com/gang-min": "4"}
        metadata = Metadata(one.metadata.name, "default", uid=one.metadata.name, labels=one.metadata.labels,
                            annotations=annotations)  # fmt: skip
        pool.submit(Pod(metadata, one.spec))

    plan = pool.cycle.decide(0)

    assert not plan.place
    assert {hold.reason for hold in plan.hold} == {"QueueLimit"}


def test_an_unknown_queue_is_named_until_it_exists() -> None:
    pool = Pool(policy(queues=[{"name": "known"}]))
    pool.submit(pod("p", {QUEUE: "unknown"}, gpu="1"))

    (hold,) = pool.cycle.decide(0).hold
    assert hold.reason == "QueueUnknown"
    assert "'unknown'" in hold.message

    pool.cycle.builder.set_policy(policy(queues=[{"name": "unknown"}]))
    assert [place.pod.name for place in pool.turn()] == ["p"]


@pytest.mark.timeout(36_000)
@pytest.mark.parametrize("group", range(_GROUPS))
def test_no_limit_is_ever_exceeded(group: int) -> None:
    for seed in range(group, HISTORIES, _GROUPS):
        watch_limits(random.Random(seed))


def watch_limits(rng: random.Random) -> None:
    """One history of three queues with limits, one above the two others, looked at after every step."""
    limits = {"a": 3000, "b": 5000, "top": 7000}
    pool = Pool(
        policy(
            queues=[
                {"name": "top", "limit": {"gpu": "7"}},
                {"name": "a", "parent": "top", "limit": {"gpu": "3"}, "weight": rng.randint(1, 5)},
                {"name": "b", "parent": "top", "limit": {"gpu": "5"}, "guarantee": {"gpu": "1"}},
            ]
        ),
        nodes=2,
    )
    for number in range(60):
        amount = rng.choice([{"gpu": "1"}, {"gpu": "3"}, {"share": str(rng.randint(1, 100))}])
        pool.submit(pod(f"p{number}", {QUEUE: rng.choice("ab")}, **amount))
        if rng.random() < 0.5:
            pool.turn()
        if pool.running and rng.random() < 0.4:
            pool.finish(rng.choice(sorted(pool.running)))
        held = pool.held(QUEUE)
        assert held["a"] <= limits["a"]
        assert held["b"] <= limits["b"]
        assert held["a"] + held["b"] <= limits["top"]


@pytest.mark.slow
def test_weights_of_single_resources_count_for_the_share() -> None:
    """Both are equal by weight; in GPUs ads weighs three times as much."""
    pool = Pool(policy(queues=[{"name": "ads", "weights": {"gpu": 3}}, {"name": "search"}]))

    shares = contend(pool, QUEUE, ["ads", "search"])

    assert shares["ads"] == pytest.approx(0.75, abs=0.05)


def test_a_model_counts_only_for_queues_that_weigh_it() -> None:
    queues = [{"name": "ads", "weight": 2, "weights": {"cpu": 5, "gpuModels": {"T4": 7}}}, {"name": "search"}]
    arrays = Pool(policy(queues=queues)).cycle.builder.queues.arrays

    assert arrays.columns == ("cpu", "memory", "gpu", "gpu/T4")
    assert arrays.weights[:2].tolist() == [[5, 2, 2, 7], [1, 1, 1, 0]]
