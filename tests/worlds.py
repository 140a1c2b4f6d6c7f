"""A tiny vocabulary for clusters and what happens in them: ``cluster("2x8xA100")``, ``pod("a", gpu=30)``, ``World``.

A ``World`` is the API server and the kubelets in a few lines: it does what a plan says and shows the result to the
cycle, as watches would. Its cycle always checks the invariants, and that its memory of earlier looks changes no answer.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from tangram.api import names
from tangram.api.objects import (
    Affinity,
    Container,
    DeviceShare,
    Metadata,
    Node,
    NodeAffinity,
    NodeSelector,
    NodeSelectorTerm,
    NodeSpec,
    NodeStatus,
    Pod,
    PodSpec,
    PodStatus,
    Requirement,
    Resources,
    Taint,
    Toleration,
    write_gpus,
)
from tangram.api.policy import HybridPolicy, parse_policy
from tangram.decide.hooks import View
from tangram.decide.memory import Memory
from tangram.decide.pipeline import decide
from tangram.decide.queues.fairness import share_per_unit
from tangram.decide.registry import Registry
from tangram.plan import Evict, Place, Plan
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings
from tangram.snapshot import recording as dump
from tangram.snapshot.figures import Figures, figures_of
from tangram.snapshot.nodes.inventory import NodeDevice
from tangram.snapshot.recording import Recording
from tangram.units import rfc3339

START = 1_700_000_000
"""The time of every world's beginning, in seconds since the epoch."""
GPU_MIB = 81920


def node(
    name: str,
    gpus: int = 8,
    model: str = "A100",
    *,
    cpu: str | int = 96,
    memory: str = "1024Gi",
    pods: int = 110,
    labels: Mapping[str, str] | None = None,
    taints: Iterable[Taint] = (),
    unschedulable: bool = False,
    gpu_memory: int = GPU_MIB,
    extra: Mapping[str, str | int] | None = None,
) -> Node:
    """A node with so many NVIDIA GPUs, offered whole and in hundredths; with an empty model no label tells of them."""
    allocatable: dict[str, str | int | float] = {"cpu": cpu, "memory": memory, "pods": pods, "ephemeral-storage": "1Ti"}
    told = {"kubernetes.io/hostname": name}
    if gpus:
        allocatable |= {names.GPU_RESOURCE: gpus, names.FRACTION_RESOURCE: 100 * gpus}
        told |= {"nvidia.com/gpu.product": model, "nvidia.com/gpu.memory": str(gpu_memory)} if model else {}
    return Node(
        Metadata(name, labels=told | dict(labels or {})),
        NodeSpec(unschedulable, tuple(taints)),
        NodeStatus(allocatable | dict(extra or {})),
    )


def cluster(*shapes: str, **options: Any) -> list[Node]:
    """Nodes by shape: ``"2x8xA100"`` are two nodes with eight GPUs each, ``"3xcpu"`` three without; named n0, n1, …"""
    found: list[Node] = []
    for shape in shapes:
        count, _, kind = shape.partition("x")
        gpus, _, model = kind.partition("x")
        for _ in range(int(count)):
            number = 0 if gpus == "cpu" else int(gpus)
            found.append(node(f"n{len(found)}", number, model or "A100", **options))
    return found


def container(
    name: str = "main",
    gpu: int | str = 0,
    whole: int | str = 0,
    *,
    cpu: str | int = 1,
    memory: str = "1Gi",
    extra: Mapping[str, str | int] | None = None,
    sidecar: bool = False,
) -> Container:
    """A container: ``gpu`` in percent of one GPU, ``whole`` in GPUs."""
    requests: dict[str, str | int | float] = {"cpu": cpu, "memory": memory} | dict(extra or {})
    if gpu:
        requests[names.FRACTION_RESOURCE] = gpu
    if whole:
        requests[names.GPU_RESOURCE] = whole
    return Container(name, Resources(requests), restart_policy="Always" if sidecar else None)


def pod(
    name: str,
    gpu: int | str = 0,
    whole: int | str = 0,
    *,
    age: int = 0,
    priority: int = 0,
    gang: str = "",
    gang_min: int | str = 0,
    klass: str = "",
    queue: str = "",
    gpu_memory: str = "",
    models: str = "",
    containers: Iterable[Container] = (),
    init: Iterable[Container] = (),
    overhead: Mapping[str, str | int] | None = None,
    selector: Mapping[str, str] | None = None,
    affinity: Affinity | None = None,
    tolerations: Iterable[Toleration] = (),
    scheduler: str = names.SCHEDULER_NAME,
    uid: str = "",
    annotations: Mapping[str, str] | None = None,
    **asked: Any,
) -> Pod:
    """A pod that waits; ``age`` in seconds before the world's beginning, everything else as in ``container``."""
    labels = {names.GANG: gang, names.PRIORITY_CLASS: klass, names.QUEUE: queue}
    notes = {
        names.GANG_MIN: str(gang_min) if gang_min else "",
        names.GPU_MEMORY: gpu_memory,
        names.GPU_MODELS: models,
    } | dict(annotations or {})
    metadata = Metadata(
        name,
        "default",
        uid or f"uid-{name}",
        creation_timestamp=rfc3339(START - age),
        labels={key: value for key, value in labels.items() if value},
        annotations={key: value for key, value in notes.items() if value},
    )
    spec = PodSpec(
        containers=tuple(containers) or (container("main", gpu, whole, **asked),),
        init_containers=tuple(init),
        overhead=dict(overhead or {}),
        scheduler_name=scheduler,
        node_selector=dict(selector or {}),
        affinity=affinity,
        tolerations=tuple(tolerations),
        priority=priority,
    )
    return Pod(metadata, spec)


def with_spec(one: Pod, **fields: Any) -> Pod:
    """The pod with other fields in its spec."""
    return msgspec.structs.replace(one, spec=msgspec.structs.replace(one.spec, **fields))


def gang(name: str, size: int, *, minimum: int | None = None, **options: Any) -> list[Pod]:
    """Pods NAME-0, NAME-1, … that are bound together; ``minimum`` is their number unless told."""
    return [pod(f"{name}-{index}", gang=name, gang_min=minimum or size, **options) for index in range(size)]


def requires(*terms: Iterable[Requirement] | NodeSelectorTerm) -> Affinity:
    """Node affinity: each argument is a term, or the label clauses of one."""
    made = tuple(term if isinstance(term, NodeSelectorTerm) else NodeSelectorTerm(tuple(term)) for term in terms)
    return Affinity(NodeAffinity(NodeSelector(made)))


def bound(
    waiting: Pod, where: str, devices: Mapping[str, Iterable[tuple[str, int]]] | str | None = None, started: int = START
) -> Pod:
    """The pod as it is once bound: on a node, with its devices (container -> (id, hundredths)) in the annotation."""
    annotations = dict(waiting.metadata.annotations)
    if isinstance(devices, str):
        annotations[names.GPUS] = devices
    elif devices is not None:
        annotations[names.GPUS] = write_gpus(
            {name: tuple(DeviceShare(device, share) for device, share in given) for name, given in devices.items()}
        )
    return msgspec.structs.replace(
        waiting,
        metadata=msgspec.structs.replace(waiting.metadata, annotations=annotations),
        spec=msgspec.structs.replace(waiting.spec, node_name=where),
        status=PodStatus("Running", start_time=rfc3339(started)),
    )


def placed(waiting: Pod, place: Place, now: int = START) -> Pod:
    """The pod as the API server shows it after the binding that ``place`` asks for."""
    annotations = dict(waiting.metadata.annotations)
    if place.devices:
        annotations[names.GPUS] = write_gpus(
            {
                name: tuple(DeviceShare(d.id, d.milli // 10, d.memory_mib) for d in given)
                for name, given in place.devices
            }
        )
    return msgspec.structs.replace(
        waiting,
        metadata=msgspec.structs.replace(waiting.metadata, annotations=annotations),
        spec=msgspec.structs.replace(waiting.spec, node_name=place.node),
        status=PodStatus("Running", start_time=rfc3339(now)),
    )


def leaving(running: Pod) -> Pod:
    """The pod as it is while its containers get time to end."""
    metadata = msgspec.structs.replace(running.metadata, deletion_timestamp=rfc3339(START))
    return msgspec.structs.replace(running, metadata=metadata)


def policy(*classes: Mapping[str, Any], fallback: str = "best-effort", **spec: Any) -> HybridPolicy:
    """A HybridPolicy of these classes (name, weight, nodeSelector as on the wire)."""
    return parse_policy(
        {
            "apiVersion": names.API_VERSION,
            "kind": "HybridPolicy",
            "metadata": {"name": "default"},
            "spec": {"priorityClasses": [dict(one) for one in classes], "fallbackStrategy": fallback} | spec,
        }
    )


def recording(
    now: int, nodes: Iterable[Node], pods: Iterable[Pod], chosen: HybridPolicy | None = None, **parts: Any
) -> Recording:
    """A cluster as `tangram snapshot save` writes it; ``parts`` are further fields of a Recording."""
    wire = None if chosen is None else dump.wire_policy(chosen)
    plain = {name: tuple(part) if isinstance(part, list) else part for name, part in parts.items()}
    return dump.stripped(Recording(dump.FORMAT, now, nodes=tuple(nodes), pods=tuple(pods), policy=wire, **plain))


@dataclass(slots=True)
class World:
    """A cluster that does what plans say, one step at a time."""

    nodes: list[Node] = field(default_factory=list)
    pods: list[Pod] = field(default_factory=list)
    policy: HybridPolicy | None = None
    registry: Registry | None = None
    inventories: dict[str, tuple[NodeDevice, ...]] = field(default_factory=dict)
    """What agents tell of the devices of nodes."""
    batch: int = 256
    grace: int = 0
    """Steps that an evicted pod takes to leave."""
    gang_timeout: int = SchedulerSettings().gang_timeout
    reservation_delay: int = SchedulerSettings().reservation_delay
    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    """Labels of namespaces."""
    protected: set[str] = field(default_factory=set)
    """Names of pods that the API server refuses to evict."""
    now: int = START
    cycle: Cycle = field(init=False)
    live: dict[str, Pod] = field(default_factory=dict)
    """Pods by uid, as the API server has them."""
    seen: dict[str, Pod] = field(default_factory=dict)
    """Pods by uid, the deleted ones included."""
    evicted: list[Evict] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    """(pod, reason) of every reason written."""
    ending: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.start_again()
        self.add(*self.pods)

    def start_again(self) -> None:
        """A new scheduler, which knows only what the API server has, in whatever order that comes."""
        limits = {"gang_timeout": self.gang_timeout, "reservation_delay": self.reservation_delay}
        self.cycle = Cycle(SchedulerSettings(batch=self.batch, debug=True, **limits), self.registry)
        if self.policy is not None:
            self.cycle.builder.set_policy(self.policy)
        for name, labels in self.namespaces.items():
            self.cycle.builder.set_namespace(name, labels)
        for name, devices in self.inventories.items():
            self.cycle.builder.set_inventory(name, devices)
        for one in self.nodes:
            self.cycle.builder.put_node(one)
        for one in self.live.values():
            self.cycle.observe_pod(None, one)

    def give_out(self, name: str, mode: str, gpus: int = 2) -> None:
        """Let a node's agent tell that it gives out its devices in a mode of isolation."""
        self.inventories[name] = tuple(NodeDevice(str(index), True, isolation=mode) for index in range(gpus))
        self.cycle.builder.set_inventory(name, self.inventories[name])

    def add(self, *pods: Pod) -> None:
        """Create or change pods."""
        for one in pods:
            old = self.live.get(one.metadata.uid)
            self.live[one.metadata.uid] = self.seen[one.metadata.uid] = one
            self.cycle.observe_pod(old, one)

    def delete(self, *pod_names: str) -> None:
        """Delete pods at once."""
        for name in pod_names:
            old = self.pod(name)
            del self.live[old.metadata.uid]
            self.cycle.observe_pod(old, None)

    @property
    def view(self) -> View:
        """What plugins are shown of the pool as it is now."""
        return Memory(self.registry).observe(self.cycle.builder.snapshot(self.now))[1].view

    def pod(self, name: str) -> Pod:
        """A pod by name."""
        return next(one for one in self.live.values() if one.metadata.name == name)

    def step(self) -> Plan:
        """One look at the cluster; what it decides happens at once, but evicted pods take their time."""
        self.now += 1
        snapshot, reported = self.cycle._priced(self.cycle.builder.snapshot(self.now)), self.cycle.reporter.known()
        afresh = decide(snapshot, Memory(self.registry), reported)
        plan = self.cycle.decide(self.now)
        assert plan == afresh, f"with memory:\n{plan}\nwithout:\n{afresh}"
        for place in plan.place:
            shown = placed(self.live[place.pod.uid], place, self.now)
            self.cycle.place_ended(place, held=True)
            self.add(shown)
        self.told += [(hold.pod.name, hold.reason) for hold in plan.hold]
        self._let_go(plan)
        return plan

    def _let_go(self, plan: Plan) -> None:
        for evict in plan.evict:
            if evict.pod.name in self.protected:
                self.cycle.eviction_failed(evict, "a budget protects it")
                continue
            self.evicted.append(evict)
            self.ending[evict.pod.uid] = self.grace
            if self.grace:
                self.add(leaving(self.live[evict.pod.uid]))
        for uid, left in list(self.ending.items()):
            self.ending[uid] = left - 1
            if left <= 0:
                del self.ending[uid]
                if uid in self.live:
                    self.delete(self.live[uid].metadata.name)

    def settle(self, limit: int = 50) -> "World":
        """Step until nothing happens any more; five further looks must then change nothing."""
        for _ in range(limit):
            leaving_now, plan = bool(self.ending), self.step()
            if not (plan.place or plan.evict or plan.claims or plan.hold or leaving_now or self.ending):
                break
        else:
            raise AssertionError(f"the world does not come to rest in {limit} steps: {self.cycle.last_plan}")
        for _ in range(5):
            plan = self.step()
            assert not plan.place, plan
            assert not plan.evict, plan
            assert not plan.claims, plan
            assert not plan.hold, plan
        return self

    @property
    def where(self) -> dict[str, str]:
        """Pod name -> node of every pod that has one."""
        found = {one.metadata.name: one.spec.node_name for one in self.live.values() if one.spec.node_name}
        return dict(sorted(found.items()))

    @property
    def waiting(self) -> list[str]:
        """Names of pods without a node."""
        return sorted(one.metadata.name for one in self.live.values() if not one.spec.node_name)

    def devices(self, name: str) -> dict[str, list[tuple[str, int]]]:
        """Container -> (device id, hundredths) as the pod's annotation says."""
        text = self.pod(name).metadata.annotations.get(names.GPUS, "{}")
        return {key: [(one["id"], one["share"]) for one in given] for key, given in msgspec.json.decode(text).items()}

    def figures(self) -> Figures:
        """What reports would say now."""
        snapshot = self.cycle.builder.snapshot(self.now)
        return figures_of(snapshot, share_per_unit(snapshot))

    def reason(self, name: str) -> str:
        """The reason that was last told to a waiting pod."""
        return next(reason for pod_name, reason in reversed(self.told) if pod_name == name)
