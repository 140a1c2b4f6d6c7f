"""`tangram suspend` and `resume`: one field of a TrainingJob, against the version of it that was judged."""

import json
from typing import Any

import pytest
from tests.cli.conftest import Api

from tangram.api.names import GROUP
from tangram.cluster.paths import TRAINING_JOBS
from tangram.errors import InvalidInput

FULL = f"trainingjob.{GROUP}"


def job(name: str = "train", *, suspend: bool | None = None, phase: str = "Running") -> dict[str, Any]:
    policy = {} if suspend is None else {"runPolicy": {"suspend": suspend}}
    return {"metadata": {"name": name}, "spec": {"framework": "pytorch", **policy}, "status": {"phase": phase}}


@pytest.mark.parametrize(
    "name",
    ["train", "trainingjob/train", "tj/train", f"{FULL}/train", f"trainingjobs.{GROUP}/train", f"TJ.{GROUP}/train"],
)
def test_a_job_is_suspended_and_resumed(api: Api, name: str) -> None:
    path = TRAINING_JOBS.path("train", "default")
    api.put(TRAINING_JOBS, job())
    assert api.run("suspend", name).output == f"{FULL}/train suspended\n"
    assert api.objects[path]["spec"] == {"framework": "pytorch", "runPolicy": {"suspend": True}}
    assert api.run("resume", name).output == f"{FULL}/train resumed\n"
    assert api.objects[path]["spec"]["runPolicy"] == {"suspend": False}
    assert [sent["metadata"] for sent in api.patches] == [
        {"uid": "uid-train", "resourceVersion": "1"},
        {"uid": "uid-train", "resourceVersion": "2"},
    ]


@pytest.mark.parametrize(
    ("verb", "suspended", "says"), [("suspend", True, "already suspended"), ("resume", None, "not suspended")]
)
def test_what_is_so_already_is_left_alone(api: Api, verb: str, suspended: bool | None, says: str) -> None:
    api.put(TRAINING_JOBS, job(suspend=suspended))
    assert api.run(verb, "train").output == f"{FULL}/train unchanged ({says})\n"
    assert not api.patches


def test_a_job_that_others_change_at_the_same_moment_is_judged_again(api: Api) -> None:
    found = api.put(TRAINING_JOBS, job())

    def label() -> None:
        found["metadata"]["labels"] = {"team": "x"}
        api.put(TRAINING_JOBS, found)

    api.before_patch = [label, label]
    assert api.run("suspend", "train").output == f"{FULL}/train suspended\n"
    assert found["metadata"]["labels"] == {"team": "x"}


def test_a_job_that_ends_at_the_same_moment_is_not_suspended(api: Api) -> None:
    found = api.put(TRAINING_JOBS, job())

    def end() -> None:
        found["status"]["phase"] = "Complete"
        api.put(TRAINING_JOBS, found)

    api.before_patch = [end]
    done = api.run("suspend", "train")
    assert (done.exit_code, done.stderr) == (
        1,
        'error: trainingjob "train" has ended (Complete): it cannot be suspended\n',
    )
    assert not api.patches


def test_a_job_that_never_stands_still_is_an_error_after_some_attempts(api: Api) -> None:
    found = api.put(TRAINING_JOBS, job())
    api.before_patch = [lambda: api.put(TRAINING_JOBS, found) and None] * 9
    done = api.run("suspend", "train")
    assert (done.exit_code, done.stderr) == (1, 'error: trainingjob "train": the object has been modified\n')
    assert len(api.before_patch) == 4


def test_one_that_cannot_be_changed_keeps_none_of_the_others_from_it(api: Api) -> None:
    for one in (job("train"), job("done", phase="Failed"), job("held"), job("last")):
        api.put(TRAINING_JOBS, one)
    api.refused[TRAINING_JOBS.path("held", "default")] = (403, "held is not yours")
    done = api.run("suspend", "trian", "train", "done", "held", "last")
    assert done.exit_code == 1
    assert done.stdout == f"{FULL}/train suspended\n{FULL}/last suspended\n"
    assert done.stderr.splitlines() == [
        'error: trainingjob "trian" not found in namespace default; did you mean "train"?',
        'error: trainingjob "done" has ended (Failed): it cannot be suspended',
        "error: held is not yours",
    ]


def test_the_objects_are_answered_as_kubectl_prints_them(api: Api) -> None:
    api.put(TRAINING_JOBS, job("a"))
    api.put(TRAINING_JOBS, job("b"))
    assert json.loads(api.run("suspend", "a", "-o", "json").output)["spec"]["runPolicy"] == {"suspend": True}
    both = json.loads(api.run("suspend", "a", "b", "-o", "json").output)
    assert (both["kind"], [one["metadata"]["name"] for one in both["items"]]) == ("List", ["a", "b"])
    assert api.run("resume", "a", "-o", "name").output == f"{FULL}/a\n"
    assert api.run("resume", "b", "-o", "jsonpath={.spec.runPolicy.suspend}").output == "false"


def test_a_refusal_is_the_server_s_sentence(api: Api) -> None:
    api.put(TRAINING_JOBS, job())
    api.refused[TRAINING_JOBS.path("train", "default")] = (403, 'User "u" cannot get resource "trainingjobs"')
    assert 'User "u" cannot get' in api.run("suspend", "train").stderr


def test_only_training_jobs_can_be_suspended(api: Api) -> None:
    done = api.run("suspend", "inferenceservice/chat")
    assert isinstance(done.exception, InvalidInput)
    assert "trainingjob, which alone can be suspended" in str(done.exception)
    assert 'did you mean "trainingjob"?' in str(api.run("suspend", "traningjob/x").exception)
    assert isinstance(api.run("suspend", "trainingjobs.other.example.com/x").exception, InvalidInput)


@pytest.mark.parametrize("name", ["", " ", "tj/"])
def test_a_name_without_letters_is_wrong_usage(api: Api, name: str) -> None:
    done = api.run("suspend", name)
    assert done.exit_code == 2
    assert f'"{name}" names no TrainingJob; allowed: NAME or trainingjob/NAME' in done.stderr


# Several jobs by their labels, or all.


@pytest.fixture
def several(api: Api) -> Api:
    """Two jobs of the team vision, of which one has ended, one of another team, one of another namespace."""
    for name, team, phase, namespace in (
        ("a", "vision", "Running", ""), ("b", "speech", "Running", ""), ("done", "vision", "Complete", ""),
        ("far", "vision", "Running", "other"),
    ):  # fmt: skip
        one = job(name, phase=phase)
        one["metadata"]["labels"] = {"team": team}
        api.put(TRAINING_JOBS, one, namespace)
    return api


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [(["-l", "team=vision"], ["a"]), (["--all"], ["a", "b"]), (["--all", "-n", "other"], ["far"])],
    ids=["selector", "all", "namespace"],
)
def test_jobs_are_chosen_by_labels_or_all_and_those_that_have_ended_are_left_alone(
    several: Api, chosen: list[str], expected: list[str]
) -> None:
    assert several.run("suspend", *chosen).output == "".join(f"{FULL}/{name} suspended\n" for name in expected)
    assert several.run("resume", *chosen, "-o", "name").output == "".join(f"{FULL}/{name}\n" for name in expected)


def test_that_no_job_is_chosen_is_said(several: Api) -> None:
    done = several.run("suspend", "-l", "team=nobody")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "No TrainingJob that has not ended is chosen.\n")


@pytest.mark.parametrize("given", [[], ["a", "--all"], ["a", "-l", "x=y"], ["--all", "-l", "x=y"]], ids=str)
def test_jobs_are_chosen_in_one_way(several: Api, given: list[str]) -> None:
    assert several.run("suspend", *given).exit_code == 2
    assert not several.patches


@pytest.mark.parametrize("verb", ["suspend", "resume"])
@pytest.mark.parametrize("given", [["-l", ""], ["-l", " \t"], ["--selector="], ["a", "-l", ""]], ids=str)
def test_an_empty_selector_chooses_nothing(several: Api, verb: str, given: list[str]) -> None:
    """As of a variable of a script that is not set."""
    done = several.run(verb, *given)
    assert (done.exit_code, done.stdout) == (2, "")
    last = "Error: -l is empty, which chooses nothing; name TrainingJobs, or give -l SELECTOR or --all"
    assert done.stderr.splitlines()[-1] == last
    assert not several.read
    assert not several.patches


@pytest.mark.parametrize("chosen", [["--all"], ["-l", "team=late"]], ids=str)
def test_a_chosen_job_that_ends_or_goes_meanwhile_is_left_alone(several: Api, chosen: list[str]) -> None:
    several.put(TRAINING_JOBS, job("c"))
    for name in "abc":
        several.objects[TRAINING_JOBS.path(name, "default")]["metadata"]["labels"] = {"team": "late"}

    def meanwhile() -> None:
        """Just before the first job is changed, it goes, and the second one ends."""
        del several.objects[TRAINING_JOBS.path("a", "default")]
        several.objects[TRAINING_JOBS.path("b", "default")]["status"]["phase"] = "Complete"

    several.before_patch = [meanwhile]
    done = several.run("suspend", *chosen)
    assert (done.exit_code, done.stdout, done.stderr) == (0, f"{FULL}/c suspended\n", "")
