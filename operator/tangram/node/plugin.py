"""The kubelet's device plugin calls: which GPU a container gets was decided by the scheduler, here it is carried out.

``GetPreferredAllocation`` is where the record becomes device ids; the kubelet then takes them and calls ``Allocate``,
which checks everything again and has the last word. A refusal is a sentence that the kubelet puts into the pod's status
and Event.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import grpc.aio

from tangram import errors
from tangram.node.allocation import Devices, Grant, Refusal, RefusalReason, Terms, agree, grant, prefer
from tangram.node.counters import Counters, Durations
from tangram.node.gpus import Health, Holding, Isolation, Reading
from tangram.node.ledger import Ledger, Listing, Turn
from tangram.node.leftovers import Leftovers, in_the_way
from tangram.node.loops import Bell, rings_within
from tangram.node.refused import RefusedGpus
from tangram.node.slots import Slots
from tangram.node.wire import deviceplugin_pb2 as wire
from tangram.node.wire import deviceplugin_pb2_grpc
from tangram.settings import NodeSettings

_log = logging.getLogger(__name__)

_LEFTOVER_PAUSE = 0.25
"""Seconds between looks whether processes have ended."""
_LONGEST_REFUSAL = 1000
"""Letters: as many as an Event can hold. gRPC puts them into a header and drops an answer whose header is too long."""


@dataclass(slots=True)
class Shared:
    """What the plugins of one node and the agent's other parts have in common."""

    ledger: Ledger
    settings: NodeSettings
    counters: Counters
    isolation: Isolation
    devices: Devices = field(default_factory=Devices)
    devices_changed: Bell = field(default_factory=Bell)
    pods_changed: Bell = field(default_factory=Bell)
    refused: RefusedGpus = field(default_factory=RefusedGpus)
    holders_changed: Bell = field(default_factory=Bell)
    """Rung when the kubelet's list of holders is worth reading."""
    readings: tuple[Reading, ...] = ()
    leftovers: Leftovers | None = None
    """Knows processes of pods that are gone; None: nobody looks for them."""


class Lister(Protocol):
    """Asks the kubelet what containers hold."""

    async def list(self) -> Listing:
        """All containers; raises NotReachable."""
        ...


Answer = Callable[[Grant], Awaitable[wire.ContainerAllocateResponse]]


@dataclass(frozen=True, slots=True)
class _Preferred:
    """What was answered to GetPreferredAllocation and will come back with Allocate."""

    turn: Turn
    held: tuple[Holding, ...]
    device_ids: frozenset[str]


class DevicePlugin(deviceplugin_pb2_grpc.DevicePluginServicer):
    """The service behind one socket, for one resource."""

    def __init__(self, slots: Slots, shared: Shared, lister: Lister, answer: Answer) -> None:
        self.slots = slots
        self.streams = 0
        """Kubelets that listen to our devices; 0: nobody does."""
        self.streams_changed = Bell()
        self._shared, self._lister, self._answer = shared, lister, answer
        self._preferred: _Preferred | None = None
        self._admission = asyncio.Lock()

    def forget(self) -> None:
        """The kubelet is another one: nothing that it was sent before binds it."""
        self._preferred = None
        self._shared.ledger.forget_refused()

    async def GetDevicePluginOptions(self, request: wire.Empty, context: object) -> wire.DevicePluginOptions:  # noqa: N802 - the interface's names
        """We want to be asked which ids to take."""
        return wire.DevicePluginOptions(get_preferred_allocation_available=True)

    async def ListAndWatch(self, request: wire.Empty, context: object) -> AsyncIterator[wire.ListAndWatchResponse]:  # noqa: N802
        """All device ids with their health, again at every change."""
        self.streams += 1
        self.streams_changed.ring()
        try:
            while True:
                changed = self._shared.devices_changed.next_ring()
                yield self.devices()
                await changed.wait()
        finally:
            self.streams -= 1
            self.streams_changed.ring()

    async def GetPreferredAllocation(  # noqa: N802
        self, request: wire.PreferredAllocationRequest, context: grpc.aio.ServicerContext
    ) -> wire.PreferredAllocationResponse:
        """Ids of the GPUs that the record of the pod in question names."""
        response = wire.PreferredAllocationResponse()
        async with self._call("GetPreferredAllocation"):
            for one in request.container_requests:
                found = await self._granted(one.allocation_size)
                if isinstance(found, Refusal):
                    await self._refuse(found, context)
                turn, held, granted = found
                ids = prefer(granted, self.slots, one.available_deviceIDs, one.must_include_deviceIDs)
                if isinstance(ids, Refusal):
                    await self._refuse(ids, context)
                self._preferred = _Preferred(turn, held, frozenset(ids))
                response.container_responses.add(deviceIDs=ids)
        return response

    async def Allocate(self, request: wire.AllocateRequest, context: grpc.aio.ServicerContext) -> wire.AllocateResponse:  # noqa: N802
        """What the container's runtime must know, when the ids are those of its record and nothing is overfilled."""
        response = wire.AllocateResponse()
        async with self._call("Allocate"):
            for one in request.container_requests:
                found = await self._confirmed(frozenset(one.devices_ids))
                if isinstance(found, Refusal):
                    await self._refuse(found, context)
                try:
                    response.container_responses.append(await self._answer(found))
                except errors.InvalidInput as error:
                    await self._refuse(_unable(RefusalReason.NOT_SHARED, found, error), context)
                except errors.NotReachable as error:
                    await self._refuse(_unable(RefusalReason.UNHEALTHY_GPU, found, error), context)
                self._given(found, one.devices_ids)
        return response

    def devices(self) -> wire.ListAndWatchResponse:
        """Every id of every GPU. A degraded GPU is healthy to the kubelet, which would else give up the pods on it."""
        response = wire.ListAndWatchResponse()
        table = self._shared.devices
        for gpu in table.gpus:
            lost = table.health(gpu).health is Health.UNHEALTHY
            topology = None
            if self._shared.settings.numa_topology and gpu.numa_node >= 0:
                topology = wire.TopologyInfo(nodes=[wire.NUMANode(ID=gpu.numa_node)])
            for device_id in self.slots.ids(gpu.uuid):
                response.devices.add(ID=device_id, health="Unhealthy" if lost else "Healthy", topology=topology)
        return response

    @asynccontextmanager
    async def _call(self, name: str) -> AsyncIterator[None]:
        """One call at a time, as the kubelet makes them, and timed."""
        durations = self._shared.counters.call_seconds.setdefault((self.slots.resource, name), Durations())
        started = time.perf_counter()
        try:
            async with self._admission:
                yield
        finally:
            durations.add(time.perf_counter() - started)

    async def _confirmed(self, device_ids: frozenset[str]) -> Grant | Refusal:
        """The grant that these ids mean. When they are the ones just preferred, it is known whose turn it is.

        Not to ask the kubelet again is more than speed: it forgets ids that it is giving out when it lists them in the
        moment in which another pod ends (kubelet 1.36, ``UpdateAllocatedDevices``), and offers them to the next pod.
        """
        preferred, self._preferred = self._preferred, None
        found: Grant | Refusal
        if preferred is not None and preferred.device_ids == device_ids:
            found = self._grant(preferred.turn, preferred.held)
        else:
            granted = await self._granted(len(device_ids))
            found = granted if isinstance(granted, Refusal) else granted[2]
        if isinstance(found, Refusal):
            return found
        return agree(found, self.slots, device_ids) or found

    async def _granted(self, amount: int) -> tuple[Turn, tuple[Holding, ...], Grant] | Refusal:
        """Whose turn it is and what it gets; waits a little for a pod that our watch has not seen yet."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._shared.settings.patience
        while True:
            changed = self._shared.pods_changed.next_ring()
            listing = await self._listing()
            turn = self._shared.ledger.turn(listing, self.slots.resource, amount)
            if turn is not None and not turn.again:
                break
            if not await rings_within(changed, deadline - loop.time()):
                break
        if turn is None:
            return Refusal(
                RefusalReason.NOT_PLACED,
                f"no pod that was placed on this node waits for {amount} of {self.slots.resource}",
            )
        if turn.rivals:
            self._shared.counters.guesses[self.slots.resource] += 1
        held = self._shared.ledger.holdings(listing, self._shared.devices)
        granted = self._grant(turn, held)
        if isinstance(granted, Grant) and listing is not None:
            granted = await self._free_of_leftovers(granted, held)
        return granted if isinstance(granted, Refusal) else (turn, held, granted)

    async def _free_of_leftovers(self, granted: Grant, held: tuple[Holding, ...]) -> Grant | Refusal:
        """The grant, once no processes of pods that are gone are in its way; they mostly end within moments."""
        loop, settings = asyncio.get_running_loop(), self._shared.settings
        deadline = loop.time() + settings.leftover_patience
        while problem := self._in_the_way(granted, held):
            if loop.time() >= deadline:
                where = f"{granted.claimant}, container {granted.want.container}"
                return Refusal(RefusalReason.STILL_IN_USE, f"{where}: GPU {problem}", pod=granted.claimant.uid)
            await asyncio.sleep(min(_LEFTOVER_PAUSE, settings.leftover_patience))
        return granted

    def _in_the_way(self, granted: Grant, held: tuple[Holding, ...]) -> str:
        shared, own = self._shared, granted.claimant
        if shared.leftovers is None:
            return ""
        its = [Holding(own.uid, *own.key, granted.want.container, gpu.uuid, 0) for gpu, _ in granted.parts]
        readings = {one.uuid: one for one in shared.readings}
        here = [readings[gpu.uuid] for gpu, _ in granted.parts if gpu.uuid in readings]
        found = shared.leftovers.find(here, (*held, *its))
        for gpu, share in granted.parts:
            problem = in_the_way(gpu, share, readings.get(gpu.uuid), found.get(gpu.uuid, ()))
            if problem:
                return f"{gpu.uuid} {problem}"
        return ""

    def _grant(self, turn: Turn, held: tuple[Holding, ...]) -> Grant | Refusal:
        shared = self._shared
        terms = Terms(shared.isolation, shared.settings.memory_overcommit_percent)
        return grant(turn.claimant, turn.want, shared.devices, held, terms)

    async def _listing(self) -> Listing | None:
        try:
            return await self._lister.list()
        except errors.NotReachable as error:
            self._shared.counters.listing_failures += 1
            _log.warning("%s", error)
            return None

    def _given(self, granted: Grant, device_ids: Iterable[str]) -> None:
        shared = self._shared
        shared.ledger.note(granted.claimant, granted.want, device_ids)
        shared.counters.allocations[self.slots.resource] += 1
        shared.holders_changed.ring()
        _log.info(
            "%s, container %s: %s",
            granted.claimant,
            granted.want.container,
            ", ".join(f"{share.share} of {gpu.uuid}" for gpu, share in granted.parts),
        )

    async def _refuse(self, refusal: Refusal, context: grpc.aio.ServicerContext) -> NoReturn:
        """Answer no."""
        self._shared.ledger.note_refused(refusal.pod)
        self._shared.counters.refusals[self.slots.resource, refusal.reason] += 1
        well = [uuid for uuid in refusal.gpus if self._shared.devices.is_healthy(uuid)]
        self._shared.refused.note(well, refusal.pod, refusal.reason)
        text = refusal.text if len(refusal.text) <= _LONGEST_REFUSAL else f"{refusal.text[:_LONGEST_REFUSAL]} …"
        _log.warning("refused: %s", text)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, text)
        raise AssertionError("abort raises")


def _unable(reason: RefusalReason, granted: Grant, error: errors.TangramError) -> Refusal:
    """The refusal where a grant cannot be carried out."""
    gpus = tuple(gpu.physical for gpu, _ in granted.parts)
    return Refusal(reason, f"{granted.claimant}: {error}", gpus, granted.claimant.uid)
