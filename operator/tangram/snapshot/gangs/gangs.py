"""Gangs: what their members say of them, and how many are where.

A pod that is being deleted is no member any more, and neither is one of an earlier life (``lives``): what they hold
counts for no gang. A member that has ended with success still counts, as long as its controller has other members in
the gang: when one member of a job starts again, those that are done need not. Of a batch Job its own status reports how
many are done, which stays true when somebody deletes their pods.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable

import numpy as np

from tangram.api.objects import Metadata
from tangram.snapshot.arrays import Gangs
from tangram.snapshot.gangs.lives import Life, past_lives, terms_of
from tangram.snapshot.gangs.members import Member, read_member
from tangram.snapshot.values.growing import grown

_MOST_FINISHED = 1 << 30
"""More than any gang has; what a status reports is untrusted."""


class GangTable:
    """Keeps ``arrays.Gangs`` true by counting members."""

    def __init__(self, default_timeout: int = 0) -> None:
        self.rows: dict[str, int] = {}
        self.arrays = _empty(0)
        self.next_timeout = 0
        """When, in seconds since the epoch, the next gang will have been in part for its timeout; 0: none is."""
        self.renewed: set[int] = set()
        """Rows of gangs of which other lives count than before: their members have to be looked at again."""
        self.with_levels: set[int] = set()
        """Rows of gangs whose members name a level of topology."""
        self.places: list[Counter[str]] = []
        """Per gang the nodes of its bound members, and how many each has."""
        self._default_timeout = default_timeout
        self._free: list[int] = []
        self._lives: list[dict[str, Life]] = []
        """Per gang its lives by the uid of their controller."""
        self._past: list[set[str]] = []
        """Per gang those of them that are over."""
        self._gangs_of: dict[str, set[int]] = {}
        """Uid of a controller -> rows of the gangs in which it has members."""
        self._with_roles: set[int] = set()
        self._finished: dict[str, dict[str, Member]] = {}
        """Gang -> uid -> member that has ended with success, counted or not."""
        self._gang_of_finished: dict[str, str] = {}
        self._completed: dict[str, int] = {}
        """Uid of a controller -> how many of its pods have ended with success, as its own status reports."""

    def join(self, member: Member) -> int:
        """Count a member and what it says of the gang; where members disagree, the largest minimum wins."""
        row = self.rows.get(member.gang)
        if row is None:
            row = self._new_row(member.gang)
        lives = self._lives[row]
        life = lives.get(member.owner)
        if life is None:
            life = lives[member.owner] = Life(member.controller)
            self._gangs_of.setdefault(member.owner, set()).add(row)
        is_new = life.add(member)
        if is_new or len(lives) > 1:
            self._choose(row, said_anew=is_new)
        return row

    def leave(self, member: Member) -> None:
        """Forget a member; the last one takes the gang with it."""
        row = self.rows.get(member.gang)
        if row is None:
            return
        lives = self._lives[row]
        life = lives[member.owner]
        was_last = life.remove(member)
        if not life.terms:
            del lives[member.owner]
            gangs = self._gangs_of[member.owner]
            gangs.discard(row)
            if not gangs:
                del self._gangs_of[member.owner]
        if lives:
            self._choose(row, said_anew=was_last)
            return
        del self.rows[member.gang]
        self._clear(row)
        self._free.append(row)

    def is_past(self, member: Member | None) -> bool:
        """Whether a member belongs to an earlier life of its gang."""
        row = self.rows.get(member.gang) if member is not None else None
        return member is not None and row is not None and member.owner in self._past[row]

    def take_renewed(self) -> set[int]:
        """The rows in ``renewed``, which is empty then."""
        found, self.renewed = self.renewed, set()
        return found

    def replaced(self, member: Member | None) -> str:
        """Why a member of an earlier life is none any more; empty for all others."""
        if member is None or not self.is_past(member):
            return ""
        kind, _, name = member.controller.partition("/")
        return f"{kind} {name} was deleted and made again; only the new one's pods are members of gang {member.gang}"

    def finish(self, metadata: Metadata) -> None:
        """A pod has ended with success."""
        uid = metadata.uid
        self.forget_finished(uid)
        with contextlib.suppress(ValueError):
            member = read_member(metadata)
            if member is not None:
                self._finished.setdefault(member.gang, {})[uid] = member
                self._gang_of_finished[uid] = member.gang
                self._count_finished(self.rows.get(member.gang))

    def forget_finished(self, uid: str) -> None:
        """A pod that had ended with success is gone."""
        gang = self._gang_of_finished.pop(uid, None)
        if gang is None:
            return
        del self._finished[gang][uid]
        if not self._finished[gang]:
            del self._finished[gang]
        self._count_finished(self.rows.get(gang))

    def set_completed(self, owner: str, pods: int) -> None:
        """A controller's own status reports how many of its pods have ended with success; 0: it reports none."""
        pods = max(0, pods)
        if self._completed.get(owner, 0) == pods:
            return
        if pods:
            self._completed[owner] = pods
        else:
            del self._completed[owner]
        for row in self._gangs_of.get(owner, ()):
            self._count_finished(row)

    def levels_said(self, row: int) -> list[tuple[str, str]]:
        """(required, preferred level) that members of the gang name; empty words where they name none."""
        return [(terms.required, terms.preferred) for terms in terms_of(self._counted(row).values())]

    def bind(self, member: Member, node: str, members: int = 1) -> None:
        """Count members that have got their places, or lost them (-1)."""
        row = self.rows[member.gang]
        self._lives[row][member.owner].bind(member.role, node, members)
        if member.owner not in self._past[row]:
            self._bind(row, member.role, node, members)

    def check(self, now: int, troubled: Iterable[int] = ()) -> list[int]:
        """Follow since when gangs are in part; rows of those that are so, with bound members, beyond their timeout.

        A ``troubled`` one, of which a member was refused, is in part until that member is seen to be bound: a binding
        that is tried again is no progress.
        """
        arrays, self.next_timeout = self.arrays, 0
        if not self.rows:
            return []
        there = arrays.bound + arrays.finished
        short, absent = there < arrays.minimum, there + arrays.waiting < arrays.minimum
        for row in self._with_roles:
            short[row] = arrays.missing(row) > 0
        broken = short & ((arrays.bound > 0) | absent)
        for row in troubled:
            broken[row] |= arrays.since[row] > 0
        since = np.minimum(arrays.since, now)  # it may have been noted while the clock was ahead
        arrays.since[:] = np.where(broken, np.where(since > 0, since, now), 0)
        ends = arrays.since + arrays.timeout
        ahead = ends[broken & (ends > now)]
        self.next_timeout = int(ahead.min()) if len(ahead) else 0
        late = short & (arrays.bound > 0) & (arrays.timeout > 0) & (ends <= now)
        found: list[int] = np.flatnonzero(late).tolist()
        return found

    def given_up(self, gang: str, now: int) -> None:
        """The gang's bound members are being evicted: those that stay all the same are looked at a timeout later."""
        row = self.rows.get(gang)
        if row is not None:
            self.arrays.since[row] = now

    def _counted(self, row: int) -> dict[str, Life]:
        """The lives of the gang that count, by their controllers' uids."""
        past = self._past[row]
        return {owner: life for owner, life in self._lives[row].items() if owner not in past}

    def _choose(self, row: int, *, said_anew: bool) -> None:
        """Find out which lives are over, and count the gang's members anew where these are others than before."""
        past = past_lives(self._lives[row])
        if past == self._past[row]:
            if said_anew:
                self._agree(row)
                self._count_finished(row)
            return
        self._past[row] = past
        self.renewed.add(row)
        self._agree(row)
        self._count_finished(row)
        self.arrays.bound[row], self.arrays.role_bound[row], self.places[row] = 0, {}, Counter()
        for life in self._counted(row).values():
            for (role, node), members in life.bound.items():
                self._bind(row, role, node, members)

    def _bind(self, row: int, role: str, node: str, members: int) -> None:
        self.arrays.bound[row] += members
        self.places[row][node] += members
        if not self.places[row][node]:
            del self.places[row][node]
        if role:
            bound = self.arrays.role_bound[row]
            bound[role] = bound.get(role, 0) + members

    def _agree(self, row: int) -> None:
        """Make one of what the members say: the largest minimums and the longest timeout."""
        arrays, said = self.arrays, terms_of(self._counted(row).values())
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

    def _count_finished(self, row: int | None) -> None:
        """Count the members that are done anew: their controllers, or whether they still count, may be others.

        A controller's own status goes before the pods that are still there, for somebody may have deleted some. Those
        that it alone reports are of its members' role, where these have but one.
        """
        if row is None:
            return
        arrays = self.arrays
        finished = self._finished.get(arrays.names[row], {})
        if not finished and not self._completed and not arrays.finished[row]:
            return
        total, roles = 0, Counter[str]()
        for owner, life in self._counted(row).items():
            seen = Counter(member.role for member in finished.values() if member.owner == owner)
            unseen = max(0, self._completed.get(owner, 0) - seen.total())
            of_role = life.roles.keys() | seen.keys()
            total += seen.total() + unseen
            roles += seen
            if unseen and len(of_role) == 1:
                roles[next(iter(of_role))] += unseen
        arrays.finished[row] = min(total, _MOST_FINISHED)
        arrays.role_finished[row] = {role: count for role, count in roles.items() if role}

    def _clear(self, row: int) -> None:
        arrays = self.arrays
        arrays.names[row] = ""
        for column in (arrays.minimum, arrays.bound, arrays.waiting, arrays.finished, arrays.timeout, arrays.since):
            column[row] = 0
        arrays.role_minimum[row], arrays.role_bound[row], arrays.role_finished[row] = {}, {}, {}
        self._lives[row], self._past[row], self.places[row] = {}, set(), Counter()
        self._with_roles.discard(row)
        self.with_levels.discard(row)
        self.renewed.discard(row)

    def _new_row(self, gang: str) -> int:
        if self._free:
            row = self._free.pop()
            self.arrays.names[row] = gang
        else:
            row = len(self.arrays.names)
            if row >= len(self.arrays.minimum):
                self.arrays = grown(self.arrays, _empty(max(16, 2 * row)))
            self.arrays.names.append(gang)
            for column in (self.arrays.role_minimum, self.arrays.role_bound, self.arrays.role_finished):
                column.append({})
            self._lives.append({})
            self._past.append(set())
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
