"""The plugin's socket in the kubelet's folder, and being registered with whichever kubelet is there.

A kubelet that starts removes all sockets from the folder and knows no plugins, so being registered is a state to be
kept, not a step to be done: at every check the socket must be our own, the kubelet's socket the one that we registered
with, and the kubelet must be listening to our devices; whatever is missing is done again.

It is done as soon as the folder changes: a kubelet that starts admits the pods that run anew, and rejects those whose
init containers held devices when it does not know our devices by then. Between its socket and its first pod there is
time for a plugin that comes at once.
"""

import asyncio
import logging
from pathlib import Path

import grpc.aio

from tangram import errors
from tangram.node.counters import Counters
from tangram.node.inotify import FolderWatch
from tangram.node.loops import Bell, rings_within
from tangram.node.plugin import DevicePlugin
from tangram.node.wire import deviceplugin_pb2 as wire
from tangram.node.wire import deviceplugin_pb2_grpc
from tangram.settings import NodeSettings

_log = logging.getLogger(__name__)

API_VERSION = "v1beta1"
KUBELET_SOCKET = "kubelet.sock"
_CALL_SECONDS = 5.0
_FIRST_PAUSE = 0.02
"""Seconds after a first failure: a socket that has just been made may not be listened at yet."""


Identity = tuple[int, int]


class Registration:
    """Serves one plugin and keeps it registered until ``run`` is cancelled."""

    def __init__(self, plugin: DevicePlugin, folder: Path, settings: NodeSettings, counters: Counters) -> None:
        self.problem = "not registered yet"
        """What is wrong now; empty: the kubelet listens to us."""
        self._plugin, self._folder, self._settings, self._counters = plugin, folder, settings, counters
        self._server: grpc.aio.Server | None = None
        self._own: Identity | None = None
        self._kubelet: Identity | None = None
        self._registered_at = 0.0

    @property
    def socket(self) -> Path:
        """Where the plugin listens."""
        return self._folder / self._plugin.slots.socket

    async def run(self) -> None:
        """Serve and stay registered; the socket is removed at the end."""
        changes = self._plugin.streams_changed
        try:
            with FolderWatch(self._folder, changes.ring) as watch:
                if watch.problem:
                    _log.warning("%s: a kubelet that starts is found later", watch.problem)
                await self._keep(changes)
        finally:
            await self._stop()

    async def _keep(self, changes: Bell) -> None:
        """Check after each change of the folder and of who listens, after a failure soon, and from time to time."""
        pause = _FIRST_PAUSE
        while True:
            changed, interval = changes.next_ring(), self._settings.socket_interval
            try:
                await self._check()
                pause = _FIRST_PAUSE
            except errors.NotReachable as error:
                if self.problem != str(error):
                    _log.warning("%s", error)
                self.problem = str(error)
                interval, pause = min(pause, interval), 2 * pause
            await rings_within(changed, interval)

    async def _check(self) -> None:
        """Do what is missing; raises NotReachable when it cannot be done now."""
        if self._server is None or _identity(self.socket) != self._own:
            await self._serve()
        kubelet = _identity(self._folder / KUBELET_SOCKET)
        if kubelet is None:
            raise errors.NotReachable(f"no kubelet at {self._folder / KUBELET_SOCKET}")
        now = asyncio.get_running_loop().time()
        if kubelet != self._kubelet or (
            not self._plugin.streams and now - self._registered_at > self._settings.stream_timeout
        ):
            await self._register()
            self._kubelet, self._registered_at = kubelet, now
        if self._plugin.streams:
            self.problem = ""
        elif not self.problem:
            self.problem = "the kubelet does not listen to the plugin's devices"

    async def _serve(self) -> None:
        """Listen on a new socket; that the old one is gone is the sign of a new kubelet."""
        await self._stop()
        server = grpc.aio.server()
        deviceplugin_pb2_grpc.add_DevicePluginServicer_to_server(self._plugin, server)
        try:
            server.add_insecure_port(f"unix://{self.socket.absolute()}")
            await server.start()
        except (RuntimeError, OSError) as error:
            raise errors.NotReachable(f"the socket {self.socket} cannot be made: {error}") from None
        self._server, self._own = server, _identity(self.socket)

    async def _register(self) -> None:
        self._plugin.forget()
        request = wire.RegisterRequest(
            version=API_VERSION,
            endpoint=self.socket.name,
            resource_name=self._plugin.slots.resource,
            options=wire.DevicePluginOptions(get_preferred_allocation_available=True),
        )
        path = self._folder / KUBELET_SOCKET
        options = (("grpc.default_authority", "localhost"), ("grpc.use_local_subchannel_pool", 1))
        async with grpc.aio.insecure_channel(f"unix://{path.absolute()}", options=options) as channel:
            try:
                await deviceplugin_pb2_grpc.RegistrationStub(channel).Register(request, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                resource = self._plugin.slots.resource
                raise errors.NotReachable(f"the kubelet does not register {resource}: {error.details()}") from None
        self._counters.registrations[self._plugin.slots.resource] += 1
        _log.info("registered %s with the kubelet", self._plugin.slots.resource)

    async def _stop(self) -> None:
        """Close the server; its library removes the socket's file, whoever made it, so this comes before a new one."""
        self._kubelet = None
        if self._server is not None:
            await self._server.stop(grace=0)
            self._server = None
        if self._own is not None and _identity(self.socket) == self._own:
            self.socket.unlink(missing_ok=True)
        self._own = None


def _identity(path: Path) -> Identity | None:
    """Which file is there: a socket made anew is another one; None: there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns
