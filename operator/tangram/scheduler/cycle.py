"""One turn of the scheduler, without I/O: what is true, what to do, and what has been sent but not yet seen.

The live scheduler and the simulator run this same class; they differ in where changes come from and plans go to.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tangram.api.objects import Pod
from tangram.decide.memory import Memory
from tangram.decide.pipeline import decide
from tangram.decide.price import pricing
from tangram.decide.queues.fairness import share_per_unit
from tangram.decide.registry import Registry
from tangram.errors import TangramError
from tangram.plan import Evict, Place, Plan, PodName, Provision
from tangram.scheduler.follow_ups import BackOff, ClaimEnds, FollowUp, NotAsked, PlaceLost, Unreported, VictimStays
from tangram.scheduler.reporter import Reporter
from tangram.settings import SchedulerSettings
from tangram.snapshot import legal
from tangram.snapshot.arrays import Snapshot
from tangram.snapshot.build import Builder
from tangram.snapshot.figures import Figures, figures_of
from tangram.snapshot.values.faults import Fault


class BrokenInvariantError(TangramError):
    """The debug mode found a snapshot or plan that must not exist."""


@dataclass(slots=True)
class Counters:
    """What happened since the start, for metrics and reports."""

    cycles: int = 0
    placed: int = 0
    evicted: int = 0
    held: int = 0
    lost: int = 0
    """Decisions that the API server refused or that never came to be."""


class Cycle:
    """observe -> decide -> (the caller writes) -> place_ended."""

    def __init__(self, settings: SchedulerSettings | None = None, registry: Registry | None = None) -> None:
        self.settings = settings or SchedulerSettings()
        registry = registry or Registry()
        self.builder = Builder(
            self.settings.scheduler_name,
            self.settings.batch,
            gang_timeout=self.settings.gang_timeout,
            reservation_delay=self.settings.reservation_delay,
            reads_of=registry.reads_of,
        )
        self.builder.evictions = self.settings.evictions
        self.memory = Memory(registry)
        self.reporter = Reporter(self.builder)
        self.counters = Counters()
        self.last_plan = Plan()
        self._now = 0
        self.keeps_figures = False
        """Whether somebody reports: then a cycle ends with figures, at most one in a second of its clock."""
        self.figures: Figures | None = None

    def observe_pod(self, old: Pod | None, new: Pod | None) -> None:
        """Take in a change of a pod; ``new`` None: it is gone."""
        if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
            self.builder.remove_pod(old.metadata.uid)
            if old.status.phase == "Succeeded":
                self.builder.forget_finished(old.metadata.uid)
        if new is not None:
            self.builder.put_pod(new)

    def take_faults(self) -> tuple[Fault, ...]:
        """The objects that could not be taken in since the last call, and why."""
        return self.builder.take_faults()

    def decide(self, now: int) -> Plan:
        """The next plan; everything in it counts as done until ``place_ended`` says otherwise.

        Of the reasons why pods wait it has those that have not been reported.
        """
        self._now = now
        snapshot = self._priced(self.builder.snapshot(now))
        if self.settings.debug:
            _demand(legal.broken(snapshot))
        plan = decide(snapshot, self.memory, self.reporter.known())
        if self.settings.debug:
            _demand(legal.illegal(plan, snapshot))
        self.builder.overlay(*plan.place)
        self.builder.queues.count()  # so that what was decided is in the figures of this cycle
        self.reporter.note(plan.hold)
        self.builder.end_nominations()
        for claim in plan.claims:
            self.builder.claim(claim, now)
        self.builder.users.choose(plan.provision, plan.claims)
        for name in {evict.gang for evict in plan.evict if evict.gang}:
            self.builder.gang_is_given_up(name, now)
        if self.settings.debug:
            _demand(legal.miscounted(self.builder))
            _demand(legal.overfilled(plan, self.builder))
        self.counters.cycles += 1
        self.counters.placed += len(plan.place)
        self.counters.evicted += len(plan.evict)
        self.counters.held += len(plan.hold)
        self.last_plan = plan
        if self.keeps_figures and (self.figures is None or self.figures.now != now):
            self.figures = figures_of(snapshot, share_per_unit(snapshot))
        return plan

    @property
    def next_cycle_at(self) -> int:
        """When, in seconds since the epoch, time alone makes a cycle worth while; 0: never. Known after ``decide``."""
        return self.builder.next_cycle_at(self._now)

    def pass_time(self, now: int) -> None:
        """Note what begins and ends with time, while another process decides: whoever takes over goes on from there."""
        self.builder.pass_time(now)

    def place_ended(self, place: Place, *, held: bool) -> None:
        """Say how a decision ended; one that did not hold is forgotten and its pod waits again."""
        if not held:
            self.counters.lost += 1
            self.builder.forget(place.pod.uid)

    def _priced(self, snapshot: Snapshot) -> Snapshot:
        """The snapshot with prices that follow the workload; learning is pure, its state travels with snapshots."""
        if snapshot.prices.revision != snapshot.workload_revision:
            prices = pricing.learn(snapshot)
            self.builder.set_prices(prices)
            return replace(snapshot, prices=prices)
        return snapshot

    def eviction_failed(self, evict: Evict, refused: str = "") -> None:
        """An eviction did not happen: the claim on that place is given up. ``refused``: what the server said if it
        refused it (a PodDisruptionBudget, say)."""
        if evict.claimant is not None:
            self.builder.eviction_failed(evict.claimant.uid, evict.pod.uid, self._now, refused)

    def follow(self, what: FollowUp) -> None:
        """Take in what follows from a write; Events and times of cycles are for the caller."""
        match what:
            case PlaceLost(place):
                self.place_ended(place, held=False)
            case BackOff(pod, reason, words):
                self.builder.back_off(pod.uid, reason, words, self._now)
            case VictimStays(evict, refused):
                self.eviction_failed(evict, refused)
            case NotAsked(evict) if evict.claimant is not None:
                self.builder.eviction_not_asked(evict.claimant.uid, evict.pod.uid)
            case ClaimEnds(pod):
                self.builder.release_claim(pod.uid)
            case Unreported(pod):
                self.reporter.forget(pod.uid)

    def holds(self, choice: Provision | Evict) -> bool:
        """Whether a place is still held on the node of the choice for a pod that waits for the volume, or for one that
        waits until the victim has left. A victim that is asked for nobody any more is not expected to leave."""
        if isinstance(choice, Evict):
            return choice.claimant is None or self.builder.claims.wants_to_leave(choice.pod.uid)
        return self.builder.users.hold_for((choice.pod.namespace, choice.claim), choice.node)

    def was_refused(self, pod: PodName) -> bool:
        """Whether the pod's binding, or its eviction, was refused when it was last tried."""
        return pod.uid in self.builder.suspension.refusals.known or self.builder.claims.was_refused(pod.uid)

    def in_flight(self, pod: PodName) -> bool:
        """Whether a decision about the pod is sent and not yet seen to hold."""
        return self.builder.in_flight(pod.uid)


def _demand(sentences: Iterable[str]) -> None:
    found = list(sentences)
    if found:
        raise BrokenInvariantError("; ".join(found[:5]))
