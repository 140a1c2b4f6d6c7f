"""The asking verbs as users type them, on files: what they print, and exit codes that a pipeline can go by."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from tests.worlds import START, bound, cluster, gang, node, pod, policy, recording

from tangram.api import names
from tangram.api.objects import OwnerReference, Pod
from tangram.cli.main import tangram
from tangram.cli.worlds import find_pods
from tangram.errors import InvalidInput, TangramError
from tangram.snapshot import recording as dump


def held(name: str, where: str, count: int, **more: Any) -> Pod:
    return bound(pod(name, whole=count, **more), where, {"main": [(str(index), 100) for index in range(count)]})


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A pool of 2 x 4 GPUs, partly held, with a pod and a gang that wait."""
    pods = [
        held("train", "n0", 3, annotations={names.ESTIMATED_DURATION: "1h"}),
        held("serve", "n1", 2),
        pod("w", whole=4),
        *gang("g", 2, whole=3),
    ]
    dump.save(recording(START, cluster("2x4xA100"), pods, priorities={"high": 1000}), tmp_path / "world.json.gz")
    return tmp_path / "world.json.gz"


def run(*arguments: Any, text: str = "") -> Result:
    return CliRunner().invoke(tangram, [str(one) for one in arguments], input=text)


def manifest(kind: str = "Pod", gpus: int = 1, **spec: Any) -> str:
    amounts = {"nvidia.com/gpu": gpus}
    containers = [{"name": "main", "image": "x", "resources": {"requests": amounts, "limits": amounts}}]
    template = {"schedulerName": "tangram", "containers": containers} | spec.pop("pod", {})
    made = template if kind == "Pod" else {**spec, "template": {"spec": template}}
    version = {"Pod": "v1", "Job": "batch/v1"}.get(kind, "apps/v1")
    return json.dumps({"apiVersion": version, "kind": kind, "metadata": {"name": "new"}, "spec": made})


def test_explain_prints_one_reason_and_what_would_help(world: Path) -> None:
    found = run("explain", "w", "--from", world)
    assert found.exit_code == 0
    assert found.output.startswith("pod default/w is pending: InsufficientGpu\n  0/2 nodes are available")
    assert "1. ask for 2 GPUs instead of 4 GPUs  -> n1" in found.output
    assert "default/train" in found.output
    assert "Start: " in found.output
    assert "Start: " not in run("explain", "w", "--from", world, "--no-estimate").output


@pytest.mark.parametrize("name", ["w", "pod/w", "POD/w", "g", "gang/g", "g-1", "train"])
def test_a_pod_or_a_workload_is_meant_by_its_name(world: Path, name: str) -> None:
    found = run("explain", name, "--from", world, "-o", "json")
    assert found.exit_code == 0
    answer = json.loads(found.output)
    assert answer["pod"]["name"] == {"g": "g-0", "train": "train"}.get(name.rpartition("/")[2], answer["pod"]["name"])
    assert answer["state"] in ("waits", "placed")
    assert answer["pods"] == (2 if name.endswith("g") else 1)


@pytest.mark.parametrize(
    ("kind", "owner"),
    [
        *(
            (kind, "TrainingJob")
            for kind in ("tj", "trainingjobs", f"trainingjob.{names.GROUP}", f"TJ.v1.{names.GROUP}")
        ),
        *((kind, "Job") for kind in ("job", "jobs", "job.batch", "jobs.v1.batch")),
        *((kind, "StatefulSet") for kind in ("sts", "statefulset.apps", "statefulsets.v1.apps")),
        *((kind, "Deployment") for kind in ("deploy", "deployments", "deployment.apps")),
    ],
)
def test_a_workload_is_meant_by_every_name_of_its_kind_that_kubectl_takes_and_prints(kind: str, owner: str) -> None:
    made = "ReplicaSet" if owner == "Deployment" else owner
    of = OwnerReference(made, "x-7d9" if owner == "Deployment" else "x", "1", controller=True)
    labels = {names.JOB: "x"} if owner == "TrainingJob" else {}
    one = held("one", "n0", 1)
    one = replace(one, metadata=replace(one.metadata, labels=labels, owner_references=(of,)))
    there = recording(START, cluster("1x4xA100"), [one, held("x-other", "n0", 1)])
    assert [pod.metadata.name for pod in find_pods(there, f"{kind}/x", "default")] == ["one"]


def test_kind_and_name_may_be_two_words(world: Path) -> None:
    assert run("explain", "pod", "w", "--from", world).output == run("explain", "pod/w", "--from", world).output
    wrong = run("explain", "w", "g", "--from", world)
    assert (wrong.exit_code, "allowed is one NAME or KIND/NAME; got w, g" in wrong.output) == (2, True)


def test_a_kind_of_another_group_is_another_kind() -> None:
    there = recording(START, cluster("1x4xA100"), [held("one", "n0", 1)])
    with pytest.raises(InvalidInput, match=r"'trainingjob\.kubeflow\.org' is not allowed"):
        find_pods(there, "trainingjob.kubeflow.org/one", "default")


def test_json_has_the_whole_explanation_and_no_pod_specs(world: Path) -> None:
    answer = json.loads(run("explain", "w", "--from", world, "-o", "json").output)
    assert answer["reason"] == "InsufficientGpu"
    assert answer["losses"] == [{"code": "InsufficientGpu", "nodes": 2, "sentence": "insufficient free GPUs"}]
    assert answer["proposals"][0]["places"] == [{"pod": "default/w", "node": "n1"}]
    assert answer["proposals"][1]["evicts"] == ["default/serve"]
    assert answer["holders"][0]["pod"]["name"] == "train"
    assert set(answer["start"]) == {"p50", "p90", "known", "holding", "why"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("nope", "pending pods there: g-0, g-1, w"),
        ("rocket/w", "'rocket' is not allowed"),
        ("tj/w", 'tj "w" not found in namespace default'),
    ],
)
def test_an_unknown_name_is_answered_with_names_that_wait(world: Path, name: str, says: str) -> None:
    found = run("explain", name, "--from", world)
    assert found.exit_code == 1
    assert isinstance(found.exception, TangramError)
    assert says in str(found.exception)


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        (manifest(gpus=2), 0, "Fits now: 1 pod would start at once"),
        (manifest(gpus=4), 11, "Would be pending: 1 pod; fits once running pods have ended"),
        (manifest(gpus=5), 12, "Cannot be scheduled on this cluster"),
        (manifest("Job", 1, parallelism=3), 0, "3 pods"),
        (manifest("Deployment", 3, replicas=2), 11, "2 pods"),
        (json.dumps({"kind": "List", "items": [json.loads(manifest())]}), 0, "Fits now"),
        (manifest(pod={"priorityClassName": "high"}, gpus=2), 0, "n1"),
    ],
)
def test_the_exit_code_of_what_if_is_the_answer(world: Path, text: str, code: int, says: str) -> None:
    found = run("what-if", "-f", "-", "--from", world, text=text)
    assert (found.exit_code, says in found.output) == (code, True), found.output
    assert json.loads(run("what-if", "-f", "-", "--from", world, "-o", "json", text=text).output)["exitCode"] == code


def test_evictions_that_the_policy_would_make_are_named(tmp_path: Path) -> None:
    chosen = policy(
        {"name": "gpu", "weight": 3, "nodeSelector": {"accelerator": "a"}}, {"name": "cpu"}, fallback="preempt"
    )
    nodes = [node("n0", 2, labels={"accelerator": "a"})]
    dump.save(recording(START, nodes, [held("old", "n0", 2, klass="cpu")], chosen), tmp_path / "w.json")
    found = run("what-if", "-f", "-", "--from", tmp_path / "w.json", text=manifest(gpus=2))
    assert found.exit_code == 10
    assert "default/old" in found.output
    assert "default/new" in found.output


def test_a_policy_in_the_file_counts_as_if_it_were_in_force(world: Path) -> None:
    text = json.dumps(
        {
            "apiVersion": names.API_VERSION,
            "kind": "HybridPolicy",
            "metadata": {"name": "default"},
            "spec": {"queues": [{"name": "default", "limit": {"gpu": 5}}]},
        }
    )
    assert run("what-if", "-f", "-", "--from", world, text=manifest(gpus=1)).exit_code == 0
    found = run("what-if", "-f", "-", "--from", world, text=f"{manifest(gpus=1)}\n---\n{text}")
    assert found.exit_code == 11
    assert "QueueLimit" in found.output


EXAMPLES = sorted(
    file
    for folder in ("training", "inference", "demo")
    for file in (Path(__file__).parents[2] / "examples" / folder).glob("*.yaml")
)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_the_examples_are_understood(tmp_path: Path, file: Path) -> None:
    big = [node(f"n{index}", 8, "NVIDIA-A100-SXM4-80GB", labels={"accelerator": "nvidia-tesla"}) for index in range(6)]
    dump.save(recording(START, big, []), tmp_path / "w.json")
    found = run("what-if", "-f", file, "--from", tmp_path / "w.json")
    assert found.exit_code in (0, 11, 12), found.output
    assert "pod" in found.output


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no pods"),
        ("a: [", "YAML"),
        ("kind: Secret", "'Secret' is not allowed"),
        (json.dumps({"kind": "Pod", "metadata": {"name": "x"}, "spec": {}}), "spec.schedulerName"),
        (json.dumps({"kind": "Pod", "metadata": {}, "spec": {"schedulerName": "tangram"}}), "metadata.name"),
        (manifest(pod={"priorityClassName": "low"}), "a PriorityClass that exists: high"),
        (manifest(pod={"containers": 7}), "a pod as the Kubernetes API knows it"),
        (f"{manifest()}\n---\n{manifest()}", "used twice"),
        (manifest("Job", 1, parallelism=-1), "spec.parallelism"),
        (json.dumps({"apiVersion": names.API_VERSION, "kind": "TrainingJob", "metadata": {"name": "x"}}), "spec"),
    ],
)
def test_a_wrong_file_is_refused_with_what_is_allowed(world: Path, text: str, says: str) -> None:
    found = run("what-if", "-f", "-", "--from", world, text=text)
    assert found.exit_code == 1
    assert isinstance(found.exception, TangramError), found.exception
    assert says in str(found.exception)


def test_an_object_that_exists_is_taken_as_replaced(world: Path) -> None:
    again = manifest(gpus=3).replace('"new"', '"train"')
    found = run("what-if", "-f", "-", "--from", world, text=again)
    assert found.exit_code == 0
    assert "replacing 1 existing pod)" in found.output


@pytest.mark.parametrize("verb", ["explain", "what-if", "snapshot"])
def test_help_imports_nothing_heavy(verb: str) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from tangram.cli.main import tangram;"
        f"CliRunner().invoke(tangram, [{verb!r}, '--help']);"
        "print({'numpy', 'numba', 'pydantic', 'aiohttp', 'kopf', 'msgspec'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"


def test_a_snapshot_of_a_snapshot_answers_alike(world: Path, tmp_path: Path) -> None:
    saved = run("snapshot", "save", tmp_path / "copy.json", "--from", world)
    assert saved.exit_code == 0
    assert "2 nodes, 5 pods (3 pending), policy none" in saved.output
    first, second = (run("explain", "w", "--from", file, "-o", "json") for file in (world, tmp_path / "copy.json"))
    assert first.output == second.output
