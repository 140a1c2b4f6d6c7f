"""Given GPUs that come, fail, and go, then the probe says so, GPU by GPU, through NVIDIA's own bindings."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pynvml
import pytest
from tests.node.calls import Clock, counted_calls, minute
from tests.node.conftest import Machine

from tangram.errors import ProbeFailed
from tangram.node.gpus import Condition, Gpu, Health, Link, Process, Slice
from tangram.node.health import QUIET_SECONDS
from tangram.node.nvidia import NvidiaProbe
from tangram.node.predict import Sample
from tangram.sandbox.nvml import state


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def probe(machine: Machine, clock: Clock, tmp_path: Path) -> Iterator[NvidiaProbe]:
    probe = NvidiaProbe(clock=clock, sysfs=tmp_path / "sys")
    yield probe
    probe.close()


def unhealthy(probe: NvidiaProbe) -> dict[str, str]:
    return {uuid: one.reason for uuid, one in probe.conditions().items() if one.health is not Health.HEALTHY}


def test_an_inventory(machine: Machine, probe: NvidiaProbe) -> None:
    machine.gpus[1] = state.MockGpu(model="T4", numa_node=1)
    machine.tell()
    inventory = probe.inventory()
    assert (inventory.driver_version, inventory.cuda_version) == ("580.95.05", "13.0")
    assert [gpu.uuid for gpu in inventory.gpus] == [machine.uuid(index) for index in range(8)]
    first, second = inventory.gpus[:2]
    assert first == Gpu(
        uuid=machine.uuid(0),
        index=0,
        model="NVIDIA-H100-80GB-HBM3",
        name="NVIDIA H100 80GB HBM3",
        memory_mib=81559,
        numa_node=0,
        pci_address="00000000:10:00.0",
        minor_number=0,
        compute_capability=(9, 0),
        cuda=(13, 0),
        links=(
            Link(machine.uuid(1), "System"),
            *(Link(machine.uuid(index), "Host") for index in range(2, 8)),
        ),
    )
    assert (second.model, second.numa_node, second.compute_capability) == ("Tesla-T4", 1, (7, 5))


def test_what_mps_cannot_hold_is_found_out(machine: Machine, probe: NvidiaProbe) -> None:
    machine.put(
        state.MockMachine(
            cuda_version="11.4",
            gpus=[
                state.MockGpu(virtualization="vgpu"),
                state.MockGpu(virtualization="passthrough", c2c=True),
                state.MockGpu(virtualization=None, c2c=None),
            ],
        )
    )
    found = [(gpu.cuda, gpu.virtual, gpu.coherent) for gpu in probe.inventory().gpus]
    assert found == [((11, 4), True, False), ((11, 4), False, True), ((11, 4), False, False)]


def test_links_by_nvlink_by_switch_and_by_the_bus(machine: Machine, probe: NvidiaProbe) -> None:
    machine.put(
        state.MockMachine(
            gpus=[
                state.MockGpu(links=[state.MockLink(to=1, lanes=4, down=1), state.MockLink(to="switch", lanes=2)]),
                state.MockGpu(links=[state.MockLink(to=0, lanes=4, down=1)], pci_switch="a"),
                state.MockGpu(links=[state.MockLink(to="switch", lanes=6)], pci_switch="a"),
            ]
        )
    )
    links = [{link.peer: (link.type, link.lanes) for link in gpu.links} for gpu in probe.inventory().gpus]
    first, second, third = (machine.uuid(index) for index in range(3))
    assert links == [
        {second: ("NVLink", 3), third: ("NVLink", 2)},
        {first: ("NVLink", 3), third: ("PCIe", 0)},
        {first: ("NVLink", 2), second: ("PCIe", 0)},
    ]


def test_mig_slices_and_the_numa_node_from_the_kernel(machine: Machine, probe: NvidiaProbe, tmp_path: Path) -> None:
    machine.gpus[0] = state.MockGpu(mig=True, slices=[state.MockSlice(profile="1g.10gb", uuid="MIG-a")], numa_node=-1)
    machine.gpus[1].numa_node = -1
    machine.tell()
    folder = tmp_path / "sys/bus/pci/devices/0000:10:00.0"
    folder.mkdir(parents=True)
    (folder / "numa_node").write_text("3\n")
    first, second = probe.inventory().gpus[:2]
    assert (first.mig, second.mig) == (True, False)
    assert (first.slices, first.numa_node) == ((Slice("MIG-a", "1g.10gb", 9728),), 3)
    assert (second.slices, second.numa_node) == ((), -1)


def test_readings_with_processes(machine: Machine, probe: NvidiaProbe) -> None:
    machine.gpus[2] = state.MockGpu(
        sm_percent=77,
        memory_percent=12,
        power_watts=412.5,
        energy_millijoules=987,
        temperature_celsius=66,
        ecc_corrected=3,
        remapped_corrected=1,
        remapped_uncorrected=2,
        processes=[
            state.MockProcess(pid=10, memory_mib=1000, sm_percent=40),
            state.MockProcess(pid=11, memory_mib=500, sm_percent=37, kind="mps"),
        ],
    )
    machine.tell()
    probe.inventory()
    reading = probe.readings()[2]
    assert reading.uuid == machine.uuid(2)
    assert (reading.sm_percent, reading.memory_percent) == (77, 12)
    assert (reading.memory_used_mib, reading.memory_free_mib) == (1500, 81559 - 1500)
    assert (reading.power_watts, reading.energy_millijoules, reading.temperature_celsius) == (412.5, 987, 66)
    assert (reading.sm_clock_mhz, reading.memory_clock_mhz, reading.xid) == (1980, 2619, None)
    assert (reading.ecc_corrected, reading.ecc_uncorrected, reading.remapped_rows) == (3, 0, 3)
    assert reading.processes == (Process(10, 1000, 40), Process(11, 500, 37))
    machine.gpus[2].per_process_use = False
    machine.tell()
    assert probe.readings()[2].processes == (Process(10, 1000, None), Process(11, 500, None))


def test_what_a_gpu_does_not_tell_is_none(machine: Machine, probe: NvidiaProbe) -> None:
    machine.gpus[0] = state.MockGpu(
        model="old card",
        ecc_corrected=None,
        mig=None,
        recovery=None,
        unsupported=[
            "temperature",
            "power",
            "energy",
            "utilization",
            "clock.1",
            "clock.2",
            "memory",
            "minor",
            "event_types",
        ],
    )
    machine.tell()
    gpu = probe.inventory().gpus[0]
    assert (gpu.model, gpu.memory_mib, gpu.minor_number) == ("old-card", 0, -1)
    reading = probe.readings()[0]
    told = [getattr(reading, name) for name in reading.__slots__ if name not in ("uuid", "processes")]
    assert told == [None] * len(told)
    assert probe.conditions()[gpu.uuid] == Condition(Health.HEALTHY)


def test_what_a_gpu_is_stays_known_when_the_driver_does_not_tell_it_for_once(
    machine: Machine, probe: NvidiaProbe, clock: Clock
) -> None:
    """Else one bad answer would make it a GPU without memory on which MPS cannot hold anybody, and end its daemon."""
    machine.gpus[0] = state.MockGpu(mig=True, slices=[state.MockSlice(profile="1g.10gb")])
    machine.tell()
    before = probe.inventory()
    for gpu in machine.gpus[:2]:
        gpu.unsupported = ["name", "memory", "compute_capability", "pci", "minor", "numa", "mig_mode"]
    machine.tell()
    clock.now += 3600
    assert probe.inventory() == before


def test_slices_stay_known_when_the_driver_does_not_tell_for_once_which_they_are(
    machine: Machine, probe: NvidiaProbe, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.gpus[0] = state.MockGpu(mig=True, slices=[state.MockSlice(profile="1g.10gb") for _ in range(2)])
    machine.tell()
    before, identity = probe.inventory(), pynvml.nvmlDeviceGetUUID

    def of_whole_gpus(device: object) -> str:
        uuid = str(identity(device))
        if uuid.startswith("MIG"):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)
        return uuid

    monkeypatch.setattr(pynvml, "nvmlDeviceGetUUID", of_whole_gpus)
    clock.now += 3600
    assert probe.inventory() == before


@pytest.mark.parametrize("untold", ["most_slices", "slice.0.memory", "slice.0.name"])
def test_slices_stay_known_when_the_driver_does_not_tell_all_of_them_for_once(
    machine: Machine, probe: NvidiaProbe, clock: Clock, untold: str
) -> None:
    machine.gpus[0] = state.MockGpu(mig=True, slices=[state.MockSlice(profile="1g.10gb") for _ in range(2)])
    machine.tell()
    before = probe.inventory()
    machine.gpus[0].unsupported = [untold]
    machine.tell()
    clock.now += 3600
    assert probe.inventory() == before


def test_a_lost_gpu_leaves_the_others_and_is_back_when_quiet(
    machine: Machine, probe: NvidiaProbe, clock: Clock
) -> None:
    lost = machine.uuid(3)
    probe.inventory()
    assert unhealthy(probe) == {}
    machine.gpus[3].error = "GPU_IS_LOST"
    machine.tell()
    assert unhealthy(probe) == {lost: "GPU is lost"}
    assert [gpu.index for gpu in probe.inventory().gpus] == [0, 1, 2, 4, 5, 6, 7]
    assert len(probe.readings()) == 7
    machine.gpus[3].error = None
    machine.tell()
    assert unhealthy(probe) == {lost: "it is back after it was gone"}
    assert len(probe.inventory().gpus) == 8
    clock.now += QUIET_SECONDS
    assert unhealthy(probe) == {}


def test_an_xid_is_seen_at_the_next_look_even_when_the_gpu_is_lost_with_it(
    machine: Machine, probe: NvidiaProbe
) -> None:
    machine.gpus[5].xids = [48]  # before the agent came
    machine.tell()
    probe.inventory()
    assert unhealthy(probe) == {}
    machine.gpus[1].xids = [31]
    machine.gpus[2].xids = [79]
    machine.gpus[2].error = "GPU_IS_LOST"
    machine.tell()
    assert unhealthy(probe) == {machine.uuid(2): "GPU is lost (after XID 79: GPU has fallen off the bus)"}
    assert [reading.xid for reading in probe.readings()] == [None, 31, None, None, None, None, None]
    machine.gpus[6].xids = [95]  # the set that the lost GPU broke was replaced by one without it
    machine.tell()
    assert machine.uuid(6) in unhealthy(probe)


def test_an_xid_is_told_of_when_it_comes(machine: Machine, probe: NvidiaProbe) -> None:
    """On a thread that waits in the driver; also when it is made to wait only after the first look."""
    probe.inventory()
    woken = threading.Event()
    probe.watch(woken.set)
    assert unhealthy(probe) == {}
    for index, xid in enumerate((48, 79)):
        machine.gpus[index].xids = [xid]
        machine.gpus[index].error = "GPU_IS_LOST" if xid == 79 else None
        machine.tell()
        assert woken.wait(10)
        assert machine.uuid(index) in unhealthy(probe)
        woken.clear()
    machine.gpus[6].xids = [95]  # the set that the lost GPU broke was replaced by one without it
    machine.tell()
    assert woken.wait(10)
    assert machine.uuid(6) in unhealthy(probe)


def test_a_wait_that_the_driver_never_ends_holds_nobody_up(
    machine: Machine, probe: NvidiaProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its set is left to it, and another one is listened to."""
    monkeypatch.setattr("tangram.node.events._PATIENCE_SECONDS", 0.1)
    hangs, waits, wait = threading.Event(), [True], pynvml.nvmlEventSetWait_v2

    def once(events: object, milliseconds: int) -> object:
        if waits and waits.pop():
            hangs.wait(60)
        return wait(events, milliseconds)

    monkeypatch.setattr(pynvml, "nvmlEventSetWait_v2", once)
    machine.gpus.pop()
    machine.tell()
    woken = threading.Event()
    probe.watch(woken.set)
    assert unhealthy(probe) == {}
    machine.gpus.append(state.MockGpu())
    machine.tell()
    assert unhealthy(probe) == {}
    machine.gpus[7].xids = [48]
    machine.tell()
    assert woken.wait(10)
    assert machine.uuid(7) in unhealthy(probe)
    hangs.set()


def test_events_that_the_driver_refuses_wake_nobody(
    machine: Machine, probe: NvidiaProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each check makes the set anew, and a check that each failure asked for would be the next without pause."""
    woken, asked = list[int](), threading.Event()

    def refused(events: object, milliseconds: int) -> None:
        asked.set()
        raise pynvml.NVMLError(pynvml.NVML_ERROR_UNKNOWN)

    monkeypatch.setattr(pynvml, "nvmlEventSetWait_v2", refused)
    probe.watch(lambda: woken.append(1))
    for _ in range(3):
        assert unhealthy(probe) == {}
        assert asked.wait(10)
        asked.clear()
    probe.close()
    assert woken == []


def test_what_is_asked_of_the_driver_in_a_minute(machine: Machine, probe: NvidiaProbe, clock: Clock) -> None:
    """At the default rates, on eight GPUs with processes: 1,048 calls; all questions each two seconds were 6,038."""
    for gpu in machine.gpus:
        gpu.processes = [state.MockProcess(pid=100, memory_mib=10)]
    machine.tell()
    with counted_calls() as calls:
        probe.check(), probe.readings()
        first = calls.total()
        minute(probe, clock)
    assert calls.total() - first <= 1200


def test_the_example_of_gpus_in_trouble_is_what_its_page_shows(machine: Machine, probe: NvidiaProbe) -> None:
    machine.put(state.read(Path(__file__).parents[2] / "examples" / "gpu-mock" / "failing-a100.yaml"))
    gpus, conditions = probe.inventory().gpus, probe.conditions()
    page = (Path(__file__).parents[2] / "docs" / "gpu-mock.md").read_text()
    assert len(gpus) == 4
    for gpu in gpus:
        condition = conditions[gpu.uuid]
        assert f"\n{gpu.index} {condition.health} {condition.reason}".rstrip() + "\n" in page


def test_a_gpu_that_was_lost_before_the_agent_came_is_told_of(machine: Machine, probe: NvidiaProbe) -> None:
    machine.gpus[1].error = "GPU_IS_LOST"
    machine.tell()
    inventory = probe.inventory()
    assert len(inventory.gpus) == 7
    assert inventory.unidentified == ("GPU 1 has not answered since the agent started: GPU is lost",)
    machine.gpus[1].error = None
    machine.tell()
    assert (len(probe.inventory().gpus), probe.inventory().unidentified) == (8, ())


def test_a_gpu_that_is_no_longer_listed_is_unhealthy(machine: Machine, probe: NvidiaProbe) -> None:
    probe.inventory()
    gone = machine.uuid(7)
    machine.gpus.pop()
    machine.tell()
    assert unhealthy(probe) == {gone: "the driver no longer finds it"}


def test_a_driver_that_was_loaded_again_is_used_again(machine: Machine, probe: NvidiaProbe) -> None:
    probe.inventory()
    machine.gpus[0].xids = [120]
    machine.gpus[0].recovery = None
    machine.tell()
    assert machine.uuid(0) in unhealthy(probe)
    machine.written.loads += 1
    machine.tell()
    assert len(probe.inventory().gpus) == 8
    assert unhealthy(probe) == {machine.uuid(0): "it was reset after XID 120: GSP error"}
    machine.gpus[4].xids = [48]
    machine.tell()
    assert machine.uuid(4) in unhealthy(probe)


@pytest.mark.parametrize("failure", ["DRIVER_NOT_LOADED", "LIB_RM_VERSION_MISMATCH", "UNKNOWN"])
def test_a_driver_that_fails_is_said_and_found_again(
    machine: Machine, probe: NvidiaProbe, failure: state.ErrorName
) -> None:
    machine.written.failure = failure
    machine.tell()
    for look in (probe.inventory, probe.conditions, probe.readings):
        with pytest.raises(ProbeFailed, match="NVIDIA's driver does not answer"):
            look()
    machine.written.failure = None
    machine.tell()
    assert len(probe.inventory().gpus) == 8
    machine.written.failure = failure
    machine.tell()
    with pytest.raises(ProbeFailed):
        probe.inventory()
    machine.written.failure = None
    machine.tell()
    assert len(probe.readings()) == 8


def test_twins_and_the_nameless_are_not_trusted(machine: Machine, probe: NvidiaProbe) -> None:
    machine.gpus[1].uuid = machine.uuid(0)
    machine.gpus[2].unsupported = ["uuid"]
    machine.gpus[3].model = "../" + 70 * "x" + "?"
    machine.tell()
    gpus = probe.inventory().gpus
    assert [gpu.index for gpu in gpus] == [0]  # the list ends where the driver's does
    machine.gpus[2].unsupported = []
    machine.tell()
    gpus = probe.inventory().gpus
    assert [gpu.index for gpu in gpus] == [0, 2, 3, 4, 5, 6, 7]
    assert gpus[2].model == "x" * 60


def test_a_predictor_that_fails_costs_nothing(machine: Machine, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    def broken(samples: tuple[Sample, ...]) -> str:
        raise RuntimeError("no idea")

    probe = NvidiaProbe(broken, clock)
    assert set(probe.conditions().values()) == {Condition(Health.HEALTHY)}
    assert caplog.text.count("the failure predictor failed: RuntimeError: no idea") == 1
    probe.close()


def test_what_a_look_at_eight_gpus_costs(machine: Machine, probe: NvidiaProbe) -> None:
    for gpu in machine.gpus:
        gpu.links = [state.MockLink(to="switch", lanes=18)]
        gpu.processes = [state.MockProcess(pid=100 + number, memory_mib=10) for number in range(10)]
    machine.tell()

    def look() -> float:
        begun = time.perf_counter()
        probe.inventory(), probe.conditions(), probe.readings()
        return 1000 * (time.perf_counter() - begun)

    first, others = look(), sorted(look() for _ in range(20))
    print(f"8 GPUs with 10 processes each: first look {first:.1f} ms, others {others[10]:.1f} ms (median)")
