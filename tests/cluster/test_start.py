"""A scheduler that has just been started: what is there may come in any order."""

import asyncio
import contextlib
import json

from tests.cluster.fake import HANG, answer, bookmark, event, eventually, pod, stream

from tangram.api import names
from tangram.cluster import paths
from tangram.cluster.events import Recorder
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.live import LiveScheduler

AROUND = (
    paths.HYBRID_POLICIES,
    paths.GPU_NODES,
    paths.NAMESPACES,
    paths.PERSISTENT_VOLUME_CLAIMS,
    paths.PERSISTENT_VOLUMES,
    paths.STORAGE_CLASSES,
)


def asking(name: str, gpus: int, **spec) -> dict:
    """A pod that asks for whole GPUs."""
    container = {"name": "main", "resources": {"requests": {"cpu": "1", names.GPU_RESOURCE: str(gpus)}}}
    return pod(name, 5, **spec) | {"spec": {"schedulerName": "tangram", "containers": [container], **spec}}


async def test_pods_that_come_before_their_node_hold_what_they_have(api, client):
    """The node comes last of all. Of its three GPUs one is held by a pod that runs."""
    amounts = {"cpu": "8", "memory": "8Gi", "pods": "20", names.GPU_RESOURCE: "3"}
    node = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n", "uid": "n", "resourceVersion": "5"}}
    node["status"] = {"allocatable": amounts, "capacity": amounts}
    runs = asking("runs", 1, nodeName="n")
    runs["metadata"]["annotations"] = {names.GPUS: json.dumps({"main": [{"id": "1", "share": 100}]})}
    end = bookmark(9, end=True)
    api.on("GET", paths.PODS.collection(), stream(event("ADDED", runs), event("ADDED", asking("waits", 2)), end, HANG))
    api.on("GET", paths.NODES.collection(), stream(0.2, event("ADDED", node), end, HANG))
    for kind in AROUND:
        api.on("GET", kind.collection(), stream(end, HANG))
    binding = paths.PODS.path("waits", "default") + "/binding"
    api.on("POST", binding, answer(code=201))
    async with Recorder(client) as recorder:
        scheduler = LiveScheduler(client, Cycle(), recorder)
        assert not scheduler.synced
        running = asyncio.create_task(scheduler.run())
        await eventually(lambda: any(seen.path == binding for seen in api.seen))
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
            await running
    body = next(seen for seen in api.seen if seen.path == binding).json()
    given = json.loads(body["metadata"]["annotations"][names.GPUS])
    assert [device["id"] for device in given["main"]] == ["0", "2"]
