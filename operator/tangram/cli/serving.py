"""/healthz, /readyz and /metrics of a process."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from tangram.cli.guard import Guard
from tangram.cli.limits import HANDSHAKE_SECONDS, Bounds, Limits
from tangram.errors import NotReachable

Check = Callable[[], str | None]
"""None: all is well; else the sentence of what is wrong."""

BOUNDS = Bounds()


@asynccontextmanager
async def serving(
    ports: tuple[str, int, int],
    healthy: Check,
    ready: Check,
    registry: CollectorRegistry,
    guard: Guard | None = None,
) -> AsyncIterator[None]:
    """Serve while the context is open at (host, port for health, port for metrics); port 0 means not at all.

    Raises NotReachable when a port is taken.

    With a ``guard`` the metrics are for those only whom it permits, over TLS; health is for everybody.
    """

    def answer(check: Check) -> Callable[[web.Request], "asyncio.Future[web.Response]"]:
        async def handle(_: web.Request) -> web.Response:
            problem = check()
            return web.Response(text=problem or "ok", status=503 if problem else 200)

        return handle  # type: ignore[return-value]

    async def metrics(request: web.Request) -> web.Response:
        said, source = request.headers.get("Authorization", ""), request.remote or ""
        status = await guard.permit(said, "/metrics", source) if guard else 200
        if status != 200:
            return web.Response(text=f"{HTTPStatus(status).phrase}\n", status=status)
        body = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    limits = Limits(BOUNDS), Limits(BOUNDS)
    health = web.Application(middlewares=[_counted(limits[0])])
    health.add_routes([web.get("/healthz", answer(healthy)), web.get("/readyz", answer(ready))])
    figures = web.Application(middlewares=[_counted(limits[1])])
    figures.add_routes([web.get("/metrics", metrics)])
    runners: list[web.AppRunner] = []
    servers: list[asyncio.Server] = []
    host, health_port, metrics_port = ports
    try:
        tls = guard.tls if guard else None
        parts = (health, health_port, None, limits[0]), (figures, metrics_port, tls, limits[1])
        for application, port, context, limit in parts:
            if port:
                runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
                runners.append(runner)
                await runner.setup()
                servers.append(await _listen(runner, limit, (host, port), context))
        yield
    finally:
        for server in servers:
            server.close()
        for runner in runners:
            await runner.cleanup()


def _counted(limits: Limits) -> Middleware:
    """Says of each request that it has come as a whole, and that it has been answered."""

    @web.middleware
    async def count(request: web.Request, handler: Handler) -> web.StreamResponse:
        limits.arrived(request)
        try:
            return await handler(request)
        finally:
            limits.answered(request)

    return count


async def _listen(
    runner: web.AppRunner, limits: Limits, address: tuple[str, int], tls: ssl.SSLContext | None
) -> asyncio.Server:
    (host, port), server = address, runner.server
    assert server is not None, "the runner is set up"
    patience = HANDSHAKE_SECONDS if tls is not None else None
    try:
        return await asyncio.get_running_loop().create_server(
            limits.bound(server), host, port, ssl=tls, ssl_handshake_timeout=patience
        )
    except OSError as error:
        raise NotReachable(f"port {port} on {host} cannot be used: {error.strerror or error}") from None
