"""Parts that run side by side, and what is said of them."""

import asyncio

import pytest

from tangram.cluster.backoff import Backoff
from tangram.node import loops
from tangram.node.loops import run_side_by_side


async def test_what_a_part_says_of_itself_stays_until_it_takes_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """To run for a while shows that a failure is over, and nothing about what the part itself complains of."""
    monkeypatch.setattr(loops, "_WELL", 0.01)
    problems: dict[str, str] = {}
    runs = 0

    async def failed_once() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            raise OSError("no such file")
        await asyncio.Event().wait()

    async def complains() -> None:
        problems["complains"] = "the kubelet does not answer"
        await asyncio.Event().wait()

    parts = {"failed once": failed_once, "complains": complains}
    running = asyncio.create_task(run_side_by_side(parts, lambda: Backoff(0.02, 0.02), problems))
    async with asyncio.timeout(10):
        while runs < 2 or problems["failed once"]:  # noqa: ASYNC110 - a dictionary rings no bell
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert problems == {"failed once": "", "complains": "the kubelet does not answer"}
