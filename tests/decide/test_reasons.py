"""Why a pod waits: the one dominant reason and a sentence, told once until it changes."""

from functools import cache

import pytest
from msgspec.structs import replace
from tests.decide.test_volumes import claim, on, using, volume_in
from tests.decide.test_volumes import world as with_volumes
from tests.worlds import World, bound, cluster, container, gang, node, pod, policy, with_spec

from tangram.api import names
from tangram.api.objects import (
    Affinity,
    Container,
    ContainerPort,
    LabelSelector,
    OwnerReference,
    Pod,
    PodAffinity,
    PodAffinityTerm,
    PodResourceClaim,
    PodStatus,
    Taint,
    TopologySpreadConstraint,
)
from tangram.decide.registry import BUILT_IN, Registry
from tangram.plan import PodName, Reason
from tangram.scheduler.follow_ups import Unreported
from tangram.scheduler.reporter import REFRESHED_AFTER
from tangram.snapshot.nodes.inventory import NodeDevice
from tangram.snapshot.pods.refusals import SPARES_FOR
from tangram.units import rfc3339

HOME = {"name": "home", "weight": 3, "nodeSelector": {"zone": "a"}}
TAINT = Taint("dedicated", "NoSchedule")


class Nobody:
    """A plugin that allows no node."""

    name = "nobody"

    def allow(self, view: object, shape: int, rows: object) -> object:
        del view, shape
        return rows < 0  # type: ignore[operator]


def registry() -> Registry:
    return Registry({**BUILT_IN, "nobody": Nobody})


def given_out(mode: str, waiting: Pod) -> World:
    """A node whose agent gives out its GPU in a mode of isolation."""
    return World([node("n0", 1)], [waiting], inventories={"n0": (NodeDevice("0", True, isolation=mode),)})


def worlds() -> dict[str, World]:
    """A smallest world for each reason; the pod that waits for it is called x."""
    full = [bound(pod("f", whole=1), "n0", {"main": [("0", 100)]})]
    refused = policy(placement={"plugins": [{"name": "nobody"}]})
    strict = policy(HOME, fallback="strict")
    evicting = policy({"name": "high", "weight": 2}, {"name": "low"}, fallback="preempt")
    low = bound(pod("f", whole=1, klass="low"), "n0", {"main": [("0", 100)]})
    host = "kubernetes.io/hostname"
    here = PodAffinityTerm(host, LabelSelector({names.QUEUE: "q"}))
    port = Container("main", ports=(ContainerPort(80),))
    spread = TopologySpreadConstraint(1, host, "DoNotSchedule", LabelSelector({names.QUEUE: "q"}))
    one_of_q = bound(pod("f", queue="q"), "n0")
    queues = policy(queues=[{"name": "q", "limit": {"gpu": "1"}}])
    others = {"namespaceSelector": {"matchLabels": {"team": "other"}}}
    barred = policy({"name": "gold"} | others, queues=[{"name": "q"} | others])
    held = policy(queues=[{"name": "q", "hold": "Hold"}])
    late = World(cluster("1x1xA100"), [pod("x", gpu=10, gang="g", gang_min=2)])
    late.step()
    late.now += 100
    reserved = World(cluster("1x2xA100"), [bound(pod("f", whole=1), "n0", {"main": [("0", 100)]})])
    reserved.add(pod("first", whole=2, age=reserved.cycle.settings.reservation_delay))
    reserved.step()
    reserved.add(pod("x", whole=1))
    return {
        "InvalidRequest": World(cluster("1x1xA100"), [pod("x", gpu=130)]),
        "ExceedsNodeCapacity": World(cluster("2x1xA100"), [pod("x", whole=2)]),
        "GangIncomplete": World(cluster("1x1xA100"), [pod("x", gpu=10, gang="g", gang_min=2)]),
        "GangUnschedulable": World(
            cluster("1x1xA100"), [*gang("g", 1, minimum=2, whole=1), pod("x", whole=1, gang="g")]
        ),
        "GangTimeout": late,
        "Reserved": reserved,
        "TopologyDomainFull": World(
            [node("n0", 1), node("n1", 1)],
            [pod(name, whole=1, gang="g", gang_min=2, annotations={names.TOPOLOGY_REQUIRED: "host"}) for name in "xy"],
        ),
        "QueueUnknown": World(cluster("1x1xA100"), [pod("x", gpu=10, queue="nowhere")], policy=queues),
        "QueueNotAllowed": World(cluster("1x1xA100"), [pod("x", queue="q")], barred),
        "ClassUnknown": World(cluster("1x1xA100"), [pod("x", klass="typo")], queues),
        "ClassNotAllowed": World(cluster("1x1xA100"), [pod("x", klass="gold")], barred),
        "QueueHeld": World(cluster("1x1xA100"), [pod("x", queue="q")], held),
        "QueueLimit": World(cluster("1x4xA100"), [pod("x", whole=2, queue="q")], policy=queues),
        "NodeUnschedulable": World([node("n0", 1, unschedulable=True)], [pod("x", gpu=10)]),
        "TaintNotTolerated": World([node("n0", 1, taints=[TAINT])], [pod("x", gpu=10)]),
        "NodeSelectorMismatch": World(cluster("1x1xA100"), [pod("x", gpu=10, selector={"zone": "z"})]),
        "ClassNodesFull": World(
            [node("n0", 1, labels={"zone": "a"}), node("n1", 1)], [*full, pod("x", whole=1, klass="home")], strict
        ),
        "GpuModelMismatch": World(cluster("1x1xA100"), [pod("x", gpu=10, models="H100")]),
        "SharingNotAllowed": given_out("exclusive", pod("x", gpu=10)),
        "IsolationMismatch": given_out("time-slice", pod("x", gpu=10, annotations={names.GPU_ISOLATION: "mps"})),
        "InsufficientGpu": World(cluster("1x1xA100"), [*full, pod("x", gpu=10)]),
        "GpuFragmented": World(
            cluster("1x2xA100"),
            [bound(pod(f"f{i}", gpu=50), "n0", {"main": [(str(i), 50)]}) for i in range(2)] + [pod("x", gpu=60)],
        ),
        "InsufficientGpuMemory": World(
            cluster("1x1xA100"),
            [bound(pod("f", gpu=60), "n0", {"main": [("0", 60)]}), pod("x", gpu=10, gpu_memory="70Gi")],
        ),
        "InsufficientCpu": World(cluster("1x1xA100", cpu=2), [bound(pod("f"), "n0"), pod("x", cpu=2)]),
        "InsufficientMemory": World(cluster("1xcpu", memory="2Gi"), [bound(pod("f"), "n0"), pod("x", memory="2Gi")]),
        "InsufficientPods": World(cluster("1x1xA100", pods=1), [bound(pod("f"), "n0"), pod("x", gpu=10)]),
        "InsufficientResource": World(
            cluster("1x1xA100", extra={"example.com/nic": 1}),
            [bound(pod("f", extra={"example.com/nic": 1}), "n0"), pod("x", gpu=10, extra={"example.com/nic": 1})],
        ),
        "NoNodes": World([], [pod("x", gpu=10)]),
        "PluginRejected": World(cluster("1x1xA100"), [pod("x", gpu=10)], refused, registry()),
        "HostPortTaken": World(
            cluster("1xcpu"), [bound(pod("f", containers=[port]), "n0"), pod("x", containers=[port])]
        ),
        "TopologySpread": World(
            [node("n0", 0), node("n1", 0, unschedulable=True)],
            [one_of_q, with_spec(pod("x", queue="q"), topology_spread_constraints=(spread,))],
            queues,
        ),
        "PodAffinity": World(
            cluster("1xcpu"), [with_spec(pod("x"), affinity=Affinity(pod_affinity=PodAffinity((here,))))], queues
        ),
        "PodAntiAffinity": World(
            cluster("1xcpu"),
            [one_of_q, with_spec(pod("x"), affinity=Affinity(pod_anti_affinity=PodAffinity((here,))))],
            queues,
        ),
        "FieldNotSupported": World(cluster("1xcpu"), [with_spec(pod("x"), resource_claims=(PodResourceClaim("gpu"),))]),
        "VolumeNotReady": with_volumes(using(pod("x"), on("c"))),
        "VolumeInUse": in_use(),
        "VolumeMismatch": with_volumes(using(pod("x"), on("c")), claims=(claim("c", "pv"),), volume=volume_in("z")),
        "WaitingForEviction": World(cluster("1x1xA100"), [low, pod("x", whole=1, klass="high")], evicting, grace=2),
        "BindingRefused": refused_often(World(cluster("1x1xA100"), [pod("x", whole=1)])),
        "NodeRejected": rejected_often(World(cluster("1x1xA100"), [owned_by("rs", pod("x", whole=1))])),
        "WaitingForTurn": overtaken(),
    }


made = cache(worlds)
"""The same worlds for all tests, each of which takes another one of them."""


def in_use() -> World:
    """Another pod has the claim that one pod at a time may have."""
    alone = claim("c", "pv")
    alone = replace(alone, spec=replace(alone.spec, access_modes=("ReadWriteOncePod",)))
    made = with_volumes(claims=(alone,), volume=volume_in("a"))
    made.cycle.builder.put_claim(("default", "c"), alone)
    made.add(bound(using(pod("first"), on("c")), "a"), using(pod("x"), on("c")))
    return made


def overtaken() -> World:
    """One GPU has been made free for x when somebody arrives who needs both and comes before everybody else."""
    low, other = bound(pod("low", whole=1), "n0", {"main": [("0", 100)]}), pod("other", whole=1, priority=1)
    world = World(cluster("1x2xA100"), [low, pod("x", whole=1, priority=5)], grace=1)
    world.add(bound(other, "n0", {"main": [("1", 100)]}))
    world.step()
    world.step()
    world.add(pod("first", whole=2, priority=9))
    return world


def refused_often(world: World) -> World:
    for _ in range(4):
        world.cycle.builder.back_off("uid-x", "BindingRefused", "the API server said no", world.now)
    return world


def owned_by(owner: str, one: Pod) -> Pod:
    reference = OwnerReference("ReplicaSet", owner, f"uid-{owner}", controller=True)
    return replace(one, metadata=replace(one.metadata, owner_references=(reference,)))


def rejected_often(world: World) -> World:
    """Kubelets have rejected many pods of the owner of x, one after another."""
    for number in range(6):
        at = rfc3339(world.now - 31 + (1 << number) - 1)
        one = bound(owned_by("rs", pod(f"r{number}", whole=1)), "n0")
        status = PodStatus("Failed", "UnexpectedAdmissionError", "Pod was rejected: Allocate failed", start_time=at)
        metadata = replace(one.metadata, creation_timestamp=at)
        world.cycle.builder.put_pod(replace(one, metadata=metadata, status=status))
    return world


@pytest.mark.parametrize("reason", [str(reason) for reason in Reason if reason != Reason.SCHEDULED])
def test_every_reason_has_a_world_in_which_it_is_the_dominant_one(reason: str) -> None:
    world = made()[reason]
    world.told.clear()
    world.step()
    assert world.reason("x") == reason
    [text] = [hold.message for hold in world.cycle.last_plan.hold if hold.pod.name == "x"]
    assert len(text) > 10
    world.step()
    assert [told for name, told in world.told if name == "x"].count(reason) == 1, "told once"


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        # A node that is large enough but cordoned is what the pod waits for, not the small one that is merely busy.
        ([node("n0", 1), node("n1", 4, unschedulable=True)], "NodeUnschedulable"),
        ([node("n0", 1), node("n1", 4, taints=[TAINT]), node("n2", 4, taints=[TAINT])], "TaintNotTolerated"),
        ([node("n0", 1), node("n1", 4, "T4")], "GpuModelMismatch"),
        ([node("n0", 1)], "ExceedsNodeCapacity"),
        ([node("n0", 1), node("n1", 4, cpu=2)], "ExceedsNodeCapacity"),
    ],
)
def test_the_reason_speaks_of_nodes_that_could_hold_the_pod(nodes: list[object], reason: str) -> None:
    world = World(nodes, [pod("x", whole=4, cpu=4, models="A100")])  # type: ignore[arg-type]
    world.step()
    assert world.reason("x") == reason


def test_the_sentence_counts_every_node() -> None:
    nodes = [node("n0", 1), node("n1", 8, taints=[TAINT]), node("n2", 8, "T4")]
    world = World(nodes, [bound(pod("f", whole=1), "n0", {"main": [("0", 100)]}), pod("x", whole=1, models="A100")])
    [hold] = world.step().hold
    assert hold.message == (
        "0/3 nodes are available: 1 untolerated taint, 1 GPU model mismatch, 1 insufficient free GPUs"
    )


def test_a_changed_reason_is_told_again_and_an_unwritten_one_too() -> None:
    world = World([node("n0", 1, taints=[TAINT])], [pod("x", whole=1)]).settle()
    world.cycle.builder.put_node(node("n0", 1, unschedulable=True))
    world.settle()
    assert [reason for _, reason in world.told] == ["TaintNotTolerated", "NodeUnschedulable"]
    world.cycle.follow(Unreported(PodName("default", "x", "uid-x")))
    assert [hold.reason for hold in world.step().hold] == ["NodeUnschedulable"]


def test_a_strict_class_waits_and_a_change_of_the_policy_lets_it_run() -> None:
    """The same pod, nothing was freed: only what the policy says of it is new."""
    world = World(cluster("1x1xA100"), [pod("x", gpu=10, klass="home")], policy(HOME, fallback="strict")).settle()
    assert (world.where, world.reason("x")) == ({}, "NodeSelectorMismatch")
    world.cycle.builder.set_policy(policy(HOME))
    assert world.settle().where == {"x": "n0"}


def test_best_effort_prefers_the_nodes_of_its_class() -> None:
    nodes = [node("n0", 1), node("n1", 1), node("n2", 1, labels={"zone": "a"})]
    pods = [pod("x", whole=1, klass="home", age=1), pod("y", whole=1, klass="home")]
    world = World(nodes, pods, policy(HOME)).settle()
    assert world.where["x"] == "n2"
    assert len(world.where) == 2


def test_many_containers_that_cannot_share_a_device_say_so() -> None:
    world = World(cluster("1x1xA100"), [pod("x", containers=[container("a", gpu=60), container("b", gpu=60)])])
    world.step()
    assert world.reason("x") == "ExceedsNodeCapacity"


def test_the_limit_of_a_model_is_no_reason_for_a_pod_that_needs_another() -> None:
    queue = {"name": "q", "limit": {"gpuModels": {"A100": "1"}}}
    world = World([node("old", 1, "T4"), node("new", 2, "A100")], policy=policy(queues=[queue]))
    world.add(pod("t", whole=1, models="T4", age=3), pod("a", whole=1, queue="q", models="A100", age=2))
    world.add(pod("waits", whole=1, queue="q", models="T4"))
    world.settle()
    assert world.reason("waits") == "InsufficientGpu"


TREE = policy(
    queues=[
        {"name": "p", "limit": {"gpu": "8", "cpu": "500"}},
        {"name": "q", "parent": "p", "limit": {"gpu": "16", "gpuModels": {"A100": "3"}}},
        {"name": "r", "parent": "p"},
    ]
)


def why(world: World) -> dict[str, str]:
    """By pod the sentence of the next cycle."""
    return {hold.pod.name: hold.message for hold in world.step().hold}


def test_a_queue_that_this_cycle_has_filled_is_said_to_be_full() -> None:
    """And of all limits on the way up only the one that is in the way is named."""
    world = World(cluster("3x8xA100"), [pod(f"r-{index}", whole=2, queue="r") for index in range(5)], TREE)
    assert list(why(world).values()) == ["queue p uses 8 of 8 GPUs, and the pod asks for 2"]


def test_a_pod_that_asks_for_more_than_the_limit_is_told_so() -> None:
    world = World(cluster("3x16xA100"), [pod("x", whole=12, queue="r")], TREE)
    assert why(world) == {"x": "queue p uses 0 of 8 GPUs, and the pod asks for 12 GPUs, more than the limit"}


def test_what_all_missing_members_of_a_gang_ask_for_is_measured_by_the_limit() -> None:
    world = World(cluster("3x8xA100"), [pod("r", whole=2, queue="r"), *gang("g", 4, whole=2, queue="r", age=-1)], TREE)
    told = "gang default/g needs 4 pods at once; queue p uses 2 of 8 GPUs, and they ask for 8"
    assert why(world) == {f"g-{index}": told for index in range(4)}
    world = World(cluster("3x8xA100"), gang("g", 5, whole=2, queue="r"), TREE)
    told = (
        "gang default/g needs 5 pods at once; queue p uses 0 of 8 GPUs, and they ask for 10 GPUs, more than the limit"
    )
    assert why(world) == {f"g-{index}": told for index in range(5)}


def test_the_limit_of_a_model_is_named_where_no_other_is_in_the_way() -> None:
    world = World(cluster("3x8xA100"), [pod(f"q-{index}", whole=2, queue="q") for index in range(2)], TREE)
    assert list(why(world).values()) == ["queue q uses 2 of 3 A100 GPUs, and the pod asks for 2"]


def test_a_further_member_of_a_gang_that_runs_is_told_what_it_lacks_itself() -> None:
    world = World(cluster("1x2xA100"), gang("g", 3, minimum=2, whole=1))
    world.step()
    assert list(why(world).values()) == ["0/1 nodes are available: 1 insufficient free GPUs"]
    world = World(cluster("3x8xA100"), gang("g", 5, minimum=4, whole=2, queue="r"), TREE)
    world.step()
    assert list(why(world).values()) == ["queue p uses 8 of 8 GPUs, and the pod asks for 2"]


def test_so_is_a_further_member_of_one_for_which_places_are_made_free() -> None:
    low = [bound(pod(f"v{index}", whole=1), "n0", {"main": [(str(index), 100)]}) for index in range(2)]
    world = World(cluster("1x2xA100"), [*low, *gang("g", 3, minimum=2, whole=1, priority=9)], grace=9)
    assert len(why(world)) == 2
    assert list(why(world).values()) == ["0/1 nodes are available: 1 insufficient free GPUs"]


def test_a_sentence_whose_figures_have_changed_is_written_anew_after_a_minute() -> None:
    world = World(cluster("1x2xA100"), [pod("x", whole=2), pod("y", whole=2, age=-1)])
    world.settle()
    assert world.told == [("y", "InsufficientGpu")]
    world.cycle.builder.put_node(node("n1", 1))
    assert why(world) == {}
    world.now += REFRESHED_AFTER
    assert list(why(world)) == ["y"]
    world.now += REFRESHED_AFTER
    assert why(world) == {}


def test_of_many_a_few_are_written_anew_in_each_cycle() -> None:
    world = World(cluster("1x1xA100"), [pod(f"w{index}", whole=1, age=-index) for index in range(50)])
    world.settle()
    world.cycle.builder.put_node(node("n1", 1, taints=(TAINT,)))
    world.now += REFRESHED_AFTER
    rewritten = [why(world) for _ in range(4)]
    assert [len(one) for one in rewritten] == [20, 20, 9, 0]
    assert len({name for one in rewritten for name in one}) == 49


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (
            {"example.com/fpga": 1},
            "the pod exceeds the capacity of every node: 2 insufficient extended resources (such as no node offers)",
        ),
        ({"example.com/nic": 3}, "the pod exceeds the capacity of every node: 2 insufficient example.com/nic"),
        ({"example.com/nic": 2}, "0/2 nodes are available: 2 insufficient free example.com/nic"),
        ({"ephemeral-storage": "3Ti"}, "the pod exceeds the capacity of every node: 2 insufficient ephemeral-storage"),
    ],
)
def test_a_resource_that_is_neither_cpu_memory_nor_gpus_is_named(asked: dict[str, str | int], says: str) -> None:
    nodes = [node(name, 1, extra={"example.com/nic": 2}) for name in ("n0", "n1")]
    there = [
        bound(pod(f"r-{name}", containers=[container(extra={"example.com/nic": 1})]), name) for name in ("n0", "n1")
    ]
    found = World(nodes, [*there, pod("x", containers=[container(extra=asked)])])
    assert {hold.message for hold in found.step().hold} == {says}


def test_a_resource_is_named_once_a_node_offers_it_too() -> None:
    found = World(cluster("1x1xA100"), [pod("x", containers=[container(extra={"example.com/fpga": 2})])])
    found.step()
    found.nodes.append(node("n1", 1, extra={"example.com/fpga": 1}))
    found.cycle.builder.put_node(found.nodes[-1])
    found.now += REFRESHED_AFTER
    (hold,) = found.step().hold
    assert hold.message == "the pod exceeds the capacity of every node: 2 insufficient example.com/fpga"


def test_who_was_refused_says_until_when_nobody_is_preempted_for_it() -> None:
    world = World(cluster("1x1xA100"), [bound(pod("low", whole=1), "n0", {"main": [("0", 100)]})])
    world.add(pod("high", whole=1, priority=9), pod("polite", whole=1))
    for name in ("high", "polite"):
        world.cycle.builder.back_off(f"uid-{name}", "BindingRefused", "a rule forbids it", world.now)
    begun, world.now = world.now, world.now + 5
    told = {hold.pod.name: hold.message for hold in world.step().hold}
    until = rfc3339(begun + SPARES_FOR)
    assert told["high"].endswith(f"; as it was refused before, nobody is preempted for it until {until}")
    world.now += SPARES_FOR
    assert [evict.pod.name for evict in world.step().evict] == ["low"]


def test_a_gang_that_the_limit_of_a_model_keeps_off_is_told_so() -> None:
    queue = {"name": "q", "limit": {"gpuModels": {"A100": "2"}}}
    world = World(cluster("1x8xA100"), gang("g", 4, whole=1, queue="q"), policy(queues=[queue]))
    text = (
        "gang default/g needs 4 pods at once; queue q uses 0 of 2 A100 GPUs, and they ask for 4 A100 GPUs, "
        "more than the limit"
    )
    assert why(world) == {f"g-{index}": text for index in range(4)}
    assert world.reason("g-0") == "QueueLimit"
