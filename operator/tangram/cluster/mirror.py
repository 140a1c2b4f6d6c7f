"""The local copy of a collection: which events change it, and what is passed on of each change. No network, no clock.

The rules of this file:

- A resource version is a number that only grows. An object whose version is not above the one already known is an
  echo and is dropped; so is anything about a uid from before its deletion.
- ``replace`` compares with a complete state: vanished objects are deletions, equal ones are not passed on at all.
- A name that comes back with another uid is another object: a deletion and an addition.
- An object that cannot be read is kept in ``undecodable`` until it can be read or is gone; the last state of it that
  could be read stays in ``objects``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from tangram.api.objects import Metadata

Key = tuple[str, str]
"""(namespace, name); the namespace of a cluster-scoped object is empty."""
Change = Literal["added", "modified", "deleted", "synced"]

_BURIED = 10_000
"""Deleted uids that are remembered: more than any real delay between two events about one object can hold."""


class HasMetadata(Protocol):
    """Anything with Kubernetes metadata."""

    @property
    def metadata(self) -> Metadata:
        """The object's metadata."""
        ...


T = TypeVar("T", bound=HasMetadata)
Sink = Callable[[Change, T | None, T | None], None]
"""Called as ``sink(change, old, new)`` in the server's order; "synced" has neither an old nor a new."""


@dataclass(frozen=True, slots=True)
class Undecodable:
    """An object that exists but that we cannot read. Whoever counts resources must count it as occupying."""

    change: Change
    raw: bytes
    error: str
    metadata: Metadata | None
    """As much as could be read; None when not even the name."""

    @property
    def key(self) -> Key | None:
        """(namespace, name), where known."""
        return (self.metadata.namespace, self.metadata.name) if self.metadata is not None else None


class Mirror(Generic[T]):
    """The copy; ``objects`` is read by others and written here only."""

    def __init__(self, sink: Sink[T]) -> None:
        self.objects: dict[Key, T] = {}
        self.undecodable: dict[Key, Undecodable] = {}
        self.resource_version = ""
        self.number = 0
        """``resource_version`` as a number."""
        self._sink = sink
        self._buried: dict[str, int] = {}

    def upsert(self, new: T) -> None:
        """An object was added or modified."""
        metadata = new.metadata
        key = (metadata.namespace, metadata.name)
        number = number_of(metadata.resource_version)
        old = self.objects.get(key)
        if number and (
            (old is not None and number <= number_of(old.metadata.resource_version))
            or (metadata.uid in self._buried and number <= self._buried[metadata.uid])
        ):
            return
        self.advance(metadata.resource_version)
        if self.undecodable:
            self.undecodable.pop(key, None)
        self._put(key, old, new)

    def delete(self, metadata: Metadata) -> None:
        """An object was deleted, or has left the selector."""
        key = (metadata.namespace, metadata.name)
        number = number_of(metadata.resource_version)
        self.advance(metadata.resource_version)
        unreadable = self.undecodable.get(key)
        if unreadable is not None and unreadable.metadata is not None and unreadable.metadata.uid == metadata.uid:
            del self.undecodable[key]
        old = self.objects.get(key)
        if old is None or old.metadata.uid != metadata.uid:
            self._bury(metadata.uid, number)
        elif not number or number >= number_of(old.metadata.resource_version):
            self._remove(key, number)

    def cannot_read(self, fault: Undecodable) -> None:
        """An object was added or modified to something unreadable; ``fault.metadata`` must be known."""
        if fault.metadata is None:
            raise ValueError("an object without a name cannot be kept")
        key = (fault.metadata.namespace, fault.metadata.name)
        self.advance(fault.metadata.resource_version)
        old = self.objects.get(key)
        if old is not None and old.metadata.uid != fault.metadata.uid:
            self._remove(key, self.number)
        self.undecodable[key] = fault

    def foresee(self, key: Key, new: T) -> None:
        """An object of the server's first complete state, which is still coming in: ``replace`` will follow."""
        old = self.objects.get(key)
        if old is None or old != new:
            self._put(key, old, new)

    def replace(self, fresh: Mapping[Key, T], undecodable: Mapping[Key, Undecodable], version: str) -> None:
        """The server's complete state at ``version``: take it over and deliver the differences."""
        self.undecodable = dict(undecodable)
        for key, old in list(self.objects.items()):
            unreadable = undecodable.get(key)
            same = unreadable is not None and unreadable.metadata and unreadable.metadata.uid == old.metadata.uid
            if key not in fresh and not same:
                self._remove(key, 0)
        for key, new in fresh.items():
            previous = self.objects.get(key)
            # Equal versions are not enough: after a restore the same number may mean another state.
            if previous is not new and previous != new:
                self._put(key, previous, new)
        self.resource_version, self.number = version, number_of(version)
        self._buried.clear()
        self._sink("synced", None, None)

    def advance(self, version: str) -> None:
        """The server has reached ``version``."""
        number = number_of(version)
        if number > self.number:
            self.resource_version, self.number = version, number

    def forget_version(self) -> None:
        """Our version is of no more use: the next list must be a complete one."""
        self.resource_version, self.number = "", 0

    def _put(self, key: Key, old: T | None, new: T) -> None:
        if old is not None and old.metadata.uid != new.metadata.uid:
            self._remove(key, number_of(new.metadata.resource_version))
            old = None
        self.objects[key] = new
        self._sink("added" if old is None else "modified", old, new)

    def _remove(self, key: Key, number: int) -> None:
        old = self.objects.pop(key)
        self._bury(old.metadata.uid, number)
        self._sink("deleted", old, None)

    def _bury(self, uid: str, number: int) -> None:
        self._buried[uid] = max(number, self._buried.get(uid, 0))
        if len(self._buried) > _BURIED:
            del self._buried[next(iter(self._buried))]


def number_of(version: str) -> int:
    """A resource version as a number; 0 where a server writes something else (then nothing counts as an echo)."""
    return int(version) if version.isdecimal() else 0
