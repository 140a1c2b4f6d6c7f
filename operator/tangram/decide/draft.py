"""The plan while it is made."""

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import msgspec

from tangram.decide.journal import Journal, Restore
from tangram.plan import Claim, Evict, Hold, Place, Provision
from tangram.snapshot.arrays import Bool, Int64


@dataclass(slots=True)
class Reservation:
    """Nodes that are held for the first in line."""

    whose: str
    start: int
    """When it can start, in seconds since the epoch; 0: that is not known."""
    rows: Int64
    """[H] node rows."""
    spare: Int64
    """[H, R] what the first in line leaves of each when it starts."""


class Placed(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A waiting pod's slot, the node row on which it is placed, and the decision in names."""

    slot: int
    row: int
    place: Place


@dataclass(slots=True)
class Draft:
    """The plan while it is made, and what is known of the pods that did not fit. Everything is in the journal."""

    journal: Journal
    placed: list[Placed] = field(default_factory=list)
    evict: list[Evict] = field(default_factory=list)
    claims: list[Claim] = field(default_factory=list)
    provision: list[Provision] = field(default_factory=list)
    hold: list[Hold] = field(default_factory=list)
    claimants: set[int] = field(default_factory=set)
    """Slots of pods for which others are evicted in this cycle."""
    gang_codes: dict[int, int] = field(default_factory=dict)
    """Gang row -> why it waits."""
    at_limit: set[int] = field(default_factory=set)
    """Shapes over a limit of whose pods none can have others evicted: who might has asked in vain."""
    over_limit: set[int] = field(default_factory=set)
    """Shapes whose queue is at a limit."""
    reservation: Reservation | None = None
    """Nodes that later ones may use only if they do not delay the first in line."""
    reach: dict[int, Bool] = field(default_factory=dict)
    """Slot -> [N] node rows where the pod reaches a volume that it shares, while its gang is tried there."""
    anchors: set[int] = field(default_factory=set)
    """Slots of those of them who have to come, whoever else does: their volume is being made for their node."""
    not_reserved: set[Hashable] = field(default_factory=set)
    """(shape, pods) of requests for which a reservation has already been attempted in this cycle."""
    held_back: set[int] = field(default_factory=set)
    """Shapes that would fit on nodes that are held."""

    @property
    def going(self) -> set[int]:
        """Slots of the pods that are placed."""
        return {one.slot for one in self.placed}

    def add_places(self, placed: Iterable[Placed]) -> None:
        """Write placements down."""
        self.journal.keep(("draft", "placed"), _length, self.placed)
        self.placed.extend(placed)

    def add_evictions(self, evictions: Iterable[Evict]) -> None:
        """Write evictions down."""
        self.journal.keep(("draft", "evict"), _length, self.evict)
        self.evict.extend(evictions)

    def add_holds(self, holds: Iterable[Hold]) -> None:
        """Write down why pods wait."""
        self.journal.keep(("draft", "hold"), _length, self.hold)
        self.hold.extend(holds)

    def add_claim(self, claim: Claim) -> None:
        """Write down that places are held."""
        self._keep("claims", list.copy)
        self.claims.append(claim)

    def join_claims(self, first: int) -> None:
        """Make one claim of those from the given number on: their places are given together."""
        self._keep("claims", list.copy)
        parts = self.claims[first:]
        places = tuple(place for claim in parts for place in claim.places)
        self.claims[first:] = [Claim(places, tuple(pod for claim in parts for pod in claim.victims))]

    def add_claimant(self, slot: int) -> None:
        """Others are evicted for the pod of the slot."""
        self._keep("claimants", set.copy)
        self.claimants.add(slot)

    def note_gang(self, gang: int, code: int) -> None:
        """Say why a gang waits."""
        self._keep("gang_codes", dict.copy)
        self.gang_codes[gang] = code

    def note_over_limit(self, shape: int) -> None:
        """Note that the shape's queue is at a limit."""
        self._keep("over_limit", set.copy)
        self.over_limit.add(shape)

    def note_at_limit(self, shape: int) -> None:
        """Note that no pod of the shape can be helped beyond the limit of its queue."""
        self.note_over_limit(shape)
        self._keep("at_limit", set.copy)
        self.at_limit.add(shape)

    def note_held_back(self, shape: int) -> None:
        """Note that the shape would fit on nodes that are held."""
        self._keep("held_back", set.copy)
        self.held_back.add(shape)

    def try_to_reserve(self, request: Hashable) -> bool:
        """Whether no reservation has been attempted for such a request yet; from now on one has."""
        if request in self.not_reserved:
            return False
        self._keep("not_reserved", set.copy)
        self.not_reserved.add(request)
        return True

    def hold_nodes(self, reservation: Reservation) -> None:
        """Hold nodes for the first in line."""
        self._keep("reservation", lambda held: held)
        self.reservation = reservation

    def count_held(self, row: int, request: Int64) -> None:
        """Count a placement against what is left on the nodes that are held."""
        held = self.reservation
        if held is not None:
            self.journal.keep(("draft", "spare"), _spare, held)
            held.spare[held.rows == row] -= request

    def _keep(self, name: str, copy: Callable[[Any], Any]) -> None:
        self.journal.keep(("draft", name), self._copy, name, copy)

    def _copy(self, name: str, copy: Callable[[Any], Any]) -> Restore:
        return partial(setattr, self, name, copy(getattr(self, name)))


def _length(entries: list[Any]) -> Restore:
    """A list that only grows is put back by cutting it off."""
    return partial(_cut, entries, len(entries))


def _cut(entries: list[Any], length: int) -> None:
    del entries[length:]


def _spare(held: Reservation) -> Restore:
    return partial(setattr, held, "spare", held.spare.copy())
