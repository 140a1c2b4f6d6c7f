"""Gangs in one decision: what a gang needs goes together in its turn, and members beyond that each in their own turn.

Where nobody else waits whose turn could come before, a gang gets all of its members at once.
"""

from functools import reduce

import numpy as np

from tangram.decide import codes
from tangram.decide.gangs.gang import both, needed_members
from tangram.decide.gangs.preemption import make_room_for_gang
from tangram.decide.gangs.topology import (
    domain_to_wait_for,
    domains_to_ask,
    place_further,
    place_near,
    reach_to_wait_for,
    within_reach,
)
from tangram.decide.gangs.volumes import promised_to_others
from tangram.decide.preempt.preemption import Preemption
from tangram.decide.reserve.reservation import reserve
from tangram.snapshot.arrays import Int32


class Together:
    """Gives gangs their turns."""

    def __init__(self, preemption: Preemption, slots: Int32, given: set[int]) -> None:
        """``slots`` in order of priority and age; gangs of which members are ``given`` the places that evictions made
        have what they need."""
        self._preemption, self._decision = preemption, preemption.decision
        pending = self._decision.snapshot.pending
        waiting: dict[int, list[int]] = {}
        for slot in slots[pending.gang[slots] >= 0].tolist():
            waiting.setdefault(int(pending.gang[slot]), []).append(slot)
        self._waiting = {gang: [slot for slot in members if slot not in given] for gang, members in waiting.items()}
        self._begun: dict[int, list[int]] = {}
        """Gangs that have what they need by this decision -> node rows of the members placed in it."""
        for gang in {int(pending.gang[slot]) for slot in given} - {-1}:
            self._begun[gang] = [one.row for one in self._decision.draft.placed if pending.gang[one.slot] == gang]

    def turn(self, slot: int) -> None:
        """It is the turn of a gang that needs its members, or of one more member of a gang that does not."""
        rivals, draft = self._decision.rivals, self._decision.draft
        if rivals.slots and rivals.come_first(self._waiting_with(slot), draft):
            return
        gang = int(self._decision.snapshot.pending.gang[slot])
        if gang in self._begun:
            self._grow(gang, slot)
        elif gang in self._waiting:
            self._begin(gang, slot)

    def _waiting_with(self, slot: int) -> list[int]:
        """The members of the pod's gang that have not had a turn, and itself."""
        return [slot, *self._waiting.get(int(self._decision.snapshot.pending.gang[slot]), ())]

    def _begin(self, gang: int, slot: int) -> None:
        snapshot, turns = self._decision.snapshot, self._decision.turns
        members = self._waiting[gang]
        if turns.ranked and snapshot.gangs.missing(gang) <= 0:
            if slot in members:
                members.remove(slot)
                _place_together(self._preemption, gang, [slot])
            return
        del self._waiting[gang]
        before = len(self._decision.draft.placed)
        fits = _place_together(self._preemption, gang, members)
        if fits and turns.ranked:
            placed = self._decision.draft.placed[before:]
            slots = {one.slot for one in placed}
            self._waiting[gang] = [one for one in members if one not in slots]
            self._begun[gang] = sorted({one.row for one in placed})

    def _grow(self, gang: int, slot: int) -> None:
        """Place one more member: this one, or, if it was among those that were needed, another."""
        members = self._waiting[gang]
        if members:
            members.remove(slot) if slot in members else (slot := members.pop(0))
            row = place_further(self._decision, gang, slot, np.array(self._begun[gang]))
            if row is not None:
                self._begun[gang].append(row)


def _place_together(preemption: Preemption, gang: int, members: list[int]) -> bool:
    """Place a gang, or make room for it, or note why it waits and hold nodes for it when it is the first in line.
    Whether it is placed."""
    decision = preemption.decision
    snapshot = decision.snapshot
    if promised_to_others(decision, gang):
        decision.draft.note_gang(gang, codes.GANG_UNSCHEDULABLE)
        return False
    code = place_near(decision, gang, members)
    cannot = code in (codes.GANG_UNSCHEDULABLE, codes.TOPOLOGY_DOMAIN_FULL, codes.QUEUE_LIMIT)
    if cannot and not (snapshot.pending.claim[members] >= 0).any():
        needed = needed_members(snapshot, gang, members)
        near = domain_to_wait_for(decision, gang, members)
        some_reach = gang in snapshot.topology.shared
        domains = within_reach(decision, gang, members) if some_reach else domains_to_ask(decision, gang, members, near)
        is_made_room = any(make_room_for_gang(preemption, gang, members, domain) for domain in domains)
        decision.draft.reach.clear()
        decision.draft.anchors.clear()
        if is_made_room:
            return False
        where = reach_to_wait_for(decision, gang, members) if some_reach else {}
        needed, near = (list(where), None) if some_reach else (needed, near)
        shapes = set(snapshot.pending.shape[needed].tolist())
        limits = [decision.turns.rows_within_limits(shape) for shape in shapes]
        reserve(decision, needed, reduce(both, limits, near), where)
    if code != codes.FITS:
        decision.draft.note_gang(gang, code)
    return code == codes.FITS
