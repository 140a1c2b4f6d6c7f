"""What holds of a share on a real kubelet: who sets its variables last, and whose a process is.

GPUs are the mock's and the MPS daemons fakes; containers, their variables and their processes are real.
"""

import asyncio
import http.client
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.node.rig import Rig, container, pod
from tests.waiting import eventually

from tangram.api.names import GPU_ISOLATION
from tangram.node.mps.control import Control, Times
from tangram.sandbox.nvml import state
from tangram.units import MIB

FIRST = 200.0
"""Seconds for the first pods: where nothing was compiled before, the scheduler compiles at its first decision."""
PERCENTAGE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"


@pytest.fixture
def there(real_rig: Rig) -> Iterator[Rig]:
    """The node, and empty again."""
    yield real_rig
    real_rig.delete_all()


def runs(there: Rig, *names: str) -> None:
    there.wait(lambda: {name for name in names if there.phase(name) == "Running"} == set(names), f"{names} run", FIRST)


def ceiling(there: Rig, index: int) -> str:
    """Percent that the MPS daemon of a GPU gives any client."""
    program = there.folder / "bin" / "nvidia-cuda-mps-control"
    daemon = Control(there.uuid(index), str(program), there.folder / "mps" / there.uuid(index), Times())
    return asyncio.run(daemon.ask("get_default_active_thread_percentage"))


def figures(there: Rig, name: str, label: str) -> dict[str, float]:
    connection = http.client.HTTPConnection("127.0.0.1", there.metrics_port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        text = connection.getresponse().read().decode()
    finally:
        connection.close()
    families = text_string_to_metric_families(text)
    return {one.labels[label]: one.value for family in families for one in family.samples if one.name == name}


def test_a_tenant_s_variables_come_last_and_the_ceiling_of_the_gpu_stays(there: Rig) -> None:
    """The reason for ceilings: no variable of a container is out of its tenant's reach."""
    mine = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "mine"}, "data": {PERCENTAGE: "100"}}
    there.cluster.kubectl("apply", "-f", "-", input=json.dumps(mine))
    there.create(
        pod("from", container("main", 30, envFrom=[{"configMapRef": {"name": "mine"}}])),
        pod("env", container("main", 30, env=[{"name": PERCENTAGE, "value": "90"}])),
        pod("plain", container("main", 30)),
        pod("prefixed", container("main", 30, envFrom=[{"configMapRef": {"name": "mine"}, "prefix": "APP_"}])),
    )
    runs(there, "from", "env", "plain", "prefixed")
    environments = there.environments()
    told = {name: variables[PERCENTAGE] for (name, _), variables in environments.items()}
    assert told == {"from": "100", "env": "90", "plain": "30", "prefixed": "30"}
    assert environments["prefixed", "main"][f"APP_{PERCENTAGE}"] == "100"
    shared = {there.recorded(one)["main"].popitem()[0] for one in there.pods().values()}
    for index in range(2):
        if there.uuid(index) in shared:
            eventually(lambda index=index: ceiling(there, index) == "30.0", "no client gets more than 30 percent", 120)


def test_a_pod_runs_only_where_its_container_reads_a_mode_that_it_accepts(there: Rig) -> None:
    def accepting(name: str, mode: str) -> dict[str, Any]:
        return pod(name, container("main", 30), annotations={GPU_ISOLATION: mode})

    there.create(accepting("held", "mps"), accepting("turns", "time-slice"))
    runs(there, "held")
    there.wait(lambda: there.waits_for("turns") == "IsolationMismatch", "the other is told why it waits")
    there.kill("node")
    there.start_agent("--mode=time-slice")
    try:
        runs(there, "held", "turns")
        there.create(accepting("too-late", "mps"))
        there.wait(lambda: there.waits_for("too-late") == "IsolationMismatch", "no more are placed where nothing holds")
        read = {name: found["TANGRAM_GPU_ISOLATION"] for (name, _), found in there.environments().items()}
        assert read == {"held": "mps", "turns": "time-slice"}
    finally:
        there.kill("node")
        there.start_agent()


def test_a_process_counts_for_the_container_it_runs_in_and_as_stray_where_that_holds_nothing(there: Rig) -> None:
    there.create(pod("a", container("main", 30, script="env; exec sleep 36001")))
    runs(there, "a")
    (own,) = there.recorded(there.pods()["a"])["main"]
    pid = eventually(lambda: next(iter(processes(b"sleep\x0036001\0")), 0), "its process is there")
    work = state.MockProcess(pid=pid, memory_mib=1000, sm_percent=10)
    there.machine.gpus = [state.MockGpu(processes=[work]) for _ in there.machine.gpus]
    there.tell()
    eventually(
        lambda: figures(there, "tangram_container_gpu_memory_used_bytes", "pod") == {"a": 1000 * MIB},
        "the memory is counted for the pod",
    )
    strays = figures(there, "tangram_gpu_stray_memory_bytes", "UUID")
    assert strays == {there.uuid(index): 0 if there.uuid(index) == own else 1000 * MIB for index in range(2)}


def processes(command: bytes) -> list[int]:
    found = []
    for path in Path("/proc").iterdir():
        try:
            if path.name.isdigit() and (path / "cmdline").read_bytes() == command:
                found.append(int(path.name))
        except OSError:
            continue
    return found


KILLS = int(os.environ.get("TANGRAM_AGENT_KILLS", "3"))
"""How often the agent is killed, replaced and killed for its memory, in turn."""


def test_fault_09_an_agent_that_ends_ends_nobody_s_work(there: Rig) -> None:
    """Killed, replaced as an update does, and killed for its memory, under eight pods that share the node's GPUs."""
    names = [f"p{number}" for number in range(8)]
    there.create(*(pod(name, container("main", 25, script=f"exec sleep 3700{name[1:]}")) for name in names))
    runs(there, *names)
    tenants = {name: pid_of(f"sleep\0003700{name[1:]}\0".encode()) for name in names}
    servers = [server_of(there, index) for index in range(2)]
    daemons = {index: daemon_of(there, index) for index in range(2)}
    for turn in range(KILLS):
        if turn % 3 == 0:
            there.kill("node")
        elif turn % 3 == 1:
            agent = there.processes.pop("node")
            agent.terminate()
            agent.wait(20)
        else:
            there.kill("node")
            there.start_without_memory()
        there.start_agent()
        assert {name: pid_of(f"sleep\0003700{name[1:]}\0".encode()) for name in names} == tenants
        assert all(Path(f"/proc/{server}").exists() for server in servers)
        assert {index: daemon_of(there, index) for index in range(2)} == daemons
    assert {name: there.phase(name) for name in names} == dict.fromkeys(names, "Running")
    there.wait(there.all_healthy, "the GPUs are known to be well again")


def pid_of(command: bytes) -> int:
    """The one process with this command line."""
    (pid,) = processes(command)
    return pid


def control_of(there: Rig, index: int) -> Control:
    program = there.folder / "bin" / "nvidia-cuda-mps-control"
    return Control(there.uuid(index), str(program), there.mps_root / there.uuid(index), Times())


def server_of(there: Rig, index: int) -> int:
    """A server of MPS, as a tenant's first context makes it start one."""
    answer = asyncio.run(control_of(there, index).ask("start_server -uid 0\nget_server_list"))
    return int(answer.split()[0])


def daemon_of(there: Rig, index: int) -> int:
    return int((there.mps_root / there.uuid(index) / "pipe" / "nvidia-cuda-mps-control.pid").read_text())
