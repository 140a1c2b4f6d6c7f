"""Taints as rows: one for each key and effect, and for a value of its own only where some toleration names it.

Others write taints with ever new values (cluster-autoscaler writes the time); nobody's placement depends on those.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from tangram.api.objects import Taint, Toleration
from tangram.snapshot.arrays import CORDON, Bool
from tangram.snapshot.requests.matching import DISLIKED, UNSCHEDULABLE, TruthTable

_FEW = 64
"""Rows that are kept whether or not any node has the taint."""
_UNNAMED = "\0"
"""Stands for all values that no toleration names; no value is allowed to have this character."""


@dataclass(slots=True)
class TaintTable:
    """The taints of every node row; row ``CORDON`` is the cordon's."""

    _table: TruthTable = field(default_factory=TruthTable)
    _named: set[tuple[str, str]] = field(default_factory=set)
    """(key, value) that tolerations name."""
    _added: list[int] = field(default_factory=list)
    _most: int = _FEW

    def __post_init__(self) -> None:
        """The cordon comes first."""
        self._row_of((UNSCHEDULABLE.key, UNSCHEDULABLE.value, UNSCHEDULABLE.effect, "cordon"))

    @property
    def values(self) -> Bool:
        """[K, N] as in ``arrays.Nodes.taints``."""
        return self._table.values

    @property
    def disliked(self) -> Bool:
        """[K] the rows whose effect only makes nodes less liked."""
        found = np.zeros(len(self._table.values), np.bool_)
        found[[row for key, row in self._table.rows.items() if key[2] == DISLIKED]] = True
        return found

    @property
    def crowded(self) -> bool:
        """Whether there are so many that it is worth finding out which of them no node has."""
        return len(self._table.rows) > self._most

    def describe(self, node_row: int, taints: Iterable[Taint], *, cordoned: bool) -> bool:
        """Write a node's column; whether a row is new."""
        values, known = self._table.values, len(self._table.rows)
        values[:, node_row] = False
        values[CORDON, node_row] = cordoned
        for taint in taints:
            value = taint.value if (taint.key, taint.value) in self._named else _UNNAMED
            row = self._row_of((taint.key, value, taint.effect))
            self._table.values[row, node_row] = True
        return len(self._table.rows) > known

    def name(self, tolerations: Iterable[Toleration]) -> set[tuple[str, str]]:
        """Tell apart the values that tolerations name; the new (key, value), which nodes have to be described for."""
        new = _named_by(tolerations) - self._named
        self._named |= new
        return new

    def taints(self) -> list[tuple[int, Taint]]:
        """(row, the taint that it stands for) of all."""
        return [(row, _taint(key)) for key, row in self._table.rows.items()]

    def take_added(self) -> list[tuple[int, Taint]]:
        """The same of those that were added since the last call."""
        added, self._added = set(self._added), []
        return [(row, _taint(key)) for key, row in self._table.rows.items() if row in added]

    def retain(self, tolerations: Iterable[Toleration]) -> None:
        """Give back the rows that no node has, and tell apart only what these tolerations name."""
        self._named = _named_by(tolerations)
        there = np.flatnonzero(self._table.values.any(axis=1))
        self._table.retain({CORDON, *there.tolist()})
        self._most = max(_FEW, 2 * len(self._table.rows))

    def widen(self, nodes: int) -> None:
        """Make room for ``nodes`` node rows."""
        self._table.widen(nodes)

    def _row_of(self, key: tuple[str, ...]) -> int:
        row, is_new = self._table.row_of(key)
        if is_new:
            self._added.append(row)
        return row


def _named_by(tolerations: Iterable[Toleration]) -> set[tuple[str, str]]:
    return {(one.key, one.value) for one in tolerations if one.operator != "Exists"}


def _taint(key: tuple[object, ...]) -> Taint:
    return Taint(str(key[0]), str(key[2]), str(key[1]))
