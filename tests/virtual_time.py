"""An event loop whose time passes only by waiting, and can be made to jump: hours cost milliseconds.

    clock = VirtualClock()
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(…)

``clock.now`` is what ``loop.time()`` says. ``clock.stop(seconds)`` is a process that was stopped (SIGSTOP, a machine
that was suspended or moved): time passes, and nothing runs meanwhile.
"""

import asyncio
import selectors
from collections.abc import Mapping
from typing import Any

_MOST_WITHOUT_WAITING = 100_000


class VirtualClock:
    """Seconds since the beginning."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def stop(self, seconds: float) -> None:
        """Let time pass in which nothing runs."""
        self.now += seconds


class _Selector(selectors.BaseSelector):
    """Waits by letting the clock go on; what other threads or processes say it hears as well."""

    def __init__(self, clock: VirtualClock) -> None:
        self._clock, self._real = clock, selectors.DefaultSelector()
        self._without_waiting = 0

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()

    def close(self) -> None:
        self._real.close()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise AssertionError("all tasks wait for something that does not come")
        self._without_waiting = 0 if timeout > 0 else self._without_waiting + 1
        if self._without_waiting > _MOST_WITHOUT_WAITING:
            raise AssertionError("something is done again and again without waiting")
        self._clock.now += max(0.0, timeout)
        return self._real.select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on a virtual clock."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(_Selector(clock))
        self._virtual = clock

    def time(self) -> float:
        return self._virtual.now
