"""Who holds what a waiting pod needs, and whose leaving would let it start."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tangram import units
from tangram.api import names
from tangram.api.objects import Pod
from tangram.decide import codes, reasons, shortage
from tangram.decide.decision import Decision
from tangram.decide.pool import Row
from tangram.plan import PodName
from tangram.questions.edits import counted, memory_text
from tangram.questions.remedies import Problem
from tangram.questions.what_if import Remedy, gang_of
from tangram.snapshot.arrays import CPU, MEMORY, PODS, STRICT, Bool
from tangram.snapshot.build import Builder
from tangram.snapshot.nodes.usage import Usage

_MOST_VICTIMS = 8
"""Pods on one node whose leaving is proposed together at most."""
_MOST_GROUPS = 24
"""Workloads whose leaving is tried for a gang."""
_MADE_ANEW = ("ReplicaSet", "StatefulSet", "ReplicationController")
"""Kinds whose pods are made again as soon as one is gone."""
_PROPOSED = 4
"""Sets of victims that are tried by the core, the smallest first."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A pod that holds something which the waiting one could use."""

    pod: PodName
    node: str
    gpu_milli: int
    amount: int
    """What it has of what is lacking, in the unit of ``Lacking``."""
    queue: str
    """In which it is counted; empty: the default queue, or none where it is of another scheduler."""
    workload: str
    """The gang, job or service that the pod belongs to; empty when it stands alone."""
    since: int
    """Seconds since the epoch; 0: it would be placed in the next cycle."""


@dataclass(frozen=True, slots=True)
class Lacking:
    """What a pod that waits finds too little of on the nodes that it could use."""

    name: str = "gpu"
    """gpu, cpu, memory, pods or an extended resource."""
    column: int = -1
    """Of a request; -1: it is not there that it is counted."""

    def held(self, usage: Usage) -> int:
        """How much a pod holds of it: milli-GPU, milli-CPU, MiB, pods or units of the resource."""
        if self.name == "gpu":
            return _milli(usage)
        return int(usage.request[self.column]) if 0 <= self.column < len(usage.request) else 0

    def said(self, amount: int) -> str:
        """An amount of it for a person; empty: there is nothing to say but how many pods they are."""
        if self.name == "gpu":
            return counted(amount / units.MILLI_PER_GPU, "GPU")
        if self.name == "cpu":
            return counted(amount / 1000, "CPU")
        if self.name == "memory":
            return f"{memory_text(amount)} of memory"
        return "" if self.name == "pods" else f"{amount} {self.name}"


_LACKING = {
    codes.INSUFFICIENT_CPU: Lacking("cpu", CPU),
    codes.INSUFFICIENT_MEMORY: Lacking("memory", MEMORY),
    codes.INSUFFICIENT_PODS: Lacking("pods", PODS),
}


def lacking(decision: Decision, shape: int) -> Lacking:
    """What most nodes that could serve have too little of."""
    snapshot, scores = decision.snapshot, decision.scores
    scores.scores(shape)
    rows = np.flatnonzero(usable_nodes(decision, shape) & (reasons.when_empty(decision, shape) == codes.FITS))
    found = scores.reasons(shape)[rows]
    rows, found = rows[found != codes.FITS], found[found != codes.FITS]
    code = reasons.dominant(found) if len(found) else codes.INSUFFICIENT_GPU
    if code == codes.INSUFFICIENT_RESOURCE:
        counts = shortage.lacking(decision, shape, rows[found == code])
        column = max(counts, key=lambda one: one[1])[0]
        return Lacking(snapshot.resources[column], column)
    whole = Lacking() if snapshot.shapes.gpu_milli(shape) else _LACKING[codes.INSUFFICIENT_CPU]
    return _LACKING.get(code, whole)


def usable_nodes(decision: Decision, shape: int) -> Bool:
    """[N] nodes that the shape could use if they were empty, as far as labels, taints, models and its class say."""
    snapshot, scores = decision.snapshot, decision.scores
    found = snapshot.nodes.present & (scores.statics(shape) == codes.FITS)
    if snapshot.classes.fallback == STRICT and scores.has_class_nodes(shape):
        found = found & scores.preferred(shape)
    return np.asarray(found, np.bool_)


def holders(pods: dict[str, Pod], builder: Builder, nodes: list[str], wanted: Lacking, now: int) -> list[Holder]:
    """Pods on these nodes, those first that hold most of what is lacking; without those that hold none of it.

    A pod that is bound and of which its kubelet has not said yet when it started holds it since ``now``.
    """
    found = [
        _holder(pods[uid], node, usage, wanted.held(usage), now)
        for node in nodes
        for uid, usage in builder.nodes.usage_of(node).items()
        if uid in pods
    ]
    access = builder.shapes.access
    return [
        replace(one, queue=access.counted_in(pods[one.pod.uid].metadata))
        for one in sorted((one for one in found if one.amount), key=lambda one: (-one.amount, one.pod))
    ]


def workload_of(pod: Pod) -> str:
    """The gang, service or owner that the pod belongs to."""
    labels = pod.metadata.labels
    for label in (names.JOB, names.SERVICE, names.GANG):
        if labels.get(label):
            return labels[label]
    owner = next((owner for owner in pod.metadata.owner_references if owner.controller), None)
    return owner.name if owner is not None else ""


def evictions(problem: Problem, builder: Builder) -> Iterator[Remedy]:
    """Few pods on one node, or for a gang one workload, whose leaving lets the pod start.

    No single member of a gang: its gang would start again, and may take the place, or another one, back.
    """
    running = {
        pod.metadata.uid: pod
        for pod in problem.bench.recorded.pods
        if pod.spec.node_name and pod.spec.scheduler_name == problem.bench.recorded.scheduler_name
        if not _comes_again(pod, problem.pod)
    }
    if problem.shape < 0:
        return
    usable = usable_nodes(problem.decision, problem.shape)
    rows = np.flatnonzero(usable).tolist()
    alone = {uid: pod for uid, pod in running.items() if not gang_of(pod)}
    sets = list(_on_one_node(problem, builder, alone, rows)) if len(problem.pods) == 1 else []
    if not sets:
        sets = list(_workloads(builder, running, [problem.snapshot.nodes.names[row] for row in rows]))
    wanted = lacking(problem.decision, problem.shape)
    for victims in sets:
        change = _leaving(builder, victims, wanted)
        if problem.bench.works(change):
            yield change
            return


def _comes_again(pod: Pod, waiting: Pod) -> bool:
    """Whether nothing is gained if the pod leaves: it is of the same gang, or its like is made anew at once."""
    gang = gang_of(waiting)
    again = {one.uid for one in waiting.metadata.owner_references if one.controller and one.kind in _MADE_ANEW}
    return bool(gang and gang_of(pod) == gang) or any(one.uid in again for one in pod.metadata.owner_references)


def _on_one_node(
    problem: Problem, builder: Builder, running: dict[str, Pod], rows: list[int]
) -> Iterator[tuple[Pod, ...]]:
    """Sets of pods on one node after whose leaving it would hold the pod, the smallest damage first."""
    trial = _Trial(problem.decision, problem.shape)
    found: list[tuple[tuple[int, int, str], tuple[Pod, ...]]] = []
    for row in rows:
        name = problem.snapshot.nodes.names[row]
        there = [(usage, running[uid]) for uid, usage in builder.nodes.usage_of(name).items() if uid in running]
        there.sort(key=lambda one: (_milli(one[0]), one[1].metadata.uid))
        victims = trial.enough(row, there)
        if victims:
            damage = sum(_milli(usage) for usage, _ in victims)
            found.append(((len(victims), damage, name), tuple(pod for _, pod in victims)))
    yield from (pods for _, pods in sorted(found, key=lambda one: one[0])[:_PROPOSED])


def _workloads(builder: Builder, running: dict[str, Pod], nodes: list[str]) -> Iterator[tuple[Pod, ...]]:
    """Whole workloads on the nodes, those first that hold least."""
    groups: dict[str, list[Pod]] = {}
    held: dict[str, int] = {}
    on = set(nodes)
    for uid, pod in sorted(running.items()):
        group = gang_of(pod) or uid
        groups.setdefault(group, []).append(pod)
        if pod.spec.node_name in on:
            usage = builder.nodes.usage_of(pod.spec.node_name).get(uid)
            held[group] = held.get(group, 0) + (_milli(usage) if usage is not None else 0)
    largest = sorted((group for group in held if held[group]), key=lambda group: -held[group])[:_MOST_GROUPS]
    yield from (tuple(groups[group]) for group in sorted(largest, key=lambda group: (held[group], group)))


def _leaving(builder: Builder, victims: tuple[Pod, ...], wanted: Lacking) -> Remedy:
    found = (builder.nodes.usage_of(pod.spec.node_name).get(pod.metadata.uid) for pod in victims)
    usages = [usage for usage in found if usage is not None]
    milli, held = sum(map(_milli, usages)), wanted.said(sum(map(wanted.held, usages)))
    gangs = sorted({gang_of(pod) for pod in victims} - {""})
    first = victims[0]
    who = ", ".join(f"{pod.metadata.namespace}/{pod.metadata.name}" for pod in victims)
    if len(gangs) == 1 and all(gang_of(pod) == gangs[0] for pod in victims) and len(victims) > 1:
        who = f"gang {gangs[0]} ({len(victims)} pods)"
    where = f" on {first.spec.node_name}" if len({pod.spec.node_name for pod in victims}) == 1 else ""
    ends = "ends or is evicted" if len(victims) == 1 or who.startswith("gang") else "end or are evicted"
    text = f"wait until {who}{where}{f' ({held})' if held else ''} {ends}"
    return Remedy("leave", text, 60 + milli / units.MILLI_PER_GPU + len(victims), removed=victims)


class _Trial:
    """Takes pods away from the pool, to see whose leaving would make room, and puts them back."""

    def __init__(self, decision: Decision, shape: int) -> None:
        self._decision, self._shape = decision, shape

    def enough(self, row: int, there: list[tuple[Usage, Pod]]) -> list[tuple[Usage, Pod]]:
        """The first pods whose leaving makes room, without those that need not leave; empty when it takes too many."""
        victims: list[tuple[Usage, Pod]] = []
        with self._decision.journal.attempt():
            for one in there:
                if len(victims) > _MOST_VICTIMS or self._fits(row):
                    break
                self._move(row, one[0], 1)
                victims.append(one)
            if not self._fits(row):
                return []
            for one in list(victims):
                self._move(row, one[0], -1)
                if self._fits(row):
                    victims.remove(one)
                else:
                    self._move(row, one[0], 1)
            return victims if len(victims) <= _MOST_VICTIMS else []

    def _move(self, row: int, usage: Usage, sign: int) -> None:
        left = self._decision.pool.row(row)
        gain = Row(np.zeros_like(left.free), np.zeros_like(left.device), np.zeros_like(left.memory))
        gain.free[: len(usage.request)] = sign * usage.request
        for device, milli, mib in usage.devices:
            gain.device[device] += sign * milli
            gain.memory[device] += sign * mib
        self._decision.pool.add(row, gain)

    def _fits(self, row: int) -> bool:
        self._decision.scores.scores(self._shape)
        return bool(self._decision.scores.reasons(self._shape)[row] == codes.FITS)


def _milli(usage: Usage) -> int:
    """GPUs held in milli-GPU; a pod that does not say which counts those that it asked for."""
    return sum(milli for _, milli, _ in usage.devices) + max(usage.unknown, 0) * units.MILLI_PER_GPU


def _holder(pod: Pod, node: str, usage: Usage, amount: int, now: int) -> Holder:
    metadata = pod.metadata
    return Holder(
        pod=PodName(metadata.namespace, metadata.name, metadata.uid),
        node=node,
        gpu_milli=_milli(usage),
        amount=amount,
        queue="",
        workload=workload_of(pod),
        since=(units.timestamp_seconds(pod.status.start_time) or now) if pod.spec.node_name else 0,
    )
