"""How long big things take on a real API server: a gang on 512 nodes, a refusal on a full pool, 4,000 GPUs filled."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from tests.bench.binding import PODS, clear, concurrently, own_cluster, prepare_nodes, tangram
from tests.bench.workload import Machine

from tangram.api.objects import Condition, Metadata, Struct
from tangram.cluster.kubeconfig import load_access
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch

GPUS = 8


class SeenSpec(Struct, frozen=True):
    """Where a pod is."""

    node_name: str = ""


class SeenStatus(Struct, frozen=True):
    """What a pod has been told."""

    conditions: tuple[Condition, ...] = ()


class SeenPod(Struct, frozen=True):
    """As much of a pod as the measurements need."""

    metadata: Metadata
    spec: SeenSpec = SeenSpec()
    status: SeenStatus = SeenStatus()

    @property
    def why(self) -> str:
        """The reason that it waits for."""
        return next((c.message for c in self.status.conditions if c.type == "PodScheduled" and c.status == "False"), "")


@dataclass
class Watched:
    """All pods, and a wake-up for every change."""

    watch: ListWatch[SeenPod]
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def until(self, true: Callable[[list[SeenPod]], bool], limit: float = 180.0) -> float:
        """Seconds until the condition holds of all pods."""
        begun = time.perf_counter()
        while not true(list(self.watch.objects.values())):
            if time.perf_counter() - begun > limit:
                return float("inf")
            self.changed.clear()
            try:
                await asyncio.wait_for(self.changed.wait(), 1.0)
            except TimeoutError:
                continue
        return time.perf_counter() - begun


def pod(name: str, gpus: int, gang: str = "", minimum: int = 1) -> dict[str, Any]:
    """A pod of whole GPUs, in a gang or alone."""
    amounts = {"cpu": "1", "memory": "1Gi", "nvidia.com/gpu": str(gpus)}
    metadata: dict[str, Any] = {"name": name, "namespace": "bench"}
    if gang:
        metadata["labels"] = {"scheduling.example.com/gang": gang}
        metadata["annotations"] = {"scheduling.example.com/gang-min": str(minimum)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "schedulerName": "tangram",
            "automountServiceAccountToken": False,
            "containers": [{"name": "main", "image": "none", "resources": {"requests": amounts, "limits": amounts}}],
        },
    }


async def create(client: Client, pods: list[dict[str, Any]]) -> None:
    """Create pods, many at a time."""
    await concurrently(client, [("POST", PODS, msgspec.json.encode(one)) for one in pods])


def bound(pods: list[SeenPod], prefix: str) -> int:
    """How many pods of a name have a node."""
    return sum(1 for one in pods if one.metadata.name.startswith(prefix) and one.spec.node_name)


@asynccontextmanager
async def scheduled(client: Client, kubeconfig: Path, nodes: int) -> AsyncIterator[Watched]:
    """Nodes of 8 GPUs, a scheduler that keeps running, and what happens to the pods."""
    await prepare_nodes(client, [Machine(f"gpu-{n:04}", 96_000, 786_432, GPUS, "A100") for n in range(nodes)])
    watched = Watched(ListWatch(client, PODS, SeenPod, lambda *_: watched.changed.set()))
    watching = asyncio.create_task(watched.watch.run())
    await watched.watch.synced.wait()
    stop = await tangram(client, [], kubeconfig)
    try:
        yield watched
    finally:
        watching.cancel()
        await stop()


def show(title: str, figures: Mapping[str, float]) -> None:
    """Print figures below their title."""
    print(title)
    for meaning, value in figures.items():
        print(f"  {meaning:62} {value:7.2f}")


async def measure(kubeconfig: Path) -> dict[str, float]:
    """All measurements, one after the other."""
    figures: dict[str, float] = {}
    async with Client(load_access(kubeconfig)) as client, scheduled(client, kubeconfig, 512) as watched:
        await create(client, [pod("warm", 1)])
        await watched.until(lambda pods: bound(pods, "warm") == 1)
        await clear(client)

        gang = [pod(f"gang-{n}", GPUS, "big", 512) for n in range(512)]
        begun = time.perf_counter()
        await create(client, gang[:-1])
        created = time.perf_counter()
        await create(client, gang[-1:])
        await watched.until(lambda pods: bound(pods, "gang-") == 512)
        figures["512-pod gang on 512 nodes, last pod created to all bound, s"] = time.perf_counter() - created
        figures["512-pod gang on 512 nodes, first pod created to all bound, s"] = time.perf_counter() - begun

        await create(client, [pod(f"late-{n}", GPUS, "late", 10) for n in range(10)])
        figures["verdict for an 80-GPU gang on the full pool, s"] = await watched.until(
            lambda pods: sum(1 for one in pods if one.metadata.name.startswith("late-") and one.why) == 10
        )
        await clear(client)

        begun = time.perf_counter()
        await create(client, [pod(f"one-{n}", 1) for n in range(4000)])
        await watched.until(lambda pods: bound(pods, "one-") == 4000)
        figures["4,000 one-GPU pods, creation included, s"] = time.perf_counter() - begun
    return figures


def run() -> dict[str, float]:
    """Run and print the measurements."""
    with own_cluster() as sandbox:
        figures = asyncio.run(measure(sandbox.kubeconfig))
    show("512 nodes of 8 GPUs on a real API server, one scheduler, everything on this machine", figures)
    return figures
