"""Volumes that exist and that several nodes can reach, as values: they count on each of these nodes and are to be had
once."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, eq=False)
class VolumesOfKind:
    """Free volumes of one kind that several nodes can reach, each of them."""

    groups: tuple[tuple[npt.NDArray[np.int32], int], ...]
    """([M] node rows in order, how many volumes these rows, and no others, can reach)."""
    narrower: tuple[int, ...]
    """Columns of other kinds whose volumes are all of this one."""
