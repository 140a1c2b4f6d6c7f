"""The states of a pod in the builder: what happens to it, in any order, and who counts it then."""

import msgspec
import pytest
from tests.worlds import START, World, bound, cluster, gang, leaving, node, placed, pod, policy

from tangram.api import names
from tangram.api.objects import OwnerReference, Pod
from tangram.plan import Place, Plan, PodName
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings
from tangram.snapshot import legal
from tangram.snapshot.nodes.inventory import NodeDevice
from tangram.snapshot.pods.states import ACTS, Act, Event, State


def owned(one: Pod, controller: str, uid: str) -> Pod:
    """The pod as one that a Job of this name and uid has made."""
    owner = OwnerReference("Job", controller, uid, controller=True)
    return msgspec.structs.replace(one, metadata=msgspec.structs.replace(one.metadata, owner_references=(owner,)))


def aged(one: Pod, uid: str, created: str) -> Pod:
    return msgspec.structs.replace(
        one, metadata=msgspec.structs.replace(one.metadata, uid=uid, creation_timestamp=created)
    )


class TestStates:
    def test_every_state_says_what_is_done_about_every_event(self) -> None:
        assert set(ACTS) == set(State)
        assert {len(acts) for acts in ACTS.values()} == {len(Event)}

    def test_what_was_sent_stays_counted_until_the_watch_shows_it_or_it_is_taken_back(self) -> None:
        sent = ACTS[State.SENT]
        assert sent[Event.SHOWN_WAITING] == Act.RENEW
        assert sent[Event.GARBLED_WAITING] == Act.NOTHING
        assert sent[Event.FORGOTTEN] == Act.TAKE_BACK


class TestClaimants:
    """Whoever has got a place, or cannot have one, claims none any more."""

    def world(self) -> World:
        world = World(cluster("2x8xA100"), [pod(f"low{n}", whole=8) for n in range(2)], grace=50)
        world.step()
        world.add(pod("high", whole=8, priority=1000))
        world.step()
        assert world.cycle.builder.claims.live()
        return world

    def test_bound_by_somebody_else(self) -> None:
        world = self.world()
        world.add(bound(world.pod("high"), "n9", {"main": [("0", 100)]}))
        assert world.cycle.builder.claims.live() == []

    def test_no_longer_to_be_read(self) -> None:
        world = self.world()
        world.cycle.builder.put_unreadable_pod(world.pod("high").metadata, "")
        assert world.cycle.builder.claims.live() == []

    def test_invalid_by_a_change(self) -> None:
        world = self.world()
        world.add(pod("high", whole=8, gpu_memory="none", gang="g", gang_min="x", priority=1000))
        assert world.cycle.builder.claims.live() == []


class TestClaimedPlaces:
    """A claim is looked at again when what it rests on changes; whoever was asked to leave still counts as leaving."""

    def world(self, **options: object) -> World:
        world = World([node("n0", 4), node("n1", 4)], grace=30, **options)  # type: ignore[arg-type]
        world.add(pod("low-a", whole=4, priority=-10))
        world.step()
        world.add(pod("low-b", whole=4))
        world.step()
        world.add(pod("high", whole=4, priority=1000))
        world.step()
        assert [one.pod.name for one in world.evicted] == ["low-a"]
        return world

    def claimed(self, world: World) -> str:
        [(_, where)] = world.cycle.builder.claims.live()
        return where

    @pytest.mark.parametrize("change", ["cordon", "fewer GPUs", "broken GPU"])
    def test_a_node_that_does_not_fit_any_more_is_given_up_in_the_next_cycle(self, change: str) -> None:
        world = self.world()
        where = self.claimed(world)
        other = {"n0": "n1", "n1": "n0"}[where]
        if change == "cordon":
            world.cycle.builder.put_node(node(where, 4, unschedulable=True))
        elif change == "fewer GPUs":
            world.cycle.builder.put_node(node(where, 2))
        else:
            world.cycle.builder.set_inventory(where, tuple(NodeDevice(str(n), n > 0) for n in range(4)))
        world.step()
        assert self.claimed(world) == other
        assert [one.pod.name for one in world.evicted] == ["low-a", "low-b"]

    @pytest.mark.parametrize("change", ["labels", "policy"])
    def test_nobody_else_is_evicted_where_the_place_is_as_good_as_before(self, change: str) -> None:
        world = self.world()
        where = self.claimed(world)
        if change == "labels":
            world.cycle.builder.put_node(node(where, 4, labels={"a": "b"}))
        else:
            world.cycle.builder.set_policy(policy())
        world.step()
        assert self.claimed(world) == where
        assert [one.pod.name for one in world.evicted] == ["low-a"]

    def test_who_was_asked_to_leave_counts_as_leaving_before_the_watch_shows_it(self) -> None:
        world = World([node("n0", 4), node("n1", 4)], [pod("low-a", whole=4, priority=-10), pod("low-b", whole=4)])
        world.settle()
        world.add(pod("high", whole=4, priority=1000))
        [evict] = world.cycle.decide(world.now).evict
        world.cycle.builder.put_node(node(evict.node, 4, cpu=63))
        again = world.cycle.decide(world.now + 1)
        assert (again.evict, [place.node for claim in again.claims for place in claim.places]) == ((), [evict.node])

    def test_a_node_that_others_have_filled_is_given_up(self) -> None:
        world = self.world()
        where = self.claimed(world)
        world.add(bound(pod("foreign", cpu=90, scheduler="other"), where))
        world.add(bound(pod("foreign2", cpu=90, scheduler="other"), where))
        world.step()
        assert self.claimed(world) != where


class TestGangLives:
    """Members that are leaving, or of an earlier life of their gang, are no members any more."""

    def test_pods_that_are_leaving_do_not_help_a_gang_of_the_same_name(self) -> None:
        world = World(cluster("3x8xA100"), gang("j", 2, whole=8))
        world.step()
        world.add(*[leaving(one) for one in list(world.live.values())])
        world.add(*[aged(one, f"new-{one.metadata.name}", "2023-11-14T22:13:20Z") for one in gang("j", 2, whole=8)])
        plan = world.step()
        assert plan.place == ()
        assert world.told[-1][1] != "Scheduled"
        assert "needs 2 pods at once" in plan.hold[0].message

    def test_pods_of_a_job_that_was_made_again_wait_for_a_minimum_of_their_own(self) -> None:
        old = [owned(one, "j", "first") for one in gang("j", 2, whole=8)]
        world = World(cluster("3x8xA100"), old)
        world.step()
        new = [aged(owned(one, "j", "second"), f"new-{one.metadata.name}", "2023-11-14T22:13:30Z") for one in old]
        world.add(*new)
        assert world.step().place == ()
        for one in old:
            del world.live[one.metadata.uid]
            world.cycle.observe_pod(one, None)
        assert len(world.step().place) == 2

    def test_a_pod_of_the_earlier_job_that_is_bound_late_does_not_count_for_the_later_one(self) -> None:
        old = [owned(one, "j", "first") for one in gang("j", 2, whole=8)]
        world = World(cluster("2x8xA100"), old)
        world.add(*[aged(owned(one, "j", "second"), f"new-{one.metadata.name}", "2023-11-14T22:13:30Z") for one in old])
        world.add(bound(old[0], "n0", {"main": [(str(index), 100) for index in range(8)]}))
        assert world.step().place == ()

    def test_a_pod_of_the_earlier_job_that_still_waits_is_told_why(self) -> None:
        world = World(cluster("1x8xA100"), [owned(one, "j", "first") for one in gang("j", 2, whole=8)])
        world.step()
        fresh = owned(gang("j", 2, whole=1)[0], "j", "second")
        world.add(aged(fresh, "uid-again", "2023-11-14T22:13:30Z"))
        plan = world.step()
        assert {hold.reason for hold in plan.hold if "made again" in hold.message} == {"InvalidRequest"}

    def test_a_member_that_is_leaving_binds_its_gang_to_no_domain(self) -> None:
        zones = {"topology.kubernetes.io/zone": "a"}, {"topology.kubernetes.io/zone": "b"}
        nodes = [node("n0", 8, labels=zones[0]), node("n1", 8, labels=zones[1]), node("n2", 8, labels=zones[1])]
        here = {names.TOPOLOGY_REQUIRED: "topology.kubernetes.io/zone"}
        world = World(nodes, [bound(gang("j", 2, whole=8, annotations=here)[0], "n0", {"main": []})])
        world.add(leaving(world.pod("j-0")))
        world.add(*[aged(one, f"new-{one.metadata.name}", "2023-11-14T22:13:20Z") for one in gang("j", 2, whole=8)])
        assert {place.node for place in world.step().place} == {"n1", "n2"}

    def test_members_of_two_controllers_are_one_gang(self) -> None:
        launcher, worker = gang("j", 2, whole=8)
        world = World(cluster("2x8xA100"), [owned(launcher, "launcher", "one"), owned(worker, "worker", "two")])
        assert len(world.step().place) == 2


class TestLegal:
    def test_a_gang_is_found_by_its_row_whatever_the_row_was_before(self) -> None:
        world = World(cluster("1x8xA100"), [*gang("g", 2, whole=16), *gang("h", 2, whole=16)])
        for name in ("g-0", "g-1", "h-0", "h-1"):
            world.delete(name)
        world.add(*gang("g", 4, whole=1))
        snapshot = world.cycle.builder.snapshot(START)
        part = Plan(place=(Place(PodName("default", "g-0", "uid-g-0"), "n0", (), "default/g"),))
        assert list(legal.illegal(part, snapshot)) == ["gang default/g is placed in part: 1 of 4"]


def test_a_pod_that_is_shown_bound_and_then_waiting_again_holds_nothing() -> None:
    cycle = Cycle(SchedulerSettings(debug=True))
    cycle.builder.put_node(node("n0", 1))
    one = pod("a", whole=1)
    cycle.observe_pod(None, one)
    [place] = cycle.decide(START).place
    shown = placed(one, place)
    cycle.observe_pod(one, shown)
    cycle.observe_pod(shown, one)
    assert [found.node for found in cycle.decide(START + 1).place] == ["n0"]


def annotated(one: Pod, **annotations: str) -> Pod:
    metadata = msgspec.structs.replace(one.metadata, annotations={**one.metadata.annotations, **annotations})
    return msgspec.structs.replace(one, metadata=metadata)


@pytest.mark.parametrize(
    ("before", "change", "told"),
    [
        pytest.param({"gang": "g", "gang_min": 1}, {names.GANG_MIN: "3"}, [3], id="the minimum of its gang"),
        pytest.param({"gpu_memory": "8Gi"}, {names.GPU_MEMORY: "nothing"}, [], id="what nobody can read"),
    ],
)
def test_what_a_pod_says_while_its_binding_is_on_its_way_is_what_a_fresh_process_reads(
    before: dict[str, object], change: dict[str, str], told: list[int]
) -> None:
    world = World([node("n0", 8, gpu_memory=81920)])
    world.add(pod("x", gpu=50, **before))  # type: ignore[arg-type]
    [place] = world.cycle.decide(START + 1).place
    changed = annotated(world.live["uid-x"], **change)
    world.add(changed)
    world.cycle.place_ended(place, held=True)
    world.add(placed(changed, place, START + 1))

    def counted() -> tuple[list[int], list[int], list[object]]:
        snapshot = world.cycle.builder.snapshot(START + 2)
        assert list(legal.miscounted(world.cycle.builder)) == []
        gangs = snapshot.gangs
        there = [row for row, name in enumerate(gangs.names) if name == "default/g"]
        return gangs.minimum[there].tolist(), gangs.bound[there].tolist(), snapshot.nodes.device_free[0].tolist()

    running = counted()
    assert running[0] == told
    world.start_again()
    assert counted() == running
