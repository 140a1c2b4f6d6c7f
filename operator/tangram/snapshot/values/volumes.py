"""Volumes that exist and that several nodes can reach, as values: they count on each of these nodes and are to be had
once."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class VolumesOfKind:
    """Free volumes of one kind that several nodes can reach, each of them."""

    groups: tuple[tuple[npt.NDArray[np.int32], int], ...]
    """([M] node rows in order, how many volumes these rows, and no others, can reach)."""
    narrower: tuple[int, ...]
    """Columns of other kinds whose volumes are all of this one."""

    @cached_property
    def by_row(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """([L] node rows in order, each as often as it can reach a group; [L] that group's place in ``groups``)."""
        if not self.groups:
            return np.zeros(0, np.int32), np.zeros(0, np.int64)
        rows = np.concatenate([rows for rows, _ in self.groups])
        number = np.repeat(np.arange(len(self.groups)), [len(rows) for rows, _ in self.groups])
        order = np.argsort(rows, kind="stable")
        return rows[order], number[order]
