"""Objects to rows, in the order in which a cluster may show them."""

import numpy as np
import pytest
from msgspec.structs import replace
from tests.worlds import START, World, bound, cluster, gang, leaving, node, pod, policy

from tangram.api.objects import ContainerStatus, Metadata, PodStatus, Resources
from tangram.plan import Device, Place, PodName
from tangram.snapshot import legal
from tangram.snapshot.build import Builder
from tangram.snapshot.nodes.inventory import NodeDevice


def free(builder: Builder, name: str) -> list[int]:
    """milli-GPU left on each device of a node."""
    arrays = builder.snapshot(START).nodes
    row = builder.nodes.rows[name]
    return arrays.device_free[row, : arrays.device_count[row]].tolist()


def test_a_pod_seen_before_its_node_counts_once_the_node_is_there() -> None:
    builder = Builder()
    builder.put_pod(bound(pod("a", gpu=30), "n0", {"main": [("1", 30)]}))
    builder.put_node(node("n0", 2))
    assert free(builder, "n0") == [1000, 700]


def test_a_node_that_comes_back_finds_its_pods() -> None:
    builder = Builder()
    builder.put_node(node("n0", 2))
    builder.put_pod(bound(pod("a", gpu=30), "n0", {"main": [("1", 30)]}))
    builder.remove_node("n0")
    builder.put_node(node("other", 1))
    builder.put_node(node("n0", 2))
    assert free(builder, "n0") == [1000, 700]
    assert list(legal.miscounted(builder)) == []


def test_an_inventory_that_arrives_late_gives_the_ids_their_meaning() -> None:
    builder = Builder()
    builder.put_node(node("n0", 2))
    builder.put_pod(bound(pod("a", gpu=30), "n0", {"main": [("GPU-b", 30)]}))
    assert free(builder, "n0") == [0, 0], "an id that nobody knows may be any device"
    builder.set_inventory("n0", (NodeDevice("GPU-a", True), NodeDevice("GPU-b", True)))
    assert free(builder, "n0") == [1000, 700]
    builder.put_pod(bound(pod("b", gpu=20), "n0", {"main": [("0", 20)]}))
    assert free(builder, "n0") == [800, 700], "bound by index before the inventory was known"


def test_a_node_that_loses_a_device_does_not_forget_who_held_it() -> None:
    builder = Builder()
    builder.put_node(node("n0", 2))
    builder.put_pod(bound(pod("a", gpu=30), "n0", {"main": [("1", 30)]}))
    builder.put_node(node("n0", 1))
    assert free(builder, "n0") == [0]
    builder.put_node(node("n0", 2))
    assert free(builder, "n0") == [1000, 700]


def test_memory_in_proportion_follows_what_is_known_of_the_device() -> None:
    builder = Builder()
    builder.put_node(node("n0", 1, gpu_memory=0))
    builder.put_pod(bound(pod("a", gpu=50), "n0", {"main": [("0", 50)]}))
    builder.put_node(node("n0", 1, gpu_memory=1000))
    assert builder.snapshot(START).nodes.device_memory_free[builder.nodes.rows["n0"], 0] == 500


def test_an_unhealthy_device_stays_taken_when_its_pod_leaves() -> None:
    builder = Builder()
    builder.put_node(node("n0", 2))
    builder.put_pod(bound(pod("a", gpu=30), "n0", {"main": [("1", 30)]}))
    builder.set_inventory("n0", (NodeDevice("GPU-a", True), NodeDevice("GPU-b", False)))
    assert free(builder, "n0") == [1000, 0]
    builder.remove_pod("uid-a")
    assert free(builder, "n0") == [1000, 0]
    builder.set_inventory("n0", (NodeDevice("GPU-a", True), NodeDevice("GPU-b", True)))
    assert free(builder, "n0") == [1000, 1000]


def test_two_records_of_one_device_leave_nothing_of_it_and_give_it_back_once() -> None:
    builder = Builder()
    builder.put_node(node("n0", 1))
    for name in "ab":
        builder.put_pod(bound(pod(name, gpu=70), "n0", {"main": [("0", 70)]}))
    assert free(builder, "n0") == [0]
    assert list(legal.broken(builder.snapshot(START))) == []
    builder.remove_pod("uid-a")
    assert free(builder, "n0") == [300]


def test_a_decision_counts_until_it_is_seen_or_forgotten() -> None:
    builder = Builder()
    builder.put_node(node("n0", 1))
    waiting = pod("a", gpu=30)
    builder.put_pod(waiting)
    place = Place(PodName("default", "a", "uid-a"), "n0", (("main", (Device("0", 0, 300),)),))
    builder.overlay(place)
    builder.overlay(place)
    assert (free(builder, "n0"), builder.in_flight("uid-a")) == ([700], True)
    assert builder.forget("uid-a")
    assert (free(builder, "n0"), builder.in_flight("uid-a")) == ([1000], False)
    assert builder.snapshot(START).pending.waiting.sum() == 1
    builder.overlay(place)
    builder.put_pod(bound(waiting, "n0", {"main": [("0", 30)]}))
    assert (free(builder, "n0"), builder.in_flight("uid-a"), builder.forget("uid-a")) == ([700], False, False)


def test_a_pod_that_somebody_else_bound_meanwhile_counts_where_it_is() -> None:
    builder = Builder()
    for name in ("n0", "n1"):
        builder.put_node(node(name, 1))
    waiting = pod("a", gpu=30)
    builder.put_pod(waiting)
    builder.overlay(Place(PodName("default", "a", "uid-a"), "n0", (("main", (Device("0", 0, 300),)),)))
    builder.put_pod(bound(waiting, "n1", {"main": [("0", 30)]}))
    assert (free(builder, "n0"), free(builder, "n1")) == ([1000], [700])


def test_a_resize_in_place_is_counted() -> None:
    builder = Builder()
    builder.put_node(node("n0", 0, cpu=8))
    builder.put_pod(bound(pod("a", cpu=1), "n0"))
    builder.put_pod(bound(pod("a", cpu=3), "n0"))
    assert builder.snapshot(START).nodes.free[builder.nodes.rows["n0"], 0] == 5000


def test_a_pod_that_is_resized_by_the_time_it_is_seen_bound_counts_for_what_it_has() -> None:
    builder = Builder()
    builder.put_node(node("n0", 0, cpu=8))
    waiting = pod("a", cpu=1)
    builder.put_pod(waiting)
    builder.overlay(Place(PodName("default", "a", "uid-a"), "n0"))
    has = ContainerStatus("main", Resources({"cpu": 3}), {"cpu": 3})
    builder.put_pod(replace(bound(waiting, "n0"), status=PodStatus("Running", container_statuses=(has,))))
    assert builder.snapshot(START).nodes.free[builder.nodes.rows["n0"], 0] == 5000


def test_fault_24_an_unreadable_pod_blocks_the_devices_until_it_goes() -> None:
    builder = Builder()
    builder.put_node(node("n0", 2))
    one = bound(pod("a", gpu=30), "n0", {"main": [("0", 30)]})
    builder.put_pod(one)
    builder.put_unreadable_pod(one.metadata, "n0")
    assert free(builder, "n0") == [0, 0]
    builder.set_inventory("n0", (NodeDevice("GPU-a", True), NodeDevice("GPU-b", True)))
    assert free(builder, "n0") == [0, 0], "what was known of it before no longer counts"
    builder.put_pod(one)
    assert free(builder, "n0") == [700, 1000], "it can be read again"
    builder.put_unreadable_pod(Metadata("a", "default", "uid-a"), "n0")
    builder.remove_pod("uid-a")
    assert free(builder, "n0") == [1000, 1000]


def test_a_decision_about_a_pod_that_becomes_unreadable_stays_counted() -> None:
    builder = Builder()
    builder.put_node(node("n0", 1))
    builder.put_pod(pod("a", gpu=30))
    builder.overlay(Place(PodName("default", "a", "uid-a"), "n0", (("main", (Device("0", 0, 300),)),)))
    builder.put_unreadable_pod(Metadata("a", "default", "uid-a"), "")
    assert free(builder, "n0") == [700]


def test_memory_beyond_any_device_takes_the_device_and_no_more() -> None:
    """An annotation with a number that would overflow the count of a node."""
    builder = Builder()
    builder.put_node(node("n0", 2))
    for name in "abc":
        record = f'{{"main": [{{"id": "0", "share": 30, "memoryMiB": {2**62}}}]}}'
        builder.put_pod(bound(pod(name, gpu=30), "n0", record))
    arrays = builder.snapshot(START).nodes
    assert arrays.device_memory_free[0].tolist() == [0, 81920]


@pytest.mark.parametrize("step", [1, 2, 3])
def test_gangs_count_their_members_wherever_they_are(step: int) -> None:
    world = World(cluster("1x8xA100"), gang("g", 3, whole=1))
    world.step()
    gangs = world.cycle.builder.gangs.arrays
    assert (int(gangs.bound[0]), int(gangs.waiting[0])) == (3, 0)
    for index in range(step):
        world.delete(f"g-{index}")
    assert int(gangs.bound[0]) == 3 - step
    assert bool(world.cycle.builder.gangs.rows) == (step < 3)


def test_a_bound_member_may_change_its_gang() -> None:
    builder = Builder()
    builder.put_node(node("n0", 2))
    builder.put_pod(bound(pod("a", gpu=30, gang="g", gang_min=2), "n0", {"main": [("0", 30)]}))
    builder.put_pod(bound(pod("a", gpu=30, gang="h", gang_min=3), "n0", {"main": [("0", 30)]}))
    assert list(builder.gangs.rows) == ["default/h"]
    assert int(builder.gangs.arrays.bound[builder.gangs.rows["default/h"]]) == 1


def test_usage_of_queues_is_counted_anew_when_the_policy_changes() -> None:
    """Once, and not on top of what was counted before."""
    world = World(cluster("1x4xA100"), [pod("a", whole=2)], policy({"name": "c", "weight": 2})).settle()
    for _ in range(3):
        world.cycle.builder.set_policy(policy({"name": "c", "weight": 3}))
        queues = world.cycle.builder.snapshot(START).queues
        assert int(queues.usage[queues.names.index("default"), 2]) == 2000


def test_a_leaving_or_gated_pod_does_not_wait() -> None:
    builder = Builder()
    builder.put_pod(leaving(pod("a", gpu=30)))
    assert not builder.snapshot(START).pending.waiting.any()


def test_rows_are_used_again_without_a_trace_of_who_was_there() -> None:
    builder = Builder()
    builder.put_node(node("old", 4, labels={"zone": "a"}, unschedulable=True))
    builder.put_pod(pod("x", gpu=10, selector={"zone": "a"}))
    builder.remove_node("old")
    builder.put_node(node("new", 1))
    snapshot = builder.snapshot(START)
    row = builder.nodes.rows["new"]
    assert (row, int(snapshot.nodes.device_count[row]), free(builder, "new")) == (0, 1, [1000])
    assert not snapshot.nodes.terms[:, row].any()
    assert not snapshot.nodes.taints[:, row].any()
    assert np.count_nonzero(snapshot.nodes.present) == 1


class TestForeignPods:
    """A pod of another scheduler holds GPUs of which nobody knows which they are; others' own are known."""

    def world(self, *records: str | None) -> World:
        foreign = [
            bound(pod(f"foreign{number}", whole=1, scheduler="other"), "n0", record)
            for number, record in enumerate(records)
        ]
        world = World(cluster("1x8xA100"), foreign)
        world.add(*[pod(f"low{number}", whole=1) for number in range(8 - len(records))])
        world.step()
        world.add(pod("high", whole=1, priority=1000))
        return world

    def test_another_pod_of_its_node_is_preempted(self) -> None:
        world = self.world(None).settle()
        assert world.where["high"] == "n0"
        assert len(world.evicted) == 1

    def test_its_gpu_is_nobody_elses(self) -> None:
        world = World(cluster("1x8xA100"), [bound(pod("foreign", whole=1, scheduler="other"), "n0")])
        world.add(*[pod(f"low{number}", whole=1) for number in range(8)])
        world.settle()
        assert len(world.waiting) == 1

    def test_nobody_is_where_it_may_hold_any_gpu(self) -> None:
        world = self.world(None)
        world.cycle.builder.put_unreadable_pod(pod("odd").metadata, "n0")
        [hold] = world.step().hold
        assert "preemption is not possible on 1 node, where it is unknown which GPUs" in hold.message
        world.settle()
        assert world.evicted == []

    def test_nobody_is_where_there_are_fewer_gpus_than_are_held(self) -> None:
        world = self.world(None, None)
        world.add(bound(pod("third", whole=1, scheduler="other"), "n0"))
        world.settle()
        assert world.evicted == []
