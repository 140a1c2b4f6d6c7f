"""A scheduler that has just been started: what is there may come in any order."""

import asyncio
import contextlib
import json

import pytest
from tests.cluster.fake import HANG, answer, bookmark, event, eventually, pod, status, stream

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


def script(api, *pods, **late):
    """A cluster of one node with three GPUs and these pods; ``late``: what comes instead of an empty list, by kind."""
    amounts = {"cpu": "8", "memory": "8Gi", "pods": "20", names.GPU_RESOURCE: "3"}
    node = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n", "uid": "n", "resourceVersion": "5"}}
    node["status"] = {"allocatable": amounts, "capacity": amounts}
    end = bookmark(9, end=True)
    none_has_finished = stream(
        end, HANG
    )  # the second watch of pods, which must not make up for what the first one lost
    api.on("GET", paths.PODS.collection(), stream(*(event("ADDED", one) for one in pods), end, HANG), none_has_finished)
    api.on("GET", paths.NODES.collection(), stream(0.2, event("ADDED", node), end, HANG))
    for kind in AROUND:
        api.on("GET", kind.collection(), *late.get(kind.plural, (stream(end, HANG),)))
    for one in pods:
        api.on("POST", paths.PODS.path(one["metadata"]["name"], "default") + "/binding", answer(code=201))


@contextlib.asynccontextmanager
async def running(client):
    """A scheduler that runs."""
    async with Recorder(client) as recorder:
        scheduler = LiveScheduler(client, Cycle(), recorder)
        task = asyncio.create_task(scheduler.run())
        yield scheduler
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
            await task


def bound(api) -> set[str]:
    """Names of the pods for which a binding has come."""
    return {seen.path.split("/")[-2] for seen in api.seen if seen.path.endswith("/binding")}


@pytest.mark.slow  # a server that takes seconds to answer
async def test_a_list_that_is_slow_is_waited_for(api, client):
    """The policy sets a limit that nobody may exceed, whenever the API server comes to say so."""
    limit = {"queues": [{"name": "default", "limit": {"gpu": 0}}]}
    found = {
        "apiVersion": names.API_VERSION,
        "kind": "HybridPolicy",
        "metadata": {"name": "p", "uid": "p"},
        "spec": limit,
    }
    found["metadata"]["resourceVersion"] = "5"
    busy = status(429, "TooManyRequests", headers={"Retry-After": "1"})
    slow = (busy, busy, busy, busy, stream(event("ADDED", found), bookmark(9, end=True), HANG))
    script(api, asking("waits", 1), hybridpolicies=slow)
    async with running(client) as scheduler:
        await eventually(lambda: len(api.queries(paths.HYBRID_POLICIES.collection())) == 4)
        assert not scheduler.synced
        await eventually(lambda: scheduler.last_turn)
    assert bound(api) == set()


async def test_kinds_that_are_not_installed_or_may_not_be_read_keep_nobody_waiting(api, client):
    absent, hidden = (status(404, "NotFound"),), (status(403, "Forbidden"),)
    script(api, asking("goes", 1), hybridpolicies=absent, gpunodes=absent, namespaces=hidden)
    async with running(client):
        await eventually(lambda: bound(api) == {"goes"})


async def test_a_pod_with_a_claim_waits_until_claims_are_known(api, client):
    volume = {"name": "d", "persistentVolumeClaim": {"claimName": "data"}}
    script(
        api,
        asking("plain", 1),
        asking("stored", 1, volumes=[volume]),
        persistentvolumeclaims=(status(403, "Forbidden"),),
    )
    patch = paths.PODS.path("stored", "default") + "/status"
    api.on("PATCH", patch, answer())
    async with running(client):
        await eventually(lambda: any(seen.path == patch for seen in api.seen))
    assert bound(api) == {"plain"}
    [said, *_] = (seen.json()["status"]["conditions"][0]["message"] for seen in api.seen if seen.path == patch)
    assert said == "VolumeNotReady: claim data is not known yet"


async def test_pods_that_come_before_their_node_hold_what_they_have(api, client):
    """The node comes last of all. Of its three GPUs one is held by a pod that runs."""
    runs = asking("runs", 1, nodeName="n")
    runs["metadata"]["annotations"] = {names.GPUS: json.dumps({"main": [{"id": "1", "share": 100}]})}
    script(api, runs, asking("waits", 2))
    binding = paths.PODS.path("waits", "default") + "/binding"
    async with running(client) as scheduler:
        assert not scheduler.synced
        await eventually(lambda: "waits" in bound(api))
    body = next(seen for seen in api.seen if seen.path == binding).json()
    given = json.loads(body["metadata"]["annotations"][names.GPUS])
    assert [device["id"] for device in given["main"]] == ["0", "2"]
