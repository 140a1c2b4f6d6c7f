"""Volumes that exist (static local disks), claims for one pod at a time, and how many volumes a node can have."""

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tests.decide.test_volumes import on, using
from tests.worlds import World, bound, leaving, node, pod

from tangram.api.objects import Pod, Taint
from tangram.api.storage import CSINode, PersistentVolume, PersistentVolumeClaim, StorageClass
from tangram.plan import PodName, Provision
from tangram.snapshot import legal

LOCAL = {"metadata": {"name": "local"}, "provisioner": "kubernetes.io/no-provisioner"}
MADE = {"metadata": {"name": "made"}, "provisioner": "disks.example.com"}
LATE = {"volumeBindingMode": "WaitForFirstConsumer"}
BOUND = {"pv.kubernetes.io/bind-completed": "yes"}


def disk(name: str, host: str = "", size: str = "10Gi", kind: str = "local", **spec: Any) -> PersistentVolume:
    """A volume that belongs to nobody, on a host, or reached from everywhere."""
    here = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [host]}]}
    affinity = {"nodeAffinity": {"required": {"nodeSelectorTerms": [here]}}} if host else {}
    made = {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"], "storageClassName": kind}
    status = {"phase": "Available"}
    return msgspec.convert(
        {"metadata": {"name": name}, "spec": made | affinity | spec, "status": status}, PersistentVolume
    )


def claim(name: str, size: str = "5Gi", kind: str = "local", *, volume: str = "", **spec: Any) -> PersistentVolumeClaim:
    made = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": size}}, "storageClassName": kind}
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "annotations": BOUND if volume else {}}
    return msgspec.convert(
        {"metadata": metadata, "spec": made | {"volumeName": volume} | spec, "status": {"phase": "Pending"}},
        PersistentVolumeClaim,
    )


def world(
    *pods: Pod, disks: tuple[PersistentVolume, ...] = (), claims: tuple[PersistentVolumeClaim, ...] = ()
) -> World:
    made = World([node("a", 0), node("b", 0)], [])
    table = made.cycle.builder.volumes
    for kind in (LOCAL, MADE):
        table.put_class(kind["metadata"]["name"], msgspec.convert(kind | LATE, StorageClass))  # type: ignore[index]
    for one in disks:
        table.put_volume(one.metadata.name, one)
    for each in claims:
        made.cycle.builder.put_claim(("default", each.metadata.name), each)
    made.cycle.builder.volumes_are_known()
    made.add(*pods)
    return made


def limit(there: World, **counts: int) -> None:
    """How many volumes of the driver each node can have."""
    for name, count in counts.items():
        drivers = {"drivers": [{"name": "disks.example.com", "nodeID": name, "allocatable": {"count": count}}]}
        there.cycle.builder.put_drivers(name, msgspec.convert({"metadata": {"name": name}, "spec": drivers}, CSINode))


def attached(name: str) -> tuple[PersistentVolume, PersistentVolumeClaim]:
    """A driver's volume, bound to the claim of its name."""
    reference = {"namespace": "default", "name": name}
    csi = {"driver": "disks.example.com", "volumeHandle": name}
    return disk(name, kind="made", csi=csi, claimRef=reference), claim(name, kind="made", volume=name)


def test_a_pod_goes_where_a_free_local_volume_suits_its_claim_and_gets_that_volume() -> None:
    small, far, near = disk("small", "a", "1Gi"), disk("far", "b", "50Gi"), disk("near", "b", "20Gi")
    found = world(using(pod("p"), on("c")), disks=(small, far, near), claims=(claim("c"),))
    plan = found.step()
    assert plan.provision == (Provision(PodName("default", "p", "uid-p"), "c", "b"),)
    chosen = found.cycle.builder.volumes.chosen_volume(("default", "c"))
    assert chosen is not None
    assert chosen[0].metadata.name == "near", "the smallest that is large enough"
    assert found.step().place == (), "it is bound once its claim is"
    table = found.cycle.builder.volumes
    table.put_volume("near", disk("near", "b", "20Gi", claimRef={"namespace": "default", "name": "c", "uid": "uid-c"}))
    assert not found.step().place
    found.cycle.builder.put_claim(("default", "c"), claim("c", volume="near"))
    assert found.settle().where == {"p": "b"}


@pytest.mark.parametrize(
    "unfit",
    [
        disk("d", "a", "1Gi"),
        disk("d", "a", kind="other"),
        disk("d", "a", accessModes=["ReadOnlyMany"]),
        disk("d", "a", volumeMode="Block"),
        disk("d", "a", volumeAttributesClassName="gold"),
        disk("d", "a", claimRef={"namespace": "default", "name": "another"}),
        disk("d", "moon"),
    ],
)
def test_a_pod_waits_while_no_free_volume_suits_its_claim(unfit: PersistentVolume) -> None:
    found = world(using(pod("p"), on("c")), disks=(unfit,), claims=(claim("c"),)).settle()
    assert (found.where, found.reason("p") in ("VolumeNotReady", "InsufficientResource")) == ({}, True)


def test_two_pods_do_not_get_one_volume() -> None:
    pods = [using(pod(f"p{number}"), on(f"c{number}")) for number in range(2)]
    found = world(*pods, disks=(disk("d", "a"),), claims=(claim("c0"), claim("c1")))
    found.step()
    given = [found.cycle.builder.volumes.chosen_volume(("default", name)) for name in ("c0", "c1")]
    assert [one is not None for one in given].count(True) == 1
    found.step()
    assert "no free volume suits it" in str(found.cycle.last_plan.hold) or len(found.told) >= 1


def test_all_claims_of_a_pod_are_served_on_one_node() -> None:
    two = using(pod("p"), on("c"), replace(on("d"), name="more"))
    apart = (disk("a1", "a"), disk("b1", "b"))
    found = world(two, disks=apart, claims=(claim("c"), claim("d"))).settle()
    assert found.reason("p") == "InsufficientResource"
    together = world(two, disks=(*apart, disk("b2", "b")), claims=(claim("c"), claim("d")))
    assert {one.node for one in together.step().provision} == {"b"}


def test_claims_of_different_classes_are_each_served_by_volumes_of_their_own_reach() -> None:
    """One on the node, one in its zone."""
    here = {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["west"]}]}
    zonal = disk("zonal", kind="made", nodeAffinity={"required": {"nodeSelectorTerms": [here]}})
    found = world(disks=(disk("a0", "a"), disk("b0", "b"), zonal), claims=(claim("c"), claim("d", kind="made")))
    static = {"metadata": {"name": "made"}, "provisioner": "kubernetes.io/no-provisioner"}
    found.cycle.builder.volumes.put_class("made", msgspec.convert(static | LATE, StorageClass))
    for name, zone in {"a": "east", "b": "west"}.items():
        found.cycle.builder.put_node(node(name, 0, labels={"zone": zone}))
    found.add(using(pod("p"), on("c"), on("d")))
    assert {(one.claim, one.node) for one in found.step().provision} == {("c", "b"), ("d", "b")}


def test_a_claim_of_a_class_that_makes_volumes_goes_anywhere() -> None:
    found = world(using(pod("p"), on("c")), disks=(disk("d", "b", kind="made"),), claims=(claim("c", kind="made"),))
    assert [one.claim for one in found.step().provision] == ["c"]


def test_a_claim_for_one_pod_at_a_time_keeps_the_second_waiting_until_the_first_has_gone() -> None:
    volume, alone = disk("v", claimRef={"namespace": "default", "name": "c"}), claim("c", volume="v")
    alone = replace(alone, spec=replace(alone.spec, access_modes=("ReadWriteOncePod",)))
    pods = [using(pod(f"p{number}", age=9 - number), on("c")) for number in range(2)]
    found = world(*pods, disks=(volume,), claims=(alone,)).settle()
    assert (len(found.where), found.reason("p1")) == (1, "VolumeInUse")
    found.delete("p0")
    assert found.settle().where.keys() == {"p1"}


def test_who_uses_a_claim_is_found_when_it_becomes_known_that_it_is_for_one_pod_at_a_time() -> None:
    volume, alone = disk("v", claimRef={"namespace": "default", "name": "c"}), claim("c", volume="v")
    found = world(bound(using(pod("first"), on("c")), "a"), disks=(volume,), claims=(alone,))
    found.step()
    alone = replace(alone, spec=replace(alone.spec, access_modes=("ReadWriteOncePod",)))
    found.cycle.builder.put_claim(("default", "c"), alone)
    found.add(using(pod("p"), on("c")))
    assert found.settle().reason("p") == "VolumeInUse"


def test_a_node_takes_as_many_volumes_of_a_driver_as_it_can_have() -> None:
    volumes = [attached(f"v{number}") for number in range(5)]
    pods = [using(pod(f"p{number}", cpu=0), on(f"v{number}")) for number in range(5)]
    found = world(*pods, disks=tuple(one for one, _ in volumes), claims=tuple(one for _, one in volumes))
    limit(found, a=1, b=2)
    assert len(found.settle().where) == 3
    assert sorted(found.where.values()) == ["a", "b", "b"]
    [waiting, _] = found.waiting
    assert found.reason(waiting) == "InsufficientResource"
    found.delete(next(name for name, where in found.where.items() if where == "a"))
    assert sorted(found.settle().where.values()) == ["a", "b", "b"]


def test_a_volume_that_several_pods_of_a_node_have_counts_once() -> None:
    first, second = attached("v"), attached("w")
    pods = [bound(using(pod(f"p{number}", cpu=0), on("v")), "a") for number in range(3)]
    found = world(*pods, using(pod("q", cpu=0), on("w")), disks=(first[0], second[0]), claims=(first[1], second[1]))
    limit(found, a=2, b=0)
    assert found.settle().where["q"] == "a"


def test_after_a_restart_volumes_of_bound_pods_count_whatever_is_known_first() -> None:
    first, second = attached("v"), attached("w")
    made = World([node("a", 0)], [bound(using(pod("old"), on("v")), "a"), using(pod("new"), on("w"))])
    limit(made, a=1)
    made.step()
    builder = made.cycle.builder
    for volume, each in (first, second):
        builder.put_claim(("default", each.metadata.name), each)
        builder.put_volume(volume.metadata.name, volume)
    builder.volumes_are_known()
    assert made.settle().reason("new") in ("InsufficientResource", "ExceedsNodeCapacity")


def test_a_place_that_is_held_for_a_volume_counts_although_the_node_is_counted_anew() -> None:
    disks, claims = zip(*(attached(name) for name in ("v", "w", "x")), strict=True)
    found = world(disks=disks, claims=(*claims, claim("m", kind="made")))
    limit(found, a=3, b=0)
    found.add(bound(using(pod("f", cpu=0), on("v")), "a"), using(pod("p", cpu=0, age=9), on("m")))
    assert [one.places[0].pod.name for one in found.step().claims] == ["p"]
    found.add(using(pod("g", cpu=0), on("w")))
    assert [place.pod.name for place in found.step().place] == ["g"]
    found.add(using(pod("q", cpu=0), on("x")))
    assert found.settle().reason("q") == "InsufficientResource"


def test_the_volume_of_a_bound_pod_counts_when_it_becomes_known() -> None:
    (v_disk, v_claim), (w_disk, w_claim) = attached("v"), attached("w")
    found = world(disks=(w_disk,), claims=(w_claim,))
    limit(found, a=1, b=0)
    found.add(bound(using(pod("f", cpu=0, scheduler="default-scheduler"), on("v")), "a"))
    found.cycle.builder.put_volume("v", v_disk)
    found.cycle.builder.put_claim(("default", "v"), v_claim)
    found.add(using(pod("q", cpu=0), on("w")))
    assert found.settle().reason("q") == "InsufficientResource"


@pytest.mark.slow
def test_a_pod_waits_for_its_volume_no_longer_because_the_node_is_said_to_be_another() -> None:
    found = world(claims=(claim("m", kind="made"),))
    limit(found, a=3, b=3)
    found.add(using(pod("p", cpu=0), on("m")))
    begun = found.now
    while found.now < begun + 700 and not (found.now > begun + 590 and not found.cycle.builder.claims.held):
        mark = (Taint("candidate", "PreferNoSchedule", str(found.now)),)
        for name in ("a", "b"):
            found.cycle.builder.put_node(node(name, 0, taints=mark))
        found.step()
    assert found.now <= begun + 603
    assert found.reason("p") == "VolumeNotReady"


def test_a_node_whose_drivers_are_gone_has_no_limit_any_more() -> None:
    disks, claims = zip(*(attached(name) for name in ("v", "w")), strict=True)
    found = world(disks=disks, claims=claims)
    limit(found, a=1, b=1)
    found.add(*(using(pod(name, cpu=0), on(name)) for name in ("v", "w")))
    gone = msgspec.json.decode(b'{"metadata":{"name":"a"},"spec":{"drivers":null}}', type=CSINode)
    found.cycle.builder.put_drivers("a", gone)
    found.cycle.builder.put_node(node("b", 0, unschedulable=True))
    assert found.settle().where == {"v": "a", "w": "a"}


def test_a_volume_that_was_chosen_for_a_claim_is_free_when_the_claim_is_gone() -> None:
    found = world(using(pod("p", cpu=0), on("c")), disks=(disk("d", "a"),), claims=(claim("c"), claim("other")))
    assert [one.claim for one in found.step().provision] == ["c"]
    found.delete("p")
    found.cycle.builder.put_claim(("default", "c"), None)
    found.add(using(pod("q", cpu=0), on("other")))
    assert [one.claim for one in found.step().provision] == ["other"]


def test_who_gets_one_of_its_volumes_only_keeps_none() -> None:
    disks = (disk("x", "a", kind="scarce"), disk("y0", "a"), disk("y1", "a"))
    claims = tuple(claim(f"{kind[0]}{pod}", kind=kind) for pod in (0, 1) for kind in ("scarce", "local"))
    found = world(disks=disks, claims=claims)
    scarce = LOCAL | LATE | {"metadata": {"name": "scarce"}}
    found.cycle.builder.put_class("scarce", msgspec.convert(scarce, StorageClass))
    found.add(
        *(using(pod(f"p{number}", cpu=0, age=9 - number), on(f"s{number}"), on(f"l{number}")) for number in (0, 1))
    )
    found.settle()
    found.cycle.builder.put_claim(("default", "other"), claim("other"))
    found.add(using(pod("q", cpu=0), on("other")))
    assert "other" in [one.claim for one in found.step().provision]


def test_nobody_is_evicted_for_a_place_that_another_pod_with_the_same_volume_keeps() -> None:
    disks, claims = zip(*(attached(name) for name in ("v", "w", "x")), strict=True)
    found = world(disks=disks, claims=claims)
    limit(found, a=2, b=0)
    found.add(*(bound(using(pod(f"p{number}", cpu=0), on("v")), "a") for number in (0, 1)))
    found.add(bound(using(pod("q", cpu=0, priority=9), on("w")), "a"), using(pod("high", cpu=0, priority=9), on("x")))
    assert found.settle().evicted == []
    found.delete("p0")
    assert [one.pod.name for one in found.settle().evicted] == ["p1"]
    assert found.where == {"high": "a", "q": "a"}


def test_a_place_is_free_when_the_last_pod_with_a_volume_has_left() -> None:
    disks, claims = zip(*(attached(name) for name in ("v", "w")), strict=True)
    found = world(disks=disks, claims=claims)
    limit(found, a=1, b=0)
    found.add(*(bound(using(pod(f"p{number}", cpu=0), on("v")), "a") for number in (0, 1)))
    found.step()
    gone = leaving(found.pod("p0"))
    found.add(gone, using(pod("high", cpu=0, priority=9), on("w")))
    assert found.step().claims == (), "the other one keeps it"
    assert found.evicted == []


def test_a_pod_holds_what_its_node_comes_to_offer_while_its_volumes_come_to_be_counted() -> None:
    """Its request is another one from then on, but it is the same pod that holds all of it."""
    volume, mine = attached("mine")
    there = world(disks=(volume,), claims=(mine,))
    there.add(bound(using(pod("p", extra={"example.com/link": 1}), on("mine")), "a"))
    there.step()
    there.cycle.builder.put_node(node("a", 0, extra={"example.com/link": 4}))
    limit(there, a=2)
    found = there.cycle.builder.snapshot(there.now)
    column, row = found.resources.index("example.com/link"), there.cycle.builder.nodes.rows["a"]
    assert found.nodes.free[row, column] == 3
    assert found.nodes.free[row, found.resources.index("attachable-volumes-csi-disks.example.com")] == 1
    assert list(legal.miscounted(there.cycle.builder)) == []
