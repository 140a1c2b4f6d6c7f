"""A decision that changed nothing is not made again before something changes."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from tests.worlds import START, World, bound, cluster, gang, node, pod, policy, with_spec

from tangram.api.objects import Condition
from tangram.decide import pipeline, reasons
from tangram.decide.memory import Memory
from tangram.scheduler.reporter import REFRESHED_AFTER


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many decisions are made with the memory that the world keeps."""
    made, real = list[int](), pipeline._make

    def make(snapshot: Any, memory: Memory) -> Any:
        made.append(snapshot.now)
        return real(snapshot, memory)

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "_make", make)
        yield made


def full(waiting: int = 3) -> World:
    """A node whose two GPUs are in use, and pods that wait."""
    runs = bound(pod("runs", whole=2, priority=5), "n0", {"main": [("0", 100), ("1", 100)]})
    world = World(cluster("1x2xA100"), [runs])
    world.add(*(pod(f"w{number}", whole=1, age=60 - number) for number in range(waiting)))
    return world.settle()


def decisions(world: World, monkeypatch: pytest.MonkeyPatch, cycles: int = 3) -> int:
    """How many decisions so many cycles make."""
    with counted(monkeypatch) as made:
        for _ in range(cycles):
            world.now += 1
            world.cycle.decide(world.now)
    return len(made)


def test_nothing_is_decided_again_while_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decisions(full(), monkeypatch) == 0


def test_an_event_that_says_nothing_new_costs_no_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    world = full()
    waiting = world.pod("w0")
    status = replace(waiting.status, conditions=(Condition("PodScheduled", "False", reason="Unschedulable"),))
    world.cycle.observe_pod(waiting, replace(waiting, status=status))
    world.cycle.builder.put_node(node("n0", 2))
    assert decisions(world, monkeypatch) == 0


def another_pod(world: World) -> None:
    world.cycle.observe_pod(None, pod("late", whole=1))


def a_pod_less(world: World) -> None:
    world.cycle.observe_pod(world.pod("w1"), None)


def another_node(world: World) -> None:
    world.cycle.builder.put_node(node("n1", 1))


def another_label(world: World) -> None:
    world.cycle.builder.put_node(node("n0", 2, labels={"nvidia.com/gpu.product": "T4"}))


def another_policy(world: World) -> None:
    world.cycle.builder.set_policy(policy(queues=[{"name": "q"}]))


def another_priority(world: World) -> None:
    waiting = world.pod("w2")
    world.cycle.observe_pod(waiting, with_spec(waiting, priority=9))


@pytest.mark.parametrize(
    "news", [another_pod, a_pod_less, another_node, another_label, another_policy, another_priority]
)
def test_news_is_decided_about(news: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = full()
    news(world)
    assert decisions(world, monkeypatch, 1) >= 1


def test_a_victim_is_protected_to_the_second_and_no_longer() -> None:
    queues = [{"name": "mine", "guarantee": {"gpu": "2"}}, {"name": "other", "minRuntime": "10s"}]
    runs = bound(pod("runs", whole=2, queue="other"), "n0", {"main": [("0", 100), ("1", 100)]}, started=START)
    world = World(cluster("1x2xA100"), [runs], policy=policy(queues=queues))
    world.add(pod("wants", whole=2, queue="mine"))
    evicted = next(second for second in range(1, 30) if world.step().evict)
    assert evicted == 10


def test_a_gang_goes_on_waiting_without_being_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = full(0)
    world.add(*gang("g", 2, whole=1))
    world.settle()
    assert decisions(world, monkeypatch) == 0


def test_who_was_told_nothing_yet_is_told_at_rest() -> None:
    world = full()
    world.cycle.reporter.forget(world.pod("w1").metadata.uid)
    world.now += 1
    assert [hold.pod.name for hold in world.cycle.decide(world.now).hold] == ["w1"]


def test_who_goes_on_running_changes_nothing_while_the_order_of_queues_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What queues have used of late grows each second; nodes are held for the first in line all the same."""
    queues = [{"name": "a", "guarantee": {"gpu": "1"}}, {"name": "b", "guarantee": {"gpu": "3"}}]
    world = World(cluster("2x4xA100"), policy=policy(queues=queues), reservation_delay=30)
    for number in range(20):
        world.add(pod(f"p{number}", whole=1 + number % 3, queue="ab"[number % 2], age=4000, priority=number % 3))
    world.settle()
    world.now += 5
    world.cycle.decide(world.now)
    assert world.cycle.memory.rest is not None
    assert world.cycle.memory.rest._made.draft.reservation is not None
    assert decisions(world, monkeypatch) == 0


def test_what_pods_of_one_request_are_said_to_wait_for_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though it is a minute old time and again; what was said before the decision came to rest is compared with it."""
    world, found, real = full(), list[int](), reasons._sentence_of
    monkeypatch.setattr(reasons, "_sentence_of", lambda *given: found.append(1) or real(*given))
    for _ in range(5 * REFRESHED_AFTER):
        world.now += 1
        assert not world.cycle.decide(world.now).hold
    assert len(found) <= 1


def test_a_sentence_that_is_no_longer_true_is_said_anew_at_rest() -> None:
    world = full()
    two = node("n1", 0)
    world.cycle.builder.put_node(two)
    world.nodes.append(two)
    said = {hold.pod.name: hold.message for _ in range(2 * REFRESHED_AFTER) for hold in world.step().hold}
    assert set(said) == {"w0", "w1", "w2"}
    assert all(message.startswith("0/2 nodes are available") for message in said.values())


def test_what_was_said_in_the_second_in_which_a_decision_came_to_rest_is_compared_once_more() -> None:
    """It may have been said by the decision before, of which the binding was refused within that second."""
    world = full()
    rest = world.cycle.memory.rest
    assert rest is not None
    said = np.array([rest._seen.now - 1, rest._seen.now, rest._seen.now + 1])
    assert rest.not_compared([0, 1, 2], said) == {0, 1}
