"""The verbs that the chart grants are those that its processes use: by the audit log of all that they ever do."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from tests.chart.rights import OlderServer, Right, audited, granted
from tests.controllers.builders import job_object, revision, role, service_object
from tests.node.conftest import Machine, folder, machine, mock_library  # noqa: F401 - fixtures
from tests.node.kubelet import FakeKubelet
from tests.waiting import eventually_async

from tangram.api.names import FRACTION_RESOURCE
from tangram.api.objects import Pod
from tangram.sandbox import cluster
from tangram.sandbox.client import free_ports
from tangram.sandbox.cluster import Sandbox, Wish
from tangram.sandbox.nodes import NodeSpec
from tangram.sandbox.nvml import build

SYSTEM, TEAM = "tangram-system", "team"
GPU_NODE, PLAIN = "rights-gpu", "rights-plain"
POLICY = {
    "apiVersion": "scheduling.example.com/v1",
    "kind": "HybridPolicy",
    "metadata": {"name": "default"},
    "spec": {"priorityClasses": [{"name": "all", "weight": 1}], "queues": [{"name": "main"}]},
}


@pytest.fixture(scope="module")
def audited_release(sandbox_programs: None, chart: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """The chart, installed on a control plane of its own that keeps an audit log."""
    root = tmp_path_factory.mktemp("rights")
    running = cluster.up("rights", state_root=root, wish=Wish(fsync=False, tied_to_parent=True, audit=True))
    try:
        running.helm("install", "tangram", str(chart), "--namespace", SYSTEM, "--create-namespace")
        running.create_nodes([NodeSpec(GPU_NODE, 64_000, 1 << 19, 8, "H100"), NodeSpec(PLAIN, 64_000, 1 << 19)])
        running.kubectl("create", "namespace", TEAM)
        yield running
    finally:
        cluster.down("rights", state_root=root)


class Stage:
    """The three processes, each with the rights of its own account, and what they are given to do."""

    def __init__(self, sandbox: Sandbox, server: OlderServer, kubelet: FakeKubelet, gpus: Machine, here: Path):
        self.sandbox, self.server, self.kubelet, self.machine, self.here = sandbox, server, kubelet, gpus, here
        self.metrics = dict(zip(("node", "scheduler", "controller"), free_ports(3), strict=True))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    async def kubectl(self, *arguments: str, text: str | None = None) -> str:
        answer = await asyncio.to_thread(self.sandbox.kubectl, "-n", TEAM, *arguments, input=text)
        return answer.stdout

    async def apply(self, *objects: dict[str, Any]) -> None:
        for one in objects:
            metadata = {key: value for key, value in one["metadata"].items() if key in ("name", "labels")}
            await self.kubectl("apply", "-f", "-", text=json.dumps(one | {"metadata": metadata}))

    async def get(self, kind: str, name: str) -> dict[str, Any]:
        found = await self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        return {"status": {}} | json.loads(found) if found.strip() else {}

    async def until(self, kind: str, name: str, holds: Any, what: str) -> None:
        async def so() -> bool:
            return bool(holds(await self.get(kind, name)))

        try:
            await eventually_async(so, what, 90, step=0.2)
        except AssertionError as error:
            error.add_note(await self.kubectl("get", f"{kind},pods,gpunodes", "-o", "yaml"))
            for verb in self.processes:
                error.add_note(f"{verb}: {(self.here / f'{verb}.log').read_text()[-3000:]}")
            raise

    async def start(self, verb: str, *options: str, token: str = "", **environment: str) -> None:
        account = f"tangram-{verb}"
        token = token or await self.kubectl("create", "token", account, "-n", SYSTEM)
        access = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": self.server.address}}],
            "users": [{"name": account, "user": {"token": token.strip()}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": account}}],
        }  # fmt: skip
        path, log = self.here / f"{verb}.kubeconfig", self.here / f"{verb}.log"
        path.write_text(yaml.safe_dump(access))
        command = [sys.executable, "-m", "tangram", verb, "--kubeconfig", str(path), *options]
        with log.open("wb") as output:
            self.processes[verb] = subprocess.Popen(  # noqa: ASYNC220 - it only starts
                [*command, "--host", "127.0.0.1"], stdout=output, stderr=output, env=os.environ | environment
            )

    async def end(self) -> None:
        """Ask all to end, as a rollout does."""
        for process in self.processes.values():
            process.terminate()
        for verb, process in self.processes.items():
            assert await asyncio.to_thread(process.wait, 60) == 0, (self.here / f"{verb}.log").read_text()[-3000:]

    def kill(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


def pod(name: str, share: int = 0, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "example", "resources": {"limits": {FRACTION_RESOURCE: str(share)}}}
    if not share:
        del container["resources"]
    return {
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"schedulerName": "tangram", "terminationGracePeriodSeconds": 0, "containers": [container]} | spec,
    }  # fmt: skip


def with_claim(name: str) -> dict[str, Any]:
    return pod(name, volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": name}}])


def claim(name: str) -> dict[str, Any]:
    spec = {"storageClassName": name, "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}


def storage_class(name: str, provisioner: str) -> dict[str, Any]:
    return {
        "apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
        "provisioner": provisioner, "volumeBindingMode": "WaitForFirstConsumer",
    }  # fmt: skip


def local_volume(name: str, node: str) -> dict[str, Any]:
    terms = [{"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]
    spec = {
        "storageClassName": name, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
        "local": {"path": "/data"}, "nodeAffinity": {"required": {"nodeSelectorTerms": terms}},
    }  # fmt: skip
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name}, "spec": spec}


@pytest.fixture
async def stage(audited_release: Sandbox, machine: Machine, folder: Path, tmp_path: Path) -> AsyncIterator[Stage]:  # noqa: F811
    authority = ssl.create_default_context(cafile=audited_release.ca_file)
    kubelet = FakeKubelet(folder)
    await kubelet.start()
    async with OlderServer(audited_release.server, authority).serving() as server:
        made = Stage(audited_release, server, kubelet, machine, tmp_path)
        try:
            yield made
        finally:
            made.kill()
            await kubelet.stop()


async def start_agent(stage: Stage) -> None:
    """The agent, with the token of its pod: it may write for the node of that pod only."""
    agent = pod("agent", nodeName=GPU_NODE, serviceAccountName="tangram-node", tolerations=[{"operator": "Exists"}])
    await stage.kubectl("create", "-n", SYSTEM, "-f", "-", text=json.dumps(agent))
    bound = ("--bound-object-kind=Pod", "--bound-object-name=agent")
    token = await stage.kubectl("create", "token", "tangram-node", "-n", SYSTEM, *bound)
    sockets = (f"--device-plugins={stage.kubelet.plugins}", f"--pod-resources={stage.kubelet.pod_resources}")
    ports = ("--health-port=0", f"--metrics-port={stage.metrics['node']}")
    options = (f"--node={GPU_NODE}", "--mode=time-slice", *sockets, *ports)
    await stage.start("node", *options, token=token, **build.environment(stage.machine.path))
    await stage.until(
        "gpunode", GPU_NODE, lambda o: o.get("status", {}).get("health") == "Healthy", "the GPUs are known"
    )


async def start_two(stage: Stage) -> None:
    none = ("--health-port=0", f"--lease-namespace={SYSTEM}")
    for verb in ("scheduler", "controller"):
        await stage.start(verb, *none, f"--lease-name=tangram-{verb}", f"--metrics-port={stage.metrics[verb]}")


def running(one: dict[str, Any]) -> bool:
    return one.get("status", {}).get("phase") == "Running"


async def pods_are_bound_evicted_and_told_why_they_wait(stage: Stage) -> None:
    stage.server.lose_answer("POST", "/pods/share/binding$")
    await stage.apply(pod("share", 50))
    await stage.until("pod", "share", running, "a share is placed though the answer to its binding was lost")
    for value, name in ((1, "low"), (100, "high")):
        await stage.apply({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
                           "metadata": {"name": name}, "value": value})  # fmt: skip
    await stage.apply(pod("victim", 700, priorityClassName="low"))
    await stage.until("pod", "victim", running, "the lower pod runs")
    await stage.apply(pod("claimant", 700, priorityClassName="high"))
    await stage.until("pod", "claimant", running, "the higher pod has its place")


async def volumes_are_chosen_and_made(stage: Stage) -> None:
    await stage.apply(
        storage_class("made", "example.com/disks"), storage_class("there", "kubernetes.io/no-provisioner")
    )
    await stage.apply(local_volume("there", PLAIN), claim("made"), claim("there"))
    await stage.apply(with_claim("made"), with_claim("there"))
    selected = "volume.kubernetes.io/selected-node"
    await stage.until("pvc", "made", lambda o: selected in o["metadata"].get("annotations", {}), "a node is chosen")
    await stage.until("pod", "there", running, "a volume that exists is chosen")


async def a_pod_waits_for_two_reasons_in_turn(stage: Stage) -> None:
    """So that its first Event is counted on, at the end of the process at the latest."""
    told = ""

    def other(o: dict[str, Any]) -> bool:
        nonlocal told
        reasons = [c.get("message", "") for c in o["status"].get("conditions", ()) if c["type"] == "PodScheduled"]
        before, told = told, reasons[0] if reasons else ""
        return told != before

    await stage.apply(pod("waits", 300, nodeSelector={"disk": "fast"}))
    await stage.until("pod", "waits", other, "the pod waits for a label")
    first = told
    await stage.kubectl("label", "node", GPU_NODE, "disk=fast")
    await stage.until("pod", "waits", other, "the pod waits for free GPUs")
    await stage.kubectl("label", "node", GPU_NODE, "disk-")
    await stage.until("pod", "waits", other, "the pod waits for a label again")
    assert told == first


async def a_job_fails_starts_again_completes_and_is_removed(stage: Stage) -> None:
    stage.server.lose_answer("POST", "/pods$")
    stage.server.lose_answer("POST", "/services$")
    job = job_object(role("worker", 1), name="train", runPolicy={"ttlAfterFinished": "1s"})
    await stage.apply(job)
    for attempt in range(3):
        await stage.until(
            "tj", "train", lambda o, n=attempt: running(o) and o["status"].get("restarts", 0) == n, f"attempt {attempt}"
        )
        await ended(stage, "train-worker-0", code=int(attempt < 2))
    await stage.until("tj", "train", lambda o: not o, "the job is removed after its time")


async def ended(stage: Stage, name: str, code: int) -> None:
    """The containers of a pod end, as a kubelet would write it."""
    state = {"terminated": {"exitCode": code, "finishedAt": "2026-01-01T00:00:00Z"}}
    container = {"name": "main", "image": "x", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    status = {"phase": "Failed" if code else "Succeeded", "containerStatuses": [container]}
    patch = json.dumps({"status": status})
    await stage.kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", patch)


async def a_service_changes_its_budget_its_port_and_its_revision(stage: Stage) -> None:
    stage.server.lose_answer("POST", "/poddisruptionbudgets$")
    await stage.apply(service_object(revision("v1"), name="chat"))
    await stage.until("pdb", "chat", bool, "the service has a budget")
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": {"scheduling.example.com/service": "chat"}}}
    await stage.apply({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
                       "metadata": {"name": "mine"}, "spec": spec})  # fmt: skip
    await stage.until("pdb", "chat", lambda o: not o, "it gives way to one that somebody wrote")
    await stage.until("service", "chat-v1", bool, "the revision has a Service")
    await stage.apply(service_object(revision("v1"), name="chat", port=9000))
    await stage.until(
        "service", "chat-v1", lambda o: o["spec"]["ports"][0]["targetPort"] == 9000, "the port is changed"
    )
    await stage.apply(service_object(revision("v2"), name="chat", port=9000))
    await stage.until("service", "chat-v1", lambda o: not o, "the Service of the old revision is gone")
    held = POLICY | {"spec": POLICY["spec"] | {"queues": [{"name": "main", "hold": "Hold"}]}}
    await stage.apply(held)
    await stage.apply(service_object(revision("v1"), name="held", queue="main", replicas=1))
    await stage.until(
        "pdb", "held", lambda o: o.get("spec", {}).get("maxUnavailable") == 2, "a held replica does not count"
    )


async def a_gpu_fails_twice_under_a_pod_and_prometheus_asks(stage: Stage) -> None:
    share = msgspec.json.decode(await stage.kubectl("get", "pod", "share", "-o", "json"), type=Pod)
    await stage.kubelet.admit(share)
    uuid = next(iter(stage.kubelet.in_use(FRACTION_RESOURCE))).partition("::")[0]
    gpu = next(one for index, one in enumerate(stage.machine.gpus) if stage.machine.uuid(index) == uuid)

    def unhealthy(so: bool) -> Any:
        return lambda o: any(d["uuid"] == uuid and (d["health"] == "Unhealthy") is so for d in o["status"]["devices"])

    await stage.until(
        "gpunode", GPU_NODE, lambda o: o["status"].get("allocated") == "0.5", "the agent knows the holder"
    )
    for _ in range(2):
        gpu.error = "GPU_IS_LOST"
        stage.machine.tell()
        await stage.until("gpunode", GPU_NODE, unhealthy(True), "the GPU has failed")
        gpu.error = None
        stage.machine.tell()
        await stage.until("gpunode", GPU_NODE, unhealthy(False), "the GPU is back")
    token = (await stage.kubectl("create", "token", "default", "-n", TEAM)).strip()
    for port in stage.metrics.values():
        command = ["curl", "-sk", "-H", f"Authorization: Bearer {token}", f"https://127.0.0.1:{port}/metrics"]
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)


def shown(rights: set[Right]) -> str:
    return "; ".join(" ".join(right) for right in sorted(rights))


@pytest.mark.timeout(600)
async def test_fault_27_accounts_may_do_exactly_what_their_processes_do(stage: Stage, render: Any) -> None:
    await stage.apply(POLICY)
    await start_agent(stage)
    await start_two(stage)
    await stage.until("hybridpolicy", "default", lambda o: o["status"].get("queues"), "the policy's status is written")
    await pods_are_bound_evicted_and_told_why_they_wait(stage)
    await asyncio.gather(
        a_gpu_fails_twice_under_a_pod_and_prometheus_asks(stage),
        volumes_are_chosen_and_made(stage),
        a_job_fails_starts_again_completes_and_is_removed(stage),
    )
    await a_pod_waits_for_two_reasons_in_turn(stage)
    await a_service_changes_its_budget_its_port_and_its_revision(stage)
    await stage.end()
    assert stage.server.lost_all
    done, refused = audited(stage.sandbox.audit_log.read_text().splitlines(), SYSTEM)
    may = granted(render())
    assert not refused, f"needed, and not granted: {shown(refused)}"
    assert not may - done, f"granted, and never used: {shown(may - done)}"
    assert not done - may, f"used, and not by a role of the chart: {shown(done - may)}"


def test_a_verb_that_nobody_uses_and_one_that_nobody_grants_are_seen() -> None:
    roles = [
        {"kind": "ClusterRole", "metadata": {"name": "a"},
         "rules": [{"apiGroups": [""], "resources": ["pods", "pods/status"], "verbs": ["list"]}]},
        {"kind": "ClusterRoleBinding", "roleRef": {"kind": "ClusterRole", "name": "a"}, "subjects": [{"name": "a"}]},
    ]  # fmt: skip
    log = [
        {"user": {"username": "system:serviceaccount:here:a"}, "verb": verb, "annotations": {
            "authorization.k8s.io/decision": decision},
         "objectRef": {"apiGroup": "apps", "resource": "deployments", "subresource": "scale"}}
        for verb, decision in (("get", "allow"), ("patch", "forbid"))
    ]  # fmt: skip
    assert granted(roles) == {Right("a", "list", "pods"), Right("a", "list", "pods/status")}
    assert audited(map(json.dumps, log), "here") == (
        {Right("a", "get", "deployments.apps/scale")},
        {Right("a", "patch", "deployments.apps/scale")},
    )
