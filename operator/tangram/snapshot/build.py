"""Objects to rows: the one place where Kubernetes becomes arrays, incrementally.

The builder is told of every change (level, not edge: telling it the same object twice changes nothing) and of every
decision that was sent but not yet seen to hold; those overlay what the watch has shown until it shows them too.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from tangram import units
from tangram.api import names
from tangram.api.objects import Metadata, Node, Pod
from tangram.api.policy import HybridPolicy
from tangram.plan import Place, PodName
from tangram.snapshot.affinity.relations import RelationTable
from tangram.snapshot.arrays import NO_PRICES, PREEMPT, Departures, PluginChoice, Snapshot
from tangram.snapshot.compaction import give_back
from tangram.snapshot.gangs.domains import DomainTable
from tangram.snapshot.gangs.gangs import GangTable
from tangram.snapshot.nodes.inventory import Distances, NodeDevice
from tangram.snapshot.nodes.nodes import NodeTable, Usage
from tangram.snapshot.pods.claims import ClaimTable, Spot
from tangram.snapshot.pods.departures import DepartureTable, estimated_duration
from tangram.snapshot.pods.pods import PodRow, find_overdue, join_gang, leave_gang, same_but_for_its_place, same_to_us
from tangram.snapshot.pods.running import RunningTable
from tangram.snapshot.pods.shapes import ShapeTable
from tangram.snapshot.pods.usage import anything, usage_of_place, usage_of_pod
from tangram.snapshot.pods.waiting import UNTOLD, PendingTable
from tangram.snapshot.queues.classes import DEFAULT_SCORES, NO_CLASSES, classes_of, scores_of
from tangram.snapshot.queues.queues import QueueTable
from tangram.snapshot.requests.volumes import Reach, VolumeTable

_OVER = ("Succeeded", "Failed")


class Builder:
    """Turns objects into a ``Snapshot``; holds nothing that cannot be rebuilt from a list."""

    def __init__(
        self,
        scheduler_name: str = names.SCHEDULER_NAME,
        batch: int = 256,
        gang_timeout: int = 0,
        reservation_delay: int = -1,
    ) -> None:
        self.scheduler_name, self.batch, self.evictions = scheduler_name, batch, 1 << 30
        self.reservation_delay = reservation_delay
        self.nodes = NodeTable()
        self.queues = QueueTable()
        self.shapes = ShapeTable(self.nodes, self.queues)
        self.relations = RelationTable(self.nodes)
        self.volumes = VolumeTable()
        self._with_volumes: set[str] = set()
        """Pods that wait, or waited not long ago, and have volumes."""
        self.pending = PendingTable()
        self.gangs = GangTable(gang_timeout)
        self.domains = DomainTable(self.nodes, self.gangs)
        self.claims = ClaimTable(self.nodes, self.queues.reserve)
        self.departures = DepartureTable(self.nodes)
        self._pods: dict[str, PodRow] = {}
        self.running = RunningTable(self.nodes, self._pods, scheduler_name)
        self.prices = NO_PRICES
        self._classes = NO_CLASSES
        self._scores: tuple[PluginChoice, ...] = DEFAULT_SCORES

    def put_node(self, node: Node) -> None:
        """A node was added or changed."""
        name = node.metadata.name
        is_new = name not in self.nodes.rows
        devices_changed = self.nodes.put(node)
        if is_new:
            self.relations.node_appeared(name)
        if devices_changed:
            self._count_again(name)
        elif is_new:
            self.running.follow_on(name)

    def set_inventory(self, name: str, devices: tuple[NodeDevice, ...]) -> None:
        """The node agent has told the devices of a node, in index order."""
        self.nodes.set_inventory(name, devices)
        self._count_again(name)

    def set_links(self, name: str, distances: Distances) -> None:
        """The node agent has told how far the devices of a node are from each other."""
        self.nodes.set_links(name, distances)

    def set_at_risk(self, name: str, at_risk: bool) -> None:
        """The node agent has told whether a device of a node is likely to fail soon."""
        self.nodes.set_at_risk(name, at_risk)

    def remove_node(self, name: str) -> None:
        """A node is gone."""
        self.relations.node_leaves(name)
        self.nodes.remove(name)
        for uid in self.nodes.usage_of(name):
            if uid in self._pods:
                self._charge(self._pods[uid])  # nobody knows any more what model it has
        self.running.follow_on(name)
        self.claims.node_changed(name)

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """Take in the labels of a namespace, None when it is gone."""
        if self.relations.set_namespace(name, labels):
            for uid in list(self._pods):
                self._relate(uid)

    def volumes_changed(self) -> None:
        """Look again at what pods wait for: claims, volumes or classes of ``volumes`` are others than before."""
        for uid in sorted(self._with_volumes):
            row = self._pods.get(uid)
            if row is not None and row.slot >= 0 and row.pod is not None:
                self._wait(row.pod, row)
            elif row is None or row.confirmed:
                self._with_volumes.discard(uid)

    def put_pod(self, pod: Pod) -> None:
        """A pod was added or changed; pods of other schedulers count once they are bound."""
        uid = pod.metadata.uid
        known = self._pods.get(uid)
        if pod.status.phase in _OVER:
            self.remove_pod(uid)
            if pod.status.phase == "Succeeded":
                self.gangs.finish(pod.metadata)
        elif pod.spec.node_name:
            self._bound(pod, known)
        elif known is not None and known.node and not known.confirmed:
            self._renew(pod, known)
        else:
            self._wait(pod, known)

    def put_unreadable_pod(self, metadata: Metadata, node: str) -> None:
        """A pod that cannot be decoded: wherever it runs it may hold any device, so no other is given there."""
        row = self._pods.get(metadata.uid)
        if row is None:
            row = self._pods[metadata.uid] = PodRow(PodName(metadata.namespace, metadata.name, metadata.uid))
        if not node and row.node:
            return  # its binding is on the way, and what it was given stays counted
        self._release(metadata.uid, row)
        row.pod, row.shape = None, -1
        join_gang(row, metadata, self.gangs)
        if node:
            self._hold(metadata.uid, row, node, anything())
            row.confirmed = True

    def remove_pod(self, uid: str) -> None:
        """A pod is gone."""
        row = self._pods.pop(uid, None)
        if row is not None:
            node = row.node
            self._release(uid, row)
            self.claims.left(uid, node)
            self.claims.drop(uid)
            leave_gang(row, self.gangs)

    def overlay(self, place: Place) -> None:
        """Count a decision that has been sent."""
        uid = place.pod.uid
        row = self._pods.get(uid)
        if row is None or row.node or row.shape < 0:
            return
        usage = self._usage_of_place(place, row)
        self._release(uid, row)
        self.claims.drop(uid)
        self._hold(uid, row, place.node, usage)
        row.place, row.confirmed = place, False

    def claim(self, places: Sequence[Place], victims: Iterable[str], now: int) -> None:
        """Reserve the places, all or none, that will be free once the victims and whoever else is leaving are gone."""
        spots: dict[str, Spot] = {}
        for place in places:
            row = self._pods.get(place.pod.uid)
            if row is None or row.slot < 0 or row.shape < 0 or place.node not in self.nodes.rows:
                return
            leaf = int(self.shapes.arrays.leaf[row.shape])
            amounts = self.queues.amounts(self.shapes.arrays, row.shape, self.nodes.model_of(place.node))
            spots[place.pod.uid] = Spot(place.node, self._usage_of_place(place, row), leaf, amounts)
        blockers = self.running.blockers(spots.values(), self.claims, now)
        self.claims.hold(spots, {*victims, *blockers} & self._pods.keys(), now)

    def eviction_failed(self, claimant: str, victim: str, now: int) -> None:
        """A victim stays: give up the claims that count on its leaving, and choose others for a while."""
        for one in self.claims.refused(claimant, victim, now):
            self.told(one, UNTOLD)

    def _give_up(self, claimant: str) -> None:
        for one in self.claims.give_up(claimant):
            self.told(one, UNTOLD)

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
        """Follow the active HybridPolicy: classes, queues, levels and scores are others from now on."""
        self.claims.give_all_up()
        self.queues.set_policy(policy)
        self.domains.set_policy(policy)
        self._classes = NO_CLASSES if policy is None else classes_of(policy, self.nodes)
        self._scores = DEFAULT_SCORES if policy is None else scores_of(policy)
        self.shapes.set_policy(policy)
        for row in self._pods.values():
            row.charged = None
            if row.node:
                self._charge(row)
        for pod in [row.pod for row in self._pods.values() if row.slot >= 0 and row.pod is not None]:
            self.put_pod(pod)  # its queue may have come or gone

    def snapshot(self, now: int) -> Snapshot:
        """What is true now; valid until the next change is told."""
        if self.relations.has_news:
            news = self.relations.hear()
            for uid in [uid for uid, row in self._pods.items() if row.pod is not None and news.concerns(row.pod)]:
                self._relate(uid)
        if self.shapes.crowded:
            self.prices = give_back(
                self.shapes, self.nodes, self.relations, self._classes, self._pods, self.prices, self._relate
            )
        self.shapes.sync()
        self.shapes.refresh_models()
        for claimant in self.running.stuck(self.claims, now):
            self._give_up(claimant)
        live, nominated = self.claims.live(), self.claims.nominations.items()
        self.pending.mark(self.running.slots_of(live), self.running.slots_of(nominated))
        find_overdue(self.gangs, self._pods.values(), self.scheduler_name, now)
        self.running.activate(needed=self.queues.contend or self._classes.fallback == PREEMPT)
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
            running=self.running.running(self.claims, now),
            leaving=self.running.leaving(self.claims, now, len(self.queues.columns)),
            evictions=self.evictions,
            scores=self._scores,
            workload_revision=self.shapes.workload_revision,
            prices=self.prices,
            topology=self.domains.topology(),
            relations=self.relations.arrays(self.shapes.rules, self.shapes.added),
            departures=self._departures(now),
        )

    def _wait(self, pod: Pod, row: PodRow | None) -> None:
        uid, spec = pod.metadata.uid, pod.spec
        if spec.scheduler_name != self.scheduler_name or pod.metadata.deletion_timestamp or spec.scheduling_gates:
            if row is not None:
                self.remove_pod(uid)
            return
        rules = self.relations.rules_of(pod)
        reach = self._reach(pod)
        shape = self.shapes.row_of(pod, rules, reach.selectors)
        told = -1
        if row is None:
            row = self._pods[uid] = PodRow(PodName(pod.metadata.namespace, pod.metadata.name, uid))
            if isinstance(shape, int):
                self.shapes.arrived(shape)
        elif row.slot >= 0:
            told = int(self.pending.arrays.told[row.slot])
            self._release(uid, row)
        if row.shape != shape and row.shape >= 0:
            self.claims.drop(uid)
        row.pod, row.members = pod, self.relations.members_now(pod, rules)
        fault = join_gang(row, pod.metadata, self.gangs) or self.domains.unknown(row.member)
        reason = names.Reason.INVALID_REQUEST
        if isinstance(shape, int):
            reason, shape = self._usable(shape, reach)
        if isinstance(shape, str) or fault:
            why = shape if isinstance(shape, str) else fault
            row.shape, row.slot = -1, self.pending.add_invalid(row.name, str(reason), why, told)
        else:
            row.shape = shape
            created = units.timestamp_seconds(pod.metadata.creation_timestamp)
            row.slot = self.pending.add(
                row.name, shape, spec.priority, created, row.gang_row, row.role,
                preempts=spec.preemption_policy != "Never", duration=estimated_duration(pod), told=told,
            )  # fmt: skip
            self.running.heed(pod)
            if row.gang_row >= 0:
                self.gangs.arrays.waiting[row.gang_row] += 1

    def _reach(self, pod: Pod) -> Reach:
        """What the volumes of a pod that waits ask of a node."""
        if pod.spec.volumes:
            self._with_volumes.add(pod.metadata.uid)
        return self.volumes.reach(pod)

    def _usable(self, shape: int, reach: Reach) -> tuple[names.Reason, int | str]:
        """The shape, or why no pod of it can be placed now whatever is free."""
        if self.shapes.arrays.leaf[shape] < 0:
            queue = self.shapes.requests[shape].queue
            return names.Reason.QUEUE_UNKNOWN, f"queue {queue!r} does not exist; allowed: {self.queues.known()}"
        if reach.waits_for:
            return names.Reason.VOLUME_NOT_READY, reach.waits_for
        return names.Reason.INVALID_REQUEST, shape

    def _bound(self, pod: Pod, row: PodRow | None) -> None:
        uid, node = pod.metadata.uid, pod.spec.node_name
        if row is not None and row.confirmed and row.node == node and row.pod is not None and same_to_us(row.pod, pod):
            self._renew(pod, row)
            return
        if (
            row is not None
            and row.node == node
            and row.pod is not None
            and same_but_for_its_place(row.pod, pod)
            and self.nodes.usage_of(node).get(uid) == self._usage(pod, row.shape, node)
        ):
            row.confirmed, row.place = True, None  # what was sent is what has come to be
            self._renew(pod, row)
            return
        rules = self.relations.rules_of(pod)
        shape = self.shapes.row_of(pod, rules, self.volumes.reach(pod).selectors)
        if row is None:
            row = self._pods[uid] = PodRow(PodName(pod.metadata.namespace, pod.metadata.name, uid))
            if isinstance(shape, int) and pod.spec.scheduler_name == self.scheduler_name:
                self.shapes.arrived(shape)
        usage = self._usage(pod, shape if isinstance(shape, int) else -1, node)
        self._release(uid, row)
        row.pod, row.confirmed = pod, True
        row.members = self.relations.members_now(pod, rules)
        row.shape = shape if isinstance(shape, int) else -1
        join_gang(row, pod.metadata, self.gangs)
        self._hold(uid, row, node, usage)
        self.running.heed(pod)
        self.running.follow(row)
        self.claims.node_changed(node)

    def _renew(self, pod: Pod, row: PodRow) -> None:
        """Take in what may change of a pod that has its place: its labels, and that it is being deleted."""
        before, row.pod = row.pod, pod
        if (
            before is None
            or before.metadata.labels != pod.metadata.labels
            or before.metadata.deletion_timestamp != pod.metadata.deletion_timestamp
        ):
            self._relate(row.name.uid)
        self.running.follow(row)

    def _relate(self, uid: str) -> None:
        """Look again at which groups a pod is in."""
        row = self._pods[uid]
        if row.pod is None:
            return
        if row.slot >= 0:
            self._wait(row.pod, row)
            return
        rules = self.relations.rules_of(row.pod)
        shape = self.shapes.row_of(row.pod, rules, self.volumes.reach(row.pod).selectors)
        row.shape = shape if isinstance(shape, int) else -1
        row.members = self.relations.members_now(row.pod, rules)
        if row.node:
            self.departures.moved.add(uid)
            self.relations.put(uid, row.node, row.members)
            self.running.follow(row)

    def _count_again(self, node: str) -> None:
        """Read the devices of the pods on a node again, now that it is known what the ids mean."""
        for uid in list(self.nodes.usage_of(node)):
            row = self._pods.get(uid)
            if row is None:
                continue
            if row.place is not None:
                self.nodes.take(node, uid, self._usage_of_place(row.place, row))
            elif row.pod is not None:
                self.nodes.take(node, uid, self._usage(row.pod, row.shape, node))
            self._charge(row)
        self.running.follow_on(node)
        self.claims.node_changed(node)

    def _usage(self, pod: Pod, shape: int, node: str) -> Usage:
        if shape < 0:
            return anything()
        return usage_of_pod(pod, self.shapes.amounts[shape], self.shapes.requests[shape], self.nodes, node)

    def _usage_of_place(self, place: Place, row: PodRow) -> Usage:
        return usage_of_place(place, self.shapes.amounts[row.shape], self.shapes.requests[row.shape], self.nodes)

    def _hold(self, uid: str, row: PodRow, node: str, usage: Usage) -> None:
        row.node = node
        self.nodes.take(node, uid, usage)
        self.relations.put(uid, node, row.members)
        self._charge(row)
        if row.gang_row >= 0:
            self.gangs.bind(row.gang_row, row.role, node)

    def _charge(self, row: PodRow) -> None:
        """Charge the pod's queue for what the pod holds, and no longer for what it was charged before."""
        self.departures.moved.add(row.name.uid)
        if row.charged is not None:
            self.queues.charge(row.leaf, row.charged, -1)
            row.charged = None
        row.leaf = int(self.shapes.arrays.leaf[row.shape]) if row.shape >= 0 else -1
        if row.leaf >= 0:
            model = self.nodes.model_of(row.node)
            row.charged = self.queues.amounts(self.shapes.arrays, row.shape, model)
            self.queues.charge(row.leaf, row.charged, 1)

    def _release(self, uid: str, row: PodRow) -> None:
        """Take the pod out of its slot or off its node."""
        if row.slot >= 0:
            if row.gang_row >= 0 and self.pending.arrays.waiting[row.slot]:
                self.gangs.arrays.waiting[row.gang_row] -= 1
            self.pending.remove(row.slot)
            row.slot = -1
        if row.node:
            self.departures.moved.add(uid)
            self.running.drop(uid)
            self.nodes.give_back(row.node, uid)
            self.relations.remove(uid, row.node)
            if row.gang_row >= 0:
                self.gangs.bind(row.gang_row, row.role, row.node, -1)
            row.node = ""
            if row.charged is not None:
                self.queues.charge(row.leaf, row.charged, -1)
                row.charged = None
        row.place, row.confirmed = None, False

    def _departures(self, now: int) -> Departures | None:
        """When pods will end, once somebody has been told to wait; nobody asks before."""
        waiting = self.pending.arrays
        if self.reservation_delay >= 0 and np.count_nonzero(waiting.waiting & (waiting.told >= 0)):
            return self.departures.arrays(self._pods, self.scheduler_name, self.reservation_delay, now)
        return None
