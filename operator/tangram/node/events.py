"""XID errors as NVIDIA's driver tells of them: waited for on a thread of its own, so that a failure is known at once.

A set of events belongs to the GPUs that were registered with it. It is made anew when there is another GPU, and when
one of its GPUs is lost, which ends it for all.
"""

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tangram.node.nvml import DriverGone, GpuGone, Nvml, address

_MOST_EVENTS = 256
"""Taken of a set at once."""
WAIT_SECONDS = 1.0
"""The thread waits so long for one event, and looks then whether it is still wanted."""
_PATIENCE_SECONDS = 5.0
"""A thread that does not come back within this time hangs in the driver: its set is left to it."""


@dataclass(slots=True)
class _Set:
    """One set, and the thread that waits for it."""

    handle: Any
    uuids: dict[int, str]
    """Addresses of the handles of GPUs to uuids."""
    broken: bool = False
    ended: threading.Event = field(default_factory=threading.Event)
    """Nobody wants its events any more."""
    thread: threading.Thread | None = None


class Events:
    """The XIDs of a machine's GPUs, in order. All calls come from one thread."""

    def __init__(self, nvml: Nvml) -> None:
        self._nvml = nvml
        self._wake: Callable[[], None] | None = None
        self._set: _Set | None = None
        self._came: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()

    def watch(self, wake: Callable[[], None]) -> None:
        """Wait on a thread from the next ``listen`` on, which calls ``wake`` whenever there is something to take."""
        self._wake = wake

    def listen(self, devices: Mapping[str, Any]) -> None:
        """Listen to these GPUs, by uuid, and perhaps others; raises DriverGone."""
        uuids, before = {address(device): uuid for uuid, device in devices.items()}, self._set
        if before is not None and not before.broken and uuids.keys() <= before.uuids.keys():
            self._start(before)
            return
        handle = self._nvml.ask_driver("nvmlEventSetCreate")
        if handle is None:
            return
        kind = self._nvml.names.nvmlEventTypeXidCriticalError
        for device in devices.values():
            self._nvml.ask_quietly("nvmlDeviceRegisterEvents", device, kind, handle)
        self._set = _Set(handle, uuids)
        if before is not None:  # what it was told until now counts
            self._end(before)
        self._start(self._set)

    def take(self, devices: Mapping[str, Any]) -> list[tuple[str, int]]:
        """(uuid, XID) of what has come; ``devices`` are those that are listened to from now on."""
        if self._set is not None and self._set.thread is None:
            self._poll(self._set)
        if self._set is not None and self._set.broken:
            self.listen(devices)
        return [self._came.get_nowait() for _ in range(min(_MOST_EVENTS, self._came.qsize()))]

    def close(self) -> None:
        """Listen to nobody; what has come can still be taken."""
        if self._set is not None:
            self._end(self._set)
        self._set = None

    def _start(self, made: _Set) -> None:
        if self._wake is not None and made.thread is None:
            made.thread = threading.Thread(target=self._wait, args=(made,), name="events", daemon=True)
            made.thread.start()

    def _wait(self, made: _Set) -> None:
        worked = False
        while not made.ended.is_set():
            came = self._next(made, WAIT_SECONDS)
            if came or (made.broken and worked):  # one that never worked is no news, and made anew at the next check
                self._call_wake()
            if made.broken:
                return
            worked = True

    def _call_wake(self) -> None:
        if self._wake is not None:
            self._wake()

    def _poll(self, made: _Set) -> None:
        for _ in range(_MOST_EVENTS):
            if not self._next(made, 0.0):
                return

    def _next(self, made: _Set, seconds: float) -> bool:
        """Keep the next event of a set; False when none came in time, or the set is broken."""
        try:
            event = self._nvml.next_xid(made.handle, round(1000 * seconds))
        except (GpuGone, DriverGone):
            made.broken = True
            return False
        if event is None:
            return False
        if event[0] in made.uuids:
            self._came.put((made.uuids[event[0]], event[1]))
        return True

    def _end(self, made: _Set) -> None:
        made.ended.set()
        if made.thread is not None:
            made.thread.join(_PATIENCE_SECONDS)
            if made.thread.is_alive():
                return
        if not made.broken:
            self._poll(made)
        self._nvml.ask_quietly("nvmlEventSetFree", made.handle)
