"""Events that show users what happened to their objects, written in the background and never in the way.

One Event per object, reason and code that begins the text (``GangTimeout: ...``): repetitions raise its count. An
Event's text cannot be changed, so when the text has become another one, a new Event follows ``_RENEW_SECONDS`` after
the last. The limits are those of Kubernetes' own client: each object has 25 writes at once and then one in five
minutes; and all together at most 50 a second.
"""

import asyncio
import itertools
import logging
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

import msgspec

from tangram.api import names
from tangram.cluster.outcome import Outcome, Result, outcome
from tangram.cluster.paths import EVENTS
from tangram.cluster.permit import ALWAYS, Permit
from tangram.cluster.rest import JSON, MERGE_PATCH, Client, Sending

_log = logging.getLogger(__name__)

_OBJECT_BURST, _OBJECT_SECONDS = 25, 300.0
_ALL_BURST, _ALL_SECONDS = 100, 1 / 50
_RENEW_SECONDS = 300.0
_SERIES_SECONDS = 30.0
_REMEMBERED = 4096
_WRITERS = 4
_TRIES = 3
_RETRY_SECONDS = 5.0
_FLUSH_SECONDS = 5.0
_NOTE_BYTES = 1024
_NAME_LENGTH = 220

_CODE = re.compile(r"[A-Z][A-Za-z]*(?=: )")
"""What begins a text where one reason of an Event stands for many, as FailedScheduling does."""

_ONE_BY_ONE = frozenset({"PluginFailed", "ServerWarning"})
"""Reasons of which each text is an Event of its own: who corrects a policy or a pod template looks at what is wrong
with it now, and there may be several things."""

_Key = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Regarding:
    """The object that an Event is about; ``namespace`` is empty for cluster-scoped objects."""

    api_version: str
    kind: str
    name: str
    namespace: str = ""
    uid: str = ""

    def reference(self) -> dict[str, str]:
        """As an ObjectReference on the wire."""
        parts = {
            "apiVersion": self.api_version,
            "kind": self.kind,
            "name": self.name,
            "namespace": self.namespace,
            "uid": self.uid,
        }
        return {name: text for name, text in parts.items() if text}


@dataclass(slots=True)
class Bucket:
    """Allows ``burst`` at once and one more every ``seconds``."""

    burst: int
    seconds: float
    tokens: float
    stamp: float

    def take(self, now: float) -> bool:
        """Take a token if there is one."""
        self._fill(now)
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True

    def reserve(self, now: float) -> float:
        """Take a token that may come later only; returns the seconds until it is there."""
        self._fill(now)
        self.tokens -= 1
        return max(0.0, -self.tokens * self.seconds)

    def _fill(self, now: float) -> None:
        self.tokens = min(self.burst, self.tokens + (now - self.stamp) / self.seconds)
        self.stamp = now


@dataclass(slots=True)
class _Entry:
    """What is known of one (object, reason, code)."""

    regarding: Regarding
    reason: str
    note: str = ""
    action: str = ""
    warning: bool = False
    seen: datetime = field(default_factory=lambda: datetime.now(UTC))
    count: int = 0
    """Occurrences since the Event was created."""
    written: int = 0
    name: str = ""
    """Name of the Event; empty until it is created."""
    written_note: str = ""
    created_at: float = 0.0
    written_at: float = 0.0
    tries: int = 0
    writing: bool = False
    renews: bool = False
    """Whether another text than was written is waiting for its time."""


class Recorder:
    """Records Events; use as ``async with Recorder(client) as recorder``. ``dropped`` counts what was never written."""

    def __init__(
        self,
        client: Client,
        *,
        controller: str = f"{names.GROUP}/tangram",
        instance: str | None = None,
        clock: Callable[[], float] | None = None,
        permit: Callable[[], Permit] = lambda: ALWAYS,
    ) -> None:
        """``permit``: without it nothing is written, but at the end: what is waiting then was done under one."""
        self.dropped = 0
        self._client = client.under(lambda: ALWAYS if self._closing else permit())
        self._controller = controller
        self._instance = (instance or socket.gethostname())[:128]
        self._clock = clock or asyncio.get_running_loop().time
        self._entries: dict[_Key, _Entry] = {}
        self._buckets: dict[str, Bucket] = {}
        self._all = Bucket(_ALL_BURST, _ALL_SECONDS, _ALL_BURST, self._clock())
        self._waiting: dict[_Key, None] = {}
        self._some = asyncio.Event()
        self._closing = False
        self._serial = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Start writing in the background."""
        self._tasks = [asyncio.create_task(self._write_in_turn(), name=f"events-{n}") for n in range(_WRITERS)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write what is waiting, for at most a few seconds, and stop."""
        await self.close()

    def record(
        self,
        regarding: Regarding,
        reason: str,
        note: str,
        *,
        action: str = "Scheduling",
        warning: bool = False,
    ) -> None:
        """Remember that something happened; returns at once.

        ``reason`` is a code of at most 128 bytes, ``note`` a sentence (cut at 1024 bytes), ``action`` what was being
        done.
        """
        code = _CODE.match(note)
        key = _identity(regarding), reason, note if reason in _ONE_BY_ONE else (code[0] if code else "")
        entry = self._entries.pop(key, None) or _Entry(regarding, reason)
        self._entries[key] = entry  # at the end: the least recently used entry is the first
        entry.note = note.encode()[:_NOTE_BYTES].decode(errors="ignore") or reason
        entry.action, entry.warning = action, warning
        entry.seen = datetime.now(UTC)
        entry.count += 1
        entry.tries = 0
        self._waiting[key] = None
        self._some.set()
        if len(self._entries) > _REMEMBERED:
            self._forget_one()

    async def close(self) -> None:
        """Write what is waiting, now without limits but for at most ``_FLUSH_SECONDS``, and stop."""
        self._closing = True
        unwritten = (key for key, entry in self._entries.items() if entry.count > entry.written and not entry.writing)
        self._waiting = dict.fromkeys(unwritten)
        self._some.set()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_FLUSH_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        self._tasks = []
        if self._waiting:
            self.dropped += len(self._waiting)
            _log.warning("%d events were not written before the end", len(self._waiting))
            self._waiting.clear()

    async def _write_in_turn(self) -> None:
        while True:
            await self._some.wait()
            while self._waiting:
                key = next(iter(self._waiting))
                del self._waiting[key]
                entry = self._entries.get(key)
                if entry is not None and self._is_due(entry):
                    await self._write(key, entry)
                elif entry is not None:
                    self._renew_later(key, entry)
            if self._closing:
                return
            self._some.clear()

    def _is_due(self, entry: _Entry) -> bool:
        """Whether to write now; what is not due is written with the next occurrence, or at the end; another text than
        was written also without one."""
        now = self._clock()
        if entry.count <= entry.written:
            return False
        if self._closing:
            return not entry.writing
        if entry.writing or self._is_too_early(entry, now):
            return False
        identity = _identity(entry.regarding)
        bucket = self._buckets.get(identity)
        if bucket is None:
            bucket = self._buckets[identity] = Bucket(_OBJECT_BURST, _OBJECT_SECONDS, _OBJECT_BURST, now)
            if len(self._buckets) > _REMEMBERED:
                del self._buckets[next(iter(self._buckets))]
        return bucket.take(now)

    def _is_too_early(self, entry: _Entry, now: float) -> bool:
        """Whether the Event that was written last stands until its count, or another text, may be written."""
        if not entry.name:
            return False
        if entry.note != entry.written_note:
            return now - entry.created_at < _RENEW_SECONDS
        return now - entry.written_at < _SERIES_SECONDS

    def _renew_later(self, key: _Key, entry: _Entry) -> None:
        """Have another text than was written last written once its time has come."""
        unwritten = entry.count > entry.written and not entry.writing
        if entry.renews or not (unwritten and entry.name and entry.note != entry.written_note):
            return
        entry.renews = True
        wait = max(_SERIES_SECONDS, entry.created_at + _RENEW_SECONDS - self._clock())
        asyncio.get_running_loop().call_later(wait, self._wake, key)

    async def _write(self, key: _Key, entry: _Entry) -> None:
        entry.writing = True
        try:
            if not self._closing:
                await asyncio.sleep(self._all.reserve(self._clock()))
            same = entry.name and entry.note == entry.written_note
            ended = await self._raise_count(entry) if same else None
            if ended is None or ended.result is Result.GONE:  # the server lets Events go after an hour
                ended = await self._create(entry)
        finally:
            entry.writing = False
        if ended.done:
            entry.tries = 0
            if entry.count > entry.written:
                self._wake(key)
            return
        entry.tries += 1
        if ended.result is Result.FAILED and entry.tries < _TRIES and not self._closing:
            asyncio.get_running_loop().call_later(_RETRY_SECONDS, self._wake, key)
            return
        self.dropped += 1
        _log.warning("event %s about %s was not written: %s", entry.reason, entry.regarding.name, ended.message)

    async def _raise_count(self, entry: _Entry) -> Outcome:
        count = entry.count
        series = {"count": count, "lastObservedTime": _micro_time(entry.seen)}
        path = EVENTS.path(entry.name, entry.regarding.namespace or "default")
        ended = await self._send("PATCH", path, {"series": series})
        if ended.done:
            entry.written, entry.written_at = count, self._clock()
        return ended

    async def _create(self, entry: _Entry) -> Outcome:
        counted_before = entry.written
        fresh = max(1, entry.count - counted_before)
        body = self._body(entry, fresh)
        ended = await self._send("POST", EVENTS.collection(body["metadata"]["namespace"]), body)
        if ended.done:
            entry.name, entry.written_note = body["metadata"]["name"], body["note"]
            entry.created_at = entry.written_at = self._clock()
            entry.count -= counted_before
            entry.written = fresh
        return ended

    async def _send(self, method: str, path: str, body: dict[str, Any]) -> Outcome:
        content_type = MERGE_PATCH if method == "PATCH" else JSON
        content = msgspec.json.encode(body)
        # Creating is safe to repeat: the name is ours alone.
        return await outcome(
            self._client.request(method, path, body=content, sending=Sending(content_type, guarded=True))
        )

    def _body(self, entry: _Entry, count: int) -> dict[str, Any]:
        moment = _micro_time(entry.seen)
        unique = f"{int(entry.seen.timestamp() * 1e6):x}{next(self._serial) & 0xFFF:03x}"
        body: dict[str, Any] = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {
                "name": f"{entry.regarding.name[:_NAME_LENGTH]}.{unique}",
                "namespace": entry.regarding.namespace or "default",
            },
            "eventTime": moment,
            "reportingController": self._controller,
            "reportingInstance": self._instance,
            "action": entry.action,
            "reason": entry.reason,
            "regarding": entry.regarding.reference(),
            "note": entry.note,
            "type": "Warning" if entry.warning else "Normal",
        }
        if count > 1:
            body["series"] = {"count": count, "lastObservedTime": moment}
        return body

    def _wake(self, key: _Key) -> None:
        if key in self._entries:
            self._entries[key].renews = False
            self._waiting[key] = None
            self._some.set()

    def _forget_one(self) -> None:
        key = next(iter(self._entries))
        del self._entries[key]
        if self._waiting.pop(key, 0) is None:
            self.dropped += 1


def _identity(regarding: Regarding) -> str:
    return regarding.uid or f"{regarding.api_version}/{regarding.kind}/{regarding.namespace}/{regarding.name}"


def _micro_time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
