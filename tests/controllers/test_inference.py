"""The life of an InferenceService: replicas held, replaced one by one, taken away from the right end."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.controllers.builders import revision, service_object, waits_for
from tests.controllers.world import World

from tangram.api import names
from tangram.controllers.actions import Requeue
from tangram.controllers.observed import Source
from tangram.controllers.rollback import MOST_RESTARTS
from tangram.controllers.rollout import NO_ROOM_SECONDS, split
from tangram.decide import codes
from tangram.plan import Reason


def service_world(*revisions: dict[str, Any], **spec: Any) -> World:
    return World(service_object(*revisions, **spec))


def images(world: World) -> list[str]:
    return sorted(world.pods[name]["spec"]["containers"][0]["image"][-1] for name in world.alive)


def ready(world: World) -> int:
    return sum(
        pod.get("status", {}).get("phase") == "Running" and "deletionTimestamp" not in pod["metadata"]
        for pod in world.pods.values()
    )


# Holding replicas.


def test_replicas_are_created_and_found_by_services() -> None:
    world = service_world(replicas=3)
    world.start()
    assert world.alive == ["chat-v1-0", "chat-v1-1", "chat-v1-2"]
    assert sorted(world.services) == ["chat", "chat-v1"]
    assert world.status["phase"] == "Ready"
    assert world.condition("Ready")["status"] == "True"
    assert (world.status["replicas"], world.status["readyReplicas"], world.status["ready"]) == (3, 3, "3/3")
    assert world.status["selector"] == "scheduling.example.com/service=chat"
    assert world.status["url"] == "http://chat.team.svc"


def test_a_gpu_that_fails_under_a_replica_is_told_until_it_is_well_again() -> None:
    world = service_world(replicas=2)
    world.start()
    world.failures["chat-v1-1"] = "GPU 3 (GPU-c) of node-1 is unhealthy: XID 79"
    world.accrue()
    sentence = "pod chat-v1-1: GPU 3 (GPU-c) of node-1 is unhealthy: XID 79"
    told = world.condition("GpusHealthy")
    assert (told["status"], told["reason"], told["message"]) == ("False", "GpuUnhealthy", sentence)
    assert [(one.reason, one.note, one.warning) for one in world.told][-1] == ("GpuUnhealthy", sentence, True)
    assert world.status["phase"] == "Ready", "it serves for as long as it can"
    world.failures.clear()
    world.accrue()
    assert world.condition("GpusHealthy")["status"] == "True"


def test_a_service_without_places_says_why() -> None:
    world = service_world(replicas=2)
    world.accrue()
    for pod in world.pods.values():
        pod["status"] = {"conditions": waits_for("InsufficientGpu")}
    world.accrue()
    assert (world.status["phase"], world.status["reason"]) == ("Pending", "InsufficientGpu")
    assert world.condition("Ready")["status"] == "False"
    assert world.condition("Reconciling")["status"] == "True"


def test_a_service_scaled_to_zero_is_idle_and_ready() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(replicas=0)
    world.accrue()
    assert world.pods == {}
    assert (world.status["phase"], world.status["reason"]) == ("Idle", "ScaledToZero")
    assert world.condition("Ready")["status"] == "True"


def test_replicas_stay_between_the_bounds_of_the_autoscaler() -> None:
    scale = {"metric": "cpu_utilization", "target": 70, "min": 2, "max": 3}
    world = service_world(replicas=9, autoscale=scale)
    world.start()
    assert len(world.alive) == 3
    world.edit(replicas=0)
    world.accrue()
    assert len(world.alive) == 2


def test_a_replica_that_stops_answering_degrades_a_ready_service() -> None:
    world = service_world(replicas=2)
    world.start()
    world.run("chat-v1-0", ready=False)
    world.accrue()
    assert (world.status["phase"], world.status["ready"]) == ("Degraded", "1/2")


def test_scaling_down_takes_the_unplaced_then_the_unready_then_the_youngest() -> None:
    world = service_world(replicas=2)
    world.start()
    world.pass_seconds(60)
    world.edit(replicas=5)
    world.accrue()
    world.place("chat-v1-2", "chat-v1-3")
    world.run("chat-v1-2")
    world.accrue()
    for replicas, left in ((4, "0123"), (3, "012"), (2, "01")):
        world.edit(replicas=replicas)
        world.accrue()
        assert world.alive == [f"chat-v1-{number}" for number in left]


# Repair.


def test_a_broken_replica_is_replaced_and_remembered_for_a_while() -> None:
    world = service_world(replicas=1)
    world.start()
    world.finish("chat-v1-0", code=137, reason="Evicted")
    world.accrue()
    assert (world.status["reason"], world.alive) == ("ReplicasBroken", [])
    world.pass_seconds(1)
    world.accrue()
    assert world.alive == ["chat-v1-1"]
    world.place()
    world.run()
    world.accrue()
    assert world.status["phase"] == "Ready"
    world.pass_seconds(600)
    world.accrue()
    assert list(world.pods) == ["chat-v1-1"]


@pytest.mark.slow
def test_replicas_that_keep_breaking_are_not_replaced_in_a_hot_loop() -> None:
    world = service_world(replicas=1)
    world.accrue()
    for _ in range(3600):
        world.pass_seconds(1)
        world.place()
        for name in world.alive:
            world.finish(name, reason="UnexpectedAdmissionError")
        world.round()
        world.reap()
    assert world.created < 40, "one hour of breaking at once"
    assert len(world.pods) <= 6


# Rollouts.


def roll(world: World, rounds: int = 40) -> int:
    """Let time pass while all that can run runs; the fewest replicas that answered."""
    fewest = ready(world)
    for _ in range(rounds):
        world.round()
        fewest = min(fewest, ready(world))
        world.reap()
        world.place()
        world.run()
        world.pass_seconds(1)
    world.accrue()
    return fewest


def test_a_new_template_replaces_replicas_one_by_one_and_none_is_missing() -> None:
    world = service_world(replicas=3)
    world.start()
    world.edit(revisions=[revision(image="registry.test/serve:2")])
    world.round()
    assert len(world.alive) == 4, "one more first"
    assert world.status["reason"] == "RollingOut"
    assert world.condition("Ready")["status"] == "False"
    assert roll(world) == 3
    assert images(world) == ["2", "2", "2"]
    assert world.status["phase"] == "Ready"


def test_a_rollout_that_never_becomes_ready_leaves_the_old_replicas_alone() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(revisions=[revision(image="registry.test/serve:2")])
    for _ in range(20):
        world.round()
        world.place()
        world.pass_seconds(60)
    assert images(world) == ["1", "1", "2"]
    assert ready(world) == 2


def test_without_room_for_one_more_one_replica_gives_way_after_a_while() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(revisions=[revision(image="registry.test/serve:2")])
    world.accrue()
    (waiting,) = [name for name in world.alive if images(world) and "status" not in world.pods[name]]
    world.pods[waiting]["status"] = {"conditions": waits_for("InsufficientGpu", when=world.now)}
    world.accrue()
    assert ready(world) == 2
    world.pass_seconds(NO_ROOM_SECONDS)
    world.accrue()
    assert ready(world) == 1
    world.place(waiting)
    world.run(waiting)
    assert roll(world) >= 1
    assert images(world) == ["2", "2"]


def ready_while_new_ones_wait(world: World, code: str) -> int:
    """Replicas that answer when the first of a new template has waited long for the reason."""
    world.start()
    world.edit(revisions=[revision(image="registry.test/serve:2")])
    world.accrue()
    for pod in world.pods.values():
        if "status" not in pod:
            pod["status"] = {"conditions": waits_for(code, when=world.now)}
    world.pass_seconds(10 * NO_ROOM_SECONDS)
    world.accrue()
    return ready(world)


@pytest.mark.parametrize(
    "spec", [{"replicas": 1}, {"replicas": 2, "strategy": {"maxUnavailable": 0}}], ids=["one replica", "written as 0"]
)
def test_a_service_that_can_spare_no_replica_waits_for_room_and_goes_on_serving(spec: dict[str, Any]) -> None:
    assert ready_while_new_ones_wait(service_world(**spec), "InsufficientGpu") == spec["replicas"]


ROOM = (
    *(codes.NAMES[code] for code in codes.OCCUPIED),
    "QueueLimit", "ClassNodesFull", "VolumeInUse", "TopologySpread", "PodAntiAffinity",
)  # fmt: skip


@pytest.mark.parametrize("code", Reason)
def test_a_replica_gives_way_for_room_and_for_nothing_else(code: str) -> None:
    """No other reason heals by it: a node selector that no node matches, say, or a queue that is held."""
    answering = 1 if code in ROOM else 2
    assert ready_while_new_ones_wait(service_world(replicas=2), code) == answering


def test_a_renamed_revision_serves_until_the_new_one_does() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(revisions=[revision("v2", image="registry.test/serve:2")])
    world.accrue()
    assert sorted(world.services) == ["chat", "chat-v2"]
    assert ready(world) == 2
    assert roll(world) == 2
    assert world.alive == ["chat-v2-0", "chat-v2-1"]


def test_old_replicas_that_do_not_answer_go_at_once() -> None:
    world = service_world(replicas=2)
    world.accrue()
    world.edit(revisions=[revision(image="registry.test/serve:2")])
    world.accrue()
    assert images(world) == ["2", "2"]


def rolling(replicas: int, **strategy: str) -> tuple[int, int]:
    """Of a rollout in which everything starts at once: most replicas that there were, fewest that answered."""
    world = service_world(replicas=replicas, strategy=strategy)
    world.start()
    world.edit(revisions=[revision(image="registry.test/serve:2")])
    most, fewest = replicas, replicas
    for _ in range(60):
        world.round()
        most, fewest = max(most, len(world.alive)), min(fewest, ready(world))
        world.reap()
        world.place()
        world.run()
    assert images(world) == ["2"] * replicas
    return most, fewest


@pytest.mark.parametrize(
    ("strategy", "most", "fewest"),
    [
        ({}, 5, 4),
        ({"maxSurge": "0"}, 4, 3),
        ({"maxSurge": "2"}, 6, 4),
        ({"maxSurge": "0", "maxUnavailable": "2"}, 4, 2),
        ({"maxSurge": "30%", "maxUnavailable": "0"}, 6, 4),
        ({"maxSurge": "0", "maxUnavailable": "30%"}, 4, 3),
        ({"maxSurge": "0", "maxUnavailable": "20%"}, 4, 3),
        ({"maxSurge": "100%", "maxUnavailable": "100%"}, 4, 0),
    ],
    ids=str,
)
def test_a_rollout_keeps_to_its_strategy(strategy: dict[str, str], most: int, fewest: int) -> None:
    """20 % of four is none; as with a Deployment one may be missing then, for nothing could be replaced otherwise."""
    assert rolling(4, **strategy) == (most, fewest)


def test_a_paused_service_keeps_its_template_and_is_scaled_and_repaired_with_it() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(paused=True, revisions=[revision(image="registry.test/serve:2")])
    roll(world)
    assert images(world) == ["1", "1"]
    assert (world.status["phase"], world.status["reason"]) == ("Progressing", "RolloutPaused")
    world.edit(replicas=3)
    roll(world)
    assert images(world) == ["1", "1", "1"]
    world.edit(paused=False)
    roll(world)
    assert images(world) == ["2", "2", "2"]
    assert world.status["phase"] == "Ready"


def test_a_rollout_that_is_paused_in_its_midst_stays_as_it_is() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(revisions=[revision(image="registry.test/serve:2")])
    world.accrue()
    world.edit(paused=True)
    roll(world)
    assert images(world) == ["1", "2"], "one more than wanted is not kept"
    assert world.status["reason"] == "RolloutPaused"
    world.edit(replicas=1)
    roll(world)
    assert images(world) == ["2"]


def test_a_paused_service_without_another_template_is_ready() -> None:
    world = service_world(replicas=2, paused=True)
    world.start()
    assert world.status["phase"] == "Ready"


# The progress deadline.


def test_a_service_that_comes_no_nearer_is_stalled_until_it_does() -> None:
    world = service_world(replicas=2, progressDeadline="5m")
    world.accrue()
    for pod in world.pods.values():
        pod["status"] = {"conditions": waits_for("InsufficientGpu")}
    world.pass_seconds(299)
    world.accrue()
    assert world.condition("Stalled")["status"] == "False"
    world.pass_seconds(1)
    world.accrue()
    stalled = world.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "ProgressDeadlineExceeded")
    assert stalled["message"] == "no progress for 5m: no node has it (2 of 2 waiting pods)"
    assert (world.status["phase"], world.status["reason"]) == ("Pending", "InsufficientGpu")
    assert world.condition("Reconciling")["status"] == "False"
    world.place("chat-v1-0")
    world.run("chat-v1-0")
    world.accrue()
    assert world.condition("Stalled")["status"] == "False", "one more is ready"
    world.place()
    world.run()
    world.accrue()
    assert world.status["phase"] == "Ready"
    assert "progressTime" not in world.status


def test_a_reconcile_is_asked_for_when_the_deadline_comes() -> None:
    world = service_world(progressDeadline="5m")
    world.accrue()
    world.pass_seconds(100)
    (requeue,) = [action for action in world.reconcile() if isinstance(action, Requeue)]
    assert requeue.seconds == 200


def test_a_service_that_was_ready_or_is_paused_has_no_deadline() -> None:
    world = service_world(replicas=2, progressDeadline="5m")
    world.start()
    world.run("chat-v1-0", ready=False)
    world.accrue()
    world.pass_seconds(3600)
    world.accrue()
    assert (world.status["phase"], world.condition("Stalled")["status"]) == ("Degraded", "False")
    world.run()
    world.edit(paused=True, revisions=[revision(image="registry.test/serve:2")])
    world.accrue()
    world.pass_seconds(3600)
    world.accrue()
    assert (world.status["reason"], world.condition("Stalled")["status"]) == ("RolloutPaused", "False")


# The disruption budget.


def test_one_replica_at_a_time_may_be_evicted() -> None:
    world = service_world(replicas=3)
    world.start()
    (budget,) = world.budgets.values()
    assert budget["metadata"]["name"] == "chat"
    assert budget["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": {names.SERVICE: "chat"}}}


def test_a_drain_goes_on_by_one_replica_when_the_one_before_waits_for_its_queue() -> None:
    """The replica that takes the place of the first one used the budget up for as long as the queue was held."""
    world = service_world(replicas=3)
    world.start()
    (budget,) = world.budgets.values()
    for gone in (1, 2, 3):
        pod = next(pod for pod in world.pods.values() if pod["spec"].get("nodeName"))
        del world.pods[pod["metadata"]["name"]]
        world.round()
        assert budget["spec"]["maxUnavailable"] == gone, "nobody has told yet why the new one waits"
        for one in world.pods.values():
            if not one["spec"].get("nodeName"):
                one["status"] = {"phase": "Pending", "conditions": waits_for("QueueHeld", "queue q is held")}
        world.round()
        assert budget["spec"]["maxUnavailable"] == 1 + gone
    for one in world.pods.values():
        one["status"]["conditions"] = waits_for("InsufficientGpu")
    world.round()
    assert budget["spec"] == {"maxUnavailable": 1, "selector": {"matchLabels": {names.SERVICE: "chat"}}}


@pytest.mark.parametrize(
    ("selector", "ours"),
    [
        ({"matchLabels": {names.SERVICE: "chat"}}, False),
        ({"matchLabels": {"app": "llm"}}, False),
        ({}, False),
        ({"matchExpressions": [{"key": "app", "operator": "In", "values": ["llm", "x"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]}, False),
        ({"matchExpressions": [{"key": "app", "operator": "DoesNotExist"}]}, True),
        ({"matchExpressions": [{"key": "app", "operator": "Exists"}]}, False),
        ({"matchLabels": {names.SERVICE: "other"}}, True),
        (None, True),
    ],
    ids=str,
)
def test_a_budget_of_somebody_else_for_the_same_pods_takes_the_place_of_ours(selector: Any, ours: bool) -> None:
    """The eviction API refuses every eviction of a pod for which there are two."""
    labelled = revision()
    labelled["template"]["metadata"] = {"labels": {"app": "llm"}}
    world = service_world(labelled)
    world.start()
    metadata = {"name": "theirs", "namespace": "team", "uid": "uid-theirs"}
    world.budgets["theirs"] = {"metadata": metadata, "spec": {"selector": selector, "minAvailable": 1}}
    world.accrue()
    assert ("chat" in world.budgets) is ours
    del world.budgets["theirs"]
    world.accrue()
    assert "chat" in world.budgets


@pytest.mark.parametrize("theirs", ["serving.kserve.io/v1beta1", "scheduling.example.com/v1"])
def test_a_budget_of_another_kind_with_the_same_name_is_somebody_elses(theirs: str) -> None:
    world = service_world()
    world.start()
    owner = {"apiVersion": theirs, "kind": "InferenceService", "name": "other", "uid": "uid-x", "controller": True}
    metadata = {"name": "theirs", "namespace": "team", "uid": "uid-theirs", "ownerReferences": [owner]}
    selector = {"matchLabels": {names.SERVICE: "chat"}}
    world.budgets["theirs"] = {"metadata": metadata, "spec": {"selector": selector, "minAvailable": 1}}
    world.accrue()
    assert ("chat" in world.budgets) is (theirs == names.API_VERSION)


# Rollouts that do not work.


def broken_rollout(world: World) -> str:
    """On full nodes: one replica has given way to one of a new template, which is placed. Its name."""
    world.start()
    world.edit(revisions=[revision(image="registry.test/serve:2")])
    world.accrue()
    (new,) = [name for name, pod in world.pods.items() if "status" not in pod]
    world.pods[new]["status"] = {"conditions": waits_for("InsufficientGpu", when=world.now)}
    world.pass_seconds(NO_ROOM_SECONDS)
    world.accrue()
    world.place(new)
    return new


def test_a_crash_is_told_before_a_place_that_is_missing() -> None:
    world = service_world(replicas=2)
    world.accrue()
    first, second = world.pods
    world.place(first)
    world.crash(first, code=3, restarts=2)
    world.pods[second]["status"] = {"conditions": waits_for("InsufficientGpu")}
    world.accrue()
    assert world.status["reason"] == "CrashLoopBackOff"
    assert world.status["message"] == "container main of pod chat-v1-0 ended with exit code 3, restarted 2 times"


def test_a_crash_of_an_init_container_is_told() -> None:
    world = service_world()
    world.accrue()
    world.place()
    world.crash("chat-v1-0", code=137, reason="OOMKilled")
    status = world.pods["chat-v1-0"]["status"]
    status["initContainerStatuses"] = [{**status.pop("containerStatuses")[0], "name": "download"}]
    world.accrue()
    sentence = "container download of pod chat-v1-0 ended with exit code 137 (OOMKilled), restarted once"
    assert (world.status["reason"], world.status["message"]) == ("CrashLoopBackOff", sentence)


def test_a_rollout_whose_template_crashes_says_so_and_stops_after_some_restarts() -> None:
    world = service_world(replicas=2)
    new = broken_rollout(world)
    world.crash(new, code=3, restarts=MOST_RESTARTS - 1)
    world.accrue()
    assert (world.status["reason"], world.status["readyReplicas"]) == ("CrashLoopBackOff", 1)
    world.crash(new, code=3, restarts=MOST_RESTARTS)
    world.accrue()
    assert images(world) == ["1", "1"], "the place is given back to the template that works"
    assert world.condition("Stalled")["status"] == "True"
    assert (world.status["phase"], world.status["reason"]) == ("Degraded", "RolloutFailed")
    assert f"container main of pod {new} ended with exit code 3, restarted 3 times" in world.status["message"]


def test_a_template_that_failed_is_not_tried_again_but_another_one_is() -> None:
    world = service_world(replicas=2)
    world.crash(broken_rollout(world), restarts=MOST_RESTARTS)
    roll(world)
    assert (images(world), ready(world)) == (["1", "1"], 2)
    assert world.status["reason"] == "RolloutFailed"
    world.edit(replicas=3)
    roll(world)
    assert images(world) == ["1", "1", "1"]
    assert world.condition("Ready")["status"] == "False", "the spec is not in effect"
    world.edit(revisions=[revision(image="registry.test/serve:3")])
    roll(world)
    assert images(world) == ["3", "3", "3"]
    assert (world.status["phase"], world.status.get("failedRollout")) == ("Ready", None)


def test_going_back_to_the_template_that_works_ends_the_failed_rollout() -> None:
    world = service_world(replicas=2)
    world.crash(broken_rollout(world), restarts=MOST_RESTARTS)
    roll(world)
    before = set(world.pods)
    world.edit(revisions=[revision()])
    roll(world)
    assert set(world.pods) == before, "no replica is touched for it"
    assert world.status["phase"] == "Ready"


def test_a_canary_that_crashes_gives_its_share_back() -> None:
    world = service_world(replicas=2)
    world.start()
    world.edit(revisions=[revision(weight=50), revision("v2", image="registry.test/serve:2", weight=50)])
    world.accrue()
    (canary,) = [name for name in world.alive if "-v2-" in name]
    world.place(canary)
    world.crash(canary, restarts=MOST_RESTARTS)
    roll(world)
    assert world.alive == ["chat-v1-0", "chat-v1-1"]
    assert world.status["reason"] == "RolloutFailed"


def test_a_first_template_that_crashes_is_told_and_kept() -> None:
    world = service_world(replicas=1)
    world.accrue()
    world.place()
    world.crash("chat-v1-0", code=2, restarts=9)
    world.accrue()
    assert (world.status["reason"], world.alive) == ("CrashLoopBackOff", ["chat-v1-0"])


def test_a_replica_of_a_template_that_was_ready_is_never_a_failed_rollout() -> None:
    world = service_world(replicas=2)
    world.start()
    world.crash("chat-v1-0", restarts=9)
    world.accrue()
    assert (world.status["phase"], world.status["reason"]) == ("Degraded", "CrashLoopBackOff")
    assert world.alive == ["chat-v1-0", "chat-v1-1"]


# Revisions.


def test_replicas_are_shared_by_weight_and_each_revision_has_its_service() -> None:
    world = service_world(revision("v1", weight=90), revision("v2", weight=10), replicas=10)
    world.start()
    counts = {counts["name"]: counts["ready"] for counts in world.status["revisions"]}
    assert counts == {"v1": 9, "v2": 1}
    assert sorted(world.services) == ["chat", "chat-v1", "chat-v2"]


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [
        (10, {"v1": 90, "v2": 10}, {"v1": 9, "v2": 1}),
        (2, {"v1": 95, "v2": 5}, {"v1": 1, "v2": 1}),
        (1, {"v1": 50, "v2": 50}, {"v1": 1, "v2": 0}),
        (3, {"v1": 100, "v2": 0}, {"v1": 3, "v2": 0}),
        (0, {"v1": 100}, {"v1": 0}),
    ],
)
def test_shares(total: int, weights: dict[str, int], shares: dict[str, int]) -> None:
    assert split(total, weights) == shares


WEIGHTS = st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 100), min_size=1)


@given(st.integers(0, 500), WEIGHTS.filter(lambda weights: any(weights.values())))
def test_shares_make_the_total_and_are_near_to_the_weights(total: int, weights: dict[str, int]) -> None:
    shares = split(total, weights)
    whole = sum(weights.values())
    positive = [name for name in weights if weights[name]]
    assert sum(shares.values()) == total
    assert all(shares[name] == 0 for name in weights if not weights[name])
    if total >= len(positive):
        assert all(shares[name] >= 1 for name in positive)
    assert all(shares[name] <= total * weights[name] / whole + 1 or shares[name] == 1 for name in positive)


# The model of a TrainingJob.


@pytest.mark.parametrize(
    ("phase", "reason", "stalled"),
    [
        ("Running", "WaitingForModel", "False"),
        ("Failed", "ModelFailed", "True"),
        ("", "ModelMissing", "True"),
    ],
)
def test_a_service_waits_for_the_job_that_makes_its_model(phase: str, reason: str, stalled: str) -> None:
    world = service_world(replicas=2, **{"from": {"trainingJob": "train"}})
    world.source = Source("train", phase)
    world.accrue()
    assert world.pods == {}
    assert (world.status["phase"], world.status["reason"]) == ("Pending", reason)
    assert world.condition("Stalled")["status"] == stalled
    world.source = Source("train", "Complete")
    world.start()
    assert world.status["phase"] == "Ready"
    assert world.condition("ModelReady")["status"] == "True"


def test_a_service_goes_on_when_the_job_of_its_model_is_deleted() -> None:
    world = service_world(replicas=1, **{"from": {"trainingJob": "train"}})
    world.source = Source("train", "Complete")
    world.start()
    world.source = Source("train", "")
    world.accrue()
    assert ready(world) == 1
    world.pods.clear()
    world.start()
    assert world.status["phase"] == "Ready"


# Faults.


def test_a_refused_creation_stalls_the_service_with_the_servers_words() -> None:
    world = service_world(replicas=1)
    taken = "the name chat is taken: a Service of somebody else has it"
    world.refuses = lambda action: taken if action.name == "chat" else ""
    world.accrue()
    assert (world.status["reason"], world.status["message"]) == ("CreateRefused", taken)
    assert world.condition("Stalled")["status"] == "True"
    world.refuses = lambda _: ""
    world.start()
    assert world.status["phase"] == "Ready"


def test_replicas_go_although_a_service_cannot_be_created() -> None:
    world = service_world(replicas=3)
    world.start()
    del world.services["chat"]
    world.refuses = lambda action: "the name chat is taken" if action.kind == "Service" else ""
    world.edit(replicas=1)
    world.accrue()
    assert (len(world.alive), world.status["replicas"]) == (1, 1)
    assert world.status["reason"] == "CreateRefused"


def test_a_replica_that_a_quota_refuses_counts_as_one_without_room() -> None:
    world = service_world(replicas=2)
    world.start()
    world.quota(2)
    world.edit(revisions=[revision(image="registry.test/serve:2")])
    world.accrue()
    world.pass_seconds(NO_ROOM_SECONDS - 1)
    world.accrue()
    assert images(world) == ["1", "1"]
    world.pass_seconds(1)
    world.accrue()
    assert images(world) == ["1", "2"], "one gave way, and its place in the quota was taken"
    assert roll(world, 3 * int(NO_ROOM_SECONDS)) >= 1
    assert images(world) == ["2", "2"]


def test_no_replica_goes_for_a_template_that_the_server_cannot_read() -> None:
    world = service_world(replicas=2)
    world.start()
    sentence = 'strict decoding error: unknown field "spec.containers[0].enviroment"'
    world.refuses = lambda action: sentence if action.kind == "Pod" else ""
    world.edit(revisions=[revision(image="registry.test/serve:2")])
    world.accrue()
    world.pass_seconds(100 * NO_ROOM_SECONDS)
    world.accrue()
    assert images(world) == ["1", "1"]
    assert (world.status["reason"], world.status["message"]) == ("CreateRefused", sentence)


def test_a_spec_that_cannot_be_made_into_pods_fails_and_recovers_when_corrected() -> None:
    world = service_world(revision(gpus={"count": 1, "container": "gpu"}))
    world.accrue()
    assert world.status["phase"] == "Failed"
    world.edit(revisions=[revision(gpus={"count": 1})])
    world.start()
    assert world.status["phase"] == "Ready"
    assert world.status["held"]["gpu"] == "1"


def test_pods_say_their_queue_and_class() -> None:
    world = service_world(queue="ads", priorityClass="gold")
    world.accrue()
    labels = world.pods["chat-v1-0"]["metadata"]["labels"]
    assert (labels[names.QUEUE], labels[names.PRIORITY_CLASS]) == ("ads", "gold")


def test_what_a_service_has_used_is_not_forgotten_where_it_cannot_be_read() -> None:
    world = World(service_object())
    world.start()
    world.status["gpuSeconds"] = "by another version"
    world.status["url"] = 7
    world.pass_seconds(4000)
    world.accrue()
    assert world.status["gpuSeconds"] == "by another version"
    assert world.status["url"].startswith("http://")
    assert world.condition("Ready")["status"] == "True"


# The phase is for people.


@pytest.mark.parametrize("phase", [None, "Pending", "Progressing"])
def test_a_service_that_has_lost_replicas_is_degraded_whatever_its_phase_said(phase: str | None) -> None:
    world = service_world(replicas=2)
    world.start()
    world.status["phase"] = phase
    world.run("chat-v1-0", ready=False)
    world.accrue()
    assert world.status["phase"] == "Degraded"
    assert world.status["readyGeneration"] == 1
