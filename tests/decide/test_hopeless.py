"""What fits nowhere is not searched again before there may be more room; ``World.step`` compares each plan with one
that is made without a memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from msgspec.structs import replace
from tests.worlds import World, bound, cluster, gang, node, pod, policy, with_spec

from tangram.api import names
from tangram.decide.gangs import gang as gangs
from tangram.decide.reserve import reservation


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch, world: World) -> Iterator[list[str]]:
    """The searches of the scheduler that remembers, for gangs and for when nodes will be free."""
    made, trial, soonest = list[str](), gangs._try_members, reservation._Future.soonest

    def ours(scores: Any) -> bool:
        known = world.cycle.memory._known
        return known is not None and scores is known[1]

    def try_members(decision: Any, *rest: Any) -> Any:
        made.extend(["gang"] * ours(decision.scores))
        return trial(decision, *rest)

    def free(self: Any, *rest: Any) -> Any:
        made.extend(["reservation"] * ours(self._decision.scores))
        return soonest(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(gangs, "_try_members", try_members)
        patch.setattr(reservation._Future, "soonest", free)
        yield made


def runs(name: str, where: str, **options: Any) -> Any:
    one = with_spec(pod(name, whole=2, **options), restart_policy="Never")
    return bound(one, where, {"main": [("0", 100), ("1", 100)]})


def full(nodes: int = 4, waiting: int = 3) -> World:
    """Nodes whose GPUs are in use, one of them for an hour; different gangs wait for two nodes each."""
    world = World(cluster(f"{nodes}x2xA100"), reservation_delay=100)
    says = {names.ESTIMATED_DURATION: "1h"}
    world.add(*(runs(f"r{number}", f"n{number}", annotations=says if number == 0 else None) for number in range(nodes)))
    for number in range(waiting):
        world.add(*gang(f"g{number}", 2, whole=2, cpu=2 + number, age=60 - number))
    return world.settle()


def test_gangs_are_not_tried_again_while_others_take_room(monkeypatch: pytest.MonkeyPatch) -> None:
    world = full()
    with counted(monkeypatch, world) as made:
        for number in range(4):
            world.add(pod(f"single-{number}"))
            assert [place.pod.name for place in world.step().place] == [f"single-{number}"]
    assert made == []


def test_a_label_that_nobody_reads_makes_no_gang_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = full()
    with counted(monkeypatch, world) as made:
        world.cycle.builder.put_node(node("n1", 2, labels={"team": "blue"}))
        world.step()
    assert made == []


def another_node(world: World) -> None:
    world.cycle.builder.put_node(node("late", 4))


def a_pod_leaves(world: World) -> None:
    world.delete("r1", "r2")


def another_label(world: World) -> None:
    world.cycle.builder.put_node(node("n1", 2, model="T4"))


@pytest.mark.parametrize("change", [another_node, a_pod_leaves, another_label])
def test_gangs_are_tried_again_once_there_may_be_more_room(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    world = full()
    with counted(monkeypatch, world) as made:
        change(world)
        world.step()
    assert "gang" in made


def test_whoever_says_now_when_it_ends_gives_hope(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes will be free in an hour then: they are held for the first gang."""
    world = full()
    with counted(monkeypatch, world) as made:
        one = world.pod("r1")
        notes = one.metadata.annotations | {names.ESTIMATED_DURATION: "1h"}
        world.add(replace(one, metadata=replace(one.metadata, annotations=notes)))
        world.step()
    assert "reservation" in made


def test_a_limit_that_comes_first_is_the_reason_then() -> None:
    """What a gang lacks is remembered, which of two reasons it has is not where its queue has a limit."""
    world = World(cluster("2x2xA100"), policy=policy(queues=[{"name": "q", "limit": {"gpu": "4"}}]))
    world.add(runs("r0", "n0"), *gang("g", 2, whole=2, queue="q", age=5))
    world.step()
    world.add(pod("first", whole=2, queue="q", priority=5))
    for _ in range(3):
        world.step()
    assert world.told[-1][1] in ("QueueLimit", "GangUnschedulable")
