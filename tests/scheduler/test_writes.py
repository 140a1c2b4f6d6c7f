"""What follows from how a write ended: the machine alone, without a cluster."""

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from tangram.cluster.outcome import Outcome, Result
from tangram.plan import Claim, Evict, Hold, Place, Plan, PodName, Provision
from tangram.scheduler import writes
from tangram.scheduler.follow_ups import (
    BackOff,
    ClaimEnds,
    NotAsked,
    PlaceLost,
    Record,
    RunCycle,
    Unreported,
    VictimStays,
)
from tangram.scheduler.writes import LEASE_LOST, Action, ReadBack, Writes

POD, OTHER = PodName("default", "p", "uid-p"), PodName("default", "q", "uid-q")
PLACE, EVICT = Place(POD, "n0"), Evict(OTHER, "n0", POD, "lower priority class")
PROVISION, HOLD = Provision(POD, "data", "n0"), Hold(POD, "InsufficientGpu", "0/1 nodes are available")
NOW = 100.0
LATER = RunCycle(NOW + 1)
DONE, CONFLICT, GONE = Outcome(Result.DONE), Outcome(Result.CONFLICT), Outcome(Result.GONE)
REFUSED, FAILED = Outcome(Result.REFUSED, "a quota says no"), Outcome(Result.FAILED, "no answer")
REFUSED_BINDING = BackOff(POD, "BindingRefused", "the API server did not take its binding: a quota says no")
NO_NODE = BackOff(POD, "VolumeNotReady", "node n0 could not be chosen for claim data: a quota says no")


def sent(*actions: Place | Evict | Provision | Hold) -> Writes:
    made = Writes()
    of = {kind: tuple(one for one in actions if isinstance(one, kind)) for kind in (Place, Evict, Provision, Hold)}
    made.send(Plan(of[Place], of[Evict], (), of[Provision], of[Hold]))
    return made


def take(machine: Writes, now: float = NOW) -> writes.Action | None:
    return machine.next(now) or machine.next(now, report=True)


@pytest.mark.parametrize(
    ("action", "outcome", "follows"),
    [
        (PLACE, DONE, [Record((PLACE,))]),
        (PLACE, CONFLICT, [PlaceLost(PLACE), LATER]),
        (PLACE, LEASE_LOST, [PlaceLost(PLACE), LATER]),
        (PLACE, GONE, [PlaceLost(PLACE), LATER]),
        (PLACE, REFUSED, [PlaceLost(PLACE), REFUSED_BINDING, RunCycle(NOW)]),
        (PLACE, FAILED, []),
        (PROVISION, DONE, []),
        (PROVISION, LEASE_LOST, [ClaimEnds(POD), LATER]),
        (PROVISION, GONE, [ClaimEnds(POD), LATER]),
        (PROVISION, REFUSED, [ClaimEnds(POD), NO_NODE, RunCycle(NOW)]),
        (PROVISION, FAILED, []),
        (EVICT, DONE, [Record((EVICT,))]),
        (EVICT, LEASE_LOST, [VictimStays(EVICT), LATER]),
        (EVICT, GONE, [LATER]),
        (EVICT, REFUSED, [VictimStays(EVICT, "a quota says no"), LATER]),
        (EVICT, FAILED, [VictimStays(EVICT), LATER]),
        (HOLD, DONE, [Record((HOLD,))]),
        (HOLD, LEASE_LOST, [Unreported(POD)]),
        (HOLD, writes.NOTHING_TO_SAY, []),
        (HOLD, REFUSED, []),
        (HOLD, FAILED, []),
    ],
)
def test_what_follows(action: Place, outcome: Outcome, follows: list[writes.FollowUp]) -> None:
    machine = sent(action)
    assert take(machine) == action
    assert machine.ended(action, outcome, NOW) == follows


def test_a_binding_that_held_is_recorded_once_no_other_is_on_its_way() -> None:
    second = Place(OTHER, "n1")
    machine = sent(PLACE, second)
    assert [machine.next(NOW), machine.next(NOW)] == [PLACE, second]
    assert machine.ended(second, DONE, NOW) == []
    assert machine.ended(PLACE, DONE, NOW) == [Record((second, PLACE))]
    assert machine.at_rest


def test_every_end_of_every_action_is_in_the_table() -> None:
    assert writes._AFTER.keys() == {
        (kind, result) for kind in (Place, ReadBack, Provision, Evict, Hold) for result in Result
    }


def test_volumes_and_bindings_come_before_evictions_and_reasons_when_there_is_nothing_else() -> None:
    machine = sent(HOLD, EVICT, PLACE, PROVISION)
    assert [machine.next(NOW) for _ in range(4)] == [PROVISION, PLACE, EVICT, None]


def test_a_binding_whose_answer_is_lost_is_read_back_until_it_is_known_how_it_ended() -> None:
    machine = sent(PLACE)
    machine.ended(take(machine), FAILED, NOW)
    asked, now = [], NOW
    while now < NOW + 200:
        found = take(machine, now)
        if found is None:
            now = machine.due or now
            continue
        assert isinstance(found, ReadBack)
        assert not writes.is_write(found), "who has lost the Lease may find out too"
        asked.append(now - NOW)
        assert machine.ended(found, FAILED, now) == []
    assert asked[:8] == [0, 0.5, 1.5, 3.5, 7.5, 15.5, 31.5, 61.5]
    found = take(machine, now + 60)
    assert machine.ended(found, DONE, now) == [Record((PLACE,))]
    assert machine.at_rest


def test_a_binding_that_got_no_answer_and_was_not_made_backs_off() -> None:
    """A webhook that never answers is a rule that says no."""
    machine = sent(PLACE)
    machine.ended(take(machine), FAILED, NOW)
    assert machine.ended(take(machine), CONFLICT, NOW) == [
        PlaceLost(PLACE),
        BackOff(POD, "BindingRefused", "the API server did not take its binding: no answer"),
        RunCycle(NOW),
    ]


def test_a_report_that_failed_is_made_again_ever_more_seldom() -> None:
    machine, at, now = sent(HOLD), [], NOW
    while len(at) < 14:
        found = take(machine, now)
        if found is None:
            now = machine.due or now
            continue
        at.append(now)
        assert machine.ended(found, FAILED, now) == []
    pauses = [after - before for before, after in itertools.pairwise(at)]
    assert pauses[:3] == [0.5, 1, 2]
    assert pauses[-1] == 300


def test_of_two_reasons_of_one_pod_the_latest_is_reported() -> None:
    machine, newer = sent(HOLD), Hold(POD, "QueueLimit", "queue a is full")
    machine.ended(take(machine), FAILED, NOW)
    machine.send(Plan(hold=(newer,)))
    assert take(machine) == newer
    assert machine.ended(newer, DONE, NOW) == [Record((newer,))]
    assert take(machine, NOW + 1000) is None


def test_a_reason_waits_until_the_one_before_it_has_its_answer_and_that_one_is_not_repeated() -> None:
    machine, newer = sent(HOLD), Hold(POD, "QueueLimit", "queue a is full")
    assert take(machine) == HOLD
    machine.send(Plan(hold=(newer,)))
    assert take(machine) is None
    assert machine.ended(HOLD, FAILED, NOW) == []
    assert take(machine) == newer
    assert machine.ended(newer, DONE, NOW) == [Record((newer,))]
    assert take(machine, NOW + 1000) is None


def test_nothing_is_kept_of_reports_that_are_of_no_more_interest() -> None:
    machine = writes.Writes()
    for number in range(100):
        one = PodName("default", f"p{number}", f"uid-{number}")
        machine.send(Plan(hold=(Hold(one, "InsufficientGpu", "full"),)))
        machine.ended(take(machine), FAILED, NOW)
        machine.send(Plan(place=(Place(one, "n0"),)))
        machine.ended(take(machine), DONE, NOW)
    assert not machine._tries


def test_a_reason_is_of_no_more_interest_once_its_pod_is_bound() -> None:
    machine = sent(HOLD)
    machine.send(Plan(place=(PLACE,)))
    machine.ended(take(machine), DONE, NOW)
    assert take(machine) is None
    assert machine.at_rest


def test_bindings_are_told_of_once_none_is_on_its_way() -> None:
    second = Place(OTHER, "n0")
    machine = sent(PLACE, second)
    assert (take(machine), take(machine)) == (PLACE, second)
    assert machine.ended(PLACE, DONE, NOW) == []
    assert machine.ended(second, DONE, NOW) == [Record((PLACE, second))]


class TestChoicesOfNodes:
    """Of two choices for one volume the newer one counts, however the older one ended."""

    NEWER = Provision(PodName("default", "p", "uid-again"), "data", "n1")

    def test_one_whose_answer_was_lost_is_made_again(self) -> None:
        machine = sent(PROVISION)
        assert machine.ended(take(machine), FAILED, NOW) == []
        assert take(machine, NOW + 1) == PROVISION
        assert machine.ended(PROVISION, DONE, NOW + 1) == []
        assert machine.at_rest

    def test_one_whose_answer_was_lost_is_not_made_again_after_a_newer_one(self) -> None:
        machine = sent(PROVISION)
        machine.ended(take(machine), FAILED, NOW)
        machine.send(Plan(provision=(self.NEWER,)))
        assert take(machine) == self.NEWER
        machine.ended(self.NEWER, DONE, NOW)
        assert take(machine, NOW + 1000) is None
        assert machine.at_rest

    @pytest.mark.parametrize("outcome", [FAILED, REFUSED, CONFLICT, GONE, DONE])
    def test_one_that_ends_after_a_newer_one_was_sent_is_of_no_more_interest(self, outcome: Outcome) -> None:
        machine = sent(PROVISION)
        assert take(machine) == PROVISION
        machine.send(Plan(provision=(self.NEWER,)))
        assert machine.ended(PROVISION, outcome, NOW) == []
        assert take(machine, NOW + 1000) == self.NEWER

    def test_one_whose_place_is_no_longer_held_is_not_made(self) -> None:
        held = [PROVISION.node]
        machine = Writes(lambda choice: choice.node in held)
        machine.send(Plan(provision=(PROVISION,)))
        machine.ended(take(machine), FAILED, NOW)
        held.clear()
        assert take(machine, NOW + 1) is None
        assert machine.at_rest


class TestOfAGang:
    """g-0 was refused before: it is bound first."""

    places = tuple(Place(PodName("default", f"g-{number}", f"uid-{number}"), "n0", gang="g") for number in range(3))

    def machine(self) -> Writes:
        made = Writes(was_refused=lambda pod: pod.name == "g-1")
        made.send(Plan((*self.places, PLACE)))
        return made

    def test_the_others_wait_for_the_one_that_was_refused(self) -> None:
        machine, (first, leader, third) = self.machine(), self.places
        assert [machine.next(NOW) for _ in range(3)] == [leader, PLACE, None]
        assert not machine.at_rest
        machine.ended(leader, DONE, NOW)
        assert [machine.next(NOW) for _ in range(3)] == [first, third, None]

    def test_and_are_lost_with_it(self) -> None:
        machine, (first, leader, third) = self.machine(), self.places
        assert machine.next(NOW) == leader
        assert [end for end in machine.ended(leader, REFUSED, NOW) if isinstance(end, PlaceLost)] == [
            PlaceLost(one) for one in (leader, first, third)
        ]
        assert [machine.next(NOW) for _ in range(2)] == [PLACE, None]
        machine.ended(PLACE, DONE, NOW)
        assert machine.at_rest

    def test_an_answer_that_is_lost_is_waited_for(self) -> None:
        machine, (first, leader, third) = self.machine(), self.places
        assert [machine.next(NOW) for _ in range(2)] == [leader, PLACE]
        assert not [end for end in machine.ended(leader, FAILED, NOW) if isinstance(end, PlaceLost)]
        read_back = machine.next(NOW)
        assert isinstance(read_back, ReadBack)
        machine.ended(read_back, DONE, NOW)
        assert [machine.next(NOW) for _ in range(2)] == [first, third]


class TestOfVictims:
    """Three pods are to leave for c on two nodes, and the eviction of b was refused before; d is for another claim."""

    c, other = PodName("default", "c", "uid-c"), PodName("default", "o", "uid-o")
    a = Evict(PodName("default", "a", "uid-a"), "n0", c, "rank")
    b = Evict(PodName("default", "b", "uid-b"), "n0", c, "rank")
    third = Evict(PodName("default", "third", "uid-third"), "n1", c, "rank")
    d = Evict(PodName("default", "d", "uid-d"), "n2", other, "rank")

    first = Claim((Place(c, "n0"), Place(PodName("default", "c1"), "n1")), (a.pod, b.pod, third.pod))
    second = Claim((Place(other, "n2"),), (d.pod,))
    plan = Plan(evict=(a, b, third, d), claims=(first, second))

    def machine(self, *refused: str, holds: Callable[[Any], bool] = lambda _: True) -> Writes:
        made = Writes(holds, was_refused=lambda pod: pod.name in (refused or ("b",)))
        made.send(self.plan)
        return made

    def given(self, machine: Writes, count: int) -> list[Action | None]:
        return [machine.next(NOW) for _ in range(count)]

    def test_the_others_are_left_alone_until_the_one_that_was_refused_leaves(self) -> None:
        machine = self.machine()
        assert self.given(machine, 3) == [self.b, self.d, None]
        assert not machine.at_rest
        machine.ended(self.b, DONE, NOW)
        assert self.given(machine, 3) == [self.a, self.third, None]

    @pytest.mark.parametrize("end", [REFUSED, FAILED, LEASE_LOST])
    def test_and_stay_if_it_stays(self, end: Outcome) -> None:
        machine = self.machine()
        assert self.given(machine, 2) == [self.b, self.d]
        ends = machine.ended(self.b, end, NOW)
        assert [one.evict for one in ends if isinstance(one, NotAsked)] == [self.a, self.third]
        machine.ended(self.d, DONE, NOW)
        assert machine.next(NOW) is None
        assert machine.at_rest

    def test_once_one_stays_nobody_else_is_asked_any_more(self) -> None:
        machine = self.machine("nobody")
        assert self.given(machine, 2) == [self.a, self.b]
        ends = [one for victim in (self.a, self.b) for one in machine.ended(victim, FAILED, NOW)]
        assert [one.evict for one in ends if isinstance(one, NotAsked)] == [self.third]
        assert self.given(machine, 2) == [self.d, None]

    def test_of_several_that_were_refused_each_waits_for_the_one_before(self) -> None:
        machine = self.machine("b", "third")
        assert self.given(machine, 3) == [self.b, self.d, None]
        machine.ended(self.b, DONE, NOW)
        assert self.given(machine, 2) == [self.third, None]
        machine.ended(self.third, DONE, NOW)
        assert self.given(machine, 2) == [self.a, None]

    def test_nobody_is_asked_for_a_claimant_that_is_gone(self) -> None:
        claimants = {"uid-c", "uid-o"}
        made = Writes(lambda one: isinstance(one, Evict) and one.claimant is not None and one.claimant.uid in claimants)
        made.send(self.plan)
        assert made.next(NOW) == self.a
        claimants.remove("uid-c")
        made.ended(self.a, DONE, NOW)
        assert self.given(made, 2) == [self.d, None]

    def test_nor_those_who_wait_until_another_has_left(self) -> None:
        claimants = {"uid-c", "uid-o"}
        made = self.machine("b", "third", holds=lambda one: one.claimant.uid in claimants)
        claimants.remove("uid-c")
        assert self.given(made, 2) == [self.d, None]
        made.ended(self.d, DONE, NOW)
        assert made.at_rest


def settled(machine: Writes) -> list[Action]:
    """What is carried out, or settled as lost, until nothing is left."""
    return list(iter(lambda: machine.next(NOW), None))


def test_at_the_end_of_a_term_nothing_waits_any_more_but_what_is_read_back() -> None:
    machine = sent(PROVISION, HOLD)
    machine.ended(take(machine), FAILED, NOW)
    assert settled(machine) == []
    machine.end_term()
    assert settled(machine) == [PROVISION]
    assert machine.ended(PROVISION, LEASE_LOST, NOW) == [ClaimEnds(POD), LATER]
    assert machine.next(NOW, report=True) is None, "whoever decides next says it anew"
    assert machine.at_rest


def test_at_the_end_of_a_term_members_wait_no_longer_for_the_one_that_is_bound_first() -> None:
    """Its binding is read back, and may have held; by then another process may have given their places away."""
    first, second = Place(POD, "n0", (), "g"), Place(OTHER, "n1", (), "g")
    machine = Writes(was_refused=lambda pod: pod == POD)
    machine.send(Plan(place=(first, second)))
    assert machine.next(NOW) == first
    machine.ended(first, FAILED, NOW)
    machine.end_term()
    read_back = ReadBack(first, "no answer")
    assert settled(machine) == [second, read_back]
    assert machine.ended(second, LEASE_LOST, NOW) == [PlaceLost(second), LATER]
    assert machine.ended(read_back, DONE, NOW + 1) == [Record((first,))]
    assert machine.next(NOW + 9) is None


def test_at_the_end_of_a_term_victims_wait_no_longer_for_the_one_that_is_asked_first() -> None:
    first, second = EVICT, Evict(PodName("default", "r", "uid-r"), "n0", POD, "lower priority class")
    machine = Writes(was_refused=lambda pod: pod == OTHER)
    claims = (Claim((PLACE,), (first.pod, second.pod)),)
    machine.send(Plan(evict=(first, second), claims=claims))
    assert machine.next(NOW) == first
    machine.end_term()
    assert settled(machine) == [second]
