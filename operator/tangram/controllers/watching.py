"""Events of our own kinds through kopf: an event is a name to reconcile, and how the object was; no handler does more.

Only ``kopf.on.event`` is used. Everything else in kopf that would write to users' objects (finalizers, annotations with
the last state, peering, posting of log lines as Events) stays off, and so do indexes, timers and daemons.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import Any

import aiohttp
import kopf
import msgspec

from tangram import errors
from tangram.cluster.backoff import Backoff
from tangram.cluster.credentials import Authorization
from tangram.cluster.kubeconfig import Access
from tangram.cluster.paths import HYBRID_POLICIES, INFERENCE_SERVICES, TRAINING_JOBS, Resource
from tangram.cluster.rest import ONCE, Client

_log = logging.getLogger(__name__)

KINDS: tuple[Resource, ...] = (TRAINING_JOBS, INFERENCE_SERVICES, HYBRID_POLICIES)
_WATCHED = {kind.collection() for kind in KINDS}
STREAM_SECONDS = 120
"""Seconds after which the server is asked to end a watch, so that each one shows a sign of life within that time."""
_INACTIVITY_SECONDS = 70.0
_STOP_SECONDS = 5.0
_PAUSES = (1.0, 2.0, 4.0, 8.0, 8.0, 8.0)
_MOST_SILENCE = STREAM_SECONDS + _INACTIVITY_SECONDS + sum(_PAUSES)


class _ServedResource(msgspec.Struct, frozen=True):
    name: str


class _Served(msgspec.Struct, frozen=True):
    resources: tuple[_ServedResource, ...] = ()


OnEvent = Callable[[Resource, tuple[str, str], Mapping[str, Any], bool], None]
"""Called as ``on_event(resource, (namespace, name), object, deleted)``; the namespace of a cluster-scoped object is
empty."""


class Ears:
    """Keeps kopf running; ``await run()`` until cancelled.

    ``started`` is called when kopf has been started: it takes the handlers of SIGINT and SIGTERM for itself then.
    """

    def __init__(self, client: Client, on_event: OnEvent, started: Callable[[], None] | None = None) -> None:
        self.listening = asyncio.Event()
        """Set when all kinds are being watched."""
        self.last_error: str | None = None
        self.last_answers: dict[str, float] = {}
        """The event loop's time of the last answer to a list or watch, by path."""
        self._client, self._on_event, self._started = client, on_event, started

    def silent(self) -> str | None:
        """What is wrong when a watch has shown no sign of life for too long; None while all is well."""
        now = asyncio.get_running_loop().time()
        for path, when in self.last_answers.items():
            if now - when > _MOST_SILENCE:
                return f"the watch of {path} is silent for {now - when:.0f} s: {self.last_error or 'no reason known'}"
        return None

    async def run(self) -> None:
        """Listen until cancelled; whatever ends kopf, it is started again after a pause."""
        _quieten()
        backoff = Backoff(1.0, 30.0)
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_for_kinds()
            before = loop.time()
            try:
                await self._listen()
                self._complain("kopf has ended without a reason")
            except Exception as error:  # noqa: BLE001 - kopf's faults are of any type, and none may stop the process
                self._complain(f"{type(error).__name__}: {error}")
            if loop.time() - before > 60:
                backoff.reset()
            await asyncio.sleep(backoff.next())

    async def _wait_for_kinds(self) -> None:
        """Wait until the server knows our kinds, with one line when it does not."""
        backoff = Backoff(0.5, 10.0)
        said = ""
        while True:
            try:
                missing = await missing_kinds(self._client)
                problem = ""
                if missing:
                    problem = (
                        f"the cluster does not know {', '.join(missing)}: install the CustomResourceDefinitions "
                        "(helm install with crds.enabled, or kubectl apply --server-side -f crds/); waiting for them"
                    )
            except errors.TangramError as error:
                problem = f"{error}; trying again"
            if not problem:
                self.last_error = None
                return
            self.last_error = problem
            if problem != said:
                _log.warning("%s", problem)
                said = problem
            await asyncio.sleep(backoff.next())

    async def _listen(self) -> None:
        """One life of kopf."""
        tasks: Collection[asyncio.Task[Any]] = await kopf.spawn_tasks(
            registry=registry(self._client.access, self._on_event, self.answered),
            settings=settings(),
            standalone=True,
            clusterwide=True,
        )
        if self._started is not None:
            self._started()
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)
        for task in done:
            task.result()

    def answered(self, path: str) -> None:
        """The server has answered a request for ``path``; what kopf asks once, at its start, is no watch."""
        if path not in _WATCHED:
            return
        self.last_answers[path] = asyncio.get_running_loop().time()
        self.last_error = None
        if self.last_answers.keys() == _WATCHED:
            self.listening.set()

    def _complain(self, text: str) -> None:
        self.last_error = text
        _log.warning("listening to the custom resources: %s; starting again", text)


async def missing_kinds(client: Client) -> list[str]:
    """Kinds of ours that the server does not serve. Raises NotReachable and ClusterError."""
    path = f"/apis/{KINDS[0].api_version}"
    try:
        known = msgspec.json.decode(await client.request("GET", path, sending=ONCE), type=_Served)
    except errors.NotFound:
        return [kind.kind for kind in KINDS]
    served = {resource.name for resource in known.resources}
    return [kind.kind for kind in KINDS if kind.plural not in served]


def registry(access: Access, on_event: OnEvent, answered: Callable[[str], None]) -> kopf.OperatorRegistry:
    """Handlers of our own: one for the events of each kind, and one that logs in."""
    handlers = kopf.OperatorRegistry()

    async def login(**_: Any) -> kopf.AiohttpSession:
        return kopf.AiohttpSession(server=access.server, aiohttp_session=session(access, answered))

    kopf.on.login(id="tangram", backoff=5.0, registry=handlers)(login)
    for kind in KINDS:
        kopf.on.event(kind.group, kind.version, kind.plural, registry=handlers)(_recorder(kind, on_event))
    return handlers


def _recorder(kind: Resource, on_event: OnEvent) -> Any:
    async def record(namespace: str | None, name: str | None, event: Mapping[str, Any], **_: Any) -> None:
        on_event(kind, (namespace or "", name or ""), event["object"], event["type"] == "DELETED")

    return record


def settings() -> kopf.OperatorSettings:
    """kopf as a listener only."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False
    chosen.scanning.disabled = True  # we look for our kinds ourselves, and need no right to read definitions
    chosen.peering.standalone = True
    chosen.process.ultimate_exiting_timeout = None
    chosen.watching.server_timeout = STREAM_SECONDS
    chosen.watching.connect_timeout = 10.0
    chosen.watching.inactivity_timeout = _INACTIVITY_SECONDS
    chosen.watching.reconnect_backoff = 0.5
    chosen.watching.chunk_size = 500
    chosen.networking.request_timeout = 30.0
    chosen.networking.connect_timeout = 10.0
    chosen.networking.error_backoffs = _PAUSES
    chosen.queueing.idle_timeout = 1.0
    chosen.queueing.exit_timeout = 0.5
    chosen.persistence.consistency_timeout = 0.0
    return chosen


def session(access: Access, answered: Callable[[str], None]) -> aiohttp.ClientSession:
    """A session that speaks to the API server as ``access`` says; ``answered`` hears of each good answer's path."""
    loop = asyncio.get_running_loop()
    known: list[tuple[Authorization, float]] = []

    async def authorize(request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType) -> aiohttp.ClientResponse:
        if not known or loop.time() >= known[0][1]:
            authorization = await access.credentials.authorization()
            known[:] = [(authorization, loop.time() + authorization.valid_for)]
        header = known[0][0].header
        if header is not None:
            request.headers["Authorization"] = header
        if access.tls_server_name is not None:
            request.server_hostname = access.tls_server_name
        response = await send(request)
        if response.status < 300:
            answered(request.url.path)
        elif response.status == 401:
            known.clear()
        return response

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=access.tls if access.tls is not None else True),
        headers={"User-Agent": "tangram-controller", **access.impersonation},
        middlewares=(authorize,),
        proxy=access.proxy,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _quieten() -> None:
    """Keep kopf from logging each attempt; what goes wrong is logged once, here and by our own watches."""
    logging.getLogger("kopf").setLevel(logging.ERROR)
    for name in ("kopf._cogs.clients", "kopf._core.reactor", "kopf._cogs.aiokits"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
