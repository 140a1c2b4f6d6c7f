"""Whose turn it is, and that what one cycle places the next ones do not take back.

``TANGRAM_HISTORIES`` sets in how many worlds the latter is tried (seeds 0, 1, …).
"""

import os
import random
from typing import Any

import pytest
from tests.budget import examples
from tests.worlds import World, bound, cluster, gang, node, pod, policy

from tangram.api.policy import PolicyStatus
from tangram.api.queue import QueueUse
from tangram.decide import pipeline

WORLDS = int(os.environ.get("TANGRAM_HISTORIES", examples(8)))
QueueFacts = dict[str, dict[str, Any]]


def world(gpus: int, queues: QueueFacts, **options: Any) -> World:
    """One node, and queues by name."""
    told = [{"name": name} | facts for name, facts in queues.items()]
    return World(nodes=[node("n", gpus, cpu=200)], policy=policy(queues=told), **options)


def test_of_equal_shares_the_oldest_pod_is_first_whatever_its_queue_is_called() -> None:
    pool = world(8, {"a": {}, "b": {}, "c": {}})
    pool.add(*(pod(name, whole=4, queue=name, age=age) for name, age in (("a", 1), ("b", 2), ("c", 3))))

    assert sorted(pool.settle().where) == ["b", "c"]


def test_of_equal_shares_the_pod_of_higher_priority_is_first() -> None:
    pool = world(8, {"a": {}, "b": {}})
    pool.add(pod("a", whole=8, queue="a", age=9), pod("b", whole=8, queue="b", priority=5))

    assert sorted(pool.settle().where) == ["b"]


def test_shares_are_compared_with_the_pod_counted_in() -> None:
    pool = world(8, {"a": {}, "b": {"weight": 5}})
    pool.add(pod("a", whole=8, queue="a", age=9), pod("b", whole=8, queue="b"))

    assert sorted(pool.settle().where) == ["b"]


def test_a_pod_within_its_queues_promise_is_before_one_that_goes_beyond() -> None:
    """a has used a smaller part of its promise, but its pod would not stay within."""
    pool = world(4, {"a": {"guarantee": {"gpu": "2"}}, "b": {"guarantee": {"gpu": "2"}}})
    pool.add(pod("a0", gpu=50, queue="a"), pod("b0", whole=1, queue="b"))
    pool.settle()
    pool.add(pod("a1", whole=2, queue="a", age=9), pod("b1", whole=1, queue="b"))
    pool.settle()

    assert sorted(pool.where) == ["a0", "b0", "b1"]
    assert not pool.evicted


def test_a_promise_is_of_the_resources_that_a_pod_asks_for() -> None:
    """a has used all that it is promised of CPU, and nothing of its GPUs."""
    pool = world(8, {"a": {"guarantee": {"gpu": "8", "cpu": "20"}}, "b": {}})
    pool.add(pod("a-cpu", cpu=20, queue="a"))
    pool.settle()
    pool.add(*(pod(f"b{index}", whole=1, queue="b", age=9) for index in range(8)))
    pool.add(*(pod(f"a{index}", whole=1, queue="a") for index in range(8)))
    pool.settle()

    assert not pool.evicted
    assert pool.waiting == [f"b{index}" for index in range(8)]


def test_a_promise_of_one_model_is_kept_though_another_is_used_beyond() -> None:
    promised = {"guarantee": {"gpuModels": {"A100": "4", "T4": "1"}}}
    pool = World(cluster("1x8xA100", "1x8xT4"), policy=policy(queues=[{"name": "a"} | promised, {"name": "b"}]))
    pool.nodes[1].metadata.labels["nvidia.com/gpu.product"] = "T4"
    pool.start_again()
    pool.add(*(pod(f"t{index}", whole=1, queue="a", models="T4") for index in range(4)))
    pool.settle()
    pool.add(*(pod(f"b{index}", whole=1, queue="b", models="A100", age=9) for index in range(8)))
    pool.add(*(pod(f"a{index}", whole=1, queue="a", models="A100") for index in range(4)))
    pool.settle()

    assert not pool.evicted
    assert {f"a{index}" for index in range(4)} <= pool.where.keys()


def test_a_pod_that_fits_nowhere_does_not_decide_when_its_queue_has_its_turn() -> None:
    """a's first pod goes beyond the promise and fits nowhere, the second stays within."""
    pool = world(2, {"a": {"guarantee": {"gpu": "1"}}, "b": {}})
    pool.add(pod("a-large", whole=4, queue="a", age=9), pod("a-small", whole=1, queue="a"))
    pool.add(*(pod(f"b{index}", whole=1, queue="b", age=5) for index in range(2)))
    pool.settle()

    assert "a-small" in pool.where
    assert not pool.evicted


def test_what_another_queue_could_take_back_is_not_taken() -> None:
    """Both have three of eight. The older pods of two would leave one side with five and the other with three."""
    pool = world(8, {"a": {}, "b": {}})
    for queue in ("a", "b"):
        pool.add(*(pod(f"{queue}{index}", whole=1, queue=queue, age=9) for index in range(3)))
        pool.add(pod(f"{queue}-two", whole=2, queue=queue, age=5), pod(f"{queue}-one", whole=1, queue=queue))
    pool.settle()

    assert not pool.evicted
    assert {"a-one", "b-one"} <= pool.where.keys()


def test_a_higher_priority_in_another_class_of_the_queue_is_first() -> None:
    """Within one queue rank decides who may evict whom, so it decides whose turn it is too."""
    classes = ({"name": "training", "weight": 3}, {"name": "notebooks", "weight": 1})
    pool = World(cluster("1x4xA100"), policy=policy(*classes, queues=[{"name": "q"}]))
    pool.add(*(pod(f"t{index}", whole=1, queue="q", klass="training", age=9) for index in range(4)))
    pool.add(*(pod(f"n{index}", whole=1, queue="q", klass="notebooks", priority=5) for index in range(4)))
    pool.settle()

    assert not pool.evicted
    assert sorted(pool.where) == ["n0", "n1", "n2", "n3"]


def test_a_queues_own_pods_share_with_the_queues_below_it_whatever_their_priority() -> None:
    pool = world(4, {"top": {}, "below": {"parent": "top"}})
    pool.add(*(pod(f"t{index}", whole=1, queue="top", priority=9) for index in range(4)))
    pool.add(*(pod(f"b{index}", whole=1, queue="below") for index in range(4)))
    pool.settle()

    assert sorted(name[0] for name in pool.where) == ["b", "b", "t", "t"]


def test_a_gang_has_its_turn_by_all_that_it_needs() -> None:
    """The first member alone would stay within the promise; the whole gang does not."""
    pool = world(4, {"a": {"guarantee": {"gpu": "2"}}, "b": {"guarantee": {"gpu": "2"}}})
    pool.add(*gang("g", 4, whole=1, queue="a", age=9), *(pod(f"b{index}", whole=1, queue="b") for index in range(2)))
    pool.settle()

    assert sorted(pool.where) == ["b0", "b1"]
    assert not pool.evicted


@pytest.mark.parametrize("promised", ["nothing", "gpu", "gpu and cpu"])
def test_without_news_nothing_is_evicted_that_an_earlier_cycle_placed(promised: str) -> None:
    for seed in range(WORLDS):
        pool = of_two_queues(random.Random(seed), promised)
        for _ in range(6):
            pool.step()
        assert not pool.evicted, f"seed {seed}: {pool.evicted}"


def of_two_queues(rng: random.Random, promised: str) -> World:
    """A small world in which all pods are known from the beginning."""
    queues: QueueFacts = {}
    for name in ("q0", "q1"):
        amounts = {"gpu": str(rng.randint(1, 5))} | ({"cpu": str(rng.randint(4, 16))} if "cpu" in promised else {})
        queues[name] = {"guarantee": amounts} if promised != "nothing" and rng.random() < 0.7 else {}
    past = [QueueUse(name=name, recent_gpu_seconds=rng.choice([0, rng.randint(1, 10**6)])) for name in queues]
    pool = world(8, queues)
    assert pool.policy is not None
    pool.policy = pool.policy.model_copy(update={"status": PolicyStatus(queues=tuple(past))})
    pool.start_again()
    for index in range(16):
        amounts = {"whole": rng.choice([0, 1, 1, 2]), "cpu": rng.choice([1, 2, 4, 6])}
        pool.add(pod(f"p{index}", queue=rng.choice(["q0", "q1"]), age=rng.randint(0, 50), **amounts))
    return pool


def test_members_that_their_gang_can_do_without_have_turns_of_their_own() -> None:
    """The third member of g would leave b with more than a has, and a could take it back at once."""
    pool = world(4, {"a": {}, "b": {}})
    pool.add(*gang("g", 3, minimum=2, whole=1, queue="b", priority=9), pod("a0", whole=2, queue="a", age=9))

    pool.settle()
    assert sorted(name[:1] for name in pool.where) == ["a", "g", "g"]
    assert not pool.evicted


def test_a_gang_grows_where_nobody_else_has_a_right_to_the_place() -> None:
    pool = world(4, {"a": {}, "b": {}})
    pool.add(*gang("g", 3, minimum=2, whole=1, queue="b", priority=9), pod("a0", whole=1, queue="a", age=9))

    assert sorted(pool.settle().where) == ["a0", "g-0", "g-1", "g-2"]


def test_a_gang_that_is_tried_in_vain_changes_nobodys_turn() -> None:
    licence = {"example.com/licence": 1}
    queues = [{"name": name, "reclaimable": False} for name in ("a", "b", "c")]
    active = policy(queues=queues, placement={"strategy": "pack"})
    active = active.model_copy(update={"status": PolicyStatus(queues=(QueueUse(name="b", recent_gpu_seconds=10**7),))})
    pool = World(nodes=[node("n0", extra=licence), node("n1", extra=licence)], policy=active)
    pool.add(bound(pod("r", whole=4, queue="a"), "n0", {"main": [(str(index), 100) for index in range(4)]}))
    pool.add(*(bound(pod(f"s{one}", whole=1, queue="b"), "n1", {"main": [(str(one), 100)]}) for one in range(4)))
    pool.add(bound(pod("f", whole=4, queue="c"), "n1", {"main": [(str(index), 100) for index in range(4, 8)]}))
    pool.add(*gang("g", 2, whole=1, extra=licence, queue="a", age=50))
    pool.settle()

    pool.add(pod("p", whole=4, queue="a", age=10), pod("q", whole=1, queue="b", age=5))

    assert [place.pod.name for place in pool.step().place] == ["p"]


def test_pods_of_one_request_at_a_limit_have_one_turn_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing follows from the turns of the others; that the first has none decides nothing about other requests."""
    turns, real = list[int](), pipeline._place_one
    monkeypatch.setattr(pipeline, "_place_one", lambda made, slot: turns.append(slot) or real(made, slot))
    pool = world(8, {"a": {"limit": {"gpu": "1"}}, "b": {}})
    pool.add(*(pod(f"a{number}", whole=1, queue="a", age=100 - number) for number in range(40)))
    pool.add(*(pod(f"b{number}", whole=1, queue="b") for number in range(3)))
    assert sorted(place.pod.name for place in pool.step().place) == ["a0", "b0", "b1", "b2"]
    assert pool.reason("a1") == pool.reason("a39") == "QueueLimit"
    turns.clear()
    pool.add(bound(pod("foreign", scheduler="other"), "n"))
    pool.cycle.decide(pool.now + 1)
    assert len(turns) <= 1
