"""Volumes that several nodes can reach: what is promised of them to a pod on one node is gone on the others.

Free volumes of a kind are a resource of every node that can reach them, so that a node's row says how many pods may
still come there. What one decision gives away of those that others reach too is taken off their rows. A pod takes what
its node alone can reach first, then what the fewest nodes can: whoever chooses volumes in the end does the same. While
more are left than anybody asks for at once nobody could notice, and rows are left as they are until then.
"""

from functools import partial
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from tangram.decide.journal import Restore
from tangram.snapshot.arrays import Int32, Int64, Snapshot
from tangram.snapshot.values.volumes import VolumesOfKind

_ALONE = b""
"""Stands for the volumes that one node alone can reach."""


class _Group(NamedTuple):
    """Free volumes of a kind that the same nodes can reach."""

    number: int
    """Its place in the arrays."""
    reach: bytes
    """The same for all kinds of which the same nodes can reach some."""
    rows: Int32
    """[M] in order."""


class SharedVolumes:
    """What is left of them in one decision. G groups of volumes that the same nodes can reach, by kind."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot, self._kinds = snapshot, snapshot.shared_volumes
        numbers = [number for kind in self._kinds.values() for _, number in kind.groups]
        self._left: Int64 = np.array(numbers, np.int64)
        """[G] that nobody has been promised."""
        self._owed: Int64 = np.zeros(len(self._left), np.int64)
        """[G] promised, and still counted in the rows of all nodes."""
        first = accumulate((len(kind.groups) for kind in self._kinds.values()), initial=0)
        self._first = dict(zip(self._kinds, first, strict=False))
        """Column -> where its groups begin in these."""
        self.columns: Int64 = np.array(sorted(self._kinds), np.int64)
        """[C] of kinds of which there are any."""
        self._most = {column: int(snapshot.shapes.request[:, column].max(initial=0)) for column in self._kinds}

    def take(self, free: Int64, slot: int, row: int) -> list[Int32]:
        """Take what the pod of a slot, which has been taken off the row it is placed on, gets of these volumes off all
        other rows of ``free`` [N, R]; the rows that have changed."""
        request, changed = self._snapshot.shapes.request[self._snapshot.pending.shape[slot]], list[Int32]()
        if not request[self.columns].any():
            return changed
        names, asked = self._snapshot.resources, self.columns[request[self.columns] > 0].tolist()
        taken = dict[bytes, int]()
        for column in sorted(asked, key=lambda one: (int(free[row, one] + request[one]), names[one])):
            near = self._near(column, row)
            taken = self._from_where(free[row, column], int(request[column]), near, taken)
            for one in near:
                if given := taken[one.reach]:
                    free[row, column] += given  # it is owed like those of all other rows
                    changed += self._give(free, column, one, given)
                    changed += self._lower(free, (column, row), one)
        return changed

    def _near(self, column: int, row: int) -> list[_Group]:
        """The groups of a kind that a node row can reach, those first that the fewest can."""
        kind, first = self._kinds[column], self._first[column]
        rows, holds = kind.by_row
        begin, end = np.searchsorted(rows, [row, row + 1]).tolist()
        found = [_Group(first + one, kind.groups[one][0].tobytes(), kind.groups[one][0]) for one in holds[begin:end]]
        return sorted(found, key=lambda one: (len(one.rows), -kind.groups[one.number - first][1], one.number))

    def _give(self, free: Int64, column: int, group: _Group, number: int) -> list[Int32]:
        """Promise so many of a group; the rows that have changed."""
        self._left[group.number] -= number
        self._owed[group.number] += number
        if self._left[group.number] >= self._most[column]:
            return []
        free[group.rows, column] -= self._owed[group.number]
        self._owed[group.number] = 0
        return [group.rows]

    def _lower(self, free: Int64, where: tuple[int, int], group: _Group) -> list[Int32]:
        """Leave of narrower kinds no more than of this one, as far as the same nodes reach them; the rows that have
        changed. ``where``: its column, and a row that can reach it."""
        changed, most = list[Int32](), int(self._left[group.number])
        for narrower in self._kinds[where[0]].narrower:
            for one in self._near(narrower, where[1]) if narrower in self._kinds else ():
                if one.reach == group.reach and self._left[one.number] > most:
                    changed += self._give(free, narrower, one, int(self._left[one.number]) - most)
        return changed

    def _from_where(self, left: int, asked: int, near: list[_Group], narrower: dict[bytes, int]) -> dict[bytes, int]:
        """Reach -> how many of the volumes that a pod asks for are of it. ``left`` of the kind on the row that it is
        placed on, without these; ``near``: what that row can reach; ``narrower``: the same for a kind of which fewer
        are there, whose volumes are of this kind, too."""
        room = {_ALONE: left + asked} | {one.reach: int(self._left[one.number]) for one in near}
        room[_ALONE] -= sum(int(self._left[one.number] + self._owed[one.number]) for one in near)
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
        for column, kind in self._kinds.items():
            owed = self._owed[self._first[column] :][: len(kind.groups)]
            for one in np.flatnonzero(owed).tolist():
                found[kind.groups[one][0], column] -= owed[one]
        return found

    def left(self) -> dict[int, VolumesOfKind]:
        """As in a snapshot, after all that has been promised."""
        found = {}
        for column, kind in self._kinds.items():
            numbers = self._left[self._first[column] :][: len(kind.groups)].tolist()
            groups = tuple((rows, number) for (rows, _), number in zip(kind.groups, numbers, strict=True))
            found[column] = VolumesOfKind(groups, kind.narrower)
        return found

    def copy(self) -> Restore:
        """Keep what is left of each group."""
        return partial(self._put_back, self._left.copy(), self._owed.copy())

    def _put_back(self, left: Int64, owed: Int64) -> None:
        self._left, self._owed = left, owed
