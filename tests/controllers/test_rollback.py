"""Which rollouts go back, and to what: a template that has served is not a new one that does not work."""

import json
from typing import Any

import pytest
from tests.controllers.builders import revision, service_object, waits_for
from tests.controllers.world import World

from tangram.controllers.actions import Requeue
from tangram.controllers.rollback import FORMER_MEMORY, MOST_RESTARTS, SERVED_SECONDS

NEW, NEWER = "registry.test/serve:2", "registry.test/serve:3"


def service_world(*revisions: dict[str, Any], **spec: Any) -> World:
    return World(service_object(*revisions, **spec))


def images(world: World) -> list[str]:
    return sorted(world.pods[name]["spec"]["containers"][0]["image"][-1] for name in world.alive)


def settle(world: World, *, room: int = 99, rounds: int = 12) -> None:
    """Let the rollout go as far as it comes where so many pods of one image find room; what has a place runs."""
    for _ in range(rounds):
        world.round()
        world.reap()
        for name, pod in world.pods.items():
            if "nodeName" not in pod["spec"] and len(of_image(world, pod["spec"]["containers"][0]["image"])) < room:
                world.place(name)
            elif "nodeName" not in pod["spec"] and "status" not in pod:
                pod["status"] = {"conditions": waits_for("InsufficientGpu", when=world.now)}
            if "containerStatuses" not in pod.get("status", {}):
                world.run(name)
        world.pass_seconds(40)


def of_image(world: World, image: str) -> list[str]:
    """Replicas with a place that were made from the image."""
    own = [name for name in world.alive if world.pods[name]["spec"]["containers"][0]["image"] == image]
    return [name for name in own if "nodeName" in world.pods[name]["spec"]]


@pytest.mark.parametrize(
    ("strategy", "old"), [({"maxUnavailable": "0"}, ["1"]), ({}, [])], ids=["old left", "none left"]
)
def test_a_template_that_has_served_is_not_rolled_back_although_never_all_of_it_was_ready(
    strategy: dict[str, str], old: list[str]
) -> None:
    world = service_world(replicas=3, strategy=strategy)
    world.start()
    world.edit(replicas=4, revisions=[revision(image=NEW)])
    settle(world, room=3)
    world.pass_seconds(7 * 24 * 3600)
    settle(world, room=3, rounds=2)
    assert images(world) == [*old, "2", "2", "2", "2"]
    crashing, *_ = of_image(world, NEW)
    world.crash(crashing, code=137, restarts=MOST_RESTARTS, reason="OOMKilled")
    settle(world, room=3)
    assert images(world) == [*old, "2", "2", "2", "2"]
    assert (world.status["reason"], world.status.get("failedRollout")) == ("CrashLoopBackOff", None)


def test_a_canary_that_has_served_is_not_rolled_back_when_its_only_replica_crashes() -> None:
    """Whoever ran once is remembered in the status: the pod that crashes does not show it any more."""
    world = service_world(replicas=2)
    world.start()
    world.edit(replicas=4, revisions=[revision(weight=75), revision("v2", image=NEW, weight=25)])
    settle(world, room=2)
    (canary,) = of_image(world, NEW)
    world.crash(canary, restarts=MOST_RESTARTS)
    settle(world, room=2)
    assert canary in world.alive
    assert world.status["reason"] == "CrashLoopBackOff"


def test_a_failed_canary_whose_share_is_taken_away_is_over_and_one_that_gets_it_again_is_tried_again() -> None:
    shares = {share: [revision(weight=100 - share), revision("v2", image=NEW, weight=share)] for share in (0, 25)}
    world = service_world(replicas=4)
    world.start()
    for _ in range(2):
        world.edit(revisions=shares[25])
        settle(world, rounds=1)
        (canary,) = of_image(world, NEW)
        world.crash(canary, restarts=MOST_RESTARTS)
        settle(world)
        assert (world.status["reason"], images(world)) == ("RolloutFailed", ["1", "1", "1", "1"])
        shown = {one["name"]: one.get("desired", 0) for one in world.status["revisions"]}
        assert shown == {"v1": 4, "v2": 0}
        world.edit(revisions=shares[0])
        settle(world)
        assert (world.status["phase"], world.status.get("failedRollout")) == ("Ready", None)
        assert world.condition("Stalled")["status"] == "False"


def test_a_revision_that_is_mended_waits_with_a_failed_canary_beside_it_and_that_is_said() -> None:
    world = service_world(replicas=4)
    world.start()
    canary = revision("v2", image=NEW, weight=25)
    world.edit(revisions=[revision(weight=75), canary])
    settle(world, rounds=1)
    world.crash(*of_image(world, NEW), restarts=MOST_RESTARTS)
    settle(world)
    assert images(world) == ["1", "1", "1", "1"]
    world.edit(revisions=[revision(image=NEWER, weight=75), canary])
    settle(world)
    assert images(world) == ["1", "1", "1", "1"]
    assert "; until that is mended or has no weight these wait: v1" in world.status["message"]
    world.edit(revisions=[revision(image=NEWER, weight=100), {**canary, "weight": 0}])
    settle(world)
    assert (world.status["phase"], images(world)) == ("Ready", ["3", "3", "3", "3"])


def three(*weights: int) -> list[dict[str, Any]]:
    """Two revisions that work, and one that does not."""
    made = ("v1", "registry.test/serve:1"), ("v2", NEW), ("v3", NEWER)
    return [revision(name, image=text, weight=weight) for (name, text), weight in zip(made, weights, strict=True)]


@pytest.mark.parametrize(
    ("weights", "waiting"),
    [
        ((45, 45, 10), ""),
        ((50, 40, 10), ""),
        ((40, 50, 10), ""),
        ((90, 0, 10), "v1 (weight 90), v2 (weight 0)"),
        ((0, 0, 100), "v1 (weight 0), v2 (weight 0)"),
        ((30, 60, 10), "v1 (weight 30), v2 (weight 60)"),
        ((50, 0, 50), "v2 (weight 0)"),
    ],
    ids=str,
)
def test_other_revisions_whose_weight_is_changed_wait_with_one_that_failed_and_that_is_said(
    weights: tuple[int, int, int], waiting: str
) -> None:
    world = service_world(*three(50, 50, 0)[:2], replicas=4)
    world.start()
    world.edit(revisions=three(45, 45, 10))
    settle(world, rounds=1)
    world.crash(*of_image(world, NEWER), restarts=MOST_RESTARTS)
    settle(world)
    world.edit(revisions=three(*weights))
    settle(world)
    assert images(world) == ["1", "1", "2", "2"]
    begins = "; until that is mended or has no weight these wait: "
    assert world.status["message"].partition(begins)[2] == waiting
    assert (begins in world.status["message"]) == bool(waiting)


def test_a_revision_that_is_removed_beside_one_that_failed_waits_and_that_is_said() -> None:
    world = service_world(*three(50, 50, 0)[:2], replicas=4)
    world.start()
    world.edit(revisions=three(45, 45, 10))
    settle(world, rounds=1)
    world.crash(*of_image(world, NEWER), restarts=MOST_RESTARTS)
    settle(world)
    first, _, third = three(90, 0, 10)
    world.edit(revisions=[first, third])
    settle(world)
    assert world.status["message"].endswith("these wait: v1 (weight 90), v2 (removed)")
    world.edit(revisions=[{**first, "name": "v4", "weight": 90}, third])
    settle(world)
    assert world.status["message"].endswith("these wait: v4, v1 (removed), v2 (removed)")
    world.edit(revisions=[{**first, "weight": 100}])
    settle(world)
    assert (world.status["phase"], images(world)) == ("Ready", ["1", "1", "1", "1"])


def test_a_template_that_answered_for_a_moment_only_has_not_served() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(revisions=[revision(image=NEW)])
    world.round()
    (new,) = [name for name in world.alive if "nodeName" not in world.pods[name]["spec"]]
    world.place(new)
    world.run(new)
    world.pods["chat-v1-0"]["status"]["conditions"][0]["status"] = "False"  # so that not all are ready at once
    world.pass_seconds(SERVED_SECONDS - 1)
    world.round()
    world.crash(new, restarts=MOST_RESTARTS)
    world.round()
    assert world.status["reason"] == "RolloutFailed"


def test_the_way_back_leads_to_what_served_last_and_not_to_what_was_before_it() -> None:
    """The fourth replica of the second template has never found room; three have served for a week."""
    world = service_world(replicas=3)
    world.start()
    world.edit(replicas=4, revisions=[revision(image=NEW)])
    settle(world, room=3)
    assert images(world) == ["2"] * 4
    assert world.status["phase"] == "Progressing"
    world.edit(revisions=[revision(image=NEWER)])
    settle(world, rounds=1)
    world.crash(*of_image(world, NEWER), restarts=MOST_RESTARTS)
    settle(world, room=3)
    assert images(world) == ["2"] * 4
    assert world.status["reason"] == "RolloutFailed"


def crashing(world: World, image: str, *, rounds: int = 6) -> None:
    """What is made from the image crashes, and everything else runs."""
    for restarts in range(1, rounds + 1):
        world.round()
        world.reap()
        world.place()
        world.run(*(name for name in world.alive if name not in of_image(world, image)))
        world.crash(*of_image(world, image), restarts=restarts)
        world.pass_seconds(20)


def test_a_template_that_crashes_soon_after_all_of_it_was_ready_is_rolled_back() -> None:
    """Its replicas have taken the places of all others by then; no replica of the one before is left."""
    world = service_world(replicas=4, strategy={"maxSurge": "100%"})
    world.start()
    world.edit(revisions=[revision(image=NEW)])
    for _ in range(4):
        world.round()
        world.reap()
        world.place()
        world.run()
        world.pass_seconds(1)
    assert (images(world), world.status["phase"]) == (["2"] * 4, "Ready")
    world.pass_seconds(5)
    crashing(world, NEW)
    assert (images(world), world.status["reason"]) == (["1"] * 4, "RolloutFailed")


def test_the_controller_looks_again_when_a_template_will_have_served() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(revisions=[revision(image=NEW)])
    while world.status["phase"] != "Ready" or world.status["observedGeneration"] != 2:
        world.round()
        world.reap()
        world.place()
        world.run()
    world.pass_seconds(SERVED_SECONDS - 10)
    assert [action.seconds for action in world.reconcile() if isinstance(action, Requeue)] == [10]
    world.pass_seconds(10)
    world.accrue()
    assert NEW in world.status["proven"]["spec"]


# Revisions without a replica.


@pytest.mark.parametrize("weight", [25, 50, 100])
def test_a_revision_that_was_prepared_without_a_share_is_a_new_one_when_it_gets_one(weight: int) -> None:
    world = service_world(revision(weight=100), revision("v2", image=NEW, weight=0), replicas=4)
    world.start()
    world.edit(revisions=[revision(weight=100 - weight), revision("v2", image=NEW, weight=weight)])
    crashing(world, NEW)
    assert (images(world), world.status["reason"]) == (["1"] * 4, "RolloutFailed")


def test_a_revision_for_which_there_were_too_few_replicas_is_a_new_one_when_it_gets_the_first() -> None:
    halves = revision(weight=50), revision("v2", image=NEW, weight=50)
    world = service_world(*halves, replicas=1)
    world.start()
    world.edit(paused=True)
    world.accrue()
    assert (world.status["phase"], images(world)) == ("Ready", ["1"]), "there is nothing to hold"
    world.edit(paused=False, replicas=2)
    crashing(world, NEW)
    assert (images(world), world.status["reason"]) == (["1", "1"], "RolloutFailed")


@pytest.mark.parametrize("meanwhile", [{"replicas": 1}, {"weights": (100, 0)}], ids=str)
def test_a_revision_that_has_served_stays_known_while_it_has_no_share(meanwhile: dict[str, Any]) -> None:
    def halves(first: int, second: int) -> list[dict[str, Any]]:
        return [revision(weight=first), revision("v2", image=NEW, weight=second)]

    world = service_world(*halves(50, 50), replicas=2)
    world.start()
    world.edit(replicas=meanwhile.get("replicas", 2), revisions=halves(*meanwhile.get("weights", (50, 50))))
    settle(world, rounds=4)
    assert "2" not in images(world)
    world.edit(replicas=2, revisions=halves(50, 50))
    crashing(world, NEW)
    assert "2" in images(world)
    assert (world.status["reason"], world.status.get("failedRollout")) == ("CrashLoopBackOff", None)


# Two revisions with one template.


@pytest.mark.parametrize("crashing", ["a", "b"])
def test_of_two_new_revisions_with_one_template_either_shows_that_it_does_not_work(crashing: str) -> None:
    world = service_world(replicas=2)
    world.start()
    both = [revision(name, image=NEW, weight=50) for name in ("a", "b")]
    world.edit(replicas=4, strategy={"maxSurge": "2"}, revisions=both)
    world.round()
    new = f"chat-{crashing}-0"
    assert new in world.alive
    world.place(new)
    world.crash(new, restarts=MOST_RESTARTS)
    settle(world)
    assert (world.status["reason"], images(world)) == ("RolloutFailed", ["1"] * 4)


def test_a_revision_that_is_added_with_a_template_that_works_is_not_new() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(revisions=[revision("v1", weight=50), revision("v2", weight=50)])
    settle(world, rounds=2)
    added = next(name for name in world.alive if "-v2-" in name)
    world.crash(added, restarts=MOST_RESTARTS)
    settle(world)
    assert "failedRollout" not in world.status


def test_a_revision_that_is_renamed_while_the_service_is_paused_waits_as_any_other() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(paused=True, revisions=[revision("v2")])
    settle(world)
    assert (world.alive, world.status["reason"]) == (["chat-v1-0", "chat-v1-1"], "RolloutPaused")


def test_a_rename_that_is_paused_in_its_midst_stays_as_it_is() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(revisions=[revision("v2")])
    settle(world, rounds=1)
    world.edit(paused=True)
    settle(world)
    assert [name[:7] for name in world.alive] == ["chat-v1", "chat-v2"]


# Where it is remembered.


def test_what_worked_is_remembered_in_the_status_and_nowhere_that_a_tenant_may_write() -> None:
    world = service_world(replicas=2)
    world.start()
    assert json.loads(world.status["proven"]["spec"])["revisions"][0]["name"] == "v1"
    evil = {"revisions": [revision(image="registry.test/evil:9")]}
    world.services["chat"]["metadata"]["annotations"] = {"scheduling.example.com/last-ready": json.dumps(evil)}
    world.edit(revisions=[revision(image=NEW)])
    settle(world, room=3, rounds=1)
    (new,) = of_image(world, NEW)
    world.crash(new, restarts=MOST_RESTARTS)
    settle(world)
    assert (world.status["reason"], images(world)) == ("RolloutFailed", ["1", "1"])


def test_annotations_that_an_earlier_version_wrote_on_services_are_taken_away() -> None:
    world = service_world(replicas=1)
    world.start()
    annotations = {"scheduling.example.com/last-ready": "{}", "scheduling.example.com/weight": "100", "team": "ads"}
    world.services["chat"]["metadata"]["annotations"] = annotations
    world.accrue()
    assert world.services["chat"]["metadata"]["annotations"] == {"team": "ads"}


@pytest.mark.parametrize("stored", [None, {"spec": "no JSON"}, {"spec": '{"revisions": []}'}, {"spec": "[1]"}, 7])
def test_where_it_is_not_known_what_worked_no_way_back_is_guessed(stored: Any) -> None:
    """As after a restore from a backup, which has no status."""
    world = service_world(replicas=2)
    world.start()
    world.edit(revisions=[revision(image=NEW)])
    settle(world, room=3, rounds=1)
    (new,) = of_image(world, NEW)
    if stored is None:
        world.raw["status"] = {}
    else:
        world.status["proven"] = stored
    world.crash(new, restarts=MOST_RESTARTS)
    world.accrue()
    assert world.status["reason"] == "CrashLoopBackOff"
    assert images(world) == ["1", "1", "2"]


def test_a_null_in_a_template_stays_where_it_is_remembered() -> None:
    """A merge patch takes null for "no such field": the replicas would be made from another text, and replaced."""
    odd = revision()
    odd["template"]["spec"]["affinity"] = None
    world = service_world(odd, replicas=2)
    world.start()
    before = set(world.alive)
    world.edit(revisions=[revision(image=NEW)])
    settle(world, room=3, rounds=1)
    (new,) = of_image(world, NEW)
    world.crash(new, restarts=MOST_RESTARTS)
    settle(world)
    assert (world.status["reason"], images(world)) == ("RolloutFailed", ["1", "1"])
    assert before & set(world.alive)


# Statuses of an earlier version, which remembered what had been ready in an annotation of the Service.


def as_an_earlier_version_left_it(world: World) -> None:
    world.services["chat"]["metadata"].setdefault("annotations", {})[FORMER_MEMORY] = world.status["proven"]["spec"]
    for field in ("proven", "readyGeneration"):
        world.raw["status"].pop(field, None)


def test_a_rollout_that_was_stopped_stays_stopped_after_an_upgrade() -> None:
    world = service_world(replicas=4, strategy={"maxUnavailable": "1"})
    world.start()
    settle(world)
    world.edit(revisions=[revision(image=NEW)])
    for _ in range(6):
        settle(world, rounds=1)
        world.crash(*of_image(world, NEW), restarts=MOST_RESTARTS)
    assert (world.status["reason"], images(world)) == ("RolloutFailed", ["1"] * 4)
    as_an_earlier_version_left_it(world)
    before = set(world.pods)
    settle(world)
    assert (world.status["reason"], set(world.pods)) == ("RolloutFailed", before)
    assert FORMER_MEMORY not in world.services["chat"]["metadata"]["annotations"]


def test_a_service_that_is_paused_goes_on_with_what_it_ran_before_an_upgrade() -> None:
    world = service_world(replicas=2)
    world.start()
    settle(world)
    world.edit(paused=True, revisions=[revision(image=NEW)])
    settle(world)
    as_an_earlier_version_left_it(world)
    world.finish(world.alive[0], code=1, reason="Evicted")
    settle(world)
    assert images(world) == ["1", "1"]


def test_a_former_memory_that_no_replica_shows_is_not_believed() -> None:
    world = service_world(replicas=2)
    world.start()
    settle(world)
    as_an_earlier_version_left_it(world)
    notes = world.services["chat"]["metadata"]["annotations"]
    notes[FORMER_MEMORY] = notes[FORMER_MEMORY].replace("registry.test/serve:1", "evil.test/image")
    world.edit(paused=True, revisions=[revision(image=NEW)])
    settle(world)
    assert "evil" not in json.dumps(world.pods) + json.dumps(world.status)


def test_a_service_that_was_degraded_before_an_upgrade_is_degraded_after_it() -> None:
    world = service_world(replicas=2)
    world.start()
    settle(world)
    world.finish(world.alive[0], code=1, reason="Evicted")
    settle(world, room=0)
    assert world.status["phase"] == "Degraded"
    as_an_earlier_version_left_it(world)
    settle(world, room=0, rounds=30)
    assert (world.status["phase"], world.condition("Stalled")["status"]) == ("Degraded", "False")
