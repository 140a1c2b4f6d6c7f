"""What becomes of pods whose writes do not come true: refusals, volumes, restarts, in a world with time in it."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from msgspec.structs import replace
from tests.worlds import START, bound, cluster, gang, node, pod, with_spec

from tangram.api import names
from tangram.api.objects import ClaimReference, Pod, PodVolume
from tangram.plan import Evict, Hold, Place
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings
from tangram.simulate import storage
from tangram.simulate.answers import Answer
from tangram.simulate.clock import VirtualClock
from tangram.simulate.faults import FOR_EVER, Faults
from tangram.simulate.loop import Loop
from tangram.simulate.storage import Driver
from tangram.simulate.surroundings import surroundings
from tangram.simulate.watching import Kind
from tangram.simulate.world import World, Write
from tangram.snapshot.pods.claim import LONGEST_SPARED
from tangram.snapshot.pods.refusals import SPARES_FOR, SPARES_LONGER


class Stage:
    """A world, the scheduler in it, and the writes it makes."""

    def __init__(self, *shapes: str, **settings: int) -> None:
        clock = VirtualClock(START)
        self.faults, self.settings = Faults(clock), settings
        self.written: list[tuple[int, Write]] = []
        self.world = World(cluster(*shapes), clock, fault=self.note)
        self.loop = self.start()

    def start(self) -> Loop:
        """A scheduler that knows nothing yet."""
        self.loop = Loop(self.world, Cycle(SchedulerSettings(debug=True, **self.settings)))
        self.world.follow(surroundings(self.loop.cycle.builder, self.loop.wake))
        return self.loop

    def note(self, write: Write) -> object:
        self.written.append((self.world.clock.now - START, write))
        return self.faults(write)

    def submit(self, *pods: Pod, at: int = 0) -> "Stage":
        for one in pods:
            self.world.submit(one, at=START + at)
        return self

    def until(self, second: int) -> "Stage":
        self.loop.run(START + second)
        return self

    def tries(self, name: str, kind: type = Place) -> list[int]:
        """The seconds of all writes about a pod."""
        return [second for second, write in self.written if isinstance(write, kind) and write.pod.name == name]

    @property
    def where(self) -> dict[str, str]:
        return {one.metadata.name: one.spec.node_name for one in self.world.pods.values() if one.spec.node_name}

    def reason(self, name: str) -> str:
        """The condition that stands on a pod."""
        return self.world.pods["default", name].status.conditions[0].message


def with_claim(one: Pod, claim: str = "data") -> Pod:
    return with_spec(one, volumes=(PodVolume("d", persistent_volume_claim=ClaimReference(claim)),))


def with_class(stage: Stage, driver: Driver) -> Stage:
    stage.world.put_class("late", driver)
    stage.world.put(Kind.CLAIM, ("default", "data"), storage.claim("default", "data", "late"))
    return stage


def job(one: Pod) -> Pod:
    return with_spec(one, restart_policy="Never")


def test_a_refused_pod_lets_others_go_before_it_and_says_what_the_server_said() -> None:
    stage = Stage("1x1xA100").submit(pod("poison", whole=1, age=10), pod("good", whole=1))
    stage.faults.refuse(["poison"])
    stage.until(1)
    assert stage.where == {"good": "n0"}


def test_a_refused_pod_is_tried_ever_more_seldom() -> None:
    stage = Stage("1x1xA100").submit(pod("poison", whole=1))
    stage.faults.refuse(["poison"])
    stage.until(1000)
    assert stage.tries("poison") == [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 811]
    assert stage.reason("poison").startswith("BindingRefused: the API server did not take its binding: ")


def test_a_refused_pod_that_is_changed_is_tried_at_once() -> None:
    stage = Stage("1x1xA100").submit(pod("poison", whole=1))
    stage.faults.refuse(["poison"])
    stage.until(70)
    assert stage.tries("poison")[-1] == 63
    stage.faults.bindings.clear()
    changed = pod("poison", whole=1, annotations={"team": "a"})
    stage.world.put(Kind.POD, ("default", "poison"), changed)
    assert stage.until(71).where == {"poison": "n0"}


def test_others_are_evicted_ever_more_seldom_for_a_pod_that_is_refused() -> None:
    stage = Stage("1x1xA100").submit(pod("low", whole=1))
    stage.world.own("default", "low", 0)
    stage.until(1)
    stage.faults.refuse(["poison"])
    stage.submit(pod("poison", whole=1, priority=5), at=2).until(7200)
    again = 2 + SPARES_FOR
    assert stage.tries("low", Evict) == [2, again, again + SPARES_LONGER]
    assert stage.where == {"low": "n0"}


def test_a_pod_that_was_refused_takes_a_place_that_is_free() -> None:
    stage = Stage("1x1xA100").submit(pod("low", whole=1))
    stage.until(1)
    stage.faults.refuse(["poison"], until=START + 5)
    stage.submit(pod("poison", whole=1, priority=5), at=2).until(20)
    assert stage.where == {"poison": "n0"}


def test_a_gang_with_a_refused_member_backs_off_as_a_whole_and_is_released_after_its_timeout() -> None:
    stage = Stage("1x4xA100", gang_timeout=60).submit(*gang("g", 4, whole=1))
    stage.faults.refuse(["g-0"])
    stage.until(2)
    assert stage.where.keys() == {"g-1", "g-2", "g-3"}
    assert stage.reason("g-0").startswith("BindingRefused: ")
    stage.until(61)
    assert stage.where == {}
    assert [second for second, write in stage.written if isinstance(write, Evict)] == [60, 60, 60]


def test_a_gang_of_which_a_member_was_refused_is_not_bound_in_part_again() -> None:
    """Each of its members is made again when it is evicted. It is tried once more as soon as the server takes them."""
    stage = Stage("1x4xA100", gang_timeout=60).submit(*gang("g", 4, whole=1))
    for member in range(1, 4):
        stage.world.own("default", f"g-{member}", 1)
    stage.faults.refuse(["g-0"], until=START + 1000)
    stage.until(990)
    assert stage.tries("g-1") == [0]
    assert len(stage.tries("g-0")) > 8
    assert stage.until(1200).where.keys() == {"g-0", "g-1", "g-2", "g-3"}


def test_members_that_were_refused_are_tried_one_after_the_other() -> None:
    stage = Stage("1x4xA100", gang_timeout=60).submit(*gang("g", 4, whole=1))
    stage.faults.refuse(["g-0"], until=START + 40)
    stage.faults.refuse(["g-1"], until=START + 1000)
    for member in range(4):
        stage.world.own("default", f"g-{member}", 1)
    stage.until(990)
    assert [len(stage.tries(f"g-{member}")) for member in (2, 3)] == [1, 1]
    assert stage.until(1300).where.keys() == {"g-0", "g-1", "g-2", "g-3"}


def test_the_others_of_a_gang_say_whom_they_wait_for() -> None:
    stage = Stage("1x2xA100").submit(*gang("g", 2, whole=1))
    stage.faults.refuse(["g-0", "g-1"])
    stage.until(1)
    assert {stage.reason(name).split(":")[0] for name in ("g-0", "g-1")} == {"BindingRefused"}


def test_a_gang_waits_for_the_volume_of_a_member_on_places_that_nobody_else_gets() -> None:
    first, *others = gang("g", 4, whole=1)
    stage = with_class(Stage("2x2xA100"), Driver(seconds=10))
    stage.submit(with_claim(first), *others).submit(pod("other", whole=1), at=2)
    stage.until(9)
    assert stage.where == {}, "none of them is bound before all can be"
    assert stage.reason("g-1").startswith("VolumeNotReady: its place on n")
    stage.until(11)
    assert stage.where.keys() == {"g-0", "g-1", "g-2", "g-3"}
    assert stage.tries("g-1") == [10]


def test_a_single_pod_keeps_its_place_while_its_volume_is_made() -> None:
    stage = with_class(Stage("1x1xA100"), Driver(seconds=10))
    stage.submit(with_claim(pod("p", whole=1))).submit(pod("other", whole=1), at=2)
    assert stage.until(11).where == {"p": "n0"}


def test_places_are_held_for_volumes_across_a_restart() -> None:
    first, *others = gang("g", 4, whole=1)
    stage = with_class(Stage("2x2xA100"), Driver(seconds=10))
    stage.submit(with_claim(first), *others).submit(pod("other", whole=1), at=2)
    stage.until(5).start()
    assert stage.until(9).where == {}
    assert stage.until(11).where.keys() == {"g-0", "g-1", "g-2", "g-3"}


def test_a_volume_that_cannot_be_made_for_a_node_is_tried_again() -> None:
    stage = with_class(Stage("1x1xA100"), Driver(seconds=2, refusals=2)).submit(with_claim(pod("p", whole=1)))
    assert stage.until(20).where == {"p": "n0"}


def test_a_volume_that_never_comes_holds_a_place_for_ten_minutes() -> None:
    stage = with_class(Stage("1x1xA100"), Driver(seconds=None)).submit(with_claim(pod("p", whole=1)))
    stage.submit(pod("other", whole=1), at=2)
    assert stage.until(599).where == {}
    assert stage.until(602).where == {"other": "n0"}
    chosen = stage.world.claims["default", "data"].metadata.annotations
    assert chosen == {"volume.kubernetes.io/selected-node": "n0"}, "as kube-scheduler leaves it"


def test_a_claim_that_several_members_name_is_asked_for_once() -> None:
    members = [with_claim(one) for one in gang("g", 4, whole=1)]
    stage = with_class(Stage("1x4xA100"), Driver(seconds=3)).submit(*members)
    assert stage.until(5).where.keys() == {"g-0", "g-1", "g-2", "g-3"}
    assert len([write for _, write in stage.written if not isinstance(write, Place | Hold)]) == 1


def test_a_node_is_not_chosen_for_a_volume_any_more_whose_pod_is_gone() -> None:
    stage = with_class(Stage("1x1xA100"), Driver(seconds=3))
    stage.faults.accidents = [Answer.LOST] * 3
    stage.submit(with_claim(pod("p", whole=1))).until(1)
    stage.world.delete("default", "p")
    stage.until(600)
    assert stage.world.claims["default", "data"].metadata.annotations == {}


def test_a_node_is_chosen_for_a_volume_also_when_the_member_that_asked_first_is_gone() -> None:
    members = [with_claim(one) for one in gang("g", 3, minimum=2, whole=1)]
    stage = with_class(Stage("1x4xA100"), Driver(seconds=3))
    stage.faults.accidents = [Answer.LOST] * 3
    stage.submit(*members).until(0)
    stage.world.delete("default", "g-0")
    assert stage.until(60).where.keys() == {"g-1", "g-2"}


def nothing(stage: Stage) -> None:
    """Everything goes on."""


def restart(stage: Stage) -> None:
    stage.start()


def fail(stage: Stage) -> None:
    stage.faults.reports["big"] = START + 10_000


@pytest.mark.parametrize("happens", [nothing, restart, fail])
def test_nodes_stay_held_for_the_first_in_line_whatever_was_written_on_its_pod(
    happens: Callable[[Stage], None],
) -> None:
    stage, hour = Stage(), {names.ESTIMATED_DURATION: "1h"}
    stage.world.put_node(node("n0", 2))
    running = bound(job(pod("run", whole=1, annotations=hour)), "n0", {"main": [("0", 100)]})
    stage.submit(running, job(pod("big", whole=2, age=10_000)))
    happens(stage.until(5)) if happens is restart else None
    if happens is fail:
        happens(stage)
    stage.until(7).submit(job(pod("small", whole=1)), at=8)
    if happens is restart:
        stage.until(8).start()
    stage.until(60)
    assert stage.where == {"run": "n0"}


def test_who_has_lost_the_lease_writes_nothing_and_forgets_what_it_decided() -> None:
    stage = Stage("1x1xA100").submit(pod("p", whole=1))
    stage.loop.leads = False
    stage.until(5)
    assert (stage.written, stage.where) == ([], {})


def test_who_has_lost_the_lease_repeats_no_write_whose_answer_was_lost() -> None:
    stage = with_class(Stage("1x1xA100"), Driver(seconds=3))
    stage.faults.accidents = [Answer.LOST] * 3
    stage.submit(with_claim(pod("p", whole=1))).until(0)
    stage.loop.leads, written = False, list(stage.written)
    stage.until(60)
    assert stage.written == written
    assert stage.loop.cycle.builder.claims.live() == []


def thwarted(until: int = FOR_EVER, end: int = 300) -> Stage:
    """Four pods fill the node that c asks for as a whole, come back when they are evicted, and a PodDisruptionBudget
    keeps v3."""
    stage = Stage("1x4xA100").submit(*(pod(f"v{number}", whole=1) for number in range(4)))
    for number in range(4):
        stage.world.own("default", f"v{number}", 1)
    stage.faults.protect(["v3"], until)
    for second in range(10, end, 10):
        stage.world.schedule(START + second, stage.loop.wake)
    return stage.submit(pod("c", whole=4, priority=9), at=5).until(end)


@pytest.mark.slow
def test_nobody_loses_work_again_and_again_for_a_claim_that_one_victim_thwarts() -> None:
    stage = thwarted(end=2 * 3600)
    assert max(len(stage.tries(f"v{number}", Evict)) for number in range(3)) == 1
    pauses = [after - before for before, after in pairwise(stage.tries("v3", Evict))]
    assert pauses[:4] == [35, 60, 120, 240]
    assert pauses[-1] <= LONGEST_SPARED + 10


def test_once_the_victim_may_leave_the_others_follow_it() -> None:
    assert thwarted(until=START + 50).where == {"c": "n0"}


def test_who_waits_is_told_so_no_longer_once_the_node_is_not_for_it() -> None:
    stage = thwarted(end=60)
    whole = stage.world.nodes["n0"]
    stage.world.put(Kind.NODE, "n0", replace(whole, spec=replace(whole.spec, unschedulable=True)))
    stage.until(200)
    said = next(hold for hold in stage.loop.holds.values() if hold.pod.name == "c")
    assert (said.reason, "refuses" in said.message) == ("NodeUnschedulable", False)


def test_who_waits_is_told_whose_eviction_is_refused_and_why() -> None:
    stage = thwarted(end=60)
    said = next(hold for hold in stage.loop.holds.values() if hold.pod.name == "c")
    assert said.reason == "InsufficientGpu"
    assert said.message.endswith(
        "; waits for the eviction of default/v3, which the API server refuses: a rule forbids it"
    )
