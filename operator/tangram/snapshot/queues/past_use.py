"""What queues have used of late: the sum of use over time, which fades by half in each half-life.

Used is what pods hold that are known to be bound: a binding that was sent and is refused has used nothing.
It is counted while a scheduler leads and written into the policy's status, from which the next one goes on.
"""

import math
from dataclasses import dataclass

import numpy as np

from tangram.api.policy import HybridPolicy
from tangram.snapshot.arrays import Float64, Int64, Queues

_COUNTED = {"cpu": "recent_cpu_seconds", "gpu": "recent_gpu_seconds"}
"""Queue column -> the field of a queue's status that holds it."""
_MILLI = 1000
_MOST_SECONDS = 10**15
"""The most that is read from a status or written into one: a million GPUs for thirty years."""
_LEAP, _LONGEST = 600, 24 * 3600
"""Seconds between two readings from which on the clock may have been wrong, and the most that count."""


@dataclass(frozen=True, slots=True, eq=False)
class _Leap:
    """A long step of the clock, and what to go back to if the clock takes it back."""

    to: int
    since: int
    recent: Float64


class PastUse:
    """Keeps ``Queues.recent`` true."""

    def __init__(self) -> None:
        self._half_life = 0
        self._since = 0
        """When it was counted last, in seconds since the epoch; 0: not yet."""
        self._furthest = 0
        """Until when it had been counted before the clock was set back."""
        self._leap: _Leap | None = None
        self._peak: Int64 = np.zeros((0, 0), np.int64)
        """[Q, X] the most that has been used since then, as far as it is less now."""

    def follow(self, policy: HybridPolicy | None, before: dict[str, Float64], queues: Queues) -> None:
        """Go on with the queues of another policy: with what was counted ``before`` by name, else with its status.

        As long as nothing has been counted, its status goes first: ``before`` has rows for which nobody has counted.
        """
        self._half_life = policy.half_life if policy is not None else 0
        self._leap = None
        self.grow(queues)
        self._peak[:] = 0
        said = self._read(policy, queues)
        for row, name in enumerate(queues.names):
            if name in before and not queues.is_leaf[row] and (self._since or name not in said):
                queues.recent[row, : before[name].shape[0]] = before[name]
        if not self._half_life:
            queues.recent[:] = 0

    def recall(self, policy: HybridPolicy | None, queues: Queues) -> None:
        """Take over what the policy's status says, which another scheduler wrote: it has counted until now."""
        self._since, self._furthest, self._leap = 0, 0, None
        if self._half_life:
            self._read(policy, queues)

    def _read(self, policy: HybridPolicy | None, queues: Queues) -> set[str]:
        """Take what the policy's status says; the names of which it says something."""
        said = {use.name: use for use in policy.status.queues} if policy is not None and policy.status else {}
        for row, name in enumerate(queues.names):
            if name in said and not queues.is_leaf[row]:
                for column, field in _COUNTED.items():
                    amount = min(getattr(said[name], field), _MOST_SECONDS)
                    queues.recent[row, queues.columns.index(column)] = _MILLI * amount
        return set(said)

    def grow(self, queues: Queues) -> None:
        """There are more rows now."""
        peak = np.zeros(queues.usage.shape, np.int64)
        if self._peak.shape[1:] == peak.shape[1:]:
            peak[: len(self._peak)] = self._peak[: len(peak)]
        self._peak = peak

    def shrinks(self, row: int, used: Int64) -> None:
        """The bound pods of a row are about to use less than this."""
        np.maximum(self._peak[row], used, out=self._peak[row])

    def count(self, now: int, queues: Queues, unbound: Int64) -> None:
        """Add what bound pods have used since the last time: what is ``unbound`` ([Q, X]) is none of it.

        What was used for a part of the time counts as if it had been for all of it, as cycles are seconds apart. What
        a clock that was ahead has added is taken back with its step.
        """
        passed = self._step(now, queues)
        if passed <= 0 or not self._half_life:
            return
        left = 0.5 ** (passed / self._half_life)
        whole = (1 - left) * self._half_life / math.log(2)
        bound = queues.usage - unbound
        for column in map(queues.columns.index, _COUNTED):
            used = np.where(queues.is_leaf, 0, np.maximum(self._peak[:, column], bound[:, column]))
            queues.recent[:, column] = queues.recent[:, column] * left + used * whole
        self._peak[:] = 0

    def _step(self, now: int, queues: Queues) -> int:
        """Seconds that have passed since the last time, as far as they count."""
        if self._leap is not None and now < self._leap.to:
            self._since = self._leap.since
            queues.recent[: len(self._leap.recent)] = self._leap.recent
            self._leap = None
        since, self._since = self._since, now
        if not since:
            self._peak[:] = 0  # nobody has counted here, and who was there meanwhile has been counted by another
            return 0
        if now < since:
            self._furthest = max(self._furthest, since)
        elif since < self._furthest <= now:
            since = self._furthest
        if now - since > _LEAP:
            self._leap = _Leap(now, since, queues.recent.copy())
        return min(now - since, _LONGEST)


def seconds(queues: Queues, row: int) -> dict[str, int]:
    """Past use of a queue by the fields of its status."""
    return {
        field: min(round(float(queues.recent[row, queues.columns.index(column)]) / _MILLI), _MOST_SECONDS)
        for column, field in _COUNTED.items()
    }
