"""Where a history takes place: a simulated world, the production loop in it, and notes of what must never be."""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

import numpy as np
from tests.histories import history as h
from tests.histories.findings import Count, Finding
from tests.worlds import START, policy

from tangram.api import names
from tangram.api.objects import Metadata, Pod
from tangram.decide.memory import Memory
from tangram.decide.pipeline import decide
from tangram.decide.queues.fairness import past_share
from tangram.decide.queues.rights import least_runtime
from tangram.plan import Evict, Place, Plan, PodName, Provision, Reason
from tangram.scheduler.cycle import BrokenInvariantError, Cycle
from tangram.scheduler.policies import DeviceEntry, Inventory, InventoryStatus
from tangram.settings import SchedulerSettings
from tangram.simulate import storage
from tangram.simulate.answers import Answer
from tangram.simulate.clock import VirtualClock
from tangram.simulate.faults import FOR_EVER, Faults
from tangram.simulate.loop import Loop
from tangram.simulate.surroundings import surroundings
from tangram.simulate.watching import Kind, Watch
from tangram.simulate.world import World, Write

_TURNS = 60
"""Cycles within one second after which a scheduler is said to spin."""
_POLICY = "policy"
_LATE = 2
"""Seconds after which it is news that a pod is where it was placed: until then nobody could be evicted for it."""
_TOO_LATE = "the volumes were not there after"


def afresh(cycle: Cycle, now: int) -> Plan:
    """What a cycle would decide if it remembered nothing of earlier decisions."""
    return decide(cycle._priced(cycle.builder.snapshot(now)), Memory(), cycle.reporter.known())


class Watched(Cycle):
    """The production cycle, asked at each decision whether it is legal and what it would be without a memory."""

    stage: "Stage"

    def decide(self, now: int) -> Plan:
        stage = self.stage
        forgetful = afresh(self, now)
        try:
            plan = super().decide(now)
        except BrokenInvariantError as error:
            stage.note(Count.ILLEGAL, str(error))
            raise
        if plan != forgetful:
            stage.note(Count.MEMORY, f"with memory:\n{plan}\nwithout:\n{forgetful}")
        stage.decided(plan)
        return plan


@dataclass(slots=True)
class Stage:
    """One history, as far as it has been lived through."""

    history: h.History
    verbose: bool = False
    world: World = field(init=False)
    faults: Faults = field(init=False)
    loop: Loop = field(init=False)
    others: Watch = field(init=False)
    """The scheduler's watches of everything but nodes and pods."""
    mirror: Watch = field(init=False)
    """Shows what the scheduler is shown, when it is: so it is known what is news to it."""
    policy: Any = None
    findings: list[Finding] = field(default_factory=list)
    news: int = 0
    placed: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)
    """By uid of a pod, how much news there had been when it was placed, and, where nodes were held for somebody then,
    in which order past use had the queues: time alone changes it, and with it who is the first in line."""
    placed_at: dict[str, int] = field(default_factory=dict)
    """By uid of a pod, when it was placed."""
    ours: set[str] = field(default_factory=set)
    """Uids of pods that we have evicted."""
    moved: int = START
    """When something was last placed or evicted."""
    done: Counter[str] = field(default_factory=Counter)
    """By gang, members that have ended with success."""
    given_back: set[str] = field(default_factory=set)
    """Work for whose volumes a driver had no room on the node that was chosen, or that waited too long for them."""
    undone: set[str] = field(default_factory=set)
    """Uids of pods that the last plan evicts and an earlier one has placed, without news in between."""
    thwarting: set[str] = field(default_factory=set)
    """Uids of pods whose eviction has been refused."""
    denied: set[str] = field(default_factory=set)
    """Work for which an eviction has been refused."""
    stayed: set[str] = field(default_factory=set)
    """Uids of pods whose eviction has failed: they are spared for a while, for anybody."""
    uncertain: frozenset[str] = frozenset()
    """Nodes of which it was not known at the last decision which GPUs their pods hold: that it is known is news."""
    together: dict[str, tuple[PodName, ...]] = field(default_factory=dict)
    """By uid of a victim, all victims of its claim."""
    chance: Random = field(init=False)

    def __post_init__(self) -> None:
        history = self.history
        self.chance = Random(history.seed)
        clock = VirtualClock(START)
        self.faults = Faults(clock)
        self.world = World(history.nodes, clock, grace=history.grace, fault=self.answer)
        for name, driver in history.drivers.items():
            self.world.put_class(name, driver)
        there = {node.metadata.name: node for node in history.nodes}
        for number, (name, size) in enumerate(history.disks):
            disk = storage.local_volume(f"disk-{number}", "local", there[name], size)
            self.world.put(Kind.VOLUME, disk.metadata.name, disk)
        for name, count in history.attaches:
            self.world.put(Kind.DRIVERS, name, storage.limits(name, count))
        self.set_policy(history.spec)
        self.start()
        for second, action in history.actions:
            if second == 0:
                self.happen(action)
            else:
                self.world.schedule(START + second, partial(self.happen, action))

    def start(self) -> None:
        """A scheduler starts: it knows what the API server lists."""
        cycle = self.new_cycle()
        self.loop = Loop(self.world, cycle)
        self.others = self.world.follow(surroundings(cycle.builder, self.loop.wake))
        news = {kind: partial(self._on_news, kind) for kind in Kind if kind is not Kind.POD}
        self.mirror = self.world.follow(news | {Kind.POD: self._on_pod})

    def _land(self, write: Place | Provision | Evict) -> None:
        """A write reaches the API server, and nobody waits for its answer."""
        match write:
            case Place():
                self.world.bind(write)
            case Provision():
                self.loop.provide(write)
            case Evict():
                self.world.evict(write)

    def recall(self, cycle: Cycle, old: Cycle) -> None:
        """Let a cycle go on with what its queues have used of late, as the policy's status tells it.

        Until this very second: a new process does not hear what was used since the status was written, which is five
        seconds of use at most.
        """
        before, past = old.builder.queues, cycle.builder.queues.past
        rows = {name: row for row, name in enumerate(before.arrays.names) if not before.arrays.is_leaf[row]}
        used = {name: before.arrays.recent[row].copy() for name, row in rows.items()}
        past.follow(self.policy, used, cycle.builder.queues.arrays)
        past._since = before.past._since
        names = cycle.builder.queues.arrays.names
        for row, name in enumerate(names):
            if name in rows:
                past._peak[row] = before.past._peak[rows[name]]

    def new_cycle(self) -> Cycle:
        """A cycle that knows nothing yet."""
        cycle = Watched(SchedulerSettings(debug=True, **self.history.settings))
        cycle.stage = self
        return cycle

    @property
    def watches(self) -> tuple[Watch, ...]:
        return self.loop.watch, self.others, self.mirror

    @property
    def current(self) -> bool:
        """Whether the scheduler knows everything that is."""
        return all(watch.current for watch in self.watches)

    @property
    def tireless(self) -> bool:
        """Whether a pod asks for a volume that never comes: it holds a place for it now and then, for ever."""
        return any(map(self._is_never, self.world.claims))

    def _is_never(self, key: tuple[str, str]) -> bool:
        driver = self.history.drivers.get(self.world.claims[key].spec.storage_class_name or "")
        return driver is not None and driver.seconds is None

    def note(self, count: Count, sentence: str) -> None:
        """Something that must never be."""
        self.findings.append(Finding(count, self.world.clock.now - START, sentence))
        self.say(f"!!! {count}: {sentence}")

    def say(self, text: str) -> None:
        if self.verbose:
            print(f"{self.world.clock.now - START:5d}  {text}")

    # What the scheduler decides

    def decided(self, plan: Plan) -> None:
        """A plan is about to be written."""
        self.say(str(plan)) if plan.place or plan.evict or plan.hold else None
        self.undone.clear()
        self.news += sum(hold.reason == Reason.VOLUME_NOT_READY for hold in plan.hold)
        self.given_back |= {work_of(hold.pod.name) for hold in plan.hold if _TOO_LATE in hold.message}
        self.news += any(evict.claimant is None for evict in plan.evict)  # a gang's time is over
        before, self.uncertain = self.uncertain, frozenset(self.loop.cycle.builder.nodes.uncertain)
        self.news += bool(before - self.uncertain)
        news, order = self.news + self.faults.met.total(), self.order_by_past_use() if plan.place or plan.evict else ()
        for claim in plan.claims:
            self.together |= {pod.uid: claim.victims for pod in claim.victims}
        for evict in plan.evict:
            placed_at = self.placed.get(evict.pod.uid)
            waited = self.has_waited(evict.claimant) or self.was_spared(evict)
            if placed_at in ((news, ()), (news, order)) and not waited and not self.was_protected(evict):
                self.undone.add(evict.pod.uid)  # which counts once it is asked to leave: others may be asked before
        held = any(hold.reason == Reason.RESERVED for hold in plan.hold)
        for place in plan.place:
            self.placed[place.pod.uid] = news, order if held else ()
            self.placed_at[place.pod.uid] = self.world.clock.now
        self.ours |= {evict.pod.uid for evict in plan.evict}
        if any(not self.is_in_vain(one) for one in (*plan.place, *plan.evict)):
            self.moved = self.world.clock.now

    def order_by_past_use(self) -> tuple[int, ...]:
        """The rank of each queue by what it has used of late."""
        shares = past_share(self.loop.cycle.builder.snapshot(self.world.clock.now))
        return tuple(np.unique(shares, return_inverse=True)[1].tolist())

    def answer(self, write: Write) -> Answer | None:
        """What a rule or an accident does to a write; None: nothing."""
        found = self.faults(write)
        if isinstance(write, Evict) and write.claimant is not None:
            if found not in (None, Answer.DONE):
                self.denied.add(work_of(write.claimant.name))
                self.stayed.add(write.pod.uid)
            if found is Answer.REFUSED:
                self.thwarting.add(write.pod.uid)
            elif found in (None, Answer.DONE, Answer.UNANSWERED):
                self._evicted(write)
        return found

    def _evicted(self, evict: Evict) -> None:
        """A pod loses its work: for nothing, if another victim of the claim was refused before and still would be."""
        if evict.pod.uid in self.undone:
            self.note(Count.UNDONE, f"{evict}, and there has been no news since it was placed")
        for other in self.together.get(evict.pod.uid, ()):
            until = self.faults.evictions.get(other.name, 0)
            if other.uid in self.thwarting and self.world.clock.now < until and self.world.find(other) is not None:
                self.note(Count.WASTED, f"{evict}, and {other} stays as before")

    def is_refused(self, name: str) -> bool:
        """Whether a pod's binding or eviction is refused for ever, or a fellow member's: it is tried now and then."""
        faults = self.faults
        refused = {
            one for rules in (faults.bindings, faults.evictions) for one, until in rules.items() if until == FOR_EVER
        }
        return bool(refused) and any(work_of(one) == work_of(name) for one in refused)

    def is_in_vain(self, write: Place | Evict) -> bool:
        """Whether a write is refused for ever, or the eviction of a pod that has to leave with this one."""
        return any(self.is_refused(one.name) for one in (write.pod, *self.together.get(write.pod.uid, ())))

    @property
    def refuses_for_ever(self) -> bool:
        """Whether a binding or an eviction is never taken: for its sake something moves every hour."""
        return FOR_EVER in (*self.faults.bindings.values(), *self.faults.evictions.values())

    def has_waited(self, claimant: PodName | None) -> bool:
        """Whether a write about a pod, or a fellow member, or an eviction for it, has ever failed: it then waits, and
        its return is news."""
        never = {key[1].removeprefix("data-") for key in self.world.claims if self._is_never(key)}
        waited = {work_of(name) for name in (*self.faults.met, *never)} | self.given_back | self.denied
        return claimant is not None and work_of(claimant.name) in waited

    def was_spared(self, evict: Evict) -> bool:
        """Whether the eviction of a pod that has to leave with this one has ever failed: that it may be evicted again
        is news."""
        return any(other.uid in self.stayed for other in self.together.get(evict.pod.uid, ()))

    def was_protected(self, evict: Evict) -> bool:
        """Whether a pod that has to leave with this one had run for less than its queue's minRuntime when this one was
        placed: that it may be evicted now is news."""
        snapshot, together = (
            self.loop.cycle.builder.snapshot(self.world.clock.now),
            self.together.get(evict.pod.uid, ()),
        )
        running, leaf, least = snapshot.running, snapshot.shapes.leaf, least_runtime(snapshot.queues)
        others = [slot for slot, name in enumerate(running.names) if name in together and name != evict.pod]
        rows = [(slot, int(leaf[running.shape[slot]])) for slot in others if running.present[slot]]
        ends = [int(running.started[slot] + least[snapshot.queues.parent[row]]) for slot, row in rows if row >= 0]
        return any(end > self.placed_at[evict.pod.uid] for end in ends)

    # News

    def _on_news(self, kind: Kind, old: Any, new: Any) -> None:
        if kind is Kind.CLAIM and old is not None and new is not None and old.spec == new.spec:
            if len(new.metadata.annotations) < len(old.metadata.annotations):
                self.given_back.add(work_of(new.metadata.name.removeprefix("data-")))
            return
        self.news += 1

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        if new is not None and new.status.phase == "Succeeded":
            self.done[new.metadata.labels.get(names.GANG, "")] += 1
        if old is not None and new is not None:
            ours = self.world.clock.now - self.placed_at.get(new.metadata.uid, 0) < _LATE
            bound = not old.spec.node_name and new.spec.node_name and ours
            leaves = new.metadata.deletion_timestamp and new.metadata.uid in self.ours
            told = old.spec == new.spec and old.metadata == new.metadata and old.status.phase == new.status.phase
            self.news += not (bound or leaves or told)
        elif new is None and old is not None:
            self.news += old.metadata.uid not in self.ours
        else:
            self.news += 1

    # What happens

    def set_policy(self, spec: dict[str, Any] | None) -> None:
        self.policy = None if spec is None else policy(*spec["priorityClasses"], **_rest(spec))
        self.world.put(Kind.POLICY, _POLICY, self.policy)

    def happen(self, action: h.Action) -> None:
        """Let an action of the history take place."""
        self.say(f"--- {describe(action)}")
        world, now = self.world, self.world.clock.now
        match action:
            case h.Submit():
                self._submit(action)
            case h.Delete(name):
                world.delete("default", name)
            case h.End(name, phase, linger):
                world.end("default", name, phase, linger)
            case h.BindElsewhere(name, node):
                world.bind_elsewhere("default", name, node)
            case h.Resize(name, cpu):
                world.resize("default", name, cpu)
            case h.PutNode(node):
                world.put_node(node)
            case h.RemoveNode(name):
                world.remove_node(name)
            case h.Inventories(name, devices, sick):
                world.put(Kind.INVENTORY, name, inventory(name, devices, sick))
            case h.SetPolicy(spec):
                self.set_policy(spec)
            case h.Refuse(what, pods, seconds):
                rules = getattr(self.faults, what)
                rules |= dict.fromkeys(pods, FOR_EVER if seconds == FOR_EVER else now + seconds)
            case h.Accidents(answers):
                self.faults.accidents += [Answer(one) for one in answers]
            case h.Lag(kinds, seconds):
                for watch in self.watches:
                    watch.lag(seconds, kinds)
            case h.Lose(kinds, seconds):
                for watch in self.watches:
                    watch.lose(kinds)
                    world.schedule(now + seconds, partial(watch.relist, kinds))
            case h.Restart():
                self._restart(action)

    def _submit(self, action: h.Submit) -> None:
        for one in action.pods:
            key = (one.metadata.namespace, one.metadata.name)
            if key in self.world.pods:
                continue
            claims = [
                (key[0], volume.persistent_volume_claim.claim_name)
                for volume in one.spec.volumes
                if volume.persistent_volume_claim
            ]
            for claim in claims:
                self.world.put(Kind.CLAIM, claim, storage.claim(*claim, action.claim, action.size))
            self.world.submit(one, duration=action.duration)
            if action.again is not None:
                self.world.own(*key, action.again, renames=action.renames)

    def _restart(self, action: h.Restart) -> None:
        old, chance = self.loop, Random(action.order)
        plan = old.cycle.decide(self.world.clock.now) if action.lands is not None else Plan()
        for watch in self.watches:
            watch.stop()
        for write in (*plan.place, *plan.provision, *plan.evict):
            if chance.randrange(100) < (action.lands or 0):
                self._land(write)
            else:
                self.news += 1
        for kind in (Kind.NODE, Kind.POD):
            shuffle(self.world.objects[kind], chance)
        self.start()
        self.recall(self.loop.cycle, old.cycle)

    def wake(self) -> None:
        """Have a cycle made though nothing asks for one."""
        self.loop.wake()

    def decide_once(self) -> Plan:
        """One cycle."""
        return self.loop.turn()

    def settle(self) -> None:
        """Let the scheduler decide until nothing asks for a cycle within the present second."""
        self.loop.run_to_rest(_TURNS)


def inventory(name: str, devices: int, sick: tuple[int, ...]) -> Inventory:
    """What a node's agent reports."""
    entries = (
        DeviceEntry(f"GPU-{name}-{index}", index, "Unhealthy" if index in sick else "Healthy")
        for index in range(devices)
    )
    return Inventory(Metadata(name), InventoryStatus(tuple(entries)))


def work_of(name: str) -> str:
    """What a pod and its fellow members, also those that were made again, have in common in their names."""
    return name.partition("-")[0]


def shuffle(objects: dict[Any, Any], chance: Random) -> None:
    """List the objects in another order from now on."""
    items = list(objects.items())
    chance.shuffle(items)
    objects.clear()
    objects.update(items)


def describe(action: h.Action) -> str:
    """An action, short enough to read."""
    if isinstance(action, h.Submit):
        names = ", ".join(describe_pod(one) for one in action.pods)
        rest = {name: getattr(action, name) for name in ("duration", "again", "renames", "claim", "size")}
        return f"submit {names} {' '.join(f'{name}={value}' for name, value in rest.items() if value)}"
    if isinstance(action, h.PutNode):
        node = action.node
        return f"node {node.metadata.name} {node.status.allocatable} {node.metadata.labels} {node.spec}"
    return str(action)


def describe_pod(one: Pod) -> str:
    """A pod, short enough to read."""
    requests = " ".join(
        f"{name.rpartition('/')[2]}={value}"
        for name, value in one.spec.containers[0].resources.requests.items()
        if name != "memory"
    )
    marks = " ".join(
        f"{name.rpartition('/')[2]}={value}" for name, value in (one.metadata.labels | one.metadata.annotations).items()
    )
    return f"{one.metadata.name}({requests} {marks} priority={one.spec.priority} {one.metadata.creation_timestamp})"


def _rest(spec: dict[str, Any]) -> dict[str, Any]:
    others = {name: value for name, value in spec.items() if name not in ("priorityClasses", "fallbackStrategy")}
    return others | {"fallback": spec["fallbackStrategy"]}
