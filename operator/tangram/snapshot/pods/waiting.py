"""Pods that wait, in slots that are used again."""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from tangram.plan import Place, PodName
from tangram.snapshot.values.growing import grown
from tangram.snapshot.values.hashing import order_in_gang, stable_hash
from tangram.snapshot.values.pending import Pending


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
    exempt: bool = False
    """It is never evicted itself."""
    duration: int = -1
    """Seconds that it says it will run; -1: it does not say."""
    volumes: tuple[str, ...] | None = None
    """As in ``Pending``; None: it waits for no volume."""
    gang: str = ""
    """The name of its gang; empty: it stands alone."""
    made: tuple[str, ...] = ()
    """Claims that it shares with others of its gang and whose volumes are being made for a node."""


class PendingTable:
    """Keeps ``Pending`` true."""

    def __init__(self) -> None:
        self._free: list[int] = []
        self._used = 0
        self._count = 0
        self.marked = False
        """Whether any slot waits for room that is being made, or has been given it."""
        self.arrays = _empty(0)
        self._users: dict[tuple[str, str], set[int]] = {}
        """(namespace, name) of each claim that has yet to get its volume -> the slots of all pods that name it."""
        self._named: dict[int, tuple[str, ...]] = {}
        """Slot -> the claims that it is counted at."""

    def add(self, wanted: Wanted, gang: int) -> int:
        """Put a waiting pod in a slot, as a member of the gang in this row (-1: of none)."""
        slot = self._put(wanted.pod)
        arrays = self.arrays
        arrays.shape[slot] = wanted.shape
        arrays.priority[slot] = wanted.priority
        arrays.created[slot] = wanted.created
        arrays.gang[slot] = gang
        arrays.role[slot] = wanted.role
        arrays.preempts[slot], arrays.exempt[slot] = wanted.preempts, wanted.exempt
        arrays.duration[slot] = wanted.duration
        arrays.waiting[slot] = True
        if wanted.gang:
            arrays.tie[slot] = order_in_gang(wanted.gang, wanted.pod.name)
        if wanted.volumes is not None:
            self._ask_for_volumes(slot, wanted)
        return slot

    def add_invalid(self, pod: PodName, obstacle: tuple[str, str], queue: int) -> int:
        """Put a pod that cannot be placed as it is in a slot, with its (reason, sentence) and the row of its queue
        (-1: there is no such queue)."""
        slot = self._put(pod)
        arrays = self.arrays
        arrays.shape[slot] = arrays.gang[slot] = arrays.duration[slot] = -1
        arrays.priority[slot] = arrays.created[slot] = 0
        arrays.role[slot], arrays.preempts[slot], arrays.exempt[slot] = "", False, False
        arrays.invalid[slot] = obstacle
        if queue >= 0:
            arrays.queue[slot] = queue
        return slot

    def _put(self, pod: PodName) -> int:
        slot = self._free.pop() if self._free else self._new()
        arrays = self.arrays
        if arrays.names[slot].uid != pod.uid:
            self._count += 1
            arrays.serial[slot] = self._count
        arrays.names[slot] = pod
        arrays.tie[slot] = stable_hash(f"{pod.namespace}/{pod.name}")
        return slot

    def suspend(self, slot: int, reason: str, why: str) -> bool:
        """Leave the pod in its slot and out of the line, for the reason given; False: it was out already."""
        was_waiting = bool(self.arrays.waiting[slot])
        self.arrays.waiting[slot] = False
        self.arrays.invalid[slot] = (reason, why)
        return was_waiting

    def resume(self, slot: int) -> bool:
        """Put a pod back in the line; False: it was there."""
        was_waiting = bool(self.arrays.waiting[slot])
        self.arrays.waiting[slot] = True
        self.arrays.invalid.pop(slot, None)
        return not was_waiting

    def remove(self, slot: int) -> None:
        """Empty a slot."""
        arrays = self.arrays
        arrays.waiting[slot] = False
        if arrays.invalid:
            arrays.invalid.pop(slot, None)
            arrays.queue.pop(slot, None)
        if arrays.volumes:
            self._ask_for_none(slot)
        self._free.append(slot)

    def _ask_for_volumes(self, slot: int, wanted: Wanted) -> None:
        self.arrays.volumes[slot] = wanted.volumes or ()
        namespace, claims = wanted.pod.namespace, (*self.arrays.volumes[slot], *wanted.made)
        self._named[slot] = claims
        for claim in claims:
            users = self._users.setdefault((namespace, claim), set())
            users.add(slot)
            if len(users) > 1:
                self.arrays.sharing[namespace, claim] = users

    def _ask_for_none(self, slot: int) -> None:
        namespace = self.arrays.names[slot].namespace
        self.arrays.volumes.pop(slot, None)
        for claim in self._named.pop(slot, ()):
            users = self._users[namespace, claim]
            users.discard(slot)
            if len(users) <= 1:
                self.arrays.sharing.pop((namespace, claim), None)
            if not users:
                del self._users[namespace, claim]

    def _new(self) -> int:
        slot = self._used
        self._used += 1
        if slot >= len(self.arrays.waiting):
            self.arrays = grown(self.arrays, _empty(max(64, 2 * slot)))
        self.arrays.names.append(PodName("", ""))
        self.arrays.role.append("")
        return slot

    def mark(
        self, claims: Sequence[tuple[int, int]], nominations: Sequence[tuple[int, int]], places: Mapping[str, Place]
    ) -> None:
        """Set which slots wait for room that is being made (slot, node row), and which have been given it.

        ``places``: uid -> what is kept for it.
        """
        self.marked = bool(claims or nominations)
        self.arrays.kept.clear()
        for column, marks in ((self.arrays.claim, claims), (self.arrays.nominated, nominations)):
            column.fill(-1)
            for slot, row in marks:
                column[slot] = row
            uids = {slot: self.arrays.names[slot].uid for slot, _ in marks}
            self.arrays.kept.update({slot: places[uid].devices for slot, uid in uids.items() if uid in places})


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
        exempt=np.zeros(slots, np.bool_),
        serial=np.zeros(slots, np.int64),
        claim=np.full(slots, -1, np.int32),
        nominated=np.full(slots, -1, np.int32),
        invalid={},
        queue={},
        volumes={},
        sharing={},
        kept={},
    )
