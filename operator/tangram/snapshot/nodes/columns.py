"""Which column of the arrays speaks of which resource."""

import numpy as np

from tangram.snapshot.arrays import FIXED_RESOURCES, Bool
from tangram.snapshot.requests.request import DEVICE_RESOURCES

NOT_OFFERED = "offered by no node"
"""The column of all resources that pods wait for and no node has: nobody fits there, whichever it is. Pods that have a
place all the same count for nothing of them anywhere."""


class ResourceColumns:
    """Columns by resource; one that nobody speaks of any more is given to the next new resource."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {name: column for column, name in enumerate(FIXED_RESOURCES)}
        self._free: list[int] = []

    @property
    def width(self) -> int:
        """How many columns there are, the free ones included."""
        return len(self.of) + len(self._free)

    @property
    def names(self) -> tuple[str, ...]:
        """The resource of each column; empty: the column is free."""
        found = [""] * self.width
        for name, column in self.of.items():
            found[column] = name
        return tuple(found)

    @property
    def counts_devices(self) -> Bool:
        """[R] columns that count devices."""
        return np.array([name in DEVICE_RESOURCES for name in self.names], np.bool_)

    def add(self, resource: str) -> int:
        """Give a column to a new resource."""
        column = self._free.pop() if self._free else self.width
        self.of[resource] = column
        return column

    def retain(self, used: set[str]) -> list[int]:
        """Take the columns of all other resources, but for those that every node has."""
        idle = [name for name in self.of if name not in used and name not in FIXED_RESOURCES]
        freed = [self.of.pop(name) for name in idle]
        self._free += reversed(freed)
        return freed
