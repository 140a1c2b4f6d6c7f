"""Processes that are stopped, servers that answer late, another replica that takes over: thousands of times, on a clock
of their own. ``TANGRAM_STALLS=10000`` lives through so many stops."""

import asyncio
import contextlib
import heapq
import itertools
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from tests.budget import examples
from tests.virtual_time import VirtualClock, VirtualLoop

from tangram import errors
from tangram.cluster.lease import Candidate, Lease
from tangram.cluster.rest import Client, Sending
from tangram.settings import BorderSettings, LeaseSettings

TIMES = LeaseSettings()
STALLS = int(os.environ.get("TANGRAM_STALLS", examples(200)))
PER_LIFE = 40
"""Stops of one process in a row."""
LATE = 5.0
"""Seconds beyond a Lease's duration within which a process leads again."""
_ROUNDING = 1e-6
PATH = "/apis/coordination.k8s.io/v1/namespaces/team/leases/x"


@dataclass
class Rival:
    """Another replica, as far as the server sees it: it takes a Lease that ended, and leaves it or dies."""

    stays: float
    leaves: bool
    since: float = -1.0


@dataclass(order=True)
class Sent:
    """A request on its way."""

    arrival: float
    number: int
    method: str
    path: str
    body: bytes | None
    answer: bytes | errors.TangramError = field(default=b"", compare=False)


@dataclass
class Server:
    """One Lease, and a list of who wrote what when: what arrives counts at the time of its arrival."""

    clock: VirtualClock
    random: random.Random
    holder: str = ""
    version: int = 0
    renewed: float = 0.0
    promised: float = 0.0
    down: bool = False
    rival: Rival | None = None
    lost_writes: list[str] = field(default_factory=list)
    """Writes that arrived while somebody else held the Lease."""
    writes: int = 0
    inbox: list[Sent] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def catch_up(self) -> None:
        """What has arrived, and what the rival has done, by now, in its order: also while the process was stopped."""
        while self.inbox and self.inbox[0].arrival <= self.clock.now + _ROUNDING:
            sent = heapq.heappop(self.inbox)
            self._let_the_rival_act(sent.arrival)
            try:
                sent.answer = self._apply(sent.method, sent.path, sent.body, sent.arrival)
            except errors.TangramError as error:
                sent.answer = error
        self._let_the_rival_act(self.clock.now)

    def _let_the_rival_act(self, until: float) -> None:
        rival = self.rival
        if rival is None:
            return
        if rival.since < 0 and self.holder == "me" and until >= self.renewed + TIMES.duration:
            rival.since = self.renewed + TIMES.duration
            self._write("rival", rival.since)
        if rival.since < 0:
            return
        end = rival.since + rival.stays
        while self.renewed + TIMES.retry_period <= min(until, end):
            self._write("rival", self.renewed + TIMES.retry_period)
        if until >= end:
            if rival.leaves:
                self._write("", end)
            self.rival = None

    def _write(self, holder: str, at: float) -> None:
        self.holder, self.renewed, self.version = holder, at, self.version + 1

    async def answer(self, method: str, path: str, body: bytes | None) -> bytes:
        """Answer one request; one that has been sent arrives, whether or not anybody waits for the answer."""
        sent = Sent(self.clock.now + self.random.choice((0.0, 0.01, 0.3, 2.0)), next(self.numbers), method, path, body)
        is_lost = self.random.random() < 0.02
        if self.down or (is_lost and self.random.random() < 0.5):
            await asyncio.sleep(0.5)
            raise errors.NotReachable("no answer")
        heapq.heappush(self.inbox, sent)
        await asyncio.sleep(sent.arrival - self.clock.now)
        self.catch_up()
        await asyncio.sleep(self.random.choice((0.0, 0.01, 1.0)))
        if is_lost:
            raise errors.NotReachable("no answer")
        if isinstance(sent.answer, errors.TangramError):
            raise sent.answer
        return sent.answer

    def _apply(self, method: str, path: str, body: bytes | None, at: float) -> bytes:
        if path != PATH and not path.endswith("/leases"):
            self.writes += 1
            if self.holder != "me":
                self.lost_writes.append(f"{path} arrived at {at:.2f} while {self.holder or 'nobody'} held the Lease")
            return b"{}"
        if not self.version and method != "POST":
            raise errors.NotFound(404, "NotFound", "no Lease")
        if method == "GET":
            return self._record()
        wanted = msgspec.json.decode(body or b"{}")
        if method == "PATCH" and wanted["metadata"]["resourceVersion"] != str(self.version):
            raise errors.Conflict(409, "Conflict", "it has changed")
        self._write(wanted["spec"]["holderIdentity"], at)
        return self._record()

    def _record(self) -> bytes:
        spec = {"holderIdentity": self.holder, "leaseDurationSeconds": 15, "leaseTransitions": self.version}
        return msgspec.json.encode({"metadata": {"resourceVersion": str(self.version)}, "spec": spec})


class ShortCircuit(Client):
    """The client as it is, but for the network."""

    def __init__(self, server: Server) -> None:
        super().__init__(cast("Any", SimpleNamespace(server="https://server")), BorderSettings())
        self._server = server

    async def _authorize(self, *, refused: dict[str, str] | None = None) -> dict[str, str]:
        return {}

    async def _send(self, method: str, url: Any, body: bytes | None, headers: Any, on_warning: Any) -> bytes:
        return await self._server.answer(method, url.path, body)


async def worker(lease: Lease, client: Client, chance: random.Random) -> None:
    """Waits for the Lease, thinks, and writes what it has thought of: as the controllers' workers do."""
    while True:
        await lease.wait_held()
        permit = lease.permit()
        await asyncio.sleep(chance.choice((0.0, 0.05, 3.0)))
        with contextlib.suppress(errors.TangramError):
            await client.under(lambda permit=permit: permit).request(  # type: ignore[misc]
                "POST", f"/of-term-{permit.epoch}", body=b"{}", sending=Sending(guarded=True)
            )
        await asyncio.sleep(chance.uniform(0.1, 2.0))


@contextlib.asynccontextmanager
async def running(*work: Any) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one) for one in work]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()


async def holds_within(lease: Lease, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await lease.wait_held()
    return lease.held


def lived(life: Callable[[VirtualClock], Any]) -> None:
    clock = VirtualClock()
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(life(clock))


@pytest.mark.parametrize("seed", range(max(1, STALLS // PER_LIFE)))
def test_whoever_was_stopped_leads_again_and_writes_nothing_meanwhile(seed: int) -> None:
    chance = random.Random(seed)

    async def life(clock: VirtualClock) -> None:
        server = Server(clock, chance)
        client = ShortCircuit(server)
        lease = Lease(client, Candidate("team", "x", "me"), TIMES, clock=clock)
        workers = [worker(lease, client, chance) for _ in range(6)]
        async with running(lease.run(), *workers):
            assert await holds_within(lease, TIMES.duration + LATE)
            for _ in range(PER_LIFE):
                await asyncio.sleep(chance.uniform(0.0, 12.0))
                wait = TIMES.duration + LATE
                if chance.random() < 0.5:
                    server.rival = Rival(chance.uniform(0.0, 40.0), chance.random() < 0.5)
                    wait += TIMES.duration + server.rival.stays
                clock.stop(chance.uniform(1.0, 40.0))
                server.catch_up()
                assert await holds_within(lease, wait), "it leads again"
                server.rival = None if server.rival is not None and server.rival.since < 0 else server.rival
        assert server.writes > PER_LIFE
        assert server.lost_writes == []

    lived(life)


def test_a_server_that_is_away_costs_the_lease_and_is_said() -> None:
    async def life(clock: VirtualClock) -> None:
        server = Server(clock, random.Random(1))
        lease = Lease(ShortCircuit(server), Candidate("team", "x", "me"), TIMES, clock=clock)
        lost = list[float]()
        lease.on_lost = lambda: lost.append(clock.now)
        async with running(lease.run()):
            assert await holds_within(lease, 20)
            term = lease.permit()
            server.down, since = True, clock.now
            await asyncio.sleep(TIMES.renew_deadline + 0.1)
            assert not lease.held
            assert not term.holds
            await asyncio.sleep(TIMES.renew_deadline)
            assert "no answer" in (lease.failing() or "")
            assert clock.now - since < 2 * TIMES.renew_deadline + 1
            assert lease.stuck() is None, "it asks as often as it should"
            server.down = False
            assert await holds_within(lease, TIMES.duration + LATE)
            assert lease.failing() is None
        assert len(lost) == 1
        assert not term.holds, "what was decided in the first term is not written in the second"
        assert lease.permit().epoch == term.epoch + 1

    lived(life)


def test_a_loop_that_does_not_turn_is_said() -> None:
    async def life(clock: VirtualClock) -> None:
        lease = Lease(ShortCircuit(Server(clock, random.Random(1))), Candidate("team", "x", "me"), TIMES, clock=clock)
        async with running(lease.run()):
            assert await holds_within(lease, 20)
        await asyncio.sleep(3 * TIMES.duration)
        assert "has not been asked for in 4" in (lease.stuck() or "")

    lived(life)
