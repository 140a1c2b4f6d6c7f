"""Questions are answered by the settings of the scheduler that is asked about, as far as it has published them."""

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.worlds import START, bound, gang, node, pod, recording

from tangram import errors
from tangram.api import names
from tangram.api.objects import Metadata, Pod
from tangram.cli.main import tangram
from tangram.cli.output import camel
from tangram.questions.estimate import estimate
from tangram.questions.explain import explain
from tangram.questions.observe import cycle_of, settings_of
from tangram.questions.what_if import Fit, judge
from tangram.scheduler.published import published, publishing
from tangram.settings import DECIDING, SchedulerSettings, deciding
from tangram.snapshot.recording import Recording, load, save

NOBODY_IS_WAITED_FOR = SchedulerSettings(reservation_delay=-1)
HELD = bound(pod("held", whole=1, age=9_000), "n0", {"main": [("0", 100)]})
BIG = pod("big", whole=2, age=9_000)
SMALL = pod("small", whole=1, age=0)


def world(settings: SchedulerSettings | None, *pods: Pod) -> Recording:
    """One node of two GPUs, of which one is held, and a pod that has long been waiting for both."""
    known = None if settings is None else deciding(settings)
    return recording(START, [node("n0", 2)], [HELD, BIG, *pods], settings=known)


@pytest.mark.parametrize(
    ("settings", "state", "reason"),
    [(None, "waits", "Reserved"), (NOBODY_IS_WAITED_FOR, "fits", "Scheduled")],
    ids=["defaults", "no reservations"],
)
def test_a_pod_behind_one_that_has_long_waited(settings: SchedulerSettings | None, state: str, reason: str) -> None:
    found = explain(world(settings, SMALL), SMALL)
    assert (found.state, found.reason) == (state, reason)
    assert judge(world(settings), (SMALL,)).fit is (Fit.NOW if state == "fits" else Fit.LATER)
    ending = pod("ending", annotations={names.ESTIMATED_DURATION: "2h"})
    start = estimate(world(settings, SMALL, ending), {SMALL.metadata.uid}).p50
    assert (start == 0) == (state == "fits")


@pytest.mark.parametrize(("timeout", "start"), [(0, None), (100, 130), (1000, 1030)])
def test_a_pod_that_waits_for_the_end_of_a_gang_that_is_in_part(timeout: int, start: int | None) -> None:
    first, second = gang("g", 2, minimum=2, whole=2)
    short = pod("short", whole=0, annotations={names.ESTIMATED_DURATION: "30m"})
    pods = [bound(first, "n0", {"main": [("0", 100), ("1", 100)]}), second, short, pod("w", whole=2)]
    settings = deciding(SchedulerSettings(gang_timeout=timeout))
    assert estimate(recording(START, [node("n0", 3)], pods, settings=settings), {"uid-w"}).p50 == start


def test_changes_are_proposed_by_the_same_settings() -> None:
    small = pod("small", whole=2, age=0)
    assert explain(world(NOBODY_IS_WAITED_FOR, small), small).proposals[0].change.text == (
        "ask for 1 GPU instead of 2 GPUs"
    )


def test_a_saved_file_keeps_the_settings_and_one_without_them_is_read(tmp_path: Path) -> None:
    before, after, old = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "old.json"
    save(world(NOBODY_IS_WAITED_FOR, SMALL), before)
    assert CliRunner().invoke(tangram, ["snapshot", "save", str(after), "--from", str(before)]).exit_code == 0
    assert settings_of(load(after)) == NOBODY_IS_WAITED_FOR
    plain = json.loads(before.read_bytes())
    del plain["settings"]
    old.write_text(json.dumps(plain))
    assert settings_of(load(old)) == SchedulerSettings()


def test_the_answer_says_by_which_settings_it_was_found(tmp_path: Path) -> None:
    known, unknown = tmp_path / "known.json", tmp_path / "unknown.json"
    save(world(NOBODY_IS_WAITED_FOR, SMALL), known)
    save(world(None, SMALL), unknown)
    ask = ["explain", "small", "--from"]
    assert "settings" not in CliRunner().invoke(tangram, [*ask, str(known)]).output
    assert "the settings of scheduler tangram are not known" in CliRunner().invoke(tangram, [*ask, str(unknown)]).output
    answer = json.loads(CliRunner().invoke(tangram, [*ask, str(known), "-o", "json"]).output)
    spelled = {camel(name): value for name, value in deciding(NOBODY_IS_WAITED_FOR).items()}
    assert answer["settings"] == {"published": True} | spelled
    assert "gangTimeout" in spelled


def lease(text: str) -> Metadata:
    return Metadata("any", "any", annotations={names.SCHEDULER_SETTINGS: text})


SETTINGS = st.builds(SchedulerSettings, **{name: st.integers(*bounds) for name, bounds in DECIDING.items()})


@given(SETTINGS, SETTINGS)
def test_what_is_published_is_read_and_leases_that_disagree_are_not_believed(
    one: SchedulerSettings, other: SchedulerSettings
) -> None:
    leases = [Metadata("x"), *(lease(publishing(each)[names.SCHEDULER_SETTINGS]) for each in (one, other))]
    assert published(leases[:2], "tangram") == deciding(one)
    assert published(leases, "tangram") == (deciding(one) if one == other else None)
    assert published(leases, "another") is None


@pytest.mark.parametrize(
    "text",
    ["", "{", "7", "[]", "null", "{}", '{"schedulerName": "tangram", "batch": 0}',
     '{"schedulerName": "tangram", "batch": "256"}', '{"schedulerName": "tangram", "gang_timeout": 1e99}',
     "[" * 60_000, '{"schedulerName": "tangram", "x": ' + "[" * 60_000, '{"schedulerName": "\ud800"}'],
    ids=range(12),
)  # fmt: skip
def test_an_annotation_that_says_nothing_usable_counts_as_none(text: str) -> None:
    assert published([lease(text)], "tangram") is None


def test_settings_out_of_range_are_refused_by_name() -> None:
    broken = msgspec.structs.replace(world(None), settings={"reservation_delay": -2})
    with pytest.raises(errors.InvalidInput, match="reservation_delay: -2"):
        cycle_of(broken)
