"""What the kubelet says of the devices that containers hold: its pod-resources API, which is the truth about them."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc.aio

from tangram import errors
from tangram.node.wire import podresources_pb2, podresources_pb2_grpc

_TRIES = 4
_PAUSE = 0.03
"""The kubelet allows 100 calls a second, 10 at once, to all its readers together."""
_SECONDS = 5.0
_MOST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Listed:
    """One container of a pod that the kubelet has taken on, and its device ids by resource."""

    namespace: str
    pod: str
    container: str
    devices: Mapping[str, frozenset[str]]


class PodResources:
    """A connection to the kubelet's socket; it may come and go."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._channel: grpc.aio.Channel | None = None

    async def __aenter__(self) -> Self:
        """Connect when the first question is asked."""
        options = (
            ("grpc.max_receive_message_length", _MOST_BYTES),
            ("grpc.default_authority", "localhost"),
            ("grpc.initial_reconnect_backoff_ms", 100),  # a kubelet that restarts is back within seconds
            ("grpc.max_reconnect_backoff_ms", 1000),
        )
        self._channel = grpc.aio.insecure_channel(f"unix://{self._socket.absolute()}", options=options)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        if self._channel is not None:
            await self._channel.close()

    async def list(self) -> tuple[Listed, ...]:
        """All containers but finished init containers; raises NotReachable when the kubelet does not report."""
        stub = podresources_pb2_grpc.PodResourcesListerStub(self._channel)
        for attempt in range(_TRIES):
            try:
                answer = await stub.List(podresources_pb2.ListPodResourcesRequest(), timeout=_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED or attempt == _TRIES - 1:
                    raise errors.NotReachable(
                        f"the kubelet does not list pods' devices at {self._socket}: {error.details()}"
                    ) from None
                await asyncio.sleep(_PAUSE)
            else:
                return tuple(_listed(answer))
        raise AssertionError("unreachable")


async def list_devices(socket: Path) -> tuple[Listed, ...]:
    """Ask once; raises NotReachable."""
    async with PodResources(socket) as resources:
        return await resources.list()


def _listed(answer: podresources_pb2.ListPodResourcesResponse) -> list[Listed]:
    found = []
    for pod in answer.pod_resources:
        for container in pod.containers:
            devices: dict[str, set[str]] = {}
            for entry in container.devices:  # one entry for each id
                devices.setdefault(entry.resource_name, set()).update(entry.device_ids)
            held = {resource: frozenset(ids) for resource, ids in devices.items()}
            found.append(Listed(pod.namespace, pod.name, container.name, held))
    return found
