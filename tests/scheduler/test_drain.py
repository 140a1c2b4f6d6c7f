"""Pods of a queue that is drained are asked to leave, again now and then where that is refused."""

from tests.worlds import START, bound, leaving, pod

from tangram.scheduler.drain import Drain

RUNS = bound(pod("runs", queue="q"), "n0")
PODS = [
    RUNS,
    pod("waits", queue="q"),
    leaving(bound(pod("leaves", queue="q"), "n0")),
    bound(pod("other", queue="r"), "n0"),
    bound(pod("foreign", queue="q", scheduler="default-scheduler"), "n0"),
]


def test_who_runs_in_the_queue_is_asked_once_and_again_after_a_minute() -> None:
    drain = Drain("tangram", lambda metadata: metadata.labels.get("scheduling.example.com/queue", ""))
    asked = {
        second: [evict.pod.name for evict in drain.due(START + second, {"q"}, PODS)] for second in (0, 3, 6, 59, 66, 70)
    }
    assert asked == {0: ["runs"], 3: [], 6: [], 59: [], 66: ["runs"], 70: []}


def test_the_default_queue_can_be_drained_too() -> None:
    [found] = Drain("tangram", lambda _: "").due(START, {"default"}, [bound(pod("x"), "n0")])
    assert (found.pod.name, found.node, found.claimant) == ("x", "n0", None)
    assert found.reason == "queue default is drained by the policy"


def test_nobody_is_asked_once_the_queue_is_drained_no_more() -> None:
    drain = Drain("tangram", lambda _: "q")
    assert drain.due(START, {"q"}, [RUNS])
    assert drain.due(START + 100, frozenset(), [RUNS]) == []
    assert drain.due(START + 110, {"q"}, [RUNS])


def test_a_clock_that_was_ahead_stops_nothing() -> None:
    drain = Drain("tangram", lambda _: "q")
    assert drain.due(START + 1000, {"q"}, [RUNS])
    assert drain.due(START + 5, {"q"}, [RUNS]) == []
    assert drain.due(START + 70, {"q"}, [RUNS])
