"""Pods that name one claim whose volume is not there yet: the first in line says where it is, and the others wait."""

from typing import NamedTuple

from tangram.decide.draft import Draft
from tangram.snapshot.values.pending import Pending


class _Claim(NamedTuple):
    """A claim that not only members of one gang name."""

    name: str
    slots: list[int]
    """Who names it and waits."""


class Rivals:
    """Waiting pods that name such claims."""

    def __init__(self, pending: Pending) -> None:
        self._gang = pending.gang
        self._claims: dict[int, list[_Claim]] = {}
        """Slot -> those that the pod names."""
        for (_, name), users in pending.sharing.items():
            slots = sorted(slot for slot in users if pending.waiting[slot])
            gangs = {int(pending.gang[slot]) for slot in slots}
            if len(slots) > 1 and (len(gangs) > 1 or -1 in gangs):
                claim = _Claim(name, slots)
                for slot in slots:
                    self._claims.setdefault(slot, []).append(claim)
        self.slots: list[int] = list(self._claims)
        """All of them."""
        self._on_the_way = {slot for slot in self.slots if pending.claim[slot] >= 0 or pending.nominated[slot] >= 0}
        """Those for whom others leave, or have left, by earlier decisions."""

    def come_first(self, slot: int, draft: Draft) -> bool:
        """Whether a pod has to wait, as another one that names a claim of its too, and is not of its gang, is going
        somewhere by this decision or an earlier one: only once it is there is it known which volume both have."""
        if slot not in self._claims:
            return False
        return self._first(slot, draft.going | draft.claimants | self._on_the_way) is not None

    def behind(self) -> dict[int, tuple[str, int]]:
        """Slots of pods that wait for one for whom others leave -> (the claim that both name, the slot of that one)."""
        slots = self.slots if self._on_the_way else []
        found = {slot: self._first(slot, self._on_the_way) for slot in slots if slot not in self._on_the_way}
        return {slot: first for slot, first in found.items() if first is not None}

    def _first(self, slot: int, going: set[int]) -> tuple[str, int] | None:
        """(claim, slot) of another one that goes somewhere."""
        gang = self._gang
        for claim in self._claims[slot]:
            for one in claim.slots:
                if one in going and one != slot and (gang[slot] < 0 or gang[one] != gang[slot]):
                    return claim.name, one
        return None
