"""Measures on a real GPU whether a share is what it promises: how much memory is given, how much work gets done.

CUDA reads the variables of MPS when a process makes its first context, so each measurement is a process of its own: one
with the variables of the contract, one without its limits, which is what a tenant gets that clears them, and one that
goes around MPS, which has the whole GPU and is the yardstick for compute. Memory is taken only until just past the
limit, for a moment; the work takes the GPU for some seconds. Measure while the GPU has no other tenant, or its work is
in the figures.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from tangram.errors import InvalidInput, NotReachable
from tangram.node.gpus import Isolation
from tangram.node.isolation import CONTRACTS
from tangram.units import MIB

LIMITS: Final = ("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT")
PIPES: Final = "CUDA_MPS_PIPE_DIRECTORY"
_NOWHERE: Final = "/nonexistent"
"""A program that finds no daemon there goes on without MPS (manual page of nvidia-cuda-mps-control)."""
_PIECES_MIB: Final = (256, 64, 16, 4)
_BLOCKS: Final = 8192
_ENOUGH_SECONDS: Final = 0.3
_REPEATS: Final = 3
_COMPUTE_TOLERANCE: Final = 8.0
"""Percent of the GPU: MPS rounds shares up to what the hardware can distinguish, and clocks rise when less is used."""
_PATIENCE_SECONDS: Final = 120


class Driver(Protocol):
    """What is asked of a GPU; see ``cuda.Cuda``."""

    @property
    def name(self) -> str:
        """Of the model."""

    @property
    def memory_mib(self) -> int:
        """That the process sees."""

    @property
    def multiprocessors(self) -> int:
        """That the process sees."""

    def allocate(self, size: int) -> int | None:
        """An address of ``size`` bytes, or None when they are refused."""

    def allocate_managed(self, size: int) -> int | None:
        """As ``allocate``, of memory that driver and device move between them, all of it on the device for once."""

    def free(self, address: int) -> None:
        """Give memory back."""

    def spin(self, blocks: int, rounds: int) -> float:
        """Seconds for this much work."""


@dataclass(frozen=True, slots=True)
class Promise:
    """What a container's environment says that it has; None where nothing is promised."""

    mode: Isolation
    percent: int | None = None
    memory_mib: int | None = None


class Measured(msgspec.Struct, frozen=True):
    """What one process got."""

    model: str
    memory_seen_mib: int
    multiprocessors_seen: int
    memory_mib: int
    """Given before a request was refused."""
    refused: bool
    """False: the measurement stopped by itself, just past the limit."""
    work_per_second: float
    managed_mib: int = 0
    """Of managed memory, likewise."""
    managed_refused: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise beside what was measured."""

    subject: str
    promised: str
    measured: str
    kept: bool | None
    """None: nothing was promised."""


def promise_of(environment: Mapping[str, str]) -> Promise:
    """The contract that a container reads in its variables; raises InvalidInput when they cannot be read."""
    text = environment.get("TANGRAM_GPU_ISOLATION", "")
    if text not in {mode.value for mode in Isolation}:
        allowed = f"{', '.join(mode.value for mode in Isolation)}: run this in a container that tangram gave a GPU"
        raise InvalidInput("the environment", "TANGRAM_GPU_ISOLATION", text, allowed)
    mode = Isolation(text)
    if mode is not Isolation.MPS:
        return Promise(mode)
    percent, limit = (environment.get(name, "") for name in LIMITS)
    if not percent.isdecimal() or not 1 <= int(percent) <= 100:
        raise InvalidInput("the environment", LIMITS[0], percent, "1 to 100")
    memory = limit.removeprefix("0=").removesuffix("M")
    if limit != f"0={memory}M" or not memory.isdecimal():
        raise InvalidInput("the environment", LIMITS[1], limit, "0=<MiB>M")
    return Promise(mode, int(percent), int(memory))


def measure(driver: Driver, most_mib: int) -> Measured:
    """Take memory until it is refused or ``most_mib`` is reached, give it back, then do work."""
    given, refused = _memory(driver.allocate, driver.free, most_mib)
    managed, managed_refused = _memory(driver.allocate_managed, driver.free, most_mib)
    work = _work(driver)
    return Measured(
        driver.name, driver.memory_mib, driver.multiprocessors, given, refused, work, managed, managed_refused
    )


def _memory(allocate: Callable[[int], int | None], free: Callable[[int], None], most_mib: int) -> tuple[int, bool]:
    taken, given, refused = list[int](), 0, False
    try:
        for piece in _PIECES_MIB:
            while given + piece <= most_mib:
                address = allocate(piece * MIB)
                if address is None:
                    refused = True
                    break
                taken.append(address)
                given += piece
    finally:
        for address in taken:
            free(address)
    return given, refused


def _work(driver: Driver) -> float:
    """Rounds per second of all blocks together, the best of some runs: what disturbs a run only makes it longer."""
    rounds = 1000
    while (seconds := driver.spin(_BLOCKS, rounds)) < _ENOUGH_SECONDS and rounds < 1 << 30:
        rounds = min(1 << 30, int(rounds * max(2.0, 1.2 * _ENOUGH_SECONDS / max(seconds, 1e-6))))
    best = min(seconds, *(driver.spin(_BLOCKS, rounds) for _ in range(_REPEATS)))
    return _BLOCKS * rounds / best


def most_to_take(promise: Promise) -> int:
    """MiB at which a measurement of memory stops by itself: enough past the limit to see that it is none."""
    return promise.memory_mib + max(512, promise.memory_mib // 20) if promise.memory_mib is not None else 1024


def judge(promise: Promise, limited: Measured, cleared: Measured, around: Measured) -> tuple[Verdict, ...]:
    """Promises beside measurements: with the contract's variables, without its limits, and around MPS."""
    part, most = (100.0 * one.work_per_second / around.work_per_second for one in (limited, cleared))
    if promise.percent is None or promise.memory_mib is None:
        expected = "all of a device" if CONTRACTS[promise.mode].compute else "no limit"
        return (
            Verdict("memory", expected, _given(limited.memory_mib, refused=limited.refused), None),
            Verdict("compute", expected, f"{part:.1f} % of the same", None),
        )
    given, kept = _given(limited.memory_mib, refused=limited.refused), part <= promise.percent + _COMPUTE_TOLERANCE
    held = limited.refused and limited.memory_mib <= promise.memory_mib
    managed = _given(limited.managed_mib, refused=limited.managed_refused)
    unlimited = _given(cleared.memory_mib, refused=cleared.refused)
    return (
        Verdict("memory", f"at most {promise.memory_mib} MiB", given, held),
        Verdict("compute", f"at most {promise.percent} %", f"{part:.1f} %", kept),
        Verdict("managed memory", "no promise", managed, None),
        Verdict("memory without the variables", "no promise", unlimited, None),
        Verdict("compute without the variables", "no promise", f"{most:.1f} %", None),
    )


def _given(mib: int, *, refused: bool) -> str:
    return f"{mib} MiB" + ("" if refused else " and no refusal")


def verify(environment: Mapping[str, str], run: Callable[[Mapping[str, str], int], Measured]) -> tuple[Verdict, ...]:
    """Measure in all three ways; ``run`` measures in a process with that environment."""
    promise = promise_of(environment)
    most = most_to_take(promise)
    cleared = {name: value for name, value in environment.items() if name not in LIMITS}
    around = cleared | ({PIPES: _NOWHERE} if PIPES in cleared else {})
    return judge(promise, run(environment, most), run(cleared, most), run(around, most))


def in_a_process(environment: Mapping[str, str], most_mib: int) -> Measured:
    """Measure in a new process; raises NotReachable with what that process said."""
    command = [sys.executable, "-c", "from tangram.node.verify import child; child()", str(most_mib)]
    here = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            command,
            env={**environment, "PYTHONPATH": here},
            capture_output=True,
            text=True,
            timeout=_PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NotReachable(f"the GPU did not finish within {_PATIENCE_SECONDS} seconds") from None
    if done.returncode:
        raise NotReachable(done.stderr.strip().rpartition("\n")[2] or f"exit code {done.returncode}")
    return msgspec.json.decode(done.stdout, type=Measured)


def child() -> None:
    """One measurement, as JSON on standard output."""
    from tangram.node.cuda import Cuda

    try:
        with Cuda() as driver:
            sys.stdout.write(msgspec.json.encode(measure(driver, int(sys.argv[1]))).decode())
    except NotReachable as error:
        sys.exit(str(error))
