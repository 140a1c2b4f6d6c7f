"""Labels that the plugins in force read, kept as columns; while none reads any there is nothing to keep.

A node's label is a code for each place of its topology key. A pod's label is part of what its shape is told apart by,
so that a column has one code for each shape.
"""

from collections.abc import Iterable
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from tangram.api.objects import Pod
from tangram.snapshot.arrays import Int32
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.values.labels import NO_LABEL, NO_LABELS, NO_READS, LabelColumn, Labels, Reads
from tangram.snapshot.values.pending import Pending

Said: TypeAlias = tuple[tuple[str, str], ...]
"""(key, value) of each label that is read and that a pod has."""
_NOTHING: tuple[object, ...] = ()


class LabelTable:
    """Keeps ``arrays.Snapshot.labels`` true."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._reads = NO_READS
        self.of_pods: tuple[str, ...] = ()
        """Keys of the labels of pods that are read."""
        self._said: dict[int, Said] = {}
        """By the row of a shape; only those whose pods have labels that are read, or were."""
        self._made = NO_LABELS
        self._nodes_seen = self._shapes_seen = _NOTHING
        """What the columns were made from."""

    def read(self, reads: Reads) -> None:
        """Read these labels from now on; pods that wait have to be read again."""
        self._reads, self.of_pods, self._made = reads, reads.pod_labels, NO_LABELS
        self._nodes_seen = self._shapes_seen = _NOTHING

    def said(self, pod: Pod) -> Said:
        """What a pod says in the labels that are read."""
        labels = pod.metadata.labels
        return tuple((key, labels[key]) for key in self.of_pods if key in labels)

    def note(self, row: int, said: Said) -> None:
        """A new shape's pods say so."""
        if said:
            self._said[row] = said

    def speaks_of(self, row: int) -> bool:
        """Whether the shape's pods have labels that are read."""
        return row in self._said

    def forget(self, rows: Iterable[int]) -> None:
        """Rows of shapes have been given back."""
        for row in rows:
            self._said.pop(row, None)

    @property
    def topologies(self) -> set[int]:
        """Rows of the topology keys that labels of nodes are read from."""
        return {self._nodes.topology(key) for key in self._reads.node_labels}

    def columns(self, shapes: int, pending: Pending) -> Labels:
        """The columns now; there are so many rows of shapes. Valid until the next change."""
        if not (self._reads.node_labels or self._reads.pod_labels):
            return NO_LABELS
        nodes = self._nodes.revision, self._nodes.generation
        if nodes != self._nodes_seen:
            found = {key: self._node_column(key) for key in self._reads.node_labels}
            self._made = Labels(MappingProxyType(found), self._made.pods)
        rows = np.unique(pending.shape[pending.waiting]).tolist() if self._said else ()
        pods = shapes, tuple((row, self._said[row]) for row in rows if row in self._said)
        if pods != self._shapes_seen:
            said = {key: _pod_column(key, *pods) for key in self._reads.pod_labels}
            self._made = Labels(self._made.nodes, MappingProxyType(said))
        self._nodes_seen, self._shapes_seen = nodes, pods
        return self._made

    def _node_column(self, key: str) -> LabelColumn:
        topologies, row = self._nodes.topologies, self._nodes.topology(key)
        codes = np.where(self._nodes.arrays.present, topologies.values[row], NO_LABEL).astype(np.int32)
        names = topologies.names(row)
        return _column(codes, {code: names[code] for code in np.unique(codes).tolist() if code != NO_LABEL})


def _pod_column(key: str, shapes: int, said: Iterable[tuple[int, Said]]) -> LabelColumn:
    """``said``: what pods that wait say, by the row of their shape."""
    codes, numbers = np.full(shapes, NO_LABEL, np.int32), dict[str, int]()
    for row, labels in said:
        value = dict(labels).get(key)
        if value is not None:
            codes[row] = numbers.setdefault(value, len(numbers))
    return _column(codes, {code: value for value, code in numbers.items()})


def _column(codes: Int32, values: dict[int, str]) -> LabelColumn:
    shown = np.asarray(codes.data.toreadonly())  # which ``setflags`` cannot make writable again
    numbers = {value: code for code, value in values.items()}
    return LabelColumn(shown, MappingProxyType(numbers), MappingProxyType(values))
