"""Tables that need more rows keep what they hold."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from tests.worlds import World, cluster, node, pod

from tangram.snapshot.values.growing import grown


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    names: list[str]
    amounts: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int32]


def empty(rows: int, columns: int) -> Table:
    return Table([], np.zeros(rows, np.int64), np.full((rows, columns), -1, np.int32))


def test_what_a_table_holds_is_in_front_of_the_larger_one() -> None:
    small = Table(["a"], np.array([7]), np.array([[1, 2]], np.int32))
    large = grown(small, empty(2, 3))
    assert large.names is small.names
    assert large.amounts.tolist() == [7, 0]
    assert large.parts.tolist() == [[1, 2, -1], [-1, -1, -1]]


def test_resources_that_no_node_offers_share_a_column_until_one_does() -> None:
    """Pods that each ask for another name cost no pass over the nodes apiece, and no room beside the first."""
    world = World(cluster("20x1xA100"))
    builder = world.cycle.builder
    before = builder.nodes.columns.width
    world.add(*(pod(f"p{number}", extra={f"example.com/r{number}": 1}) for number in range(50)))
    generation = builder.snapshot(world.now).generation
    assert builder.nodes.columns.width == before + 1
    world.add(*(pod(f"q{number}", extra={f"example.com/s{number}": 1}) for number in range(50)))
    assert builder.snapshot(world.now).generation == generation
    assert (world.step().place, world.reason("p7")) == ((), "ExceedsNodeCapacity")
    builder.put_node(node("rich", 1, extra={"example.com/r7": 1}))
    world.nodes.append(node("rich", 1, extra={"example.com/r7": 1}))
    world.settle()
    assert world.where == {"p7": "rich"}
    assert world.reason("p8") == "ExceedsNodeCapacity"


def test_a_pod_that_asks_for_two_resources_waits_for_the_one_that_no_node_offers() -> None:
    world = World([node("n0", 0, extra={"example.com/a": 2})])
    world.add(pod("both", extra={"example.com/a": 1, "example.com/b": 1}), pod("one", extra={"example.com/a": 1}))
    assert [place.pod.name for place in world.step().place] == ["one"]
    world.cycle.builder.put_node(node("n0", 0, extra={"example.com/a": 2, "example.com/b": 1}))
    assert [place.pod.name for place in world.step().place] == ["both"]
    assert world.cycle.builder.snapshot(world.now).nodes.free.min() >= 0
