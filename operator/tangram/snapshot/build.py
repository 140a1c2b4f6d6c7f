"""Objects to rows: the one place where Kubernetes becomes arrays, incrementally.

The builder is shown every change (level, not edge: showing it the same object twice changes nothing) and every decision
that was sent but not yet seen to hold; those overlay what the watch has shown until it shows them too.

Nothing that an object says raises out of here: one that cannot be taken in is set aside, named in ``take_faults``, and
tried again when it changes. A pod then counts as one that may hold any device of its node, a node as absent, and a
policy as not given.
"""

from collections.abc import Callable, Iterable, Mapping

from tangram.api import names
from tangram.api.disruption import PodDisruptionBudget
from tangram.api.objects import Metadata, Node, Pod
from tangram.api.policy import HybridPolicy
from tangram.api.storage import ONE_POD, CSINode, PersistentVolume, PersistentVolumeClaim, StorageClass
from tangram.plan import Claim, Place
from tangram.snapshot.affinity.relations import RelationTable
from tangram.snapshot.arrays import NO_PRICES, PREEMPT, Departures, PluginChoice, Prices, Snapshot
from tangram.snapshot.aside import Aside
from tangram.snapshot.compaction import Tables, give_back, without
from tangram.snapshot.gangs.domains import DomainTable
from tangram.snapshot.gangs.gangs import GangTable
from tangram.snapshot.intake import NodeIntake
from tangram.snapshot.nodes.inventory import Distances, NodeDevice
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.pods.budgets import BudgetKey, BudgetTable
from tangram.snapshot.pods.claim import Spot
from tangram.snapshot.pods.claims import REFUSED, WAITS_FOR
from tangram.snapshot.pods.ledger import Ledger
from tangram.snapshot.pods.lifecycle import Lifecycle
from tangram.snapshot.pods.pods import PodRow, find_overdue
from tangram.snapshot.pods.reading import PodReader
from tangram.snapshot.pods.shapes import ShapeTable
from tangram.snapshot.pods.states import Event, State
from tangram.snapshot.pods.suspension import Suspension
from tangram.snapshot.pods.volume_users import VolumeUsers
from tangram.snapshot.queues.classes import DEFAULT_SCORES, NO_CLASSES, classes_of, scores_of
from tangram.snapshot.queues.queues import QueueTable
from tangram.snapshot.requests.touched import ClaimKey
from tangram.snapshot.requests.volumes import VolumeTable
from tangram.snapshot.values.faults import Fault, Subject
from tangram.snapshot.values.labels import NO_READS, Reads

_OVER = ("Succeeded", "Failed")
_BOUND, _WAITING, _SENT, _GONE = Event.SHOWN_BOUND, Event.SHOWN_WAITING, Event.SENT, Event.GONE
_IGNORED = "it is ignored until it changes"
_AS_BEFORE = "what was known of it before counts until it changes"


class Builder:
    """Turns objects into a ``Snapshot``; holds nothing that cannot be rebuilt from a list."""

    def __init__(
        self,
        scheduler_name: str = names.SCHEDULER_NAME,
        batch: int = 256,
        gang_timeout: int = 0,
        reservation_delay: int = -1,
        reads_of: Callable[[tuple[PluginChoice, ...]], Reads] = lambda _: NO_READS,
    ) -> None:
        self.scheduler_name, self.batch, self.evictions = scheduler_name, batch, 1 << 30
        self.reservation_delay, self._reads_of, self._last_now = reservation_delay, reads_of, 0
        self.nodes, self.queues = NodeTable(), QueueTable()
        self.shapes = ShapeTable(self.nodes, self.queues)
        self.relations, self.volumes = RelationTable(self.nodes), VolumeTable(self.nodes.rows)
        self.gangs = GangTable(gang_timeout)
        self.domains = DomainTable(self.nodes, self.gangs)
        self._ledger = Ledger(self.nodes, self.queues, self.relations, self.gangs, scheduler_name)
        self.pods: Mapping[str, PodRow] = self._ledger.pods
        self.pending, self.running = self._ledger.pending, self._ledger.running
        self.claims, self.departures = self._ledger.claims, self._ledger.departures
        self.users = VolumeUsers(self.volumes, self._ledger, self.nodes, self.shapes, self._refresh)
        reader = PodReader(self.shapes, self.relations, self.volumes, self.gangs, self.domains)
        self._lifecycle = Lifecycle(self._ledger, reader, self.shapes, self.nodes, scheduler_name)
        self._budgets = BudgetTable(self.pods, self.claims)
        self.suspension = Suspension(self._ledger, self.gangs, self.volumes)
        self._takes_over = True  # another process has decided last, as far as is known here
        self._policy: HybridPolicy | None = None
        self._classes, self.prices = NO_CLASSES, NO_PRICES
        self._scores: tuple[PluginChoice, ...] = DEFAULT_SCORES
        self._aside = Aside(self._lifecycle)
        self._intake = NodeIntake(self.nodes, self.relations, self._ledger, self._lifecycle, self._aside)

    # ---- nodes

    def put_node(self, node: Node) -> None:
        """A node was added or changed."""
        self._intake.put(node)

    def remove_node(self, name: str) -> None:
        """A node is gone."""
        self._intake.remove(name)

    def set_inventory(self, name: str, devices: tuple[NodeDevice, ...]) -> None:
        """The node agent reports the devices of a node, in index order."""
        self._intake.set_inventory(name, devices)

    def set_links(self, name: str, distances: Distances) -> None:
        """The node agent reports how far the devices of a node are from each other."""
        self._intake.set_links(name, distances)

    def set_at_risk(self, name: str, at_risk: bool, vulnerable: bool = False) -> None:
        """The node agent reports that a device is likely to fail soon, and known holes of the container software."""
        self._intake.set_at_risk(name, at_risk, vulnerable)

    # ---- what is around pods

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> None:
        """Take in the labels of a namespace, None when it is gone."""
        try:
            changed = self.relations.set_namespace(name, labels)
            others = self.shapes.access.set_namespace(name, labels)
        except Exception as error:  # noqa: BLE001 - one namespace must not end the scheduler
            self._aside.faults.note(Subject("Namespace", name), error, _IGNORED)
            return
        self._aside.faults.clear(Subject("Namespace", name))
        if changed or others:
            self._refresh([row for row in self.pods.values() if changed or row.name.namespace == name])

    def put_claim(self, key: ClaimKey, claim: PersistentVolumeClaim | None) -> None:
        """A volume claim was added or changed, or is gone (None)."""
        with self._aside.faults.noted(Subject("PersistentVolumeClaim", key[1], key[0]), _AS_BEFORE):
            self.relations.set_sole(key, claim is not None and ONE_POD in claim.spec.access_modes)
            self.volumes.put_claim(key, claim)

    def put_volume(self, name: str, volume: PersistentVolume | None) -> None:
        """A volume was added or changed, or is gone (None)."""
        with self._aside.faults.noted(Subject("PersistentVolume", name), _AS_BEFORE):
            self.volumes.put_volume(name, volume)

    def put_class(self, name: str, found: StorageClass | None) -> None:
        """A storage class was added or changed, or is gone (None)."""
        with self._aside.faults.noted(Subject("StorageClass", name), _AS_BEFORE):
            self.volumes.put_class(name, found)

    def put_drivers(self, node: str, drivers: CSINode | None) -> None:
        """The storage drivers of a node were added or changed, or are gone (None)."""
        limits = drivers.spec.limits if drivers is not None else {}
        before = self.volumes.drivers.limited
        self.volumes.drivers.limited = before.union(limits)
        with self._aside.faults.noted(Subject("CSINode", node), _AS_BEFORE):
            self.nodes.set_volume_limits(node, limits)
        if self.volumes.drivers.limited != before:
            self._refresh(row for row in list(self.pods.values()) if row.pod is not None and row.pod.spec.volumes)

    def put_budget(self, key: BudgetKey, budget: PodDisruptionBudget | None) -> bool:
        """A PodDisruptionBudget was added or changed, or is gone (None). Whether evictions that were refused are worth
        another attempt."""
        with self._aside.faults.noted(Subject("PodDisruptionBudget", key[1], key[0]), _AS_BEFORE):
            return self._budgets.put(key, budget)
        return False

    def volumes_are_known(self) -> None:
        """All claims, volumes and classes have been listed: from now on pods wait for theirs."""
        if not self.volumes.started:
            self.volumes.start()
            self.users.all_touched = True
            self.nodes.recount_volumes(self.nodes.rows)

    def set_policy(self, policy: HybridPolicy | None) -> None:
        """Follow the active HybridPolicy: classes, queues, levels and scores are others from now on."""
        try:
            self._set_policy(policy)
        except Exception as error:  # noqa: BLE001 - one policy must not end the scheduler
            name = policy.metadata.name if policy is not None else ""
            self._aside.faults.note(Subject("HybridPolicy", name), error, "the policy before it stays in force")
            self._set_policy(self._policy)
            return
        for about in [about for about in self._aside.faults.current if about.kind == "HybridPolicy"]:
            self._aside.faults.clear(about)
        self._policy = policy

    def _set_policy(self, policy: HybridPolicy | None) -> None:
        self.claims.give_all_up()
        self.nodes.set_policy(policy)
        self.queues.set_policy(policy)
        everybody = self.shapes.access.set_policy(policy)
        self._ledger.forget_charges()
        self.domains.set_policy(policy)
        self._classes = NO_CLASSES if policy is None else classes_of(policy, self.nodes)
        self._scores = DEFAULT_SCORES if policy is None else scores_of(policy)
        self.shapes.labels.read(self._reads_of(self._scores))
        self.shapes.set_policy(policy)
        for row in list(self.pods.values()):
            self._aside.guarded(row, self._lifecycle.charge_again)
        self._refresh(
            [row for row in self.pods.values() if everybody or row.slot >= 0]
        )  # its queue may have come or gone

    def recall_past_use(self, policy: HybridPolicy | None) -> None:
        """Another scheduler has counted what queues use until now: go on from what the policy's status says."""
        self.queues.past.recall(policy, self.queues.arrays)

    # ---- pods

    def put_pod(self, pod: Pod) -> None:
        """A pod was added or changed; pods of other schedulers count once they are bound."""
        uid = pod.metadata.uid
        try:
            if pod.status.phase in _OVER:
                self.remove_pod(uid)
                if pod.status.phase == "Succeeded":
                    self.gangs.finish(pod.metadata)
                else:
                    self._ledger.rejections.note(pod)
                return
            self._lifecycle.happens(_BOUND if pod.spec.node_name else _WAITING, uid, pod)
            if pod.spec.volumes and uid in self.pods:
                self.users.note(pod)
        except Exception as error:  # noqa: BLE001 - whatever it is, one pod must not end the scheduler
            self._aside.put(pod, error)
            return
        if self._aside.pods:
            self._aside.take_back(uid)

    def put_unreadable_pod(self, metadata: Metadata, node: str) -> None:
        """A pod that cannot be decoded: wherever it runs it may hold any device, so no other is given there."""
        event = Event.GARBLED_BOUND if node else Event.GARBLED_WAITING
        self._lifecycle.happens(event, metadata.uid, (metadata, node))

    def remove_pod(self, uid: str) -> None:
        """A pod is gone."""
        self.users.forget(uid)
        self._lifecycle.happens(_GONE, uid)
        if self._aside.pods:
            self._aside.take_back(uid)

    def forget_finished(self, uid: str) -> None:
        """A pod that had ended with success is gone."""
        self.gangs.forget_finished(uid)

    def set_completed(self, owner: str, pods: int) -> None:
        """The controller with this uid reports how many of its pods have ended with success, whether or not these are
        still there; 0: none, or it is gone."""
        self.gangs.set_completed(owner, pods)

    def take_faults(self) -> tuple[Fault, ...]:
        """The objects that could not be taken in since the last call, and why."""
        return self._aside.faults.take()

    def _refresh(self, rows: Iterable[PodRow]) -> None:
        """Read pods again, and try those again that were set aside."""
        for row in rows:
            self._aside.guarded(row, self._lifecycle.refresh)
        for pod in list(self._aside.pods.values()):
            self.put_pod(pod)

    # ---- decisions

    def overlay(self, *places: Place) -> None:
        """Count decisions that have been sent."""
        for place in places:
            self._lifecycle.happens(_SENT, place.pod.uid, place)

    def forget(self, uid: str) -> bool:
        """Stop counting a decision that did not hold; the pod waits again. False when the watch has confirmed it."""
        row = self.pods.get(uid)
        if row is None or row.state in (State.BOUND, State.UNREADABLE):
            return row is None
        try:
            self._lifecycle.happens(Event.FORGOTTEN, uid)
        except Exception as error:  # noqa: BLE001 - as in put_pod
            if row.pod is not None:
                self._aside.put(row.pod, error)
        return True

    def in_flight(self, uid: str) -> bool:
        """Whether a decision about the pod has been sent and not been seen to hold."""
        row = self.pods.get(uid)
        return row is not None and row.state == State.SENT

    def claim(self, claim: Claim, now: int) -> None:
        """Hold the places of a claim, all or none, until its victims and whoever else is leaving are gone, and until
        the volumes of its pods exist."""
        spots: dict[str, Spot] = {}
        for place in claim.places:
            row = self.pods.get(place.pod.uid)
            if row is None or row.state != State.WAITS or place.node not in self.nodes.rows:
                return
            leaf = int(self.shapes.arrays.leaf[row.shape])
            amounts = self.queues.amounts(self.shapes.arrays, row.shape, self.nodes.model_of(place.node))
            spots[place.pod.uid] = Spot(place, self._lifecycle.usage_of_place(place, row.shape), leaf, amounts)
        volumes = [pod.uid for pod in claim.volumes]
        self.suspension.forget_failures(volumes)
        leaving = {pod.uid for pod in claim.victims} | self.running.blockers(spots.values(), self.claims, now)
        self.claims.hold(spots, leaving & self.pods.keys(), now, volumes)
        if claim.elsewhere:
            self.claims.wait_for_fewer(claim.places[0].pod.uid, (pod.uid for pod in claim.elsewhere))

    def back_off(self, uid: str, reason: str, words: str, now: int) -> None:
        """The API server did not take what was decided about a pod: it and its gang are not tried for a while."""
        if uid in self.pods:
            self.suspension.refusals.refuse(uid, reason, words, now)

    def release_claim(self, uid: str) -> None:
        """Give up all of the claim that a pod is part of."""
        self.claims.give_up(uid)
        self.users.withdraw()

    def eviction_failed(self, claimant: str, victim: str, now: int, refused: str = "") -> None:
        """A victim stays: give up the claims that count on its leaving, and choose others for a while; the longer, the
        more often its eviction was ``refused``, which is what the server said."""
        if victim in self.pods:
            self.claims.spare(victim, now, refused)
        given_up = self.claims.stays(claimant, victim)
        if refused:
            self.claims.thwarted |= dict.fromkeys(given_up, victim)
            for uid in given_up:
                self.claims.deny(uid, now)

    def eviction_not_asked(self, claimant: str, victim: str) -> None:
        """A victim's eviction was not asked for after all: give up the claims that count on its leaving."""
        self.claims.stays(claimant, victim)

    def refused_evictions(self) -> dict[int, tuple[int, str]]:
        """Slot of a pod that waits -> the row of the node where an eviction for it was refused, or -1 where it was
        refused itself, and a sentence."""
        found, claims = {slot: (-1, said) for slot, said in self.suspension.spares(self._last_now).items()}, self.claims
        for claimant, victim in list(claims.thwarted.items()):
            row, other = self.pods.get(claimant), self.pods.get(victim)
            if row is None or row.slot < 0 or other is None or victim not in claims.spared:
                del claims.thwarted[claimant]
            else:
                words = claims.spared[victim].words
                if other.node in self.nodes.rows:
                    sentence = f"{WAITS_FOR} {other.name}, {REFUSED}: {words}"
                    found[row.slot] = self.nodes.rows[other.node], sentence
        return found

    @property
    def seen_at(self) -> int:
        """When the last snapshot was taken, in seconds since the epoch."""
        return self._last_now

    def end_nominations(self) -> None:
        """A decision has been made: what evictions had made room for has been given away by it, or to others."""
        self.claims.end_nominations(self._last_now)
        self._takes_over = False

    def gang_is_given_up(self, gang: str, now: int) -> None:
        """The gang's bound members are being evicted: those that stay all the same are looked at a timeout later."""
        self.gangs.given_up(gang, now)

    def next_cycle_at(self, now: int) -> int:
        """When, in seconds since the epoch, time alone makes a cycle worth while; 0: never. Known after a snapshot."""
        moments = self.gangs.next_timeout, self.suspension.next_change(now)
        return min((moment for moment in moments if moment), default=0)

    def pass_time(self, now: int) -> None:
        """While nobody asks for snapshots, note since when gangs are in part and give rows back, as a snapshot does."""
        self._takes_over = True
        self.gangs.check(now, self.suspension.troubled_gangs())
        self.users.all_touched |= bool(self.volumes.touched.take())
        self._compact()

    def set_prices(self, prices: Prices) -> None:
        """Carry what has been learned of the workload to the next snapshot."""
        self.prices = prices

    # ---- the answer

    def snapshot(self, now: int) -> Snapshot:
        """What is true now; valid until the next change is shown."""
        self._bring_up_to_date(now)
        return Snapshot(
            generation=self.nodes.generation,
            now=now,
            batch=self.batch,
            resources=self.nodes.columns.names,
            models=tuple(self.nodes.models),
            nodes=self.nodes.arrays,
            shapes=self.shapes.arrays,
            pending=self.pending.arrays,
            gangs=self.gangs.arrays,
            classes=self._classes,
            queues=self.queues.at(now),
            running=self.running.running(self.claims, now),
            leaving=self.running.leaving(self.claims, now, len(self.queues.columns)),
            evictions=self.evictions,
            scores=self._scores,
            workload_revision=self.shapes.workload_revision,
            prices=self.prices,
            topology=self.domains.topology(self.users.shared_by_gangs()),
            relations=self.relations.arrays(self.shapes.rules, self.shapes.added),
            departures=self._departures(now),
            shared_volumes=self.nodes.attached.shared(self.pending.arrays, self.shapes.arrays, self.nodes.rows),
            labels=self.shapes.labels.columns(len(self.shapes.arrays.leaf), self.pending.arrays),
        )

    def _bring_up_to_date(self, now: int) -> None:
        """Let everything follow what has been shown."""
        if now < self._last_now:
            self.claims.rebase(now)
            self.suspension.refusals.rebase(now)
        self._last_now = now
        moved = self._intake.take_moved(now)
        self.users.all_touched |= bool(moved) and self.volumes.concern(moved)
        touched = self.users.follow()
        if self.gangs.renewed:
            renewed = self.gangs.take_renewed()
            self._refresh([row for row in self.pods.values() if row.gang_row in renewed])
        if self.relations.has_new_selectors:
            new_selectors = self.relations.take_new()
            self._refresh([row for row in self.pods.values() if row.pod is not None and new_selectors.matches(row.pod)])
        self._compact()
        self._sync_shapes()
        self.shapes.refresh_models()
        self.claims.count()
        if self.claims.held:
            for claimant in self.running.stuck(self.claims, now):
                self.claims.give_up(claimant, stuck=True)
            for node in self.running.overfilled(self.claims, now):
                self.claims.reconsider(node)
        self.suspension.refresh(now, touched)
        while touched := self.users.follow():  # places that were given up have let volumes go
            self._sync_shapes()
            self.suspension.refresh(now, touched)
        self.claims.count()
        if self._takes_over:
            self.suspension.recall_places()
        live, nominated = self.claims.live(), self.claims.nominations
        if live or nominated or self.claims.recalled or self.pending.marked:
            nodes = [*((uid, place.node) for uid, place in nominated.items()), *self.claims.recalled.items()]
            self.pending.mark(self.running.slots_of(live), self.running.slots_of(nodes), self.claims.places())
        find_overdue(self.gangs, self.pods.values(), self.scheduler_name, now, self.suspension.troubled_gangs())
        self.suspension.keep_barred(self.gangs.arrays.overdue)
        exchanged = bool(self.gangs.arrays.overdue or live)
        self.running.activate(needed=self.queues.contend or self._classes.fallback == PREEMPT or exchanged)

    def _compact(self) -> None:
        if self.shapes.crowded:
            tables = Tables(self.shapes, self.relations, self.domains, self._classes)
            self.prices = without(self.prices, give_back(tables, self.pods, self._rematch))

    def _sync_shapes(self) -> None:
        """Let shapes follow what nodes have come to offer, and count anew who holds some of it already."""
        changed = self.shapes.sync()
        for row in [row for row in self.pods.values() if row.shape in changed] if changed else ():
            self._aside.guarded(row, self._lifecycle.count_again)

    def _rematch(self, uid: str) -> None:
        self._aside.guarded(self.pods[uid], self._lifecycle.refresh)

    def _departures(self, now: int) -> Departures | None:
        """When pods will end, once somebody has waited; nobody asks before."""
        if self.reservation_delay >= 0 and self.pending.arrays.has_waited(now).any():
            return self.departures.arrays(self.pods, self.scheduler_name, self.reservation_delay, now)
        return None
