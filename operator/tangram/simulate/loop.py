"""The production cycle turning in a simulated world: what ``scheduler.live`` is to a cluster."""

from collections.abc import Mapping

from tangram.api.objects import Node, Pod
from tangram.cluster.outcome import Outcome, Result
from tangram.errors import TangramError
from tangram.plan import Evict, Hold, Place, Plan, Provision
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.follow_ups import PlaceLost, Record, RunCycle
from tangram.scheduler.writes import LEASE_LOST, Action, ReadBack, Writes, is_write
from tangram.simulate.answers import Answer
from tangram.simulate.world import World
from tangram.snapshot.pods.pods import same_to_us

_OUTCOMES: Mapping[Answer, Outcome] = {
    Answer.DONE: Outcome(Result.DONE),
    Answer.CONFLICT: Outcome(Result.CONFLICT, "the object has changed"),
    Answer.GONE: Outcome(Result.GONE, "the object does not exist"),
    Answer.REFUSED: Outcome(Result.REFUSED, "a rule forbids it"),
    Answer.LOST: Outcome(Result.FAILED, "no answer"),
    Answer.UNANSWERED: Outcome(Result.FAILED, "no answer"),
}


class Loop:
    """Feeds a cycle what the world shows and carries out its plans in it, by the machine that production runs."""

    def __init__(self, world: World, cycle: Cycle) -> None:
        self.world, self.cycle = world, cycle
        self.writes = Writes(cycle.holds, cycle.was_refused)
        self.leads = True
        """Whether it may write: without that nothing is decided, and what was decided is not carried out."""
        self.holds: dict[str, Hold] = {}
        """By uid, why a pod waits; as last reported."""
        self._awake = True
        self._lost: set[str] = set()
        """Uids of pods whose places did not come to be in this turn."""
        self._wakes_at: set[int] = set()
        self.watch = world.watch(self._on_node, self._on_pod)
        """What this scheduler is shown of nodes and pods."""

    def turn(self) -> Plan:
        """One cycle: decide, and write."""
        self._awake = False
        self._lost.clear()
        self._write()
        if not self.leads:
            return Plan()
        plan = self.cycle.decide(self.world.clock.now)
        self.writes.send(plan)
        self._write()
        if plan.again and not (plan.place and self._lost.issuperset(place.pod.uid for place in plan.place)):
            self._awake = True  # a live scheduler does not know yet either what has come of it
        self._wake_at(self.cycle.next_cycle_at)
        return plan

    def run_to_rest(self, turns: int = 1000) -> None:
        """Turn until nothing asks for a cycle in the present second any more; raises TangramError if it never ends.

        A pod may still wait: it fits nowhere, or its binding failed and is tried again in a later second.
        """
        for _ in range(turns):
            if not self._awake:
                return
            self.turn()
        raise TangramError(f"the scheduler has not come to rest after {turns} turns at second {self.world.clock.now}")

    def run(self, until: int) -> None:
        """Let the world go on to a second and the scheduler follow every change in it."""
        self.run_to_rest()
        while (moment := self.world.next_moment()) is not None and moment <= until:
            self.world.step()
            self.run_to_rest()
        self.world.run(until)

    def wake(self) -> None:
        """Have a cycle made: something has changed that this loop is not shown, a policy say."""
        self._awake = True

    def _write(self) -> None:
        """Carry out what is to be written now."""
        writes, now = self.writes, self.world.clock.now
        for report in (False, True):
            while (action := writes.next(now, report=report)) is not None:
                outcome = self._outcome(action) if self.leads or not is_write(action) else LEASE_LOST
                for what in writes.ended(action, outcome, now):
                    if isinstance(what, RunCycle):
                        self._wake_at(int(-(-what.at // 1)))
                    elif not isinstance(what, Record):  # nobody reads Events here
                        self.cycle.follow(what)
                    if isinstance(what, PlaceLost):
                        self._lost.add(what.place.pod.uid)
        if (due := self.writes.due) is not None:
            self._wake_at(int(-(-due // 1)))

    def _outcome(self, action: Action) -> Outcome:
        """Carry out one action."""
        match action:
            case Place():
                if self.holds:
                    self.holds.pop(action.pod.uid, None)
                return _OUTCOMES[self.world.bind(action)]
            case Evict():
                return _OUTCOMES[self.world.evict(action)]
            case ReadBack(place):
                pod = self.world.find(place.pod)
                bound = pod is not None and pod.spec.node_name == place.node
                return Outcome(Result.DONE if bound else Result.GONE if pod is None else Result.CONFLICT)
            case Hold():
                self.holds[action.pod.uid] = action
                return _OUTCOMES[self.world.report(action)]
            case Provision():
                return self.provide(action)

    def provide(self, choice: Provision) -> Outcome:
        """Have a volume made for a claim, or let the one be its that has been chosen for it."""
        claim, volumes = (choice.pod.namespace, choice.claim), self.cycle.builder.volumes
        chosen = volumes.chosen_volume(claim)
        if chosen is not None:
            return _OUTCOMES[self.world.choose_volume(claim, chosen[0].metadata.name, choice.node)]
        if not volumes.makes(claim):
            return Outcome(Result.CONFLICT, "the volume that was chosen is not free any more")
        return _OUTCOMES[self.world.choose_node(claim, choice.node)]

    def _wake_at(self, moment: int) -> None:
        """Be awake at a moment; a live scheduler runs a cycle every few seconds anyway."""
        if moment <= self.world.clock.now:
            self._awake = self._awake or moment > 0
        elif moment not in self._wakes_at:
            self._wakes_at.add(moment)
            self.world.schedule(moment, self._wake_now)

    def _wake_now(self) -> None:
        self._wakes_at.discard(self.world.clock.now)
        self.wake()

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        self.cycle.observe_pod(old, new)
        if new is None or new.metadata.deletion_timestamp:
            if old is not None:
                self.holds.pop(old.metadata.uid, None)
            self._awake = True
        elif not new.spec.node_name and (old is None or not same_to_us(old, new)):
            self._awake = True

    def _on_node(self, old: Node | None, new: Node | None) -> None:
        if new is not None:
            self.cycle.builder.put_node(new)
        elif old is not None:
            self.cycle.builder.remove_node(old.metadata.name)
        self._awake = True
