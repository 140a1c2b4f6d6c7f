"""Is a share what it promises? The reasoning with a driver that is made up, the calls with a library that sleeps."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from tangram.errors import InvalidInput, NotReachable
from tangram.node.cuda import Cuda
from tangram.node.gpus import Gpu, Isolation
from tangram.node.isolation import environment
from tangram.node.verify import LIMITS, PIPES, Measured, Promise, judge, measure, most_to_take, promise_of, verify
from tangram.units import MIB

A100 = Gpu(uuid="GPU-a", index=0, model="A100", memory_mib=16384, compute_capability=(8, 0))


class Made:
    """A driver with this much memory and speed."""

    name, memory_mib, multiprocessors = "Made", 16384, 108

    def __init__(self, memory_mib: int = 16384, blocks_per_second: float = 1e9) -> None:
        self.free_bytes, self.rate = memory_mib * MIB, blocks_per_second
        self.held: dict[int, int] = {}
        self.most = 0

    def allocate(self, size: int) -> int | None:
        if sum(self.held.values()) + size > self.free_bytes:
            return None
        address = len(self.held) + 1
        self.held[address] = size
        self.most = max(self.most, sum(self.held.values()))
        return address

    allocate_managed = allocate

    def free(self, address: int) -> None:
        del self.held[address]

    def spin(self, blocks: int, rounds: int) -> float:
        return blocks * rounds / self.rate


def test_memory_is_taken_until_it_is_refused_and_given_back() -> None:
    driver = Made(memory_mib=3000)
    found = measure(driver, 10_000)
    assert (found.memory_mib, found.refused) == (3000, True)
    assert driver.held == {}


def test_memory_is_never_taken_far_past_the_limit() -> None:
    """On a GPU that holds nobody to anything, all memory would be somebody else's."""
    driver = Made(memory_mib=81920)
    found = measure(driver, most_to_take(Promise(Isolation.MPS, 30, 4096)))
    assert (found.memory_mib, found.refused) == (4608, False)
    assert driver.most == 4608 * MIB


def test_memory_is_given_back_when_the_driver_fails() -> None:
    class Failing(Made):
        def allocate(self, size: int) -> int | None:
            if self.held:
                raise NotReachable("cuMemAlloc_v2: CUDA_ERROR_ILLEGAL_ADDRESS")
            return super().allocate(size)

    driver = Failing()
    with pytest.raises(NotReachable):
        measure(driver, 1024)
    assert driver.held == {}


@pytest.mark.parametrize("rate", [1e6, 1e9, 1e13])
def test_work_is_measured_alike_on_slow_and_fast_devices(rate: float) -> None:
    assert measure(Made(blocks_per_second=rate), 4).work_per_second == pytest.approx(rate)


def test_what_a_container_was_promised_is_in_its_environment() -> None:
    assert promise_of(environment(Isolation.MPS, A100, 30)) == Promise(Isolation.MPS, 30, 4915)
    assert promise_of(environment(Isolation.TIME_SLICE, A100, 30)) == Promise(Isolation.TIME_SLICE)
    assert promise_of(environment(Isolation.MPS, A100, 100)) == Promise(Isolation.EXCLUSIVE)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"TANGRAM_GPU_ISOLATION": ""}, "TANGRAM_GPU_ISOLATION"),
        ({"TANGRAM_GPU_ISOLATION": "hami"}, "TANGRAM_GPU_ISOLATION"),
        ({"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "0"}, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"),
        ({"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "1e1"}, "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"),
        ({"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "4G"}, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"),
        ({"CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "1=4915M"}, "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"),
    ],
)
def test_variables_that_somebody_changed_are_named(changed: dict[str, str], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        promise_of(environment(Isolation.MPS, A100, 30) | changed)
    assert refused.value.field == field


def found(memory: int, work: float, *, refused: bool = True) -> Measured:
    return Measured("Made", memory, 108, memory, refused, work)


MPS_30 = Promise(Isolation.MPS, 30, 4915)


@pytest.mark.parametrize(
    ("limited", "kept"),
    [
        (found(4600, 30.0), [True, True]),
        (found(4915, 33.3), [True, True]),  # shares are rounded up to what the hardware can tell apart
        (found(5427, 30.0, refused=False), [False, True]),
        (found(4916, 30.0), [False, True]),
        (found(4600, 97.0), [True, False]),
        (found(5427, 100.0, refused=False), [False, False]),
    ],
)
def test_a_promise_is_kept_or_not(limited: Measured, kept: list[bool]) -> None:
    whole = found(5427, 100.0, refused=False)
    verdicts = judge(MPS_30, limited, whole, whole)
    assert [one.kept for one in verdicts] == [*kept, None, None, None]
    assert [one.promised for one in verdicts] == ["at most 4915 MiB", "at most 30 %", *["no promise"] * 3]


def test_what_clearing_the_variables_would_give_is_told() -> None:
    """Here the server's own ceiling is that of a neighbour with half of the GPU."""
    limited = msgspec.structs.replace(found(4600, 30.0), managed_mib=5427, managed_refused=False)
    verdicts = judge(MPS_30, limited, found(8000, 50.0), found(5427, 100.0, refused=False))
    managed = "5427 MiB and no refusal"
    assert [one.measured for one in verdicts] == ["4600 MiB", "30.0 %", managed, "8000 MiB", "50.0 %"]


def test_where_nothing_is_promised_figures_are_told_and_not_judged() -> None:
    all_of_it = found(1024, 100.0, refused=False)
    verdicts = judge(Promise(Isolation.TIME_SLICE), all_of_it, all_of_it, all_of_it)
    assert [(one.promised, one.kept) for one in verdicts] == [("no limit", None)] * 2


def test_limits_are_left_out_and_then_mps_itself() -> None:
    told = environment(Isolation.MPS, A100, 30)
    seen: list[Mapping[str, str]] = []

    def run(variables: Mapping[str, str], most: int) -> Measured:
        seen.append(variables)
        return found(4000, 30.0 if LIMITS[0] in variables else 100.0)

    assert [one.kept for one in verify(told, run)] == [True, True, None, None, None]
    limited, cleared, around = seen
    assert limited == told
    assert cleared == {name: value for name, value in told.items() if name not in LIMITS}
    assert around == cleared | {PIPES: "/nonexistent"}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of the driver's name that sleeps instead of computing."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler: install gcc or clang")
    built = tmp_path_factory.mktemp("cuda") / "libcuda.so.1"
    source = Path(__file__).with_name("libcuda.c")
    subprocess.run([compiler, "-Wall", "-Werror", "-O1", "-fPIC", "-shared", "-o", built, source], check=True)
    return built


def run_verb(library: Path | None, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    told = {"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **variables}
    if library:
        told["LD_LIBRARY_PATH"] = str(library.parent)
    code = "from tangram.cli.verify import verify; verify()"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], env=told, capture_output=True, text=True, check=False, timeout=120
    )


def test_the_calls_of_the_driver(library: Path) -> None:
    with Cuda(str(library)) as driver:
        assert (driver.name, driver.memory_mib, driver.multiprocessors) == ("Stub", 16384, 100)
        address = driver.allocate(MIB)
        assert address
        assert driver.allocate(16384 * MIB) is None
        driver.free(address)
        managed = driver.allocate_managed(MIB)
        assert managed
        assert driver.allocate_managed(16384 * MIB) is None
        driver.free(managed)
        assert driver.spin(8192, 1000) > 0


def test_a_device_without_managed_memory_gives_none(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Cuda(str(library)) as driver:
        monkeypatch.setenv("STUB_UNMANAGED", "1")
        assert driver.allocate_managed(MIB) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("holds", "code", "words"),
    [
        ("memory,compute", 0, ["kept", "kept", "-", "-", "-"]),
        ("memory", 4, ["kept", "KEPT", "-", "-", "-"]),
        ("compute", 4, ["KEPT", "kept", "-", "-", "-"]),
    ],
)
def test_the_verb_from_the_variables_to_the_exit_code(library: Path, holds: str, code: int, words: list[str]) -> None:
    done = run_verb(library, STUB_HOLDS=holds, **environment(Isolation.MPS, A100, 30))
    assert done.returncode == code, done.stderr
    assert [line.split()[-1] for line in done.stdout.splitlines()[1:]] == words


@pytest.mark.slow
def test_figures_can_be_read_by_programs(library: Path) -> None:
    done = run_verb(library, "--json", STUB_HOLDS="memory,compute", **environment(Isolation.MPS, A100, 50))
    assert [one["kept"] for one in json.loads(done.stdout)] == [True, True, None, None, None]


@pytest.mark.parametrize("broken", ["STUB_BROKEN", "STUB_EMPTY"])
def test_without_a_device_nothing_is_verified_and_that_is_said(library: Path, broken: str) -> None:
    done = run_verb(library, **{broken: "1"})
    assert done.returncode == 3
    assert done.stderr.startswith("SKIPPED, nothing was verified: this needs a real GPU.")


def test_without_a_driver_too() -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a driver: the case is one without")
    done = run_verb(None)
    assert done.returncode == 3
    assert "the CUDA driver cannot be loaded" in done.stderr


@pytest.mark.gpu
def test_a_real_gpu_computes_and_refuses() -> None:
    try:
        driver = Cuda()
    except NotReachable as error:
        pytest.skip(f"needs a real GPU: {error}")
    with driver:
        found = measure(driver, 1024)
    assert found.work_per_second > 0
    assert found.memory_mib > 0
