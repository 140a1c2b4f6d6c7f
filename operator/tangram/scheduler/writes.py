"""What is to be written, and what follows from how each write ended: a state machine without I/O.

The live scheduler and the simulator run this same machine. Whoever runs it takes an action (``next``), carries it out,
and says how it ended (``ended``); the answer is what to do about it, as values. What has to be tried again, or read
back because the answer was lost, stays in the machine; a choice of a node for a volume only until another is made for
the same volume, or the place is no longer held; nor is anybody asked to leave for a place that is no longer held.
Times are seconds on whatever clock the caller has.

Of a gang of which a member was refused before, that member is bound first and the others once it is: if it is refused
again they are lost with it, and the gang is not bound in part time and again. Of the victims of a claim those go first
whose eviction was refused before, one after the other, and the rest once they have been accepted: nobody loses work for
a claim that comes to nothing again. Nor is anybody asked any more once one of them stays.

    action      done     conflict            gone           refused               failed (no answer)
    Place       held     lost                lost           lost, back off        read back
    ReadBack    held     lost, back off      lost           again later           again later
    Provision   -        claim ends          claim ends     claim ends, back off  again later
    Evict       event    victim stays        run a cycle    victim stays          victim stays
    Hold        event    say it anew         -              -                     again later

A binding that held counts as true since it was decided: all that follows is its Event.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum, auto

from tangram.cluster.outcome import Outcome, Result
from tangram.plan import Evict, Hold, Place, Plan, PodName, Provision, Reason, Value
from tangram.scheduler.follow_ups import (
    BackOff,
    ClaimEnds,
    FollowUp,
    NotAsked,
    PlaceLost,
    Record,
    RunCycle,
    Unreported,
    VictimStays,
)

LEASE_LOST = Outcome(Result.CONFLICT, "the lease is lost")
"""How an action ends that is not carried out because another process may be writing now."""
NOTHING_TO_SAY = Outcome(Result.GONE, "the pod is gone, bound, or says so already")
"""How a report ends that nobody needs any more."""

_RUN_CYCLE_LATER = 1.0
"""Seconds until another cycle runs when the cluster is not what it was taken for: a watch has shown by then what has
changed, and without that the same would be tried again."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 300.0
_LONGEST_READ_BACK = 30.0
_MOST_EVENTS = 4096
"""Bindings of one burst that are recorded as Events; the annotation on the pod records all of them."""


class ReadBack(Value, frozen=True):
    """Find out how a binding ended whose answer was lost: until that is known its devices stay taken.

    ``done``: the pod is bound as decided; ``conflict``: it is not.
    """

    place: Place
    message: str = ""
    """What was said instead of an answer."""

    def __str__(self) -> str:
        return f"read back whether {self.place}"


Action = Place | Provision | Evict | Hold | ReadBack


class _Step(Enum):
    """What follows from an end."""

    HELD = auto()
    LOST = auto()
    BACK_OFF = auto()
    VICTIM_STAYS = auto()
    CLAIM_ENDS = auto()
    EVENT = auto()
    UNREPORTED = auto()
    RUN_CYCLE = auto()
    RUN_CYCLE_LATER = auto()
    READ_BACK = auto()
    AGAIN = auto()


_S, _R = _Step, Result
_AFTER: Mapping[tuple[type, Result], tuple[_Step, ...]] = {
    (Place, _R.DONE): (_S.HELD,),
    (Place, _R.CONFLICT): (_S.LOST, _S.RUN_CYCLE_LATER),
    (Place, _R.GONE): (_S.LOST, _S.RUN_CYCLE_LATER),
    (Place, _R.REFUSED): (_S.LOST, _S.BACK_OFF, _S.RUN_CYCLE),
    (Place, _R.FAILED): (_S.READ_BACK,),
    (ReadBack, _R.DONE): (_S.HELD,),
    (ReadBack, _R.CONFLICT): (_S.LOST, _S.BACK_OFF, _S.RUN_CYCLE),
    (ReadBack, _R.GONE): (_S.LOST, _S.RUN_CYCLE_LATER),
    (ReadBack, _R.REFUSED): (_S.AGAIN,),
    (ReadBack, _R.FAILED): (_S.AGAIN,),
    (Provision, _R.DONE): (),
    (Provision, _R.CONFLICT): (_S.CLAIM_ENDS, _S.RUN_CYCLE_LATER),
    (Provision, _R.GONE): (_S.CLAIM_ENDS, _S.RUN_CYCLE_LATER),
    (Provision, _R.REFUSED): (_S.CLAIM_ENDS, _S.BACK_OFF, _S.RUN_CYCLE),
    (Provision, _R.FAILED): (_S.AGAIN,),
    (Evict, _R.DONE): (_S.EVENT,),
    (Evict, _R.CONFLICT): (_S.VICTIM_STAYS, _S.RUN_CYCLE_LATER),
    (Evict, _R.GONE): (_S.RUN_CYCLE_LATER,),
    (Evict, _R.REFUSED): (_S.VICTIM_STAYS, _S.RUN_CYCLE_LATER),
    (Evict, _R.FAILED): (_S.VICTIM_STAYS, _S.RUN_CYCLE_LATER),
    (Hold, _R.DONE): (_S.EVENT,),
    (Hold, _R.CONFLICT): (_S.UNREPORTED,),
    (Hold, _R.GONE): (),
    (Hold, _R.REFUSED): (),
    (Hold, _R.FAILED): (_S.AGAIN,),
}


class Writes:
    """The actions of plans, in order, and those that have to be repeated."""

    def __init__(
        self,
        holds: Callable[[Provision | Evict], bool] = lambda _: True,
        was_refused: Callable[[PodName], bool] = lambda _: False,
    ) -> None:
        """``holds``: whether the place is still held for which a node was chosen, or the pod is to leave: asked just
        before, as the claimant may be gone, or elsewhere, by then. ``was_refused``: whether
        the binding of the pod, or its eviction, was refused when it was last tried."""
        self._holds, self._was_refused = holds, was_refused
        self._behind: dict[str, list[Place]] = {}
        """By uid of a gang's member that is bound first, the places of the others."""
        self._later_victims: dict[str, list[Evict]] = {}
        """By uid of a victim that is asked to leave first, those who leave in vain if that one stays."""
        self._part_of: dict[str, int] = {}
        """By uid of a victim that has not been asked yet, a number of those who leave in vain without each other."""
        self._choices: dict[tuple[str, str], Provision] = {}
        """By (namespace, volume claim) the latest choice of a node for it, until its answer is there."""
        self._actions: deque[Action] = deque()
        self._reports: dict[str, Hold] = {}
        """By uid the latest reason that is not on the pod yet."""
        self._later: list[tuple[float, int, Action]] = []
        self._late_reports: dict[str, Hold] = {}
        """By uid the reports in ``_later`` that still hold."""
        self._reporting: dict[str, bool] = {}
        """By uid of the reports that are being made, whether they still hold: one at a time of each pod, as an older
        one that comes late would stand on it for good."""
        self._tries: dict[tuple[type, str, str], int] = {}
        self._number = itertools.count()
        self.in_flight = 0
        """How many actions are being carried out, reports not counted."""
        self._reading = 0
        """How many of these only read."""
        self._bound: deque[Place] = deque(maxlen=_MOST_EVENTS)

    def send(self, plan: Plan) -> None:
        """Take in a plan: volumes and bindings first, then evictions, and reasons when there is nothing else to do."""
        for choice in plan.provision:
            self._choices[_volume(choice)] = choice
            self._actions.append(choice)
        if self._reports or self._late_reports or self._reporting:
            for place in plan.place:
                self._withdraw(place.pod.uid)
        self._actions.extend(self._at_once(plan.place))
        self._actions.extend(self._evictions(plan))
        for hold in plan.hold:
            self._withdraw(hold.pod.uid)
            self._reports[hold.pod.uid] = hold

    def _at_once(self, places: Sequence[Place]) -> Iterable[Place]:
        """Those of the places that need not wait for the binding of another member of their gang."""
        first = {place.gang: place for place in reversed(places) if place.gang and self._was_refused(place.pod)}
        return self._leaders(places, first) if first else places

    def _leaders(self, places: Iterable[Place], first: Mapping[str, Place]) -> Iterator[Place]:
        """The places without those of gangs whose first member is another one: these wait for it."""
        for place in places:
            leader = first.get(place.gang, place)
            if leader is place:
                yield place
            else:
                self._behind.setdefault(leader.pod.uid, []).append(place)

    def _evictions(self, plan: Plan) -> Iterable[Evict]:
        """Those of the evictions that need not wait for that of a victim who was refused before."""
        if len(plan.evict) < 2:
            return plan.evict
        found: list[Evict] = []
        for together in _together(plan):
            if len(together) > 1:
                self._part_of |= dict.fromkeys((one.pod.uid for one in together), next(self._number))
            found += self._first_victims(together)
        return found

    def _first_victims(self, together: list[Evict]) -> list[Evict]:
        """Of evictions that come to nothing without each other, those to ask for first."""
        leader = next((one for one in together if self._was_refused(one.pod)), None)
        others = [one for one in together if one is not leader]
        if leader is None or not others:
            return together
        self._later_victims[leader.pod.uid] = others
        return [leader]

    def evict(self, evict: Evict) -> None:
        """Take in an eviction that no plan has decided on."""
        self._actions.append(evict)

    def end_term(self) -> None:
        """Put off no write any more, nor let one wait for another, so that all that has been decided can be settled as
        lost; forget the reports, as whoever decides next makes them anew."""
        for uid in {*self._reports, *self._late_reports, *self._reporting}:
            self._withdraw(uid)
        put_off, self._later = sorted(self._later), []
        for one in put_off:
            if isinstance(one[2], ReadBack):
                self._later.append(one)
            elif not isinstance(one[2], Hold):
                self._actions.append(one[2])
        self._actions.extend(itertools.chain.from_iterable(self._behind.values()))
        self._actions.extend(itertools.chain.from_iterable(self._later_victims.values()))
        self._behind, self._later_victims = {}, {}

    def next(self, now: float, *, report: bool = False) -> Action | None:
        """The next thing to write or to read back, or with ``report`` the next reason; None: there is none yet."""
        if self._later:
            self._ripen(now)
        if report:
            return self._next_report() if self._reports else None
        while self._actions:
            action = self._actions.popleft()
            if type(action) is Provision and not self._is_wanted(action):
                continue
            if type(action) is Evict and not self._holds(action):
                self._part_of.pop(action.pod.uid, None)
                self._actions.extend(self._first_victims(self._later_victims.pop(action.pod.uid, [])))
                continue
            self.in_flight += 1
            self._reading += type(action) is ReadBack
            return action
        return None

    def _next_report(self) -> Hold | None:
        uid = next((uid for uid in self._reports if uid not in self._reporting), None)
        if uid is None:
            return None
        self._reporting[uid] = True
        return self._reports.pop(uid)

    @property
    def backlog(self) -> int:
        """How many actions wait for their turn, reports not counted."""
        return len(self._actions)

    @property
    def writing(self) -> int:
        """How many actions are being carried out that change something, reports not counted."""
        return self.in_flight - self._reading

    @property
    def at_rest(self) -> bool:
        """Whether nothing is to be written or being written, now or later."""
        return not (
            self._actions or self._behind or self._later_victims or self._reports or self._later or self.in_flight
        )

    @property
    def due(self) -> float | None:
        """When the next action is to be tried again; None: there is none."""
        return self._later[0][0] if self._later else None

    def ended(self, action: Action, outcome: Outcome, now: float) -> list[FollowUp]:
        """What follows from how an action ended that ``next`` gave out."""
        if type(action) is Place and outcome.result is Result.DONE and not (self._behind or self._tries):
            self.in_flight -= 1  # as below, for what nearly every action is
            self._bound.append(action)
            return [] if self.in_flight or self._actions else [self._record()]
        found: list[FollowUp] = []
        kind, outdated = type(action), False
        if isinstance(action, Hold):
            outdated = not self._reporting.pop(action.pod.uid, True)
        else:
            self.in_flight -= 1
            self._reading -= isinstance(action, ReadBack)
        if not isinstance(action, Provision) or self._is_wanted(action):
            for step in _AFTER[kind, outcome.result]:
                if not (outdated and step is _Step.AGAIN):
                    found.extend(self._follow(step, action, outcome, now))
            if isinstance(action, Provision) and outcome.result is not Result.FAILED:
                del self._choices[_volume(action)]
        if isinstance(action, Evict) and self._part_of:
            found.extend(self._go_on_evicting(action, outcome))
        if self._tries and (outdated or outcome.result is not Result.FAILED):
            self._tries.pop(_key(action), None)
        if self._bound and not self.in_flight and not self._actions:
            found.append(self._record())
        return found

    def _record(self) -> Record:
        """Bindings are recorded once none is on its way: in a burst Events would cost it half its rate."""
        made = Record(tuple(self._bound))
        self._bound.clear()
        return made

    def _follow(self, step: _Step, action: Action, outcome: Outcome, now: float) -> Sequence[FollowUp]:
        """Do what is the machine's own to do, and say what is the caller's."""
        place = action.place if isinstance(action, ReadBack) else action
        if step is _Step.AGAIN:
            self._put_off(action, now + self._pause(action))
        elif step is _Step.HELD and isinstance(place, Place):
            self._bound.append(place)
            if self._behind:
                self._actions.extend(self._at_once(self._behind.pop(place.pod.uid, ())))
        elif step is _Step.LOST and isinstance(place, Place):
            return [PlaceLost(one) for one in (place, *self._behind.pop(place.pod.uid, ()))]
        elif step is _Step.READ_BACK and isinstance(place, Place):
            self._put_off(ReadBack(place, outcome.message), now)
        else:
            said = action.message if isinstance(action, ReadBack) else outcome.message
            if step is _Step.VICTIM_STAYS and outcome.result is not Result.REFUSED:
                said = ""
            return (_value(step, place, said, now),)
        return ()

    def _go_on_evicting(self, victim: Evict, outcome: Outcome) -> Sequence[FollowUp]:
        """Ask those to leave that were left alone until it was known whether this one does; nobody any more if not."""
        others, part = self._later_victims.pop(victim.pod.uid, []), self._part_of.pop(victim.pod.uid, -1)
        if outcome.result in (Result.DONE, Result.GONE):
            self._actions.extend(self._first_victims(others))
            return ()
        same = [one for one in self._actions if isinstance(one, Evict) and self._part_of.get(one.pod.uid) == part]
        for one in same:
            self._actions.remove(one)
        for one in (*same, *others):
            self._part_of.pop(one.pod.uid, None)
        return [NotAsked(one) for one in (*same, *others)]

    def _is_wanted(self, choice: Provision) -> bool:
        """Whether a choice of a node is the latest for its volume, and the place is still held; forgets it if not."""
        volume = _volume(choice)
        if self._choices.get(volume) is not choice:
            return False
        if self._holds(choice):
            return True
        del self._choices[volume]
        self._tries.pop(_key(choice), None)
        return False

    def _withdraw(self, uid: str) -> None:
        """What was to be reported of the pod is of no more interest."""
        if self._reports:
            self._reports.pop(uid, None)
        if self._late_reports and self._late_reports.pop(uid, None) is not None:
            self._tries.pop((Hold, uid, ""), None)
        if uid in self._reporting:
            self._reporting[uid] = False

    def _pause(self, action: Action) -> float:
        """How long to wait before the action is tried again: longer each time."""
        tries = self._tries[_key(action)] = self._tries.get(_key(action), 0) + 1
        longest = _LONGEST_READ_BACK if isinstance(action, ReadBack) else _LONGEST_PAUSE
        return min(_FIRST_PAUSE * float(1 << min(tries - 1, 20)), longest)

    def _put_off(self, action: Action, until: float) -> None:
        if isinstance(action, Hold):
            self._late_reports[action.pod.uid] = action
        heapq.heappush(self._later, (until, next(self._number), action))

    def _ripen(self, now: float) -> None:
        """Put what is due at the end of the line."""
        while self._later and self._later[0][0] <= now:
            action = heapq.heappop(self._later)[2]
            if not isinstance(action, Hold):
                self._actions.append(action)
            elif self._late_reports.get(action.pod.uid) is action:
                self._reports[action.pod.uid] = self._late_reports.pop(action.pod.uid)


def is_write(action: Action) -> bool:
    """Whether the action changes anything: only who holds the Lease may carry it out."""
    return not isinstance(action, ReadBack)


def _together(plan: Plan) -> list[list[Evict]]:
    """The evictions of a plan, parted into those whose claims have nothing to do with each other: no node in common."""
    where = {evict.pod.uid: evict.node for evict in plan.evict}
    parts: list[set[str]] = []
    for claim in plan.claims:
        nodes = {place.node for place in claim.places} | {where[pod.uid] for pod in claim.victims if pod.uid in where}
        for part in [one for one in parts if not nodes.isdisjoint(one)]:
            parts.remove(part)
            nodes |= part
        parts.append(nodes)
    claimed = [[one for one in plan.evict if one.claimant is not None and one.node in part] for part in parts]
    known = {one.pod.uid for part in claimed for one in part}
    return [*([one] for one in plan.evict if one.pod.uid not in known), *(part for part in claimed if part)]


def _volume(choice: Provision) -> tuple[str, str]:
    return choice.pod.namespace, choice.claim


def _value(step: _Step, about: Place | Provision | Evict | Hold, said: str, now: float) -> FollowUp:
    match step, about:
        case _Step.VICTIM_STAYS, Evict():
            return VictimStays(about, said)
        case _Step.EVENT, (Evict() | Hold()):
            return Record((about,))
        case _Step.BACK_OFF, Provision():
            words = f"node {about.node} could not be chosen for claim {about.claim}: {said}"
            return BackOff(about.pod, Reason.VOLUME_NOT_READY, words)
        case _Step.BACK_OFF, _:
            return BackOff(about.pod, Reason.BINDING_REFUSED, f"the API server did not take its binding: {said}")
        case _Step.CLAIM_ENDS, _:
            return ClaimEnds(about.pod)
        case _Step.UNREPORTED, _:
            return Unreported(about.pod)
        case _Step.RUN_CYCLE_LATER, _:
            return RunCycle(now + _RUN_CYCLE_LATER)
        case _:
            return RunCycle(now)


def _key(action: Action) -> tuple[type, str, str]:
    about = action.place if isinstance(action, ReadBack) else action
    return type(action), about.pod.uid, about.claim if isinstance(about, Provision) else ""
