"""Which reason was reported of each waiting pod: it is said once, and again when it has become another one.

A sentence whose figures alone have changed is written anew once it is a minute old, a few in each cycle.

Kept apart from the snapshot, so that nothing is ever decided from it: a process that has just started reports every
reason anew and decides what its predecessor would have decided.
"""

from collections.abc import Iterable

import numpy as np

from tangram.decide import codes
from tangram.decide.reported import Reported
from tangram.plan import Hold
from tangram.snapshot.arrays import Int64
from tangram.snapshot.build import Builder

REFRESHED_AFTER = 60
"""Seconds for which a sentence stands although its figures may have changed."""
_AT_ONCE = 20
"""Sentences that are compared with what they would be now, in one cycle: those that were compared longest ago."""
_CODE_OF = {name: code for code, name in enumerate(codes.NAMES)}


class Reporter:
    """Remembers what was reported, by the slots of a builder's waiting pods."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._serial: Int64 = np.zeros(0, np.int64)
        """[P] of which pod the rest speaks."""
        self._since: Int64 = np.zeros(0, np.int64)
        """[P] when the sentence was written, or compared last, in seconds since the epoch."""
        self._reported = Reported(np.zeros(0, np.int8), np.zeros(0, np.int32), {})
        self._due_now = frozenset[int]()
        """Slots whose sentences the cycle compares."""

    def known(self) -> Reported:
        """What has been reported of the pods that are in the slots now."""
        self._grow()
        others = (self._serial != self._builder.pending.arrays.serial).nonzero()[0]
        if len(others):
            self._forget(others)
        self._due_now, known = self._due(), self._reported
        refused = self._builder.refused_evictions()
        return Reported(known.code, known.node, known.sentence, self._due_now, self._since, refused)

    def _due(self) -> frozenset[int]:
        """Slots whose sentences are to be compared."""
        if not self._reported.sentence:
            return frozenset()
        now = self._builder.seen_at
        old = np.flatnonzero((self._since <= now - REFRESHED_AFTER) | (self._since > now))  # the clock may go back
        old = old[(self._reported.code[old] >= 0) & self._builder.pending.arrays.waiting[old]] if len(old) else old
        if len(old) > _AT_ONCE:
            old = old[np.argpartition(self._since[old], _AT_ONCE)[:_AT_ONCE]]
        return frozenset(old.tolist())

    def note(self, holds: Iterable[Hold]) -> None:
        """These reasons are being reported; of all others that were due the sentence is what it was."""
        now = self._builder.seen_at
        if self._due_now:
            self._since[list(self._due_now)] = now
        rows = self._builder.nodes.rows
        for hold in holds:
            slot = self._slot_of(hold.pod.uid)
            if slot < 0:
                continue
            self._reported.code[slot] = _CODE_OF[hold.reason]
            self._reported.node[slot] = rows.get(hold.nominated_node, -1)
            self._reported.sentence[slot], self._since[slot] = hold.message, now

    def forget(self, uid: str) -> None:
        """What was to be reported of a pod was not: it is news again."""
        slot = self._slot_of(uid)
        if 0 <= slot < len(self._serial):
            self._forget(np.array([slot]))

    def _slot_of(self, uid: str) -> int:
        row = self._builder.pods.get(uid)
        return row.slot if row is not None else -1

    def forget_all(self) -> None:
        """Somebody else may have reported other things meanwhile: everything is news again."""
        self._grow()
        self._forget(np.arange(len(self._serial)))

    def _forget(self, slots: Int64) -> None:
        self._serial[slots] = self._builder.pending.arrays.serial[slots]
        self._reported.code[slots] = self._reported.node[slots] = -1
        if self._reported.sentence:
            for slot in slots.tolist():
                self._reported.sentence.pop(slot, None)

    def _grow(self) -> None:
        more = len(self._builder.pending.arrays.serial) - len(self._serial)
        if more > 0:
            known = self._reported
            self._serial = np.pad(self._serial, (0, more))
            self._since = np.pad(self._since, (0, more))
            code = np.pad(known.code, (0, more), constant_values=-1)
            self._reported = Reported(code, np.pad(known.node, (0, more), constant_values=-1), known.sentence)
