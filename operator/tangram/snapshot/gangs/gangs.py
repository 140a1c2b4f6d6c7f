"""Gangs: what their members say of them, and how many are where.

A member that has ended with success still counts, as long as its controller has other members in the gang: when one
member of a job starts again, those that are done need not. Without that condition yesterday's pods would count for a
gang of the same name today.
"""

import contextlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np

from tangram import units
from tangram.api import names
from tangram.api.objects import Metadata
from tangram.errors import InvalidInput
from tangram.snapshot.arrays import Gangs, Int32, Int64

_MOST_MEMBERS = 100_000
_MOST_ROLES = 16
_LONGEST_TIMEOUT = 10 * 365 * 24 * 3600
TERMS = (names.GANG_MIN, names.GANG_ROLE_MIN, names.GANG_TIMEOUT, names.TOPOLOGY_REQUIRED, names.TOPOLOGY_PREFERRED)
"""Annotations by which a pod speaks of its gang."""
Numbers = TypeVar("Numbers", Int32, Int64)


@dataclass(frozen=True, slots=True)
class Terms:
    """What a member says of its gang; equal terms are one object."""

    minimum: int = 1
    roles: tuple[tuple[str, int], ...] = ()
    """(role, members of it that must be bound together)."""
    timeout: int = -1
    """Seconds; 0: never; -1: as the scheduler is set."""
    required: str = ""
    """Level of which all members must share one domain, by name or label; empty: none."""
    preferred: str = ""
    """Level of which they share one if possible; empty: none."""


@dataclass(frozen=True, slots=True)
class Member:
    """A pod as a member of its gang."""

    gang: str
    """``namespace/name``."""
    terms: Terms
    role: str = ""
    owner: str = ""
    """Uid of the controller that the pod belongs to."""


def read_member(metadata: Metadata) -> Member | None:
    """The pod's membership; None: it stands alone. Raises ValueError with a sentence naming field and value."""
    label = metadata.labels.get(names.GANG, "")
    if not label:
        return None
    notes = metadata.annotations
    terms = _terms(*(notes.get(name) for name in TERMS))
    owner = next((owner.uid for owner in metadata.owner_references if owner.controller), "")
    return Member(f"{metadata.namespace}/{label}", terms, metadata.labels.get(names.ROLE, ""), owner)


@lru_cache(maxsize=4096)
def _terms(
    minimum: str | None, roles: str | None, timeout: str | None, required: str | None, preferred: str | None
) -> Terms:
    found = tuple(sorted(_role_minimums(roles).items())) if roles is not None else ()
    total = _members(names.GANG_MIN, minimum) if minimum is not None else 1
    return Terms(
        max(total, sum(count for _, count in found)), found, _timeout(timeout), required or "", preferred or ""
    )


def _members(annotation: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= _MOST_MEMBERS):
        raise ValueError(f"annotation {annotation}: {text!r} is not allowed; allowed: a whole number from 1 to 100000")
    return int(text)


def _role_minimums(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    parts = text.split(",")
    for part in parts:
        role, separator, count = (word.strip() for word in part.partition("="))
        if not role or not separator or role in found or len(parts) > _MOST_ROLES:
            allowed = f"up to {_MOST_ROLES} different roles such as launcher=1,worker=4"
            raise ValueError(f"annotation {names.GANG_ROLE_MIN}: {text[:80]!r} is not allowed; allowed: {allowed}")
        found[role] = _members(names.GANG_ROLE_MIN, count)
    return found


def _timeout(text: str | None) -> int:
    if text is None:
        return -1
    try:
        return min(units.duration_seconds(text), _LONGEST_TIMEOUT)
    except InvalidInput as error:
        raise ValueError(f"annotation {names.GANG_TIMEOUT}: {text[:80]!r}; allowed: {error.allowed}") from None


class GangTable:
    """Keeps ``arrays.Gangs`` true by counting members."""

    def __init__(self, default_timeout: int = 0) -> None:
        self.rows: dict[str, int] = {}
        self.arrays = _empty(0)
        self.next_timeout = 0
        """When, in seconds since the epoch, the next gang will have been in part for its timeout; 0: none is."""
        self._default_timeout = default_timeout
        self._free: list[int] = []
        self._said: list[Counter[Terms]] = []
        self._owners: list[Counter[str]] = []
        self._with_roles: set[int] = set()
        self.with_levels: set[int] = set()
        """Rows of gangs whose members name a level of topology."""
        self.places: list[Counter[str]] = []
        """Per gang the nodes of its bound members, and how many each has."""
        self._finished: dict[str, dict[str, Member]] = {}
        """Gang -> uid -> member that has ended with success, counted or not."""
        self._gang_of_finished: dict[str, str] = {}

    def join(self, member: Member) -> int:
        """Count a member and what it says of the gang; the largest word counts, so none is left behind."""
        row = self.rows.get(member.gang)
        if row is None:
            row = self._new_row(member.gang)
        said, owners = self._said[row], self._owners[row]
        said[member.terms] += 1
        owners[member.owner] += 1
        if said[member.terms] == 1:
            self._agree(row)
        if owners[member.owner] == 1:
            self._count_finished(row)
        return row

    def leave(self, member: Member) -> None:
        """Forget a member; the last one takes the gang with it."""
        row = self.rows.get(member.gang)
        if row is None:
            return
        said, owners = self._said[row], self._owners[row]
        said[member.terms] -= 1
        owners[member.owner] -= 1
        if not said[member.terms]:
            del said[member.terms]
            self._agree(row)
        if not owners[member.owner]:
            del owners[member.owner]
            self._count_finished(row)
        if not said:
            del self.rows[member.gang]
            self._clear(row)
            self._free.append(row)

    def finish(self, metadata: Metadata) -> None:
        """A pod has ended with success."""
        uid = metadata.uid
        self.forget_finished(uid)
        with contextlib.suppress(ValueError):
            member = read_member(metadata)
            if member is not None:
                self._count_as_finished(uid, member)

    def forget_finished(self, uid: str) -> None:
        """A pod that had ended with success is gone."""
        gang = self._gang_of_finished.pop(uid, None)
        if gang is None:
            return
        del self._finished[gang][uid]
        if not self._finished[gang]:
            del self._finished[gang]
        self._count_finished(self.rows.get(gang))

    def levels_said(self, row: int) -> list[tuple[str, str]]:
        """(required, preferred level) that members of the gang name; empty words where they name none."""
        return [(terms.required, terms.preferred) for terms in self._said[row]]

    def bind(self, row: int, role: str, node: str, members: int = 1) -> None:
        """Count members that have got their places, or lost them (-1)."""
        self.arrays.bound[row] += members
        self.places[row][node] += members
        if not self.places[row][node]:
            del self.places[row][node]
        if role:
            bound = self.arrays.role_bound[row]
            bound[role] = bound.get(role, 0) + members

    def look(self, now: int) -> list[int]:
        """Follow since when gangs are in part; rows of those that are so, with bound members, beyond their timeout."""
        arrays, self.next_timeout = self.arrays, 0
        if not self.rows:
            return []
        there = arrays.bound + arrays.finished
        short, absent = there < arrays.minimum, there + arrays.waiting < arrays.minimum
        for row in self._with_roles:
            short[row] = arrays.missing(row) > 0
        broken = short & ((arrays.bound > 0) | absent)
        arrays.since[:] = np.where(broken, np.where(arrays.since > 0, arrays.since, now), 0)
        ends = arrays.since + arrays.timeout
        ahead = ends[broken & (ends > now)]
        self.next_timeout = int(ahead.min()) if len(ahead) else 0
        late = broken & (arrays.bound > 0) & (arrays.timeout > 0) & (ends <= now)
        found: list[int] = np.flatnonzero(late).tolist()
        return found

    def given_up(self, gang: str, now: int) -> None:
        """The gang's bound members are being evicted: those that stay all the same are looked at a timeout later."""
        row = self.rows.get(gang)
        if row is not None:
            self.arrays.since[row] = now

    def _agree(self, row: int) -> None:
        """Make one of what the members say: the largest minimums and the longest timeout."""
        arrays, said = self.arrays, self._said[row]
        arrays.minimum[row] = max((terms.minimum for terms in said), default=0)
        timeouts = [self._default_timeout if terms.timeout < 0 else terms.timeout for terms in said]
        arrays.timeout[row] = 0 if 0 in timeouts else max(timeouts, default=0)
        roles: dict[str, int] = {}
        for role, minimum in (pair for terms in said for pair in terms.roles):
            roles[role] = max(minimum, roles.get(role, 0))
        arrays.role_minimum[row] = roles
        (self._with_roles.add if roles else self._with_roles.discard)(row)
        levels = any(terms.required or terms.preferred for terms in said)
        (self.with_levels.add if levels else self.with_levels.discard)(row)

    def _count_as_finished(self, uid: str, member: Member) -> None:
        self._finished.setdefault(member.gang, {})[uid] = member
        self._gang_of_finished[uid] = member.gang
        self._count_finished(self.rows.get(member.gang))

    def _count_finished(self, row: int | None) -> None:
        """Count the members that are done anew: their controllers, or whether they still count, may be others."""
        if row is None:
            return
        arrays, owners = self.arrays, self._owners[row]
        finished = self._finished.get(arrays.names[row], {})
        counted = [member for member in finished.values() if member.owner in owners]
        if not counted and not arrays.finished[row]:
            return
        arrays.finished[row] = len(counted)
        arrays.role_finished[row] = dict(Counter(member.role for member in counted if member.role))

    def _clear(self, row: int) -> None:
        arrays = self.arrays
        for column in (arrays.minimum, arrays.bound, arrays.waiting, arrays.finished, arrays.timeout, arrays.since):
            column[row] = 0
        arrays.role_minimum[row], arrays.role_bound[row], arrays.role_finished[row] = {}, {}, {}
        self._said[row], self._owners[row], self.places[row] = Counter(), Counter(), Counter()
        self._with_roles.discard(row)
        self.with_levels.discard(row)

    def _new_row(self, gang: str) -> int:
        if self._free:
            row = self._free.pop()
            self.arrays.names[row] = gang
        else:
            row = len(self.arrays.names)
            if row >= len(self.arrays.minimum):
                self.arrays = _grown(self.arrays, max(16, 2 * row))
            self.arrays.names.append(gang)
            for column in (self.arrays.role_minimum, self.arrays.role_bound, self.arrays.role_finished):
                column.append({})
            self._said.append(Counter())
            self._owners.append(Counter())
            self.places.append(Counter())
        self.rows[gang] = row
        return row


def _empty(rows: int) -> Gangs:
    return Gangs(
        names=[],
        minimum=np.zeros(rows, np.int32),
        bound=np.zeros(rows, np.int32),
        waiting=np.zeros(rows, np.int32),
        finished=np.zeros(rows, np.int32),
        timeout=np.zeros(rows, np.int64),
        since=np.zeros(rows, np.int64),
        role_minimum=[],
        role_bound=[],
        role_finished=[],
    )


def _grown(old: Gangs, rows: int) -> Gangs:
    """The same gangs with room for more."""

    def longer(column: Numbers) -> Numbers:
        return np.pad(column, (0, rows - len(column)))

    return replace(
        old,
        minimum=longer(old.minimum),
        bound=longer(old.bound),
        waiting=longer(old.waiting),
        finished=longer(old.finished),
        timeout=longer(old.timeout),
        since=longer(old.since),
    )
