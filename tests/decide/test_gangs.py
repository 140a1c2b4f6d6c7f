"""Gangs of several roles, gangs whose members are done, and gangs that are bound in part."""

from collections.abc import Iterable
from typing import Any

import pytest
from msgspec.structs import replace
from tests.worlds import World, bound, cluster, gang, leaving, node, placed, pod, policy, requires

from tangram.api import names
from tangram.api.objects import OwnerReference, Pod, Requirement

LOPSIDED = (("leader", "leader"), ("w0", "worker"), ("w1", "worker"))


def member(name: str, role: str, roles: str = "", **options: object) -> Pod:
    """A member of gang g with a role; ``roles`` is what it says of the gang's roles."""
    annotations = {names.GANG_ROLE_MIN: roles} if roles else {}
    one = pod(name, gang="g", annotations=annotations, **options)
    return replace(one, metadata=replace(one.metadata, labels={**one.metadata.labels, names.ROLE: role}))


def roles(launchers: int, workers: int, minimum: str, **options: object) -> list[Pod]:
    """So many launchers without GPU and workers with one each."""
    found = [member(f"launcher-{index}", "launcher", minimum) for index in range(launchers)]
    return found + [member(f"worker-{index}", "worker", minimum, whole=1, **options) for index in range(workers)]


def owned(one: Pod, by: str) -> Pod:
    """The pod as one of a controller's."""
    owner = OwnerReference("Job", by, f"uid-{by}", True)
    return replace(one, metadata=replace(one.metadata, owner_references=(owner,)))


def succeeded(one: Pod) -> Pod:
    return replace(one, status=replace(one.status, phase="Succeeded"))


class TestRoles:
    """The minimum of each role has to be there together."""

    def test_the_sum_of_the_roles_is_the_least_minimum(self) -> None:
        world = World(cluster("1x4xA100"), roles(1, 2, "launcher=1,worker=3")).settle()
        assert (world.where, world.reason("worker-0")) == ({}, "GangIncomplete")
        world.add(member("worker-2", "worker", whole=1))
        assert len(world.settle().where) == 4

    def test_members_of_another_role_do_not_make_up_for_missing_ones(self) -> None:
        world = World(cluster("1x4xA100"), roles(0, 4, "launcher=1,worker=2")).settle()
        assert (world.where, world.reason("worker-0")) == ({}, "GangIncomplete")
        world.add(member("launcher", "launcher"))
        assert len(world.settle().where) == 5

    def test_what_a_role_needs_goes_before_what_another_may_have_beyond_its_minimum(self) -> None:
        """The workers come first and would fill the node."""
        workers = roles(0, 6, "launcher=1,worker=2", age=9)
        launcher = member("launcher", "launcher", whole=1)
        world = World(cluster("1x4xA100"), [*workers, launcher]).settle()
        assert "launcher" in world.where
        assert len(world.where) == 4

    def test_a_role_that_does_not_fit_keeps_all_of_them_waiting(self) -> None:
        wide = member("launcher", "launcher", "launcher=1,worker=2", whole=8)
        world = World(cluster("1x4xA100"), [*roles(0, 4, "launcher=1,worker=2"), wide]).settle()
        assert (world.where, world.reason("worker-0")) == ({}, "GangUnschedulable")
        world.cycle.builder.put_node(node("n9", 8))
        assert len(world.settle().where) == 5

    def test_the_rest_of_an_elastic_gang_follows_when_there_is_room(self) -> None:
        world = World(cluster("1x2xA100"), roles(1, 4, "launcher=1,worker=2")).settle()
        assert len(world.where) == 3
        world.cycle.builder.put_node(node("n9", 8))
        assert len(world.settle().where) == 5

    @pytest.mark.parametrize(
        "text", ["", "worker", "worker=", "worker=0", "=1", "worker=1,worker=2", "worker=-1", "w=1e9", "a=1," * 20]
    )
    def test_unreadable_minimums_are_told(self, text: str) -> None:
        one = pod("a", whole=1, gang="g", annotations={names.GANG_MIN: "1", names.GANG_TIMEOUT: "1h"})
        notes = {**one.metadata.annotations, names.GANG_ROLE_MIN: text}
        world = World(cluster("1x1xA100"), [replace(one, metadata=replace(one.metadata, annotations=notes))]).settle()
        assert (world.where, world.reason("a")) == ({}, "InvalidRequest")


class TestFinishedMembers:
    """Who has done its work counts, and holds nothing."""

    def test_a_member_that_starts_again_does_not_wait_for_those_that_are_done(self) -> None:
        world = World(cluster("1x2xA100"), gang("g", 2, whole=1)).settle()
        world.add(succeeded(world.pod("g-0")))
        world.delete("g-1")
        world.add(pod("g-1", whole=1, gang="g", gang_min=2, uid="again"))
        assert list(world.settle().where) == ["g-0", "g-1"]

    def test_a_role_is_met_by_members_that_are_done(self) -> None:
        world = World(cluster("1x2xA100"), roles(1, 2, "launcher=1,worker=2")).settle()
        world.add(succeeded(world.pod("launcher-0")))
        world.delete("worker-1")
        world.add(member("worker-1", "worker", "launcher=1,worker=2", whole=1, uid="again"))
        assert "worker-1" in world.settle().where

    def test_once_deleted_they_do_not_count_any_more(self) -> None:
        world = World(cluster("1x2xA100"), gang("g", 2, whole=1)).settle()
        world.add(succeeded(world.pod("g-0")))
        world.delete("g-0", "g-1")
        world.add(pod("g-1", whole=1, gang="g", gang_min=2, uid="again"))
        assert (world.settle().waiting, world.reason("g-1")) == (["g-1"], "GangIncomplete")

    def test_yesterdays_pods_of_another_job_do_not_count_for_a_gang_of_the_same_name(self) -> None:
        yesterday = [owned(succeeded(bound(one, "n0")), "monday") for one in gang("g", 2, whole=1)]
        today = owned(pod("new", whole=1, gang="g", gang_min=2), "tuesday")
        world = World(cluster("1x2xA100"), [*yesterday, today]).settle()
        assert (world.waiting, world.reason("new")) == (["new"], "GangIncomplete")


class TestTimeout:
    """Half a gang does not hold its GPUs for ever."""

    def broken(self, **options: object) -> World:
        """A gang of three that has lost a member, whose place somebody else has taken."""
        world = World(cluster("1x3xA100"), gang("g", 3, whole=1, **options)).settle()
        world.delete("g-2")
        world.add(pod("thief", whole=1))
        world.step()
        world.add(pod("g-2", whole=1, gang="g", gang_min=3, uid="again", **options))
        return world

    def test_a_gang_that_cannot_be_completed_is_released_whole(self) -> None:
        world = self.broken()
        world.step()
        world.now += 70
        plan = world.step()
        [told] = [hold.message for hold in plan.hold if hold.pod.name == "g-2"]
        assert told.startswith("gang default/g has 2 of at least 3 members bound, after its timeout of 60s")
        assert sorted(one.pod.name for one in plan.evict) == ["g-0", "g-1"]
        assert all(one.claimant is None and "default/g" in one.reason for one in plan.evict)
        assert list(world.settle().where) == ["thief"]
        assert ("g-2", "GangTimeout") in world.told

    def test_one_that_can_be_completed_is_never_released(self) -> None:
        world = World(cluster("1x3xA100"), gang("g", 3, whole=1)).settle()
        world.delete("g-2")
        world.step()
        world.now += 1000
        world.add(pod("g-2", whole=1, gang="g", gang_min=3, uid="again"))
        plan = world.step()
        assert (len(plan.place), plan.evict) == (1, ())

    def test_the_time_counts_from_when_it_was_broken(self) -> None:
        """Not from when it came, or from when its members were there."""
        world = World(cluster("1x3xA100"), [pod("first", whole=1), *gang("g", 3, whole=1)]).settle()
        world.now += 1000
        world.delete("first")
        assert len(world.settle().where) == 3
        world.delete("g-2")
        world.add(pod("thief", whole=1))
        assert world.settle().evicted == []

    @pytest.mark.parametrize(("timeout", "released"), [("10s", True), ("1h", False), ("0s", False)])
    def test_the_gang_may_say_how_long(self, timeout: str, released: bool) -> None:
        world = self.broken(annotations={names.GANG_TIMEOUT: timeout})
        world.step()
        world.now += 100
        assert bool(world.step().evict) == released

    def test_members_that_leave_already_are_left_alone(self) -> None:
        """Who deletes a gang deletes its pods one by one."""
        world = World(cluster("1x3xA100"), gang("g", 3, whole=1)).settle()
        world.delete("g-2")
        for name in ("g-0", "g-1"):
            world.add(leaving(world.pod(name)))
        world.step()
        world.now += 1000
        assert world.step().evict == ()

    def test_a_binding_of_a_refused_member_that_is_tried_again_is_no_progress(self) -> None:
        """While it is on its way the gang looks whole."""
        world = World(cluster("1x2xA100"), gang("g", 2, whole=1))
        builder, first = world.cycle.builder, world.cycle.decide(world.now)
        held, refused = first.place
        world.add(placed(world.live[held.pod.uid], held))
        for second in range(0, 65, 5):
            world.cycle.place_ended(refused, held=False)
            builder.back_off(refused.pod.uid, "BindingRefused", "no", world.now + second)
            builder.snapshot(world.now + second)
            if builder.gangs.arrays.overdue:
                break
            builder.overlay(refused)
            builder.snapshot(world.now + second + 1)
        assert [one.name for one, _ in builder.gangs.arrays.overdue[0]] == [held.pod.name]

    def test_who_follows_the_scheduler_that_decides_counts_the_time_too(self) -> None:
        world = self.broken()
        world.step()
        world.start_again()
        world.cycle.pass_time(world.now)
        world.now += 70
        assert sorted(one.pod.name for one in world.step().evict) == ["g-0", "g-1"]

    def test_who_has_just_started_lets_the_missing_members_have_all_of_the_time(self) -> None:
        """Nothing in the cluster says since when they are missing, and too early would end work that runs."""
        world = self.broken()
        world.step()
        world.now += 70
        world.start_again()
        assert world.step().evict == ()
        world.now += 70
        assert world.step().evict

    def lopsided(self, protected: Iterable[str] = ()) -> World:
        """A gang that needs a leader and a worker, and has two workers on all the GPUs there are."""
        need = "leader=1,worker=1"
        leader, *workers = (member(name, role, need, whole=1) for name, role in LOPSIDED)
        there = [bound(one, "n0", {"main": [(str(index), 100)]}) for index, one in enumerate(workers)]
        world = World(cluster("1x2xA100"), [*there, leader], protected=set(protected))
        world.step()
        return world

    def test_a_member_that_can_be_spared_gives_its_place_to_one_that_is_lacking(self) -> None:
        world = self.lopsided()
        assert not world.evicted
        world.now += 70
        world.settle()
        (gone,) = world.evicted
        assert (gone.claimant and gone.claimant.name, "role leader" in gone.reason) == ("leader", True)
        assert "leader" in world.where
        assert len(world.where) == 2

    @pytest.mark.parametrize(("first", "second", "leaves"), [(9, 0, "w1"), (0, 9, "w0")])
    def test_of_those_that_can_be_spared_the_lowest_gives_its_place(self, first: int, second: int, leaves: str) -> None:
        need = "leader=1,worker=1"
        there = [
            member(f"w{index}", "worker", need, whole=1, priority=rank) for index, rank in enumerate((first, second))
        ]
        there = [bound(one, "n0", {"main": [(str(index), 100)]}) for index, one in enumerate(there)]
        world = World(cluster("1x2xA100"), [*there, member("leader", "leader", need, whole=1)])
        world.step()
        world.now += 70
        world.settle()
        assert [one.pod.name for one in world.evicted] == [leaves]

    def test_nobody_gives_way_for_one_that_a_limit_forbids(self) -> None:
        """The leader asks for more CPUs than the worker gives back, and the queue has none left."""
        need = "leader=1,worker=1"
        leader, *workers = (
            member(name, role, need, whole=1, cpu=2 if role == "leader" else 1, queue="q") for name, role in LOPSIDED
        )
        there = [bound(one, "n0", {"main": [(str(index), 100)]}) for index, one in enumerate(workers)]
        world = World(
            cluster("1x2xA100"), [*there, leader], policy=policy(queues=[{"name": "q", "limit": {"cpu": "2"}}])
        )
        world.step()
        world.now += 70
        plan = world.step()
        assert sorted(one.pod.name for one in plan.evict) == ["w0", "w1"]
        assert all(one.claimant is None for one in plan.evict)

    def test_where_none_can_be_spared_the_gang_is_released_whole(self) -> None:
        world = self.lopsided(protected={"w0", "w1"})
        world.now += 70
        world.step()
        assert world.waiting == ["leader"]
        world.protected.clear()
        world.now += 70
        assert world.step().evict

    def test_members_whose_place_another_gets_leave_once(self) -> None:
        world = self.broken()
        world.step()
        world.now += 70
        world.add(pod("high", whole=3, priority=9))
        assert sorted(one.pod.name for one in world.step().evict) == ["g-0", "g-1", "thief"]

    def test_a_gang_for_which_others_are_leaving_waits_for_them(self) -> None:
        world = self.broken(priority=9)
        world.grace = 3
        world.now += 70
        world.settle()
        assert [one.pod.name for one in world.evicted] == ["thief"]
        assert list(world.where) == ["g-0", "g-1", "g-2"]

    def test_an_eviction_that_does_not_come_about_is_tried_again_after_another_timeout(self) -> None:
        world = self.broken()
        world.step()
        world.now += 70
        cycle = world.cycle
        assert len(cycle.decide(world.now).evict) == 2
        assert cycle.decide(world.now + 1).evict == ()
        assert len(cycle.decide(world.now + 61).evict) == 2

    def test_a_gang_whose_members_do_not_come_says_so_after_the_timeout(self) -> None:
        world = World(cluster("1x3xA100"), gang("g", 2, minimum=3, whole=1)).settle()
        assert world.reason("g-0") == "GangIncomplete"
        world.now += 100
        world.settle()
        assert world.reason("g-0") == "GangTimeout"
        world.add(pod("g-2", whole=1, gang="g", gang_min=3))
        assert len(world.settle().where) == 3

    def test_an_unreadable_timeout_is_told(self) -> None:
        world = World(cluster("1x1xA100"), [pod("a", gang="g", annotations={names.GANG_TIMEOUT: "soon"})]).settle()
        assert (world.where, world.reason("a")) == ({}, "InvalidRequest")

    def test_a_timeout_that_is_too_long_to_read_names_the_most_that_is_allowed(self) -> None:
        world = World(cluster("1x1xA100"), [pod("a", gang="g", annotations={names.GANG_TIMEOUT: "99999999999999h"})])
        (hold,) = world.step().hold
        assert hold.message == (
            "annotation scheduling.example.com/gang-timeout: '99999999999999h' is not allowed; allowed: a duration "
            "such as 90s, 15m, 2h30m or 3d, of at most 999999d or 99999999h"
        )


class TestWorkDone:
    """What a Job has done is known from its own status, which outlives its pods."""

    def test_a_job_finishes_whose_finished_pods_were_deleted_before_the_last_one_is_bound(self) -> None:
        done = [owned(one, "j") for one in gang("g", 4, whole=1)]
        world = World(cluster("1x4xA100"), done).settle()
        last = owned(pod("g-4", gang="g", gang_min=4, whole=1), "j")
        world.add(*map(succeeded, done), last)
        world.cycle.builder.set_completed("uid-j", 4)
        for one in done:
            world.delete(one.metadata.name)
        assert "g-4" in world.settle().where

    def test_of_more_than_one_role_it_is_not_known_whose_members_are_done(self) -> None:
        world = World(cluster("1x8xA100"), [owned(one, "j") for one in roles(1, 1, "launcher=1,worker=2")])
        world.cycle.builder.set_completed("uid-j", 1)
        assert (world.settle().where, world.reason("worker-0")) == ({}, "GangIncomplete")

    def test_another_jobs_work_does_not_count(self) -> None:
        world = World(cluster("1x8xA100"), [owned(pod("g-0", gang="g", gang_min=2, whole=1), "new")])
        world.cycle.builder.set_completed("uid-old", 5)
        assert world.settle().where == {}

    @pytest.mark.parametrize("told", [-1, 0, 1 << 70])
    def test_a_status_may_say_anything(self, told: int) -> None:
        world = World(cluster("1x8xA100"), [owned(pod("g-0", gang="g", gang_min=2, whole=1), "j")])
        world.cycle.builder.set_completed("uid-j", told)
        assert ("g-0" in world.settle().where) == (told > 0)


def test_further_members_come_with_those_for_which_others_were_evicted() -> None:
    world = World(cluster("1x8xA100"), [pod("low", whole=8)], grace=1).settle()
    world.add(*gang("g", 4, minimum=2, whole=2, priority=9))
    while not world.evicted:
        world.step()
    steps = [[place.pod.name for place in world.step().place] for _ in range(3)]
    assert sorted(next(names for names in steps if names)) == ["g-0", "g-1", "g-2", "g-3"]


@pytest.mark.parametrize("suffix", ["", "-x7k2p"])
def test_equal_members_that_a_gang_can_do_without_come_by_their_numbers(suffix: str) -> None:
    """Whatever their names are: the first one is whom the others meet at."""
    for name in ("tj-worker", "a", "zz"):
        world = World(cluster("1x8xA100"))
        world.add(*(pod(f"{name}-{index}{suffix}", whole=1, gang="g", gang_min=2) for index in range(12)))
        world.settle()
        assert sorted(world.where) == sorted(f"{name}-{index}{suffix}" for index in range(8))


@pytest.mark.parametrize("target", range(4))
@pytest.mark.parametrize("pinned", range(2))
def test_a_member_that_may_go_anywhere_leaves_the_only_node_of_another_alone(pinned: int, target: int) -> None:
    only: dict[str, Any] = {"selector": {"kubernetes.io/hostname": f"n{target}"}}
    members = [pod(f"g-{one}", whole=4, gang="g", gang_min=2, **(only if one == pinned else {})) for one in range(2)]
    where = World(cluster("4x4xA100"), members).settle().where
    assert len(where) == 2
    assert where[f"g-{pinned}"] == f"n{target}"


@pytest.mark.parametrize("demanding_first", [False, True])
@pytest.mark.parametrize("full", [False, True])
def test_a_gang_of_members_for_one_model_and_for_any_fits_whatever_their_numbers(
    *, full: bool, demanding_first: bool
) -> None:
    """Also where others have to leave for it."""
    nodes = [*cluster("4x4xA100"), *(node(f"t{one}", 4, "T4") for one in range(2))]
    kinds: list[dict[str, Any]] = [{}, {}, *({"models": "A100"} for _ in range(4))]
    order = kinds[::-1] if demanding_first else kinds
    members = [pod(f"g-{one}", whole=4, gang="g", gang_min=6, priority=9, **more) for one, more in enumerate(order)]
    four = {"main": [(str(index), 100) for index in range(4)]}
    low = [bound(pod(f"low-{one.metadata.name}", whole=4), one.metadata.name, four) for one in nodes] if full else []
    where = World(nodes, [*low, *members]).settle().where
    assert {one.partition("-")[0] for one in where} == {"g"}
    assert len(where) == 6


def test_each_of_three_members_that_may_go_to_two_of_three_nodes_has_one() -> None:
    members = [
        pod(
            f"g-{one}",
            whole=4,
            gang="g",
            gang_min=3,
            affinity=requires([Requirement("kubernetes.io/hostname", "In", two)]),
        )
        for one, two in enumerate((("n0", "n1"), ("n1", "n2"), ("n0", "n2")))
    ]
    assert len(World(cluster("3x4xA100"), members).settle().where) == 3


def of_role(one: Pod, role: str, minimum: str) -> Pod:
    """A member of a role, of a gang that says how many it needs of each."""
    metadata = one.metadata
    notes = {**metadata.annotations, names.GANG_ROLE_MIN: minimum}
    return replace(one, metadata=replace(metadata, labels={**metadata.labels, names.ROLE: role}, annotations=notes))


def test_members_that_roles_lack_come_first_only_where_somebody_can_be_spared() -> None:
    """Of 2, 4, 1 and, only on the first node, 3 GPUs the second pair has to share a node of 5."""
    only = {"kubernetes.io/hostname": "n0"}
    sizes = ((2, "l", {}), (4, "w", {}), (1, "l", {}), (3, "w", only))
    members = [
        of_role(pod(f"g-{one}", whole=gpus, gang="g", gang_min=4, selector=where), role, "l=1,w=1")
        for one, (gpus, role, where) in enumerate(sizes)
    ]
    assert len(World([node("n0", 5), node("n1", 5)], members).settle().where) == 4


def test_a_member_that_found_no_place_comes_before_those_that_ask_for_the_same() -> None:
    sizes = ((2, "l"), (4, "l"), (4, "w"), (1, "l"), (3, "l"))
    members = [
        of_role(pod(f"g-{one}", whole=gpus, gang="g", gang_min=2), role, "l=1,w=1")
        for one, (gpus, role) in enumerate(sizes)
    ]
    assert World([node("n0", 1), node("n1", 4)], members).settle().where == {"g-2": "n1", "g-3": "n0"}


@pytest.mark.parametrize("sizes", [(2, 2, 2, 2, 6, 6, 6, 6), (6, 6, 6, 6, 2, 2, 2, 2)])
def test_lower_pods_leave_for_unequal_members_whatever_their_numbers(sizes: tuple[int, ...]) -> None:
    low = [
        bound(pod(f"low{row}-{gpu}", whole=1), f"n{row}", {"main": [(str(gpu), 100)]})
        for row in range(4)
        for gpu in range(8)
    ]
    members = [pod(f"g-{one}", whole=gpus, gang="g", gang_min=8, priority=9) for one, gpus in enumerate(sizes)]
    assert len(World(cluster("4x8xA100"), [*low, *members]).settle().where) == 8
