"""What pods demand of other pods, as values: counts of pods per node, and rules that speak of counts.

A *group* is a set of bound pods that somebody asks about: those that a selector selects, those that carry a certain
anti-affinity, those that use a host port. All that is kept of a group is how many of its pods each node row has.
A *topology* is a node label key; nodes with equal values of it are one place.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Spread:
    """A topology spread constraint."""

    group: int
    topology: int
    max_skew: int
    min_domains: int
    counts_itself: bool
    """The pod is among the pods that it wants spread."""
    honor_affinity: bool
    """Nodes that the pod's node affinity excludes are no places."""
    honor_taints: bool
    """Nodes with taints that the pod does not tolerate are no places."""


@dataclass(frozen=True, slots=True)
class Together:
    """Required affinity: the pods that match all terms; in each of the topologies one of them must be near."""

    group: int
    topologies: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """One shape's rules about other pods, and the groups that its own pods belong to."""

    members: tuple[int, ...] = ()
    """Groups that a pod of the shape adds to."""
    ports: tuple[int, ...] = ()
    """Groups none of whose pods may be on the same node: users of a host port that the pod needs."""
    sole: tuple[int, ...] = ()
    """Groups none of whose pods may be anywhere: users of a volume claim that is for one pod at a time."""
    apart: tuple[tuple[int, int], ...] = ()
    """(group, topology): required anti-affinity."""
    together: Together | None = None
    spread: tuple[Spread, ...] = ()
    """Constraints that must hold."""
    wide: tuple[Spread, ...] = ()
    """Constraints that are only liked."""
    near: tuple[tuple[int, int, int], ...] = ()
    """(group, topology, weight): preferred affinity, with a negative weight anti-affinity."""

    @property
    def others(self) -> set[int]:
        """The groups that the rules are about."""
        found = {*self.ports, *self.sole, *(rule[0] for rule in self.apart), *(rule[0] for rule in self.near)}
        found.update(rule.group for rule in (*self.spread, *self.wide))
        return found if self.together is None else found | {self.together.group}

    @property
    def topologies(self) -> set[int]:
        """The topologies in which the rules look at others."""
        found = {*(rule[1] for rule in self.apart), *(rule[1] for rule in self.near)}
        found.update(rule.topology for rule in (*self.spread, *self.wide))
        return found if self.together is None else found.union(self.together.topologies)


@dataclass(frozen=True, slots=True, eq=False)
class Relations:
    """Who is where, as far as any rule asks."""

    rules: list[Rules | None]
    """Per shape; None: it has no rules and its pods are in no group."""
    counts: list[npt.NDArray[np.int32]]
    """Per group [N] how many of its pods are on each node row, decisions in flight included."""
    forbids: list[list[tuple[int, int]]]
    """Per group (carriers, topology): pods whose required anti-affinity keeps the group's pods away."""
    likes: list[list[tuple[int, int, int]]]
    """Per group (carriers, topology, weight): pods that like the group's pods near, or far by a negative weight."""
    domains: list[npt.NDArray[np.int32]]
    """Per topology [N] the place of each node row; -1: the node has no such label."""
    domain_count: list[int]
    """Per topology how many places have ever been numbered."""
    revision: int
    """Changes whenever a count or a rule changes, or a shape is added; below 0: of what is made up, which no number
    tells apart."""
    members: Mapping[str, Mapping[str, tuple[int, ...]]]
    """Node -> uid of a pod there -> the groups that it counts in."""

    def groups_of(self, node: str, uid: str, shape: int) -> tuple[int, ...]:
        """The groups that a pod on a node counts in; one that only counts as there counts as its shape."""
        known = self.members.get(node, {}).get(uid)
        if known is not None:
            return known
        rules = self.rules[shape] if shape < len(self.rules) else None
        return rules.members if rules is not None else ()


NO_RELATIONS = Relations([], [], [], [], [], [], 0, {})
