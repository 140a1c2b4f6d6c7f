"""What those who connect to a port of ours can cost: half requests, many connections, one address after another."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import pytest
from prometheus_client import CollectorRegistry
from tests.cluster.test_review import free_port

from tangram.cli import serving as served
from tangram.cli.limits import Bounds

HALF = b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-A: "
QUICK = Bounds(request_seconds=0.3, idle_seconds=0.6, connections=20, of_one_address=8)


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(served, "BOUNDS", QUICK)
    chosen = free_port()
    async with served.serving(("127.0.0.1", chosen, 0), lambda: None, lambda: None, CollectorRegistry()):
        yield chosen


Connect = Callable[..., Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


@pytest.fixture
async def connect(port: int) -> AsyncIterator[Connect]:
    """Makes connections, which are closed in the end."""
    writers: list[asyncio.StreamWriter] = []

    async def make(address: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(address, 0))
        writers.append(writer)
        return reader, writer

    yield make
    for writer in writers:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def is_over(reader: asyncio.StreamReader) -> bool:
    with contextlib.suppress(ConnectionError, TimeoutError):
        return await asyncio.wait_for(reader.read(), 5) == b""
    return True


async def healthy(port: int) -> bool:
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/healthz") as response:
        return response.status == 200


async def test_fault_20_half_a_request_is_not_waited_for(port: int, connect: Connect) -> None:
    readers = []
    for number in range(3):
        reader, writer = await connect()
        writer.write(HALF if number else b"")
        readers.append(reader)
    assert [await is_over(reader) for reader in readers] == [True] * 3
    assert await healthy(port)


async def test_a_request_that_dribbles_in_is_not_waited_for_longer(connect: Connect) -> None:
    reader, writer = await connect()

    async def dribble() -> None:
        writer.write(HALF)
        for _ in range(100):
            writer.write(b"a")
            await asyncio.sleep(0.02)

    dribbling = asyncio.create_task(dribble())
    assert await asyncio.wait_for(is_over(reader), 1.5)
    dribbling.cancel()


async def test_one_address_has_so_many_connections(port: int, connect: Connect) -> None:
    first = [await connect() for _ in range(QUICK.of_one_address)]
    late, _ = await connect()
    assert await is_over(late)
    first[0][1].close()
    await asyncio.sleep(0.05)
    assert await healthy(port)


async def test_fault_20_who_only_holds_places_keeps_nobody_out(port: int, connect: Connect) -> None:
    held = [await connect(f"127.0.0.{10 + number // 5}") for number in range(40)]
    for _ in range(5):
        assert await healthy(port)
    still = [reader for reader, _ in held if not reader.at_eof()]
    assert len(still) <= 40


async def test_a_connection_is_used_again_and_closed_when_nobody_uses_it(connect: Connect) -> None:
    reader, writer = await connect()
    for _ in range(2):
        writer.write(HALF.replace(b"X-A: ", b"") + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        await reader.readexactly(2)
        await asyncio.sleep(0.4)
    assert await is_over(reader)


async def test_many_readers_one_after_another_are_all_answered(port: int) -> None:
    for _ in range(60):
        assert await healthy(port)
