"""The API server's clock, by the dates of its answers."""

from tangram.cluster.server_clock import ServerClock

DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


def test_a_steady_clock_counts_on_from_the_last_date() -> None:
    steady = [5.0]
    clock = ServerClock(lambda: steady[0])
    assert clock.now() is None
    clock.note(None)
    clock.note("yesterday")
    assert clock.now() is None
    clock.note(DATE)
    steady[0] = 65.0
    assert clock.now() == 1_700_000_060


def test_a_date_is_read_now_and_then_only_and_the_last_one_counts() -> None:
    steady = [0.0]
    clock = ServerClock(lambda: steady[0])
    clock.note(DATE)
    steady[0] = 1.0
    clock.note("Tue, 14 Nov 2023 23:13:20 GMT")
    assert clock.now() == 1_700_000_001
    steady[0] = 11.0
    clock.note("Tue, 14 Nov 2023 23:13:20 GMT")
    assert clock.now() == 1_700_003_600
