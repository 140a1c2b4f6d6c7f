"""Pods of a queue that is drained are asked to leave, again now and then where that is refused."""

import msgspec
import pytest
from tests.worlds import START, bound, leaving, pod

from tangram.api.objects import OwnerReference, Pod
from tangram.scheduler.drain import Drain
from tangram.snapshot.pods.running import CRITICAL

RUNS = bound(pod("runs", queue="q"), "n0")
PODS = [
    RUNS,
    pod("waits", queue="q"),
    leaving(bound(pod("leaves", queue="q"), "n0")),
    bound(pod("other", queue="r"), "n0"),
    bound(pod("foreign", queue="q", scheduler="default-scheduler"), "n0"),
]


def in_the_system(one: Pod) -> Pod:
    return msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, namespace="kube-system"))


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


def of_a(kind: str, one: Pod) -> Pod:
    """The pod with such an owner."""
    metadata = msgspec.structs.replace(one.metadata, owner_references=(OwnerReference(kind=kind, name="x", uid="u"),))
    return msgspec.structs.replace(one, metadata=metadata)


@pytest.mark.parametrize(
    ("one", "leaves"),
    [
        (of_a("ReplicaSet", RUNS), True),
        (of_a("DaemonSet", RUNS), False),
        (of_a("Node", RUNS), False),
        (in_the_system(bound(pod("critical", queue="q", priority=CRITICAL), "n0")), False),
        (bound(pod("tenant", queue="q", priority=CRITICAL), "n0"), True),
        (bound(pod("important", queue="q", priority=CRITICAL - 1), "n0"), True),
    ],
    ids=["deployment", "daemonset", "static", "critical", "critical in a namespace of a tenant", "priority"],
)
def test_pods_that_belong_to_their_node_or_to_the_system_stay(one: Pod, leaves: bool) -> None:
    drain = Drain("tangram", lambda metadata: metadata.labels.get("scheduling.example.com/queue", ""))
    assert [evict.pod.name for evict in drain.due(START, {"q"}, [one])] == [one.metadata.name] * leaves


def test_a_clock_that_was_ahead_stops_nothing() -> None:
    drain = Drain("tangram", lambda _: "q")
    assert drain.due(START + 1000, {"q"}, [RUNS])
    assert drain.due(START + 5, {"q"}, [RUNS]) == []
    assert drain.due(START + 70, {"q"}, [RUNS])
