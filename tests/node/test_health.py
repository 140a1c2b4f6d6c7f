"""Given what is seen of a GPU over time, then this is how it is."""

from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.errors import PluginError
from tangram.node.gpus import Condition, Health
from tangram.node.health import QUIET_SECONDS, History, Signs, judge, remember
from tangram.node.predict import MOST_SAMPLES, Sample, predictor, trend
from tangram.node.xids import XIDS, Effect, xid

HEALTHY, DEGRADED, UNHEALTHY = Health.HEALTHY, Health.DEGRADED, Health.UNHEALTHY
WELL = Signs(0.0, corrected=0, uncorrected=0, temperature=40, slowdown=87, shutdown=92)


def seen(*signs: Signs) -> Condition:
    """The condition after these looks, ten seconds apart."""
    history = History()
    for number, one in enumerate(signs):
        one = replace(one, at=one.at or 10.0 * number)
        history = remember(history, one)
    return judge(history, one, trend)


@pytest.mark.parametrize(
    ("sign", "health", "reason"),
    [
        (WELL, HEALTHY, ""),
        (Signs(0.0), HEALTHY, ""),
        (replace(WELL, absent="GPU is lost"), UNHEALTHY, "GPU is lost"),
        (replace(WELL, remap_pending=True), DEGRADED, "a memory row is to be remapped"),
        (replace(WELL, remap_failed=True, remap_pending=True), UNHEALTHY, "could not be remapped"),
        (replace(WELL, uncorrected=2), DEGRADED, "2 uncorrected memory errors"),
        (replace(WELL, corrected=10_000), HEALTHY, ""),
        (replace(WELL, temperature=86), HEALTHY, ""),
        (replace(WELL, temperature=87), DEGRADED, "too hot: it has reached 87 °C"),
        (replace(WELL, temperature=92), UNHEALTHY, "so hot that it shuts down (92 °C)"),
        (replace(WELL, temperature=96, slowdown=None, shutdown=None), DEGRADED, "too hot: it has reached 95 °C"),
        (replace(WELL, recovery="reset of the GPU"), UNHEALTHY, "the driver asks for: reset of the GPU"),
        (replace(WELL, recovery=""), HEALTHY, ""),
        (replace(WELL, xids=(13, 31, 43, 45, 68)), HEALTHY, ""),
        (replace(WELL, xids=(63,)), DEGRADED, "XID 63: row remapped"),
        (replace(WELL, xids=(94,)), DEGRADED, "XID 94: contained memory error"),
        (replace(WELL, xids=(31, 48, 63)), UNHEALTHY, "XID 48: double-bit memory error; it has to be reset"),
        (replace(WELL, xids=(999,)), DEGRADED, "XID 999: not in the table"),
    ],
)
def test_one_look(sign: Signs, health: Health, reason: str) -> None:
    condition = seen(WELL, sign)
    assert condition.health is health
    assert reason in condition.reason
    assert bool(reason) == bool(condition.reason)


@pytest.mark.parametrize("number", [48, 64, 74, 79, 95, 119, 120])
def test_errors_that_only_a_reset_cures_stay(number: int) -> None:
    assert xid(number).effect is Effect.RESET
    after = seen(WELL, replace(WELL, xids=(number,)), replace(WELL, at=1e6))
    assert after == Condition(UNHEALTHY, f"XID {number}: {xid(number).meaning}; it has to be reset")


def test_an_error_that_passes_is_waited_out() -> None:
    error = replace(WELL, at=10.0, xids=(94,))
    assert seen(WELL, error, replace(WELL, at=9.0 + QUIET_SECONDS)).health is DEGRADED
    assert seen(WELL, error, replace(WELL, at=11.0 + QUIET_SECONDS)).health is HEALTHY


def test_a_gpu_that_fell_off_comes_back_when_it_has_been_quiet() -> None:
    lost = [replace(WELL, at=10.0, xids=(79,)), replace(WELL, at=20.0, absent="GPU is lost")]
    assert seen(WELL, *lost).reason == "GPU is lost (after XID 79: GPU has fallen off the bus)"
    back = replace(WELL, at=30.0)
    assert seen(WELL, *lost, back) == Condition(DEGRADED, "it is back after it was gone")
    assert seen(WELL, *lost, back, replace(WELL, at=30.0 + QUIET_SECONDS)).health is HEALTHY
    again = replace(WELL, at=40.0, xids=(79,))
    assert seen(WELL, *lost, back, again, replace(WELL, at=31.0 + QUIET_SECONDS)).health is UNHEALTHY


def test_a_driver_that_was_loaded_again_cures_and_one_that_wants_nothing_done_knows_better() -> None:
    fault = replace(WELL, at=10.0, xids=(119,))
    assert seen(WELL, fault, replace(WELL, at=20.0, reloaded=True)).health is DEGRADED
    assert seen(WELL, replace(WELL, reloaded=True)).health is HEALTHY
    told = replace(WELL, recovery="")
    assert seen(told, fault, replace(told, at=20.0)).health is UNHEALTHY
    assert seen(told, fault, replace(told, at=10.0 + QUIET_SECONDS)).health is HEALTHY


def test_a_hot_gpu_has_to_cool_down_by_more_than_a_degree() -> None:
    hot, below, cool = (replace(WELL, temperature=degrees) for degrees in (87, 86, 81))
    assert seen(hot, below).health is DEGRADED
    assert seen(hot, below, cool, below).health is HEALTHY


@given(st.lists(st.lists(st.integers(1, 1023), max_size=3).map(tuple), max_size=80))
def test_whatever_comes_is_remembered_within_bounds(looks: list[tuple[int, ...]]) -> None:
    history = History()
    for number, xids in enumerate(looks):
        history = remember(history, replace(WELL, at=60.0 * number, xids=xids))
    assert len(history.samples) <= MOST_SAMPLES
    assert history.xids == sum(xid(one).effect is not Effect.APPLICATION for look in looks for one in look)


def hour(make: Callable[[int], Sample]) -> tuple[Sample, ...]:
    return tuple(replace(make(minute), at=60.0 * minute) for minute in range(60))


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ((), ""),
        (hour(lambda minute: Sample(0, corrected=0, temperature=60, slowdown=87)), ""),
        (hour(lambda minute: Sample(0, corrected=5 * minute)), ""),
        (hour(lambda minute: Sample(0, corrected=minute**2)), "corrected memory errors rise: 900, then 2581"),
        (hour(lambda minute: Sample(0, corrected=minute**2))[:5], ""),
        (hour(lambda minute: Sample(0, xids=minute // 20)), ""),
        (hour(lambda minute: Sample(0, xids=minute // 15)), "3 hardware errors (XID)"),
        (hour(lambda minute: Sample(0, temperature=40 + minute // 2, slowdown=87)), ""),
        (
            hour(lambda minute: Sample(0, temperature=60 + minute // 3, slowdown=80)),
            "temperature rises: 63, then 76 °C",
        ),
        (hour(lambda minute: Sample(0)), ""),
    ],
)
def test_the_trend_that_predicts_a_failure(samples: tuple[Sample, ...], reason: str) -> None:
    assert trend(samples).startswith(reason)
    assert bool(trend(samples)) == bool(reason)


def test_a_gpu_at_risk_is_healthy_until_it_fails() -> None:
    errors = [replace(WELL, at=100.0 * number, xids=(121,)) for number in range(5)]
    condition = seen(WELL, *errors)
    assert condition.health is HEALTHY
    assert condition.at_risk == "5 hardware errors (XID) within 7 minutes"


def test_counts_that_begin_again_are_no_trend() -> None:
    looks = [replace(WELL, at=60.0 * minute, corrected=minute**2) for minute in range(1, 20)]
    assert seen(*looks).at_risk
    assert not seen(*looks, replace(WELL, at=1300.0, corrected=0)).at_risk


def test_a_predictor_of_ones_own_is_found_by_name() -> None:
    point = EntryPoint("mine", "tests.node.test_health:trend", "tangram.failure_predictors")
    assert predictor("trend") is trend
    assert predictor("mine", [point])(()) == ""
    with pytest.raises(PluginError, match="'other' is unknown; known: mine, trend"):
        predictor("other", [point])
    with pytest.raises(PluginError, match="cannot be loaded"):
        predictor("gone", [EntryPoint("gone", "no.such.module", "tangram.failure_predictors")])


def test_every_error_has_a_meaning_and_one_effect() -> None:
    assert all(0 < number < 1024 and one.meaning for number, one in XIDS.items())
    assert {number for number, one in XIDS.items() if one.effect is Effect.APPLICATION} >= {13, 31, 43, 45, 68}
