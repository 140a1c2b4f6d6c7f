"""How long a scheduler that has just been started takes to its first binding on a large cluster: a real API server.

The cluster is made in the sandbox's etcd and kube-apiserver: nodes with the labels and image lists of real ones, and
bound pods as wide as real ones, one request each, which is what takes long. Nobody runs the pods.
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tests.bench.binding import PODS, BoundPod, concurrently

from tangram.cluster.kubeconfig import load_access
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch, Options
from tangram.sandbox.cluster import Sandbox, Wish, down, up
from tangram.sandbox.nodes import NodeSpec, node_object

NODES, PODS_PER_NODE, GPUS = 5_000, 10, 8
ROUNDS = 3
_IMAGES = 50
"""As many as a kubelet reports."""
_CRDS = Path(__file__).resolve().parents[2] / "crds"


def node(number: int) -> dict[str, Any]:
    """A node that nobody heartbeats, as wide as a real one."""
    made = node_object(NodeSpec(f"node-{number:05}", 128_000, 1024 * 1024, GPUS, "A100", rack=f"rack-{number // 8}"))
    del made["metadata"]["annotations"]
    names = (f"registry.example.com/team-{image}/training@sha256:{image:064x}" for image in range(_IMAGES))
    made["status"]["images"] = [{"names": [name], "sizeBytes": 8_000_000_000} for name in names]
    return made


def pod(number: int) -> dict[str, Any]:
    """A bound pod: of the ten on a node six have a GPU, two share one, two have none; one GPU stays free."""
    place, part = number // NODES, [{"id": str(min(number // NODES, 6)), "share": 100}]
    amounts = {"cpu": str(1 + number % 8), "memory": f"{8 + number % 4}Gi"}
    if place < 6:
        amounts["nvidia.com/gpu"] = "1"
    elif place < 8:
        amounts["scheduling.example.com/gpu"], part = "50", [{"id": "6", "share": 50}]
    made = _wide(f"pod-{number:05}", amounts)
    made["spec"]["nodeName"] = f"node-{number % NODES:05}"
    if place < 8:
        made["metadata"]["annotations"]["scheduling.example.com/gpus"] = json.dumps({"main": part})
    return made


def waiting(number: int) -> dict[str, Any]:
    """A pod of one GPU that waits for the scheduler."""
    return _wide(f"waiting-{number}", {"cpu": "1", "memory": "8Gi", "nvidia.com/gpu": "1"})


def _wide(name: str, amounts: dict[str, str]) -> dict[str, Any]:
    """A pod with what makes real ones wide: labels, variables, mounts, probes, tolerations."""
    team = f"team-{sum(map(ord, name)) % 50}"
    labels = {f"app.kubernetes.io/{key}": team for key in ("name", "instance", "component", "part-of", "managed-by")}
    container = {
        "name": "main",
        "image": f"registry.example.com/{team}/training:2026.11",
        "command": ["python", "-m", "training", "--config", f"/etc/training/{team}.yaml", "--resume"],
        "env": [{"name": f"SETTING_{index}", "value": f"value {index} of {team}"} for index in range(20)],
        "resources": {"requests": amounts, "limits": amounts},
        "volumeMounts": [{"name": f"volume-{index}", "mountPath": f"/mnt/{index}"} for index in range(4)],
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": 8080}, "periodSeconds": 30},
    }
    spec = {
        "schedulerName": "tangram",
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "containers": [container],
        "volumes": [{"name": f"volume-{index}", "emptyDir": {}} for index in range(4)],
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    }
    notes = {f"example.com/note-{index}": f"{team} wrote this for itself" for index in range(5)}
    metadata = {"name": name, "namespace": "bench", "labels": labels, "annotations": notes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


async def fill(client: Client) -> None:
    """Make the cluster."""
    encode = msgspec.json.encode
    namespace = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "bench"}}
    await client.request("POST", "/api/v1/namespaces", body=encode(namespace))

    def requests() -> Iterator[tuple[str, str, bytes]]:
        for number in range(NODES):
            yield "POST", "/api/v1/nodes", encode(node(number))
        for number in range(NODES * PODS_PER_NODE):
            yield "POST", PODS, encode(pod(number))

    await concurrently(client, requests())


@dataclass(frozen=True)
class Start:
    """What it took from the start of a scheduler to its first binding."""

    seconds: float
    cpu: float
    """Seconds of CPU time of the scheduler."""
    server_cpu: float
    """Seconds of CPU time of the API server meanwhile."""
    mebibytes: int
    """What the scheduler holds then."""


async def first_binding(client: Client, kubeconfig: Path, server: int, number: int) -> Start:
    """Start a scheduler on the cluster, where one pod waits; ``server``: the API server's process."""
    made = waiting(number)
    await client.request("POST", PODS, body=msgspec.json.encode(made))
    seen = asyncio.Event()

    def look(_change: str, _old: BoundPod | None, new: BoundPod | None) -> None:
        if new is not None and new.spec.node_name:
            seen.set()

    watch = ListWatch(client, PODS, BoundPod, look, Options(field_selector=f"metadata.name={made['metadata']['name']}"))
    watching = asyncio.create_task(watch.run())
    await watch.synced.wait()
    program = str(Path(sys.executable).with_name("tangram"))
    ports = ["--health-port", "0", "--metrics-port", "0", "--no-leader-election"]
    begun, used = time.perf_counter(), cpu_seconds(server)
    process = await asyncio.create_subprocess_exec(program, "scheduler", "--kubeconfig", str(kubeconfig), *ports)
    try:
        await asyncio.wait_for(seen.wait(), 300)
        seconds = time.perf_counter() - begun
        return Start(seconds, cpu_seconds(process.pid), cpu_seconds(server) - used, resident(process.pid))
    finally:
        watching.cancel()
        if process.returncode is None:
            process.terminate()
        await process.wait()


def resident(process: int) -> int:
    """MiB of memory that a process holds."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") >> 20


def cpu_seconds(process: int) -> float:
    """Seconds of CPU time that a process has used."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def measure(sandbox: Sandbox) -> float:
    """Make the cluster, then start a scheduler on it a few times; the median of the seconds that it took."""
    server = next(one.pid for one in sandbox.state.processes if one.name == "kube-apiserver")
    async with Client(load_access(sandbox.kubeconfig)) as client:
        begun = time.perf_counter()
        await fill(client)
        print(f"  made in {time.perf_counter() - begun:.0f} s", flush=True)
        for what, path in (("node", "/api/v1/nodes"), ("pod", PODS)):
            body = await client.request("GET", path, params={"limit": "100"})
            print(f"  JSON of a {what}: {len(body) // 100} bytes", flush=True)
        print("  to the first binding, s   CPU time of the scheduler, s   of the API server, s   scheduler holds, MiB")
        taken = []
        for number in range(ROUNDS):
            one = await first_binding(client, sandbox.kubeconfig, server, number)
            print(f"  {one.seconds:23.2f} {one.cpu:30.2f} {one.server_cpu:22.2f} {one.mebibytes:22d}", flush=True)
            taken.append(one.seconds)
    return statistics.median(taken)


def run() -> float:
    """Run and print the measurement."""
    print(f"start-up: {NODES} nodes and {NODES * PODS_PER_NODE} bound pods on a real API server, one pod waits")
    with tempfile.TemporaryDirectory(prefix="tangram-bench-") as root:
        name = f"bench-{os.getpid()}"
        sandbox = up(name, state_root=Path(root), wish=Wish(fsync=False, tied_to_parent=True))
        try:
            sandbox.kubectl("apply", "--server-side", "-f", str(_CRDS))
            return asyncio.run(measure(sandbox))
        finally:
            down(name, state_root=Path(root))
