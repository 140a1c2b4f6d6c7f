"""Labels of replicas that somebody changes: by hand, or for everything that is created."""

from typing import Any

import pytest
from tests.controllers.builders import revision, service_object
from tests.controllers.world import World

from tangram.api import names
from tangram.controllers.actions import Requeue
from tangram.controllers.rollout import RELABELLED_SECONDS

NEW = "registry.test/serve:2"


def service_world(*revisions: dict[str, Any], **spec: Any) -> World:
    return World(service_object(*revisions, **spec))


def relabel(world: World, name: str, **labels: str | None) -> None:
    there = world.pods[name]["metadata"]["labels"]
    for key, value in labels.items():
        there.pop(f"{names.GROUP}/{key}", None)
        there |= {} if value is None else {f"{names.GROUP}/{key}": value}


@pytest.mark.parametrize("label", ["another", None])
def test_a_replica_that_no_service_reaches_any_more_is_replaced(label: str | None) -> None:
    world = service_world(replicas=2)
    world.start()
    labels = world.pods["chat-v1-0"]["metadata"]["labels"]
    labels.update({names.SERVICE: label} if label else {names.SERVICE: ""})
    world.round()
    assert world.status["readyReplicas"] == 1
    world.start()
    assert (world.status["phase"], world.alive) == ("Ready", ["chat-v1-1", "chat-v1-2"])


CHANGES: list[dict[str, str | None]] = [{"revision": "v9"}, {"revision": None}, {"revision": "v2"}, {"index": "7"}]
CHANGES += [{"index": None}, {"index": "7", "revision": None}, {"service": "x", "revision": "v9", "index": "5"}]


@pytest.mark.parametrize("edit", [{}, {"replicas": 5}, {"port": 9000}], ids=["", "scaled", "rolled out"])
@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_a_service_comes_to_what_is_wanted_whatever_label_of_a_replica_was_changed(
    change: dict[str, str | None], edit: dict[str, Any]
) -> None:
    world = service_world(revision(weight=50), revision("v2", weight=50, image=NEW), replicas=4)
    world.start()
    relabel(world, "chat-v1-0", **change)
    world.edit(**edit)
    for _ in range(10):
        world.start()
    assert (world.status["phase"], len(world.alive)) == ("Ready", edit.get("replicas", 4))


@pytest.mark.parametrize("change", [{"revision": "v9"}, {"revision": None}], ids=str)
def test_a_replica_that_its_service_still_reaches_goes_when_another_one_answers(change: dict[str, str | None]) -> None:
    world = service_world(replicas=1)
    world.start()
    relabel(world, "chat-v1-0", **change)
    world.accrue()
    assert world.alive == ["chat-v1-0", "chat-v1-1"]
    world.start()
    assert (world.status["phase"], world.alive) == ("Ready", ["chat-v1-1"])


@pytest.mark.parametrize("start", [True, False], ids=["ready", "waiting"])
@pytest.mark.parametrize("label", ["service", "revision"])
def test_a_policy_that_changes_what_is_created_makes_no_hot_loop_and_is_told(label: str, start: bool) -> None:
    world = service_world(replicas=2)
    waits: list[float] = []
    for _ in range(300):
        waits += [action.seconds for action in world.reconcile() if isinstance(action, Requeue)]
        world.round()
        world.reap()
        for name in world.alive:
            relabel(world, name, **{label: "mesh"})
        if start:
            world.place()
            world.run()
        world.pass_seconds(1)
    most = -(-300 // RELABELLED_SECONDS)
    assert world.created <= 2 * most + 2
    assert waits[1] == RELABELLED_SECONDS - 1
    assert f"2 replicas, whose label scheduling.example.com/{label} was changed (" in world.status["message"]
    assert world.status["reason"] == "ReplicasUnready"


def test_what_keeps_a_place_for_its_label_gives_it_back_when_nobody_wants_it() -> None:
    world = service_world(replicas=2)
    world.round()
    for name in world.alive:
        relabel(world, name, service=None)
    assert world.round() != []
    assert "(chat-v1-0 has none); each is replaced when it is 60 s old" in world.status["message"]
    assert world.alive == ["chat-v1-0", "chat-v1-1"]
    world.edit(replicas=1)
    world.accrue()
    assert world.alive == ["chat-v1-0"]
    relabel(world, "chat-v1-0", service="chat")
    world.start()
    assert world.status["phase"] == "Ready"
    assert world.created == 2
