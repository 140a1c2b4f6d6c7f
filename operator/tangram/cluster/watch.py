"""A local copy of one collection, kept true by a list and a watch.

The whole state comes as the beginning of the stream (WatchList) where the server can, else as a list in pages. Then the
stream goes on from the last version seen, over any number of broken connections. The state is read anew when the server
no longer keeps our version (410), and when a bookmark shows a version below ours: the store was put back to an older
state, and a watch from our version would be silent for as long as the store needs to get there again.
"""

import asyncio
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic

import msgspec

from tangram import errors
from tangram.cluster import wire
from tangram.cluster.backoff import Backoff
from tangram.cluster.mirror import Change, Key, Mirror, Sink, T, Undecodable, number_of
from tangram.cluster.rest import COMPRESSED, Client, error_of

_log = logging.getLogger(__name__)

_STREAM_SECONDS = (300.0, 600.0)
"""Bounds of the time after which the server is asked to end a stream, so that connections spread over its replicas."""
_INITIAL_SILENCE = 10.0
"""Seconds without an event after which the whole state is not waited for in a stream any more, but listed."""


class _StartOver(Exception):
    """Leave the stream and read the whole state anew; a jump inside this file, never seen outside."""


class _Stage(Generic[T]):
    """The server's state while it is still coming in."""

    def __init__(self) -> None:
        self.objects: dict[Key, T] = {}
        self.undecodable: dict[Key, Undecodable] = {}


@dataclass(frozen=True, slots=True)
class Options:
    """Which objects of a collection are copied, and how they come."""

    label_selector: str = ""
    field_selector: str = ""
    on_undecodable: Callable[[Undecodable], None] | None = None
    """Hears of objects that the type cannot hold."""
    page_size: int = 2000
    stream_initial: bool = True
    """The whole state comes as the beginning of the stream, where the server can."""
    at_once: bool = False
    """Of the first state each object is passed on as it comes, and "synced" at the end: for a sink that has much to do
    for each and acts only once all are known."""


_EVERYTHING = Options()


class ListWatch(Generic[T]):
    """The copy of one collection; ``await run()`` keeps it true until it is cancelled.

    ``sink(change, old, new)`` hears every difference, in the event loop's thread; "synced" comes after every complete
    comparison with the server. What the sink raises ends ``run``. ``synced`` is set after the first comparison,
    ``last_activity`` is the loop's time at the last sign of life from the server, ``last_error`` is what is wrong now
    (None: nothing). ``answered`` is set once it is known whether there is anything to watch: with ``synced``, or when
    the kind is not installed (404) or may not be read (403), which is tried again all the same. ``relists``,
    ``reconnects`` and ``undecodable_seen`` count for metrics.

    Nothing is passed on of the first state before all of it is there, unless ``Options.at_once``.
    """

    def __init__(
        self,
        client: Client,
        path: str,
        kind: type[T],
        sink: Sink[T],
        options: Options = _EVERYTHING,
    ) -> None:
        self.synced, self.answered = asyncio.Event(), asyncio.Event()
        self.last_activity = 0.0
        self.last_error: str | None = None
        self.relists = self.reconnects = self.undecodable_seen = 0
        self._mirror: Mirror[T] = Mirror(sink)
        self._stage: _Stage[T] | None = None
        self._client, self._path, self._page_size = client, path, options.page_size
        selectors = {"labelSelector": options.label_selector, "fieldSelector": options.field_selector}
        self._selectors = {name: text for name, text in selectors.items() if text}
        self._on_undecodable = options.on_undecodable
        self._stream_initial, self._at_once = options.stream_initial, options.at_once
        self._events: msgspec.json.Decoder[wire.Event[T]] = msgspec.json.Decoder(wire.Event[kind])  # type: ignore[valid-type]
        self._objects = msgspec.json.Decoder(kind)
        self._backoff, self._expiries = Backoff(), Backoff()
        self._compared_at = ""
        self._random = random.Random()  # noqa: S311 - spreads load, guards no secret

    @property
    def objects(self) -> dict[Key, T]:
        """The copy: (namespace, name) -> object. To be read only."""
        return self._mirror.objects

    @property
    def undecodable(self) -> dict[Key, Undecodable]:
        """Objects that exist but cannot be read. To be read only."""
        return self._mirror.undecodable

    @property
    def resource_version(self) -> str:
        """The version up to which the copy is known to be true."""
        return self._mirror.resource_version

    async def run(self) -> None:
        """Keep the copy true until cancelled; trouble with the server is waited out, whatever it is."""
        while True:
            try:
                if self._mirror.number or self._stream_initial:
                    await self._watch()
                else:
                    await self._list()
                continue
            except _StartOver as reason:
                _log.info("watch of %s: reading everything anew: %s", self._path, reason)
                self._mirror.forget_version()
                pause = 0.0
            except errors.ClusterError as error:
                pause = self._refused(error)
            except errors.NotReachable as error:
                self._complain(str(error))
                pause = self._backoff.next()
            self._stage = None
            self.reconnects += 1
            await asyncio.sleep(pause)

    async def _watch(self) -> None:
        """Read one stream to its end; without a version the stream starts with the whole state."""
        params = {**self._selectors, "watch": "true", "allowWatchBookmarks": "true"}
        params["timeoutSeconds"] = str(int(self._random.uniform(*_STREAM_SECONDS)))
        if self._mirror.number:
            params["resourceVersion"] = self._mirror.resource_version
        else:
            params |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
            self._stage = _Stage()
        loop = asyncio.get_running_loop()
        started, patience = loop.time(), self._client.settings.watch_inactivity
        try:
            await self._read_stream(params, loop, patience)
        except TimeoutError:
            if self._stage is not None:
                # A server that does not know sendInitialEvents sends everything, but never the end mark; one that has
                # just started may send nothing at all for longer than a scheduler should take to start.
                self._stream_initial, patience = False, min(patience, _INITIAL_SILENCE)
            raise errors.NotReachable(f"watch of {self._path}: silent for {patience:g} s") from None
        if self._stage is not None:
            raise errors.NotReachable(f"watch of {self._path}: ended before the initial state was complete")
        self.reconnects += 1
        if loop.time() - started < 1.0:  # a server that ends streams at once must not be asked in a tight loop
            await asyncio.sleep(self._backoff.next())

    async def _read_stream(self, params: dict[str, str], loop: asyncio.AbstractEventLoop, patience: float) -> None:
        inactivity = patience if self._stage is None else min(patience, _INITIAL_SILENCE)
        lines, renewed = wire.Lines(), loop.time()
        async with self._client.stream(self._path, params) as pieces, asyncio.timeout(inactivity) as silence:
            async for piece in pieces:
                self.last_activity = now = loop.time()
                if now - renewed > inactivity / 32:  # a new timer for each piece would cost as much as decoding it
                    silence.reschedule(now + inactivity)
                    renewed = now
                for line in lines.feed(piece):
                    self._line(line)
                if inactivity < patience and self._stage is None:
                    inactivity = patience
                    silence.reschedule(loop.time() + inactivity)

    def _line(self, line: bytes) -> None:
        try:
            event = self._events.decode(line)
        except wire.DECODE_ERRORS as error:
            self._odd_line(line, error)
            return
        metadata = event.object.metadata
        if self._stage is not None:
            key = (metadata.namespace, metadata.name)
            self._stage.undecodable.pop(key, None)
            if event.type == "DELETED":
                self._stage.objects.pop(key, None)
            elif event.type in ("ADDED", "MODIFIED"):
                self._put_on(self._stage, key, event.object)
        elif event.type == "DELETED":
            self._mirror.delete(metadata)
        elif event.type in ("ADDED", "MODIFIED"):
            self._mirror.upsert(event.object)
        if event.type == "BOOKMARK":  # an object type that can hold a bookmark
            self._odd_line(line, ValueError("a bookmark"))

    def _odd_line(self, line: bytes, error: Exception) -> None:
        """A bookmark, an error, or an object that our type cannot hold."""
        try:
            event = _RAW_EVENTS.decode(line)
        except wire.DECODE_ERRORS:
            raise errors.NotReachable(f"watch of {self._path}: a line is not JSON: {line[:80]!r}") from None
        match event.type:
            case "BOOKMARK":
                self._bookmark(_BOOKMARKS.decode(event.object).metadata)
            case "ERROR":
                raise error_of(0, bytes(event.object))
            case "ADDED" | "MODIFIED" | "DELETED":
                self._cannot_read(event.type, bytes(event.object), error)
            case _:
                _log.warning("watch of %s: an event of the unknown type %r is skipped", self._path, event.type)

    def _bookmark(self, metadata: wire.ListMetadata) -> None:
        number = number_of(metadata.resource_version)
        if self._stage is not None:
            if metadata.annotations.get(wire.INITIAL_EVENTS_END) == "true":
                self._complete(self._stage, metadata.resource_version)
                return
            # Only a server that does not know sendInitialEvents sends another bookmark before the end mark.
            self._stream_initial = False
            raise _StartOver("the server does not stream the whole state")
        if number < self._mirror.number:
            raise _StartOver("the server's store has gone back to an older version")
        self._mirror.advance(metadata.resource_version)
        self._well()

    async def _list(self) -> None:
        """Read the collection in pages, for servers that do not stream it."""
        self._stage = stage = _Stage[T]()
        params = {**self._selectors, "limit": str(self._page_size)}
        while True:
            body = await self._client.request("GET", self._path, params=params, sending=COMPRESSED)
            self.last_activity = asyncio.get_running_loop().time()
            try:
                page = _PAGES.decode(body)
            except wire.DECODE_ERRORS as error:
                raise errors.NotReachable(f"list of {self._path}: the answer is not a list: {error}") from None
            for raw in page.items or ():
                try:
                    new = self._objects.decode(raw)
                except wire.DECODE_ERRORS as error:
                    self._cannot_read("ADDED", bytes(raw), error)
                else:
                    self._put_on(stage, (new.metadata.namespace, new.metadata.name), new)
            if not page.metadata.continue_token:
                break
            params["continue"] = page.metadata.continue_token
        self._complete(stage, page.metadata.resource_version)

    def _put_on(self, stage: _Stage[T], key: Key, new: T) -> None:
        stage.objects[key] = new
        if self._at_once and not self.synced.is_set():
            self._mirror.foresee(key, new)

    def _complete(self, stage: _Stage[T], version: str) -> None:
        self._stage = None
        self._mirror.replace(stage.objects, stage.undecodable, version)
        self.relists += 1
        self._compared_at = version
        self._well()
        self.synced.set()
        self.answered.set()

    def _cannot_read(self, event_type: str, raw: bytes, error: Exception) -> None:
        metadata = wire.read_identity(raw)
        key = (metadata.namespace, metadata.name) if metadata is not None else None
        known = key in self.objects or key in self.undecodable
        change: Change = "deleted" if event_type == "DELETED" else "modified" if known else "added"
        fault = Undecodable(change, raw, str(error), metadata)
        if metadata is None or key is None:
            pass  # nothing to keep it under: the callback is all that can be done
        elif self._stage is not None:
            self._stage.objects.pop(key, None)
            self._stage.undecodable.pop(key, None)
            if change != "deleted":
                self._stage.undecodable[key] = fault
        elif change == "deleted":
            self._mirror.delete(metadata)
            return  # gone is gone, readable or not
        else:
            self._mirror.cannot_read(fault)
        self.undecodable_seen += 1
        _log.error("watch of %s: %s cannot be read: %s", self._path, key or "an object", error)
        if self._on_undecodable is not None:
            self._on_undecodable(fault)

    def _well(self) -> None:
        self._backoff.reset()
        self.last_error = None

    def _complain(self, text: str) -> None:
        if self.last_error is None:  # once per trouble, not once per attempt
            _log.warning("%s", text)
        self.last_error = text

    def _refused(self, error: errors.ClusterError) -> float:
        """React to an answer that is an error; returns the seconds to wait before the next attempt."""
        reading_all = self._stage is not None
        if error.status in (403, 404):
            self.answered.set()
        if isinstance(error, errors.Gone) or _too_new(error):
            progress = self._mirror.resource_version != self._compared_at
            self._mirror.forget_version()
            _log.info("watch of %s: reading everything anew: %s", self._path, error)
            if not reading_all:
                if progress:
                    self._expiries.reset()
                    return 0.0
                # A version that expires before anything came of it must not become a tight loop of lists.
                return self._expiries.next()
        elif reading_all and self._stream_initial and error.status in (400, 422):
            self._stream_initial = False
            _log.info("watch of %s: the server does not stream the whole state (%s)", self._path, error)
            return 0.0
        else:
            self._complain(f"watch of {self._path}: {error}")
        asked = error.retry_after if isinstance(error, errors.TooManyRequests) else 0.0
        return max(self._backoff.next(), self._backoff.spread(asked))


_RAW_EVENTS = msgspec.json.Decoder(wire.RawEvent)
_BOOKMARKS = msgspec.json.Decoder(wire.Bookmark)
_PAGES = msgspec.json.Decoder(wire.Page[msgspec.Raw])


def _too_new(error: errors.ClusterError) -> bool:
    """The server has not seen our version (yet): after a restore from a backup it never will."""
    return error.status == 504 and "Too large resource version" in str(error)
