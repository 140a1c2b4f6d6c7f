"""What one pod asks for, read once from its spec: text becomes integers and nothing else looks at the spec again."""

import re
from collections.abc import Iterable

import msgspec

from tangram import units
from tangram.api import names
from tangram.api.objects import Container, NodeSelector, NodeSelectorTerm, Pod, Requirement, Toleration
from tangram.snapshot.requests.amounts import amounts_key, container_request, pod_amounts
from tangram.snapshot.requests.isolation import read_modes, unfit_bits
from tangram.snapshot.values.asks import LARGEST_DEVICE_MIB, MOST_DEVICES, Ask, Given, Step, shared

VENDOR_RESOURCES = frozenset(vendor.resource for vendor in names.VENDORS)
DEVICE_RESOURCES = VENDOR_RESOURCES | {names.FRACTION_RESOURCE}
_MOST_PLACES = 16
_MOST_WEIGHT = 100
_DEVICE_BYTES = 192
"""What one device of a container has in the reserved annotation at most: its id of 128 bytes and its amounts."""
_PLACE_LABELS = ("topology.kubernetes.io/region", "topology.kubernetes.io/zone")
_SAYS_NOTHING = (None,) * 6
_LABEL_VALUE = re.compile("[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


class Request(msgspec.Struct, frozen=True, gc=False):
    """A pod's request; equal requests are one shape."""

    resources: tuple[tuple[str, int], ...]
    asks: tuple[Ask, ...] = ()
    containers: tuple[Given, ...] = ()
    required: tuple[tuple[tuple[Requirement, bool], ...], ...] = ()
    """Alternatives of (clause, is it about a field) of which one must hold wholly; empty: no requirement."""
    preferred: tuple[tuple[int, tuple[tuple[Requirement, bool], ...]], ...] = ()
    """(weight, clauses that must all hold) of nodes that are liked."""
    volumes: tuple[tuple[tuple[tuple[Requirement, bool], ...], ...], ...] = ()
    """Per volume, alternatives of which one must hold wholly on a node that can reach it."""
    impossible: bool = False
    """The pod's own node affinity can match no node at all."""
    tolerations: tuple[Toleration, ...] = ()
    models: tuple[str, ...] = ()
    model_ranks: tuple[int, ...] = ()
    """Of each model how many others, or groups of others, are liked better; empty: all are liked the same."""
    unfit_isolation: int = 0
    """Bits of the modes of isolation in which the pod cannot run, or does not want to."""
    priority_class: str = ""
    queue: str = ""
    record_bytes: int = 0
    """What the record of its devices has at most, in the reserved annotation."""

    @property
    def wants_gpu(self) -> bool:
        """Whether any device is asked for."""
        return bool(self.asks)


def shape_key(pod: Pod) -> bytes:
    """Bytes that are equal for pods whose requests are equal: reading a spec is dear, comparing bytes is cheap."""
    spec, metadata = pod.spec, pod.metadata
    said = _said(pod) if metadata.labels or metadata.annotations else ()
    return msgspec.json.encode(
        (
            spec.containers, spec.init_containers, spec.overhead, spec.node_selector, spec.affinity, spec.tolerations,
            said, *amounts_key(pod),
        )
    )  # fmt: skip


def placed_key(pod: Pod) -> bytes:
    """The same for pods that have a place: what they hold counts, and not where else they could be."""
    spec = pod.spec
    return msgspec.json.encode((spec.containers, spec.init_containers, spec.overhead, _said(pod), *amounts_key(pod)))


def _said(pod: Pod) -> tuple[str | None, ...]:
    """What labels and annotations say of the request."""
    labels, notes = pod.metadata.labels, pod.metadata.annotations
    said = (
        labels.get(names.PRIORITY_CLASS), labels.get(names.QUEUE),
        notes.get(names.GPU_MEMORY), notes.get(names.GPU_MODELS), notes.get(names.GPU_ISOLATION),
        notes.get(names.NEAREST) if not pod.spec.node_name else None,
    )  # fmt: skip
    return () if said == _SAYS_NOTHING else said


def without_place(pod: Pod) -> Pod:
    """The pod without anything that says where it may be."""
    spec = msgspec.structs.replace(pod.spec, node_selector={}, affinity=None, tolerations=())
    notes = {key: value for key, value in pod.metadata.annotations.items() if key != names.NEAREST}
    metadata = msgspec.structs.replace(pod.metadata, annotations=notes)
    return msgspec.structs.replace(pod, metadata=metadata, spec=spec)


def read_request(pod: Pod, volumes: Iterable[NodeSelector] = (), attached: Iterable[tuple[str, int]] = ()) -> Request:
    """Read the pod's request; ``volumes`` say which nodes can reach each of its volumes, ``attached`` as what resource
    and how often its volumes count on a node.

    Raises ValueError with a sentence naming field, value and what is allowed.
    """
    required = tuple(_alternatives(pod))
    asks, containers = _device_asks(pod)
    models, ranks = _models(pod.metadata.annotations.get(names.GPU_MODELS, ""))
    return Request(
        volumes=tuple(_terms(selector) for selector in volumes),
        resources=tuple(sorted({**pod_amounts(pod), **dict(attached)}.items())),
        asks=asks,
        containers=containers,
        required=required,
        preferred=tuple(_preferred(pod)),
        impossible=_has_required_affinity(pod) and not required,
        tolerations=tuple(pod.spec.tolerations),
        models=models,
        model_ranks=ranks,
        unfit_isolation=unfit_bits(
            read_modes(pod.metadata.annotations.get(names.GPU_ISOLATION, "")),
            parts=any(ask.milli < units.MILLI_PER_GPU for ask in asks),
            whole=any(ask.milli == units.MILLI_PER_GPU for ask in asks),
        ),
        priority_class=pod.metadata.labels.get(names.PRIORITY_CLASS, ""),
        queue=pod.metadata.labels.get(names.QUEUE, ""),
        record_bytes=sum(len(one.container) + _DEVICE_BYTES * one.part.count for one in containers),
    )


def wants_gpu(pod: Pod) -> bool:
    """The same as ``Request.wants_gpu`` of the pod's request, without reading the rest of it.

    Raises ValueError where an amount of devices cannot be read.
    """
    spec = pod.spec
    return any(map(_wants, spec.containers)) or any(map(_wants, spec.init_containers))


def _wants(container: Container) -> bool:
    said = container.resources
    if DEVICE_RESOURCES.isdisjoint(said.requests) and DEVICE_RESOURCES.isdisjoint(said.limits):
        return False
    return any(amount for name, amount in container_request(container).items() if name in DEVICE_RESOURCES)


def _device_asks(pod: Pod) -> tuple[tuple[Ask, ...], tuple[Given, ...]]:
    """What the containers ask of devices, and what each of them gets of it."""
    memory_text = pod.metadata.annotations.get(names.GPU_MEMORY)
    try:
        memory = units.memory_mib(memory_text) if memory_text is not None else 0
    except ValueError as error:
        raise ValueError(f"annotation {names.GPU_MEMORY}: {error}; allowed: a quantity such as 8Gi") from None
    if memory > LARGEST_DEVICE_MIB:
        raise ValueError(
            f"annotation {names.GPU_MEMORY}: {memory_text!r} is more than any GPU has; allowed: a quantity such as 8Gi"
        )
    steps = []
    for containers, may_pass in ((pod.spec.init_containers, True), (pod.spec.containers, False)):
        for container in containers:
            found = _container_ask(container, memory)
            if found is not None:
                passing = may_pass and container.restart_policy != "Always"
                steps.append(Step(container.name, *found, passing))
    return shared(steps)


def _container_ask(container: Container, memory: int) -> tuple[str, Ask] | None:
    """(resource, ask) of a container that wants devices."""
    said = container.resources
    kinds = sorted(name for name in DEVICE_RESOURCES & (said.limits.keys() | said.requests.keys()))
    wanted = container_request(container) if kinds else {}
    kinds = [name for name in kinds if wanted[name]]
    if not kinds:
        return None
    if len(kinds) > 1:
        raise ValueError(
            f"container {container.name}: asks for {' and '.join(kinds)}; allowed: one kind of device per container"
        )
    where, ask = f"container {container.name}: {kinds[0]}", Ask(wanted[kinds[0]], units.MILLI_PER_GPU)
    if kinds[0] == names.FRACTION_RESOURCE:
        try:
            ask = Ask(*units.gpu_share(wanted[kinds[0]]), memory)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if ask.count > MOST_DEVICES:
        raise ValueError(f"{where}: {ask.count} devices are more than any node has; allowed: at most {MOST_DEVICES}")
    return kinds[0], ask


def _models(text: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """(models, their ranks) of a list in which what follows a comma is liked less, and what follows a bar is not."""
    groups = [[one.strip() for one in group.split("|") if one.strip()] for group in text.split(",")]
    ranked = [(one, rank) for rank, group in enumerate(filter(None, groups)) for one in group]
    ranks = tuple(rank for _, rank in ranked)
    return tuple(one for one, _ in ranked), ranks if any(ranks) else ()


def _required_affinity(pod: Pod) -> NodeSelector | None:
    affinity = pod.spec.affinity
    return affinity.node_affinity.required if affinity and affinity.node_affinity else None


def _has_required_affinity(pod: Pod) -> bool:
    return _required_affinity(pod) is not None


def _alternatives(pod: Pod) -> Iterable[tuple[tuple[Requirement, bool], ...]]:
    """Node selector and required node affinity as alternatives of clauses (a term without clauses matches nothing)."""
    base = tuple((Requirement(key, "In", (value,)), False) for key, value in sorted(pod.spec.node_selector.items()))
    selector = _required_affinity(pod)
    if selector is None:
        if base:
            yield base
        return
    for term in selector.node_selector_terms:
        clauses = _clauses(term)
        if clauses:
            yield base + clauses


def _terms(selector: NodeSelector) -> tuple[tuple[tuple[Requirement, bool], ...], ...]:
    """The alternatives of a node selector; terms without clauses match nothing."""
    return tuple(clauses for clauses in map(_clauses, selector.node_selector_terms) if clauses)


def _preferred(pod: Pod) -> Iterable[tuple[int, tuple[tuple[Requirement, bool], ...]]]:
    """Preferred node affinity, and the nearest places; a term without clauses likes no node."""
    yield from _nearest(pod.metadata.annotations.get(names.NEAREST))
    affinity = pod.spec.affinity
    for preferred in affinity.node_affinity.preferred if affinity and affinity.node_affinity else ():
        clauses = _clauses(preferred.preference)
        if not 0 <= preferred.weight <= _MOST_WEIGHT:
            raise ValueError(f"preferred node affinity: weight {preferred.weight} is not allowed; allowed: 1 to 100")
        if clauses and preferred.weight:
            yield preferred.weight, clauses


def _nearest(text: str | None) -> Iterable[tuple[int, tuple[tuple[Requirement, bool], ...]]]:
    """Regions or zones, the nearest first, as preferences: the first counts most, the others less and less."""
    if text is None:
        return
    places = [place.strip() for place in text.replace(",", "|").split("|")]
    if len(places) > _MOST_PLACES or not all(map(_LABEL_VALUE.fullmatch, places)):
        allowed = f"up to {_MOST_PLACES} regions or zones, the nearest first, such as eu-west|eu-north"
        raise ValueError(f"annotation {names.NEAREST}: {text[:80]!r} is not allowed; allowed: {allowed}")
    for rank, place in enumerate(places):
        for label in _PLACE_LABELS:
            yield 100 - 100 * rank // len(places), ((Requirement(label, "In", (place,)), False),)


def _clauses(term: NodeSelectorTerm) -> tuple[tuple[Requirement, bool], ...]:
    fields = tuple((clause, True) for clause in term.match_fields)
    return tuple((clause, False) for clause in term.match_expressions) + fields
