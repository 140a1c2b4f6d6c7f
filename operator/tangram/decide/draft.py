"""The plan while it is made."""

from collections.abc import Hashable
from dataclasses import dataclass, field

from tangram.plan import Evict, Hold, Place
from tangram.snapshot.arrays import Int64


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


@dataclass(slots=True)
class Draft:
    """The plan while it is made, and what is known of the pods that did not fit."""

    place: list[Place] = field(default_factory=list)
    evict: list[Evict] = field(default_factory=list)
    hold: list[Hold] = field(default_factory=list)
    claimants: set[int] = field(default_factory=set)
    """Slots of pods for which others are evicted in this cycle."""
    gang_codes: dict[int, int] = field(default_factory=dict)
    """Gang row -> why it waits."""
    over_limit: set[int] = field(default_factory=set)
    """Shapes whose queue is at a limit."""
    reservation: Reservation | None = None
    """Nodes that later ones may use only if they do not delay the first in line."""
    not_reserved: set[Hashable] = field(default_factory=set)
    """(shape, pods) of pods and gangs for which it has been looked whether nodes can be held."""
    held_back: set[int] = field(default_factory=set)
    """Shapes that would fit on nodes that are held."""
