"""Requests: errors as values, and repetitions only where they can do no harm."""

import asyncio
import json
import ssl
import time

import pytest
from tests.cluster.fake import HANG, answer, cut, eventually, status, stream

from tangram import errors
from tangram.cluster import objects, paths
from tangram.cluster.credentials import Authorization, ExecPlugin, IdentityProvider, StaticHeader, TokenFile
from tangram.cluster.kubeconfig import Access
from tangram.cluster.outcome import Result
from tangram.cluster.permit import Permit
from tangram.cluster.rest import ONCE, Client, Sending
from tangram.settings import BorderSettings

PATH = "/api/v1/things"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (400, errors.ClusterError),
        (403, errors.ClusterError),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (410, errors.Gone),
        (422, errors.ClusterError),
    ],
)
async def test_a_refusal_carries_the_server_s_own_words_and_is_not_repeated(api, client, code, kind):
    api.on("GET", PATH, status(code, "SomeReason", "the server's own words"))
    with pytest.raises(errors.ClusterError, match="the server's own words") as caught:
        await client.request("GET", PATH)
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.reason) == (code, "SomeReason")
    assert len(api.seen) == 1


async def test_an_answer_that_is_no_status_is_quoted(api, client):
    async def respond(request):
        from aiohttp import web

        return web.Response(status=403, text="a proxy says no\n")

    api.on("GET", PATH, respond)
    with pytest.raises(errors.ClusterError, match="a proxy says no"):
        await client.request("GET", PATH)


async def test_the_server_s_warnings_come_with_the_answer_once(api, client):
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "n"}}
    warned = {"Warning": '299 - "unknown field \\"spec.x\\"", 299 - "would violate PodSecurity"'}
    path = paths.PODS.collection("n")
    api.on("POST", path, status(503, message="away", headers=warned), answer(pod, 201, warned))
    made = await objects.create(client, pod, strict=True)
    assert made.warnings == ('unknown field "spec.x"', "would violate PodSecurity")
    assert api.queries(path)[0]["fieldValidation"] == "Strict"


@pytest.mark.parametrize("code", [500, 502, 503, 504])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_fault_08_faults_of_the_server_are_waited_out_where_repeating_is_safe(api, client, method, code):
    api.on(method, PATH, status(code, message="away"), answer({"fine": True}))
    assert json.loads(await client.request(method, PATH)) == {"fine": True}


@pytest.mark.parametrize("trouble", [status(500, message="away"), status(503, message="away"), cut()])
async def test_an_unguarded_post_is_sent_once_only(api, client, trouble):
    api.on("POST", PATH, trouble)
    with pytest.raises(errors.TangramError):
        await client.request("POST", PATH, body=b"{}")
    assert len(api.seen) == 1


@pytest.mark.parametrize("trouble", [status(500, message="away"), status(503, message="away"), cut()])
async def test_a_guarded_post_is_repeated(api, client, trouble):
    api.on("POST", PATH, trouble, trouble, answer({}))
    await client.request("POST", PATH, body=b"{}", sending=Sending(guarded=True))
    assert len(api.seen) == 3


async def test_attempts_end(api, client):
    api.on("GET", PATH, status(500, message="away for good"))
    with pytest.raises(errors.ClusterError, match="away for good"):
        await client.request("GET", PATH)
    assert len(api.seen) == client.settings.retries


@pytest.mark.slow  # pauses
@pytest.mark.parametrize("code", [429, 503])
async def test_retry_after_is_honoured_even_for_an_unguarded_post(api, client, code):
    api.on("POST", PATH, status(code, "TooManyRequests", "busy", headers={"Retry-After": "1"}), answer({}))
    started = time.monotonic()
    await client.request("POST", PATH, body=b"{}")
    assert time.monotonic() - started >= 1.0  # not a measurement: the pause itself
    assert len(api.seen) == 2


async def test_a_pause_longer_than_the_patience_of_a_request_is_the_caller_s_to_wait(api, client):
    api.on("GET", PATH, status(429, "TooManyRequests", "busy", headers={"Retry-After": "3600"}))
    with pytest.raises(errors.TooManyRequests) as caught:
        await client.request("GET", PATH)
    assert caught.value.retry_after == 3600
    assert len(api.seen) == 1


async def test_a_server_that_is_not_there_is_one_clear_line(unused_tcp_port):
    settings = BorderSettings(retries=2)
    async with Client(Access(f"http://127.0.0.1:{unused_tcp_port}", StaticHeader()), settings) as client:
        with pytest.raises(errors.NotReachable) as caught:
            await client.request("GET", PATH)
    text = str(caught.value)
    assert f"127.0.0.1:{unused_tcp_port} cannot be reached" in text
    assert "\n" not in text
    assert client.responses["GET", 0] == 2


async def test_a_server_that_says_nothing_is_given_up(api, client):
    release = asyncio.Event()

    async def silent(request):
        await release.wait()
        return await answer({})(request)

    api.on("POST", PATH, silent)
    async with Client(client.access, BorderSettings(request_timeout=0.2)) as impatient:
        with pytest.raises(errors.NotReachable, match=r"did not answer in 0\.2 s"):
            await impatient.request("POST", PATH, body=b"{}")
    release.set()


async def test_waiting_for_a_free_connection_is_no_fault(api, client):
    """More requests at once than connections: they queue for longer than a single one may take, and all succeed."""

    async def slow(request):
        await asyncio.sleep(0.05)
        return await answer({})(request)

    api.on("GET", PATH, slow)
    async with Client(client.access, BorderSettings(concurrency=2, request_timeout=0.3)) as narrow:
        await asyncio.gather(*(narrow.request("GET", PATH, sending=ONCE) for _ in range(30)))


async def test_many_streams_leave_room_for_writes(api, client):
    api.on("GET", PATH, stream(b"x\n", HANG))
    api.on("POST", PATH, answer({}))
    async with (
        Client(client.access, BorderSettings(concurrency=1)) as narrow,
        narrow.stream(PATH) as first,
        narrow.stream(PATH) as second,
    ):
        assert [await anext(first), await anext(second)] == [b"x\n", b"x\n"]
        await narrow.request("POST", PATH, body=b"{}")


def needs_token(valid):
    async def respond(request):
        if request.headers.get("Authorization") == f"Bearer {valid()}":
            return await answer({})(request)
        return await status(401, "Unauthorized", "Unauthorized")(request)

    return respond


@pytest.fixture
def token_file(tmp_path):
    file = tmp_path / "token"
    file.write_text("first\n")
    return file


async def test_a_rotated_token_is_read_again_when_the_server_refuses_the_old_one(api, token_file):
    valid = ["first"]
    api.on("POST", PATH, needs_token(lambda: valid[0]))
    async with Client(Access(api.server, TokenFile(token_file, refresh=3600.0))) as client:
        await client.request("POST", PATH, body=b"{}")
        valid[0] = "second"
        token_file.write_text("second\n")
        await client.request("POST", PATH, body=b"{}")
        await client.request("POST", PATH, body=b"{}")
    assert [seen.headers["Authorization"] for seen in api.seen] == [
        "Bearer first",
        "Bearer first",
        "Bearer second",
        "Bearer second",
    ]


async def test_many_refused_requests_read_the_credentials_once(api):
    class Counting:
        reads = 0

        async def authorization(self):
            self.reads += 1
            return Authorization(f"Bearer {self.reads}")

    valid = ["1"]
    api.on("GET", PATH, needs_token(lambda: valid[0]))
    credentials = Counting()
    async with Client(Access(api.server, credentials)) as client:
        await client.request("GET", PATH)
        valid[0] = "2"
        await asyncio.gather(*(client.request("GET", PATH) for _ in range(50)))
    assert credentials.reads == 2


def test_secrets_do_not_show_when_an_access_is_printed():
    for credentials in (
        StaticHeader("Bearer hidden"),
        ExecPlugin("here", {"env": [{"name": "A", "value": "hidden"}]}),
        IdentityProvider("here", {"config": {"id-token": "hidden"}}),
    ):
        assert "hidden" not in repr(Access("https://server", credentials))
    assert "hidden" not in repr(Authorization("Bearer hidden"))


async def test_a_rotated_token_is_read_again_when_its_time_is_over(api, token_file):
    api.on("GET", PATH, answer({}))
    async with Client(Access(api.server, TokenFile(token_file, refresh=0.0))) as client:
        await client.request("GET", PATH)
        token_file.write_text("second")
        await client.request("GET", PATH)
    assert [seen.headers["Authorization"] for seen in api.seen] == ["Bearer first", "Bearer second"]


async def test_fault_08_a_token_that_stays_wrong_is_tried_twice(api, token_file):
    api.on("GET", PATH, status(401, "Unauthorized", "Unauthorized"))
    async with Client(Access(api.server, TokenFile(token_file))) as client:
        with pytest.raises(errors.ClusterError, match="Unauthorized"):
            await client.request("GET", PATH)
    assert len(api.seen) == 2


async def test_a_stream_too_reads_a_rotated_token_again(api, token_file):
    from tests.cluster.fake import stream

    good = stream(b"line\n")

    async def respond(request):
        if request.headers["Authorization"] == "Bearer second":
            return await good(request)
        return await status(401, "Unauthorized", "Unauthorized")(request)

    api.on("GET", PATH, respond)
    api.on("GET", "/version", answer({}))
    async with Client(Access(api.server, TokenFile(token_file, refresh=3600.0))) as client:
        await client.request("GET", "/version")  # the first token is known now
        token_file.write_text("second")
        async with client.stream(PATH) as pieces:
            assert [piece async for piece in pieces] == [b"line\n"]


async def test_a_missing_token_file_is_one_clear_line(api, tmp_path):
    async with Client(Access(api.server, TokenFile(tmp_path / "nowhere"))) as client:
        with pytest.raises(errors.NotReachable, match="nowhere cannot be read"):
            await client.request("GET", PATH)


async def test_a_certificate_that_is_not_trusted_is_said_at_once(api, client, sandbox):
    access = Access(sandbox.server, StaticHeader(), tls=ssl.create_default_context())
    async with Client(access) as stranger:
        with pytest.raises(errors.NotReachable, match="is not trusted"):
            await stranger.request("GET", "/version")
    assert stranger.responses["GET", 0] == 1


async def test_lists_are_read_in_pages(api, client):
    pages = [
        answer({"metadata": {"continue": "t1"}, "items": [{"n": 1}]}),
        answer({"metadata": {"continue": ""}, "items": [{"n": 2}]}),
    ]
    api.on("GET", "/api/v1/namespaces/x/pods", *pages)
    assert await objects.list_objects(client, paths.PODS, "x", label_selector="a=b") == [{"n": 1}, {"n": 2}]
    assert api.seen[1].query == {"labelSelector": "a=b", "limit": "500", "continue": "t1"}


@pytest.mark.parametrize(
    ("code", "result"),
    [
        (200, Result.DONE),
        (400, Result.REFUSED),
        (401, Result.FAILED),
        (403, Result.REFUSED),
        (404, Result.GONE),
        (409, Result.CONFLICT),
        (410, Result.GONE),
        (422, Result.REFUSED),
        (500, Result.FAILED),
    ],
)
async def test_a_write_ends_with_a_value(api, client, code, result):
    api.on("PUT", "/api/v1/namespaces/x/configmaps/c", answer({}) if code == 200 else status(code, message="why"))
    manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "x"}}
    ended = await objects.replace(client, manifest)
    assert ended.result is result
    assert ended.message == ("" if code == 200 else "why")


async def test_deleting_without_a_uid_is_not_repeated_because_the_name_may_be_somebody_else_s_by_then(api, client):
    api.on("DELETE", "/api/v1/namespaces/x/pods/p", status(500, message="away"))
    assert (await objects.delete(client, paths.PODS.path("p", "x"))).result is Result.FAILED
    assert len(api.seen) == 1
    api.on("DELETE", "/api/v1/namespaces/x/pods/p", cut(), answer({}))
    assert (await objects.delete(client, paths.PODS.path("p", "x"), uid="u", grace_seconds=0)).done
    assert api.seen[-1].json()["preconditions"] == {"uid": "u"}
    assert api.seen[-1].json()["gracePeriodSeconds"] == 0


def test_a_path_never_means_more_than_one_object():
    assert paths.PODS.path("p", "n", "eviction") == "/api/v1/namespaces/n/pods/p/eviction"
    assert paths.NODES.path("n1") == "/api/v1/nodes/n1"
    assert paths.HYBRID_POLICIES.collection() == "/apis/scheduling.example.com/v1/hybridpolicies"
    assert paths.PODS.path("../../secrets", "n").endswith("/pods/..%2F..%2Fsecrets")
    with pytest.raises(errors.InvalidInput, match="name"):
        paths.PODS.path("", "n")
    with pytest.raises(errors.InvalidInput, match="namespace"):
        paths.PODS.path("p")
    with pytest.raises(errors.InvalidInput, match="v1 Pod"):
        paths.resource_of("v1", "Toaster")
    assert paths.resource_of("v1", "pods") is paths.PODS


async def test_a_write_is_not_sent_nor_sent_again_once_it_is_not_permitted(api, client):
    left = [9.0]
    guarded = client.under(lambda: Permit(1, lambda: left[0]))

    async def refuse(request):
        left[0] = 0.0  # the lease is lost while the first attempt is on its way
        return await status(500)(request)

    api.on("POST", "/x", refuse)
    api.on("GET", "/x", answer())
    with pytest.raises(errors.ClusterError, match="500"):
        await guarded.request("POST", "/x", body=b"{}", sending=Sending(guarded=True))
    with pytest.raises(errors.Conflict, match="does not hold its lease"):
        await guarded.request("POST", "/x", body=b"{}", sending=Sending(guarded=True))
    await guarded.request("GET", "/x")
    assert [seen.method for seen in api.seen] == ["POST", "GET"]


async def test_an_attempt_ends_with_the_permit(api, client):
    ends = asyncio.get_running_loop().time() + 0.2
    guarded = client.under(lambda: Permit(1, lambda: ends - asyncio.get_running_loop().time()))
    api.on("POST", "/x", stream(HANG))
    with pytest.raises(errors.NotReachable, match="the Lease ended before the API server had answered"):
        await guarded.request("POST", "/x", body=b"{}")


async def test_a_request_keeps_to_the_permit_with_which_it_began(api, client):
    """Of a write that is repeated the term may have ended, and another one begun, meanwhile."""
    terms = [Permit(1, lambda: 9.0 if len(terms) == 1 else 0.0)]
    guarded = client.under(lambda: terms[-1])

    async def refuse(request):
        terms.append(Permit(2, lambda: 9.0))
        return await status(500)(request)

    api.on("POST", "/x", refuse)
    with pytest.raises(errors.ClusterError, match="500"):
        await guarded.request("POST", "/x", body=b"{}", sending=Sending(guarded=True))
    assert len(api.seen) == 1


async def test_connections_that_are_cut_send_nothing_and_new_ones_are_made(api, client):
    api.on("POST", "/x", stream(HANG))
    waiting = asyncio.create_task(client.request("POST", "/x", body=b"{}", sending=ONCE))
    await eventually(lambda: api.seen)
    client.cut()
    with pytest.raises(errors.NotReachable, match="broke"):
        await waiting
    api.on("POST", "/x", answer())
    await client.request("POST", "/x", body=b"{}", sending=ONCE)
