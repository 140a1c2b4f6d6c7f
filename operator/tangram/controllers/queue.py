"""A queue of names to reconcile: each name at most once, some of them later, and longer pauses after failures.

While a name is being worked on, another wish to reconcile it is remembered and comes back when the work is done; so one
name is never in two hands.
"""

import asyncio
import contextlib
import heapq
import itertools
import random
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")

_FIRST, _MOST = 0.5, 120.0


class WorkQueue(Generic[K]):
    """Names that wait; ``clock`` is the event loop's unless a test brings its own."""

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self._clock = clock or asyncio.get_running_loop().time
        self._due: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._serial = itertools.count()
        self._busy: dict[K, float | None] = {}
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Event()
        self._random = random.Random()  # noqa: S311 - spreads load, guards no secret

    def __len__(self) -> int:
        return len(self._due)

    @property
    def overdue(self) -> float:
        """Seconds for which the oldest name that could be worked on has been waiting."""
        while self._heap and self._due.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return max(0.0, self._clock() - self._heap[0][0]) if self._heap else 0.0

    def add(self, key: K, after: float = 0.0) -> None:
        """Reconcile the name in ``after`` seconds, or earlier if somebody has asked for that."""
        when = self._clock() + after
        if key in self._busy:
            known = self._busy[key]
            self._busy[key] = when if known is None else min(known, when)
            return
        if key in self._due and self._due[key] <= when:
            return
        self._due[key] = when
        heapq.heappush(self._heap, (when, next(self._serial), key))
        self._changed.set()

    def fail(self, key: K) -> float:
        """Reconcile the name again after a pause that doubles with each failure in a row; returns the pause."""
        failures = self._failures[key] = self._failures.get(key, 0) + 1
        pause = min(_MOST, _FIRST * 2.0 ** min(failures - 1, 20)) * self._random.uniform(0.8, 1.2)
        self.add(key, pause)
        return pause

    def is_failing(self, key: K) -> bool:
        """Whether the last work on the name has failed, so that it waits for its pause."""
        return key in self._failures

    def succeed(self, key: K) -> None:
        """The failures of the name are over."""
        self._failures.pop(key, None)

    async def get(self) -> K:
        """The name that is due first; it is the caller's until ``done``."""
        while True:
            self._changed.clear()
            wait: float | None = None
            while self._heap:
                when, _, key = self._heap[0]
                if self._due.get(key) != when:
                    heapq.heappop(self._heap)  # asked for earlier since, or taken
                    continue
                wait = when - self._clock()
                break
            if wait is not None and wait <= 0:
                _, _, key = heapq.heappop(self._heap)
                del self._due[key]
                self._busy[key] = None
                if self._heap:
                    self._changed.set()  # there may be work for another worker too
                return key
            # Not wait_for: before Python 3.12 it may swallow a cancellation that meets a wake-up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._changed.wait()

    def done(self, key: K) -> None:
        """The work on the name is over; wishes that came meanwhile count from now on."""
        when = self._busy.pop(key)
        if when is not None:
            self.add(key, max(0.0, when - self._clock()))
