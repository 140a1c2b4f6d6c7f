"""MIG slices as devices: from the driver through the agent and the GPUNode to placement, and into the container."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.node.conftest import Machine
from tests.node.kubelet import Rejected
from tests.node.machine import gpus, machine, pod
from tests.worlds import World, node
from tests.worlds import pod as waiting

from tangram.api.names import FRACTION_RESOURCE
from tangram.node.allocation import Devices
from tangram.node.gpus import Condition, Gpu, Health, Holding, Inventory, Isolation, Slice
from tangram.node.nvidia import NvidiaProbe
from tangram.node.report import Facts, manifest, status_of
from tangram.node.slices import held_back, sliced
from tangram.sandbox.nvml import state
from tangram.scheduler.policies import Inventory as Told
from tangram.scheduler.policies import node_devices

NOW = "2026-11-21T12:00:00Z"


def cut(gpu: Gpu, count: int, profile: str = "1g.10gb", memory_mib: int = 9728) -> Gpu:
    """The GPU with MIG enabled and ``count`` slices MIG-N-0, MIG-N-1, …"""
    parts = tuple(Slice(f"MIG-{gpu.index}-{number}", profile, memory_mib) for number in range(count))
    return replace(gpu, mig=True, slices=parts)


def devices_of(*found: Gpu, mode: Isolation = Isolation.MIG) -> tuple[Gpu, ...]:
    return sliced(mode, Inventory(found)).gpus


def test_a_gpu_that_is_cut_is_replaced_by_its_slices_and_others_stay_whole() -> None:
    first, second = gpus(2)
    a, b, whole = devices_of(cut(first, 2), second)
    assert (a.uuid, a.model, a.memory_mib, a.parent) == ("MIG-0-0", "A100-MIG-1g.10gb", 9728, "GPU-0")
    assert (b.uuid, b.index, b.numa_node, b.links) == ("MIG-0-1", 0, 0, ())
    assert whole == second
    assert devices_of(cut(first, 2), second, mode=Isolation.MPS) == (cut(first, 2), second)


@pytest.mark.parametrize(
    ("model", "profile", "told"),
    [
        ("H100", "1g.10gb+me", "H100-MIG-1g.10gb.me"),
        ("H100", "", "H100-MIG-unknown"),
        ("m" * 63, "1g.10gb", "m" * 51 + "-MIG-1g.10gb"),
        ("H100", "x" * 90, "H100-MIG-" + "x" * 24),
    ],
)
def test_a_slice_s_model_is_fit_for_a_label(model: str, profile: str, told: str) -> None:
    (device,) = devices_of(cut(replace(gpus(1)[0], model=model), 1, profile))
    assert device.model == told
    assert len(told) <= 63


def test_a_gpu_of_which_mig_leaves_nothing_takes_no_work_and_says_why() -> None:
    first, second, third = gpus(3)
    seen = {"GPU-2": Condition(Health.UNHEALTHY, "lost")}
    found = (cut(first, 2), cut(second, 0), cut(third, 0))
    assert {uuid: one.reason for uuid, one in held_back(Isolation.MIG, found, seen).items()} == {
        "GPU-1": "MIG is enabled on it, and the driver shows no slices of it",
        "GPU-2": "lost",
    }
    assert held_back(Isolation.MPS, found, seen)["GPU-0"] == Condition(
        Health.DEGRADED, "MIG is enabled on it, and its slices are given out in mode mig only; the node's is mps"
    )
    assert held_back(Isolation.MIG, gpus(2), {}) == {}


def test_slices_that_are_cut_anew_are_forgotten_and_those_of_a_lost_gpu_are_not() -> None:
    first, second = gpus(2)
    before = Devices().updated(Inventory(devices_of(cut(first, 7), second)), {})
    assert len(before.gpus) == 8

    anew = before.updated(Inventory(devices_of(cut(first, 1, "7g.80gb"), second)), {})
    assert [gpu.model for gpu in anew.gpus] == ["A100-MIG-7g.80gb", "A100"]
    assert [gpu.uuid for gpu in before.updated(Inventory((first, second)), {}).gpus] == ["GPU-0", "GPU-1"]

    lost = before.updated(Inventory((second,)), {"GPU-0": Condition(Health.UNHEALTHY, "fallen off the bus")})
    assert lost.gpus == before.gpus
    assert {lost.health(gpu).reason for gpu in lost.gpus[:7]} == {"fallen off the bus"}
    assert lost.health(lost.gpus[7]).health is Health.HEALTHY


async def test_a_container_gets_the_slice_of_its_record_and_no_part_of_one(folder: Path) -> None:
    first, second = gpus(2)
    async with machine(folder, count=4, found=(cut(first, 3), second), isolation=Isolation.MIG) as there:
        given = await there.start(pod("p", {"main": [("MIG-0-1", 100)]}))
        with pytest.raises(Rejected, match="MIG-0-2 is given out as a whole only, and the record names 50"):
            await there.start(pod("half", {"main": [("MIG-0-2", 50)]}))
        with pytest.raises(Rejected, match="MIG-0-1 has 0 % free"):
            await there.start(pod("again", {"main": [("MIG-0-1", 100)]}))
        with pytest.raises(Rejected, match="its record names GPU GPU-0, which is not here"):
            await there.start(pod("parent", {"main": [("GPU-0", 100)]}))
        with pytest.raises(Rejected, match="MIG-0-2 has 9728 MiB of memory free and the record names 20000"):
            await there.start(pod("large", {"main": [("MIG-0-2", 100, 20000)]}))
        by_place = await there.start(pod("by-place", {"main": [("2", 100)]}))
        whole = await there.start(pod("whole", {"main": [("GPU-1", 100)]}))
        await there.until(lambda: len(there.agent.holdings) == 3)
        allocated = {one["uuid"]: one["allocated"] for one in status_of(there.agent.facts("1"), None, NOW)["devices"]}

    assert given.environment["main"] == {"NVIDIA_VISIBLE_DEVICES": "MIG-0-1", "TANGRAM_GPU_ISOLATION": "mig"}
    assert by_place.environment["main"]["NVIDIA_VISIBLE_DEVICES"] == "MIG-0-2"
    assert whole.environment["main"] == {"NVIDIA_VISIBLE_DEVICES": "GPU-1", "TANGRAM_GPU_ISOLATION": "exclusive"}
    assert allocated == {"MIG-0-0": 0, "MIG-0-1": 100, "MIG-0-2": 100, "GPU-1": 100}


async def test_slices_fail_and_come_back_with_their_gpu(folder: Path) -> None:
    first, second = gpus(2)
    async with machine(folder, count=3, found=(cut(first, 2), second), isolation=Isolation.MIG) as there:
        there.probe.sick = {"GPU-0": Condition(Health.UNHEALTHY, "XID 79")}
        await there.kubelet.capacity(FRACTION_RESOURCE, 100)
        with pytest.raises(Rejected, match="MIG-0-0"):
            await there.start(pod("p", {"main": [("MIG-0-0", 100)]}))
        there.probe.sick = {}
        await there.kubelet.capacity(FRACTION_RESOURCE, 300)
        await there.start(pod("q", {"main": [("MIG-0-0", 100)]}))


async def test_where_slices_are_not_given_out_neither_is_their_gpu(folder: Path) -> None:
    first, second = gpus(2)
    async with machine(folder, found=(cut(first, 2), second)) as there:
        with pytest.raises(Rejected, match=r"GPU-0 is Degraded \(MIG is enabled on it"):
            await there.start(pod("p", {"main": [("GPU-0", 100)]}))
        await there.start(pod("q", {"main": [("GPU-1", 100)]}))


def world_of(found: tuple[Gpu, ...], conditions: dict[str, Condition], holdings: tuple[Holding, ...] = ()) -> World:
    """One node as its kubelet and its GPUNode tell of it."""
    world = World([node("n0", 0, extra={FRACTION_RESOURCE: 100 * len(found)})])
    facts = Facts("n0", found, conditions, holdings=holdings, isolation=Isolation.MIG)
    told: Any = manifest("n0", "uid") | {"status": status_of(facts, None, NOW)}
    world.cycle.builder.set_inventory("n0", node_devices(msgspec.convert(told, Told)))
    return world


def test_placement_counts_slices_as_devices() -> None:
    found = devices_of(*(cut(gpu, 7) for gpu in gpus(2)))
    world = world_of(found, {"GPU-0": Condition(Health.DEGRADED, "too hot")})
    world.add(*(waiting(f"p{number}", gpu=100) for number in range(8)))
    world.settle()

    assert len(world.where) == 7
    assert len(world.waiting) == 1
    placed = {device for name in world.where for device, share in world.devices(name)["main"]}
    assert placed == {f"MIG-1-{number}" for number in range(7)}


def test_memory_that_no_slice_has_waits_and_the_model_is_found_by_name() -> None:
    world = world_of(devices_of(cut(gpus(1)[0], 7)), {})
    world.add(
        waiting("large", gpu=100, gpu_memory="20Gi"),
        waiting("small", gpu=100, gpu_memory="9Gi", models="A100-MIG-1g.10gb"),
        waiting("other", gpu=100, models="A100-MIG-3g.40gb"),
    )
    world.settle()
    assert list(world.where) == ["small"]


def test_from_the_driver_s_library_to_the_devices(machine: Machine) -> None:
    machine.gpus[0] = state.MockGpu(mig=True, slices=[state.MockSlice(profile="1g.10gb")] * 2)
    machine.gpus[1] = state.MockGpu(mig=True)
    machine.tell()
    probe = NvidiaProbe()
    inventory = probe.inventory()
    held = held_back(Isolation.MIG, inventory.gpus, probe.conditions())
    devices = Devices().updated(sliced(Isolation.MIG, inventory), held)
    probe.close()

    assert [gpu.model.partition("-MIG-")[2] for gpu in devices.gpus] == ["1g.10gb"] * 2 + [""] * 7
    assert [devices.health(gpu).health.value for gpu in devices.gpus] == ["Healthy"] * 2 + ["Degraded"] + [
        "Healthy"
    ] * 6
