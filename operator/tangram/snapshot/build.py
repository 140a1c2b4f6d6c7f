"""Objects to rows: the one place where Kubernetes becomes arrays, incrementally.

The builder is told of every change (level, not edge: telling it the same object twice changes nothing) and of every
decision that was sent but not yet seen to hold; those overlay what the watch has shown until it shows them too.
"""

from dataclasses import dataclass

import numpy as np

from tangram import units
from tangram.api import names
from tangram.api.objects import DeviceShare, Metadata, Node, Pod, Requirement, read_gpus
from tangram.api.policy import HybridPolicy
from tangram.plan import Place, PodName
from tangram.snapshot.arrays import (
    BEST_EFFORT,
    NO_PRICES,
    PREEMPT,
    STRICT,
    Classes,
    Int64,
    PluginChoice,
    Running,
    Snapshot,
)
from tangram.snapshot.nodes import NodeTable, Usage
from tangram.snapshot.queues import QueueTable
from tangram.snapshot.shapes import ShapeTable
from tangram.snapshot.waiting import GangTable, PendingTable

_FALLBACKS = {"best-effort": BEST_EFFORT, "strict": STRICT, "preempt": PREEMPT}
DEFAULT_SCORES = (PluginChoice("bid-price", 1),)
NO_CLASSES = Classes((), np.zeros(0, np.int32), (), BEST_EFFORT)
_OVER = ("Succeeded", "Failed")


@dataclass(slots=True)
class _PodRow:
    """What the builder remembers of one pod."""

    name: PodName
    shape: int = -1
    slot: int = -1
    gang: str = ""
    gang_row: int = -1
    node: str = ""
    """Where it is counted; "" while it waits."""
    confirmed: bool = False
    """The watch has shown the binding."""
    pod: Pod | None = None
    leaf: int = -1
    charged: Int64 | None = None
    """What the pod's queue has been charged, while the pod is counted on a node."""


class Builder:
    """Turns objects into a ``Snapshot``; holds nothing that cannot be rebuilt from a list."""

    def __init__(self, scheduler_name: str = names.SCHEDULER_NAME, batch: int = 256) -> None:
        self.scheduler_name = scheduler_name
        self.batch = batch
        self.nodes = NodeTable()
        self.queues = QueueTable()
        self.shapes = ShapeTable(self.nodes, self.queues)
        self.pending = PendingTable()
        self.gangs = GangTable()
        self._pods: dict[str, _PodRow] = {}
        self.prices = NO_PRICES
        self._classes = NO_CLASSES
        self._scores: tuple[PluginChoice, ...] = DEFAULT_SCORES

    def put_node(self, node: Node) -> None:
        """A node was added or changed."""
        name = node.metadata.name
        is_new = name not in self.nodes.rows
        self.nodes.put(node)
        if is_new and self.nodes.usage_of(name):
            self._count_again(name)

    def set_inventory(self, name: str, devices: tuple[tuple[str, bool], ...]) -> None:
        """The node agent has told the devices of a node: (id, healthy) in index order."""
        self.nodes.set_inventory(name, devices)
        self._count_again(name)

    def remove_node(self, name: str) -> None:
        """A node is gone."""
        self.nodes.remove(name)

    def put_pod(self, pod: Pod) -> None:
        """A pod was added or changed; pods of other schedulers count once they are bound."""
        uid = pod.metadata.uid
        known = self._pods.get(uid)
        if pod.status.phase in _OVER:
            self.remove_pod(uid)
        elif pod.spec.node_name:
            self._bound(pod, known)
        elif known is not None and known.node and not known.confirmed:
            known.pod = pod
        else:
            self._wait(pod, known)

    def put_unreadable_pod(self, metadata: Metadata, node: str) -> None:
        """A pod that cannot be decoded: wherever it runs it may hold any device, so no other is given there."""
        row = self._pods.get(metadata.uid)
        if row is None:
            row = self._pods[metadata.uid] = _PodRow(PodName(metadata.namespace, metadata.name, metadata.uid))
        self._release(metadata.uid, row)
        if node:
            self._hold(metadata.uid, row, node, Usage(np.zeros(0, np.int64), (), unknown=-1))
            row.confirmed = True

    def remove_pod(self, uid: str) -> None:
        """A pod is gone."""
        row = self._pods.pop(uid, None)
        if row is not None:
            self._release(uid, row)
            if row.gang:
                self.gangs.leave(row.gang, uid)

    def overlay(self, place: Place) -> None:
        """Count a decision that has been sent."""
        uid = place.pod.uid
        row = self._pods.get(uid)
        if row is None or row.node:
            return
        memory = self.nodes.device_memory(place.node)
        devices = self._distinct(place, memory)
        self._release(uid, row)
        self._hold(uid, row, place.node, Usage(self.shapes.arrays.request[row.shape].copy(), devices))
        row.confirmed = False

    def forget(self, uid: str) -> bool:
        """Stop counting a decision that did not hold; the pod waits again. False when the watch has confirmed it."""
        row = self._pods.get(uid)
        if row is None or row.confirmed:
            return row is None
        if row.node:
            pod = row.pod
            self._release(uid, row)
            if pod is not None:
                self._wait(pod, row)
        return True

    def in_flight(self, uid: str) -> bool:
        """Whether a decision about the pod has been sent and not been seen to hold."""
        row = self._pods.get(uid)
        return row is not None and bool(row.node) and not row.confirmed

    def told(self, uid: str, code: int) -> None:
        """Remember the reason code that has been written on a waiting pod."""
        row = self._pods.get(uid)
        if row is not None and row.slot >= 0:
            self.pending.arrays.told[row.slot] = code

    def set_policy(self, policy: HybridPolicy | None) -> None:
        """Follow the active HybridPolicy: classes, queues and scores are others from now on."""
        self.queues.set_policy(policy)
        self._use_policy(policy)
        for row in self._pods.values():
            row.charged = None
            if row.node:
                self._charge(row)
        for pod in [row.pod for row in self._pods.values() if row.slot >= 0 and row.pod is not None]:
            self.put_pod(pod)  # its queue may have come or gone

    def _use_policy(self, policy: HybridPolicy | None) -> None:
        if policy is None:
            self._classes, self._scores = NO_CLASSES, DEFAULT_SCORES
            self.shapes.set_policy(None)
            return
        spec = policy.spec
        selectors = [self._selector_rows(found.node_selector) for found in spec.priority_classes]
        self._classes = Classes(
            names=tuple(found.name for found in spec.priority_classes),
            weight=np.array([found.weight for found in spec.priority_classes], np.int32),
            selector=tuple(selectors),
            fallback=_FALLBACKS[str(spec.fallback_strategy)],
        )
        self.shapes.set_policy(policy)
        self._scores = _scores(policy)

    def snapshot(self, now: int) -> Snapshot:
        """What is true now; valid until the next change is told."""
        self.shapes.sync()
        self.shapes.refresh_models()
        return Snapshot(
            generation=self.nodes.generation,
            now=now,
            batch=self.batch,
            resources=tuple(self.nodes.resources),
            models=tuple(self.nodes.models),
            nodes=self.nodes.arrays,
            shapes=self.shapes.arrays,
            pending=self.pending.arrays,
            gangs=self.gangs.arrays,
            classes=self._classes,
            queues=self.queues.arrays,
            running=self._running(),
            scores=self._scores,
            workload_revision=self.shapes.workload_revision,
            prices=self.prices,
        )

    def _wait(self, pod: Pod, row: _PodRow | None) -> None:
        uid, spec = pod.metadata.uid, pod.spec
        if spec.scheduler_name != self.scheduler_name or pod.metadata.deletion_timestamp or spec.scheduling_gates:
            if row is not None:
                self.remove_pod(uid)
            return
        shape = self.shapes.row_of(pod)
        told = -1
        if row is None:
            row = self._pods[uid] = _PodRow(PodName(pod.metadata.namespace, pod.metadata.name, uid))
            if isinstance(shape, int):
                self.shapes.arrived(shape)
        elif row.slot >= 0:
            told = int(self.pending.arrays.told[row.slot])
            self._release(uid, row)
        row.pod = pod
        minimum = self._join(pod, row)
        reason = names.Reason.INVALID_REQUEST
        if isinstance(shape, int) and self.shapes.arrays.leaf[shape] < 0:
            reason = names.Reason.QUEUE_UNKNOWN
            shape = f"queue {self.shapes.requests[shape].queue!r} does not exist; allowed: {self.queues.known()}"
        if isinstance(shape, str) or isinstance(minimum, str):
            why = shape if isinstance(shape, str) else str(minimum)
            row.shape, row.slot = -1, self.pending.add_invalid(row.name, str(reason), why)
        else:
            row.shape = shape
            created = units.timestamp_seconds(pod.metadata.creation_timestamp)
            row.slot = self.pending.add(row.name, shape, spec.priority, created, row.gang_row)
            if row.gang_row >= 0:
                self.gangs.arrays.waiting[row.gang_row] += 1
        self.pending.arrays.told[row.slot] = told

    def _join(self, pod: Pod, row: _PodRow) -> str | int:
        """Enter the pod's gang; the sentence that says why its minimum cannot be read, else the minimum."""
        label = pod.metadata.labels.get(names.GANG, "")
        gang = f"{pod.metadata.namespace}/{label}" if label else ""
        if row.gang and row.gang != gang:
            self.gangs.leave(row.gang, row.name.uid)
            row.gang, row.gang_row = "", -1
        if not gang:
            return 1
        text = pod.metadata.annotations.get(names.GANG_MIN, "1")
        if not text.isdecimal() or not 1 <= int(text[:9]) <= 100_000:
            return f"annotation {names.GANG_MIN}: {text!r} is not allowed; allowed: a whole number from 1 to 100000"
        row.gang, row.gang_row = gang, self.gangs.join(gang, row.name.uid, int(text))
        return int(text)

    def _bound(self, pod: Pod, row: _PodRow | None) -> None:
        uid, node = pod.metadata.uid, pod.spec.node_name
        if row is not None and row.confirmed and row.node == node:
            row.pod = pod
            return
        shape = self.shapes.row_of(pod)
        if row is None:
            row = self._pods[uid] = _PodRow(PodName(pod.metadata.namespace, pod.metadata.name, uid))
            if isinstance(shape, int) and pod.spec.scheduler_name == self.scheduler_name:
                self.shapes.arrived(shape)
        usage = self._usage(pod, shape if isinstance(shape, int) else -1, node)
        if row.node == node and row.shape == shape and self.nodes.usage_of(node).get(uid) == usage:
            row.pod, row.confirmed = pod, True  # what was sent is what has come to be
            return
        self._release(uid, row)
        row.pod, row.confirmed = pod, True
        row.shape = shape if isinstance(shape, int) else -1
        self._join(pod, row)
        self._hold(uid, row, node, usage)

    def _count_again(self, node: str) -> None:
        """Read the devices of the pods on a node again, now that it is known what the ids mean."""
        for uid in list(self.nodes.usage_of(node)):
            row = self._pods[uid]
            if row.confirmed and row.pod is not None:
                self.nodes.take(node, uid, self._usage(row.pod, row.shape, node))

    def _usage(self, pod: Pod, shape: int, node: str) -> Usage:
        """What a bound pod holds, from its annotation; without a readable one the whole of what it may hold."""
        if shape < 0:
            return Usage(np.zeros(0, np.int64), (), unknown=-1)
        request = self.shapes.arrays.request[shape].copy()
        asks = self.shapes.requests[shape].asks
        if not asks:
            return Usage(request, ())
        annotation = pod.metadata.annotations.get(names.GPUS)
        if annotation is None:
            return Usage(request, (), unknown=sum(ask.count for ask in asks))
        try:
            given = read_gpus(annotation)
        except ValueError:
            return Usage(request, (), unknown=-1)
        if node not in self.nodes.rows:
            return Usage(request, (), unknown=-1)
        memory = self.nodes.device_memory(node)
        held: dict[int, tuple[int, int, int]] = {}
        seen: set[int] = set()
        for container, ask in self.shapes.requests[shape].containers:
            if ask in seen:
                continue
            seen.add(ask)
            for share in given.get(container, ()):
                self._count_share(node, share, memory, held)
        if len(seen) != len(asks) or -1 in held:
            return Usage(request, (), unknown=-1)
        return Usage(request, tuple(held[index] for index in sorted(held)))

    def _count_share(self, node: str, share: DeviceShare, memory: int, held: dict[int, tuple[int, int, int]]) -> None:
        index = self.nodes.device_row(node, share.id)
        if index is None:
            held[-1] = (-1, 0, 0)
            return
        milli = share.share * units.MILLI_PER_GPU // units.HUNDREDTHS_PER_GPU
        amount = share.memory_mib or milli * memory // units.MILLI_PER_GPU
        _, before, before_memory = held.get(index, (index, 0, 0))
        held[index] = (index, before + milli, before_memory + amount)

    def _distinct(self, place: Place, memory: int) -> tuple[tuple[int, int, int], ...]:
        """Devices of a pod of several containers: containers that share an ask name the same devices once."""
        row = self._pods[place.pod.uid]
        ask_of = dict(self.shapes.requests[row.shape].containers)
        held: dict[int, tuple[int, int, int]] = {}
        seen: set[int] = set()
        for container, given in place.devices:
            if ask_of[container] in seen:
                continue
            seen.add(ask_of[container])
            for device in given:
                amount = device.memory_mib or device.milli * memory // units.MILLI_PER_GPU
                _, milli, mib = held.get(device.index, (device.index, 0, 0))
                held[device.index] = (device.index, milli + device.milli, mib + amount)
        return tuple(held[index] for index in sorted(held))

    def _hold(self, uid: str, row: _PodRow, node: str, usage: Usage) -> None:
        row.node = node
        self.nodes.take(node, uid, usage)
        self._charge(row)
        if row.gang_row >= 0:
            self.gangs.arrays.bound[row.gang_row] += 1

    def _charge(self, row: _PodRow) -> None:
        """Charge the pod's queue for what the pod holds."""
        row.leaf = int(self.shapes.arrays.leaf[row.shape]) if row.shape >= 0 else -1
        if row.leaf >= 0:
            model = self.nodes.model_of(row.node)
            row.charged = self.queues.amounts(self.shapes.arrays, row.shape, model)
            self.queues.charge(row.leaf, row.charged, 1)

    def _release(self, uid: str, row: _PodRow) -> None:
        """Take the pod out of its slot or off its node."""
        if row.slot >= 0:
            if self.pending.arrays.waiting[row.slot] and row.gang_row >= 0:
                self.gangs.arrays.waiting[row.gang_row] -= 1
            self.pending.remove(row.slot)
            row.slot = -1
        if row.node:
            self.nodes.give_back(row.node, uid)
            row.node = ""
            if row.charged is not None:
                self.queues.charge(row.leaf, row.charged, -1)
                row.charged = None
            if row.gang_row >= 0:
                self.gangs.arrays.bound[row.gang_row] -= 1
        row.confirmed = False

    def _selector_rows(self, selector: dict[str, str]) -> tuple[int, ...]:
        """The term rows of a class's selector."""
        return tuple(
            self.nodes.clause(Requirement(key, "In", (value,)), is_field=False) for key, value in selector.items()
        )

    def _running(self) -> Running:
        if self._classes.fallback != PREEMPT:
            return NOTHING_RUNNING
        held = [(row, self.nodes.usage_of(row.node).get(uid)) for uid, row in sorted(self._pods.items())]
        found = [
            (row, usage)
            for row, usage in held
            if usage is not None
            and row.confirmed
            and row.shape >= 0
            and row.node in self.nodes.rows
            and row.pod is not None
            and not row.pod.metadata.deletion_timestamp
            and row.pod.spec.scheduler_name == self.scheduler_name
        ]
        pods = [row.pod for row, _ in found if row.pod is not None]
        return Running(
            names=[row.name for row, _ in found],
            node=np.array([self.nodes.rows[row.node] for row, _ in found], np.int32),
            shape=np.array([row.shape for row, _ in found], np.int32),
            priority=np.array([pod.spec.priority for pod in pods], np.int32),
            started=np.array([units.timestamp_seconds(pod.status.start_time) for pod in pods], np.int64),
            devices=[usage.devices for _, usage in found],
        )


def _nothing_running() -> Running:
    none = np.zeros(0, np.int32)
    return Running([], none, none, none, np.zeros(0, np.int64), [])


NOTHING_RUNNING = _nothing_running()


def _scores(policy: HybridPolicy) -> tuple[PluginChoice, ...]:
    """The score plugins of the policy: its strategy's, and the ones that it names with their weights."""
    placement = policy.spec.placement
    base = {"pack": "binpack"}.get(str(placement.strategy), str(placement.strategy))
    weights = {base: 1} | {plugin.name: plugin.weight for plugin in placement.plugins}
    return tuple(PluginChoice(name, weight) for name, weight in weights.items() if weight)
