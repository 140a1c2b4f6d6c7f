"""Pods that name one claim whose volume is not there yet: the first in line says where it is, and the others wait."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tangram.decide.draft import Draft, Placed
from tangram.snapshot.values.pending import Pending


@dataclass(frozen=True, slots=True, eq=False)
class _Claim:
    """A claim that not only members of one gang name."""

    name: str
    slots: frozenset[int]
    """Who names it and waits."""
    on_the_way: tuple[int, ...]
    """Who names it and for whom others leave, or have left, or a place is held, by earlier decisions."""


class Rivals:
    """Waiting pods that name such claims, in one decision."""

    def __init__(self, pending: Pending) -> None:
        self._gang = pending.gang
        self._claims: dict[int, list[_Claim]] = {}
        """Slot -> those that the pod names."""
        self._contested: list[_Claim] = []
        self._placed: set[int] = set()
        """Of the pods that name them, those that are placed by this decision, as far as they have been gone through."""
        self._gone_through: list[Placed] = []
        for (_, name), users in pending.sharing.items():
            slots = sorted(slot for slot in users if pending.waiting[slot])
            going = sorted(slot for slot in users if pending.claim[slot] >= 0 or pending.nominated[slot] >= 0)
            gangs = {int(pending.gang[slot]) for slot in (*slots, *going)}
            if len({*slots, *going}) > 1 and (len(gangs) > 1 or -1 in gangs):
                claim = _Claim(name, frozenset(slots), tuple(going))
                self._contested.append(claim)
                for slot in slots:
                    self._claims.setdefault(slot, []).append(claim)
        self.slots: list[int] = list(self._claims)
        """All of them."""

    def come_first(self, slots: Iterable[int], draft: Draft) -> bool:
        """Whether these, a pod that stands alone or members of one gang, have to wait, as another one that names a
        claim of theirs is going somewhere by this decision or an earlier one: only once it is there is it known which
        volume both have."""
        mine = [slot for slot in slots if slot in self._claims]
        if not mine:
            return False
        placed, claims = self._those_placed(draft), dict.fromkeys(one for slot in mine for one in self._claims[slot])
        going = (
            one
            for claim in claims
            for some in (claim.on_the_way, claim.slots & placed, claim.slots & draft.claimants)
            for one in some
        )
        return next(self._others(mine[0], going), None) is not None

    def behind(self) -> dict[int, tuple[str, int]]:
        """Slots of pods that wait for one for whom others leave -> (the claim that both name, the slot of that one)."""
        found = dict[int, tuple[str, int]]()
        for claim in self._contested:
            for slot in claim.slots.difference(claim.on_the_way) if claim.on_the_way else ():
                first = next(self._others(slot, claim.on_the_way), None)
                if first is not None:
                    found.setdefault(slot, (claim.name, first))
        return found

    def put_off(self, draft: Draft) -> list[int]:
        """Slots of pods that stand alone and wait for one that goes somewhere: whether they would fit is not asked."""
        return [slot for slot in self.slots if self._gang[slot] < 0 and self.come_first((slot,), draft)]

    def _others(self, slot: int, going: Iterable[int]) -> Iterator[int]:
        """Those that go who are neither the pod nor of its gang."""
        gang = self._gang
        return (one for one in going if one != slot and (gang[slot] < 0 or gang[one] != gang[slot]))

    def _those_placed(self, draft: Draft) -> set[int]:
        """The pods that name these claims and are placed by now. What is placed is rolled back from its end."""
        known, placed = self._gone_through, draft.placed
        if known and (len(placed) < len(known) or placed[len(known) - 1] is not known[-1]):
            known.clear()
            self._placed.clear()
        more = placed[len(known) :]
        self._placed.update(one.slot for one in more if one.slot in self._claims)
        known.extend(more)
        return self._placed
