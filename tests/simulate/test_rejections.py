"""Kubelets that reject pods which the scheduler has placed: whoever makes pods again and again must not flood them."""

import pytest
from msgspec.structs import replace
from tests.simulate.samples import node, pod, scheduled

from tangram.api import names
from tangram.api.objects import OwnerReference, Pod
from tangram.scheduler.policies import DeviceEntry, Inventory, InventoryStatus
from tangram.simulate.kubelets import Rejecting
from tangram.simulate.loop import Loop
from tangram.simulate.surroundings import surroundings
from tangram.simulate.watching import Kind
from tangram.simulate.world import World
from tangram.snapshot.nodes.rejections import FIRST_PAUSE, LONGEST_ALONE, LONGEST_PAUSE, REMEMBERED

HOUR = 3600


def owned(name: str, owner: str = "rs", **asks: int) -> Pod:
    plain = pod(name, **asks)
    reference = OwnerReference("ReplicaSet", owner, f"uid-{owner}", controller=True)
    return replace(plain, metadata=replace(plain.metadata, owner_references=(reference,)))


def replicas(world: World, *found: Pod) -> None:
    """Pods that are made again, a second after each was rejected."""
    for one in found:
        world.submit(one)
        world.own("default", one.metadata.name, 1, renames=True)


def running(world: World) -> dict[str, str]:
    return {
        found.metadata.name: found.spec.node_name for found in world.pods.values() if found.status.phase == "Running"
    }


def reasons(loop: Loop) -> list[str]:
    return [hold.reason for hold in loop.holds.values()]


def world_of(*nodes: str, gpus: int = 1) -> tuple[World, Rejecting]:
    world = World([node(name, gpus) for name in nodes])
    world.kubelets = rejecting = Rejecting()
    return world, rejecting


def test_fault_10_a_replica_set_that_one_node_rejects_goes_elsewhere() -> None:
    world, rejecting = world_of("bad", "good", gpus=2)
    rejecting.devices |= {("bad", "0"), ("bad", "1")}
    loop = scheduled(world)
    replicas(world, owned("a", share=50), owned("b", share=50), owned("c", gpus=1))
    loop.run(until=60)
    assert set(running(world).values()) == {"good"}
    assert len(running(world)) == 3 or "NodeRejected" in reasons(loop)
    loop.run(until=HOUR)
    assert len(rejecting.rejected) <= 12


def test_who_fits_only_where_pods_are_rejected_waits_with_a_reason_and_is_tried_ever_more_rarely() -> None:
    world, rejecting = world_of("n")
    rejecting.devices.add(("n", "0"))
    loop = scheduled(world)
    replicas(world, owned("a", share=30))
    loop.run(until=3)
    assert loop.cycle.builder.nodes.avoided
    [hold] = loop.holds.values()
    assert hold.reason == "InsufficientGpu"
    assert "1 GPU is given to nobody for now, as kubelets rejected pods there" in hold.message
    loop.run(until=HOUR)
    first = len(rejecting.rejected)
    assert 6 <= first <= HOUR // LONGEST_ALONE
    loop.run(until=6 * HOUR)
    assert len(rejecting.rejected) - first <= 5 * HOUR // LONGEST_ALONE


def test_a_device_that_works_again_is_used_again() -> None:
    world, rejecting = world_of("n")
    rejecting.devices.add(("n", "0"))
    loop = scheduled(world)
    replicas(world, owned("a", share=30))
    loop.run(until=100)
    rejecting.devices.clear()
    loop.run(until=100 + LONGEST_PAUSE)
    assert list(running(world).values()) == ["n"]


def test_pods_of_several_owners_close_a_device_for_longer() -> None:
    world, rejecting = world_of("n")
    rejecting.devices.add(("n", "0"))
    loop = scheduled(world)
    replicas(world, *(owned(f"p{index}", f"rs{index}", share=10) for index in range(5)))
    loop.run(until=HOUR)
    count = len(rejecting.rejected)
    loop.run(until=2 * HOUR)
    assert len(rejecting.rejected) - count <= 5 * (HOUR // LONGEST_PAUSE + 1)


def test_a_node_where_two_devices_reject_is_left_alone_as_a_whole() -> None:
    world, rejecting = world_of("n", gpus=8)
    rejecting.devices |= {("n", str(index)) for index in range(8)}
    loop = scheduled(world)
    replicas(world, *(owned(f"p{index}", f"rs{index}", gpus=1) for index in range(4)))
    loop.run(until=FIRST_PAUSE - 1)
    assert len(rejecting.rejected) == 4
    world.submit(pod("late", gpus=1))
    loop.run(until=FIRST_PAUSE - 1)
    assert len(rejecting.rejected) == 4


def test_a_workload_that_every_node_rejects_keeps_the_gpus_of_others_free() -> None:
    world, rejecting = world_of(*(f"n{index}" for index in range(8)), gpus=1)
    rejecting.pods.add("odd")
    loop = scheduled(world)
    replicas(world, owned("odd", gpus=1))
    loop.run(until=HOUR)
    assert len(rejecting.rejected) <= 20
    assert "NodeRejected" in reasons(loop)
    for index in range(8):
        world.submit(pod(f"well{index}", gpus=1))
    loop.run(until=HOUR + LONGEST_ALONE + 1)
    assert len(running(world)) == 8


def test_rejections_are_known_to_a_process_that_has_just_started() -> None:
    world, rejecting = world_of("n")
    rejecting.devices.add(("n", "0"))
    loop = scheduled(world)
    replicas(world, owned("a", share=30))
    loop.run(until=200)
    count = len(rejecting.rejected)
    for _ in range(20):  # a scheduler that ends and starts again all the time
        loop.leads = False
        loop.watch.stop()
        loop = scheduled(world)
        loop.run(until=world.clock.now + 5)
    assert len(rejecting.rejected) - count <= 100 // LONGEST_ALONE + 1


def test_rejections_are_forgotten_with_time() -> None:
    world, rejecting = world_of("n")
    rejecting.devices.add(("n", "0"))
    loop = scheduled(world)
    world.submit(owned("a", share=30))
    loop.run(until=1)
    world.submit(pod("b", share=10), at=REMEMBERED + 10)
    loop.run(until=REMEMBERED + 15)
    assert rejecting.rejected == ["a", "b"]
    loop.turn()
    [until] = loop.cycle.builder.nodes.avoided["n"].values()
    assert until == REMEMBERED + 10 + FIRST_PAUSE


@pytest.mark.parametrize("reason", ["UnexpectedAdmissionError", "TopologyAffinityError", f"OutOf{names.GPU_RESOURCE}"])
def test_each_word_of_kubelets_for_devices_counts(reason: str) -> None:
    world, rejecting = world_of("n")
    rejecting.devices.add(("n", "0"))
    rejecting.reason = reason
    loop = scheduled(world)
    replicas(world, owned("a", gpus=1))
    loop.run(until=5)
    assert len(rejecting.rejected) == 1


def test_a_failure_that_is_not_about_devices_closes_none() -> None:
    world, rejecting = world_of("n")
    rejecting.devices.add(("n", "0"))
    rejecting.reason = "OutOfcpu"
    loop = scheduled(world)
    world.submit(pod("a", gpus=1))
    loop.run(until=1)
    assert loop.cycle.builder.nodes.avoided == {}


def test_a_device_is_known_by_the_words_of_the_kubelet_where_it_names_one() -> None:
    world, rejecting = world_of("n", gpus=2)
    world.put(
        Kind.INVENTORY, "n",
        Inventory(node("n").metadata, InventoryStatus((DeviceEntry("GPU-a", 0), DeviceEntry("GPU-b", 1)))),
    )  # fmt: skip
    rejecting.devices.add(("n", "GPU-b"))
    loop = scheduled(world)
    world.follow(surroundings(loop.cycle.builder, loop.wake))
    world.submit(pod("both", gpus=2))
    world.submit(pod("one", gpus=1), at=2)
    loop.run(until=3)
    assert rejecting.rejected == ["both"]
    assert running(world) == {"one": "n"}
    assert list(loop.cycle.builder.nodes.avoided["n"]) == ["GPU-b"]


def test_a_clock_that_was_far_ahead_closes_nothing_for_long() -> None:
    world, rejecting = world_of("n")
    rejecting.devices.add(("n", "0"))
    loop = scheduled(world)
    world.submit(pod("a", gpus=1))
    loop.run(until=1)
    builder = loop.cycle.builder
    builder.snapshot(10 * 365 * 86_400)
    failed = next(iter(world.pods.values()))
    ahead = replace(failed.status, start_time="2200-01-01T00:00:00Z")
    builder.put_pod(replace(failed, metadata=replace(failed.metadata, uid="ahead"), status=ahead))
    builder.snapshot(1000)
    assert list(builder.nodes.avoided["n"].values()) == [1000 + FIRST_PAUSE]
