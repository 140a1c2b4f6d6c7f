"""A pod's text as rows of the tables: everything that may fail happens here, before anything is counted."""

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
from tangram.snapshot.requests.amounts import amounts_key
from tangram.snapshot.requests.reach import NO_LIMITS, Reach
from tangram.snapshot.requests.request import Request
from tangram.snapshot.requests.volumes import VolumeTable

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
    unsupported: str = ""
    """What it asks for that the scheduler does not do; empty: nothing."""


_WIDEST = 4
"""Bytes of a character at most."""


def _too_long(pod: Pod, request: Request) -> str:
    """Why the record of its devices would make a pod's annotations too long; empty: it would not."""
    record, notes = request.record_bytes, pod.metadata.annotations
    if not record:
        return ""
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


def _unsupported(pod: Pod) -> str:
    """What a pod asks for that would not be done: its container could not start, or would start as it must not."""
    if pod.spec.resource_claims:
        return HELD["resourceClaims"]
    return HELD["schedulingGroup"] if pod.spec.scheduling_group is not None else ""


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
        member, fault = _member(pod.metadata)
        try:
            rules = self._relations.rules_of(pod)
        except ValueError as error:
            return Reading(-1, (), member, str(error), NO_LIMITS)
        members = self._relations.members_now(pod, rules) if rules is not None else ()
        bound = bool(pod.spec.node_name)
        reach = self._volumes.reach(pod) if pod.spec.volumes else NO_LIMITS
        shape = self._shapes.row_of_amounts(pod, reach) if bound else self._shapes.row_of(pod, rules, reach)
        if isinstance(shape, str):
            return Reading(-1, members, member, shape, reach)
        if not _LEAST_PRIORITY <= pod.spec.priority <= -_LEAST_PRIORITY:
            return Reading(-1, members, member, f"priority {pod.spec.priority} is not allowed", reach)
        fault = fault or _too_long(pod, self._shapes.requests[shape])
        return Reading(shape, members, member, fault, reach, _unsupported(pod))

    def placed(self, pod: Pod, shape: int) -> int:
        """The shape of a pod that waited with this one and has got a place."""
        if not pod.spec.volumes and not amounts_key(pod):
            return self._shapes.placed(shape, pod)
        found = self._shapes.row_of_amounts(pod, self._volumes.reach(pod) if pod.spec.volumes else NO_LIMITS)
        return shape if isinstance(found, str) else found

    def member(self, metadata: Metadata) -> Member | None:
        """The place in a gang of a pod of which nothing but its metadata can be read; None: it has none."""
        return _member(metadata)[0]

    def obstacle(self, reading: Reading) -> tuple[Reason, str] | None:
        """Why a pod that says so cannot be placed now whatever is free; None: it can."""
        fault, member, shape = reading.fault, reading.member, reading.shape
        if member is not None and not fault:
            fault = self._domains.unknown(member) or self._gangs.replaced(member)
        if shape >= 0 and self._shapes.arrays.leaf.item(shape) < 0:
            queue, known = self._shapes.requests[shape].queue, self._shapes.queues.known()
            return Reason.QUEUE_UNKNOWN, f"queue {queue!r} does not exist; allowed: {known}"
        if shape >= 0 and reading.reach.waits_for:
            return Reason.VOLUME_NOT_READY, reading.reach.waits_for
        if reading.unsupported and not fault:
            return Reason.FIELD_NOT_SUPPORTED, reading.unsupported
        return (Reason.INVALID_REQUEST, fault) if fault else None


def _member(metadata: Metadata) -> tuple[Member | None, str]:
    """(the pod's place in a gang, why what it says of the gang cannot be read); a pod that leaves has none."""
    if not metadata.labels or metadata.deletion_timestamp:
        return None, ""
    try:
        return read_member(metadata), ""
    except ValueError as error:
        return None, str(error)
