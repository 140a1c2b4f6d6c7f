"""Rows of taints: a value counts only where a toleration names it, and rows that no node has are given back."""

from msgspec.structs import replace
from tests.worlds import START, World, node, pod

from tangram.api.objects import NodeSpec, Taint, Toleration
from tangram.snapshot.build import Builder

AUTOSCALER = "DeletionCandidateOfClusterAutoscaler"


def rows(builder: Builder) -> int:
    return len(builder.nodes.taints.taints())


def test_a_taint_with_ever_new_values_is_one_row() -> None:
    builder, bare = Builder("tangram"), node("n0")
    for second in range(1000):
        builder.put_node(replace(bare, spec=NodeSpec(taints=(Taint(AUTOSCALER, "PreferNoSchedule", str(second)),))))
    assert rows(builder) == 2  # with the cordon's


def test_a_value_that_a_toleration_names_is_told_apart_whoever_came_first() -> None:
    mine, other = Taint("team", "NoSchedule", "a"), Taint("team", "NoSchedule", "b")
    tolerant = {"tolerations": [Toleration("team", value="a")], "whole": 8}
    world = World([node("other", taints=[other]), node("mine", taints=[mine])], [pod("first", **tolerant)]).settle()
    assert world.pod("first").spec.node_name == "mine"
    world.cycle.builder.put_node(node("late", taints=[mine]))
    world.add(pod("second", **tolerant), pod("third", **tolerant))
    world.settle()
    assert sorted(world.pod(name).spec.node_name for name in ("second", "third")) == ["", "late"]


def test_rows_that_no_node_has_any_more_are_given_back() -> None:
    builder, bare = Builder("tangram"), node("n0")
    builder.put_pod(pod("waiting", whole=1))
    for number in range(1000):
        builder.put_node(replace(bare, spec=NodeSpec(taints=(Taint(f"key-{number}", "NoSchedule"),))))
        builder.snapshot(START + number)
    assert rows(builder) < 100
    assert len(builder.snapshot(START).nodes.taints) < 300
