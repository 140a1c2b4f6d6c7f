"""A cluster as one file: the objects that decisions depend on, and nothing that must not leave the cluster.

What is recorded are the projections of ``api.objects``: they have no environment, commands, images or
secrets to begin with. Annotations of other people and the messages of conditions are dropped on top of that, but for
what the scheduler itself has written on its pods, of which a file has the reason alone; labels stay, because selectors
speak of them. A recording read again gives the same snapshot, and so the same plan.
"""

import gzip
import zlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from tangram.api import names
from tangram.api.disruption import PodDisruptionBudget
from tangram.api.objects import Condition, Metadata, Namespace, Node, Pod, Struct
from tangram.api.policy import HybridPolicy, parse_policy
from tangram.api.storage import CSINode, PersistentVolume, PersistentVolumeClaim, StorageClass
from tangram.errors import InvalidInput, NotReachable
from tangram.plan import Reason
from tangram.snapshot.arrays import NO_PRICES, Prices
from tangram.snapshot.build import Builder
from tangram.snapshot.nodes.inventory import Distances, NodeDevice
from tangram.snapshot.nodes.rejections import Rejection
from tangram.snapshot.requests.volumes import CLAIM_ANNOTATIONS

FORMAT = 1
"""Number of the file's format; a file with another one is refused."""
_GZIP = b"\x1f\x8b"
_REASONS = frozenset(map(str, Reason))


class UnreadablePod(Struct, frozen=True):
    """A pod that could not be decoded; on ``node`` it may hold any device."""

    metadata: Metadata
    node: str = ""


class Storage(Struct, frozen=True):
    """All claims, volumes and classes of a cluster, and the storage drivers of its nodes."""

    claims: tuple[PersistentVolumeClaim, ...] = ()
    volumes: tuple[PersistentVolume, ...] = ()
    classes: tuple[StorageClass, ...] = ()
    drivers: tuple[CSINode, ...] = ()


class Stalled(Struct, frozen=True):
    """A TrainingJob or InferenceService that the controller cannot go on with, by its condition ``Stalled``."""

    kind: str
    namespace: str
    name: str
    reason: str
    message: str = ""
    """In the words of whoever refused, so that no file has it."""


class Workload(Struct, frozen=True):
    """How far a TrainingJob or InferenceService is, by its own status: the answer where it has no pods."""

    kind: str
    namespace: str
    name: str
    phase: str = ""
    """Empty: its controller has not written a status yet."""
    reason: str = ""
    message: str = ""
    """May be in the words of whoever refused something, so that no file has it."""
    suspended: bool = False
    """Whether its owner wants it suspended."""
    outdated: bool = False
    """Whether the status is of an earlier spec."""


class PolicyVersion(Struct, frozen=True):
    """Which version of the policy an answer is worked out by, and by which one the scheduler decides."""

    name: str
    generation: int
    """Of the policy as it is stored."""
    partial: bool = False
    """Whether only a part of that can be read here."""
    decides: str = ""
    """Name of the policy by which the scheduler says that it decides; empty: it has said nothing."""
    decides_generation: int = 0
    message: str = ""
    """Why a policy is not in force as it is stored; empty: it is."""


class Recording(Struct, frozen=True):
    """Everything that a decision depends on, as values."""

    format: int
    now: int
    """Seconds since the epoch at which the cluster was read."""
    scheduler_name: str = names.SCHEDULER_NAME
    settings: dict[str, int] | None = None
    """What the scheduler published of its settings (``settings.deciding``); None: nothing, so the defaults count."""
    silence: str = ""
    """A sentence when that scheduler gave no sign of life; no decision reads it."""
    nodes: tuple[Node, ...] = ()
    pods: tuple[Pod, ...] = ()
    policy: dict[str, Any] | None = None
    """The HybridPolicy in force, as on the wire."""
    policy_version: PolicyVersion | None = None
    """None: not known; no decision reads it."""
    inventories: dict[str, tuple[NodeDevice, ...]] = msgspec.field(default_factory=dict)
    """Node name -> its devices in index order, where a node agent has reported them."""
    links: dict[str, Distances] = msgspec.field(default_factory=dict)
    """Node name -> how far its devices are from each other, where a node agent has reported it."""
    at_risk: tuple[str, ...] = ()
    """Names of nodes with a device that is likely to fail soon."""
    vulnerable: tuple[str, ...] = ()
    """Names of nodes whose container software has known holes."""
    rejections: dict[str, Rejection] = msgspec.field(default_factory=dict)
    """By uid, the pods that kubelets have rejected for their devices."""
    unreadable: tuple[UnreadablePod, ...] = ()
    priorities: dict[str, int] = msgspec.field(default_factory=dict)
    """PriorityClass -> its value, for pods that do not exist yet."""
    prices: dict[str, Any] | None = None
    """What was learned of the workload (``arrays.Prices`` by field); None: it is learned from the pods again."""
    namespaces: tuple[Namespace, ...] = ()
    """For their labels, by which rules about other pods, queues and classes choose namespaces."""
    knows_namespaces: bool = True
    """Whether whoever recorded may read namespaces; else the policy's queues and classes are for all of them here."""
    storage: Storage | None = None
    """None: whoever recorded may not read it, and pods are placed as if they had no volumes."""
    stalled: tuple[Stalled, ...] = ()
    """What keeps workloads from having all their pods; no decision reads it."""
    workloads: tuple[Workload, ...] = ()
    """TrainingJobs and InferenceServices by their own status; no decision reads it."""
    budgets: tuple[PodDisruptionBudget, ...] = ()
    """What protects pods from eviction, which is for the API server to say; no decision reads it."""


def stripped(observed: Recording) -> Recording:
    """The recording without what decisions do not read, and with what has no order of its own in order."""
    storage = observed.storage
    return replace(
        observed,
        nodes=tuple(_bare_node(node) for node in observed.nodes),
        pods=tuple(bare_pod(pod) for pod in observed.pods),
        links={name: distances for name, distances in observed.links.items() if distances},
        at_risk=tuple(sorted(observed.at_risk)),
        vulnerable=tuple(sorted(observed.vulnerable)),
        unreadable=tuple(replace(pod, metadata=_bare_metadata(pod.metadata)) for pod in observed.unreadable),
        namespaces=tuple(replace(one, metadata=_bare_metadata(one.metadata)) for one in observed.namespaces),
        storage=None if storage is None else _bare_storage(storage),
        budgets=tuple(replace(one, metadata=_bare_metadata(one.metadata)) for one in observed.budgets),
    )


def wire_policy(policy: HybridPolicy) -> dict[str, Any]:
    """A policy as on the wire: its name, what was written in its spec, and what its queues have used."""
    spec = policy.spec.model_dump(mode="json", by_alias=True, exclude_none=True, exclude_unset=True)
    metadata = {"name": policy.metadata.name}
    found = {"apiVersion": names.API_VERSION, "kind": "HybridPolicy", "metadata": metadata, "spec": spec}
    past = (
        [one for one in policy.status.queues if one.recent_gpu_seconds or one.recent_cpu_seconds]
        if policy.status
        else ()
    )
    if past:
        kept = {"name", "recent_gpu_seconds", "recent_cpu_seconds"}
        found["status"] = {"queues": [one.model_dump(mode="json", by_alias=True, include=kept) for one in past]}
    return found


def feed(builder: Builder, recorded: Recording) -> None:
    """Give an empty builder everything that was recorded, in the recording's order."""
    if recorded.policy is not None:
        builder.set_policy(parse_policy(recorded.policy))
    for namespace in recorded.namespaces:
        builder.set_namespace(namespace.metadata.name, namespace.metadata.labels)
    if recorded.storage is not None:
        _feed_volumes(builder, recorded.storage)
    else:
        builder.volumes.ignore()
    builder.nodes.reserve(len(recorded.nodes))
    _feed_inventories(builder, recorded)
    for node in recorded.nodes:
        builder.put_node(node)
    for pod in recorded.pods:
        builder.put_pod(pod)
    builder.suspension.rejections.recall(recorded.rejections)
    for unreadable in recorded.unreadable:
        builder.put_unreadable_pod(unreadable.metadata, unreadable.node)
    prices = _prices(recorded.prices)
    if prices is not None:
        builder.prices = prices


def _feed_inventories(builder: Builder, recorded: Recording) -> None:
    for name, devices in recorded.inventories.items():
        builder.set_inventory(name, devices)
    for name, distances in recorded.links.items():
        builder.set_links(name, distances)
    for name in {*recorded.at_risk, *recorded.vulnerable}:
        builder.set_at_risk(name, name in recorded.at_risk, name in recorded.vulnerable)


def _feed_volumes(builder: Builder, storage: Storage) -> None:
    for claim in storage.claims:
        builder.put_claim((claim.metadata.namespace, claim.metadata.name), claim)
    for volume in storage.volumes:
        builder.put_volume(volume.metadata.name, volume)
    for found in storage.classes:
        builder.put_class(found.metadata.name, found)
    for drivers in storage.drivers:
        builder.put_drivers(drivers.metadata.name, drivers)
    builder.volumes_are_known()


def with_prices(recorded: Recording, prices: Prices) -> Recording:
    """The recording with what was learned from it."""
    found = {one.name: getattr(prices, one.name) for one in fields(Prices)}
    plain = {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in found.items()}
    return replace(recorded, prices=plain)


def _prices(plain: Mapping[str, Any] | None) -> Prices | None:
    """Prices as they were learned; None when none were recorded, or other ones than are known today."""
    known = {one.name: getattr(NO_PRICES, one.name) for one in fields(Prices)}
    if plain is None or plain.keys() != known.keys():
        return None
    arrays = {name for name, value in known.items() if isinstance(value, np.ndarray)}
    try:
        found: dict[str, Any] = {
            name: np.array(plain[name], np.float64) if name in arrays else type(known[name])(plain[name])
            for name in known
        }
    except (TypeError, ValueError):
        return None
    return Prices(**found) if all(found[name].ndim == 1 for name in arrays) else None


def save(recorded: Recording, path: Path) -> None:
    """Write the file, compressed when its name ends in ``.gz``; the same recording gives the same bytes.

    Raises NotReachable when it cannot be written.
    """
    bare = replace(
        recorded,
        pods=tuple(_without_words(pod) for pod in recorded.pods),
        rejections={uid: replace(one, words="") for uid, one in recorded.rejections.items()},
        stalled=tuple(replace(one, message="") for one in recorded.stalled),
        workloads=tuple(replace(one, message="") for one in recorded.workloads),
    )
    content = msgspec.json.encode(bare)
    if path.suffix == ".gz":
        content = gzip.compress(content, mtime=0)
    try:
        path.write_bytes(content)
    except OSError as error:
        raise NotReachable(f"{path}: cannot be written: {error.strerror or error}") from None


def load(path: Path) -> Recording:
    """Read a file. Raises NotReachable when there is none, InvalidInput when it is not a recording."""
    try:
        content = path.read_bytes()
        if content.startswith(_GZIP):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise NotReachable(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    allowed = f"a file written by `tangram snapshot save` (format {FORMAT})"
    try:
        found = msgspec.json.decode(content, type=Recording)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise InvalidInput(str(path), "content", str(error), allowed) from None
    if found.format != FORMAT:
        raise InvalidInput(str(path), "format", found.format, allowed)
    return found


def bare_pod(pod: Pod) -> Pod:
    """A pod without other people's annotations, and without messages but the scheduler's own."""
    conditions = tuple(one if reason_of(one) else replace(one, message="") for one in pod.status.conditions)
    return replace(
        pod, metadata=_bare_metadata(pod.metadata), status=replace(pod.status, conditions=conditions, message="")
    )


def reason_of(condition: Condition) -> tuple[str, str] | None:
    """(reason, sentence) that a scheduler of ours has reported of a pod that waits; None: it is another condition."""
    reason, _, sentence = condition.message.partition(": ")
    ours = condition.type == "PodScheduled" and condition.status == "False" and reason in _REASONS
    return (reason, sentence) if ours else None


def _without_words(pod: Pod) -> Pod:
    """The pod as a file has it: why it waits may be in the words of whoever refused something."""
    found = tuple((one, reason_of(one)) for one in pod.status.conditions)
    if not any(reason for _, reason in found):
        return pod
    conditions = tuple(replace(one, message=reason[0]) if reason else one for one, reason in found)
    return replace(pod, status=replace(pod.status, conditions=conditions))


def _bare_node(node: Node) -> Node:
    return replace(node, metadata=_bare_metadata(node.metadata), status=replace(node.status, conditions=()))


def _bare_storage(storage: Storage) -> Storage:
    return Storage(
        tuple(replace(one, metadata=_bare_metadata(one.metadata, CLAIM_ANNOTATIONS)) for one in storage.claims),
        tuple(replace(one, metadata=_bare_metadata(one.metadata)) for one in storage.volumes),
        tuple(replace(one, metadata=_bare_metadata(one.metadata)) for one in storage.classes),
        tuple(replace(one, metadata=_bare_metadata(one.metadata)) for one in storage.drivers),
    )


def _bare_metadata(metadata: Metadata, known: tuple[str, ...] = ()) -> Metadata:
    """Without annotations other than our own and the ``known``."""
    notes = metadata.annotations.items()
    ours = {key: value for key, value in notes if key.startswith(f"{names.GROUP}/") or key in known}
    return replace(metadata, annotations=ours)
