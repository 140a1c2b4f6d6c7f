"""The scheduler process on a real API server: what users see of it, through starts, stops and bad news."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.api.cluster import install
from tests.waiting import eventually

from tangram.sandbox.cluster import Sandbox
from tangram.sandbox.nodes import NodeSpec

NAMESPACE = "live"


class Live:
    """A scheduler process and the pods that are given to it."""

    def __init__(self, sandbox: Sandbox, name: str) -> None:
        self.sandbox, self.name = sandbox, name
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "tangram", "scheduler", "--kubeconfig", str(self.sandbox.kubeconfig)]
        command += ["--no-leader-election", "--health-port", "0", "--metrics-port", "0", "--debug-invariants"]
        self.process = subprocess.Popen([*command, "--scheduler-name", self.name], stderr=subprocess.PIPE, text=True)

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        os.kill(self.process.pid, number)
        self.process.communicate(timeout=20)
        return self.process.returncode

    def apply(self, written: dict[str, Any]) -> None:
        """Write an object of tangram's own kinds."""
        written = written | {"apiVersion": "scheduling.example.com/v1"}
        self.sandbox.kubectl("apply", "-f", "-", input=json.dumps(written))

    def tell(self, node: str, health: dict[str, str]) -> None:
        """Tell as the node's agent what health its GPUs have, A100s with 80 GiB."""
        self.apply({"kind": "GPUNode", "metadata": {"name": node}})
        devices = [
            {"uuid": uuid, "index": index, "model": "A100", "memoryMiB": 81920, "health": one, "healthReason": "lost"}
            for index, (uuid, one) in enumerate(health.items())
        ]
        patch = json.dumps({"status": {"devices": devices}})
        self.sandbox.kubectl("patch", "gpunode", node, "--subresource=status", "--type=merge", "-p", patch)

    def submit(self, name: str, labels: dict[str, str] | None = None, memory: str = "", **amounts: str) -> None:
        limits = {
            {"gpu": "nvidia.com/gpu", "share": "scheduling.example.com/gpu"}[key]: text for key, text in amounts.items()
        }
        minimum = {"scheduling.example.com/gang-min": labels["min"]} if labels else {}
        gang = {"scheduling.example.com/gang": labels["gang"]} if labels else {}
        notes = minimum | ({"scheduling.example.com/gpu-memory": memory} if memory else {})
        pod = {
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": gang, "annotations": notes},
            "spec": {
                "schedulerName": self.name, "automountServiceAccountToken": False,
                "nodeSelector": {"live": "yes"},
                "containers": [{"name": "main", "image": "none", "resources": {"limits": limits}}],
            },
        }  # fmt: skip
        self.sandbox.kubectl("create", "-f", "-", input=json.dumps(pod))

    def pod(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(
            self.sandbox.kubectl("get", "pod", name, "-n", NAMESPACE, "-o", "json").stdout
        )
        return found

    def node_of(self, name: str) -> str:
        return str(self.pod(name)["spec"].get("nodeName", ""))

    def devices(self, name: str) -> list[tuple[str, int]]:
        recorded = json.loads(self.pod(name)["metadata"]["annotations"]["scheduling.example.com/gpus"])
        return [(device["id"], device["share"]) for device in recorded["main"]]

    def why(self, name: str) -> str:
        conditions = self.pod(name)["status"].get("conditions", [])
        return next((one["message"] for one in conditions if one["type"] == "PodScheduled" and "message" in one), "")


@pytest.fixture
def live(sandbox: Sandbox, request: pytest.FixtureRequest) -> Iterator[Live]:
    """Two nodes of two GPUs and a scheduler of its own name, running."""
    sandbox.kubectl("create", "namespace", NAMESPACE, check=False)
    nodes = [NodeSpec(f"live-{number}", 32_000, 262_144, 2, "A100") for number in range(2)]
    sandbox.create_nodes(nodes)
    for node in nodes:
        sandbox.kubectl("label", "node", node.name, "live=yes", "--overwrite")
    running = Live(sandbox, f"live-{abs(hash(request.node.name)) % 10_000}")
    running.start()
    try:
        yield running
    finally:
        if running.process is not None and running.process.poll() is None:
            running.stop(signal.SIGKILL)
        sandbox.kubectl("delete", "pods", "--all", "-n", NAMESPACE, "--grace-period=0", "--force")
        sandbox.kubectl("delete", "nodes", *(node.name for node in nodes))


def test_fault_01_fractions_share_a_gpu_and_never_more_than_it_has(live: Live) -> None:
    for number in range(9):
        live.submit(f"part-{number}", share="50")

    eventually(
        lambda: sum(bool(live.node_of(f"part-{number}")) for number in range(9)) == 8, "eight halves on four GPUs"
    )
    eventually(lambda: any("InsufficientGpu" in live.why(f"part-{number}") for number in range(9)), "the ninth is told")

    used: dict[tuple[str, str], int] = {}
    for number in range(9):
        node = live.node_of(f"part-{number}")
        for device, share in live.devices(f"part-{number}") if node else ():
            used[node, device] = used.get((node, device), 0) + share
    assert sorted(used.values()) == [100, 100, 100, 100]


def test_fault_13_of_two_gangs_that_do_not_both_fit_one_runs_and_the_other_holds_nothing(live: Live) -> None:
    for number in range(3):
        for gang in ("a", "b"):
            live.submit(f"{gang}-{number}", {"gang": gang, "min": "3"}, gpu="1")

    def bound(gang: str) -> int:
        return sum(bool(live.node_of(f"{gang}-{number}")) for number in range(3))

    eventually(lambda: bound("a") + bound("b") == 3, "one gang")
    assert {bound("a"), bound("b")} == {0, 3}
    loser = "a" if bound("a") == 0 else "b"
    eventually(lambda: "GangUnschedulable" in live.why(f"{loser}-0"), "the other is told")


def test_a_pod_that_no_node_could_ever_hold_is_told_so_and_an_event_says_it(live: Live) -> None:
    live.submit("huge", gpu="64")

    eventually(lambda: live.why("huge").startswith("ExceedsNodeCapacity: "), "the condition")
    eventually(
        lambda: "ExceedsNodeCapacity" in live.sandbox.kubectl("get", "events", "-n", NAMESPACE, "--field-selector",
                                                    "involvedObject.name=huge", "-o", "json").stdout,
        "the event",
    )  # fmt: skip


def test_fault_02_a_killed_scheduler_starts_again_from_what_the_cluster_says(live: Live) -> None:
    live.submit("first", share="60")
    eventually(lambda: bool(live.node_of("first")), "the first pod")
    live.stop(signal.SIGKILL)
    live.submit("second", share="60")
    live.submit("third", share="40")
    live.start()

    eventually(lambda: bool(live.node_of("second")) and bool(live.node_of("third")), "the pods of the pause")

    used: dict[tuple[str, str], int] = {}
    for name in ("first", "second", "third"):
        for device, share in live.devices(name):
            used[live.node_of(name), device] = used.get((live.node_of(name), device), 0) + share
    assert all(share <= 100 for share in used.values())


def test_a_stop_is_quick_and_clean_while_bindings_are_refused(live: Live) -> None:
    live.submit("there", share="10")
    eventually(lambda: bool(live.node_of("there")), "the scheduler works")
    for number in range(20):
        live.submit(f"more-{number}", gpu="1")

    assert live.stop(signal.SIGTERM) == 0


def test_a_pod_leaves_a_gpu_that_failed_when_the_policy_says_so(live: Live) -> None:
    def events() -> str:
        wanted = "involvedObject.name=hit"
        return live.sandbox.kubectl("get", "events", "-n", NAMESPACE, "--field-selector", wanted, "-o", "json").stdout

    install(live.sandbox)
    gpus = {f"live-{number}": {f"GPU-{number}-{index}": "Healthy" for index in range(2)} for number in range(2)}
    for node, health in gpus.items():
        live.tell(node, health)
    rescheduling = {"evictFromUnhealthyAfter": "1s"}
    live.apply({"kind": "HybridPolicy", "metadata": {"name": "live"}, "spec": {"rescheduling": rescheduling}})
    try:
        live.stop()
        live.start()
        live.submit("hit", share="30")
        eventually(lambda: bool(live.node_of("hit")), "the pod is placed")
        node, [(device, _)] = live.node_of("hit"), live.devices("hit")
        assert device in gpus[node]
        live.tell(node, gpus[node] | {device: "Unhealthy"})
        eventually(
            lambda: "NotFound" in live.sandbox.kubectl("get", "pod", "hit", "-n", NAMESPACE, check=False).stderr, "gone"
        )
        eventually(lambda: "GpuUnhealthy" in events(), "the event")
    finally:
        live.sandbox.kubectl("delete", "hybridpolicies,gpunodes", "--all")


def test_a_pod_that_asks_for_gpu_memory_waits_until_a_label_or_the_agent_tells_it(live: Live) -> None:
    install(live.sandbox)
    live.stop()
    for number in range(2):
        unlabel = ("nvidia.com/gpu.memory-", "nvidia.com/gpu.product-")
        live.sandbox.kubectl("label", "node", f"live-{number}", *unlabel)
    try:
        live.start()
        live.submit("large", memory="24Gi", share="30")
        eventually(lambda: live.why("large").startswith("ExceedsNodeCapacity: "), "the reason")
        live.tell("live-1", {"GPU-a": "Healthy", "GPU-b": "Healthy"})
        eventually(lambda: live.node_of("large") == "live-1", "the pod is placed")
    finally:
        live.sandbox.kubectl("delete", "gpunodes", "--all")


def test_the_policy_says_what_its_queues_use_and_is_written_only_when_that_is_new(live: Live) -> None:
    def stored() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(live.sandbox.kubectl("get", "hybridpolicy", "live", "-o", "json").stdout)
        return found

    def queues() -> dict[str, Any]:
        return {queue["name"]: queue for queue in stored().get("status", {}).get("queues", ())}

    install(live.sandbox)
    spec = {"queues": [{"name": "default", "weight": 3}, {"name": "other"}]}
    live.apply({"kind": "HybridPolicy", "metadata": {"name": "live"}, "spec": spec})
    try:
        live.stop()
        live.start()
        live.submit("one", share="50")
        eventually(lambda: queues().get("default", {}).get("running") == 1, "the queue's pod is counted")
        assert queues()["default"]["used"]["gpu"] == "500m"
        assert queues()["other"] | {"name": ""} == queues()["other"] | {"name": "", "running": 0, "pending": 0}
        before = stored()["metadata"]["resourceVersion"]
        live.submit("too-large", share="600")
        eventually(lambda: queues()["default"]["pending"] == 1, "the pod that waits is counted")
        after = stored()["metadata"]["resourceVersion"]
        assert after != before
        live.sandbox.kubectl("delete", "pod", "too-large", "-n", NAMESPACE, "--grace-period=0", "--force")
        eventually(lambda: queues()["default"]["pending"] == 0, "nobody waits any more")
    finally:
        live.sandbox.kubectl("delete", "hybridpolicies", "--all")


def test_the_next_pod_goes_elsewhere_than_one_that_its_kubelet_rejected(live: Live) -> None:
    def rejects(name: str) -> tuple[str, str]:
        """What a kubelet writes when the device plugin refuses; where the pod was."""
        eventually(lambda: bool(live.node_of(name)), "a place")
        status = {
            "phase": "Failed",
            "reason": "UnexpectedAdmissionError",
            "message": "Pod was rejected: Allocate failed",
        }
        live.sandbox.kubectl(
            "patch", "pod", name, "-n", NAMESPACE, "--subresource=status", "-p", json.dumps({"status": status})
        )
        return live.node_of(name), live.devices(name)[0][0]

    places = set()
    for number in range(3):
        live.submit(f"try-{number}", share="30")
        places.add(rejects(f"try-{number}"))
    assert len(places) == 3

    live.stop()
    live.start()
    live.submit("last", share="30")
    eventually(
        lambda: bool(live.node_of("last")),
        "a place by a scheduler that has just started",
        why=lambda: live.why("last") or (live.process is not None and live.process.poll()),
    )
