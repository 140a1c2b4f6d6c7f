"""A volume that several nodes can reach is promised once: to one that is placed, or for whose place somebody leaves."""

from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.budget import examples
from tests.decide.test_existing_volumes import LATE, LOCAL, claim, disk
from tests.decide.test_free_volumes import chosen
from tests.decide.test_relations import HOST
from tests.decide.test_topology import pool as racks
from tests.decide.test_volumes import on, using
from tests.worlds import START, World, bound, gang, node, pod, policy

from tangram.api import names
from tangram.api.objects import Metadata, Node, Pod
from tangram.api.storage import PersistentVolume, StorageClass
from tangram.plan import Plan


def in_zone(name: str, zone: str, size: str = "10Gi", **spec: Any) -> PersistentVolume:
    """A volume that all nodes of a zone can reach."""
    here = {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}
    return disk(name, size=size, nodeAffinity={"required": {"nodeSelectorTerms": [here]}}, **spec)


def among(*hosts: str) -> dict[str, Any]:
    """A volume's affinity to these nodes."""
    here = {"matchExpressions": [{"key": HOST, "operator": "In", "values": list(hosts)}]}
    return {"required": {"nodeSelectorTerms": [here]}}


def pool(nodes: list[Node], *disks: PersistentVolume, full: str = "", grace: int = 0) -> World:
    """Nodes and volumes; on each of the ``full`` ones runs a pod of low priority, low-NODE, that has all its GPUs."""
    made = World(nodes, [], grace=grace)
    builder = made.cycle.builder
    builder.put_class("local", msgspec.convert(LOCAL | LATE, StorageClass))
    for one in disks:
        builder.put_volume(one.metadata.name, one)
    builder.volumes_are_known()
    for name in full.split():
        [there] = [one for one in nodes if one.metadata.name == name]
        gpus = int(str(there.status.allocatable["nvidia.com/gpu"]))
        holds = {"main": [(str(index), 100) for index in range(gpus)]}
        made.add(bound(pod(f"low-{name}", whole=gpus), name, holds))
    return made


def two(gpus: int = 1, **labels: str) -> list[Node]:
    return [node(name, gpus, labels=labels) for name in ("n0", "n1")]


def asks(there: World, *pods: Pod, size: str = "5Gi") -> None:
    """Add pods that have a claim each, of their own names."""
    for one in pods:
        there.cycle.builder.put_claim(("default", one.metadata.name), claim(one.metadata.name, size))
        there.add(using(one, on(one.metadata.name)))


def high(name: str, **options: Any) -> Pod:
    return pod(name, whole=1, priority=9, **options)


def victims(there: World) -> list[str]:
    return sorted(one.pod.name for one in there.evicted)


def held(plan: Plan) -> list[str]:
    """Names of the pods for which places are held."""
    return sorted(place.pod.name for one in plan.claims for place in one.places)


def test_one_of_two_pods_is_placed() -> None:
    there = pool(two(), disk("shared"))
    asks(there, high("x", age=1), high("y"))
    assert [one.claim for one in there.step().provision] == ["x"]
    there.settle()
    assert chosen(there) == {"x": "shared"}
    assert there.reason("y") == "VolumeNotReady"


def test_nobody_is_evicted_for_the_second_of_two() -> None:
    there = pool(two(), disk("shared"), full="n0 n1")
    asks(there, high("x", age=1), high("y"))
    there.settle()
    assert len(victims(there)) == 1
    assert chosen(there) == {"x": "shared"}


def test_nobody_is_evicted_for_one_who_comes_after_one_that_was_placed() -> None:
    there = pool(two(), disk("shared"), full="n1")
    asks(there, high("x", age=1), high("y"))
    there.settle()
    assert victims(there) == []
    assert chosen(there) == {"x": "shared"}


def test_nobody_is_placed_with_the_volume_of_one_for_whom_others_leave() -> None:
    there = pool([*two(), node("n2", 0)], disk("shared"), full="n0 n1")
    asks(there, high("x"), pod("y", cpu=1))
    there.settle()
    assert len(victims(there)) == 1
    assert chosen(there) == {"x": "shared"}


@pytest.mark.parametrize("later", [1, 3])
def test_nobody_is_evicted_for_a_volume_while_others_leave_for_whom_it_is(later: int) -> None:
    there = pool(two(), disk("shared"), full="n0 n1", grace=5)
    asks(there, high("x"))
    for _ in range(later):
        there.step()
    asks(there, high("y"), pod("z", cpu=1))
    there.settle()
    assert len(victims(there)) == 1
    assert chosen(there) == {"x": "shared"}


def test_a_gang_that_needs_more_than_there_are_evicts_nobody() -> None:
    there = pool(two(), disk("shared"), full="n0 n1")
    asks(there, *gang("g", 2, whole=1, priority=9))
    there.settle()
    assert victims(there) == []
    there.cycle.builder.put_volume("more", disk("more"))
    there.settle()
    assert victims(there) == ["low-n0", "low-n1"]
    assert sorted(chosen(there)) == ["g-0", "g-1"]


def test_what_a_gang_could_not_use_is_there_for_the_next() -> None:
    """The gang comes first and would have both volumes, but a third member finds none."""
    there = pool([node("n0", 3), node("n1", 3)], disk("a"), disk("b"))
    asks(there, *gang("g", 3, whole=1, priority=9, age=9), high("x", age=3), high("y", age=2), high("z", age=1))
    there.step()
    assert sorted(chosen(there)) == ["x", "y"]


def test_a_gang_gets_the_volumes_of_its_zone_and_those_of_its_nodes() -> None:
    nodes = [node("n0", 2, labels={"zone": "a"}), node("n1", 2, labels={"zone": "a"})]
    there = pool(nodes, disk("a-0", "n0"), disk("a-1", "n1"), in_zone("b", "a"))
    asks(there, *gang("g", 3, whole=1))
    there.step()
    assert sorted(chosen(there)) == ["g-0", "g-1", "g-2"]


def test_each_zone_has_its_own() -> None:
    nodes = [node(f"n{index}", 1, labels={"zone": "ab"[index % 2]}) for index in range(6)]
    there = pool(nodes, in_zone("in-a", "a"), in_zone("in-b", "b"))
    asks(there, *(high(f"p{index}") for index in range(4)))
    there.step()
    assert sorted(chosen(there).values()) == ["in-a", "in-b"]


def test_who_can_have_one_of_its_own_node_leaves_the_others_theirs() -> None:
    """Whoever is on n0 could have either, and "any" comes first by its name."""
    there = pool([node("n0", 1), node("n1", 1, labels={"here": "y"})], disk("any"), disk("n0", "n0"))
    asks(there, high("x", selector={HOST: "n0"}), high("y"))
    there.step()
    assert chosen(there) == {"x": "n0", "y": "any"}


def test_a_smaller_volume_is_left_to_one_that_can_have_no_other() -> None:
    """On n0 there is a larger one, too; alone, the pod there would get the smallest that is large enough."""
    there = pool([node("n0", 1), node("n1", 1)], disk("any"), disk("large", "n0", "100Gi"))
    pods = [pod(name, whole=1, selector={HOST: at}) for name, at in (("x", "n0"), ("y", "n1"))]
    asks(there, *pods)
    there.step()
    assert chosen(there) == {"x": "large", "y": "any"}


def test_members_that_share_a_claim_are_placed_on_different_nodes() -> None:
    there = pool(two(), disk("shared", accessModes=["ReadWriteMany"]))
    there.cycle.builder.put_claim(("default", "data"), claim("data", accessModes=["ReadWriteMany"]))
    there.add(*(using(one, on("data")) for one in gang("g", 2, whole=1)))
    assert held(there.step()) == ["g-0", "g-1"]
    assert chosen(there) == {"data": "shared"}


def test_members_that_share_a_claim_are_placed_on_one_node_too() -> None:
    """They are given one volume, however many of them there are."""
    there = pool([node("n0", 2)], disk("shared", accessModes=["ReadWriteMany"]))
    there.cycle.builder.put_claim(("default", "data"), claim("data", accessModes=["ReadWriteMany"]))
    there.add(*(using(one, on("data")) for one in gang("g", 2, whole=1)))
    assert held(there.step()) == ["g-0", "g-1"]
    assert chosen(there) == {"data": "shared"}


def sharing(there: World, *pods: Pod) -> None:
    """Add pods that name one claim."""
    there.cycle.builder.put_claim(("default", "data"), claim("data", accessModes=["ReadWriteMany"]))
    there.add(*(using(one, on("data")) for one in pods))


def test_members_that_share_a_claim_go_where_one_volume_serves_all_of_them() -> None:
    """Each node has a volume of its own; a member on n0 would take the claim to where the other one cannot follow."""
    many = {"accessModes": ["ReadWriteMany"]}
    there = pool([node("n0", 1), node("n1", 2)], disk("d0", "n0", **many), disk("d1", "n1", **many))
    sharing(there, *gang("g", 2, whole=1))
    assert {place.node for one in there.step().claims for place in one.places} == {"n1"}
    assert chosen(there) == {"data": "d1"}


MANY = {"accessModes": ["ReadWriteMany"]}
PAIRS = [disk("d0", **MANY, nodeAffinity=among("n0", "n1")), disk("d1", **MANY, nodeAffinity=among("n2", "n3"))]
ZONES = [in_zone("d0", "a", **MANY), in_zone("d1", "b", **MANY)]


@pytest.mark.parametrize("levels", [None, []], ids=["levels", "no levels"])
@pytest.mark.parametrize("gpus", [(1, 0, 1, 1), (1, 1, 0, 1)])
@pytest.mark.parametrize(
    ("disks", "chooses"),
    [(PAIRS, "d0 d1"), (ZONES, "d0 d1"), ([in_zone("d1", "b", **MANY), disk("here", "n0", **MANY)], "- d1")],
    ids=["pairs of nodes", "zones", "a zone and a node"],
)
def test_members_that_share_a_claim_go_where_they_reach_the_same_volume(
    disks: list[PersistentVolume], chooses: str, gpus: tuple[int, ...], levels: list[Any] | None
) -> None:
    nodes = [node(f"n{index}", number, labels={"zone": "ab"[index // 2]}) for index, number in enumerate(gpus)]
    there = pool(nodes, *disks)
    if levels is not None:
        there.cycle.builder.set_policy(policy(topologyLevels=levels))
    sharing(there, *gang("g", 2, whole=1))
    first, second = chooses.split()
    fits_first = gpus[1] == 1
    plan = there.step()
    if fits_first and first == "-":
        assert held(plan) == []
    else:
        assert {place.node for one in plan.claims for place in one.places} == (
            {"n0", "n1"} if fits_first else {"n2", "n3"}
        )
        assert chosen(there) == {"data": first if fits_first else second}


def test_volumes_whose_nodes_overlap_are_each_tried_whole() -> None:
    """Both members reach ``d1`` on the two free nodes, of which the one reaches ``d0``, too."""
    disks = disk("d0", **MANY, nodeAffinity=among("n0", "n1", "n2")), disk("d1", **MANY, nodeAffinity=among("n2", "n3"))
    there = pool([node(f"n{number}", 1) for number in range(4)], *disks, full="n0 n1")
    sharing(there, *gang("g", 2, whole=1))
    there.settle()
    assert chosen(there) == {"data": "d1"}


def test_members_that_share_a_claim_stay_in_the_rack_that_the_gang_is_in() -> None:
    nodes = racks("eu/a/r1x1", "eu/a/r2x2", gpus=2)
    there = pool(
        nodes, disk("d0", "eu-a-r1-0", **MANY), disk("d1", nodeAffinity=among("eu-a-r2-0", "eu-a-r2-1"), **MANY)
    )
    bound_one, *others = gang("g", 4, minimum=3, whole=1, annotations={names.TOPOLOGY_REQUIRED: "rack"})
    there.add(bound(bound_one, "eu-a-r1-0", {"main": [("0", 100)]}), others[2])
    sharing(there, *others[:2])
    plans = [there.step() for _ in range(3)]
    assert [place for plan in plans for claimed in plan.claims for place in claimed.places] == []
    assert chosen(there) == {}


def growing(there: World, minimum: int, *shares: int) -> World:
    """Add a gang of three beside another queue, so that its members beyond the minimum have turns of their own; those
    of these numbers share a claim."""
    there.cycle.builder.set_policy(policy(queues=[{"name": "a"}, {"name": "b"}]))
    members = gang("g", 3, minimum=minimum, whole=1, queue="a")
    sharing(there, *(members[number] for number in shares))
    there.add(*(one for number, one in enumerate(members) if number not in shares), pod("z", whole=4, queue="b"))
    return there


def test_a_gang_that_may_grow_goes_where_the_volume_serves_those_that_come_later() -> None:
    there = growing(pool([node("n0", 1), node("n1", 3)], disk("d0", "n0", **MANY), disk("d1", "n1", **MANY)), 1, 0, 1)
    there.settle()
    assert chosen(there) == {"data": "d1"}


def test_a_member_that_comes_later_gets_no_place_where_it_cannot_reach_the_volume() -> None:
    """``n0``, with its volume, is full of the first two, and on ``n1`` the third one would wait for ever."""
    there = growing(pool([node("n0", 2), node("n1", 2)], disk("d0", "n0", **MANY), disk("d1", "n1", **MANY)), 2, 0, 2)
    places = [place for _ in range(3) for claimed in there.step().claims for place in claimed.places]
    assert {place.pod.name: place.node for place in places} == {"g-0": "n0", "g-1": "n0"}


def test_nobody_leaves_for_a_gang_whose_members_no_volume_serves() -> None:
    many = {"accessModes": ["ReadWriteMany"]}
    there = pool(two(), disk("d0", "n0", **many), disk("d1", "n1", **many), full="n0 n1")
    sharing(there, *gang("g", 2, whole=1, priority=9))
    said = [one.message for one in there.step().hold if one.pod.name == "g-0"]
    why, best = "where one volume for claim data can be reached", "node n0, which has 0 free GPUs and room for 0"
    assert said == [f"gang default/g needs 2 GPUs for 2 members {why}; the best candidate is {best}"]
    there.settle()
    assert victims(there) == []


@pytest.mark.parametrize("full", ["", "n0 n1"])
def test_only_the_members_that_share_a_claim_need_the_same_volume(full: str) -> None:
    """Two GPUs are on n1, beside which there are too few CPUs for the launcher."""
    there = pool([node("n0", 1), node("n1", 2, cpu=2)], disk("d0", "n0", **MANY), disk("d1", "n1", **MANY), full=full)
    first, second, _ = gang("g", 3, whole=1, priority=9)
    sharing(there, first, second)
    there.add(pod("g-2", cpu=1, gang="g", gang_min=3, priority=9))
    there.settle()
    where = {uid: claim.spots[uid].node for uid, claim in there.cycle.builder.claims.held.items()}
    assert (where["uid-g-0"], where["uid-g-1"], where["uid-g-2"]) == ("n1", "n1", "n0")
    assert chosen(there) == {"data": "d1"}
    assert victims(there) == (["low-n1"] if full else [])


def test_a_claim_that_some_members_share_keeps_the_others_from_nowhere() -> None:
    many = {"accessModes": ["ReadWriteMany"]}
    there = pool([node("n0", 2), node("n1", 2)], disk("d0", "n0", **many))
    first, second, *others = gang("g", 4, whole=1)
    sharing(there, first, second)
    there.add(*others)
    assert held(there.step()) == ["g-0", "g-1", "g-2", "g-3"]


@pytest.mark.parametrize(
    "others", [gang("h", 2, whole=1), [pod("beside", cpu=1, selector={"no": "where"})]], ids=["gang", "pod"]
)
def test_members_that_share_a_claim_with_others_get_one_volume(others: list[Pod]) -> None:
    there = pool([node(f"n{index}", 1) for index in range(4)], disk("shared", accessModes=["ReadWriteMany"]))
    there.cycle.builder.put_claim(("default", "data"), claim("data", accessModes=["ReadWriteMany"]))
    there.add(*(using(one, on("data")) for one in (*gang("g", 2, whole=1, age=5), *others)))
    assert held(there.step()) == ["g-0", "g-1"]
    assert chosen(there) == {"data": "shared"}


@pytest.mark.parametrize("idle", [True, False])
def test_a_claim_that_another_pod_names_too_gets_no_volume_twice(*, idle: bool) -> None:
    """Whether or not the other one, which can run nowhere, is there: y's victim would leave for nothing."""
    there = pool(two(), disk("shared"), full="n0 n1")
    asks(there, high("x", age=5))
    if idle:
        there.add(using(pod("beside", cpu=1, selector={"no": "where"}), on("x")))
    asks(there, high("y", age=2))
    there.settle()
    assert victims(there) == ["low-n0"]
    assert chosen(there) == {"x": "shared"}


def test_the_first_pod_of_a_claim_says_where_its_volume_is_to_be() -> None:
    """The other one would take the claim to a node on which the first cannot run, whose victim has left."""
    there = pool([node("n0", 1), node("n1", 0)], disk("d0", "n0"), disk("d1", "n1"), full="n0", grace=1)
    asks(there, high("x", age=5))
    there.add(using(pod("beside", cpu=1), on("x")))
    there.settle()
    assert victims(there) == ["low-n0"]
    assert chosen(there) == {"x": "d0"}


def test_while_others_leave_for_one_pod_of_a_claim_the_next_ones_wait_for_it() -> None:
    """The class makes volumes, so that none is chosen for it before it has its place."""
    there = pool([node("n0", 1, cpu=1), node("n1", 0)], full="n0", grace=3)
    builder = there.cycle.builder
    builder.put_class("made", StorageClass(Metadata("made"), "WaitForFirstConsumer", "driver.example.com"))
    late = claim("x", storageClassName="made")
    builder.put_claim(("default", "x"), late)
    there.add(using(high("x", age=5), on("x")), using(pod("beside", cpu=1), on("x")))
    plans = [there.step() for _ in range(5)]
    assert victims(there) == ["low-n0"]
    assert [(one.pod.name, one.node) for plan in plans for one in plan.provision] == [("x", "n0")]
    [said] = [one for plan in plans for one in plan.hold if one.pod.name == "beside"]
    why = "claim x is also named by default/x, which comes first: its node decides where the volume is"
    assert (said.reason, said.message) == ("VolumeNotReady", why)


def test_while_a_volume_is_made_for_one_pod_of_a_claim_no_other_node_is_chosen_for_it() -> None:
    """Whether or not the watch of claims has shown yet that one has been."""
    there = pool(two(), full="")
    there.cycle.builder.put_class("made", StorageClass(Metadata("made"), "WaitForFirstConsumer", "driver.example.com"))
    there.cycle.builder.put_claim(("default", "x"), claim("x", storageClassName="made"))
    there.add(using(pod("x", whole=1, age=5), on("x")), using(pod("y", whole=1), on("x")))
    plans = [there.step() for _ in range(5)]
    assert [(one.pod.name, one.claim) for plan in plans for one in plan.provision] == [("x", "x")]


@pytest.mark.parametrize("full", ["", "n0"])
def test_the_last_volume_goes_to_the_first_in_line_though_a_gang_shares_a_claim_for_it(full: str) -> None:
    there = pool([node("n0", 4), node("n1", 2)], disk("d0", accessModes=["ReadWriteMany"]), full=full, grace=2)
    there.cycle.builder.put_claim(("default", "x"), claim("x", accessModes=["ReadWriteMany"]))
    there.add(using(pod("x", whole=4, priority=9, age=100), on("x")))
    sharing(there, *gang("g", 2, whole=1))
    there.settle()
    assert chosen(there) == {"x": "d0"}


def test_a_refused_eviction_gives_the_volume_back() -> None:
    there = pool(two(), disk("shared"), full="n0")
    there.protected = {"low-n0"}
    asks(there, high("x", selector={HOST: "n0"}))
    plan = there.step()
    assert held(plan) == ["x"]
    asks(there, pod("y", whole=1))
    there.step()
    assert chosen(there) == {"y": "shared"}


def test_a_volume_that_is_gone_while_others_leave_is_replaced() -> None:
    there = pool(two(), disk("a"), disk("b", "n1"), full="n0 n1", grace=3)
    there.cycle.builder.put_volume("b", None)
    asks(there, high("x"))
    there.step()
    assert chosen(there) == {"x": "a"}
    there.cycle.builder.put_volume("a", None)
    there.cycle.builder.put_volume("c", disk("c"))
    there.settle()
    assert chosen(there) == {"x": "c"}
    assert len(victims(there)) == 1


def test_a_claimant_keeps_its_place_when_its_volume_has_been_chosen() -> None:
    there = pool(two(), disk("shared"), full="n0 n1", grace=4)
    asks(there, high("x"))
    places = [place.node for one in there.step().claims for place in one.places]
    there.add(pod("small", whole=1))
    there.settle()
    assert [there.cycle.builder.claims.held["uid-x"].spots["uid-x"].node] == places
    assert there.waiting == ["small", "x"]


WHERE = st.sampled_from(["n0", "n1", "n2", "n3", "zone a", "zone b", "anywhere"])


@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    volumes=st.lists(st.tuples(WHERE, st.sampled_from(["10Gi", "10Gi", "100Gi"])), max_size=6),
    pods=st.lists(st.tuples(st.sampled_from(["", "n0", "n1", "n2", "a", "b"]), st.booleans()), min_size=1, max_size=6),
    full=st.sets(st.sampled_from(["n0", "n1", "n2", "n3"])),
)
def test_whoever_is_promised_a_volume_gets_one_and_none_is_left_to_somebody_who_waits(
    volumes: list[tuple[str, str]], pods: list[tuple[str, bool]], full: set[str]
) -> None:
    nodes = [node(f"n{index}", 2, labels={"zone": "ab"[index % 2]}) for index in range(4)]
    disks = []
    for index, (where, size) in enumerate(volumes):
        name = f"v{index}"
        zoned = where.startswith("zone")
        disks.append(in_zone(name, where[-1], size) if zoned else disk(name, where if where[0] == "n" else "", size))
    there = pool(nodes, *disks, full=" ".join(sorted(full)), grace=2)
    for index, (where, large) in enumerate(pods):
        selector = {"zone": where} if where in ("a", "b") else {HOST: where} if where else {}
        asks(there, pod(f"p{index}", whole=1, priority=9, selector=selector), size="50Gi" if large else "5Gi")
    for _ in range(12):
        before = set(chosen(there))
        plan = there.step()
        assert set(chosen(there)) == before | set(held(plan)), "all of them, and who had one keeps it"
    assert all(number == 1 for number in Counter(chosen(there).values()).values())
    there.settle()
    evicted = Counter(one.claimant.name for one in there.evicted if one.claimant is not None)
    assert evicted.keys() <= chosen(there).keys(), "nobody has left for nothing"


@pytest.mark.parametrize("launcher", [False, True])
def test_nodes_are_held_for_a_gang_where_its_members_that_share_a_claim_reach_one_volume(*, launcher: bool) -> None:
    """Also beside a member that does not name it: else both nodes would go to whoever comes later."""
    there = World([node("n0", 8), node("n1", 8)], [], reservation_delay=3600)
    builder = there.cycle.builder
    builder.put_class("local", msgspec.convert(LOCAL | LATE, StorageClass))
    for host in ("n0", "n1"):
        builder.put_volume(f"disk-{host}", disk(f"disk-{host}", host))
        half = {"main": [(str(index), 100) for index in range(4)]}
        there.add(bound(pod(f"old-{host}", whole=4), host, half, started=START - 900_000))
    builder.volumes_are_known()
    builder.put_claim(("default", "data"), claim("data"))
    waited, count = 2 * 86400, 2 + launcher
    there.add(*(using(pod(f"g-{one}", whole=4, age=waited, gang="g", gang_min=count), on("data")) for one in range(2)))
    if launcher:
        there.add(pod("g-2", cpu=1, age=waited, gang="g", gang_min=count))
    there.step()
    there.add(pod("late-0", whole=4), pod("late-1", whole=4))
    there.settle()
    late = {"late-0", "late-1"}
    assert len(late & there.where.keys()) == 1
    assert {there.reason(name) for name in late - there.where.keys()} == {"Reserved"}


def test_a_further_member_waits_where_no_node_is_left_though_the_gang_shares_a_claim_in_part() -> None:
    there = World([node("n0", 2)], [], reservation_delay=60)
    builder = there.cycle.builder
    builder.put_class("local", msgspec.convert(LOCAL | LATE, StorageClass))
    builder.put_volume("disk", disk("disk", "n0"))
    builder.volumes_are_known()
    builder.put_claim(("default", "data"), claim("data"))
    there.add(bound(pod("g-0", cpu=1, gang="g", gang_min=1), "n0"))
    there.add(*(using(pod(f"g-{one}", whole=2, age=7200, gang="g", gang_min=1), on("data")) for one in (1, 2)))
    there.add(bound(pod("old", whole=2), "n0", {"main": [("0", 100), ("1", 100)]}))
    there.settle()
    assert sorted(there.waiting) == ["g-1", "g-2"]


def test_nodes_are_held_for_all_whom_a_gang_needs_of_which_some_share_a_claim() -> None:
    """Four members need a node each; two of them share a claim, with a volume in each zone of two nodes. Held for these
    two alone the nodes were given up once there were two, and small pods went there, time and again."""
    nodes = [node(f"n{one}", 8, labels={"zone": "abc"[one // 2]}) for one in range(6)]
    there = World(nodes, [], reservation_delay=600)
    builder = there.cycle.builder
    builder.put_class("local", msgspec.convert(LOCAL | LATE, StorageClass))
    for zone in "abc":
        builder.put_volume(f"disk-{zone}", in_zone(f"disk-{zone}", zone))
    builder.volumes_are_known()
    builder.put_claim(("default", "data"), claim("data"))
    for one in range(5):
        half = {"main": [(str(index), 100) for index in range(4)]}
        there.add(bound(pod(f"old-{one}", whole=4), f"n{one}", half, started=START - 100 * one - 1))
    gang_of_four = [pod(f"g-{one}", whole=8, gang="g", gang_min=4, age=7200) for one in range(4)]
    there.add(*(using(one, on("data")) for one in gang_of_four[:2]), *gang_of_four[2:])
    there.step()
    there.add(*(pod(f"late-{one}", whole=4) for one in range(7)))
    there.settle()
    late = {f"late-{one}" for one in range(7)}
    assert len(late & there.where.keys()) == 2, "on two of the six nodes, which half of each is free of"
    for one in range(5):
        there.delete(f"old-{one}")
    assert {f"g-{one}" for one in range(4)} <= {place.pod.name for held in there.step().claims for place in held.places}


def test_a_gang_takes_the_place_that_was_made_free_where_its_own_volume_is_though_another_is_left() -> None:
    """The volume that has been chosen for its claim is none of those that are left to choose from."""
    there = pool([node("n0", 4), node("n2", 1), node("n3", 4)], disk("only", "n0"), disk("other", "n2"))
    there.add(*(bound(pod(f"low{one}", whole=1), "n0", {"main": [(str(one), 100)]}) for one in range(4)))
    there.add(bound(pod("full", whole=1, priority=9), "n2", {"main": [("0", 100)]}))
    there.add(*(bound(pod(f"high{one}", whole=1, priority=9), "n3", {"main": [(str(one), 100)]}) for one in (2, 3)))
    there.cycle.builder.put_claim(("default", "data"), claim("data"))
    asked: list[dict[str, Any]] = [{"whole": 2}, {}, {"whole": 1}, {"whole": 1}]
    members = [pod(f"g-{one}", gang="g", gang_min=4, priority=5, **more) for one, more in enumerate(asked)]
    there.add(*(using(one, on("data")) for one in members[:3]), members[3])
    assert len(there.step().evict) == 3
    there.add(pod("thief", whole=1, priority=5))
    plan = there.step()
    assert held(plan) == ["g-0", "g-1", "g-2", "g-3"]
    assert there.where.get("thief") != "n0"


@pytest.mark.parametrize("first", ["h", "x"])
@pytest.mark.parametrize("partly", [False, True])
def test_nobody_leaves_for_a_gang_whose_volume_another_one_takes_in_the_same_decision(
    *, partly: bool, first: str
) -> None:
    """Each shares a claim of its own, and there is one volume; on the other node a pod would have to leave."""
    nodes = [node(name, 2, labels={"zone": "a"}) for name in ("n0", "n1")]
    there = pool(nodes, in_zone("only", "a"), full="n1")
    for name in ("h", "x"):
        there.cycle.builder.put_claim(("default", f"c{name}"), claim(f"c{name}"))
        priority = 9 if name == first else 5
        gpus: list[dict[str, Any]] = [{"whole": 1}, {"whole": 1}, {}]
        members = [
            pod(f"{name}-{one}", gang=name, gang_min=3, priority=priority, **more) for one, more in enumerate(gpus)
        ]
        there.add(*(using(one, on(f"c{name}")) for one in members[:2]))
        there.add(members[2] if partly else using(members[2], on(f"c{name}")))
    assert held(there.step()) == [f"{first}-{one}" for one in range(3)]
    there.settle()
    assert not there.evicted
