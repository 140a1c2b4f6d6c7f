"""Small worlds and where their pods go; after each has come to rest, five more looks must change nothing."""

from collections import Counter

import numpy as np
import pytest
from tests.worlds import World, bound, cluster, container, gang, node, pod, policy, requires

from tangram.api import names
from tangram.api.objects import NodeSelectorTerm, Requirement, Taint, Toleration
from tangram.api.policy import HybridPolicy
from tangram.decide.hooks import View
from tangram.decide.registry import Registry
from tangram.snapshot.arrays import Int32
from tangram.snapshot.nodes.inventory import NodeDevice

CPU_NODES = ("cpu-0", "cpu-1")
DEDICATED = Taint("dedicated", "NoSchedule", "training")


def test_fractions_of_one_gpu_never_exceed_it() -> None:
    """Five pods of 30 on one GPU: three fit, two wait."""
    world = World(cluster("1x1xA100"), [pod(f"p{index}", gpu=30, age=9 - index) for index in range(5)]).settle()
    assert sorted(world.where) == ["p0", "p1", "p2"]
    assert world.reason("p3") == "InsufficientGpu"


@pytest.mark.parametrize("strategy", ["fragmentation", "pack"])
def test_fractions_pack_on_one_gpu(strategy: str) -> None:
    world = World(cluster("1x8xA100"), policy=policy(placement={"strategy": strategy}))
    for index, share in enumerate([50, 30, 20]):
        world.add(pod(f"p{index}", gpu=share))
        world.settle()
    assert len({world.devices(f"p{index}")["main"][0][0] for index in range(3)}) == 1


@pytest.mark.parametrize("strategy", ["bid-price", "fragmentation"])
@pytest.mark.parametrize("known", [0, 9])
def test_pods_without_gpus_leave_the_cpus_beside_gpus_while_there_are_others(strategy: str, known: int) -> None:
    """Whatever has arrived so far: those who come for the GPUs later want CPUs, too."""
    pool = [*(node(f"a100-{number}", 8, cpu=96) for number in range(4)), *(node(name, 0, cpu=32) for name in CPU_NODES)]
    world = World(pool, policy=policy(placement={"strategy": strategy}))
    world.add(*(pod(f"learned-{number}", whole=1, cpu=4) for number in range(known)))
    world.settle()
    world.add(*(pod(f"p{number}", cpu=8) for number in range(9)))
    world.settle()
    where = Counter(world.where[f"p{number}"] for number in range(9))
    assert [where[name] for name in CPU_NODES] == [4, 4]
    assert where.total() == 9


def test_a_whole_gpu_needs_an_idle_one() -> None:
    world = World(cluster("1x2xA100"), policy=policy(placement={"strategy": "spread"}))
    world.add(pod("a", gpu=10))
    world.settle()
    world.add(pod("b", gpu=10))
    world.settle()
    assert world.devices("a") != world.devices("b")
    world.add(pod("whole", whole=1))
    assert world.settle().reason("whole") == "GpuFragmented"


def test_whole_and_fractional_pods_share_one_count_of_devices() -> None:
    """The two resources are counted apart by the kubelet; the devices behind them are the same."""
    world = World(cluster("1x2xA100"), [pod("a", whole=1, age=2), pod("b", gpu=60, age=1), pod("c", gpu=50)]).settle()
    assert sorted(world.where) == ["a", "b"]
    assert world.devices("a") != world.devices("b")


def test_gpu_memory_is_a_limit_of_its_own() -> None:
    """Two pods of 10 hundredths and 50Gi each do not fit on one GPU of 80Gi."""
    pods = [pod("a", gpu=10, gpu_memory="50Gi", age=1), pod("b", gpu=10, gpu_memory="50Gi")]
    world = World(cluster("1x1xA100"), pods).settle()
    assert (world.where, world.reason("b")) == ({"a": "n0"}, "InsufficientGpuMemory")


def test_models_are_matched_by_word() -> None:
    nodes = [node("a", 1, "NVIDIA-A100-SXM4-80GB"), node("b", 1, "Tesla-T4"), node("c", 1, "NVIDIA-A10")]
    pods = [pod("x", gpu=50, models="A100"), pod("y", gpu=50, models="T4|H100"), pod("z", gpu=50, models="A10, V100")]
    assert World(nodes, pods).settle().where == {"x": "a", "y": "b", "z": "c"}


@pytest.mark.parametrize("strategy", ["bid-price", "fragmentation", "pack", "spread"])
@pytest.mark.parametrize(
    ("models", "first", "then"), [("T4,A100", "b", "a"), ("A100, T4", "a", "b"), ("H100,T4|L4,A100", "b", "a")]
)
def test_of_models_between_commas_the_first_with_room_is_taken(
    strategy: str, models: str, first: str, then: str
) -> None:
    there = World([node("a", 8, "A100"), node("b", 2, "T4")], policy=policy(placement={"strategy": strategy}))
    there.add(pod("x", whole=2, models=models))
    assert there.settle().where["x"] == first
    there.add(pod("full", whole=6 if first == "a" else 0, models="A100", priority=1), pod("y", whole=2, models=models))
    assert there.settle().where["y"] == then


def test_containers_of_one_pod_get_devices_of_their_own() -> None:
    containers = [container("train", whole=2), container("watch", gpu=25)]
    world = World(cluster("1x3xA100"), [pod("a", containers=containers)]).settle()
    given = world.devices("a")
    assert [share for _, share in given["train"]] == [100, 100]
    assert given["watch"][0][1] == 25
    assert len({device for devices in given.values() for device, _ in devices}) == 3


def test_an_init_container_uses_the_devices_of_the_container_after_it() -> None:
    one = pod("a", containers=[container("main", gpu=40)], init=[container("load", gpu=30)])
    world = World(cluster("1x1xA100"), [one, pod("b", gpu=60)]).settle()
    assert world.waiting == []
    assert world.devices("a") == {"load": [("0", 30)], "main": [("0", 40)]}


def test_what_an_init_container_had_more_stays_the_pod_s() -> None:
    one = pod("a", containers=[container("main", gpu=40)], init=[container("load", gpu=70)])
    world = World(cluster("1x1xA100"), [one, pod("b", gpu=30)]).settle()
    assert world.devices("a") == {"load": [("0", 70)], "main": [("0", 40)]}
    world.add(pod("c", gpu=1))
    assert world.settle().waiting == ["c"]


@pytest.mark.parametrize(
    ("taint", "toleration", "runs"),
    [
        (DEDICATED, None, False),
        (DEDICATED, Toleration("dedicated", "Equal", "training"), True),
        (DEDICATED, Toleration("dedicated", "Equal", "serving"), False),
        (DEDICATED, Toleration("dedicated", "Exists"), True),
        (DEDICATED, Toleration("", "Exists"), True),
        (DEDICATED, Toleration("dedicated", "Exists", effect="NoExecute"), False),
        (Taint("a", "NoExecute"), None, False),
        (Taint("a", "NoExecute"), Toleration("a", "Exists", effect="NoExecute"), True),
        (Taint("a", "PreferNoSchedule"), None, True),
        (Taint("n", "NoSchedule", "5"), Toleration("n", "Gt", "5"), False),
    ],
)
def test_taints(taint: Taint, toleration: Toleration | None, runs: bool) -> None:
    world = World([node("n", taints=[taint])], [pod("a", gpu=10, tolerations=[toleration] if toleration else [])])
    assert bool(world.settle().where) == runs


def test_a_cordoned_node_takes_only_pods_that_tolerate_it() -> None:
    tolerant = pod("b", gpu=10, tolerations=[Toleration("node.kubernetes.io/unschedulable", "Exists")])
    world = World([node("n", unschedulable=True)], [pod("a", gpu=10), tolerant]).settle()
    assert (world.where, world.reason("a")) == ({"b": "n"}, "NodeUnschedulable")


RACK = node("n", labels={"zone": "a", "rank": "5", "odd": "1_000"})


@pytest.mark.parametrize(
    ("terms", "runs"),
    [
        ([[Requirement("zone", "In", ("a", "b"))]], True),
        ([[Requirement("zone", "In", ("b",))]], False),
        ([[Requirement("zone", "NotIn", ("a",))]], False),
        ([[Requirement("absent", "NotIn", ("a",))]], True),
        ([[Requirement("zone", "Exists")]], True),
        ([[Requirement("absent", "Exists")]], False),
        ([[Requirement("absent", "DoesNotExist")]], True),
        ([[Requirement("rank", "Gt", ("4",))]], True),
        ([[Requirement("rank", "Gt", ("5",))]], False),
        ([[Requirement("rank", "Lt", ("6",))]], True),
        ([[Requirement("zone", "Lt", ("6",))]], False),
        ([[Requirement("absent", "Gt", ("0",))]], False),
        ([[Requirement("odd", "Gt", ("5",))]], False),
        ([[Requirement("zone", "In", ("b",))], [Requirement("rank", "Exists")]], True),
        ([[Requirement("zone", "In", ("a",)), Requirement("rank", "Lt", ("2",))]], False),
        ([NodeSelectorTerm(match_fields=(Requirement("metadata.name", "In", ("n",)),))], True),
        ([NodeSelectorTerm(match_fields=(Requirement("metadata.name", "NotIn", ("n",)),))], False),
        ([[]], False),
        ([[], [Requirement("zone", "Exists")]], True),
        ([], False),
    ],
)
def test_node_affinity_by_the_rules_of_kube_scheduler(terms: list[object], runs: bool) -> None:
    """Terms are alternatives, clauses of a term must all hold, an empty term matches nothing."""
    world = World([RACK], [pod("a", gpu=10, affinity=requires(*terms))]).settle()
    assert bool(world.where) == runs
    assert runs or world.reason("a") == "NodeSelectorMismatch"


def test_node_selector_and_affinity_must_both_hold() -> None:
    affinity = requires([Requirement("rank", "Exists")])
    pods = [pod("a", selector={"zone": "a"}, affinity=affinity), pod("b", selector={"zone": "b"}, affinity=affinity)]
    assert World([RACK], pods).settle().where == {"a": "n"}


def test_resources_of_other_vendors() -> None:
    """AMD's devices are counted by their own resource and handed out by index; a foreign one is only a number."""
    labels = {"amd.com/gpu.product-name": "MI300X"}
    nodes = [node("amd", 0, labels=labels, extra={"amd.com/gpu": 2, "example.com/nic": 1}), node("nvidia", 2)]
    ask = {"extra": {"amd.com/gpu": 1}}
    pods = [pod("a", **ask), pod("b", **ask), pod("c", **ask, age=-1), pod("d", extra={"example.com/nic": 1})]
    pods.append(pod("e", extra={"example.com/nic": 1}, age=-1))
    world = World(nodes, pods).settle()
    assert world.where == {"a": "amd", "b": "amd", "d": "amd"}
    assert world.devices("a")["main"] != world.devices("b")["main"]
    assert (world.reason("c"), world.reason("e")) == ("InsufficientGpu", "InsufficientResource")


def test_priority_goes_first_then_age() -> None:
    pods = [pod("young", whole=1, age=1), pod("old", whole=1, age=9), pod("vip", whole=1, priority=5)]
    world = World(cluster("1x2xA100"), pods).settle()
    assert sorted(world.where) == ["old", "vip"]


def test_a_batch_is_a_limit_and_a_gang_counts_whole() -> None:
    world = World(cluster("1x8xA100"), [pod("a", gpu=10, age=2), *gang("g", 3, gpu=10, age=1)], batch=2)
    assert len(world.step().place) == 4


class TestGangs:
    """Bound together or not at all."""

    def test_all_or_nothing(self) -> None:
        world = World(cluster("1x4xA100"), gang("g", 5, whole=1)).settle()
        assert (world.where, world.reason("g-0")) == ({}, "GangUnschedulable")
        world.add(*[pod("small", whole=4)])
        assert list(world.settle().where) == ["small"]

    def test_the_minimum_is_enough_and_the_rest_follows(self) -> None:
        world = World(cluster("1x4xA100"), gang("g", 6, minimum=3, whole=1)).settle()
        assert len(world.where) == 4
        world.cycle.builder.put_node(node("n9", 8))
        assert len(world.settle().where) == 6

    def test_an_incomplete_gang_waits_for_its_members(self) -> None:
        members = gang("g", 3, whole=1)
        world = World(cluster("1x8xA100"), members[:2]).settle()
        assert (world.where, world.reason("g-0")) == ({}, "GangIncomplete")
        world.add(members[2])
        assert len(world.settle().where) == 3

    def test_two_gangs_each_over_half_do_not_block_each_other(self) -> None:
        world = World(cluster("2x4xA100"), gang("a", 5, whole=1) + gang("b", 5, whole=1)).settle()
        assert {name[0] for name in world.where} in ({"a"}, {"b"})
        assert len(world.where) == 5
        world.delete(*world.where)
        assert len(world.settle().where) == 5

    def test_members_may_differ(self) -> None:
        master = pod("g-m", gpu=20, gang="g", gang_min=3)
        workers = [pod(f"g-{index}", whole=2, gang="g", gang_min=3) for index in range(2)]
        world = World(cluster("1x4xA100"), [master, *workers]).settle()
        assert world.where == {}
        world.cycle.builder.put_node(node("n1", 1))
        assert len(world.settle().where) == 3

    def test_a_smaller_member_in_place_of_a_large_one_is_looked_at(self) -> None:
        """The number of members and the free capacity are the same as when the gang did not fit."""
        world = World(cluster("1x3xA100"), gang("g", 2, whole=2)).settle()
        world.delete("g-1")
        world.add(pod("g-1", whole=1, gang="g", gang_min=2, uid="again"))
        assert len(world.settle().where) == 2

    def test_an_unreadable_minimum_is_told_and_does_not_count(self) -> None:
        """Not even after the gang had a readable one."""
        world = World(cluster("1x8xA100"), gang("g", 2, minimum=3, whole=1)).settle()
        world.add(pod("g-0", whole=1, gang="g", gang_min="three"))
        world.settle()
        assert world.reason("g-0") == "InvalidRequest"
        assert world.cycle.builder.gangs.arrays.minimum[0] == 3
        world.delete("g-1")
        assert world.cycle.builder.gangs.rows == {}

    def test_where_the_policy_preempts_a_gang_takes_what_fits(self) -> None:
        """Evictions are not made for gangs, so a gang does not wait for them either."""
        classes = ({"name": "high", "weight": 3, "nodeSelector": {"zone": "a"}}, {"name": "low", "weight": 1})
        nodes = [node("home", 2, labels={"zone": "a"}), node("away", 4)]
        world = World(nodes, policy=policy(*classes, fallback="preempt"))
        world.add(bound(pod("low", whole=2, klass="low"), "home", {"main": [("0", 100), ("1", 100)]}))
        world.add(*gang("g", 2, whole=1, klass="high"))
        assert world.settle().where == {"low": "home", "g-0": "away", "g-1": "away"}


class TestWhatIsNotOurs:
    """Pods that others placed count, and what cannot be read counts as everything."""

    @pytest.mark.parametrize(
        "annotation", ["", "{", "null", "{}", '{"main": []}', '{"main": [{"id": "7", "share": 30}]}']
    )
    def test_fault_24_an_unreadable_record_of_devices_holds_all_of_them(self, annotation: str) -> None:
        world = World(cluster("1x2xA100"), [bound(pod("x", gpu=30), "n0", annotation), pod("a", gpu=10)]).settle()
        assert world.waiting == ["a"]

    def test_a_pod_of_another_scheduler_holds_whole_devices_that_nobody_named(self) -> None:
        foreign = bound(pod("x", whole=2, scheduler="default-scheduler"), "n0")
        pods = [foreign, pod("a", whole=2, age=1), pod("b", gpu=10)]
        world = World(cluster("1x4xA100"), pods).settle()
        assert world.waiting == ["b"]

    def test_pods_of_other_schedulers_and_gated_or_leaving_pods_are_left_alone(self) -> None:
        world = World(cluster("1x4xA100"), [pod("x", gpu=10, scheduler="default-scheduler")]).settle()
        assert (world.where, world.told) == ({}, [])

    @pytest.mark.parametrize(("notes", "fits"), [(261_000, True), (262_027, False), (300_000, False)])
    def test_a_record_that_would_make_annotations_too_long_is_never_written(self, notes: int, fits: bool) -> None:
        """A binding does not check it, and every later write of the pod would be refused, the kubelet's too."""
        world = World(cluster("1x1xA100"), [pod("big", gpu=30, annotations={"example.com/notes": "x" * notes})])
        [text] = [hold.message for hold in world.step().hold] or [""]
        assert bool(world.where) is fits
        assert fits or (world.reason("big") == "InvalidRequest" and f"have {notes + 17} bytes" in text)

    def test_annotations_of_any_length_keep_no_pod_without_gpus_waiting(self) -> None:
        world = World(cluster("1xcpu"), [pod("big", annotations={"example.com/notes": "x" * 262_100})]).settle()
        assert world.where == {"big": "n0"}

    def test_an_unhealthy_gpu_is_not_given_and_its_pod_is_not_double_counted(self) -> None:
        world = World(cluster("1x2xA100"), [pod("a", gpu=30)]).settle()
        [(device, _)] = world.devices("a")["main"]
        health = tuple(NodeDevice(f"GPU-{index}", str(index) != device) for index in range(2))
        world.cycle.builder.set_inventory("n0", health)
        world.add(pod("b", whole=1), pod("c", gpu=60))
        assert len(world.settle().waiting) == 1
        world.delete("a")
        world.settle()
        assert len(world.waiting) == 1

    def test_a_node_with_a_gpu_at_risk_is_taken_last(self) -> None:
        world = World(cluster("2x2xA100"))
        tolerates = Toleration(names.AT_RISK, "Exists")
        world.add(pod("before", whole=1))
        world.settle()
        [first] = world.where.values()
        world.cycle.builder.set_at_risk(first, True)
        world.add(pod("a", gpu=30), pod("b", whole=1, tolerations=[tolerates]), pod("c", whole=1))
        where = world.settle().where
        assert where["before"] == where["b"] == first  # who is there stays, who does not mind packs as ever
        assert first not in (where["a"], where["c"])
        world.add(pod("d", gpu=80))
        world.delete("b")
        assert world.settle().where["d"] == first  # better there than nowhere
        world.cycle.builder.set_at_risk(first, False)
        world.add(pod("e", gpu=10))
        assert world.settle().where["e"] == first

    @pytest.mark.parametrize(("mode", "places"), [("Use", 2), ("Avoid", 1), ("Exclude", 1)])
    def test_fault_28_nodes_with_known_holes_are_used_avoided_or_left_out(self, mode: str, places: int) -> None:
        chosen = policy(placement={"vulnerableNodes": mode})
        tolerates = Toleration(names.VULNERABLE, "Exists")
        world = World(cluster("2x1xA100"), [], chosen)
        world.cycle.builder.set_at_risk("n0", False, True)
        world.add(pod("a", whole=1))
        assert mode == "Use" or world.settle().where == {"a": "n1"}
        world.add(pod("b", whole=1))
        world.settle()
        assert ("b" in world.where) is (mode != "Exclude")
        if mode == "Exclude":
            assert world.reason("b") in ("TaintNotTolerated", "InsufficientGpu")
            world.add(pod("c", whole=1, tolerations=[tolerates]))
            assert world.settle().where["c"] == "n0"
            world.cycle.builder.set_policy(policy(placement={"vulnerableNodes": "Use"}))
            world.delete("c")
            assert world.settle().where["b"] == "n0"

    def test_a_pod_bigger_than_any_number_is_refused_and_the_others_go_on(self) -> None:
        pods = [pod("a", whole="1e15"), pod("b", gpu=30, gpu_memory="8Ei"), pod("c", cpu="1e14"), pod("d", gpu=30)]
        world = World(cluster("1x2xA100"), pods).settle()
        assert list(world.where) == ["d"]
        assert {world.reason(name) for name in "abc"} == {"InvalidRequest"}

    def test_a_pod_made_again_under_its_name_is_another_pod(self) -> None:
        world = World(cluster("1x1xA100"), [pod("a", whole=1)]).settle()
        old, new = world.pod("a"), pod("a", whole=1, uid="second")
        del world.live[old.metadata.uid]
        world.live["second"] = new
        world.cycle.observe_pod(old, new)
        assert world.settle().where == {"a": "n0"}
        assert names.GPUS in world.pod("a").metadata.annotations


class Indifferent:
    """To it all nodes are the same; because it is asked, pods are placed one by one rather than in a compiled line."""

    name = "indifferent"

    def score(self, _view: View, _shape: int, rows: Int32) -> Int32:
        return np.zeros(len(rows), np.int32)


def indifferent() -> Registry:
    known = Registry()
    known.add("indifferent", Indifferent)
    return known


ASKED = policy(placement={"plugins": [{"name": "indifferent"}]})


@pytest.mark.parametrize("chosen", [None, ASKED], ids=["in a line", "one by one"])
@pytest.mark.parametrize("first", ["n0", "n1"])
def test_of_equally_good_nodes_one_in_use_comes_before_an_idle_one(first: str, chosen: HybridPolicy | None) -> None:
    """Nothing is known of the workload yet, so all nodes are worth the same: a second half joins the first, and three
    pods that come then still find whole GPUs."""
    world = World(cluster("2x2xA100"), [bound(pod("r", gpu=50), first, {"main": [("0", 50)]})], chosen, indifferent())
    world.add(pod("half", gpu=50))
    world.settle()
    assert world.where["half"] == first
    world.add(*(pod(f"whole-{number}", whole=1) for number in range(3)))
    world.settle()
    assert world.waiting == []


@pytest.mark.parametrize("chosen", [None, ASKED], ids=["in a line", "one by one"])
def test_once_prices_are_learned_they_alone_say_what_an_idle_node_is_worth(chosen: HybridPolicy | None) -> None:
    """To a workload of halves the half of a GPU is worth the same wherever it is, so nodes fill in their fixed order;
    preferring those in use would fill the production pool less."""
    found = set()
    for used in ("n0", "n1"):
        halves = [bound(pod(f"r{number}", gpu=50), used, {"main": [(str(number // 2), 50)]}) for number in range(7)]
        world = World(cluster("2x8xA100"), halves, chosen, indifferent())
        world.add(pod("half", gpu=50))
        found.add(world.settle().where["half"])
    assert len(found) == 1
