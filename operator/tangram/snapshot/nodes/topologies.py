"""Places: node rows with equal values of a label key, numbered per key."""

from collections.abc import Iterable, Mapping

import numpy as np

from tangram.snapshot.arrays import Int32

NOWHERE = -1
_SLACK = 64


class TopologyTable:
    """The place of every node row under every label key that some rule names."""

    def __init__(self) -> None:
        self.keys: dict[str, int] = {}
        self.values: list[Int32] = []
        """Per key [N] the place of each node row; -1 where the node has no such label."""
        self.counts: list[int] = []
        """Per key how many places have been numbered."""
        self._numbers: list[dict[str, int]] = []
        self._rows = 0
        self._free: list[int] = []

    def row_of(self, key: str, nodes: Iterable[tuple[int, Mapping[str, str]]]) -> int:
        """The key's row, made from the labels of all (node row, labels) when it is new."""
        row = self.keys.get(key)
        if row is None:
            row = self.keys[key] = self._free.pop() if self._free else self._new()
            for node_row, labels in nodes:
                self._write(row, key, node_row, labels)
        return row

    def _new(self) -> int:
        self.values.append(np.full(self._rows, NOWHERE, np.int32))
        self.counts.append(0)
        self._numbers.append({})
        return len(self.values) - 1

    def retain(self, used: set[int]) -> None:
        """Give back the rows of all keys but the used ones."""
        for key, row in [entry for entry in self.keys.items() if entry[1] not in used]:
            del self.keys[key]
            self.values[row], self.counts[row], self._numbers[row] = np.full(self._rows, NOWHERE, np.int32), 0, {}
            self._free.append(row)

    def describe(self, node_row: int, labels: Mapping[str, str]) -> None:
        """Take in a node's labels."""
        for key, row in self.keys.items():
            self._write(row, key, node_row, labels)

    def widen(self, nodes: int) -> None:
        """Make room for ``nodes`` node rows."""
        self.values = [np.pad(places, (0, nodes - len(places)), constant_values=NOWHERE) for places in self.values]
        self._rows = nodes

    def rows_of(self, row: int, value: str) -> list[int]:
        """The node rows where the label of the key in the row has the value."""
        place = self._numbers[row].get(value)
        return np.flatnonzero(self.values[row] == place).tolist() if place is not None else []

    def names(self, row: int) -> dict[int, str]:
        """Place -> the label's value there, of one key."""
        return {place: value for value, place in self._numbers[row].items()}

    def _write(self, row: int, key: str, node_row: int, labels: Mapping[str, str]) -> None:
        value = labels.get(key)
        if value is None:
            self.values[row][node_row] = NOWHERE
            return
        numbers = self._numbers[row]
        place = numbers.get(value)
        if place is None:
            place = numbers[value] = self.counts[row]
            self.counts[row] += 1
        self.values[row][node_row] = place
        if self.counts[row] > 2 * self._rows + _SLACK:
            self._renumber(row)

    def _renumber(self, row: int) -> None:
        """Forget places that no node is in any more, such as the host names of nodes that are gone."""
        used = np.unique(self.values[row])
        used = used[used != NOWHERE]
        new = np.full(self.counts[row] + 1, NOWHERE, np.int32)
        new[used] = np.arange(len(used), dtype=np.int32)
        self.values[row] = new[self.values[row]]
        self._numbers[row] = {value: int(new[old]) for value, old in self._numbers[row].items() if new[old] != NOWHERE}
        self.counts[row] = len(used)
