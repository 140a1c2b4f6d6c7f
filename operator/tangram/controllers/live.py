"""The controllers on a real cluster: names come in, objects are read, reconciled and written; for ever.

An object itself, and what it owns, come from local copies that watches keep true; what may be decided from a copy that
is late is in ``copies``. Only the holder of the Lease works; the others listen, so that they can take over with
everything known.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tangram import errors
from tangram.api import names
from tangram.api.disruption import PodDisruptionBudget
from tangram.api.inference import InferenceStatus, parse_inference_service
from tangram.api.objects import Metadata as ObjectMetadata
from tangram.api.policy import parse_policy
from tangram.api.training import TrainingStatus, parse_training_job
from tangram.api.views import GpuNodeView, NodeView, PodView, ServiceView, controller_of
from tangram.cluster import objects
from tangram.cluster.events import Recorder
from tangram.cluster.lease import Lease
from tangram.cluster.mirror import Change
from tangram.cluster.paths import (
    GPU_NODES,
    HYBRID_POLICIES,
    INFERENCE_SERVICES,
    NODES,
    POD_DISRUPTION_BUDGETS,
    PODS,
    SERVICES,
    TRAINING_JOBS,
    Resource,
)
from tangram.cluster.permit import ALWAYS
from tangram.cluster.readiness import Readiness
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch, Options
from tangram.controllers import inference, policy, training
from tangram.controllers.actions import Action, Confirm, RecordEvent, SetStatus
from tangram.controllers.apply import Applied, Applier
from tangram.controllers.budgets import put_budget
from tangram.controllers.copies import Key, may_follow_from_a_copy, touches_pods
from tangram.controllers.figures import Figures
from tangram.controllers.observed import (
    MANAGED_BY,
    MANAGER,
    ObservedJob,
    ObservedPolicies,
    ObservedService,
    Source,
    StoredPolicy,
)
from tangram.controllers.owned import OwnedBy
from tangram.controllers.queue import WorkQueue
from tangram.controllers.reading import Reader, source_of
from tangram.controllers.reasons import Why
from tangram.controllers.service_status import model_was_ready
from tangram.controllers.status import read_status, reject
from tangram.controllers.watching import Ears

_log = logging.getLogger(__name__)

RESYNC_SECONDS = 3600.0
"""Seconds between two reconciles of an object without events: of ten thousand that have ended, three a second."""
BATCH_SECONDS = 0.05
"""Seconds to wait after an event for its neighbours, so that the pods of a gang are one reconcile and not hundreds."""
_NODES_SECONDS = 2.0
"""The same after a change of a node: a pool that grows is one reconcile of the policies."""
_RESYNC_SECONDS = 120.0
_WORKERS = {TRAINING_JOBS: 8, INFERENCE_SERVICES: 8, HYBRID_POLICIES: 1}
_OWNERS = {kind.kind: kind for kind in (TRAINING_JOBS, INFERENCE_SERVICES)}
_ALL_POLICIES: Key = ("", "")
"""The one name in the queue of policies: they are always looked at together."""
_SELECTOR = f"{MANAGED_BY}={MANAGER}"


@dataclass(frozen=True, slots=True)
class _Pass:
    """One reconcile: what to do, and how to think again when the server has to be asked or has refused something."""

    actions: tuple[Action, ...]
    again: Callable[[str], tuple[Action, ...]] | None = None
    """Reconcile once more with the server's words."""


class LiveControllers:
    """One controller process; ``await run()`` until cancelled. Without a ``lease`` it always writes."""

    def __init__(
        self,
        client: Client,
        recorder: Recorder | None = None,
        lease: Lease | None = None,
        *,
        scheduler_name: str = names.SCHEDULER_NAME,
        started: Callable[[], None] | None = None,
    ) -> None:
        self.figures = Figures()
        self._client, self._lease, self._clock = client, lease, time.time
        self._scheduler_name = scheduler_name
        self._recorder = recorder
        self._acquired = asyncio.Event()
        self._readiness = Readiness(client, PODS, lease)
        if lease is not None:
            lease.on_acquired = self._acquired.set
        self._ears = Ears(client, self._on_event, started)
        self.queues: dict[Resource, WorkQueue[Key]] = {kind: WorkQueue() for kind in _WORKERS}
        self.pods = ListWatch(client, PODS.collection(), PodView, self._on_pod, Options(label_selector=_SELECTOR))
        self.services = ListWatch(
            client, SERVICES.collection(), ServiceView, self._on_service, Options(label_selector=_SELECTOR)
        )
        self.budgets = ListWatch(client, POD_DISRUPTION_BUDGETS.collection(), PodDisruptionBudget, self._on_budget)
        self.gpu_nodes = ListWatch(client, GPU_NODES.collection(), GpuNodeView, self._on_gpu_node)
        self.nodes = ListWatch(client, NODES.collection(), NodeView, self._on_node)
        self._budgets: dict[str, dict[str, PodDisruptionBudget]] = {}
        """By namespace, by uid."""
        self._failures: dict[str, dict[str, str]] = {}
        """By node, by uid of a pod: the sentence about a GPU that it holds and that has failed."""
        self._known: dict[Resource, dict[Key, None]] = {kind: {} for kind in _WORKERS}
        """In the order in which they came: a history that is lived through again must be the same."""
        self._pods_of: OwnedBy[PodView] = OwnedBy()
        self._services_of: OwnedBy[ServiceView] = OwnedBy()
        self._reader = Reader(client)
        self._refused: dict[tuple[Resource, Key], str] = {}
        self._served_by: dict[Key, set[Key]] = defaultdict(set)
        """TrainingJob -> services that wait for its model."""
        self._random = random.Random()  # noqa: S311 - spreads load, guards no secret

    @property
    def leads(self) -> bool:
        """Whether this process may write now."""
        return self._lease is None or self._lease.held

    @property
    def synced(self) -> bool:
        """Whether everything is known that a decision hangs on."""
        return self.pods.synced.is_set() and self.services.synced.is_set() and self._ears.listening.is_set()

    def unhealthy(self, silence: float) -> str | None:
        """What is wrong with this process; ``silence``: seconds after which a watch counts as dead."""
        now = asyncio.get_running_loop().time()
        if self._lease is not None and (stuck := self._lease.stuck()):
            return stuck
        for watch, what in ((self.pods, "pods"), (self.services, "services")):
            if watch.synced.is_set() and now - watch.last_activity > silence:
                return f"the watch of {what} is silent: {watch.last_error or 'no reason known'}"
        for kind, queue in self.queues.items():
            if self.leads and self.synced and queue.overdue > 3 * _RESYNC_SECONDS:
                return f"nobody works on {kind.plural}"
        return self._ears.silent()

    def missing(self) -> str | None:
        """What is not known yet; None when everything is."""
        if self.synced:
            return self._readiness.problem or (self._lease.failing() if self._lease is not None else None)
        return self._ears.last_error or self.pods.last_error or "pods and custom resources are not known yet"

    async def run(self) -> None:
        """Watch, reconcile and write until cancelled; a fault in any part ends all of it: a restart heals it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pods.run(), name="watch-pods")
            group.create_task(self.services.run(), name="watch-services")
            group.create_task(self.budgets.run(), name="watch-budgets")
            group.create_task(self.gpu_nodes.run(), name="watch-gpu-nodes")
            group.create_task(self.nodes.run(), name="watch-nodes")
            if self._lease is not None:
                group.create_task(self._lease.run(), name="lease")
            group.create_task(self._readiness.run(), name="readiness")
            await self.pods.synced.wait()
            await self.services.synced.wait()
            group.create_task(self._ears.run(), name="watch-kinds")
            for kind, count in _WORKERS.items():
                for number in range(count):
                    group.create_task(self._work(kind), name=f"{kind.plural}-{number}")
            group.create_task(self._resync(), name="resync")

    # What comes in.

    def _on_event(self, kind: Resource, key: Key, item: Mapping[str, Any], deleted: bool) -> None:
        copies, asked = self._reader.copies, True
        if kind is not HYBRID_POLICIES:
            # What is told of the status is mostly our own writing: it shortens no pause after a failure.
            asked = deleted or not (self.queues[kind].is_failing(key) and copies.is_same_spec(kind, key, item))
            (copies.gone if deleted else copies.put)(kind, key, item)
        if kind is HYBRID_POLICIES:
            key = _ALL_POLICIES
        elif kind is TRAINING_JOBS:
            for service in self._served_by.get(key, ()):
                self.queues[INFERENCE_SERVICES].add(service, BATCH_SECONDS)
        self._known[kind][key] = None
        if asked:
            self.queues[kind].add(key, BATCH_SECONDS)

    def _on_pod(self, _change: Change, old: PodView | None, new: PodView | None) -> None:
        self._pods_of.put(old, new)
        self._reconcile_owners(old.metadata if old else None, new.metadata if new else None)

    def _on_service(self, _change: Change, old: ServiceView | None, new: ServiceView | None) -> None:
        self._services_of.put(old, new)
        self._reconcile_owners(old.metadata if old else None, new.metadata if new else None)

    def _on_budget(self, _change: Change, old: PodDisruptionBudget | None, new: PodDisruptionBudget | None) -> None:
        """Reconcile whom a budget is for: its owner, or the services of its namespace; all once all are known."""
        for budget, there in ((old, False), (new, True)):
            if budget is not None:
                put_budget(self._budgets, budget, there=there)
        if old is not None and new is not None and old.spec == new.spec:
            return  # what it allows now has changed
        found = new or old
        if found is not None and controller_of(found.metadata) is not None:
            self._reconcile_owners(found.metadata)
            return
        for key in self._known[INFERENCE_SERVICES]:
            if found is None or key[0] == found.metadata.namespace:
                self.queues[INFERENCE_SERVICES].add(key, BATCH_SECONDS)

    def _budgets_in(self, namespace: str) -> tuple[PodDisruptionBudget, ...] | None:
        return tuple(self._budgets.get(namespace, {}).values()) if self.budgets.synced.is_set() else None

    def _reconcile_owners(self, *things: ObjectMetadata | None) -> None:
        for metadata in things:
            owner = controller_of(metadata) if metadata is not None else None
            if metadata is not None and owner is not None and owner.kind in _OWNERS:
                self.queues[_OWNERS[owner.kind]].add((metadata.namespace, owner.name), BATCH_SECONDS)

    def _on_node(self, _change: Change, old: NodeView | None, new: NodeView | None) -> None:
        """What the classes of a policy match may be other nodes now; most changes are a kubelet's sign of life."""
        before, after = (_offers(node) if node is not None else None for node in (old, new))
        if before != after:
            self.queues[HYBRID_POLICIES].add(_ALL_POLICIES, _NODES_SECONDS)

    def _on_gpu_node(self, _change: Change, old: GpuNodeView | None, new: GpuNodeView | None) -> None:
        """Reconcile the owners of pods that hold a GPU which has failed, or is well again."""
        node = new or old
        if node is None:
            return
        before = self._failures.pop(node.metadata.name, {})
        after = new.failures if new is not None else {}
        if after:
            self._failures[node.metadata.name] = after
        changed = {uid for uid in before.keys() | after.keys() if before.get(uid) != after.get(uid)}
        for pod in self.pods.objects.values() if changed else ():
            if pod.metadata.uid in changed:
                self._reconcile_owners(pod.metadata)

    def _failures_of(self, pods: Iterable[PodView]) -> dict[str, str]:
        """By uid: what has failed of the GPUs that these pods hold."""
        failures = ((pod.metadata.uid, self._failures.get(pod.spec.node_name, {})) for pod in pods)
        return {uid: updates[uid] for uid, updates in failures if uid in updates}

    async def _resync(self) -> None:
        """Reconcile everything from time to time, and at once when the Lease has become ours."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RESYNC_SECONDS * self._random.uniform(0.8, 1.2)):
                    await self._acquired.wait()
            self._acquired.clear()
            for kind, keys in self._known.items():
                for key in keys:
                    self.queues[kind].add(key, self._random.uniform(0.0, min(10.0, 0.01 * len(keys))))

    # What goes out.

    async def _work(self, kind: Resource) -> None:
        queue = self.queues[kind]
        while True:
            await self._ready_to_work()
            key = await queue.get()
            before = time.perf_counter()
            result = "error"
            try:
                async with asyncio.timeout(_RESYNC_SECONDS):
                    result = await self._reconcile(kind, key)
            except (errors.TangramError, TimeoutError) as error:
                pause = queue.fail(key)
                _log.warning("%s %s: %s; again in %.1f s", kind.kind, "/".join(key), error or "too slow", pause)
            except Exception:  # noqa: BLE001 - whatever it is, it is logged and tried again
                # A fault in one object's reconcile must not stop those of all others.
                pause = queue.fail(key)
                _log.exception("%s %s: a fault; again in %.0f s", kind.kind, "/".join(key), pause)
            finally:
                queue.done(key)
                self.figures.reconciled(kind.kind, result, time.perf_counter() - before)

    async def _ready_to_work(self) -> None:
        await self._ears.listening.wait()
        if self._lease is not None:
            await self._lease.wait_held()

    async def _reconcile(self, kind: Resource, key: Key) -> str:
        """Reconcile one name: read, reconcile, write, all in one term. The result is a word for the metrics."""
        queue = self.queues[kind]
        permit = self._lease.permit() if self._lease is not None else ALWAYS
        applier = Applier(self._client, self._recorder, permit)
        current = await self._observe(kind, key)
        applied = await applier.apply(current.actions)
        self._learn(kind, key, applied)
        if applied.refused:
            if self._refused.get((kind, key)) != applied.refused and current.again is not None:
                self._refused[kind, key] = applied.refused
                # The status says so at once; the attempt itself is repeated with the queue's growing pauses.
                updates = [action for action in current.again(applied.refused) if isinstance(action, SetStatus)]
                events = [RecordEvent(one.ref, Why.REFUSED, applied.refused, warning=True) for one in updates[:1]]
                said = await applier.apply([*(replace(one, resource_version="") for one in updates), *events])
                self._learn(kind, key, said)
            queue.fail(key)
            if applied.requeue is not None:
                queue.add(key, applied.requeue)
            return "refused"
        if not applied.failed and self._refused.pop((kind, key), None) is not None:
            queue.add(key)
        return self._after(queue, key, applied)

    def _learn(self, kind: Resource, key: Key, applied: Applied) -> None:
        """The server's answer to our last write is the next copy; after a write that failed there is none."""
        if applied.failed:
            self._reader.copies.forget(kind, key)
        elif applied.owner is not None:
            self._reader.copies.put(kind, key, applied.owner)

    def _after(self, queue: WorkQueue[Key], key: Key, applied: Applied) -> str:
        if applied.failed:
            queue.fail(key)
            return "retry"
        queue.succeed(key)
        if applied.requeue is not None:
            queue.add(key, applied.requeue)
        return "changed" if applied.done else "unchanged"

    async def _observe(self, kind: Resource, key: Key) -> _Pass:
        if kind is HYBRID_POLICIES:
            return await self._observe_policies()
        copy = self._reader.copies.get(kind, key)
        if copy is not None:
            current = await self._observe_own(kind, key, copy)
            if may_follow_from_a_copy(current.actions):
                return current
        raw = await self._reader.own(kind, key)
        if raw is None:
            self._known[kind].pop(key, None)
            self._refused.pop((kind, key), None)
            self.queues[kind].succeed(key)
            return _Pass(())
        return await self._observe_own(kind, key, raw)

    async def _observe_own(self, kind: Resource, key: Key, raw: dict[str, Any]) -> _Pass:
        self._known[kind][key] = None
        return await (self._observe_job(raw) if kind is TRAINING_JOBS else self._observe_service(raw, key))

    async def _observe_job(self, raw: dict[str, Any]) -> _Pass:
        now = self._clock()
        try:
            job = parse_training_job({**raw, "status": None})
        except errors.InvalidInput as error:
            return _Pass(reject(TRAINING_JOBS, raw, _phase_of_invalid(raw, "Pending"), str(error), now))
        status, stored = read_status(TrainingStatus, raw)
        owner, key = (job.metadata.namespace, job.metadata.uid), (job.metadata.namespace, job.metadata.name)
        pods = self._pods_of.of(*owner)
        observed = ObservedJob(
            job,
            status,
            stored,
            pods,
            self._services_of.of(*owner),
            self._refused.get((TRAINING_JOBS, key), ""),
            scheduler_name=self._scheduler_name,
            failures=self._failures_of(pods),
        )
        actions = training.reconcile(observed, now)
        if touches_pods(actions) or any(isinstance(action, Confirm) for action in actions):
            observed = replace(observed, pods=await self._reader.pods_of(names.JOB, job.metadata, pods), fresh=True)
            actions = training.reconcile(observed, now)
        final = observed
        return _Pass(actions, lambda refused: training.reconcile(replace(final, refused=refused), now))

    async def _observe_service(self, raw: dict[str, Any], key: Key) -> _Pass:
        now = self._clock()
        try:
            service = parse_inference_service({**raw, "status": None})
        except errors.InvalidInput as error:
            return _Pass(reject(INFERENCE_SERVICES, raw, _phase_of_invalid(raw, "Failed"), str(error), now))
        status, stored = read_status(InferenceStatus, raw)
        owner = service.metadata.namespace, service.metadata.uid
        source: Source | None = None
        if service.spec.source is not None:
            job = (service.metadata.namespace, service.spec.source.training_job)
            self._served_by[job].add(key)
            source = Source(job[1])
            if not model_was_ready(status, job[1]):  # else it may be gone
                source = source_of(job[1], await objects.get(self._client, TRAINING_JOBS, job[1], job[0]))
        pods = self._pods_of.of(*owner)
        observed = ObservedService(
            service,
            status,
            stored,
            pods,
            self._services_of.of(*owner),
            self._refused.get((INFERENCE_SERVICES, key), ""),
            source,
            self._scheduler_name,
            self._failures_of(pods),
            await self._reader.whole_pods(service.metadata, pods),
            self._budgets_in(service.metadata.namespace),
        )
        actions = inference.reconcile(observed, now)
        if touches_pods(actions):
            pods = await self._reader.pods_of(names.SERVICE, service.metadata, pods)
            whole = await self._reader.whole_pods(service.metadata, pods)
            observed = replace(observed, pods=pods, whole=whole, failures=self._failures_of(pods))
            actions = inference.reconcile(observed, now)
        final = observed
        return _Pass(actions, lambda refused: inference.reconcile(replace(final, refused=refused), now))

    async def _observe_policies(self) -> _Pass:
        stored: list[StoredPolicy] = []
        for raw in await objects.list_objects(self._client, HYBRID_POLICIES):
            raw = {"apiVersion": HYBRID_POLICIES.api_version, "kind": HYBRID_POLICIES.kind, **raw}
            try:
                stored.append(StoredPolicy(raw, parse_policy({**raw, "status": None})))
            except errors.InvalidInput as error:
                stored.append(StoredPolicy(raw, None, str(error)))
        nodes = tuple(self.nodes.objects.values()) if self.nodes.synced.is_set() else None
        return _Pass(policy.reconcile(ObservedPolicies(tuple(stored), nodes), self._clock()))


def _offers(node: NodeView) -> tuple[dict[str, str], dict[str, Any]]:
    """What a policy's classes may match of a node, and what they find there."""
    return node.metadata.labels, dict(node.status.allocatable)


def _phase_of_invalid(raw: dict[str, Any], wanted: str) -> str | None:
    """The phase to show for an object that cannot be used; None leaves the phase of one that has been at work."""
    return wanted if (raw.get("status") or {}).get("phase") in (None, "", wanted) else None
