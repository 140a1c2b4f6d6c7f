"""The state machines, and conditions as metav1 means them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.api.common import Condition
from tangram.api.phases import (
    INFERENCE_SERVICE,
    TRAINING_JOB,
    ConditionType,
    JobPhase,
    Phases,
    ServicePhase,
    condition,
    set_condition,
)
from tangram.errors import InvalidInput
from tangram.units import rfc3339

MACHINES = pytest.mark.parametrize(
    ("machine", "phases"), [(TRAINING_JOB, JobPhase), (INFERENCE_SERVICE, ServicePhase)], ids=["job", "service"]
)


@MACHINES
def test_every_phase_has_a_row_and_can_be_reached(machine: Phases, phases: type) -> None:
    assert set(machine.steps) == {None, *phases}
    reached, border = set(), {None}
    while border:
        border = {then for now in border for then in machine.steps[now]} - reached
        reached |= border
    assert reached == set(phases)


@MACHINES
def test_staying_is_legal(machine: Phases, phases: type) -> None:
    assert all(machine.step(phase, phase) == phase for phase in phases)


def test_a_job_ends_once() -> None:
    assert {phase for phase in JobPhase if TRAINING_JOB.final(phase)} == {JobPhase.COMPLETE, JobPhase.FAILED}
    assert not any(INFERENCE_SERVICE.final(phase) for phase in ServicePhase)


def test_a_controller_that_was_away_may_skip_steps() -> None:
    assert TRAINING_JOB.step(JobPhase.PENDING, JobPhase.COMPLETE) == JobPhase.COMPLETE


@pytest.mark.parametrize(
    ("machine", "now", "then", "names"),
    [
        (TRAINING_JOB, JobPhase.COMPLETE, JobPhase.RUNNING, "final"),
        (TRAINING_JOB, JobPhase.SUSPENDED, JobPhase.RUNNING, "Complete, Failed, Pending"),
        (TRAINING_JOB, None, JobPhase.RUNNING, "Complete, Failed, Pending, Suspended"),
        (INFERENCE_SERVICE, ServicePhase.FAILED, ServicePhase.READY, "Idle, Pending"),
    ],
)
def test_an_illegal_step_raises_and_names_the_legal_ones(machine, now, then, names: str) -> None:
    with pytest.raises(InvalidInput, match=names):
        machine.step(now, then)


def observed(kind: str, status: str, message: str, now: float) -> Condition:
    return Condition(type=kind, status=status, reason="Some", message=message, last_transition_time=rfc3339(now))


def ready(status: str, now: float, before: tuple[Condition, ...] = ()) -> tuple[Condition, ...]:
    return set_condition(before, observed(ConditionType.READY, status, f"at {now}", now))


def test_transition_time_moves_only_with_the_status() -> None:
    first = ready("True", 0)
    same = ready("True", 60, first)
    other = ready("False", 120, same)
    assert [item.last_transition_time for (item,) in (first, same, other)] == [
        "1970-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "1970-01-01T00:02:00Z",
    ]
    assert same[0].message == "at 60"


conditions = st.tuples(
    st.sampled_from(["Ready", "Stalled", "Complete"]),
    st.sampled_from(["True", "False", "Unknown"]),
    st.integers(0, 10**9),
)


@given(st.lists(conditions, max_size=12))
def test_types_stay_unique_and_setting_twice_changes_nothing(steps: list[tuple[str, str, int]]) -> None:
    held: tuple[Condition, ...] = ()
    for kind, status, now in steps:
        others = [item for item in held if item.type != kind]
        held = set_condition(held, observed(kind, status, "so", now))
        assert [item for item in held if item.type != kind] == others
        assert condition(held, kind).status == status
        assert set_condition(held, observed(kind, status, "so", now + 1)) == held
    assert len({item.type for item in held}) == len(held)


def test_a_condition_that_is_not_there() -> None:
    assert condition((), "Ready") is None
