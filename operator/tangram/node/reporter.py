"""Keeps this node's GPUNode true: what matters at once, measurements now and then, nothing when nothing is new."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from tangram import errors
from tangram.node.alarms import Alarms
from tangram.node.report import Facts, Object, manifest, status_of, with_status

_log = logging.getLogger(__name__)

MEASURED_SECONDS = 60.0
"""New measurements alone are not written more often."""
HEARTBEAT_SECONDS = 300.0
"""So often it is written that the agent is alive, whatever else is new."""
PATIENCE_SECONDS = 30.0
"""An agent that has just started is given so long to see its GPUs before it says that it does not."""
_MEASUREMENTS = ("utilizationPercent", "memoryUsedMiB", "temperatureCelsius", "powerWatts")


class Border(Protocol):
    """Reads and writes the one GPUNode and its Node; every method raises TangramError when the API server cannot."""

    async def read(self) -> Object | None:
        """The GPUNode; None when it is not there."""
        ...

    async def node_uid(self) -> str:
        """Identity of the Node."""
        ...

    async def create(self, gpu_node: Object) -> None:
        """Create the GPUNode; one that is there already is left as it is."""
        ...

    async def apply_status(self, gpu_node: Object) -> bool:
        """Make the status true; False when the GPUNode is not there."""
        ...


class Reporter:
    """Compares what is true with what was written last, and writes what is worth it."""

    def __init__(
        self,
        border: Border,
        facts: Callable[[], Facts],
        clock: Callable[[], float],
        now: Callable[[], str],
        alarms: Alarms | None = None,
    ) -> None:
        """``clock`` is a steady clock in seconds, ``now`` the time of day as RFC 3339."""
        self._border, self._facts, self._clock, self._now, self._alarms = border, facts, clock, now, alarms
        self._written: Object | None = None
        self._written_at = 0.0
        self._started_at = clock()
        self.reported = asyncio.Event()
        """Set once the GPUNode has been seen or made to say what this agent has found out."""

    async def run(self, interval: float, sleep: Callable[[float], Awaitable[Any]] = asyncio.sleep) -> None:
        """Look every ``interval`` seconds until cancelled; an API server that cannot be reached is tried again."""
        while True:
            try:
                await self.check()
            except errors.TangramError as error:
                _log.warning("the GPUNode could not be written: %s", error)
            await sleep(interval)

    async def check(self) -> bool:
        """Write the status if that is due; True when it was written. Raises TangramError."""
        facts, first = self._facts(), self._written is None
        if self._alarms is not None:
            self._alarms.check(facts)
        if not facts.known and self._clock() < self._started_at + PATIENCE_SECONDS:
            return False
        if first:
            found = await self._border.read()
            self._written = (found or {}).get("status") or {}
        status = status_of(facts, self._written, self._now())
        if not first and not self._due(status):
            self._note_reported(facts)
            return False
        complete = status | {"heartbeatTime": self._now()}
        wanted = with_status(facts.node, complete)
        if not await self._border.apply_status(wanted):
            await self._border.create(manifest(facts.node, await self._border.node_uid()))
            if not await self._border.apply_status(wanted):
                self._written = None  # somebody removes it again and again: begin anew
                raise errors.NotReachable(f"GPUNode {facts.node} was created, and is not there")
        self._written, self._written_at = complete, self._clock()
        self._note_reported(facts)
        return True

    def _note_reported(self, facts: Facts) -> None:
        if facts.known:
            self.reported.set()

    def _due(self, status: Object) -> bool:
        assert self._written is not None, "a first probe has read or written a status"
        age = self._clock() - self._written_at
        if age >= HEARTBEAT_SECONDS or _lasting(status) != _lasting(self._written):
            return True
        return age >= MEASURED_SECONDS and status["devices"] != self._written["devices"]


def _lasting(status: Object) -> Object:
    """The status without what is measured."""
    devices = [
        {name: value for name, value in device.items() if name not in _MEASUREMENTS}
        for device in status.get("devices") or ()
    ]
    return {name: value for name, value in status.items() if name != "heartbeatTime"} | {"devices": devices}
