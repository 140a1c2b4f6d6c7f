"""Who may read the metrics: asked of a double that fails, and of a real API server through a real HTTPS scrape."""

import asyncio
import base64
import json
import socket
import ssl

import aiohttp
import pytest
from prometheus_client import CollectorRegistry, Gauge
from tests.cluster.fake import HANG, FakeApi, answer, status, stream

from tangram.cli.guard import Certificate, Guard, write_self_signed
from tangram.cli.serving import serving
from tangram.cluster.rest import Client
from tangram.cluster.review import BUDGET, MOST_PERMITTED, Reviewer
from tangram.errors import NotReachable

TOKENS = "/apis/authentication.k8s.io/v1/tokenreviews"
ACCESS = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
KNOWN = answer(
    {"status": {"authenticated": True, "user": {"username": "prometheus", "groups": ["system:authenticated"]}}}, 201
)
UNKNOWN = answer({"status": {"authenticated": False, "error": "invalid bearer token"}}, 201)
ALLOWED, DENIED = answer({"status": {"allowed": True}}, 201), answer({"status": {"allowed": False}}, 201)


def token(name: object) -> str:
    """What has the form of a service account's token."""
    parts = ({"alg": "RS256"}, {"iss": "kubernetes", "sub": str(name)})
    written = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*written, "c2lnbmF0dXJl"])


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def reviewer(api: FakeApi, client: Client, clock: Clock) -> Reviewer:
    api.on("POST", TOKENS, KNOWN)
    api.on("POST", ACCESS, ALLOWED)
    return Reviewer(client, clock)


async def test_a_token_that_is_known_and_allowed_may_read(api: FakeApi, reviewer: Reviewer) -> None:
    assert await reviewer.status(f"Bearer {token('abc')}", "/metrics") == 200
    who, access = api.seen
    assert who.json()["spec"] == {"token": token("abc")}
    spec = access.json()["spec"]
    assert (spec["user"], spec["groups"]) == ("prometheus", ["system:authenticated"])
    assert spec["nonResourceAttributes"] == {"path": "/metrics", "verb": "get"}


@pytest.mark.parametrize(
    "header",
    [
        "", "Bearer", "Bearer ", "Basic dXNlcg==", "abc", "Bearer " + "x" * 20_000, "Béarer \udcff", "Bearer abc",
        "Bearer a.b.c", "Bearer ..", "Bearer e30.e30.", "Bearer e30.W10.c2ln", "Bearer \udcff.e30.c2ln", token("a"),
        "Bearer e30=!.e30.c2ln",
    ],
)  # fmt: skip
async def test_without_a_token_nobody_is_asked(api: FakeApi, reviewer: Reviewer, header: str) -> None:
    assert await reviewer.status(header, "/metrics") == 401
    assert api.seen == []


async def test_a_stranger_and_somebody_without_the_right_differ(api: FakeApi, reviewer: Reviewer) -> None:
    api.on("POST", ACCESS, DENIED)
    assert await reviewer.status(f"Bearer {token('abc')}", "/metrics") == 403
    api.on("POST", TOKENS, UNKNOWN)
    assert await reviewer.status(f"Bearer {token('other')}", "/metrics") == 401


async def test_an_answer_is_remembered_for_a_minute_and_not_longer(
    api: FakeApi, reviewer: Reviewer, clock: Clock
) -> None:
    for _ in range(5):
        assert await reviewer.status(f"Bearer {token('abc')}", "/metrics") == 200
    assert len(api.seen) == 2
    clock.now = 61.0
    api.on("POST", ACCESS, DENIED)
    assert await reviewer.status(f"Bearer {token('abc')}", "/metrics") == 403


@pytest.mark.parametrize("wrong", [status(500), status(403, "Forbidden"), answer({"status": 7}), answer([1])])
async def test_while_it_cannot_be_asked_nobody_reads_and_nothing_is_remembered(
    api: FakeApi, reviewer: Reviewer, wrong: object
) -> None:
    api.on("POST", TOKENS, wrong)  # type: ignore[arg-type]
    assert await reviewer.status(f"Bearer {token('abc')}", "/metrics") == 503
    api.on("POST", TOKENS, KNOWN)
    assert await reviewer.status(f"Bearer {token('abc')}", "/metrics") == 200


@pytest.mark.slow  # counts for a second
async def test_strangers_cannot_make_us_flood_the_api_server(api: FakeApi, reviewer: Reviewer) -> None:
    api.on("POST", TOKENS, stream(HANG))
    asked = [asyncio.create_task(reviewer.status(f"Bearer {token(n)}", "/metrics", f"10.0.0.{n}")) for n in range(20)]
    done, waiting = await asyncio.wait(asked, timeout=1.0)
    assert {task.result() for task in done} == {429}
    assert len(waiting) == 4
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


async def test_one_address_has_so_many_questions_a_minute(api: FakeApi, reviewer: Reviewer, clock: Clock) -> None:
    api.on("POST", TOKENS, UNKNOWN)
    answers = [await reviewer.status(f"Bearer {token(n)}", "/metrics", "10.0.0.1") for n in range(40)]
    assert answers == [401] * BUDGET + [429] * (40 - BUDGET)
    assert len(api.seen) == BUDGET
    assert await reviewer.status(f"Bearer {token('of another')}", "/metrics", "10.0.0.2") == 401
    clock.now = 60 / BUDGET
    answers = [await reviewer.status(f"Bearer {token(-n)}", "/metrics", "10.0.0.1") for n in range(1, 4)]
    assert answers == [401, 429, 429]


async def test_fault_20_unknown_tokens_cannot_blind_a_known_reader(
    api: FakeApi, reviewer: Reviewer, clock: Clock
) -> None:
    """As many strangers as there are addresses, for ten minutes: the reader, whose token is asked about each minute."""
    reader = f"Bearer {token('reader')}"
    assert await reviewer.status(reader, "/metrics", "10.0.0.1") == 200
    for minute in range(1, 11):
        clock.now = minute * 61.0
        api.on("POST", TOKENS, stream(HANG))
        strangers = [
            asyncio.create_task(reviewer.status(f"Bearer {token((minute, n))}", "/metrics", f"10.1.{minute}.{n}"))
            for n in range(50)
        ]
        await asyncio.sleep(0.01)
        api.on("POST", TOKENS, KNOWN)
        assert await reviewer.status(reader, "/metrics", "10.0.0.1") == 200
        for task in strangers:
            task.cancel()
        await asyncio.gather(*strangers, return_exceptions=True)


async def test_strangers_beside_a_reader_at_one_address_do_not_use_up_what_is_his(
    api: FakeApi, reviewer: Reviewer, clock: Clock
) -> None:
    reader = f"Bearer {token('reader')}"
    assert await reviewer.status(reader, "/metrics", "10.0.0.1") == 200
    api.on("POST", TOKENS, UNKNOWN)
    for n in range(40):
        await reviewer.status(f"Bearer {token(n)}", "/metrics", "10.0.0.1")
    clock.now = 61.0
    api.on("POST", TOKENS, KNOWN)
    assert await reviewer.status(reader, "/metrics", "10.0.0.1") == 200


async def test_memory_is_bounded(api: FakeApi, reviewer: Reviewer) -> None:
    for n in range(400):
        assert await reviewer.status(f"Bearer {token(n)}", "/metrics", str(n)) == 200
    assert len(reviewer._permitted) <= MOST_PERMITTED
    api.on("POST", TOKENS, UNKNOWN)
    for n in range(400, 2000):
        assert await reviewer.status(f"Bearer {token(n)}", "/metrics", str(n)) == 401
    assert len(reviewer._refused) <= 256
    assert len(reviewer._budgets) <= 1024


def test_a_certificate_that_cannot_be_used_is_named(tmp_path) -> None:
    with pytest.raises(NotReachable, match=r"tls\.crt and tls\.key cannot be used"):
        Certificate.load(tmp_path, "node-1")


async def test_a_certificate_that_is_renewed_is_used_and_one_that_fits_no_key_is_not(tmp_path) -> None:
    write_self_signed(str(tmp_path), "first")
    certificate = Certificate.load(tmp_path, "node-1")
    port = free_port()

    def shown() -> bytes:
        return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port)))

    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", port, ssl=certificate.context)
    async with server:
        first = await asyncio.to_thread(shown)
        write_self_signed(str(tmp_path), "second")
        certificate.renew()
        second = await asyncio.to_thread(shown)
        assert b"second" in second
        (tmp_path / "tls.crt").write_text(ssl.DER_cert_to_PEM_cert(first))
        with pytest.raises(NotReachable, match=r"tls\.crt and tls\.key cannot be used"):
            certificate.renew()
        assert await asyncio.to_thread(shown) == second


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def token_of(real: Client, account: str, namespace: str) -> str:
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    return str(json.loads(await real.request("POST", path, body=json.dumps(body).encode()))["status"]["token"])


async def test_a_real_scrape_by_a_reader_and_by_a_tenant(real: Client, namespace: str) -> None:
    rights = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": f"read-{namespace}"},
        "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}],
    }  # fmt: skip
    given = {
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding",
        "metadata": {"name": f"read-{namespace}"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": f"read-{namespace}"},
        "subjects": [{"kind": "ServiceAccount", "name": "reader", "namespace": namespace}],
    }  # fmt: skip
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "reader", "namespace": namespace}}
    rbac = "/apis/rbac.authorization.k8s.io/v1"
    accounts = f"/api/v1/namespaces/{namespace}/serviceaccounts"
    roles, bindings = f"{rbac}/clusterroles", f"{rbac}/clusterrolebindings"
    for path, manifest in ((accounts, account), (roles, rights), (bindings, given)):
        await real.request("POST", path, body=json.dumps(manifest).encode())
    tokens = {name: await token_of(real, name, namespace) for name in ("reader", "default")}
    registry = CollectorRegistry()
    Gauge("secret_of_others", "Names pods.", registry=registry).set(1)
    guard = Guard(Reviewer(real, asyncio.get_running_loop().time).status, Certificate.load(None, "node-1").context)
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    port = free_port()
    try:
        async with (
            serving(("127.0.0.1", 0, port), lambda: None, lambda: None, registry, guard),
            aiohttp.ClientSession() as session,
        ):

            async def scrape(**headers: str) -> tuple[int, str]:
                url = f"https://127.0.0.1:{port}/metrics"
                async with session.get(url, ssl=trusting, headers=headers) as response:
                    return response.status, await response.text()

            code, text = await scrape(Authorization=f"Bearer {tokens['reader']}")
            assert (code, "secret_of_others 1.0" in text) == (200, True)
            assert await scrape(Authorization=f"Bearer {tokens['default']}") == (403, "Forbidden\n")
            assert await scrape(Authorization="Bearer made-up") == (401, "Unauthorized\n")
            assert await scrape() == (401, "Unauthorized\n")
    finally:
        for path in (bindings, roles):
            await real.request("DELETE", f"{path}/read-{namespace}")
