"""What follows from how a write ended, as values: see ``writes``."""

from tangram.plan import Evict, Hold, Place, PodName, Value


class PlaceLost(Value, frozen=True):
    """The decision did not come to be, and is to be forgotten."""

    place: Place


class BackOff(Value, frozen=True):
    """The server does not take what was decided about the pod: it and its gang wait before they are tried again."""

    pod: PodName
    reason: str
    """One of plan.Reason."""
    words: str


class VictimStays(Value, frozen=True):
    """The eviction did not happen: claims that count on it are given up."""

    evict: Evict
    refused: str = ""
    """What the server said when it refused it; empty: it was not asked, or did not answer."""


class NotAsked(Value, frozen=True):
    """The eviction is not asked for: another one without which it would be for nothing did not happen."""

    evict: Evict


class ClaimEnds(Value, frozen=True):
    """No volume is being made for the pod: the place that is held for it meanwhile is given up."""

    pod: PodName


class Record(Value, frozen=True):
    """Record an Event of each action that it was carried out."""

    actions: tuple[Place | Evict | Hold, ...]


class Unreported(Value, frozen=True):
    """The reason was not written on the pod: it is news again."""

    pod: PodName


class RunCycle(Value, frozen=True):
    """Run a cycle at that time, or sooner."""

    at: float


FollowUp = PlaceLost | BackOff | VictimStays | NotAsked | ClaimEnds | Record | Unreported | RunCycle
