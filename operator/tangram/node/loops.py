"""Parts that run side by side and fail alone, and a thread for calls that may block."""

import asyncio
import logging
import queue
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeVar

_log = logging.getLogger(__name__)

T = TypeVar("T")
Part = Callable[[], Awaitable[None]]

_WELL = 10.0
"""Seconds that a part which failed must run until it counts as well again."""


class Bell:
    """Wakes everybody who waits for a change; a change between looking and waiting is not missed."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    def next_ring(self) -> asyncio.Event:
        """Set at the next change."""
        return self._event


async def rings_within(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event; False when it did not come in time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


class Pauses(Protocol):
    """Growing pauses between failures."""

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        ...

    def reset(self) -> None:
        """Something worked."""
        ...


async def run_side_by_side(parts: Mapping[str, Part], pauses: Callable[[], Pauses], problems: dict[str, str]) -> None:
    """Run all parts until cancelled; one that fails is started again, and ``problems`` says so meanwhile."""
    async with asyncio.TaskGroup() as group:
        for name, part in parts.items():
            problems.setdefault(name, "")
            group.create_task(_keep_running(name, part, pauses(), problems), name=name)


async def _keep_running(name: str, part: Part, pauses: Pauses, problems: dict[str, str]) -> None:
    loop, failure = asyncio.get_running_loop(), ""

    def recover() -> None:
        if problems[name] == failure:  # what the part says of itself is its own to take back
            problems[name] = ""

    while True:
        well = loop.call_later(_WELL, recover)
        started = loop.time()
        try:
            await part()
            failure = "it has ended"
        except Exception as error:  # noqa: BLE001 - whatever it is, the other parts must not suffer
            failure = f"{type(error).__name__}: {error}"
            _log.exception("%s failed and is started again", name)
        finally:
            well.cancel()
        if loop.time() - started > _WELL:
            pauses.reset()
        problems[name] = failure
        await asyncio.sleep(pauses.next())


class OneThread:
    """Makes blocking calls one after another on a thread of its own.

    The thread is a daemon, unlike those of an executor: a driver that never answers cannot keep the agent from ending.
    """

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def call(self, function: Callable[[], T]) -> T:
        """The function's result, or what it raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(result: T | None, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(result)  # type: ignore[arg-type]  # T itself may be None

        def work() -> None:
            try:
                result, error = function(), None
            except Exception as caught:  # noqa: BLE001 - raised again where it was called from
                result, error = None, caught
            try:
                loop.call_soon_threadsafe(finish, result, error)
            except RuntimeError:
                return  # the loop has ended meanwhile, nobody waits any more

        self._calls.put(work)
        return await future

    def _work(self) -> None:
        while True:
            self._calls.get()()
