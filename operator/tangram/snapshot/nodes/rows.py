"""Rows of nodes: what an empty one is, and what of an object matters to it."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from tangram.api.objects import Node
from tangram.snapshot.arrays import Int32, Nodes
from tangram.snapshot.nodes.clauses import ClauseTable
from tangram.snapshot.nodes.columns import ResourceColumns
from tangram.snapshot.nodes.taints import TaintTable

Facts: TypeAlias = tuple[object, ...]


def empty_nodes(nodes: int, columns: ResourceColumns, devices: int, clauses: ClauseTable, taints: TaintTable) -> Nodes:
    """So many rows and devices each, of nodes that are not there."""
    return Nodes(
        names=[],
        present=np.zeros(nodes, np.bool_),
        tie_rank=np.zeros(nodes, np.int64),
        revision=np.zeros(nodes, np.int64),
        capacity=np.zeros((nodes, columns.width), np.int64),
        free=np.zeros((nodes, columns.width), np.int64),
        counts_devices=columns.counts_devices,
        device_count=np.zeros(nodes, np.int32),
        device_free=np.zeros((nodes, devices), np.int32),
        device_memory=np.zeros(nodes, np.int32),
        device_memory_free=np.zeros((nodes, devices), np.int32),
        device_ids=[],
        links=[],
        model=np.full(nodes, -1, np.int32),
        isolation=np.zeros(nodes, np.int8),
        uncertain=np.zeros(nodes, np.bool_),
        avoided=np.zeros(nodes, np.int32),
        terms=clauses.values,
        taints=taints.values,
        disliked=taints.disliked,
        named=clauses.named,
    )


def same_to_us(old: Node, new: Node) -> bool:
    """A heartbeat changes conditions only, and those are not read here."""
    return (
        old.metadata.labels == new.metadata.labels
        and old.spec == new.spec
        and old.status.allocatable == new.status.allocatable
    )


def facts_of_row(arrays: Nodes, places: Sequence[Int32], names: Facts, row: int) -> Facts:
    """All of a row that does not depend on pods, to be compared; ``places`` [N] are those of each topology key, and
    ``names`` what clauses may call the node."""
    links = arrays.links[row]
    return (
        arrays.capacity[row].tobytes(),
        arrays.device_count.item(row),
        arrays.device_memory.item(row),
        arrays.device_ids[row],
        None if links is None else links.tobytes(),
        arrays.model.item(row),
        arrays.isolation.item(row),
        arrays.terms[:, row].tobytes(),
        names,
        arrays.taints[:, row].tobytes(),
        tuple(int(place[row]) for place in places),
    )
