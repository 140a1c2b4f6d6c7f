"""Milliseconds of a scrape of a full node: 8 GPUs with 20 pods each, over real HTTP."""

import asyncio
import statistics
import time
from pathlib import Path

import aiohttp
from prometheus_client import CollectorRegistry

from tangram.cli.serving import serving
from tangram.node.exporter import Exporter, Observation
from tangram.node.gpus import Condition, Gpu, Health, Holding, Inventory, Isolation, Process, Reading
from tangram.node.processes import Owner, Processes

GPUS, PODS, SCRAPES, PORT = 8, 20, 200, 18099
ALLOWED_MILLISECONDS = 50


class Known(Processes):
    """Process 100 * gpu + pod belongs to that pod."""

    def blindness(self) -> str:
        return ""

    def owner(self, pid: int) -> Owner | None:
        return Owner(f"uid-{pid}", "")


def full_node() -> Observation:
    """Every GPU read, every pod with a process on it."""
    gpus = tuple(
        Gpu(f"GPU-{n}", n, "NVIDIA A100-SXM4-80GB", 81920, compute_capability=(8, 0), minor_number=n)
        for n in range(GPUS)
    )
    readings = tuple(
        Reading(
            gpu.uuid, 80, 20, 60000, 21920, 350.0, 10**9, 60, 1410, 1593, None, 0, 0, 0,
            tuple(Process(100 * gpu.index + pod, 3000, 4) for pod in range(PODS)),
        )
        for gpu in gpus
    )  # fmt: skip
    holdings = tuple(
        Holding(f"uid-{100 * gpu.index + pod}", "tenants", f"pod-{gpu.index}-{pod}", "main", gpu.uuid, 5)
        for gpu in gpus
        for pod in range(PODS)
    )
    healthy = {gpu.uuid: Condition(Health.HEALTHY) for gpu in gpus}
    return Observation(Inventory(gpus), healthy, readings, holdings, {}, Isolation.MPS, dict.fromkeys(healthy, True))


async def scrapes() -> tuple[list[float], int, float]:
    """Milliseconds of each scrape, bytes of one, milliseconds of processor time of one with its client."""
    exporter = Exporter("node-1", Known(Path("/nowhere")), time.monotonic)
    registry = CollectorRegistry()
    registry.register(exporter)
    exporter.observe(full_node())
    taken, size, busy = [], 0, time.process_time()
    async with (
        serving(("127.0.0.1", 0, PORT), lambda: None, lambda: None, registry),
        aiohttp.ClientSession() as session,
    ):
        for _ in range(SCRAPES):
            started = time.perf_counter()
            async with session.get(f"http://127.0.0.1:{PORT}/metrics") as response:
                size = len(await response.read())
            taken.append((time.perf_counter() - started) * 1000)
    return taken, size, (time.process_time() - busy) * 1000 / SCRAPES


def run() -> None:
    """Print the figures."""
    taken, size, busy = asyncio.run(scrapes())
    p99 = statistics.quantiles(taken, n=100)[98]
    print(
        f"scrape of {GPUS} GPUs x {PODS} pods ({size / 1024:.0f} KiB): median {statistics.median(taken):.1f} ms, "
        f"p99 {p99:.1f} ms, allowed {ALLOWED_MILLISECONDS} ms; processor time with the client's: {busy:.1f} ms"
    )
