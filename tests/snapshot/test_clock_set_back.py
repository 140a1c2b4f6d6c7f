"""One cycle with a clock that is ten years ahead: once it is right again nobody waits longer than ever."""

from tests.worlds import START, World, bound, gang, node, pod, policy

from tangram.snapshot.pods.claim import SPARED_FOR
from tangram.snapshot.pods.claims import GIVEN_UP_AFTER
from tangram.snapshot.pods.refusals import FIRST_PAUSE

AHEAD = START + 10 * 365 * 86_400


def contended() -> World:
    """Queue b is promised the GPU that a pod of queue a has."""
    found = World([node("n0", 1)], policy=policy(queues=[{"name": "a"}, {"name": "b", "guarantee": {"gpu": 1}}]))
    found.add(bound(pod("v", whole=1, queue="a"), "n0", {"main": [("0", 100)]}), pod("c", whole=1, queue="b"))
    return found


def evicted(world: World, now: int) -> list[str]:
    return [one.pod.name for one in world.cycle.decide(now).evict]


def test_a_pod_that_was_refused_then_is_tried_again_after_its_pause() -> None:
    world = World([node("n0", 1)], [pod("x", whole=1)])
    builder = world.cycle.builder
    builder.snapshot(AHEAD)
    builder.back_off("uid-x", "BindingRefused", "no", AHEAD)

    assert not world.cycle.decide(START).place
    assert [one.pod.name for one in world.cycle.decide(START + FIRST_PAUSE).place] == ["x"]


def test_a_claim_of_then_whose_victim_stays_is_given_up() -> None:
    """The request to evict is lost."""
    world = contended()

    assert evicted(world, AHEAD) == ["v"]
    assert evicted(world, START) == []
    assert evicted(world, START + GIVEN_UP_AFTER) == ["v"]


def test_a_pod_whose_eviction_was_refused_then_is_spared_no_longer_than_others() -> None:
    world = contended()
    assert evicted(world, AHEAD) == ["v"]
    world.cycle.builder.eviction_failed("uid-c", "uid-v", AHEAD)

    assert evicted(world, START) == []
    assert evicted(world, START + SPARED_FOR) == ["v"]


def test_a_gang_that_was_in_part_then_times_out_as_others_do() -> None:
    world = World([node("n0", 2)])
    first, second = gang("g", 2, whole=1)
    world.add(
        bound(first, "n0", {"main": [("0", 100)]}), bound(pod("f", whole=1), "n0", {"main": [("1", 100)]}), second
    )
    gangs = world.cycle.builder.gangs
    world.cycle.builder.snapshot(AHEAD)
    world.cycle.builder.snapshot(START)

    assert gangs.arrays.since.max() == START
