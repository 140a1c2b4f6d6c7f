"""A workload whose pods the API server refuses says so in its own status: there the answer begins."""

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from tests.worlds import START, cluster, pod, recording

from tangram import errors
from tangram.api import names
from tangram.cli import explain as verb
from tangram.cli.main import tangram
from tangram.cluster import paths
from tangram.cluster.server_clock import ServerClock
from tangram.questions.observe import read_cluster
from tangram.snapshot import recording as dump
from tangram.snapshot.recording import Recording, Stalled

QUOTA = 'pods "q-worker-3" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=2'
REFUSED = Stalled("TrainingJob", "default", "q", "CreateRefused", QUOTA)
WAITING = pod("q-worker-0", whole=2)
WORKER = replace(WAITING, metadata=replace(WAITING.metadata, labels={names.JOB: "q"}))


def asked(monkeypatch: pytest.MonkeyPatch, world: Recording, *arguments: str) -> Result:
    """What `tangram explain` says of a cluster that is as recorded."""
    monkeypatch.setattr(verb, "read_world", lambda *_: (world, "default"))
    return CliRunner().invoke(tangram, ["explain", *arguments])


@pytest.mark.parametrize("name", ["trainingjob/q", "q", "q-worker-0"])
def test_the_refusal_of_further_pods_stands_before_why_the_first_one_is_pending(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    world = recording(START, cluster("1x1xA100"), [WORKER], stalled=[REFUSED])
    found = asked(monkeypatch, world, name)
    first, second, empty, third, *_ = found.output.splitlines()
    assert (first, second, empty) == ("trainingjob default/q is stalled: CreateRefused", f"  {QUOTA}", "")
    assert third.startswith("pod default/q-worker-0 is pending: ")
    answer = json.loads(asked(monkeypatch, world, name, "-o", "json").output)
    assert answer["stalled"] == msgspec.to_builtins(REFUSED)


def test_a_smaller_gang_is_no_answer_to_a_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of four members exist: with a minimum of two they would start, and nobody would mend the quota."""
    labels, minimum = {names.JOB: "q", names.GANG: "q"}, {names.GANG_MIN: "4"}
    members = [
        replace(one, metadata=replace(one.metadata, labels=labels, annotations=minimum))
        for one in (pod("q-worker-0", whole=1), pod("q-worker-1", whole=1))
    ]
    world = recording(START, cluster("1x2xA100"), members)
    alone = json.loads(asked(monkeypatch, world, "q", "-o", "json").output)
    assert [one["kind"] for one in alone["proposals"]] == ["fewer-members"]
    refused = recording(START, cluster("1x2xA100"), members, stalled=[REFUSED])
    answer = json.loads(asked(monkeypatch, refused, "q", "-o", "json").output)
    assert (answer["stalled"]["reason"], answer["proposals"]) == ("CreateRefused", [])


@pytest.mark.parametrize("name", ["trainingjob/q", "tj/q", "q"])
def test_a_workload_all_of_whose_pods_are_refused_is_explained_by_its_refusal(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    world = recording(START, cluster("1x1xA100"), [], stalled=[REFUSED])
    found = asked(monkeypatch, world, name)
    assert found.exit_code == 0
    assert found.output == f"trainingjob default/q is stalled: CreateRefused\n  {QUOTA}\n  it has no pods\n"
    answer = json.loads(asked(monkeypatch, world, name, "-o", "json").output)
    assert answer == {"state": "stalled", "stalled": msgspec.to_builtins(REFUSED), "pods": 0}


@pytest.mark.parametrize("name", ["pod/q", "infer/q", "trainingjob/other"])
def test_the_refusal_of_another_workload_is_nobodys_answer(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    world = recording(START, cluster("1x1xA100"), [pod("p", whole=2)], stalled=[REFUSED])
    assert isinstance(asked(monkeypatch, world, name).exception, errors.Missing)
    assert "stalled" not in asked(monkeypatch, world, "p").output


def test_a_file_has_the_reason_and_nobodys_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    dump.save(recording(START, cluster("1x1xA100"), [WORKER], stalled=[REFUSED]), tmp_path / "w.json")
    assert "quota" not in (tmp_path / "w.json").read_text()
    found = asked(monkeypatch, dump.load(tmp_path / "w.json"), "q")
    assert found.output.startswith("trainingjob default/q is stalled: CreateRefused\n  a file has no messages")


class Answers:
    """An API server with TrainingJobs, which may not be read of InferenceServices."""

    server_clock = ServerClock()

    def __init__(self, *jobs: dict[str, Any]) -> None:
        self.jobs = jobs

    async def request(self, _method: str, path: str, **_: Any) -> bytes:
        if path == paths.INFERENCE_SERVICES.collection():
            raise errors.ClusterError(403, "Forbidden", "forbidden")
        return json.dumps(
            {"metadata": {}, "items": self.jobs if path == paths.TRAINING_JOBS.collection() else []}
        ).encode()


def test_stalled_workloads_are_read_from_the_cluster() -> None:
    def job(name: str, status: str) -> dict[str, Any]:
        condition = {"type": "Stalled", "status": status, "reason": "CreateRefused", "message": QUOTA}
        return {"metadata": {"name": name, "namespace": "default"}, "status": {"conditions": [condition]}}

    new = {"metadata": {"name": "new", "namespace": "default"}}
    found = asyncio.run(read_cluster(Answers(job("q", "True"), job("fine", "False"), new), START))  # type: ignore[arg-type]
    assert found.stalled == (REFUSED,)
