"""Text becomes integers in one place: what is read, how it is rounded, what is refused, and at what cost."""

import contextlib
import math
from datetime import UTC, datetime
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram import units
from tangram.errors import InvalidInput


@pytest.mark.parametrize(
    ("text", "milli"),
    [
        ("1", 1000), (2, 2000), ("100m", 100), ("1500m", 1500), ("0.1", 100), (".5", 500), ("2.", 2000),
        ("1e2", 100_000), ("1E2", 100_000), ("1e-3", 1), ("100u", 1), ("1n", 1), ("0", 0), ("+3", 3000),
        (0.25, 250), ("1k", 1_000_000), ("1Ki", 1_024_000), ("0.0001", 1),
    ],
)  # fmt: skip
def test_cpu_is_read_as_milli_cores_and_rounded_up(text: object, milli: int) -> None:
    assert units.cpu_milli(text) == milli


@pytest.mark.parametrize(
    ("text", "up", "down"),
    [
        ("1Gi", 1024, 1024), ("1Mi", 1, 1), ("1Ki", 1, 0), (1, 1, 0), ("1M", 1, 0), ("1G", 954, 953),
        ("1.5Gi", 1536, 1536), ("1Ti", 1 << 20, 1 << 20), ("128974848", 123, 123), ("1e9", 954, 953), ("0", 0, 0),
    ],
)  # fmt: skip
def test_memory_rounds_requests_up_and_capacity_down(text: object, up: int, down: int) -> None:
    """So that rounding can never overfill a node."""
    assert units.memory_mib(text) == up
    assert units.memory_mib(text, round_up=False) == down


@pytest.mark.parametrize(
    "text",
    [
        "", " ", " 4 ", "-1", "-0", "NaN", "nan", "inf", "-inf", "Infinity", math.nan, math.inf, None,
        True, "1,5", "0x10", "1_000", "١",
        "1 Gi", "1gi", "1GiB", "1ee2", "e2", ".", "+", "1e400", "1e999999999", "9" * 400, "1e", "1e2Ki", "1Ei" * 2,
        "1\n", "100E", [], {},
    ],
)  # fmt: skip
def test_what_the_api_server_would_not_accept_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"quantity|real"):
        units.quantity(text)


def test_huge_exponents_and_long_texts_cost_nothing() -> None:
    """An exponent is bounded by the grammar before any power is taken."""
    for text in ("1e99", "1e-99", "9" * 18 + "e99", "0." + "9" * 18 + "e-99", "1" * 1_000_000, "1e" + "9" * 100_000):
        with contextlib.suppress(ValueError):
            assert 0 <= units.quantity(text) < 1 << 62


@given(value=st.integers(0, 10**12), suffix=st.sampled_from(sorted(units._SUFFIX)))
def test_a_quantity_is_its_exact_value_rounded_outwards(value: int, suffix: str) -> None:
    up, down = units._SUFFIX[suffix]
    exact = Fraction(value * up, down)
    if exact >= units._LARGEST:
        with pytest.raises(ValueError, match="real"):
            units.quantity(f"{value}{suffix}")
        return
    assert units.quantity(f"{value}{suffix}") == math.ceil(exact)
    assert units.quantity(f"{value}{suffix}", round_up=False) == math.floor(exact)


@given(st.decimals(0, 10**9, places=6, allow_nan=False, allow_infinity=False))
def test_decimal_and_scientific_writing_mean_the_same(value: object) -> None:
    plain, scientific = f"{value:f}", f"{value:e}"
    assert units.cpu_milli(plain) == units.cpu_milli(scientific)


@given(st.text(max_size=40))
def test_any_text_is_a_quantity_or_a_value_error(text: str) -> None:
    try:
        value = units.quantity(text)
    except ValueError:
        return
    assert 0 <= value < 1 << 62


@pytest.mark.parametrize(
    ("hundredths", "share"),
    [
        (0, (0, 0)), (1, (1, 10)), ("30", (1, 300)), (99, (1, 990)), (100, (1, 1000)), ("200", (2, 1000)),
        (800, (8, 1000)),
    ],
)  # fmt: skip
def test_gpu_share_is_devices_and_milli_of_each(hundredths: object, share: tuple[int, int]) -> None:
    assert units.gpu_share(hundredths) == share


@pytest.mark.parametrize("hundredths", [101, 130, "150", 199, 250])
def test_above_one_gpu_only_whole_ones_are_given(hundredths: object) -> None:
    with pytest.raises(ValueError, match="multiples of 100"):
        units.gpu_share(hundredths)


@pytest.mark.parametrize("hundredths", ["-30", "NaN", "", "thirty", "1e400", None])
def test_a_share_that_is_no_quantity_is_refused(hundredths: object) -> None:
    with pytest.raises(ValueError, match="quantity"):
        units.gpu_share(hundredths)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("2h30m", 9000), ("3d", 259_200), ("1d1h1m1s", 90_061), ("0s", 0)]
)
def test_durations(text: str, seconds: int) -> None:
    assert units.duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "1.5h", "-1s", "1s1m", "1w", "s", None, "1" * 50 + "s", "١s"])
def test_a_wrong_duration_is_refused_by_name(text: object) -> None:
    with pytest.raises(InvalidInput, match=r"policy/a: duration: .* is not allowed; allowed: a duration such as 90s"):
        units.duration_seconds(text, "policy/a")


@given(st.integers(0, 4_000_000_000))
def test_timestamps_go_round(seconds: int) -> None:
    assert units.timestamp_seconds(units.rfc3339(seconds)) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2024-02-29T12:00:00Z", int(datetime(2024, 2, 29, 12, tzinfo=UTC).timestamp())),
        ("2024-02-29T14:00:00.123456+02:00", int(datetime(2024, 2, 29, 12, tzinfo=UTC).timestamp())),
        ("2024-02-29T12:00:00.123456789Z", int(datetime(2024, 2, 29, 12, tzinfo=UTC).timestamp())),
        (None, 0), ("", 0), ("yesterday", 0), ("2023-02-29T00:00:00Z", 0), ("9" * 1000, 0),
        ("0001-01-01T00:00:00+23:59", 0), ("9999-12-31T23:59:59-23:59", 0), ("0001-01-01T00:00:00Z", 0),
    ],
)  # fmt: skip
def test_an_objects_clock_is_not_trusted(text: str | None, seconds: int) -> None:
    """A time that cannot be read, or that lies before the epoch, counts as none."""
    found = units.timestamp_seconds(text)
    assert found == seconds or (seconds == 0 and text is not None and text.startswith("9999") and found > 0)
