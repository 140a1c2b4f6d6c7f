"""A scheduler that has not renewed its Lease is said to be silent before anything else is answered."""

import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.conftest import Api

from tangram.cluster.paths import HYBRID_POLICIES, LEASES
from tangram.scheduler.published import publishing
from tangram.scheduler.silence import Now, PublishedLease, silence
from tangram.settings import SchedulerSettings
from tangram.units import rfc3339

START = 1_800_000_000


def lease(written: float | None, renewed: float | None = None, duration: int = 15) -> dict[str, Any]:
    """A Lease that the API server took in at one time, and whose holder's clock said another."""
    annotations = publishing(SchedulerSettings())
    managed = [] if written is None else [{"manager": "x", "time": rfc3339(1)}, {"time": rfc3339(written)}]
    spec = {"leaseDurationSeconds": duration, "holderIdentity": "x"}
    return {
        "metadata": {"name": "tangram-scheduler", "annotations": annotations, "managedFields": managed},
        "spec": spec | ({} if renewed is None else {"renewTime": rfc3339(renewed)}),
    }


@pytest.mark.parametrize("verb", [("explain",), ("queues",), ("version",), ("explain", "-A", "-o", "json")], ids=str)
@pytest.mark.parametrize("late", [0, 20, 40, 4000])
def test_every_answer_says_first_that_the_scheduler_is_dead(api: Api, verb: tuple[str, ...], late: int) -> None:
    """They said that a pod can be scheduled, what queues used long ago, and a version, all as if it were at work."""
    api.put(HYBRID_POLICIES, {"metadata": {"name": "default"}, "spec": {}})
    api.put(LEASES, lease(time.time() - late), "tangram-system")
    done = api.run(*verb)
    assert done.exit_code == 0
    said = done.output.startswith("Warning: scheduler tangram does not work: it has not renewed its Lease ")
    assert said is (late > 30), done.output
    assert ("does not work" in done.stdout.split("silentSchedulers")[0]) is False  # programs read that


def published(*leases: dict[str, Any]) -> list[PublishedLease]:

    return [msgspec.convert(one, PublishedLease) for one in leases]


@given(skew=st.integers(-10_000, 10_000), late=st.integers(0, 10_000))
def test_a_clock_that_is_wrong_here_or_at_the_scheduler_says_nothing(skew: int, late: int) -> None:
    """Both times are the API server's."""
    found = published(lease(START - late, renewed=START - late + skew))
    assert bool(silence(found, "tangram", Now(START - skew, START))) is (late > 30)


@pytest.mark.parametrize(("late", "silent"), [(0, False), (200, False), (320, True)])
def test_without_the_servers_own_times_much_is_allowed(late: int, silent: bool) -> None:
    assert bool(silence(published(lease(None, START - late)), "tangram", Now(START, START))) is silent
    assert bool(silence(published(lease(START - late, START - late)), "tangram", Now(START))) is silent


def test_what_is_not_known_is_no_silence() -> None:
    assert silence([], "tangram", Now(START, START)) == ""
    assert silence(published(lease(None)), "tangram", Now(START, START)) == ""
    assert silence(published(lease(START - 900)), "another", Now(START, START)) == ""
    assert silence(published(lease(START - 900), lease(START)), "tangram", Now(START, START)) == ""
    assert silence([PublishedLease(metadata=published(lease(1))[0].metadata)], "tangram", Now(START)) == ""


def test_a_long_lease_is_waited_for_and_one_that_was_given_up_is_not_expected_at_once() -> None:
    assert silence(published(lease(START - 60, duration=60)), "tangram", Now(START, START)) == ""
    assert silence(published(lease(START - 20, duration=1)), "tangram", Now(START, START)) == ""
    assert "for 40s" in silence(published(lease(START - 40, duration=1)), "tangram", Now(START, START))
