"""What a live scheduler does when time passes: while another one decides, and when its clock is wrong."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.waiting import PATIENCE, eventually_async
from tests.worlds import START, bound, cluster, gang, pod

from tangram.api.objects import Metadata
from tangram.cluster.lease import Lease
from tangram.cluster.outcome import Outcome, Result
from tangram.cluster.permit import Permit
from tangram.cluster.rest import Client
from tangram.plan import Place, Plan, PodName, Provision
from tangram.scheduler import requests
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.live import LiveScheduler
from tangram.scheduler.policies import PolicyObject, StoredStatus
from tangram.scheduler.writes import ReadBack
from tangram.settings import LeaseSettings
from tangram.snapshot.queues.past_use import seconds


async def test_the_time_of_a_gang_that_is_bound_in_part_counts_also_while_another_process_decides() -> None:
    client, lease = SimpleNamespace(under=lambda _: None), SimpleNamespace(held=False, settings=LeaseSettings())
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


async def test_what_is_to_be_tried_again_waits_for_no_clock_that_was_ahead() -> None:
    """A binding whose answer was lost while the clock was ten years ahead is read back all the same."""
    clock = [float(START + 10 * 365 * 86_400)]
    scheduler = LiveScheduler(cast("Client", None), Cycle(), cast("Any", None), clock=lambda: clock[0])
    place = Place(PodName("default", "p", "uid-p"), "n0")
    scheduler._send(Plan(place=(place,)))
    carried_out = list[object]()

    async def carry_out(_client: object, action: object, *_known: object) -> Outcome:
        carried_out.append(action)
        return Outcome(Result.FAILED, "no answer")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(requests, "carry_out", carry_out)
        writing = asyncio.create_task(scheduler._write_in_turn(report=False))
        await eventually_async(lambda: len(carried_out) > 1, "the binding is sent, and read back in vain")
        clock[0] = START
        await eventually_async(lambda: len(carried_out) > 2, "it is read back again")
        writing.cancel()
    assert isinstance(carried_out[2], ReadBack)


async def test_what_the_scheduler_that_decides_has_counted_of_past_use_is_known_to_those_that_follow() -> None:
    client, lease = SimpleNamespace(under=lambda _: None), SimpleNamespace(held=False, settings=LeaseSettings())
    scheduler = LiveScheduler(cast("Client", client), Cycle(), cast("Any", None), cast("Lease", lease))
    metadata, spec = Metadata("default", uid="p"), {"queues": [{"name": "a"}, {"name": "b"}]}
    before = PolicyObject(metadata, spec)
    written = PolicyObject(metadata, spec, StoredStatus([{"name": "a", "recentGPUSeconds": 700}]))
    scheduler._on_policy("added", None, before)
    scheduler._on_policy("synced", None, None)
    scheduler._on_policy("modified", before, written)
    queues = scheduler.cycle.builder.queues.arrays
    assert seconds(queues, queues.names.index("a"))["recent_gpu_seconds"] == 700


@pytest.mark.parametrize("answers", [[True], [False, True]], ids=["at once", "at the second try"])
async def test_who_takes_over_reports_again_whatever_another_process_may_have_reported(answers: list[bool]) -> None:
    client, term = SimpleNamespace(under=lambda _: None), [1]
    lease = SimpleNamespace(held=True, settings=LeaseSettings(), permit=lambda: Permit(term[0], lambda: 9.0))
    scheduler = LiveScheduler(
        cast("Client", client), Cycle(), cast("Any", None), cast("Lease", lease), clock=lambda: START
    )
    scheduler.cycle.builder.put_pod(pod("waits", whole=1))
    complete, said = [True], list[int]()

    async def is_complete() -> bool:
        return complete.pop(0) if complete else True

    scheduler._takeover = cast("Any", SimpleNamespace(complete=is_complete))
    scheduler._send = lambda plan: said.append(len(plan.hold))  # type: ignore[method-assign]
    deciding = asyncio.create_task(scheduler._decide_in_turn())
    scheduler._wake.set()
    await eventually_async(lambda: said == [1], "it is said why the pod waits")
    scheduler._wake.set()
    await eventually_async(lambda: said == [1, 0], "it is not said twice")
    term[0], complete[:] = 2, answers
    scheduler._wake.set()
    await eventually_async(lambda: said == [1, 0, 1], "it is said again in another term")
    deciding.cancel()


async def test_a_new_term_begins_though_what_was_left_of_the_last_one_is_wanted_no_more() -> None:
    """A node had been chosen for a volume without an answer; then the pod was deleted, and the Lease lost."""
    ended, term = [False], [1]

    def permit() -> Permit:
        mine = term[0]
        return Permit(mine, lambda: 9.0 if mine == term[0] and not ended[0] else 0.0)

    client = SimpleNamespace(under=lambda _: None)
    lease = SimpleNamespace(held=True, settings=LeaseSettings(), permit=permit)
    scheduler = LiveScheduler(cast("Client", client), Cycle(), cast("Any", None), cast("Lease", lease))
    scheduler._takeover = None
    await scheduler._begin_term(permit())
    choice = Provision(PodName("default", "gone", "uid-gone"), "data", "n0")
    scheduler._writes._actions.append(choice)
    term[0] = 2
    writing = asyncio.create_task(scheduler._write_in_turn(report=False))
    async with asyncio.timeout(PATIENCE):
        await scheduler._begin_term(permit())
    assert scheduler._permit.epoch == 2
    writing.cancel()
