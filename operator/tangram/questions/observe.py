"""The state of a cluster, or of the file of one, as a cycle that can be asked: nothing is written anywhere."""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec

from tangram import errors, units
from tangram.api import names
from tangram.api.disruption import PodDisruptionBudget
from tangram.api.objects import (
    Condition,
    DeviceShare,
    FailedPod,
    Metadata,
    Namespace,
    Node,
    Pod,
    PodStatus,
    Struct,
    write_gpus,
)
from tangram.api.phases import ConditionType
from tangram.api.policy import HybridPolicy
from tangram.api.storage import CSINode, PersistentVolume, PersistentVolumeClaim, StorageClass
from tangram.cluster import objects, paths
from tangram.cluster.rest import Client
from tangram.cluster.wire import DECODE_ERRORS
from tangram.decide.price import pricing
from tangram.decide.registry import Registry
from tangram.plan import Evict, Hold, Place, Plan
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.policies import (
    Inventory,
    PolicyObject,
    PolicySource,
    has_device_at_risk,
    has_known_holes,
    link_distances,
    node_devices,
    said_in_force,
)
from tangram.scheduler.published import published
from tangram.scheduler.silence import Now, PublishedLease, silence
from tangram.settings import SchedulerSettings, decided_by
from tangram.snapshot import recording
from tangram.snapshot.nodes.rejections import rejection_of
from tangram.snapshot.recording import PolicyVersion, Recording, Stalled, Storage, UnreadablePod, Workload

T = TypeVar("T")
_EVERYTHING: Mapping[str, str] = MappingProxyType({})
_LIVE_PODS = MappingProxyType({"fieldSelector": "status.phase!=Succeeded,status.phase!=Failed"})
_FINISHED = MappingProxyType({"fieldSelector": "status.phase=Succeeded", "labelSelector": names.GANG})
_NOT_OF_NODES = MappingProxyType({"fieldSelector": "metadata.namespace!=kube-node-lease"})
_MOST_TURNS = 100_000
_MILLI_PER_HUNDREDTH = units.MILLI_PER_GPU // units.HUNDREDTHS_PER_GPU


class _PriorityClass(msgspec.Struct, frozen=True):
    metadata: Metadata
    value: int = 0


class _Spec(msgspec.Struct, frozen=True):
    node_name: str = msgspec.field(default="", name="nodeName")


class _Bound(msgspec.Struct, frozen=True):
    spec: _Spec = _Spec()


class _RunPolicy(Struct, frozen=True):
    suspend: bool = False


class _WorkloadSpec(Struct, frozen=True):
    run_policy: _RunPolicy = _RunPolicy()


class _WorkloadStatus(Struct, frozen=True):
    observed_generation: int = 0
    phase: str | None = None
    reason: str = ""
    message: str = ""
    conditions: tuple[Condition, ...] = ()


class _Workload(Struct, frozen=True):
    metadata: Metadata
    spec: _WorkloadSpec = _WorkloadSpec()
    status: _WorkloadStatus = _WorkloadStatus()


@dataclass(slots=True)
class Forecast:
    """What the production cycle does with a world that nobody else changes."""

    placed: dict[str, Place] = field(default_factory=dict)
    """By pod uid."""
    holds: dict[str, Hold] = field(default_factory=dict)
    """By pod uid, why it waits; a hold with a nominated node stands before a later one without."""
    evictions: dict[str, Evict] = field(default_factory=dict)
    """By uid of the pod that would be evicted."""
    volumes: set[str] = field(default_factory=set)
    """Uids of the pods that are placed once volumes have been made for them."""
    faults: tuple[str, ...] = ()
    """Plugins that failed: ``name: what happened``."""

    def followed_by(self, later: "Forecast") -> "Forecast":
        """This, and what the same cycle did once the evictions of this were through: they hold no places any more, and
        who has got one now no longer waits."""
        placed = {uid: place for uid, place in self.placed.items() if uid not in self.evictions} | later.placed
        holds = {uid: hold for uid, hold in (self.holds | later.holds).items() if uid not in placed}
        evictions, volumes = self.evictions | later.evictions, self.volumes | later.volumes
        return Forecast(placed, holds, evictions, volumes, later.faults)


async def read_cluster(client: Client, now: int, scheduler_name: str = names.SCHEDULER_NAME) -> Recording:
    """List what decisions depend on. Raises ClusterError; kinds that are not installed count as absent."""
    unreadable: list[UnreadablePod] = []

    def odd_pod(raw: msgspec.Raw, metadata: Metadata) -> None:
        try:
            node = msgspec.json.decode(raw, type=_Bound).spec.node_name
        except DECODE_ERRORS:
            node = ""
        unreadable.append(UnreadablePod(metadata, node))

    nodes = await _list(client, paths.NODES, Node)
    pods = await _list(client, paths.PODS, Pod, _LIVE_PODS, odd_pod)
    pods += await _list(client, paths.PODS, Pod, _FINISHED)
    failed = {"fieldSelector": f"spec.schedulerName={scheduler_name},status.phase=Failed"}
    rejected = [(one.metadata.uid, rejection_of(one)) for one in await _list(client, paths.PODS, FailedPod, failed)]
    active: list[HybridPolicy | None] = [None]
    source, stored = PolicySource(active.append), await _list_if_any(client, paths.HYBRID_POLICIES, PolicyObject)
    for found in stored:
        source.take("added", None, found)
    source.take("synced", None, None)
    inventories = await _list_if_any(client, paths.GPU_NODES, Inventory)
    priorities = await _list_if_any(client, paths.PRIORITY_CLASSES, _PriorityClass)
    leases = await _list_if_any(client, paths.LEASES, PublishedLease, _NOT_OF_NODES)
    workloads = [
        (resource.kind, one)
        for resource in (paths.TRAINING_JOBS, paths.INFERENCE_SERVICES)
        for one in await _list_if_any(client, resource, _Workload)
    ]
    policy, namespaces = active[-1], await _namespaces(client)
    wire = None if policy is None else recording.wire_policy(policy)
    return recording.stripped(
        Recording(
            recording.FORMAT,
            now,
            scheduler_name,
            settings=published((lease.metadata for lease in leases), scheduler_name),
            silence=silence(leases, scheduler_name, Now(now, client.server_clock.now() or 0)),
            nodes=tuple(nodes),
            pods=tuple(pods),
            policy=wire if wire is None or namespaces is not None else _for_all(wire),
            policy_version=_version(source, stored),
            inventories={one.metadata.name: node_devices(one) for one in inventories},
            links={one.metadata.name: link_distances(one) for one in inventories},
            at_risk=tuple(one.metadata.name for one in inventories if has_device_at_risk(one)),
            vulnerable=tuple(one.metadata.name for one in inventories if has_known_holes(one)),
            rejections={uid: one for uid, one in rejected if one is not None},
            unreadable=tuple(unreadable),
            priorities={one.metadata.name: one.value for one in priorities},
            namespaces=tuple(namespaces or ()),
            knows_namespaces=namespaces is not None,
            storage=await _storage(client),
            stalled=_stalled(workloads),
            workloads=_workloads(workloads),
            budgets=tuple(await _list_if_any(client, paths.POD_DISRUPTION_BUDGETS, PodDisruptionBudget)),
        )
    )


async def _namespaces(client: Client) -> list[Namespace] | None:
    """None where they may not be read."""
    try:
        return await _list(client, paths.NAMESPACES, Namespace)
    except errors.ClusterError as error:
        if error.status == 403:
            return None
        raise


def _for_all(policy: dict[str, Any]) -> dict[str, Any]:
    """The policy with queues and classes for every namespace: whom a selector selects is not known."""
    spec = {
        key: [{name: value for name, value in one.items() if name != "namespaceSelector"} for one in part]
        if key in ("queues", "priorityClasses")
        else part
        for key, part in policy["spec"].items()
    }
    return policy | {"spec": spec}


def _version(source: PolicySource, stored: Iterable[PolicyObject]) -> PolicyVersion | None:
    """Which version of the policy is read here, and by which one the scheduler decides: it may have an earlier one in
    memory, or be of another version and read less, or more."""
    said, active = said_in_force(stored), source.active
    if active is None:
        return None if said is None else PolicyVersion("", 0, True, said[0].metadata.name, said[1], said[2])
    metadata = next(one.metadata for one in stored if one.metadata.uid == active.metadata.uid)
    here = PolicyVersion(metadata.name, metadata.generation, bool(source.problem), message=source.problem)
    if said is None:
        return here
    decides = {"decides": said[0].metadata.name, "decides_generation": said[1]}
    return msgspec.structs.replace(here, **decides, message=said[2] or source.problem)


async def read_namespace(client: Client, namespace: str, now: int, scheduler_name: str) -> Recording:
    """List what a namespace holds, for those who may not read more: enough for what has been reported of its workloads
    and pods, and for no decision. Raises ClusterError where the pods of the namespace may not be read."""
    pods = await objects.list_as(client, paths.PODS.collection(namespace), Pod, _LIVE_PODS)
    leases = await _list_if_any(client, paths.LEASES, PublishedLease, _NOT_OF_NODES)
    workloads: list[tuple[str, _Workload]] = []
    for resource in (paths.TRAINING_JOBS, paths.INFERENCE_SERVICES):
        listed = objects.list_as(client, resource.collection(namespace), _Workload)
        workloads += [(resource.kind, one) for one in await _if_any(listed)]
    return recording.stripped(
        Recording(
            recording.FORMAT,
            now,
            scheduler_name,
            silence=silence(leases, scheduler_name, Now(now, client.server_clock.now() or 0)),
            pods=tuple(pods),
            stalled=_stalled(workloads),
            workloads=_workloads(workloads),
        )
    )


def _stalled(workloads: Iterable[tuple[str, _Workload]]) -> tuple[Stalled, ...]:
    """Workloads that the controller cannot go on with."""
    return tuple(
        Stalled(kind, one.metadata.namespace, one.metadata.name, condition.reason, condition.message)
        for kind, one in workloads
        for condition in one.status.conditions
        if condition.type == ConditionType.STALLED and condition.status == "True"
    )


def _workloads(workloads: Iterable[tuple[str, _Workload]]) -> tuple[Workload, ...]:
    return tuple(
        Workload(
            kind=kind,
            namespace=one.metadata.namespace,
            name=one.metadata.name,
            phase=one.status.phase or "",
            reason=one.status.reason,
            message=one.status.message,
            suspended=one.spec.run_policy.suspend,
            outdated=one.status.observed_generation < one.metadata.generation,
        )
        for kind, one in workloads
    )


async def _storage(client: Client) -> Storage | None:
    """Claims, volumes, classes and drivers; None when the asking user may not read all of them."""
    try:
        return Storage(
            tuple(await _list(client, paths.PERSISTENT_VOLUME_CLAIMS, PersistentVolumeClaim)),
            tuple(await _list(client, paths.PERSISTENT_VOLUMES, PersistentVolume)),
            tuple(await _list(client, paths.STORAGE_CLASSES, StorageClass)),
            tuple(await _list(client, paths.CSI_NODES, CSINode)),
        )
    except errors.ClusterError as error:
        if error.status in (401, 403, 404):
            return None
        raise


def cycle_of(recorded: Recording, registry: Registry | None = None, *, batch: int = 0) -> Cycle:
    """A production cycle that has seen everything that was recorded, with the settings of the recorded scheduler.

    Plugins of the policy that are not in the registry may be there for that scheduler: what they say is left out.
    ``batch`` 0: as many pods are placed at once as that scheduler places. Raises InvalidInput when the recorded
    settings are out of range.
    """
    settings, known = settings_of(recorded), (registry or Registry()).in_part()
    cycle = Cycle(settings if not batch else replace(settings, batch=batch), known)
    recording.feed(cycle.builder, recorded)
    return cycle


def settings_of(recorded: Recording) -> SchedulerSettings:
    """The settings of the scheduler that is asked about; the defaults where it has published none."""
    return decided_by(recorded.scheduler_name, recorded.settings or {})


def priced(recorded: Recording) -> Recording:
    """The recording with the prices that its pods teach, so that a later version decides with the same ones."""
    builder = cycle_of(recorded).builder
    return recording.with_prices(recorded, pricing.learn(builder.snapshot(recorded.now)))


def run_to_rest(cycle: Cycle, now: int) -> Forecast:
    """Let the cycle decide until it has nothing new to say; its bindings take effect, its evictions do not. Volumes
    that it has made are there at once."""
    outcome = Forecast()
    for _ in range(_MOST_TURNS):
        plan = cycle.decide(now)
        outcome.faults = plan.faults
        progress = bool(plan.place) | _make_volumes(cycle, plan, outcome)
        for place in plan.place:
            outcome.placed[place.pod.uid] = place
            outcome.holds.pop(place.pod.uid, None)
            _bind(cycle, place, now)
        for hold in plan.hold:
            known = outcome.holds.get(hold.pod.uid)
            if known is None or (known.reason != hold.reason and not known.nominated_node):
                outcome.holds[hold.pod.uid] = hold
                progress = True
        for evict in plan.evict:
            outcome.evictions.setdefault(evict.pod.uid, evict)
        if not progress:
            return outcome
    raise errors.TangramError(f"the scheduler has not come to rest after {_MOST_TURNS} turns")


def _make_volumes(cycle: Cycle, plan: Plan, outcome: Forecast) -> bool:
    """Let volumes be there for which places are held; whether there are any."""
    builder = cycle.builder
    places = {place.pod.uid: place for claim in plan.claims if claim.volumes for place in claim.places}
    places = {uid: place for uid, place in places.items() if uid in builder.claims.held}  # the others lack a volume
    for uid, place in places.items():
        row = builder.pods[uid]
        if row.pod is not None:
            builder.volumes.make(row.pod, place.node)
    if places:
        outcome.volumes.update(places)
    return bool(places)


def _bind(cycle: Cycle, place: Place, now: int) -> None:
    """Let the cycle see that a binding holds, and that the pod has started."""
    waiting = cycle.builder.pods[place.pod.uid].pod
    if waiting is None:
        return
    given = {
        container: tuple(DeviceShare(one.id, one.milli // _MILLI_PER_HUNDREDTH, one.memory_mib) for one in devices)
        for container, devices in place.devices
    }
    notes = {**waiting.metadata.annotations, names.GPUS: write_gpus(given)} if given else waiting.metadata.annotations
    metadata = msgspec.structs.replace(waiting.metadata, annotations=notes)
    spec = msgspec.structs.replace(waiting.spec, node_name=place.node)
    cycle.builder.put_pod(Pod(metadata, spec, PodStatus("Running", start_time=units.rfc3339(now))))


async def _list_if_any(
    client: Client, resource: paths.Resource, kind: type[T], selectors: Mapping[str, str] = _EVERYTHING
) -> list[T]:
    """As ``_list``; nothing where the kind is not installed, or may not be read."""
    return await _if_any(_list(client, resource, kind, selectors))


async def _if_any(listed: Awaitable[list[T]]) -> list[T]:
    try:
        return await listed
    except errors.ClusterError as error:
        if error.status in (403, 404):
            return []
        raise


async def _list(
    client: Client,
    resource: paths.Resource,
    kind: type[T],
    selectors: Mapping[str, str] = _EVERYTHING,
    on_odd: Callable[[msgspec.Raw, Metadata], None] | None = None,
) -> list[T]:
    """All objects of a kind that the selectors name; those that cannot be read go to ``on_odd`` and are else left
    out."""
    return await objects.list_as(client, resource.collection(), kind, selectors, on_odd)
