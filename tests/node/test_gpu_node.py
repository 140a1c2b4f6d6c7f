"""The agent as a process on a real API server, with the mock's GPUs: what its GPUNode says, and how soon."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.api.cluster import install
from tests.node.conftest import Machine
from tests.waiting import eventually

from tangram.cli.gpu_node import GpuNodeBorder, probe_for
from tangram.node.agent import Giving
from tangram.node.gpus import Isolation
from tangram.node.injection import Injector
from tangram.node.nvidia import NvidiaProbe
from tangram.node.predict import trend
from tangram.node.slots import FRACTIONS
from tangram.sandbox.cluster import Sandbox
from tangram.sandbox.nodes import NodeSpec, node_object
from tangram.sandbox.nvml import build, state

NODE = "gpu-node-test"


class Running:
    def __init__(
        self, sandbox: Sandbox, folder: Path, gpus: dict[str, str], node: str = NODE, mode: str = "time-slice"
    ) -> None:
        self.sandbox, self.node = sandbox, node
        command = [sys.executable, "-m", "tangram", "node", "--kubeconfig", str(sandbox.kubeconfig), "--node", node]
        command += ["--mode", mode, "--health-port", "0", "--metrics-port", "0"]
        command += ["--device-plugins", str(folder), "--pod-resources", str(folder / "none.sock")]
        environment = {"PYTHONPATH": ":".join(sys.path), "HOME": str(folder)} | gpus
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=20)

    def read(self) -> dict[str, Any]:
        said = self.sandbox.kubectl("get", "gpunode", self.node, "-o", "json", "--ignore-not-found").stdout
        found: dict[str, Any] = json.loads(said) if said.strip() else {}
        return found

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.read().get("status", {})
        return found


@pytest.fixture
def running(sandbox: Sandbox, machine: Machine, tmp_path: Path) -> Iterator[Running]:
    install(sandbox)
    sandbox.create_nodes([NodeSpec(NODE, 96_000, 1 << 20, 8, "H100")])
    agent = Running(sandbox, tmp_path, build.environment(machine.path))
    yield agent
    agent.stop()
    sandbox.kubectl("delete", "node", NODE)


async def test_a_driver_that_hangs_at_the_start_is_left_to_the_agent_to_tell_of(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, giving = threading.Event(), Giving((FRACTIONS,), Injector(Isolation.TIME_SLICE))
    monkeypatch.setattr(NvidiaProbe, "inventory", lambda probe: answers.wait())
    probe, given = await probe_for(cast("GpuNodeBorder", None), giving, trend, patience=0.05)
    answers.set()
    assert (type(probe), given) == (NvidiaProbe, giving)


def test_a_gpu_node_is_made_and_kept_true(running: Running, machine: Machine) -> None:
    eventually(lambda: running.status().get("gpus") == 8, "a GPUNode with eight GPUs")
    made = running.read()
    assert made["metadata"]["ownerReferences"][0]["kind"] == "Node"
    assert [one["uuid"] for one in made["status"]["devices"]] == [machine.uuid(index) for index in range(8)]
    assert (made["status"]["health"], made["status"]["isolation"]) == ("Healthy", "time-slice")

    machine.gpus[3].xids = [79]
    machine.gpus[3].error = "GPU_IS_LOST"
    machine.tell()
    begun = time.monotonic()
    eventually(lambda: running.status()["health"] == "Unhealthy", "the lost GPU is told")
    print(f"a lost GPU is in the GPUNode after {time.monotonic() - begun:.1f} s (target: 5 s)")
    lost = running.status()
    assert "fallen off the bus" in lost["devices"][3]["healthReason"]
    assert {one["type"]: one["status"] for one in lost["conditions"]}["Healthy"] == "False"
    assert lost["free"] == "7"

    machine.gpus[3].error = None
    machine.tell()
    eventually(lambda: running.status()["devices"][3]["health"] == "Degraded", "it is back and watched")

    status = Path(f"/proc/{running.process.pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0]) / 1024
    print(f"the agent takes {resident:.0f} MiB (target: 80)")


def test_another_vendors_node_is_told_by_what_its_kubelet_says(sandbox: Sandbox, tmp_path: Path) -> None:
    install(sandbox)
    node = node_object(NodeSpec("amd-node-test", 96_000, 1 << 20))
    node["metadata"]["labels"] |= {"amd.com/gpu.product-name": "AMD_Instinct_MI300X", "amd.com/gpu.vram": "196608"}
    node["status"]["capacity"] = node["status"]["capacity"] | {"amd.com/gpu": "4"}
    node["status"]["allocatable"] = node["status"]["allocatable"] | {"amd.com/gpu": "3"}
    sandbox.kubectl("create", "-f", "-", input=json.dumps(node))
    agent = Running(sandbox, tmp_path, {"LD_LIBRARY_PATH": str(tmp_path)}, "amd-node-test")
    try:
        eventually(lambda: agent.status().get("gpus") == 4, "a GPUNode with four GPUs")
        status = agent.status()
        assert (status["model"], status["isolation"], status["health"]) == (
            "AMD_Instinct_MI300X",
            "exclusive",
            "Unhealthy",
        )
        assert [one["health"] for one in status["devices"]] == ["Healthy", "Healthy", "Healthy", "Unhealthy"]
        assert status["devices"][0]["memoryMiB"] == 196608
    finally:
        agent.stop()
        sandbox.kubectl("delete", "node", "amd-node-test")


def test_devices_whose_plugin_comes_after_the_agent_are_told_too(sandbox: Sandbox, tmp_path: Path) -> None:
    install(sandbox)
    node = node_object(NodeSpec("late-node-test", 96_000, 1 << 20))
    sandbox.kubectl("create", "-f", "-", input=json.dumps(node))
    agent = Running(sandbox, tmp_path, {"LD_LIBRARY_PATH": str(tmp_path)}, "late-node-test")
    try:
        eventually(lambda: agent.status().get("conditions"), "a GPUNode that says that there is no driver", seconds=60)
        assert agent.status()["gpus"] == 0
        amounts = {"amd.com/gpu": "2"}
        patch = json.dumps({"status": {"capacity": amounts, "allocatable": amounts}})
        sandbox.kubectl("patch", "node", "late-node-test", "--subresource=status", "--type=merge", "-p", patch)
        eventually(lambda: agent.status().get("gpus") == 2, "a GPUNode with two GPUs", seconds=60)
        assert (agent.status()["model"], agent.status()["isolation"]) == ("amd", "exclusive")
        assert agent.process.poll() is None
    finally:
        agent.stop()
        sandbox.kubectl("delete", "node", "late-node-test")


def test_slices_are_devices_of_the_gpu_node(sandbox: Sandbox, machine: Machine, tmp_path: Path) -> None:
    install(sandbox)
    sandbox.create_nodes([NodeSpec("mig-node-test", 96_000, 1 << 20, 8, "H100")])
    slices = [state.MockSlice(profile="1g.10gb", uuid=f"MIG-{number}") for number in range(7)]
    machine.gpus[0] = state.MockGpu(mig=True, slices=slices)
    machine.tell()
    agent = Running(sandbox, tmp_path, build.environment(machine.path), "mig-node-test", "mig")
    try:
        eventually(lambda: agent.status().get("gpus") == 14, "a GPUNode with seven slices and seven GPUs")
        devices = agent.status()["devices"]
        assert [(one["uuid"], one["index"], one["isolation"]) for one in devices] == [
            *((f"MIG-{number}", 0, "mig") for number in range(7)),
            *((machine.uuid(index), index, "exclusive") for index in range(1, 8)),
        ]
        machine.gpus[0].error = "GPU_IS_LOST"
        machine.tell()
        eventually(lambda: agent.status()["free"] == "7", "the slices of a lost GPU are lost")
        assert [one["health"] for one in agent.status()["devices"]] == ["Unhealthy"] * 7 + ["Healthy"] * 7
    finally:
        agent.stop()
        sandbox.kubectl("delete", "node", "mig-node-test")
