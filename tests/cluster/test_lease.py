"""At most one holder, whatever happens to the holder; against a real API server."""

import asyncio
import contextlib
from dataclasses import replace

import pytest
from tests.cluster.fake import eventually
from tests.waiting import PATIENCE, eventually_async

from tangram import errors
from tangram.cluster import objects, paths
from tangram.cluster.kubeconfig import load_access
from tangram.cluster.lease import Candidate, Lease, steady_clock
from tangram.cluster.rest import Client
from tangram.settings import LeaseSettings

QUICK = LeaseSettings(duration=1.5, renew_deadline=0.9, retry_period=0.1)


class Link:
    """A way to the server that can be cut, and a clock that can be moved on: what happens to a replica."""

    def __init__(self, server):
        self.host, _, port = server.removeprefix("https://").partition(":")
        self.port = int(port)
        self.open = True
        self.skipped = 0.0
        self._writers = set()

    def clock(self):
        return steady_clock() + self.skipped

    async def relay(self, reader, writer):
        if not self.open:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection(self.host, self.port)
        self._writers |= {writer, far_writer}
        with contextlib.suppress(OSError):
            await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader, writer):
        try:
            while data := await reader.read(65536):
                writer.write(data)
        finally:
            writer.close()

    def cut(self):
        self.open = False
        for writer in self._writers:
            writer.transport.abort()


@pytest.fixture
async def replica(sandbox, namespace):
    """Start a replica that takes part in the election ``name``; returns (lease, link, task, losses)."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(identity, name="scheduler", settings=QUICK):
            link = Link(sandbox.server)
            server = await asyncio.start_server(link.relay, "127.0.0.1", 0)
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            access = replace(load_access(sandbox.kubeconfig), server=f"https://127.0.0.1:{port}")
            client = await stack.enter_async_context(Client(access))
            losses = []
            lease = Lease(
                client,
                Candidate(namespace, name, identity),
                settings,
                clock=link.clock,
            )
            lease.on_lost = lambda: losses.append(identity)
            task = asyncio.create_task(lease.run())

            async def stop():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

            stack.push_async_callback(stop)
            return lease, link, task, losses

        yield start


@contextlib.asynccontextmanager
async def never_two(*leases):
    """Look all the time: never do two replicas hold the Lease."""

    async def look():
        while True:
            assert sum(lease.held for lease in leases) <= 1
            await asyncio.sleep(0.002)

    looking = asyncio.create_task(look())
    try:
        yield
    finally:
        assert not looking.done() or looking.exception() is None
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking


async def read(client, namespace):
    found = await objects.get(client, paths.LEASES, "scheduler", namespace)
    return found["spec"] if found else {}


async def test_one_holds_and_the_other_waits_until_it_is_given_up(replica, real, namespace):
    first, _, task, losses = await replica("one")
    await asyncio.wait_for(first.wait_held(), PATIENCE)
    second, *_ = await replica("two")
    async with never_two(first, second):
        await eventually(lambda: second.holder == "one")
        assert not second.held
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not first.held
        await asyncio.wait_for(second.wait_held(), PATIENCE)
    spec = await read(real, namespace)
    assert spec["holderIdentity"] == "two"
    assert spec["leaseDurationSeconds"] == 2
    assert spec["leaseTransitions"] == second.transitions == 1
    assert losses == [], "giving up is no loss"


async def test_a_holder_without_a_connection_stops_before_the_next_one_begins(replica):
    first, link, _, losses = await replica("one")
    await asyncio.wait_for(first.wait_held(), PATIENCE)
    second, *_ = await replica("two")
    async with never_two(first, second):
        link.cut()
        await asyncio.wait_for(second.wait_held(), PATIENCE)
        assert not first.held
    assert losses == ["one"]
    assert first.last_error is not None
    assert second.transitions == 1


async def test_a_holder_that_was_stopped_for_long_knows_so_at_its_first_breath(replica):
    """As after SIGSTOP or a suspended machine: no event loop has run, and yet ``held`` is False."""
    first, link, *_ = await replica("one")
    await asyncio.wait_for(first.wait_held(), PATIENCE)
    link.skipped += QUICK.renew_deadline
    assert not first.held


async def test_a_lost_lease_can_be_won_again(replica):
    lease, link, _, losses = await replica("one")
    await asyncio.wait_for(lease.wait_held(), PATIENCE)
    link.cut()
    await eventually(lambda: losses == ["one"])
    link.open = True
    await asyncio.wait_for(lease.wait_held(), PATIENCE)
    assert lease.transitions == 0, "nobody else has held it"


async def test_a_lease_that_somebody_takes_by_force_is_lost(replica, real, namespace):
    lease, _, _, losses = await replica("one")
    await asyncio.wait_for(lease.wait_held(), PATIENCE)
    stolen = {"spec": {"holderIdentity": "somebody", "leaseDurationSeconds": 3600}}
    assert (await objects.patch(real, paths.LEASES.path("scheduler", namespace), stolen)).done
    await eventually(lambda: losses == ["one"])
    assert not lease.held
    assert lease.holder == "somebody"


async def test_a_lease_that_is_deleted_is_made_again(replica, real, namespace):
    lease, *_ = await replica("one")
    await asyncio.wait_for(lease.wait_held(), PATIENCE)
    assert (await objects.delete(real, paths.LEASES.path("scheduler", namespace))).done

    async def made_again() -> bool:
        return (await read(real, namespace)).get("holderIdentity") == "one"

    await eventually_async(made_again)


async def test_the_holder_s_clock_and_dates_are_not_believed(replica, real, namespace):
    """A Lease whose dates are far in the past is still held until it was seen unchanged for its duration."""
    manifest = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "scheduler", "namespace": namespace},
        "spec": {
            "holderIdentity": "old",
            "leaseDurationSeconds": 1,
            "leaseTransitions": 6,
            "renewTime": "2001-01-01T00:00:00.000000Z",
        },
    }
    assert (await objects.create(real, manifest)).done
    lease, *_ = await replica("one")
    await eventually(lambda: lease.holder == "old")
    assert not lease.held
    await asyncio.wait_for(lease.wait_held(), PATIENCE)
    assert lease.transitions == 7


async def test_many_candidates_one_holder(replica):
    replicas = [await replica(f"r{number}") for number in range(5)]
    leases = [lease for lease, *_ in replicas]
    async with never_two(*leases):
        for _ in range(3):
            await eventually(lambda: any(lease.held for lease in leases), 20)
            holder = next(entry for entry in replicas if entry[0].held)
            holder[2].cancel()
            await asyncio.gather(holder[2], return_exceptions=True)


def test_settings_that_would_let_two_hold_it_are_refused():
    for wrong in (
        LeaseSettings(duration=10, renew_deadline=10, retry_period=2),
        LeaseSettings(duration=15, renew_deadline=10, retry_period=10),
        LeaseSettings(duration=15, renew_deadline=10, retry_period=0),
    ):
        with pytest.raises(errors.InvalidInput, match="renew_deadline < duration"):
            Lease(Client.__new__(Client), Candidate("y", "x", "z"), wrong)
