"""Questions to the production core about worlds that are not there: what if this were changed, what if that came.

Every answer is a run of the production cycle on a private copy of the world. Nothing is written anywhere.
"""

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from msgspec.structs import replace

from tangram.api import names
from tangram.api.objects import Node, Pod
from tangram.api.policy import parse_policy
from tangram.decide.memory import Memory
from tangram.decide.pipeline import decide
from tangram.decide.price import pricing
from tangram.decide.registry import Registry
from tangram.plan import Evict, Hold, Place
from tangram.questions.budgets import Exceeded, exceeded
from tangram.questions.notes import of_namespaces, of_plugins, of_pods, of_policy
from tangram.questions.observe import Forecast, cycle_of, run_to_rest
from tangram.scheduler.cycle import Cycle
from tangram.snapshot.arrays import Snapshot
from tangram.snapshot.nodes.inventory import NodeDevice
from tangram.snapshot.recording import Recording

_ALL_AT_ONCE = 1 << 30
_MOST_ROUNDS = 8
"""Rounds of evictions that are followed: each one may make others evict in turn."""


class Fit(StrEnum):
    """Whether and when pods that are not there yet could start."""

    NOW = "now"
    AFTER_EVICTION = "after-eviction"
    """The policy would evict others for them."""
    LATER = "later"
    """They fit on the pool once it is emptier."""
    NEVER = "never"
    """They would not fit if tangram's other pods were all gone."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer to "what if these pods were created now?"."""

    fit: Fit
    placed: tuple[Place, ...] = ()
    """Where they would go (for LATER: on the emptied pool)."""
    waiting: tuple[Hold, ...] = ()
    """Why the others wait: now for LATER, for good for NEVER."""
    evicted: tuple[Evict, ...] = ()
    world: Recording | None = None
    """The world with the pods in it, for further questions."""
    budgets: tuple[Exceeded, ...] = ()
    """What allows fewer of the evictions than there are."""
    notes: tuple[str, ...] = ()
    """What nobody is refused for and may not be meant so, as in an explanation."""


@dataclass(frozen=True, slots=True)
class Remedy:
    """Something that somebody could do; ``cost`` orders changes, the least first (see docs/explaining.md)."""

    kind: str
    text: str
    cost: float = 0.0
    pods: tuple[Pod, ...] = ()
    """Pods as they would be instead."""
    removed: tuple[Pod, ...] = ()
    """Pods that would be gone."""
    policy: dict[str, Any] | None = None
    """The policy that would be in force instead."""
    node: Node | None = None
    """A node as it would be instead, or a new one."""
    devices: tuple[NodeDevice, ...] = ()
    """What the agent of a new node would report of its devices."""

    def apply(self, recorded: Recording) -> Recording:
        """The world in which the change has been made."""
        others = {pod.metadata.uid: pod for pod in self.pods}
        gone = {pod.metadata.uid for pod in self.removed}
        kept = (pod for pod in recorded.pods if pod.metadata.uid not in gone)
        nodes = {node.metadata.name: node for node in recorded.nodes}
        inventories = recorded.inventories
        if self.node is not None:
            nodes[self.node.metadata.name] = self.node
            inventories = inventories | ({self.node.metadata.name: self.devices} if self.devices else {})
        return replace(
            recorded,
            pods=tuple(others.get(pod.metadata.uid, pod) for pod in kept),
            policy=self.policy if self.policy is not None else recorded.policy,
            nodes=tuple(nodes.values()),
            inventories=inventories,
        )


@dataclass(slots=True)
class Bench:
    """A private copy of a world on which changes are made, tried and taken back: cheap trials to search with.

    Whatever a search finds has to be confirmed by ``confirmed``, which begins with a fresh copy.
    """

    recorded: Recording
    wanted: frozenset[str]
    """Uids of pods of which one has to be placed; gangs are placed as such."""
    registry: Registry | None = None
    tried: int = 0
    _memory: Memory = field(init=False)
    _cycle: Cycle = field(init=False)

    def __post_init__(self) -> None:
        self._cycle = cycle_of(self.recorded, self.registry, batch=_ALL_AT_ONCE)
        self._memory = Memory(self.registry)
        builder = self._cycle.builder
        if self.recorded.prices is None:
            builder.prices = pricing.learn(self.snapshot())

    def snapshot(self) -> Snapshot:
        """The copy as it is now."""
        return self._cycle.builder.snapshot(self.recorded.now)

    def works(self, change: Remedy) -> bool:
        """Whether the core would place what is wanted if the change were made."""
        self.tried += 1
        self._make(change)
        try:
            plan = decide(self.snapshot(), self._memory)
        finally:
            self._take_back(change)
        late = (place for claim in plan.claims if claim.volumes for place in claim.places)  # free, but for its volumes
        return any(place.pod.uid in self.wanted for place in (*plan.place, *late))

    def confirmed(self, change: Remedy) -> tuple[Place, ...]:
        """Where the wanted pods go in a fresh copy of the changed world; empty: the change does not help."""
        outcome = run_to_rest(
            cycle_of(replace(change.apply(self.recorded), prices=None), self.registry), self.recorded.now
        )
        return tuple(outcome.placed[uid] for uid in sorted(self.wanted) if uid in outcome.placed)

    def _make(self, change: Remedy) -> None:
        builder = self._cycle.builder
        if change.policy is not None:
            builder.set_policy(parse_policy(change.policy))
        if change.node is not None:
            builder.put_node(change.node)
            if change.devices:
                builder.set_inventory(change.node.metadata.name, change.devices)
        for pod in change.removed:
            builder.remove_pod(pod.metadata.uid)
        for pod in change.pods:
            builder.put_pod(pod)

    def _take_back(self, change: Remedy) -> None:
        builder = self._cycle.builder
        changed = {pod.metadata.uid for pod in (*change.pods, *change.removed)}
        for pod in self.recorded.pods:
            if pod.metadata.uid in changed:
                builder.put_pod(pod)
        if change.node is not None:
            name = change.node.metadata.name
            before = next((node for node in self.recorded.nodes if node.metadata.name == name), None)
            if before is not None:
                builder.put_node(before)
            else:
                builder.remove_node(name)
                builder.set_inventory(name, ())
        if change.policy is not None:
            builder.set_policy(None if self.recorded.policy is None else parse_policy(self.recorded.policy))


def judge(recorded: Recording, added: tuple[Pod, ...], registry: Registry | None = None) -> Verdict:
    """What would happen if the pods were created now."""
    found, faults = _judged(recorded, added, registry)
    notes = (*of_policy(recorded), *of_namespaces(recorded), *of_pods(recorded, added), *of_plugins(faults))
    return dataclasses.replace(found, notes=notes)


def _judged(recorded: Recording, added: tuple[Pod, ...], registry: Registry | None) -> tuple[Verdict, tuple[str, ...]]:
    """The answer, and the plugins that failed.

    They fit when every pod that stands alone is placed and every gang reaches its minimum.
    """
    world = replace(recorded, pods=(*recorded.pods, *added), prices=None)
    uids = tuple(pod.metadata.uid for pod in added)
    cycle = cycle_of(world, registry)
    first = outcome = run_to_rest(cycle, world.now)
    if _fit(added, outcome):
        return _verdict(Fit.NOW, uids, outcome, world), first.faults
    evicted: dict[str, Evict] = {}
    for _ in range(_MOST_ROUNDS):
        fresh = {uid: evict for uid, evict in outcome.evictions.items() if uid not in evicted}
        if not fresh:
            break
        evicted |= fresh
        for uid in fresh:
            cycle.builder.remove_pod(uid)  # what it leaves is for whoever it was evicted for
        outcome = outcome.followed_by(run_to_rest(cycle, world.now))
        if _fit(added, outcome):
            return _verdict(Fit.AFTER_EVICTION, uids, outcome, world, tuple(evicted.values())), first.faults
    others = {pod.metadata.uid for pod in recorded.pods if _ours(pod, recorded.scheduler_name)}
    emptied = run_to_rest(cycle_of(without(world, others), registry), world.now)
    if _fit(added, emptied):
        found = _verdict(Fit.LATER, uids, emptied, world)
        waiting = _verdict(Fit.LATER, uids, first, world).waiting
        return Verdict(Fit.LATER, found.placed, waiting, (), world), first.faults
    return _verdict(Fit.NEVER, uids, emptied, world), first.faults


def fits_when_empty(recorded: Recording, pods: tuple[Pod, ...], registry: Registry | None = None) -> bool:
    """Whether one of these pods, which wait, would have a place if all others of ours but members of its gang were
    gone."""
    kept, gangs = {pod.metadata.uid for pod in pods}, {gang_of(pod) for pod in pods} - {""}
    others = {
        pod.metadata.uid
        for pod in recorded.pods
        if _ours(pod, recorded.scheduler_name) and pod.metadata.uid not in kept and gang_of(pod) not in gangs
    }
    emptied = run_to_rest(cycle_of(without(recorded, others), registry), recorded.now)
    return any(uid in emptied.placed for uid in kept)


def without(recorded: Recording, uids: Iterable[str]) -> Recording:
    """The world without these pods."""
    gone = frozenset(uids)
    return replace(recorded, pods=tuple(pod for pod in recorded.pods if pod.metadata.uid not in gone))


def gang_of(pod: Pod) -> str:
    """``namespace/gang`` of a pod; empty when it stands alone."""
    label = pod.metadata.labels.get(names.GANG, "")
    return f"{pod.metadata.namespace}/{label}" if label else ""


def _fit(added: tuple[Pod, ...], outcome: Forecast) -> bool:
    """Every pod alone is placed; of every gang some are, which the core does only once the minimum is reached."""
    units: dict[str, bool] = {}
    for pod in added:
        unit = gang_of(pod) or pod.metadata.uid
        units[unit] = units.get(unit, False) or pod.metadata.uid in outcome.placed
    return all(units.values())


def _ours(pod: Pod, scheduler_name: str) -> bool:
    """Whether tangram placed or will place the pod; what belongs to a node itself stays there."""
    on_every_node = any(owner.kind in ("DaemonSet", "Node") for owner in pod.metadata.owner_references)
    return pod.spec.scheduler_name == scheduler_name and not on_every_node


def _verdict(
    fit: Fit, uids: tuple[str, ...], outcome: Forecast, world: Recording, evicted: tuple[Evict, ...] = ()
) -> Verdict:
    return Verdict(
        fit,
        tuple(outcome.placed[uid] for uid in uids if uid in outcome.placed),
        tuple(outcome.holds[uid] for uid in uids if uid in outcome.holds),
        evicted,
        world,
        exceeded(world, (one.pod for one in evicted)),
    )
