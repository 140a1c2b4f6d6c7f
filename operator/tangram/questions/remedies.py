"""Changes that may let a waiting pod start: by its owner, by an administrator, or at somebody else's expense.

Each function tries one kind of change on the bench and yields what worked. Amounts are searched for by halving, which
is right because a pod that fits also fits when it asks for less.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from msgspec.structs import replace

from tangram import units
from tangram.api import names
from tangram.api.objects import Node, Pod, Toleration
from tangram.decide.decision import Decision
from tangram.decide.queues.fairness import charge_of
from tangram.questions.edits import annotated, asking, counted, gpu_ask, gpus_text, largest_ask, least_ask, memory_text
from tangram.questions.notes import nobody_offers, queue_named
from tangram.questions.what_if import Bench, Remedy
from tangram.snapshot.arrays import UNLIMITED, Snapshot
from tangram.snapshot.nodes.inventory import NodeDevice
from tangram.snapshot.queues.queues import DEFAULT_QUEUE
from tangram.snapshot.requests.isolation import MODES
from tangram.snapshot.requests.matching import UNSCHEDULABLE, taints_of, tolerates

_MANY = 16
"""Alternatives of one kind (queues, taints, nodes) that are tried at most."""
_NOT_TO_TOLERATE = ("node.kubernetes.io/", "ToBeDeletedByClusterAutoscaler", "DeletionCandidateOfClusterAutoscaler")
"""Taints, as they begin, of nodes that are sick or about to be removed."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A pod that waits, and what is known about why."""

    bench: Bench
    pods: tuple[Pod, ...]
    """The pod and those that have to start with it, all waiting."""
    decision: Decision
    """Nothing decided yet, in the world at rest: everything that fits is placed."""
    shape: int
    """Row of the pod's shape; -1 when its request cannot be read."""
    missing: int = 1
    """Pods that have to be placed at once."""

    @property
    def snapshot(self) -> Snapshot:
        """The world at rest."""
        return self.decision.snapshot

    @property
    def pod(self) -> Pod:
        """The pod that is asked about."""
        return self.pods[0]


def largest(most: int, works: Callable[[int], bool]) -> int:
    """The largest number from 1 to ``most`` that works, 0 when none does; whatever is below one that works, works."""
    if most < 1 or not works(1):
        return 0
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if works(middle) else (low, middle - 1)
    return low


# What the owner can change.


def fewer_gpus(problem: Problem) -> Iterator[Remedy]:
    """Fewer whole GPUs per pod, or a share of one."""
    found = gpu_ask(problem.pod)
    if found is None or problem.shape < 0:
        return
    container, resource, amount = found
    hundredths = amount if resource == names.FRACTION_RESOURCE else amount * units.HUNDREDTHS_PER_GPU

    if resource != names.FRACTION_RESOURCE and nobody_offers(problem.bench.recorded, resource):
        return  # shares would be of other GPUs, on which what runs on these need not run

    def ask(share: int) -> Remedy:
        keep = resource != names.FRACTION_RESOURCE and share >= units.HUNDREDTHS_PER_GPU
        wanted = {resource: share // units.HUNDREDTHS_PER_GPU} if keep else {names.FRACTION_RESOURCE: share}
        pods = tuple(asking(pod, container, resource, wanted) for pod in problem.pods)
        text = f"ask for {gpus_text(share)} instead of {gpus_text(hundredths)}{_each(problem)}"
        return Remedy("fewer-gpus", text, 100 * (hundredths - share) / hundredths, pods)

    whole = (hundredths - 1) // units.HUNDREDTHS_PER_GPU
    count = largest(whole, lambda count: problem.bench.works(ask(count * units.HUNDREDTHS_PER_GPU)))
    if count:
        yield ask(count * units.HUNDREDTHS_PER_GPU)
        return
    share = largest(min(hundredths, units.HUNDREDTHS_PER_GPU) - 1, lambda share: problem.bench.works(ask(share)))
    if share:
        yield ask(share)


def less_gpu_memory(problem: Problem) -> Iterator[Remedy]:
    """Less memory of each GPU."""
    text = problem.pod.metadata.annotations.get(names.GPU_MEMORY, "")
    try:
        asked = units.memory_mib(text)
    except ValueError:
        return

    def ask(mib: int) -> Remedy:
        pods = tuple(annotated(pod, names.GPU_MEMORY, f"{mib}Mi") for pod in problem.pods)
        said = f"ask for {memory_text(mib)} of GPU memory instead of {text}"
        return Remedy("less-gpu-memory", said, 100 * (asked - mib) / asked, pods)

    found = largest(asked - 1, lambda mib: problem.bench.works(ask(mib)))
    if found:
        yield ask(found)


def less_of_a_resource(problem: Problem) -> Iterator[Remedy]:
    """Less CPU or memory."""
    for resource in (
        _Resource("cpu", "m", lambda amount: counted(amount / 1000, "CPU")),
        _Resource("memory", "Mi", lambda amount: f"{memory_text(amount)} of memory"),
    ):
        yield from _less_of(problem, resource)


@dataclass(frozen=True, slots=True)
class _Resource:
    """A resource that a container asks for, and how amounts of it are written."""

    name: str
    unit: str
    say: Callable[[int], str]


def _less_of(problem: Problem, resource: _Resource) -> Iterator[Remedy]:
    container, asked = largest_ask(problem.pod, resource.name)

    def ask(amount: int) -> Remedy:
        wanted = {resource.name: f"{amount}{resource.unit}"}
        pods = tuple(asking(pod, container, resource.name, wanted) for pod in problem.pods)
        text = f"ask for {resource.say(amount)} instead of {resource.say(asked)}{_each(problem)}"
        return Remedy(f"less-{resource.name}", text, 100 * (asked - amount) / asked, pods)

    found = largest(asked - 1, lambda amount: problem.bench.works(ask(amount))) if asked else 0
    if found >= least_ask(problem.pod, container, resource.name):
        yield ask(found)


def another_model(problem: Problem) -> Iterator[Remedy]:
    """One more GPU model that will do."""
    written = problem.pod.metadata.annotations.get(names.GPU_MODELS, "")
    if not written or problem.shape < 0:
        return
    allowed = problem.snapshot.shapes.models[problem.shape]
    for row, model in enumerate(problem.snapshot.models[: 2 * _MANY]):
        if row not in allowed:
            pods = tuple(annotated(pod, names.GPU_MODELS, f"{written},{model}") for pod in problem.pods)
            change = Remedy("allow-model", f"allow GPU model {model} besides {written}", 10, pods)
            if problem.bench.works(change):
                yield change


def another_isolation(problem: Problem) -> Iterator[Remedy]:
    """One more way of keeping tenants of a GPU apart that will do."""
    written = problem.pod.metadata.annotations.get(names.GPU_ISOLATION, "")
    for mode in MODES if written else ():
        if mode not in written:
            pods = tuple(annotated(pod, names.GPU_ISOLATION, f"{written},{mode}") for pod in problem.pods)
            change = Remedy("allow-isolation", f"allow isolation {mode} besides {written}", 15, pods)
            if problem.bench.works(change):
                yield change


def whole_gpu(problem: Problem) -> Iterator[Remedy]:
    """A whole GPU instead of a part, for nodes that give out no parts."""
    found = gpu_ask(problem.pod)
    if found is None or found[1] != names.FRACTION_RESOURCE or found[2] >= units.HUNDREDTHS_PER_GPU:
        return
    container, resource, share = found
    pods = tuple(asking(pod, container, resource, {resource: units.HUNDREDTHS_PER_GPU}) for pod in problem.pods)
    text = f"ask for a whole GPU instead of {gpus_text(share)}{_each(problem)}"
    change = Remedy("whole-gpu", text, 30, pods)
    if problem.bench.works(change):
        yield change


def looser_selector(problem: Problem) -> Iterator[Remedy]:
    """No node selector, one label of it less, or no required node affinity."""
    selector = problem.pod.spec.node_selector
    for key, value in sorted(selector.items()):
        rest = {other: wanted for other, wanted in selector.items() if other != key}
        pods = tuple(replace(pod, spec=replace(pod.spec, node_selector=rest)) for pod in problem.pods)
        change = Remedy("drop-selector", f"drop the node selector {key}={value}", 20, pods)
        if problem.bench.works(change):
            yield change
    affinity = problem.pod.spec.affinity
    if affinity is None or affinity.node_affinity is None or affinity.node_affinity.required is None:
        return
    free = replace(affinity, node_affinity=replace(affinity.node_affinity, required=None))
    pods = tuple(replace(pod, spec=replace(pod.spec, affinity=free)) for pod in problem.pods)
    change = Remedy("drop-affinity", "drop the required node affinity", 25, pods)
    if problem.bench.works(change):
        yield change


def tolerate(problem: Problem) -> Iterator[Remedy]:
    """A toleration of a taint that somebody set on purpose."""
    taints = {taint for node in problem.bench.recorded.nodes for taint in taints_of(node)}
    own = problem.pod.spec.tolerations
    kept = [
        taint
        for taint in sorted(taints, key=lambda taint: (taint.key, taint.value, taint.effect))
        if not taint.key.startswith(_NOT_TO_TOLERATE) and not any(tolerates(one, taint) for one in own)
    ]
    for taint in kept[:_MANY]:
        more = (*own, Toleration(taint.key, "Equal", taint.value, taint.effect))
        pods = tuple(replace(pod, spec=replace(pod.spec, tolerations=more)) for pod in problem.pods)
        label = f"{taint.key}={taint.value}:{taint.effect}" if taint.value else f"{taint.key}:{taint.effect}"
        change = Remedy("tolerate-taint", f"tolerate the taint {label}", 15, pods)
        if problem.bench.works(change):
            yield change


def fewer_members(problem: Problem) -> Iterator[Remedy]:
    """A gang that starts with fewer members."""
    text = problem.pod.metadata.annotations.get(names.GANG_MIN, "1")
    if names.GANG not in problem.pod.metadata.labels:
        return
    minimum = int(text) if text.isdecimal() and len(text) < 7 else 0

    def start_with(members: int) -> Remedy:
        pods = tuple(annotated(pod, names.GANG_MIN, str(members)) for pod in problem.pods)
        job = problem.pod.metadata.labels.get(names.JOB)
        where = f"elastic.minReplicas of TrainingJob {job}" if job else f"{names.GANG_MIN}: {members}"
        said = f"start with {counted(members, 'member')} instead of {minimum or repr(text)} ({where})"
        return Remedy("fewer-members", said, 100 * (minimum - members) / minimum if minimum else 1, pods)

    most = minimum - 1 if minimum else len(problem.pods)
    found = largest(most, lambda members: problem.bench.works(start_with(members)))
    if found:
        yield start_with(found)


def looser_topology(problem: Problem) -> Iterator[Remedy]:
    """A gang whose members share a wider domain, or share one only if possible."""
    word, topology = problem.pod.metadata.annotations.get(names.TOPOLOGY_REQUIRED, ""), problem.snapshot.topology
    found = [level for level, known in enumerate(zip(topology.levels, topology.labels, strict=True)) if word in known]
    if names.GANG not in problem.pod.metadata.labels or not found:
        return
    narrow = topology.levels[found[0]]
    for further, wider in enumerate(reversed(topology.levels[: found[0]])):
        pods = tuple(annotated(pod, names.TOPOLOGY_REQUIRED, wider) for pod in problem.pods)
        change = Remedy("looser-topology", f"require one {wider} instead of one {narrow}", 20 + further, pods)
        if problem.bench.works(change):
            yield change
            return
    pods = tuple(annotated(pod, names.TOPOLOGY_REQUIRED, "") for pod in problem.pods)
    change = Remedy("looser-topology", f"do not require one {narrow}", 30, pods)
    if problem.bench.works(change):
        yield change


def readable_share(problem: Problem) -> Iterator[Remedy]:
    """A share that can be given instead of one that cannot, such as 100 or 200 hundredths instead of 150."""
    found = gpu_ask(problem.pod)
    if problem.shape >= 0 or found is None or found[1] != names.FRACTION_RESOURCE:
        return
    container, resource, amount = found
    below = amount // units.HUNDREDTHS_PER_GPU * units.HUNDREDTHS_PER_GPU
    for share in (below, below + units.HUNDREDTHS_PER_GPU):
        if share and share != amount:
            pods = tuple(asking(pod, container, resource, {resource: share}) for pod in problem.pods)
            text = f"ask for {gpus_text(share)} ({share} percent) instead of {amount} percent"
            change = Remedy("readable-share", text, abs(share - amount) / amount, pods)
            if problem.bench.works(change):
                yield change


def another_queue(problem: Problem) -> Iterator[Remedy]:
    """Another queue."""
    own, by_namespace = queue_named(problem.bench.recorded, problem.pod)
    named_by = f", which {by_namespace} names" if by_namespace else ""
    policy = problem.bench.recorded.policy
    known = {queue["name"] for queue in policy["spec"].get("queues", ())} if policy else set()
    for queue in sorted((known | {DEFAULT_QUEUE}) - {own})[:_MANY]:
        pods = tuple(
            replace(pod, metadata=replace(pod.metadata, labels={**pod.metadata.labels, names.QUEUE: queue}))
            for pod in problem.pods
        )
        change = Remedy("another-queue", f"use queue {queue} instead of {own}{named_by}", 35, pods)
        if problem.bench.works(change):
            yield change


# What an administrator can change.


def higher_limit(problem: Problem) -> Iterator[Remedy]:
    """Higher limits of the queues on the way up, by what is missing and no more."""
    policy, snapshot = problem.bench.recorded.policy, problem.snapshot
    if policy is None or problem.shape < 0:
        return
    for model in range(-1, len(snapshot.models)):
        raised = _raised(policy, snapshot, problem, model)
        if raised is not None:
            spec, said, part = raised
            change = Remedy("raise-limit", said, 40 + part / 5, policy={**policy, "spec": spec})
            if problem.bench.works(change):
                yield change
                return


def best_effort(problem: Problem) -> Iterator[Remedy]:
    """A policy that lets a class leave its nodes."""
    policy = problem.bench.recorded.policy
    if policy is None or policy["spec"].get("fallbackStrategy", "best-effort") == "best-effort":
        return
    spec = {**policy["spec"], "fallbackStrategy": "best-effort"}
    text = f"fallbackStrategy best-effort instead of {policy['spec']['fallbackStrategy']} in the HybridPolicy"
    change = Remedy("best-effort", text, 45, policy={**policy, "spec": spec})
    if problem.bench.works(change):
        yield change


def uncordon(problem: Problem) -> Iterator[Remedy]:
    """A cordoned node that takes pods again."""
    cordoned = [node for node in problem.bench.recorded.nodes if node.spec.unschedulable]
    for node in sorted(cordoned, key=lambda node: node.metadata.name)[:_MANY]:
        taints = tuple(taint for taint in node.spec.taints if taint.key != UNSCHEDULABLE.key)
        change = Remedy(
            "uncordon", f"uncordon node {node.metadata.name}", 50,
            node=replace(node, spec=replace(node.spec, unschedulable=False, taints=taints)),
        )  # fmt: skip
        if problem.bench.works(change):
            yield change
            return


def one_more_node(problem: Problem) -> Iterator[Remedy]:
    """One more node like one that is there, with an agent that reports the same devices, all healthy."""
    kinds: dict[tuple[Any, ...], tuple[Node, tuple[NodeDevice, ...]]] = {}
    for node in sorted(problem.bench.recorded.nodes, key=lambda node: node.metadata.name):
        model = tuple(node.metadata.labels.get(vendor.model_label, "") for vendor in names.VENDORS)
        reported = problem.bench.recorded.inventories.get(node.metadata.name, ())
        devices = tuple(replace(device, id=str(index), healthy=True) for index, device in enumerate(reported))
        key = (model, devices, tuple(sorted((name, str(amount)) for name, amount in node.status.allocatable.items())))
        kinds.setdefault(key, (node, devices))
    for like, devices in list(kinds.values())[:_MANY]:
        name = f"one-more-like-{like.metadata.name}"
        labels = {**like.metadata.labels, "kubernetes.io/hostname": name}
        change = Remedy(
            "one-more-node", f"add a node like {like.metadata.name}", 90,
            node=replace(like, metadata=replace(like.metadata, name=name, uid="", labels=labels)), devices=devices,
        )  # fmt: skip
        if problem.bench.works(change):
            yield change
            return


def _raised(
    policy: dict[str, Any], snapshot: Snapshot, problem: Problem, model: int
) -> tuple[dict[str, Any], str, float] | None:
    """(spec with limits that hold what is missing, sentence, percent of a limit); None: no limit is in the way."""
    queues, row = snapshot.queues, int(snapshot.shapes.leaf[problem.shape])
    need = charge_of(snapshot, problem.shape, model) * problem.missing
    found, said, part = {queue["name"]: dict(queue) for queue in policy["spec"].get("queues", ())}, [], 0.0
    while row >= 0:
        over = queues.usage[row] + need - queues.limit[row]
        name = queues.names[row]
        for column in np.flatnonzero((over > 0) & (need > 0) & (queues.limit[row] < UNLIMITED)).tolist():
            limit, more = int(queues.limit[row, column]), int(over[column])
            found[name]["limit"] = _with_limit(found[name].get("limit") or {}, queues.columns[column], limit + more)
            said.append(f"raise the limit of queue {name} by {_amount(queues.columns[column], more)}")
            part = max(part, 100 * more / max(limit, 1))
        row = int(queues.parent[row])
    if not said:
        return None
    return {**policy["spec"], "queues": list(found.values())}, " and ".join(said), part


def _with_limit(limit: dict[str, Any], column: str, amount: int) -> dict[str, Any]:
    if column.startswith("gpu/"):
        return {**limit, "gpuModels": {**(limit.get("gpuModels") or {}), column[4:]: f"{amount}m"}}
    return {**limit, column: f"{amount}Mi" if column == "memory" else f"{amount}m"}


def _amount(column: str, amount: int) -> str:
    if column == "memory":
        return f"{memory_text(amount)} of memory"
    if column == "cpu":
        return counted(amount / 1000, "CPU")
    kind = f"{column[4:]} " if column.startswith("gpu/") else ""
    return counted(amount / units.MILLI_PER_GPU, f"{kind}GPU")


def _each(problem: Problem) -> str:
    return " for each member" if len(problem.pods) > 1 else ""
