"""Where volumes can be reached, as node selectors."""

from tangram.api.objects import NodeSelector, NodeSelectorTerm, Requirement
from tangram.api.storage import PersistentVolume, StorageClass
from tangram.snapshot.requests import existing

_PLACES = {
    "topology.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region": "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone": "topology.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region": "topology.kubernetes.io/region",
}
"""Labels of volumes that say where they are -> the label of the nodes there."""
HOST = "kubernetes.io/hostname"
_SEVERAL = "__"
"""Stands between the zones of a volume that is in more than one."""


def allowed_by(made_by: StorageClass) -> NodeSelector | None:
    """The nodes for which a class makes volumes; None: all of them."""
    terms = tuple(map(existing.topology_term, made_by.allowed_topologies))
    return NodeSelector(terms) if terms else None


def selectors_of(volume: PersistentVolume | None, made_by: StorageClass) -> list[NodeSelector]:
    """What a claim's volume asks of a node, or its class, while the volume is still to be made (None)."""
    affinity = volume.spec.node_affinity if volume is not None else None
    required = affinity.required if affinity is not None else None
    place = place_of(volume) if volume is not None else allowed_by(made_by)
    return [one for one in (required, place) if one is not None]


def place_of(volume: PersistentVolume) -> NodeSelector | None:
    """The nodes in the zone and region of a volume, and those that say nothing of where they are."""
    labels = volume.metadata.labels
    inside = tuple(
        Requirement(_PLACES[key], "In", tuple(labels[key].split(_SEVERAL))) for key in _PLACES if key in labels
    )
    if not inside:
        return None
    nowhere = tuple(Requirement(key, "DoesNotExist") for key in _PLACES)
    return NodeSelector((NodeSelectorTerm(inside), NodeSelectorTerm(nowhere)))


def only(node: str) -> NodeSelector:
    """The node of that name."""
    return NodeSelector((NodeSelectorTerm(match_fields=(Requirement("metadata.name", "In", (node,)),)),))


def hosts_of(selector: NodeSelector) -> set[str] | None:
    """The hosts of which all nodes are that match; None: it does not say so."""
    found = set[str]()
    for term in selector.node_selector_terms:
        named = [one.values for one in term.match_expressions if one.key == HOST and one.operator == "In"]
        if not named:
            return None
        found.update(named[0])
    return found
