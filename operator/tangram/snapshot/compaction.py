"""Rows of requests that nobody makes any more are used again, so that a stream of ever-new ones does not fill memory.

Looked for only when so many have gathered that about half of them may be free, which makes it cheap for each.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple

from tangram.snapshot.affinity.relations import RelationTable
from tangram.snapshot.arrays import Classes, Float64, Prices
from tangram.snapshot.gangs.domains import DomainTable
from tangram.snapshot.pods.pods import PodRow
from tangram.snapshot.pods.shapes import ShapeTable
from tangram.snapshot.values.rules import Rules


class Tables(NamedTuple):
    """What speaks of rows that may be given back."""

    shapes: ShapeTable
    relations: RelationTable
    domains: DomainTable
    classes: Classes


def give_back(tables: Tables, pods: Mapping[str, PodRow], rematch: Callable[[str], None]) -> list[int]:
    """Free what only forgotten requests speak of; the rows of shapes that are given back.

    ``rematch`` finds again which groups a pod is in. Whoever remembers things by row has to forget them
    (``generation``).
    """
    shapes, relations, domains, classes = tables
    nodes = shapes.nodes
    idle = relations.retire(_rules(shapes, pods))
    for uid in [uid for uid, row in pods.items() if not idle.isdisjoint(row.members)]:
        rematch(uid)
    spoken_of = set[int]().union(*(rules.others for rules in _rules(shapes, pods)))
    relations.retain(spoken_of.union(*(row.members for row in pods.values())))
    freed = shapes.retain(_used(pods))
    nodes.clauses.retain(shapes.clauses().union(*classes.selector))
    nodes.taints.retain(shapes.tolerations())
    nodes.retain_columns(shapes.resources())
    looked_in = set[int]().union(*(rules.topologies for rules in _rules(shapes, pods)))
    nodes.topologies.retain(looked_in.union(relations.topologies, domains.topologies, shapes.labels.topologies))
    nodes.generation += 1
    return freed


def without(prices: Prices, freed: list[int]) -> Prices:
    """The prices without those of rows that were given back."""
    return replace(
        prices,
        pod=_without(prices.pod, freed),
        latest_pod=_without(prices.latest_pod, freed),
        log_shape=_without(prices.log_shape, freed),
        log_models=_without(prices.log_models, freed),
    )


def _used(pods: Mapping[str, PodRow]) -> set[int]:
    return {shape for row in pods.values() for shape in (row.shape, row.gives[1]) if shape >= 0}


def _rules(shapes: ShapeTable, pods: Mapping[str, PodRow]) -> list[Rules]:
    """The rules of all pods; what is left of them of pods that have a place are the groups that they are in."""
    waiting = [rules for rules in map(shapes.rules.__getitem__, _used(pods)) if rules is not None]
    groups = {row.members for row in pods.values() if row.holding is not None and row.members}
    return waiting + [Rules(members=members) for members in groups]


def _without(values: Float64, rows: list[int]) -> Float64:
    """The values with 0, which stands for none, in these rows."""
    out = values.copy()
    out[[row for row in rows if row < len(out)]] = 0
    return out
