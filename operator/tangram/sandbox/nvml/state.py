"""The GPUs of a pretended machine: what a person writes in YAML, and the facts that the library reads.

Writing the facts again while programs run is how GPUs get warm, fail and come back.
"""

import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tangram.errors import InvalidInput
from tangram.sandbox.shapes import SHAPES, GpuShape

MOST_GPUS = 64
Count = Annotated[int, Meta(ge=0, le=2**53)]
Percent = Annotated[int, Meta(ge=0, le=100)]
Word = Annotated[str, Meta(pattern=r"^[ -~]{0,80}$")]
_XID_EVENT = 8
_RECOVERY_FIELD = 230
_RECOVERIES = ("none", "reset", "reboot", "drain-p2p", "drain-and-reset")
_VIRTUALIZATIONS = ("none", "passthrough", "vgpu")
_ERRORS = {
    "UNINITIALIZED": 1,
    "NOT_SUPPORTED": 3,
    "NO_PERMISSION": 4,
    "DRIVER_NOT_LOADED": 9,
    "GPU_IS_LOST": 15,
    "RESET_REQUIRED": 16,
    "LIB_RM_VERSION_MISMATCH": 18,
    "UNKNOWN": 999,
}
ErrorName = Literal[
    "UNINITIALIZED",
    "NOT_SUPPORTED",
    "NO_PERMISSION",
    "DRIVER_NOT_LOADED",
    "GPU_IS_LOST",
    "RESET_REQUIRED",
    "LIB_RM_VERSION_MISMATCH",
    "UNKNOWN",
]
"""Errors of NVML that a failure can be."""


class _Written(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """A part of the YAML; fields may be set while a test goes on, and ``write`` shows them to the programs."""


class MockProcess(_Written):
    """A process that uses a GPU."""

    pid: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    memory_mib: Count = 0
    sm_percent: Percent = 0
    memory_percent: Percent = 0
    kind: Literal["compute", "mps", "graphics"] = "compute"


class MockSlice(_Written):
    """A MIG slice."""

    profile: Annotated[str, Meta(pattern=r"^[1-7]g\.[0-9]{1,3}gb$")]
    """Such as 1g.10gb."""
    uuid: Word = ""
    """Empty: made from the GPU's."""
    used_mib: Count = 0


class MockLink(_Written):
    """NVLinks to another GPU, or to the switch."""

    to: Annotated[int, Meta(ge=0, lt=MOST_GPUS)] | Literal["switch"]
    """Index of the other GPU; the other one needs its links as well."""
    lanes: Annotated[int, Meta(ge=1, le=36)] = 1
    down: Annotated[int, Meta(ge=0, le=36)] = 0
    """How many of them are down."""


class MockGpu(_Written):
    """One GPU; None is what the driver does not report for it."""

    model: Word = "H100"
    """A model of the sandbox's table, or any name that a driver might report."""
    uuid: Word = ""
    """Empty: made from the index."""
    memory_mib: Count | None = None
    """None: as the table says for the model, else 16 GiB."""
    reserved_mib: Count = 0
    used_mib: Count | None = None
    """None: what its processes use."""
    numa_node: Annotated[int, Meta(ge=-1, le=1023)] = 0
    pci: Word = ""
    """Empty: made from the index."""
    pci_switch: Word = ""
    """GPUs that name the same one share a PCIe switch."""
    links: list[MockLink] = []
    mig: bool | None = False
    """None: a model that cannot be cut."""
    slices: list[MockSlice] = []
    virtualization: Literal["none", "passthrough", "vgpu"] | None = "none"
    """What the machine gives to a guest: nothing, the GPU itself, or a part of it; None: not reported."""
    c2c: bool | None = False
    """Whether CPU and GPU share their memory over NVLink-C2C, as on Grace; None: an older driver."""
    processes: list[MockProcess] = []
    per_process_use: bool = True
    """Whether the driver samples what each process uses."""
    sm_percent: Percent | None = 0
    memory_percent: Percent = 0
    power_watts: Annotated[float, Meta(ge=0, le=100_000)] | None = 70.0
    energy_millijoules: Count | None = 0
    temperature_celsius: Annotated[int, Meta(ge=0, le=250)] | None = 35
    slowdown_celsius: Annotated[int, Meta(ge=0, le=250)] | None = 87
    shutdown_celsius: Annotated[int, Meta(ge=0, le=250)] | None = 92
    sm_clock_mhz: Count | None = 1980
    memory_clock_mhz: Count | None = 2619
    ecc_corrected: Count | None = 0
    ecc_uncorrected: Count | None = 0
    """None for either: a GPU without ECC."""
    remapped_corrected: Count = 0
    remapped_uncorrected: Count = 0
    remap_pending: bool = False
    remap_failed: bool = False
    xids: list[Annotated[int, Meta(ge=1, le=1023)]] = []
    """XID errors so far, oldest first: one that is added is passed to whoever waits for events."""
    recovery: Literal["none", "reset", "reboot", "drain-p2p", "drain-and-reset"] | None = "none"
    """What the driver wants done; None: an older driver, which does not report."""
    error: ErrorName | None = None
    """What every query of this GPU is answered with, such as GPU_IS_LOST."""
    unsupported: list[Word] = []
    """Facts that are left out, such as power: their queries answer NOT_SUPPORTED."""


class MockMachine(_Written):
    """A machine with GPUs, and its driver."""

    gpus: Annotated[list[MockGpu], Meta(max_length=MOST_GPUS)]
    driver_version: Word = "580.95.05"
    cuda_version: Annotated[str, Meta(pattern=r"^[0-9]{1,3}\.[0-9]{1,2}$")] = "13.0"
    failure: ErrorName | None = None
    """What every query is answered with, such as DRIVER_NOT_LOADED."""
    loads: Count = 1
    """How often the driver has been loaded: counting up disowns whoever uses it now, until they initialise again."""


def read(path: Path) -> MockMachine:
    """A machine from YAML. Raises ``InvalidInput`` naming file, field and what is allowed."""
    try:
        text = path.read_text()
    except OSError as error:
        raise InvalidInput(str(path), "file", error.strerror, "a readable file") from None
    try:
        return msgspec.yaml.decode(text, type=MockMachine)
    except msgspec.ValidationError as error:
        said, _, field = str(error).partition(" - at ")
        raise InvalidInput(str(path), field.strip("`") or "$", "what is written there", said) from None
    except msgspec.DecodeError as error:
        raise InvalidInput(str(path), "file", "its text", f"YAML: {error}") from None


def write(machine: MockMachine, path: Path) -> None:
    """Show it to the programs that use ``path``: they see all of it or nothing."""
    lines = sorted(f"{key} {value}\n" for key, value in _facts(machine))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.write_text("".join(lines))
    now = time.time_ns()  # the kernel's own stamp is as coarse as its tick, and two changes may share one
    os.utime(temporary, ns=(now, now))
    temporary.replace(path)


def uuid_of(machine: MockMachine, index: int) -> str:
    """The identity of a GPU, which is the same in every state of the machine that does not name another."""
    return machine.gpus[index].uuid or f"GPU-{_digits(f'gpu-{index}')}"


def _digits(text: str) -> str:
    """Hexadecimal digits in the shape of a UUID, made of a text."""
    digits = "".join(f"{zlib.crc32(f'{text}/{part}'.encode()):08x}" for part in range(4))
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _pci_of(machine: MockMachine, index: int) -> str:
    return machine.gpus[index].pci or f"00000000:{0x10 + index:02X}:00.0"


def _facts(machine: MockMachine) -> Iterator[tuple[str, object]]:
    major, minor = machine.cuda_version.split(".")
    yield "driver_version", machine.driver_version
    yield "nvml_version", f"{major}.{machine.driver_version}"
    yield "cuda_version", int(major) * 1000 + int(minor) * 10
    yield "loads", machine.loads
    if machine.failure:
        yield "failure", f"!{_ERRORS[machine.failure]}"
    for index, gpu in enumerate(machine.gpus):
        known = _known(gpu)
        facts = _identity(machine, index, known) | _measures(gpu) | _happening(gpu, known)
        for name, value in (facts | _neighbours(machine, index)).items():
            if value is not None and name not in gpu.unsupported:
                yield f"gpu.{index}.{name}", value


def _known(gpu: MockGpu) -> GpuShape | None:
    return SHAPES.get(gpu.model.upper())


def _identity(machine: MockMachine, index: int, known: GpuShape | None) -> dict[str, Any]:
    gpu, uuid = machine.gpus[index], uuid_of(machine, index)
    name = known.product.replace("-", " ") if known else gpu.model
    facts: dict[str, Any] = {
        "uuid": uuid,
        "name": name,
        "serial": f"{zlib.crc32(uuid.encode()):010d}",
        "minor": index,
        "pci": _pci_of(machine, index),
        "numa": gpu.numa_node if gpu.numa_node >= 0 else None,
        "compute_capability": ".".join(map(str, known.compute)) if known else "8.0",
        "compute_mode": 0,
        "event_types": 0x18F,
        "mig_mode": None if gpu.mig is None else int(gpu.mig),
        "most_slices": None if gpu.mig is None else 7,
        "virtualization": None if gpu.virtualization is None else _VIRTUALIZATIONS.index(gpu.virtualization),
        "c2c": None if gpu.c2c is None else int(gpu.c2c),
        "error": f"!{_ERRORS[gpu.error]}" if gpu.error else None,
    }
    for number, part in enumerate(gpu.slices if gpu.mig else ()):
        slices, memory = part.profile.removesuffix("gb").split("g.")
        total = int(memory) * 1024 - 512
        facts |= {
            f"slice.{number}.uuid": part.uuid or f"MIG-{_digits(f'{uuid}/{number}')}",
            f"slice.{number}.name": f"{facts['name']} MIG {part.profile}",
            f"slice.{number}.memory": f"{total} 0 {part.used_mib}",
            f"slice.{number}.attributes": f"{slices} {total}",
            f"slice.{number}.gpu_instance": number + 1,
            f"slice.{number}.compute_instance": 0,
        }
    return facts


def _measures(gpu: MockGpu) -> dict[str, Any]:
    has_ecc = gpu.ecc_corrected is not None and gpu.ecc_uncorrected is not None
    remapped = (gpu.remapped_corrected, gpu.remapped_uncorrected, int(gpu.remap_pending), int(gpu.remap_failed))
    return {
        "utilization": None if gpu.sm_percent is None else f"{gpu.sm_percent} {gpu.memory_percent}",
        "power": None if gpu.power_watts is None else round(gpu.power_watts * 1000),
        "power_limit": 700_000,
        "energy": gpu.energy_millijoules,
        "temperature": gpu.temperature_celsius,
        "threshold.0": gpu.shutdown_celsius,
        "threshold.1": gpu.slowdown_celsius,
        "clock.0": gpu.sm_clock_mhz,
        "clock.1": gpu.sm_clock_mhz,
        "clock.2": gpu.memory_clock_mhz,
        "clock_reasons": 0,
        f"field.{_RECOVERY_FIELD}": None if gpu.recovery is None else _RECOVERIES.index(gpu.recovery),
        "performance_state": 0,
        "pcie_replays": 0,
        "ecc_mode": int(has_ecc),
        **{f"ecc.0.{counter}": gpu.ecc_corrected if has_ecc else None for counter in range(2)},
        **{f"ecc.1.{counter}": gpu.ecc_uncorrected if has_ecc else None for counter in range(2)},
        "remapped_rows": " ".join(map(str, remapped)) if has_ecc else None,
    }


def _happening(gpu: MockGpu, known: GpuShape | None) -> dict[str, Any]:
    total = gpu.memory_mib if gpu.memory_mib is not None else known.memory_mib if known else 16_384
    used = gpu.used_mib if gpu.used_mib is not None else sum(one.memory_mib for one in gpu.processes)
    facts: dict[str, Any] = {
        "memory": f"{total} {gpu.reserved_mib} {min(used, max(0, total - gpu.reserved_mib))}",
        "no_samples": None if gpu.per_process_use else 1,
    }
    for number, one in enumerate(gpu.processes):
        facts[f"process.{number}"] = f"{one.pid} {one.memory_mib} {one.sm_percent} {one.memory_percent} {one.kind}"
    for number, xid in enumerate(gpu.xids):
        facts[f"event.{number}"] = f"{_XID_EVENT} {xid}"
    return facts


def _neighbours(machine: MockMachine, index: int) -> dict[str, Any]:
    gpu, facts, lane = machine.gpus[index], dict[str, Any](), 0
    for link in gpu.links:
        for number in range(link.lanes):
            facts[f"link.{lane}"] = "down" if number < link.down else link.to
            lane += 1
    for other, neighbour in enumerate(machine.gpus):
        if other != index:
            facts[f"ancestor.{other}"] = _common_ancestor(gpu, neighbour)
    return facts


def _common_ancestor(one: MockGpu, other: MockGpu) -> int:
    """NVML's number for where the ways of two GPUs meet: one switch, one host bridge, or the bus between CPUs."""
    if one.pci_switch and one.pci_switch == other.pci_switch:
        return 10
    return 30 if one.numa_node == other.numa_node else 50
