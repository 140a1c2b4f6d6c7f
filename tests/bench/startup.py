"""How long a scheduler that has just been started takes to its first binding on a large cluster that is there already.

The API server is a double over local HTTP, in a process of its own: it streams the objects as a real one does, as wide
as real objects are, and writes down when the first binding came.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from aiohttp import web
from tests.bench.binding import start_process

NODES, BOUND, WAITING = 5_000, 35_000, 15_000
GPUS = 8
_CHUNK = 500
"""Events written at once."""


def wide(metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata with what makes objects large: who has written which field."""
    fields = {f"f:field-{number}": {"f:part": {}, "f:other": {}} for number in range(40)}
    written = {"manager": "somebody", "operation": "Update", "apiVersion": "v1", "fieldsV1": {"f:spec": fields}}
    return {"resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [written]} | metadata


def node(number: int) -> dict[str, Any]:
    """A node of eight GPUs."""
    name = f"node-{number:05}"
    amounts = {"cpu": "128", "memory": "1024Gi", "pods": "250", "nvidia.com/gpu": str(GPUS)}
    labels = {"kubernetes.io/hostname": name, "nvidia.com/gpu.product": "A100"}
    status = {"allocatable": amounts, "capacity": amounts, "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": wide({"name": name, "uid": f"uid-{name}", "labels": labels}), "spec": {}, "status": status}


def pod(number: int) -> dict[str, Any]:
    """A pod of one GPU; the first ones run already."""
    name, metadata = f"pod-{number}", dict[str, Any]()
    amounts = {"cpu": str(1 + number % 8), "memory": "8Gi", "nvidia.com/gpu": "1"}
    container = {"name": "main", "image": "none", "resources": {"requests": amounts, "limits": amounts}}
    spec: dict[str, Any] = {"schedulerName": "tangram", "containers": [container]}
    if number < BOUND:
        spec["nodeName"] = f"node-{number % NODES:05}"
        shares = [{"id": str(number // NODES), "share": 100}]
        metadata["annotations"] = {"scheduling.example.com/gpus": json.dumps({"main": shares})}
    metadata |= {"name": name, "namespace": "default", "uid": f"uid-{name}", "labels": {"app": f"app-{number % 50}"}}
    return {"metadata": wide(metadata), "spec": spec, "status": {"phase": "Running" if number < BOUND else "Pending"}}


def chunks(objects: list[dict[str, Any]], kind: str) -> list[bytes]:
    """The objects as the beginning of a watch."""
    lines = [
        json.dumps({"type": "ADDED", "object": {"kind": kind, "apiVersion": "v1"} | one}).encode() + b"\n"
        for one in objects
    ]
    return [b"".join(lines[begin : begin + _CHUNK]) for begin in range(0, len(lines), _CHUNK)]


async def serve() -> None:
    """The double; prints its port, then the moment of the first binding."""
    begun = {
        "/api/v1/nodes": chunks([node(number) for number in range(NODES)], "Node"),
        "/api/v1/pods": chunks([pod(number) for number in range(BOUND + WAITING)], "Pod"),
    }
    end = {"resourceVersion": "7", "annotations": {"k8s.io/initial-events-end": "true"}}
    bound = asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        if request.method == "POST" and request.path.endswith("/binding") and not bound.is_set():
            print(time.time(), flush=True)
            bound.set()
        if request.method != "GET":
            return web.json_response({"kind": "Status", "status": "Success"}, status=201)
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": "7"}, "items": [], "major": "1", "minor": "34"})
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        if "Succeeded" not in request.query.get("fieldSelector", "").split("!=")[0]:
            for chunk in begun.get(request.path, ()):
                await response.write(chunk)
        await response.write(json.dumps({"type": "BOOKMARK", "object": {"metadata": end}}).encode() + b"\n")
        await asyncio.Event().wait()
        return response

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    print(runner.addresses[0][1], flush=True)
    await bound.wait()
    await asyncio.sleep(1)


def kubeconfig(folder: Path, port: int) -> Path:
    """How to reach the double."""
    cluster = {"name": "double", "cluster": {"server": f"http://127.0.0.1:{port}"}}
    context = {"name": "double", "context": {"cluster": "double", "user": "nobody"}}
    user = {"name": "nobody", "user": {}}
    path = folder / "kubeconfig"
    path.write_text(
        json.dumps({"current-context": "double", "clusters": [cluster], "contexts": [context], "users": [user]})
    )
    return path


async def measure() -> float:
    """Seconds from the start of the process to its first binding."""
    command = [sys.executable, "-m", "tests.bench.startup"]
    double = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    assert double.stdout is not None
    try:
        port = int(await double.stdout.readline())
        with tempfile.TemporaryDirectory(prefix="tangram-bench-") as root:
            program = str(Path(sys.executable).with_name("tangram"))
            ports = ["--health-port", "0", "--metrics-port", "0", "--no-leader-election"]
            begun = time.time()
            stop = await start_process(
                [program, "scheduler", "--kubeconfig", str(kubeconfig(Path(root), port)), *ports]
            )
            try:
                return float(await double.stdout.readline()) - begun
            finally:
                await stop()
    finally:
        if double.returncode is None:
            double.terminate()
        await double.wait()


def run() -> float:
    """Run and print the measurement."""
    seconds = asyncio.run(measure())
    print(f"start-up: {NODES} nodes, {BOUND} running and {WAITING} waiting pods, from a double of the API server")
    print(f"  process start to first binding, s {seconds:7.2f}")
    return seconds


if __name__ == "__main__":
    asyncio.run(serve())
