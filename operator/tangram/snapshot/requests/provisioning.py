"""What a storage driver makes of a claim whose volume waits for its first consumer: values in, values out."""

from msgspec.structs import replace

from tangram.api.objects import Metadata, NodeSelector, Pod
from tangram.api.storage import (
    ClaimStatus,
    ObjectReference,
    PersistentVolume,
    PersistentVolumeClaim,
    VolumeNodeAffinity,
    VolumeSpec,
)

SELECTED_NODE = "volume.kubernetes.io/selected-node"
"""Annotation on a claim by which a scheduler asks for a volume that the node can reach."""
BIND_COMPLETED = "pv.kubernetes.io/bind-completed"
"""Annotation on a claim that has its volume."""
BOUND_BY = "pv.kubernetes.io/bound-by-controller"
"""Annotation on a volume that says that its claim was chosen by Kubernetes, and not by a person."""


def chosen(found: PersistentVolumeClaim, node: str | None) -> PersistentVolumeClaim:
    """The claim with a node chosen for it, or with the choice given back."""
    notes = {key: value for key, value in found.metadata.annotations.items() if key != SELECTED_NODE}
    if node is not None:
        notes[SELECTED_NODE] = node
    return replace(found, metadata=replace(found.metadata, annotations=notes))


def provisioned(
    found: PersistentVolumeClaim, reachable: NodeSelector | None
) -> tuple[PersistentVolumeClaim, PersistentVolume]:
    """The claim with its volume, which only these nodes can reach; None: all of them."""
    name = f"pv-{found.metadata.namespace}-{found.metadata.name}"
    made = PersistentVolume(Metadata(name, uid=name), VolumeSpec(VolumeNodeAffinity(reachable)))
    return given(found, made)


def given(found: PersistentVolumeClaim, volume: PersistentVolume) -> tuple[PersistentVolumeClaim, PersistentVolume]:
    """The claim and the volume as they are once the claim has it."""
    metadata = found.metadata
    mine = ObjectReference(namespace=metadata.namespace, name=metadata.name)
    bound = replace(
        found,
        metadata=replace(metadata, annotations={**metadata.annotations, BIND_COMPLETED: "yes"}),
        spec=replace(found.spec, volume_name=volume.metadata.name),
        status=ClaimStatus("Bound"),
    )
    return bound, replace(volume, spec=replace(volume.spec, claim_ref=mine))


def is_of(claim: PersistentVolumeClaim, pod: Pod) -> bool:
    """Whether the claim was made for the pod: whoever has made one of that name himself has other data in it."""
    return any(one.controller and one.uid == pod.metadata.uid for one in claim.metadata.owner_references)


def is_bound(claim: PersistentVolumeClaim) -> bool:
    """Whether the claim has its volume."""
    return bool(claim.spec.volume_name) and BIND_COMPLETED in claim.metadata.annotations


def chosen_node(claim: PersistentVolumeClaim | None) -> str:
    """The node for which the claim's volume is being made; empty: none has been chosen."""
    return claim.metadata.annotations.get(SELECTED_NODE, "") if claim is not None else ""
