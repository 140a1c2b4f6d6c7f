"""Which waiting pod or gang is the next: down the tree of queues, always to the child whose turn it is.

A row of the tree stands by the one below it that would leave it with the least and that can still be placed: whoever
fits nowhere now is asked for in its turn, but gives its queue neither precedence nor a place at the end. From whom
nothing can follow (``Dead``) has a turn when nobody else is left, so that it makes no difference whether it waits. Of
what waits in a queue the first in order of priority and age is taken, unless another queue could take that back: then
the first of the same priority of which that is not so. After a placement only the rows above it, and those below which
something fits no longer, are ranked again.
"""

from bisect import insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import islice, takewhile
from typing import NamedTuple, Protocol

from tangram.decide.queues.rights import Share, dominant, promise_used, share
from tangram.decide.queues.siblings import Key, Siblings

_AHEAD = 8
"""Different requests of a leaf that are thought of at once."""
TOP = -1
"""The parent of queues that have none."""
Amounts = list[int]
UNTAKEN = 1 << 62
"""The least that can be taken where there is nothing to take."""


class Dead(IntEnum):
    """Which turn has who fits nowhere."""

    LAST = 0
    """After all others: nothing follows from it but that its reason is known."""
    ONCE = 1
    """Its own if it is the first of its shape that does not fit, for nodes may be held for that one."""
    ALWAYS = 2
    """Its own: it may have somebody evicted."""


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
    position: int
    """Its place in order of priority and age: no two have the same. That of a gang is its first member's."""
    priority: int


@dataclass(slots=True, eq=False)
class Kind:
    """Equal units of a leaf."""

    request: Request
    priority: int
    places: list[int]
    """Their positions, the first one last."""
    dead: Dead
    """Which turn they have when they fit nowhere."""
    proof: int | None = None
    """A node row on which one fits; None: that is to be found out."""

    @property
    def first(self) -> Unit:
        """The one that comes first."""
        return Unit(self.request, self.places[-1], self.priority)

    def __lt__(self, other: "Kind") -> bool:
        return self.places[-1] < other.places[-1]


@dataclass(slots=True)
class Line:
    """What waits in one leaf, by the first of each kind."""

    alive: list[Kind]
    """Those that can still be placed, as far as is known."""
    dead: list[Kind] = field(default_factory=list)
    """Those that cannot."""
    watched: bool = False
    """Whether it matters that something can be placed no longer."""

    def ahead(self) -> Iterator[Kind]:
        """The first kinds that can still be placed, all of one priority."""
        return islice(takewhile(lambda kind: kind.priority == self.alive[0].priority, self.alive), _AHEAD)


class Waiting(Protocol):
    """What is asked about units."""

    def fits(self, request: Request) -> int | None:
        """A node row on which the pod, or a member of the gang, fits now and within the limits of its queue; None: it
        cannot be placed."""
        ...

    def needs_no_turn(self, request: Request, positions: list[int]) -> bool:
        """Whether it is known of these that fit nowhere why they do, so that nothing follows from their turns."""
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
        self._ranked_by: dict[int, tuple[Unit, bool]] = {}
        """By row the unit by which it is ranked, and whether that can still be placed."""
        self._doubtful = set(lines)
        """Leaves in which something may fit no longer."""
        self._dirty = set(lines)
        """Rows from which up to the top everything has to be ranked again."""
        self._proven: dict[int, list[tuple[int, Kind]]] = {}
        """Node row -> (leaf, kind) of those that fit there."""
        self._last: list[Kind] = []
        """Those that have a turn when nobody else is left."""
        self._asked: set[int] = set()
        """Shapes of which one that fits nowhere had its turn."""
        self._gangs: dict[int, Kind] = {}
        """By position gangs for which all nodes together may be too small."""
        self._given: Unit | None = None
        for leaf in lines:
            for row in self._path(leaf):
                self._rows.setdefault(self._above[row], _Row())
        self._only: dict[int, int] = {}
        """Row -> the one below it, where there is no other in which anything waits."""
        self._known: dict[int, tuple[Request, int, Key]] = {}
        """By row the last key with the request and priority that it is of, as long as what the row uses is the same."""
        self._watch()

    def take(self) -> Unit | None:
        """The unit whose turn it is; None: nothing waits."""
        self._given = self._next() or self._one_of_last()
        return self._given

    def _one_of_last(self) -> Unit | None:
        """One of those that fit nowhere and have had no turn."""
        while self._last and self._waiting.needs_no_turn(self._last[-1].request, self._last[-1].places):
            self._last.pop()
        if not self._last:
            return None
        unit = self._last[-1].first
        self._last[-1].places.pop()
        if not self._last[-1].places:
            self._last.pop()
        return unit

    def _next(self) -> Unit | None:
        """The unit whose turn it is in its line."""
        self._refresh()
        row, path = TOP, list[tuple[int, Siblings]]()
        while row in self._rows:
            below = self._only.get(row)
            if below is None:
                below = self._rows[row].first()
                if below is None:
                    return None
                path.append((below, self._rows[row].children[True]))
            row = below
        if row not in self._ranked_by:
            return None
        self._dirty.add(row)
        return self._take_from(row, path)

    def charged(self, leaf: int, node: int) -> None:
        """A pod of the leaf has been placed on a node, or will be."""
        row = leaf
        while row != TOP and row not in self._above:
            row = self._tree.parent[row]
        self.changed(row)
        for other, kind in self._proven.pop(node, ()):
            kind.proof = None
            self._doubtful.add(other)
        for kind in self._gangs.values():
            kind.proof = None
            self._doubtful.add(kind.request.leaf)
        self._gangs.clear()
        if self._given is not None and self._given.request.leaf == leaf:
            for row in self._path(leaf):
                if row < self._queues:
                    lower(self._tree.smallest[row], self._given.request.least)

    def changed(self, row: int) -> None:
        """What the row uses has changed otherwise."""
        if row in self._above:
            self._dirty.add(row)
            for one in self._path(row):
                self._known.pop(one, None)

    def doubt(self, leaves: Iterable[int]) -> None:
        """A limit above these leaves has come nearer."""
        for leaf in leaves:
            self._doubtful.add(leaf)
            for kind in islice(self._lines[leaf].alive, _AHEAD):
                kind.proof = None

    def _path(self, row: int) -> Iterator[int]:
        """A row and those above it, in which something waits or waited."""
        while row != TOP:
            yield row
            row = self._above.get(row, TOP)

    def _watch(self) -> None:
        """Note which rows have nothing beside them, and where it matters that something fits no longer: where others
        wait too."""
        children: dict[int, set[int]] = {}
        for leaf in self._lines:
            for row in self._path(leaf):
                children.setdefault(self._above[row], set()).add(row)
        self._only = {above: next(iter(beside)) for above, beside in children.items() if len(beside) == 1}
        for line in self._lines.values():
            line.watched = len(self._lines) > 1 or len(line.alive) > 1

    def _refresh(self) -> None:
        """Rank again what has changed since the last turn."""
        for leaf in self._doubtful:
            if self._lines[leaf].watched and self._has_changed(leaf):
                self._dirty.add(leaf)
        self._doubtful.clear()
        for row in self._dirty:
            for one in self._path(row):
                self._rank(one)
        self._dirty.clear()

    def _has_changed(self, leaf: int) -> bool:
        """Find out what can still be placed of what is thought of; whether that is something else than before."""
        line, place, changed = self._lines[leaf], 0, False
        while place < min(_AHEAD, len(line.alive)):
            kind = line.alive[place]
            if kind.priority != line.alive[0].priority:
                break
            if kind.proof is None:
                changed = True
                kind.proof = self._waiting.fits(kind.request)
                if kind.proof is None:
                    self._bury(line, line.alive.pop(place))
                    continue
                self._proven.setdefault(kind.proof, []).append((leaf, kind))
                if kind.request.is_gang:
                    self._gangs[kind.places[-1]] = kind
            place += 1
        return changed

    def _bury(self, line: Line, kind: Kind) -> None:
        """These fit nowhere."""
        if kind.dead == Dead.LAST or (kind.dead == Dead.ONCE and kind.request.shape in self._asked):
            self._last.append(kind)
        else:
            insort(line.dead, kind)

    def _take_from(self, leaf: int, path: list[tuple[int, Siblings]]) -> Unit:
        """Take the unit of a leaf whose turn it is: what fits nowhere in its place, of the rest the first that could
        not be taken back. ``path``: the rows down to the leaf, with those beside each."""
        line = self._lines[leaf]
        kinds, chosen = line.dead, 0
        if line.alive:
            safe = self._first_safe(line, leaf, path) if len(line.alive) > 1 else 0
            if not line.dead or line.alive[safe] < line.dead[0]:
                kinds, chosen = line.alive, safe
        kind = kinds.pop(chosen)
        unit = kind.first
        kind.places.pop()
        if kinds is line.dead and kind.dead == Dead.ONCE:
            self._asked.add(unit.request.shape)
            found, line.dead = [*line.dead, kind] if kind.places else line.dead, []
            for one in found:
                self._bury(line, one)
        elif kind.places:
            insort(kinds, kind)
        self._doubtful.add(leaf)
        return unit

    def _first_safe(self, line: Line, leaf: int, path: list[tuple[int, Siblings]]) -> int:
        """The index of the first kind that could not be taken back, else of the one by which the leaf is ranked."""
        beside = [(row, siblings.least_beside(row)) for row, siblings in path if row < self._queues and row != leaf]
        for index, kind in enumerate(line.ahead()):
            if all(other is None or _is_safe(self._key(row, kind.first), other) for row, other in beside):
                return index
        best = self._ranked_by[leaf][0]
        return next(index for index, kind in enumerate(line.alive) if kind.first.position == best.position)

    def _rank(self, row: int) -> None:
        above, found = self._above[row], self._stands_by(row)
        alone, children = above in self._only, self._rows[above].children
        if found is None:
            self._ranked_by.pop(row, None)
            for siblings in () if alone else children.values():
                siblings.put(row, None)
            return
        self._ranked_by[row] = found
        if not alone:
            unit, alive = found
            children[alive].put(row, self._key(row, unit))
            children[not alive].put(row, None)

    def _stands_by(self, row: int) -> tuple[Unit, bool] | None:
        """The unit by which a row is ranked, and whether it can still be placed; None: nothing waits there."""
        line = self._lines.get(row)
        if line is not None:
            if not line.alive:
                return (line.dead[0].first, False) if line.dead else None
            if len(line.alive) == 1:
                return line.alive[0].first, True
            queue = self._tree.parent[row]
            return min((kind.first for kind in line.ahead()), key=lambda unit: self._key(queue, unit).least), True
        if row in self._only:
            return self._ranked_by.get(self._only[row])
        for siblings in self._rows[row].children.values():
            found = siblings.first()
            if found is not None:
                return self._ranked_by[found[0]]
        return None

    def _key(self, row: int, unit: Unit) -> Key:
        known = self._known.get(row)
        if known is None or known[0] is not unit.request or known[1] != unit.priority:
            known = self._known[row] = unit.request, unit.priority, self._key_of(row, unit)
        return known[2]._replace(position=unit.position)

    def _key_of(self, row: int, unit: Unit) -> Key:
        weight = -unit.request.weight
        if row in self._lines:  # the classes of one queue take from each other by rank alone
            before, after = self._shares(row, unit, take_back=False)
            return Key((1, weight, -unit.priority), before, after, 0.0, unit.position)
        if row >= self._queues:
            before, after = self._shares(unit.request.leaf, unit, take_back=False)
            return Key((1, weight, 0), before, after, 0.0, unit.position)
        promise, past = self._promise(row, unit), self._tree.past[row]
        if promise is not None:
            before, used = promise
            return Key((0, 0, 0), before, (used, before, 0.0, 0.0, 0.0), past, unit.position)
        before, after = self._shares(row, unit, take_back=True)
        return Key((1, weight, 0), before, after, past, unit.position)

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

    def _shares(self, row: int, unit: Unit, *, take_back: bool) -> tuple[float, Share]:
        """The row's share with the unit; before it the dominant one without, or the most that the row could keep of it
        if something were taken back."""
        used, part, request = self._tree.usage[row], self._tree.part[row], unit.request
        least = self._tree.smallest[row]
        found = []
        for asked in request.asked:
            after = [one + other for one, other in zip(used, asked, strict=True)]
            kept = used
            if take_back:
                kept = [
                    max(0, one - (min(gives, own) if own else gives))
                    for one, gives, own in zip(after, least, request.least, strict=True)
                ]
            found.append((share(after, part), dominant(kept, part)))
        with_it, without = found[0] if len(found) == 1 else min(found)
        return without, with_it


def _is_safe(key: Key, other: Key) -> bool:
    """Whether what a row gets so could not be taken back at once by the other one: what is promised never is."""
    if key.group[0] == 0 or key.group < other.group:
        return True
    return key.group == other.group and (key.before < other.after[0] or key.after <= other.after)


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
