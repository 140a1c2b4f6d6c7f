"""Pods that name one claim whose volume is not there yet: the first in line says where it is, and the others wait."""

from tangram.decide.draft import Draft
from tangram.snapshot.values.pending import Pending


class Rivals:
    """Waiting pods that name claims which not only members of their gang name."""

    def __init__(self, pending: Pending) -> None:
        self._gang = pending.gang
        self._users: dict[int, list[list[int]]] = {}
        """Slot -> for each of these claims the slots of all who name it and wait."""
        for users in pending.sharing.values():
            slots = [slot for slot in users if pending.waiting[slot]]
            gangs = {int(pending.gang[slot]) for slot in slots}
            if len(slots) > 1 and (len(gangs) > 1 or -1 in gangs):
                for slot in slots:
                    self._users.setdefault(slot, []).append(slots)
        self.slots: list[int] = list(self._users)
        """All of them."""

    def come_first(self, slot: int, draft: Draft) -> bool:
        """Whether a pod has to wait for the next decision, as one of those that are going somewhere by this one names a
        claim of its too, and is not of its gang: only then is it known which volume both have."""
        if slot not in self._users:
            return False
        going, gang = draft.going | draft.claimants, self._gang
        others = {one for users in self._users[slot] for one in users if one in going} - {slot}
        return any(gang[slot] < 0 or gang[one] != gang[slot] for one in others)
