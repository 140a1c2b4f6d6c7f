"""The misbehaving API server, and clients of it and of the real one."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from aiohttp import web
from tests.cluster.fake import CLOSING, FakeApi, Watched
from tests.waiting import eventually_async

from tangram.api.objects import Pod
from tangram.cluster import objects, paths
from tangram.cluster.credentials import StaticHeader
from tangram.cluster.kubeconfig import Access, load_access
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch, Options
from tangram.settings import BorderSettings

SERIAL = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def spare_loop() -> Iterator[None]:
    """The loop that pytest-asyncio puts back between tests; when it has to make one itself, it never closes it."""
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    yield
    asyncio.set_event_loop(None)
    loop.close()


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    fake = FakeApi()
    application = web.Application(client_max_size=1 << 26)
    application[CLOSING] = asyncio.Event()
    application.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(application, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    fake.server = f"http://{host}:{port}"
    yield fake
    application[CLOSING].set()
    await runner.cleanup()


@pytest.fixture
async def client(request: pytest.FixtureRequest, api: FakeApi) -> AsyncIterator[Client]:
    """A client that gives a silent stream up after 0.3 s, or after as many seconds as a test wants."""
    silence = getattr(request, "param", 0.3)
    settings = BorderSettings(request_timeout=5.0, watch_inactivity=silence, retries=4)
    async with Client(Access(api.server, StaticHeader()), settings) as opened:
        yield opened


@pytest.fixture
async def watching(client: Client) -> AsyncIterator[Callable[..., Watched]]:
    """Start a list-watch of pods that records what it delivers."""
    with contextlib.ExitStack() as stack:
        tasks = []

        def start(path: str = "/api/v1/pods", **options: Any) -> Watched:
            log: list[tuple[str, str]] = []
            faults: list[Any] = []

            def sink(change: str, old: Pod | None, new: Pod | None) -> None:
                thing = new or old
                log.append((change, thing.metadata.name if thing is not None else ""))

            watch = ListWatch(client, path, Pod, sink, Options(on_undecodable=faults.append, **options))
            task = asyncio.create_task(watch.run())
            tasks.append(task)
            stack.callback(task.cancel)
            return Watched(watch, task, log, faults)

        yield start
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def real(sandbox) -> AsyncIterator[Client]:
    async with Client(load_access(sandbox.kubeconfig)) as client:
        yield client


@pytest.fixture
async def namespace(real) -> AsyncIterator[str]:
    """A namespace of the test's own, ready for pods."""
    name = f"border-{next(SERIAL)}"
    manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    assert (await objects.create(real, manifest)).done
    accounts = paths.Resource("", "v1", "serviceaccounts", "ServiceAccount")
    await eventually_async(lambda: objects.get(real, accounts, "default", name), "the namespace has its account")
    yield name
    await objects.delete(real, paths.NAMESPACES.path(name))
