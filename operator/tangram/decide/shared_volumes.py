"""Volumes that several nodes can reach: what is promised of them to a pod on one node is gone on the others.

Free volumes of a kind are a resource of every node that can reach them, so that a node's row says how many pods may
still come there. What one decision gives away of those that others reach too is taken off their rows. A pod takes what
its node alone can reach first, then what the fewest nodes can: whoever chooses volumes in the end does the same. While
more are left than anybody asks for at once nobody could notice, and rows are left as they are until then.
"""

from collections import Counter
from functools import partial
from typing import NamedTuple

import numpy as np

from tangram.decide.journal import Restore
from tangram.snapshot.arrays import Int32, Int64, Snapshot
from tangram.snapshot.values.volumes import VolumesOfKind

_ALONE = -1
"""Stands for the volumes that one node alone can reach."""


class _Group(NamedTuple):
    """Free volumes of a kind that the same nodes can reach."""

    number: int
    """Its place in the arrays."""
    reach: int
    """The same for all kinds of which the same nodes can reach some."""
    rows: Int32
    """[M] in order."""


class SharedVolumes:
    """What is left of them in one decision. G groups of volumes that the same nodes can reach, by kind."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot
        groups, self._groups = snapshot.shared_volumes, dict[int, list[_Group]]()
        self._left: Int64 = np.array([left for one in groups.values() for _, left in one.groups], np.int64)
        """[G] that nobody has been promised."""
        self._owed: Int64 = np.zeros(len(self._left), np.int64)
        """[G] promised, and still counted in the rows of all nodes."""
        numbers, reaches = iter(range(len(self._left))), dict[bytes, int]()
        for column, kind in groups.items():
            found = [
                _Group(next(numbers), reaches.setdefault(rows.tobytes(), len(reaches)), rows) for rows, _ in kind.groups
            ]
            self._groups[column] = sorted(found, key=lambda one: (len(one.rows), -int(self._left[one.number])))
        self._narrower = {column: kind.narrower for column, kind in groups.items()}
        self.columns: Int64 = np.array(sorted(groups), np.int64)
        """[C] of kinds of which there are any."""
        self._most = {column: int(snapshot.shapes.request[:, column].max(initial=0)) for column in groups}
        self._users = Counter(self._claims()) if groups else Counter[tuple[str, str]]()

    def _claims(self) -> list[tuple[str, str]]:
        """(namespace, claim) for each pod that waits and names a claim without a volume."""
        pending = self._snapshot.pending
        waiting = [(slot, claims) for slot, claims in pending.volumes.items() if pending.waiting[slot]]
        return [(pending.names[slot].namespace, claim) for slot, claims in waiting for claim in claims]

    def take(self, free: Int64, slot: int, row: int) -> list[Int32]:
        """Take what the pod of a slot, which has been taken off the row it is placed on, gets of these volumes off all
        other rows of ``free`` [N, R]; the rows that have changed. What several pods share by one claim is left: of
        these all get the same one."""
        pending, changed = self._snapshot.pending, list[Int32]()
        request, namespace = self._snapshot.shapes.request[pending.shape[slot]], pending.names[slot].namespace
        if not request[self.columns].any():
            return changed
        if any(self._users[namespace, claim] > 1 for claim in pending.volumes.get(slot, ())):
            return changed
        names, asked = self._snapshot.resources, self.columns[request[self.columns] > 0].tolist()
        taken = dict[int, int]()
        for column in sorted(asked, key=lambda one: (int(free[row, one] + request[one]), names[one])):
            taken = self._from_where(free[row, column], int(request[column]), (column, row), taken)
            for one in self._groups[column]:
                given = taken.get(one.reach, 0) if _holds(one.rows, row) else 0
                if given:
                    free[row, column] += given  # it is owed like those of all other rows
                    changed += self._give(free, column, one, given)
                    changed += self._lower(free, column, one)
        return changed

    def _give(self, free: Int64, column: int, group: _Group, number: int) -> list[Int32]:
        """Promise so many of a group; the rows that have changed."""
        self._left[group.number] -= number
        self._owed[group.number] += number
        if self._left[group.number] >= self._most[column]:
            return []
        free[group.rows, column] -= self._owed[group.number]
        self._owed[group.number] = 0
        return [group.rows]

    def _lower(self, free: Int64, column: int, group: _Group) -> list[Int32]:
        """Leave of narrower kinds no more than of this one, as far as the same nodes reach them; the rows that have
        changed."""
        changed, most = list[Int32](), int(self._left[group.number])
        for narrower in self._narrower[column]:
            for one in self._groups.get(narrower, ()):
                if one.reach == group.reach and self._left[one.number] > most:
                    changed += self._give(free, narrower, one, int(self._left[one.number]) - most)
        return changed

    def _from_where(self, left: int, asked: int, where: tuple[int, int], narrower: dict[int, int]) -> dict[int, int]:
        """Reach -> how many of the volumes that a pod asks for are of it. ``left`` of the kind on the row that it is
        placed on, without these; ``where``: column and row; ``narrower``: the same for a kind of which fewer are there,
        whose volumes are of this kind, too."""
        column, row = where
        mine = [one for one in self._groups[column] if _holds(one.rows, row)]
        room = {_ALONE: left + asked} | {one.reach: int(self._left[one.number]) for one in mine}
        room[_ALONE] -= sum(int(self._left[one.number] + self._owed[one.number]) for one in mine)
        found, rest = dict.fromkeys(room, 0), asked
        for reach, most in (*narrower.items(), *((reach, asked) for reach in room)):
            more = max(min(most, rest, room.get(reach, 0) - found.get(reach, 0)), 0)
            if more:
                found[reach] += more
                rest -= more
        return found

    def less_owed(self, free: Int64) -> Int64:
        """A copy of what is left on all rows, with everything taken off."""
        found = free.copy()
        for column, groups in self._groups.items():
            for one in groups:
                found[one.rows, column] -= self._owed[one.number]
        return found

    def left(self) -> dict[int, VolumesOfKind]:
        """As in a snapshot, after all that has been promised."""
        return {
            column: VolumesOfKind(
                tuple((one.rows, int(self._left[one.number])) for one in groups), self._narrower[column]
            )
            for column, groups in self._groups.items()
        }

    def copy(self) -> Restore:
        """Keep what is left of each group."""
        return partial(self._put_back, self._left.copy(), self._owed.copy())

    def _put_back(self, left: Int64, owed: Int64) -> None:
        self._left, self._owed = left, owed


def _holds(rows: Int32, row: int) -> bool:
    """Whether a row is among these, which are in order."""
    at = int(np.searchsorted(rows, row))
    return at < len(rows) and int(rows[at]) == row
