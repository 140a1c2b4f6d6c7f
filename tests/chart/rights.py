"""Which verbs the chart grants to each account, and which of them the audit log shows in use.

So that processes use all that they ever use, ``OlderServer`` stands between them and the API server: it lacks what is
new there, and loses answers when told to.
"""

import contextlib
import json
import re
import ssl
from collections.abc import AsyncIterator, Iterable
from typing import Any, NamedTuple

import aiohttp
from aiohttp import web

_CONNECTION = frozenset({"connection", "host", "keep-alive", "transfer-encoding", "content-length", "upgrade"})
"""Headers between two neighbours, which are not passed on."""


class Right(NamedTuple):
    """What an account may do, or has done, to a resource."""

    account: str
    verb: str
    resource: str
    """``pods``, ``pods/status``, ``leases.coordination.k8s.io``."""


def granted(objects: Iterable[dict[str, Any]]) -> set[Right]:
    """What the rendered roles and their bindings allow, by the accounts' names."""
    there = list(objects)
    roles = {(one["kind"], one["metadata"]["name"]): one["rules"] for one in there if one["kind"].endswith("Role")}
    bindings = [one for one in there if one["kind"].endswith("RoleBinding")]
    return {
        Right(subject["name"], verb, f"{resource}{slash}{below}")
        for binding in bindings
        for subject in binding["subjects"]
        for rule in roles[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
        for group in rule["apiGroups"]
        for resource, slash, below in (named(group, one) for one in rule["resources"])
        for verb in rule["verbs"]
    }


def named(group: str, resource: str) -> tuple[str, str, str]:
    """``("pods", "/", "status")``: a resource with its group, and what is below it."""
    plural, slash, below = resource.partition("/")
    return f"{plural}.{group}" if group else plural, slash, below


def audited(lines: Iterable[str], namespace: str) -> tuple[set[Right], set[Right]]:
    """What the accounts of a namespace have done by the audit log, and what they tried and were not allowed to."""
    done, refused = set[Right](), set[Right]()
    for line in lines:
        event = json.loads(line)
        user = re.fullmatch(f"system:serviceaccount:{namespace}:(.+)", event["user"]["username"])
        about = event.get("objectRef")
        if user is None or about is None or "resource" not in about:
            continue
        below = f"/{about['subresource']}" if about.get("subresource") else ""
        resource, *_ = named(about.get("apiGroup", ""), about["resource"])
        right = Right(user[1], event["verb"], resource + below)
        allowed = event.get("annotations", {}).get("authorization.k8s.io/decision") != "forbid"
        (done if allowed else refused).add(right)
    return done, refused


class OlderServer:
    """Passes requests on to an API server, as one that does not stream whole collections (before Kubernetes 1.32)."""

    def __init__(self, server: str, authority: ssl.SSLContext) -> None:
        self.address = ""
        self._server, self._authority = server, authority
        self._to_lose: list[tuple[str, re.Pattern[str]]] = []

    def lose_answer(self, method: str, path: str) -> None:
        """Carry out the next request of this sort, but break the connection instead of answering."""
        self._to_lose.append((method, re.compile(path)))

    @property
    def lost_all(self) -> bool:
        """Whether every answer was lost that was to be."""
        return not self._to_lose

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator["OlderServer"]:
        """Listen on a port of this machine."""
        nothing = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(ssl=self._authority, limit=0)
        async with aiohttp.ClientSession(connector=connector, auto_decompress=False, timeout=nothing) as session:
            application = web.Application(client_max_size=1 << 26)

            async def handle(request: web.Request) -> web.StreamResponse:
                return await self._pass_on(session, request)

            application.router.add_route("*", "/{path:.*}", handle)
            runner = web.AppRunner(application, shutdown_timeout=0.1)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            host, port = runner.addresses[0][:2]
            self.address = f"http://{host}:{port}"
            try:
                yield self
            finally:
                await runner.cleanup()

    async def _pass_on(self, session: aiohttp.ClientSession, request: web.Request) -> web.StreamResponse:
        if "sendInitialEvents" in request.query:
            text = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
            status = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": text, "code": 422}
            return web.json_response(status, status=422)
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _CONNECTION}
        url, body = self._server + request.raw_path, await request.read() or None
        async with session.request(request.method, url, headers=headers, data=body) as answer:
            for one in self._to_lose:
                if one[0] == request.method and one[1].search(request.path) and answer.status < 300:
                    self._to_lose.remove(one)
                    assert request.transport is not None
                    request.transport.abort()
                    return web.Response()
            sent = {name: value for name, value in answer.headers.items() if name.lower() not in _CONNECTION}
            response = web.StreamResponse(status=answer.status, headers=sent)
            with contextlib.suppress(ConnectionError):  # of who asked: it has ended, or given up
                await response.prepare(request)
                async for piece in answer.content.iter_any():
                    await response.write(piece)
                await response.write_eof()
            return response
