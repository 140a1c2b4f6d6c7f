"""Pods that wait, in slots that are used again."""

from collections.abc import Iterable

import msgspec
import numpy as np

from tangram.plan import PodName
from tangram.snapshot.arrays import Pending
from tangram.snapshot.nodes.nodes import stable_hash

UNTOLD = -1


class Wanted(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What a pod that waits asks for."""

    pod: PodName
    shape: int
    priority: int
    created: int
    """Seconds since the epoch."""
    role: str = ""
    """Its role in its gang."""
    preempts: bool = False
    """It may have others evicted."""
    duration: int = -1
    """Seconds that it says it will run; -1: it does not say."""
    told: int = UNTOLD
    """The reason code last written on it."""


class PendingTable:
    """Keeps ``arrays.Pending`` true."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._used = 0
        self.arrays = _empty(0)

    def add(self, wanted: Wanted, gang: int) -> int:
        """Put a waiting pod in a slot, as a member of the gang in this row (-1: of none)."""
        slot = self._put(wanted.pod, wanted.told)
        arrays = self.arrays
        arrays.shape[slot] = wanted.shape
        arrays.priority[slot] = wanted.priority
        arrays.created[slot] = wanted.created
        arrays.gang[slot] = gang
        arrays.role[slot] = wanted.role
        arrays.preempts[slot] = wanted.preempts
        arrays.duration[slot] = wanted.duration
        arrays.waiting[slot] = True
        return slot

    def add_invalid(self, pod: PodName, obstacle: tuple[str, str], told: int) -> int:
        """Put a pod that cannot be placed as it is in a slot, so that it can be told why: (reason, sentence)."""
        slot = self._put(pod, told)
        arrays = self.arrays
        arrays.shape[slot] = arrays.gang[slot] = arrays.duration[slot] = -1
        arrays.priority[slot] = arrays.created[slot] = 0
        arrays.role[slot], arrays.preempts[slot] = "", False
        arrays.invalid[slot] = obstacle
        return slot

    def _put(self, pod: PodName, told: int) -> int:
        slot = self._take()
        arrays = self.arrays
        arrays.names[slot] = pod
        arrays.tie[slot] = stable_hash(f"{pod.namespace}/{pod.name}")
        arrays.told[slot] = told
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
