"""How tests wait: for a condition, with a deadline and a name; never for a time that ought to be enough."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0
"""Seconds after which a test gives up: long, for a busy machine makes everything late and nothing wrong."""


def eventually(
    condition: Callable[[], Any],
    what: str,
    seconds: float = PATIENCE,
    *,
    step: float = 0.05,
    why: Callable[[], Any] = str,
) -> Any:
    """Ask until the condition is true, and return its answer; fails with ``what`` (and ``why()``) when it never is."""
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what} {why()}".rstrip()
        time.sleep(step)
    return answer


async def eventually_async(
    condition: Callable[[], Any], what: str = "", seconds: float = PATIENCE, *, step: float = 0.01
) -> Any:
    """As ``eventually``, on an event loop; the condition may be a coroutine function."""
    deadline = time.monotonic() + seconds
    while True:
        answer = condition()
        if inspect.isawaitable(answer):
            answer = await answer
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what or inspect.getsource(condition).strip()}"
        await asyncio.sleep(step)
