"""How often the driver is asked, counted where the bindings call the library."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pynvml

from tangram.node.nvidia import NvidiaProbe
from tangram.settings import NodeSettings


class Clock:
    """A clock that stands still until ``now`` is set."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def counted_calls() -> Iterator[Counter[str]]:
    """Calls of NVML by function, while the block lasts."""
    found, calls = pynvml._nvmlGetFunctionPointer, Counter[str]()

    def counting(name: str) -> Callable[..., Any]:
        calls[name] += 1
        function: Callable[..., Any] = found(name)
        return function

    pynvml._nvmlGetFunctionPointer = counting
    try:
        yield calls
    finally:
        pynvml._nvmlGetFunctionPointer = found


def minute(probe: NvidiaProbe, clock: Clock) -> None:
    """What the agent asks in one minute at its default rates."""
    settings, end, read_at = NodeSettings(), clock.now + 60.0, clock.now
    while clock.now + settings.probe_interval <= end:
        clock.now += settings.probe_interval
        probe.check()
        if clock.now >= read_at + settings.reading_interval:
            probe.readings()
            read_at = clock.now
