"""Events: one per object and reason, within limits, and never in the way."""

import asyncio
import json

import pytest
from tests.cluster.fake import answer, eventually, status
from tests.waiting import eventually_async

from tangram.cluster import events, objects, paths
from tangram.cluster.events import Recorder, Regarding
from tangram.cluster.permit import Permit

POD = Regarding("v1", "Pod", "train-0", "team", "uid-1")
EVENTS = "/apis/events.k8s.io/v1/namespaces/team/events"


class Clock:
    """A clock that stands still until the test moves it."""

    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def created(api):
    return [seen.json() for seen in api.seen if seen.method == "POST"]


def patched(api):
    return [json.loads(seen.body) for seen in api.seen if seen.method == "PATCH"]


def answered(recorder):
    """Whether the recorder has the answers to all that it has sent: what the server has seen may be under way to it."""
    entries = recorder._entries.values()
    return bool(entries) and all(entry.written and not entry.writing for entry in entries)


def accept_patches(api):
    """Every Event that is created can be patched afterwards."""

    async def respond(request):
        body = json.loads(await request.read())
        api.on("PATCH", f"{EVENTS}/{body['metadata']['name']}", answer({}))
        return await answer(body, 201)(request)

    api.on("POST", EVENTS, respond)


async def test_an_event_says_what_happened_to_which_object(api, client, clock):
    accept_patches(api)
    async with Recorder(client, instance="replica-1", clock=clock) as recorder:
        recorder.record(POD, "Scheduled", "placed on node-1", action="Binding")
    (event,) = created(api)
    assert event["regarding"] == {
        "apiVersion": "v1",
        "kind": "Pod",
        "name": "train-0",
        "namespace": "team",
        "uid": "uid-1",
    }
    assert (event["reason"], event["note"], event["action"]) == ("Scheduled", "placed on node-1", "Binding")
    assert (event["type"], event["reportingInstance"]) == ("Normal", "replica-1")
    assert event["metadata"]["name"].startswith("train-0.")
    assert "series" not in event


async def test_repetitions_raise_the_count_of_one_event(api, client, clock):
    accept_patches(api)
    async with Recorder(client, clock=clock) as recorder:
        recorder.record(POD, "InsufficientGpu", "no node fits", warning=True)
        await eventually(lambda: answered(recorder))
        for _ in range(5):
            recorder.record(POD, "InsufficientGpu", "no node fits", warning=True)
        clock.now += 60
        recorder.record(POD, "InsufficientGpu", "no node fits", warning=True)
        await eventually(lambda: patched(api))
        recorder.record(POD, "QueueLimit", "another reason")
        await eventually(lambda: len(created(api)) == 2)
    assert [event["reason"] for event in created(api)] == ["InsufficientGpu", "QueueLimit"]
    assert [patch["series"]["count"] for patch in patched(api)] == [7]


async def test_a_new_text_is_a_new_event_after_a_while_and_counts_stay_apart(api, client, clock):
    accept_patches(api)
    async with Recorder(client, clock=clock) as recorder:
        recorder.record(POD, "InsufficientGpu", "3 nodes are full")
        await eventually(lambda: answered(recorder))
        recorder.record(POD, "InsufficientGpu", "4 nodes are full")
        clock.now += 301
        recorder.record(POD, "InsufficientGpu", "5 nodes are full")
        await eventually(lambda: len(created(api)) == 2 and answered(recorder))
        recorder.record(POD, "InsufficientGpu", "5 nodes are full")
    first, second = created(api)
    assert (first["note"], second["note"]) == ("3 nodes are full", "5 nodes are full")
    assert second["series"]["count"] == 2
    assert patched(api)[-1]["series"]["count"] == 3


async def test_another_code_is_another_event_at_once(api, client, clock):
    """FailedScheduling stands for all reasons why a pod waits: users read of a timeout when it is there."""
    accept_patches(api)
    incomplete = "GangIncomplete: gang default/inc has 1 of at least 4 members"
    timeout = "GangTimeout: gang default/inc has 3 of at least 4 members, after its timeout of 10s"
    async with Recorder(client, clock=clock) as recorder:
        recorder.record(POD, "FailedScheduling", incomplete, warning=True)
        await eventually(lambda: answered(recorder))
        recorder.record(POD, "FailedScheduling", timeout, warning=True)
        await eventually(lambda: len(created(api)) == 2)
        clock.now += 31
        recorder.record(POD, "FailedScheduling", incomplete, warning=True)
        await eventually(lambda: patched(api))
    assert [event["note"] for event in created(api)] == [incomplete, timeout]
    assert {event["reason"] for event in created(api)} == {"FailedScheduling"}
    assert [patch["series"]["count"] for patch in patched(api)] == [2]


async def test_each_fault_of_a_plugin_is_an_event_at_once_and_a_repetition_none(api, client, clock):
    accept_patches(api)
    async with Recorder(client, clock=clock) as recorder:
        for text in ("a: wrong type", "a: ValueError", "a: is unknown", "a: is unknown"):
            recorder.record(POD, "PluginFailed", text, warning=True)
    assert [event["note"] for event in created(api)] == ["a: wrong type", "a: ValueError", "a: is unknown"]


async def test_the_last_text_is_written_in_its_time_without_a_further_occurrence(api, client, monkeypatch):
    monkeypatch.setattr(events, "_RENEW_SECONDS", 0.3)
    monkeypatch.setattr(events, "_SERIES_SECONDS", 0.1)
    accept_patches(api)
    async with Recorder(client) as recorder:
        for count in (3, 4, 5):
            recorder.record(POD, "FailedScheduling", f"InsufficientGpu: {count} nodes are full", warning=True)
            await eventually(lambda: answered(recorder))
        assert len(created(api)) == 1
        await eventually(lambda: len(created(api)) == 2)
    first, second = created(api)
    assert (first["note"], second["note"]) == ("InsufficientGpu: 3 nodes are full", "InsufficientGpu: 5 nodes are full")
    assert second["series"]["count"] == 2
    assert not patched(api), "the first text has not been said again"


async def test_one_object_cannot_write_without_end(api, client, clock):
    accept_patches(api)
    async with Recorder(client, clock=clock) as recorder:
        for number in range(40):
            recorder.record(POD, f"Reason{number}", "text")
        other = Regarding("v1", "Pod", "other", "team", "uid-2")
        recorder.record(other, "Scheduled", "text")
        await eventually(lambda: any(event["reason"] == "Scheduled" for event in created(api)))
        await eventually(lambda: len(created(api)) == 26)
        clock.now += 300
        recorder.record(POD, "Reason39", "text")
        await eventually(lambda: len(created(api)) == 27)
    assert len(created(api)) == 41, "what was held back is written at the end"


async def test_what_is_waiting_is_written_at_the_end(api, client, clock):
    accept_patches(api)
    async with Recorder(client, clock=clock) as recorder:
        for number in range(30):
            recorder.record(Regarding("v1", "Pod", f"p{number}", "team", f"u{number}"), "Scheduled", "text")
    assert len(created(api)) == 30
    assert recorder.dropped == 0


async def test_an_event_that_the_server_has_let_go_is_written_anew(api, client, clock):
    api.on("POST", EVENTS, answer({}, 201))
    async with Recorder(client, clock=clock) as recorder:
        recorder.record(POD, "Scheduled", "text")
        await eventually(lambda: answered(recorder))
        clock.now += 60
        recorder.record(POD, "Scheduled", "text")
        await eventually(lambda: len(created(api)) == 2)
    assert created(api)[1]["metadata"]["name"] != created(api)[0]["metadata"]["name"]


async def test_events_that_are_refused_are_counted_and_forgotten(api, client, clock):
    api.on("POST", EVENTS, status(403, "Forbidden", "the namespace is being terminated"))
    async with Recorder(client, clock=clock) as recorder:
        recorder.record(POD, "Scheduled", "text")
        await eventually(lambda: recorder.dropped == 1)


async def test_recording_never_waits(api, client, clock):
    """The server is silent; recording is a plain call, and memory stays bounded."""
    release = asyncio.Event()

    async def silent(request):
        await release.wait()
        return await answer({}, 201)(request)

    api.on("POST", EVENTS, silent)
    async with Recorder(client, clock=clock) as recorder:
        for number in range(6000):
            recorder.record(Regarding("v1", "Pod", f"p{number}", "team", f"u{number}"), "Scheduled", "text")
        assert len(recorder._entries) <= 4096
        assert recorder.dropped > 0
        release.set()
        recorder._entries.clear()


async def test_long_texts_are_cut_where_the_server_would_refuse_them(api, client, clock):
    accept_patches(api)
    async with Recorder(client, clock=clock) as recorder:
        recorder.record(POD, "Scheduled", "ä" * 1000)
    assert created(api)[0]["note"] == "ä" * 512


async def test_without_a_permit_nothing_is_written_but_at_the_end_what_was_done_under_one(api, client, clock):
    accept_patches(api)
    left = [9.0]
    async with Recorder(client, clock=clock, permit=lambda: Permit(1, lambda: left[0])) as recorder:
        recorder.record(POD, "Scheduled", "placed on node-1")
        await eventually(lambda: created(api))
        left[0] = 0.0
        recorder.record(POD, "Preempted", "for another one")
        await eventually(lambda: recorder.dropped)
        assert len(created(api)) == 1
        recorder.record(POD, "FailedScheduling", "no node fits")
    assert created(api)[-1]["reason"] == "FailedScheduling"


async def test_the_real_server_takes_them(real, namespace):
    thing = Regarding("v1", "ConfigMap", "thing", namespace, "some-uid")
    node = Regarding("v1", "Node", f"node-of-{namespace}")
    async with Recorder(real) as recorder:
        recorder.record(thing, "InsufficientGpu", "no node fits", warning=True)
        recorder.record(node, "DeviceLost", "GPU 3 does not answer", action="Probing")
    selector = "reason=InsufficientGpu"

    async def events(where, name):
        found = await objects.list_objects(real, paths.EVENTS, where, field_selector=name)
        return [event for event in found if event["regarding"]["name"] in (thing.name, node.name)]

    (event,) = await events(namespace, selector)
    assert (event["note"], event["type"]) == ("no node fits", "Warning")
    (event,) = await events("default", "reason=DeviceLost")
    assert event["regarding"]["kind"] == "Node"


async def test_the_real_server_counts_repetitions(real, namespace, clock):
    thing = Regarding("v1", "ConfigMap", "thing", namespace, "some-uid")
    async with Recorder(real, clock=clock) as recorder:
        recorder.record(thing, "Waiting", "first text")
        await eventually_async(lambda: objects.list_objects(real, paths.EVENTS, namespace), "the event is there")
        for _ in range(2):
            recorder.record(thing, "Waiting", "first text")
    (event,) = await objects.list_objects(real, paths.EVENTS, namespace)
    assert event["series"]["count"] == 3
    assert event["note"] == "first text"
