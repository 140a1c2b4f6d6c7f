"""Gangs within one domain whose members keep away from each other, or spread: domains too small for that are not even
tried."""

from collections import Counter
from collections.abc import Callable
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.budget import examples
from tests.decide.test_relations import HOST, apart, labelled, spread, term, with_port
from tests.decide.test_topology import RACK, homes, pool, team
from tests.worlds import START, World, bound, node, pod

from tangram.api import names
from tangram.api.objects import Node, Pod
from tangram.decide.fit.neighbours import Neighbours
from tangram.decide.gangs import together, topology

Rule = Callable[[list[Pod]], list[Pod]]


def each_alone(members: list[Pod], key: str = HOST) -> list[Pod]:
    """No two of them in one place."""
    return [apart(labelled(one, app="g"), term(key, app="g")) for one in members]


def each_more_than_elsewhere(members: list[Pod], key: str = HOST, **more: int) -> list[Pod]:
    """No place has two of them while there is one without any."""
    return [spread(labelled(one, app="g"), key, **more) for one in members]


def of_two_sizes_spread(members: list[Pod]) -> list[Pod]:
    """The same of members of which no two are equal."""
    return [spread(one, HOST) for one in of_two_sizes(members)]


def with_one_port(members: list[Pod]) -> list[Pod]:
    return [with_port(one, 80) for one in members]


def of_two_kinds(members: list[Pod]) -> list[Pod]:
    """Every other one keeps away from those in between, which say nothing."""
    return [
        apart(labelled(one, app="a"), term(app="b")) if index % 2 else labelled(one, app="b")
        for index, one in enumerate(members)
    ]


def of_two_sizes(members: list[Pod]) -> list[Pod]:
    """No two of them on one node, and no two of them equal."""
    return each_alone([pod(f"g-{index}", gang="g", gang_min=2, annotations=one.metadata.annotations, whole=index + 1)
                       for index, one in enumerate(members)])  # fmt: skip


def work(world: World) -> Counter[str]:
    """How often one more decision about a world, in which one more pod comes, tries places or evictions for gangs."""
    found = Counter[str]()
    world.add(pod("further", cpu="1"))

    def counted(name: str) -> object:
        real = getattr(topology if name == "place_gang" else together, name)

        def call(*some: object, **more: object) -> object:
            found[name] += 1
            return real(*some, **more)

        return call

    with (
        patch.object(topology, "place_gang", counted("place_gang")),
        patch.object(together, "make_room_for_gang", counted("make_room_for_gang")),
    ):
        world.cycle.decide(START + 100)
    return found


RULES = [each_alone, each_more_than_elsewhere, of_two_sizes_spread, with_one_port, of_two_kinds, of_two_sizes]


@pytest.mark.parametrize("rule", RULES)
def test_no_host_is_tried_for_members_of_which_each_needs_its_own(rule: Rule) -> None:
    world = World(pool("eu/a/r1x9"), rule(team(2, required="host", whole=1))).settle()
    assert world.waiting == ["g-0", "g-1"]
    assert world.reason("g-0") == "TopologyDomainFull"
    assert work(world) == {}


@pytest.mark.parametrize("rule", RULES)
def test_a_rack_with_enough_hosts_is_found(rule: Rule) -> None:
    racks = [*(f"eu/a/r{index}x1" for index in range(8)), "eu/a/r8x2"]
    world = World(pool(*racks), rule(team(2, required="rack", whole=1))).settle()
    assert homes(world) == {"eu-a-r8"}
    assert len(set(world.where.values())) == 2


def test_nodes_beside_others_that_are_kept_away_from_do_not_count() -> None:
    """One rack has two hosts, but on one of them runs what the members keep away from."""
    other = bound(labelled(pod("other", cpu="1"), app="g"), "eu-a-r1-0")
    members = each_alone(team(2, required="rack", whole=1))
    world = World(pool("eu/a/r1x2", "eu/a/r2x1"), [other, *members]).settle()
    assert work(world)["place_gang"] == 0
    world.delete("other")
    assert homes(world.settle()) == {"eu-a-r1"}


def test_nobody_is_evicted_and_nothing_held_where_no_domain_would_do_empty() -> None:
    nodes = pool("eu/a/r1x1", "eu/a/r2x1")
    devices = {"main": [(str(device), 100) for device in range(8)]}
    low = [bound(pod(f"low-{index}", whole=8), one.metadata.name, devices) for index, one in enumerate(nodes)]
    world = World(nodes, [*low, *each_alone(team(2, required="rack", whole=1, priority=9))]).settle()
    assert world.evicted == []
    assert work(world) == {}


def test_a_domain_that_would_do_empty_is_made_room_in() -> None:
    nodes = pool("eu/a/r1x1", "eu/a/r2x2")
    devices = {"main": [(str(device), 100) for device in range(8)]}
    low = [bound(pod(f"low-{index}", whole=8), one.metadata.name, devices) for index, one in enumerate(nodes)]
    world = World(nodes, [*low, *each_alone(team(2, required="rack", whole=1, priority=9))]).settle()
    assert homes(world) == {"eu-a-r2"}


def test_members_that_keep_apart_by_racks_are_in_one_zone() -> None:
    world = World(pool("eu/a/r1x3", "eu/b/r2x1", "eu/b/r3x1"), each_alone(team(2, required="zone", whole=1), RACK))
    assert homes(world.settle()) == {"eu-b-r2", "eu-b-r3"}


def test_members_that_spread_go_where_the_others_are_as_many_already() -> None:
    """Each host elsewhere has one, so that a host may have two."""
    nodes = pool("eu/a/r1x1", "eu/a/r2x1", "eu/a/r3x1")
    others = [bound(labelled(pod(f"other-{index}", cpu="1"), app="g"), f"eu-a-r{index}-0") for index in (1, 2)]
    world = World(nodes, [*others, *each_more_than_elsewhere(team(2, required="host", whole=1))]).settle()
    assert homes(world) == {"eu-a-r3"}


def test_where_all_places_are_within_the_domain_each_gets_as_many_as_the_others() -> None:
    world = World(pool("eu/a/r1x2"), each_more_than_elsewhere(team(5, required="rack", whole=1))).settle()
    assert sorted(Counter(world.where.values()).values()) == [2, 3]


def test_where_there_are_fewer_places_than_the_rule_wants_none_counts_as_having_any() -> None:
    members = each_more_than_elsewhere(team(3, required="rack", whole=1), min_domains=3)
    world = World(pool("eu/a/r1x2"), members).settle()
    assert world.reason("g-0") == "TopologyDomainFull"
    assert work(world) == {}


def test_where_the_rule_has_no_place_it_says_nothing() -> None:
    """Nodes without the label of the rule's topology."""
    world = World(pool("eu/a/r1x1"), each_alone(team(2, required="rack", whole=1), "example.com/row")).settle()
    assert homes(world) == {"eu-a-r1"}


@st.composite
def racks(draw: st.DrawFn) -> list[Node]:
    places = draw(st.lists(st.tuples(st.sampled_from("rst"), st.sampled_from(["", "x", "y"])), min_size=1, max_size=6))
    labels = [{RACK: rack} | ({"row": row} if row else {}) for rack, row in places]
    return [node(f"n{index}", draw(st.integers(1, 3)), labels=one) for index, one in enumerate(labels)]


@st.composite
def gangs(draw: st.DrawFn, priority: int = 0) -> list[Pod]:
    size, notes = draw(st.integers(2, 4)), {names.TOPOLOGY_REQUIRED: draw(st.sampled_from(["host", "rack"]))}
    least = draw(st.integers(1, size))
    found = []
    for index in range(size):
        gpu = draw(st.sampled_from([50, 100]))
        one = pod(f"g-{index}", gang="g", gang_min=least, annotations=notes, gpu=gpu, priority=priority)
        one = labelled(one, app=draw(st.sampled_from("ab")))
        keys = draw(st.lists(st.tuples(st.sampled_from([HOST, RACK, "row"]), st.sampled_from("abc")), max_size=2))
        if not draw(st.booleans()):
            one = apart(one, *(term(key, app=app) for key, app in keys)) if keys else one
        elif keys:
            skew, least_places = draw(st.integers(1, 2)), draw(st.sampled_from([None, 2, 3]))
            one = spread(one, keys[0][0], skew, select={"app": keys[0][1]}, min_domains=least_places)
        found.append(with_port(one, 80) if draw(st.booleans()) else one)
    return found


def by_trial(nodes: list[Node], pods: list[Pod]) -> World:
    """Every domain is tried, whatever bounds say."""
    with (
        patch.object(Neighbours, "closed", lambda *_: None),
        patch("tangram.decide.gangs.capacity.rules_among", lambda *_: ()),
    ):
        return World(nodes, pods).settle()


def has_begun(world: World) -> bool:
    return any(name.startswith("g-") for name in world.where)


OTHERS = st.lists(st.tuples(st.integers(0, 5), st.sampled_from("abc")), max_size=3)


@settings(max_examples=examples(120), deadline=None, suppress_health_check=list(HealthCheck))
@given(nodes=racks(), members=gangs(), others=OTHERS)
def test_whoever_finds_a_place_when_all_domains_are_tried_finds_one(
    nodes: list[Node], members: list[Pod], others: list[tuple[int, str]]
) -> None:
    there = [
        bound(labelled(pod(f"x-{index}", cpu="1"), app=app), f"n{row}")
        for index, (row, app) in enumerate(others)
        if row < len(nodes)
    ]
    assert has_begun(World(nodes, [*there, *members]).settle()) == has_begun(by_trial(nodes, [*there, *members]))


@settings(max_examples=examples(80), deadline=None, suppress_health_check=list(HealthCheck))
@given(nodes=racks(), members=gangs(priority=9), others=OTHERS)
def test_whoever_is_made_room_when_all_domains_are_tried_is_made_room(
    nodes: list[Node], members: list[Pod], others: list[tuple[int, str]]
) -> None:
    free = [list(range(int(str(one.status.allocatable["nvidia.com/gpu"])))) for one in nodes]
    there = []
    for index, (row, app) in enumerate(others):
        if row < len(nodes) and free[row]:
            holds = {"main": [(str(free[row].pop()), 100)]}
            there.append(bound(labelled(pod(f"x-{index}", whole=1), app=app), f"n{row}", holds))
    assert has_begun(World(nodes, [*there, *members]).settle()) == has_begun(by_trial(nodes, [*there, *members]))
