"""The list-watch against a server that does everything a real one does on a bad day."""

import asyncio

import pytest
from tests.cluster.fake import (
    CUT,
    HANG,
    answer,
    bookmark,
    cut,
    event,
    eventually,
    failure,
    page,
    pod,
    status,
    stream,
)

PODS = "/api/v1/pods"


def whole(*pods, version):
    """The beginning of a stream: the whole state and its end mark."""
    return [*(event("ADDED", thing) for thing in pods), bookmark(version, end=True)]


async def test_the_state_comes_with_the_stream_and_events_follow(api, watching):
    changed = pod("a", 12, nodeName="n1")
    later = [event("MODIFIED", changed), event("ADDED", pod("c", 13)), event("DELETED", pod("b", 14))]
    api.on("GET", PODS, stream(*whole(pod("a", 3), pod("b", 4), version=10), 0.05, *later, HANG))
    watched = watching()
    await watched.hears(
        ("added", "a"), ("added", "b"), ("synced", ""), ("modified", "a"), ("added", "c"), ("deleted", "b")
    )
    assert watched.watch.synced.is_set()
    assert watched.watch.objects["default", "a"].spec.node_name == "n1"
    assert watched.names() == {"a", "c"}
    assert watched.watch.resource_version == "14"
    first = api.queries(PODS)[0]
    assert (first["watch"], first["sendInitialEvents"], first["resourceVersionMatch"]) == (
        "true",
        "true",
        "NotOlderThan",
    )
    assert first["allowWatchBookmarks"] == "true"
    assert "resourceVersion" not in first


async def test_nothing_is_delivered_before_the_state_is_complete(api, watching):
    api.on("GET", PODS, stream(event("ADDED", pod("a", 3)), 0.05, CUT), stream(*whole(pod("a", 3), version=5), HANG))
    watched = watching()
    await watched.hears(("added", "a"), ("synced", ""))


@pytest.mark.parametrize("by_stream", [True, False])
async def test_who_waits_for_the_end_anyway_may_hear_of_each_object_at_once(api, watching, by_stream):
    """What a connection that broke had told is set right by the next one."""
    broken = stream(event("ADDED", pod("a", 3)), event("ADDED", pod("b", 4)), 0.05, CUT)
    changed = pod("b", 7, nodeName="n1"), pod("c", 8)
    again = [stream(*whole(*changed, version=9), HANG)] if by_stream else [page(changed, 9), stream(HANG)]
    refusal = [] if by_stream else [status(422, "Invalid", "sendInitialEvents is forbidden")]
    api.on("GET", PODS, broken, *refusal, *again)
    watched = watching(at_once=True)
    await watched.hears(
        ("added", "a"), ("added", "b"), ("modified", "b"), ("added", "c"), ("deleted", "a"), ("synced", "")
    )
    assert watched.names() == {"b", "c"}
    assert watched.watch.resource_version == "9"


async def test_selectors_go_to_the_server(api, watching):
    api.on("GET", PODS, stream(*whole(version=1), HANG))
    watched = watching(label_selector="a=b", field_selector="status.phase!=Failed")
    await watched.hears(("synced", ""))
    assert api.queries(PODS)[0]["labelSelector"] == "a=b"
    assert api.queries(PODS)[0]["fieldSelector"] == "status.phase!=Failed"


async def test_a_server_that_refuses_to_stream_the_state_is_listed_in_pages(api, watching):
    refusal = status(422, "Invalid", "sendInitialEvents is forbidden for watch unless the WatchList feature gate is on")
    pages = page([pod("a", 3)], 10, "more"), page([pod("b", 4)], 10)
    api.on("GET", PODS, refusal, *pages, stream(event("ADDED", pod("c", 11)), HANG))
    watched = watching(page_size=1)
    await watched.hears(("added", "a"), ("added", "b"), ("synced", ""), ("added", "c"))
    _, first, second, follow = api.queries(PODS)
    assert first == {"limit": "1"}
    assert second == {"limit": "1", "continue": "more"}
    assert follow["resourceVersion"] == "10"


async def test_a_server_that_ignores_the_wish_for_the_state_is_listed(api, watching):
    old_server = stream(event("ADDED", pod("a", 3)), bookmark(9), HANG)
    api.on("GET", PODS, old_server, page([pod("a", 3)], 10), stream(HANG))
    watched = watching()
    await watched.hears(("added", "a"), ("synced", ""))
    await eventually(lambda: len(api.seen) >= 3)  # what was listed is told before the watch goes on
    assert api.queries(PODS)[2]["resourceVersion"] == "10"


async def test_a_server_that_never_ends_the_state_is_listed(api, watching):
    api.on("GET", PODS, stream(event("ADDED", pod("a", 3)), HANG), page([pod("a", 3)], 10), stream(HANG))
    watched = watching()
    await watched.hears(("added", "a"), ("synced", ""))


async def test_a_list_that_expires_between_its_pages_starts_again(api, watching):
    expired = status(410, "Expired", "The provided continue parameter is too old")
    api.on("GET", PODS, page([pod("a", 3)], 10, "more"), expired, page([pod("b", 4)], 20), stream(HANG))
    watched = watching(stream_initial=False)
    await watched.hears(("added", "b"), ("synced", ""))


@pytest.mark.parametrize("how", ["event", "status"])
async def test_fault_07_an_expired_version_leads_to_a_comparison(api, watching, how):
    gone = status(410, "Expired", "too old resource version") if how == "status" else None
    gone = gone or stream(failure(410, "Expired", "too old resource version: 10 (500)"))
    now = whole(pod("kept", 4), pod("changed", 480), pod("new", 490), version=500)
    before = whole(pod("kept", 4), pod("changed", 5), pod("vanished", 6), version=10)
    api.on("GET", PODS, stream(*before), gone, stream(*now, HANG))
    watched = watching()
    await watched.hears(("added", "kept"), ("added", "changed"), ("added", "vanished"), ("synced", ""))
    await watched.hears(("deleted", "vanished"), ("modified", "changed"), ("added", "new"), ("synced", ""))
    assert watched.watch.relists == 2


async def test_a_version_that_expires_at_once_again_and_again_is_no_tight_loop(api, watching):
    gone = stream(failure(410, "Expired", "too old"))
    api.on("GET", PODS, *[stream(*whole(version=10)), gone] * 3, stream(*whole(pod("a", 3), version=20), HANG))
    loop = asyncio.get_running_loop()
    started = loop.time()
    watched = watching()
    await eventually(lambda: watched.names() == {"a"})
    assert watched.watch.relists == 4
    assert loop.time() - started >= 0.05 + 0.1 + 0.2  # the shortest pauses that double: not a measurement


async def test_a_stream_that_ends_is_resumed_where_it_ended(api, watching):
    api.on("GET", PODS, stream(*whole(version=10), event("ADDED", pod("a", 11))), stream(bookmark(30)), stream(HANG))
    watched = watching()
    await eventually(lambda: len(api.seen) >= 3)
    assert [query.get("resourceVersion") for query in api.queries(PODS)[:3]] == [None, "11", "30"]
    assert watched.log == [("synced", ""), ("added", "a")]


async def test_a_state_that_does_not_begin_to_come_is_listed(api, watching, monkeypatch):
    """Seen of a kube-apiserver that had just been started: the stream is open and says nothing for minutes."""
    monkeypatch.setattr("tangram.cluster.watch._INITIAL_SILENCE", 0.05)
    later = [0.15, event("ADDED", pod("b", 11)), HANG]
    api.on("GET", PODS, stream(HANG), page([pod("a", 3)], 10), stream(*later))
    watched = watching()
    await watched.hears(("added", "a"), ("synced", ""), ("added", "b"))
    assert len(api.queries(PODS)) == 3


async def test_patience_returns_when_the_state_is_there(api, watching, monkeypatch):
    monkeypatch.setattr("tangram.cluster.watch._INITIAL_SILENCE", 0.05)
    api.on("GET", PODS, stream(*whole(version=10), 0.15, event("ADDED", pod("a", 11)), HANG))
    watched = watching()
    await watched.hears(("synced", ""), ("added", "a"))
    assert len(api.queries(PODS)) == 1


async def test_fault_06_a_silent_stream_is_given_up_and_resumed(api, watching):
    api.on("GET", PODS, stream(*whole(pod("a", 3), version=10), HANG), stream(event("ADDED", pod("b", 11)), HANG))
    watched = watching()
    await watched.hears(("added", "a"), ("synced", ""), ("added", "b"))
    assert api.queries(PODS)[1]["resourceVersion"] == "10"
    assert watched.watch.reconnects >= 1


@pytest.mark.slow  # is quiet for seconds
@pytest.mark.parametrize("client", [2.0], indirect=True)
async def test_bookmarks_keep_a_quiet_stream_alive(api, watching):
    quiet = [step for version in range(11, 16) for step in (0.5, bookmark(version))]
    api.on("GET", PODS, stream(*whole(version=10), *quiet, event("ADDED", pod("a", 20)), HANG))
    watched = watching()
    await watched.hears(("synced", ""), ("added", "a"))
    assert len(api.queries(PODS)) == 1


async def test_a_connection_cut_in_the_middle_of_a_line_loses_and_invents_nothing(api, watching):
    half = b'{"type":"ADDED","object":{"metadata":{"name":"b","uid":"u","resourceVer'
    api.on(
        "GET",
        PODS,
        stream(*whole(pod("a", 3), version=10), event("MODIFIED", pod("a", 11)), half, CUT),
        stream(event("ADDED", pod("b", 12)), HANG),
    )
    watched = watching()
    await watched.hears(("added", "a"), ("synced", ""), ("modified", "a"), ("added", "b"))
    assert api.queries(PODS)[1]["resourceVersion"] == "11"


async def test_a_line_that_is_not_json_means_a_broken_stream(api, watching):
    api.on("GET", PODS, stream(*whole(version=10), b"<html>bad gateway</html>\n", HANG), stream(bookmark(20), HANG))
    watched = watching()
    await eventually(lambda: watched.watch.resource_version == "20")
    assert watched.watch.last_error is None


async def test_fault_07_duplicated_reordered_and_old_events_change_nothing(api, watching):
    api.on(
        "GET",
        PODS,
        stream(
            *whole(pod("a", 3), version=10),
            event("ADDED", pod("b", 11)),
            event("ADDED", pod("b", 11)),
            event("MODIFIED", pod("b", 14)),
            event("MODIFIED", pod("b", 13)),
            event("ADDED", pod("c", 12)),
            event("DELETED", pod("b", 15)),
            event("MODIFIED", pod("b", 14)),
            event("DELETED", pod("b", 15)),
            event("ADDED", pod("end", 16)),
            HANG,
        ),
    )
    watched = watching()
    await eventually(lambda: ("added", "end") in watched.log)
    assert watched.log[2:] == [("added", "b"), ("modified", "b"), ("added", "c"), ("deleted", "b"), ("added", "end")]


async def test_an_object_that_left_the_selector_may_come_back(api, watching):
    back = event("ADDED", pod("a", 12))
    api.on("GET", PODS, stream(*whole(pod("a", 3), version=10), event("DELETED", pod("a", 11)), back, HANG))
    watched = watching()
    await watched.hears(("added", "a"), ("synced", ""), ("deleted", "a"), ("added", "a"))


@pytest.mark.parametrize("seen_deletion", [True, False])
async def test_a_name_with_a_new_uid_is_another_object(api, watching, seen_deletion):
    deletion = [event("DELETED", pod("a", 11, uid="old"))] if seen_deletion else []
    follow = [*deletion, event("ADDED", pod("a", 12, uid="new")), event("MODIFIED", pod("a", 10, uid="old")), HANG]
    api.on("GET", PODS, stream(*whole(pod("a", 3, uid="old"), version=10), *follow))
    watched = watching()
    await watched.hears(("added", "a"), ("synced", ""), ("deleted", "a"), ("added", "a"))
    assert watched.watch.objects["default", "a"].metadata.uid == "new"


async def test_a_late_deletion_of_the_old_uid_leaves_the_new_object(api, watching):
    late = [event("ADDED", pod("a", 12, uid="new")), event("DELETED", pod("a", 11, uid="old")), bookmark(13), HANG]
    api.on("GET", PODS, stream(*whole(pod("a", 3, uid="old"), version=10), *late))
    watched = watching()
    await eventually(lambda: watched.watch.resource_version == "13")
    assert watched.watch.objects["default", "a"].metadata.uid == "new"


async def test_fault_07_a_store_put_back_to_an_older_state_is_noticed_by_a_bookmark(api, watching):
    before = [*whole(pod("a", 900), pod("b", 950), version=1000), bookmark(400), HANG]
    restored = [*whole(pod("a", 300), version=401), event("MODIFIED", pod("a", 402)), HANG]
    api.on("GET", PODS, stream(*before), stream(*restored))
    watched = watching()
    await watched.hears(("added", "a"), ("added", "b"), ("synced", ""))
    await watched.hears(("deleted", "b"), ("modified", "a"), ("synced", ""), ("modified", "a"))
    assert watched.watch.resource_version == "402"


async def test_a_version_that_the_server_has_not_reached_is_dropped(api, watching):
    too_large = status(504, "Timeout", "Timeout: Too large resource version: 1000, current: 400")
    api.on("GET", PODS, stream(*whole(pod("a", 900), version=1000)), too_large, stream(*whole(version=400), HANG))
    watched = watching()
    await watched.hears(("added", "a"), ("synced", ""), ("deleted", "a"), ("synced", ""))


async def test_huge_objects_pass(api, watching):
    huge = pod("huge", 11)
    huge["metadata"]["annotations"] = {"blob": "x" * 3_000_000}
    api.on("GET", PODS, stream(*whole(version=10), event("ADDED", huge), event("ADDED", pod("b", 12)), HANG))
    watched = watching()
    await watched.hears(("synced", ""), ("added", "huge"), ("added", "b"))
    assert len(watched.watch.objects["default", "huge"].metadata.annotations["blob"]) == 3_000_000


def broken(name, version, uid=""):
    """A pod that no Pod of ours can hold."""
    thing = pod(name, version, uid)
    thing["spec"]["containers"] = "not a list"
    return thing


async def test_one_unreadable_object_does_not_stop_the_others(api, watching):
    events = [event("MODIFIED", broken("b", 11)), event("MODIFIED", pod("a", 12)), HANG]
    api.on("GET", PODS, stream(*whole(pod("a", 3), pod("b", 4, nodeName="n1"), version=10), *events))
    watched = watching()
    await watched.hears(("added", "a"), ("added", "b"), ("synced", ""), ("modified", "a"))
    (fault,) = watched.faults
    assert fault.key == ("default", "b")
    assert fault.change == "modified"
    assert fault.metadata.uid == "uid-b"
    assert b"not a list" in fault.raw
    assert "containers" in fault.error
    # Until it can be read again it stays as it was last known, so that nothing thinks its place free.
    assert watched.watch.objects["default", "b"].spec.node_name == "n1"
    assert set(watched.watch.undecodable) == {("default", "b")}


@pytest.mark.parametrize("ending", ["readable", "deleted", "recreated"])
async def test_an_unreadable_object_is_remembered_until_it_is_over(api, watching, ending):
    endings = {
        "readable": event("MODIFIED", pod("b", 12)),
        "deleted": event("DELETED", broken("b", 12)),
        "recreated": event("ADDED", pod("b", 12, uid="another")),
    }
    api.on("GET", PODS, stream(*whole(broken("b", 4), version=10), 0.05, endings[ending], bookmark(13), HANG))
    watched = watching()
    await eventually(lambda: watched.watch.undecodable)
    assert [fault.change for fault in watched.faults] == ["added"]
    await eventually(lambda: watched.watch.resource_version == "13")
    assert not watched.watch.undecodable
    assert watched.names() == (set() if ending == "deleted" else {"b"})


async def test_an_unreadable_object_in_a_list_does_not_stop_the_others(api, watching):
    api.on("GET", PODS, page([pod("a", 3), broken("b", 4), pod("c", 5)], 10), stream(HANG))
    watched = watching(stream_initial=False)
    await watched.hears(("added", "a"), ("added", "c"), ("synced", ""))
    assert set(watched.watch.undecodable) == {("default", "b")}


async def test_an_object_that_became_unreadable_while_we_were_away_is_no_deletion(api, watching):
    gone = status(410, "Expired", "too old")
    api.on(
        "GET", PODS, stream(*whole(pod("b", 4), version=10)), gone, stream(*whole(broken("b", 40), version=50), HANG)
    )
    watched = watching()
    await watched.hears(("added", "b"), ("synced", ""), ("synced", ""))
    assert watched.names() == {"b"}
    assert set(watched.watch.undecodable) == {("default", "b")}


async def test_even_a_name_that_cannot_be_read_is_reported(api, watching):
    nameless = {"type": "ADDED", "object": {"metadata": {"name": 7}}}
    api.on("GET", PODS, stream(*whole(version=10), nameless, event("ADDED", pod("a", 12)), HANG))
    watched = watching()
    await watched.hears(("synced", ""), ("added", "a"))
    assert [fault.key for fault in watched.faults] == [None]


async def test_events_of_an_unknown_type_are_skipped(api, watching):
    api.on("GET", PODS, stream(*whole(version=10), event("NOVELTY", pod("a", 11)), event("ADDED", pod("b", 12)), HANG))
    watched = watching()
    await watched.hears(("synced", ""), ("added", "b"))


@pytest.mark.parametrize(
    "trouble",
    [
        status(403, "Forbidden", "pods is forbidden: User x cannot list resource pods"),
        status(500, "InternalError", "etcd is away"),
        status(404, "NotFound", "the server could not find the requested resource"),
        cut(),
        answer({"what": "no stream"}, 200),
    ],
    ids=["forbidden", "server fault", "unknown kind", "cut", "not a stream"],
)
async def test_trouble_is_told_and_waited_out(api, watching, trouble):
    api.on("GET", PODS, trouble, trouble, stream(*whole(pod("a", 3), version=10), HANG))
    watched = watching()
    await eventually(lambda: watched.watch.last_error is not None)
    await watched.hears(("added", "a"), ("synced", ""))
    assert watched.watch.last_error is None


@pytest.mark.slow  # pauses
async def test_the_server_s_wish_for_a_pause_is_respected(api, watching):
    busy = status(429, "TooManyRequests", "busy", headers={"Retry-After": "1"})
    api.on("GET", PODS, busy, stream(*whole(version=10), HANG))
    loop = asyncio.get_running_loop()
    started = loop.time()
    watched = watching()
    await watched.hears(("synced", ""))
    assert loop.time() - started >= 1.0  # not a measurement: the pause itself


async def test_cancelling_ends_it(api, watching):
    api.on("GET", PODS, stream(*whole(version=10), HANG))
    watched = watching()
    await watched.hears(("synced", ""))
    watched.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await watched.task


async def test_what_the_sink_raises_is_not_hidden(api, client):
    from tangram.api.objects import Pod
    from tangram.cluster.watch import ListWatch

    def sink(change, old, new):
        raise RuntimeError("a fault in the consumer")

    api.on("GET", PODS, stream(*whole(pod("a", 3), version=10), HANG))
    with pytest.raises(RuntimeError, match="consumer"):
        await ListWatch(client, PODS, Pod, sink).run()
