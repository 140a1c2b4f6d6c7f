"""A walk through the decisions that follow one, made ahead."""

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from tangram.decide.following import after, once_gone
from tangram.decide.preempt.preemption import Preemption
from tangram.decide.preempt.threats import could_evict
from tangram.plan import PodName
from tangram.snapshot.arrays import Bool, Int64, Snapshot


class _Made(NamedTuple):
    """A decision that has been made ahead."""

    number: int
    of: Snapshot
    everybody: bool
    """Whether all who wait were asked."""
    aside: frozenset[int]
    """Slots of those that give way in it."""
    placed: dict[PodName, int]
    """Pod -> slot."""


@dataclass(slots=True)
class Walk:
    """What will be true after the decisions that have been made ahead. In them gives way, too, who would be evicted."""

    following: Snapshot | None
    """None: nothing follows any more."""
    everybody: bool
    """Whether all who wait are asked, for a full batch has ended the last decision."""
    all_come: bool = False
    """Whether all who wait are asked once those who leave are gone: what is placed then may give others a right."""
    _made: list[_Made] = field(default_factory=list)
    _aside: frozenset[int] = frozenset()

    def asking(self, mine: Int64, *, is_held: bool) -> Bool:
        """[P] who is asked next: who could have one of these running pods evicted. ``is_held``: where anybody could,
        all who wait are, for nodes are held for somebody, who need not be one of them."""
        assert self.following is not None
        waiting = self.following.pending.waiting & (self.following.pending.claim < 0)
        asking = waiting.copy() if self.everybody else asking_of(self.following, mine)
        if is_held and asking.any():
            asking = waiting.copy()
        asking[list(self._aside)] = False
        return asking

    def asked(self, asking: Bool) -> Snapshot:
        """What is to be decided of if only these [P] wait."""
        assert self.following is not None
        return replace(self.following, pending=replace(self.following.pending, waiting=asking))

    def wait(self) -> None:
        """Nobody is asked before all who are leaving are gone; then everybody, the first time, where ``all_come``."""
        assert self.following is not None
        self.following, self._aside = once_gone(self.following), frozenset()
        self.everybody, self.all_come = self.everybody or self.all_come, False

    def go_on(self, step: Preemption, asking: Bool) -> None:
        """Carry out a decision in which these [P] were asked, or make the one again that placed whom this one evicts.
        What is placed without anybody being evicted counts only where all are asked."""
        assert self.following is not None
        draft, snapshot = step.decision.draft, step.decision.snapshot
        back = self._to_be_made_again(step)
        if back is not None:
            self.following, self._aside, self.everybody = back.of, back.aside, back.everybody
            del self._made[back.number :]
            return
        if not (draft.evict or (self.everybody and draft.placed)):
            self.wait()
            return
        placed = {one.place.pod: one.slot for one in draft.placed}
        self._made.append(_Made(len(self._made), self.following, self.everybody, self._aside, placed))
        self.everybody, self._aside = self.everybody and len(draft.placed) >= snapshot.batch, frozenset()
        others = self.following.pending.waiting & ~asking
        following = after(step)
        pending = replace(following.pending, waiting=following.pending.waiting | others)
        self.following = replace(following, pending=pending)

    def _to_be_made_again(self, step: Preemption) -> _Made | None:
        """The first decision that placed whom this one evicts, with those as ones that give way in it."""
        evicted = {evict.pod for evict in step.decision.draft.evict if evict.claimant is not None}
        for made in self._made:
            slots = {slot for pod, slot in made.placed.items() if pod in evicted}
            if slots:
                return made._replace(aside=made.aside | slots)
        return None


def asking_of(snapshot: Snapshot, mine: Int64) -> Bool:
    """[P] who could have one of these running pods evicted, with the other members of gangs."""
    pending = snapshot.pending
    waiting = np.flatnonzero(pending.waiting & (pending.claim < 0)).astype(np.int32)
    asking = np.zeros_like(pending.waiting)
    asking[waiting[could_evict(snapshot, waiting, mine)]] = True
    gangs = pending.gang[asking & (pending.gang >= 0)]
    if len(gangs):
        asking |= pending.waiting & np.isin(pending.gang, gangs)
    return asking
