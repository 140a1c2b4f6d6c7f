"""Replicas that move between revisions: a promotion serves as a rollout does, whichever way it is asked for."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.controllers.builders import revision, service_object, waits_for
from tests.controllers.world import World

from tangram.controllers.actions import Create, Delete
from tangram.controllers.rollback import MOST_RESTARTS
from tangram.controllers.rollout import NO_ROOM_SECONDS

NEW, NEWER = "registry.test/serve:2", "registry.test/serve:3"
MOVES = [((100, 0), (0, 100)), ((75, 25), (25, 75)), ((90, 10), (0, 100)), ((50, 50), (100, 0))]


def two(weights: tuple[int, int], first: str = "registry.test/serve:1") -> list[dict[str, Any]]:
    return [revision("v1", first, weight=weights[0]), revision("v2", NEW, weight=weights[1])]


def two_revisions(weights: tuple[int, int], **spec: Any) -> World:
    world = World(service_object(*two(weights), **spec))
    world.start()
    return world


def answering(world: World) -> list[str]:
    return [name for name in world.alive if is_ready(world.pods[name])]


def is_ready(pod: dict[str, Any]) -> bool:
    conditions = pod.get("status", {}).get("conditions", ())
    return any((one["type"], one["status"]) == ("Ready", "True") for one in conditions)


def shares(world: World) -> tuple[int, int]:
    return sum("-v1-" in name for name in world.alive), sum("-v2-" in name for name in world.alive)


def waiting(world: World) -> list[str]:
    return [name for name in world.alive if "nodeName" not in world.pods[name]["spec"]]


def move(world: World) -> tuple[int, int]:
    """Let everything start at once: most replicas that there were, fewest that answered."""
    most, fewest = len(world.alive), len(answering(world))
    for _ in range(40):
        world.round()
        most, fewest = max(most, len(world.alive)), min(fewest, len(answering(world)))
        world.reap()
        world.place()
        world.run()
    return most, fewest


@pytest.mark.parametrize(("before", "after"), MOVES, ids=str)
@pytest.mark.parametrize(
    ("strategy", "most", "fewest"),
    [
        ({}, 5, 4),
        ({"maxSurge": "1", "maxUnavailable": "0"}, 5, 4),
        ({"maxSurge": "2", "maxUnavailable": "0"}, 6, 4),
        ({"maxSurge": "0", "maxUnavailable": "1"}, 4, 3),
    ],
    ids=str,
)
def test_a_move_of_weights_keeps_to_the_strategy_of_a_rollout(
    before: tuple[int, int], after: tuple[int, int], strategy: dict[str, str], most: int, fewest: int
) -> None:
    world = two_revisions(before, replicas=4, strategy=strategy)
    world.edit(revisions=two(after))
    at_most, at_least = move(world)
    assert (at_most <= most, at_least) == (True, fewest)
    assert shares(world) == (after[0] // 25, after[1] // 25)
    assert world.status["phase"] == "Ready"


@pytest.mark.parametrize("strategy", [{}, {"maxUnavailable": "0"}], ids=str)
def test_a_promotion_to_replicas_that_never_answer_takes_none_that_does(strategy: dict[str, str]) -> None:
    world = two_revisions((75, 25), replicas=4, strategy=strategy)
    world.edit(revisions=two((0, 100)))
    for _ in range(10):
        world.round()
        world.reap()
        world.place()
        world.pass_seconds(60)
    assert (len(answering(world)), shares(world)) == (4, (3, 2))
    assert (world.status["phase"], world.status["message"]) == ("Progressing", "containers are starting")


def test_a_service_of_one_replica_is_promoted_without_a_gap() -> None:
    world = two_revisions((100, 0), replicas=1)
    world.edit(revisions=two((0, 100)))
    assert move(world) == (2, 1)
    assert shares(world) == (0, 1)


def test_on_full_nodes_a_replica_of_the_revision_that_loses_gives_way_after_a_while() -> None:
    world = two_revisions((100, 0), replicas=3)
    world.edit(revisions=two((0, 100)))
    world.round()
    assert (world.status["phase"], world.status["message"]) == ("Progressing", "3 replicas are to go")
    world.accrue()
    (new,) = waiting(world)
    world.pods[new]["status"] = {"conditions": waits_for("InsufficientGpu", when=world.now)}
    world.pass_seconds(NO_ROOM_SECONDS - 1)
    world.accrue()
    assert len(answering(world)) == 3
    world.pass_seconds(1)
    world.accrue()
    assert len(answering(world)) == 2


def test_scaling_down_is_not_held_up_by_a_move() -> None:
    world = two_revisions((50, 50), replicas=8)
    world.edit(replicas=2, revisions=two((0, 100)))
    world.round()
    assert (len(answering(world)), shares(world)) == (2, (0, 2))


def test_scaling_down_takes_none_that_answers_for_one_of_another_revision_that_does_not() -> None:
    world = two_revisions((50, 50), replicas=4)
    world.run("chat-v2-0", "chat-v2-1", ready=False)
    world.edit(replicas=2)
    world.round()
    assert (len(answering(world)), shares(world)) == (2, (2, 1))
    world.reap()
    world.run()
    world.accrue()
    assert shares(world) == (1, 1)


def test_a_promotion_whose_template_fails_has_cost_no_replica_that_answered() -> None:
    """One edit takes the second revision away and gives the first one a template that does not work."""
    world = two_revisions((50, 50), replicas=4, strategy={"maxUnavailable": "0"})
    world.edit(revisions=two((100, 0), NEWER))
    fewest = 4
    for restarts in range(1, 8):
        world.round()
        fewest = min(fewest, len(answering(world)))
        world.reap()
        world.place()
        for name in world.alive:
            if world.pods[name]["spec"]["containers"][0]["image"] == NEWER:
                world.crash(name, restarts=min(restarts, MOST_RESTARTS))
    assert (fewest, shares(world), world.status["reason"]) == (4, (2, 2), "RolloutFailed")


def test_a_rollout_that_is_paused_in_its_midst_keeps_who_answers_until_another_one_does() -> None:
    world = World(service_object(replicas=2))
    world.start()
    world.edit(revisions=[revision(image=NEW)])
    world.accrue()
    world.edit(paused=True)
    world.accrue()
    assert len(answering(world)) == 2
    world.place()
    world.run()
    world.accrue()
    assert len(answering(world)) == len(world.alive) == 2


STEPS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(0, 4).map(lambda quarter: 25 * quarter), st.integers(0, 3)),
    min_size=1,
    max_size=8,
)
STRATEGIES = st.sampled_from([("1", "0"), ("0", "1"), ("2", "1"), ("50%", "0"), ("25%", "25%")])


@given(STEPS, STRATEGIES)
def test_whatever_is_edited_no_replica_that_is_needed_goes_and_none_too_many_comes(
    steps: list[tuple[int, int, int]], strategy: tuple[str, str]
) -> None:
    surge, unavailable = strategy
    world = two_revisions((50, 50), replicas=4, strategy={"maxSurge": surge, "maxUnavailable": unavailable})
    for replicas, weight, start in steps:
        world.edit(replicas=replicas, revisions=two((weight, 100 - weight)))
        most, missing = replicas + portion(surge, replicas, 99), portion(unavailable, replicas, 0)
        if not missing and most == replicas:
            missing = 1
        for _ in range(3):
            ready, there = len(answering(world)), len(world.alive)
            written = world.round()
            if any(isinstance(one, Delete) and is_ready(world.pods[one.ref.name]) for one in written):
                assert len(answering(world)) >= min(ready, replicas - missing)
            if any(isinstance(one, Create) and one.kind == "Pod" for one in written):
                assert len(world.alive) <= max(there, most)
            world.reap()
            for name in waiting(world)[:start]:
                world.place(name)
                world.run(name)
    move(world)
    assert (len(world.alive), world.status["phase"]) == (steps[-1][0], "Ready")


def portion(text: str, whole: int, up: int) -> int:
    return (int(text[:-1]) * whole + up) // 100 if text.endswith("%") else int(text)
