"""Pods that have a place count by what they hold: where else they could be takes no room and changes nothing."""

from tests.worlds import START, World, bound, cluster, pod, requires, with_spec

from tangram.api.objects import (
    Affinity,
    LabelSelector,
    NodeSelectorTerm,
    Pod,
    PodAffinity,
    PodAffinityTerm,
    Requirement,
    Toleration,
)
from tangram.snapshot import legal
from tangram.snapshot.build import Builder

HOST = "kubernetes.io/hostname"


def daemon(node: str) -> Pod:
    """A pod as the DaemonSet controller makes it for a node."""
    here = requires(NodeSelectorTerm(match_fields=(Requirement("metadata.name", "In", (node,)),)))
    return bound(pod(f"daemon-{node}", cpu="100m", scheduler="default-scheduler", affinity=here), node)


def test_the_pods_of_a_daemon_set_are_one_request() -> None:
    builder = Builder("tangram")
    for one in cluster("50x8xA100"):
        builder.put_node(one)
        builder.put_pod(daemon(one.metadata.name))
    assert len(builder.shapes.requests) == 1
    assert not len(builder.nodes.arrays.terms)
    assert not builder.nodes.arrays.named
    nodes = builder.snapshot(START).nodes
    assert set((nodes.capacity[:50, 0] - nodes.free[:50, 0]).tolist()) == {100}


def test_a_pod_that_waited_is_such_a_request_once_it_is_bound_as_after_a_restart() -> None:
    world = World(cluster("2x8xA100"), [pod("picky", whole=1, selector={HOST: "n1"})]).settle()
    builder = world.cycle.builder
    [running] = builder.pods.values()
    assert builder.shapes.requests[running.shape].required == ()
    world.start_again()
    [again] = world.cycle.builder.pods.values()
    assert world.cycle.builder.shapes.requests[again.shape] == builder.shapes.requests[running.shape]


def test_what_a_pod_with_a_place_wants_of_others_counts_still_when_rows_are_given_back() -> None:
    apart = PodAffinity(required=(PodAffinityTerm(HOST, LabelSelector({"team": "b"})),))
    shy = with_spec(pod("shy", whole=1, selector={HOST: "n0"}), affinity=Affinity(pod_anti_affinity=apart))
    world = World(cluster("1x8xA100"), [shy]).settle()
    world.cycle.builder.shapes._most = 0
    world.step()
    other = pod("other", whole=1)
    other.metadata.labels["team"] = "b"
    world.add(other)
    world.settle()
    assert world.reason("other") == "PodAntiAffinity"
    assert list(legal.miscounted(world.cycle.builder)) == []


def test_a_pod_that_says_nothing_of_places_is_one_request_whether_it_waits_or_has_a_place() -> None:
    world = World(cluster("2x8xA100"), [pod("first", whole=1)]).settle()
    world.add(pod("second", whole=1))
    world.settle()
    builder = world.cycle.builder
    assert len({row.shape for row in builder.pods.values()}) == len(builder.shapes.requests) == 1
    world.start_again()
    world.settle()
    assert len(world.cycle.builder.shapes.requests) == 1


def test_a_pod_that_says_more_is_another_request_once_it_has_a_place() -> None:
    """A selector, a toleration, or rules about other pods: none of them is of interest any more."""
    repelled = Affinity(pod_anti_affinity=PodAffinity(required=(PodAffinityTerm(HOST, LabelSelector({"team": "b"})),)))
    for says in (
        pod("picky", whole=1, selector={HOST: "n1"}),
        with_spec(pod("tolerant", whole=1), tolerations=(Toleration("gpu", "Exists"),)),
        with_spec(pod("shy", whole=1), affinity=repelled),
    ):
        builder = World(cluster("2x8xA100"), [says]).settle().cycle.builder
        [running] = builder.pods.values()
        request = builder.shapes.requests[running.shape]
        assert (request.required, request.tolerations, builder.shapes.rules[running.shape]) == ((), (), None)
        assert len(builder.shapes.requests) == 2
