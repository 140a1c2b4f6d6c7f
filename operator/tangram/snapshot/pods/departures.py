"""When running pods will give back what they hold, as far as they say (annotation ``estimated-duration``).

Followed lazily: the builder notes whose place has changed, and the table looks at those pods only when a decision needs
to know, which is when somebody waits.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from tangram import units
from tangram.api import names
from tangram.api.objects import Pod
from tangram.errors import InvalidInput
from tangram.snapshot.arrays import UNLIMITED, Departures
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.pods.pods import PodRow
from tangram.snapshot.pods.states import State
from tangram.snapshot.values.growing import grown

_LONGEST = 10 * 365 * 24 * 3600


def estimated_duration(pod: Pod) -> int:
    """Seconds that the pod says it runs; -1: it does not say, or nothing that can be read."""
    text = pod.metadata.annotations.get(names.ESTIMATED_DURATION)
    if not text:
        return -1
    try:
        return min(units.duration_seconds(text), _LONGEST)
    except InvalidInput:
        return -1


class DepartureTable:
    """Keeps ``arrays.Departures`` true."""

    def __init__(self, nodes: NodeTable) -> None:
        self.moved: set[str] = set()
        """Uids of pods whose place has changed since the last cycle."""
        self._nodes = nodes
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._unstarted: dict[int, int] = {}
        """Slot -> seconds that it says it runs (-1: it does not say), of pods of which it is not known that they have
        started: they start at the earliest now."""
        self._arrays = _empty(0, 0)

    def arrays(self, pods: Mapping[str, PodRow], scheduler_name: str, delay: int, now: int) -> Departures:
        """What is true now; ``delay`` as in ``Departures``."""
        width = self._nodes.arrays.device_free.shape[1]
        if width > self._arrays.milli.shape[1]:
            self._arrays = grown(self._arrays, _empty(len(self._arrays.present), width))
        for uid in sorted(self.moved):
            row = pods.get(uid)
            self._drop(uid)
            if row is not None and row.shape >= 0 and row.node in self._nodes.rows and _leaves(row, scheduler_name):
                self._put(uid, row)
        self.moved.clear()
        held = self._arrays
        for slot, duration in self._unstarted.items():
            held.started[slot] = now
            held.ends[slot] = now + duration if duration >= 0 else UNLIMITED
        return replace(held, delay=delay)

    def gone(self, uid: str) -> None:
        """A pod is gone: of one that was never counted here nothing need be known, however long nobody waits."""
        if uid not in self._slots:
            self.moved.discard(uid)

    def _drop(self, uid: str) -> None:
        slot = self._slots.pop(uid, None)
        if slot is not None:
            self._arrays.present[slot] = False
            self._unstarted.pop(slot, None)
            self._free.append(slot)

    def _put(self, uid: str, row: PodRow) -> None:
        slot = self._slots[uid] = self._free.pop() if self._free else len(self._slots)
        if slot >= len(self._arrays.present):
            self._arrays = grown(self._arrays, _empty(max(64, 2 * slot), self._arrays.milli.shape[1]))
        held, pod = self._arrays, row.pod
        started = units.timestamp_seconds(pod.status.start_time) if pod is not None and row.state == State.BOUND else 0
        duration = estimated_duration(pod) if pod is not None else -1
        held.present[slot] = True
        held.node[slot], held.shape[slot] = self._nodes.rows[row.node], row.shape
        held.started[slot] = started
        held.ends[slot] = started + duration if duration >= 0 else UNLIMITED
        if pod is not None and pod.metadata.deletion_timestamp:
            held.ends[slot] = max(started, units.timestamp_seconds(pod.metadata.deletion_timestamp))
            held.started[slot] = started or held.ends[slot]
        elif not started:
            self._unstarted[slot] = duration
        held.milli[slot], held.memory[slot] = 0, 0
        held.leaving[slot] = pod is not None and bool(pod.metadata.deletion_timestamp)
        for device, milli, mib in self._parts(uid, row):
            held.milli[slot, device] += milli
            held.memory[slot, device] += mib

    def _parts(self, uid: str, row: PodRow) -> Iterable[tuple[int, int, int]]:
        usage = self._nodes.usage_of(row.node).get(uid)
        width = self._arrays.milli.shape[1]
        return () if usage is None else [part for part in usage.devices if part[0] < width]


def _leaves(row: PodRow, scheduler_name: str) -> bool:
    """Whether the pod is ours and will end: one that is restarted whenever it ends does so only if it says so."""
    pod = row.pod
    if pod is None or pod.spec.scheduler_name != scheduler_name:
        return False
    return pod.spec.restart_policy != "Always" or estimated_duration(pod) >= 0


def _empty(slots: int, width: int) -> Departures:
    return Departures(
        delay=-1,
        present=np.zeros(slots, np.bool_),
        node=np.zeros(slots, np.int32),
        shape=np.zeros(slots, np.int32),
        started=np.zeros(slots, np.int64),
        ends=np.zeros(slots, np.int64),
        milli=np.zeros((slots, width), np.int32),
        memory=np.zeros((slots, width), np.int32),
        leaving=np.zeros(slots, np.bool_),
    )
