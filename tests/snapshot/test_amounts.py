"""What a pod counts for on its node, by kube-scheduler's rules for pod-level resources and resizes in place."""

import msgspec
import pytest
from msgspec.structs import replace
from tests.worlds import START, World, bound, cluster, container, node, pod, with_spec

from tangram.api.objects import Condition, Container, ContainerStatus, Pod, PodStatus, Resources
from tangram.snapshot.requests.request import read_request, shape_key

INFEASIBLE = (Condition("PodResizePending", "True", "Infeasible"),)
DEFERRED = (Condition("PodResizePending", "True", "Deferred"),)


def counted(one: Pod, resource: str = "cpu") -> int:
    return dict(read_request(one).resources).get(resource, 0)


def having(one: Pod, allocated: int, actual: int, conditions: tuple[Condition, ...] = (), name: str = "main") -> Pod:
    """The pod while the kubelet has set so many CPUs aside for a container, and it runs with so many."""
    known = (ContainerStatus(name, Resources({"cpu": actual}), {"cpu": allocated}),)
    status = PodStatus("Running", conditions=conditions)
    if name == "main":
        return replace(one, status=replace(status, container_statuses=known))
    return replace(one, status=replace(status, init_container_statuses=known))


def as_a_whole(one: Pod, limits: dict[str, str | int | float] | None = None, **requests: str | int | float) -> Pod:
    return with_spec(one, resources=Resources(requests, limits or {}))


def test_what_a_pod_asks_for_as_a_whole_stands_in_place_of_the_sum() -> None:
    parts = [container("a", cpu=1, memory="1Gi"), container("b", cpu=1, memory="1Gi")]
    one = as_a_whole(pod("p", containers=parts, init=[container("i", cpu=9)], overhead={"cpu": 1}), cpu=3)
    assert counted(one) == 4000, "the overhead comes on top; an init container lives within the whole"
    assert counted(one, "memory") == 2048, "of what is not asked for as a whole the sum counts"


def test_only_cpu_memory_and_huge_pages_can_be_asked_for_as_a_whole() -> None:
    one = with_spec(pod("p"), resources=Resources({"hugepages-2Mi": "4Mi", "example.com/nic": 2, "cpu": 0}))
    assert (counted(one, "hugepages-2Mi"), counted(one, "example.com/nic"), counted(one)) == (4, 0, 0)


def test_a_limit_of_the_whole_is_a_request_where_no_container_asks() -> None:
    """As the API server fills it in: it is left to read for ``what-if``, which asks before that."""
    silent = Container("c")
    assert counted(as_a_whole(pod("p", containers=[silent]), {"cpu": 3})) == 3000
    assert counted(as_a_whole(pod("p", containers=[container("c", cpu=1)]), {"cpu": 3})) == 1000


def test_pods_that_differ_in_the_whole_are_not_alike() -> None:
    assert len({shape_key(one) for one in (pod("p"), as_a_whole(pod("q"), cpu=1), as_a_whole(pod("r"), cpu=2))}) == 3


def test_a_node_takes_as_many_pods_as_their_wholes_allow() -> None:
    pods = [as_a_whole(pod(f"p{number}", cpu="100m"), cpu=40) for number in range(3)]
    world = World([node("n0", 0, cpu=96)], pods).settle()
    assert len(world.where) == 2
    too_large = World([node("n0", 0, cpu=96)], [as_a_whole(pod("p"), cpu=1000)]).settle()
    assert too_large.reason("p") == "ExceedsNodeCapacity"


@pytest.mark.parametrize(
    ("wanted", "allocated", "actual", "conditions", "cores"),
    [
        (2, 2, 2, (), 2),
        (1, 4, 4, (), 4),  # shrinks: the old amount counts until it is given back
        (1, 1, 4, (), 4),  # set aside already, not carried out yet
        (8, 2, 2, (), 8),  # grows: the new amount counts at once
        (8, 2, 2, DEFERRED, 8),
        (8, 2, 2, INFEASIBLE, 2),  # it will not get it here
    ],
)
def test_while_a_pod_is_resized_the_larger_amount_counts(
    wanted: int, allocated: int, actual: int, conditions: tuple[Condition, ...], cores: int
) -> None:
    assert counted(having(pod("p", cpu=wanted), allocated, actual, conditions)) == 1000 * cores


def test_sidecars_are_resized_and_init_containers_are_not() -> None:
    sidecar = pod("p", cpu=0, init=[container("s", cpu=1, sidecar=True)])
    assert counted(having(sidecar, 3, 3, name="s")) == 3000
    assert counted(having(pod("p", cpu=0, init=[container("i", cpu=1)]), 3, 3, name="i")) == 1000


@pytest.mark.parametrize(("conditions", "cores"), [((), 8), (INFEASIBLE, 2)])
def test_the_whole_is_resized_too(conditions: tuple[Condition, ...], cores: int) -> None:
    status = PodStatus(
        "Running", conditions=conditions, resources=Resources({"cpu": 2}), allocated_resources={"cpu": 2}
    )
    assert counted(replace(as_a_whole(pod("p"), cpu=8), status=status)) == 1000 * cores


def test_a_node_has_room_again_once_a_resize_is_carried_out() -> None:
    running = bound(pod("old", cpu=1), "n0", started=START)
    world = World([node("n0", 0, cpu=8)], [having(running, 6, 6), pod("p", cpu=4)]).settle()
    assert world.reason("p") == "InsufficientCpu"
    world.add(having(running, 1, 1))
    assert world.settle().where["p"] == "n0"


def test_what_the_kubelet_repeats_is_not_kept() -> None:
    """Ninety thousand pods say twice what they have; only those in a resize say something new."""
    only_cpu = pod("p", containers=[Container("main", Resources({"cpu": 2}))])
    plain = having(only_cpu, 2, 2)
    assert plain.status.container_statuses == ()
    assert having(only_cpu, 1, 2).status.container_statuses
    decoded = msgspec.json.decode(msgspec.json.encode(plain), type=Pod)
    assert decoded == plain


def test_a_pod_in_a_cluster_of_gpus_keeps_them_while_it_is_resized() -> None:
    world = World(cluster("1x2xA100", cpu=8), [pod("p", whole=1, cpu=2)]).settle()
    running = world.pod("p")
    known = ContainerStatus("main", Resources({"cpu": 6}), {"cpu": 6})
    status = replace(running.status, container_statuses=(known,))
    world.add(replace(running, status=status), pod("q", whole=1, cpu=4))
    assert world.settle().reason("q") == "InsufficientCpu"
