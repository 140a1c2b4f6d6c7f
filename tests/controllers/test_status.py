"""Statuses: only differences are written, and objects that cannot be used say why."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.controllers.builders import NOW, job, job_object, view, waits_for

from tangram.api.phases import INFERENCE_SERVICE, TRAINING_JOB, JobPhase, ServicePhase
from tangram.api.training import TrainingStatus
from tangram.api.views import PodView
from tangram.cluster.paths import TRAINING_JOBS
from tangram.controllers.reasons import waiting_reason
from tangram.controllers.status import advance, change_status, read_status, reason_code, reject


def test_only_what_differs_is_written_and_what_is_gone_is_removed() -> None:
    stored = {"restarts": 2, "startTime": "2027-01-15T08:00:00Z", "message": "old"}
    status, _ = read_status(TrainingStatus, {"status": stored})
    changed = status.model_copy(update={"restarts": 3, "start_time": None})
    (action,) = change_status(TRAINING_JOBS, job().metadata, {**stored, **_defaults()}, changed)
    assert action.change == {"restarts": 3, "startTime": None}
    assert action.resource_version == "1"


def _defaults() -> dict[str, Any]:
    status = TrainingStatus().model_dump(mode="json", by_alias=True, exclude_none=True)
    return {key: value for key, value in status.items() if key not in ("restarts", "startTime", "message")}


def test_a_status_that_cannot_be_read_counts_as_empty() -> None:
    status, stored = read_status(TrainingStatus, {"status": {"restarts": "many"}})
    assert status == TrainingStatus()
    assert stored == {"restarts": "many"}


def test_an_object_that_cannot_be_used_says_why_once() -> None:
    raw = job_object()
    (action,) = reject(TRAINING_JOBS, raw, "Pending", "spec.roles: nothing", NOW)
    conditions = {item["type"]: item for item in action.change["conditions"]}
    assert conditions["Stalled"]["status"] == "True"
    assert conditions["Stalled"]["message"] == action.change["message"] == "spec.roles: nothing"
    assert reject(TRAINING_JOBS, {**raw, "status": dict(action.change)}, "Pending", "spec.roles: nothing", NOW) == ()


@given(st.sampled_from(JobPhase), st.sampled_from(JobPhase))
def test_every_phase_that_can_be_reached_is_reached_in_two_steps(now: JobPhase, wanted: JobPhase) -> None:
    step = advance(TRAINING_JOB, now, wanted, JobPhase.PENDING)
    assert TRAINING_JOB.may(now, step)
    if not TRAINING_JOB.final(now) and (now, wanted) != (JobPhase.SUSPENDED, JobPhase.SUSPENDED):
        assert advance(TRAINING_JOB, step, wanted, JobPhase.PENDING) == wanted


@given(st.one_of(st.none(), st.sampled_from(ServicePhase)), st.sampled_from(ServicePhase))
def test_a_service_reaches_every_phase(now: ServicePhase | None, wanted: ServicePhase) -> None:
    for _ in range(2):
        step = advance(INFERENCE_SERVICE, now, wanted, ServicePhase.PENDING)
        assert INFERENCE_SERVICE.may(now, step)
        now = step
    assert now == wanted


@given(st.text(max_size=200))
def test_any_text_becomes_a_reason_that_the_api_takes(text: str) -> None:
    code = reason_code(text)
    assert code.isascii()
    assert code[0].isalpha()
    assert len(code) <= 128


def pod(name: str, code: str) -> PodView:
    return view({"metadata": {"name": name}, "status": {"conditions": waits_for(code)}})


@pytest.mark.parametrize(
    ("codes", "dominant"),
    [
        ((), ""),
        (("InsufficientGpu", "InsufficientGpu", "InvalidRequest"), "InvalidRequest"),
        (("InsufficientCpu", "InsufficientGpu"), "InsufficientGpu"),
        (("SomethingNew", "InsufficientCpu"), "InsufficientCpu"),
    ],
)
def test_the_dominant_reason_does_not_hang_on_the_order_of_pods(codes: tuple[str, ...], dominant: str) -> None:
    pods = [pod(f"pod-{number}", code) for number, code in enumerate(codes)]
    assert waiting_reason(pods) == waiting_reason(reversed(pods))
    assert waiting_reason(pods)[0] == dominant
