"""The plan while it is made."""

from dataclasses import dataclass, field

from tangram.plan import Evict, Hold, Place


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
