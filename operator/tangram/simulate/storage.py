"""Volumes of a simulated cluster: a driver makes them for the node that a scheduler has chosen, or does not.

A claim of a class that waits for its first consumer gets its volume some seconds after its node is chosen, and that
volume can be reached from that node only. A driver without room gives the choice back: another node may be chosen.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tangram.api.objects import Metadata, Node, NodeSelector, NodeSelectorTerm, Pod, Requirement
from tangram.api.storage import ClaimSpec, PersistentVolume, PersistentVolumeClaim, StorageClass
from tangram.snapshot.requests.provisioning import provisioned
from tangram.snapshot.requests.touched import ClaimKey
from tangram.snapshot.requests.volumes import claims_of

HOSTNAME = "kubernetes.io/hostname"


@dataclass(frozen=True, slots=True)
class Driver:
    """How the volumes of a class come to be."""

    seconds: int | None = 1
    """From the choice of a node to the volume; None: it never comes."""
    refusals: int = 0
    """How often a claim's node is given back before a volume is made; each claim counts by itself."""


def delayed_class(name: str) -> StorageClass:
    """A class whose volumes wait for their first consumer."""
    return StorageClass(Metadata(name), "WaitForFirstConsumer", "driver.example.com")


def claim(namespace: str, name: str, storage_class: str, uid: str = "") -> PersistentVolumeClaim:
    """A claim without a volume."""
    return PersistentVolumeClaim(
        Metadata(name, namespace, uid or f"claim-{namespace}-{name}"), ClaimSpec("", storage_class)
    )


def made_here(found: PersistentVolumeClaim, node: Node) -> tuple[PersistentVolumeClaim, PersistentVolume]:
    """The claim with its volume, which only the node can reach."""
    here = Requirement(HOSTNAME, "In", (node.metadata.labels.get(HOSTNAME, node.metadata.name),))
    return provisioned(found, NodeSelector((NodeSelectorTerm((here,)),)))


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
