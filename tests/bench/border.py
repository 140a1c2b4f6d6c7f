"""What an event of a policy costs the controller in a large cluster: milliseconds and MiB, with the nodes watched and,
in the same run, with the nodes listed as dictionaries at each event."""

import asyncio
import json
import statistics
import time
import tracemalloc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
from aiohttp import web
from tests.cluster.fake import CLOSING, FakeApi, Responder, answer

from tangram.api.views import NodeView
from tangram.cluster import objects
from tangram.cluster.credentials import StaticHeader
from tangram.cluster.events import Recorder
from tangram.cluster.kubeconfig import Access
from tangram.cluster.paths import HYBRID_POLICIES, NODES
from tangram.cluster.rest import Client
from tangram.controllers.live import LiveControllers

COUNT, KIB, EVENTS, PAGE = 5000, 16, 10, 500
ALLOWED_MILLISECONDS, ALLOWED_MIB = 20, 5


def node(number: int) -> dict[str, Any]:
    """A node as kubelets write it; most of it names images."""
    image = {
        "names": [f"registry.test/{'x' * 180}/{place}@sha256:{'0' * 64}" for place in range(2)],
        "sizeBytes": 10**9,
    }
    return {
        "metadata": {
            "name": f"node-{number}",
            "labels": {"accelerator": "nvidia-tesla", "kubernetes.io/hostname": f"node-{number}"},
        },
        "status": {
            "allocatable": {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "8"},
            "images": [image] * (KIB * 1024 // len(json.dumps(image))),
        },
    }


def policy() -> dict[str, Any]:
    """A policy whose first class matches every node."""
    classes = [{"name": "gpu", "nodeSelector": {"accelerator": "nvidia-tesla"}}, {"name": "cpu"}]
    return {"metadata": {"name": "default", "uid": "u", "generation": 1}, "spec": {"priorityClasses": classes}}


def encoded(body: dict[str, Any]) -> Responder:
    """An answer that is ready before it is asked for."""
    content = json.dumps(body).encode()

    async def respond(_request: web.Request) -> web.StreamResponse:
        return web.Response(body=content, content_type="application/json")

    return respond


@asynccontextmanager
async def served() -> AsyncIterator[Client]:
    """A client of a server with one policy and many nodes, in pages as the API server cuts them."""
    api, app = FakeApi(), web.Application()
    app[CLOSING] = asyncio.Event()
    app.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    last = COUNT - PAGE
    pages = [
        encoded({"items": list(map(node, range(start, start + PAGE))), "metadata": {"continue": "x" * (start < last)}})
        for start in range(0, COUNT, PAGE)
    ]
    api.on("GET", HYBRID_POLICIES.collection(), answer({"items": [policy()]}))
    api.on("GET", NODES.collection(), *pages * (EVENTS + 2))
    try:
        async with Client(Access(f"http://127.0.0.1:{port}", StaticHeader())) as client:
            yield client
    finally:
        await runner.cleanup()


async def measured(event: Callable[[], Awaitable[Any]]) -> tuple[float, float]:
    """Median milliseconds of processor time of an event, and MiB that one takes at most."""
    await event()
    taken = []
    for _ in range(EVENTS):
        before = time.process_time()
        await event()
        taken.append((time.process_time() - before) * 1000)
    tracemalloc.start()
    await event()
    most = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return statistics.median(taken), most


async def both() -> tuple[tuple[float, float], tuple[float, float]]:
    """(milliseconds, MiB) of an event with the nodes watched, and of listing them all."""
    async with served() as client:
        live = LiveControllers(client, Recorder(client))
        for number in range(COUNT):
            live.nodes.objects["", f"node-{number}"] = msgspec.convert(node(number), NodeView)
        live.nodes.synced.set()

        async def listing() -> int:
            found = await objects.list_objects(client, NODES)
            return len(tuple(msgspec.convert(item, NodeView) for item in found))

        assert await listing() == COUNT
        return await measured(live._observe_policies), await measured(listing)


def run() -> None:
    """Print the figures."""
    (watched, mib), (listed, listed_mib) = asyncio.run(both())
    print(
        f"event of a policy, {COUNT} nodes of {KIB} KiB: {watched:.1f} ms (allowed {ALLOWED_MILLISECONDS}) and "
        f"{mib:.1f} MiB (allowed {ALLOWED_MIB}); to list the nodes instead: {listed:.0f} ms and {listed_mib:.0f} MiB"
    )
