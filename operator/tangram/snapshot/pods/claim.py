"""What is known of one claim, and of evictions that did not happen."""

from dataclasses import dataclass

from tangram.plan import Place
from tangram.snapshot.arrays import Int64
from tangram.snapshot.nodes.usage import Usage

SPARED_FOR, LONGEST_SPARED = 30, 3600
"""Seconds for which a pod is not chosen again whose eviction did not happen, doubled by each further refusal of the
same pod, and at most."""


@dataclass(frozen=True, slots=True, eq=False)
class Spot:
    """What one pod of a claim will hold."""

    place: Place
    usage: Usage
    leaf: int
    """Leaf row of its queue, -1: none."""
    charged: Int64
    """[X] what its queue is charged."""

    @property
    def node(self) -> str:
        """Name of the node."""
        return self.place.node


@dataclass(slots=True, eq=False)
class Claim:
    """Places that are being made free together."""

    spots: dict[str, Spot]
    """Claimant uid -> its place."""
    victims: set[str]
    """Uids of the pods that have not left yet."""
    volumes: set[str]
    """Uids of its pods whose volumes are not there yet."""
    since: int
    """When it was decided, in seconds since the epoch."""
    elsewhere: frozenset[str] = frozenset()
    """Uids of victims, on other nodes, without whom the places are free already."""
    evicts: bool = False
    """Whether anybody had to leave for it."""

    @property
    def fulfilled(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return bool(self.spots) and not self.victims - self.elsewhere and not self.volumes


@dataclass(frozen=True, slots=True)
class Spared:
    """A pod whose eviction did not happen."""

    tries: int
    """How often it was refused; 0: it was not, but it did not happen either."""
    until: int
    """The second, since the epoch, from which on the pod may be chosen again."""
    words: str
    """What the server said of it last."""


@dataclass(frozen=True, slots=True)
class Denied:
    """A pod for which evictions were refused, or came to nothing."""

    tries: int
    since: int
    """When that happened last, in seconds since the epoch."""

    @property
    def until(self) -> int:
        """The second from which on others may be evicted for it again: it may look elsewhere at once, but whoever was
        evicted with the one who stays has lost work for nothing, and may be made again under another name."""
        return self.since + (pause_after(self.tries - 1) if self.tries > 1 else 0)


def pause_after(tries: int) -> int:
    """Seconds for which a pod is left alone once its eviction has been refused so often."""
    return min(SPARED_FOR << min(max(tries - 1, 0), 20), LONGEST_SPARED)
