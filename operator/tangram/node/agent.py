"""The agent: the loops that run side by side on a GPU node, none of which can take another one down.

What talks to the API server is handed in: the agent knows pods (``Agent.put`` is the sink of their watch), a probe of
the GPUs, and the kubelet's sockets.
"""

import asyncio
import fcntl
import logging
import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, TextIO

from tangram import errors
from tangram.api.nodes import NodePod
from tangram.node.allocation import Devices, Grant
from tangram.node.counters import Counters
from tangram.node.exporter import Exporter, Observation
from tangram.node.gpus import Condition, Health, Holding, Inventory, Isolation, Probe, Reading
from tangram.node.injection import Injector
from tangram.node.ledger import Ledger, Listing, Mismatch
from tangram.node.leftovers import Leftover, Leftovers
from tangram.node.loops import Bell, OneThread, Part, Pauses, rings_within, run_side_by_side
from tangram.node.plugin import DevicePlugin, Lister, Shared
from tangram.node.podresources import PodResources
from tangram.node.pods import containers_by_id
from tangram.node.processes import Processes
from tangram.node.registration import Registration
from tangram.node.report import Facts
from tangram.node.sharing import Sharing, Unsupervised
from tangram.node.slices import held_back, sliced
from tangram.node.slots import Slots
from tangram.node.wire import deviceplugin_pb2 as wire
from tangram.settings import NodeSettings

_log = logging.getLogger(__name__)

_LOCK = "tangram.lock"
_STIRRED_SECONDS = 1.0
"""Least time between two probes: events of a driver, which tenants can cause, cannot keep the agent busy."""
_FIRST_PROBES = 0.2
"""Seconds between probes of the GPUs until they are known."""
_MPS_PATIENCE = 10.0
"""Seconds that the MPS daemons are given until GPUs are shown without them."""
_BURST_SECONDS = 0.5
"""Seconds after an allocation until the kubelet's list is looked at: a burst of pods is one comparison."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where the agent is: the node, the kubelet's folder of plugins and its pod-resources socket."""

    node: str
    plugins: Path = Path("/var/lib/kubelet/device-plugins")
    pod_resources: Path = Path("/var/lib/kubelet/pod-resources/kubelet.sock")


@dataclass(frozen=True, slots=True)
class Giving:
    """How GPUs are given out."""

    resources: tuple[Slots, ...]
    injector: Injector

    @property
    def isolation(self) -> Isolation:
        """How tenants of one GPU are kept apart."""
        return self.injector.isolation


class Notices(Protocol):
    """Reports to users what is wrong with their pods."""

    def mismatch(self, found: Mismatch) -> None:
        """A container holds other GPUs than its pod's record names."""
        ...


@dataclass(frozen=True, slots=True)
class Beside:
    """What works beside the agent's own loops."""

    notices: Notices
    pauses: Callable[[], Pauses]
    """Makes the pauses between failures of one loop."""
    sharing: Sharing | None = None
    """How GPUs are shared; None: in the mode that they are given out in, without anybody's help."""
    exporter: Exporter | None = None
    processes: Processes | None = None
    """Of the node; None: nobody looks for those of pods that are gone."""


class Agent:
    """The node's devices, who holds them, and the loops that keep both true."""

    def __init__(self, place: Place, giving: Giving, probe: Probe, settings: NodeSettings, beside: Beside) -> None:
        self.shared = Shared(
            Ledger(giving.resources, place.node, settings.scheduler_name), settings, Counters(), giving.isolation
        )
        self.inventory = Inventory()
        """The GPUs themselves; ``devices`` are those of them that are given out, and slices."""
        self.readings: tuple[Reading, ...] = ()
        self.holdings: tuple[Holding, ...] = ()
        self.mismatches: frozenset[Mismatch] = frozenset()
        self._place, self._giving, self._probe = place, giving, probe
        self._notices, self._pauses = beside.notices, beside.pauses
        self._sharing = beside.sharing or Unsupervised(giving.isolation)
        self._exporter = beside.exporter
        self._pods: dict[str, NodePod] = {}
        self._thread = OneThread("probe")
        self._read_at = -math.inf
        """When the last readings were made, on the loop's clock."""
        if beside.processes is not None:
            self.shared.leftovers = Leftovers(beside.processes, time.monotonic)
        self._leftovers: dict[str, tuple[Leftover, ...]] = {}
        self._suspected: frozenset[Mismatch] = frozenset()
        self._probed, self._synced, self._compared = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._registrations: dict[str, Registration] = {}
        self._parts = self.shared.counters.parts

    def put(
        self, change: Literal["added", "modified", "deleted", "synced"], old: NodePod | None, new: NodePod | None
    ) -> None:
        """The sink of the watch of this node's pods."""
        self.shared.ledger.put(change, old, new)
        if new is not None:
            self._pods[new.metadata.uid] = new
        elif old is not None:
            self._pods.pop(old.metadata.uid, None)
        if change == "synced":
            self._synced.set()
        self.shared.pods_changed.ring()
        self.shared.holders_changed.ring()

    @property
    def devices(self) -> Devices:
        """The node's GPUs and how they are."""
        return self.shared.devices

    def problems(self) -> dict[str, str]:
        """What is wrong, by part of the agent; empty: it does its work."""
        found = {part: text for part, text in self._parts.items() if text}
        for resource, registration in self._registrations.items():
            if registration.problem:
                found[f"registration of {resource}"] = registration.problem
        if not self._synced.is_set():
            found["pods"] = "the node's pods are not known yet"
        if self._giving.injector.problem:
            found["injection"] = self._giving.injector.problem
        if not self._probed.is_set():
            found.setdefault("probe", "the node's GPUs are not known yet")
        return found

    def facts(self, version: str) -> Facts:
        """What the GPUNode is to say."""
        return Facts(
            self._place.node,
            self.devices.gpus,
            self._shown_conditions(),
            self.readings,
            self.holdings,
            self._giving.isolation,
            self.inventory.driver_version,
            self.inventory.cuda_version,
            version,
            self.problems(),
            self._probed.is_set() and self._compared.is_set(),
            self.inventory.unidentified,
            tuple(sorted(one.text for one in self.mismatches)),
            self._giving.injector.injection.value if self._giving.resources else "",
        )

    def _shown_conditions(self) -> Mapping[str, Condition]:
        """Health as placement is to see it: where processes of pods that are gone have not ended it waits."""
        leftovers, devices = self.shared.leftovers, self.devices
        return (
            devices.conditions
            if leftovers is None
            else leftovers.shown(devices.conditions, devices.gpus, self._leftovers)
        )

    async def run(self, others: Mapping[str, Part] | None = None, reported: asyncio.Event | None = None) -> None:
        """Run until cancelled, with ``others`` beside: the watch of pods, reports, whatever else serves the node.

        ``reported`` is set once the GPUNode names the devices; None: nobody waits for that."""
        with await self._alone():
            async with PodResources(self._place.pod_resources) as lister:
                parts: dict[str, Part] = {
                    "probe": self._probe_gpus,
                    "holders": partial(self._compare_holders, lister),
                }
                for slots in self._giving.resources:
                    parts[f"plugin of {slots.resource}"] = partial(self._serve, slots, lister, reported)
                parts[self._sharing.mode.value] = self._sharing.run
                await run_side_by_side(parts | dict(others or {}), self._pauses, self._parts)

    async def _serve(self, slots: Slots, lister: Lister, reported: asyncio.Event | None) -> None:
        """Keep a plugin registered, once GPUs and pods are known: the kubelet takes the first list at its word.

        The scheduler is to know them before: what it places by devices of an earlier mode has to be refused. Where the
        API server does not answer pods start all the same."""
        await self._probed.wait()
        await self._synced.wait()
        while self._giving.injector.problem:  # a pod that is admitted now would run without its GPU, or not at all
            await rings_within(self.shared.devices_changed.next_ring(), self.shared.settings.probe_interval)
        plugin = DevicePlugin(slots, self.shared, lister, self._give)
        registration = Registration(plugin, self._place.plugins, self.shared.settings, self.shared.counters)
        self._registrations[slots.resource] = registration
        if reported is not None and not await rings_within(reported, self.shared.settings.report_patience):
            _log.warning("%s is served though the GPUNode could not be written in time", slots.resource)
        await registration.run()

    async def _give(self, granted: Grant) -> wire.ContainerAllocateResponse:
        """The answer to an allocation, once nothing stands in the way of what it gives."""
        for gpu, share in granted.parts:
            await self._sharing.admit(gpu, share.share, share.memory_mib)
        return self._giving.injector.answer(granted)

    async def _alone(self) -> TextIO:
        """The lock of this node, once no other agent has it: two would undo each other's work without end."""
        path = self._place.plugins / _LOCK
        while True:
            try:
                lock = _locked(path)
            except BlockingIOError:
                self._parts["alone"] = "another agent serves this node"
            except OSError as error:
                self._parts["alone"] = f"{path} cannot be written: {error.strerror}"
            else:
                self._parts["alone"] = ""
                return lock
            await asyncio.sleep(self.shared.settings.socket_interval)

    async def _probe_gpus(self) -> None:
        """Ask the driver again and again; while it does not answer, its GPUs take no new work."""
        loop, stirred = asyncio.get_running_loop(), Bell()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(stirred.ring)

        self._probe.watch(wake)
        began, self._read_at = loop.time(), -math.inf
        while True:
            rung = stirred.next_ring()
            read = loop.time() >= self._read_at + self.shared.settings.reading_interval
            try:
                self.inventory, conditions, readings = await self._ask(read=read)
            except Exception as error:
                known = isinstance(error, errors.TangramError)
                self._fall_silent(str(error) if known else f"{type(error).__name__}: {error}")
                if not known:
                    raise
            else:
                self._parts["probe"] = ""
                if readings is not None:
                    self.readings, self._read_at = readings, loop.time()
                self._find_leftovers()
                await self._take_probe(conditions, read=readings is not None)
                if not self._sharing_starts(began):
                    self._probed.set()
            interval = self.shared.settings.probe_interval if self._probed.is_set() else _FIRST_PROBES
            await asyncio.sleep(min(_STIRRED_SECONDS, interval))
            await rings_within(rung, interval - _STIRRED_SECONDS)

    async def _ask(self, *, read: bool) -> tuple[Inventory, dict[str, Condition], tuple[Reading, ...] | None]:
        """What the probe says. A driver that hangs is waited for: calls that queue up behind that one help nobody."""
        probe = asyncio.ensure_future(self._thread.call(partial(self._probe_all, read=read)))
        patience = self.shared.settings.driver_patience
        try:
            if not (await asyncio.wait({probe}, timeout=patience))[0]:
                self._fall_silent(f"it has not answered for {patience:g} s")
            return await probe
        finally:
            probe.cancel()

    def _fall_silent(self, why: str) -> None:
        """The driver does not answer: GPUs that were well may be so no longer, and what was measured is old."""
        self._parts["probe"], self.readings, self._read_at = why, (), -math.inf
        text, conditions = f"the driver does not answer: {why}", dict[str, Condition]()
        for gpu in self.devices.gpus:
            before = self.devices.health(gpu)
            silent = replace(before, health=Health.DEGRADED, reason=text)
            conditions[gpu.physical] = before if before.health is Health.UNHEALTHY else silent
        self._take(Devices(self.devices.gpus, conditions))
        if self._exporter is not None:
            self._exporter.show(conditions)

    def _sharing_starts(self, began: float) -> bool:
        """Whether MPS daemons are still starting: GPUs that are shown before would be refused to pods for a moment."""
        late = asyncio.get_running_loop().time() > began + _MPS_PATIENCE
        return not late and any(self._sharing.problems().values())

    def _probe_all(self, *, read: bool) -> tuple[Inventory, dict[str, Condition], tuple[Reading, ...] | None]:
        return *self._probe.check(), self._probe.readings() if read else None

    async def _take_probe(self, conditions: Mapping[str, Condition], *, read: bool) -> None:
        self._sharing.want(self.inventory.gpus)
        conditions = self._sharing.conditions(conditions)
        mode = self._giving.isolation
        conditions = self.shared.refused.held_back(held_back(mode, self.inventory.gpus, conditions))
        self._take(self.devices.updated(sliced(mode, self.inventory), conditions))
        if self._exporter is not None and not read:
            self._exporter.show(self.devices.conditions)
        elif self._exporter is not None:
            up = {uuid: not problem for uuid, problem in self._sharing.problems().items()}
            observation = Observation(
                self.inventory, self.devices.conditions, self.readings, self.holdings,
                containers_by_id(self._pods.values()), self._giving.isolation, up, self._sharing.servers(),
                self._sharing.ceilings_put_back(),
            )  # fmt: skip
            await self._thread.call(partial(self._exporter.observe, observation))

    def _find_leftovers(self) -> None:
        self.shared.readings = self.readings
        if self.shared.leftovers is not None and self._compared.is_set():
            before, self._leftovers = self._leftovers, self.shared.leftovers.find(self.readings, self.holdings)
            if before.keys() != self._leftovers.keys():
                self.shared.devices_changed.ring()

    def _take(self, devices: Devices) -> None:
        self._giving.injector.prepare(devices.gpus)
        if devices != self.shared.devices:
            self.shared.devices = devices
            self.shared.devices_changed.ring()

    async def _compare_holders(self, lister: Lister) -> None:
        """Compare what containers hold with what their records say, whenever that may have changed."""
        while True:
            changed = self.shared.holders_changed.next_ring()
            listing: Listing | None = None
            try:
                listing = await lister.list()
                self._parts["holders"] = ""
            except errors.NotReachable as error:
                self._parts["holders"] = str(error)
            self.holdings = self.shared.ledger.holdings(listing, self.devices)
            if self._synced.is_set() and not self._compared.is_set():
                self._compared.set()
                self.shared.devices_changed.ring()  # from now on the GPUNode can be written
            if listing is not None and self._synced.is_set():
                self._sharing.apply_holdings(self.inventory.gpus, self.holdings)
                self._giving.injector.keep(self.holdings)
            if listing is not None:
                self._compare(frozenset(self.shared.ledger.mismatches(listing, self.devices)))
            settings = self.shared.settings
            await rings_within(changed, settings.compare_interval if not self._suspected else 2 * _BURST_SECONDS)
            await asyncio.sleep(_BURST_SECONDS)

    def _compare(self, found: frozenset[Mismatch]) -> None:
        """A mismatch counts when two comparisons see it: a watch that lags behind the kubelet looks like one."""
        confirmed = found & (self._suspected | self.mismatches)
        for one in sorted(confirmed - self.mismatches, key=lambda one: one.text):
            _log.error("mismatch: %s", one.text)
            self._notices.mismatch(one)
            self.shared.counters.mismatches += 1
        self._suspected, self.mismatches = found - confirmed, confirmed
        self.shared.counters.mismatches_now = len(confirmed)


def _locked(path: Path) -> TextIO:
    """The file, locked until it is closed; raises BlockingIOError when somebody else has it."""
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file
