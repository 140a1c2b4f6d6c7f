"""When a pod starts, and what its queue holds: never, or not before something is made, is not "unknown"."""

import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from tests.decide.test_volumes import on, using
from tests.worlds import START, bound, cluster, container, gang, node, pod, policy, recording, with_spec

from tangram.api import names
from tangram.api.objects import OwnerReference, Pod, Resources
from tangram.cli import explain as verb
from tangram.cli.main import tangram
from tangram.questions.estimate import estimate
from tangram.questions.explain import Explanation, explain
from tangram.snapshot.recording import Recording, Storage


def held(name: str, where: str, count: int, first: int = 0, started: int = START, **more: object) -> Pod:
    devices = [(str(first + index), 100) for index in range(count)]
    return bound(pod(name, whole=count, **more), where, {"main": devices}, started)  # type: ignore[arg-type]


def explained(world: Recording, name: str = "w") -> Explanation:
    return explain(world, next(one for one in world.pods if one.metadata.name == name))


def printed(monkeypatch: pytest.MonkeyPatch, world: Recording, name: str = "w") -> str:
    monkeypatch.setattr(verb, "read_world", lambda *_: (world, "default"))
    found = CliRunner().invoke(tangram, ["explain", name])
    assert found.exit_code == 0, found.output
    return found.output


def test_what_waits_for_volumes_does_not_wait_for_pods(monkeypatch: pytest.MonkeyPatch) -> None:
    world = recording(START, cluster("1x2xA100"), [using(pod("w", whole=1), on("data"))], storage=Storage())
    output = printed(monkeypatch, world)
    assert "VolumeNotReady" in output
    assert "Start: not before its volumes are there, which does not depend on other pods\n" in output
    assert "estimated-duration" not in output
    assert "changes" not in output


def test_a_gang_that_lacks_members_waits_for_their_creation(monkeypatch: pytest.MonkeyPatch) -> None:
    world = recording(START, cluster("1x2xA100"), gang("w", 1, minimum=3, whole=1))
    output = printed(monkeypatch, world, "w-0")
    assert "GangIncomplete" in output
    assert "Start: not before the missing members of its gang have been created\n" in output


@pytest.mark.parametrize(
    "pods",
    [gang("w", 3, whole=4), [replace(pod("w-0", whole=1), spec=pod("x", whole=1, selector={"a": "b"}).spec)]],
)
def test_what_would_not_fit_on_the_emptied_pool_never_starts(monkeypatch: pytest.MonkeyPatch, pods: list[Pod]) -> None:
    """Three members of 4 GPUs on two nodes of 4; a label that no node has."""
    world = recording(START, cluster("2x4xA100"), [held("other", "n0", 2), *pods])
    assert explained(world, "w-0").never
    output = printed(monkeypatch, world, "w-0")
    assert "Start: never (on this cluster it does not fit even if all other pods are gone)\n" in output


def test_what_others_hold_is_not_lacking_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    world = recording(START, cluster("2x4xA100"), [held("other", "n0", 2), *gang("w", 2, whole=4)])
    assert not explained(world, "w-0").never
    assert "Start: unknown: no pod declares how long it runs" in printed(monkeypatch, world, "w-0")


def test_a_member_beyond_the_minimum_waits_for_itself_and_for_none_of_its_own_gang() -> None:
    """It is of no use to it if another member ends, which would start again."""
    members = gang("w", 4, minimum=2, whole=2)
    pods = [held("w-0", "n0", 2, gang="w", gang_min=2), held("w-1", "n0", 2, 2, gang="w", gang_min=2), *members[2:]]
    found = explained(recording(START, cluster("1x4xA100"), pods), "w-2")
    assert found.members == 1
    assert not [one for one in found.proposals if one.change.removed]


@pytest.mark.parametrize(("kind", "helps"), [("ReplicaSet", False), ("Job", True)])
def test_the_end_of_a_pod_that_is_made_anew_at_once_is_no_help(kind: str, helps: bool) -> None:
    owner = OwnerReference(kind, "web", "uid-web", controller=True)

    def owned(one: Pod) -> Pod:
        return replace(one, metadata=replace(one.metadata, owner_references=(owner,)))

    pods = [owned(held("r0", "n0", 4)), owned(pod("w", whole=4, selector={"kubernetes.io/hostname": "n0"}))]
    found = explained(recording(START, cluster("1x4xA100"), pods))
    assert bool([one for one in found.proposals if one.change.removed]) == helps


@pytest.mark.parametrize("ago", [600, 1500])
def test_the_start_is_known_when_minruntime_keeps_others_running(ago: int) -> None:
    queues = [{"name": "a", "minRuntime": "30m"}, {"name": "b"}]
    there = [held(f"r{number}", "n0", 1, number, START - ago, queue="a") for number in range(4)]
    world = recording(START, cluster("1x4xA100"), [*there, pod("w", whole=1, queue="b")], policy(queues=queues))
    assert "minRuntime" in explained(world).message
    found = estimate(world, {"uid-w"})
    assert found.why == ""
    left = 1800 - ago
    assert found.p50 is not None
    assert left <= found.p50 <= left + 60 + 30


def test_a_place_that_is_being_made_free_is_not_held_yet() -> None:
    """2 GPUs are bound, 2 are to be made free: not 4 of a pool of 2."""
    classes = policy({"name": "gpu", "weight": 3, "nodeSelector": {"a": "b"}}, {"name": "cpu"}, fallback="preempt")
    nodes = [node("n0", 2, labels={"a": "b"})]
    world = recording(START, nodes, [held("lo", "n0", 2, klass="cpu"), pod("w", whole=2, klass="gpu")], classes)
    found = explained(world)
    assert found.reason == "WaitingForEviction"
    (queue,) = [one for one in found.queues if one.name == "default"]
    assert (queue.gpu_milli, queue.share_percent) == (2000, 100.0)


def test_shares_are_divided_by_weights_as_in_the_status_of_the_policy() -> None:
    queues = [{"name": "three", "weight": 3}, {"name": "one", "weight": 1}]
    there = [held("a", "n0", 3, queue="three"), held("b", "n0", 1, 3, queue="one")]
    found = explained(recording(START, cluster("1x4xA100"), [*there, pod("w", whole=1)], policy(queues=queues)))
    shares = {one.name: (one.share_percent, one.weight) for one in found.queues if "/" not in one.name}
    assert shares == {"three": (25.0, 3), "one": (25.0, 1), "default": (0.0, 1)}


def test_less_is_asked_of_the_pod_as_a_whole_where_that_counts() -> None:
    whole = with_spec(pod("w", containers=[container(cpu=1)]), resources=Resources({"cpu": 200}))
    world = recording(START, cluster("1x1xA100", cpu=96), [whole])
    change = explained(world).proposals[0].change
    assert change.text == "ask for 96 CPUs instead of 200 CPUs"
    assert change.pods[0].spec.resources == Resources({"cpu": "96000m"})
    assert change.pods[0].spec.containers == whole.spec.containers


def test_the_whole_asks_for_no_less_than_its_containers() -> None:
    """The API server would not take it."""
    both = [container("a", cpu=60), container("b", cpu=60)]
    whole = with_spec(pod("w", containers=both), resources=Resources({"cpu": 200}))
    found = explained(recording(START, cluster("1x1xA100", cpu=96), [whole]))
    assert "less-cpu" not in {one.change.kind for one in found.proposals}


def test_pods_that_are_terminating_are_not_said_to_declare_how_long_they_run(monkeypatch: pytest.MonkeyPatch) -> None:
    going = held("going", "n0", 1, annotations={names.ESTIMATED_DURATION: "1h"})
    world = recording(START, cluster("1x2xA100"), [going, held("stays", "n0", 1, 1), pod("w", whole=1)])
    assert "(the end of 1 of 2 pods with GPUs is known)" in printed(monkeypatch, world)


@pytest.mark.parametrize(("minimum", "together"), [(1, 1), (2, 2), (3, 3)])
def test_only_as_many_members_have_to_start_together_as_the_gang_needs(minimum: int, together: int) -> None:
    members = gang("g", 3, minimum=minimum, whole=2)
    full = bound(pod("full", whole=2, priority=9), "n0", {"main": [("0", 100), ("1", 100)]})
    found = explain(recording(START, cluster("1x2xA100"), [full, *members]), members[0])
    assert (found.state, found.members) == ("waits", together)
