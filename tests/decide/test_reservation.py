"""The first in line for GPUs is not starved by smaller work that always fits somewhere."""

import random
from collections.abc import Iterator

import pytest
from msgspec.structs import replace
from tests.worlds import START, World, bound, cluster, gang, node, pod, with_spec

from tangram.api import names
from tangram.api.objects import Affinity, LabelSelector, Pod, PodAffinity, PodAffinityTerm
from tangram.decide.gangs import gang as gang_module
from tangram.decide.memory import Memory
from tangram.decide.pipeline import _make
from tangram.decide.reserve.reservation import MOST_PATIENCE, PATIENCE
from tangram.settings import SchedulerSettings

DELAY = SchedulerSettings().reservation_delay
_FIRST_FOUR = {"main": [(str(device), 100) for device in range(4)]}


def lasting(one: Pod, duration: str) -> Pod:
    """The pod with what it says of its duration."""
    notes = {**one.metadata.annotations, names.ESTIMATED_DURATION: duration}
    return replace(one, metadata=replace(one.metadata, annotations=notes))


def running(name: str, where: str, gpus: int, duration: str = "", first: int = 0, started: int = START) -> Pod:
    """A pod that runs on the GPUs of a node from the ``first`` on."""
    devices = {"main": [(str(first + index), 100) for index in range(gpus)]}
    one = pod(name, whole=gpus)
    return bound(lasting(one, duration) if duration else one, where, devices, started)


class TestBackfilling:
    """Whoever comes later goes before the first in line where it does not delay it."""

    def world(self, *later: Pod) -> World:
        """Two nodes; n0 is free in 100 s, n1 is half free now. A gang needs both, and has been told to wait."""
        world = World(cluster("2x4xA100"), [running("a", "n0", 4, "100s"), running("b", "n1", 2, "50s")])
        world.add(*gang("big", 2, whole=4, age=60, cpu=48))
        world.step()
        world.add(*later)
        return world.settle()

    def test_what_does_not_say_how_long_it_runs_waits(self) -> None:
        world = self.world(pod("small", whole=1))
        assert (world.waiting, world.reason("small")) == (["big-0", "big-1", "small"], "Reserved")

    @pytest.mark.parametrize(("duration", "goes"), [("90s", True), ("200s", False), ("soon", False)])
    def test_what_ends_in_time_goes_first(self, duration: str, goes: bool) -> None:
        world = self.world(lasting(pod("small", whole=1), duration))
        assert ("small" in world.where) == goes

    def test_what_runs_on_other_nodes_is_free_to_go(self) -> None:
        world = World(cluster("3x4xA100"), [running("a", "n0", 4, "100s"), running("b", "n1", 2, "50s")])
        world.add(running("c", "n2", 3), *gang("big", 2, whole=4, age=60))
        world.step()
        world.add(pod("small", whole=1))
        assert world.settle().where["small"] == "n2"

    def test_work_without_gpus_goes_where_it_leaves_enough(self) -> None:
        world = self.world(pod("cpu", cpu=8), pod("much", cpu=60))
        assert ("cpu" in world.where, "much" in world.where) == (True, False)

    def test_a_gang_is_held_back_like_a_pod(self) -> None:
        world = self.world(*gang("g", 2, whole=1))
        assert (world.reason("g-0"), "g-0" in world.where) == ("Reserved", False)
        world.add(*[lasting(one, "30s") for one in gang("h", 2, whole=1)])
        assert {"h-0", "h-1"} <= world.settle().where.keys()

    def test_a_gang_that_is_held_back_is_not_tried_again_while_nothing_changes(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        world, tried = self.world(*gang("g", 2, whole=1)), list[int]()
        commit = gang_module.commit
        monkeypatch.setattr(gang_module, "commit", lambda *about: tried.append(about[1]) or commit(*about))
        world.cycle.decide(world.now)
        assert tried == []
        world.delete("b")
        world.cycle.decide(world.now)
        assert tried

    def test_the_first_in_line_starts_when_it_was_worked_out(self) -> None:
        world = self.world(pod("small", whole=1))
        world.delete("b", "a")
        world.settle()
        assert {"big-0", "big-1"} <= world.where.keys()
        assert world.waiting == ["small"]

    def test_nothing_is_held_for_what_can_never_run(self) -> None:
        world = World(cluster("2x4xA100"), [running("a", "n0", 4, "100s")])
        world.add(*gang("huge", 5, whole=4, age=60), pod("whole", whole=8, age=60))
        world.step()
        world.add(pod("small", whole=1))
        assert "small" in world.settle().where

    def test_nothing_is_held_where_nobody_says_when_it_ends_before_the_delay_is_over(self) -> None:
        world = World(cluster("2x4xA100"), [running("a", "n0", 4), running("b", "n1", 2)])
        world.add(*gang("big", 2, whole=4, age=60))
        world.step()
        world.add(pod("small", whole=1))
        assert "small" in world.settle().where

    def test_it_can_be_switched_off(self) -> None:
        world = World(cluster("2x4xA100"), [running("a", "n0", 4, "100s"), running("b", "n1", 2, "50s")])
        world.cycle.builder.reservation_delay = -1
        world.add(*gang("big", 2, whole=4, age=60))
        world.step()
        world.add(pod("small", whole=1))
        assert "small" in world.settle().where

    def test_a_pod_that_overruns_is_expected_a_little_later(self) -> None:
        started = START - 1000
        world = World(cluster("1x4xA100"), [running("a", "n0", 3, "900s", started=started)])
        world.add(pod("big", whole=4, age=60))
        world.step()
        world.add(lasting(pod("short", whole=1), "60s"))
        assert "short" in world.settle().where

    def test_pods_that_are_always_started_again_never_end(self) -> None:
        """A server is no reason to hold its node for anybody."""
        server = with_spec(running("server", "n0", 4), restart_policy="Always")
        world = World(cluster("1x4xA100", "1x2xA100"), [server, running("x", "n1", 1)])
        world.add(pod("big", whole=4, age=2 * DELAY))
        world.step()
        world.add(pod("small", whole=1))
        assert "small" in world.settle().where


class TestDelay:
    """After the delay nodes are kept free whatever anybody says of its end."""

    def test_nodes_are_held_where_no_pod_was_placed_for_longest(self) -> None:
        old = running("old", "n0", 3, started=START - 9000)
        young = running("young", "n1", 3, started=START - 100)
        world = World(cluster("2x4xA100"), [old, young])
        world.add(pod("big", whole=4, age=DELAY + 1))
        world.step()
        world.add(lasting(pod("s0", whole=1), "?"), pod("s1", whole=1))
        world.settle()
        assert list(set(world.where.values()) & {"n0"}) == ["n0"]
        assert [world.where.get(name) for name in ("s0", "s1")].count("n1") == 1
        assert "n0" not in {world.where.get("s0"), world.where.get("s1")}
        world.delete("old")
        assert world.settle().where["big"] == "n0"

    @pytest.mark.parametrize(
        ("waited", "ran", "goes"),
        [
            (PATIENCE * DELAY - 60, 2000, True),
            (PATIENCE * DELAY, 1000, True),
            (PATIENCE * DELAY, 2000, False),
            (MOST_PATIENCE * DELAY, 1000, False),
        ],
        ids=["trusted", "kept", "broken", "too long"],
    )
    def test_words_count_for_longer_where_they_are_kept(self, waited: int, ran: int, *, goes: bool) -> None:
        """One pod will run for a day; another said 1,000 s when it started, and may have run for longer."""
        day = running("day", "n0", 2, "86400s", started=START - 10)
        late = running("late", "n0", 1, "1000s", first=2, started=START - ran)
        world = World(cluster("1x4xA100"), [day, late])
        world.add(pod("big", whole=4, age=waited))
        world.step()
        world.add(lasting(pod("short", whole=1), "60s"))
        assert ("short" in world.settle().where) == goes

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(5))
    @pytest.mark.parametrize(
        ("says", "delay", "trusted"),
        [
            ("truth", 300, 0),
            ("lies", 10, 10 * PATIENCE),
            ("exaggerations", 2, 2 * MOST_PATIENCE),
            ("nothing", 250, 250),
        ],
    )
    def test_nobody_waits_longer_than_the_delay_and_the_longest_run(
        self, seed: int, says: str, delay: int, trusted: int
    ) -> None:
        """Small jobs come all the time, more than the cluster can run, and say of their duration what they like."""
        waits = dict(starts(random.Random(seed), says, delay))
        assert 0 < waits["gang"] <= trusted + QUEUE + LONGEST_RUN

    @pytest.mark.slow
    @pytest.mark.parametrize("seed", range(5))
    def test_nor_does_a_gang_that_must_be_within_one_rack(self, seed: int) -> None:
        waits = dict(starts(random.Random(seed), "nothing", delay=250, racks=2))
        assert 0 < waits["gang"] <= 250 + QUEUE + LONGEST_RUN
        assert "gang" not in dict(starts(random.Random(seed), "nothing", delay=-1, racks=2))

    @pytest.mark.slow
    def test_without_reservations_it_would_starve(self) -> None:
        assert "gang" not in dict(starts(random.Random(1), "lies", delay=-1))


LONGEST_RUN = 200
QUEUE = 100
"""Seconds at most until the small jobs that came before the gang have started."""
STEP = 5


def test_a_pod_that_ends_in_time_makes_room_on_held_nodes_after_an_equal_one_that_does_not() -> None:
    """The first in line preempts nobody, and n0 is held for it until the pods there have ended."""
    first = with_spec(pod("first", whole=4, priority=9, age=600), preemption_policy="Never")
    low = [running("low-a", "n0", 2, "1h"), running("low-b", "n0", 2, "1h", first=2)]
    world = World([node("n0", 4)], [*low, first]).settle()
    world.add(pod("long", whole=2, priority=5, age=2), lasting(pod("short", whole=2, priority=5, age=1), "10m"))
    assert [evict.claimant.name for evict in world.step().evict if evict.claimant] == ["short"]


def starts(rng: random.Random, says: str, delay: int, until: int = 1500, racks: int = 0) -> Iterator[tuple[str, int]]:
    """(name, seconds waited) of every pod or gang that starts in a world that small jobs keep full.

    They run from 50 to 200 s; the gang needs three of the four nodes at once and comes when all are busy. With racks it
    needs two whole ones of the same rack.
    """
    labels = [{"topology.kubernetes.io/rack": f"r{number % racks}"} if racks else {} for number in range(4)]
    world = World([node(f"n{number}", 4, labels=labels[number]) for number in range(4)])
    size, notes = (2, {names.TOPOLOGY_REQUIRED: "rack"}) if racks else (3, {})
    world.cycle.builder.reservation_delay = delay
    ends: dict[str, int] = {}
    came: dict[str, int] = {}
    number = 0
    while world.now < START + until:
        while len(world.waiting) < 6:
            number += 1
            runs = rng.randint(50, LONGEST_RUN)
            lie = f"{rng.randint(1, 20)}s"
            said = {"truth": f"{runs}s", "lies": lie, "exaggerations": f"{20 * runs}s", "nothing": "?"}[says]
            one = lasting(pod(f"s{number}", whole=rng.choice([1, 1, 2]), age=START - world.now), said)
            came[one.metadata.name], ends[one.metadata.name] = world.now, runs
            world.add(one)
        if number > 40 and "gang" not in came:
            came["gang"] = world.now
            world.add(*gang("gang", size, whole=4, age=START - world.now, annotations=notes))
        before = set(world.where)
        world.step()
        for name in sorted(world.where.keys() - before):
            known = "gang" if name.startswith("gang") else name
            yield known, world.now - came[known]
            if known != "gang":
                ends[name] += world.now
        if "gang-0" in world.where:
            return
        world.now += STEP
        world.delete(*[name for name in world.where if ends.get(name, world.now) < world.now])


def test_a_pod_with_a_claim_does_not_stand_for_others_that_ask_for_the_same() -> None:
    """Nodes are held for ``old``, and not for ``late``, also once it is known that neither fits."""
    low = bound(pod("low", whole=1, priority=5), "n0", {"main": [("0", 100)]})
    world = World(cluster("1x1xA100"), [low], grace=30, reservation_delay=0)
    world.add(pod("claims", whole=1, priority=9))
    assert [one.pod.name for one in world.step().evict] == ["low"]
    world.add(pod("old", whole=1, age=50))
    world.step()
    world.add(pod("late", 30, age=10))
    world.step()
    world.add(pod("small", whole=1, cpu=2, age=1), *gang("g", 2, cpu=2, age=5))
    plan = world.step()
    assert {hold.message.split(",")[0] for hold in plan.hold if hold.reason == "Reserved"} == {
        "1 node is reserved for pod default/old"
    }


@pytest.mark.parametrize("comes", [False, True])
def test_nodes_are_held_for_who_has_to_be_near_another_only_where_that_one_is_or_waits(*, comes: bool) -> None:
    """Six half full nodes; a gang that has waited for long has to be near pods of which there are none."""
    there = [bound(pod(f"r{number}", whole=4), f"n{number}", _FIRST_FOUR) for number in range(6)]
    world = World(cluster("6x8xA100"), there, reservation_delay=30)
    company = PodAffinityTerm("kubernetes.io/hostname", LabelSelector({"app": "cache"}))
    affinity = Affinity(pod_affinity=PodAffinity((company,)))
    world.add(*(with_spec(one, affinity=affinity) for one in gang("big", 6, whole=8, age=900)))
    if comes:
        one = pod("cache", whole=9)
        world.add(replace(one, metadata=replace(one.metadata, labels=one.metadata.labels | {"app": "cache"})))
    world.step()
    world.add(pod("small", whole=2))
    world.settle()
    assert ("small" in world.where) != comes


def test_nodes_are_held_as_they_will_be_once_all_that_is_placed_has_come() -> None:
    """``first`` goes to the node that no pod has been placed on for longest: from then on it is the other one."""
    world = World(
        cluster("2x4xA100"), [running("a", "n0", 3, started=START - 900), running("b", "n1", 4, started=START - 300)]
    )
    world.add(pod("first", whole=1, priority=9), pod("big", whole=3, age=DELAY + 60))
    held = []
    for _ in range(2):
        made = _make(world.cycle.builder.snapshot(world.now), Memory()).preemption.decision
        assert made.draft.reservation is not None
        held.append([made.snapshot.nodes.names[row] for row in made.draft.reservation.rows])
        world.step()
    assert held == [["n1"], ["n1"]]
