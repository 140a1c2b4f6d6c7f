"""Whatever a decision tries can be forgotten as a whole: one journal for all that changes, not one inverse for each."""

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.worlds import World, cluster, gang, pod, policy, with_spec

from tangram.api.objects import Affinity, LabelSelector, PodAffinity, PodAffinityTerm
from tangram.decide.decision import Decision
from tangram.decide.journal import Journal, Restore
from tangram.decide.memory import Memory
from tangram.decide.pipeline import begin
from tangram.decide.placing import commit


@dataclass
class Table:
    """Something with a state, in the journal."""

    journal: Journal
    values: dict[int, int] = field(default_factory=dict)
    copies: int = 0

    def set(self, key: int, value: int) -> None:
        self.journal.keep(("table", key), self._copy, key)
        self.values[key] = value

    def _copy(self, key: int) -> Restore:
        self.copies += 1
        return partial(self.values.__setitem__, key, self.values.get(key, 0))


def test_what_is_tried_and_not_kept_is_forgotten() -> None:
    table = Table(Journal())
    table.set(1, 1)
    with table.journal.attempt():
        table.set(1, 2)
        table.set(1, 3)
        table.set(2, 4)
    assert table.values == {1: 1, 2: 0}


def test_what_is_kept_holds_unless_the_attempt_around_it_is_forgotten() -> None:
    table = Table(Journal())
    with table.journal.attempt():
        with table.journal.attempt() as inner:
            table.set(1, 2)
            inner.commit()
        assert table.values == {1: 2}
    assert table.values == {1: 0}
    with table.journal.attempt() as outer:
        table.set(1, 5)
        with table.journal.attempt():
            table.set(1, 6)
        outer.commit()
    assert table.values == {1: 5}


def test_an_exception_forgets_what_was_tried() -> None:
    table = Table(Journal())

    def fail() -> None:
        with table.journal.attempt() as attempt:
            attempt.commit()
            table.set(1, 7)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert table.values == {1: 0}
    assert not table.journal.is_open


def test_nothing_is_copied_while_nothing_is_tried_and_each_thing_once_otherwise() -> None:
    table = Table(Journal())
    table.set(1, 1)
    assert table.copies == 0
    with table.journal.attempt():
        for value in range(5):
            table.set(1, value)
    assert table.copies == 1


STEPS = st.recursive(
    st.tuples(st.integers(0, 3), st.integers(0, 9)),
    lambda steps: st.tuples(st.booleans(), st.lists(steps)),
    max_leaves=20,
)


@given(st.lists(STEPS))
@settings(deadline=None)
def test_any_nest_of_attempts_leaves_what_the_kept_ones_alone_would(steps: list[Any]) -> None:
    table, model = Table(Journal()), dict[int, int]()

    def run(steps: list[Any], values: dict[int, int]) -> dict[int, int]:
        for first, second in steps:
            if not isinstance(second, list):
                table.set(first, second)
                values = values | {first: second}
                continue
            with table.journal.attempt() as attempt:
                inside = run(second, values)
                if first:
                    attempt.commit()
            values = inside if first else values
        return values

    expected = run(steps, model)
    assert {key: value for key, value in table.values.items() if value} == {
        key: value for key, value in expected.items() if value
    }


def state_of(decision: Decision, shapes: list[int]) -> list[Any]:
    """Everything that a decision changes and that others ask for."""
    pool, scores, draft = decision.pool, decision.scores, decision.draft
    return [
        *(array.tolist() for array in (pool.free, pool.device_free, pool.device_memory_free)),
        pool.version, pool.neighbours.version, scores.state, scores.dead_shapes().tolist(),
        [scores.scores(shape).tolist() for shape in shapes],
        [list(decision.turns.used(row)) for row in range(len(decision.snapshot.queues.names))],
        list(draft.placed), list(draft.evict), list(draft.hold), set(draft.claimants),
    ]  # fmt: skip


def test_a_decision_is_what_it_was_once_a_trial_is_over() -> None:
    """Rows, counts of neighbours, charges, placements, dead marks and versions: all in one journal."""
    beside_web = PodAffinity((PodAffinityTerm("kubernetes.io/hostname", LabelSelector({"app": "web"})),))
    friend = with_spec(pod("friend", gpu=10, age=9), affinity=Affinity(pod_affinity=beside_web))
    web = pod("web", whole=1)
    web.metadata.labels["app"] = "web"
    waiting = [friend, web, pod("b", gpu=30), pod("c", whole=2), *gang("g", 2, whole=1)]
    limit = {"name": "default", "guarantee": {"gpu": 1}, "limit": {"gpu": 2}}
    world = World(cluster("1x2xA100"), waiting, policy(queues=[limit]))
    decision, slots = begin(world.cycle.builder.snapshot(world.now), Memory())
    shapes = sorted(set(decision.snapshot.pending.shape[slots].tolist()))
    before, versions = state_of(decision, shapes), set[int]()
    for _ in range(2):
        with decision.journal.attempt():
            for slot in slots.tolist():
                shape = int(decision.snapshot.pending.shape[slot])
                rows = np.flatnonzero(decision.scores.scores(shape) >= 0)
                if len(rows):
                    commit(decision, slot, int(rows[0]))
                    assert decision.pool.version not in versions, "a version stands for one state only"
                    versions.add(decision.pool.version)
                else:
                    decision.scores.set_dead(shape)
            assert len(decision.draft.placed) >= 2
        assert state_of(decision, shapes) == before
