"""The command line on a real API server, as kubectl's plugin: queues, top, suspend, resume, and a job without pods."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.api.samples import sample
from tests.sources import ROOT, SOURCES
from tests.waiting import eventually

from tangram.api import names
from tangram.cli.jsonpath import parse
from tangram.sandbox.cluster import Sandbox
from tangram.sandbox.nodes import NodeSpec

NODE = "cli-0"
POLICY = "cli-tests"


@dataclass
class Plugin:
    """kubectl with the plugin in its PATH, in a namespace of the tests' own."""

    sandbox: Sandbox
    namespace: str
    folder: Path

    def run(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """``kubectl tangram ...``."""
        path = os.pathsep.join((str(self.folder), os.environ["PATH"]))
        environment = os.environ | {"PATH": path, "KUBECONFIG": str(self.sandbox.kubeconfig)}
        command = [self.sandbox.state.programs["kubectl"], "tangram", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    def ask(self, *arguments: str) -> str:
        done = self.run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def job(self, name: str) -> dict[str, Any]:
        found = self.sandbox.kubectl("-n", self.namespace, "get", "trainingjob", name, "-o", "json").stdout
        job: dict[str, Any] = json.loads(found)
        return job


@pytest.fixture(scope="module")
def plugin(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plugin]:
    sandbox.kubectl("apply", "--server-side", "--force-conflicts", "-f", str(ROOT / "crds"))
    sandbox.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
    folder = tmp_path_factory.mktemp("bin")
    script = folder / "kubectl-tangram"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={SOURCES} exec {sys.executable} {folder}/kubectl-tangram.py "$@"\n')
    code = "import sys\nfrom tangram.cli.main import main\nsys.argv[0] = 'kubectl-tangram'\nmain()\n"
    (folder / "kubectl-tangram.py").write_text(code)
    script.chmod(0o755)
    namespace = f"cli-{uuid.uuid4().hex[:8]}"
    sandbox.kubectl("create", "namespace", namespace)
    account = ("get", "serviceaccount", "default", "-n", namespace)
    eventually(lambda: sandbox.kubectl(*account, check=False).returncode == 0, "the namespace can have pods")
    try:
        yield Plugin(sandbox, namespace, folder)
    finally:
        sandbox.kubectl("delete", "namespace", namespace, "--wait=false")
        sandbox.kubectl("delete", "node", NODE, "--ignore-not-found")
        sandbox.kubectl("delete", "hybridpolicy", POLICY, "--ignore-not-found")


def test_kubectl_finds_the_plugin_and_its_usage_names_it(plugin: Plugin) -> None:
    assert plugin.ask("--help").startswith("Usage: kubectl tangram ")
    done = plugin.run("quees")
    line = 'error: unknown command "quees"; did you mean "queues"? (see \'kubectl tangram --help\')\n'
    assert (done.returncode, done.stderr) == (2, line)


def test_the_server_s_version_is_shown(plugin: Plugin) -> None:
    lines = plugin.ask("version").splitlines()
    assert lines[1].startswith("Server Version: v1.")
    assert lines[2].startswith("Scheduler Version: ")


def test_queues_are_those_of_the_policy_that_the_controller_says_is_in_force(plugin: Plugin) -> None:
    queues = [{"name": "cli-research", "guarantee": {"gpu": "2"}, "limit": {"gpu": "2500m"}}]
    queues.append({"name": "cli-vision", "parent": "cli-research"})
    spec = {"apiVersion": names.API_VERSION, "kind": "HybridPolicy", "metadata": {"name": POLICY}}
    manifest = json.dumps(spec | {"spec": {"queues": queues}})
    plugin.sandbox.kubectl("apply", "-f", "-", input=manifest)
    since = {"lastTransitionTime": "2026-01-01T00:00:00Z", "reason": "InForce"}
    use = {"name": "cli-research", "used": {"gpu": "1500m"}, "fairShare": {"gpu": "2"}, "running": 3, "pending": 1}
    status = {"conditions": [{"type": "Active", "status": "True", **since}], "queues": [use]}
    patch = [
        "patch",
        "hybridpolicy",
        POLICY,
        "--subresource=status",
        "--type=merge",
        "-p",
        json.dumps({"status": status}),
    ]
    plugin.sandbox.kubectl(*patch)
    rows = [line.split() for line in plugin.ask("queues", "cli-research").splitlines()]
    assert rows[1] == ["cli-research", "1.5", "2", "2.5", "2", "3", "1", "-"]
    assert rows[2] == ["cli-vision", "-", "-", "-", "-", "-", "-", "-"]
    assert plugin.ask("queues", "-o", "jsonpath={.items[0].used.gpu}") == "1500m"


def test_top_shows_what_the_agent_and_the_records_of_pods_say(plugin: Plugin) -> None:
    plugin.sandbox.create_nodes([NodeSpec(NODE, 8000, 64 * 1024, 4, "A100")])
    record = {"main": [{"id": "0", "share": 50}, {"id": "1", "share": 100}]}
    pod = {
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "held", "annotations": {names.GPUS: json.dumps(record)}, "labels": {names.QUEUE: "q"}},
        "spec": {"nodeName": NODE, "containers": [{"name": "main", "image": "registry.test/x"}]},
    }  # fmt: skip
    plugin.sandbox.kubectl("-n", plugin.namespace, "create", "-f", "-", input=json.dumps(pod))
    row = next(line.split() for line in plugin.ask("top").splitlines() if line.startswith(NODE))
    assert row == [NODE, "NVIDIA-A100-SXM4-80GB", "4", "1.5", "38%", "-", "-"]
    rows = [line.split() for line in plugin.ask("top", "workloads", "-n", plugin.namespace).splitlines()]
    assert rows[1] == ["pod/held", "q", "1.5", "1", "-", NODE]


def test_a_job_is_suspended_resumed_and_explained_without_pods(plugin: Plugin) -> None:
    job = sample("TrainingJob", "metadata: {name: train}\nspec: {}")
    where = ("-n", plugin.namespace)
    plugin.sandbox.kubectl(*where, "apply", "-f", "-", input=json.dumps(job))
    said = plugin.ask("explain", "tj/train", *where)
    assert said.startswith(f"trainingjob {plugin.namespace}/train has no status yet\n")
    name = f"trainingjob.{names.GROUP}/train"
    assert plugin.ask("suspend", "train", *where) == f"{name} suspended\n"
    assert plugin.job("train")["spec"]["runPolicy"]["suspend"] is True
    assert plugin.ask("suspend", "train", *where) == f"{name} unchanged (already suspended)\n"
    status = {"status": {"phase": "Suspended", "reason": "Suspended", "message": "stopped", "observedGeneration": 2}}
    patch = [*where, "patch", "trainingjob", "train", "--subresource=status", "--type=merge", "-p", json.dumps(status)]
    plugin.sandbox.kubectl(*patch)
    assert plugin.ask("explain", "train", *where).splitlines()[:2] == [
        f"trainingjob {plugin.namespace}/train is suspended",
        "  stopped",
    ]
    assert plugin.ask("resume", "tj/train", *where, "-o", "jsonpath={.spec.runPolicy.suspend}") == "false"
    done = plugin.run("suspend", "trian", *where)
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].endswith('did you mean "train"?')


def test_a_template_prints_what_kubectl_prints(plugin: Plugin) -> None:
    answer = plugin.sandbox.kubectl("get", "namespaces,nodes", "-o", "json").stdout
    for template in (
        "{.kind} {.items[0].kind}",
        "{.items[*].metadata.name}",
        '{range .items[*]}{.metadata.name}{"\\t"}{.status.phase}{"\\n"}{end}',
        '{.items[?(@.metadata.name=="default")].status.phase}',
        "{.items[?(@.spec.finalizers)].metadata.name}",
        r"{.items[0].metadata.labels.kubernetes\.io/metadata\.name}",
        "{.items[0]['kind','apiVersion']}",
        "{.items[0:2].metadata.name} {.items[-1].kind}",
        "{.items[0].spec} {.items[0].spec.finalizers}",
        "{.items[*].status.nodeInfo.kubeletVersion}{.nope}",
    ):
        theirs = plugin.sandbox.kubectl("get", "namespaces,nodes", "-o", f"jsonpath={template}").stdout
        assert parse(template).render(json.loads(answer)) == theirs, template


@pytest.mark.skipif(shutil.which("sh") is None, reason="kubectl runs a shell script here")
def test_kubectl_completes_the_arguments_of_its_plugin(plugin: Plugin) -> None:
    script = plugin.folder / "kubectl_complete-tangram"
    code = "import sys; sys.argv[0]='x'; from tangram.cli.completion import for_kubectl as f; f()"
    script.write_text(f'#!/bin/sh\nPYTHONPATH={SOURCES} exec {sys.executable} -c "{code}" "$@"\n')
    script.chmod(0o755)
    path = os.pathsep.join((str(plugin.folder), os.environ["PATH"]))
    command = [plugin.sandbox.state.programs["kubectl"], "__complete", "tangram", "que"]
    completed = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True, check=True)
    assert completed.stdout.splitlines()[0].startswith("queues")
    assert completed.stdout.splitlines()[-1] == ":4"
