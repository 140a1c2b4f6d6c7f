"""Pods with several GPUs get those that are nearest to each other, and leave the well-connected ones together."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.budget import examples
from tests.worlds import World, cluster, container, pod

from tangram.api.objects import Metadata
from tangram.decide.fit.links import _compare_all, _grow, nearest
from tangram.scheduler.policies import DeviceEntry, Inventory, InventoryStatus, LinkEntry, link_distances
from tangram.snapshot.nodes.inventory import Distances


def two_islands(size: int = 4, near: int = 1, far: int = 40) -> Distances:
    """Devices of which each half is joined by NVLink."""
    every = range(2 * size)
    return tuple(tuple(0 if a == b else near if a // size == b // size else far for b in every) for a in every)


# The hybrid cube mesh of a DGX-1 with V100s: pairs joined by NVLink, with one or two lanes.
_CUBE = {
    (0, 1): 1, (0, 2): 1, (0, 3): 2, (0, 4): 2, (1, 2): 2, (1, 3): 1, (1, 5): 2, (2, 3): 2, (2, 6): 1,
    (3, 7): 1, (4, 5): 1, (4, 6): 1, (4, 7): 2, (5, 6): 2, (5, 7): 1, (6, 7): 2,
}  # fmt: skip


def inventory(links: dict[tuple[int, int], LinkEntry], numa: tuple[int, ...]) -> Inventory:
    """A node's devices; each link is told by its lower end only."""
    devices = tuple(
        DeviceEntry(
            f"GPU-{index}",
            index,
            links=tuple(link for (one, _), link in links.items() if one == index),
            numa_node=node,
        )
        for index, node in enumerate(numa)
    )
    return Inventory(Metadata("n0"), InventoryStatus(devices))


def dgx1() -> Distances:
    """Distances of a DGX-1, as its inventory tells them."""
    links = {pair: LinkEntry(f"GPU-{pair[1]}", "NVLink", lanes) for pair, lanes in _CUBE.items()}
    return link_distances(inventory(links, (0, 0, 0, 0, 1, 1, 1, 1)))


def world(distances: Distances, gpus: int = 8) -> World:
    found = World(cluster(f"1x{gpus}xA100"))
    found.cycle.builder.set_links("n0", distances)
    return found


def devices(found: World, *names: str) -> list[list[int]]:
    found.settle()
    return [sorted(int(device) for device, _ in found.devices(name)["main"]) for name in names]


def length(distances: Distances, chosen: tuple[int, ...]) -> int:
    return sum(distances[one][other] for one, other in itertools.combinations(chosen, 2))


def test_without_links_the_first_ones_are_taken() -> None:
    found = World(cluster("1x8xA100"), [pod("a", whole=2), pod("b", whole=4, age=-1)])
    assert devices(found, "a", "b") == [[0, 1], [2, 3, 4, 5]]


def test_two_gpus_stay_in_one_island_and_leave_the_other_one_whole() -> None:
    found = world(two_islands())
    found.add(pod("one", whole=1, age=9), pod("two", whole=2, age=8), pod("four", whole=4, age=7))
    assert devices(found, "one", "two", "four") == [[0], [1, 2], [4, 5, 6, 7]]


def test_what_does_not_fit_in_one_island_takes_as_few_far_pairs_as_possible() -> None:
    found = world(two_islands())
    found.add(pod("three", whole=3, age=9), pod("two", whole=2, age=8), pod("last", whole=3, age=7))
    assert devices(found, "three", "two", "last") == [[0, 1, 2], [4, 5], [3, 6, 7]]


def test_more_lanes_are_nearer() -> None:
    """In a DGX-1 the pairs with two lanes are (0, 3), (0, 4), (1, 2) and so on."""
    found = world(dgx1())
    found.add(pod("a", whole=2, age=9), pod("b", whole=2, age=8), pod("c", whole=2, age=7), pod("d", whole=2, age=6))
    assert {_CUBE[tuple(pair)] for pair in devices(found, "a", "b", "c", "d")} == {2}


def test_containers_of_one_pod_each_get_devices_that_are_near() -> None:
    found = world(two_islands(2), gpus=4)
    found.add(pod("a", containers=[container("x", whole=2), container("y", whole=2)]))
    found.settle()
    given = found.devices("a")
    assert [sorted(device for device, _ in given[name]) for name in "xy"] == [["0", "1"], ["2", "3"]]


def test_devices_that_the_agent_told_nothing_of_count_as_far() -> None:
    """Links of four devices on a node that has six: the two others go together, being nearer to nobody."""
    found = world(two_islands(2), gpus=6)
    found.add(pod("a", whole=2, age=9), pod("b", whole=2, age=8), pod("c", whole=2, age=7))
    assert devices(found, "a", "b", "c") == [[0, 1], [2, 3], [4, 5]]


def test_links_come_and_go_with_the_agent_and_survive_a_change_of_the_node() -> None:
    builder = world(two_islands()).cycle.builder
    row = builder.nodes.rows["n0"]
    builder.put_node(cluster("1x8xA100", labels={"a": "b"})[0])
    links = builder.nodes.arrays.links[row]
    assert links is not None
    assert links[0, 4] == 40
    builder.set_links("n0", ())
    assert builder.nodes.arrays.links[row] is None


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        (LinkEntry("GPU-1", "NVLink", 18), 1),
        (LinkEntry("GPU-1", "NVLink", 4), 6),
        (LinkEntry("GPU-1", "PCIe"), 20),
        (LinkEntry("GPU-1", "Host"), 30),
        (LinkEntry("GPU-1", "System"), 40),
        (LinkEntry("GPU-1", "carrier pigeon", 9), 40),
        (LinkEntry("GPU-1", "NVLink", -9), 10),
        (LinkEntry("nobody", "NVLink", 18), 30),
    ],
)
def test_distance_of_a_link(link: LinkEntry, expected: int) -> None:
    """Devices 0 and 1 are one CPU's, device 2 is another's."""
    found = link_distances(inventory({(0, 1): link, (0, 2): LinkEntry("GPU-2", "PCIe")}, (0, 0, 1)))
    assert (found[0][1], found[1][0], found[1][2]) == (expected, expected, 40)


@pytest.mark.parametrize("told", [None, inventory({}, (-1,) * 8), inventory({}, ()), inventory({}, (0,))])
def test_nothing_told_or_all_equally_far_is_no_distance(told: Inventory | None) -> None:
    assert link_distances(told) == ()


def test_numa_nodes_tell_where_links_do_not() -> None:
    found = link_distances(inventory({}, (0, 1, 0, 1)))
    assert [found[0][other] for other in range(4)] == [0, 40, 30, 40]


@settings(max_examples=examples(60), deadline=None)
@given(data=st.data(), count=st.integers(1, 8))
def test_no_other_set_of_devices_is_nearer(data: st.DataObject, count: int) -> None:
    able = sorted(data.draw(st.sets(st.integers(0, 7), min_size=count)))
    some = data.draw(st.lists(st.integers(1, 4), min_size=64, max_size=64))
    distance = np.array(some, np.int32).reshape(8, 8)
    distance = np.minimum(distance, distance.T)
    np.fill_diagonal(distance, 0)
    plain = tuple(map(tuple, distance.tolist()))
    chosen = nearest(distance, np.array(able, np.int32), count).tolist()
    assert len(set(chosen)) == count
    assert set(chosen) <= set(able)

    def order(one: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
        return length(plain, one), length(plain, tuple(set(able) - set(one))), one

    assert tuple(chosen) == min(itertools.combinations(able, count), key=order)


def test_many_devices_are_not_tried_in_every_combination() -> None:
    """32 of 64 are more sets than there are atoms in a mountain; growing them finds the island of 32."""
    distance = np.array(two_islands(32), np.int32)
    able = np.arange(64, dtype=np.int32)
    assert nearest(distance, able, 32).tolist() == list(range(32))
    few, total = able[:10], distance[:10, :10].sum(axis=1).astype(np.int64)
    assert sorted(_grow(distance, few, total, 4)) == sorted(_compare_all(distance, few, total, 4))
