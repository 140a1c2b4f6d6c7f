"""A pod's text as rows of the tables: everything that may fail happens here, before anything is counted."""

from collections.abc import Mapping

import msgspec

from tangram.api import names
from tangram.api.objects import LARGEST_ANNOTATIONS, Metadata, Pod, annotation_bytes
from tangram.api.verdicts import HELD
from tangram.plan import Reason
from tangram.snapshot.affinity.relations import RelationTable
from tangram.snapshot.gangs.domains import DomainTable
from tangram.snapshot.gangs.gangs import GangTable
from tangram.snapshot.gangs.members import Member, read_member
from tangram.snapshot.pods.shapes import ShapeTable
from tangram.snapshot.requests.reach import NO_LIMITS, Reach
from tangram.snapshot.requests.volumes import VolumeTable
from tangram.snapshot.values.rules import Rules

_LEAST_PRIORITY = -(1 << 31) + 1


class Reading(msgspec.Struct, frozen=True, gc=False, eq=False):
    """What a pod says."""

    shape: int
    """-1: its request cannot be read."""
    members: tuple[int, ...]
    """Groups of pods that others have rules about and that it adds to."""
    member: Member | None
    """Its place in a gang; None: it stands alone, or is being deleted."""
    fault: str
    """Why its request, or what it says of its gang, cannot be read; empty: it can."""
    reach: Reach
    """What its volumes ask of a node, or which it has to wait for."""


_ROOM = LARGEST_ANNOTATIONS - len(names.GPUS)
"""Bytes that the record of its devices may have in a pod that has no annotations."""
_WIDEST = 4
"""Bytes of a character at most."""


def _too_long(notes: Mapping[str, str], record: int) -> str:
    """Why the record of a pod's devices, of so many bytes, would make its annotations too long; empty: it would not."""
    characters = sum(map(len, notes)) + sum(map(len, notes.values())) if notes else 0
    if _WIDEST * characters + record < LARGEST_ANNOTATIONS:
        return ""
    there = annotation_bytes({key: value for key, value in notes.items() if key != names.GPUS})
    record += len(names.GPUS)
    if there + record <= LARGEST_ANNOTATIONS:
        return ""
    return (
        f"its annotations have {there} bytes and the record of its GPUs has up to {record}; "
        f"allowed: {LARGEST_ANNOTATIONS} together"
    )


class PodReader:
    """Reads pods; equal requests get one shape."""

    def __init__(
        self,
        shapes: ShapeTable,
        relations: RelationTable,
        volumes: VolumeTable,
        gangs: GangTable,
        domains: DomainTable,
    ) -> None:
        self._shapes, self._relations, self._volumes = shapes, relations, volumes
        self._gangs, self._domains = gangs, domains

    def read(self, pod: Pod) -> Reading:
        """What the pod says now."""
        member, fault = _member(pod.metadata) if names.GANG in pod.metadata.labels else (None, "")
        rules: Rules | None = None
        members: tuple[int, ...] = ()
        if self._relations.concern(pod):
            try:
                rules = self._relations.rules_of(pod)
            except ValueError as error:
                return Reading(-1, (), member, str(error), NO_LIMITS)
            members = self._relations.members_now(pod, rules)
        bound = bool(pod.spec.node_name)
        reach = self._volumes.reach(pod) if pod.spec.volumes else NO_LIMITS
        shape = self._shapes.row_of_amounts(pod, reach) if bound else self._shapes.row_of(pod, rules, reach)
        if isinstance(shape, str):
            return Reading(-1, members, member, shape, reach)
        if not _LEAST_PRIORITY <= pod.spec.priority <= -_LEAST_PRIORITY:
            return Reading(-1, members, member, f"priority {pod.spec.priority} is not allowed", reach)
        return Reading(shape, members, member, fault, reach)

    def placed(self, pod: Pod, shape: int) -> int:
        """The shape of a pod that waited with this one and has got a place; it asks for what it did."""
        if not pod.spec.volumes and pod.spec.resources is None:
            return self._shapes.placed(shape, pod)
        found = self._shapes.row_of_amounts(pod, self._volumes.reach(pod) if pod.spec.volumes else NO_LIMITS)
        return shape if isinstance(found, str) else found

    def member(self, metadata: Metadata) -> Member | None:
        """The place in a gang of a pod of which nothing but its metadata can be read; None: it has none."""
        return _member(metadata)[0]

    def obstacle(self, pod: Pod, reading: Reading) -> tuple[Reason, str] | None:
        """Why a pod that was read so cannot be placed now whatever is free; None: it can."""
        spec, fault, member = pod.spec, reading.fault, reading.member
        if reading.shape >= 0:
            request = self._shapes.requests[reading.shape]
            if self._shapes.arrays.leaf.item(reading.shape) < 0:
                known = self._shapes.queues.known()
                named_by = self._shapes.access.named_by_namespace(request.queue, pod.metadata.namespace)
                which = f", which {named_by} names," if named_by else ""
                return Reason.QUEUE_UNKNOWN, f"queue {request.queue!r}{which} does not exist; allowed: {known}"
            if barred := self._shapes.access.obstacle(pod.metadata, request):
                return barred
            if reading.reach.waits_for:
                return Reason.VOLUME_NOT_READY, reading.reach.waits_for
            if not fault and request.record_bytes > (0 if pod.metadata.annotations else _ROOM):
                fault = _too_long(pod.metadata.annotations, request.record_bytes)
        if member is not None and not fault:
            fault = self._domains.unknown(member) or self._gangs.replaced(member)
        if fault:
            return Reason.INVALID_REQUEST, fault
        # Its container could not start, or would start as it must not.
        if spec.resource_claims:
            return Reason.FIELD_NOT_SUPPORTED, HELD["resourceClaims"]
        return None if spec.scheduling_group is None else (Reason.FIELD_NOT_SUPPORTED, HELD["schedulingGroup"])


def _member(metadata: Metadata) -> tuple[Member | None, str]:
    """(the pod's place in a gang, why what it says of the gang cannot be read); a pod that leaves has none."""
    if not metadata.labels or metadata.deletion_timestamp:
        return None, ""
    try:
        return read_member(metadata), ""
    except ValueError as error:
        return None, str(error)
