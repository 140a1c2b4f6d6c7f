"""Gangs near each other: all members in one domain of a required level, and of a preferred one if possible."""

from collections.abc import Iterable, Mapping

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests import strategies as worlds
from tests.budget import examples
from tests.worlds import START, World, bound, gang, node, pod, policy

from tangram.api import names
from tangram.api.objects import Affinity, Node, NodeAffinity, NodeSelectorTerm, Pod, PreferredTerm, Requirement
from tangram.api.policy import HybridPolicy
from tangram.decide.hooks import View
from tangram.decide.registry import BUILT_IN, Registry
from tangram.snapshot.arrays import Bool, Int32

REGION, ZONE, RACK = (f"topology.kubernetes.io/{level}" for level in ("region", "zone", "rack"))
CLIQUE = "nvidia.com/gpu.clique"


def pool(*racks: str, gpus: int = 8, **labels: str) -> list[Node]:
    """Nodes by rack: ``"eu/a/r1x3"`` are three nodes in rack r1 of zone a of region eu, called r1-0, r1-1, r1-2."""
    found = []
    for place in racks:
        path, _, count = place.rpartition("x")
        told = dict(zip((REGION, ZONE, RACK), path.split("/"), strict=True)) | labels
        told = {key: value for key, value in told.items() if value}
        name = path.replace("/", "-").strip("-")
        found += [node(f"{name}-{index}", gpus, labels=told) for index in range(int(count))]
    return found


def team(size: int, *, required: str = "", preferred: str = "", name: str = "g", **options: object) -> list[Pod]:
    """A gang of pods with eight GPUs each, unless told."""
    notes = {names.TOPOLOGY_REQUIRED: required, names.TOPOLOGY_PREFERRED: preferred}
    asked = {"whole": 8} if not {"whole", "gpu", "cpu"} & options.keys() else {}
    return gang(name, size, annotations=notes, **asked | options)


def full(*where: str, gpus: int = 8) -> list[Pod]:
    """Pods that hold all GPUs of these nodes."""
    devices = [(str(index), 100) for index in range(gpus)]
    return [bound(pod(f"full-{name}", whole=gpus), name, {"main": devices}) for name in where]


def homes(world: World, prefix: str = "g-") -> set[str]:
    """The racks (names of nodes without their number) that a gang is in."""
    return {where.rpartition("-")[0] for name, where in world.where.items() if name.startswith(prefix)}


TWO_RACKS = pool("eu/a/r1x2", "eu/a/r2x3")


@pytest.mark.parametrize(
    ("size", "wish", "expected"),
    [
        pytest.param(2, {"required": "rack"}, {"eu-a-r1"}, id="the tightest rack, so that the large one stays whole"),
        pytest.param(3, {"required": "rack"}, {"eu-a-r2"}, id="the only rack that is large enough"),
        pytest.param(4, {"required": "rack"}, set(), id="no rack is large enough: the gang waits"),
        pytest.param(4, {"preferred": "rack"}, {"eu-a-r1", "eu-a-r2"}, id="a wish is given up"),
        pytest.param(2, {"required": RACK}, {"eu-a-r1"}, id="a level can be named by its label"),
        pytest.param(4, {"required": "zone", "preferred": "rack"}, {"eu-a-r1", "eu-a-r2"}, id="both"),
        pytest.param(3, {"required": "zone", "preferred": "rack"}, {"eu-a-r2"}, id="both, the narrow one fits"),
        pytest.param(2, {"required": "nvlink-domain"}, set(), id="no node has the label"),
        pytest.param(2, {"required": "host"}, set(), id="two nodes are never one host"),
    ],
)
def test_a_gang_in_two_racks(size: int, wish: Mapping[str, str], expected: set[str]) -> None:
    world = World(TWO_RACKS, team(size, **wish)).settle()
    assert homes(world) == expected
    assert bool(world.waiting) == (not expected)


def test_small_members_share_a_host() -> None:
    world = World(pool("eu/a/r1x2", gpus=4), team(4, required="host", whole=1)).settle()
    assert len(set(world.where.values())) == 1


def test_an_nvlink_domain_is_a_level() -> None:
    nodes = pool("eu/a/r1x2", **{CLIQUE: "fabric.1"}) + pool("eu/a/r2x2", **{CLIQUE: "fabric.2"})
    world = World(
        nodes, team(2, required="nvlink-domain", name="g") + team(2, required="nvlink-domain", name="h")
    ).settle()
    assert sorted([homes(world), homes(world, "h-")], key=str) == [{"eu-a-r1"}, {"eu-a-r2"}]


def test_racks_of_one_name_in_two_zones_are_two_racks() -> None:
    world = World(pool("eu/a/r1x2", "eu/b/r1x2"), team(3, required="rack")).settle()
    assert world.where == {}
    assert any(f"the best candidate is rack {zone}/r1, which has 16 free GPUs" in message(world) for zone in "ab")


def message(world: World, name: str = "g-0") -> str:
    """What a waiting pod was last told."""
    found = ""
    fresh = World(world.nodes, list(world.live.values()), world.policy)
    for hold in fresh.step().hold:
        if hold.pod.name == name:
            found = hold.message
    return found


def test_members_that_are_bound_fix_the_domain() -> None:
    """One member is lost; r1 is full by now, and r2, though it has room, is another rack."""
    world = World(TWO_RACKS, team(2, required="rack")).settle()
    assert homes(world) == {"eu-a-r1"}
    gone = world.pod("g-1")
    free = gone.spec.node_name
    world.delete("g-1")
    world.add(bound(pod("other", whole=8), free, {"main": [(str(index), 100) for index in range(8)]}))
    world.add(*(one for one in team(2, required="rack", uid="") if one.metadata.name == "g-1"))
    world.settle()
    assert world.waiting == ["g-1"]
    assert world.reason("g-1") == "TopologyDomainFull"
    assert message(world, "g-1") == (
        "gang default/g needs 8 GPUs for 1 member within one rack; "
        "its other members run in rack r1, which has 0 free GPUs and room for 0"
    )
    world.delete("other")
    assert homes(world.settle()) == {"eu-a-r1"}


def test_members_that_are_bound_draw_the_others_near_where_that_is_only_preferred() -> None:
    world = World(TWO_RACKS, [*full("eu-a-r1-0"), *team(2, preferred="rack", minimum=1)])
    mate = bound(team(2, preferred="rack", minimum=1)[0], "eu-a-r2-0", {"main": [(str(i), 100) for i in range(8)]})
    world.add(mate)
    assert homes(world.settle()) == {"eu-a-r2"}


@pytest.mark.parametrize("stays", ["eu-a-r1", "eu-a-r2"])
def test_a_member_that_has_gone_draws_nobody_near(stays: str) -> None:
    """The others follow the one that is left."""
    first, second, third = team(3, preferred="rack", minimum=1)
    eight, gone = (
        {"main": [(str(index), 100) for index in range(8)]},
        {"eu-a-r1": "eu-a-r2", "eu-a-r2": "eu-a-r1"}[stays],
    )
    world = World(TWO_RACKS, [bound(first, f"{stays}-0", eight), bound(second, f"{gone}-0", eight), third])
    world.delete(second.metadata.name)
    assert homes(world.settle()) == {stays}


def test_members_already_apart_cannot_be_together() -> None:
    members = team(3, required="rack")
    eight = {"main": [(str(index), 100) for index in range(8)]}
    world = World(
        TWO_RACKS, [bound(members[0], "eu-a-r1-0", eight), bound(members[1], "eu-a-r2-0", eight), members[2]]
    ).settle()
    assert world.reason("g-2") == "TopologyDomainFull"
    assert message(world, "g-2").endswith("its bound members are in different ones")


def test_the_reason_names_the_best_domain() -> None:
    world = World(TWO_RACKS, [*full("eu-a-r1-0"), *team(4, required="rack")]).settle()
    assert {reason for _, reason in world.told} == {"TopologyDomainFull"}
    assert message(world) == (
        "gang default/g needs 32 GPUs for 4 members within one rack; "
        "the best candidate is rack r2, which has 24 free GPUs and room for 3"
    )


def test_free_gpus_that_no_member_can_use_are_told_as_they_are() -> None:
    """Twelve GPUs are free in the rack, and one node has all of the eight that a member needs."""
    held = bound(pod("half", whole=4), "eu-a-r1-0", {"main": [(str(index), 100) for index in range(4)]})
    world = World(pool("eu/a/r1x2"), [held, *team(2, required="rack")]).settle()
    assert message(world).endswith("the best candidate is rack r1, which has 12 free GPUs and room for 1")


def test_a_gang_without_gpus_is_told_in_cpus() -> None:
    world = World(pool("eu/a/r1x2", gpus=0), team(3, required="rack", cpu=64)).settle()
    assert message(world) == (
        "gang default/g needs 3 members within one rack; "
        "the best candidate is rack r1, which has 192 free CPUs and room for 2"
    )


def test_no_node_has_the_label() -> None:
    world = World([node("n0"), node("n1")], team(2, required="rack")).settle()
    assert message(world).endswith(f"within one rack, but no node has the label {RACK}")


def test_an_elastic_gang_takes_the_domain_that_holds_most_of_it() -> None:
    world = World(pool("eu/a/r1x2", "eu/a/r2x3"), team(5, required="rack", minimum=2)).settle()
    assert (homes(world), len(world.where)) == ({"eu-a-r2"}, 3)


def test_a_preferred_level_never_makes_a_gang_smaller() -> None:
    world = World(TWO_RACKS, team(5, preferred="rack", minimum=2)).settle()
    assert len(world.where) == 5


def test_a_wish_is_given_up_level_by_level() -> None:
    """No rack holds five; zone b does, and zone a with two racks does too, but leaves more over."""
    world = World(
        pool("eu/a/r1x4", "eu/a/r2x4", "eu/b/r3x3", "eu/b/r4x3", "us/c/r5x4"), team(5, preferred="rack")
    ).settle()
    assert homes(world) == {"eu-b-r3", "eu-b-r4"}


def test_roles_share_the_domain() -> None:
    """The launcher, without GPUs, goes where the workers are."""
    together = {names.TOPOLOGY_REQUIRED: "rack"}
    launcher = pod("g-launcher", gang="g", gang_min=3, cpu=1, annotations=together)
    workers = [pod(f"g-{index}", gang="g", gang_min=3, whole=8) for index in range(2)]
    nodes = [*TWO_RACKS, *pool("eu/a/r3x3", gpus=0)]
    world = World(nodes, [launcher, *workers, *full("eu-a-r2-0", "eu-a-r2-1")]).settle()
    assert homes(world) == {"eu-a-r1"}
    assert len(world.where) == 5


def test_the_narrowest_level_that_any_member_names_holds() -> None:
    members = [
        pod(f"g-{level}", gang="g", gang_min=2, whole=8, annotations={names.TOPOLOGY_REQUIRED: level})
        for level in ("zone", "rack")
    ]
    world = World(pool("eu/a/r1x1", "eu/a/r2x1", "eu/b/r3x2"), members).settle()
    assert homes(world) == {"eu-b-r3"}


class TestWithoutAWord:
    def test_a_gang_stays_within_one_zone(self) -> None:
        world = World(pool("eu/a/r1x1", "eu/b/r2x2", "us/c/r3x1"), team(2)).settle()
        assert homes(world) == {"eu-b-r2"}

    def test_else_within_one_region(self) -> None:
        world = World(pool("eu/a/r1x1", "eu/b/r2x2", "us/c/r3x1"), team(3)).settle()
        assert homes(world) == {"eu-a-r1", "eu-b-r2"}

    def test_else_anywhere(self) -> None:
        world = World(pool("eu/a/r1x1", "eu/b/r2x2", "us/c/r3x1"), team(4)).settle()
        assert len(world.where) == 4

    def test_a_pod_alone_goes_anywhere(self) -> None:
        notes = {names.TOPOLOGY_REQUIRED: "rack", names.TOPOLOGY_PREFERRED: "shelf"}
        world = World([node("n0")], [pod("a", whole=8, annotations=notes)]).settle()
        assert world.where == {"a": "n0"}


class TestLevelsOfThePolicy:
    LEVELS = policy(
        topologyLevels=[{"name": "block", "label": "example.com/block"}, {"name": "rack", "label": "example.com/rack"}]
    )
    NODES = (
        *(
            node(f"n{number}", labels={"example.com/block": "b", "example.com/rack": str(number // 2)})
            for number in range(4)
        ),
    )

    def test_they_take_the_place_of_the_usual_ones(self) -> None:
        world = World(list(self.NODES), team(2, required="rack"), self.LEVELS).settle()
        assert len({where in ("n0", "n1") for where in world.where.values()}) == 1
        assert world.waiting == []

    @pytest.mark.parametrize("level", ["zone", "racks", "example.com/Rack", "x" * 1000, "{}"])
    def test_a_level_that_is_unknown_is_refused_by_name(self, level: str) -> None:
        world = World(list(self.NODES), team(2, required=level), self.LEVELS).settle()
        assert world.reason("g-0") == "InvalidRequest"
        assert message(world) == (
            f"annotation {names.TOPOLOGY_REQUIRED}: level {level[:80]!r} is unknown; allowed: block, rack, or its label"
        )

    def test_it_may_become_known(self) -> None:
        world = World(list(self.NODES), team(2, preferred="block")).settle()
        assert world.reason("g-0") == "InvalidRequest"
        world.cycle.builder.set_policy(self.LEVELS)
        assert len(world.settle().where) == 2

    def test_no_levels_at_all(self) -> None:
        world = World(pool("eu/a/r1x2"), team(2, required="zone"), policy(topologyLevels=[]))
        assert "the policy has no topologyLevels" in world.step().hold[0].message

    def test_labels_may_change(self) -> None:
        world = World([node("n0"), node("n1")], team(2, required="rack")).settle()
        assert world.waiting == ["g-0", "g-1"]
        for name in ("n0", "n1"):
            world.cycle.builder.put_node(node(name, labels={RACK: "r"}))
        assert world.settle().waiting == []


class TestWhatElseCounts:
    def test_a_limit_is_told_as_a_limit(self) -> None:
        queues = policy(queues=[{"name": "q", "limit": {"gpu": 8}}])
        world = World(TWO_RACKS, team(2, required="rack", queue="q"), queues).settle()
        assert world.reason("g-0") == "QueueLimit"

    def test_too_few_members_are_told_as_such(self) -> None:
        world = World(TWO_RACKS, team(2, required="rack", minimum=3)).settle()
        assert world.reason("g-0") == "GangIncomplete"

    def test_the_class_decides_between_domains_that_both_fit(self) -> None:
        home = policy({"name": "home", "nodeSelector": {"pool": "x"}})
        nodes = pool("eu/a/r1x2") + pool("eu/a/r2x3", pool="x")
        assert homes(World(nodes, team(2, required="rack", klass="home"), home).settle()) == {"eu-a-r2"}

    def test_a_strict_class_leaves_no_other_domain(self) -> None:
        home = policy({"name": "home", "nodeSelector": {"pool": "x"}}, fallback="strict")
        nodes = pool("eu/a/r1x3") + pool("eu/a/r2x1", pool="x")
        world = World(nodes, team(2, required="rack", klass="home"), home).settle()
        assert world.reason("g-0") == "TopologyDomainFull"
        assert message(world).endswith("room for 1")

    def test_what_the_pods_prefer_decides_before_what_is_left_over(self) -> None:
        wish = PreferredTerm(10, NodeSelectorTerm((Requirement(RACK, "In", ("r2",)),)))
        liking = Affinity(NodeAffinity(preferred=(wish,)))
        assert homes(World(TWO_RACKS, team(2, required="rack", affinity=liking)).settle()) == {"eu-a-r2"}

    def test_a_plugin_that_forbids_nodes_is_heard(self) -> None:
        class NotThere:
            name = "not-there"

            def allow(self, view: View, shape: int, rows: Int32) -> Bool:
                del shape
                return np.array([not view.nodes.names[row].startswith("eu-a-r1") for row in rows])

        chosen = policy(placement={"plugins": [{"name": "not-there"}]})
        registry = Registry({**BUILT_IN, "not-there": NotThere})
        world = World(TWO_RACKS, team(2, required="rack"), chosen, registry).settle()
        assert homes(world) == {"eu-a-r2"}


class TestNearest:
    NODES = pool("eu/a/r1x2", "us/b/r2x2", "as/c/r3x2")

    @pytest.mark.parametrize(
        ("nearest", "expected"),
        [("us|eu", "us-b-r2"), ("as", "as-c-r3"), ("c, b", "as-c-r3"), ("af|eu|us", "eu-a-r1")],
    )
    def test_a_pod_goes_to_the_first_place_that_has_room(self, nearest: str, expected: str) -> None:
        world = World(self.NODES, [pod("g-0", whole=2, annotations={names.NEAREST: nearest})]).settle()
        assert homes(world) == {expected}

    def test_else_to_the_next_one(self) -> None:
        notes = {names.NEAREST: "us|as|eu"}
        pods = [*full("us-b-r2-0", "us-b-r2-1"), pod("g-0", whole=2, annotations=notes)]
        assert homes(World(self.NODES, pods).settle()) == {"as-c-r3"}

    def test_a_gang_goes_there_together(self) -> None:
        world = World(self.NODES, gang("g", 2, whole=8, annotations={names.NEAREST: "as|us"})).settle()
        assert homes(world) == {"as-c-r3"}

    @pytest.mark.parametrize("nearest", ["", "eu||us", "über", "|".join("abcdefghijklmnopq"), "x" * 64])
    def test_what_cannot_be_read_is_refused_by_name(self, nearest: str) -> None:
        one = pod("a", whole=1)
        one.metadata.annotations[names.NEAREST] = nearest
        world = World(self.NODES, [one]).settle()
        assert world.reason("a") == "InvalidRequest"
        assert f"annotation {names.NEAREST}: {nearest[:80]!r} is not allowed" in message(world, "a")


@st.composite
def racks(draw: st.DrawFn) -> list[Node]:
    """Nodes with a few GPUs in racks and zones; some without labels."""
    labels = st.fixed_dictionaries({}, optional={ZONE: st.sampled_from("ab"), RACK: st.sampled_from("rst")})
    sizes = draw(st.lists(st.sampled_from([1, 2, 4]), min_size=2, max_size=8))
    return [node(f"n{index}", gpus, labels=draw(labels)) for index, gpus in enumerate(sizes)]


@st.composite
def teams(draw: st.DrawFn) -> list[Pod]:
    """Gangs that want to be near each other, and pods in between."""
    found: list[Pod] = []
    for name in "ghi":
        size = draw(st.integers(1, 4))
        notes = {
            names.TOPOLOGY_REQUIRED: draw(st.sampled_from(["", "rack", "zone", "host"])),
            names.TOPOLOGY_PREFERRED: draw(st.sampled_from(["", "rack", "zone"])),
        }
        asks = draw(st.lists(st.sampled_from([{"whole": 1}, {"whole": 2}, {"gpu": 50}]), min_size=size, max_size=size))
        least = draw(st.integers(1, size))
        found += [
            pod(f"{name}-{index}", gang=name, gang_min=least, annotations=notes, age=draw(st.integers(0, 3)), **ask)
            for index, ask in enumerate(asks)
        ]
    return found + [pod(f"x-{index}", whole=1) for index in range(draw(st.integers(0, 4)))]


def place_of(one: Node, level: str) -> tuple[str, ...]:
    """The domain of a node: the labels of the level and of all wider ones; empty when it has none of the level."""
    if level == "host":
        return (one.metadata.name,)
    keys = [REGION, ZONE, RACK][: {"zone": 2, "rack": 3}[level]]
    told = one.metadata.labels
    return tuple(told.get(key, "") for key in keys) if keys[-1] in told else ()


def together(nodes: Iterable[Node], members: Iterable[Pod], level: str) -> bool:
    """Whether those of the members that are bound are in one domain of the level."""
    by_name = {one.metadata.name: one for one in nodes}
    found = {place_of(by_name[one.spec.node_name], level) for one in members if one.spec.node_name}
    return len(found) <= 1 and () not in found


@settings(max_examples=examples(80), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    nodes=racks(), pods=teams(), rules=worlds.policies(), gone=st.sets(st.sampled_from(["g-0", "h-0", "i-1", "x-0"]))
)
def test_whenever_members_are_bound_they_share_the_domain_that_they_must(
    nodes: list[Node], pods: list[Pod], rules: HybridPolicy | None, gone: set[str]
) -> None:
    """Also when members are lost and made again; the world compares each plan with one made without memory."""
    world = World(nodes, pods, rules)

    def demand() -> None:
        for name in "ghi":
            members = [one for one in world.live.values() if one.metadata.labels.get(names.GANG) == name]
            level = next((one.metadata.annotations.get(names.TOPOLOGY_REQUIRED, "") for one in members), "")
            assert not level or together(nodes, members, level), world.where

    world.settle()
    demand()
    again = [one for one in pods if one.metadata.name in gone & world.where.keys()]
    for one in again:
        world.delete(one.metadata.name)
    world.add(*again)
    world.settle()
    demand()


def test_nothing_is_worked_out_while_no_gang_waits() -> None:
    world = World(TWO_RACKS, team(2, required="rack")).settle()
    assert world.cycle.builder.snapshot(START).topology.levels == ()


@pytest.mark.parametrize("high", ["eu/a/r1", "eu/a/r2"])
def test_room_is_asked_for_in_every_domain_whatever_it_is_called(high: str) -> None:
    """One rack runs what is no lower than the gang, the other one what is."""
    racks = {"eu/a/r1", "eu/a/r2"}
    world = World(pool(*(f"{rack}x2" for rack in sorted(racks))))
    for rack in racks:
        where, priority = rack.replace("/", "-"), 9 if rack == high else 0
        others = [pod(f"{where}-{index}", whole=8, priority=priority) for index in range(2)]
        devices = {"main": [(str(device), 100) for device in range(8)]}
        world.add(*(bound(one, f"{where}-{index}", devices) for index, one in enumerate(others)))
    world.add(*team(2, required="rack", priority=9))
    world.settle()

    (other,) = racks - {high}
    assert {world.where[name].rpartition("-")[0] for name in ("g-0", "g-1")} == {other.replace("/", "-")}
    assert len(world.evicted) == 2
