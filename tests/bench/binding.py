"""Pods bound per second on a real API server: a trivial binder (the ceiling), kube-scheduler, tangram; in one run."""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tests.bench.workload import Machine, machines, node_manifest, pod_manifest, tasks

from tangram.api.objects import Metadata, Struct
from tangram.cluster.kubeconfig import load_access
from tangram.cluster.rest import Client, Sending
from tangram.cluster.watch import ListWatch
from tangram.sandbox.binaries import build
from tangram.sandbox.cluster import Sandbox, Wish, down, up

PODS = "/api/v1/namespaces/bench/pods"
PATIENCE = 12.0
"""Seconds without a new binding after which a contender counts as done."""


class BoundSpec(Struct, frozen=True):
    """Where a pod is."""

    node_name: str = ""


class BoundPod(Struct, frozen=True):
    """As little of a pod as tells that it is bound."""

    metadata: Metadata
    spec: BoundSpec = BoundSpec()


@dataclass
class Progress:
    """When pods were seen bound, in the order seen."""

    moments: list[float]
    want: int
    all_bound: asyncio.Event


async def concurrently(client: Client, jobs: Iterable[tuple[str, str, bytes | None]], width: int = 64) -> None:
    """Send many requests, ``width`` at a time."""
    waiting = iter(list(jobs))

    async def worker() -> None:
        for method, path, body in waiting:
            await client.request(method, path, body=body, sending=Sending(guarded=True))

    await asyncio.gather(*(worker() for _ in range(width)))


async def prepare(client: Client) -> str:
    """Create the namespace and the trace's nodes; what they are."""
    nodes, source = machines()
    await prepare_nodes(client, nodes)
    return f"{len(nodes)} {source} nodes"


async def prepare_nodes(client: Client, nodes: list[Machine]) -> None:
    """Create the namespace and the nodes, without the taint that admission gives to nodes without a heartbeat."""
    encode = msgspec.json.encode
    namespace = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "bench"}}
    await client.request("POST", "/api/v1/namespaces", body=encode(namespace))
    await concurrently(client, (("POST", "/api/v1/nodes", encode(node_manifest(node))) for node in nodes))
    untaint = encode({"spec": {"taints": None}})
    for node in nodes:
        path = f"/api/v1/nodes/{node.name}"
        await client.request("PATCH", path, body=untaint, sending=Sending(content_type="application/merge-patch+json"))


async def queue_pods(client: Client, scheduler: str, count: int) -> list[str]:
    """Create the pods; their names."""
    made = [(f"pod-{index:05}", task) for index, task in enumerate(tasks(count))]
    await concurrently(
        client, (("POST", PODS, msgspec.json.encode(pod_manifest(name, task, scheduler))) for name, task in made)
    )
    return [name for name, _ in made]


async def clear(client: Client) -> None:
    """Delete all pods at once and wait until they are gone."""
    await client.request("DELETE", PODS, body=b'{"gracePeriodSeconds":0}')
    while b'"items":[]' not in await client.request("GET", PODS, params={"limit": "1"}):  # noqa: ASYNC110 - another process empties it
        await asyncio.sleep(0.1)


async def trivial(client: Client, names: list[str], _kubeconfig: Path) -> Callable[[], Awaitable[None]]:
    """Bind round-robin in a process of its own, annotation included: nothing can be faster than that."""
    return await start_process([sys.executable, "-m", "tests.bench.trivial", str(_kubeconfig)])


async def tangram(client: Client, names: list[str], kubeconfig: Path) -> Callable[[], Awaitable[None]]:
    """The scheduler as it ships, its events included."""
    program = Path(sys.executable).with_name("tangram")
    ports = ["--health-port", "0", "--metrics-port", "0", "--no-leader-election"]
    return await start_process([str(program), "scheduler", "--kubeconfig", str(kubeconfig), *ports])


def kube_scheduler(program: Path) -> Callable[[Client, list[str], Path], Awaitable[Callable[[], Awaitable[None]]]]:
    """kube-scheduler with its client's limits out of the way."""

    async def start(client: Client, names: list[str], kubeconfig: Path) -> Callable[[], Awaitable[None]]:
        config = {
            "apiVersion": "kubescheduler.config.k8s.io/v1",
            "kind": "KubeSchedulerConfiguration",
            "leaderElection": {"leaderElect": False},
            "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 5000, "burst": 5000},
            "profiles": [{"schedulerName": "kube-scheduler"}],
        }
        file = kubeconfig.with_name("bench-kube-scheduler.json")
        file.write_bytes(msgspec.json.encode(config))
        return await start_process([str(program), f"--config={file}", "--secure-port=0"])

    return start


async def start_process(command: list[str]) -> Callable[[], Awaitable[None]]:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=Path(__file__).parents[2]
    )

    async def stop() -> None:
        if process.returncode is None:
            process.terminate()
        await process.wait()

    return stop


Start = Callable[[Client, list[str], Path], Awaitable[Callable[[], Awaitable[None]]]]


async def measure(client: Client, kubeconfig: Path, scheduler: str, start: Start, count: int) -> float:
    """Queue the pods, start the contender, and return pods bound per second from the first to the last."""
    progress = Progress([], count, asyncio.Event())

    def seen(change: str, old: BoundPod | None, new: BoundPod | None) -> None:
        if new is not None and new.spec.node_name and not (old is not None and old.spec.node_name):
            progress.moments.append(time.perf_counter())
            if len(progress.moments) >= progress.want:
                progress.all_bound.set()

    names = await queue_pods(client, scheduler, count)
    watch = ListWatch(client, PODS, BoundPod, seen)
    watching = asyncio.create_task(watch.run())
    await watch.synced.wait()
    stop = await start(client, names, kubeconfig)
    try:
        await settled(progress)
    finally:
        watching.cancel()
        await stop()
    await clear(client)
    if len(progress.moments) < count:
        print(f"  {scheduler}: bound {len(progress.moments)} of {count} and stopped", flush=True)
    # The last twentieth is left out: pods that fit nowhere at first wait minutes for kube-scheduler's second look.
    moments = progress.moments[: max(2, count * 19 // 20)]
    return (len(moments) - 1) / (moments[-1] - moments[0]) if len(moments) > 1 else 0.0


async def settled(progress: Progress) -> None:
    """Wait until all pods are bound, or none has been for a while."""
    begun = time.perf_counter()
    while not progress.all_bound.is_set():
        try:
            await asyncio.wait_for(progress.all_bound.wait(), 1.0)
        except TimeoutError:
            last = progress.moments[-1] if progress.moments else begun + PATIENCE
            if time.perf_counter() - last > PATIENCE:
                return


async def rounds(sandbox: Sandbox, peer: Path, number: int, count: int) -> dict[str, list[float]]:
    """Each contender in turn, ``number`` times, on one API server."""
    contenders: dict[str, Start] = {
        "trivial": trivial,
        "kube-scheduler": kube_scheduler(peer),
        "tangram": tangram,
    }
    rates: dict[str, list[float]] = {name: [] for name in contenders}
    async with Client(load_access(sandbox.kubeconfig)) as client:
        where = await prepare(client)
        print(f"binding {count} queued pods on {where}, {os.cpu_count()} cores, everything on this machine", flush=True)
        for turn in range(number):
            for name, start in contenders.items():
                rate = await measure(client, sandbox.kubeconfig, name, start, count)
                rates[name].append(rate)
                print(f"  round {turn + 1}  {name:15} {rate:7.0f} pods/s", flush=True)
    return rates


@contextmanager
def own_cluster() -> Iterator[Sandbox]:
    """A cluster for one benchmark, gone with it."""
    with tempfile.TemporaryDirectory(prefix="tangram-bench-") as root:
        name = f"bench-{os.getpid()}"
        cluster = up(name, state_root=Path(root), wish=Wish(fsync=False, tied_to_parent=True))
        try:
            yield cluster
        finally:
            down(name, state_root=Path(root))


def run(number: int = 5, count: int = 2000) -> dict[str, Any]:
    """Run and print the comparison."""
    peer = build(("kube-scheduler",), report=print)["kube-scheduler"]
    with own_cluster() as sandbox:
        rates = asyncio.run(rounds(sandbox, peer, number, count))
    middle = {name: statistics.median(found) for name, found in rates.items()}
    ceiling, peer = middle["trivial"], middle["kube-scheduler"]
    print("\n  median of the rounds        pods/s   of the ceiling   of kube-scheduler")
    for name, rate in middle.items():
        print(f"  {name:24} {rate:9.0f} {rate / ceiling:13.0%} {rate / peer:17.2f}x")
    return middle
