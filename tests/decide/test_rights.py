"""What a queue is owed it gets, whoever's rows the limits and promises stand on, and at the least damage."""

from collections import Counter
from typing import Any

import pytest
from tests.worlds import START, World, bound, cluster, gang, node, pod, policy, with_spec

from tangram.api import names
from tangram.api.objects import Pod

LONG_AGO = START - 3600


def pool(*pods: Pod, gpus: int = 8, nodes: int = 1, queues: list[dict[str, Any]], **spec: Any) -> World:
    """Nodes of so many GPUs on which these pods run, one GPU after the other, since an hour ago."""
    world = World(cluster(f"{nodes}x{gpus}xA100"), policy=policy(*spec.pop("classes", ()), queues=queues, **spec))
    given = 0
    for one in pods:
        wanted = int(one.spec.containers[0].resources.requests[names.GPU_RESOURCE])
        where, first = divmod(given, gpus)
        world.add(bound(one, f"n{where}", {"main": [(str(first + n), 100) for n in range(wanted)]}, started=LONG_AGO))
        given += wanted
    return world


def ones(name: str, count: int, **options: Any) -> list[Pod]:
    """Pods of one GPU each, of the queue with their name unless told."""
    return [pod(f"{name}-{number}", **{"whole": 1, "queue": name} | options) for number in range(count)]


def running(world: World) -> Counter[str]:
    """How many pods of each name run."""
    return Counter(name.rsplit("-", 1)[0] for name in world.where)


def victims(world: World) -> list[str]:
    return sorted(evict.pod.name for evict in world.settle().evicted)


P, A = {"name": "p", "limit": {"gpu": "4"}}, {"name": "a", "parent": "p"}


@pytest.mark.parametrize("gpus", [8, 4], ids=["there is more", "the limit is all there is"])
@pytest.mark.parametrize("alone", [True, False], ids=["single pods", "a gang"])
def test_at_their_parents_limit_a_queue_takes_back_from_its_sibling(gpus: int, alone: bool) -> None:
    world = pool(*ones("a", 4), gpus=gpus, queues=[P, A, {"name": "b", "parent": "p", "guarantee": {"gpu": "2"}}])
    world.add(*(ones("b", 2) if alone else gang("b", 2, whole=1, queue="b")))
    world.settle()
    assert (running(world), len(world.evicted)) == ({"a": 2, "b": 2}, 2)


def test_at_their_parents_limit_siblings_share() -> None:
    world = pool(*ones("a", 4), queues=[P, A, {"name": "b", "parent": "p"}])
    world.add(*ones("b", 4))
    world.settle()
    assert (running(world), len(world.evicted)) == ({"a": 2, "b": 2}, 2)


def test_at_their_parents_limit_a_higher_class_comes_first() -> None:
    classes = [{"name": "gold", "weight": 9}, {"name": "tin", "weight": 1}]
    low = ones("a", 4, klass="tin")
    world = pool(*low, queues=[P, A, {"name": "b", "parent": "p"}], classes=classes, fallback="preempt")
    world.add(*ones("b", 2, klass="gold"))
    world.settle()
    assert running(world) == {"a": 2, "b": 2}


def test_what_is_owed_to_two_limits_leaves_below_both() -> None:
    """a may use two of the four of p: one of its own pods has to leave for it, and one of b's for p."""
    queues = [P, A | {"limit": {"gpu": "2"}, "guarantee": {"gpu": "2"}}, {"name": "b", "parent": "p"}]
    world = pool(*ones("a", 1), *ones("b", 3), queues=queues)
    world.add(pod("high", whole=2, queue="a", priority=9))
    assert sorted(evict.pod.name[0] for evict in world.step().evict) == ["a", "b"]
    world.settle()
    assert running(world) == {"high": 1, "b": 2}


def test_a_limit_that_was_lowered_below_what_is_used_suspends_no_promise() -> None:
    """p uses four of three: who wants one of p has two of a's pods leave."""
    lower = P | {"limit": {"gpu": "3"}}
    world = pool(*ones("a", 4), queues=[lower, A, {"name": "b", "parent": "p", "guarantee": {"gpu": "2"}}])
    world.add(*ones("b", 1))
    world.settle()
    assert (running(world), len(world.evicted)) == ({"a": 2, "b": 1}, 2)


def test_what_is_owed_to_a_limit_may_leave_other_nodes_than_the_one_that_the_claimant_goes_to() -> None:
    """Each node has one pod of a; b's pod of two GPUs fits on the free node once both have left."""
    queues = [P | {"limit": {"gpu": "2"}}, A, {"name": "b", "parent": "p", "guarantee": {"gpu": "2"}}]
    world = World([node("x", 1), node("y", 1), node("z", 2)], policy=policy(queues=queues))
    for one, where in zip(ones("a", 2), "xy", strict=True):
        world.add(bound(one, where, {"main": [("0", 100)]}, started=LONG_AGO))
    world.add(pod("b", whole=2, queue="b"))
    assert victims(world) == ["a-0", "a-1"]
    assert world.where == {"b": "z"}


@pytest.mark.parametrize("gpus", [8, 4], ids=["there is more", "the limit is all there is"])
def test_a_gang_at_its_queues_limit_exchanges_low_for_high(gpus: int) -> None:
    world = pool(*ones("low", 4, queue="p"), gpus=gpus, queues=[P])
    world.add(*gang("high", 2, whole=1, queue="p", priority=9))
    world.settle()
    assert running(world) == {"low": 2, "high": 2}


def test_a_promise_is_had_back_from_one_pod_that_is_partly_promised_and_partly_borrowed() -> None:
    queues = [{"name": "a", "guarantee": {"gpu": "1"}}, {"name": "b", "guarantee": {"gpu": "2"}}]
    world = pool(pod("a", whole=3, queue="a"), gpus=3, queues=queues)
    world.add(pod("b", whole=1, queue="b"))
    assert victims(world) == ["a"]
    assert list(world.where) == ["b"]


def test_a_gang_has_its_promise_back_from_one_that_is_partly_promised_and_partly_borrowed() -> None:
    queues = [{"name": "research", "guarantee": {"gpu": "4"}}, {"name": "serving", "guarantee": {"gpu": "4"}}]
    world = pool(*gang("large", 8, whole=1, queue="research"), queues=queues)
    world.add(*gang("small", 4, whole=1, queue="serving"))
    world.settle()
    assert running(world) == {"small": 4}


@pytest.mark.parametrize("first", [True, False])
def test_a_gang_has_its_promise_back_though_one_member_asks_for_no_gpus(*, first: bool) -> None:
    """A launcher, whether it is the first or the last member."""
    queues = [{"name": "a", "guarantee": {"gpu": "4"}}, {"name": "b"}]
    world = pool(*ones("low", 4, queue="b"), gpus=4, queues=queues)
    sizes = [0, 2, 2] if first else [2, 2, 0]
    world.add(*(pod(f"g-{index}", whole=size, gang="g", gang_min=3, queue="a") for index, size in enumerate(sizes)))
    world.settle()
    assert sorted(world.where) == ["g-0", "g-1", "g-2"]


@pytest.mark.parametrize("never", [False, True])
def test_a_member_that_needs_nobody_evicted_needs_no_right_to_that(*, never: bool) -> None:
    """a has its share of CPUs already, and none of the GPUs."""
    nodes = [node("n0", 8, cpu=96), node("c", 0, cpu=96)]
    world = World(nodes, policy=policy({"name": "any", "weight": 1}, queues=[{"name": "a"}, {"name": "b"}]))
    for index in range(8):
        there = bound(pod(f"low-{index}", whole=1, queue="b"), "n0", {"main": [(str(index), 100)]}, started=LONG_AGO)
        world.add(there)
    world.add(bound(pod("service", queue="a", cpu=16), "c", started=LONG_AGO))
    says = {"preemption_policy": "Never"} if never else {}
    launcher = with_spec(pod("g-2", gang="g", gang_min=3, queue="a"), **says)
    world.add(*(pod(f"g-{index}", whole=2, gang="g", gang_min=3, queue="a") for index in range(2)), launcher)
    assert len(victims(world)) == 4
    assert {"g-0", "g-1", "g-2"} <= world.where.keys()


@pytest.mark.parametrize("said", ["A100", "nvidia-a100-sxm4-80gb", "NVIDIA-A100-SXM4-80GB"])
def test_a_limit_names_a_model_as_pods_do(said: str) -> None:
    nodes = [node("n0", 8, labels={"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"})]
    world = World(nodes, policy=policy(queues=[{"name": "q", "limit": {"gpuModels": {said: "2"}}}]))
    world.add(*ones("q", 3))
    world.settle()
    assert len(world.where) == 2
    assert {world.reason(name) for name in world.waiting} == {"QueueLimit"}


def test_whoever_is_wholly_borrowed_leaves_before_one_that_is_partly_promised() -> None:
    """The single pod has run longest, but a gang that a's promise covers in part is a last resort."""
    queues = [{"name": "a", "guarantee": {"gpu": "1"}}, {"name": "b", "guarantee": {"gpu": "1"}}]
    single = pod("single", whole=1, queue="a", priority=0)
    world = pool(pod("wide", whole=2, queue="a", priority=0), single, gpus=3, queues=queues)
    world.add(pod("b", whole=1, queue="b"))
    assert victims(world) == ["single"]


def test_what_an_elastic_gang_can_do_without_is_all_that_can_leave_where_the_rest_is_promised() -> None:
    queues = [{"name": "a", "guarantee": {"gpu": "2"}}, {"name": "b", "guarantee": {"gpu": "2"}}]
    world = pool(*gang("g", 3, minimum=2, whole=1, queue="a"), gpus=3, queues=queues)
    world.add(pod("b", whole=2, queue="b"))
    assert victims(world) == []


@pytest.mark.parametrize("as_gang", [False, True])
def test_legal_victims_are_found_though_others_would_hurt_less(as_gang: bool) -> None:
    """b keeps what it is promised either way, but only if the right one leaves; the younger one would not do."""
    if as_gang:
        queues = [{"name": "a", "guarantee": {"gpu": "3"}}, {"name": "b", "guarantee": {"gpu": "1"}}]
        world = pool(*gang("g", 3, whole=1, queue="b"), pod("s", whole=1, queue="b"), gpus=1, nodes=4, queues=queues)
        world.add(*gang("a", 3, whole=1, queue="a"))
        assert victims(world) == ["g-0", "g-1", "g-2"]
    else:
        queues = [{"name": "a", "guarantee": {"gpu": "2"}}, {"name": "b", "guarantee": {"gpu": "1"}}]
        world = pool(pod("two", whole=2, queue="b"), pod("one", whole=1, queue="b"), gpus=3, queues=queues)
        world.add(pod("a", whole=2, queue="a"))
        assert victims(world) == ["two"]


def test_the_victims_are_those_with_the_least_lost_work_together() -> None:
    """A pod of four for 4,000 s is more than pods of one and of three for 3,600 s."""
    world = pool(pod("one", whole=1, queue="q"), pod("three", whole=3, queue="q"), queues=[{"name": "q"}])
    four = pod("four", whole=4, queue="q")
    world.add(bound(four, "n0", {"main": [(str(index), 100) for index in range(4, 8)]}, started=START - 4000))
    world.add(pod("high", whole=4, queue="q", priority=9))
    assert victims(world) == ["one", "three"]


def test_of_pods_without_gpus_the_smaller_is_the_lesser_loss() -> None:
    """Either leaves enough room; the small one has run a little longer."""
    world = World([node("n0", 0, cpu=12)], policy=policy(queues=[{"name": "q"}]))
    world.add(bound(pod("large", cpu=8, queue="q"), "n0", started=LONG_AGO))
    world.add(bound(pod("small", cpu=3, queue="q"), "n0", started=LONG_AGO - 60))
    world.add(pod("high", cpu=3, queue="q", priority=9))
    assert victims(world) == ["small"]


def test_a_queue_that_is_owed_a_borrowers_place_takes_that_before_one_of_its_own() -> None:
    low = pod("low", whole=1, queue="a", priority=-1)
    queues = [{"name": "a", "guarantee": {"gpu": "2"}}, {"name": "b"}]
    world = pool(low, pod("borrowed", whole=1, queue="b"), gpus=2, queues=queues)
    world.add(pod("high", whole=1, queue="a", priority=9))
    assert victims(world) == ["borrowed"]


def test_a_low_pod_of_its_own_and_a_borrowers_make_room_together() -> None:
    queues = [{"name": "a", "guarantee": {"gpu": "2"}}, {"name": "b"}]
    world = pool(pod("low", whole=1, queue="a"), pod("borrowed", whole=1, queue="b"), gpus=2, queues=queues)
    world.add(pod("high", whole=2, queue="a", priority=9))
    assert victims(world) == ["borrowed", "low"]


def test_equal_borrowers_give_back_evenly_so_that_no_second_round_follows() -> None:
    queues: list[dict[str, Any]] = [{"name": "c", "guarantee": {"gpu": "2"}}, {"name": "a"}, {"name": "b"}]
    world = pool(*ones("a", 4), queues=queues)
    for number, one in enumerate(ones("b", 4), start=4):  # each of these is the lesser loss
        world.add(bound(one, "n0", {"main": [(str(number), 100)]}, started=LONG_AGO + 600))
    world.add(pod("c", whole=2, queue="c"))
    assert [name[0] for name in victims(world)] == ["a", "b"]


def test_a_claim_of_gpus_takes_no_promised_cpu_for_a_queue_that_has_its_own_cpu() -> None:
    queues = [{"name": "a", "guarantee": {"cpu": "2"}}, {"name": "b", "guarantee": {"gpu": "2", "cpu": "2"}}]
    world = World([node("n0", 2, cpu=4)], policy=policy(queues=queues))
    world.add(bound(pod("a", cpu=2, queue="a"), "n0", started=LONG_AGO))
    world.add(bound(pod("b-0", whole=1, cpu=2, queue="b"), "n0", {"main": [("0", 100)]}, started=LONG_AGO))
    world.add(pod("b-1", whole=1, cpu=2, queue="b"))
    assert victims(world) == []


@pytest.mark.parametrize("reclaimable", [True, False])
def test_what_is_not_reclaimable_of_a_queue_above_is_not_of_those_below(reclaimable: bool) -> None:
    queues = [
        {"name": "a", "guarantee": {"gpu": "1"}},
        {"name": "p", "reclaimable": reclaimable},
        {"name": "v", "parent": "p"},
    ]
    world = pool(*ones("v", 2), gpus=2, queues=queues)
    world.add(*ones("a", 1))
    assert len(victims(world)) == int(reclaimable)


@pytest.mark.parametrize(("above", "leave"), [("1h", 0), ("1m", 1)])
def test_the_minimum_runtime_of_a_queue_above_is_heeded(above: str, leave: int) -> None:
    queues = [
        {"name": "a", "guarantee": {"gpu": "1"}},
        {"name": "p", "minRuntime": above},
        {"name": "v", "parent": "p"},
    ]
    world = World(cluster("1x2xA100"), policy=policy(queues=queues))
    for index, one in enumerate(ones("v", 2)):
        world.add(bound(one, "n0", {"main": [(str(index), 100)]}, started=START - 600 + index - 1))
    world.add(pod("a", whole=1, queue="a"))
    assert len(victims(world)) == leave


def test_who_waits_for_the_minimum_runtime_of_a_queue_above_is_told() -> None:
    queues = [{"name": "a"}, {"name": "p", "minRuntime": "2h"}, {"name": "v", "parent": "p"}]
    world = pool(*ones("v", 8), queues=queues)
    world.add(*ones("a", 1))
    told = "queue v is above its fair share, but its pods have run for less than minRuntime"
    assert told in world.step().hold[0].message


def test_members_beyond_the_minimum_claim_what_their_queue_is_promised_and_no_more() -> None:
    queues = [{"name": "a", "guarantee": {"gpu": "2"}}, {"name": "b", "guarantee": {"gpu": "1"}, "weight": 9}]
    world = pool(*gang("g", 3, minimum=1, whole=1, queue="b"), gpus=3, queues=queues)
    world.add(*gang("a", 3, minimum=1, whole=1, queue="a"))
    world.settle()
    assert (running(world), len(world.evicted)) == ({"g": 1, "a": 2}, 2)


def test_a_gang_without_gpus_that_is_more_than_its_promise_evicts_nobody() -> None:
    queues = [{"name": "a", "guarantee": {"cpu": "2"}}, {"name": "b", "weight": 9}]
    world = World([node("n0", 0, cpu=2), node("n1", 0, cpu=2)], policy=policy(queues=queues))
    for index in range(2):
        world.add(bound(pod(f"b-{index}", cpu=2, queue="b"), f"n{index}", started=LONG_AGO))
    world.add(*gang("a", 2, cpu=2, queue="a"))
    assert victims(world) == []


def test_whoever_leaves_for_one_member_pays_no_limit_for_the_next_one_too() -> None:
    classes = [{"name": "high", "weight": 3}, {"name": "low", "weight": 1}]
    queues = [{"name": "t", "limit": {"gpu": "2"}}, {"name": "a", "parent": "t"}, {"name": "b", "parent": "t"}]
    pool = World(
        nodes=[node("free", 2, labels={"only": "g"}), node("n1", 1), node("n2", 1)],
        policy=policy(*classes, fallback="preempt", queues=queues),
    )
    for name, where in (("low-1", "n1"), ("low-2", "n2")):
        pool.add(bound(pod(name, whole=1, queue="a", klass="low"), where, {"main": [("0", 100)]}))
    pool.add(*gang("g", 2, whole=1, queue="b", klass="high", selector={"only": "g"}))

    assert sorted(evict.pod.name for evict in pool.step().evict) == ["low-1", "low-2"]
