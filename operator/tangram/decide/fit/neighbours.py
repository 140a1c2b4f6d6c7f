"""Pods that must, may or would rather not be near other pods: ports, spread, affinity and anti-affinity.

Rules and their meaning are kube-scheduler's (plugins NodePorts, PodTopologySpread, InterPodAffinity). All of them come
down to one question, how many pods of a group are in each node's place, answered from counts per node row; placements
of the same decision are counted as they are made.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from tangram.decide import codes
from tangram.decide.fit.statics import affinity_holds, scale, taints_tolerated
from tangram.decide.hooks import View
from tangram.decide.journal import Journal, Restore
from tangram.plan import PodName
from tangram.snapshot.arrays import Bool, Float64, Int8, Int32, Int64, Snapshot
from tangram.snapshot.values.rules import NO_RELATIONS, Relations, Rules, Spread


class Neighbours:
    """Who is where, with those that the decision has placed so far."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.version = 0
        """Another number whenever a verdict may be another; one that is put back by a rollback is the one it was."""
        self._versions = 0
        self.seen_version = 0
        """The version when the snapshot had been taken in: all later ones are of placements of the decision."""
        self.bound: Int32 = np.zeros(0, np.int32)
        """Shapes with rules about other pods, or with pods that others have rules about."""
        self.helped: Int32 = np.zeros(0, np.int32)
        """Those of them that may fit because others have been placed: by affinity, or by spread."""
        self._grown: dict[int, int] = {}
        """Group -> the version when the decision last placed a pod that counts in it."""
        self._relations: Relations = NO_RELATIONS
        self._seen = 0
        self._own: dict[int, Int32] = {}

    def observe(self, snapshot: Snapshot) -> bool:
        """Take in a snapshot; True when a verdict may be another than before."""
        relations, counted = snapshot.relations, bool(self._own)
        self._own, self._grown, self._relations = {}, {}, relations
        if relations.revision == self._seen and self._seen >= 0 and not counted:
            return False
        self._seen = relations.revision
        found = [shape for shape, rules in enumerate(relations.rules) if rules is not None]
        self.bound = np.array(found, np.int32)
        helped = [shape for shape in found if (rules := relations.rules[shape]) is not None and _needed(rules)]
        self.helped = np.array(helped, np.int32)
        self._renew()
        self.seen_version = self.version
        return True

    def rules(self, shape: int) -> Rules | None:
        """The rules that bear on the shape; None when it may be placed without regard to other pods."""
        relations = self._relations
        rules = relations.rules[shape] if shape < len(relations.rules) else None
        if rules is None:
            return None
        own = rules.ports or rules.sole or rules.apart or rules.together or rules.spread or rules.wide or rules.near
        others = any(relations.forbids[group] or relations.likes[group] for group in rules.members)
        return rules if own or others else None

    def concern(self, shape: int) -> bool:
        """Whether the shape has rules about other pods, or others have any about its pods."""
        return shape < len(self._relations.rules) and self._relations.rules[shape] is not None

    def may_come_to_fit(self, waiting: Iterable[int], placeable: Iterable[int]) -> list[int]:
        """Those of the shapes ``waiting``, which fit nowhere, that may fit once pods of others have been placed by the
        same decision: their affinity or spread is about ``placeable`` ones, or about some that may come to fit."""
        rules = self._relations.rules
        some = [(shape, rules[shape]) for shape in waiting if shape < len(rules)]
        left = [(shape, one) for shape, one in some if one is not None and _needed(one)]
        groups = set[int]()
        for shape in placeable:
            one = rules[shape] if shape < len(rules) else None
            groups.update(one.members if one is not None else ())
        found = list[int]()
        while more := [entry for entry in left if not groups.isdisjoint(_needed(entry[1]))]:
            found += [shape for shape, _ in more]
            left = [entry for entry in left if entry not in more]
            groups.update(group for _, one in more for group in one.members)
        return found

    def near_company(self, shape: int, *, first: bool = True) -> Bool | None:
        """[N] rows near the pods that the shape has to be near, one in the place of each topology; None: it need not be
        near any. ``first``: where there is none yet, the first of a kind needs no other before it."""
        rules = self.rules(shape)
        if rules is None or rules.together is None:
            return None
        group, topologies = rules.together.group, rules.together.topologies
        domains = [self._relations.domains[topology] for topology in topologies]
        found = [self._in_place(group, topology) > 0 for topology in topologies]
        labelled = np.all([place >= 0 for place in domains], axis=0)
        if first and group in rules.members and not any(one.any() for one in found):
            return np.asarray(labelled, np.bool_)
        return np.asarray(labelled & np.all(found, axis=0), np.bool_)

    def awaits_company(self, shape: int, waiting: Iterable[int]) -> bool:
        """Whether one of the shapes ``waiting`` is of the pods that the shape has to be near."""
        rules, others = self.rules(shape), self._relations.rules
        if rules is None or rules.together is None:
            return False
        known = (others[other] for other in waiting if other < len(others))
        return any(rules.together.group in one.members for one in known if one is not None)

    def is_company(self, shape: int, pod: PodName, node: str, other: int) -> bool:
        """Whether a running pod, of the ``other`` shape, is one of those that the shape has to be near."""
        rules = self.rules(shape)
        if rules is None or rules.together is None:
            return False
        return rules.together.group in self._relations.groups_of(node, pod.uid, other)

    def take(self, shape: int, row: int) -> None:
        """Count a placement."""
        relations = self._relations
        rules = relations.rules[shape] if shape < len(relations.rules) else None
        if rules is None or not rules.members:
            return
        self._count_again(rules.members, row, 1)
        for group in rules.members:
            self._journal.keep(("neighbours", "grown", group), self._copy_grown, group)
            self._grown[group] = self.version

    def _copy_grown(self, group: int) -> Restore:
        return partial(self._grown.__setitem__, group, self._grown.get(group, 0))

    def changed(self, shape: int) -> int:
        """The version since which nothing has happened that could let a shape fit that fitted nowhere."""
        rules = self._relations.rules[shape] if shape < len(self._relations.rules) else None
        groups = _needed(rules) if rules is not None else ()
        return max([self.seen_version, *(self._grown.get(group, 0) for group in groups)])

    def leave(self, pod: PodName, node: str, row: int, shape: int) -> None:
        """Count a running pod no longer."""
        groups = self._relations.groups_of(node, pod.uid, shape)
        if groups:
            self._count_again(groups, row, -1)

    def can_come(self, places: Sequence[tuple[int, int]], leaving: Iterable[tuple[PodName, str, int, int]]) -> bool:
        """Whether pods, (shape, row) each, that are counted there already can come one after the other once running
        ones are gone, given as to ``leave``: each of them near whom it has to be near."""
        with self._journal.attempt():
            for one in leaving:
                self.leave(*one)
            for shape, row in places:
                rules = self._relations.rules[shape] if self.concern(shape) else None
                self._count_again(rules.members if rules is not None else (), row, -1)
            for shape, row in places:
                near = self.near_company(shape)
                if near is not None and not near[row]:
                    return False
                self.take(shape, row)
        return True

    def _count_again(self, groups: Iterable[int], row: int, more: int) -> None:
        for group in groups:
            count = self._own.get(group)
            if count is None:
                count = self._own[group] = self._relations.counts[group].copy()
            self._journal.keep(("neighbours", group, row), _copy, count, row)
            count[row] += more
        self._renew()

    def relations(self) -> Relations:
        """What is true with those that the decision has placed so far."""
        if not self._own:
            return self._relations
        counts = [self._count(group).copy() for group in range(len(self._relations.counts))]
        return replace(self._relations, counts=counts, revision=-1)

    def _renew(self) -> None:
        self._journal.keep(("neighbours", "version"), self._copy_version)
        self._versions += 1
        self.version = self._versions

    def _copy_version(self) -> Restore:
        return partial(setattr, self, "version", self.version)

    def codes(self, view: View, shape: int, rules: Rules) -> Int8:
        """[N] FITS, or which rule keeps the shape off each node row; the first one in kube-scheduler's order."""
        out = np.zeros(len(view.nodes.present), np.int8)
        for group in rules.ports:
            out[self._count(group) > 0] = codes.HOST_PORT_TAKEN
        if any(self._count(group).any() for group in rules.sole):
            out[out == codes.FITS] = codes.VOLUME_IN_USE
        if rules.spread:
            out[~self._spread_holds(view, shape) & (out == codes.FITS)] = codes.TOPOLOGY_SPREAD
        near = self.near_company(shape)
        if near is not None:
            out[~near & (out == codes.FITS)] = codes.POD_AFFINITY
        for group, topology in self._apart(rules):
            out[(self._in_place(group, topology) > 0) & (out == codes.FITS)] = codes.POD_ANTI_AFFINITY
        return out

    def closed(self, shape: int) -> Bool | None:
        """[N] rows that the shape fits on only once others have left: by ports, claims or anti-affinity; None: none."""
        rules, counts = self.rules(shape), list[Int64 | Int32]()
        if rules is None:
            return None
        counts += [self._count(group) for group in rules.ports]
        counts += [np.full_like(self._count(group), self._count(group).any()) for group in rules.sole]
        counts += [self._in_place(group, topology) for group, topology in self._apart(rules)]
        return np.asarray(np.any([count > 0 for count in counts], axis=0), np.bool_) if counts else None

    def places(self, topology: int) -> Int32:
        """[N] the place of each node row in a topology; -1: in none."""
        return self._relations.domains[topology]

    def preferences(self, view: View, shape: int, rules: Rules, rows: Int32) -> Int64 | None:
        """[len(rows)] what liked neighbours and liked spread add to the scores of rows that fit; None: nothing."""
        liked = list(rules.near)
        for group in rules.members:
            liked += self._relations.likes[group]
        out = np.zeros(len(rows), np.int64)
        if liked:
            total = sum(weight * self._in_place(group, topology)[rows] for group, topology, weight in liked)
            out += _from_least(np.asarray(total, np.int64), scale(view))
        if rules.wide:
            out += self._width(view, shape, rules.wide, rows)
        return out if out.any() else None

    def _count(self, group: int) -> Int32:
        """[N] pods of the group on each node row."""
        own = self._own.get(group)
        return self._relations.counts[group] if own is None else own

    def _in_place(self, group: int, topology: int, places: Bool | None = None) -> Int64:
        """[N] pods of the group in the place of each node row, 0 for rows in no place; only rows ``places`` count."""
        place, count = self._relations.domains[topology], self._count(group)
        counted = place >= 0 if places is None else places
        total = np.bincount(place[counted], count[counted], self._relations.domain_count[topology] + 1)
        total[-1] = 0  # where place -1 leads to
        return total.astype(np.int64)[place]

    def _apart(self, rules: Rules) -> Iterable[tuple[int, int]]:
        """(group, topology) of pods that must not be near: by the shape's own rules, and by theirs."""
        yield from rules.apart
        for group in rules.members:
            yield from self._relations.forbids[group]

    def spreads(self, view: View, shape: int) -> Iterator[tuple[Spread, Bool, Int64]]:
        """The constraints that must hold, each with ([N] rows whose places count, [N] pods in the place of each row).
        Whoever fits on a row is in a place that counts."""
        rules = self.rules(shape)
        if rules is None or not rules.spread:
            return
        labelled = self._labelled(view, rules.spread)
        for constraint in rules.spread:
            places = np.asarray(labelled & _eligible(view, shape, constraint), np.bool_)
            yield constraint, places, self._in_place(constraint.group, constraint.topology, places)

    def _spread_holds(self, view: View, shape: int) -> Bool:
        """[N] whether no constraint would be exceeded by one more pod."""
        holds = np.ones(len(view.nodes.present), np.bool_)
        for constraint, places, total in self.spreads(view, shape):
            place = self._relations.domains[constraint.topology]
            enough = _number_of(place[places]) >= constraint.min_domains
            least = int(total[places].min()) if enough else 0
            holds &= (place >= 0) & (total + constraint.counts_itself - least <= constraint.max_skew)
        return holds

    def out_of_reach(self, view: View, shape: int) -> list[tuple[str, int]]:
        """(policy of a spread constraint, node row) for the emptiest domains where labels or taints keep the shape off
        all nodes: with the policy ``Honor`` they would not count. One row for each policy."""
        found = dict[str, int]()
        welcome, tolerated = affinity_holds(view, shape), taints_tolerated(view, shape)
        for constraint, places, total in self.spreads(view, shape):
            place = self._relations.domains[constraint.topology]
            usable = places & welcome & tolerated
            least = int(total[places].min()) if places.any() else 0
            emptiest = places & (total == least) & ~np.isin(place, place[usable])
            for policy, honoured, fit in (
                ("nodeAffinityPolicy", constraint.honor_affinity, welcome),
                ("nodeTaintsPolicy", constraint.honor_taints, tolerated),
            ):
                rows = np.flatnonzero(emptiest & ~fit)
                if len(rows) and not honoured:
                    found.setdefault(policy, int(rows[0]))
        return list(found.items())

    def _labelled(self, view: View, constraints: tuple[Spread, ...]) -> Bool:
        """[N] nodes that are in a place of every constraint."""
        labelled = view.nodes.present.copy()
        for constraint in constraints:
            labelled &= self._relations.domains[constraint.topology] >= 0
        return labelled

    def _width(self, view: View, shape: int, constraints: tuple[Spread, ...], rows: Int32) -> Int64:
        """[len(rows)] the emptier the place, the higher; rows without all the labels get nothing."""
        labelled = self._labelled(view, constraints)
        crowd: Float64 = np.zeros(len(rows))
        for constraint in constraints:
            place = self._relations.domains[constraint.topology]
            places = labelled & _eligible(view, shape, constraint)
            number = _number_of(place[rows][labelled[rows]])
            total = self._in_place(constraint.group, constraint.topology, places)[rows]
            crowd += total * math.log(number + 2) + (constraint.max_skew - 1)
        crowd = np.round(crowd)
        known = labelled[rows]
        if not known.any():
            return np.zeros(len(rows), np.int64)
        least, most = int(crowd[known].min()), int(crowd[known].max())
        out = np.full(len(rows), scale(view), np.int64) if most == 0 else (most + least - crowd) * scale(view) // most
        out[~known] = 0
        return out.astype(np.int64)


def _needed(rules: Rules) -> set[int]:
    """Groups of which more pods can make a shape fit where it did not."""
    together = set[int]() if rules.together is None else {rules.together.group}
    return together.union(one.group for one in rules.spread)


def _copy(count: Int32, row: int) -> Restore:
    return partial(count.__setitem__, row, int(count[row]))


def _eligible(view: View, shape: int, constraint: Spread) -> Bool:
    """[N] nodes whose places count for the constraint."""
    eligible = view.nodes.present
    if constraint.honor_affinity:
        eligible = eligible & affinity_holds(view, shape)
    if constraint.honor_taints:
        eligible = eligible & taints_tolerated(view, shape)
    return eligible


def _number_of(places: Int32) -> int:
    """How many different places there are."""
    return int(np.count_nonzero(np.bincount(places))) if len(places) else 0


def _from_least(values: Int64, most: int) -> Int64:
    """The values stretched so that the least becomes 0 and the greatest ``most``; all 0 when they are equal."""
    least, greatest = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    if least == greatest:
        return np.zeros(len(values), np.int64)
    return (values - least) * most // (greatest - least)
