"""Pods that wait, in slots that are used again."""

from collections.abc import Iterable

import numpy as np

from tangram.plan import PodName
from tangram.snapshot.arrays import Pending
from tangram.snapshot.nodes.nodes import stable_hash

UNTOLD = -1


class PendingTable:
    """Keeps ``arrays.Pending`` true."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._used = 0
        self.arrays = _empty(0)

    def add(
        self,
        pod: PodName,
        shape: int,
        priority: int,
        created: int,
        gang: int,
        role: str = "",
        *,
        preempts: bool = False,
        duration: int = -1,
        told: int = UNTOLD,
    ) -> int:
        """Put a waiting pod in a slot."""
        slot = self._take()
        arrays = self.arrays
        arrays.names[slot] = pod
        arrays.shape[slot] = shape
        arrays.priority[slot] = priority
        arrays.created[slot] = created
        arrays.tie[slot] = stable_hash(f"{pod.namespace}/{pod.name}")
        arrays.gang[slot] = gang
        arrays.role[slot] = role
        arrays.preempts[slot] = preempts
        arrays.duration[slot] = duration
        arrays.told[slot] = told
        arrays.waiting[slot] = True
        return slot

    def add_invalid(self, pod: PodName, reason: str, why: str, told: int) -> int:
        """Put a pod whose request cannot be read in a slot, so that it can be told why it waits."""
        slot = self.add(pod, -1, 0, 0, -1, told=told)
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
        self.arrays.role.append("")
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
        for attribute in ("waiting", "shape", "priority", "created", "tie", "duration", "gang", "preempts", "told"):
            getattr(new, attribute)[: len(old.waiting)] = getattr(old, attribute)
        new.names.extend(old.names)
        new.role.extend(old.role)
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
        duration=np.full(slots, -1, np.int64),
        gang=np.full(slots, -1, np.int32),
        role=[],
        preempts=np.zeros(slots, np.bool_),
        told=np.full(slots, UNTOLD, np.int8),
        claim=np.full(slots, -1, np.int32),
        nominated=np.full(slots, -1, np.int32),
        invalid={},
    )
