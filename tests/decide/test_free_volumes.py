"""Decisions count local volumes: who is promised one has it, and nobody else within the same decision."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tests.decide.test_existing_volumes import LATE, LOCAL, claim, disk
from tests.decide.test_volumes import on, using
from tests.worlds import World, gang, leaving, node, pod

from tangram.api.objects import Node, NodeSelector
from tangram.api.storage import PersistentVolume, PersistentVolumeClaim, StorageClass
from tangram.snapshot.requests import existing
from tangram.snapshot.requests.free_volumes import FreeVolumes


def pool(nodes: int, **disks: str) -> World:
    """Nodes n0, n1, … with the local volumes given as NAME="node size"."""
    made = World([node(f"n{number}", 0, cpu=64) for number in range(nodes)], [])
    builder = made.cycle.builder
    builder.put_class("local", msgspec.convert(LOCAL | LATE, StorageClass))
    for name, text in disks.items():
        host, size = text.split()
        builder.put_volume(name, disk(name, host, size))
    builder.volumes_are_known()
    return made


def asks(there: World, name: str, size: str = "5Gi", *, gang_of: int = 0, **spec: Any) -> None:
    """Add a pod, or a gang of so many, whose pods have a claim each of the pod's name."""
    pods = gang(name, gang_of, cpu=1) if gang_of else [pod(name, cpu=1, age=9 - len(there.live))]
    for one in pods:
        there.cycle.builder.put_claim(("default", one.metadata.name), claim(one.metadata.name, size, **spec))
        there.add(using(one, on(one.metadata.name)))


def chosen(there: World) -> dict[str, str]:
    """Claim -> the volume that has been chosen for it."""
    table = there.cycle.builder.volumes
    found = {key[1]: table.chosen_volume(key) for key in table.chosen_for}
    return {name: one[0].metadata.name for name, one in found.items() if one is not None}


def bind(there: World, name: str, volume: PersistentVolume, bound_to: PersistentVolumeClaim) -> None:
    """What Kubernetes makes of a choice: the volume names the claim, and the claim the volume."""
    mine = msgspec.convert({"claimRef": {"namespace": "default", "name": name, "uid": f"uid-{name}"}}, dict)
    shown = msgspec.convert(msgspec.to_builtins(volume), PersistentVolume)
    reference = msgspec.convert(mine["claimRef"], type(shown.spec).__annotations__["claim_ref"])
    there.cycle.builder.put_volume(volume.metadata.name, replace(shown, spec=replace(shown.spec, claim_ref=reference)))
    there.cycle.builder.put_claim(("default", name), bound_to)


def disks(nodes: int, each: int = 1, size: str = "10Gi") -> dict[str, str]:
    return {f"d{host}-{number}": f"n{host} {size}" for host in range(nodes) for number in range(each)}


def test_a_gang_gets_a_volume_for_each_member_in_one_decision() -> None:
    there = pool(4, **disks(4))
    asks(there, "g", gang_of=4)
    plan = there.step()
    assert sorted(one.node for one in plan.provision) == ["n0", "n1", "n2", "n3"]
    assert sorted(chosen(there).values()) == ["d0-0", "d1-0", "d2-0", "d3-0"]


def test_a_gang_for_which_there_are_too_few_volumes_gets_none() -> None:
    there = pool(4, **disks(3))
    asks(there, "g", gang_of=4)
    there.settle()
    assert chosen(there) == {}
    asks(there, "p")
    there.step()
    assert chosen(there).keys() == {"p"}


def test_pods_that_need_a_volume_each_get_them_in_one_decision() -> None:
    there = pool(6, **disks(6, each=2))
    for number in range(14):
        asks(there, f"p{number}")
    there.step()
    assert len(set(chosen(there).values())) == 12, "as many as there are"
    there.settle()
    assert len(chosen(there)) == 12


def test_the_smallest_volume_that_is_large_enough_is_taken_and_larger_claims_find_theirs() -> None:
    there = pool(1, small="n0 10Gi", large="n0 100Gi")
    asks(there, "modest")
    asks(there, "greedy", "50Gi")
    there.step()
    assert chosen(there) == {"modest": "small", "greedy": "large"}


def test_a_small_claim_may_have_a_large_volume_which_a_large_claim_then_lacks() -> None:
    there = pool(1, large="n0 100Gi")
    asks(there, "modest")
    asks(there, "greedy", "50Gi")
    there.step()
    assert chosen(there) == {"modest": "large"}
    assert there.settle().reason("greedy") == "VolumeNotReady"


def test_claims_that_few_volumes_suit_come_first_whoever_asks_first() -> None:
    there = pool(1)
    fast, slow = disk("a", "n0"), disk("b", "n0")
    there.cycle.builder.put_volume("a", replace(fast, metadata=replace(fast.metadata, labels={"kind": "fast"})))
    there.cycle.builder.put_volume("b", slow)
    asks(there, "any")
    asks(there, "picky", selector={"matchLabels": {"kind": "fast"}})
    there.step()
    assert chosen(there) == {"any": "b", "picky": "a"}


def test_a_pod_with_two_claims_takes_two_volumes_of_one_node() -> None:
    there = pool(2, **disks(2) | {"more": "n1 10Gi"})
    for name in ("c", "d"):
        there.cycle.builder.put_claim(("default", name), claim(name))
    there.add(using(pod("p"), on("c"), replace(on("d"), name="more")))
    asks(there, "q")
    there.step()
    assert chosen(there) == {"c": "d1-0", "d": "more", "q": "d0-0"}


@pytest.mark.parametrize("how", ["pod deleted", "claim deleted", "volume gone", "node gone"])
def test_a_place_that_ends_gives_its_volume_back(how: str) -> None:
    there = pool(2, d="n0 10Gi", e="n1 50Gi")
    asks(there, "p")
    there.step()
    first = chosen(there)["p"]
    assert first == "d"
    builder = there.cycle.builder
    if how == "pod deleted":
        there.delete("p")
    elif how == "claim deleted":
        builder.put_claim(("default", "p"), None)
    elif how == "volume gone":
        builder.put_volume("d", None)
    else:
        builder.remove_node("n0")
    asks(there, "q")
    there.step()
    there.step()
    free = {"pod deleted": "d", "claim deleted": "d", "volume gone": "e", "node gone": "e"}[how]
    assert free in chosen(there).values()
    assert len(set(chosen(there).values())) == len(chosen(there))


def test_a_volume_that_a_claim_says_it_has_is_nobodys_to_choose_though_it_does_not_show_it_yet() -> None:
    there = pool(1, d="n0 10Gi")
    asks(there, "p")
    there.step()
    there.cycle.builder.put_claim(("default", "p"), claim("p", volume="d"))
    asks(there, "q")
    there.settle()
    assert there.where == {"p": "n0"}
    assert chosen(there) == {}
    assert there.reason("q") == "VolumeNotReady"


def test_a_bound_pod_and_a_place_that_is_held_count_no_volume_twice() -> None:
    there = pool(1, **disks(1, each=3))
    asks(there, "p0")
    there.step()
    asks(there, "p1")
    there.step()
    volume, name = there.cycle.builder.volumes, chosen(there)["p0"]
    bind(there, "p0", volume._volumes[name], claim("p0", volume=name))
    asks(there, "p2")
    asks(there, "p3")
    there.settle()
    assert there.where == {"p0": "n0"}
    assert sorted(chosen(there)) == ["p1", "p2"]
    assert there.reason("p3") == "VolumeNotReady"


def test_volumes_follow_the_label_of_their_node() -> None:
    there = pool(2, d="n0 10Gi")
    moved: Node = node("n1", 0, cpu=64, labels={"kubernetes.io/hostname": "n0"})
    asks(there, "p")
    there.cycle.builder.put_node(replace(node("n0", 0), spec=replace(node("n0", 0).spec, unschedulable=True)))
    assert there.settle().waiting == ["p"]
    there.cycle.builder.put_node(moved)
    assert [one.node for one in there.step().provision] == ["n1"]


def test_a_member_whose_volume_goes_to_another_loses_its_gang_the_places_and_the_volumes() -> None:
    there = pool(2, **disks(2))
    asks(there, "g", gang_of=2)
    there.step()
    lost = chosen(there)["g-0"]
    builder = there.cycle.builder
    other = {"namespace": "default", "name": "other", "uid": "uid-other"}
    host = there.cycle.builder.volumes._volumes[lost]
    taken = disk(lost, f"n{lost[1]}", claimRef=other)
    assert host.metadata.name == lost
    builder.put_volume(lost, taken)
    there.step()
    assert chosen(there) == {}


def test_sizes_that_nobody_asks_for_any_more_are_counted_no_longer() -> None:
    free = FreeVolumes()
    for name, size in (("d", "10Gi"), ("e", "50Gi")):
        free.put(name, None, disk(name, "n0", size), free=True)
    kinds = [free.kind_of(claim("c", size)) for size in ("5Gi", "8Gi", "20Gi")]
    modest, same, greedy = (kind for kind in kinds if kind is not None)
    assert modest == same, "the same volumes suit them"
    assert [free.count(kind, lambda _: True) for kind in (modest, same, greedy)] == [True, False, True]
    assert free.on(node("n0", 0)) == {modest.resource: 2, greedy.resource: 1}
    assert dict(free.asked([greedy])) == {modest.resource: 1, greedy.resource: 1}
    free.retain({greedy.resource})
    assert free.on(node("n0", 0)) == {greedy.resource: 1}
    assert free.kind_of(claim("c", "100Gi")) is None


def labelled(volume: PersistentVolume, **labels: str) -> PersistentVolume:
    return replace(volume, metadata=replace(volume.metadata, labels=labels))


def of_media(*media: str) -> World:
    """One node with a disk of each medium (several media in one word: it is labelled as each of these)."""
    there = pool(1)
    for number, medium in enumerate(media):
        labels = dict.fromkeys(medium.split("+"), "yes")
        there.cycle.builder.put_volume(f"d{number}", labelled(disk(f"d{number}", "n0"), **labels))
    return there


def wants(there: World, claim_name: str, medium: str) -> None:
    selector = {"matchLabels": {medium: "yes"}}
    there.cycle.builder.put_claim(("default", claim_name), claim(claim_name, selector=selector))


def test_claims_for_different_volumes_of_one_class_do_not_count_against_each_other() -> None:
    there = of_media("ssd", "hdd")
    for medium in ("ssd", "hdd"):
        wants(there, medium, medium)
    there.add(using(pod("p", cpu=1), on("ssd"), on("hdd")))
    there.step()
    assert chosen(there) == {"ssd": "d0", "hdd": "d1"}


def test_members_of_a_gang_get_one_of_each_kind() -> None:
    there = of_media("ssd", "hdd")
    for name, medium in (("g-0", "ssd"), ("g-1", "hdd")):
        wants(there, name, medium)
    there.add(*(using(one, on(one.metadata.name)) for one in gang("g", 2, cpu=1)))
    there.step()
    assert chosen(there) == {"g-0": "d0", "g-1": "d1"}


def test_a_disk_that_both_would_do_with_is_counted_once() -> None:
    """The last volume is of both kinds: with it there are two of each, and three for the claims of both."""
    there = of_media("ssd", "hdd", "ssd+hdd")
    for number, medium in enumerate(("ssd", "ssd", "hdd", "hdd")):
        wants(there, f"p{number}", medium)
        there.add(using(pod(f"p{number}", cpu=1, age=9 - number), on(f"p{number}")))
    there.settle()
    found = chosen(there)
    assert len(found) == 3
    assert len(set(found.values())) == 3


def test_a_gang_for_which_there_are_too_few_of_two_kinds_together_gets_none() -> None:
    there = of_media("ssd", "hdd", "ssd+hdd")
    for number, medium in enumerate(("ssd", "ssd", "hdd", "hdd")):
        wants(there, f"g-{number}", medium)
    there.add(*(using(one, on(one.metadata.name)) for one in gang("g", 4, cpu=1)))
    there.settle()
    assert chosen(there) == {}
    there.cycle.builder.put_volume("d3", labelled(disk("d3", "n0"), hdd="yes"))
    there.step()
    assert len(set(chosen(there).values())) == 4


def test_of_many_kinds_that_overlap_no_node_is_promised_more_volumes_than_it_has() -> None:
    """Each disk is of all kinds but two: no kind covers another, and each alone would let all pods go to one node."""
    there = pool(6)
    for number in range(12):
        labels = {f"l{kind}": "yes" for kind in range(12) if kind not in (number, (number + 1) % 12)}
        there.cycle.builder.put_volume(f"d{number}", labelled(disk(f"d{number}", f"n{number // 2}"), **labels))
    for number in range(12):
        wants(there, f"p{number}", f"l{number}")
        there.add(using(pod(f"p{number}", cpu=1), on(f"p{number}")))
    there.step()
    assert len(set(chosen(there).values())) >= 11


def test_whoever_makes_claims_does_not_decide_how_much_is_counted() -> None:
    """Each claim asks for labels of its own that all disks satisfy: beyond a number they are decided one by one."""
    there = pool(4, **disks(4, each=25))
    for number in range(80):
        wanted = [{"key": "medium", "operator": "NotIn", "values": [str(number)]}]
        asks(there, f"p{number:02}", selector={"matchExpressions": wanted})
    there.settle()
    assert len(there.cycle.builder.volumes.free.named) < 100
    assert len(set(chosen(there).values())) == 80


def test_volumes_of_a_zone_are_found_once_for_all_nodes_that_reach_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = list[str](), existing.is_met

    def is_met(affinity: NodeSelector, node: Node) -> bool:
        asked.append(node.metadata.name)
        return real(affinity, node)

    free = FreeVolumes()
    for number in range(30):
        here = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]}
        volume = disk(f"d{number}", nodeAffinity={"required": {"nodeSelectorTerms": [here]}})
        free.put(f"d{number}", None, volume, free=True)
    kind = free.kind_of(claim("c"))
    assert kind is not None
    free.count(kind, lambda _: True)
    monkeypatch.setattr(existing, "is_met", is_met)
    for number in range(5):
        assert free.on(node(f"n{number}", 0, labels={"zone": "a"})) == {kind.resource: 30}
    assert asked == ["n0", "n1", "n2", "n3", "n4"], "and not for each volume"


def test_kinds_that_come_to_have_a_volume_in_common_count_as_each_other() -> None:
    free = FreeVolumes()
    disks = {name: labelled(disk(name, "n0"), **{name: "yes"}) for name in ("ssd", "hdd")}
    for name, volume in disks.items():
        free.put(name, None, volume, free=True)
    ssd, hdd = (
        kind
        for name in disks
        if (kind := free.kind_of(claim("c", selector={"matchLabels": {name: "yes"}}))) is not None
    )
    assert free.count(ssd, lambda _: True)
    assert free.count(hdd, lambda _: True)
    assert dict(free.asked([ssd])) == {ssd.resource: 1}
    both = labelled(disk("both", "n0"), ssd="yes", hdd="yes")
    assert free.put("both", None, both, free=True), "what claims ask for is something else now"
    either = f"{hdd.resource} or {ssd.resource}"
    assert dict(free.asked([ssd])) == {ssd.resource: 1, either: 1}
    assert dict(free.asked([hdd])) == {hdd.resource: 1, either: 1}
    assert free.on(node("n0", 0)) == {ssd.resource: 2, hdd.resource: 2, either: 3}
    alone = labelled(disk("hdd", "n0"), other="yes")
    assert free.put("hdd", disks["hdd"], alone, free=True), "all of hdd are of ssd now"
    assert dict(free.asked([ssd])) == {ssd.resource: 1}
    assert dict(free.asked([hdd])) == {ssd.resource: 1, hdd.resource: 1}
    assert free.put("both", both, None, free=False)
    assert dict(free.asked([hdd])) == {hdd.resource: 1}
    free.retain({hdd.resource})
    assert free.on(node("n0", 0)) == {hdd.resource: 0}


def test_a_volume_that_is_kept_for_a_claim_though_it_counts_as_before_is_found() -> None:
    there = pool(2, d="n0 10Gi", e="n1 10Gi")
    there.cycle.builder.put_node(node("n1", 0, cpu=0))
    there.cycle.builder.put_node(node("n0", 0, cpu=0))
    asks(there, "p")
    there.settle()
    kept = {"namespace": "default", "name": "p", "uid": "uid-p"}
    there.cycle.builder.put_volume("e", disk("e", "n1", "10Gi", claimRef=kept))
    for name in ("n0", "n1"):
        there.cycle.builder.put_node(node(name, 0, cpu=64))
    [place] = there.step().claims[0].places
    assert place.node == "n1"


def test_pods_that_are_gone_leave_nothing_behind_of_their_claims() -> None:
    """Each is shown as leaving before it is gone, as every pod with a finalizer is."""
    world = pool(1)
    for number in range(3):
        one = using(pod(f"p{number}"), on(f"p{number}"))
        world.add(one)
        world.add(leaving(one))
        world.delete(f"p{number}")
    assert not world.cycle.builder.users._users
    assert not world.cycle.builder.users._used
