"""Pods that speak of other pods: host ports, topology spread, affinity, anti-affinity; and what is only preferred."""

from collections.abc import Mapping
from dataclasses import replace as replace_fields
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.budget import examples
from tests.worlds import START, World, bound, cluster, gang, leaving, node, pod, policy

from tangram.api.objects import (
    Affinity,
    Container,
    ContainerPort,
    LabelSelector,
    NodeAffinity,
    NodeSelectorTerm,
    Pod,
    PodAffinity,
    PodAffinityTerm,
    PreferredTerm,
    Requirement,
    Taint,
    Toleration,
    TopologySpreadConstraint,
    WeightedPodAffinityTerm,
)
from tangram.decide import codes
from tangram.decide.following import after, once_gone
from tangram.decide.memory import Memory
from tangram.decide.pipeline import _make as make
from tangram.decide.pipeline import decide
from tangram.snapshot import legal

HOST, ZONE = "kubernetes.io/hostname", "zone"


def zoned(**zones: int) -> list:
    """So many nodes in each zone: ``zoned(a=2, b=1)`` are a0, a1 and b0."""
    return [node(f"{zone}{index}", labels={ZONE: zone}) for zone, count in zones.items() for index in range(count)]


def labelled(one: Pod, namespace: str = "default", **labels: str) -> Pod:
    metadata = replace(one.metadata, labels=one.metadata.labels | labels, namespace=namespace)
    return replace(one, metadata=metadata)


def selector(**labels: str) -> LabelSelector:
    return LabelSelector(labels)


def term(key: str = HOST, **labels: str) -> PodAffinityTerm:
    return PodAffinityTerm(key, selector(**labels))


def near(one: Pod, *terms: PodAffinityTerm) -> Pod:
    return replace(one, spec=replace(one.spec, affinity=Affinity(pod_affinity=PodAffinity(terms))))


def apart(one: Pod, *terms: PodAffinityTerm) -> Pod:
    return replace(one, spec=replace(one.spec, affinity=Affinity(pod_anti_affinity=PodAffinity(terms))))


def spread(one: Pod, key: str = ZONE, skew: int = 1, when: str = "DoNotSchedule", **more: Any) -> Pod:
    label = selector(**more.pop("select", {"app": one.metadata.labels.get("app", "")}))
    constraint = TopologySpreadConstraint(skew, key, when, label, **more)
    return replace(one, spec=replace(one.spec, topology_spread_constraints=(constraint,)))


def web(name: str, **options: Any) -> Pod:
    return labelled(pod(name, **options), app="web")


def with_port(one: Pod, port: int, protocol: str = "TCP", address: str = "") -> Pod:
    container = Container("main", one.spec.containers[0].resources, (ContainerPort(port, protocol, address),))
    return replace(one, spec=replace(one.spec, containers=(container,)))


class TestHostPorts:
    def test_two_pods_with_one_port_go_to_two_nodes(self) -> None:
        world = World(cluster("2xcpu"), [with_port(pod(f"p{index}", age=9 - index), 80) for index in range(3)]).settle()
        assert sorted(world.where.values()) == ["n0", "n1"]
        assert world.reason("p2") == "HostPortTaken"
        world.delete("p0")
        assert sorted(world.settle().where) == ["p1", "p2"]

    @pytest.mark.parametrize(
        ("first", "second", "fits"),
        [
            ((80, "TCP", ""), (80, "TCP", "10.0.0.1"), False),
            ((80, "TCP", "10.0.0.1"), (80, "TCP", "0.0.0.0"), False),
            ((80, "TCP", "10.0.0.1"), (80, "TCP", "10.0.0.1"), False),
            ((80, "TCP", "10.0.0.1"), (80, "TCP", "10.0.0.2"), True),
            ((80, "TCP", ""), (80, "UDP", ""), True),
            ((80, "TCP", ""), (81, "TCP", ""), True),
        ],
    )
    def test_ports_collide_by_address_and_protocol(self, first: Any, second: Any, fits: bool) -> None:
        world = World(cluster("1xcpu"), [with_port(pod("a", age=1), *first), with_port(pod("b"), *second)]).settle()
        assert ("b" in world.where) is fits

    def test_init_containers_give_their_ports_back_and_sidecars_do_not(self) -> None:
        ports = (ContainerPort(80),)
        for restart, fits in ((None, True), ("Always", False)):
            first = pod("a", age=1)
            init = Container("init", ports=ports, restart_policy=restart)
            first = replace(first, spec=replace(first.spec, init_containers=(init,)))
            world = World(cluster("1xcpu"), [first, with_port(pod("b"), 80)]).settle()
            assert ("b" in world.where) is fits


class TestAntiAffinity:
    def test_replicas_that_avoid_each_other_take_a_node_each(self) -> None:
        pods = [apart(web(f"p{index}", age=9 - index), term(app="web")) for index in range(3)]
        world = World(cluster("2xcpu"), pods).settle()
        assert sorted(world.where.values()) == ["n0", "n1"]
        assert world.reason("p2") == "PodAntiAffinity"

    def test_a_pod_that_runs_keeps_others_away_who_say_nothing(self) -> None:
        """Anti-affinity works both ways: also against pods that came later and know nothing of it."""
        hermit = bound(apart(pod("hermit"), term(ZONE, app="web")), "a0")
        world = World(zoned(a=2, b=1), [hermit, web("p", age=1), pod("other")]).settle()
        assert world.where["p"] == "b0"

    def test_a_place_is_all_nodes_with_the_same_label(self) -> None:
        pods = [apart(web(f"p{index}", age=9 - index), term(ZONE, app="web")) for index in range(3)]
        world = World(zoned(a=3, b=2), pods).settle()
        assert sorted(name[0] for name in world.where.values()) == ["a", "b"]

    def test_nodes_without_the_label_are_in_no_place(self) -> None:
        pods = [apart(web(f"p{index}"), term(ZONE, app="web")) for index in range(3)]
        assert len(World(cluster("1xcpu"), pods).settle().where) == 3

    def test_it_holds_within_the_own_namespace_unless_others_are_named(self) -> None:
        hermit = bound(apart(labelled(pod("hermit"), "red"), term(app="web")), "n0")
        assert World(cluster("1xcpu"), [hermit, labelled(pod("p"), "blue", app="web")]).settle().where["p"] == "n0"
        named = replace(term(app="web"), namespaces=("blue",))
        hermit = bound(apart(labelled(pod("hermit"), "red"), named), "n0")
        world = World(cluster("1xcpu"), [hermit, labelled(pod("p"), "blue", app="web")]).settle()
        assert world.reason("p") == "PodAntiAffinity"

    def test_namespaces_can_be_selected_by_label(self) -> None:
        chosen = replace(term(app="web"), namespace_selector=selector(team="red"))
        world = World(cluster("1xcpu"))
        world.cycle.builder.set_namespace("default", {"team": "red"})
        world.cycle.builder.set_namespace("green", {"team": "green"})
        world.add(bound(apart(labelled(pod("hermit"), "other"), chosen), "n0"), web("p", age=1))
        world.add(labelled(pod("q"), "green", app="web"))
        assert (sorted(world.settle().where), world.reason("p")) == (["hermit", "q"], "PodAntiAffinity")
        world.cycle.builder.set_namespace("default", {"team": "blue"})
        assert "p" in world.settle().where

    def test_every_namespace_has_its_name_as_a_label(self) -> None:
        chosen = replace(term(app="web"), namespace_selector=selector(**{"kubernetes.io/metadata.name": "default"}))
        world = World(cluster("1xcpu"), [bound(apart(labelled(pod("hermit"), "x"), chosen), "n0"), web("p")]).settle()
        assert world.reason("p") == "PodAntiAffinity"

    def test_labels_that_change_change_who_is_meant(self) -> None:
        running = bound(web("running"), "n0")
        world = World(cluster("1xcpu"), [running, apart(pod("p"), term(app="web"))]).settle()
        assert world.reason("p") == "PodAntiAffinity"
        world.add(labelled(running, app="db"))
        assert "p" in world.settle().where


class TestAffinity:
    def test_a_pod_follows_those_that_it_wants_near(self) -> None:
        world = World(zoned(a=2, b=2), [bound(web("p"), "b1"), near(pod("q"), term(ZONE, app="web"))]).settle()
        assert world.where["q"].startswith("b")

    def test_who_waits_for_another_has_its_own_turn_whoever_else_waits(self) -> None:
        """Whether ``far`` waits, which fits nowhere, is no longer known of who fits nowhere in the next cycle."""
        queues = policy(queues=[{"name": "a"}, {"name": "b"}])
        world = World(zoned(a=2), [near(pod("q", queue="a", age=9), term(ZONE, app="web"))], queues)
        world.add(pod("far", queue="b", selector={"no": "where"}))
        assert world.step().place == ()
        world.add(web("p", queue="a"))
        assert [[place.pod.name for place in world.step().place] for _ in range(2)] == [["p"], ["q"]]

    def test_a_pod_waits_for_those_that_it_wants_near(self) -> None:
        world = World(zoned(a=2, b=2), [near(pod("q"), term(ZONE, app="web"))]).settle()
        assert world.reason("q") == "PodAffinity"
        world.add(web("p"))
        world.settle()
        assert world.where["q"][0] == world.where["p"][0]

    def test_a_pod_that_is_looked_at_too_early_is_looked_at_again(self) -> None:
        """The older pod needs the younger one near, which is placed after it in the same look."""
        world = World(zoned(a=1, b=1), [near(pod("old", age=9), term(ZONE, app="web")), web("young")])
        world.step()
        assert world.where.keys() == {"young"}
        assert world.cycle.last_plan.again
        world.step()
        assert world.where["old"] == world.where["young"]
        assert not world.cycle.last_plan.again

    def test_the_first_of_a_series_needs_nobody_before_it(self) -> None:
        pods = [near(web(f"p{index}"), term(ZONE, app="web")) for index in range(4)]
        world = World(zoned(a=2, b=2), pods).settle()
        assert len({where[0] for where in world.where.values()}) == 1
        assert len(world.where) == 4

    def test_the_first_of_a_series_too_needs_the_label(self) -> None:
        world = World(cluster("1xcpu"), [near(web("p"), term(ZONE, app="web"))]).settle()
        assert world.reason("p") == "PodAffinity"

    def test_all_terms_must_hold_for_the_same_pods(self) -> None:
        both = [term(ZONE, app="web"), term(HOST, tier="front")]
        split = [bound(web("p"), "a0"), bound(labelled(pod("q"), tier="front"), "a0")]
        world = World(zoned(a=1), [*split, near(pod("r"), *both)]).settle()
        assert world.reason("r") == "PodAffinity"
        one = bound(labelled(pod("s"), app="web", tier="front"), "a0")
        world.add(one)
        assert world.settle().where["r"] == "a0"


class TestTopologySpread:
    def test_replicas_spread_within_the_skew(self) -> None:
        pods = [spread(web(f"p{index}", age=9 - index)) for index in range(5)]
        where = World(zoned(a=3, b=1), pods).settle().where
        assert sorted(name[0] for name in where.values()).count("a") in (2, 3)
        assert len(where) == 5

    def test_a_full_zone_stops_the_others(self) -> None:
        nodes = [*zoned(a=2), node("b0", labels={ZONE: "b"}, pods=1)]
        world = World(nodes, [spread(web(f"p{index}", age=9 - index)) for index in range(4)]).settle()
        assert sorted(name[0] for name in world.where.values()) == ["a", "a", "b"]
        assert world.reason("p3") == "TopologySpread"

    def test_too_few_domains_count_as_one_more_that_is_empty(self) -> None:
        pods = [spread(web(f"p{index}", age=9 - index), min_domains=3) for index in range(4)]
        assert len(World(zoned(a=1, b=1), pods).settle().where) == 2

    def test_a_node_without_the_label_is_no_place(self) -> None:
        assert World(cluster("1xcpu"), [spread(web("p"))]).settle().reason("p") == "TopologySpread"

    def test_pods_that_are_leaving_do_not_count(self) -> None:
        world = World(zoned(a=1, b=1), [bound(web("x"), "a0"), bound(web("y"), "b0"), bound(web("z"), "a0")])
        world.add(spread(web("p")))
        assert world.settle().where["p"] == "b0"
        world.add(leaving(world.pod("y")), leaving(world.pod("p")), leaving(world.pod("x")))
        world.add(spread(web("q")))
        assert world.settle().where["q"] == "b0"

    @pytest.mark.parametrize(("policy", "fits"), [(None, True), ("Ignore", False)])
    def test_zones_that_the_pod_cannot_use_count_only_when_told(self, policy: str | None, fits: bool) -> None:
        one = replace(web("p"), spec=replace(web("p").spec, node_selector={ZONE: "a"}))
        world = World(zoned(a=1, b=1), [bound(web("x"), "a0"), spread(one, node_affinity_policy=policy)]).settle()
        assert ("p" in world.where) is fits

    @pytest.mark.parametrize(("policy", "fits"), [("Honor", True), (None, False)])
    def test_tainted_zones_are_left_out_only_when_told(self, policy: str | None, fits: bool) -> None:
        nodes = [*zoned(a=1), node("b0", labels={ZONE: "b"}, taints=[Taint("x", "NoSchedule")])]
        world = World(nodes, [bound(web("x"), "a0"), spread(web("p"), node_taints_policy=policy)]).settle()
        assert ("p" in world.where) is fits

    @pytest.mark.parametrize(
        ("selector", "taints", "hint"),
        [
            ({ZONE: "a"}, (), "do not match the pod's node selector or affinity"),
            ({}, (Taint("x", "NoSchedule"),), "have taints that the pod does not tolerate"),
        ],
    )
    def test_the_message_names_the_policy_that_keeps_zones_in_the_skew_that_the_pod_cannot_use(
        self, selector: dict[str, str], taints: tuple[Taint, ...], hint: str
    ) -> None:
        nodes = [*zoned(a=1), node("b0", labels={ZONE: "b"}, taints=list(taints))]
        one = replace(web("p"), spec=replace(web("p").spec, node_selector=selector))
        stuck = spread(one, node_affinity_policy="Ignore")
        [hold] = World(nodes, [bound(web("x"), "a0"), stuck]).step().hold
        assert hold.reason == "TopologySpread"
        policy = "nodeTaintsPolicy" if taints else "nodeAffinityPolicy"
        expected = f"(such as b0) {hint}, and count towards the skew unless {policy} is Honor"
        assert hold.message.endswith(f"; the nodes of the emptiest domain {expected}")

    def test_a_domain_that_is_only_full_is_no_matter_of_policies(self) -> None:
        nodes = [*zoned(a=1), node("b0", labels={ZONE: "b"}, pods=0)]
        [hold] = World(nodes, [bound(web("x"), "a0"), spread(web("p"), node_affinity_policy="Ignore")]).step().hold
        assert hold.reason == "TopologySpread"
        assert "Policy" not in hold.message

    def test_label_keys_tell_revisions_apart(self) -> None:
        old = [bound(labelled(web(f"old{index}"), revision="1"), "a0") for index in range(3)]
        new = [labelled(web(f"new{index}", age=index), revision="2") for index in range(2)]
        world = World(zoned(a=1, b=1), [*old, *(spread(one, match_label_keys=("revision",)) for one in new)]).settle()
        assert {world.where["new0"], world.where["new1"]} == {"a0", "b0"}


class TestPreferences:
    def test_a_liked_node_is_taken_and_a_full_one_is_no_reason_to_wait(self) -> None:
        liked = Affinity(
            NodeAffinity(preferred=(PreferredTerm(80, NodeSelectorTerm((Requirement(ZONE, "In", ("b",)),))),))
        )
        for used, expected in (((), "b0"), ([bound(pod("full", cpu=96), "b0")], "a0")):
            assert World(zoned(a=1, b=1), [*used, pod("p", affinity=liked)]).settle().where["p"] == expected

    def test_a_disliked_taint_is_avoided_unless_tolerated(self) -> None:
        shy = Taint("slow", "PreferNoSchedule")
        nodes = [node("a", taints=[shy]), node("b")]
        assert World(nodes, [pod("p")]).settle().where["p"] == "b"
        tolerant = pod("p", tolerations=[Toleration("slow", "Exists")])
        calm, told = (
            World(cluster("2xcpu"), [pod("p")]),
            World([node("n0", 0, taints=[shy]), node("n1", 0)], [tolerant]),
        )
        assert calm.settle().where == told.settle().where

    @pytest.mark.parametrize(("sign", "expected"), [("near", "b0"), ("apart", "a0")])
    def test_liked_and_disliked_neighbours(self, sign: str, expected: str) -> None:
        weighted = PodAffinity(preferred=(WeightedPodAffinityTerm(100, term(ZONE, app="web")),))
        affinity = Affinity(pod_affinity=weighted) if sign == "near" else Affinity(pod_anti_affinity=weighted)
        world = World(zoned(a=1, b=1), [bound(web("x"), "b0"), pod("p", affinity=affinity)]).settle()
        assert world.where["p"] == expected

    def test_pods_that_run_have_their_likes_too(self) -> None:
        weighted = PodAffinity(preferred=(WeightedPodAffinityTerm(100, term(ZONE, app="web")),))
        for expected in ("a0", "b0"):
            friend = bound(pod("friend", affinity=Affinity(pod_affinity=weighted)), expected)
            assert World(zoned(a=1, b=1), [friend, web("p")]).settle().where["p"] == expected

    def test_the_emptier_zone_is_liked_when_the_spread_may_be_broken(self) -> None:
        running = [bound(web(f"x{index}"), "a0") for index in range(2)]
        one = spread(web("p"), when="ScheduleAnyway")
        assert World(zoned(a=1, b=1), [*running, one]).settle().where["p"] == "b0"
        assert World(zoned(a=1), [*running, one]).settle().where["p"] == "a0"


def test_pods_without_relations_share_one_shape_whatever_their_labels() -> None:
    world = World(cluster("2xcpu"), [labelled(pod(f"p{index}"), app=f"app{index}") for index in range(9)]).settle()
    assert len(world.cycle.builder.shapes.requests) == 1  # while they wait as once they have their places
    assert not world.cycle.builder.snapshot(world.now).relations.counts


def test_only_pods_that_a_rule_speaks_of_get_a_shape_of_their_own() -> None:
    world = World(cluster("2xcpu"), [labelled(pod(f"p{index}"), app=f"app{index}") for index in range(9)])
    world.add(apart(pod("hermit"), term(app="app3")))
    world.settle()
    assert len(world.cycle.builder.shapes.requests) == 3 + 1


def test_a_gang_that_does_not_fit_leaves_no_trace() -> None:
    """Two of three members fit apart from each other; all are taken back, and one who avoids them is placed."""
    members = [labelled(pod(f"g{index}", gang="g", gang_min=3, age=9), app="web") for index in range(3)]
    hermit = apart(pod("hermit"), term(app="web"))
    world = World(cluster("2xcpu"), [*(apart(one, term(app="web")) for one in members), hermit]).settle()
    assert world.where.keys() == {"hermit"}
    assert world.reason("g0") == "GangUnschedulable"


def test_nodes_that_come_back_bring_their_pods() -> None:
    world = World(cluster("1xcpu"), [bound(apart(web("x"), term(app="web")), "n0")]).settle()
    world.cycle.builder.remove_node("n0")
    world.add(web("p"))
    world.settle()
    world.cycle.builder.put_node(cluster("1xcpu")[0])
    assert world.settle().reason("p") == "PodAntiAffinity"


apps = st.sampled_from(["a", "b"])
keys = st.sampled_from([HOST, ZONE])
terms = st.builds(lambda key, app: PodAffinityTerm(key, selector(app=app)), keys, apps)


@st.composite
def related_pods(draw: Any) -> list[Pod]:
    found = []
    for index in range(draw(st.integers(1, 12))):
        one = labelled(pod(f"p{index}", age=draw(st.integers(0, 5))), app=draw(apps))
        kind = draw(st.sampled_from(["plain", "apart", "near", "spread", "port"]))
        match kind:
            case "apart":
                one = apart(one, draw(terms))
            case "near":
                one = near(one, draw(terms))
            case "spread":
                one = spread(one, draw(keys), draw(st.integers(1, 2)))
            case "port":
                one = with_port(one, 80)
        found.append(one)
    return found


def place_of(world: World, name: str, key: str) -> str | None:
    labels: Mapping[str, str] = next(one.metadata.labels for one in world.nodes if one.metadata.name == name)
    return labels.get(key)


def test_a_cycle_that_placed_nothing_asks_for_no_other() -> None:
    """A gang whose members keep apart is tried and rolled back at its queue's limit, beside a pod with a rule that fits
    nowhere: what was only tried revives nobody."""
    members = [apart(labelled(one, app="g"), term(app="g")) for one in gang("g", 4, whole=1, queue="q")]
    big = apart(labelled(pod("big", whole=16), app="big"), term(app="big"))
    limited = policy({"name": "a", "weight": 1}, queues=[{"name": "q", "limit": {"gpu": "2"}}])
    world = World(cluster("6x8xA100"), [*members, big], limited)
    assert not world.step().again
    assert {world.reason(f"g-{member}") for member in range(4)} == {"QueueLimit"}
    assert not world.step().again


def test_nobody_is_evicted_whom_the_claimant_has_to_be_near() -> None:
    """The only GPU besides that of the pod that it wants to be near is too little: it waits, and nobody loses work."""
    companion, claimant = web("w", whole=1), near(pod("h", whole=2, priority=9), term(app="web"))
    world = World(cluster("1x2xA100"), [companion])
    world.settle()
    world.add(claimant)
    world.settle()
    assert (world.where, world.evicted) == ({"w": "n0"}, [])
    assert world.reason("h") == "InsufficientGpu"


@pytest.mark.parametrize("young", ["company", "other"])
def test_another_pod_is_evicted_instead_of_the_one_that_the_claimant_has_to_be_near(young: str) -> None:
    """Whoever would lose less: at another moment that is somebody else."""
    ages = {name: 10 if name == young else 3600 for name in ("company", "other")}
    there = {"company": web("company", whole=1), "other": pod("other", whole=1)}
    running = [
        bound(one, "n0", {"main": [(str(device), 100)]}, started=START - ages[name])
        for device, (name, one) in enumerate(there.items())
    ]
    world = World([node("n0", 2)], running)
    world.add(near(pod("h", whole=1, priority=9), term(app="web")))
    assert [evict.pod.name for evict in world.settle().evicted] == ["other"]
    assert world.where["h"] == "n0"


def test_who_has_to_be_near_another_keeps_that_one_from_no_place() -> None:
    """Both wait from the beginning, and the first in line could have the other evicted if it did not need that one."""
    companion, claimant = web("w", whole=1), near(pod("h", whole=2, priority=9), term(app="web"))
    assert World(cluster("1x2xA100"), [companion, claimant]).settle().where == {"w": "n0"}
    both = World(cluster("1x4xA100"), [companion, claimant]).settle().where
    assert both.keys() == {"w", "h"}


def test_nobody_is_placed_who_keeps_a_claimant_from_its_place_and_is_evicted_for_it_then() -> None:
    """The claimant wants to be near pods such as itself: once its victim is gone it may be the first, unless another
    one has come elsewhere meanwhile. That one comes after it."""
    running = bound(web("v", whole=1), "n0", {"main": [("0", 100)]})
    world = World([node("n0", 1, cpu=8), node("n1", 1, cpu=4)], [running])
    claimant = near(web("h", whole=1, cpu=1, priority=9), term(app="web"))
    world.add(claimant, web("other", cpu=4, selector={HOST: "n1"}))
    world.settle()
    assert [evict.pod.name for evict in world.evicted] == ["v"]
    assert world.where == {"h": "n0", "other": "n1"}


def test_a_pod_that_was_found_to_fit_nowhere_comes_with_the_one_that_it_has_to_be_near() -> None:
    """As it would if nothing had been remembered; what keeps its place by spread comes likewise."""
    for later in (near(pod("later"), term(app="web")), spread(labelled(pod("later"), app="web"), "zone", 1)):
        world = World(zoned(a=1, b=1), [bound(web("x"), "a0"), replace(pod("odd"), spec=later.spec)])
        world.step()
        first = web("first", priority=5)
        world.add(labelled(replace(later, spec=later.spec), app="web"), first)
        snapshot = world.cycle.builder.snapshot(world.now)
        assert decide(snapshot, world.cycle.memory) == decide(snapshot, Memory())


def test_a_pod_that_another_is_placed_for_nothing_of_is_still_known_to_fit_nowhere() -> None:
    """What is placed counts in a group that it has no rule about: its reason is said, whatever is remembered."""
    avoids_db = apart(pod("big", whole=99), term(app="db"))
    world = World(cluster("2xcpu"), [near(pod("later"), term(app="web")), avoids_db])
    world.step()
    world.add(labelled(pod("first", priority=5), app="db"))
    snapshot = world.cycle.builder.snapshot(world.now)
    plan = decide(snapshot, world.cycle.memory)
    assert plan == decide(snapshot, Memory())
    assert "later" in [hold.pod.name for hold in plan.hold]


def test_two_futures_are_not_taken_for_each_other() -> None:
    """A pod fits where another one that it avoids is not, and memory of one future says nothing of the next."""
    avoids = apart(labelled(pod("p", whole=1), app="x"), term(app="web"))
    running = bound(pod("r", whole=1), "n0", {"main": [("0", 100)]})
    world = World(cluster("2x1xA100"), [running, web("g", age=9), avoids])
    snapshot, memory = world.cycle.builder.snapshot(world.now), Memory()
    pending = snapshot.pending
    slot = {name.name: number for number, name in enumerate(pending.names)}
    for row, expected in ((1, []), (0, ["p"])):
        nominated, waiting = pending.nominated.copy(), pending.waiting.copy()
        nominated[slot["g"]], waiting[slot["p"]] = row, False
        made = make(
            replace_fields(snapshot, pending=replace_fields(pending, nominated=nominated, waiting=waiting)), Memory()
        )
        future = after(made.preemption)
        waiting = future.pending.waiting.copy()
        waiting[slot["p"]] = True
        future = replace_fields(future, pending=replace_fields(future.pending, waiting=waiting))
        found = make(future, memory).preemption.decision.draft.placed
        assert [one.place.pod.name for one in found] == expected


def test_who_is_gone_and_who_has_come_counts_where_rules_ask_for_it() -> None:
    """A forecast: the victim, of the group that others avoid, is gone then, and the claimant, of another one, there."""
    victim, claimant = web("v", whole=1), labelled(pod("c", whole=1, priority=9), app="db")
    avoiders = [apart(pod(name, whole=9, priority=9), term(app=app)) for name, app in (("a", "web"), ("b", "db"))]
    world = World(cluster("1x1xA100"), [victim]).settle()
    world.add(claimant, *avoiders)
    made = make(world.cycle.builder.snapshot(world.now + 1), Memory())
    then = once_gone(after(made.preemption))
    assert then is not None
    before, later = (
        [int(count.sum()) for count in one.relations.counts] for one in (made.preemption.decision.snapshot, then)
    )
    [of_victim] = [group for group, number in enumerate(before) if number]
    assert (later[of_victim], sum(later)) == (0, 1)


@given(related_pods(), st.sampled_from([1, 3, 256]))
@settings(deadline=None, max_examples=examples(60))
def test_anti_affinity_and_ports_hold_among_all_that_were_placed(pods: list[Pod], batch: int) -> None:
    """Also among pods of one decision: everything placed before counts."""
    world = World(zoned(a=2, b=1), pods, batch=batch).settle()
    placed = [one for one in world.live.values() if one.spec.node_name]
    for one in placed:
        others = [other for other in placed if other is not one]
        if any(container.ports for container in one.spec.containers):
            assert not any(o.spec.node_name == one.spec.node_name and o.spec.containers[0].ports for o in others)
        affinity = one.spec.affinity
        for avoided in affinity.pod_anti_affinity.required if affinity and affinity.pod_anti_affinity else ():
            assert avoided.label_selector is not None
            where = place_of(world, one.spec.node_name, avoided.topology_key)
            for other in others:
                if other.metadata.labels["app"] == avoided.label_selector.match_labels["app"]:
                    assert place_of(world, other.spec.node_name, avoided.topology_key) != where


@given(related_pods(), st.integers(1, 4))
@settings(deadline=None, max_examples=examples(60))
def test_what_is_remembered_changes_nothing(pods: list[Pod], steps: int) -> None:
    world = World(zoned(a=2, b=1), pods, batch=2)
    for _ in range(steps):
        world.step()
    snapshot = world.cycle.builder.snapshot(world.now)
    assert decide(snapshot, world.cycle.memory) == decide(snapshot, Memory())
    assert not list(legal.miscounted(world.cycle.builder))


def test_every_rule_has_a_reason_with_a_sentence() -> None:
    for code in (codes.HOST_PORT_TAKEN, codes.TOPOLOGY_SPREAD, codes.POD_AFFINITY, codes.POD_ANTI_AFFINITY):
        assert code in codes.SENTENCES
