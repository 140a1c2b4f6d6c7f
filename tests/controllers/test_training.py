"""The life of a TrainingJob: what is given, and what then follows. After each story five more looks change nothing."""

from typing import Any

import pytest
from tests.controllers.builders import condition, job_object, role, waits_for
from tests.controllers.world import World

from tangram.api import names
from tangram.controllers.actions import Confirm, Create, Delete, Patch, Requeue, SetStatus
from tangram.controllers.training import pause_before
from tangram.units import rfc3339


def job_world(*roles: dict[str, Any], **spec: Any) -> World:
    return World(job_object(*roles, **spec))


@pytest.fixture
def world() -> World:
    """A job of two workers with one GPU each."""
    return job_world()


# Starting.


def test_all_pods_and_the_service_are_created_in_one_look(world: World) -> None:
    written = world.round()
    assert [type(action) for action in written] == [SetStatus, Patch, Create, Create, Create]
    assert world.raw["metadata"]["annotations"] == {"scheduling.example.com/started": "true"}
    assert world.status["phase"] == "Pending"
    assert sorted(world.pods) == ["train-worker-0", "train-worker-1"]
    assert list(world.services) == ["train-gang"]


def test_a_running_gang_is_ready_and_has_a_start_time(world: World) -> None:
    world.start()
    assert world.phases == ["Pending", "Admitted", "Running"] or world.phases == ["Pending", "Running"]
    assert world.condition("Ready")["status"] == "True"
    assert world.condition("Admitted")["status"] == "True"
    assert world.status["startTime"]
    assert world.status["ready"] == "2/2"
    assert world.status["placement"] == [{"node": "node-1", "replicas": 2, "gpus": []}]


def test_a_gang_that_is_placed_but_starting_is_admitted_and_says_what_it_waits_for(world: World) -> None:
    world.accrue()
    world.place()
    for pod in world.pods.values():
        waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
        pod["status"] = {"phase": "Pending", "containerStatuses": [{"name": "main", "state": {"waiting": waiting}}]}
    world.accrue()
    assert (world.status["phase"], world.status["reason"]) == ("Admitted", "ImagePullBackOff")
    assert world.condition("Ready")["status"] == "False"


def test_a_waiting_job_shows_the_dominant_reason_of_its_pods() -> None:
    world = job_world(role("worker", 3))
    world.accrue()
    codes = ["InsufficientGpu", "InsufficientGpu", "QueueLimit"]
    for pod, code in zip(world.pods.values(), codes, strict=True):
        pod["status"] = {"conditions": waits_for(code, f"because of {code}")}
    world.accrue()
    assert world.status["reason"] == "QueueLimit", "it comes first in the list of reasons"
    assert world.status["message"] == "because of QueueLimit (1 of 3 waiting pods)"
    assert world.condition("Admitted") | {"lastTransitionTime": ""} == {
        "type": "Admitted",
        "status": "False",
        "reason": "QueueLimit",
        "message": "because of QueueLimit (1 of 3 waiting pods)",
        "observedGeneration": 1,
        "lastTransitionTime": "",
    }


def test_an_image_that_cannot_be_pulled_is_told_before_a_place_that_is_missing(world: World) -> None:
    world.accrue()
    world.place("train-worker-0")
    waiting = {"reason": "ImagePullBackOff", "message": "no such image"}
    container = {"name": "main", "state": {"waiting": waiting}}
    world.pods["train-worker-0"]["status"] = {"phase": "Pending", "containerStatuses": [container]}
    world.pods["train-worker-1"]["status"] = {"conditions": waits_for("InsufficientGpu")}
    world.accrue()
    assert (world.status["phase"], world.status["reason"]) == ("Pending", "ImagePullBackOff")


def test_half_a_gang_is_completed_when_the_controller_died_in_between(world: World) -> None:
    world.accrue()
    del world.pods["train-worker-1"]
    world.accrue()
    assert world.alive == ["train-worker-0", "train-worker-1"]
    assert world.status["restarts"] == 0


def test_a_refused_creation_is_told_and_tried_again(world: World) -> None:
    world.refuses = lambda action: "exceeded quota" if action.kind == "Pod" else ""
    world.accrue()
    assert (world.status["reason"], world.status["message"]) == ("CreateRefused", "exceeded quota")
    assert world.condition("Stalled")["status"] == "True"
    world.refuses = lambda _: ""
    world.accrue()
    assert world.alive == ["train-worker-0", "train-worker-1"]
    assert world.condition("Stalled")["status"] == "False"


def test_gpus_for_an_unknown_container_stall_the_job_with_a_sentence() -> None:
    world = job_world(role("worker", gpus={"count": 1, "container": "gpu"}))
    world.accrue()
    assert world.pods == {}
    assert world.status["reason"] == "InvalidSpec"
    assert "spec.roles[0]: gpus.container: 'gpu'" in world.status["message"]


# Devices that fail.


def test_a_gpu_that_fails_under_a_running_job_is_in_its_status_until_it_is_well_again(world: World) -> None:
    world.start()
    assert "GpusHealthy" not in {item["type"] for item in world.status["conditions"]}
    world.failures["train-worker-1"] = "GPU 3 (GPU-c) of node-1 is unhealthy: XID 79"
    world.accrue()
    sentence = "pod train-worker-1: GPU 3 (GPU-c) of node-1 is unhealthy: XID 79"
    assert (world.status["phase"], world.status["reason"], world.status["message"]) == (
        "Running",
        "GpuUnhealthy",
        sentence,
    )
    told = world.condition("GpusHealthy")
    assert (told["status"], told["reason"], told["message"]) == ("False", "GpuUnhealthy", sentence)
    assert [(one.reason, one.note, one.warning) for one in world.told][-1] == ("GpuUnhealthy", sentence, True)
    assert world.condition("Ready")["status"] == "True", "it goes on for as long as it can"

    count = len(world.told)
    world.failures.clear()
    world.accrue()
    assert (world.status["reason"], world.condition("GpusHealthy")["status"]) == ("Running", "True")
    assert len(world.told) == count


def test_a_job_that_was_evicted_from_a_failed_gpu_says_so(world: World) -> None:
    world.start()
    world.failures["train-worker-1"] = "GPU 3 (GPU-c) of node-1 is unhealthy: XID 79"
    world.accrue()
    world.pods["train-worker-1"]["metadata"]["deletionTimestamp"] = rfc3339(world.now)
    world.round()
    assert (world.status["phase"], world.status["reason"]) == ("Restarting", "PodsDisrupted")
    assert world.status["message"] == (
        "replicas were lost: train-worker-1 (GPU 3 (GPU-c) of node-1 is unhealthy: XID 79)"
    )


# Ending.


def test_the_job_is_complete_when_every_worker_has_succeeded(world: World) -> None:
    world.start()
    world.finish("train-worker-0")
    world.accrue()
    assert world.status["phase"] == "Running"
    world.finish("train-worker-1")
    world.accrue()
    assert world.status["phase"] == "Complete"
    assert world.condition("Complete")["status"] == "True"
    assert world.status["completionTime"]
    assert sorted(world.pods) == ["train-worker-0", "train-worker-1"], "what has ended is kept by default"


@pytest.mark.parametrize("leader", ["master", "chief", "launcher"])
def test_the_leading_role_decides_the_end_and_the_others_are_stopped(leader: str) -> None:
    world = job_world(role(leader), role("worker", 2))
    world.start()
    world.finish(f"train-{leader}-0")
    world.accrue()
    assert world.status["phase"] == "Complete"
    assert world.alive == []


def test_parameter_servers_are_not_waited_for() -> None:
    world = job_world(role("worker"), role("ps"), framework="tensorflow")
    world.start()
    world.finish("train-worker-0")
    world.accrue()
    assert world.status["phase"] == "Complete"


@pytest.mark.parametrize(("policy", "left"), [("None", 2), ("Running", 1), ("All", 0)])
def test_clean_pod_policy_says_what_stays_at_the_end(policy: str, left: int) -> None:
    world = job_world(role("master"), role("worker"), runPolicy={"cleanPodPolicy": policy})
    world.start()
    world.finish("train-master-0")
    world.accrue()
    assert len(world.pods) == left
    assert [counts["succeeded"] for counts in world.status["roles"]] == [1, 0]


def test_an_ended_job_is_deleted_when_its_time_is_over() -> None:
    world = job_world(role("main"), runPolicy={"ttlAfterFinished": "1h"})
    world.start()
    world.finish("train-main-0")
    world.accrue()
    assert [action for action in world.reconcile() if isinstance(action, Requeue)] == [Requeue(3600.0)]
    world.pass_seconds(3600)
    assert [type(action) for action in world.round()] == [Delete]
    assert world.deleted


def test_a_job_past_its_deadline_has_failed_and_holds_nothing() -> None:
    world = job_world(runPolicy={"activeDeadline": "10m"})
    world.start()
    world.pass_seconds(599)
    world.accrue()
    assert world.status["phase"] == "Running"
    world.pass_seconds(1)
    world.accrue()
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "DeadlineExceeded")
    assert world.alive == []


# Failing and starting again.


def test_one_failure_restarts_the_whole_gang_once(world: World) -> None:
    world.start()
    before = {name: pod["metadata"]["uid"] for name, pod in world.pods.items()}
    world.finish("train-worker-1", code=1)
    world.round()
    assert world.status["restarts"] == 1
    assert world.status["phase"] == "Restarting"
    assert "deletionTimestamp" in world.pods["train-worker-0"]["metadata"], "it holds a GPU for nothing"
    world.reap()
    assert list(world.pods) == ["train-worker-1"], "the failed one can be looked at until the pause is over"
    world.accrue()
    assert world.status["restarts"] == 1, "however often it is seen"
    world.pass_seconds(pause_before(1))
    world.start()
    assert world.status["phase"] == "Running"
    after = {name: pod["metadata"]["uid"] for name, pod in world.pods.items()}
    assert set(before) == set(after)
    assert not set(before.values()) & set(after.values())


def test_no_new_pod_is_created_while_an_old_one_is_there(world: World) -> None:
    world.start()
    world.finish("train-worker-1", code=1)
    world.pass_seconds(60)
    for _ in range(4):
        world.round()  # nothing is reaped: the old pods are terminating
    assert all("deletionTimestamp" in pod["metadata"] for pod in world.pods.values())
    assert world.created == 2
    world.reap()
    world.accrue()
    assert world.created == 4


def test_a_free_name_is_not_taken_while_another_member_of_the_old_gang_is_there(world: World) -> None:
    world.start()
    world.finish("train-worker-1", code=1)
    world.pass_seconds(60)
    world.round()
    world.round()
    del world.pods["train-worker-0"]
    for _ in range(3):
        world.round()
    assert list(world.pods) == ["train-worker-1"]
    world.reap()
    world.accrue()
    assert world.created == 4


def test_the_pause_before_a_restart_doubles_up_to_five_minutes() -> None:
    assert [pause_before(attempt) for attempt in (0, 1, 2, 3, 9, 50)] == [0, 1, 2, 4, 256, 300]


def test_after_the_backoff_limit_the_job_has_failed() -> None:
    world = job_world(role("main"), runPolicy={"backoffLimit": 2})
    for restarts in (1, 2):
        world.start()
        world.finish("train-main-0", code=1)
        world.accrue()
        assert world.status["restarts"] == restarts
        world.pass_seconds(300)
    world.start()
    world.finish("train-main-0", code=1)
    world.accrue()
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "BackoffLimitExceeded")
    assert world.condition("Failed")["status"] == "True"
    assert "exit code 1, after 2 of 2 restarts" in world.status["message"]


@pytest.mark.parametrize(
    ("action", "phase", "restarts", "uncounted"),
    [
        ("Fail", "Failed", 0, 0),
        ("Restart", "Restarting", 1, 0),
        ("RestartUncounted", "Restarting", 0, 1),
        ("Succeed", "Complete", 0, 0),
    ],
)
def test_exit_code_rules_decide_what_follows(action: str, phase: str, restarts: int, uncounted: int) -> None:
    rules = [{"range": {"first": 40, "last": 50}, "action": action}, {"codes": [42], "action": "Fail"}]
    world = job_world(role("main"), exitCodeRules=rules)
    world.start()
    world.finish("train-main-0", code=42)
    world.accrue()
    assert world.status["phase"] == phase
    assert (world.status["restarts"], world.status["uncountedRestarts"]) == (restarts, uncounted)


def test_a_rule_for_one_role_says_nothing_about_another() -> None:
    rules = [{"codes": [3], "action": "Fail", "roles": ["master"]}]
    world = job_world(role("master"), role("worker"), exitCodeRules=rules)
    world.start()
    world.finish("train-worker-0", code=3)
    world.accrue()
    assert world.status["phase"] == "Restarting"


@pytest.mark.parametrize("reason", ["Evicted", "NodeLost", "UnexpectedAdmissionError"])
def test_what_the_cluster_does_to_a_pod_is_not_counted_against_the_job(world: World, reason: str) -> None:
    world.start()
    world.finish("train-worker-0", reason=reason)
    world.accrue()
    assert (world.status["restarts"], world.status["uncountedRestarts"]) == (0, 1)


def test_a_running_gang_that_loses_a_pod_starts_again_uncounted(world: World) -> None:
    world.start()
    del world.pods["train-worker-0"]
    world.accrue()
    assert world.status["uncountedRestarts"] == 1
    assert world.status["reason"] == "CreatingPods" or world.status["phase"] == "Pending"
    world.start()
    assert world.status["phase"] == "Running"


def test_a_loss_is_confirmed_by_the_server_before_anything_is_stopped(world: World) -> None:
    world.start()
    gone = world.pods.pop("train-worker-0")
    assert world.reconcile() == (Confirm(),), "the local copy may only be late"
    world.pods["train-worker-0"] = gone
    world.accrue()
    assert world.status["uncountedRestarts"] == 0


# Suspending.


def test_a_suspended_job_gives_everything_back_and_goes_on_when_resumed(world: World) -> None:
    world.start()
    world.edit(runPolicy={"suspend": True})
    world.accrue()
    assert world.pods == {}
    assert world.status["phase"] == "Suspended"
    assert world.condition("Suspended")["status"] == "True"
    assert "held" not in world.status
    assert not world.status.get("placement"), "it is nowhere"
    world.edit(runPolicy={"suspend": False})
    world.start()
    assert world.status["phase"] == "Running"
    assert world.condition("Suspended")["status"] == "False"
    assert (world.status["restarts"], world.status["uncountedRestarts"]) == (0, 1), "the start after it"


@pytest.mark.parametrize(
    ("init", "beside", "held"),
    [
        ([], [], "1"),
        ([("4", "")], [], "4"),
        ([("2", "Always")], [], "3"),
        ([("2", "Always"), ("3", "")], [], "5"),
        ([], ["2"], "3"),
    ],
)
def test_a_job_is_charged_with_all_that_its_pods_hold(
    init: list[tuple[str, str]], beside: list[str], held: str
) -> None:
    def container(name: str, gpus: str, **more: str) -> dict[str, Any]:
        return {"name": name, "image": "registry.test/x:1", "resources": {"limits": {"nvidia.com/gpu": gpus}}, **more}

    made = role("worker", 1, gpus={"count": 1, "container": "main"})
    spec = made["template"]["spec"]
    spec["containers"] += [container(f"beside-{index}", gpus) for index, gpus in enumerate(beside)]
    spec["initContainers"] = [
        container(f"init-{index}", gpus, **({"restartPolicy": policy} if policy else {}))
        for index, (gpus, policy) in enumerate(init)
    ]
    world = job_world(made)
    world.start()
    assert (world.status["held"]["gpu"], world.status["gpus"]) == (held, held)


def test_pods_that_are_left_of_a_suspended_gang_are_not_joined_by_new_ones() -> None:
    """The holder of the Lease loses it in the middle of the deletions, and the job is resumed before another leads."""
    world = job_world(role("worker", 3, gpus={"count": 1}))
    world.start()
    world.edit(runPolicy={"suspend": True})
    actions = list(world.reconcile(fresh=True))
    first = next(action for action in actions if isinstance(action, Delete))
    for action in (*(one for one in actions if isinstance(one, SetStatus)), first):
        world.apply(action)
    old = {pod["metadata"]["uid"] for pod in world.pods.values()}
    world.edit(runPolicy={"suspend": False})
    world.reap()
    world.round()
    assert (world.status["phase"], world.status["reason"]) == ("Pending", "CreatingPods")
    world.reap()
    world.start()
    assert old.isdisjoint({pod["metadata"]["uid"] for pod in world.pods.values()})
    assert {pod["metadata"]["annotations"][names.ATTEMPT] for pod in world.pods.values()} == {"1"}
    status = world.status
    assert (status["phase"], status["restarts"], status["uncountedRestarts"]) == ("Running", 0, 1)


def test_a_job_that_an_earlier_version_has_resumed_is_not_resumed_again() -> None:
    """Which does not know ``suspendedAttempt``, and makes the pods of the same attempt."""
    world = job_world()
    world.start()
    world.edit(runPolicy={"suspend": True})
    world.accrue()
    world.edit(runPolicy={"suspend": False})
    assert world.status["suspendedAttempt"] == 0
    suspended = world.condition("Suspended")
    del world.status["suspendedAttempt"]
    world.raw["status"]["conditions"] = [one for one in world.status["conditions"] if one is not suspended]
    world.start()
    world.raw["status"]["suspendedAttempt"], pods = 0, dict(world.pods)
    world.accrue()
    assert (world.pods.keys(), world.status["phase"]) == (pods.keys(), "Running")


def test_an_attempt_that_nobody_has_written_does_not_make_pods_for_ever(world: World) -> None:
    world.start()
    world.pods["train-worker-0"]["metadata"]["annotations"][names.ATTEMPT] = "999999"
    for _ in range(20):
        world.round()
        world.reap()
        world.place()
        world.run()
        world.pass_seconds(30)
    assert (world.status["phase"], world.created <= 6) == ("Running", True)


def test_a_job_that_succeeded_in_time_is_complete_however_late_that_is_seen() -> None:
    world = job_world(runPolicy={"activeDeadline": "1h"})
    world.start()
    world.pass_seconds(1800)
    world.finish(*world.pods)
    world.pass_seconds(7200)
    world.accrue()
    assert world.status["phase"] == "Complete"


def test_a_job_that_succeeded_after_its_deadline_has_failed() -> None:
    world = job_world(runPolicy={"activeDeadline": "1h"})
    world.start()
    world.pass_seconds(3700)
    world.finish(*world.pods)
    world.accrue()
    assert (world.status["phase"], world.status["reason"]) == ("Failed", "DeadlineExceeded")


@pytest.mark.parametrize("attempt", ["9" * 5000, "9" * 30, str(2**63 - 1), "٣"])
@pytest.mark.parametrize("note", [names.ATTEMPT, names.GANG_MIN])
def test_a_number_that_nobody_can_have_written_on_a_pod_is_none(attempt: str, note: str, world: World) -> None:
    """Whoever may edit pods could else have the job hold its GPUs for ever, or exceed what the status can hold."""
    world.start()
    world.pods["train-worker-0"]["metadata"]["annotations"][note] = attempt
    world.accrue()
    world.edit(runPolicy={"suspend": True})
    world.accrue()
    assert (world.status["phase"], world.pods) == ("Suspended", {})


def test_a_job_that_has_ended_is_complete_also_when_it_is_suspended_before_anybody_has_looked(world: World) -> None:
    world.start()
    world.finish(*world.pods)
    world.edit(runPolicy={"suspend": True})
    world.accrue()
    world.edit(runPolicy={"suspend": False})
    world.accrue()
    assert (world.status["phase"], world.created) == ("Complete", 2)


def test_a_job_whose_pods_end_before_they_can_be_deleted_is_complete(world: World) -> None:
    world.start()
    world.edit(runPolicy={"suspend": True})
    for action in world.reconcile(fresh=True):
        if not isinstance(action, Delete):  # refused: the pods have changed since
            world.apply(action)
    assert world.status["phase"] == "Suspended"
    world.finish(*world.pods)
    world.accrue()
    assert (world.status["phase"], world.created) == ("Complete", 2)


def test_what_has_ended_of_a_suspended_job_is_kept_until_no_other_can_end(world: World) -> None:
    """Its last pod may succeed before it can be deleted, and then the first one is what shows that all have."""
    world.start()
    world.edit(runPolicy={"suspend": True})
    world.finish("train-worker-0")
    for action in world.reconcile(fresh=True):
        if not isinstance(action, Delete):  # refused: the pod has changed since
            world.apply(action)
    deleted = {action.ref.name for action in world.reconcile(fresh=True) if isinstance(action, Delete)}
    assert deleted == {"train-worker-1"}
    world.finish("train-worker-1")
    world.accrue()
    assert (world.status["phase"], world.created) == ("Complete", 2)


def test_an_elastic_job_of_which_a_suspension_has_deleted_workers_is_not_complete() -> None:
    world = job_world(role("worker"), elastic=elastic(3))
    world.start()
    world.edit(runPolicy={"suspend": True})
    for action in world.reconcile(fresh=True):
        if not (isinstance(action, Delete) and action.ref.name == "train-worker-0"):
            world.apply(action)
    world.finish("train-worker-0")
    world.reap()
    world.accrue()
    assert (world.status["phase"], world.pods) == ("Suspended", {})
    world.edit(runPolicy={"suspend": False})
    world.start()
    assert (world.status["phase"], len(world.pods)) == ("Running", 3)


@pytest.mark.parametrize(("later", "phase"), [(5, "Complete"), (-5, "Failed"), (0, "Failed")])
def test_whether_a_job_was_complete_before_a_pod_failed_for_good_hangs_on_their_ends(later: int, phase: str) -> None:
    """And not on when they are seen: here both at once."""
    rules = [{"codes": [3], "action": "Fail"}]
    world = job_world(role("master"), role("worker"), exitCodeRules=rules)
    world.start()
    first, second = ("train-master-0", "train-worker-0") if later >= 0 else ("train-worker-0", "train-master-0")
    world.finish(first, code=0 if first == "train-master-0" else 3)
    world.pass_seconds(abs(later))
    world.finish(second, code=0 if second == "train-master-0" else 3)
    world.accrue()
    assert world.status["phase"] == phase


def test_a_resumed_job_is_looked_at_as_the_server_has_it(world: World) -> None:
    """A late copy may show a gang as whole of which the suspension has deleted pods."""
    world.start()
    world.edit(runPolicy={"suspend": True})
    for action in world.reconcile(fresh=True):
        if isinstance(action, SetStatus):
            world.apply(action)
    world.edit(runPolicy={"suspend": False})
    assert world.reconcile() == (Confirm(),)
    world.accrue()
    status = world.status
    assert (status["phase"], status["uncountedRestarts"], status.get("suspendedAttempt")) == ("Running", 0, None)


def test_pods_that_fail_because_a_suspension_has_deleted_their_peers_fail_no_job() -> None:
    world = job_world(role("worker", 3), runPolicy={"backoffLimit": 0})
    world.start()
    world.edit(runPolicy={"backoffLimit": 0, "suspend": True})
    for action in world.reconcile(fresh=True):
        if not (isinstance(action, Delete) and action.ref.name != "train-worker-0"):
            world.apply(action)
    world.finish("train-worker-1", code=1)
    world.reap()
    world.accrue()
    assert (world.status["phase"], world.pods) == ("Suspended", {})
    world.edit(runPolicy={"backoffLimit": 0, "suspend": False})
    world.start()
    assert (world.status["phase"], world.status["restarts"]) == ("Running", 0)


def test_suspensions_are_no_failures_that_the_next_start_waits_for(world: World) -> None:
    world.start()
    for _ in range(9):
        world.edit(runPolicy={"suspend": True})
        world.accrue()
        world.edit(runPolicy={"suspend": False})
        world.start()
    assert (world.status["uncountedRestarts"], world.status["resumes"]) == (9, 9)
    world.finish("train-worker-0", code=1)
    (pause,) = (action for action in world.reconcile(fresh=True) if isinstance(action, Requeue))
    assert pause.seconds == 1.0


@pytest.mark.parametrize("suspended", [False, True])
def test_an_elastic_job_is_complete_without_a_replica_that_never_had_a_place(suspended: bool) -> None:
    world = job_world(role("worker"), elastic=elastic(3))
    world.accrue()
    world.place("train-worker-0", "train-worker-1")
    world.run("train-worker-0", "train-worker-1")
    world.accrue()
    world.edit(runPolicy={"suspend": suspended})
    world.finish("train-worker-0", "train-worker-1")
    world.accrue()
    assert (world.status["phase"], world.created) == ("Complete", 3)


def test_an_elastic_job_that_a_suspension_has_not_touched_goes_on_with_fewer_replicas() -> None:
    world = job_world(role("worker"), elastic=elastic(3))
    world.start()
    world.edit(runPolicy={"suspend": True})
    for action in world.reconcile(fresh=True):
        if isinstance(action, SetStatus):
            world.apply(action)
    world.edit(runPolicy={"suspend": False}, elastic=elastic(2))
    world.accrue()
    world.start()
    assert (world.status["phase"], world.status["uncountedRestarts"]) == ("Running", 0)
    assert sorted(world.pods) == ["train-worker-0", "train-worker-1"]


def test_what_failed_for_good_counts_where_nobody_knows_when_the_others_ended() -> None:
    rules = [{"codes": [3], "action": "Fail"}]
    world = job_world(role("master"), role("worker"), exitCodeRules=rules)
    world.start()
    world.pass_seconds(100)
    world.finish("train-worker-0", code=3)
    world.pods["train-master-0"]["status"] = {"phase": "Succeeded"}
    world.accrue()
    assert world.status["phase"] == "Failed"


def test_a_job_of_which_a_replica_came_later_is_complete_in_time() -> None:
    world = job_world(role("worker"), elastic=elastic(3), runPolicy={"activeDeadline": "250s"})
    world.start()
    world.pass_seconds(100)
    world.finish("train-worker-0")
    world.pods["train-worker-2"]["metadata"]["creationTimestamp"] = rfc3339(world.now + 20)
    world.pass_seconds(100)
    world.finish("train-worker-1", "train-worker-2")
    world.pass_seconds(100)
    world.accrue()
    assert world.status["phase"] == "Complete"


def test_pods_are_deleted_as_they_were_judged(world: World) -> None:
    world.start()
    for pod in world.pods.values():
        pod["metadata"]["resourceVersion"] = "17"
    world.edit(runPolicy={"suspend": True})
    deletions = [action for action in world.reconcile(fresh=True) if isinstance(action, Delete)]
    assert [action.resource_version for action in deletions] == ["17", "17"]


def test_a_job_can_be_created_suspended() -> None:
    world = job_world(runPolicy={"suspend": True})
    world.accrue()
    assert world.pods == {}
    assert world.phases == ["Suspended"]


def test_resuming_waits_for_pods_that_are_still_going(world: World) -> None:
    world.start()
    world.edit(runPolicy={"suspend": True})
    world.round()
    world.edit(runPolicy={"suspend": False})
    for _ in range(3):
        world.round()
    assert world.created == 2
    world.reap()
    world.accrue()
    assert world.created == 4


# Changing size.


def elastic(replicas: int) -> dict[str, Any]:
    return {"role": "worker", "replicas": replicas, "minReplicas": 2, "maxReplicas": 4}


def test_an_elastic_job_grows_and_shrinks_without_a_restart() -> None:
    world = job_world(role("worker"), elastic=elastic(2))
    world.start()
    world.edit(elastic=elastic(4))
    world.start()
    assert len(world.alive) == 4
    world.edit(elastic=elastic(3))
    world.accrue()
    assert world.alive == ["train-worker-0", "train-worker-1", "train-worker-2"]
    assert world.status["replicas"] == 3
    assert world.status["selector"] == "scheduling.example.com/job=train,scheduling.example.com/role=worker"
    assert world.phases[-1] == "Running"
    assert world.status["uncountedRestarts"] == 0


def test_an_elastic_job_runs_on_above_its_minimum_and_stops_below_it() -> None:
    world = job_world(role("worker"), elastic=elastic(3))
    world.start()
    del world.pods["train-worker-2"]
    world.accrue()
    assert world.status["phase"] == "Running"
    assert world.condition("Ready")["message"] == "2 of 3 replicas are running"
    assert world.condition("Admitted")["message"] == "as many replicas are bound as the job needs"
    assert len(world.alive) == 3, "the lost one is replaced"
    del world.pods["train-worker-0"], world.pods["train-worker-1"]
    world.accrue()
    assert world.status["uncountedRestarts"] == 1


def test_another_size_of_a_fixed_role_starts_the_gang_again(world: World) -> None:
    world.start()
    world.edit(roles=[role("worker", 3, gpus={"count": 1})])
    world.accrue()
    world.start()
    assert len(world.alive) == 3
    assert world.status["uncountedRestarts"] == 1
    sizes = {
        entry["value"]
        for pod in world.pods.values()
        for entry in pod["spec"]["containers"][0]["env"]
        if entry["name"] == "WORLD_SIZE"
    }
    assert sizes == {"3"}


def test_a_gang_that_has_not_run_yet_is_made_anew_in_another_size(world: World) -> None:
    world.accrue()
    world.edit(roles=[role("worker", 3, gpus={"count": 1})])
    world.start()
    assert len(world.alive) == 3
    assert world.status["uncountedRestarts"] == 0


# Counting.


def test_gpu_seconds_count_from_binding_to_end(world: World) -> None:
    world.accrue()
    world.pass_seconds(100)
    world.accrue()
    assert world.status["gpuSeconds"] == 0, "it waited"
    world.place()
    world.accrue()
    assert world.status["held"]["gpu"] == "2"
    world.pass_seconds(10)
    world.run()
    world.accrue()
    world.pass_seconds(90)
    world.finish("train-worker-0")
    world.accrue()
    assert world.status["gpuSeconds"] == 200
    world.pass_seconds(50)
    world.finish("train-worker-1")
    world.accrue()
    assert world.status["gpuSeconds"] == 250
    world.pass_seconds(1000)
    world.accrue()
    assert world.status["gpuSeconds"] == 250
    assert "held" not in world.status


def test_what_has_ended_while_nobody_looked_is_charged_until_its_end(world: World) -> None:
    world.start()
    world.pass_seconds(10)
    world.finish("train-worker-0")
    world.pass_seconds(20)
    world.finish("train-worker-1")
    world.pass_seconds(2 * 86_400)
    world.accrue()
    assert world.status["phase"] == "Complete"
    assert world.status["gpuSeconds"] == 10 + 30


def test_what_has_come_while_nobody_looked_is_charged_from_its_binding(world: World) -> None:
    world.accrue()
    world.place()
    for pod in world.pods.values():
        pod["status"] = {"phase": "Pending", "conditions": [condition("PodScheduled", "True", when=world.now)]}
    world.accrue()
    world.pass_seconds(600)
    world.run()
    world.finish("train-worker-0", code=1)
    world.accrue()
    world.pass_seconds(pause_before(1))
    world.accrue()
    before = world.status["gpuSeconds"]
    world.place()
    for pod in world.pods.values():
        pod["status"] = {"phase": "Pending", "conditions": [condition("PodScheduled", "True", when=world.now)]}
    world.pass_seconds(3600)
    world.accrue()
    assert world.status["gpuSeconds"] == before + 2 * 3600


def test_a_long_run_is_accounted_in_between_but_not_at_each_look(world: World) -> None:
    world.start()
    world.pass_seconds(59)
    assert world.round() == []
    world.pass_seconds(1)
    assert len(world.round()) == 1
    assert world.status["gpuSeconds"] == 120


def test_small_shares_are_accounted_rarely_and_exactly() -> None:
    world = job_world(role("main", gpus={"share": 1}))
    world.start()
    for _ in range(120):
        world.pass_seconds(60)
        world.accrue()
    world.finish("train-main-0")
    world.accrue()
    assert world.status["gpuSeconds"] == 72, "two hours of one hundredth"


def test_the_gpus_asked_for_are_shown_for_people() -> None:
    world = job_world(role("master", gpus={"count": 8}), role("worker", 2, gpus={"share": 50}))
    world.accrue()
    assert world.status["gpus"] == "9"


def test_each_new_phase_is_told_once(world: World) -> None:
    world.start()
    world.finish("train-worker-0", code=1)
    world.accrue()
    reasons = [tell.reason for tell in world.told]
    assert reasons.count("Running") == reasons.count("Restarting") == 1
    assert [tell.warning for tell in world.told if tell.reason == "Restarting"] == [True]


def test_nothing_is_done_for_a_job_that_is_being_deleted(world: World) -> None:
    world.raw["metadata"]["deletionTimestamp"] = "2027-01-15T08:00:00Z"
    assert world.reconcile() == ()


# A status that is lost, or that another version has written.


@pytest.mark.parametrize("phase", [None, "Pending", "Suspended"])
def test_a_phase_is_for_people_and_nothing_is_decided_from_it(world: World, phase: str | None) -> None:
    world.start()
    world.status["phase"] = phase
    world.accrue()
    assert (world.status["phase"], world.status["restarts"], world.created) == ("Running", 0, 2)
    del world.pods["train-worker-1"]
    world.status["phase"] = phase
    world.start()
    assert (world.status["phase"], world.status["uncountedRestarts"]) == ("Running", 1)
    world.finish(*world.pods)
    world.accrue()
    world.status["phase"] = phase
    world.status["conditions"] = ["by another version"]
    world.round()
    assert world.created == 4, "what has ended is not run again"


def test_a_gang_that_has_ended_unseen_is_complete_whatever_it_is_resized_to(world: World) -> None:
    world.accrue()
    world.place()
    world.accrue()
    world.finish(*world.pods)
    world.edit(roles=[role("worker", 1, gpus={"count": 1})])
    world.accrue()
    assert (world.status["phase"], world.created) == ("Complete", 2)


@pytest.mark.parametrize("field", ["restarts", "startedAttempt", "completionTime", "held"])
def test_nothing_is_done_for_a_job_whose_memory_cannot_be_read(world: World, field: str) -> None:
    world.start()
    before, there = sorted(world.alive), world.status.get(field)
    world.status[field] = ["by", "another", "version"]
    written = world.round()
    assert [type(action) for action in written] == [SetStatus]
    assert world.condition("Stalled")["reason"] == "StatusUnreadable"
    assert f"status.{field}: \"['by', 'another', 'version']\" cannot be read" in world.condition("Stalled")["message"]
    assert world.status[field] == ["by", "another", "version"], "what is stored stays"
    assert [tell.reason for tell in world.told[-1:]] == ["StatusUnreadable"]
    world.finish("train-worker-0", code=1)
    assert world.round() == []
    assert sorted(world.pods) == before
    world.pods["train-worker-0"]["status"] = {"phase": "Running"}
    world.status.pop(field)
    world.status.update({field: there} if there is not None else {})
    world.accrue()
    assert world.condition("Ready")["status"] == "True"


def test_what_is_counted_afresh_anyway_may_be_unreadable(world: World) -> None:
    world.start()
    world.status["roles"] = "many"
    world.accrue()
    assert world.status["roles"][0]["running"] == 2
    assert world.condition("Stalled")["status"] == "False"


def test_pods_of_a_job_whose_status_is_lost_run_on_whatever_their_attempt(world: World) -> None:
    world.start()
    world.finish("train-worker-0", code=1)
    world.accrue()
    world.pass_seconds(pause_before(1))
    world.start()
    created = world.created
    assert world.status["restarts"] == 1
    world.raw["status"] = {}
    world.accrue()
    assert (world.status["phase"], world.created) == ("Running", created)
    assert (world.status["restarts"], world.status["uncountedRestarts"]) == (0, 1)


def test_a_job_that_has_run_and_comes_back_without_its_status_and_pods_is_not_run_again_before_somebody_says_so() -> (
    None
):
    world = job_world(runPolicy={"cleanPodPolicy": "All"})
    world.start()
    world.finish("train-worker-0", "train-worker-1")
    world.accrue()
    assert (world.status["phase"], world.pods) == ("Complete", {})
    world.raw["status"] = {}
    created = world.created
    world.accrue()
    assert world.created == created
    stalled = world.condition("Stalled")
    assert (stalled["status"], stalled["reason"]) == ("True", "StatusLost")
    assert "kubectl annotate trainingjob/train scheduling.example.com/started-" in stalled["message"]
    del world.raw["metadata"]["annotations"]["scheduling.example.com/started"]
    world.accrue()
    assert sorted(world.pods) == ["train-worker-0", "train-worker-1"]


def test_a_suspended_job_that_has_never_begun_is_not_marked_as_begun() -> None:
    world = job_world(runPolicy={"suspend": True})
    world.accrue()
    world.raw["status"] = {}
    world.edit(runPolicy={"suspend": False})
    world.accrue()
    assert sorted(world.pods) == ["train-worker-0", "train-worker-1"]


def test_a_job_that_failed_is_asked_about_too_and_one_that_ended_before_the_mark_is_marked() -> None:
    world = job_world(runPolicy={"backoffLimit": 0})
    world.start()
    world.finish("train-worker-0", code=1)
    world.accrue()
    assert world.status["phase"] == "Failed"
    del world.raw["metadata"]["annotations"]["scheduling.example.com/started"]
    world.accrue()
    assert "scheduling.example.com/started" in world.raw["metadata"]["annotations"]
    world.pods = {name: pod for name, pod in world.pods.items() if pod["status"]["phase"] == "Failed"}
    world.raw["status"], created = {}, world.created
    world.accrue()
    assert (world.condition("Stalled")["reason"], world.created) == ("StatusLost", created)


def test_a_time_that_is_none_is_not_taken_for_the_beginning_of_time(world: World) -> None:
    world.start()
    world.edit(runPolicy={"activeDeadline": "30d"})
    world.accrue()
    world.status["startTime"] = "yesterday"
    world.round()
    assert world.condition("Stalled")["reason"] == "StatusUnreadable"
    assert sorted(world.alive) == ["train-worker-0", "train-worker-1"]


def test_a_gang_that_ran_before_an_upgrade_is_restarted_when_it_loses_a_member() -> None:
    """A status of an earlier version, or one that the stored definition prunes, has no ``startedAttempt``."""
    world = job_world(role("worker", 3))
    world.start()
    first = {pod["metadata"]["uid"] for pod in world.pods.values()}
    del world.raw["status"]["startedAttempt"], world.pods["train-worker-1"]
    for _ in range(8):
        world.accrue()
        world.pass_seconds(5)
    assert (len(world.alive), world.status["uncountedRestarts"]) == (3, 1)
    assert not first & {pod["metadata"]["uid"] for pod in world.pods.values()}


def test_a_job_that_is_resumed_while_its_pods_still_leave_has_lost_none() -> None:
    world = job_world()
    world.start()
    world.edit(runPolicy={"suspend": True})
    world.round()
    assert all("deletionTimestamp" in pod["metadata"] for pod in world.pods.values())
    world.edit(runPolicy={"suspend": False})
    for _ in range(6):
        world.round()
        world.pass_seconds(5)
    assert (world.status["restarts"], world.status["uncountedRestarts"]) == (0, 1), "the start after it"


def test_a_job_without_a_status_of_which_a_pod_has_been_collected_is_asked_about() -> None:
    world = job_world(role("worker", 3))
    world.start()
    world.finish("train-worker-0", "train-worker-1", "train-worker-2")
    world.accrue(reap=False)
    assert world.status["phase"] == "Complete"
    del world.pods["train-worker-1"]
    world.raw["status"], created = {}, world.created
    world.accrue()
    assert (world.condition("Stalled")["reason"], world.created) == ("StatusLost", created)
