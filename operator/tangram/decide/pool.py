"""What is left of the pool in one decision: the snapshot's rows, less what the decision has given away so far.

The arrays are copies, brought up to date with each snapshot; the log says which node rows have changed. All that is
done to a row goes through here and is in the journal.
"""

from collections.abc import Iterable
from functools import partial
from typing import NamedTuple, TypeAlias

import numpy as np

from tangram.decide.fit.kernels import Rows, Space, follow
from tangram.decide.fit.neighbours import Neighbours
from tangram.decide.journal import Journal, Restore
from tangram.decide.row_log import RowLog
from tangram.decide.shared_volumes import SharedVolumes
from tangram.snapshot.arrays import Bool, Int32, Int64, Nodes, Snapshot

Part: TypeAlias = tuple[int, int, int]
"""(device index, milli, MiB)."""


class Row(NamedTuple):
    """Amounts of one node row: what is free there, or what it gains."""

    free: Int64
    """[R]"""
    device: Int32
    """[D] milli-GPU."""
    memory: Int32
    """[D] MiB."""


class Followed(NamedTuple):
    """What is other than it was left by the last decision."""

    changed: bool
    """Any row."""
    grew: bool
    """Anything of which there is more."""
    described: bool
    """Labels, taints, capacity or inventory of any node."""


class Pool:
    """What is left on N node rows, and who is there."""

    def __init__(self, snapshot: Snapshot, journal: Journal) -> None:
        nodes = snapshot.nodes
        self.journal = journal
        self.free = np.full_like(nodes.free, -(1 << 62))
        """[N, R]"""
        self.device_free = np.full_like(nodes.device_free, -1)
        """[N, D] milli-GPU."""
        self.device_memory_free = np.full_like(nodes.device_memory_free, -1)
        """[N, D] MiB."""
        self.neighbours = Neighbours(journal)
        self.shared = SharedVolumes(snapshot)
        self.log = RowLog(len(nodes.present))
        self.scratch: Int32 = np.zeros(len(nodes.present), np.int32)
        """[N] for compiled loops to write rows to."""
        self.last: Bool = np.zeros(len(nodes.present), np.bool_)
        """[N] for compiled loops to note rows that come last among equals."""
        self.version = 0
        """Another number for every other state of the pool; one that is put back by a rollback is the one it was."""
        self._versions = 0
        """How many there have been: no number is used twice."""
        self._revision = np.full_like(nodes.revision, -1)

    def follow(self, snapshot: Snapshot) -> Followed:
        """Take over a snapshot's rows, as far as they are not as they were left."""
        nodes = snapshot.nodes
        self.shared = SharedVolumes(snapshot)
        now = Rows(nodes.free, nodes.device_free, nodes.device_memory_free, nodes.revision)
        known = Rows(self.free, self.device_free, self.device_memory_free, self._revision)
        count, grew, described = follow(now, known, self.scratch)
        if count:
            self.log.note_all(self.scratch[:count])
            self.renew()
        if self.neighbours.observe(snapshot):
            self.renew()
        return Followed(bool(count), grew, described)

    def renew(self) -> None:
        """Something is other than it was: what was worked out from all of the pool holds no longer."""
        self.journal.keep(("pool", "version"), self._copy_version)
        self._versions += 1
        self.version = self._versions

    def space(self, nodes: Nodes) -> Space:
        """What is left on all node rows, as compiled code takes it."""
        return Space(self.free, self.device_free, self.device_memory_free, nodes.device_count, nodes.device_memory)

    def row(self, row: int) -> Row:
        """A copy of what is left on a node row."""
        return Row(self.free[row].copy(), self.device_free[row].copy(), self.device_memory_free[row].copy())

    def take(self, shape: int, row: int, request: Int64, devices: Iterable[Part]) -> None:
        """Count a pod of the shape on a node row: what it asks for, and its part of each device."""
        self._change(row)
        self.free[row] -= request
        for device, milli, mib in devices:
            self.device_free[row, device] -= milli
            self.device_memory_free[row, device] -= mib
        self.neighbours.take(shape, row)

    def take_volumes(self, slot: int, row: int) -> None:
        """Take what a waiting pod, which has been taken on a node row, gets of volumes that others reach too off all of
        these rows."""
        for rows in self.shared.take(self.free, slot, row) if len(self.shared.columns) else ():
            self.log.note_all(rows)

    def add(self, row: int, gain: Row) -> None:
        """Let a node row have so much more."""
        self._change(row)
        self.free[row] += gain.free
        self.device_free[row] += gain.device
        self.device_memory_free[row] += gain.memory

    def lower(self, row: int, most: Row) -> None:
        """Leave no more on a node row than so much."""
        self._change(row)
        np.minimum(self.free[row], most.free, out=self.free[row])
        np.minimum(self.device_free[row], most.device, out=self.device_free[row])
        np.minimum(self.device_memory_free[row], most.memory, out=self.device_memory_free[row])

    def written(self, length: int) -> None:
        """Compiled code has taken from rows and noted them in the log, which has this length now."""
        if length > self.log.length:
            self.log.length = length
            self.renew()

    def _change(self, row: int) -> None:
        self.journal.keep(("pool", row), self._copy_row, row)
        if len(self.shared.columns):
            self.journal.keep(("pool", "volumes"), self._copy_volumes)
        self.renew()
        self.log.note(row)

    def _copy_row(self, row: int) -> Restore:
        return partial(self._put_back, row, self.row(row))

    def _put_back(self, row: int, kept: Row) -> None:
        shared = self.shared.columns
        if len(shared):  # these are put back for all rows at once
            kept.free[shared] = self.free[row, shared]
        self.free[row], self.device_free[row], self.device_memory_free[row] = kept
        self.log.note(row)

    def _copy_volumes(self) -> Restore:
        return partial(self._put_volumes_back, self.free[:, self.shared.columns], self.shared.copy())

    def _put_volumes_back(self, kept: Int64, restore: Restore) -> None:
        restore()
        changed = (self.free[:, self.shared.columns] != kept).any(axis=1)
        self.free[:, self.shared.columns] = kept
        self.log.note_all(np.flatnonzero(changed).astype(np.int32))

    def _copy_version(self) -> Restore:
        return partial(setattr, self, "version", self.version)
