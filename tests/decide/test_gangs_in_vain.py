"""What could come to nothing for gangs: several claims, members that are there already, company that leaves."""

import msgspec
import pytest
from tests.decide.test_existing_volumes import LATE, LOCAL, claim, disk
from tests.decide.test_free_volumes import chosen
from tests.decide.test_owed import Again
from tests.decide.test_relations import HOST, labelled, near, term
from tests.decide.test_shared_volumes import MANY, pool, sharing
from tests.decide.test_volumes import on, using
from tests.worlds import START, World, bound, gang, node, pod, policy

from tangram.api import names
from tangram.api.storage import StorageClass
from tangram.plan import Place, PodName

RACK = "topology.kubernetes.io/rack"


def test_members_of_two_claims_go_where_each_of_these_has_one_volume() -> None:
    """``g-3`` and ``g-4`` fit on n1 one by one, but only n2 has a volume for both and room for both."""
    disks = [disk("a0", "n0", **MANY), disk("b1", "n1", kind="fast", **MANY), disk("b2", "n2", kind="fast", **MANY)]
    there = pool([node("n0", 3), node("n1", 4), node("n2", 8)], *disks)
    builder = there.cycle.builder
    builder.put_class("fast", msgspec.convert(LOCAL | LATE | {"metadata": {"name": "fast"}}, StorageClass))
    for name, kind in (("data", "local"), ("checkpoints", "fast")):
        builder.put_claim(("default", name), claim(name, kind=kind, accessModes=["ReadWriteMany"]))
    there.add(bound(pod("r", whole=3), "n1", {"main": [(str(index), 100) for index in range(3)]}))
    members = gang("g", 5, whole=1)
    there.add(*(using(one, on("data")) for one in members[:3]), *(using(one, on("checkpoints")) for one in members[3:]))
    there.settle()
    assert chosen(there) == {"data": "a0", "checkpoints": "b2"}


@pytest.mark.parametrize("minimum", [1, 3])
def test_a_bound_member_that_does_not_name_the_claim_ties_nobody_to_its_node(minimum: int) -> None:
    disks = disk("d1", "n1", **MANY), disk("d2", "n2", **MANY)
    there = pool([node("n0", 1), node("n1", 2), node("n2", 2)], *disks)
    first, *others = gang("g", 3, minimum=minimum, whole=1)
    there.add(bound(first, "n0", {"main": [("0", 100)]}))
    sharing(there, *others)
    places = {place.pod.name: place.node for claimed in there.step().claims for place in claimed.places}
    assert places == {"g-1": "n1", "g-2": "n1"}


def test_nobody_is_evicted_for_a_gang_whose_members_could_not_be_near_whom_they_have_to_be_near() -> None:
    """In n1's rack is one pod of ``x``, and it would be evicted for them; in n0's there is no room for all three."""
    racks = [node("n0", 4, labels={RACK: "s"}), node("n1", 4, labels={RACK: "r"})]
    classes = policy({"name": "gold", "weight": 5}, {"name": "tin", "weight": 1}, fallback="preempt")
    world = Again(racks, policy=classes, reservation_delay=-1)
    for number, where in enumerate(("n0", "n1", "n0")):
        low = labelled(pod(f"low{number}", whole=1, klass="tin"), app="x")
        world.add(bound(low, where, {"main": [(str(number // 2), 100)]}, started=START - 3600))
    world.add(*(near(labelled(one, app="x"), term(RACK, app="x")) for one in gang("high", 3, whole=2, klass="gold")))
    for _ in range(10):
        world.step()
    assert world.evicted == []


def test_nobody_is_evicted_for_a_while_for_whom_others_have_left_in_vain() -> None:
    """The second time that it comes to nothing there is a pause, then twice as long."""
    world = World([node("n0", 1)])
    world.add(pod("high", whole=1, priority=9))
    claims, paused = world.cycle.builder.claims, list[int]()
    world.step()
    world.add(pod("high", whole=1, priority=9, uid="again"))
    for _ in range(4):
        claims.nominations["again"] = Place(PodName("default", "high", "again"), "n0", ())
        claims.came_free.add("again")
        claims.end_nominations(world.now)
        paused.append(claims.denied["again"].until - world.now)
        world.now += 1
    assert paused == [0, 30, 60, 120]


def test_nobody_is_evicted_where_a_further_member_may_not_go() -> None:
    """``g`` is whole on n0, and what is promised to its queue is on n1: it cannot have that there."""
    queues = [{"name": "a", "guarantee": {"gpu": "3"}}, {"name": "b", "guarantee": {"gpu": "1"}}]
    world = World([node("n0", 2), node("n1", 2)], policy=policy(queues=queues), reservation_delay=-1)
    first, second, further = gang("g", 3, minimum=2, whole=1, queue="a", annotations={names.TOPOLOGY_REQUIRED: "host"})
    world.add(bound(first, "n0", {"main": [("0", 100)]}), bound(second, "n0", {"main": [("1", 100)]}), further)
    world.add(*(bound(pod(f"b{one}", whole=1, queue="b"), "n1", {"main": [(str(one), 100)]}) for one in range(2)))
    world.settle()
    assert (world.evicted, world.reason("g-2")) == ([], "TopologyDomainFull")


@pytest.mark.parametrize("members", [1, 2])
def test_a_place_is_held_on_while_others_who_count_against_the_limit_are_leaving(members: int) -> None:
    """``mid`` has ``late`` evicted a cycle after ``high`` had ``low``, and both count until ``late`` has left: what
    has been made free for ``high`` stays its own meanwhile."""
    limit = policy(queues=[{"name": "q", "limit": {"gpu": "3"}}])
    world = World([node("n0", 2), node("n1", 1)], policy=limit, reservation_delay=-1, grace=2, batch=1)
    late, low = (pod(name, whole=gpus, queue="q") for name, gpus in (("late", 1), ("low", 2)))
    world.add(bound(late, "n1", {"main": [("0", 100)]}), bound(low, "n0", {"main": [("0", 100), ("1", 100)]}))
    world.add(pod("mid", gpu=50, queue="q", priority=1, selector={HOST: "n1"} if members > 1 else {}))
    high = {"queue": "q", "priority": 2, "selector": {HOST: "n0"}}
    world.add(*(gang("high", 2, whole=1, **high) if members > 1 else [pod("high", whole=2, **high)]))
    for _ in range(12):
        world.step()
    assert [evict.pod.name for evict in world.evicted] == ["low", "late"]
    assert {name.partition("-")[0]: where for name, where in world.where.items()} == {"high": "n0", "mid": "n1"}
    assert {reason for name, reason in world.told if name.startswith("high")} == {"WaitingForEviction"}
