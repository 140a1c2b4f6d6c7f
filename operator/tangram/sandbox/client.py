"""The few plain HTTPS requests that starting and looking at a cluster needs, and free ports."""

import contextlib
import http.client
import socket
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tangram.errors import NotReachable, SandboxError


def get(
    server: str,
    path: str,
    *,
    ca_file: Path,
    credentials: str | tuple[Path, Path] = "",
    timeout: float = 5.0,
) -> tuple[int, bytes]:
    """Status and body of a GET; raises ``NotReachable`` when nobody with the right certificate answers.

    ``credentials`` are a token, or the files of a certificate and its key.
    """
    address = urlsplit(server)
    context = ssl.create_default_context(cafile=str(ca_file))
    headers = {}
    if not isinstance(credentials, str):
        context.load_cert_chain(*credentials)
    elif credentials:
        headers["Authorization"] = f"Bearer {credentials}"
    connection = http.client.HTTPSConnection(address.hostname or "", address.port, context=context, timeout=timeout)
    try:
        with contextlib.closing(connection):
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise NotReachable(f"{server} does not answer: {error}") from error


def count_nodes(server: str, *, ca_file: Path, token: str) -> int:
    """How many nodes the cluster has, without reading them all; raises ``NotReachable``."""
    status, body = get(server, "/api/v1/nodes?limit=1", ca_file=ca_file, credentials=token)
    if status != 200:
        raise NotReachable(f"{server} answers {status} when asked for its nodes")
    listed = msgspec.json.decode(body)
    return len(listed["items"]) + int(listed["metadata"].get("remainingItemCount", 0))


def free_ports(count: int) -> list[int]:
    """Loopback ports that are free now; somebody may be quicker, so a server that cannot bind is to be retried."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def check_port(port: int) -> None:
    """Raise ``SandboxError`` when a port that was asked for cannot be had."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SandboxError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port, or leave it out"
            ) from error
