"""What Prometheus reads of a node: devices, containers on shared devices, and nothing that is gone."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from tests.node.conftest import Machine

from tangram.metrics.table import CONTAINER, DEVICE, GPUS
from tangram.node.exporter import MOST_CONTAINERS, Exporter, Observation
from tangram.node.gpus import Condition, Gpu, Health, Holding, Inventory, Isolation, Process, Reading, Slice
from tangram.node.nvidia import NvidiaProbe
from tangram.node.processes import Owner, Processes
from tangram.sandbox.nvml import state
from tangram.units import MIB

GPU = Gpu(
    uuid="GPU-a", index=0, model="NVIDIA A100", memory_mib=40960, pci_address="00000000:07:00.0", minor_number=3,
    compute_capability=(8, 0),
)  # fmt: skip
READING = Reading(
    uuid="GPU-a", sm_percent=80, memory_percent=20, memory_used_mib=15000, memory_free_mib=25960, power_watts=300.0,
    energy_millijoules=1_000_000, temperature_celsius=61, sm_clock_mhz=1410, memory_clock_mhz=1215, xid=None,
    ecc_corrected=4, ecc_uncorrected=0, remapped_rows=2,
    processes=(Process(11, 9000, 20), Process(12, 1000, 10), Process(21, 5000, 50)),
)  # fmt: skip
RED = Holding("uid-red", "team-red", "red", "train", "GPU-a", 30)
BLUE = Holding("uid-blue", "team-blue", "blue", "serve", "GPU-a", 50, memory_mib=8192)
OWNERS = {
    11: Owner("uid-red", "id-red"),
    12: Owner("uid-red", "id-red"),
    21: Owner("uid-blue", "id-blue"),
}
SHARED = Observation(
    inventory=Inventory((GPU,)),
    conditions={"GPU-a": Condition(Health.HEALTHY)},
    readings=(READING,),
    holdings=(RED, BLUE),
    containers={"id-red": "train", "id-blue": "serve"},
    mode=Isolation.MPS,
    mps_up={"GPU-a": True},
)


class Known(Processes):
    """Processes whose owners the test says."""

    def __init__(self, owners: Mapping[int, Owner], blindness: str = "") -> None:
        super().__init__(Path("/nowhere"))
        self.owners, self.why = owners, blindness

    def blindness(self) -> str:
        return self.why

    def owner(self, pid: int) -> Owner | None:
        return self.owners.get(pid)


class Clock:
    """A clock that stands still."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


class Node:
    """An exporter and what it shows."""

    def __init__(self, owners: Mapping[int, Owner] = OWNERS, blindness: str = "") -> None:
        self.clock = Clock()
        self.exporter = Exporter("node-1", Known(owners, blindness), self.clock)
        self.registry = CollectorRegistry()
        self.registry.register(self.exporter)

    def scrape(self) -> str:
        return generate_latest(self.registry).decode()

    def figures(self, name: str, *labels: str) -> dict[tuple[str, ...], float]:
        """Values of one metric by these of its labels; repeated series fail."""
        found: dict[tuple[str, ...], float] = {}
        for family in text_string_to_metric_families(self.scrape()):
            for sample in family.samples:
                if sample.name == name:
                    key = tuple(sample.labels[label] for label in labels)
                    assert key not in found, key
                    found[key] = sample.value
        return found

    def of(self, name: str) -> dict[tuple[str, ...], float]:
        return self.figures(name, "pod", "container")


@pytest.fixture
def node() -> Node:
    shown = Node()
    shown.exporter.observe(SHARED)
    return shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DCGM_FI_DEV_GPU_UTIL", 80),
        ("DCGM_FI_DEV_MEM_COPY_UTIL", 20),
        ("DCGM_FI_DEV_FB_USED", 15000),
        ("DCGM_FI_DEV_FB_FREE", 25960),
        ("DCGM_FI_DEV_POWER_USAGE", 300),
        ("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", 1_000_000),
        ("DCGM_FI_DEV_GPU_TEMP", 61),
        ("DCGM_FI_DEV_SM_CLOCK", 1410),
        ("DCGM_FI_DEV_MEM_CLOCK", 1215),
        ("DCGM_FI_DEV_XID_ERRORS", 0),
        ("DCGM_FI_DEV_ECC_SBE_VOL_TOTAL", 4),
        ("DCGM_FI_DEV_ECC_DBE_VOL_TOTAL", 0),
        ("tangram_gpu_remapped_rows", 2),
    ],
)
def test_a_device_has_dcgm_s_names_and_labels_and_no_pod_while_it_is_shared(node: Node, name: str, value: int) -> None:
    labels = ("0", "GPU-a", "00000000:07:00.0", "nvidia3", "NVIDIA A100", "node-1", "", "", "")
    assert node.figures(name, *DEVICE) == {labels: value}


@pytest.mark.parametrize(
    ("name", "red", "blue"),
    [
        ("tangram_container_gpu_share_ratio", 0.3, 0.5),
        ("tangram_container_gpu_mps_thread_ratio", 0.3, 0.5),
        ("tangram_container_gpu_memory_limit_bytes", 12288 * MIB, 8192 * MIB),
        ("tangram_container_gpu_memory_used_bytes", 10000 * MIB, 5000 * MIB),
        ("tangram_container_gpu_memory_over_limit", 0, 0),
        ("tangram_container_gpu_sm_ratio", 0.3, 0.5),
        ("tangram_container_gpu_power_watts", 300 * 30 / 80, 300 * 50 / 80),
        ("tangram_container_gpu_energy_joules_total", 0, 0),
    ],
)
def test_containers_on_one_gpu_have_figures_of_their_own(node: Node, name: str, red: float, blue: float) -> None:
    assert node.of(name) == {("red", "train"): pytest.approx(red), ("blue", "serve"): pytest.approx(blue)}


def test_a_container_is_labelled_with_its_device_and_namespace(node: Node) -> None:
    labels = ("0", "GPU-a", "NVIDIA A100", "node-1", "team-red", "red", "train")
    assert labels in node.figures("tangram_container_gpu_share_ratio", *CONTAINER)


def test_energy_adds_up_by_part_of_use_and_forgets_who_is_gone(node: Node) -> None:
    node.exporter.observe(replace(SHARED, readings=(replace(READING, energy_millijoules=1_080_000),)))
    assert node.of("tangram_container_gpu_energy_joules_total") == {("red", "train"): 30, ("blue", "serve"): 50}
    only_red = replace(SHARED, holdings=(RED,), readings=(replace(READING, energy_millijoules=1_080_000),))
    node.exporter.observe(only_red)
    assert node.of("tangram_container_gpu_energy_joules_total") == {("red", "train"): 30}
    node.exporter.observe(replace(SHARED, readings=only_red.readings))
    assert node.of("tangram_container_gpu_energy_joules_total") == {("red", "train"): 30, ("blue", "serve"): 0}


def test_energy_after_a_driver_was_loaded_again_is_what_came_since(node: Node) -> None:
    node.exporter.observe(replace(SHARED, readings=(replace(READING, energy_millijoules=8_000),)))
    assert node.of("tangram_container_gpu_energy_joules_total") == {("red", "train"): 3, ("blue", "serve"): 5}


def test_without_a_counter_energy_is_power_times_time() -> None:
    node = Node()
    uncounted = replace(SHARED, readings=(replace(READING, energy_millijoules=None),))
    node.exporter.observe(uncounted)
    node.clock.now += 8.0
    node.exporter.observe(uncounted)
    assert node.of("tangram_container_gpu_energy_joules_total") == {("red", "train"): 900, ("blue", "serve"): 1500}


def test_the_holder_of_a_whole_gpu_is_on_the_device_s_own_series() -> None:
    node = Node(blindness="no")
    node.exporter.observe(replace(SHARED, holdings=(replace(RED, share=100),)))
    assert node.of("DCGM_FI_DEV_GPU_UTIL") == {("red", "train"): 80}
    assert node.of("tangram_container_gpu_sm_ratio") == {("red", "train"): 0.8}
    assert node.of("tangram_container_gpu_power_watts") == {("red", "train"): 300}
    assert node.of("tangram_container_gpu_memory_used_bytes") == {("red", "train"): 15000 * MIB}
    assert node.of("tangram_container_gpu_mps_thread_ratio") == {}


def test_a_slice_has_its_own_uuid_and_memory() -> None:
    node = Node({5: Owner("uid-red", "id-red")})
    cut = replace(GPU, mig=True, slices=(Slice("MIG-1", "1g.5gb", 4864),))
    node.exporter.observe(
        Observation(
            inventory=Inventory((cut,)),
            readings=(replace(READING, processes=(Process(5, 100),)),),
            holdings=(replace(RED, uuid="MIG-1", share=100),),
            mode=Isolation.MIG,
        )
    )
    assert node.figures("tangram_container_gpu_memory_limit_bytes", "UUID", "pod") == {("MIG-1", "red"): 4864 * MIB}
    assert node.figures("tangram_container_gpu_memory_used_bytes", "UUID", "pod") == {("MIG-1", "red"): 100 * MIB}


def test_what_the_driver_does_not_tell_is_left_out_instead_of_zero() -> None:
    node = Node()
    silent = tuple(replace(process, sm_percent=None) for process in READING.processes)
    node.exporter.observe(replace(SHARED, readings=(Reading(uuid="GPU-a", power_watts=300.0, processes=silent),)))
    assert node.of("DCGM_FI_DEV_GPU_TEMP") == {}
    assert node.of("tangram_container_gpu_sm_ratio") == {}
    assert node.of("tangram_container_gpu_power_watts") == {}
    assert len(node.of("tangram_container_gpu_memory_used_bytes")) == 2


def test_health_is_told_while_the_driver_hangs_and_nothing_can_be_measured(node: Node) -> None:
    node.clock.now += 40
    node.exporter.show({"GPU-a": Condition(Health.DEGRADED, "the driver does not answer")})
    assert node.figures("tangram_gpu_healthy", "UUID", "health") == {("GPU-a", "Degraded"): 0}
    assert node.figures("tangram_node_reading_age_seconds") == {(): 40}


def test_pods_with_long_names_are_told_apart() -> None:
    """A pod's name has up to 253 letters."""
    twins = [replace(RED, pod_uid=end, pod=f"{'p' * 252}{end}", share=20) for end in "ab"]
    shown = Node()
    shown.exporter.observe(replace(SHARED, holdings=tuple(twins)))
    shares = shown.of("tangram_container_gpu_share_ratio")
    assert shares == {(twin.pod, "train"): 0.2 for twin in twins}


def test_a_tenant_past_its_memory_is_named() -> None:
    node = Node()
    node.exporter.observe(replace(SHARED, readings=(replace(READING, processes=(Process(21, 8193, 1),)),)))
    assert node.of("tangram_container_gpu_memory_over_limit") == {("red", "train"): 0, ("blue", "serve"): 1}


def test_processes_of_nobody_who_holds_the_gpu_are_counted_apart() -> None:
    node = Node({**OWNERS, 12: Owner("uid-elsewhere", "id-elsewhere")})
    more = (*READING.processes, Process(99, 70, 5))
    node.exporter.observe(replace(SHARED, readings=(replace(READING, processes=more),)))
    assert node.figures("tangram_gpu_stray_processes", "UUID") == {("GPU-a",): 2}
    assert node.figures("tangram_gpu_stray_memory_bytes", "UUID") == {("GPU-a",): 1070 * MIB}


def test_a_process_in_a_container_that_holds_nothing_is_not_its_neighbour_s() -> None:
    """Both containers are of one pod: the sidecar got into the device without a share of it."""
    node = Node({21: Owner("uid-red", "id-sidecar")})
    node.exporter.observe(replace(SHARED, containers={"id-red": "train", "id-sidecar": "sidecar"}))
    assert node.figures("tangram_gpu_stray_processes", "UUID") == {("GPU-a",): 3}
    assert node.of("tangram_container_gpu_memory_used_bytes")["red", "train"] == 0


def test_while_a_container_s_id_is_not_known_yet_its_pod_decides_where_it_can() -> None:
    node = Node()
    node.exporter.observe(replace(SHARED, containers={}))
    assert node.of("tangram_container_gpu_memory_used_bytes")["red", "train"] == 10000 * MIB
    twin = replace(RED, container="second", share=10)
    node.exporter.observe(replace(SHARED, containers={}, holdings=(RED, twin, BLUE)))
    assert node.figures("tangram_gpu_stray_processes", "UUID") == {("GPU-a",): 2}


def test_without_the_host_s_processes_shares_remain_and_the_reason_is_told() -> None:
    node = Node(blindness="the agent does not share the host's PID namespace")
    node.exporter.observe(SHARED)
    assert len(node.of("tangram_container_gpu_share_ratio")) == 2
    assert node.of("tangram_container_gpu_memory_used_bytes") == {}
    assert node.of("tangram_container_gpu_power_watts") == {}
    assert node.figures("tangram_gpu_stray_processes", "UUID") == {}
    told = node.figures("tangram_node_process_metrics", "reason")
    assert told == {("the agent does not share the host's PID namespace",): 0}


def test_gone_processes_pods_and_gpus_leave_no_series(node: Node) -> None:
    node.exporter.observe(replace(SHARED, holdings=(BLUE,), readings=(replace(READING, processes=()),)))
    assert node.of("tangram_container_gpu_memory_used_bytes") == {("blue", "serve"): 0}
    assert "team-red" not in node.scrape()
    node.exporter.observe(Observation(mode=Isolation.MPS))
    assert "GPU-a" not in node.scrape()


def test_a_gpu_that_answers_no_more_keeps_its_health_and_shares_and_loses_its_readings(node: Node) -> None:
    lost = {"GPU-a": Condition(Health.UNHEALTHY, "fell off the bus", at_risk="")}
    node.exporter.observe(replace(SHARED, readings=(), conditions=lost))
    assert node.of("DCGM_FI_DEV_GPU_UTIL") == {}
    assert node.figures("tangram_gpu_healthy", "UUID", "health") == {("GPU-a", "Unhealthy"): 0}
    assert len(node.of("tangram_container_gpu_share_ratio")) == 2


def test_a_pod_made_again_under_its_name_is_one_series(node: Node) -> None:
    node.exporter.observe(replace(SHARED, holdings=(RED, replace(RED, pod_uid="uid-new"))))
    assert len(node.of("tangram_container_gpu_share_ratio")) == 1


def test_more_containers_than_the_most_are_counted_and_the_largest_are_kept() -> None:
    node = Node()
    many = tuple(replace(RED, pod_uid=f"uid-{n}", pod=f"pod-{n}", share=1) for n in range(MOST_CONTAINERS + 7))
    node.exporter.observe(replace(SHARED, holdings=(*many, BLUE)))
    shown = node.of("tangram_container_gpu_share_ratio")
    assert len(shown) == MOST_CONTAINERS
    assert ("blue", "serve") in shown
    assert node.figures("tangram_node_containers_left_out") == {(): 8}


def test_texts_of_any_kind_stay_one_line() -> None:
    node = Node()
    odd = replace(GPU, model='A100"} 1\nDCGM_FI_DEV_GPU_UTIL{gpu="9' + "x" * 1000)
    node.exporter.observe(replace(SHARED, inventory=Inventory((odd,))))
    ((gpu, model),) = node.figures("DCGM_FI_DEV_GPU_UTIL", "gpu", "modelName")
    assert gpu == "0"
    assert len(model) == 253


def test_a_scrape_says_how_old_its_figures_are_and_asks_nobody(node: Node) -> None:
    node.clock.now += 42.0
    assert node.figures("tangram_node_reading_age_seconds") == {(): 42}


def test_the_mode_that_holds_is_told_also_where_it_is_not_the_one_wanted(node: Node) -> None:
    old = replace(GPU, uuid="GPU-p", compute_capability=(6, 0))
    node.exporter.observe(replace(SHARED, inventory=Inventory((GPU, old))))
    told = node.figures("tangram_gpu_isolation_info", "UUID", "mode")
    assert told == {("GPU-a", "mps"): 1, ("GPU-p", "time-slice"): 1}
    assert node.figures("tangram_gpu_mps_up", "UUID") == {("GPU-a",): 1}


def test_before_the_first_reading_there_are_no_devices() -> None:
    node = Node()
    assert node.figures("DCGM_FI_DEV_GPU_UTIL") == {}
    assert node.figures("tangram_node_process_metrics", "reason") == {("nothing has been read yet",): 0}


def test_from_the_driver_s_library_to_the_scrape(machine: Machine) -> None:
    """The real bindings of NVML, on GPUs that a file describes."""
    machine.gpus[0] = state.MockGpu(
        model="A100", power_watts=250, processes=[state.MockProcess(pid=21, memory_mib=9000, sm_percent=40)]
    )
    machine.tell()
    probe, node = NvidiaProbe(), Node()
    probe.readings()  # what processes did is told since the reading before
    inventory = probe.inventory()
    held = replace(BLUE, uuid=inventory.gpus[0].uuid)
    seen = Observation(inventory, probe.conditions(), probe.readings(), (held,), SHARED.containers, Isolation.MPS)
    node.exporter.observe(seen)
    assert len(node.figures("DCGM_FI_DEV_FB_USED", "gpu")) == 8
    # As dcgm-exporter spells models: rules and boards that were made for it ask for them by name.
    assert ("1", "NVIDIA H100 80GB HBM3") in node.figures("DCGM_FI_DEV_FB_USED", "gpu", "modelName")
    assert node.of("tangram_container_gpu_memory_used_bytes") == {("blue", "serve"): 9000 * MIB}
    assert node.of("tangram_container_gpu_memory_over_limit") == {("blue", "serve"): 1}
    assert node.of("tangram_container_gpu_sm_ratio") == {("blue", "serve"): 0.4}
    assert node.of("tangram_container_gpu_power_watts") == {("blue", "serve"): 250}


def test_every_metric_of_the_table_is_exported_once_and_no_other(node: Node) -> None:
    shown = [line.split()[2] for line in node.scrape().splitlines() if line.startswith("# TYPE")]
    assert shown == [metric.name for metric in GPUS]
