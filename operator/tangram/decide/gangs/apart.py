"""What the rules of a gang's members about each other leave of a domain: how many of them it can hold at most."""

from dataclasses import dataclass

import numpy as np

from tangram.decide.fit.neighbours import Neighbours
from tangram.snapshot.arrays import Bool, Int32, Int64

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


def rules_among(neighbours: Neighbours, shapes: list[int], rows: int) -> tuple[Apart, ...]:
    """The rules that keep pods of these shapes from each other; ``rows``: how many node rows there are."""
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
    return tuple(
        Apart(place, carriers, np.array([group in of_shape for of_shape in members], np.bool_))
        for (_, group, _), (place, carriers) in found.items()
    )
