"""What tangram reads of volumes, claims to them, storage classes and storage drivers: see ``objects``."""

import msgspec

from tangram.api.objects import LabelSelector, Metadata, NodeSelector, Resources, Struct

ONE_POD = "ReadWriteOncePod"
"""The access mode of a claim that one pod may use at a time."""


class ClaimSpec(Struct, frozen=True):
    """What a claim asks for."""

    volume_name: str = ""
    storage_class_name: str | None = None
    access_modes: tuple[str, ...] = ()
    resources: Resources = Resources()
    selector: LabelSelector | None = None
    """Labels that an existing volume must have."""
    volume_mode: str = "Filesystem"
    volume_attributes_class_name: str = ""


class ClaimStatus(Struct, frozen=True):
    """How a claim is."""

    phase: str = "Pending"


class PersistentVolumeClaim(Struct, frozen=True):
    """A claim to storage."""

    metadata: Metadata
    spec: ClaimSpec = ClaimSpec()
    status: ClaimStatus = ClaimStatus()


class VolumeNodeAffinity(Struct, frozen=True):
    """The nodes that can reach a volume."""

    required: NodeSelector | None = None


class ObjectReference(Struct, frozen=True):
    """An object, by name; ``uid`` empty: whichever has that name."""

    namespace: str = ""
    name: str = ""
    uid: str = ""


class DriverVolume(Struct, frozen=True):
    """What a storage driver (CSI) calls a volume."""

    driver: str = ""
    volume_handle: str = ""


class VolumeSpec(Struct, frozen=True):
    """What matters of a volume."""

    node_affinity: VolumeNodeAffinity | None = None
    storage_class_name: str = ""
    access_modes: tuple[str, ...] = ()
    capacity: dict[str, str | int | float] = msgspec.field(default_factory=dict)
    volume_mode: str = "Filesystem"
    volume_attributes_class_name: str = ""
    claim_ref: ObjectReference | None = None
    """The claim that has it, or that it is kept for."""
    csi: DriverVolume | None = None


class VolumeStatus(Struct, frozen=True):
    """How a volume is."""

    phase: str = ""


class PersistentVolume(Struct, frozen=True):
    """A volume."""

    metadata: Metadata
    spec: VolumeSpec = VolumeSpec()
    status: VolumeStatus = VolumeStatus()


class DriverLimit(Struct, frozen=True):
    """How many volumes of a driver a node can have; None: as many as one likes."""

    count: int | None = None


class DriverOnNode(Struct, frozen=True):
    """A storage driver on a node."""

    name: str
    allocatable: DriverLimit | None = None


class NodeDrivers(Struct, frozen=True):
    """The storage drivers of a node."""

    drivers: tuple[DriverOnNode, ...] | None = ()
    """None: the node has none. Its kubelet writes an empty list so, as the field is not left out where it is empty."""

    @property
    def limits(self) -> dict[str, int]:
        """How many volumes the node can have of each driver that says so."""
        counts = {one.name: one.allocatable.count for one in self.drivers or () if one.allocatable is not None}
        return {name: count for name, count in counts.items() if count is not None}


class CSINode(Struct, frozen=True):
    """What a node's storage drivers say of it; it has the node's name."""

    metadata: Metadata
    spec: NodeDrivers = NodeDrivers()


class TopologyRequirement(Struct, frozen=True):
    """One label and the values that it may have."""

    key: str
    values: tuple[str, ...] = ()


class TopologyTerm(Struct, frozen=True):
    """Requirements that must all hold."""

    match_label_expressions: tuple[TopologyRequirement, ...] = ()


class StorageClass(Struct, frozen=True):
    """How volumes of a class come to be, and where: one of the terms must hold, where there are any."""

    metadata: Metadata
    volume_binding_mode: str = "Immediate"
    provisioner: str = ""
    allowed_topologies: tuple[TopologyTerm, ...] = ()
