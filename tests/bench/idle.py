"""What a controller costs while nothing happens: in an empty cluster, and beside thousands of objects that are at rest.

The real controller on a real API server makes all of it: jobs whose pods run and end, and services that serve; kwok
plays the kubelets. Then only signs of life come: leases, bookmarks, watches that end in their time.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.bench.binding import concurrently
from tests.bench.startup_real import cpu_seconds, resident
from tests.controllers.builders import job_object, revision, role, service_object

from tangram.api.objects import Metadata, Struct
from tangram.cluster.kubeconfig import load_access
from tangram.cluster.paths import INFERENCE_SERVICES, TRAINING_JOBS, Resource
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch
from tangram.controllers.watching import STREAM_SECONDS
from tangram.sandbox.cluster import Sandbox, Wish, down, up
from tangram.sandbox.nodes import NodeSpec

OF_EACH, AT_ONCE = 5_000, 500
"""Jobs, and services; so many are made before those are waited for."""
NAMESPACES = 20
WINDOW = STREAM_SECONDS + 30
"""Seconds that are measured: each watch has ended and begun again in them."""
ALLOWED_PERCENT = 2.0
_NODES = [NodeSpec(f"idle-{number}", 256_000, 1024 * 1024, 8, "A100") for number in range(100)]
_ROOT = Path(__file__).resolve().parents[2]
_RESTING = ("Complete", "Ready")
_PATIENCE = 3600.0


def manifests(number: int) -> Iterator[tuple[Resource, dict[str, Any]]]:
    """A job whose pod ends after a second, and a service of one replica."""
    job = job_object(role("worker"), name=f"job-{number:05}")
    ends = {"sandbox.scheduling.example.com/complete-after": "1s"}
    job["spec"]["roles"][0]["template"]["metadata"] = {"annotations": ends}
    for kind, made in (
        (TRAINING_JOBS, job),
        (INFERENCE_SERVICES, service_object(revision(), name=f"service-{number:05}", port=8000)),
    ):
        made["metadata"] = {"name": made["metadata"]["name"], "namespace": f"team-{number % NAMESPACES}"}
        yield kind, made


async def fill(client: Client) -> None:
    """Make the objects and wait until they rest."""
    encode, begun = msgspec.json.encode, time.monotonic()
    for number in range(NAMESPACES):
        body = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": f"team-{number}"}}
        await client.request("POST", "/api/v1/namespaces", body=encode(body))
    async with resting(client) as at_rest:
        for first in range(0, OF_EACH, AT_ONCE):
            made = [one for number in range(first, first + AT_ONCE) for one in manifests(number)]
            requests = [("POST", kind.collection(item["metadata"]["namespace"]), encode(item)) for kind, item in made]
            await concurrently(client, requests, width=16)
            while len(at_rest) < 2 * (first + AT_ONCE):
                if time.monotonic() - begun > _PATIENCE:
                    raise SystemExit("the objects did not come to rest")
                await asyncio.sleep(0.2)


class _Status(Struct, frozen=True):
    phase: str = ""


class _Made(Struct, frozen=True):
    metadata: Metadata
    status: _Status = _Status()


@asynccontextmanager
async def resting(client: Client) -> AsyncIterator[set[str]]:
    """The uids of our objects that are done, or serve, as a watch shows them."""
    at_rest: set[str] = set()

    def seen(_change: str, _old: _Made | None, new: _Made | None) -> None:
        if new is not None and new.status.phase in _RESTING:
            at_rest.add(new.metadata.uid)

    watches = [ListWatch(client, kind.collection(), _Made, seen) for kind in (TRAINING_JOBS, INFERENCE_SERVICES)]
    tasks = [asyncio.create_task(watch.run()) for watch in watches]
    try:
        yield at_rest
    finally:
        for task in tasks:
            task.cancel()


@asynccontextmanager
async def started(*arguments: str, **options: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python program of this checkout, until the block ends."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", *arguments, cwd=_ROOT, **options)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def percent_of_a_core(process: int) -> float:
    """What the process uses in the window."""
    used, begun = cpu_seconds(process), time.monotonic()
    await asyncio.sleep(WINDOW)
    return 100 * (cpu_seconds(process) - used) / (time.monotonic() - begun)


async def measure(sandbox: Sandbox) -> tuple[float, float]:
    """Percent of a core of an idle controller: in an empty cluster, and in a full one."""
    arguments = ["tangram", "controller", "--kubeconfig", str(sandbox.kubeconfig), "--lease-namespace", "default"]
    arguments += ["--health-port", "0", "--metrics-port", "0"]
    names = ",".join(node.name for node in _NODES)
    async with (
        Client(load_access(sandbox.kubeconfig)) as client,
        started("tests.controllers.binder", str(sandbox.kubeconfig), names, stdin=asyncio.subprocess.PIPE),
        started(*arguments) as controller,
    ):
        await asyncio.sleep(10.0)
        empty = await percent_of_a_core(controller.pid)
        print(f"  empty cluster: {empty:.2f} % of a core, {resident(controller.pid)} MiB", flush=True)
        begun = time.monotonic()
        await fill(client)
        print(f"  {OF_EACH} jobs and {OF_EACH} services made in {time.monotonic() - begun:.0f} s", flush=True)
        await asyncio.sleep(30.0)
        full = await percent_of_a_core(controller.pid)
        print(
            f"  all of them at rest: {full:.2f} % of a core (allowed {ALLOWED_PERCENT:.0f}), "
            f"{resident(controller.pid)} MiB",
            flush=True,
        )
    return empty, full


def run() -> tuple[float, float]:
    """Run and print the measurement."""
    print(f"idle controller: {OF_EACH} finished jobs and {OF_EACH} services that serve on a real API server")
    with tempfile.TemporaryDirectory(prefix="tangram-bench-") as root:
        name = f"idle-{os.getpid()}"
        sandbox = up(name, Wish(fsync=False, tied_to_parent=True), state_root=Path(root))
        try:
            sandbox.create_nodes(_NODES)
            sandbox.kubectl("apply", "--server-side", "-f", str(_ROOT / "crds"))
            sandbox.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=60s")
            return asyncio.run(measure(sandbox))
        finally:
            down(name, state_root=Path(root))
