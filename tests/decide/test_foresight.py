"""Nobody is given a place that the next decision would take back for somebody who waits already."""

from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from tests.budget import examples
from tests.decide.test_owed import some_world
from tests.worlds import START, World, bound, cluster, gang, leaving, node, pod, policy

from tangram.api.objects import OwnerReference, Pod
from tangram.decide import ahead, foresight, pipeline
from tangram.decide.following import after, nobody_leaves, outlook
from tangram.decide.memory import Memory
from tangram.decide.pipeline import _make
from tangram.decide.preempt.threats import may_stand_above_placed
from tangram.decide.walk import asking_of
from tangram.scheduler.cycle import Cycle
from tangram.snapshot.arrays import Snapshot


def names(found: tuple) -> list[str]:
    return sorted(one.pod.name for one in found)


def made_free(*later: Pod, beside: int = 1) -> World:
    """A pod of low priority has left its two GPUs to ``c``, and others arrive at that very moment; ``beside`` is the
    priority of ``x``, which has the other two."""
    low = bound(pod("low", whole=2, priority=0), "n0", {"main": [("0", 100), ("1", 100)]})
    world = World(cluster("1x4xA100"), [low, pod("c", whole=2, priority=5)], grace=1)
    full = bound(pod("x", whole=2, priority=beside), "n0", {"main": [("2", 100), ("3", 100)]})
    world.add(full)
    assert names(world.step().evict) == ["low"]
    world.step()
    world.add(*later)
    return world


def test_a_place_that_was_made_free_goes_to_who_would_take_it_back() -> None:
    world = made_free(pod("h", whole=2, priority=9), beside=9)
    plans = [world.step() for _ in range(4)]
    assert names(plans[0].place) == ["h"]
    assert [evict for plan in plans for evict in plan.evict] == []


def test_who_gives_way_where_others_have_to_leave_too_is_told_for_whom() -> None:
    world = made_free(pod("h", whole=4, priority=9))
    plan = world.step()
    assert (names(plan.place), names(plan.evict)) == ([], ["x"])
    assert world.reason("c") == "WaitingForTurn"
    [text] = [hold.message for hold in plan.hold if hold.pod.name == "c"]
    assert text == "it would be preempted by default/h at once: its priority 5 is lower than 9 in the same queue"
    assert sorted(world.settle().where.values()) == ["n0"]
    assert list(world.where) == ["h"]


def test_a_gang_gives_way_as_a_whole() -> None:
    low = bound(pod("low", whole=4, priority=0), "n0", {"main": [(str(index), 100) for index in range(4)]})
    world = World(cluster("1x4xA100"), [low, *gang("g", 2, whole=2, priority=5)], grace=1)
    assert names(world.step().evict) == ["low"]
    world.step()
    world.add(pod("h", whole=1, priority=9))
    plan = world.step()
    assert names(plan.place) == ["h"]
    assert world.step().evict == ()
    assert list(world.settle().where) == ["h"]


def test_what_is_told_is_told_once() -> None:
    world = made_free(pod("h", whole=4, priority=9))
    world.step()
    world.step()
    assert [name for name, reason in world.told if name == "c" and reason == "WaitingForTurn"] == ["c"]


def test_a_pod_gets_the_very_devices_that_were_kept_for_it() -> None:
    """A place of 70 % is kept beside 30 % that run, and another one on the GPU that is being made free, where 30 % are
    left for ``late``: whoever comes first does not take the room that was kept for the others."""
    running = bound(pod("r", gpu=30), "n0", {"main": [("0", 30)]})
    low = bound(pod("low", whole=1), "n0", {"main": [("1", 100)]})
    many = gang("g", 2, gpu=70, priority=9)
    world = World([node("n0", 2)], [running, low, *many], grace=1)
    assert names(world.step().evict) == ["low"]
    world.add(pod("late", gpu=30, priority=5))
    world.settle()
    assert sorted(world.where) == ["g-0", "g-1", "late", "r"]


def test_who_comes_once_victims_are_gone_counts_as_coming() -> None:
    """While ``old`` is leaving, its queue has more than its share; once it is gone, less: what the queue would take
    back then is not given away in between."""
    queues = [{"name": "q0", "guarantee": {"gpu": "1"}}, {"name": "q2"}]
    old = bound(pod("old", whole=4, cpu=4, queue="q2"), "n0", {"main": [(str(index), 100) for index in range(4)]})
    world = World([node("n0", 4, cpu=6)], [old], policy({"name": "any", "weight": 1}, queues=queues), grace=3)
    world.add(pod("c", gpu=50, cpu=4, queue="q0", priority=9))
    assert names(world.step().evict) == ["old"]
    world.add(pod("w", cpu=2, queue="q2", age=9), pod("v", cpu=1, queue="q0", priority=5, age=1))
    evicted = [evict.pod.name for _ in range(8) for evict in world.step().evict]
    assert evicted == []
    assert sorted(world.where) == ["c", "w"]


def test_nobody_gives_way_to_who_may_evict_only_later() -> None:
    """``x`` is protected for a day: ``h`` gets nothing before, so that ``c`` need not wait for it."""
    queues = policy({"name": "any", "weight": 1}, queues=[{"name": "q", "minRuntime": "24h"}])
    x = bound(pod("x", whole=2, priority=1, queue="q"), "n0", {"main": [("0", 100), ("1", 100)]})
    world = World(cluster("1x4xA100"), [x], queues)
    world.add(pod("h", whole=4, priority=9, queue="q"), pod("c", whole=2, priority=5, queue="q"))
    assert sorted(world.settle().where) == ["c", "x"]


def test_nobody_gives_way_to_who_could_not_have_it_evicted() -> None:
    """A pod of a DaemonSet is never evicted: it takes the place that was made free for it."""
    low = bound(pod("low", whole=2, priority=0), "n0", {"main": [("0", 100), ("1", 100)]})
    mine = pod("c", whole=2, priority=5)
    mine = replace(mine, metadata=replace(mine.metadata, owner_references=(OwnerReference("DaemonSet", "d", "uid-d"),)))
    world = World(cluster("1x4xA100"), [low, mine], grace=1)
    world.add(bound(pod("x", whole=2, priority=1), "n0", {"main": [("2", 100), ("3", 100)]}))
    assert names(world.step().evict) == ["low"]
    world.step()
    world.add(pod("h", whole=4, priority=9))
    assert names(world.step().place) == ["c"]


def test_one_that_waits_behind_many_is_looked_at_once_and_not_once_for_each() -> None:
    """However many would be evicted for one pod, a decision ends: beyond some rounds nobody gives way."""
    queues = policy({"name": "any", "weight": 1}, queues=[{"name": "q", "minRuntime": "10m"}])
    x = bound(pod("x", whole=1, priority=1, queue="q"), "n0", {"main": [("0", 100)]})
    small = [pod(f"s{index}", whole=1, queue="q") for index in range(50)]
    world = World([node("n0", 2)], [x, pod("h", whole=2, priority=9, queue="q"), *small], queues)
    assert len(world.step().place) == 1


def evicted_later(world: World) -> list[str]:
    """Who is evicted from now on, until all is quiet."""
    return [evict.pod.name for _ in range(9) for evict in world.step().evict]


def with_a_place_held(*later: Pod) -> World:
    """``old`` is leaving its two CPUs to ``c`` when those of ``z`` become free too, and others arrive."""
    old, full = bound(pod("old", cpu=2), "n0"), bound(pod("z", cpu=2, priority=9), "n0")
    world = World([node("n0", 0, cpu=4)], [old, full, pod("c", cpu=2, priority=3)], grace=5)
    assert names(world.step().evict) == ["old"]
    world.delete("z")
    world.add(*later)
    return world


def test_who_has_a_claim_gives_way_until_the_claim_is_fulfilled() -> None:
    world = with_a_place_held(pod("h", cpu=4, priority=5))
    assert evicted_later(world) == []
    assert list(world.where) == ["h"]


def test_who_comes_for_a_claim_may_be_evicted_too() -> None:
    """``h`` could have ``c`` and ``s`` evicted as soon as ``c`` has come: neither is placed before it."""
    world = with_a_place_held(pod("h", cpu=4, priority=5), pod("s", cpu=2, priority=1))
    assert evicted_later(world) == []
    assert list(world.where) == ["h"]


def test_a_pod_gives_way_to_a_gang_that_waits_for_who_is_leaving() -> None:
    """Nobody is there whom the gang could have evicted, so that it has no claim; once ``s`` ran there would be."""
    world = World([node("n0", 0, cpu=2)], [leaving(bound(pod("old"), "n0"))], grace=5)
    world.add(*gang("g", 2, priority=9), pod("s", priority=5))
    assert (names(world.step().place), world.reason("s")) == ([], "WaitingForTurn")
    world.delete("old")
    assert evicted_later(world) == []
    assert sorted(world.where) == ["g-0", "g-1"]


def test_of_two_who_give_way_for_a_gang_the_one_without_whom_it_gets_nothing_does_not() -> None:
    long_ago, queues = START - 8000, [{"name": "a", "guarantee": {"gpu": "0"}}, {"name": "b", "minRuntime": "1h"}]
    world = World(cluster("2x4xA100"), [], policy({"name": "any", "weight": 1}, queues=queues), grace=1)
    world.add(
        bound(pod("r00", whole=2, queue="b"), "n0", {"main": [("0", 100), ("1", 100)]}, started=long_ago),
        bound(pod("r02", whole=2, queue="b", priority=3), "n0", {"main": [("2", 100), ("3", 100)]}, started=long_ago),
        bound(pod("r10", whole=1, queue="b"), "n1", {"main": [("0", 100)]}, started=START - 10),
        *gang("g0", 2, whole=1, queue="a", priority=5, age=48),
        pod("c0", whole=2, queue="a", priority=9, age=17),
        pod("c1", whole=1, queue="b", priority=9),
        pod("c2", whole=1, queue="a", age=10),
    )
    plans = [world.step() for _ in range(5)]
    came = {name for plan in plans for name in names(plan.place)}
    assert "c0" in names(plans[0].place)
    assert came.isdisjoint(name for plan in plans for name in names(plan.evict))


def test_a_place_is_left_to_who_may_evict_only_in_the_next_cycle_because_this_one_has_evicted_enough() -> None:
    queues = [{"name": "own", "guarantee": {"gpu": "10"}}, {"name": "b"}]
    world = World(cluster("1x8xA100", "1x2xA100"), [], policy({"name": "any", "weight": 1}, queues=queues))
    world.cycle.builder.evictions = 2
    world.add(bound(pod("r", whole=4, queue="b"), "n0", {"main": [(str(index), 100) for index in range(4)]}))
    world.add(*(bound(pod(f"s{one}", whole=1, queue="b"), "n1", {"main": [(str(one), 100)]}) for one in range(2)))
    there = "kubernetes.io/hostname"
    world.add(
        pod("small", whole=2, queue="own", priority=9, age=50, selector={there: "n1"}),
        pod("large", whole=8, queue="own", priority=5, age=40, selector={there: "n0"}),
        *(pod(f"low{number}", whole=4, queue="b", cpu=1 + number) for number in range(3)),
    )
    plans = [world.step() for _ in range(4)]
    assert [names(plan.evict) for plan in plans] == [["s0", "s1"], ["r"], [], []]
    assert sorted(world.where) == ["large", "small"]


def test_who_could_evict_is_told_from_less_than_all_that_will_be_true() -> None:
    seen = 0
    for seed in range(examples(60)):
        world, _ = some_world(seed)
        for _ in range(4):
            made = _make(world.cycle.builder.snapshot(world.now), Memory(world.registry)).preemption
            placed, before = len(made.decision.draft.placed), len(made.decision.snapshot.running.names)
            if placed and nobody_leaves(made):
                mine = np.arange(before, before + placed)
                asking = asking_of(outlook(made), mine)
                assert asking.tolist() == asking_of(after(made), mine).tolist()
                placed_slots = [one.slot for one in made.decision.draft.placed]
                assert may_stand_above_placed(made.decision.snapshot, placed_slots) or not asking.any()
                seen += 1
            world.step()
    assert seen


def test_what_comes_after_a_full_batch_is_seen_ahead_where_somebody_fits_nowhere() -> None:
    queues = [
        {"name": "q0", "weight": 2, "guarantee": {"gpu": "2", "cpu": "10"}},
        {"name": "q1", "weight": 3, "guarantee": {"gpu": "1"}},
    ]
    world = World(
        [node("n0", 1, cpu=64), node("n1", 8, cpu=8)],
        policy=policy({"name": "any", "weight": 1}, queues=queues, placement={"strategy": "pack"}),
        batch=2,
    )
    world.add(
        pod("p1", whole=4, cpu=1, queue="q1", age=7), pod("p2", 30, cpu=4, queue="q1", age=25),
        pod("p3", whole=2, cpu=4, queue="q0", age=11), pod("p4", cpu=6, queue="q0", age=44),
        pod("p5", 30, cpu=2, queue="q0", age=9), pod("p6", 50, cpu=4, queue="q1", age=46),
        pod("p7", cpu=1, queue="q1", priority=5, age=38), pod("p8", 70, cpu=2, queue="q1", age=10),
    )  # fmt: skip
    world.settle()
    assert world.evicted == []


def test_of_many_requests_and_nodes_only_amounts_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a full batch whoever waits may be too large for all nodes: a sum says so, and no node is scored for it."""
    queues = [{"name": "q0"}, {"name": "q1"}]
    for cpu, short in ((4, False), (17, True)):
        world = World(cluster("4x8xA100", cpu=16), policy=policy({"name": "any", "weight": 1}, queues=queues), batch=4)
        world.add(*(pod(f"a{number}", whole=1, cpu=8, queue="q0", age=9) for number in range(4)))
        world.add(pod("b", whole=1, cpu=cpu, queue="q1"))
        made = _make(world.cycle.builder.snapshot(START), Memory()).preemption
        monkeypatch.setattr(foresight, "_FEW", 0)
        monkeypatch.setattr(foresight, "_MOST_PAIRS", 0)
        monkeypatch.setattr(made.decision.scores, "scores", None)
        assert foresight._is_cut_short(made) == short


def test_what_comes_after_a_full_batch_is_seen_ahead_where_not_all_fit_together() -> None:
    queues = [
        {"name": "q0", "guarantee": {"gpu": "4", "cpu": "3"}},
        {"name": "q1", "guarantee": {"gpu": "3"}},
        {"name": "q2"},
    ]
    classes = {"name": "gold", "weight": 5}, {"name": "tin", "weight": 1}
    there = policy(*classes, queues=queues, placement={"strategy": "pack"})
    world = World([node("n0", 8, cpu=16)], policy=there, batch=2)
    world.add(
        pod("p1", 30, cpu=6, queue="q0", priority=5, age=29),
        pod("p2", 30, cpu=4, queue="q0", priority=9, age=41),
        pod("p3", 50, cpu=1, queue="q2", klass="gold", priority=9, age=28),
        pod("p4", 30, cpu=2, queue="q2", klass="gold", priority=9, age=28),
        pod("p5", cpu=4, queue="q0", klass="tin", priority=9, age=14),
        pod("p6", whole=4, cpu=1, queue="q1", klass="gold", age=48),
        pod("p7", whole=4, cpu=4, queue="q2", klass="gold", priority=5, age=28),
        pod("p8", 30, cpu=1, queue="q2", klass="tin", priority=9, age=41),
        pod("p9", cpu=1, queue="q0", klass="gold", age=31),
        pod("p10", whole=4, cpu=6, queue="q0", klass="gold", priority=5, age=48),
        pod("p11", whole=1, cpu=4, queue="q0", klass="tin", age=37),
        pod("p12", 30, cpu=1, queue="q2", klass="gold", age=40),
    )
    world.settle()
    assert world.evicted == []


def test_who_gives_way_to_one_that_gives_way_in_turn_does_not_give_way_in_vain() -> None:
    here = {"kubernetes.io/hostname": "n1"}
    queues = [{"name": "a", "guarantee": {"gpu": "5"}}, {"name": "b", "limit": {"gpu": "2"}, "weight": 4}]
    world = World(cluster("3x2xA100"), policy=policy(queues=queues), batch=4)
    world.add(
        pod("p0", whole=2, queue="a", priority=2, age=7000, selector=here),
        pod("p1", whole=2, queue="a", priority=2, age=6000),
        pod("p2", whole=2, queue="a", priority=2, age=2000),
        pod("p3", whole=1, queue="a", age=8000),
        pod("p4", whole=2, queue="b", priority=1, age=500, selector=here),
        pod("p5", whole=2, queue="b", age=2100),
    )
    assert names(world.step().place) == ["p0", "p1", "p2"]
    assert evicted_later(world) == []


def test_a_cycle_of_many_pods_and_nodes_makes_few_decisions_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods that borrow come before those that have a right to their nodes, as many as there are nodes."""
    made, real = list[int](), pipeline._make

    def make(snapshot: Snapshot, memory: Memory) -> Any:
        made.append(1)
        return real(snapshot, memory)

    size = 150
    queues = [{"name": "a", "guarantee": {"gpu": "2"}}, {"name": "b", "guarantee": {"gpu": "600"}}]
    cycle = Cycle()
    cycle.builder.set_policy(policy(queues=queues))
    for one in cluster(f"{size}x4xA100"):
        cycle.builder.put_node(one)
    for number in range(6 * size):
        here = {"kubernetes.io/hostname": f"n{number % size}"}
        borrows = number % 2 == 0
        cycle.observe_pod(
            None,
            pod(f"a{number}", whole=2, queue="a", priority=2, age=9000)
            if borrows
            else pod(f"b{number}", whole=3, queue="b", age=9, selector=here),
        )
    monkeypatch.setattr(pipeline, "_make", make)
    for second in range(6):
        made.clear()
        cycle.decide(START + second)
        assert len(made) <= 12


@pytest.mark.parametrize("most", [1, 2, 3, 4, 5, 6, 7, 8, 64])
def test_who_brings_its_queue_too_much_does_not_give_way_to_whom_it_could_have_evicted(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``g`` has a right to the place of ``small`` by guarantee, and ``small`` to that of ``old`` by share as soon as
    ``g`` runs: each of both would give way to the other, and neither would have the place. However many decisions ahead
    a cycle may make."""
    monkeypatch.setattr(ahead, "_MOST_AHEAD", most)
    there = policy({"name": "any", "weight": 1}, queues=[{"name": "q0", "guarantee": {"gpu": "4"}}, {"name": "q2"}])
    world = World([node("n0", 4, cpu=8)], policy=there, batch=2)
    world.add(
        bound(pod("one", whole=1, queue="q0", priority=9), "n0", {"main": [("0", 100)]}),
        bound(pod("old", cpu=4, queue="q0", priority=9), "n0"),
        bound(pod("small", queue="q2", priority=5), "n0"),
    )
    world.add(*gang("g", 3, whole=1, queue="q0", priority=5, age=5))
    assert names(world.step().evict) == ["small"]
    world.add(pod("small", queue="q2", priority=5))
    world.settle()
    assert "old" in [one.pod.name for one in world.evicted]
    assert sorted(world.where) == ["g-0", "g-1", "g-2", "one", "small"]


def test_pods_that_no_node_is_for_leave_as_much_to_be_seen_ahead() -> None:
    """Selectors that match nothing cost no decision anything, however many nodes there are."""
    cycle = Cycle()
    for one in cluster("300x4xA100"):
        cycle.builder.put_node(one)
    for number in range(4000):
        cycle.observe_pod(None, pod(f"p{number}", whole=1, selector={"zone": "none"}))
    cycle.observe_pod(None, pod("fits", whole=1))
    made = _make(cycle.builder.snapshot(START), Memory()).preemption.decision
    assert ahead._decisions_ahead(made) == 64


@pytest.mark.slow
def test_who_is_gone_holds_no_nodes_for_others_any_more() -> None:
    """Nodes are held for ``other`` until ``low`` has left, so that ``high`` may have nobody evicted there till then."""
    there = policy({"name": "any", "weight": 1}, queues=[{"name": "q0"}, {"name": "q1"}])
    world = World([node("n0", 1, cpu=8)], policy=there, batch=2, grace=30)
    world.add(
        bound(pod("low", 70, queue="q1"), "n0", {"main": [("0", 70)]}),
        bound(pod("beside", cpu=2, queue="q1", priority=5), "n0"),
    )
    world.add(pod("claims", whole=1, queue="q1", priority=5, age=15))
    assert names(world.step().evict) == ["low"]
    world.add(pod("high", 70, cpu=4, queue="q1", priority=9, age=10))
    world.step()
    world.add(pod("four", cpu=4, queue="q1", age=5))
    world.step()
    world.add(pod("other", 30, cpu=2, queue="q0", priority=5, age=3))
    came, evicted = set[str](), set[str]()
    for _ in range(70):
        plan = world.step()
        evicted |= set(names(plan.evict))
        assert came.isdisjoint(evicted)
        came |= set(names(plan.place))
    assert "high" in world.where


def test_who_gives_way_in_vain_is_placed_only_where_something_is_left_for_it() -> None:
    """``side`` gives way to ``g-2``, which gets nothing, but ``top`` has the whole node: nothing stands idle."""
    queues = [
        {"name": "q0", "guarantee": {"gpu": "4"}, "limit": {"gpu": "6"}},
        {"name": "q1", "parent": "q0", "limit": {"gpu": "4"}},
        {"name": "q3", "parent": "q1", "guarantee": {"gpu": "2"}, "weight": 3, "minRuntime": "10s"},
    ]
    world = World([node("n0", 4, cpu=4)], policy=policy(queues=queues), reservation_delay=-1, grace=1)
    world.add(pod("top", whole=4, queue="q3", priority=9, age=39), pod("side", whole=2, cpu=2, queue="q0", priority=5))
    world.add(*gang("g", 3, minimum=2, gpu=50, queue="q3", age=47))
    assert names(world.step().place) == ["top"]
    assert evicted_later(world) == []


def test_a_pod_has_nobody_evicted_for_a_place_that_it_would_lose_at_once() -> None:
    """``high`` may not have ``covered`` evicted before ``other`` has brought that one's queue above its guarantee."""
    queues = [
        {"name": "q0", "weight": 2, "guarantee": {"gpu": "4"}},
        {"name": "q1", "weight": 3, "guarantee": {"gpu": "1"}},
    ]
    world = World(cluster("2x4xA100"), [], policy({"name": "any", "weight": 1}, queues=queues), grace=3)
    world.add(bound(pod("big", whole=4, queue="q0"), "n0", {"main": [(str(one), 100) for one in range(4)]}))
    world.add(bound(pod("borrows", whole=1, queue="q0"), "n1", {"main": [("0", 100)]}))
    world.add(bound(pod("covered", whole=1, queue="q1"), "n1", {"main": [("1", 100)]}))
    here = {"kubernetes.io/hostname": "n1"}
    world.add(pod("high", whole=4, queue="q0", priority=9, age=9, selector=here))
    assert evicted_later(world) == []
    world.add(pod("other", whole=3, queue="q1", selector=here))
    assert evicted_later(world) == []
    assert (sorted(world.where), world.reason("other")) == (["big", "borrows", "covered"], "WaitingForTurn")


def test_decisions_ahead_take_nothing_back_that_they_have_given_either() -> None:
    """After the first batch ``four`` would be placed, and evicted for ``one``, which then has no right to the place of
    anybody who is placed now; but ``four`` will give way to ``one``, and have a right to the places of ``first``."""
    queues = [{"name": "q0", "guarantee": {"gpu": "3", "cpu": "5"}}, {"name": "q2"}]
    there = policy({"name": "gold", "weight": 5}, {"name": "tin", "weight": 1}, queues=queues)
    world = World([node("n0", 1, cpu=8), node("n1", 4, cpu=8), node("n2", 4, cpu=16)], policy=there, batch=2)
    world.add(*gang("first", 3, cpu=6, queue="q0", priority=9, age=26))
    world.add(*gang("third", 3, minimum=2, cpu=2, queue="q0", klass="gold", priority=9, age=6))
    world.add(pod("one", 50, cpu=6, queue="q0", klass="gold", age=11))
    world.add(pod("four", cpu=6, queue="q2", klass="tin", priority=9, age=32))
    world.settle()
    assert world.evicted == []


def test_gangs_for_which_victims_are_looked_for_leave_less_to_be_seen_ahead() -> None:
    """Each is made room in one rack after the other: that costs more than to compare pods with nodes."""
    rack, everything = "topology.kubernetes.io/rack", {"main": [(str(index), 100) for index in range(8)]}
    left = []
    for notes in ({}, {"scheduling.example.com/topology-required": rack}):
        world = World([node(f"n{number}", 8, labels={rack: f"r{number // 4}"}) for number in range(60)])
        world.add(*(bound(pod(f"low{number}", whole=8), f"n{number}", everything) for number in range(60)))
        for number in range(40):
            world.add(*gang(f"g{number}", 2, whole=4, cpu=1 + number, priority=5, annotations=notes))
        made = _make(world.cycle.builder.snapshot(START), Memory()).preemption.decision
        left.append(ahead._decisions_ahead(made))
    anywhere, in_a_rack = left
    assert 4 <= in_a_rack < anywhere <= 16


def test_a_decision_in_which_somebody_gives_way_rests(monkeypatch: pytest.MonkeyPatch) -> None:
    queues = [
        {"name": "q0", "weight": 2, "guarantee": {"gpu": "4"}},
        {"name": "q1", "weight": 3, "guarantee": {"gpu": "1"}},
    ]
    world = World(cluster("2x4xA100"), [], policy({"name": "any", "weight": 1}, queues=queues))
    world.add(bound(pod("big", whole=4, queue="q0"), "n0", {"main": [(str(one), 100) for one in range(4)]}))
    world.add(bound(pod("covered", whole=1, queue="q1"), "n1", {"main": [("1", 100)]}))
    here = {"kubernetes.io/hostname": "n1"}
    world.add(pod("high", whole=4, queue="q0", priority=9, age=90, selector=here))
    world.add(pod("other", whole=3, queue="q1", selector=here, age=80))
    world.settle()
    assert world.reason("other") == "WaitingForTurn"
    made, real = list[int](), pipeline._make

    def make(snapshot: Snapshot, memory: Memory) -> Any:
        made.append(1)
        return real(snapshot, memory)

    monkeypatch.setattr(pipeline, "_make", make)
    memory = world.cycle.memory
    assert memory.rest is not None
    said = pipeline.decide(world.cycle.builder.snapshot(world.now), memory)
    assert made == []
    assert {hold.pod.name: hold.reason for hold in said.hold}["other"] == "WaitingForTurn"


def test_for_whom_a_pod_gives_way_is_said_anew_once_it_is_another_one() -> None:
    queues = [
        {"name": "q0", "weight": 2, "guarantee": {"gpu": "4"}},
        {"name": "q1", "weight": 3, "guarantee": {"gpu": "1"}},
    ]
    world = World(cluster("2x4xA100"), [], policy({"name": "any", "weight": 1}, queues=queues))
    world.add(bound(pod("big", whole=4, queue="q0"), "n0", {"main": [(str(one), 100) for one in range(4)]}))
    world.add(bound(pod("covered", whole=1, queue="q1"), "n1", {"main": [("1", 100)]}))
    here = {"kubernetes.io/hostname": "n1"}
    world.add(pod("high", whole=4, queue="q0", priority=9, age=90, selector=here))
    world.add(pod("other", whole=3, queue="q1", selector=here, age=80))
    said = {hold.pod.name: hold.message for _ in range(4) for hold in world.step().hold}
    assert "default/high at once" in said["other"]
    world.delete("high")
    world.add(pod("high2", whole=4, queue="q0", priority=9, age=70, selector=here))
    for _ in range(10):
        world.now += 9
        said |= {hold.pod.name: hold.message for hold in world.step().hold}
    assert "default/high2 at once" in said["other"]


def test_who_brings_its_queue_too_much_is_placed_where_those_give_way_who_would_be_evicted_for_it() -> None:
    """With ``small`` their queue covers ``high`` without the gang: then ``high`` has a right to the gang's places. So
    no other member comes beside ``small``, where nothing else fits."""
    queues = [{"name": "q0", "guarantee": {"gpu": "1"}}, {"name": "q1", "guarantee": {"gpu": "5"}}]
    there = policy({"name": "any", "weight": 1}, queues=queues, fallback="preempt")
    world = World([node("n0", 2, cpu=5), node("n9", 8)], policy=there)
    members = gang("g", 3, minimum=2, whole=1, cpu=4, queue="q1", age=20)
    world.add(bound(pod("four", whole=4, queue="q1"), "n9", {"main": [(str(one), 100) for one in range(4)]}))
    world.add(bound(members[0], "n9", {"main": [("4", 100)]}), bound(members[1], "n9", {"main": [("5", 100)]}))
    world.add(bound(pod("part", 70, queue="q1"), "n9", {"main": [("6", 70)]}))
    world.add(bound(pod("half", 50, queue="q0", priority=5), "n9", {"main": [("7", 50)]}))
    world.add(pod("high", whole=4, queue="q0", priority=9, age=30))
    assert evicted_later(world) == []
    world.add(members[2], pod("small", whole=1, queue="q1"))
    plan = world.step()
    assert names(plan.place) == ["small"]
    assert "high" in world.settle().where
    assert "g-2" not in world.evicted


def test_who_has_had_others_evicted_gets_its_place_though_an_older_pod_of_its_queue_is_evicted_then() -> None:
    queues = [{"name": "a", "weight": 3}, {"name": "b", "weight": 3, "guarantee": {"gpu": "2"}}]
    queues.append({"name": "c", "weight": 2, "guarantee": {"gpu": "1"}})
    there = {"b-0": ("n0", "0"), "c-0": ("n0", "1"), "a-0": ("n1", "0"), "c-1": ("n1", "1"), "b-1": ("n1", "2")}
    running = [
        bound(pod(name, whole=1, queue=name[0]), node, {"main": [(gpu, 100)]}) for name, (node, gpu) in there.items()
    ]
    world = World(cluster("2x3xA100"), running, policy(queues=queues))
    world.add(pod("mine", whole=2, queue="c", priority=5, age=9), pod("late", whole=2, queue="a", priority=5))
    assert names(world.step().evict) == ["c-0"]
    assert names(world.step().place) == ["mine"]
    assert {"mine", "late"} < set(world.settle().where)
