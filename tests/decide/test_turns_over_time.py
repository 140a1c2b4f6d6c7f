"""Weights over time: where only few can have their turn at once, queues that have used less come first."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from tests.worlds import World, gang, node, pod, policy

from tangram.api.objects import Pod
from tangram.api.policy import HybridPolicy, PolicyStatus
from tangram.api.queue import QueueUse
from tangram.scheduler.queue_status import queue_uses
from tangram.units import rfc3339

Jobs = Callable[[str, str], list[Pod]]
"""(name, queue) -> the pods of one job."""
MINUTES = 600


def whole_pool(name: str, queue: str) -> list[Pod]:
    return [pod(name, whole=8, queue=queue)]


def half_pool(name: str, queue: str) -> list[Pod]:
    return [pod(name, whole=4, queue=queue)]


def gang_of_all(name: str, queue: str) -> list[Pod]:
    return gang(name, 4, whole=2, queue=queue)


def rounds(pool: World, queues: list[str], jobs: Jobs, count: int, restart: int = 0) -> Counter[str]:
    """Jobs by queue that had their turn while each of these had three waiting; all that run end after ten minutes."""
    turns, number, had = Counter[str](), 0, set[str]()
    for one in range(count):
        for queue in queues:
            waiting = {name.split("-")[0] for name in pool.waiting if name.startswith(f"{queue}.")}
            for _ in range(3 - len(waiting)):
                number += 1
                for made in jobs(f"{queue}.{number:04}", queue):
                    stamped = msgspec.structs.replace(made.metadata, creation_timestamp=rfc3339(pool.now))
                    pool.add(msgspec.structs.replace(made, metadata=stamped))
        pool.step()
        pool.step()
        started = {name.split("-")[0] for name in pool.where} - had
        had |= started
        turns.update(name.split(".")[0] for name in started)
        pool.now += MINUTES
        pool.delete(*pool.where)
        if restart and one % restart == 0:
            remember(pool)
    return turns


def remember(pool: World) -> None:
    """Another scheduler goes on, with what the policy's status says of past use."""
    uses = [QueueUse.model_validate(one) for one in queue_uses(pool.figures())]
    assert pool.policy is not None
    pool.policy = pool.policy.model_copy(update={"status": PolicyStatus(queues=tuple(uses))})
    pool.start_again()


def world(**queues: dict[str, Any]) -> World:
    return World(nodes=[node("n", 8)], policy=of_queues(queues))


def of_queues(queues: dict[str, dict[str, Any]], **spec: Any) -> HybridPolicy:
    return policy(queues=[{"name": name} | facts for name, facts in queues.items()], **spec)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [whole_pool, gang_of_all])
def test_jobs_of_the_whole_pool_alternate_by_weight(jobs: Jobs) -> None:
    pool = world(a={}, b={"weight": 5})

    assert rounds(pool, ["a", "b"], jobs, 60) == {"a": 10, "b": 50}
    assert not pool.evicted


@pytest.mark.slow
def test_equal_queues_have_equal_numbers_of_jobs() -> None:
    assert rounds(world(a={}, b={}), ["a", "b"], whole_pool, 40) == {"a": 20, "b": 20}


@pytest.mark.slow
def test_also_where_both_are_promised_all_of_it() -> None:
    promised = {"guarantee": {"gpu": "8"}}

    assert rounds(world(a=promised, b=promised), ["a", "b"], whole_pool, 20) == {"a": 10, "b": 10}


@pytest.mark.slow
def test_three_queues_share_two_places() -> None:
    turns = rounds(world(a={}, b={}, c={}), ["a", "b", "c"], half_pool, 30)

    assert turns == {"a": 20, "b": 20, "c": 20}


@pytest.mark.slow
def test_past_use_survives_a_restart() -> None:
    pool = world(a={}, b={"weight": 5})

    assert rounds(pool, ["a", "b"], whole_pool, 60, restart=1) == {"a": 10, "b": 50}


def test_a_change_of_the_policy_forgets_nothing() -> None:
    pool = world(a={}, b={})
    pool.add(pod("a", whole=8, queue="a"))
    pool.settle()
    pool.now += MINUTES
    pool.delete("a")
    pool.step()
    pool.cycle.builder.set_policy(of_queues({"c": {}, "b": {"weight": 2}, "a": {"weight": 2}}))
    pool.add(pod("a1", whole=8, queue="a", age=9), pod("b1", whole=8, queue="b"))

    assert sorted(pool.settle().where) == ["b1"]


def test_half_of_it_is_forgotten_in_each_half_life() -> None:
    pool = world(a={}, b={})
    pool.add(pod("a", whole=8, queue="a"))
    pool.step()
    pool.now += MINUTES
    pool.delete("a")
    pool.step()

    def used() -> int:
        return int(queue_uses(pool.figures())[0]["recentGPUSeconds"])

    assert used() == pytest.approx(8 * MINUTES, rel=0.01)
    pool.now += 24 * 3600
    assert used() == pytest.approx(4 * MINUTES, rel=0.01)


def test_without_a_half_life_the_past_does_not_count() -> None:
    pool = World(nodes=[node("n", 8)], policy=of_queues({"a": {}, "b": {}}, usageHalfLife="0s"))
    rounds(pool, ["a", "b"], whole_pool, 4)

    assert not pool.cycle.builder.queues.arrays.recent.any()


def test_the_past_gives_nobody_more_than_a_share_of_the_present() -> None:
    """a has used all for long, b nothing: now each has half, and nobody is evicted."""
    pool = world(a={}, b={})
    pool.add(pod("old", whole=8, queue="a"))
    pool.step()
    pool.now += 48 * 3600
    pool.delete("old")
    pool.add(*(pod(f"{queue}{index}", whole=1, queue=queue) for queue in ("a", "b") for index in range(8)))
    pool.settle()

    assert Counter(name[0] for name in pool.where) == {"a": 4, "b": 4}
    assert not pool.evicted
