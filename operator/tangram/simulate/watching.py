"""What one client has seen of a simulated cluster: each kind in the server's order, late, with gaps that a list ends.

A watch that lags shows every change, only later. One that was lost shows nothing of what happens meanwhile; the list
that follows shows the difference between what was known and what is, as ``cluster.mirror`` does: a name that came back
with another uid is a deletion and an addition, and what came and went in the gap was never there.
"""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from enum import StrEnum
from functools import partial
from typing import Any, Protocol

from tangram.simulate.clock import VirtualClock

Handler = Callable[[Any, Any], None]
"""(old, new) of one object; new None: it is gone."""


class Kind(StrEnum):
    """A collection that can be watched."""

    NODE = "nodes"
    POD = "pods"
    CLAIM = "persistentvolumeclaims"
    VOLUME = "persistentvolumes"
    STORAGE_CLASS = "storageclasses"
    DRIVERS = "csinodes"
    POLICY = "hybridpolicies"
    INVENTORY = "gpunodes"


class Source(Protocol):
    """The cluster that is watched."""

    clock: VirtualClock
    objects: dict[Kind, dict[Any, Any]]

    def schedule(self, at: int | None, action: Callable[[], None]) -> None:
        """Do something at a later second, or now."""


class Watch:
    """One client's watches, one for each kind that it has a handler for; ``delays`` in seconds."""

    def __init__(self, source: Source, handlers: Mapping[Kind, Handler], delay: int = 0) -> None:
        self._source, self._handlers = source, dict(handlers)
        self._known: dict[Kind, dict[Hashable, Any]] = {}
        """What has been shown, of kinds whose watch has ever lagged or been lost; of others it is what there is."""
        self._delays: dict[Kind, int] = {}
        self._lost: set[Kind] = set()
        self._lives: dict[Kind, int] = {}
        """How often a kind has been lost: what was under way then is never shown."""
        self._last: dict[Kind, int] = {}
        self._under_way: dict[Kind, deque[tuple[Hashable, Any]]] = {}
        """Changes that have yet to be shown, in their order: the first is shown next, whichever was due."""
        self.stopped = False
        for kind, handler in self._handlers.items():
            for found in list(source.objects[kind].values()):
                handler(None, found)
            if delay:
                self.lag(delay, [kind])

    @property
    def current(self) -> bool:
        """Whether everything that has happened has been shown."""
        return not self._lost and not any(self._under_way.values())

    def stop(self) -> None:
        """The client is dead: it is shown nothing any more."""
        self.stopped = True

    def lag(self, delay: int, kinds: Iterable[Kind] = tuple(Kind)) -> None:
        """From now on show changes so many seconds late; never out of their order."""
        for kind in self._handlers.keys() & set(kinds):
            self._remember(kind)
            self._delays[kind] = delay

    def lose(self, kinds: Iterable[Kind] = tuple(Kind)) -> None:
        """The connection breaks: nothing is shown until ``relist``, nor what is under way."""
        for kind in self._handlers.keys() & set(kinds):
            self._remember(kind)
            self._lost.add(kind)
            self._lives[kind] = self._lives.get(kind, 0) + 1
            self._under_way[kind] = deque()

    def relist(self, kinds: Iterable[Kind] = tuple(Kind)) -> None:
        """List anew what was lost: all that has changed since comes at once, deletions first."""
        for kind in sorted(self._lost & set(kinds)):
            self._lost.discard(kind)
            known, there = self._known[kind], self._source.objects[kind]
            for key in [key for key in known if key not in there]:
                self._deliver(kind, key, None)
            for key, new in list(there.items()):
                if known.get(key) is not new:
                    self._deliver(kind, key, new)

    def show(self, kind: Kind, key: Hashable, old: Any, new: Any) -> None:
        """Something has changed."""
        if kind not in self._known:
            if kind in self._handlers and not self.stopped:
                self._handlers[kind](old, new)
        elif kind not in self._lost:
            now = self._source.clock.now
            due = max(now + self._delays.get(kind, 0), self._last.get(kind, 0))
            self._last[kind] = due
            self._under_way.setdefault(kind, deque()).append((key, new))
            self._source.schedule(due, partial(self._arrive, kind, self._lives.get(kind, 0)))

    def _remember(self, kind: Kind) -> None:
        if kind not in self._known:
            self._known[kind] = dict(self._source.objects[kind])

    def _arrive(self, kind: Kind, life: int) -> None:
        if life == self._lives.get(kind, 0):
            self._deliver(kind, *self._under_way[kind].popleft())

    def _deliver(self, kind: Kind, key: Hashable, new: Any) -> None:
        known, handler = self._known[kind], self._handlers[kind]
        old = known.get(key)
        if new is None:
            known.pop(key, None)
        else:
            known[key] = new
        if self.stopped or (old is None and new is None):
            return
        if old is not None and new is not None and _uid(old) != _uid(new):
            handler(old, None)
            old = None
        handler(old, new)


def _uid(found: Any) -> str:
    metadata = getattr(found, "metadata", None)
    return metadata.uid if metadata is not None and metadata.uid else ""
