"""Rows of queues: leaves are made as pods of a class come, one by one or many at once, with the same result."""

from dataclasses import fields

import numpy as np
from tests.worlds import policy

from tangram.snapshot.queues.queues import QueueTable

POLICY = policy(
    {"name": "high", "weight": 3},
    {"name": "low", "weight": 1},
    queues=[{"name": "a", "guarantee": {"gpu": "2"}}, {"name": "b", "limit": {"cpu": "4"}}],
)
LEAVES = [("a", 0), ("a", 1), ("b", -1), ("b", 0)]


def table() -> QueueTable:
    made = QueueTable()
    made.set_policy(POLICY)
    return made


def test_leaves_made_at_once_are_those_made_one_by_one() -> None:
    together, single = table(), table()
    together.add_leaves(set(LEAVES))
    for queue, priority_class in sorted(LEAVES):
        single.leaf(queue, priority_class)
    for column in fields(together.arrays):
        assert np.array_equal(getattr(together.arrays, column.name), getattr(single.arrays, column.name)), column.name


def test_many_leaves_are_one_change_of_the_tree() -> None:
    queues = table()
    before = queues.revision
    queues.add_leaves(set(LEAVES))
    assert queues.revision == before + 1
    queues.add_leaves(set(LEAVES))
    assert queues.revision == before + 1


def test_what_is_used_stays_when_a_leaf_is_added() -> None:
    queues = table()
    leaf = queues.leaf("a", 0)
    queues.charge(leaf, np.array([1000, 64, 500], np.int64), 1)
    queues.reserve(leaf, np.array([1000, 64, 500], np.int64), 1)
    other = queues.leaf("b", 1)
    assert queues.arrays.usage[leaf].tolist() == [2000, 128, 1000]
    assert queues.unbound[leaf].tolist() == [1000, 64, 500]
    assert queues.arrays.usage[other].tolist() == [0, 0, 0]
    assert queues.arrays.pods[leaf] == 1  # who is known to be bound
    assert (queues.arrays.weight[leaf], queues.arrays.weight[other]) == (3, 1)


def test_a_leaf_of_an_unknown_queue_is_none() -> None:
    queues = table()
    queues.add_leaves({("nobody", 0)})
    assert queues.leaf("nobody", 0) == -1
    assert len(queues.arrays.names) == 3


def test_bindings_count_whenever_anybody_reads_what_queues_use() -> None:
    """They are added up many at once; what comes in between finds them counted."""
    queues, amounts = table(), np.array([1000, 64, 500], np.int64)
    leaf = queues.leaf("a", 0)
    for _ in range(3):
        queues.reserve(leaf, amounts, 1)
    queues.reserve(leaf, amounts, -1)
    queues.confirm(leaf, amounts)
    queues.charge(leaf, amounts, -1)  # who was confirmed is gone
    parent = int(queues.arrays.parent[leaf])
    for row in (leaf, parent):
        assert queues.arrays.usage[row].tolist() == queues.unbound[row].tolist() == [1000, 64, 500]
    assert queues.arrays.pods[leaf] == 0
    shown = queues.at(0)
    queues.reserve(leaf, amounts, 1)
    queues.count()
    assert shown.usage[parent].tolist() == [2000, 128, 1000]
