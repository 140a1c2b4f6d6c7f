"""Which waiting pod or gang is the next: down the tree of queues, always to the child whose turn it is.

A row of the tree stands by the next one below it that can still be placed: whoever fits nowhere now is asked for in its
turn, but gives its queue neither precedence nor a place at the end. After a placement only the rows above it, and
those whose next one fits no longer, are ranked again.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tangram.decide.queues.rights import Share, promise_used, share
from tangram.decide.queues.siblings import Key, Siblings

TOP = -1
"""The parent of queues that have none."""
Amounts = list[int]
UNTAKEN = 1 << 62
"""The least that can be taken where there is nothing to take."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What pods of one shape ask for, or what a gang needs at least."""

    leaf: int
    """The leaf row in which it waits."""
    shape: int
    """The shape of the pod, or of the first member of the gang."""
    asked: tuple[Amounts, ...]
    """[X] what its queue would use of each column: one for each GPU model that it may get, as far as that matters."""
    least: Amounts
    """[X] the least of it that could be taken back by itself."""
    weight: int
    """That of its class where classes preempt, else 0."""
    is_gang: bool


class Unit(NamedTuple):
    """A pod or a gang that waits."""

    request: Request
    slot: int
    """The pod's, or that of the first member of the gang."""
    position: int
    """Its place in order of priority and age: no two have the same."""
    priority: int


@dataclass(slots=True)
class Line:
    """What waits in one leaf, in order."""

    places: list[int]
    """Positions of its units in order of priority and age."""
    equal: bool
    """All of them are pods of one shape: where one fits nowhere, none does."""
    front: int = 0
    """The one that comes next."""
    head: int = 0
    """The first one that can still be placed; none where it is the end."""
    watched: bool = False
    """Whether it matters that the head fits no longer."""


class Waiting(Protocol):
    """What is asked about units."""

    def unit(self, position: int) -> Unit:
        """The unit at a place in order of priority and age."""
        ...

    def fits(self, unit: Unit) -> int | None:
        """A node row on which the pod, or a member of the gang, fits now and within the limits of its queue; None: it
        cannot be placed."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Tree:
    """What the rows of the tree are promised and use. Q rows, X columns."""

    parent: list[int]
    """[Q]"""
    usage: list[Amounts]
    """[Q, X] what is used by now; it changes."""
    guarantee: list[Amounts]
    """[Q, X]"""
    part: list[list[float]]
    """[Q, X] what one unit of a column counts for the row's share."""
    past: list[float]
    """[Q] weighted dominant share of past use."""
    smallest: list[Amounts]
    """[Q, X] the least that could be taken from the row at once; of GPUs, if any are taken."""


@dataclass(slots=True)
class _Row:
    """A row in whose part of the tree something waits."""

    children: dict[bool, Siblings] = field(default_factory=lambda: {True: Siblings(), False: Siblings()})
    """Those whose next pod can still be placed, and the others."""

    def first(self) -> int | None:
        """The child whose turn it is; None: there is none."""
        found = [one for one in (self.children[True].first(), self.children[False].first()) if one is not None]
        return min(found, key=lambda one: one[1].choice)[0] if found else None


class Ranking:
    """Hands out units; each next one is chosen by what has been charged until then."""

    def __init__(self, tree: Tree, lines: dict[int, Line], waiting: Waiting) -> None:
        """``lines`` by leaf row."""
        self._tree, self._lines, self._waiting = tree, lines, waiting
        self._queues = len(tree.usage)
        self._above = _with_own_lines(tree.parent, lines)
        self._rows: dict[int, _Row] = {TOP: _Row()}
        self._standing: dict[int, tuple[Unit, bool]] = {}
        """By row the unit by which it is ranked, and whether that can still be placed."""
        self._doubtful = set(lines)
        """Leaves whose head may fit no longer."""
        self._dirty = set(lines)
        """Rows from which up to the top everything has to be ranked again."""
        self._proof: dict[int, set[int]] = {}
        """Node row -> leaves whose head fits there."""
        self._gangs: set[int] = set()
        """Leaves with a gang at the head, for which all nodes together may be too small."""
        self._given: Unit | None = None
        for leaf in lines:
            for row in self._path(leaf):
                self._rows.setdefault(self._above[row], _Row())
        self._watch()

    def take(self) -> Unit | None:
        """The unit whose turn it is; None: nothing waits."""
        self._refresh()
        row = TOP
        while row in self._rows:
            below = self._rows[row].first()
            if below is None:
                return None
            row = below
        line = self._lines[row]
        self._given = self._waiting.unit(line.places[line.front])
        line.front += 1
        if line.head < line.front:
            line.head = line.front
            self._doubtful.add(row)
        self._dirty.add(row)
        return self._given

    def charged(self, leaf: int, node: int) -> None:
        """A pod of the leaf has been placed on a node, or will be."""
        row = leaf
        while row != TOP and row not in self._above:
            row = self._tree.parent[row]
        self.changed(row)
        self._doubtful |= self._proof.pop(node, set()) | self._gangs
        if self._given is not None and self._given.request.leaf == leaf:
            for row in self._path(leaf):
                if row < self._queues:
                    lower(self._tree.smallest[row], self._given.request.least)

    def changed(self, row: int) -> None:
        """What the row uses has changed otherwise."""
        if row in self._above:
            self._dirty.add(row)

    def doubt(self, leaves: Iterable[int]) -> None:
        """A limit above these leaves has come nearer."""
        self._doubtful.update(leaves)

    def _path(self, row: int) -> Iterator[int]:
        """A row and those above it, in which something waits or waited."""
        while row != TOP:
            yield row
            row = self._above.get(row, TOP)

    def _watch(self) -> None:
        """Note where the end of a head matters: where others are behind it, or beside it below one row."""
        children: dict[int, set[int]] = {}
        for leaf in self._lines:
            for row in self._path(leaf):
                children.setdefault(self._above[row], set()).add(row)
        for leaf, line in self._lines.items():
            line.watched = not line.equal or any(len(children.get(row, ())) > 1 for row in self._path(leaf))

    def _refresh(self) -> None:
        """Rank again what has changed since the last turn."""
        for leaf in self._doubtful:
            if self._lines[leaf].watched and self._goes_on(leaf):
                self._dirty.add(leaf)
        self._doubtful.clear()
        for row in self._dirty:
            for one in self._path(row):
                self._rank(one)
        self._dirty.clear()

    def _goes_on(self, leaf: int) -> bool:
        """Whether another unit of the leaf is the first that can still be placed."""
        line = self._lines[leaf]
        before = line.head
        self._gangs.discard(leaf)
        while line.head < len(line.places):
            unit = self._waiting.unit(line.places[line.head])
            node = self._waiting.fits(unit)
            if node is not None:
                self._proof.setdefault(node, set()).add(leaf)
                if unit.request.is_gang:
                    self._gangs.add(leaf)
                break
            line.head += 1
        return line.head != before

    def _rank(self, row: int) -> None:
        children, found = self._rows[self._above[row]].children, self._stands_by(row)
        if found is None:
            self._standing.pop(row, None)
            for siblings in children.values():
                siblings.put(row, None)
            return
        self._standing[row] = found
        unit, alive = found
        children[alive].put(row, self._key(row, unit))
        children[not alive].put(row, None)

    def _stands_by(self, row: int) -> tuple[Unit, bool] | None:
        """The unit by which a row is ranked, and whether it can still be placed; None: nothing waits there."""
        line = self._lines.get(row)
        if line is not None:
            if line.front >= len(line.places):
                return None
            alive = line.head < len(line.places)
            return self._waiting.unit(line.places[line.head if alive else line.front]), alive
        for siblings in self._rows[row].children.values():
            found = siblings.first()
            if found is not None:
                return self._standing[found[0]]
        return None

    def _key(self, row: int, unit: Unit) -> Key:
        weight = -unit.request.weight
        if row in self._lines:  # the classes of one queue take from each other by rank alone
            after, _, before = self._shares(row, unit)
            return Key((1, weight, -unit.priority), before, after, 0.0, unit.position)
        if row >= self._queues:
            after, _, before = self._shares(unit.request.leaf, unit)
            return Key((1, weight, 0), before, after, 0.0, unit.position)
        promise, past = self._promise(row, unit), self._tree.past[row]
        if promise is not None:
            before, used = promise
            return Key((0, 0, 0), before, (used, 0.0, 0.0, 0.0, 0.0), past, unit.position)
        after, kept, _ = self._shares(row, unit)
        return Key((1, weight, 0), kept, after, past, unit.position)

    def _promise(self, row: int, unit: Unit) -> tuple[float, float] | None:
        """The parts without and with the unit of the promise that covers it: that of the row, else of the nearest one
        below it."""
        tree, found = self._tree, None
        for one in self._path(unit.request.leaf):
            if one < self._queues:
                promised, used = tree.guarantee[one], tree.usage[one]
                covers = [promise_used(promised, used, asked) for asked in unit.request.asked]
                found = min((part for part in covers if part is not None), key=lambda part: part[1], default=found)
            if one == row:
                break
        return found

    def _shares(self, row: int, unit: Unit) -> tuple[Share, float, float]:
        """The row's share with the unit; the most that it could keep of it if something were taken back; and without
        the unit."""
        used, part, least = self._tree.usage[row], self._tree.part[row], list(self._tree.smallest[row])
        lower(least, unit.request.least)
        found = []
        for asked in unit.request.asked:
            after = [one + other for one, other in zip(used, asked, strict=True)]
            kept = [max(0, one - other) for one, other in zip(after, least, strict=True)]
            found.append((share(after, part), share(kept, part)[0]))
        return *min(found), share(used, part)[0]


def lower(least: Amounts, amounts: Amounts) -> None:
    """Note what can be taken at once: in each column the least of those that have any."""
    for column, amount in enumerate(amounts):
        if 0 < amount < least[column]:
            least[column] = amount


def _with_own_lines(parent: list[int], lines: Iterable[int]) -> dict[int, int]:
    """Row -> the row above it, of all rows in which something waits. What waits in a queue that has others below it is
    below a row of its own, numbered after all of them, so that its classes are compared with each other first."""
    above: dict[int, int] = {}
    queues = {parent[leaf] for leaf in lines}
    for queue in queues:
        row = queue
        while row != TOP:
            above[row] = parent[row]
            row = parent[row]
    busy = set(above.values())
    for leaf in lines:
        queue = parent[leaf]
        above[leaf] = queue
        if queue in busy:
            above[leaf] = len(parent) + queue
            above[len(parent) + queue] = queue
    return above
