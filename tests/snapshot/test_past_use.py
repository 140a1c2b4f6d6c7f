"""Past use of queues: nothing is counted twice or forgotten by whoever leads next, whatever clocks and statuses say."""

import pytest
from tests.worlds import START, bound, cluster, pod, policy

from tangram.api.objects import Pod
from tangram.api.policy import HybridPolicy, PolicyStatus
from tangram.api.queue import QueueUse
from tangram.plan import Device, Place, PodName
from tangram.snapshot.build import Builder
from tangram.snapshot.queues.past_use import seconds

HOUR, YEAR = 3600, 365 * 86_400


def of_queues(*names: str, half_life: str = "24h", **recent: int) -> HybridPolicy:
    """A policy with these queues, whose status says what each of them has used."""
    status = PolicyStatus(queues=tuple(QueueUse(name=name, recent_gpu_seconds=recent[name]) for name in recent))
    found = policy(queues=[{"name": name} for name in names], usageHalfLife=half_life)
    return found.model_copy(update={"status": status})


def started(known: HybridPolicy) -> Builder:
    """What a scheduler knows that starts with a node of eight GPUs."""
    builder = Builder()
    builder.set_policy(known)
    for node in cluster("1x8xA100"):
        builder.put_node(node)
    return builder


def run(builder: Builder, name: str, gpus: range) -> None:
    """A pod of queue a runs on these GPUs."""
    devices = [(str(index), 100) for index in gpus]
    builder.put_pod(bound(pod(name, whole=len(devices), queue="a"), "n0", {"main": devices}))


def used(builder: Builder, now: int, queue: str = "a") -> int:
    """GPU-seconds of a queue."""
    queues = builder.snapshot(now).queues
    return seconds(queues, queues.names.index(queue))["recent_gpu_seconds"]


def recall(builder: Builder, known: HybridPolicy) -> None:
    builder.queues.past.recall(known, builder.queues.arrays)


def test_a_scheduler_that_starts_goes_on_with_every_queue_of_the_status() -> None:
    builder = started(of_queues("default", "a", default=50_000, a=40_000))

    assert [used(builder, START, queue) for queue in ("default", "a")] == [50_000, 40_000]


def test_what_another_counted_is_not_counted_again_by_one_that_leads_again() -> None:
    builder = started(of_queues("a"))
    run(builder, "x", range(1))
    used(builder, START)
    used(builder, START + 5)
    recall(builder, of_queues("a", a=31_400))  # by who leads now

    assert used(builder, START + 10 * HOUR) == 31_400
    assert used(builder, START + 10 * HOUR + 5) == pytest.approx(31_405, abs=3)


def test_pods_that_came_and_went_while_another_led_are_not_charged() -> None:
    builder = started(of_queues("a"))
    run(builder, "x", range(1))
    used(builder, START)
    recall(builder, of_queues("a", a=100))
    run(builder, "y", range(1, 8))
    builder.remove_pod("uid-y")

    used(builder, START + HOUR)
    assert used(builder, START + HOUR + 10) == pytest.approx(110, abs=1)


def test_without_a_half_life_what_was_used_before_does_not_count() -> None:
    builder = started(of_queues("a", half_life="0s", a=5000))
    assert used(builder, START) == 0
    recall(builder, of_queues("a", half_life="0s", a=5000))
    assert used(builder, START + 5) == 0

    builder = started(of_queues("a", a=5000))
    used(builder, START)
    builder.set_policy(of_queues("a", half_life="0s", a=5000))
    assert used(builder, START + 5) == 0


def test_whatever_a_status_says_what_is_written_next_can_be_written() -> None:
    builder = started(of_queues("a", a=2**63 - 1))

    assert used(builder, START) == 10**15


def test_a_reading_of_a_clock_far_ahead_is_taken_back() -> None:
    """Of two schedulers only one has, for two cycles, a clock that is ten years ahead."""
    right, ahead = started(of_queues("a")), started(of_queues("a"))
    for builder in (right, ahead):
        run(builder, "x", range(1))
        used(builder, START)
        used(builder, START + HOUR)
    for moment in (HOUR + 10 * YEAR, HOUR + 10 * YEAR + 5):
        used(ahead, START + moment)

    for moment in (HOUR + 5, 2 * HOUR, 25 * HOUR):
        assert used(ahead, START + moment) == pytest.approx(used(right, START + moment), abs=5)


def test_a_step_that_is_not_taken_back_counts_as_a_day_at_most() -> None:
    builder = started(of_queues("a", a=80_000))
    run(builder, "x", range(1))
    used(builder, START)

    assert used(builder, START + 10 * YEAR) == pytest.approx(40_000 + 86_400 / 2 / 0.6931, abs=5)


def test_what_passed_before_a_clock_was_set_back_is_not_counted_again() -> None:
    builder = started(of_queues("a"))
    run(builder, "x", range(1))
    moments = (0, 60, -10 * YEAR, -10 * YEAR + 5, 70)

    assert [used(builder, START + moment) for moment in moments] == pytest.approx([0, 60, 60, 65, 75], abs=1)


def sent(builder: Builder, name: str, gpus: range) -> Pod:
    """A pod of queue a whose binding to these GPUs has been sent; the pod as it is once bound."""
    waiting = pod(name, whole=len(gpus), queue="a")
    builder.put_pod(waiting)
    builder.snapshot(START)
    given = tuple(Device(str(index), index, 1000) for index in gpus)
    builder.overlay(Place(PodName("default", name, f"uid-{name}"), "n0", (("main", given),)))
    return bound(waiting, "n0", {"main": [(str(index), 100) for index in gpus]})


def test_bindings_that_are_refused_again_and_again_have_used_nothing() -> None:
    builder = started(of_queues("a"))
    run(builder, "x", range(1))
    used(builder, START)
    for attempt in range(10):
        sent(builder, "y", range(1, 8))
        builder.forget("uid-y")
        sent(builder, "z", range(1, 3))
        used(builder, START + 5 * attempt + 5)
        builder.forget("uid-z")

    assert used(builder, START + 60) == pytest.approx(60, abs=1)


def test_a_binding_counts_from_when_it_is_seen_to_hold() -> None:
    builder = started(of_queues("a"))
    used(builder, START)
    shown = sent(builder, "x", range(4))
    assert used(builder, START + 5) == 0
    builder.put_pod(shown)
    assert used(builder, START + 10) == pytest.approx(4 * 5, abs=1)
    other = sent(builder, "y", range(4, 8))
    builder.remove_pod("uid-x")
    builder.put_pod(other)
    assert used(builder, START + 15) == pytest.approx(4 * 10, abs=1)
