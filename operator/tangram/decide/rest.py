"""A decision that changed nothing stands until something else does: it is not made again before.

All that a decision depends on is compared by value, so that an event that changes none of it (a heartbeat, a condition
of a pod) costs no decision. Of what time alone changes the nearest moment is known beforehand.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from typing import Any, Protocol

import numpy as np

from tangram.decide.decision import Decision
from tangram.decide.queues.fairness import past_share
from tangram.decide.queues.rights import least_runtime
from tangram.decide.reserve.reservation import MOST_PATIENCE, OVERRUN, PATIENCE
from tangram.plan import Evict
from tangram.snapshot.arrays import UNLIMITED, Bool, Int8, Int64, Snapshot
from tangram.snapshot.values.pending import WAITED_SECONDS

_NEVER = 1 << 62
_SECONDS_FORESEEN = 10
"""For how long at most somebody gives way before it is asked again who would be evicted: in time others have lost less
work by it."""
_CHANGING = (np.ndarray, list, Mapping)


class GivesWay(Protocol):
    """Who gives way in a decision."""

    evictions: dict[int, Evict]
    """Slot -> the eviction that it is spared."""

    def applied(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot as if they were not there."""

    def sentences(self, snapshot: Snapshot) -> dict[int, str]:
        """Slot -> why it waits."""


@dataclass(slots=True, eq=False)
class Rest:
    """A decision that changed nothing."""

    _made: Decision
    yielding: GivesWay
    _seen: Snapshot
    """A copy of what it was made of."""
    _until: int
    """Seconds since the epoch before which time alone makes no other one."""
    _said: tuple[Int8, dict[int, tuple[int, str]]] | None = None
    """What had been reported when nothing was left to say."""
    sentences: dict[tuple[int, int], str] = field(default_factory=dict)
    """(gang row, or -1, and shape) -> why such pods wait, where that has been asked."""

    def not_compared(self, due: Collection[int], since: Int64) -> frozenset[int]:
        """Of these slots those of which nothing has been said since the second in which this decision was first made:
        what was said later is so still. ``since`` [P]."""
        return frozenset(slot for slot in due if since[slot] <= self._seen.now)

    def has_said(self, code: Int8, refused: dict[int, tuple[int, str]]) -> bool:
        """Whether nothing was left to say when as much had been reported: [P] codes and refused evictions."""
        said = self._said
        return said is not None and said[1] == refused and np.array_equal(said[0], code)

    def note_said(self, code: Int8, refused: dict[int, tuple[int, str]]) -> None:
        """With so much reported nothing is left to say."""
        self._said = code.copy(), dict(refused)

    def goes_on(self, snapshot: Snapshot) -> bool:
        """Whether a decision of this snapshot would change nothing either."""
        if not self._seen.now <= snapshot.now < self._until:
            return False
        scores, queues = self._made.scores, replace(self._seen.queues, recent=snapshot.queues.recent)
        # Past use says who comes first, and that makes a difference only where nodes are held for the first.
        if self._made.draft.reservation is not None and not np.array_equal(_by_past(self._seen), _by_past(snapshot)):
            return False
        if not _same(replace(self._seen, now=snapshot.now, queues=queues), snapshot):
            return False
        return not (scores.ask_plugins(snapshot) or scores.plugins.faults)

    def decision(self, snapshot: Snapshot) -> Decision:
        """The decision as if it had been made of this snapshot, for which it goes on."""
        snapshot = self.yielding.applied(snapshot) if self.yielding.evictions else snapshot
        return replace(self._made, snapshot=replace(snapshot, departures=self._made.snapshot.departures))


def rest_of(made: Decision, snapshot: Snapshot, yielding: GivesWay) -> Rest | None:
    """What is to be remembered of a decision of the snapshot that changed nothing; None: time, or a plugin, may have
    another one made at any moment."""
    until = min(_moments(snapshot, _limited(made)), default=_NEVER)
    if yielding.evictions:
        until = min(until, snapshot.now + _SECONDS_FORESEEN)
    if made.scores.plugins.reorder or until <= snapshot.now:
        return None
    return Rest(made, yielding, _kept(snapshot), until)


def _by_past(snapshot: Snapshot) -> Int64:
    """[Q] the places of queue rows in the order of what they have used of late; equal ones share theirs."""
    return np.unique(past_share(snapshot), return_inverse=True)[1].reshape(-1)


def _limited(made: Decision) -> Bool:
    """[P] waiting pods that stand alone and whose queues are at a limit: how long they have waited has no say."""
    pending = made.snapshot.pending
    return np.asarray((pending.gang < 0) & np.isin(pending.shape, list(made.draft.over_limit)), np.bool_)


def _moments(snapshot: Snapshot, limited: Bool) -> Iterator[int]:
    """When time alone may have another decision made; a moment in the past: it may at any time. ``limited`` [P]: whose
    age has no say."""
    now, pending, running, gangs = snapshot.now, snapshot.pending, snapshot.running, snapshot.gangs
    departures = snapshot.departures
    steps = [WAITED_SECONDS]
    if departures is not None:
        steps += [departures.delay * patience for patience in (1, PATIENCE, MOST_PATIENCE)]
        slots = departures.present & (departures.ends < UNLIMITED)
        ends, ran = departures.ends[slots], departures.ends[slots] - departures.started[slots]
        if (ends <= now).any():
            yield now  # how long they will run is guessed anew each second
        yield from _nearest(np.concatenate([ends, ends + ran // OVERRUN + 1]), now)
    for step in sorted(set(steps)):
        yield from _nearest(pending.created[pending.waiting & ~limited] + step, now)
    there = running.present[: len(running.names)]
    leaf = snapshot.shapes.leaf[running.shape[: len(there)]]
    least = least_runtime(snapshot.queues)[np.where(leaf >= 0, snapshot.queues.parent[leaf], -1)]
    yield from _nearest(running.started[: len(there)][there] + least[there], now)
    yield from _nearest(running.checkpoint[: len(there)][there], now)
    yield from _nearest(gangs.since + gangs.timeout, now)


def _nearest(moments: Int64, now: int) -> Iterator[int]:
    """The first of the moments that are to come."""
    coming = moments[moments > now]
    if len(coming):
        yield int(coming.min())


def _kept(value: Any) -> Any:
    """A copy of which no part is changed with the original."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, list):
        return [_kept(one) for one in value] if _changes(value) else value.copy()
    if isinstance(value, Mapping):
        return {key: _kept(one) for key, one in value.items()} if _changes(value.values()) else dict(value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{name: _kept(getattr(value, name)) for name in _names(type(value))})
    return value


def _changes(values: Collection[Any]) -> bool:
    """Whether the parts, which are all of one kind, can be changed themselves."""
    return isinstance(next(iter(values), None), _CHANGING)


def _same(one: Any, other: Any) -> bool:
    """Whether two values are equal in all their parts."""
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and bool((one == other).all())
    if isinstance(one, list) and _changes(one):
        return len(one) == len(other) and (one == other if isinstance(one[0], dict) else all(map(_same, one, other)))
    if isinstance(one, Mapping) and _changes(one.values()):
        return one.keys() == other.keys() and all(_same(part, other[key]) for key, part in one.items())
    if is_dataclass(one) and not isinstance(one, type) and type(one) is type(other):
        return all(_same(getattr(one, name), getattr(other, name)) for name in _names(type(one)))
    return bool(one == other)


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))
