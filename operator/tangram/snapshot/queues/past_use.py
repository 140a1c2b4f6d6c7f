"""What queues have used of late: the sum of use over time, which fades by half in each half-life.

It is counted while a scheduler leads and written into the policy's status, from which the next one goes on.
"""

import math

import numpy as np

from tangram.api.policy import HybridPolicy
from tangram.snapshot.arrays import Float64, Int64, Queues

_COUNTED = {"cpu": "recent_cpu_seconds", "gpu": "recent_gpu_seconds"}
"""Queue column -> the field of a queue's status that holds it."""
_MILLI = 1000


class PastUse:
    """Keeps ``Queues.recent`` true."""

    def __init__(self) -> None:
        self._half_life = 0
        self._since = 0
        """When it was counted last, in seconds since the epoch; 0: not yet."""
        self._peak: Int64 = np.zeros((0, 0), np.int64)
        """[Q, X] the most that has been used since then, as far as it is less now."""

    def follow(self, policy: HybridPolicy | None, before: dict[str, Float64], queues: Queues) -> None:
        """Go on with the queues of another policy: with what was counted ``before`` by name, else with its status."""
        self._half_life = policy.half_life if policy is not None else 0
        self.grow(queues)
        self._peak[:] = 0
        self.recall(policy, queues)
        for row, name in enumerate(queues.names):
            if name in before and not queues.is_leaf[row]:
                queues.recent[row, : before[name].shape[0]] = before[name]

    def recall(self, policy: HybridPolicy | None, queues: Queues) -> None:
        """Take over what the policy's status says, which another scheduler wrote."""
        said = {use.name: use for use in policy.status.queues} if policy is not None and policy.status else {}
        for row, name in enumerate(queues.names):
            if name in said and not queues.is_leaf[row]:
                for column, field in _COUNTED.items():
                    queues.recent[row, queues.columns.index(column)] = _MILLI * getattr(said[name], field)

    def grow(self, queues: Queues) -> None:
        """There are more rows now."""
        peak = np.zeros(queues.usage.shape, np.int64)
        if self._peak.shape[1:] == peak.shape[1:]:
            peak[: len(self._peak)] = self._peak[: len(peak)]
        self._peak = peak

    def shrinks(self, row: int, used: Int64) -> None:
        """A row is about to use less than this."""
        np.maximum(self._peak[row], used, out=self._peak[row])

    def count(self, now: int, queues: Queues) -> None:
        """Add what has been used since the last time; what was used for a part of it counts as if it had been for all
        of it, as cycles are seconds apart."""
        passed, self._since = now - self._since if self._since else 0, max(now, self._since)
        if passed <= 0 or not self._half_life:
            return
        left = 0.5 ** (passed / self._half_life)
        whole = (1 - left) * self._half_life / math.log(2)
        for column in map(queues.columns.index, _COUNTED):
            used = np.where(queues.is_leaf, 0, np.maximum(self._peak[:, column], queues.usage[:, column]))
            queues.recent[:, column] = queues.recent[:, column] * left + used * whole
        self._peak[:] = 0


def seconds(queues: Queues, row: int) -> dict[str, int]:
    """Past use of a queue by the fields of its status."""
    return {
        field: round(float(queues.recent[row, queues.columns.index(column)]) / _MILLI)
        for column, field in _COUNTED.items()
    }
