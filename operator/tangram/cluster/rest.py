"""Requests to the API server: one pool of connections, errors as values of ``tangram.errors``, careful repetition.

A request is repeated only where a repetition cannot do harm: reads, writes that are guarded by a precondition or that
say the whole truth, and writes that certainly never reached the server.
"""

import asyncio
import contextlib
import copy
import re
import socket
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlencode

import aiohttp
import msgspec
from yarl import URL

from tangram import errors
from tangram.cluster.backoff import Backoff
from tangram.cluster.kubeconfig import Access
from tangram.cluster.permit import Permit
from tangram.settings import BorderSettings

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

DISRUPTION_BUDGET = "DisruptionBudget"
"""Reason of a TooManyRequests that is an answer (a PodDisruptionBudget says no), not a plea for a pause."""

_REPEATABLE_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})
_CONNECT_SECONDS = 10.0
_KEEPALIVE_SECONDS = 60.0  # the API server closes idle connections after 90 s: let go of them first
_READ_BUFFER = 1 << 20


class Cause(msgspec.Struct, frozen=True):
    """One cause inside a Status."""

    reason: str = ""
    message: str = ""
    field: str = ""


class StatusDetails(msgspec.Struct, frozen=True, rename="camel"):
    """Details of a Status."""

    retry_after_seconds: float = 0.0
    causes: tuple[Cause, ...] = ()


class Status(msgspec.Struct, frozen=True):
    """The API server's answer to a request that did not work."""

    message: str = ""
    reason: str = ""
    code: int = 0
    details: StatusDetails | None = None


_STATUS = msgspec.json.Decoder(Status)
_WARNING = re.compile(r'\b299 \S+ "((?:[^"\\]|\\.)*)"')
_ESCAPED = re.compile(r"\\(.)")


class _NotSent(errors.NotReachable):
    """No connection could be made, so the server has not seen the request."""


class _NotTrusted(errors.NotReachable):
    """The server's certificate is not accepted; trying again cannot help."""


def error_of(http_status: int, body: bytes, retry_after: str | None = None) -> errors.ClusterError:
    """The exception for an answer of 400 and above; its text is the API server's own message."""
    try:
        status = _STATUS.decode(body)
    except (msgspec.MsgspecError, UnicodeError):
        status = Status(message=body[:300].decode(errors="replace").strip())
    message = status.message or f"the API server answered {http_status}"
    details = status.details or StatusDetails()
    code = http_status if http_status >= 400 else status.code
    if code in (429, 503):
        blocked = any(cause.reason == DISRUPTION_BUDGET for cause in details.causes)
        pause = float(retry_after) if retry_after and retry_after.isdigit() else details.retry_after_seconds
        return errors.TooManyRequests(code, DISRUPTION_BUDGET if blocked else status.reason, message, pause)
    if code == 422 and any(cause.field == "metadata.uid" for cause in details.causes):
        return errors.Conflict(code, status.reason, message)  # how a patch says that its uid precondition failed
    kinds = {409: errors.Conflict, 404: errors.NotFound, 410: errors.Gone}
    return kinds.get(code, errors.ClusterError)(code, status.reason, message)


def warnings_of(headers: Iterable[str]) -> list[str]:
    """The texts of ``Warning`` headers (RFC 7234, 5.5), by which the API server speaks to who sent a request."""
    found = (match[1] for header in headers for match in _WARNING.finditer(header))
    return [_ESCAPED.sub(r"\1", text) for text in found]


def pause_before_repeat(
    error: errors.TangramError, *, repeatable: bool, longest: float, backoff: Backoff
) -> float | None:
    """Seconds to wait before the request is sent again, or None when it must not be."""
    match error:
        case _NotTrusted():
            return None
        case _NotSent():
            return backoff.next()
        case errors.TooManyRequests(reason=reason, retry_after=asked, status=status):
            # Without Retry-After a 503 may come from a proxy that lost the server in the middle of the request.
            safe = repeatable or status == 429 or asked > 0
            if reason == DISRUPTION_BUDGET or asked > longest or not safe:
                return None
            return max(backoff.next(), backoff.spread(asked))
        case errors.NotReachable():
            return backoff.next() if repeatable else None
        case errors.ClusterError(status=status) if status >= 500 and repeatable:
            return backoff.next()
    return None


@dataclass(frozen=True, slots=True)
class Sending:
    """How a request is sent."""

    content_type: str = JSON
    """Of the body, where there is one."""
    guarded: bool | None = None
    """Whether a repetition can do no harm (a uid precondition, a fixed name, the same final state); None: as the method
    says."""
    attempts: int | None = None
    """How often it is tried; None: ``settings.retries``."""
    compressed: bool = False
    """Ask for gzip, which pays for lists."""
    on_warning: Callable[[str], None] | None = None
    """Called with each warning that comes with an answer (header ``Warning``): a deprecated field, say."""


_PLAINLY = Sending()
ONCE = Sending(attempts=1)
COMPRESSED = Sending(compressed=True)


class Client:
    """A connection pool to one API server; use as ``async with Client(access, settings) as client``.

    ``responses`` counts answers by (method, HTTP status; 0 = none came) since the start, for metrics.
    """

    def __init__(self, access: Access, settings: BorderSettings | None = None, *, user_agent: str = "tangram") -> None:
        self.access = access
        self.settings = settings or BorderSettings()
        self.responses: Counter[tuple[str, int]] = Counter()
        self.server_date = ""
        """The API server's clock when it answered last, as its header ``Date`` has it; empty: it has not said."""
        self._user_agent = user_agent
        self._headers: dict[str, str] = {}
        self._authorized_until = 0.0
        self._authorizing = asyncio.Lock()
        self._permit: Callable[[], Permit] | None = None
        self._sockets: weakref.WeakSet[socket.socket] = weakref.WeakSet()
        """Of the connections on which writes go."""
        self._writes: aiohttp.ClientSession | None = None
        self._streams: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the pools; the first request makes the first connection."""
        self._writes = self._session(self.settings.concurrency)
        # Streams stay open for minutes. In the pool of the writes a dozen of them would starve a small limit.
        self._streams = self._session(0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        for session in (self._writes, self._streams):
            if session is not None:
                await session.close()
        self._writes = self._streams = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        params: Mapping[str, str] | None = None,
        sending: Sending = _PLAINLY,
    ) -> bytes:
        """Send one request and return the body of its answer.

        Raises ClusterError or one of its kinds with the API server's message, and NotReachable when no answer came.
        """
        repeatable = method in _REPEATABLE_METHODS if sending.guarded is None else sending.guarded
        limit = self.settings.retries if sending.attempts is None else sending.attempts
        permit = None if self._permit is None or method == "GET" else self._permit()
        url = self.url(path, params)
        more = {} if body is None else {"Content-Type": sending.content_type}
        if sending.compressed:
            more["Accept-Encoding"] = "gzip"
        backoff: Backoff | None = None
        tries, renewed = 0, False
        last: errors.TangramError | None = None
        while True:
            tries += 1
            headers: dict[str, str] = {}
            try:
                headers = await self._authorize()
                if permit is not None and not permit.holds:
                    raise last or errors.Conflict(409, "LeaseLost", "this process does not hold its lease any more")
                sent = self._send(method, url, body, headers | more, sending.on_warning)
                return await (sent if permit is None else self._in_time(permit, method, sent))
            except errors.TangramError as error:
                last = error
                if getattr(error, "status", 0) == 401 and not renewed:
                    renewed = True
                    await self._authorize(refused=headers)
                    continue
                backoff = backoff or Backoff()
                longest = self.settings.request_timeout
                pause = pause_before_repeat(error, repeatable=repeatable, longest=longest, backoff=backoff)
                if pause is None or tries >= limit:
                    raise
            await asyncio.sleep(pause)

    def under(self, permit: Callable[[], Permit]) -> "Client":
        """The same connections for somebody who needs a permit to write; ``permit`` is asked for it once a request.

        Each attempt, also a repetition, is made only while that permit holds, and ends when it ends. A write that it
        forbids raises Conflict, or what the attempt before it raised; one whose answer comes too late NotReachable. The
        new client is as open as this one is.
        """
        guarded = copy.copy(self)
        guarded._permit = permit
        return guarded

    async def _in_time(self, permit: Permit, method: str, sent: Awaitable[bytes]) -> bytes:
        """Wait for the answer no longer than the permit holds."""
        left = permit.seconds_left()
        if left >= self.settings.request_timeout:
            return await sent
        try:
            async with asyncio.timeout(left):
                return await sent
        except TimeoutError:
            self.responses[method, 0] += 1
            raise errors.NotReachable("the Lease ended before the API server had answered") from None

    def cut(self) -> None:
        """Break the connections on which writes go, so that nothing is sent any more that was about to be.

        Signal handlers may call this: Python runs them before anything else that this process would do.
        """
        for one in list(self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    @asynccontextmanager
    async def stream(self, path: str, params: Mapping[str, str] | None = None) -> AsyncIterator[AsyncIterator[bytes]]:
        """Open a GET whose answer is read piece by piece as it comes; pieces end anywhere, not at line ends.

        Only the start of the answer has a time limit: later silence is the reader's to judge. Raises like ``request``
        (without repeating), and NotReachable out of the iterator when the connection breaks.
        """
        response = await self._open_stream(self.url(path, params))
        try:
            async with aclosing(self._pieces(response)) as pieces:
                yield pieces
        finally:
            response.close()  # not released to the pool: there may be more to come

    def url(self, path: str, params: Mapping[str, str] | None = None) -> URL:
        """The full address of ``path``, which must be escaped already."""
        text = self.access.server + path
        return URL(f"{text}?{urlencode(params)}" if params else text, encoded=True)

    async def _send(
        self,
        method: str,
        url: URL,
        body: bytes | None,
        headers: Mapping[str, str],
        on_warning: Callable[[str], None] | None,
    ) -> bytes:
        access = self.access
        try:
            async with _opened(self._writes).request(
                method,
                url,
                data=body,
                headers=headers,
                proxy=access.proxy,
                server_hostname=access.tls_server_name,
                allow_redirects=False,
            ) as response:
                answer, status = await response.read(), response.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._no_answer(method, error) from error
        self.responses[method, status] += 1
        self.server_date = response.headers.get("Date", "")
        if on_warning is not None:
            for text in warnings_of(response.headers.getall("Warning", ())):
                on_warning(text)
        if 200 <= status < 300:
            return answer
        raise error_of(status, answer, response.headers.get("Retry-After"))

    async def _open_stream(self, url: URL) -> aiohttp.ClientResponse:
        access = self.access
        headers: dict[str, str] | None = None
        for renewed in (False, True):
            headers = await self._authorize(refused=headers)
            try:
                async with asyncio.timeout(self.settings.request_timeout):
                    response = await _opened(self._streams).get(
                        url,
                        headers=headers,
                        proxy=access.proxy,
                        server_hostname=access.tls_server_name,
                        allow_redirects=False,
                    )
                    body = b"" if response.status == 200 else await response.read()
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise self._no_answer("GET", error) from error
            self.responses["GET", response.status] += 1
            if response.status == 200:
                return response
            if response.status != 401 or renewed:
                break
        raise error_of(response.status, body, response.headers.get("Retry-After"))

    async def _pieces(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        try:
            while piece := await response.content.readany():
                yield piece
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._no_answer("GET", error) from error

    def _no_answer(self, method: str, error: Exception) -> errors.NotReachable:
        """The HTTP library's exception as NotReachable with one clear line."""
        self.responses[method, 0] += 1
        server = self.access.server
        match error:
            case aiohttp.ClientConnectorCertificateError():
                return _NotTrusted(
                    f"the certificate of the API server {server} is not trusted: {error.certificate_error}"
                )
            case aiohttp.ClientConnectorError():
                reason = error.os_error.strerror or error.os_error
                return _NotSent(f"the API server {server} cannot be reached: {reason}")
            case aiohttp.ConnectionTimeoutError():
                return _NotSent(f"the API server {server} cannot be reached: no connection in {_CONNECT_SECONDS:g} s")
            case TimeoutError():
                seconds = self.settings.request_timeout
                return errors.NotReachable(f"the API server {server} did not answer in {seconds:g} s")
        return errors.NotReachable(f"the connection to the API server {server} broke: {error}")

    async def _authorize(self, *, refused: dict[str, str] | None = None) -> dict[str, str]:
        """The headers of every request; reads the credentials when they are due, or when these were ``refused``."""
        loop = asyncio.get_running_loop()
        seen = self._headers
        if seen is not refused and loop.time() < self._authorized_until:
            return seen
        async with self._authorizing:
            # A hundred requests may be refused at once; the first of them reads the credentials for all.
            if self._headers is seen:
                await self._read_credentials(loop.time())
        return self._headers

    async def _read_credentials(self, now: float) -> None:
        authorization = await self.access.credentials.authorization()
        headers = {
            "User-Agent": self._user_agent,
            "Accept": JSON,
            "Accept-Encoding": "identity",
            **self.access.impersonation,
        }
        if authorization.header is not None:
            headers["Authorization"] = authorization.header
        self._headers = headers
        self._authorized_until = now + authorization.valid_for

    def _session(self, limit: int) -> aiohttp.ClientSession:
        connector = aiohttp.TCPConnector(
            limit=limit,
            ssl=self.access.tls if self.access.tls is not None else True,
            keepalive_timeout=_KEEPALIVE_SECONDS,
            socket_factory=self._socket if limit else _keepalive_socket,
        )
        # No total: it would count the wait for a free connection, and a burst of writes is no fault.
        read = self.settings.request_timeout if limit else None
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECONDS, sock_read=read)
        return aiohttp.ClientSession(
            connector=connector, timeout=timeout, cookie_jar=aiohttp.DummyCookieJar(), read_bufsize=_READ_BUFFER
        )

    def _socket(self, address: aiohttp.AddrInfoType) -> socket.socket:
        made = _keepalive_socket(address)
        self._sockets.add(made)
        return made


def _opened(session: aiohttp.ClientSession | None) -> aiohttp.ClientSession:
    if session is None:
        raise RuntimeError("the client is closed; use it as: async with Client(...)")
    return session


def _keepalive_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket on which the kernel notices within about 30 s that the peer has silently gone."""
    family, kind, protocol, _, _ = address
    created = socket.socket(family=family, type=kind, proto=protocol)
    created.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", 30_000)):
        if hasattr(socket, option):  # the names differ between operating systems
            created.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return created
