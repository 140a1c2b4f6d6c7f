"""What one pod holds on its node."""

from collections.abc import Iterable

import msgspec
import numpy as np

from tangram.snapshot.arrays import Int64


class Usage(msgspec.Struct, frozen=True, eq=False, gc=False):  # noqa: PLW1641 - holds an array
    """What one bound pod holds on its node."""

    request: Int64
    """[r] the shape's request; may be shorter than the columns known now."""
    devices: tuple[tuple[int, int, int], ...]
    """(device index, milli, MiB)."""
    unknown: int = 0
    """Whole devices held without saying which; -1: it may be any, so all count as held."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Usage)
            and self.devices == other.devices
            and self.unknown == other.unknown
            and (self.request is other.request or np.array_equal(self.request, other.request))
        )


def may_overlap(held: Iterable[Usage], count: int, unusable: Iterable[int]) -> bool:
    """Whether pods that do not say which of ``count`` devices they hold may hold some that are given to others, or that
    cannot be given.

    Where there are devices enough for all, what a pod that leaves makes free is free indeed: nobody else had it.
    """
    held = list(held)
    unknown = [usage.unknown for usage in held if usage.unknown]
    known = {index for usage in held for index, _, _ in usage.devices if index < count} | set(unusable)
    return min(unknown) < 0 or len(known) + sum(unknown) > count
