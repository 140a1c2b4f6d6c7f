"""How much of what has no end is tried: ``TANGRAM_EXAMPLES`` times the usual; `make fast` tries less than once that."""

import math
import os

TIMES = float(os.environ.get("TANGRAM_EXAMPLES", "1"))


def examples(usual: int) -> int:
    """So many examples of Hypothesis, or seeds; at least 3."""
    return max(3, math.ceil(usual * TIMES))


def seeds(usual: int) -> range:
    """The seeds of random worlds."""
    return range(examples(usual))
