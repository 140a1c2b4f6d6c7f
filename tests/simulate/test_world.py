"""The simulated world as a test double: what clusters do to a scheduler, and what the scheduler makes of it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.simulate.samples import bound, node, pod, scheduled

from tangram.api import names
from tangram.api.policy import parse_policy
from tangram.errors import Conflict
from tangram.plan import Evict, Place, PodName
from tangram.simulate.audit import overfilled
from tangram.simulate.world import Answer, World


def test_a_pod_is_placed_when_its_time_comes():
    world = World([node("n")])
    loop = scheduled(world)
    world.submit(pod("a", gpus=8), at=10)
    loop.run(until=9)
    assert bound(world) == {}
    loop.run(until=10)
    assert bound(world) == {"a": "n"}
    assert world.clock.now == 10


def test_a_pod_that_completes_makes_room_for_one_that_waits():
    world = World([node("n")])
    loop = scheduled(world)
    world.submit(pod("first", gpus=8), duration=100)
    world.submit(pod("second", gpus=1), at=50)
    loop.run(until=99)
    assert bound(world) == {"first": "n"}
    assert [hold.reason for hold in loop.holds.values()] == ["InsufficientGpu"]
    loop.run(until=100)
    assert bound(world) == {"second": "n"}
    assert loop.holds == {}


def test_a_node_that_vanishes_takes_its_pods_and_a_new_one_takes_those_that_wait():
    world = World([node("old")])
    loop = scheduled(world)
    world.submit(pod("a", gpus=8))
    world.remove_node("old", at=5)
    world.submit(pod("b", gpus=8), at=6)
    world.put_node(node("new"), at=7)
    loop.run(until=6)
    assert bound(world) == {}
    assert [name for _, name in world.pods] == ["b"]
    loop.run(until=7)
    assert bound(world) == {"b": "new"}


def test_a_deleted_pod_holds_its_devices_until_its_grace_is_over():
    world = World([node("n")], grace=30)
    loop = scheduled(world)
    world.submit(pod("a", gpus=8))
    world.submit(pod("b", gpus=8), at=1)
    world.delete("default", "a", at=10)
    loop.run(until=39)
    assert bound(world) == {"a": "n"}
    loop.run(until=40)
    assert bound(world) == {"b": "n"}


def test_a_gang_is_placed_whole_or_not_at_all():
    world = World([node("n")])
    loop = scheduled(world)
    for index in range(3):
        world.submit(pod(f"g{index}", gpus=4, gang="g", minimum=3))
    loop.run(until=1)
    assert bound(world) == {}
    world.put_node(node("m"))
    loop.run(until=2)
    assert len(bound(world)) == 3


@pytest.mark.parametrize("answer", [Answer.CONFLICT, Answer.REFUSED, Answer.LOST])
def test_a_binding_that_did_not_take_effect_is_made_again(answer):
    faults = [answer]
    world = World([node("n", gpus=1)], fault=lambda _: faults.pop() if faults else None)
    loop = scheduled(world)
    world.submit(pod("a", share=60))
    loop.settle()
    assert bound(world) == {}
    loop.run(until=1)
    assert bound(world) == {"a": "n"}
    assert (loop.cycle.counters.placed, loop.cycle.counters.lost) == (2, 1)


def test_a_binding_whose_answer_is_lost_counts_once():
    world = World([node("n", gpus=1)], fault=lambda _: Answer.UNANSWERED)
    loop = scheduled(world)
    for name in ("a", "b"):
        world.submit(pod(name, share=50))
    world.submit(pod("c", share=10))
    loop.run(until=10)
    assert len(bound(world)) == 2
    assert loop.cycle.counters.lost == 0


def test_a_pod_that_is_deleted_under_the_schedulers_pen_leaves_nothing_behind():
    faults = [Answer.GONE]
    world = World([node("n", gpus=1)], fault=lambda _: faults.pop() if faults else None)
    loop = scheduled(world)
    world.submit(pod("a", gpus=1))
    loop.run(until=1)
    assert world.pods == {}
    world.submit(pod("b", gpus=1))
    loop.run(until=2)
    assert bound(world) == {"b": "n"}


def test_a_pod_created_again_under_its_name_is_not_bound_by_an_old_decision():
    world = World([node("n")])
    world.submit(pod("a"))
    old = PodName("default", "a", world.pods["default", "a"].metadata.uid)
    world.delete("default", "a")
    world.submit(pod("a"))
    assert world.bind(Place(old, "n")) is Answer.CONFLICT
    assert world.evict(Evict(old, "n", PodName("default", "b"), "")) is Answer.GONE
    with pytest.raises(Conflict):
        world.submit(pod("a"))


def test_a_lagging_watch_makes_no_device_be_given_twice():
    world = World([node("n", gpus=1)], watch_delay=5)
    loop = scheduled(world)
    for second in range(8):
        world.submit(pod(f"p{second}", share=30), at=second)
    loop.run(until=40)
    assert len(bound(world)) == 3
    assert loop.cycle.counters.placed == 3


def test_a_binding_to_a_node_that_vanished_meanwhile_is_collected():
    world = World([node("n")], watch_delay=5)
    loop = scheduled(world)
    world.submit(pod("a"), at=1)
    world.remove_node("n", at=4)
    loop.run(until=30)
    assert world.pods == {}
    world.put_node(node("n"))
    world.submit(pod("b", gpus=8))
    loop.run(until=60)
    assert bound(world) == {"b": "n"}


def preempting(world):
    """A loop under a policy in which ``high`` may evict ``low`` on the nodes that it prefers."""
    loop = scheduled(world)
    spec = {
        "priorityClasses": [{"name": "high", "weight": 3, "nodeSelector": HIGH}, {"name": "low", "weight": 1}],
        "fallbackStrategy": "preempt",
    }
    policy = {"apiVersion": names.API_VERSION, "kind": "HybridPolicy", "metadata": {"name": "p"}, "spec": spec}
    loop.cycle.builder.set_policy(parse_policy(policy))
    return loop


HIGH = {"nvidia.com/gpu.product": "A100"}


def of_class(name, priority_class, **options):
    plain = pod(name, **options)
    return replace(plain, metadata=replace(plain.metadata, labels={names.PRIORITY_CLASS: priority_class}))


def test_an_evicted_pod_takes_its_grace_and_its_place_then_goes_to_the_claimant():
    world = World([node("n")], grace=30)
    loop = preempting(world)
    world.submit(of_class("lower", "low", gpus=8))
    world.submit(of_class("higher", "high", gpus=8), at=10)
    loop.run(until=39)
    assert bound(world) == {"lower": "n"}
    assert world.pods["default", "lower"].metadata.deletion_timestamp
    loop.run(until=100)
    assert bound(world) == {"higher": "n"}
    assert loop.cycle.counters.evicted == 1


def test_an_eviction_whose_answer_is_lost_happens_once():
    world = World([node("n")], fault=lambda action: Answer.UNANSWERED if isinstance(action, Evict) else None)
    loop = preempting(world)
    world.submit(of_class("lower", "low", gpus=8))
    world.submit(of_class("higher", "high", gpus=8), at=10)
    loop.run(until=100)
    assert bound(world) == {"higher": "n"}
    assert loop.cycle.counters.evicted == 1


@pytest.mark.parametrize("answer", [Answer.REFUSED, Answer.LOST])
def test_an_eviction_that_fails_moves_nobody(answer):
    world = World([node("n")], fault=lambda action: answer if isinstance(action, Evict) else None)
    loop = preempting(world)
    world.submit(of_class("lower", "low", gpus=8))
    world.submit(of_class("higher", "high", gpus=8), at=10)
    loop.run(until=100)
    assert bound(world) == {"lower": "n"}


def test_the_audit_sees_a_device_that_is_given_twice():
    """What finds no fault anywhere else must be able to find one."""
    first, second = World([node("n", gpus=1)]), World([node("n", gpus=1)])
    for world, name in ((first, "a"), (second, "b")):
        world.submit(pod(name, share=60))
        scheduled(world).settle()
        assert list(overfilled(world)) == []
    first.pods |= second.pods
    assert list(overfilled(first)) == [
        "node n has 100 of scheduling.example.com/gpu, its pods hold 120",
        "node n device 0 is given away 120 hundredths",
    ]


EVENT = st.one_of(
    st.tuples(st.just("submit"), st.sampled_from([0, 1, 2, 4]), st.sampled_from([0, 30, 60]), st.integers(0, 20)),
    st.tuples(st.just("gang"), st.sampled_from([1, 2]), st.integers(2, 4), st.just(0)),
    st.tuples(st.just("delete"), st.integers(0, 30), st.just(0), st.just(0)),
    st.tuples(st.just("lose"), st.integers(0, 2), st.just(0), st.just(0)),
    st.tuples(st.just("add"), st.integers(0, 2), st.just(0), st.just(0)),
)
FAULTS = st.lists(st.sampled_from([None, None, *Answer.__members__.values()]), max_size=30)


@given(st.lists(EVENT, max_size=30), FAULTS, st.integers(0, 4), st.integers(0, 3))
@settings(max_examples=60, deadline=None)
def test_whatever_happens_nothing_is_overfilled_and_all_comes_to_rest(events, faults, watch_delay, grace):
    pending = [fault for fault in faults if fault is not Answer.DONE]
    world = World(
        [node("n0", gpus=4)],
        watch_delay=watch_delay,
        grace=grace,
        fault=lambda _: pending.pop() if pending else None,
    )
    loop = scheduled(world)
    for number, (kind, first, second, third) in enumerate(events):
        if kind == "submit":
            gpus, share = (first, 0) if first else (0, second)
            world.submit(pod(f"p{number}", gpus=gpus, share=share), number, third or None)
        elif kind == "gang":
            for index in range(second):
                member = pod(f"p{number}-{index}", gpus=first, gang=f"g{number}", minimum=second)
                world.submit(member, number)
        elif kind == "delete":
            world.delete("default", f"p{first}", number)
        elif kind == "lose":
            world.remove_node(f"n{first}", number)
        else:
            world.put_node(node(f"n{first}", gpus=4), number)
    loop.run(until=200)
    settled = bound(world)
    assert world.next_moment() is None
    placed = loop.cycle.counters.placed
    for _ in range(5):
        assert not loop.turn().place
    assert bound(world) == settled
    assert loop.cycle.counters.placed == placed
