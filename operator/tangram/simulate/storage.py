"""Volumes of a simulated cluster: a driver makes them for the node that a scheduler has chosen, or does not.

A claim of a class that waits for its first consumer gets its volume some seconds after its node is chosen, and that
volume can be reached from that node only. A driver without room gives the choice back: another node may be chosen.
Local volumes exist from the beginning: whoever chooses one for a claim writes that on the volume, which is free again
some time after the claim's last pod has gone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from tangram.api.objects import Metadata, Node, NodeSelector, NodeSelectorTerm, Pod, Requirement, Resources
from tangram.api.storage import (
    ClaimSpec,
    CSINode,
    DriverLimit,
    DriverOnNode,
    DriverVolume,
    NodeDrivers,
    ObjectReference,
    PersistentVolume,
    PersistentVolumeClaim,
    StorageClass,
    VolumeNodeAffinity,
    VolumeSpec,
    VolumeStatus,
)
from tangram.snapshot.requests.provisioning import provisioned
from tangram.snapshot.requests.touched import ClaimKey, claims_of

HOSTNAME = "kubernetes.io/hostname"
DRIVER = "driver.example.com"


@dataclass(frozen=True, slots=True)
class Driver:
    """How the volumes of a class come to be."""

    seconds: int | None = 1
    """From the choice of a node to the volume; None: it never comes."""
    refusals: int = 0
    """How often a claim's node is given back before a volume is made; each claim counts by itself."""
    local: bool = False
    """Whether nobody makes volumes of the class: a claim gets one that exists, and keeps it for its pods alone."""


def delayed_class(name: str, *, local: bool = False) -> StorageClass:
    """A class whose volumes wait for their first consumer."""
    return StorageClass(Metadata(name), "WaitForFirstConsumer", "kubernetes.io/no-provisioner" if local else DRIVER)


def claim(namespace: str, name: str, storage_class: str, size: str = "") -> PersistentVolumeClaim:
    """A claim without a volume."""
    asked = Resources({"storage": size} if size else {})
    return PersistentVolumeClaim(
        Metadata(name, namespace, f"claim-{namespace}-{name}"), ClaimSpec("", storage_class, resources=asked)
    )


def made_here(found: PersistentVolumeClaim, node: Node) -> tuple[PersistentVolumeClaim, PersistentVolume]:
    """The claim with its volume, which only the node can reach."""
    bound, volume = provisioned(found, _only(node))
    handle = DriverVolume(DRIVER, volume.metadata.name)
    return bound, replace(volume, spec=replace(volume.spec, csi=handle))


def local_volume(name: str, storage_class: str, node: Node, size: str) -> PersistentVolume:
    """A volume that exists and is free, and that only the node can reach."""
    spec = VolumeSpec(VolumeNodeAffinity(_only(node)), storage_class, capacity={"storage": size})
    return PersistentVolume(Metadata(name, uid=name), spec, VolumeStatus("Available"))


def promised(volume: PersistentVolume, to: PersistentVolumeClaim) -> PersistentVolume:
    """The volume that has been chosen for the claim."""
    mine = ObjectReference(to.metadata.namespace, to.metadata.name, to.metadata.uid)
    return replace(volume, spec=replace(volume.spec, claim_ref=mine))


def freed(volume: PersistentVolume) -> PersistentVolume:
    """The volume that is nobody's again."""
    return replace(volume, spec=replace(volume.spec, claim_ref=None), status=VolumeStatus("Available"))


def limits(node: str, count: int) -> CSINode:
    """How many volumes that the driver of ``delayed_class`` makes the node can have."""
    return CSINode(Metadata(node), NodeDrivers((DriverOnNode(DRIVER, DriverLimit(count)),)))


def _only(node: Node) -> NodeSelector:
    here = Requirement(HOSTNAME, "In", (node.metadata.labels.get(HOSTNAME, node.metadata.name),))
    return NodeSelector((NodeSelectorTerm((here,)),))


def without_volume(pod: Pod, claims: Mapping[ClaimKey, PersistentVolumeClaim]) -> list[ClaimKey]:
    """The pod's claims that have no volume."""
    return [key for key in claims_of(pod) if key not in claims or not claims[key].spec.volume_name]


def out_of_reach(
    pod: Pod,
    node: Node,
    claims: Mapping[ClaimKey, PersistentVolumeClaim],
    volumes: Mapping[str, PersistentVolume],
) -> list[str]:
    """Names of the pod's volumes that the node cannot reach: ones that ``made_here`` made for another."""
    found = []
    for key in claims_of(pod):
        volume = volumes.get(claims[key].spec.volume_name) if key in claims else None
        if volume is None or volume.spec.node_affinity is None or volume.spec.node_affinity.required is None:
            continue
        terms = volume.spec.node_affinity.required.node_selector_terms
        here = node.metadata.labels.get(HOSTNAME, node.metadata.name)
        if not any(here in clause.values for term in terms for clause in term.match_expressions):
            found.append(volume.metadata.name)
    return found


def attached(
    pod: Pod, claims: Mapping[ClaimKey, PersistentVolumeClaim], volumes: Mapping[str, PersistentVolume]
) -> set[str]:
    """Names of the pod's volumes that the driver of ``delayed_class`` has made."""
    found = (volumes.get(claims[key].spec.volume_name) for key in claims_of(pod) if key in claims)
    return {one.metadata.name for one in found if one is not None and one.spec.csi is not None}
