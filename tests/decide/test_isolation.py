"""Parts of GPUs go where GPUs are shared, and pods only where tenants are kept apart in a way that they accept."""

import pytest
from tests.worlds import World, bound, cluster, container, gang, node, pod, policy

from tangram.api import names
from tangram.api.objects import Pod
from tangram.decide.fit.statics import preferences
from tangram.snapshot.nodes.inventory import NodeDevice


def accepting(modes: str, name: str = "x", **asked: object) -> Pod:
    """A pod that accepts these modes only."""
    return pod(name, annotations={names.GPU_ISOLATION: modes}, **asked)


def world(*pods: Pod, **modes: str) -> World:
    """Nodes of two GPUs each whose agents tell these modes; with ``none`` nobody tells."""
    made = World([node(name, 2) for name in modes], list(pods))
    for name, mode in modes.items():
        if mode != "none":
            made.give_out(name, mode.replace("_", "-"))
    return made


def homes(asked: Pod) -> set[str]:
    """Modes of the nodes on which the pod may be."""
    modes = ("mps", "time_slice", "exclusive", "mig", "none")
    return {mode for mode in modes if world(asked, n0=mode).settle().where}


def test_a_part_of_a_gpu_goes_where_gpus_are_shared_and_whole_ones_go_anywhere() -> None:
    assert homes(pod("x", gpu=30)) == {"mps", "time_slice", "none"}
    assert homes(pod("x", gpu=100)) == homes(pod("x", whole=2)) == {"mps", "time_slice", "exclusive", "mig", "none"}


@pytest.mark.parametrize(
    ("modes", "part", "whole"),
    [
        ("mps", {"mps"}, {"mps", "time_slice", "exclusive", "mig", "none"}),
        ("time-slice", {"time_slice"}, {"mps", "time_slice", "exclusive", "mig", "none"}),
        ("mps|time-slice", {"mps", "time_slice"}, {"mps", "time_slice", "exclusive", "mig", "none"}),
        ("mps, mig", {"mps"}, {"mig"}),
        ("mps|exclusive", {"mps"}, {"mps", "time_slice", "exclusive"}),
        ("exclusive", set(), {"mps", "time_slice", "exclusive"}),
        ("mig", set(), {"mig"}),
        ("mig|exclusive", set(), {"mps", "time_slice", "exclusive", "mig"}),
    ],
)
def test_a_pod_goes_only_where_its_container_will_read_a_mode_that_it_accepts(
    modes: str, part: set[str], whole: set[str]
) -> None:
    assert homes(accepting(modes, gpu=30)) == part
    assert homes(accepting(modes, whole=1)) == whole


def test_what_needs_no_gpu_goes_anywhere() -> None:
    assert homes(accepting("mig")) == {"mps", "time_slice", "exclusive", "mig", "none"}
    assert World(cluster("1xcpu"), [accepting("mps")]).settle().where == {"x": "n0"}


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (pod("x", gpu=30), "0/1 nodes are available: 1 whole GPUs or MIG slices only (isolation exclusive or mig)"),
        (accepting("mps", gpu=30), "0/1 nodes are available: 1 whole GPUs or MIG slices only"),
        (accepting("mig", whole=1), "0/1 nodes are available: 1 GPU isolation mismatch"),
        (accepting("mig", gpu=30), "annotation scheduling.example.com/gpu-isolation: a part of a GPU is asked for"),
        (accepting("mps|all", gpu=30), "'mps|all' is not allowed; allowed: one or several of mps, time-slice"),
    ],
)
def test_who_waits_for_isolation_is_told_so(asked: Pod, sentence: str) -> None:
    there = world(asked, n0="exclusive")
    [hold] = there.step().hold
    assert sentence in hold.message
    assert hold.reason in ("SharingNotAllowed", "IsolationMismatch", "InvalidRequest")


def test_nodes_that_share_and_are_full_are_what_a_part_waits_for() -> None:
    there = world(pod("x", gpu=30), n0="exclusive", n1="exclusive", n2="mps")
    there.add(bound(pod("f", whole=2), "n2", {"main": [("0", 100), ("1", 100)]}))
    [hold] = there.step().hold
    assert hold.reason == "InsufficientGpu"
    assert "2 whole GPUs or MIG slices only" in hold.message


def test_nobody_is_evicted_where_a_part_could_not_be() -> None:
    classes = [{"name": "high", "weight": 2}, {"name": "low", "weight": 1}]
    low = bound(pod("low", whole=2, klass="low"), "n0", {"main": [("0", 100), ("1", 100)]})
    there = World([node("n0", 2)], [low, pod("x", gpu=30, klass="high")], policy(*classes, fallback="preempt"))
    there.give_out("n0", "exclusive")
    assert there.settle().waiting == ["x"]
    assert there.evicted == []
    there.give_out("n0", "mps")
    assert there.settle().where == {"x": "n0"}


def test_whole_gpus_leave_nodes_that_share_to_parts() -> None:
    there = world(n0="mps", n1="exclusive", n2="time_slice", n3="exclusive")
    there.add(*(pod(f"w{number}", whole=1) for number in range(4)))
    assert set(there.settle().where.values()) == {"n1", "n3"}
    there.add(*(pod(f"p{number}", gpu=50) for number in range(8)))
    assert there.settle().waiting == []
    there.add(pod("late", whole=1))
    there.delete("p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7")
    assert there.settle().where["late"] in ("n0", "n2"), "nodes that share are no less good when no other has room"


def test_mig_slices_are_not_liked_for_being_alone() -> None:
    there = world(pod("x", whole=1), n0="mps", n1="mig").settle()
    assert preferences(there.view, shape=0) is None
    there.give_out("n1", "exclusive")
    there.step()
    assert preferences(there.view, shape=0) is not None


def test_a_gang_with_parts_is_together_on_nodes_that_share() -> None:
    mixed = [container("a", whole=1), container("b", gpu=50)]
    there = world(*gang("g", 2, containers=mixed), n0="exclusive", n1="mps", n2="time_slice")
    assert set(there.settle().where.values()) == {"n1", "n2"}


def test_a_mode_that_changes_counts_for_those_who_come_and_leaves_those_who_are_there() -> None:
    there = world(pod("a", gpu=30), n0="mps").settle()
    there.give_out("n0", "exclusive")
    there.add(pod("b", gpu=30))
    assert there.settle().where == {"a": "n0"}
    assert there.reason("b") == "SharingNotAllowed"
    there.give_out("n0", "time-slice")
    assert there.settle().where == {"a": "n0", "b": "n0"}


def test_a_device_that_takes_no_work_does_not_speak_for_its_node() -> None:
    there = world(pod("x", gpu=30), n0="mps")
    sick = NodeDevice("0", False, isolation="mig"), NodeDevice("1", True, isolation="mps")
    there.cycle.builder.set_inventory("n0", sick)
    assert there.settle().devices("x") == {"main": [("1", 30)]}


def test_unlike_devices_of_one_node_must_all_suit() -> None:
    pods = [accepting("mps", "mps", gpu=30), pod("any", gpu=30), accepting("mig", "mig", whole=1)]
    there = world(*pods, n0="mps")
    there.cycle.builder.set_inventory(
        "n0", (NodeDevice("0", True, isolation="mps"), NodeDevice("1", True, isolation="time-slice"))
    )
    assert there.settle().where == {"any": "n0"}


def test_a_mode_that_nobody_knows_is_as_if_none_were_told() -> None:
    there = world(accepting("mps", "strict", gpu=30), pod("any", gpu=30), n0="none")
    there.give_out("n0", "walls")
    assert there.settle().where == {"any": "n0"}
