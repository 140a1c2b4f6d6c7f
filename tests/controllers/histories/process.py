"""Processes of the controllers on the server in memory, and the Lease that passes between them."""

import asyncio
import contextlib
import math
import random
from collections.abc import Callable

import msgspec
from tests.controllers.builders import NOW
from tests.controllers.histories.server import NAMESPACE, Server, Wire

from tangram.cluster.paths import INFERENCE_SERVICES, TRAINING_JOBS, Resource
from tangram.cluster.permit import Permit
from tangram.controllers.live import LiveControllers
from tangram.settings import LeaseSettings


class Term:
    """A Lease as one process sees it."""

    def __init__(self) -> None:
        self.epoch, self.held, self.settings = 0, False, LeaseSettings()
        self.on_acquired: Callable[[], None] = lambda: None
        self._taken = asyncio.Event()

    def take(self) -> None:
        """A term begins."""
        self.epoch, self.held = self.epoch + 1, True
        self._taken.set()
        self.on_acquired()

    def lose(self) -> None:
        """The term ends: from now on nothing may be written in its name."""
        self.held = False
        self._taken.clear()

    def permit(self) -> Permit:
        epoch = self.epoch
        return Permit(epoch, lambda: math.inf if self.held and self.epoch == epoch else 0.0)

    async def wait_held(self) -> None:
        await self._taken.wait()

    async def run(self) -> None:
        await asyncio.Event().wait()

    def stuck(self) -> None:
        return None

    def failing(self) -> None:
        return None


class Ears:
    """Says which objects of our kinds have changed, as late as this process hears of it."""

    def __init__(self, server: Server, wire: Wire, live: LiveControllers) -> None:
        self.listening = asyncio.Event()
        self.last_error = None
        self._server, self._wire, self._live = server, wire, live

    def silent(self) -> None:
        return None

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for kind in (TRAINING_JOBS, INFERENCE_SERVICES):
                for item in self._server.all(kind.plural):
                    self._live._on_event(kind, (NAMESPACE, item["metadata"]["name"]), item, False)
                group.create_task(self._follow(kind, self._server.version))
            self.listening.set()

    async def _follow(self, kind: Resource, version: int) -> None:
        while True:
            with contextlib.suppress(Exception):
                async for entry in self._wire.events(kind.plural, version):
                    version = entry.number
                    item = msgspec.json.decode(entry.encoded)["object"]
                    self._live._on_event(kind, (NAMESPACE, entry.name), item, entry.type == "DELETED")
            await asyncio.sleep(1.0)


class _Nothing:
    problem = None

    async def run(self) -> None:
        await asyncio.Event().wait()


class Process:
    """A controller process, which may be started again with nothing in its memory."""

    def __init__(self, server: Server, name: str, chance: random.Random) -> None:
        self.wire, self.term = Wire(server, name, chance), Term()
        self._server, self._task = server, None
        self.start()

    def start(self) -> None:
        self.term = Term()
        self.live = LiveControllers(self.wire, None, self.term)  # type: ignore[arg-type]
        self.live._clock = lambda: NOW + self._server.clock()
        self.live._ears = Ears(self._server, self.wire, self.live)  # type: ignore[assignment]
        self.live._readiness = _Nothing()  # type: ignore[assignment]
        self._task = asyncio.create_task(self.live.run())

    async def stop(self) -> None:
        self.term.lose()
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def restart(self) -> None:
        await self.stop()
        self.start()

    @property
    def fault(self) -> BaseException | None:
        """What ended the process."""
        return self._task.exception() if self._task.done() and not self._task.cancelled() else None
