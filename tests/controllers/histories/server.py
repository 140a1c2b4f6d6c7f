"""An API server in memory: objects with versions, watches that may lag, and answers that may be lost.

What it does as the real one does: resource versions on every change and none for a change of nothing, preconditions by
uid and resourceVersion, generations, status as a subresource, pods that go at once when they have no node or have
ended, and the quota of a namespace.
"""

import asyncio
import bisect
import itertools
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
from tests.controllers.builders import NOW
from yarl import URL

from tangram import errors
from tangram.cluster.credentials import StaticHeader
from tangram.cluster.kubeconfig import Access
from tangram.cluster.rest import Client
from tangram.settings import BorderSettings
from tangram.units import rfc3339

Object = dict[str, Any]
Name = tuple[str, str]
"""(resource, name); all is in one namespace."""
NAMESPACE = "team"
ENDED = ("Succeeded", "Failed")
_FOREVER = 1e6
_GENERATED = ("trainingjobs", "inferenceservices")


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of a watch."""

    time: float
    type: str
    number: int
    encoded: bytes
    labels: dict[str, str]
    name: str


@dataclass(frozen=True, slots=True)
class Write:
    """A write of a controller that was done."""

    time: float
    who: str
    method: str
    name: Name
    before: Object | None
    after: Object | None


@dataclass
class Server:
    """The objects, and what has happened to them."""

    clock: Callable[[], float]
    """Seconds since the beginning of the history."""
    by_resource: dict[str, dict[str, Object]] = field(default_factory=lambda: defaultdict(dict))
    """By resource, by name."""
    logs: dict[str, list[Entry]] = field(default_factory=lambda: defaultdict(list))
    """By resource."""
    version: int = 1
    quota: int = 10_000
    """Pods that the namespace may have."""
    on_write: Callable[[Write], None] = lambda _write: None
    on_change: Callable[[Name, Object | None, Object | None], None] = lambda _name, _before, _after: None
    _serial: "itertools.count[int]" = field(default_factory=lambda: itertools.count(1))
    _news: dict[str, asyncio.Event] = field(default_factory=lambda: defaultdict(asyncio.Event))

    @property
    def now(self) -> str:
        """The time as objects have it."""
        return rfc3339(NOW + self.clock())

    def all(self, resource: str) -> list[Object]:
        """All objects of a resource, by name."""
        return [found for _, found in sorted(self.by_resource[resource].items())]

    def get(self, resource: str, name: str) -> Object | None:
        return self.by_resource[resource].get(name)

    def commit(self, resource: str, new: Object) -> Object:
        """Store an object, new or changed; nothing happens when it is as it was."""
        name = (resource, new["metadata"]["name"])
        old = self.get(*name)
        new = msgspec.json.decode(msgspec.json.encode(new))
        if old is None:
            new["metadata"] |= {"uid": f"uid-{next(self._serial)}", "creationTimestamp": self.now, "generation": 1}
        elif old == new:
            return old
        elif resource in _GENERATED and old["spec"] != new["spec"]:
            new["metadata"]["generation"] = old["metadata"]["generation"] + 1
        self.version += 1
        new["metadata"]["resourceVersion"] = str(self.version)
        self.by_resource[resource][name[1]] = new
        self._log(resource, "ADDED" if old is None else "MODIFIED", new)
        self.on_change(name, old, new)
        return new

    def change(self, resource: str, name: str, change: Object) -> Object | None:
        """Merge a change into an object, if it is there."""
        old = self.get(resource, name)
        return None if old is None else self.commit(resource, merged(old, change))

    def remove(self, resource: str, name: str) -> None:
        """An object is gone."""
        old = self.by_resource[resource].pop(name, None)
        if old is None:
            return
        self.version += 1
        last = merged(old, {"metadata": {"resourceVersion": str(self.version)}})
        self._log(resource, "DELETED", last)
        self.on_change((resource, name), old, None)

    def delete(self, resource: str, name: str) -> None:
        """Ask an object to go: pods that run do so when their kubelet says so."""
        old = self.get(resource, name)
        if old is None:
            return
        if resource == "pods" and old["spec"].get("nodeName") and old["status"]["phase"] not in ENDED:
            if "deletionTimestamp" not in old["metadata"]:
                self.change(resource, name, {"metadata": {"deletionTimestamp": self.now}})
            return
        self.remove(resource, name)

    def _log(self, resource: str, kind: str, item: Object) -> None:
        encoded = b'{"type":"%s","object":%s}\n' % (kind.encode(), msgspec.json.encode(item))
        metadata = item["metadata"]
        entry = Entry(self.clock(), kind, self.version, encoded, metadata.get("labels", {}), metadata["name"])
        self.logs[resource].append(entry)
        self._news.pop(resource, asyncio.Event()).set()

    async def news(self, resource: str) -> None:
        """Wait for a change of an object of this resource."""
        await self._news[resource].wait()

    # What requests do.

    def handle(self, who: str, method: str, url: URL, body: bytes | None) -> bytes:
        """The answer to a request. Raises ClusterError."""
        resource, name, subresource = parts_of(url.path)
        content = msgspec.json.decode(body) if body else {}
        match method:
            case "GET" if name:
                return msgspec.json.encode(self._there(resource, name))
            case "GET":
                return self._list(resource, url.query)
            case "PUT":
                _check(self._there(resource, name), content["metadata"])
                return msgspec.json.encode(self.commit(resource, content))
            case "POST":
                return self._create(who, resource, content)
            case "PATCH":
                return self._patch(who, resource, name, subresource, content)
            case "DELETE":
                return self._delete(who, resource, name, content.get("preconditions") or {})
        raise errors.ClusterError(405, "MethodNotAllowed", method)

    def _there(self, resource: str, name: str) -> Object:
        found = self.get(resource, name)
        if found is None:
            raise errors.NotFound(404, "NotFound", f'{resource} "{name}" not found')
        return found

    def _list(self, resource: str, query: Mapping[str, str]) -> bytes:
        """A page of a list; ``continue`` is where it begins."""
        items = [item for item in self.all(resource) if selected(item, query.get("labelSelector", ""))]
        begin = int(query.get("continue") or 0)
        end = begin + int(query.get("limit") or len(items) + 1)
        metadata = {"resourceVersion": str(self.version), "continue": str(end) if end < len(items) else ""}
        return msgspec.json.encode({"metadata": metadata, "items": items[begin:end]})

    def _create(self, who: str, resource: str, item: Object) -> bytes:
        name = item["metadata"]["name"]
        if self.get(resource, name) is not None:
            raise errors.Conflict(409, "AlreadyExists", f'{resource} "{name}" already exists')
        if resource == "pods":
            if sum(pod["status"]["phase"] not in ENDED for pod in self.all("pods")) >= self.quota:
                message = f'pods "{name}" is forbidden: exceeded quota: all, limited: pods={self.quota}'
                raise errors.ClusterError(403, "Forbidden", message)
            item["status"] = {"phase": "Pending"}
        made = self.commit(resource, item)
        self.on_write(Write(self.clock(), who, "POST", (resource, name), None, made))
        return msgspec.json.encode(made)

    def _patch(self, who: str, resource: str, name: str, subresource: str, change: Object) -> bytes:
        old = self._there(resource, name)
        _check(old, change.get("metadata") or {})
        wanted = {"status": change.get("status")} if subresource == "status" else {**change, "status": {}}
        new = self.commit(resource, merged(old, wanted))
        if new is not old:
            self.on_write(Write(self.clock(), who, "PATCH", (resource, name), old, new))
        return msgspec.json.encode(new)

    def _delete(self, who: str, resource: str, name: str, preconditions: Object) -> bytes:
        old = self._there(resource, name)
        _check(old, preconditions)
        self.on_write(Write(self.clock(), who, "DELETE", (resource, name), old, None))
        self.delete(resource, name)
        return msgspec.json.encode(old)


def merged(target: Object, change: Object) -> Object:
    """A JSON merge patch."""
    result = dict(target)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            before = result.get(key)
            result[key] = merged(before if isinstance(before, dict) else {}, value)
        else:
            result[key] = value
    return result


def selected(item: Object, selector: str) -> bool:
    """Whether an object has the labels of a selector of the form ``a=b,c=d``."""
    labels = item["metadata"].get("labels", {})
    return all(
        labels.get(key) == value for key, _, value in (part.partition("=") for part in selector.split(",") if part)
    )


def _check(old: Object, preconditions: Object) -> None:
    for key in ("uid", "resourceVersion"):
        wanted = preconditions.get(key)
        if wanted and wanted != old["metadata"][key]:
            raise errors.Conflict(409, "Conflict", f"precondition failed: {key}")


def parts_of(path: str) -> tuple[str, str, str]:
    """(resource, name, subresource) of a path; empty where it has none."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    if parts[:1] == ["namespaces"] and len(parts) > 2:
        parts = parts[2:]
    resource, name, subresource = (*parts, "", "", "")[:3]
    return resource, name, subresource


@dataclass
class Trouble:
    """What is wrong between one process and the server."""

    lost_before: float = 0.0
    """Share of requests that never arrive."""
    lost_after: float = 0.0
    """Share of requests that are done and whose answer is lost."""
    slow: float = 0.0
    """Seconds that a request takes at most, beside a little."""
    blind: dict[str, float] = field(default_factory=dict)
    """Resource -> until when its watch shows nothing."""
    breaks: float = 0.0
    """Share of events at which a watch breaks."""


class Wire(Client):
    """A client of the server in memory: everything above one attempt of a request is the real one's."""

    def __init__(self, server: Server, who: str, chance: random.Random) -> None:
        super().__init__(Access("http://api", StaticHeader()), BorderSettings(watch_inactivity=_FOREVER))
        self.trouble = Trouble()
        self._server, self._who, self._chance = server, who, chance

    async def _send(self, method: str, url: URL, body: bytes | None, *_more: Any) -> bytes:
        trouble, chance = self.trouble, self._chance
        await asyncio.sleep(0.002 + trouble.slow * chance.random())
        if chance.random() < trouble.lost_before:
            raise errors.NotReachable("the request was lost")
        answer = self._server.handle(self._who, method, url, body)
        if chance.random() < trouble.lost_after:
            raise errors.NotReachable("the answer was lost")
        await asyncio.sleep(0.002 + trouble.slow * chance.random())
        return answer

    @asynccontextmanager
    async def stream(self, path: str, params: Any = None) -> AsyncIterator[AsyncIterator[bytes]]:
        yield self.pieces(parts_of(path)[0], dict(params or {}))

    async def pieces(self, resource: str, params: dict[str, str]) -> AsyncIterator[bytes]:
        server, selector = self._server, params.get("labelSelector", "")
        if "resourceVersion" in params:
            version = int(params["resourceVersion"])
        else:
            version = server.version
            for item in server.all(resource):
                if selected(item, selector):
                    yield b'{"type":"ADDED","object":%s}\n' % msgspec.json.encode(item)
            yield _bookmark(version, {"k8s.io/initial-events-end": "true"})
        async for entry in self.events(resource, version):
            if selected({"metadata": {"labels": entry.labels}}, selector):
                yield entry.encoded

    async def events(self, resource: str, version: int) -> AsyncIterator[Entry]:
        """Events after a version, as late as this process sees them."""
        server, log = self._server, self._server.logs[resource]
        at = bisect.bisect_right(log, version, key=lambda entry: entry.number)
        while True:
            while at < len(log):
                entry = log[at]
                due = max(entry.time + 0.01, self.trouble.blind.get(resource, 0.0))
                if due > server.clock():
                    await asyncio.sleep(due - server.clock())
                    continue
                if self._chance.random() < self.trouble.breaks:
                    raise errors.NotReachable("the watch broke")
                at += 1
                yield entry
            await server.news(resource)


def _bookmark(version: int, annotations: dict[str, str]) -> bytes:
    metadata = {"resourceVersion": str(version), "annotations": annotations}
    return msgspec.json.encode({"type": "BOOKMARK", "object": {"metadata": metadata}}) + b"\n"
