"""Queues that are owed nothing take from those that have more for their weight, until shares are even, no further."""

from collections import Counter
from typing import Any
from unittest.mock import patch

import pytest
from tests.worlds import START, World, bound, cluster, gang, node, pod, policy

from tangram.api.objects import Pod
from tangram.decide.preempt.search import Search

LONG_AGO = START - 3600


def pool(shape: str, *queues: dict[str, Any], **spec: Any) -> World:
    """Nodes of a shape (``2x8xA100``), shared by these queues."""
    return World(cluster(shape), policy=policy(*spec.pop("classes", ()), queues=list(queues), **spec))


def ones(name: str, count: int, **options: Any) -> list[Pod]:
    """Pods that never end, of one GPU and of the queue with their name unless told."""
    return [pod(f"{name}-{number}", **{"whole": 1, "queue": name} | options) for number in range(count)]


def first_come(world: World, *groups: list[Pod]) -> Counter[str]:
    """One group after the other, each when the world is at rest again; how many pods of each queue run in the end."""
    for group in groups:
        world.add(*group)
        world.settle()
    return Counter(name.rsplit("-", 1)[0] for name in world.where)


@pytest.mark.parametrize(("hog", "late", "expected"), [(3, 1, (24, 8)), (1, 3, (8, 24)), (5, 2, (23, 9))])
def test_a_queue_that_came_first_for_good_gives_others_their_share(hog: int, late: int, expected: Any) -> None:
    world = pool("4x8xA100", {"name": "a", "weight": hog}, {"name": "b", "weight": late})
    running = first_come(world, ones("a", 40), ones("b", 40))
    assert (running["a"], running["b"]) == expected
    assert len(world.evicted) == expected[1], "nobody is evicted twice"
    assert {evict.reason for evict in world.evicted} == {"queue b is below its fair share and queue a above"}


def test_shares_of_a_tree_are_even_level_by_level() -> None:
    world = pool(
        "2x8xA100", {"name": "left"}, {"name": "right"},
        {"name": "right-a", "parent": "right", "weight": 3}, {"name": "right-b", "parent": "right"},
    )  # fmt: skip
    running = first_come(world, ones("right-b", 20), ones("left", 20), ones("right-a", 20))
    assert running == {"left": 8, "right-a": 6, "right-b": 2}


def test_parts_of_gpus_even_out_too() -> None:
    world = pool("1x2xA100", {"name": "a"}, {"name": "b"})
    running = first_come(world, ones("a", 8, whole=0, gpu=25), ones("b", 8, whole=0, gpu=25))
    assert running == {"a": 4, "b": 4}


def test_pods_without_gpus_share_cpu_and_touch_no_pod_with_gpus() -> None:
    world = pool("1xcpu", {"name": "a"}, {"name": "b"})
    running = first_come(world, ones("a", 12, whole=0, cpu=8), ones("b", 12, whole=0, cpu=8))
    assert running == {"a": 6, "b": 6}
    world = World([node("n0", 8, cpu=8)], policy=policy(queues=[{"name": "a"}, {"name": "b"}]))
    assert first_come(world, ones("a", 8), ones("b", 8, whole=0)) == {"a": 8}


def test_whoever_has_much_of_another_resource_has_its_share() -> None:
    """Of CPU queue b has five eighths of the pool already: it takes GPUs only from what a queue has beyond as much."""
    world = pool("1x8xA100", {"name": "a"}, {"name": "b"})
    running = first_come(world, [pod("b-cpu-0", queue="b", cpu=60)], ones("a", 8), ones("b", 8))
    assert running == {"b-cpu": 1, "a": 6, "b": 2}


@pytest.mark.parametrize(("size", "expected"), [(4, {"a": 4, "b": 4}), (5, {"a": 8})])
def test_a_gang_has_its_share_whole_or_evicts_nobody(size: int, expected: dict[str, int]) -> None:
    world = pool("1x8xA100", {"name": "a"}, {"name": "b"})
    assert first_come(world, ones("a", 8), gang("b", size, whole=1, queue="b")) == expected


@pytest.mark.parametrize("size", [3, 4])
@pytest.mark.parametrize("older", ["large", "small"])
def test_whether_a_gang_has_its_share_depends_on_nobodys_age(size: int, older: str) -> None:
    """A gang counts whole from its first eviction on: whoever loses least, and so goes first, changes nothing."""
    world = pool("1x2xA100", {"name": "a"}, {"name": "b"})
    for name, asked in {"high": {"gpu": 70, "priority": 5}, "small": {"gpu": 30}, "large": {"gpu": 100}}.items():
        device = {"main": [("1" if name == "large" else "0", asked["gpu"])]}
        world.add(bound(pod(name, queue="a", **asked), "n0", device, START - (3600 if name == older else 60)))
    world.add(*gang("g", size, gpu=30, queue="b"))
    world.settle()
    assert [evict.pod.name for evict in world.evicted] == (["large"] if size == 3 else [])


@pytest.mark.parametrize("sizes", [(2, 2, 6), (2, 6, 2), (6, 2, 2)])
def test_a_gang_of_unequal_members_that_needs_some_of_them_has_its_share_with_the_smallest(
    sizes: tuple[int, ...],
) -> None:
    """Whatever their names are."""
    world = pool("1x8xA100", {"name": "a"}, {"name": "b"})
    members = [pod(f"g-{number}", whole=size, gang="g", gang_min=2, queue="b") for number, size in enumerate(sizes)]
    assert first_come(world, ones("a", 8), members) == {"a": 4, "g": 2}


def test_a_gang_that_needs_more_than_others_may_lose_looks_for_no_victims() -> None:
    """What they are promised, and what is their share, is not to be had: that is known before anybody is looked at."""
    world = pool("1x8xA100", {"name": "a", "guarantee": {"gpu": "6"}}, {"name": "b"})
    first_come(world, ones("a", 8))
    world.add(*gang("g", 3, whole=1, queue="b"))
    with patch.object(Search, "best", side_effect=AssertionError("a search")):
        world.settle()
    assert world.evicted == []


def test_a_gang_leaves_whole_or_stays() -> None:
    world = pool("2x4xA100", {"name": "a"}, {"name": "b"})
    running = first_come(world, gang("a", 4, whole=1, queue="a"), gang("a2", 4, whole=1, queue="a"), ones("b", 8))
    assert len(world.evicted) == 4
    assert running["b"] == 4


def test_a_guarantee_is_kept_whatever_the_share() -> None:
    world = pool("1x8xA100", {"name": "a", "guarantee": {"gpu": "7"}}, {"name": "b", "weight": 9})
    assert first_come(world, ones("a", 8), ones("b", 8)) == {"a": 7, "b": 1}


def test_what_is_not_reclaimable_stays() -> None:
    world = pool("1x8xA100", {"name": "a", "reclaimable": False}, {"name": "b"})
    assert first_come(world, ones("a", 8), ones("b", 8)) == {"a": 8}


@pytest.mark.parametrize(
    ("terms", "told"),
    [
        ({"reclaimable": False}, "queue a is above its fair share, but not reclaimable"),
        ({"minRuntime": "1h"}, "queue a is above its fair share, but its pods have run for less than minRuntime"),
    ],
)
@pytest.mark.parametrize("promised", [{}, {"guarantee": {"gpu": "2"}}], ids=["by share", "by guarantee"])
def test_who_may_not_take_back_is_told_why(terms: dict[str, Any], told: str, promised: dict[str, Any]) -> None:
    world = pool("1x8xA100", {"name": "a"} | terms, {"name": "b"} | promised, {"name": "c", "weight": 9})
    world.add(*ones("a", 8))
    world.settle()
    messages = {}
    for late in (ones("b", 1), gang("g", 2, whole=1, queue="b")):
        world.add(*late)
        messages |= {hold.pod.name: hold.message for hold in world.step().hold}
    assert all(message.endswith(f"; {told}") for message in messages.values()), messages
    assert set(messages) == {"b-0", "g-0", "g-1"}


@pytest.mark.parametrize("asked", [{"selector": {"zone": "z"}}, {"models": "H100"}])
@pytest.mark.parametrize("size", [1, 2], ids=["a pod", "a gang"])
def test_who_cannot_run_whoever_leaves_is_not_told_of_queues(asked: dict[str, Any], size: int) -> None:
    world = pool("1x8xA100", {"name": "a", "reclaimable": False}, {"name": "b"})
    world.add(*ones("a", 8))
    world.settle()
    world.add(*gang("g", size, gpu=10, queue="b", **asked))
    messages = [hold.message for hold in world.step().hold]
    assert len(messages) == size
    assert not any("fair share" in message for message in messages), messages


@pytest.mark.parametrize("above", [False, True], ids=["its own", "of the queue above"])
def test_of_a_queue_within_its_guarantee_nobody_says_that_it_has_too_much(above: bool) -> None:
    terms = {"reclaimable": False, "guarantee": {"gpu": "8"}}
    parent, own = (terms, {}) if above else ({}, terms)
    world = pool("1x8xA100", {"name": "p"} | parent, {"name": "a", "parent": "p"} | own, {"name": "b"})
    world.add(*ones("a", 8))
    world.settle()
    world.add(*ones("b", 1))
    assert [hold.message for hold in world.step().hold] == ["0/1 nodes are available: 1 insufficient free GPUs"]


def test_the_minimum_runtime_is_heeded() -> None:
    world = pool("1x8xA100", {"name": "a", "minRuntime": "1h"}, {"name": "b"})
    for number in range(8):
        young = pod(f"a-{number}", queue="a", whole=1)
        world.add(bound(young, "n0", {"main": [(str(number), 100)]}, started=LONG_AGO if number < 2 else START - 60))
    world.add(*ones("b", 8))
    world.settle()
    assert sorted(evict.pod.name for evict in world.evicted) == ["a-0", "a-1"]


def test_priorities_of_another_queue_do_not_keep_its_surplus() -> None:
    world = pool("1x8xA100", {"name": "a"}, {"name": "b"})
    assert first_come(world, ones("a", 8, priority=9), ones("b", 8)) == {"a": 4, "b": 4}


def test_the_share_of_a_queue_is_that_of_its_highest_pods() -> None:
    """Whoever wants the only node with high pods would take them, though the queue has others that are lower."""
    world = World(
        [node("n0", 4, labels={"zone": "x"}), node("n1", 4)], policy=policy(queues=[{"name": "a"}, {"name": "b"}])
    )
    high = ones("high", 2, whole=2, priority=5, queue="a", selector={"zone": "x"})
    low = ones("low", 4, queue="a")
    wants = ones("b", 1, whole=4, queue="b", selector={"zone": "x"})
    assert first_come(world, high, low, wants) == {"high": 2, "low": 4}


def division(**pods: Any) -> tuple[World, list[Pod]]:
    """Two teams of a division, beside which another one works; one team has all that the division has."""
    world = pool("2x4xA100", {"name": "other"}, {"name": "top"}, *({"name": n, "parent": "top"} for n in ("a", "b")))
    first_come(world, ones("other", 4), ones("a", 4 // pods.get("whole", 1), **pods))
    return world, ones("b", 4)


def test_within_a_division_that_has_neighbours_nobody_takes_more_than_he_brings() -> None:
    world, late = division()
    assert first_come(world, late) == {"other": 4, "a": 2, "b": 2}
    world, late = division(whole=4)
    assert first_come(world, late)["b"] == 0
    world, late = division(priority=1)
    assert first_come(world, late)["b"] == 0


def test_where_classes_evict_each_other_equal_classes_share() -> None:
    classes = [{"name": "gold", "weight": 5}, {"name": "tin", "weight": 1}]
    world = pool("1x8xA100", {"name": "a"}, {"name": "b"}, classes=classes, fallback="preempt")
    assert first_come(world, ones("a", 8, klass="gold"), ones("b", 8, klass="tin")) == {"a": 8}
    world.add(*(pod(f"b-gold-{number}", queue="b", klass="gold", whole=1) for number in range(8)))
    world.settle()
    assert Counter(name.rsplit("-", 1)[0] for name in world.where) == {"a": 4, "b-gold": 4}
