"""Pods that cannot be read, as the watch shows them to the scheduler, and what becomes of their nodes."""

from typing import Any, cast

import pytest
from tests.worlds import START, node, pod

from tangram.api.objects import Pod
from tangram.cluster.mirror import Undecodable
from tangram.cluster.rest import Client
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.live import LiveScheduler
from tangram.settings import SchedulerSettings

ON_N0 = b'{"spec": {"nodeName": "n0"}}'


@pytest.fixture
async def live() -> LiveScheduler:
    """A scheduler that knows one node with one GPU."""
    scheduler = LiveScheduler(cast("Client", None), Cycle(SchedulerSettings(debug=True)), cast("Any", None))
    scheduler._replay_deferred()
    scheduler.cycle.builder.put_node(node("n0", 1))
    return scheduler


def unreadable(one: Pod, raw: bytes) -> Undecodable:
    return Undecodable("added", raw, "odd", one.metadata)


def placed(live: LiveScheduler, now: int) -> list[str]:
    return [place.pod.name for place in live.cycle.decide(now).place]


async def test_a_pod_that_can_be_read_again_and_was_placed_keeps_its_place(live: LiveScheduler) -> None:
    x = pod("x", whole=1)
    live._on_unreadable_pod(unreadable(x, b"{}"))
    live._on_pod("modified", None, x)
    assert placed(live, START) == ["x"]
    live._forget_unreadable()
    live._on_pod("added", None, pod("y", whole=1, priority=5))
    assert placed(live, START + 1) == []


async def test_the_gpus_of_an_unreadable_pod_are_free_once_it_is_gone(live: LiveScheduler) -> None:
    live._on_unreadable_pod(unreadable(pod("x", whole=1), ON_N0))
    live._on_pod("added", None, pod("y", whole=1))
    assert placed(live, START) == []
    live._forget_unreadable()
    assert placed(live, START + 1) == ["y"]


@pytest.mark.parametrize(
    "raw", [b'{"spec": {"x":' + b"[" * 60_000, b'{"spec": {"nodeName": "\xff"}}'], ids=["deep nesting", "no UTF-8"]
)
async def test_a_pod_of_which_not_even_the_node_can_be_read_ends_nothing(live: LiveScheduler, raw: bytes) -> None:
    live._on_unreadable_pod(unreadable(pod("x", whole=1), raw))
    assert placed(live, START) == []
