"""What an API server refuses, and which requests and answers the network loses: rules that a world's writes meet."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tangram.plan import Evict, Hold, Place
from tangram.simulate.answers import Answer
from tangram.simulate.clock import VirtualClock
from tangram.simulate.world import ChosenNode, Write

FOR_EVER = 1 << 40
"""A second that never comes."""


@dataclass(slots=True)
class Faults:
    """Rules by pod name, and a queue of accidents that meet whichever write comes next.

    Pass an instance as a world's ``fault``.
    """

    clock: VirtualClock
    bindings: dict[str, int] = field(default_factory=dict)
    """Pods whose binding an admission policy or a quota refuses, until a second."""
    evictions: dict[str, int] = field(default_factory=dict)
    """Pods that a PodDisruptionBudget protects, until a second."""
    reports: dict[str, int] = field(default_factory=dict)
    """Pods whose status cannot be patched, until a second."""
    accidents: list[Answer] = field(default_factory=list)
    """What happens to the next writes, the last one first."""
    met: Counter[str] = field(default_factory=Counter)
    """How many writes about each pod have met a fault."""

    def __call__(self, write: Write) -> Answer | None:
        """What becomes of a write; None: nothing is in its way."""
        found = self._rule(write)
        if found is None and self.accidents and not isinstance(write, Hold):
            found = self.accidents.pop()
            if found is Answer.GONE and not isinstance(write, Place):
                found = Answer.LOST
        if found is not None:
            self.met[write.claim[1] if isinstance(write, ChosenNode) else write.pod.name] += 1
        return found

    def refuse(self, pods: Iterable[str], until: int = FOR_EVER) -> None:
        """Refuse the bindings of these pods."""
        self.bindings |= dict.fromkeys(pods, until)

    def protect(self, pods: Iterable[str], until: int = FOR_EVER) -> None:
        """Refuse the evictions of these pods."""
        self.evictions |= dict.fromkeys(pods, until)

    def _rule(self, write: Write) -> Answer | None:
        match write:
            case Place():
                until = self.bindings.get(write.pod.name, 0)
            case Evict():
                until = self.evictions.get(write.pod.name, 0)
            case Hold():
                until = self.reports.get(write.pod.name, 0)
                return Answer.LOST if self.clock.now < until else None
            case _:
                return None
        return Answer.REFUSED if self.clock.now < until else None
