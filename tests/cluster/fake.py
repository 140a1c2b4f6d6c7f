"""A test double of the API server that misbehaves on demand, and helpers to watch what comes of it."""

import asyncio
import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from tests.waiting import PATIENCE, eventually_async

from tangram.api.objects import Pod
from tangram.cluster.watch import ListWatch

CLOSING = web.AppKey("closing", asyncio.Event)
"""Set when the test is over, so that hanging streams end."""

Responder = Callable[[web.Request], Awaitable[web.StreamResponse]]

HANG = object()
"""In a stream: say nothing any more, and keep the connection."""
CUT = object()
"""In a stream: break the connection without a word."""


@dataclass
class Seen:
    """A request that the double has got."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class FakeApi:
    """Answers each (method, path) with its responders in turn; the last one stays for good."""

    server: str = ""
    seen: list[Seen] = field(default_factory=list)
    _script: dict[tuple[str, str], list[Responder]] = field(default_factory=lambda: defaultdict(list))

    def on(self, method: str, path: str, *responders: Responder) -> None:
        self._script[method, path] = list(responders)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.seen.append(Seen(request.method, request.path, dict(request.query), dict(request.headers), body))
        responders = self._script.get((request.method, request.path))
        if not responders:
            return await status(404, "NotFound", f"{request.method} {request.path} is not in the script")(request)
        responder = responders.pop(0) if len(responders) > 1 else responders[0]
        return await responder(request)

    def queries(self, path: str) -> list[dict[str, str]]:
        return [seen.query for seen in self.seen if seen.path == path]


def answer(body: Any = None, code: int = 200, headers: dict[str, str] | None = None) -> Responder:
    async def respond(request: web.Request) -> web.StreamResponse:
        return web.json_response(body if body is not None else {}, status=code, headers=headers)

    return respond


def status(
    code: int, reason: str = "", message: str = "", headers: dict[str, str] | None = None, **details: Any
) -> Responder:
    body = {
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
        "details": details,
    }
    return answer(body, code, headers)


def cut() -> Responder:
    """Break the connection instead of answering."""

    async def respond(request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return respond


def stream(*steps: Any) -> Responder:
    """A watch stream of events (dictionaries), raw bytes, pauses (floats), Events, HANG or CUT; then it ends."""

    async def respond(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for step in steps:
            if step is HANG:
                await request.app[CLOSING].wait()
            elif step is CUT:
                await asyncio.sleep(0.02)  # lets what was written before reach the reader
                assert request.transport is not None
                request.transport.abort()
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, asyncio.Event):
                await step.wait()
            else:
                await response.write(step if isinstance(step, bytes) else json.dumps(step).encode() + b"\n")
        return response

    return respond


def pod(name: str, version: int, uid: str = "", namespace: str = "default", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace, "uid": uid or f"uid-{name}", "resourceVersion": str(version)}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {"containers": [], **spec}}


def event(kind: str, thing: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": thing}


def bookmark(version: int, *, end: bool = False) -> dict[str, Any]:
    annotations = {"k8s.io/initial-events-end": "true"} if end else {}
    metadata = {"resourceVersion": str(version), "creationTimestamp": None, "annotations": annotations}
    return {"type": "BOOKMARK", "object": {"kind": "Pod", "apiVersion": "v1", "metadata": metadata, "spec": {}}}


def failure(code: int, reason: str, message: str) -> dict[str, Any]:
    return {"type": "ERROR", "object": {"kind": "Status", "code": code, "reason": reason, "message": message}}


def page(items: list[dict[str, Any]], version: int, token: str = "") -> Responder:
    return answer({"kind": "PodList", "metadata": {"resourceVersion": str(version), "continue": token}, "items": items})


async def eventually(condition: Callable[[], Any], deadline: float = PATIENCE) -> None:
    """Wait until ``condition()`` holds; the deadline only bounds a failure."""
    await eventually_async(condition, seconds=deadline, step=0.005)


@dataclass
class Watched:
    """A running list-watch and everything that its sink has heard."""

    watch: ListWatch[Pod]
    task: asyncio.Task[None]
    log: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Any] = field(default_factory=list)

    def names(self) -> set[str]:
        return {name for _, name in self.watch.objects}

    async def hears(self, *expected: tuple[str, str]) -> None:
        """Wait until this was heard, and nothing else since the last call; what came after it stays for the next."""
        await eventually(lambda: len(self.log) >= len(expected))
        assert self.log[: len(expected)] == list(expected)
        del self.log[: len(expected)]
