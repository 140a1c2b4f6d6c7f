"""Volumes that exist and belong to nobody yet: which of them suit a claim, and on which nodes.

A claim of a class that waits for its first consumer is bound to such a volume by the scheduler, when it has chosen a
node (static local volumes above all). Which one is kube-scheduler's rule: one that names the claim already, else the
smallest that is large enough, of the claim's class, access modes, volume mode, attributes class and labels.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

from tangram import units
from tangram.api.objects import Node, NodeSelector, NodeSelectorTerm, Requirement
from tangram.api.storage import PersistentVolume, PersistentVolumeClaim, StorageClass, TopologyTerm
from tangram.snapshot.requests.matching import clause_holds, value_matches

Pool = Sequence[PersistentVolume]
_AVAILABLE = "Available"
_NOBODY = "kubernetes.io/no-provisioner"
_EVERYWHERE = NodeSelector()
_LARGEST_BYTES = 1 << 62


def makes_volumes(kind: StorageClass) -> bool:
    """Whether somebody makes volumes of the class."""
    return kind.provisioner != _NOBODY


def size_of(quantities: Mapping[str, object]) -> int:
    """Bytes of storage; what cannot be read is larger than anything."""
    return _bytes(str(quantities.get("storage", 0)))


@lru_cache(maxsize=4096)
def _bytes(quantity: str) -> int:
    """Pure, and the same few sizes are read of thousands of volumes for each choice."""
    try:
        return units.quantity(quantity, round_up=True)
    except ValueError:
        return _LARGEST_BYTES


def suitable(claim: PersistentVolumeClaim, volumes: Iterable[PersistentVolume]) -> list[PersistentVolume]:
    """The volumes of its class that the claim may get, the one that is bound first where it may choose."""
    wanted, found = size_of(claim.spec.resources.requests), list[PersistentVolume]()
    for volume in volumes:
        spec, mine = volume.spec, _names(volume, claim)
        if spec.storage_class_name != (claim.spec.storage_class_name or "") or (
            spec.claim_ref is not None and not mine
        ):
            continue
        if (
            size_of(spec.capacity) < wanted
            or spec.volume_mode != claim.spec.volume_mode
            or spec.volume_attributes_class_name != claim.spec.volume_attributes_class_name
            or volume.metadata.deletion_timestamp
        ):
            continue
        if mine:
            return [volume]
        if volume.status.phase == _AVAILABLE and _is_free(volume, claim):
            found.append(volume)
    return sorted(found, key=lambda one: (size_of(one.spec.capacity), one.metadata.name))


def likeness(claim: PersistentVolumeClaim) -> tuple[object, ...]:
    """What decides which volumes suit a claim that none of them names: equal for claims that are alike."""
    spec = claim.spec
    asked = spec.resources.requests.get("storage"), spec.access_modes, spec.volume_mode
    return spec.storage_class_name, *asked, spec.volume_attributes_class_name, clauses_of(claim)


def is_promised(claim: PersistentVolumeClaim, pool: Pool) -> bool:
    """Whether the one volume of the pool names the claim already: it only has to be bound."""
    return len(pool) == 1 and _names(pool[0], claim)


def selectors(claims: Sequence[tuple[Pool, StorageClass]]) -> list[NodeSelector] | None:
    """Which nodes suit claims that a pod has together, each with its pool and class, the smallest claim first: what all
    of these select.

    Empty: all nodes do. None: none does. Among claims that may get the same volumes those of different node affinities
    are not mixed: a node that could serve one claim by a volume of its own and another by one of its zone counts as
    unfit then.
    """
    found = list[NodeSelector]()
    for part in _apart(claims):
        terms = _alternatives(part)
        if terms is None:
            return None
        found += [NodeSelector(tuple(terms))] if terms else []
    return found


def _apart(claims: Sequence[tuple[Pool, StorageClass]]) -> Iterator[list[tuple[Pool, StorageClass]]]:
    """The claims, those together that may get the same volumes, also by way of others."""
    parts: list[tuple[set[str], list[int]]] = []
    for number, (pool, _) in enumerate(claims):
        names, mine = {volume.metadata.name for volume in pool}, [number]
        for part in [one for one in parts if not names.isdisjoint(one[0])]:
            parts.remove(part)
            names, mine = names | part[0], part[1] + mine
        parts.append((names, mine))
    for _, numbers in parts:
        yield [claims[number] for number in sorted(numbers)]


def _alternatives(claims: Sequence[tuple[Pool, StorageClass]]) -> list[NodeSelectorTerm] | None:
    """Which nodes suit claims that may get the same volumes; as ``selectors``, but the terms."""
    if all(makes_volumes(kind) and not kind.allowed_topologies for _, kind in claims):
        return []
    affinities = {affinity: None for pool, _ in claims for affinity in map(affinity_of, pool)}
    found = list[NodeSelectorTerm]()
    for affinity in (*affinities, None):
        terms = _where(claims, affinity)
        if terms == ():
            return []
        found += terms or ()
    return list(_merged(found)) or None


def is_available(volume: PersistentVolume) -> bool:
    """Whether a claim may get the volume that no claim names: Kubernetes offers it, and it is to stay."""
    return volume.status.phase == _AVAILABLE and not volume.metadata.deletion_timestamp


def chosen(pool: Pool, *nodes: Node) -> PersistentVolume | None:
    """The volume of the pool that the claim gets if all of these nodes are to reach it; None: there is none."""
    return next((volume for volume in pool if all(reaches(volume, node) for node in nodes)), None)


def topology_term(term: TopologyTerm) -> NodeSelectorTerm:
    """The nodes that a term of a class's allowed topologies means."""
    return NodeSelectorTerm(tuple(Requirement(one.key, "In", one.values) for one in term.match_label_expressions))


def _where(
    claims: Sequence[tuple[Pool, StorageClass]], affinity: NodeSelector | None
) -> tuple[NodeSelectorTerm, ...] | None:
    """The nodes where all claims are served by volumes of this affinity, by ones that are reached everywhere, or by
    new ones: (): all nodes; None: none."""
    terms = affinity.node_selector_terms if affinity is not None else ()
    taken = set[str]()
    for pool, kind in claims:
        near = (one for one in pool if one.metadata.name not in taken and affinity_of(one) in (affinity, _EVERYWHERE))
        volume = next(near, None)
        if volume is not None:
            taken.add(volume.metadata.name)
        elif not makes_volumes(kind):
            return None
        elif kind.allowed_topologies:
            allowed = tuple(topology_term(term) for term in kind.allowed_topologies)
            terms = tuple(_both(one, other) for one in terms for other in allowed) if terms else allowed
    return terms


def nodes_of(volumes: Iterable[PersistentVolume]) -> tuple[NodeSelector, ...]:
    """The nodes that can reach one of the volumes; empty: any node can, or there are no volumes."""
    found = dict.fromkeys(map(affinity_of, volumes))
    return () if any(not one.node_selector_terms for one in found) else tuple(found)


def affinity_of(volume: PersistentVolume) -> NodeSelector:
    """The nodes that can reach the volume; without terms: all of them."""
    affinity = volume.spec.node_affinity
    return affinity.required if affinity is not None and affinity.required is not None else _EVERYWHERE


def reaches(volume: PersistentVolume, node: Node) -> bool:
    """Whether the node can reach the volume."""
    return is_met(affinity_of(volume), node)


def is_met(affinity: NodeSelector, node: Node) -> bool:
    """Whether the node can reach volumes that ask this of it."""
    return affinity == _EVERYWHERE or any(
        all(clause_holds(one, node, is_field=False) for one in term.match_expressions)
        and all(clause_holds(one, node, is_field=True) for one in term.match_fields)
        for term in affinity.node_selector_terms
    )


def _both(one: NodeSelectorTerm, other: NodeSelectorTerm) -> NodeSelectorTerm:
    return NodeSelectorTerm(one.match_expressions + other.match_expressions, one.match_fields + other.match_fields)


def _merged(terms: Iterable[NodeSelectorTerm]) -> Iterator[NodeSelectorTerm]:
    """The same alternatives, those that name one value each of one label together: a thousand volumes, one for each
    node, are one clause."""
    values: dict[tuple[bool, str], set[str]] = {}
    for term in terms:
        clauses = (*term.match_expressions, *term.match_fields)
        if len(clauses) == 1 and clauses[0].operator == "In":
            values.setdefault((bool(term.match_fields), clauses[0].key), set()).update(clauses[0].values)
        else:
            yield term
    for (is_field, key), names in values.items():
        clause = (Requirement(key, "In", tuple(sorted(names))),)
        yield NodeSelectorTerm((), clause) if is_field else NodeSelectorTerm(clause)


def _names(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    """Whether the volume is bound, or promised, to the claim."""
    reference, metadata = volume.spec.claim_ref, claim.metadata
    if reference is None or (reference.namespace, reference.name) != (metadata.namespace, metadata.name):
        return False
    return not reference.uid or reference.uid == metadata.uid


def clauses_of(claim: PersistentVolumeClaim) -> tuple[Requirement, ...]:
    """What a volume's labels must say."""
    selector = claim.spec.selector
    if selector is None:
        return ()
    plain = (Requirement(key, "In", (value,)) for key, value in sorted(selector.match_labels.items()))
    return *plain, *selector.match_expressions


def _is_free(volume: PersistentVolume, claim: PersistentVolumeClaim) -> bool:
    labels = volume.metadata.labels
    if not all(value_matches(clause, labels.get(clause.key)) for clause in clauses_of(claim)):
        return False
    return set(claim.spec.access_modes) <= set(volume.spec.access_modes)
