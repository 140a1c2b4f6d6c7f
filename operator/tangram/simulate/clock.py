"""Time that passes only when the simulation says so."""

from dataclasses import dataclass


@dataclass(slots=True)
class VirtualClock:
    """Seconds since the epoch; starts in 1970 so that equal runs have equal timestamps."""

    now: int = 0

    def advance(self, moment: int) -> None:
        """Go on to ``moment``; time never runs back, so an earlier one changes nothing."""
        if moment > self.now:
            self.now = moment
