"""What the long-running verbs share: logging, signals, the event loop."""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tangram.errors import TangramError

if TYPE_CHECKING:
    from tangram.cluster.lease import Lease
    from tangram.cluster.rest import Client

_log = logging.getLogger(__name__)
_SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


def set_up_logging(log_format: str, level: str = "info") -> None:
    """Log to standard error, as text or as one JSON object a line."""
    handler = logging.StreamHandler(sys.stderr)
    if log_format == "json":
        from pythonjsonlogger.json import JsonFormatter

        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def calm_collector() -> None:
    """Let the garbage collector look seldom: pods and plans are values without cycles, and its scans cost 8 percent."""
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def identity() -> str:
    """A name for this process that no other one has."""
    return f"{socket.gethostname()}_{os.getpid()}_{os.urandom(4).hex()}"


def own_namespace(given: str | None) -> str:
    """The namespace of the Lease: what was given, else the pod's own, else ``default``."""
    if given:
        return given
    try:
        return _SERVICE_ACCOUNT_NAMESPACE.read_text().strip() or "default"
    except OSError:
        return "default"


def cut_when_outlived(lease: "Lease", client: "Client") -> None:
    """Break this process's connections at once when it goes on after a stop in which its Lease has ended.

    What it was about to write was decided when nobody else wrote. Python runs this before the next instruction of the
    program, so that not even a write is sent that had been allowed just before the stop.
    """

    def gone_on(_number: int, _frame: object) -> None:
        if lease.outlived:
            client.cut()
            _log.warning("stopped for longer than the Lease was held; what was about to be written is not sent")

    if hasattr(signal, "SIGCONT"):
        signal.signal(signal.SIGCONT, gone_on)


def run_until_signal(work: Coroutine[Any, Any, None], *, starts_programs: bool = False) -> None:
    """Run until the work ends or SIGTERM or SIGINT ask for the end; raises what the work raised, unwrapped.

    Work that starts programs while it speaks gRPC says so. The fast loop starts them with fork(), and gRPC's handlers
    for that kill some of the children before they are the program (2 to 8 of 100 with grpcio 1.85: a segmentation
    fault, or "Check failed" in its poller). The standard loop uses vfork(), which runs no handlers and takes less time.
    """

    async def supervised() -> None:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        try:
            await task
        except asyncio.CancelledError:
            return

    try:
        with asyncio.Runner() if starts_programs else _fast_runner() as runner:
            runner.run(supervised())
    except BaseExceptionGroup as group:
        first: BaseException = group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        if isinstance(first, TangramError):
            raise first from None
        raise


def _fast_runner() -> asyncio.Runner:
    try:
        import uvloop
    except ImportError:  # not on every platform; the standard loop does the same, slower
        return asyncio.Runner()
    return asyncio.Runner(loop_factory=uvloop.new_event_loop)
