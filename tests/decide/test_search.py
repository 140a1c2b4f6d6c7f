"""Where evictions cost least is found by what they cost at least, and a decision ends with a batch of them."""

import random
from collections.abc import Callable

import numpy as np
import pytest
from tests.budget import seeds
from tests.worlds import START, World, bound, cluster, pod, policy

from tangram.decide.memory import Memory
from tangram.decide.pipeline import decide
from tangram.decide.preempt import search
from tangram.decide.preempt.cheapest import Case, Field
from tangram.decide.preempt.victims import LEVEL, PODS
from tangram.snapshot.arrays import Int64, Snapshot
from tangram.snapshot.build import Builder

QUEUES = policy(queues=[{"name": "a", "guarantee": {"gpu": 6}}, {"name": "b"}, {"name": "c"}])


def crowded(chance: random.Random) -> Snapshot:
    """Full nodes, and pods of all queues and priorities that want some of them."""
    builder, gpus = Builder(), 4
    builder.set_policy(chance.choice([None, QUEUES]))
    for one in cluster(f"5x{gpus}xA100"):
        builder.put_node(one)
    for name in range(5):
        for device in range(gpus):
            asks = {"whole": 1} if chance.random() < 0.6 else {"gpu": 50}
            one = pod(f"r{name}-{device}", queue=chance.choice("abc"), priority=chance.randrange(3), **asks)
            share, age = 100 if "whole" in asks else 50, chance.choice([-5, 1, 60, 600])
            builder.put_pod(bound(one, f"n{name}", {"main": [(str(device), share)]}, started=START - age))
    for number in range(8):
        asks = chance.choice([{"whole": 1}, {"whole": 3}, {"gpu": 50}, {"whole": 2, "cpu": 4}])
        builder.put_pod(pod(f"w{number}", queue=chance.choice("abc"), priority=chance.randrange(5), **asks))
    return builder.snapshot(START)


def look_everywhere(rows: Int64, field: Field, case: Case) -> None:
    """Instead of ``set_bounds``: nothing is known before it has been looked at."""
    for row in rows[field.goes_to[rows]].tolist():
        field.lowest[row, : PODS + 1] = 0
        field.lowest[row, LEVEL] = -1


def test_nodes_that_are_not_looked_at_would_not_have_been_cheaper(monkeypatch: pytest.MonkeyPatch) -> None:
    evictions = 0
    for seed in seeds(60):
        snapshot = crowded(random.Random(seed))
        plan = decide(snapshot, Memory())
        with monkeypatch.context() as patch:
            patch.setattr(search, "set_bounds", look_everywhere)
            assert decide(snapshot, Memory()) == plan, seed
        evictions += len(plan.evict)
    assert evictions > len(seeds(60)) * 100 // 60


def test_what_is_said_of_a_node_beforehand_is_what_one_victim_there_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    """So of 40 nodes with equal pods only that of the youngest has to be looked at."""
    world = World(cluster("40x1xA100"))
    for number in range(40):
        running = pod(f"low-{number}", whole=1)
        world.add(bound(running, f"n{number}", {"main": [("0", 100)]}, started=START - 100 + number))
    known: list[np.ndarray] = []
    original: Callable[[Field, Case], tuple[int, np.ndarray]] = search.cheapest_row

    def watched(field: Field, case: Case) -> tuple[int, np.ndarray]:
        before = field.lowest.copy()
        found = original(field, case)
        known.append(before[found[0]] == field.lowest[found[0]])
        return found

    monkeypatch.setattr(search, "cheapest_row", watched)
    world.add(pod("high", whole=1, priority=9))
    assert [evict.pod.name for evict in world.step().evict] == ["low-39"]
    assert all(known[0])


def test_a_decision_ends_with_a_batch_of_evictions_and_the_next_one_goes_on_at_once() -> None:
    world = World(cluster("1x8xA100"), batch=2, grace=4)
    for index in range(8):
        world.add(bound(pod(f"low-{index}", whole=1), "n0", {"main": [(str(index), 100)]}, started=START + index))
    world.add(*(pod(f"high-{index}", whole=1, priority=9) for index in range(3)))
    first = world.step()
    assert len(first.evict) == 2
    assert first.again
    second = world.step()
    assert len(second.evict) == 1
    assert not second.again
    assert not world.settle().waiting
