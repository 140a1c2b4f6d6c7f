"""The asking verbs against a real API server, without a scheduler: they only read, and need nothing of ours there."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.waiting import eventually

from tangram.cli.main import tangram
from tangram.cli.output import camel
from tangram.sandbox.cluster import Sandbox
from tangram.sandbox.nodes import NodeSpec
from tangram.settings import SchedulerSettings, deciding

DEADLINE = 60.0
NODES = ("explain-0", "explain-1")
ONLY_OURS = {"kubernetes.io/hostname": NODES[0]}


class Live:
    """A namespace on a real cluster with two nodes of four GPUs."""

    def __init__(self, sandbox: Sandbox, namespace: str) -> None:
        self.sandbox, self.namespace = sandbox, namespace

    def ask(self, *arguments: Any, text: str = "") -> Result:
        where = ["--kubeconfig", str(self.sandbox.kubeconfig), "-n", self.namespace]
        return CliRunner().invoke(tangram, [*map(str, arguments), *where], input=text)

    def create(self, *pods: dict[str, Any]) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(pods)})
        self.sandbox.kubectl("-n", self.namespace, "create", "-f", "-", input=text)

    def told(self, name: str, log: Path, scheduler: "subprocess.Popen[bytes]") -> dict[str, Any]:
        """The condition by which the scheduler says why a pod waits, once it does."""

        def condition() -> dict[str, Any] | None:
            assert scheduler.poll() is None, log.read_text()
            found = json.loads(self.sandbox.kubectl("-n", self.namespace, "get", "pod", name, "-o", "json").stdout)
            conditions = found["status"].get("conditions", ())
            return next((one for one in conditions if one.get("reason") == "Unschedulable"), None)

        told: dict[str, Any] = eventually(condition, "the scheduler says why", why=log.read_text)
        return told

    def everything(self) -> str:
        return self.sandbox.kubectl("-n", self.namespace, "get", "pods,events", "-o", "name").stdout


def pod(name: str, gpus: int, **spec: Any) -> dict[str, Any]:
    amounts = {"nvidia.com/gpu": str(gpus)}
    main = {"name": "main", "image": "registry.test/x", "resources": {"requests": amounts, "limits": amounts}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"schedulerName": "tangram", "nodeSelector": ONLY_OURS, "containers": [main]} | spec,
    }


@pytest.fixture(scope="module")
def live(sandbox: Sandbox) -> Iterator[Live]:
    sandbox.create_nodes([NodeSpec(name, 64_000, 512 * 1024, 4, "A100") for name in NODES])
    namespace = f"explain-{uuid.uuid4().hex[:8]}"
    sandbox.kubectl("create", "namespace", namespace)
    found = Live(sandbox, namespace)
    try:
        found.create(pod("held", 3, nodeName=NODES[0]), pod("w", 2))
        yield found
    finally:
        sandbox.kubectl("delete", "namespace", namespace, "--wait=false")
        sandbox.kubectl("delete", "node", *NODES, "--ignore-not-found")


def test_explain_says_why_a_pod_waits_and_who_holds_what_it_needs(live: Live) -> None:
    before = live.everything()
    found = live.ask("explain", "w", "-o", "json")
    assert found.exit_code == 0, found.output
    answer = json.loads(found.output)
    assert answer["reason"] == "InsufficientGpu"
    assert [one["pod"]["name"] for one in answer["holders"]] == ["held"]
    assert [one["change"] for one in answer["proposals"][:2]] == [
        f"drop the node selector kubernetes.io/hostname={NODES[0]}",
        "ask for 1 GPU instead of 2 GPUs",
    ]
    assert live.everything() == before


@pytest.mark.parametrize(("gpus", "code"), [(1, 0), (2, 11), (5, 12)])
def test_what_if_answers_by_its_exit_code(live: Live, gpus: int, code: int) -> None:
    before = live.everything()
    found = live.ask("what-if", "-f", "-", text=json.dumps(pod("new", gpus)))
    assert found.exit_code == code, found.output
    assert live.everything() == before


def test_a_saved_snapshot_gives_the_answer_that_the_cluster_gave(live: Live, tmp_path: Path) -> None:
    file = tmp_path / "cluster.json.gz"
    saved = CliRunner().invoke(tangram, ["snapshot", "save", str(file), "--kubeconfig", str(live.sandbox.kubeconfig)])
    assert saved.exit_code == 0, saved.output
    later = CliRunner().invoke(tangram, ["explain", "w", "-n", live.namespace, "--from", str(file), "-o", "json"])
    now = json.loads(live.ask("explain", "w", "-o", "json").output)
    assert json.loads(later.output) == now


def test_explain_says_what_the_scheduler_writes_on_the_pod(live: Live, tmp_path: Path) -> None:
    lease = ["--lease-namespace", live.namespace, "--gang-timeout", "7"]
    options = [*lease, "--health-port", "0", "--metrics-port", "0"]
    command = [sys.executable, "-m", "tangram", "scheduler", "--kubeconfig", str(live.sandbox.kubeconfig), *options]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, stderr=log) as process:
        try:
            condition = live.told("w", tmp_path / "log", process)
        finally:
            process.terminate()
            process.wait(DEADLINE)
    answer = json.loads(live.ask("explain", "w", "-o", "json", "--no-estimate").output)
    assert condition["message"] == f"{answer['reason']}: {answer['message']}"
    spelled = {camel(name): value for name, value in deciding(SchedulerSettings(gang_timeout=7)).items()}
    assert answer["settings"] == {"published": True} | spelled


def test_an_unreachable_server_is_one_clear_line(tmp_path: Path) -> None:
    nowhere = tmp_path / "config"
    nowhere.write_text(
        "apiVersion: v1\nkind: Config\ncurrent-context: x\n"
        "clusters: [{name: x, cluster: {server: 'http://127.0.0.1:1'}}]\n"
        "contexts: [{name: x, context: {cluster: x, user: x}}]\nusers: [{name: x, user: {}}]\n"
    )
    found = CliRunner().invoke(tangram, ["explain", "w", "--kubeconfig", str(nowhere)])
    assert found.exit_code == 1
    assert "127.0.0.1:1" in str(found.exception)
