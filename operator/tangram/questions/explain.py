"""Why something waits: one reason, what every filter costs, who is ahead, who holds what, and what would help.

All of it is asked of the production core: the reason is the one that the scheduler writes, and no change is proposed
that the core has not been seen to place the pod with on a fresh copy of the world.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from tangram.api.objects import Pod
from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.decide.memory import Memory
from tangram.decide.pipeline import begin
from tangram.decide.queues.fairness import charge_of
from tangram.decide.reasons import when_empty, why_not
from tangram.decide.registry import Registry
from tangram.decide.scores import Scores
from tangram.decide.shortage import parts
from tangram.plan import Hold, Place, PodName, Reason
from tangram.questions import remedies
from tangram.questions.budgets import Exceeded, exceeded
from tangram.questions.holders import Holder, Lacking, evictions, holders, lacking, usable_nodes
from tangram.questions.notes import of_guarantees, of_namespaces, of_plugins, of_pods, of_policy
from tangram.questions.observe import Forecast, cycle_of, run_to_rest
from tangram.questions.queue_uses import POOLED, QueueUse, queue_name, queue_uses, upwards
from tangram.questions.remedies import Problem
from tangram.questions.reported import Reported, reported
from tangram.questions.what_if import Bench, Remedy, fits_when_empty, gang_of
from tangram.scheduler.cycle import Cycle
from tangram.snapshot.arrays import CPU, MEMORY, STRICT, UNLIMITED, Int32, Snapshot
from tangram.snapshot.recording import Recording

_PROPOSED = 3
_SHOWN_HOLDERS = 10
_STRICT = "would fit, but not preferred by the priority class, and the policy is strict"
REMEDIES: tuple[Callable[[Problem], Iterator[Remedy]], ...] = (
    remedies.readable_share,
    remedies.fewer_gpus,
    remedies.less_gpu_memory,
    remedies.less_of_a_resource,
    remedies.another_model,
    remedies.another_isolation,
    remedies.whole_gpu,
    remedies.looser_selector,
    remedies.tolerate,
    remedies.fewer_members,
    remedies.looser_topology,
    remedies.another_queue,
    remedies.higher_limit,
    remedies.best_effort,
    remedies.uncordon,
    remedies.one_more_node,
)
"""The kinds of change that are tried; evictions come on top of them."""


@dataclass(frozen=True, slots=True)
class Loss:
    """Nodes that one filter takes away; ``code`` Scheduled are those that remain."""

    code: str
    nodes: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Ahead:
    """Waiting pods whose turn comes before, and what they ask for."""

    pods: int = 0
    gpu_milli: int = 0
    waiting: int = 0
    """All waiting pods, the one asked about included."""
    by_queue: tuple[tuple[str, int, int], ...] = ()
    """(queue, pods, milli-GPU) of those ahead."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """A change, and where the pods went when the core was asked with the change made."""

    change: Remedy
    places: tuple[Place, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything there is to say about one waiting pod, with those that have to start with it."""

    pod: PodName
    state: str
    """waits, fits (it is placed in the next cycle), placed, gated, leaving or foreign (another scheduler's)."""
    reason: str
    message: str
    otherwise: str = ""
    """What a fresh decision says, where the reason is one that the scheduler has reported on the pod, and that no fresh
    decision knows; empty: the reason is that of a fresh decision."""
    examined: bool = True
    """Whether it was found out what is in the way and would help; not where the scheduler's word alone says it all."""
    notes: tuple[str, ...] = ()
    """What nobody is refused for and may not be meant so: a class that the policy does not have, a failing plugin."""
    budgets: tuple[Exceeded, ...] = ()
    """What allows fewer evictions than the pod waits for."""
    priority_class: str = ""
    members: int = 1
    """Pods that wait with it because they have to start together."""
    place: Place | None = None
    nodes: int = 0
    losses: tuple[Loss, ...] = ()
    ahead: Ahead = Ahead()
    queues: tuple[QueueUse, ...] = ()
    holders: tuple[Holder, ...] = ()
    holders_total: int = 0
    held_milli: int = 0
    """milli-GPU that all holders have together."""
    lacking: str = "gpu"
    """What is missing: gpu, cpu, memory, pods or an extended resource."""
    held: int = 0
    """What all holders have of it: milli-GPU, milli-CPU, MiB, pods or units of the resource."""
    proposals: tuple[Proposal, ...] = ()
    tried: int = 0
    """Changes that were tried."""
    never: bool = False
    """Whether it would not fit either if all other pods of this scheduler, but those of its gang, were gone."""


def explain(recorded: Recording, pod: Pod, registry: Registry | None = None) -> Explanation:
    """Say why the pod, which is in the recording, waits."""
    found = _explanation(recorded, pod, registry)
    return (
        found
        if found.state == "foreign"
        else replace(
            found, notes=(*of_policy(recorded), *of_namespaces(recorded), *of_pods(recorded, [pod]), *found.notes)
        )
    )


def _explanation(recorded: Recording, pod: Pod, registry: Registry | None) -> Explanation:
    name = PodName(pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)
    simple = _without_a_question(recorded, pod, name)
    if simple is not None:
        return simple
    cycle = cycle_of(recorded, registry)
    outcome = run_to_rest(cycle, recorded.now)
    found = _by_decision(recorded, pod, cycle, outcome, registry)
    return replace(found, notes=(*of_plugins(outcome.faults), *found.notes))


def _by_decision(
    recorded: Recording, pod: Pod, cycle: Cycle, outcome: Forecast, registry: Registry | None
) -> Explanation:
    """The answer for a pod that waits for us."""
    name = PodName(pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)
    place = outcome.placed.get(name.uid)
    said = reported(pod, recorded.pods, None if place is not None else _hold(outcome, name))
    if place is not None:
        late = name.uid in outcome.volumes
        when = "once its volumes, or those of its gang, have been made" if late else "in its next cycle"
        if said is not None:
            fits = f"it fits on {place.node}"
            return Explanation(name, "waits", said.reason, said.message, fits, examined=False, place=place)
        text = f"it fits: the scheduler would bind it to {place.node} {when}"
        return Explanation(name, "fits", "Scheduled", text, place=place)
    if said is not None and said.reason == Reason.WAITING_FOR_EVICTION:
        return Explanation(name, "waits", said.reason, said.message, examined=False)
    return _first_reported(_explained(recorded, pod, cycle, outcome, registry), said)


def _hold(outcome: Forecast, name: PodName) -> Hold:
    return outcome.holds.get(name.uid) or Hold(name, "Unknown", "the scheduler has reported no reason")


def _first_reported(found: Explanation, said: Reported | None) -> Explanation:
    """The explanation with what no fresh decision knows at its head."""
    if said is None:
        return found
    if said.reason == found.reason:  # with the figures of now
        parts = (found.message, said.refused_eviction or said.spares_others)
        return replace(found, message="; ".join(part for part in parts if part))
    return replace(found, reason=said.reason, message=said.message, otherwise=found.message)


def _without_a_question(recorded: Recording, pod: Pod, name: PodName) -> Explanation | None:
    """The answer for a pod that does not wait for us."""
    if pod.spec.scheduler_name != recorded.scheduler_name:
        other = pod.spec.scheduler_name or "default-scheduler"
        text = f"its schedulerName is {other}, not {recorded.scheduler_name}"
        return Explanation(name, "foreign", "OtherScheduler", text)
    if pod.metadata.deletion_timestamp:
        return Explanation(name, "leaving", "Deleted", "it has been deleted and is terminating")
    if pod.spec.node_name:
        return Explanation(name, "placed", "Scheduled", f"it is bound to {pod.spec.node_name}")
    if pod.spec.scheduling_gates:
        gates = ", ".join(gate.name for gate in pod.spec.scheduling_gates)
        return Explanation(name, "gated", "SchedulingGated", f"it has scheduling gates: {gates}")
    return None


def _explained(
    recorded: Recording, pod: Pod, cycle: Cycle, outcome: Forecast, registry: Registry | None
) -> Explanation:
    name = PodName(pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)
    hold = _hold(outcome, name)
    snapshot = cycle.builder.snapshot(recorded.now)
    decision, slots = begin(snapshot, Memory(registry))
    slot = snapshot.pending.names.index(hold.pod) if hold.pod in snapshot.pending.names else -1
    shape = int(snapshot.pending.shape[slot]) if slot >= 0 else -1
    gang = int(snapshot.pending.gang[slot]) if slot >= 0 else -1
    missing = max(1, snapshot.gangs.missing(gang)) if gang >= 0 else 1
    whole = gang >= 0 and snapshot.gangs.missing(gang) <= 0
    together = (pod,) if whole else _together(recorded, pod, outcome)  # a member beyond the minimum waits for itself
    bench = Bench(recorded, frozenset(one.metadata.uid for one in together), registry)
    problem = Problem(bench, together, decision, shape, missing)
    proposals = _proposals(problem, cycle)
    base = Explanation(
        hold.pod, "waits", hold.reason, hold.message, budgets=exceeded(recorded, _victims(outcome, together)),
        members=min(len(together), missing), nodes=int(snapshot.nodes.present.sum()), proposals=proposals,
        tried=bench.tried,
        never=not fits_when_empty(recorded, together, registry), notes=of_guarantees(snapshot),
    )  # fmt: skip
    if shape < 0:
        return base
    wanted, found = _holders(recorded, cycle, problem, hold.reason)
    row = int(snapshot.shapes.priority_class[shape])
    return replace(
        base,
        priority_class=snapshot.classes.names[row] if row >= 0 else "",
        losses=_losses(decision, shape),
        ahead=_ahead(decision, slots, slot),
        queues=queue_uses(cycle.builder, snapshot, shape),
        holders=tuple(found[:_SHOWN_HOLDERS]),
        holders_total=len(found),
        held_milli=sum(one.gpu_milli for one in found),
        lacking=wanted.name,
        held=sum(one.amount for one in found),
    )


def _victims(outcome: Forecast, together: tuple[Pod, ...]) -> Iterator[PodName]:
    """Who would be evicted for these pods."""
    uids = {pod.metadata.uid for pod in together}
    for evict in outcome.evictions.values():
        if evict.claimant is not None and evict.claimant.uid in uids:
            yield evict.pod


def _together(recorded: Recording, pod: Pod, outcome: Forecast) -> tuple[Pod, ...]:
    """The pod and the waiting members of its gang."""
    gang = gang_of(pod)
    others = (
        one
        for one in recorded.pods
        if gang and gang_of(one) == gang and one.metadata.uid != pod.metadata.uid and one.metadata.uid in outcome.holds
    )
    return (pod, *others)


def _proposals(problem: Problem, cycle: Cycle) -> tuple[Proposal, ...]:
    """The cheapest change of each kind that the core was seen to place the pod with, on a fresh copy of the world."""
    found = [change for lever in REMEDIES for change in lever(problem)]
    found += evictions(problem, cycle.builder)
    out: list[Proposal] = []
    kinds: set[str] = set()
    for change in sorted(found, key=lambda one: (one.cost, one.text)):
        if change.kind in kinds:
            continue
        places = problem.bench.confirmed(change)
        if places:
            kinds.add(change.kind)
            out.append(Proposal(change, places))
        if len(out) == _PROPOSED:
            break
    return tuple(out)


def _losses(decision: Decision, shape: int) -> tuple[Loss, ...]:
    """How many nodes each filter takes away; every node is counted once, at the first filter that it fails, as in the
    sentence: where no node is large enough, at what the node has too little of when it is empty."""
    snapshot, scores = decision.snapshot, decision.scores
    code, found = why_not(decision, shape)
    present, empty = snapshot.nodes.present, code == codes.EXCEEDS_NODE_CAPACITY
    if not empty:
        found = scores.reasons(shape)[present].copy()
    if not empty and snapshot.classes.fallback == STRICT and scores.has_class_nodes(shape):
        found[~scores.preferred(shape)[present] & (found == codes.FITS)] = codes.CLASS_NODES_FULL
    losses = [
        Loss(codes.NAMES[one.code], one.nodes, _STRICT if one.code == codes.CLASS_NODES_FULL else one.sentence)
        for one in parts(decision, shape, found, empty=empty)
    ]
    able = int(np.count_nonzero(found == codes.FITS))
    return (*losses, *((Loss(codes.NAMES[codes.FITS], able, "can run the pod"),) if able else ()))


def _ahead(decision: Decision, slots: Int32, slot: int) -> Ahead:
    """Who comes before, if from now on each got what it asks for: priority, age and every queue's share decide."""
    snapshot, turns = decision.snapshot, decision.turns
    pending = snapshot.pending
    before: list[int] = []
    gang = int(pending.gang[slot])
    for one in turns:
        if one == slot or (gang >= 0 and int(pending.gang[one]) == gang):
            break
        before.append(one)
        turns.charge(int(pending.shape[one]), _likely_node(decision.scores, int(pending.shape[one])))
    by_queue: dict[str, tuple[int, int]] = {}
    for one in before:
        shape = int(pending.shape[one])
        queue = queue_name(snapshot, int(snapshot.shapes.leaf[shape]))
        pods, milli = by_queue.get(queue, (0, 0))
        by_queue[queue] = pods + 1, milli + snapshot.shapes.gpu_milli(shape)
    return Ahead(
        pods=len(before),
        gpu_milli=sum(milli for _, milli in by_queue.values()),
        waiting=len(slots),
        by_queue=tuple(sorted((queue, *amounts) for queue, amounts in by_queue.items())),
    )


def _likely_node(scores: Scores, shape: int) -> int:
    """A node row of a kind that the shape may use: its model is what the queue would be charged for."""
    rows = np.flatnonzero(scores.statics(shape) == codes.FITS)
    return int(rows[0]) if len(rows) else 0


def _holders(recorded: Recording, cycle: Cycle, problem: Problem, reason: str) -> tuple[Lacking, list[Holder]]:
    """What is missing and who holds it: pods on the nodes that could serve, or in the queue that is full."""
    pods = {one.metadata.uid: one for one in recorded.pods}
    snapshot, builder = problem.snapshot, cycle.builder
    if reason == codes.NAMES[codes.QUEUE_LIMIT]:
        full, wanted = _full_queues(snapshot, problem)
        everywhere = holders(pods, builder, sorted(builder.nodes.rows), wanted, snapshot.now)
        return wanted, [one for one in everywhere if full & set(upwards(snapshot, _leaf_of(cycle, pods[one.pod.uid])))]
    wanted = lacking(problem.decision, problem.shape)
    able = usable_nodes(problem.decision, problem.shape) & (when_empty(problem.decision, problem.shape) == codes.FITS)
    nodes = [snapshot.nodes.names[row] for row in np.flatnonzero(able).tolist()]
    return wanted, holders(pods, builder, nodes, wanted, snapshot.now)


def _full_queues(snapshot: Snapshot, problem: Problem) -> tuple[set[int], Lacking]:
    """Queue rows that the missing pods would take over their limit, and of what."""
    queues = snapshot.queues
    need = charge_of(snapshot, problem.shape, -1) * problem.missing
    rows = list(upwards(snapshot, int(snapshot.shapes.leaf[problem.shape])))
    over = {row: (need > 0) & (queues.usage[row] + need > queues.limit[row]) for row in rows}
    full = {row for row in rows if over[row].any()} or {row for row in rows if (queues.limit[row] < UNLIMITED).any()}
    columns = [column for row in rows for column in np.flatnonzero(over[row][:POOLED]).tolist()]
    return full, (Lacking("cpu", CPU), Lacking("memory", MEMORY), Lacking())[max(columns, default=POOLED - 1)]


def _leaf_of(cycle: Cycle, pod: Pod) -> int:
    shapes = cycle.builder.shapes
    shape = shapes.row_of(pod)
    return int(shapes.arrays.leaf[shape]) if isinstance(shape, int) else -1
