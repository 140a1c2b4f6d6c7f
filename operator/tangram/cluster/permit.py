"""The right to write, as a value.

A decision is worth writing only in the term as holder of a Lease in which it was made: whoever has held the Lease in
between may have decided otherwise. So a permit is of one term, and stays what it is when another term begins.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Permit:
    """The right to write during one term."""

    epoch: int
    """Which of this process's terms it is."""
    seconds_left: Callable[[], float]
    """For how long writes may still go on; 0 or less once the term is over, whoever holds the Lease now."""

    @property
    def holds(self) -> bool:
        """Whether something may be written now."""
        return self.seconds_left() > 0


ALWAYS = Permit(0, lambda: math.inf)
"""Of a process that takes part in no election."""
NEVER = Permit(-1, lambda: 0.0)
"""Of a process that has not held its Lease yet, or that ends."""
