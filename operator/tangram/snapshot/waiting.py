"""Pods that wait and the gangs they belong to, in slots that are used again."""

from collections.abc import Iterable

import numpy as np

from tangram.plan import PodName
from tangram.snapshot.arrays import Gangs, Pending
from tangram.snapshot.nodes import stable_hash

UNTOLD = -1


class GangTable:
    """Keeps ``arrays.Gangs`` true by counting members."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self._free: list[int] = []
        self._minimums: list[dict[str, int]] = []
        self.arrays = Gangs([], np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, np.int32))

    def join(self, gang: str, uid: str, minimum: int) -> int:
        """Count a member and what it says of the gang's minimum; the largest word counts, so none is left behind."""
        row = self.rows.get(gang)
        if row is None:
            row = self._new_row(gang)
        said = self._minimums[row]
        said[uid] = minimum
        self.arrays.minimum[row] = max(said.values())
        return row

    def leave(self, gang: str, uid: str) -> None:
        """Forget a member; the last one takes the gang with it."""
        row = self.rows.get(gang)
        if row is None:
            return
        said = self._minimums[row]
        said.pop(uid, None)
        if said:
            self.arrays.minimum[row] = max(said.values())
            return
        del self.rows[gang]
        self.arrays.minimum[row] = self.arrays.bound[row] = self.arrays.waiting[row] = 0
        self._free.append(row)

    def _new_row(self, gang: str) -> int:
        if self._free:
            row = self._free.pop()
            self.arrays.names[row] = gang
        else:
            row = len(self.arrays.names)
            if row >= len(self.arrays.minimum):
                pad = max(16, row)
                self.arrays = Gangs(
                    self.arrays.names,
                    np.pad(self.arrays.minimum, (0, pad)),
                    np.pad(self.arrays.bound, (0, pad)),
                    np.pad(self.arrays.waiting, (0, pad)),
                )
            self.arrays.names.append(gang)
            self._minimums.append({})
        self.rows[gang] = row
        self._minimums[row] = {}
        return row


class PendingTable:
    """Keeps ``arrays.Pending`` true."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._used = 0
        self.arrays = _empty(0)

    def add(self, pod: PodName, shape: int, priority: int, created: int, gang: int) -> int:
        """Put a waiting pod in a slot."""
        slot = self._take()
        arrays = self.arrays
        arrays.names[slot] = pod
        arrays.shape[slot] = shape
        arrays.priority[slot] = priority
        arrays.created[slot] = created
        arrays.tie[slot] = stable_hash(f"{pod.namespace}/{pod.name}")
        arrays.gang[slot] = gang
        arrays.told[slot] = UNTOLD
        arrays.waiting[slot] = True
        return slot

    def add_invalid(self, pod: PodName, reason: str, why: str) -> int:
        """Put a pod whose request cannot be read in a slot, so that it can be told why it waits."""
        slot = self.add(pod, -1, 0, 0, -1)
        self.arrays.waiting[slot] = False
        self.arrays.invalid[slot] = (reason, why)
        return slot

    def remove(self, slot: int) -> None:
        """Empty a slot."""
        self.arrays.waiting[slot] = False
        self.arrays.invalid.pop(slot, None)
        self._free.append(slot)

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        slot = self._used
        self._used += 1
        if slot >= len(self.arrays.waiting):
            self._grow()
        self.arrays.names.append(PodName("", ""))
        return slot

    def mark(self, claims: Iterable[tuple[int, int]], nominations: Iterable[tuple[int, int]]) -> None:
        """Set which slots wait for room that is being made (slot, node row), and which have been given it."""
        for column, marks in ((self.arrays.claim, claims), (self.arrays.nominated, nominations)):
            column[:] = -1
            for slot, row in marks:
                column[slot] = row

    def _grow(self) -> None:
        old = self.arrays
        new = _empty(max(64, 2 * len(old.waiting)))
        for attribute in ("waiting", "shape", "priority", "created", "tie", "gang", "told"):
            getattr(new, attribute)[: len(old.waiting)] = getattr(old, attribute)
        new.names.extend(old.names)
        new.invalid.update(old.invalid)
        self.arrays = new


def _empty(slots: int) -> Pending:
    return Pending(
        names=[],
        waiting=np.zeros(slots, np.bool_),
        shape=np.zeros(slots, np.int32),
        priority=np.zeros(slots, np.int32),
        created=np.zeros(slots, np.int64),
        tie=np.zeros(slots, np.int64),
        gang=np.full(slots, -1, np.int32),
        told=np.full(slots, UNTOLD, np.int8),
        claim=np.full(slots, -1, np.int32),
        nominated=np.full(slots, -1, np.int32),
        invalid={},
    )
