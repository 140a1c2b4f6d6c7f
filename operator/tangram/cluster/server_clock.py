"""The API server's clock, by the ``Date`` of its answers: the one clock that all processes of a cluster can share.

What was noted with a process's own wall clock moves when somebody sets that clock, and is another one after a failover.
"""

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import Final

_AGAIN_SECONDS: Final = 10.0
"""So often an answer's time is read; a steady clock counts on in between."""


class ServerClock:
    """Seconds since the epoch as the API server has them; ``steady`` is a steady clock in seconds."""

    def __init__(self, steady: Callable[[], float] = time.monotonic) -> None:
        self._steady = steady
        self._read_at = float("-inf")
        self._ahead: float | None = None
        """By how much it is ahead of the steady clock."""

    def note(self, date: str | None) -> None:
        """Take in the ``Date`` of an answer, as in RFC 9110; one that cannot be read is none."""
        now = self._steady()
        if date is None or now < self._read_at + _AGAIN_SECONDS:
            return
        try:
            self._ahead = parsedate_to_datetime(date).timestamp() - now
        except ValueError:
            return
        self._read_at = now

    def now(self) -> int | None:
        """What time it is there; None: no answer has said."""
        return None if self._ahead is None else int(self._ahead + self._steady())
