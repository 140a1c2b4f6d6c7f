"""/healthz, /readyz and /metrics of a process."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from http import HTTPStatus

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from tangram.cli.guard import Guard
from tangram.errors import NotReachable

Check = Callable[[], str | None]
"""None: all is well; else the sentence of what is wrong."""


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
        status = await guard.permit(request.headers.get("Authorization", ""), "/metrics") if guard else 200
        if status != 200:
            return web.Response(text=f"{HTTPStatus(status).phrase}\n", status=status)
        body = await asyncio.to_thread(generate_latest, registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})

    health = web.Application()
    health.add_routes([web.get("/healthz", answer(healthy)), web.get("/readyz", answer(ready))])
    figures = web.Application()
    figures.add_routes([web.get("/metrics", metrics)])
    runners: list[web.AppRunner] = []
    host, health_port, metrics_port = ports
    try:
        tls = guard.tls if guard else None
        for application, port, context in ((health, health_port, None), (figures, metrics_port, tls)):
            if port:
                runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
                runners.append(runner)
                await _start(runner, host, port, context)
        yield
    finally:
        for runner in runners:
            await runner.cleanup()


async def _start(runner: web.AppRunner, host: str, port: int, tls: ssl.SSLContext | None) -> None:
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
    except OSError as error:
        raise NotReachable(f"port {port} on {host} cannot be used: {error.strerror or error}") from None
