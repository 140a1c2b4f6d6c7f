"""Which events of pods wake the scheduler."""

from typing import Any, cast

import pytest
from msgspec.structs import replace
from tests.snapshot.test_amounts import having
from tests.worlds import START, bound, node, pod

from tangram.cluster.rest import Client
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.live import LiveScheduler
from tangram.settings import SchedulerSettings


@pytest.fixture
async def live() -> LiveScheduler:
    scheduler = LiveScheduler(cast("Client", None), Cycle(SchedulerSettings()), cast("Any", None))
    scheduler._replay_deferred()
    scheduler.cycle.builder.put_node(node("n0", 0, cpu=8))
    return scheduler


async def test_what_a_resize_gives_back_wakes_it(live: LiveScheduler) -> None:
    running = bound(pod("p", cpu=1), "n0", started=START)
    before, after = having(running, 6, 6), having(running, 1, 1)
    live._on_pod("added", None, before)
    live._wake.clear()
    live._on_pod("modified", before, after)
    assert live._wake.is_set()


async def test_a_pod_that_starts_does_not(live: LiveScheduler) -> None:
    one = pod("p", cpu=1)
    there = bound(one, "n0", started=START)
    live._on_pod("added", None, there)
    live._wake.clear()
    live._on_pod("modified", there, replace(there, metadata=replace(there.metadata, resource_version="2")))
    assert not live._wake.is_set()
