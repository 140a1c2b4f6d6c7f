"""Nodes divided by which volume they can reach, for gangs whose members share a claim: a further level of topology."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tangram.api.objects import NodeSelector
from tangram.snapshot.arrays import Int32
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.nodes.topologies import NOWHERE
from tangram.snapshot.requests import existing
from tangram.snapshot.requests.reaching import HOST, hosts_of

_SHOWN = 3
"""Nodes that a name names."""


class ReachTable:
    """Remembers who reaches what until nodes change."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._rows: dict[NodeSelector, tuple[int, ...]] = {}
        self._divided: dict[tuple[NodeSelector, ...], tuple[Int32, ...]] = {}

    def forget(self) -> None:
        """Nodes are others now."""
        self._rows, self._divided = {}, {}
        self.__dict__.pop("_on", None)

    @cached_property
    def _on(self) -> dict[str, list[str]]:
        """Host -> the names of its nodes."""
        found: dict[str, list[str]] = {}
        for name in self._nodes.rows:
            node = self._nodes.object_of(name)
            if node is not None and HOST in node.metadata.labels:
                found.setdefault(node.metadata.labels[HOST], []).append(name)
        return found

    def divisions(self, reaches: tuple[NodeSelector, ...]) -> tuple[Int32, ...]:
        """[N] each: the number of one of these sets of nodes for each node row; -1: it is in none.

        Sets that overlap in part are in different divisions, so that each is whole in one; one that another contains
        is in none, for whoever fits there fits in the other.
        """
        if reaches not in self._divided:
            divisions = [np.full(len(self._nodes.arrays.present), NOWHERE, np.int32)]
            for rows in sorted({self._rows_of(one) for one in reaches}, key=lambda rows: (-len(rows), rows)):
                _divide(divisions, np.array(rows, np.intp))
            self._divided[reaches] = tuple(divisions)
        return self._divided[reaches]

    def names(self, domain: Int32) -> tuple[str, ...]:
        """What to call each of the domains: the nodes that are in it."""
        found: list[list[str]] = [[] for _ in range(int(domain.max(initial=NOWHERE)) + 1)]
        for row in np.flatnonzero(domain != NOWHERE).tolist():
            found[domain[row]].append(self._nodes.arrays.names[row])
        return tuple(map(_listed, found))

    def _rows_of(self, reach: NodeSelector) -> tuple[int, ...]:
        if reach not in self._rows:
            hosts = hosts_of(reach)
            nodes = self._nodes.rows if hosts is None else [name for host in hosts for name in self._on.get(host, ())]
            there = ((self._nodes.object_of(name), self._nodes.rows[name]) for name in nodes)
            self._rows[reach] = tuple(
                sorted(row for node, row in there if node is not None and existing.is_met(reach, node))
            )
        return self._rows[reach]


def _divide(divisions: list[Int32], rows: npt.NDArray[np.intp]) -> None:
    """Add a set of node rows to the first division in which nothing else is there."""
    inside = [domain[rows] for domain in divisions]
    if not len(rows) or any((there == there[0]).all() and there[0] != NOWHERE for there in inside):
        return
    apart = next((domain for domain, there in zip(divisions, inside, strict=True) if (there == NOWHERE).all()), None)
    if apart is None:
        apart = np.full_like(divisions[0], NOWHERE)
        divisions.append(apart)
    apart[rows] = apart.max() + 1


def _listed(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"node {names[0]}"
    shown = sorted(names)[:_SHOWN]
    more = len(names) - len(shown)
    return f"nodes {', '.join(shown)}" + (f" and {more} more" if more else "")
