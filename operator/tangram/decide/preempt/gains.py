"""What nodes gain once all victims have left and all claimants have come, beside what is left of them now."""

from functools import partial
from typing import NamedTuple

import numpy as np

from tangram.decide.journal import Journal, Restore
from tangram.decide.pool import Part, Row
from tangram.snapshot.arrays import Int64, Snapshot


class Demand(NamedTuple):
    """What one pod takes of a node row."""

    request: Int64
    """[R]"""
    parts: list[Part]


class Gains:
    """What nodes gain beyond the pool once all victims have left and all claimants have come. N node rows."""

    def __init__(self, snapshot: Snapshot, journal: Journal) -> None:
        nodes, leaving = snapshot.nodes, snapshot.leaving
        self._journal = journal
        self.free, self.device = np.zeros_like(nodes.free), np.zeros_like(nodes.device_free)
        self.memory = np.zeros_like(nodes.device_memory_free)
        self.touched: list[int] = leaving.node.tolist()
        """Rows that have gained, in order of time."""
        if len(leaving.node):
            self.free[leaving.node] += leaving.free
            self.device[leaving.node] += leaving.device
            self.memory[leaving.node] += leaving.memory

    def of(self, row: int) -> Row:
        """A copy of what a node row gains."""
        return Row(self.free[row].copy(), self.device[row].copy(), self.memory[row].copy())

    def add(self, snapshot: Snapshot, slot: int) -> None:
        """A running pod will leave."""
        running = snapshot.running
        row = int(running.node[slot])
        self._touch(row)
        self.free[row] += snapshot.shapes.request[running.shape[slot]]
        for device, milli, mib in running.parts[slot].tolist():
            if device >= 0:
                self.device[row, device] += milli
                self.memory[row, device] += mib

    def claim(self, row: int, before: Row, after: Row, demand: Demand) -> None:
        """Count a claim on a row, of which as much is left as ``after`` says: it gains what will be left once all have
        left and the claimant has come, and is not now."""
        self._touch(row)
        self.free[row] += before.free - demand.request - after.free
        self.device[row] += before.device - after.device
        self.memory[row] += before.memory - after.memory
        for device, milli, mib in demand.parts:
            self.device[row, device] -= milli
            self.memory[row, device] -= mib

    def _touch(self, row: int) -> None:
        self._journal.keep(("gains", row), self._copy_row, row)
        self._journal.keep(("gains", "touched"), self._copy_touched)
        self.touched.append(row)

    def _copy_row(self, row: int) -> Restore:
        return partial(self._put_back, row, self.of(row))

    def _put_back(self, row: int, kept: Row) -> None:
        self.free[row], self.device[row], self.memory[row] = kept

    def _copy_touched(self) -> Restore:
        return partial(self.touched.__delitem__, slice(len(self.touched), None))
