"""Which node rows changed, in order: whoever remembers how far it has read knows which rows to look at again."""

import numpy as np

from tangram.snapshot.arrays import Int32


class RowLog:
    """Rows in the order in which they changed."""

    def __init__(self, rows: int) -> None:
        self.rows: Int32 = np.zeros(1024, np.int32)
        """The log, and room behind it."""
        self.length = 0
        self.changes = np.zeros(rows, np.int64)
        """[N] how often each row has changed."""

    def since(self, cursor: int) -> Int32:
        """The rows that were noted from ``cursor`` on."""
        return self.rows[cursor : self.length]

    def note(self, row: int) -> None:
        """A row has changed."""
        self.reserve(1)
        self.rows[self.length] = row
        self.length += 1
        self.changes[row] += 1

    def note_all(self, rows: Int32) -> None:
        """These rows, all different, have changed."""
        self.reserve(len(rows))
        self.rows[self.length : self.length + len(rows)] = rows
        self.length += len(rows)
        self.changes[rows] += 1

    def reserve(self, more: int) -> None:
        """Make room for so many more entries."""
        needed = self.length + more
        if needed > len(self.rows):
            self.rows = np.concatenate([self.rows, np.zeros(max(needed, len(self.rows)), np.int32)])

    def clear(self) -> None:
        """Begin anew; whoever has read of it has to read everything again."""
        self.length = 0
