"""Clauses about nodes: on which node rows each holds.

A clause that gives nodes by name is kept as those nodes' rows, so that as many pods as like can name a node each;
every other clause is a boolean row.
"""

from collections.abc import Iterable

from tangram.api.objects import Node, Requirement
from tangram.snapshot.arrays import Bool
from tangram.snapshot.requests.matching import TruthTable, clause_holds
from tangram.snapshot.values.clauses import Named

_NAMING = {("metadata.name", True), ("kubernetes.io/hostname", False)}
"""(key, it is a field) of what differs from node to node."""
_BY_VALUE = ("In", "NotIn")

_Name = tuple[str, str]
"""(key, value)."""


class ClauseTable:
    """Keeps ``Nodes.terms`` and ``Nodes.named`` true; numbers of clauses are as in ``Nodes.hold``."""

    def __init__(self) -> None:
        self.named: list[Named] = []
        self._truths = TruthTable()
        self._numbers: dict[tuple[object, ...], int] = {}
        """(key, operator, values) -> place in ``named``."""
        self._clauses: dict[_Name, list[int]] = {}
        """Places in ``named`` of the clauses that give this name."""
        self._rows: dict[_Name, tuple[int, ...]] = {}
        """Node rows of this name: more than one where a label is not what it should be."""
        self._names: dict[int, tuple[_Name, ...]] = {}
        """Node row -> its names."""
        self._free: list[int] = []

    @property
    def values(self) -> Bool:
        """[T, N] as ``Nodes.terms``; another array once clauses have been added."""
        return self._truths.values

    def number_of(self, clause: Requirement, nodes: Iterable[tuple[int, Node]], *, is_field: bool) -> int:
        """The clause's number, made when it is new from all (row, node)."""
        if (clause.key, is_field) in _NAMING and clause.operator in _BY_VALUE:
            return -2 - self._place_of(clause)
        row, is_new = self._truths.row_of((clause.key, clause.operator, clause.values, is_field))
        for node_row, node in nodes if is_new else ():
            self._truths.values[row, node_row] = clause_holds(clause, node, is_field=is_field)
        return row

    def describe(self, row: int, node: Node) -> None:
        """Take in what a node is called and which labels it has."""
        for (key, operator, values, is_field), clause_row in self._truths.rows.items():
            clause = Requirement(str(key), str(operator), values)  # type: ignore[arg-type]
            self._truths.values[clause_row, row] = clause_holds(clause, node, is_field=bool(is_field))
        labels, found = node.metadata.labels, list[_Name]()
        for key, is_field in _NAMING:
            value = node.metadata.name if is_field else labels.get(key)
            if value is not None:
                found.append((key, value))
        self._call(row, tuple(found))

    def names_of(self, row: int) -> tuple[_Name, ...]:
        """What clauses may call the node of this row."""
        return self._names.get(row, ())

    def forget_node(self, row: int) -> None:
        """The row is no node's any more."""
        self._call(row, ())

    def retain(self, used: set[int]) -> None:
        """Forget all clauses but those of these numbers."""
        self._truths.retain({number for number in used if number >= 0})
        for key, place in list(self._numbers.items()):
            if -2 - place not in used:
                del self._numbers[key]
                for name in self.named[place].names:
                    left = [one for one in self._clauses[name] if one != place]
                    if left:
                        self._clauses[name] = left
                    else:
                        del self._clauses[name]
                self.named[place] = Named((), (), elsewhere=False)
                self._free.append(place)

    def widen(self, nodes: int) -> None:
        """Make room for ``nodes`` node rows."""
        self._truths.widen(nodes)

    def _place_of(self, clause: Requirement) -> int:
        key = clause.key, clause.operator, clause.values
        place = self._numbers.get(key)
        if place is None:
            if not self._free:
                self._free.append(len(self.named))
                self.named.append(Named((), (), elsewhere=False))
            place = self._numbers[key] = self._free.pop()
            names = tuple((clause.key, value) for value in sorted(set(clause.values)))
            self.named[place] = Named(names, (), elsewhere=clause.operator == "NotIn")
            for name in names:
                self._clauses.setdefault(name, []).append(place)
            self._find(place)
        return place

    def _call(self, row: int, names: tuple[_Name, ...]) -> None:
        """From now on the node row has these names and no others."""
        before = self._names.get(row, ())
        if names == before:
            return
        for name in before:
            left = tuple(one for one in self._rows[name] if one != row)
            if left:
                self._rows[name] = left
            else:
                del self._rows[name]
        for name in names:
            self._rows[name] = (*self._rows.get(name, ()), row)
        self._names[row] = names
        for place in {place for name in {*before, *names} for place in self._clauses.get(name, ())}:
            self._find(place)

    def _find(self, place: int) -> None:
        """Write down which rows have a name that the clause gives."""
        rows = {row for name in self.named[place].names for row in self._rows.get(name, ())}
        self.named[place] = self.named[place]._replace(rows=tuple(sorted(rows)))
