"""Members of a gang come by the numbers with which their names end, and leave in the opposite order: others meet at the
first one, and cannot go on without it."""

import msgspec
import pytest
from tests.worlds import START, World, bound, cluster, node, pod, policy

from tangram.api import names
from tangram.api.objects import OwnerReference, Pod, PodStatus


def member(index: int, node: str = "n0", *, age: int = 600, device: int = -1, **options: object) -> Pod:
    """A running member of an elastic gang that needs two; it holds the GPU of its number. A TrainingJob has made it."""
    asked = {"whole": 1, "gang": "g", "gang_min": 2} | options
    one = owned(pod(f"g-{index}", **asked), "g")  # type: ignore[arg-type]
    held = str(index if device < 0 else device)
    return bound(one, node, {"main": [(held, 100)]}, started=START - age)


def role_pod(name: str, role: str, **options: object) -> Pod:
    made = pod(name, **options)  # type: ignore[arg-type]
    labels = {**made.metadata.labels, names.ROLE: role}
    return msgspec.structs.replace(made, metadata=msgspec.structs.replace(made.metadata, labels=labels))


def owned(one: Pod, by: str) -> Pod:
    """The pod as a TrainingJob has made it."""
    owner = OwnerReference("TrainingJob", by, uid=f"uid-{by}", controller=True)
    return msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, owner_references=(owner,)))


def victims(world: World) -> list[str]:
    return [evict.pod.name for evict in world.settle().evicted]


class TestLeaving:
    @pytest.mark.parametrize("young", range(6))
    def test_the_highest_number_leaves_first_whoever_is_the_youngest(self, young: int) -> None:
        """What one of them loses all of them lose: they go on together from the last checkpoint."""
        world = World(cluster("1x6xA100"), [member(one, age=10 if one == young else 600) for one in range(6)])
        for number in range(4):
            world.add(pod(f"high-{number}", whole=1, priority=9))
            assert victims(world) == ["g-5", "g-4", "g-3", "g-2"][: number + 1]

    def test_the_first_one_leaves_only_with_the_whole_gang(self) -> None:
        world = World(cluster("1x4xA100"), [member(one) for one in range(4)])
        world.add(pod("high", whole=3, priority=9))
        assert sorted(victims(world)) == ["g-0", "g-1", "g-2", "g-3"]

    def test_of_members_on_several_nodes_the_highest_number_leaves_whatever_the_nodes_are_called(self) -> None:
        for turned in range(4):
            where = [f"n{(one + turned) % 4}" for one in range(4)]
            world = World(cluster("4x1xA100"), [member(one, where[one], device=0) for one in range(4)])
            world.add(pod("high", whole=1, priority=9))
            assert victims(world) == ["g-3"]

    def test_a_member_just_started_is_no_reason_to_have_the_whole_gang_leave(self) -> None:
        """Nothing is lost with any of them: then the number alone decides, and one is fewer than all."""
        world = World(cluster("1x6xA100"), [member(one, age=-1) for one in range(6)])
        world.add(pod("high", whole=1, priority=9))
        assert victims(world) == ["g-5"]

    def test_where_only_the_place_of_the_first_one_would_do_another_pod_leaves_that_loses_less_than_the_gang(
        self,
    ) -> None:
        """With the first one the work of all would be lost."""
        here = [member(0, age=100), *(member(one, "n1") for one in range(1, 5))]
        other = bound(pod("other", whole=1), "n0", {"main": [("1", 100)]}, started=START - 2000)
        nodes = [*cluster("1x2xA100"), *cluster("2x8xA100")[1:]]
        world = World(nodes, [*here, other])
        world.add(pod("high", whole=1, priority=9, selector={"kubernetes.io/hostname": "n0"}))
        assert victims(world) == ["other"]

    def test_where_nothing_else_would_do_the_whole_gang_leaves(self) -> None:
        nodes = [*cluster("1x1xA100"), *cluster("2x4xA100")[1:]]
        world = World(nodes, [member(0), *(member(one, "n1") for one in range(1, 4))])
        world.add(pod("high", whole=1, priority=9, selector={"kubernetes.io/hostname": "n0"}))
        world.step()
        assert sorted(evict.pod.name for evict in world.evicted) == ["g-0", "g-1", "g-2", "g-3"]

    def test_the_first_one_stays_also_where_others_may_not_leave_yet(self) -> None:
        """Somebody who has run for less than his queue is given does not make the first one one to be spared."""
        there = policy({"name": "any", "weight": 1}, queues=[{"name": "default", "minRuntime": "5m"}])
        young = [member(one, age=600 if one < 1 else 10, gang_min=1) for one in range(3)]
        world = World(cluster("1x3xA100"), young, policy=there)
        world.add(pod("high", whole=1, priority=9))
        world.step()
        assert world.evicted == []

    def test_the_first_one_stays_when_as_many_have_ended_as_the_gang_needs(self) -> None:
        """Those that go on meet there still: it leaves with them, and so nobody leaves for whom one place is enough."""
        nodes = [*cluster("1x1xA100"), *cluster("2x8xA100")[1:]]
        world = World(nodes, [member(0), *(member(one, "n1") for one in range(1, 4))])
        ended = PodStatus("Succeeded")
        world.add(*(msgspec.structs.replace(member(one, "n1"), status=ended) for one in (4, 5)))
        world.add(pod("high", whole=1, priority=9, selector={"kubernetes.io/hostname": "n0"}))
        world.step()
        assert sorted(evict.pod.name for evict in world.evicted) == ["g-0", "g-1", "g-2", "g-3"]

    def test_the_first_one_stays_with_those_whom_their_role_needs(self) -> None:
        """The gang says nothing of launchers, but the workers meet at theirs."""
        needs = {"gang_min": 0, "annotations": {names.GANG_ROLE_MIN: "worker=3"}}
        roles = [("launcher", 0), *(("worker", number) for number in range(3))]
        pods = [owned(role_pod(f"g-{role}-{number}", role, whole=1, gang="g", **needs), "g") for role, number in roles]
        there = [bound(one, "n0", {"main": [(str(index), 100)]}) for index, one in enumerate(pods)]
        world = World(cluster("1x4xA100"), there)
        world.add(pod("high", whole=1, priority=9))
        world.step()
        assert len(world.evicted) == 4

    def test_members_that_share_the_lowest_number_all_leave_last(self) -> None:
        """A launcher and the first of its workers: the name does not say at which of them the others meet."""
        names = ("launcher-0", "worker-0", "worker-1", "worker-2")
        world = World(cluster("1x4xA100"))
        for device, name in enumerate(names):
            one = owned(pod(name, whole=1, gang="g", gang_min=1), "g")
            world.add(bound(one, "n0", {"main": [(str(device), 100)]}, started=START - 60 * device))
        world.add(pod("high", whole=2, priority=9))
        assert sorted(victims(world)) == ["worker-1", "worker-2"]

    @pytest.mark.parametrize("shielded", [True, False])
    def test_a_member_that_asks_for_something_else_makes_no_other_one_dearer(self, *, shielded: bool) -> None:
        """An old one without GPUs says nothing of what the young ones with GPUs lose."""
        world = World(cluster("1x4xA100"), [member(one, age=10, gang_min=1) for one in range(3)])
        if shielded:
            world.add(bound(pod("g-9", cpu=2, gang="g", gang_min=1), "n0", {}, started=START - 30 * 24 * 3600))
        world.add(bound(pod("other", whole=1), "n0", {"main": [("3", 100)]}, started=START - 36_000))
        world.add(pod("high", whole=1, priority=9))
        assert victims(world) == ["g-2"]

    def test_of_pods_that_nobody_has_numbered_any_will_do(self) -> None:
        """Bare pods that say that one of them is enough: the first one too leaves alone, if no other may."""
        first, other = (pod(f"g-{one}", whole=1, gang="g", gang_min=1) for one in range(2))
        stays = msgspec.structs.replace(other, spec=msgspec.structs.replace(other.spec, priority=2_000_000_000))
        there = [bound(one, "n0", {"main": [(str(at), 100)]}) for at, one in enumerate((first, stays))]
        world = World(cluster("1x2xA100"), there)
        world.add(pod("high", whole=1, priority=9))
        assert victims(world) == ["g-0"]

    def test_a_number_says_nothing_where_a_lower_priority_is_given_to_some(self) -> None:
        """Whoever wrote that said who may go."""
        mine = [member(one, priority=1 if one != 1 else 0) for one in range(4)]
        world = World(cluster("1x4xA100"), mine)
        world.add(pod("high", whole=1, priority=9))
        assert victims(world) == ["g-1"]

    def test_of_members_without_numbers_those_leave_first_with_which_least_is_lost(self) -> None:
        loose = [pod(name, whole=1, gang="g", gang_min=1) for name in ("red", "green", "blue")]
        ages = {"red": 600, "green": 10, "blue": 300}
        there = [
            bound(one, "n0", {"main": [(str(index), 100)]}, started=START - ages[one.metadata.name])
            for index, one in enumerate(loose)
        ]
        world = World(cluster("1x3xA100"), there)
        world.add(pod("high", whole=1, priority=9))
        assert victims(world) == ["green"]


class TestComing:
    def test_the_first_one_that_starts_again_comes_before_a_later_one_that_was_pending_for_longer(self) -> None:
        """Somebody has deleted it, or it has failed: the others would go on holding their GPUs without it."""
        world = World(cluster("1x5xA100"), [pod(f"g-{one}", whole=1, gang="g", gang_min=2) for one in range(6)])
        assert world.settle().waiting == ["g-5"]
        world.delete("g-0")
        world.add(pod("g-0", whole=1, gang="g", gang_min=2, age=-60, uid="again"))
        assert world.settle().waiting == ["g-5"]

    def test_it_comes_for_that_no_sooner_than_its_gang_would_have(self) -> None:
        """Members change places with each other and with nobody else: here the second and the third of five."""
        world = World(cluster("1x2xA100"), [pod(f"g-{one}", whole=1, gang="g", gang_min=1) for one in range(2)])
        world.settle()
        world.delete("g-0", "g-1")
        world.add(
            pod("a", whole=1, age=90),
            pod("g-5", whole=1, gang="g", gang_min=1, age=80),
            pod("b", whole=1, age=70),
            pod("g-0", whole=1, gang="g", gang_min=1, age=60),
        )
        assert sorted(world.settle().where) == ["a", "g-0"]

    def test_each_gang_keeps_its_own_places_and_a_higher_priority_goes_first_all_the_same(self) -> None:
        world = World(cluster("1x3xA100"))
        world.add(
            pod("g-1", whole=1, gang="g", gang_min=1, age=90),
            pod("h-7", whole=1, gang="h", gang_min=1, age=80, priority=1),
            pod("h-3", whole=1, gang="h", gang_min=1, age=70),
            pod("g-0", whole=1, gang="g", gang_min=1, age=60),
        )
        assert sorted(world.settle().where) == ["g-0", "h-3", "h-7"]


@pytest.mark.parametrize("started", [(START - 9000, START - 10), (START - 10, START - 9000)])
def test_room_is_made_where_a_member_would_take_the_only_node_of_another(started: tuple[int, int]) -> None:
    """``g-1`` needs the memory of n0. Where its pod costs less than that of n1, ``g-0`` would have it leave."""
    queues = [{"name": "own", "guarantee": {"gpu": "8"}}, {"name": "b"}]
    low = [
        bound(pod(f"low{one}", whole=1, queue="b"), f"n{one}", {"main": [("0", 100)]}, started=since)
        for one, since in enumerate(started)
    ]
    nodes = [node("n0", 1, memory="1024Gi"), node("n1", 1, memory="128Gi")]
    world = World(nodes, low, policy({"name": "any", "weight": 1}, queues=queues))
    asked = {"whole": 1, "gang": "g", "gang_min": 2, "queue": "own"}
    world.add(pod("g-0", memory="64Gi", **asked), pod("g-1", memory="512Gi", **asked))
    assert world.settle().where == {"g-0": "n1", "g-1": "n0"}
