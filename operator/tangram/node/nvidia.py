"""NVIDIA's GPUs through NVML: what is there, how it is, what it measures.

One lost GPU leaves the others as they are, and a driver that was loaded again is met with a new initialisation. All
calls come from one thread.
"""

import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tangram.node.events import Events
from tangram.node.gpus import Condition, Gpu, Inventory, Link, Process, Reading, Slice
from tangram.node.health import History, Signs, judge, remember
from tangram.node.nvlinks import links_between
from tangram.node.nvml import MOST_GPUS, MOST_MIB, DriverGone, GpuGone, Nvml, number, retried, text
from tangram.node.predict import Predictor, Sample, trend

_log = logging.getLogger(__name__)

_DESCRIBE_SECONDS = 60.0
"""What hardly changes (links, slices) is asked again after so long."""
_UNKNOWN_MODEL = "unknown"
_MOST_SLICES = 16
_MOST_PROCESSES = 1024
_MOST_COUNT = 2**53
_UNFIT_FOR_LABELS = re.compile(r"[^A-Za-z0-9_.-]+")
_PROFILE = re.compile(r"MIG (\S+)$")
_UNDIVIDED = (0, 1)
"""Modes of virtualization in which a GPU is all of itself: NVML_GPU_VIRTUALIZATION_MODE_NONE and _PASSTHROUGH."""
_RECOVERIES = {
    0: "",
    1: "reset of the GPU",
    2: "reboot of the node",
    3: "draining of peer-to-peer traffic",
    4: "draining and reset of the GPU",
    5: "recovery of the IMEX domain",
    6: "reset of the bus",
    7: "reboot of the system",
}


@dataclass(slots=True)
class _Known:
    """A GPU that was seen at least once."""

    gpu: Gpu
    history: History = field(default_factory=History)
    xid: int | None = None
    pending: list[int] = field(default_factory=list)
    """XIDs that have come since the last probe at its health."""
    sampled_at: int = 0
    """Microseconds of the last sample of its processes."""
    limits: tuple[int | None, int | None] = (None, None)
    """Temperatures at which it becomes slower and shuts down."""
    vitals: "_Vitals | None" = None
    """What the last check has asked and no reading has used yet."""


@dataclass(frozen=True, slots=True)
class _Vitals:
    """What both a check and a reading want to know; None is what the driver does not report."""

    corrected: int | None
    uncorrected: int | None
    remapped: tuple[int, int, int, int] | None
    """Rows after corrected and after uncorrected errors, whether one waits, whether one could not be remapped."""
    temperature: int | None


class NvidiaProbe:
    """The ``Probe`` of NVIDIA's GPUs; raises ProbeFailed when made where the bindings are missing."""

    def __init__(
        self,
        predict: Predictor = trend,
        clock: Callable[[], float] = time.monotonic,
        sysfs: Path = Path("/sys"),
    ) -> None:
        self._nvml = Nvml()
        self._predict, self._clock, self._sysfs = predict, clock, sysfs
        self._open = False
        self._known: dict[str, _Known] = {}
        self._devices: dict[str, Any] = {}
        """Handles of the GPUs that answered the last probe, by uuid."""
        self._reasons: dict[str, str] = {}
        """Why a GPU that was seen before did not answer the last probe."""
        self._events = Events(self._nvml)
        self._software = ("", (0, 0))
        """Versions of the driver, and of CUDA that it supports."""
        self._described_at = -_DESCRIBE_SECONDS
        self._reloaded = False
        self._unidentified: tuple[str, ...] = ()
        self._said: set[str] = set()

    def watch(self, wake: Callable[[], None]) -> None:
        """Wait for the driver's events on a thread of their own, which calls ``wake`` when one has come."""
        self._events.watch(wake)

    def check(self) -> tuple[Inventory, dict[str, Condition]]:
        """Inventory and conditions of one look; raises ProbeFailed when the driver does not answer."""
        return retried(lambda: (self._inventory(), self._judged()), self._reopen)

    def inventory(self) -> Inventory:
        """The GPUs that answer; raises ProbeFailed when the driver does not."""
        return retried(self._inventory, self._reopen)

    def conditions(self) -> dict[str, Condition]:
        """Health of every GPU that was ever seen; raises ProbeFailed when the driver does not answer."""
        return retried(self._conditions, self._reopen)

    def readings(self) -> tuple[Reading, ...]:
        """Measurements of the GPUs that answer; raises ProbeFailed when the driver does not."""
        return retried(self._readings, self._reopen)

    def close(self) -> None:
        """Stop using the driver."""
        self._events.close()
        if self._open:
            self._nvml.shut_down()
        self._open, self._devices = False, {}
        self._described_at = -_DESCRIBE_SECONDS

    def _reopen(self) -> None:
        self.close()
        self._reloaded = True

    def _find(self) -> None:
        """Bring handles up to date, and describe the GPUs that are new."""
        if not self._open:
            self._nvml.initialise()
            self._open, self._software = True, self._versions()
        count = number(self._nvml.ask_driver("nvmlDeviceGetCount"), MOST_GPUS)
        if count is None:
            raise DriverGone("it does not report the number of GPUs")
        if count == len(self._devices) and not self._unidentified and self._all_answer():
            self._events.listen(self._devices)
            return
        lost: dict[int, str] = {}
        before, self._devices = set(self._devices), {}
        for index in range(count):
            try:
                device = self._nvml.need("nvmlDeviceGetHandleByIndex", index)
                uuid = text(self._nvml.need("nvmlDeviceGetUUID", device), 128)
                if not uuid or uuid in self._devices:
                    raise GpuGone("it has no identity of its own")
                if uuid not in self._known:
                    gpu = self._describe(device, Gpu(uuid, index, _UNKNOWN_MODEL, memory_mib=0))
                    self._known[uuid] = _Known(gpu, limits=self._limits(device))
                self._devices[uuid] = device
            except GpuGone as error:
                lost[index] = str(error)
        if set(self._devices) != before:
            self._described_at = -_DESCRIBE_SECONDS  # indices and links may be others now
        self._reasons = {
            uuid: lost.get(known.gpu.index, "the driver no longer finds it")
            for uuid, known in self._known.items()
            if uuid not in self._devices
        }
        self._events.listen(self._devices)
        known_indices = {known.gpu.index for known in self._known.values()}
        self._unidentified = tuple(
            f"GPU {index} has not answered since the agent started: {lost[index]}"
            for index in sorted(set(lost) - known_indices)
        )
        for problem in self._unidentified:
            self._say(problem)

    def _all_answer(self) -> bool:
        """Whether each GPU is who it was at the last look."""
        for uuid, device in self._devices.items():
            try:
                if text(self._nvml.ask("nvmlDeviceGetUUID", device), 128) != uuid:
                    return False
            except GpuGone:
                return False
        return True

    def _say(self, problem: str) -> None:
        if problem not in self._said:
            self._said.add(problem)
            _log.error("%s", problem)

    def _inventory(self) -> Inventory:
        self._find()
        now = self._clock()
        if now >= self._described_at + _DESCRIBE_SECONDS:
            self._describe_all()
            self._described_at = now
        gpus = sorted((self._known[uuid].gpu for uuid in self._devices), key=lambda gpu: gpu.index)
        driver, (major, minor) = self._software
        return Inventory(tuple(gpus), driver, f"{major}.{minor}" if major else "", self._unidentified)

    def _versions(self) -> tuple[str, tuple[int, int]]:
        cuda = number(self._nvml.ask_driver("nvmlSystemGetCudaDriverVersion"), 10**6) or 0
        driver = text(self._nvml.ask_driver("nvmlSystemGetDriverVersion"), 64)
        return driver, (cuda // 1000, cuda % 1000 // 10)

    def _describe_all(self) -> None:
        addresses = {uuid: self._known[uuid].gpu.pci_address for uuid in self._devices}
        links = links_between(self._nvml, self._devices, addresses)
        for uuid, device in list(self._devices.items()):
            try:
                index = number(self._nvml.need("nvmlDeviceGetIndex", device), MOST_GPUS) or 0
                known = self._known[uuid]
                known.gpu = self._describe(device, replace(known.gpu, index=index), links[uuid])
                known.limits = self._limits(device)
            except GpuGone as error:
                self._lose(uuid, error)

    def _lose(self, uuid: str, error: GpuGone) -> None:
        self._devices.pop(uuid, None)
        self._reasons[uuid] = str(error)

    def _describe(self, device: Any, before: Gpu, links: tuple[Link, ...] = ()) -> Gpu:
        """What a GPU is. What is not reported this time is as it was: a bad answer must not make it another GPU."""
        pci = text(getattr(self._nvml.ask("nvmlDeviceGetPciInfo", device), "busId", ""), 32) or before.pci_address
        major, minor = self._nvml.ask("nvmlDeviceGetCudaComputeCapability", device) or before.compute_capability
        minor_number = number(self._nvml.ask("nvmlDeviceGetMinorNumber", device), 4096)
        numa_node = self._numa_node(device, pci)
        name = text(self._nvml.ask("nvmlDeviceGetName", device), 96) or before.name
        mode = self._nvml.ask("nvmlDeviceGetMigMode", device)
        virtual = self._nvml.ask("nvmlDeviceGetVirtualizationMode", device)
        c2c = self._nvml.ask("nvmlDeviceGetC2cModeInfoV", device)
        mig = mode[0] == 1 if mode else before.mig
        return replace(
            before,
            name=name,
            model=_label(name) or before.model,
            memory_mib=self._memory(device)[0] or before.memory_mib,
            numa_node=numa_node if numa_node >= 0 else before.numa_node,
            pci_address=pci,
            minor_number=before.minor_number if minor_number is None else minor_number,
            compute_capability=(number(major, 999) or 0, number(minor, 999) or 0),
            cuda=self._software[1],
            virtual=(number(virtual, 255) or 0) not in _UNDIVIDED,
            coherent=bool(getattr(c2c, "isC2cEnabled", before.coherent)),
            links=links,
            mig=mig,
            slices=self._slices(device, before.slices) if mig else (),
        )

    def _memory(self, device: Any) -> tuple[int | None, int | None, int | None]:
        """MiB in all, used and free; what the driver keeps for itself is neither."""
        answer = self._nvml.ask("nvmlDeviceGetMemoryInfo", device, self._nvml.names.nvmlMemory_v2)
        answer = answer or self._nvml.ask("nvmlDeviceGetMemoryInfo", device)
        if answer is None:
            return None, None, None
        total, used, free = (number(value >> 20, MOST_MIB) for value in (answer.total, answer.used, answer.free))
        return total, used, free

    def _numa_node(self, device: Any, pci: str) -> int:
        words = self._nvml.ask("nvmlDeviceGetMemoryAffinity", device, 16, 0)
        for word, bits in enumerate(words or ()):
            if bits:
                return 64 * word + (int(bits) & -int(bits)).bit_length() - 1
        try:
            node = int((self._sysfs / "bus/pci/devices" / pci[-12:].lower() / "numa_node").read_text())
        except (OSError, ValueError):
            return -1
        return node if 0 <= node < 1024 else -1

    def _slices(self, device: Any, before: tuple[Slice, ...]) -> tuple[Slice, ...]:
        most = number(self._nvml.ask("nvmlDeviceGetMaxMigDeviceCount", device), _MOST_SLICES)
        if most is None:
            return before
        found, known = [], {one.uuid: one for one in before}
        for index in range(most):
            part = self._nvml.ask("nvmlDeviceGetMigDeviceHandleByIndex", device, index)
            if part is None:
                continue
            uuid = text(self._nvml.ask("nvmlDeviceGetUUID", part), 128)
            if not uuid:
                return before
            profile = _PROFILE.search(text(self._nvml.ask("nvmlDeviceGetName", part), 96))
            earlier = known.get(uuid, Slice(uuid, "", 0))
            memory = self._memory(part)[0] or earlier.memory_mib
            found.append(Slice(uuid, profile[1] if profile else earlier.profile, memory))
        return tuple(found)

    def _conditions(self) -> dict[str, Condition]:
        self._find()
        return self._judged()

    def _judged(self) -> dict[str, Condition]:
        self._take_events()
        now, found = self._clock(), {}
        for uuid, known in self._known.items():
            signs = replace(self._signs(uuid, now), xids=tuple(known.pending), reloaded=self._reloaded)
            known.pending.clear()
            known.history = remember(known.history, signs)
            found[uuid] = judge(known.history, signs, self._predicted)
        self._reloaded = False
        return found

    def _predicted(self, samples: tuple[Sample, ...]) -> str:
        try:
            return str(self._predict(samples))
        except Exception as error:  # noqa: BLE001 - somebody else's predictor must not cost a GPU
            self._say(f"the failure predictor failed: {type(error).__name__}: {error}")
            return ""

    def _signs(self, uuid: str, now: float) -> Signs:
        device = self._devices.get(uuid)
        if device is None:
            return Signs(now, self._reasons.get(uuid, "the driver no longer finds it"))
        known = self._known[uuid]
        try:
            known.vitals = vitals = self._vitals(device)
            remapped = vitals.remapped or (0, 0, 0, 0)
            return Signs(
                now,
                corrected=vitals.corrected,
                uncorrected=vitals.uncorrected,
                remap_pending=bool(remapped[2]),
                remap_failed=bool(remapped[3]),
                temperature=vitals.temperature,
                slowdown=known.limits[0],
                shutdown=known.limits[1],
                recovery=self._recovery(device),
            )
        except GpuGone as error:
            self._lose(uuid, error)
            return Signs(now, str(error))

    def _vitals(self, device: Any) -> _Vitals:
        names, remapped = self._nvml.names, self._nvml.ask("nvmlDeviceGetRemappedRows", device)
        return _Vitals(
            self._ecc(device, names.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            self._ecc(device, names.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
            None if remapped is None else tuple(remapped),
            number(self._nvml.ask("nvmlDeviceGetTemperature", device, names.NVML_TEMPERATURE_GPU), 250),
        )

    def _limits(self, device: Any) -> tuple[int | None, int | None]:
        names = self._nvml.names
        slowdown = self._threshold(device, names.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
        return slowdown, self._threshold(device, names.NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)

    def _ecc(self, device: Any, kind: int) -> int | None:
        volatile = self._nvml.names.NVML_VOLATILE_ECC
        return number(self._nvml.ask("nvmlDeviceGetTotalEccErrors", device, kind, volatile), _MOST_COUNT)

    def _threshold(self, device: Any, kind: int) -> int | None:
        return number(self._nvml.ask("nvmlDeviceGetTemperatureThreshold", device, kind), 250, 1)

    def _recovery(self, device: Any) -> str | None:
        wanted = getattr(self._nvml.names, "NVML_FI_DEV_GET_GPU_RECOVERY_ACTION", None)
        values = self._nvml.ask("nvmlDeviceGetFieldValues", device, [wanted]) if wanted is not None else None
        if not values or values[0].nvmlReturn != 0:
            return None
        return _RECOVERIES.get(int(values[0].value.uiVal), "an action that is not known here")

    def _take_events(self) -> None:
        for uuid, xid in self._events.take(self._devices):
            known = self._known.get(uuid)
            if known is not None and 0 < xid < 2**16:
                known.xid = xid
                known.pending.append(xid)

    def _readings(self) -> tuple[Reading, ...]:
        if not self._open:
            self._find()
        found = []
        for uuid, device in sorted(self._devices.items(), key=lambda item: self._known[item[0]].gpu.index):
            try:
                found.append(self._reading(self._known[uuid], device))
            except GpuGone as error:
                self._lose(uuid, error)
        return tuple(found)

    def _reading(self, known: _Known, device: Any) -> Reading:
        ask, names = self._nvml.ask, self._nvml.names
        use = ask("nvmlDeviceGetUtilizationRates", device)
        _, used, free = self._memory(device)
        milliwatts = number(ask("nvmlDeviceGetPowerUsage", device), 10**8)
        vitals, known.vitals = known.vitals or self._vitals(device), None
        return Reading(
            known.gpu.uuid,
            None if use is None else number(use.gpu, 100),
            None if use is None else number(use.memory, 100),
            used,
            free,
            None if milliwatts is None else milliwatts / 1000,
            number(ask("nvmlDeviceGetTotalEnergyConsumption", device), _MOST_COUNT),
            vitals.temperature,
            number(ask("nvmlDeviceGetClockInfo", device, names.NVML_CLOCK_SM), 10**5),
            number(ask("nvmlDeviceGetClockInfo", device, names.NVML_CLOCK_MEM), 10**5),
            known.xid,
            vitals.corrected,
            vitals.uncorrected,
            None if vitals.remapped is None else sum(vitals.remapped[:2]),
            self._processes(known, device),
        )

    def _processes(self, known: _Known, device: Any) -> tuple[Process, ...]:
        memory: dict[int, int] = {}
        for function in ("nvmlDeviceGetComputeRunningProcesses", "nvmlDeviceGetMPSComputeRunningProcesses"):
            for one in self._nvml.ask(function, device) or ():
                pid = number(one.pid, 2**31 - 1, 1)
                if pid is not None and (pid in memory or len(memory) < _MOST_PROCESSES):
                    memory[pid] = max(memory.get(pid, 0), number((one.usedGpuMemory or 0) >> 20, MOST_MIB) or 0)
        if not memory:
            return ()
        samples = self._nvml.ask_pid_use(device, known.sampled_at)
        use: dict[int, int] = {}
        for sample in sorted(samples or (), key=lambda one: one.timeStamp):
            if sample.pid in memory and sample.timeStamp > known.sampled_at:
                use[sample.pid] = number(sample.smUtil, 100) or 0
        known.sampled_at = max((one.timeStamp for one in samples or ()), default=known.sampled_at)
        idle = None if samples is None else 0
        return tuple(Process(pid, mib, use.get(pid, idle)) for pid, mib in sorted(memory.items()))


def _label(name: str) -> str:
    """The model as a node label could have it, as NVIDIA's feature discovery writes it: hyphens for spaces."""
    return _UNFIT_FOR_LABELS.sub("-", name)[:63].strip("-_.")
