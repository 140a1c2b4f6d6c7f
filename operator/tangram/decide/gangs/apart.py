"""What the rules of a gang's members about each other leave of a domain: how many of them it can hold at most."""

from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from tangram.decide.fit.neighbours import Neighbours
from tangram.decide.hooks import View
from tangram.snapshot.arrays import UNLIMITED, Bool, Int32, Int64
from tangram.snapshot.values.rules import Spread

NOWHERE = -1


@dataclass(frozen=True, slots=True, eq=False)
class Apart:
    """One rule that keeps members of K shapes from each other: whose pods have it and whom it is about are never in one
    place together, whoever comes first. By anti-affinity, a host port, or a claim that is for one pod at a time."""

    place: Int32
    """[N] the place of each node row; -1: the rule has nothing to say there."""
    carriers: Bool
    """[K] shapes whose pods have the rule."""
    selected: Bool
    """[K] shapes that it is about."""

    def when_empty(self) -> "Apart":
        """The rule as if all others had left: it is about the members alone."""
        return self

    def most(self, each: Int64, held: Int64, domain: Int32) -> Int64:
        """[D] members that each domain holds at most. ``each`` [K, N] of each shape that a node row can hold if it gets
        no others, ``held`` [K, D] that the domain can; ``domain`` [N] is each row's, or -1."""
        count, alone = held.shape[1], self.carriers & self.selected
        # No two in one place of those who have it and are meant by it.
        places, beyond = self._places(each[alone], domain, count)
        most = held[~alone].sum(axis=0) + np.minimum(held[alone].sum(axis=0), places + beyond)
        # Where all is one place nobody is with those who have it whom they mean.
        places, beyond = self._places(each, domain, count)
        either = np.maximum(held[~self.carriers].sum(axis=0), held[~self.selected].sum(axis=0) + bool(alone.any()))
        found: Int64 = np.where((places <= 1) & (beyond == 0), np.minimum(most, either), most)
        return found

    def _places(self, each: Int64, domain: Int32, count: int) -> tuple[Int64, Int64]:
        """([D] different places that can hold any, [D] members that rows without a place can hold)."""
        rows = np.flatnonzero(each.any(axis=0) & (domain != NOWHERE))
        place, where = self.place[rows], domain[rows]
        labelled = place != NOWHERE
        pairs = np.unique(place[labelled] * np.int64(count) + where[labelled])
        beyond = np.bincount(where[~labelled], each[:, rows[~labelled]].sum(axis=0), count)
        return np.bincount(pairs % max(count, 1), minlength=count), beyond.astype(np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Even:
    """One topology spread constraint of members of K shapes: no place has more than ``maxSkew`` pods more than the one
    that has least, which members that are all within one domain leave as it is unless it is in that domain."""

    rule: Spread
    place: Int32
    """[N] the place of each node row; -1: in none."""
    counted: Bool
    """[N] rows whose places, and whose pods, count."""
    crowd: Int64
    """[N] pods in the place of each row that count."""
    there: Int64
    """[N] those of them that will be there when the members come."""
    carriers: Bool
    """[K] shapes whose pods have the rule."""

    def when_empty(self) -> "Even":
        """The same as if all had left that can have no more than they have: those of other domains only get fewer."""
        return replace(self, there=np.zeros_like(self.there))

    def most(self, each: Int64, held: Int64, domain: Int32) -> Int64:
        """As ``Apart.most``: in each place of a domain until it is as full as the rule lets it be."""
        count = held.shape[1]
        rows = np.flatnonzero(self.counted & (domain != NOWHERE))
        key, first, which = np.unique(
            self.place[rows] * np.int64(count) + domain[rows], return_index=True, return_inverse=True
        )
        where = key % max(count, 1)
        room = np.bincount(which, each[self.carriers][:, rows].sum(axis=0), len(key)).astype(np.int64)
        more = self.rule.max_skew + self._least(domain, count)[where] - self.there[rows[first]]
        if not self.rule.counts_itself:
            more = np.where(more >= 0, UNLIMITED, 0)
        spread = np.bincount(where, np.minimum(room, np.maximum(more, 0)), count).astype(np.int64)
        found: Int64 = held[~self.carriers].sum(axis=0) + np.minimum(held[self.carriers].sum(axis=0), spread)
        return found

    def _least(self, domain: Int32, count: int) -> Int64:
        """[D] pods in the place that has least, of those that no row of the domain is in; UNLIMITED: there is none.
        Where there are fewer places than the rule wants, 0."""
        rows = np.flatnonzero(self.counted)
        place, first = np.unique(self.place[rows], return_index=True)
        if len(place) < self.rule.min_domains:
            return np.zeros(count, np.int64)
        crowd, inside = self.crowd[rows[first]], domain[rows] != NOWHERE
        pairs = np.unique(np.searchsorted(place, self.place[rows[inside]]) * np.int64(count) + domain[rows[inside]])
        number, where = pairs // max(count, 1), pairs % max(count, 1)
        found = np.full(count, UNLIMITED, np.int64)
        for least in np.unique(crowd):  # nearly always the first one does for all domains
            mine = np.bincount(where[crowd[number] == least], minlength=count)
            found[(found == UNLIMITED) & (mine < np.count_nonzero(crowd == least))] = least
            if (found < UNLIMITED).all():
                break
        return found


Rule: TypeAlias = Apart | Even


def rules_among(neighbours: Neighbours, view: View, shapes: list[int]) -> tuple[Rule, ...]:
    """The rules that keep pods of these shapes from each other, or spread them."""
    return *_apart(neighbours, shapes, len(view.nodes.present)), *_even(neighbours, view, shapes)


def _even(neighbours: Neighbours, view: View, shapes: list[int]) -> list[Even]:
    found: dict[tuple[Spread, bytes], Even] = {}
    for index, shape in enumerate(shapes):
        for rule, counted, crowd in neighbours.spreads(view, shape):
            key, place = (rule, counted.tobytes()), neighbours.places(rule.topology)
            nobody = np.zeros(len(shapes), np.bool_)
            found.setdefault(key, Even(rule, place, counted, crowd, crowd, nobody)).carriers[index] = True
    return list(found.values())


def _apart(neighbours: Neighbours, shapes: list[int], rows: int) -> list[Apart]:
    rules = [neighbours.rules(shape) for shape in shapes]
    members = [set(one.members) if one is not None else set() for one in rules]
    nodes, anywhere = np.arange(rows, dtype=np.int32), np.zeros(rows, np.int32)
    found: dict[tuple[str, int, int], tuple[Int32, Bool]] = {}
    for index, one in enumerate(rules):
        if one is None:
            continue
        stated = [(("ports", group, 0), nodes) for group in one.ports]
        stated += [(("sole", group, 0), anywhere) for group in one.sole]
        stated += [(("apart", *rule), neighbours.places(rule[1])) for rule in one.apart]
        for key, place in stated:
            if any(key[1] in of_shape for of_shape in members):
                _, carriers = found.setdefault(key, (place, np.zeros(len(shapes), np.bool_)))
                carriers[index] = True
    return [
        Apart(place, carriers, np.array([group in of_shape for of_shape in members], np.bool_))
        for (_, group, _), (place, carriers) in found.items()
    ]
