"""Volumes say where a pod can run, and whether it can run yet."""

import pytest
from msgspec.structs import replace
from tests.worlds import START, World, bound, gang, node, pod, policy

from tangram.api import names
from tangram.api.objects import (
    ClaimReference,
    EphemeralVolume,
    Metadata,
    NodeSelector,
    NodeSelectorTerm,
    OwnerReference,
    Pod,
    PodVolume,
    Requirement,
)
from tangram.api.storage import (
    ClaimSpec,
    ClaimStatus,
    ObjectReference,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
    TopologyRequirement,
    TopologyTerm,
    VolumeNodeAffinity,
    VolumeSpec,
)
from tangram.snapshot.requests.provisioning import SELECTED_NODE

NODES = [node("a", 0, labels={"zone": "a"}), node("b", 0, labels={"zone": "b"})]
BOUND = {"pv.kubernetes.io/bind-completed": "yes"}


def using(one: Pod, *volumes: PodVolume) -> Pod:
    return replace(one, spec=replace(one.spec, volumes=volumes))


def on(claim: str) -> PodVolume:
    return PodVolume("data", ClaimReference(claim))


def claim(name: str, volume: str = "", phase: str = "Bound", kind: str = "", **notes: str) -> PersistentVolumeClaim:
    metadata = Metadata(name, "default", annotations=(BOUND if volume else {}) | notes)
    return PersistentVolumeClaim(metadata, ClaimSpec(volume, kind), ClaimStatus(phase))


def volume_in(zone: str) -> PersistentVolume:
    required = NodeSelector((NodeSelectorTerm((Requirement("zone", "In", (zone,)),)),))
    return PersistentVolume(Metadata("pv"), VolumeSpec(VolumeNodeAffinity(required)))


def world(*pods: Pod, claims: tuple[PersistentVolumeClaim, ...] = (), volume: PersistentVolume | None = None) -> World:
    made = World(list(NODES), [])
    table = made.cycle.builder.volumes
    table.start()
    table.put_volume("pv", volume)
    table.put_class("late", StorageClass(Metadata("late"), "WaitForFirstConsumer"))
    for one in claims:
        table.put_claim(("default", one.metadata.name), one)
    made.add(*pods)
    return made


def test_a_pod_goes_where_its_volume_can_be_reached() -> None:
    found = world(using(pod("p"), on("c")), claims=(claim("c", "pv"),), volume=volume_in("b")).settle()
    assert found.where == {"p": "b"}


def test_a_volume_that_no_node_can_reach_is_named_as_the_reason() -> None:
    found = world(using(pod("p"), on("c")), claims=(claim("c", "pv"),), volume=volume_in("moon")).settle()
    assert found.reason("p") == "VolumeMismatch"


def test_a_pod_waits_for_claims_that_are_missing_lost_or_unbound() -> None:
    lost, unbound, leaving = claim("lost", "pv", "Lost"), claim("unbound", phase="Pending"), claim("leaving", "pv")
    leaving = replace(leaving, metadata=replace(leaving.metadata, deletion_timestamp="2026-01-01T00:00:00Z"))
    pods = [using(pod(name), on(name)) for name in ("missing", "lost", "unbound", "leaving")]
    found = world(*pods, claims=(lost, unbound, leaving), volume=volume_in("b")).settle()
    assert not found.where
    assert {found.reason(name) for name in ("missing", "lost", "unbound", "leaving")} == {"VolumeNotReady"}
    builder = found.cycle.builder
    builder.volumes.put_claim(("default", "unbound"), claim("unbound", "pv"))
    assert found.settle().where == {"unbound": "b"}


def test_a_claim_whose_storage_class_does_not_exist_says_so() -> None:
    """A volume of that class may be made by hand; nobody else ever will."""
    found = world(using(pod("p"), on("c")), claims=(claim("c", phase="Pending", kind="ghost"),))
    (hold,) = found.step().hold
    assert hold.message == 'claim c waits for its volume; storage class "ghost" does not exist'


def test_the_claim_of_an_ephemeral_volume_has_the_names_of_pod_and_volume() -> None:
    one = using(pod("p"), PodVolume("scratch", ephemeral=EphemeralVolume()))
    assert world(one).settle().reason("p") == "VolumeNotReady"
    assert world(one, claims=(made_for("uid-p"),), volume=volume_in("b")).settle().where == {"p": "b"}


def made_for(*uids: str, controller: bool = True) -> PersistentVolumeClaim:
    found = claim("p-scratch", "pv")
    owners = tuple(OwnerReference("Pod", "p", uid, controller=controller) for uid in uids)
    return replace(found, metadata=replace(found.metadata, owner_references=owners))


@pytest.mark.parametrize("others", [made_for(), made_for("uid-q"), made_for("uid-p", controller=False)])
def test_a_claim_of_that_name_that_was_not_made_for_the_pod_keeps_it_waiting(others: PersistentVolumeClaim) -> None:
    one = using(pod("p"), PodVolume("scratch", ephemeral=EphemeralVolume()))
    found = world(one, claims=(others,), volume=volume_in("b"))
    [said] = found.step().hold
    assert (said.reason, said.message) == (
        "VolumeNotReady",
        "claim p-scratch has the name of one of its ephemeral volumes, but was not made for this pod",
    )
    found.cycle.builder.put_claim(("default", "p-scratch"), made_for("uid-p"))
    assert found.settle().where == {"p": "b"}


def test_a_claim_that_waits_for_its_first_consumer_has_a_node_chosen_for_it_and_then_asks_for_that_node() -> None:
    one, waits = using(pod("p"), on("c")), claim("c", phase="Pending", kind="late")
    table = world(one, claims=(waits,)).cycle.builder.volumes
    assert (table.reach(one).to_ask, table.reach(one).made_for) == (("c",), "")
    chosen = replace(waits, metadata=replace(waits.metadata, annotations={SELECTED_NODE: "a"}))
    table.put_claim(("default", "c"), chosen)
    assert (table.reach(one).to_ask, table.reach(one).made_for) == ((), "a")
    table.put_claim(("default", "c"), replace(chosen, spec=ClaimSpec("pv", "late")))
    assert table.reach(one).being_made, "it is there once the claim is bound to it for good"


def test_a_pod_says_that_the_node_is_gone_that_was_chosen_for_its_volume() -> None:
    waits = claim("c", phase="Pending", kind="late")
    chosen = replace(waits, metadata=replace(waits.metadata, annotations={SELECTED_NODE: "a"}))
    found = world(using(pod("p"), on("c")), claims=(chosen,))
    found.cycle.builder.remove_node("a")
    [said] = found.step().hold
    assert (said.reason, said.message) == (
        "VolumeNotReady",
        "its volume is to be made for node a, which does not exist",
    )
    found.cycle.builder.put_node(NODES[0])
    assert [place.node for claimed in found.step().claims for place in claimed.places] == ["a"], "and is held there"


def test_a_class_that_makes_volumes_in_some_zones_only_keeps_pods_there() -> None:
    one = using(pod("p"), on("c"))
    found = world(one, claims=(claim("c", phase="Pending", kind="late"),))
    in_b = (TopologyTerm((TopologyRequirement("zone", ("b", "c")),)),)
    found.cycle.builder.volumes.put_class("late", StorageClass(Metadata("late"), "WaitForFirstConsumer", "x", in_b))
    assert [(one.claim, one.node) for one in found.step().provision] == [("c", "b")]


def test_a_volume_with_a_zone_keeps_pods_in_its_zones_and_off_no_node_that_names_none() -> None:
    zone = "topology.kubernetes.io/zone"
    labelled = PersistentVolume(Metadata("pv", labels={"failure-domain.beta.kubernetes.io/zone": "b__c"}))
    nodes = [node("a", 0, labels={zone: "a"}), node("c", 0, labels={zone: "c"}, cpu=1), node("plain", 0)]
    pods = [using(pod(f"p{number}", cpu=1), on("c")) for number in range(2)]
    found = World(nodes, [])
    table = found.cycle.builder.volumes
    table.start()
    table.put_volume("pv", labelled)
    table.put_claim(("default", "c"), claim("c", "pv"))
    found.add(*pods)
    assert set(found.settle().where.values()) <= {"c", "plain"}
    assert len(found.where) == 2


def test_before_volumes_are_known_a_pod_with_a_claim_waits_and_others_do_not() -> None:
    found = World(list(NODES), [using(pod("p"), on("c")), pod("q")]).settle()
    assert (found.where.keys(), found.reason("p")) == ({"q"}, "VolumeNotReady")


def test_what_a_victim_leaves_is_not_for_a_place_that_is_held_for_a_volume() -> None:
    """The low pod takes its time to leave; what is held for the volume is held of what is free beside it."""
    made = World([node("n", 0, cpu=10)], [pod("low", cpu=6)], grace=3)
    made.step()
    made.cycle.builder.volumes.start()
    made.cycle.builder.volumes.put_class("late", StorageClass(Metadata("late"), "WaitForFirstConsumer"))
    made.cycle.builder.volumes.put_claim(("default", "c"), claim("c", phase="Pending", kind="late"))
    made.add(using(pod("slow", cpu=2), on("c")))
    made.step()
    made.add(pod("high", cpu=4, priority=5))
    assert [evict.pod.name for evict in made.step().evict] == ["low"]
    made.add(pod("large", cpu=4), pod("small", cpu=2))
    assert [place.pod.name for place in made.step().place] == ["small"]


def test_a_change_of_one_claim_has_only_its_own_pods_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    claims = tuple(claim(f"c{number}", phase="Pending") for number in range(20))
    found = world(*(using(pod(f"p{number}"), on(f"c{number}")) for number in range(20)), claims=claims)
    found.settle()
    builder, read = found.cycle.builder, list[str]()
    once = builder._lifecycle.refresh
    monkeypatch.setattr(builder._lifecycle, "refresh", lambda row: (read.append(row.name.name), once(row))[1])
    volume = volume_in("b")
    mine = replace(volume.spec, claim_ref=ObjectReference(namespace="default", name="c7"))
    builder.put_volume("pv", replace(volume, spec=mine))
    builder.put_claim(("default", "c7"), claim("c7", "pv"))
    assert found.settle().where == {"p7": "b"}
    assert set(read) == {"p7"}


def test_a_volume_that_comes_after_its_claim_was_bound_lets_the_pod_go_on() -> None:
    found = world(using(pod("p"), on("c")), claims=(claim("c", "pv"),)).settle()
    assert found.reason("p") == "VolumeNotReady"
    found.cycle.builder.put_volume("pv", volume_in("b"))
    assert found.settle().where == {"p": "b"}


@pytest.mark.parametrize("members", [1, 2])
def test_after_a_restart_a_place_is_held_again_before_anybody_else_is_asked(members: int) -> None:
    """``hi`` comes first in line, and would fit only there. Of a gang the first member has a volume."""
    waits = claim("c", "", "Pending", "late")
    chosen = replace(waits, metadata=replace(waits.metadata, annotations={SELECTED_NODE: "a"}))
    first, *others = gang("g", members, cpu=60) if members > 1 else [pod("g-0", cpu=60)]
    told = [node("a", 0, cpu=64), node("b", 0, cpu=64)]
    there = World(told, [bound(pod("full", cpu=4, priority=9), "b")] if members == 1 else [])
    table = there.cycle.builder.volumes
    table.start()
    table.put_class("late", StorageClass(Metadata("late"), "WaitForFirstConsumer"))
    table.put_claim(("default", "c"), chosen)
    there.add(using(first, on("c")), *others, pod("hi", cpu=62, priority=9))
    plan = there.step()
    assert [place.pod.name for place in plan.place] == []
    assert sorted(place.node for held in plan.claims for place in held.places) == ["a", "b"][:members]
    assert there.reason("hi") == "InsufficientCpu"


@pytest.mark.parametrize("rack", [False, True])
@pytest.mark.parametrize("unequal", [False, True])
def test_after_a_restart_the_places_of_members_who_share_a_claim_are_held_again_one_of_them_where_it_is_made(
    *, rack: bool, unequal: bool
) -> None:
    """On that node there is room for one. Only the second of unequal members can go there."""
    waits = claim("c", "", "Pending", "late")
    chosen = replace(waits, metadata=replace(waits.metadata, annotations={SELECTED_NODE: "a"}))
    notes = {names.TOPOLOGY_REQUIRED: "rack"} if rack else {}
    racks = {"a": "r0", "b": "r0", "c": "r1", "d": "r1"}
    there = World(
        [node(name, 0, cpu=64, labels={"rack": racks[name]}) for name in "abcd"],
        [],
        policy(topologyLevels=[{"name": "rack", "label": "rack"}]),
    )
    table = there.cycle.builder.volumes
    table.start()
    table.put_class("late", StorageClass(Metadata("late"), "WaitForFirstConsumer"))
    table.put_claim(("default", "c"), chosen)
    first, second = gang("g", 2, cpu=60, annotations=notes)
    if unequal:
        first = replace(first, spec=replace(first.spec, node_selector={"kubernetes.io/hostname": "b"}))
    there.add(using(first, on("c")), using(second, on("c")), *(pod(f"hi{one}", cpu=62, priority=9) for one in range(3)))
    plan = there.step()
    held = {place.pod.name: place.node for held in plan.claims for place in held.places}
    assert len(held) == 2
    assert held["g-1"] == "a" if unequal else "a" in held.values()
    assert not rack or {racks[one] for one in held.values()} == {"r0"}
    assert len(plan.place) == 2, "others go where nothing is held"


def waiting_for(there: World, node_chosen: str) -> None:
    """A claim c of a class whose volumes are made once a node has been chosen, as this one has."""
    waits = claim("c", "", "Pending", "late")
    table = there.cycle.builder.volumes
    table.start()
    table.put_class("late", StorageClass(Metadata("late"), "WaitForFirstConsumer"))
    notes = {SELECTED_NODE: node_chosen}
    table.put_claim(("default", "c"), replace(waits, metadata=replace(waits.metadata, annotations=notes)))


def test_a_policy_without_levels_holds_such_places_too() -> None:
    there = World([node(name, 0, cpu=64) for name in "ab"], [], policy(topologyLevels=[]))
    waiting_for(there, "a")
    there.add(*(using(one, on("c")) for one in gang("g", 2, cpu=60)))
    assert sorted(place.node for held in there.step().claims for place in held.places) == ["a", "b"]


def test_nobody_comes_of_a_gang_of_whom_none_can_be_where_the_volume_is_made() -> None:
    """Also where one is enough, and another node has room for it: the volume would be out of its reach."""
    there = World([node(name, 0, cpu=64) for name in "ab"], [bound(pod("full", cpu=60, priority=9), "a")])
    waiting_for(there, "a")
    there.add(*(using(one, on("c")) for one in gang("g", 2, cpu=30, minimum=1)), pod("other", cpu=50))
    assert there.settle().where == {"full": "a", "other": "b"}


@pytest.mark.parametrize("sizes", [(8, 4), (4, 8), (8, 4, 4), (8, 6, 2)])
def test_nodes_are_held_for_members_of_whom_one_has_to_be_on_one_of_them(sizes: tuple[int, ...]) -> None:
    """Any of them may be, where the others then fit in one rack of two nodes."""
    nodes = [node(f"n{one}", 8, labels={"rack": f"r{one // 2}"}) for one in range(4)]
    levels = [{"name": "rack", "label": "rack"}]
    there = World(nodes, [], policy(topologyLevels=levels), reservation_delay=600)
    waiting_for(there, "n0")
    for one in range(4):
        half = {"main": [(str(index), 100) for index in range(4)]}
        there.add(bound(pod(f"old-{one}", whole=4), f"n{one}", half, started=START - 7200))
    notes, count = {names.TOPOLOGY_REQUIRED: "rack"}, len(sizes)
    for one, gpus in enumerate(sizes):
        member = pod(f"g-{one}", whole=gpus, gang="g", gang_min=count, age=7200, annotations=notes)
        there.add(using(member, on("c")))
    there.step()
    there.add(*(pod(f"late-{one}", whole=4) for one in range(4)))
    where = there.settle().where
    assert sorted(node for name, node in where.items() if name.startswith("late")) == ["n2", "n3"]
