"""The queue of names: each once, never in two hands, later and later after failures."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.controllers.queue import WorkQueue


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> WorkQueue[str]:
    return WorkQueue(clock)


async def due(queue: WorkQueue[str]) -> list[str]:
    """All names that are due now."""
    found = []
    while True:
        task = asyncio.ensure_future(queue.get())
        for _ in range(3):
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
            return found
        found.append(task.result())


async def test_a_name_that_is_added_often_comes_once(queue: WorkQueue[str]) -> None:
    for name in ("a", "b", "a", "a"):
        queue.add(name)
    assert await due(queue) == ["a", "b"]


async def test_a_name_comes_when_it_is_due_and_an_earlier_wish_wins(queue: WorkQueue[str], clock: Clock) -> None:
    queue.add("a", 10)
    queue.add("a", 5)
    queue.add("a", 20)
    clock.now = 4
    assert await due(queue) == []
    clock.now = 5
    assert await due(queue) == ["a"]
    clock.now = 30
    queue.done("a")
    assert await due(queue) == []


async def test_a_name_is_never_in_two_hands(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert await due(queue) == ["a"]
    queue.add("a")
    assert await due(queue) == [], "somebody works on it"
    queue.done("a")
    assert await due(queue) == ["a"], "but the wish is not forgotten"


async def test_failures_in_a_row_make_longer_pauses_and_a_success_ends_them(
    queue: WorkQueue[str], clock: Clock
) -> None:
    pauses = []
    for _ in range(12):
        queue.add("a", -1000)
        assert await due(queue) == ["a"]
        pauses.append(queue.fail("a"))
        queue.done("a")
    assert 0.4 <= pauses[0] <= 0.6
    assert pauses[3] > 2 * pauses[0]
    assert 96 <= pauses[-1] <= 144, "the pauses do not grow without end"
    queue.succeed("a")
    assert queue.fail("a") <= 0.6


async def test_whoever_waits_is_woken(clock: Clock) -> None:
    queue: WorkQueue[str] = WorkQueue(clock)
    waiting = [asyncio.ensure_future(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    for name in ("a", "b", "c"):
        queue.add(name)
    assert sorted(await asyncio.wait_for(asyncio.gather(*waiting), 5)) == ["a", "b", "c"]


async def test_the_oldest_overdue_name_tells_how_long_nobody_has_worked(queue: WorkQueue[str], clock: Clock) -> None:
    assert queue.overdue == 0
    queue.add("a")
    clock.now = 7
    queue.add("b")
    assert queue.overdue == 7
    assert len(queue) == 2


@given(st.lists(st.tuples(st.sampled_from(["add", "take", "done", "wait"]), st.sampled_from("abc")), max_size=60))
def test_no_wish_is_ever_lost(steps: list[tuple[str, str]]) -> None:
    async def run() -> None:
        clock = Clock()
        queue: WorkQueue[str] = WorkQueue(clock)
        wished: set[str] = set()
        busy: set[str] = set()
        for step, name in steps:
            if step == "add":
                queue.add(name, 1.0)
                wished.add(name)
            elif step == "wait":
                clock.now += 1
            elif step == "take":
                taken = await due(queue)
                assert not set(taken) & busy
                busy |= set(taken)
                wished -= set(taken)
            elif busy:
                queue.done(busy.pop())
        for name in busy:
            queue.done(name)
        clock.now += 10
        assert set(await due(queue)) == wished

    asyncio.run(run())
