"""Persistent volumes: which nodes the claims of a pod allow, and which claims it still waits for.

Nothing is known until ``start`` is called: then all claims, volumes and classes have been listed once, and a claim that
was not listed does not exist. Before that, pods with claims wait.

A volume that is made only once its pod's node is known is asked for by an annotation on the claim. From then on the pod
can go nowhere else, until the volume is there or whoever makes it takes the annotation away: then it could not be made,
and a node is chosen anew. This is how kube-scheduler goes about it.
"""

from collections.abc import Collection, Container
from dataclasses import dataclass
from typing import TypeVar

from tangram.api.objects import (
    NodeSelector,
    NodeSelectorTerm,
    PersistentVolume,
    PersistentVolumeClaim,
    Pod,
    Requirement,
    StorageClass,
)
from tangram.snapshot.requests.provisioning import BIND_COMPLETED, SELECTED_NODE, provisioned

CLAIM_ANNOTATIONS = (SELECTED_NODE, BIND_COMPLETED)
"""What is read of a claim's annotations."""
_NOBODY = "kubernetes.io/no-provisioner"
_DELAYED = "WaitForFirstConsumer"
_PLACES = {
    "topology.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region": "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
}
"""Labels of volumes that say where they are -> the label of the nodes there."""
_SEVERAL = "__"
"""Stands between the zones of a volume that is in more than one."""

K = TypeVar("K")
V = TypeVar("V")
ClaimKey = tuple[str, str]
"""(namespace, name)."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What a pod's volumes ask of a node."""

    selectors: tuple[NodeSelector, ...] = ()
    """One for each volume that not all nodes can reach."""
    waits_for: str = ""
    """The sentence that says why the pod has to wait for a volume; empty: it need not."""
    being_made: bool = False
    """Whether a volume is made only once the pod's node is known, and is not there yet."""
    made_for: str = ""
    """The node for which such a volume is being made; empty: none has been chosen."""
    to_ask: tuple[str, ...] = ()
    """Names of the claims for which a node has yet to be chosen."""


NO_LIMITS = Reach()


class VolumeTable:
    """Claims, volumes and classes by name."""

    def __init__(self, nodes: Container[str]) -> None:
        """``nodes``: the names of those that are there, whenever they are asked for."""
        self._nodes = nodes
        self.started = False
        self._claims: dict[ClaimKey, PersistentVolumeClaim] = {}
        self._volumes: dict[str, PersistentVolume] = {}
        self._classes: dict[str, StorageClass] = {}
        self._ignored = False
        self._failed: dict[ClaimKey, str] = {}
        """Claim -> the node for which its volume could not be made, the last time."""
        self._chosen: dict[ClaimKey, str] = {}
        """Claim -> the node that has been chosen for it, while its volume is not there."""

    def start(self) -> None:
        """From now on what has not been listed does not exist."""
        self.started = True

    def ignore(self) -> None:
        """Nothing can be learned of volumes: take pods as if they had none."""
        self._ignored = True

    def put_claim(self, key: ClaimKey, claim: PersistentVolumeClaim | None) -> None:
        """Take in a claim; None: it is gone."""
        before = _chosen_for(self._claims.get(key))
        if claim is None or _chosen_for(claim) or _is_bound(claim):
            self._failed.pop(key, None)
        elif before:
            self._failed[key] = before
        _put(self._claims, key, claim)
        chosen = "" if claim is None or _is_bound(claim) else _chosen_for(claim)
        _put(self._chosen, key, chosen or None)

    def concern(self, nodes: Container[str]) -> bool:
        """Whether one of the nodes has been chosen for a volume that is not there."""
        return any(node in nodes for node in self._chosen.values())

    def put_volume(self, name: str, volume: PersistentVolume | None) -> None:
        """Take in a volume; None: it is gone."""
        _put(self._volumes, name, volume)

    def put_class(self, name: str, found: StorageClass | None) -> None:
        """Take in a storage class; None: it is gone."""
        _put(self._classes, name, found)

    def reach(self, pod: Pod) -> Reach:
        """What the pod's volumes ask of a node, or what it has to wait for."""
        keys = claims_of(pod) if pod.spec.volumes and not self._ignored else []
        if not keys:
            return NO_LIMITS
        if not self.started:
            return Reach(waits_for=f"claim {keys[0][1]} is not known yet")
        selectors, to_ask, chosen = list[NodeSelector](), list[str](), set[str]()
        for key in keys:
            claim = self._claims.get(key)
            why = self._not_ready(key, claim)
            if claim is None or why:
                return Reach(waits_for=why)
            selectors += self._selectors(claim)
            if self._is_made_late(claim):
                node = _chosen_for(claim)
                (chosen.add(node) if node else to_ask.append(key[1]))
                selectors += [_only(node)] if node else []
        for node in sorted(chosen):
            if node not in self._nodes:
                return Reach(waits_for=f"its volume is to be made for node {node}, which does not exist")
        made_for = min(chosen, default="")
        return Reach(tuple(selectors), "", bool(chosen or to_ask), made_for, tuple(to_ask))

    def make(self, pod: Pod, node: str) -> None:
        """Let those volumes of the pod be there, for the node, that are made only once it is chosen: a forecast."""
        for key in claims_of(pod):
            claim = self._claims.get(key)
            if claim is not None and self._is_made_late(claim):
                bound, volume = provisioned(claim, _only(node))
                self.put_volume(volume.metadata.name, volume)
                self.put_claim(key, bound)

    def asked_anew(self, pod: Pod) -> None:
        """The volumes of a pod are to be made; what became of earlier attempts is of no more interest."""
        for key in claims_of(pod):
            self._failed.pop(key, None)

    def failed_for(self, pod: Pod, nodes: Collection[str]) -> str:
        """The sentence that says which volume of the pod could not be made for one of the nodes; empty: none."""
        failed = [(key[1], node) for key in claims_of(pod) if (node := self._failed.get(key)) in nodes]
        return "the volume of claim {} could not be made for node {}".format(*failed[0]) if failed else ""

    def _selectors(self, claim: PersistentVolumeClaim) -> list[NodeSelector]:
        """What the claim's volume asks of a node, or its class, while the volume is still to be made."""
        volume = self._volumes.get(claim.spec.volume_name)
        if volume is None:
            made_by = self._classes.get(claim.spec.storage_class_name or "")
            return [_allowed(made_by)] if made_by is not None and made_by.allowed_topologies else []
        affinity = volume.spec.node_affinity
        found = [affinity.required] if affinity is not None and affinity.required is not None else []
        place = _place(volume)
        return [*found, place] if place is not None else found

    def _not_ready(self, key: ClaimKey, claim: PersistentVolumeClaim | None) -> str:
        name = f"claim {key[1]}"
        if claim is None:
            return f"{name} does not exist (yet)"
        if claim.status.phase == "Lost":
            return f"{name} has lost its volume {claim.spec.volume_name}"
        if claim.metadata.deletion_timestamp:
            return f"{name} is being deleted"
        if _is_bound(claim):
            known = claim.spec.volume_name in self._volumes
            return "" if known else f"{name} is bound to volume {claim.spec.volume_name}, which does not exist"
        if self._is_made_late(claim):
            return ""
        known_class = self._classes.get(claim.spec.storage_class_name or "")
        if known_class is not None and self._is_delayed(claim) and known_class.provisioner == _NOBODY:
            return (
                f"{name} is not bound, and nobody makes volumes of class {known_class.metadata.name}: bind it by hand"
            )
        return f"{name} waits for its volume"

    def _is_made_late(self, claim: PersistentVolumeClaim) -> bool:
        """Whether the volume is not there, and is made only once a node is chosen."""
        known = self._classes.get(claim.spec.storage_class_name or "")
        if known is None or known.provisioner == _NOBODY or known.volume_binding_mode != _DELAYED:
            return False
        return not _is_bound(claim) and (not claim.spec.volume_name or bool(_chosen_for(claim)))

    def _is_delayed(self, claim: PersistentVolumeClaim) -> bool:
        known = self._classes.get(claim.spec.storage_class_name or "")
        return known is not None and known.volume_binding_mode == _DELAYED and not claim.spec.volume_name


def claims_of(pod: Pod) -> list[ClaimKey]:
    """The claims that the pod names; an ephemeral volume's claim is named after pod and volume."""
    namespace, found = pod.metadata.namespace, []
    for volume in pod.spec.volumes:
        if volume.persistent_volume_claim is not None:
            found.append((namespace, volume.persistent_volume_claim.claim_name))
        elif volume.ephemeral is not None:
            found.append((namespace, f"{pod.metadata.name}-{volume.name}"))
    return found


def _allowed(made_by: StorageClass) -> NodeSelector:
    """The nodes for which a class makes volumes."""
    return NodeSelector(
        tuple(
            NodeSelectorTerm(tuple(Requirement(one.key, "In", one.values) for one in term.match_label_expressions))
            for term in made_by.allowed_topologies
        )
    )


def _place(volume: PersistentVolume) -> NodeSelector | None:
    """The nodes in the zone and region of a volume, and those that say nothing of where they are."""
    labels = volume.metadata.labels
    inside = tuple(
        Requirement(_PLACES[key], "In", tuple(labels[key].split(_SEVERAL))) for key in _PLACES if key in labels
    )
    if not inside:
        return None
    nowhere = tuple(Requirement(key, "DoesNotExist") for key in _PLACES)
    return NodeSelector((NodeSelectorTerm(inside), NodeSelectorTerm(nowhere)))


def _is_bound(claim: PersistentVolumeClaim) -> bool:
    return bool(claim.spec.volume_name) and BIND_COMPLETED in claim.metadata.annotations


def _chosen_for(claim: PersistentVolumeClaim | None) -> str:
    """The node for which the claim's volume is being made; empty: none has been chosen."""
    return claim.metadata.annotations.get(SELECTED_NODE, "") if claim is not None else ""


def _only(node: str) -> NodeSelector:
    """The node of that name."""
    return NodeSelector((NodeSelectorTerm(match_fields=(Requirement("metadata.name", "In", (node,)),)),))


def _put(table: dict[K, V], key: K, value: V | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
