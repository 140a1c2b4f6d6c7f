"""Where scheduler and controller answer, and who may read their metrics."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from tangram.cli.guard import Certificate, Guard
from tangram.cli.serving import Check, serving
from tangram.cluster.rest import Client
from tangram.cluster.review import Reviewer
from tangram.errors import NotReachable

_log = logging.getLogger(__name__)
_RENEWED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Ports:
    """As the options say."""

    host: str
    health: int
    """0: none."""
    metrics: int
    """0: none."""
    guarded: bool
    """Whether the metrics are for those only whom the API server lets read them; else they are plain text."""
    certificate: Path | None
    """Folder with tls.crt and tls.key; None: one is made."""


@asynccontextmanager
async def answering(
    ports: Ports, client: Client, healthy: Check, ready: Check, registry: CollectorRegistry
) -> AsyncIterator[None]:
    """Serve /healthz, /readyz and /metrics while the context is open.

    Raises NotReachable when a port is taken, or the certificate cannot be used.
    """
    guard: Guard | None = None
    async with contextlib.AsyncExitStack() as stack:
        if ports.guarded and ports.metrics:
            certificate = await asyncio.to_thread(Certificate.load, ports.certificate, socket.gethostname())
            guard = Guard(Reviewer(client, asyncio.get_running_loop().time).status, certificate.context)
            renewing = asyncio.create_task(_renew(certificate))
            stack.callback(renewing.cancel)
        addresses = ports.host, ports.health, ports.metrics
        await stack.enter_async_context(serving(addresses, healthy, ready, registry, guard))
        yield


async def _renew(certificate: Certificate) -> None:
    """Take over what the folder holds, now and then; what cannot be used is not."""
    while True:
        await asyncio.sleep(_RENEWED_SECONDS)
        try:
            certificate.renew()
        except NotReachable as error:
            _log.warning("the certificate of the metrics stays what it is: %s", error)
