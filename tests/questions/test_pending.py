"""`tangram explain` without a name: everything that is pending, a line and one reason for each workload."""

import json
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from tests.worlds import START, bound, cluster, gang, leaving, pod, policy, recording

from tangram.api import names
from tangram.api.objects import Condition, OwnerReference, Pod, SchedulingGate
from tangram.cli import explain as verb
from tangram.cli.main import tangram
from tangram.questions.pending import pending, pending_as_reported
from tangram.snapshot.recording import Recording, Stalled, Workload


def of_job(name: str, one: Pod, namespace: str = "default") -> Pod:
    """The pod as a part of a TrainingJob."""
    metadata = msgspec.structs.replace(
        one.metadata, namespace=namespace, labels={**one.metadata.labels, names.JOB: name}
    )
    return msgspec.structs.replace(one, metadata=metadata)


def reasons(world: Recording, namespace: str = "default") -> dict[str, str]:
    return {f"{one.kind}/{one.name}": one.reason for one in pending(world, namespace).workloads}


def test_each_workload_has_one_line_with_the_reason_of_its_pods() -> None:
    full = bound(pod("full", whole=2), "n0", {"main": [("0", 100), ("1", 100)]})
    pods = [
        full,
        *(of_job("train", one) for one in gang("train", 3)),
        pod("alone", whole=9),
        pod("cpu"),
        leaving(pod("leaves", whole=1)),
        pod("foreign", whole=1, scheduler="default-scheduler"),
    ]
    world = recording(START, cluster("1x2xA100"), pods, policy())
    assert reasons(world) == {
        "pod/alone": "ExceedsNodeCapacity",
        "pod/cpu": "Scheduled",
        "trainingjob/train": "Scheduled",
    }
    train = pending(world, "").workloads[-1]
    assert (train.pending, train.pods) == (3, 3)


def of_owner(kind: str, api_version: str, one: Pod) -> Pod:
    """The pod as a part of an object named train."""
    owner = OwnerReference(kind, "train", "uid-train", True, api_version)
    return msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, owner_references=(owner,)))


def test_kinds_of_other_groups_are_workloads_of_their_own() -> None:
    """Also where their names are those of ours, or of what is built in."""
    pods = [
        of_job("train", pod("ours", whole=9)),
        of_owner("TrainingJob", "ml.example.org/v1", pod("theirs", whole=9)),
        of_owner("Job", "batch/v1", pod("built-in", whole=9)),
        of_owner("Job", "batch.volcano.sh/v1alpha1", pod("volcano", whole=9)),
    ]
    world = recording(START, cluster("1x2xA100"), pods, policy())
    assert sorted(reasons(world)) == [
        "job.batch.volcano.sh/train",
        "job/train",
        "trainingjob.ml.example.org/train",
        "trainingjob/train",
    ]


def test_only_the_namespace_is_shown_and_all_with_an_empty_one() -> None:
    pods = [of_job("train", pod("a", whole=9)), of_job("train", pod("b", whole=9), "team")]
    world = recording(START, cluster("1x2xA100"), pods, policy())
    assert [one.namespace for one in pending(world, "team").workloads] == ["team"]
    assert [one.namespace for one in pending(world, "").workloads] == ["default", "team"]


def test_what_does_not_heal_by_itself_is_the_reason() -> None:
    """Of a job whose pods wait for room and of which others are refused."""
    stalled = Stalled("TrainingJob", "default", "train", "CreateRefused", "exceeded quota")
    world = recording(START, cluster("1x2xA100"), [of_job("train", pod("a", whole=9))], policy(), stalled=[stalled])
    assert reasons(world) == {"trainingjob/train": "CreateRefused"}


@pytest.mark.parametrize(
    ("workload", "stalled", "reason"),
    [
        (Workload("TrainingJob", "default", "train"), False, "NotReconciled"),
        (Workload("TrainingJob", "default", "train", "Pending", "CreatingPods"), False, "CreatingPods"),
        (Workload("InferenceService", "default", "chat", "Pending", "ModelMissing"), True, "ModelMissing"),
        (Workload("InferenceService", "default", "chat", "Degraded", "RolloutFailed"), True, "RolloutFailed"),
        (Workload("InferenceService", "default", "chat", "Ready"), False, None),
        (Workload("TrainingJob", "default", "train", "Failed", "InvalidSpec"), True, None),
        (Workload("TrainingJob", "default", "train", "Pending", suspended=True), False, None),
    ],
)
def test_a_workload_without_pending_pods_is_listed_by_its_own_status(
    workload: Workload, stalled: bool, reason: str | None
) -> None:
    why = [Stalled(workload.kind, "default", workload.name, workload.reason, "why")] if stalled else []
    world = recording(START, cluster("1x2xA100"), [], policy(), workloads=[workload], stalled=why)
    assert list(reasons(world).values()) == [reason] * (reason is not None)


def test_a_gated_pod_says_so() -> None:
    one = pod("w", whole=1)
    gated = msgspec.structs.replace(
        one, spec=msgspec.structs.replace(one.spec, scheduling_gates=(SchedulingGate("quota"),))
    )
    assert reasons(recording(START, cluster("1x2xA100"), [gated], policy())) == {"pod/w": "SchedulingGated"}


def test_who_may_not_read_the_cluster_gets_what_has_been_reported() -> None:
    told = Condition("PodScheduled", "False", "Unschedulable", "InsufficientGpu: 0/1 nodes are available")
    one = pod("w", whole=1)
    said = msgspec.structs.replace(one, status=msgspec.structs.replace(one.status, conditions=(told,)))
    found = pending_as_reported(recording(START, (), [said, pod("new")]), "default").workloads
    assert [(line.name, line.reason, line.message) for line in found] == [
        ("new", "WaitingForScheduler", "the scheduler has not reported on the pod yet"),
        ("w", "InsufficientGpu", "0/1 nodes are available"),
    ]


# The command.


def asked(monkeypatch: pytest.MonkeyPatch, world: Recording, *arguments: str) -> Result:
    monkeypatch.setattr(verb, "read_world", lambda *_: (world, "default"))
    return CliRunner().invoke(tangram, ["explain", *arguments])


@pytest.fixture
def world() -> Recording:
    pods = [of_job("train", pod(f"train-{number}", whole=9, age=7200)) for number in range(2)]
    return recording(START, cluster("1x2xA100"), [*pods, pod("huge", whole=9, age=60)], policy())


def test_a_table_is_printed(monkeypatch: pytest.MonkeyPatch, world: Recording) -> None:
    head, first, second = asked(monkeypatch, world).output.splitlines()
    assert head.split() == ["WORKLOAD", "PENDING", "AGE", "REASON", "MESSAGE"]
    assert first.split()[:4] == ["pod/huge", "1/1", "1m", "ExceedsNodeCapacity"]
    assert second.split()[:4] == ["trainingjob/train", "2/2", "2h", "ExceedsNodeCapacity"]
    assert asked(monkeypatch, world, "-A").output.splitlines()[1].split()[0] == "default"


def test_programs_get_the_same(monkeypatch: pytest.MonkeyPatch, world: Recording) -> None:
    items: list[dict[str, Any]] = json.loads(asked(monkeypatch, world, "-o", "json").output)["items"]
    assert [(one["kind"], one["name"], one["pending"]) for one in items] == [
        ("pod", "huge", 1),
        ("trainingjob", "train", 2),
    ]
    named = asked(monkeypatch, world, "-o", "name").output
    assert named == "pod/huge\ntrainingjob.scheduling.example.com/train\n"


def test_that_nothing_is_pending_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    done = asked(monkeypatch, recording(START, cluster("1x2xA100"), []))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "Nothing is pending in namespace default.\n")
