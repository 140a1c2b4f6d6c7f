"""Bounds on what those who connect to a port can cost: how long a request may take to come, and how many may be open.

A port that everybody reaches is one that somebody opens a thousand half requests on. aiohttp itself waits for a header
for ever, and takes as many connections as there are file descriptors.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aiohttp import web

HANDSHAKE_SECONDS: Final = 5.0
"""For the TLS handshake, before which nothing else is counted."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is allowed on one port."""

    request_seconds: float = 10.0
    """From the connection, or from the end of an answer, until the next request has come as a whole."""
    idle_seconds: float = 75.0
    """Between two requests on one connection, until the first byte of the next one."""
    connections: int = 128
    of_one_address: int = 16


class Limits:
    """Keeps the connections of one port within its bounds.

    When all places are taken the connection that has waited longest for its request to come is closed for the new one:
    so those who only hold places keep nobody out.
    """

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self._open: dict[asyncio.BaseTransport, _Connection] = {}
        """Those that have begun to wait last at the end."""
        self._addresses: Counter[str] = Counter()

    def __len__(self) -> int:
        """Connections that are open."""
        return len(self._open)

    def bound(self, factory: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """The factory of protocols with these limits around each."""
        return lambda: _Connection(self, factory())

    def arrived(self, request: web.BaseRequest) -> None:
        """A request has come as a whole, and is being answered."""
        connection = self._open.get(request.transport) if request.transport is not None else None
        if connection is not None:
            connection.answer()

    def answered(self, request: web.BaseRequest) -> None:
        """It has been answered: the connection waits for the next one."""
        transport = request.transport
        connection = self._open.pop(transport, None) if transport is not None else None
        if connection is not None and transport is not None:
            self._open[transport] = connection
            connection.wait(self.bounds.idle_seconds)

    def admit(self, connection: "_Connection", transport: asyncio.BaseTransport) -> bool:
        """Whether a new connection may stay."""
        address = connection.address = _address(transport)
        if self._addresses[address] >= self.bounds.of_one_address:
            return False
        if len(self._open) >= self.bounds.connections:
            waiting = next((one for one in self._open.values() if one.waits), None)
            if waiting is None:
                return False
            waiting.abort()
        self._open[transport] = connection
        self._addresses[address] += 1
        return True

    def leave(self, transport: asyncio.BaseTransport) -> None:
        """A connection is over."""
        connection = self._open.pop(transport, None)
        if connection is not None:
            self._addresses[connection.address] -= 1
            if self._addresses[connection.address] <= 0:
                del self._addresses[connection.address]


class _Connection(asyncio.Protocol):
    """One connection: aiohttp's own protocol, and a clock that runs while a request is awaited."""

    def __init__(self, limits: Limits, inner: asyncio.Protocol) -> None:
        self._limits, self._inner = limits, inner
        self.address = ""
        self._transport: asyncio.BaseTransport | None = None
        self._clock: asyncio.TimerHandle | None = None
        self.waits = True
        """Whether a request is awaited."""
        self._idle = False
        """Whether not even its first byte has come."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request, or end at once."""
        self._transport = transport
        if self._limits.admit(self, transport):
            self._inner.connection_made(transport)
            self.wait(self._limits.bounds.request_seconds)
            self._idle = False
        else:
            self._transport = None
            _abort(transport)

    def data_received(self, data: bytes) -> None:
        """Hand a part of a request on."""
        if self._transport is None:
            return
        if self._idle:
            self.wait(self._limits.bounds.request_seconds)
            self._idle = False
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        """The other side sends no more."""
        return self._inner.eof_received() if self._transport is not None else None

    def connection_lost(self, error: Exception | None) -> None:
        """It is over."""
        if self._transport is None:
            return
        self._limits.leave(self._transport)
        self._transport = None
        self._stop()
        self._inner.connection_lost(error)

    def pause_writing(self) -> None:
        """The other side reads too slowly."""
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        """It reads on."""
        self._inner.resume_writing()

    def answer(self) -> None:
        """The request is here."""
        self._stop()
        self.waits = self._idle = False

    def wait(self, seconds: float) -> None:
        """Close the connection unless the next request has come, or begun to come, in time."""
        self._stop()
        self.waits = self._idle = True
        self._clock = asyncio.get_running_loop().call_later(seconds, self.abort)

    def abort(self) -> None:
        """Close it, whatever is under way."""
        if self._transport is not None:
            self._limits.leave(self._transport)  # at once: its place is wanted
            _abort(self._transport)

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None


def _abort(transport: asyncio.BaseTransport) -> None:
    getattr(transport, "abort", transport.close)()  # uvloop's transports are none of asyncio's classes


def _address(transport: asyncio.BaseTransport) -> str:
    peer = transport.get_extra_info("peername")
    return str(peer[0]) if peer else ""
