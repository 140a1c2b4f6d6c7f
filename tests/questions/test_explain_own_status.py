"""A TrainingJob or InferenceService without pods is explained by its own status, and names are found by near ones."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from tests.worlds import START, cluster, gang, pod, policy, recording

from tangram.api import names
from tangram.cli import explain as verb
from tangram.cli.main import tangram
from tangram.errors import InvalidInput, Missing
from tangram.snapshot import recording as dump
from tangram.snapshot.recording import Recording, Stalled, Workload

SUSPENDED = "the job is suspended; set spec.runPolicy.suspend to false to go on"
JOB = Workload("TrainingJob", "default", "train", "Suspended", "Suspended", SUSPENDED, suspended=True)
FULL = "trainingjob.scheduling.example.com/train"


def asked(monkeypatch: pytest.MonkeyPatch, world: Recording, *arguments: str) -> Result:
    """What `tangram explain` says of a cluster that is as recorded."""
    monkeypatch.setattr(verb, "read_world", lambda *_: (world, "default"))
    return CliRunner().invoke(tangram, ["explain", *arguments])


def world(*workloads: Workload, pods: Any = (), **more: Any) -> Recording:
    return recording(START, cluster("1x2xA100"), pods, workloads=list(workloads), **more)


@pytest.mark.parametrize("name", ["train", "tj/train", "trainingjob/train"])
def test_a_suspended_job_says_so_and_how_it_goes_on(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    done = asked(monkeypatch, world(JOB), name)
    assert done.output.splitlines() == [
        "trainingjob default/train is suspended",
        f"  {SUSPENDED}",
        "  resume it with: tangram resume train -n default",
        "  it has no pods",
    ]
    answer = json.loads(asked(monkeypatch, world(JOB), name, "-o", "json").output)
    assert (answer["state"], answer["workload"]["reason"], answer["pods"]) == ("suspended", "Suspended", 0)
    assert asked(monkeypatch, world(JOB), name, "-o", "name").output == f"{FULL}\n"
    assert asked(monkeypatch, world(JOB), name, "-o", "jsonpath={.workload.phase}").output == "Suspended"


@pytest.mark.parametrize(
    ("change", "first", "second"),
    [
        (
            {"phase": "Failed", "reason": "BackoffLimitExceeded", "message": "m"},
            "has failed: BackoffLimitExceeded",
            "m",
        ),
        ({"phase": "Complete", "reason": "Complete", "message": "m"}, "is complete", "m"),
        ({"phase": "Pending", "reason": "CreatingPods", "message": "m"}, "is pending: CreatingPods", "m"),
        ({"phase": "Pending", "reason": "QueueNotAllowed", "message": "no"}, "is pending: QueueNotAllowed", "no"),
        ({"phase": "", "reason": "", "message": ""}, "has no status yet", "no controller has reconciled it yet"),
        (
            {"phase": "Running", "reason": "Running", "message": "m", "suspended": True},
            "is being suspended",
            "m",
        ),
    ],
)
def test_a_workload_without_pods_is_explained_by_its_status(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], first: str, second: str
) -> None:
    lines = asked(monkeypatch, world(replace(JOB, **({"suspended": False} | change))), "train").output.splitlines()
    assert lines[0] == f"trainingjob default/train {first}"
    assert lines[1].startswith(f"  {second}")
    assert lines[-1] == "  it has no pods"


def test_a_service_that_is_scaled_to_zero_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    idle = Workload("InferenceService", "default", "chat", "Idle", "ScaledToZero", "scaled to zero")
    done = asked(monkeypatch, world(idle), "infer/chat")
    assert done.output.startswith("inferenceservice default/chat is idle: ScaledToZero\n  scaled to zero\n")
    assert isinstance(asked(monkeypatch, world(idle), "tj/chat").exception, Missing)


def test_a_change_that_is_not_reconciled_yet_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    done = asked(monkeypatch, world(replace(JOB, outdated=True)), "train")
    assert "its spec has been changed since" in done.output


def test_an_ended_job_is_not_explained_by_the_pods_that_are_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    left = pod("train-worker-0", whole=2)
    left = replace(
        left,
        metadata=replace(left.metadata, labels={names.JOB: "train"}),
        spec=replace(left.spec, node_name="n0"),
    )
    ended = replace(JOB, phase="Complete", reason="Complete", message="done", suspended=False)
    done = asked(monkeypatch, world(ended, pods=[left]), "tj/train")
    assert done.output == "trainingjob default/train is complete\n  done\n  1 pod left\n"
    assert asked(monkeypatch, world(ended, pods=[left]), "train-worker-0").output.startswith(
        "pod default/train-worker-0"
    )


def test_a_job_whose_pods_wait_is_explained_by_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pending = replace(JOB, phase="Pending", suspended=False)
    done = asked(monkeypatch, world(pending, pods=gang("train", 2, whole=2)), "train")
    assert done.output.startswith("pod default/train-0 is pending: ")


def test_a_refusal_comes_before_the_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = Stalled("TrainingJob", "default", "train", "CreateRefused", "exceeded quota")
    pending = replace(JOB, phase="Pending", reason="CreateRefused", suspended=False)
    done = asked(monkeypatch, world(pending, stalled=[refused]), "train")
    assert done.output == "trainingjob default/train is stalled: CreateRefused\n  exceeded quota\n  it has no pods\n"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian", 'did you mean "train"?'),
        ("tj/trian", 'did you mean "train"?'),
        ("pod/sevre", 'did you mean "serve"?'),
        ("infer/trian", "or it has no pods; pending pods there: serve"),
        ("trainingjbo/train", 'did you mean "trainingjob" or "trainingjobs"?'),
    ],
)
def test_a_misspelt_name_is_answered_with_the_nearest(monkeypatch: pytest.MonkeyPatch, name: str, hint: str) -> None:
    done = asked(monkeypatch, world(JOB, pods=[pod("serve", whole=4)]), name)
    assert done.exit_code == 1
    assert str(done.exception).endswith(hint)


def test_a_name_is_found_in_whichever_namespace_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    other = replace(JOB, namespace="team", name="far")
    assert asked(monkeypatch, world(JOB, other), "far", "-A").output.startswith("trainingjob team/far is suspended")
    both = asked(monkeypatch, world(JOB, replace(JOB, namespace="team")), "train", "-A")
    assert isinstance(both.exception, InvalidInput)
    assert "default, team" in str(both.exception)
    assert isinstance(asked(monkeypatch, world(JOB), "nope", "-A").exception, Missing)


def test_a_misspelt_queue_or_class_is_answered_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = policy({"name": "online"}, queues=[{"name": "research"}])
    waits = pod("w", whole=4, queue="reserch", klass="onlien")
    done = asked(monkeypatch, recording(START, cluster("1x2xA100"), [waits], chosen), "w")
    assert (
        "the policy has no queue 'reserch' (label scheduling.example.com/queue); did you mean \"research\"?"
        in done.output
    )
    assert 'did you mean "online"?' in done.output


def test_a_file_has_the_state_and_nobody_s_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dump.save(world(replace(JOB, message="secret words")), tmp_path / "w.json")
    assert "secret" not in (tmp_path / "w.json").read_text()
    done = asked(monkeypatch, dump.load(tmp_path / "w.json"), "train")
    assert done.output.startswith("trainingjob default/train is suspended\n  a file has no messages")
