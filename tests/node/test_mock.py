"""Given a machine that a YAML file describes, then NVIDIA's own bindings see its GPUs, changes and failures."""

import subprocess
import sys
from pathlib import Path

import pynvml
import pytest
from click.testing import CliRunner
from tests.node.conftest import Machine

from tangram.cli.main import tangram
from tangram.errors import InvalidInput, MissingTool, SandboxError
from tangram.sandbox.nvml import build, state

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "gpu-mock"


@pytest.fixture
def nvml(machine: Machine) -> Machine:
    pynvml.nvmlInit()
    return machine


def handle(index: int = 0) -> object:
    return pynvml.nvmlDeviceGetHandleByIndex(index)


def test_the_bindings_see_what_was_written(nvml: Machine) -> None:
    nvml.gpus[1] = state.MockGpu(model="A100", numa_node=1, used_mib=1024, temperature_celsius=51, sm_percent=70)
    nvml.tell()
    second = handle(1)
    assert pynvml.nvmlDeviceGetCount() == 8
    assert pynvml.nvmlDeviceGetName(second) == "NVIDIA A100 SXM4 80GB"
    assert pynvml.nvmlDeviceGetUUID(second) == nvml.uuid(1)
    assert pynvml.nvmlDeviceGetMemoryInfo(second).used == 1024 << 20
    assert pynvml.nvmlDeviceGetMemoryInfo(second, version=pynvml.nvmlMemory_v2).total == 81920 << 20
    assert pynvml.nvmlDeviceGetTemperature(second, pynvml.NVML_TEMPERATURE_GPU) == 51
    assert pynvml.nvmlDeviceGetUtilizationRates(second).gpu == 70
    assert pynvml.nvmlDeviceGetPciInfo(second).busId == "00000000:11:00.0"
    assert pynvml.nvmlDeviceGetCudaComputeCapability(second) == (8, 0)
    assert pynvml.nvmlDeviceGetMinorNumber(second) == 1
    assert pynvml.nvmlDeviceGetMemoryAffinity(second, 1, 0)[0] == 0b10
    assert pynvml.nvmlSystemGetCudaDriverVersion() == 13000
    assert pynvml.nvmlDeviceGetIndex(pynvml.nvmlDeviceGetHandleByUUID(nvml.uuid(5))) == 5


def test_links_and_the_way_between_two_gpus(nvml: Machine) -> None:
    nvml.gpus[0].links = [state.MockLink(to=1, lanes=2, down=1), state.MockLink(to="switch")]
    nvml.gpus[0].pci_switch = nvml.gpus[1].pci_switch = "a"
    nvml.gpus[2].numa_node = 1
    nvml.tell()
    assert [pynvml.nvmlDeviceGetNvLinkState(handle(), link) for link in range(3)] == [0, 1, 1]
    assert pynvml.nvmlDeviceGetNvLinkRemotePciInfo(handle(), 1).busId == "00000000:11:00.0"
    assert pynvml.nvmlDeviceGetNvLinkRemoteDeviceType(handle(), 2) == pynvml.NVML_NVLINK_DEVICE_TYPE_SWITCH
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetNvLinkState(handle(), 3)
    ways = [pynvml.nvmlDeviceGetTopologyCommonAncestor(handle(), handle(other)) for other in (1, 2, 3)]
    assert ways == [pynvml.NVML_TOPOLOGY_SINGLE, pynvml.NVML_TOPOLOGY_SYSTEM, pynvml.NVML_TOPOLOGY_HOSTBRIDGE]


def test_mig_slices_are_devices_of_their_own(nvml: Machine) -> None:
    nvml.gpus[0] = state.MockGpu(
        mig=True, slices=[state.MockSlice(profile="1g.10gb"), state.MockSlice(profile="2g.20gb")]
    )
    nvml.tell()
    second = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle(), 1)
    assert pynvml.nvmlDeviceGetMigMode(handle()) == [1, 1]
    assert pynvml.nvmlDeviceGetMigMode(handle(1)) == [0, 0]
    assert pynvml.nvmlDeviceGetName(second) == "NVIDIA H100 80GB HBM3 MIG 2g.20gb"
    assert pynvml.nvmlDeviceGetUUID(second).startswith("MIG-")
    assert pynvml.nvmlDeviceGetAttributes(second).memorySizeMB == 19968
    assert pynvml.nvmlDeviceGetUUID(pynvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(second)) == nvml.uuid(0)
    with pytest.raises(pynvml.NVMLError_NotFound):
        pynvml.nvmlDeviceGetMigDeviceHandleByIndex(handle(), 2)


def test_processes_and_what_each_of_them_uses(nvml: Machine) -> None:
    nvml.gpus[0].processes = [
        state.MockProcess(pid=11, memory_mib=100, sm_percent=20),
        state.MockProcess(pid=12, memory_mib=300, sm_percent=50, kind="mps"),
        state.MockProcess(pid=13, memory_mib=10, kind="graphics"),
    ]
    nvml.tell()
    compute = pynvml.nvmlDeviceGetComputeRunningProcesses(handle())
    assert [(one.pid, one.usedGpuMemory >> 20) for one in compute] == [(11, 100), (12, 300)]
    assert [one.pid for one in pynvml.nvmlDeviceGetMPSComputeRunningProcesses(handle())] == [12]
    samples = pynvml.nvmlDeviceGetProcessUtilization(handle(), 0)
    assert {sample.pid: sample.smUtil for sample in samples} == {11: 20, 12: 50, 13: 0}
    assert pynvml.nvmlDeviceGetMemoryInfo(handle()).used == 410 << 20
    assert pynvml.nvmlDeviceGetComputeRunningProcesses(handle(1)) == []


def test_an_xid_reaches_who_waits_for_it_once(nvml: Machine) -> None:
    nvml.gpus[3].xids = [31]
    nvml.tell()
    events = pynvml.nvmlEventSetCreate()
    for index in range(8):
        pynvml.nvmlDeviceRegisterEvents(handle(index), pynvml.nvmlEventTypeXidCriticalError, events)
    with pytest.raises(pynvml.NVMLError_Timeout):  # the earlier one is history
        pynvml.nvmlEventSetWait(events, 1)
    nvml.gpus[3].xids.append(79)
    nvml.tell()
    event = pynvml.nvmlEventSetWait(events, 5000)
    assert (pynvml.nvmlDeviceGetUUID(event.device), event.eventData) == (nvml.uuid(3), 79)
    with pytest.raises(pynvml.NVMLError_Timeout):
        pynvml.nvmlEventSetWait(events, 1)
    pynvml.nvmlEventSetFree(events)


def test_a_lost_gpu_leaves_the_others_and_comes_back(nvml: Machine) -> None:
    known = handle(2)
    nvml.gpus[2].error = "GPU_IS_LOST"
    nvml.tell()
    for query in (pynvml.nvmlDeviceGetUUID, pynvml.nvmlDeviceGetPowerUsage, pynvml.nvmlDeviceGetMemoryInfo):
        with pytest.raises(pynvml.NVMLError_GpuIsLost):
            query(known)
    with pytest.raises(pynvml.NVMLError_GpuIsLost):
        handle(2)
    assert pynvml.nvmlDeviceGetUUID(handle(3)) == nvml.uuid(3)
    nvml.gpus[2].error = None
    nvml.tell()
    assert pynvml.nvmlDeviceGetUUID(known) == nvml.uuid(2)


def test_a_driver_that_fails_and_one_that_was_loaded_again(nvml: Machine) -> None:
    nvml.written.failure = "LIB_RM_VERSION_MISMATCH"
    nvml.tell()
    with pytest.raises(pynvml.NVMLError_LibRmVersionMismatch):
        pynvml.nvmlDeviceGetCount()
    nvml.written.failure = None
    nvml.written.loads += 1
    nvml.tell()
    with pytest.raises(pynvml.NVMLError_Uninitialized):
        pynvml.nvmlDeviceGetCount()
    pynvml.nvmlInit()
    assert pynvml.nvmlDeviceGetCount() == 8
    nvml.path.unlink()
    with pytest.raises(pynvml.NVMLError_DriverNotLoaded):
        pynvml.nvmlDeviceGetCount()


def test_what_a_gpu_lacks_and_what_the_mock_leaves_out_is_not_supported(nvml: Machine) -> None:
    nvml.gpus[0] = state.MockGpu(model="Tesla K80", power_watts=None, ecc_corrected=None, mig=None)
    nvml.gpus[0].unsupported = ["temperature"]
    nvml.tell()
    for query in (
        pynvml.nvmlDeviceGetPowerUsage,
        pynvml.nvmlDeviceGetRemappedRows,
        pynvml.nvmlDeviceGetMigMode,
        pynvml.nvmlDeviceGetFanSpeed,
        pynvml.nvmlDeviceGetBoardId,
    ):
        with pytest.raises(pynvml.NVMLError_NotSupported):
            query(handle())
    with pytest.raises(pynvml.NVMLError_NotSupported):
        pynvml.nvmlDeviceGetTemperature(handle(), 0)
    assert pynvml.nvmlDeviceGetName(handle()) == "Tesla K80"


def test_another_program_sees_them_through_its_environment(machine: Machine) -> None:
    program = "import pynvml; pynvml.nvmlInit(); print(pynvml.nvmlDeviceGetCount())"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        env=build.environment(machine.path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout == "8\n"


def test_the_command_says_how_to_see_them_and_names_what_is_wrong(mock_library: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "gpus.yaml", tmp_path / "bad.yaml"
    good.write_text("gpus: [{}, {model: T4}]")
    bad.write_text("gpus: [{model: 4}]")
    shown = CliRunner().invoke(tangram, ["sandbox", "gpus", str(good)])
    assert shown.exit_code == 0
    assert f"export TANGRAM_NVML={tmp_path}/gpus.state" in shown.output
    assert f"export LD_LIBRARY_PATH={mock_library.parent}" in shown.output
    assert "gpu.1.name Tesla T4\n" in (tmp_path / "gpus.state").read_text()
    refused = CliRunner().invoke(tangram, ["sandbox", "gpus", str(bad)])
    assert refused.exit_code == 1
    assert "$.gpus[0].model" in str(refused.exception)


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_examples_are_machines(path: Path) -> None:
    assert state.read(path).gpus


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("gpus: [{temperature_celsius: hot}]", "$.gpus[0].temperature_celsius"),
        ("gpus: [{colour: red}]", "$.gpus[0]"),
        ("gpus: [{error: TIRED}]", "$.gpus[0].error"),
        ("gpus: [{uuid: 'a\nb'}]", "$.gpus[0].uuid"),
        ("gpus: {", "file"),
        ("{}", "$"),
    ],
)
def test_a_wrong_file_is_refused_with_the_field(text: str, field: str, tmp_path: Path) -> None:
    path = tmp_path / "gpus.yaml"
    path.write_text(text.replace("'a\nb'", '"a\\nb"'))
    with pytest.raises(InvalidInput) as refused:
        state.read(path)
    assert (refused.value.where, refused.value.field) == (str(path), field)


def test_no_compiler_and_one_that_fails_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TANGRAM_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "false")
    with pytest.raises(SandboxError, match="false could not compile"):
        build.build_mock()
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(MissingTool, match="no-such-compiler"):
        build.build_mock()
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingTool, match="install gcc or clang"):
        build.build_mock()
    assert not [found for found in tmp_path.rglob("*") if found.is_file()]
