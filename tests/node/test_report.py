"""Given what the agent knows, then this is what its GPUNode says, and this is when it is written."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from tangram.api import names
from tangram.api.gpunode import GpuNodeStatus, parse_gpu_node
from tangram.errors import NotReachable
from tangram.node.alarms import Alarms
from tangram.node.gpus import Condition, Gpu, Health, Holding, Isolation, Link, Reading
from tangram.node.report import Facts, manifest, status_of, with_status
from tangram.node.reporter import HEARTBEAT_SECONDS, MEASURED_SECONDS, PATIENCE_SECONDS, Reporter
from tangram.node.vendors import NodeResources, VendorProbe, has_devices

NOW = "2026-11-21T12:00:00Z"
LATER = "2026-11-21T12:05:00Z"
FIRST = Gpu("GPU-a", 0, "NVIDIA-A100", 81920, 0, "00000000:10:00.0", 0, (8, 0), (Link("GPU-b", "NVLink", 12),))
SECOND = Gpu("GPU-b", 1, "NVIDIA-A100", 81920, 1, "00000000:11:00.0", 1, (8, 0), (Link("GPU-a", "NVLink", 12),))
FACTS = Facts(
    "n0", (FIRST, SECOND), isolation=Isolation.MPS, driver_version="580.95.05", cuda_version="13.0", agent_version="1"
)


def holding(pod: str, uuid: str, share: int, memory_mib: int = 0) -> Holding:
    return Holding(f"uid-{pod}", "team", pod, "main", uuid, share, memory_mib)


def status(facts: Facts, before: dict[str, Any] | None = None, now: str = NOW) -> GpuNodeStatus:
    """The status as the API reads it, and nothing in it that the API does not know."""
    parsed = parse_gpu_node(with_status("n0", status_of(facts, before, now)), unknown="forbid").status
    assert parsed is not None
    return parsed


def conditions(found: GpuNodeStatus) -> dict[str, tuple[str, str]]:
    return {one.type: (one.status, one.message) for one in found.conditions}


def test_a_node_whose_gpus_are_partly_given_out() -> None:
    found = status(
        replace(
            FACTS,
            holdings=(holding("a", "GPU-a", 30), holding("b", "GPU-a", 20, 4096), holding("c", "GPU-gone", 10)),
            readings=(
                Reading("GPU-a", sm_percent=43, memory_used_mib=5000, temperature_celsius=61, power_watts=212.4),
            ),
        )
    )
    first, second = found.devices
    assert (found.gpus, found.model, found.allocated, found.free, found.health) == (
        2,
        "NVIDIA-A100",
        "0.5",
        "1.5",
        "Healthy",
    )
    assert (found.isolation, found.driver_version, found.cuda_version) == ("mps", "580.95.05", "13.0")
    assert (first.allocated, first.allocated_memory_mib, first.isolation) == (50, 24576 + 4096, "mps")
    assert [(one.pod, one.share, one.memory_mib) for one in first.allocations] == [("a", 30, 24576), ("b", 20, 4096)]
    assert (first.utilization_percent, first.memory_used_mib, first.temperature_celsius, first.power_watts) == (
        40,
        5120,
        60,
        200,
    )
    assert (second.utilization_percent, second.power_watts) == (None, None)
    assert (second.links[0].peer, second.links[0].lanes, second.numa_node) == ("GPU-a", 12, 1)
    assert {kind: state for kind, (state, _) in conditions(found).items()} == {
        "Ready": "True",
        "Healthy": "True",
        "RecordsAgree": "True",
        "AtRisk": "False",
    }


def test_a_gpu_in_trouble_names_its_pods() -> None:
    facts = replace(
        FACTS,
        conditions={
            "GPU-a": Condition(Health.UNHEALTHY, "XID 79: GPU has fallen off the bus"),
            "GPU-b": Condition(Health.DEGRADED, "too hot", at_risk="temperature rises"),
        },
        holdings=(holding("b", "GPU-a", 30), holding("a", "GPU-a", 30)),
        problems={"probe": "slow"},
    )
    found = status(facts)
    assert (found.health, found.free) == ("Unhealthy", "0")
    assert conditions(found) == {
        "Ready": ("False", "probe: slow"),
        "Healthy": (
            "False",
            (
                "GPU 0 (GPU-a) is Unhealthy: XID 79: GPU has fallen off the bus, used by team/a, team/b; "
                "GPU 1 (GPU-b) is Degraded: too hot"
            ),
        ),
        "RecordsAgree": ("True", "every container holds the GPUs that its pod's record names"),
        "AtRisk": ("True", "GPU 1 (GPU-b): temperature rises"),
    }
    assert [(one.health_reason, one.at_risk) for one in found.devices] == [
        ("XID 79: GPU has fallen off the bus", ""),
        ("too hot", "temperature rises"),
    ]


def test_a_gpu_that_was_lost_before_the_agent_came_is_not_forgotten() -> None:
    found = status(replace(FACTS, unidentified=("GPU 2 has not answered since the agent started: GPU is lost",)))
    assert conditions(found)["Healthy"] == ("False", "GPU 2 has not answered since the agent started: GPU is lost")


def test_a_gpu_that_was_lost_before_the_agent_came_stays_for_as_long_as_somebody_holds_it() -> None:
    """A record that names a GPU of which nobody tells could mean any of the node: all would count as held."""
    earlier = status_of(FACTS, None, NOW)
    new_agent = replace(FACTS, gpus=(FIRST,), holdings=(holding("train", "GPU-b", 40),))
    written = status_of(new_agent, earlier, LATER)
    for before in (earlier, written):
        found = status(new_agent, before, LATER)
        assert [(one.uuid, one.health, one.allocated) for one in found.devices] == [
            ("GPU-a", "Healthy", 0),
            ("GPU-b", "Unhealthy", 40),
        ]
        lost = found.devices[1]
        assert (lost.index, lost.model, lost.memory_mib, lost.allocations[0].memory_mib) == (
            1,
            "NVIDIA-A100",
            81920,
            32768,
        )
        told = "GPU 1 (GPU-b) is Unhealthy: the driver has not found it since the agent started, used by team/train"
        assert conditions(found)["Healthy"] == ("False", told)
    alone = status(replace(new_agent, holdings=()), written, LATER)
    assert [one.uuid for one in alone.devices] == ["GPU-a"]


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    before = status_of(FACTS, None, NOW)
    worse = replace(FACTS, conditions={"GPU-a": Condition(Health.UNHEALTHY, "lost")})
    times = {one.type: one.last_transition_time for one in status(worse, before, LATER).conditions}
    assert times == {"Ready": NOW, "Healthy": LATER, "RecordsAgree": NOW, "AtRisk": NOW}


def test_slices_are_devices_that_are_as_well_and_as_hot_as_their_gpu() -> None:
    slices = tuple(
        replace(FIRST, uuid=uuid, model="NVIDIA-A100-MIG-1g.10gb", memory_mib=9728, links=(), parent="GPU-a")
        for uuid in ("MIG-1", "MIG-2")
    )
    facts = replace(
        FACTS,
        gpus=(*slices, SECOND),
        isolation=Isolation.MIG,
        conditions={"GPU-a": Condition(Health.DEGRADED, "too hot")},
        holdings=(holding("a", "MIG-2", 100),),
        readings=(Reading("GPU-a", sm_percent=80, temperature_celsius=91, power_watts=300),),
    )
    found = status(facts)
    assert [(one.uuid, one.health, one.isolation, one.allocated) for one in found.devices] == [
        ("MIG-1", "Degraded", "mig", 0),
        ("MIG-2", "Degraded", "mig", 100),
        ("GPU-b", "Healthy", "exclusive", 0),
    ]
    hot = found.devices[1]
    assert (hot.temperature_celsius, hot.power_watts, hot.utilization_percent) == (90, None, None)
    assert hot.allocations[0].memory_mib == 9728
    assert (found.gpus, found.free, found.model) == (3, "1", "NVIDIA-A100,NVIDIA-A100-MIG-1g.10gb")


def test_a_container_that_holds_something_else_is_shown() -> None:
    assert conditions(status(FACTS))["RecordsAgree"][0] == "True"
    found = status(replace(FACTS, mismatches=("pod team/a holds 2 of GPU-a", "m" * 5000)))
    said, message = conditions(found)["RecordsAgree"]
    assert said == "False"
    assert message.startswith("pod team/a holds 2 of GPU-a; mmm")
    assert len(message) == 4096
    assert conditions(status(replace(FACTS, known=False)))["RecordsAgree"][0] == "Unknown"


def test_whatever_a_driver_says_keeps_to_the_bounds() -> None:
    odd = replace(FIRST, uuid="GPU-x", links=tuple(Link(f"GPU-{number}", "PCIe") for number in range(100)))
    facts = Facts(
        "n0",
        (odd, *(Gpu(f"GPU-{number}", number, "m" * 60 + str(number % 5), 0) for number in range(1, 90))),
        {"GPU-x": Condition(Health.UNHEALTHY, "r" * 5000, "q" * 5000)},
        holdings=tuple(holding(f"p{number}", "GPU-x", 1) for number in range(300)),
        driver_version="v" * 100,
        problems={"probe": "p" * 9000},
    )
    found = status(facts)
    assert len(found.devices) == 64
    assert (found.gpus, found.isolation) == (90, "none")
    assert found.devices[0].allocated == 100


def test_a_node_without_gpus() -> None:
    found = status(Facts("n0"))
    assert (found.gpus, found.health, found.free, found.devices) == (0, None, "0", ())


class FakeBorder:
    """One GPUNode in an API server that can be out of reach."""

    def __init__(self) -> None:
        self.there: dict[str, Any] | None = None
        self.writes: list[dict[str, Any]] = []
        self.down = self.forgetful = False

    async def read(self) -> dict[str, Any] | None:
        return self.there

    async def node_uid(self) -> str:
        return "node-uid"

    async def create(self, gpu_node: dict[str, Any]) -> None:
        self.there = None if self.forgetful else gpu_node

    async def apply_status(self, gpu_node: dict[str, Any]) -> bool:
        if self.down:
            raise NotReachable("no answer")
        if self.there is None:
            return False
        parse_gpu_node(gpu_node, unknown="forbid")
        self.there = self.there | {"status": gpu_node["status"]}
        self.writes.append(gpu_node["status"])
        return True


class World:
    def __init__(self) -> None:
        self.facts, self.at, self.border = FACTS, 1000.0, FakeBorder()
        ticks: Iterator[int] = count()
        self.reporter = Reporter(
            self.border, lambda: self.facts, lambda: self.at, lambda: f"2026-11-21T12:00:{next(ticks) % 60:02}Z"
        )

    async def check(self, later: float = 2.0) -> bool:
        self.at += later
        return await self.reporter.check()


@pytest.fixture
def world() -> World:
    return World()


async def test_the_first_look_creates_what_belongs_to_the_node_and_an_idle_node_is_silent(world: World) -> None:
    assert await world.check()
    assert world.border.there is not None
    assert world.border.there["metadata"] == manifest("n0", "node-uid")["metadata"]
    assert not any([await world.check() for _ in range(10)])
    assert await world.check(HEARTBEAT_SECONDS)
    assert len(world.border.writes) == 2


def test_the_gpu_node_belongs_to_its_node() -> None:
    made = manifest("n0", "node-uid")
    assert made["metadata"]["ownerReferences"] == [
        {"apiVersion": "v1", "kind": "Node", "name": "n0", "uid": "node-uid"}
    ]
    assert parse_gpu_node(made, unknown="forbid").metadata.name == "n0"


async def test_health_and_holders_are_written_at_once_and_measurements_now_and_then(world: World) -> None:
    await world.check()
    world.facts = replace(FACTS, readings=(Reading("GPU-a", sm_percent=80),))
    assert not await world.check()
    assert await world.check(MEASURED_SECONDS)
    world.facts = replace(world.facts, readings=(Reading("GPU-a", sm_percent=82),))  # rounds to the same
    assert not await world.check(MEASURED_SECONDS)
    world.facts = replace(world.facts, conditions={"GPU-a": Condition(Health.UNHEALTHY, "lost")})
    assert await world.check()
    world.facts = replace(world.facts, holdings=(holding("a", "GPU-b", 30),))
    assert await world.check()
    world.facts = replace(world.facts, problems={"pods": "not known yet"})
    assert await world.check()
    assert not await world.check()


async def test_times_of_conditions_outlive_the_agent(world: World) -> None:
    await world.check()
    told = {one["type"]: one["lastTransitionTime"] for one in world.border.writes[-1]["conditions"]}
    again = Reporter(world.border, lambda: FACTS, lambda: 5.0, lambda: LATER)
    assert await again.check()
    last = world.border.writes[-1]
    assert {one["type"]: one["lastTransitionTime"] for one in last["conditions"]} == told
    assert last["heartbeatTime"] == LATER


async def test_the_devices_count_as_reported_once_the_gpu_node_says_what_this_agent_has_seen(world: World) -> None:
    """What an agent of another mode has left there says nothing of them."""
    await world.check()
    known, world.facts = world.facts, Facts("n0", known=False)
    world.reporter = Reporter(world.border, lambda: world.facts, lambda: world.at, lambda: LATER)
    assert not await world.check()
    assert not world.reporter.reported.is_set()
    world.facts, world.border.down = known, True
    with pytest.raises(NotReachable):
        await world.check()
    assert not world.reporter.reported.is_set()
    world.border.down = False
    await world.check()
    assert world.reporter.reported.is_set()


async def test_an_agent_that_starts_again_leaves_its_devices_until_it_sees_them(world: World) -> None:
    world.facts = replace(FACTS, holdings=(holding("a", "GPU-b", 30),))
    await world.check()
    world.facts = Facts("n0", problems={"probe": "no driver"}, known=False)
    world.reporter = Reporter(world.border, lambda: world.facts, lambda: world.at, lambda: LATER)
    assert not await world.check()
    assert await world.check(PATIENCE_SECONDS)
    last = world.border.writes[-1]
    assert [(one["uuid"], one["health"], one["allocated"]) for one in last["devices"]] == [
        ("GPU-a", "Degraded", 0),
        ("GPU-b", "Degraded", 30),
    ]
    assert (last["gpus"], last["free"], last["allocated"]) == (2, "0", "0.3")
    world.facts = FACTS
    assert await world.check()
    assert world.border.writes[-1]["free"] == "2"


def test_the_pods_on_a_gpu_that_fails_are_told_once_each_time() -> None:
    told: list[tuple[str, str]] = []
    alarms = Alarms(lambda holding, text: told.append((holding.pod, text)))
    busy = replace(FACTS, holdings=(holding("a", "GPU-a", 30), holding("b", "GPU-b", 30)))
    failed = replace(busy, conditions={"GPU-a": Condition(Health.UNHEALTHY, "GPU is lost")})
    for facts in (busy, failed, failed):
        alarms.check(facts)
    said = "GPU 0 (GPU-a), which the pod holds, is unhealthy: GPU is lost"
    assert told == [("a", said)]
    alarms.check(replace(failed, holdings=(*failed.holdings, holding("late", "GPU-a", 10))))
    alarms.check(busy)
    alarms.check(failed)
    assert told == [("a", said), ("late", said), ("a", said)]


def test_the_pods_on_the_slices_of_a_gpu_that_fails_are_told_each_of_its_own() -> None:
    told: list[tuple[str, str]] = []
    facts = replace(
        FACTS,
        gpus=tuple(replace(FIRST, uuid=uuid, parent="GPU-a") for uuid in ("MIG-1", "MIG-2")),
        conditions={"GPU-a": Condition(Health.UNHEALTHY, "GPU is lost")},
        holdings=(holding("a", "MIG-1", 100), holding("b", "MIG-2", 100)),
    )
    Alarms(lambda holding, text: told.append((holding.pod, text))).check(facts)
    assert told == [
        ("a", "GPU 0 (MIG-1), which the pod holds, is unhealthy: GPU is lost"),
        ("b", "GPU 0 (MIG-2), which the pod holds, is unhealthy: GPU is lost"),
    ]


async def test_a_gpu_node_that_was_removed_comes_back(world: World) -> None:
    await world.check()
    world.border.there = None
    assert await world.check(HEARTBEAT_SECONDS)
    assert world.border.there is not None
    world.border.there, world.border.forgetful = None, True
    with pytest.raises(NotReachable, match="GPUNode n0 was created, and is not there"):
        await world.check(HEARTBEAT_SECONDS)


async def test_an_api_server_out_of_reach_is_asked_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.check()
    world.border.down = True
    world.facts = replace(FACTS, holdings=(holding("a", "GPU-b", 30),))

    class Enough(Exception):
        pass

    pauses = 0

    async def sleep(seconds: float) -> None:
        nonlocal pauses
        pauses += 1
        world.at += seconds
        world.border.down = pauses < 3
        if pauses == 5:
            raise Enough

    with pytest.raises(Enough):
        await world.reporter.run(2.0, sleep)
    assert caplog.text.count("could not be written: no answer") == 3
    assert len(world.border.writes) == 2
    assert world.border.writes[-1]["allocated"] == "0.3"


def ascend(offered: str, capacity: str = "4") -> NodeResources:
    labels = {"node.kubernetes.io/npu.chip.name": "Ascend910B4"}
    return NodeResources({"huawei.com/Ascend910B": capacity, "cpu": "96"}, {"huawei.com/Ascend910B": offered}, labels)


def test_why_a_gpu_is_not_in_the_nodes_mode_is_told() -> None:
    old, new = status(replace(FACTS, gpus=(replace(FIRST, cuda=(11, 2)), SECOND))).devices
    assert (old.isolation, new.isolation, new.isolation_reason) == ("time-slice", "mps", "")
    assert "MPS limits the memory of its clients from CUDA 11.5 on" in old.isolation_reason


def test_another_vendors_devices_are_counted_by_what_the_kubelet_tells() -> None:
    told = ascend("4")
    probe = VendorProbe(lambda: told)
    gpus = probe.inventory().gpus
    assert [(gpu.uuid, gpu.index, gpu.model) for gpu in gpus[:2]] == [
        ("ascend-0", 0, "Ascend910B4"),
        ("ascend-1", 1, "Ascend910B4"),
    ]
    assert {one.health for one in probe.conditions().values()} == {Health.HEALTHY}
    told = ascend("3")
    assert probe.conditions()["ascend-3"] == Condition(Health.UNHEALTHY, "huawei.com/Ascend910B: 3 of 4 are offered")
    told = ascend("0", "0")
    assert {one.health for one in probe.conditions().values()} == {Health.UNHEALTHY}
    assert status(Facts("n0", gpus, probe.conditions())).model == "Ascend910B4"


@pytest.mark.parametrize("amount", ["", "-1", "1e9", "٣", "x", "8" * 40])
def test_amounts_that_are_none_are_no_devices(amount: str) -> None:
    assert not has_devices(NodeResources({"amd.com/gpu": amount}, {}, {}))


def test_nvidias_devices_are_not_counted_this_way_and_every_other_vendor_is() -> None:
    assert not has_devices(NodeResources({names.GPU_RESOURCE: "8"}, {}, {}))
    for vendor in names.VENDORS:
        assert has_devices(NodeResources({vendor.resource: "1"}, {}, {})) == (vendor.resource != names.GPU_RESOURCE)


def test_a_device_says_since_when_it_is_as_it_is() -> None:
    broken = replace(FACTS, conditions={"GPU-a": Condition(Health.UNHEALTHY, "lost")})
    first = status_of(FACTS, None, NOW)
    assert [one["lastTransitionTime"] for one in first["devices"]] == [NOW, NOW]
    second = status_of(broken, first, LATER)
    assert [one["lastTransitionTime"] for one in second["devices"]] == [LATER, NOW]
    third = status_of(broken, second, "2026-11-21T13:00:00Z")
    assert [one["lastTransitionTime"] for one in third["devices"]] == [LATER, NOW]
