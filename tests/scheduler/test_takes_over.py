"""What a scheduler does that another one decides beside."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from tests.waiting import eventually_async
from tests.worlds import START, bound, cluster, gang

from tangram.cluster.lease import Lease
from tangram.cluster.rest import Client
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.live import LiveScheduler


async def test_the_time_of_a_gang_that_is_bound_in_part_counts_also_while_another_process_decides() -> None:
    client, lease = SimpleNamespace(only_while=lambda _: None), SimpleNamespace(held=False, terms=0, on_acquired=None)
    scheduler = LiveScheduler(
        cast("Client", client), Cycle(), cast("Any", None), cast("Lease", lease), clock=lambda: START
    )
    builder = scheduler.cycle.builder
    builder.put_node(*cluster("1x1xA100"))
    first, second = gang("g", 2, whole=1)
    builder.put_pod(bound(first, "n0", {"main": [("0", 100)]}))
    builder.put_pod(second)
    running = asyncio.create_task(scheduler._decide_in_turn())
    scheduler._wake.set()
    await eventually_async(lambda: builder.gangs.arrays.since.max() == START, "the time has begun")
    running.cancel()
