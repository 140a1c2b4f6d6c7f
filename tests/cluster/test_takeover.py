"""From one holder of the Lease to the next: what one has written the other knows before it decides anything."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from tests.cluster.fake import HANG, answer, bookmark, event, eventually, pod, status, stream
from tests.cluster.test_start import AROUND, asking

from tangram.api import names
from tangram.cluster import paths
from tangram.cluster.events import Recorder
from tangram.cluster.lease import Candidate, Lease
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.live import LiveScheduler

LEASES = paths.LEASES.collection("default")
LEASE = paths.LEASES.path("scheduler", "default")
STATUS = paths.PODS.path("waits", "default", "status")
BINDING = paths.PODS.path("waits", "default", "binding")


def lease_of(identity: str) -> dict:
    return {"metadata": {"resourceVersion": "5"}, "spec": {"holderIdentity": identity}}


def on_gpu(name: str, version: int, index: str) -> dict:
    """A pod that runs on one of the node's GPUs."""
    runs = asking(name, 1, nodeName="n")
    runs["metadata"]["resourceVersion"] = str(version)
    runs["metadata"]["annotations"] = {names.GPUS: json.dumps({"main": [{"id": index, "share": 100}]})}
    return runs


@pytest.fixture
def world(api) -> None:
    """One node of two GPUs, and a Lease that is free."""
    amounts = {"cpu": "8", "memory": "8Gi", "pods": "20", names.GPU_RESOURCE: "2"}
    node = {"kind": "Node", "apiVersion": "v1", "metadata": {"name": "n", "uid": "n", "resourceVersion": "5"}}
    node["status"] = {"allocatable": amounts, "capacity": amounts}
    end = bookmark(9, end=True)
    api.on("GET", paths.NODES.collection(), stream(event("ADDED", node), end, HANG))
    for kind in AROUND:
        api.on("GET", kind.collection(), stream(end, HANG))
    api.on("POST", LEASES, answer(lease_of("me"), 201))
    api.on("PATCH", LEASE, answer(lease_of("me")))
    api.on("POST", BINDING, answer(code=201))


@contextlib.asynccontextmanager
async def scheduler(client) -> AsyncIterator["asyncio.Task[None]"]:
    """A scheduler that takes part in the election."""
    async with Recorder(client) as recorder:
        lease = Lease(client, Candidate("default", "scheduler", "me"))
        running = asyncio.create_task(LiveScheduler(client, Cycle(), recorder, lease).run())
        try:
            yield running
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError, BaseExceptionGroup):
                await running


def sent(api, method: str, path: str) -> list:
    return [seen for seen in api.seen if (seen.method, seen.path) == (method, path)]


async def test_nothing_is_decided_before_the_watch_has_shown_what_the_last_holder_bound(api, client, world):
    """The last holder gave away GPU 0 just before its end, and our watch is late to say so."""
    shown = asyncio.Event()
    marked = asking("waits", 1)
    marked["metadata"]["resourceVersion"] = "20"
    start = event("ADDED", asking("waits", 1)), bookmark(9, end=True)
    api.on(
        "GET", paths.PODS.collection(),
        stream(*start, shown, event("ADDED", on_gpu("bound", 15, "0")), event("MODIFIED", marked), HANG),
    )  # fmt: skip
    api.on("PATCH", STATUS, answer(marked))

    async with scheduler(client):
        await eventually(lambda: sent(api, "PATCH", STATUS))
        assert not sent(api, "POST", BINDING)
        shown.set()
        await eventually(lambda: sent(api, "POST", BINDING))

    given = json.loads(sent(api, "POST", BINDING)[0].json()["metadata"]["annotations"][names.GPUS])
    assert [device["id"] for device in given["main"]] == ["1"]
    (condition,) = sent(api, "PATCH", STATUS)[0].json()["status"]["conditions"]
    assert condition["reason"] != "Unschedulable", "autoscalers would add nodes for that"


async def test_a_scheduler_that_may_not_mark_pods_schedules_all_the_same(api, client, world):
    api.on("GET", paths.PODS.collection(), stream(event("ADDED", asking("waits", 1)), bookmark(9, end=True), HANG))
    api.on("PATCH", STATUS, status(403, "Forbidden", "no"))

    async with scheduler(client):
        await eventually(lambda: sent(api, "POST", BINDING))


@pytest.fixture
def hanging(api, world) -> asyncio.Event:
    """A binding that is not answered before the event is set."""
    goes_on = asyncio.Event()

    async def respond(_: web.Request) -> web.StreamResponse:
        await goes_on.wait()
        return web.json_response({}, status=201)

    marked = pod("waits", 20)
    pods = event("ADDED", asking("waits", 1)), bookmark(9, end=True), bookmark(30), HANG
    api.on("GET", paths.PODS.collection(), stream(*pods))
    api.on("PATCH", STATUS, answer(marked))
    api.on("POST", BINDING, respond)
    return goes_on


def given_up(api) -> bool:
    return any(seen.json()["spec"]["holderIdentity"] == "" for seen in sent(api, "PATCH", LEASE))


async def test_the_lease_is_given_up_only_after_the_last_write_was_answered(api, client, hanging):
    async with scheduler(client) as running:
        await eventually(lambda: sent(api, "POST", BINDING))
        running.cancel()
        await asyncio.sleep(0.05)
        assert not given_up(api)
        hanging.set()
        await eventually(running.done)
        assert given_up(api)


async def test_without_an_answer_to_the_last_write_the_lease_is_left_to_end_by_itself(
    api, client, hanging, monkeypatch
):
    monkeypatch.setattr("tangram.scheduler.live._END_SECONDS", 0.05)
    async with scheduler(client) as running:
        await eventually(lambda: sent(api, "POST", BINDING))
        running.cancel()
        await eventually(running.done)
        assert not given_up(api)
    hanging.set()
