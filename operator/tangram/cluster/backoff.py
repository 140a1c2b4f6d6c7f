"""Growing, jittered pauses between attempts, so that many clients of a recovering server do not return as one wave."""

import random


class Backoff:
    """Pauses that double from ``first`` to ``cap`` seconds, each shortened by a random part of up to one half."""

    def __init__(self, first: float = 0.1, cap: float = 10.0, source: random.Random | None = None) -> None:
        self._first, self._cap = first, cap
        self._random = source or random.Random()  # noqa: S311 - spreads load, guards no secret
        self._failures = 0

    @property
    def failures(self) -> int:
        """Failures since the last success."""
        return self._failures

    def reset(self) -> None:
        """Forget the failures: something worked."""
        self._failures = 0

    def next(self) -> float:
        """Count one more failure and return the seconds to wait before the next attempt."""
        # 2 ** 30 is beyond any cap; the bound keeps the number small through days of failures.
        pause = min(self._cap, self._first * float(1 << min(self._failures, 30)))
        self._failures += 1
        return pause * self._random.uniform(0.5, 1.0)

    def spread(self, seconds: float) -> float:
        """``seconds`` asked for by somebody else, lengthened by up to a tenth."""
        return seconds * self._random.uniform(1.0, 1.1)
