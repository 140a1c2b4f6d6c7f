"""Volumes that exist and that nobody makes (static local disks): how many of them each node has, and has left.

Claims of such a class are counted like any other resource of a node, so that within one decision a volume that one pod
gets is taken for the next. Claims that the same volumes suit are one kind, and a resource; a claim also counts as one
of every wider kind, as its volume is one of theirs. Where the smallest volume that suits is always taken, and by the
claims that are hardest to suit first, there is one for every claim as long as no kind is short of them. Of two kinds
that say different things (other labels, other access modes) the volumes that are there decide: kinds without a volume
in common have nothing to do with each other, and where some overlap in part, volumes of any two together, and of all
of them, are counted as well: there is one for every claim as long as there are enough of any kinds together (Hall's
theorem; of three or more that overlap, without being all, one may be promised too many: then one chooses anew).

A volume that several nodes can reach counts on each of them. Which nodes these are goes along (``shared``): a decision
that promises it to a pod on one of them takes it off the others. Who is promised which then is the same to all of them.
"""

from bisect import bisect_left
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tangram.api.objects import Node, NodeSelector, NodeSelectorTerm, Requirement
from tangram.api.storage import PersistentVolume, PersistentVolumeClaim
from tangram.snapshot.requests import existing
from tangram.snapshot.requests.matching import value_matches

Place = tuple[str, str]
"""(label key, value) of the nodes that can reach a volume; both empty: any node may."""
_ANYWHERE = "", ""
_MOST_KINDS = 64
"""Kinds of a class that are counted: whoever makes claims could else have thousands, and each is a column."""
_PAIR = 2
_MOST_OVERLAPPING = 8
"""Kinds of a class that overlap in part, each with another one, for which volumes of any two are counted."""


class Kind(NamedTuple):
    """What claims ask of a volume that the same ones suit."""

    storage_class: str
    size: int
    """Bytes of the smallest volume of the class that is large enough."""
    access_modes: frozenset[str]
    volume_mode: str
    attributes_class: str
    clauses: frozenset[Requirement]
    """What the volume's labels must say."""

    @property
    def resource(self) -> str:
        """What volumes of the kind are called as a resource."""
        clauses = sorted(f"{one.key} {one.operator} {','.join(one.values)}" for one in self.clauses)
        said = [str(self.size), self.volume_mode, *sorted(self.access_modes), self.attributes_class, *clauses]
        return f"free-volumes-{self.storage_class}/{'/'.join(said)}"

    def suits(self, volume: PersistentVolume) -> bool:
        """Whether the volume is one of the kind, whoever has it."""
        spec, labels = volume.spec, volume.metadata.labels
        return (
            spec.storage_class_name == self.storage_class
            and existing.size_of(spec.capacity) >= self.size
            and (spec.volume_mode, spec.volume_attributes_class_name) == (self.volume_mode, self.attributes_class)
            and not volume.metadata.deletion_timestamp
            and self.access_modes <= set(spec.access_modes)
            and all(value_matches(clause, labels.get(clause.key)) for clause in self.clauses)
        )

    def covers(self, other: "Kind") -> bool:
        """Whether all volumes that suit the other kind suit this one."""
        wider = self.access_modes <= other.access_modes and self.clauses <= other.clauses
        return wider and self.size <= other.size and self.meets(other)

    def meets(self, other: "Kind") -> bool:
        """Whether one volume may suit both."""
        same = self.storage_class, self.volume_mode, self.attributes_class
        return same == (other.storage_class, other.volume_mode, other.attributes_class)


@dataclass(slots=True)
class _Class:
    """The volumes of a class."""

    volumes: dict[str, PersistentVolume] = field(default_factory=dict)
    at: dict[Place, dict[NodeSelector, set[str]]] = field(default_factory=dict)
    """Where they can be reached, and by which nodes there -> names; kept once a claim of the class has been counted."""
    by_nodes: dict[NodeSelector, set[str]] = field(default_factory=dict)
    """By which nodes they can be reached -> names, likewise."""
    reached_by: dict[NodeSelector, set[str]] = field(default_factory=dict)
    """The same -> names of the nodes, as far as they have been asked."""
    wide: set[NodeSelector] = field(default_factory=set)
    """Those of them that several nodes reach."""
    kinds: dict[Kind, set[str]] = field(default_factory=dict)
    """Kind that is counted -> names of the volumes of it that are free."""
    of_kind: dict[Kind, set[str]] = field(default_factory=dict)
    """Kind that is counted -> names of all its volumes, whoever has them."""
    common: dict[Kind, dict[Kind, int]] = field(default_factory=dict)
    """For kinds of which neither covers the other by what it says: how many volumes are of both."""
    any_of: tuple[Kind, ...] | None = None
    """All these kinds in order; None: to be found anew."""
    sizes: list[int] | None = None
    """All different ones in bytes, in order; None: to be found anew."""

    def size_for(self, wanted: int) -> int:
        """Bytes of the smallest volume that is large enough; as many as are wanted where there is none."""
        if self.sizes is None:
            self.sizes = sorted({existing.size_of(one.spec.capacity) for one in self.volumes.values()})
        index = bisect_left(self.sizes, wanted)
        return self.sizes[index] if index < len(self.sizes) else wanted

    def counts_as(self, claimed: Kind, kind: Kind) -> bool:
        """Whether all volumes of one kind are of the other: always, or of those that are there."""
        return kind.covers(claimed) or 0 < self.common.get(claimed, {}).get(kind, 0) == len(self.of_kind[claimed])

    def overlap(self, one: Kind, other: Kind) -> bool:
        """Whether some volumes are of both kinds, and of each some that are not of the other."""
        least = min(len(self.of_kind[one]), len(self.of_kind[other]))
        return 0 < self.common.get(one, {}).get(other, 0) < least

    def asked(self, claimed: Kind) -> Iterator[tuple[Kind, ...]]:
        """The kinds as which a claim counts, and the pairs of kinds."""
        wider = [kind for kind in self.kinds if self.counts_as(claimed, kind)]
        yield from ((kind,) for kind in wider)
        if len(self.common) <= _MOST_OVERLAPPING:
            pairs = {frozenset((kind, other)) for kind in wider for other in self.common.get(kind, ())}
            yield from (tuple(sorted(pair, key=_named)) for pair in pairs if self.overlap(*pair))
        if len(self.common) > _PAIR and not self.common.keys().isdisjoint(wider):
            if self.any_of is None:
                self.any_of = tuple(sorted(self.common, key=_named))
            yield self.any_of

    def add(self, kind: Kind) -> None:
        """Find the volumes of a kind, and how many of them are of another kind, too."""
        self.any_of = None
        mine = self.of_kind[kind] = {name for name, volume in self.volumes.items() if kind.suits(volume)}
        for other, theirs in self.of_kind.items():
            if kind.meets(other) and not (kind.covers(other) or other.covers(kind)):
                number = len(mine & theirs)
                self.common.setdefault(kind, {})[other] = self.common.setdefault(other, {})[kind] = number

    def remove(self, kind: Kind) -> None:
        """Nobody asks for the kind any more."""
        del self.kinds[kind], self.of_kind[kind]
        self.any_of = None
        for other in self.common.pop(kind, {}):
            del self.common[other][kind]
            if not self.common[other]:
                del self.common[other]

    def sort(self, name: str, volume: PersistentVolume | None) -> bool:
        """Find again of which kinds a volume is, None: of none; whether claims count as of other kinds by that."""
        now = {kind for kind in self.of_kind if volume is not None and kind.suits(volume)}
        before = {kind for kind, names in self.of_kind.items() if name in names}
        if now == before:
            return False
        pairs = {frozenset((kind, other)) for kind in now ^ before for other in self.common.get(kind, ())}
        both = [order for one, other in pairs for order in ((one, other), (other, one))]
        counted = [(self.counts_as(*order), self.overlap(*order)) for order in both]
        for kind in now ^ before:
            (self.of_kind[kind].add if kind in now else self.of_kind[kind].discard)(name)
        for one, other in both:
            pair = {one, other}
            self.common[one][other] += (pair <= now) - (pair <= before)
        return counted != [(self.counts_as(*order), self.overlap(*order)) for order in both]


class FreeVolumes:
    """Counts volumes of the classes that nobody makes volumes of, by kind and node."""

    def __init__(self) -> None:
        self._classes: dict[str, _Class] = {}
        self._counts: dict[tuple[str, frozenset[NodeSelector]], int] = {}
        """(resource, which volumes can be reached) -> how many of them are free, until any volume is put."""
        self._moved: set[Place] = set()
        """Where the number of volumes, or of those that are left, is another."""
        self.named: dict[str, tuple[Kind, ...]] = {}
        """Kinds that are counted, and pairs of them, by resource."""
        self.revision = 0
        """Another number whenever ``shared`` may say something else."""
        self._near: dict[str, dict[str, frozenset[NodeSelector]]] = {}
        """Node -> class -> which volumes it can reach, as far as it has been asked."""

    def put(self, name: str, before: PersistentVolume | None, volume: PersistentVolume | None, *, free: bool) -> bool:
        """Take in a volume, None: it is not there; ``free``: nobody has it, or has been promised it. Whether claims are
        of other kinds now, or may be served that could not be before, or the other way round."""
        changed = False
        self._counts.clear()
        self.revision += 1
        kept = volume.spec.storage_class_name if volume is not None else None
        if before is not None and before.spec.storage_class_name != kept:
            changed = self._drop(name, before)
        if volume is None:
            return changed
        one = self._classes.setdefault(volume.spec.storage_class_name, _Class())
        known = one.volumes.get(name)
        one.volumes[name] = volume
        if known is None or known.spec.capacity != volume.spec.capacity:
            one.sizes, changed = None, True
        if one.kinds:
            if known is not None and known.spec.node_affinity != volume.spec.node_affinity:
                self._take_away(one, name, known)
                self._moved.update(_places(known) | _places(volume))
            self._note(one, name, volume)
            changed |= known is not volume and one.sort(name, volume)
            changed |= self._sort(one, name, volume, free=free)
        return changed

    def _drop(self, name: str, volume: PersistentVolume) -> bool:
        one = self._classes[volume.spec.storage_class_name]
        one.volumes.pop(name, None)
        one.sizes = None
        if one.kinds:
            self._take_away(one, name, volume)
            self._moved.update(_places(volume))
            one.sort(name, None)
            for suited in one.kinds.values():
                suited.discard(name)
        return True

    def kind_of(self, claim: PersistentVolumeClaim) -> Kind | None:
        """The kind of a claim; None: no volume of its class is large enough."""
        spec, one = claim.spec, self._classes.get(claim.spec.storage_class_name or "")
        wanted = existing.size_of(spec.resources.requests)
        if one is None:
            return None
        size = one.size_for(wanted)
        if not one.sizes or size > one.sizes[-1]:
            return None
        modes, clauses = frozenset(spec.access_modes), frozenset(existing.clauses_of(claim))
        kind = spec.storage_class_name or ""
        return Kind(kind, size, modes, spec.volume_mode, spec.volume_attributes_class_name, clauses)

    def counts(self, kind: Kind) -> bool:
        """Whether volumes of the kind are counted, or can be: else claims for them are decided one after the other."""
        return kind in self._classes[kind.storage_class].kinds or not self.is_full(kind.storage_class)

    def is_full(self, storage_class: str) -> bool:
        """Whether no more kinds of the class are counted."""
        one = self._classes.get(storage_class)
        return one is not None and len(one.kinds) >= _MOST_KINDS

    def count(self, kind: Kind, is_free: Callable[[str], bool]) -> bool:
        """Count volumes of the kind from now on; ``is_free``: whether nobody has the volume of the name. False where
        that is nothing new: else claims of other kinds of the class may ask for volumes of this one too."""
        one = self._classes[kind.storage_class]
        if kind in one.kinds:
            return False
        if not one.kinds:
            one.at.clear()
            one.by_nodes.clear()
        one.add(kind)
        one.kinds[kind] = {name for name in one.of_kind[kind] if is_free(name)}
        self.named[kind.resource] = (kind,)
        self.revision += 1
        for name, volume in one.volumes.items():
            self._note(one, name, volume)
        return True

    def number_of(self, kind: Kind | None) -> int:
        """How many volumes of a counted kind are free; None: 0."""
        return len(self._classes[kind.storage_class].kinds[kind]) if kind is not None else 0

    def asked(self, kinds: Sequence[Kind]) -> tuple[tuple[str, int], ...]:
        """(resource, how many of it) that claims of these kinds ask for together."""
        counts: dict[str, int] = {}
        for mine in kinds:
            for group in self._classes[mine.storage_class].asked(mine):
                resource = " or ".join(map(_named, group))
                if resource not in self.named:
                    self._name(resource, group)
                counts[resource] = counts.get(resource, 0) + 1
        return tuple(sorted(counts.items()))

    def _name(self, resource: str, group: tuple[Kind, ...]) -> None:
        """Count volumes of any of these kinds. All that overlap have another name with each that comes to them, and
        what claims ask for is found again then."""
        if len(group) > _PAIR:
            mine = group[0].storage_class
            outdated = [name for name, known in self.named.items() if len(known) > _PAIR]
            for name in (one for one in outdated if self.named[one][0].storage_class == mine):
                del self.named[name]
        self.named[resource] = group
        self.revision += 1

    def near(self, storage_class: str, node: Node) -> list[PersistentVolume]:
        """The volumes of a counted class that the node can reach, whoever has them."""
        names = {name for names in self._reached(storage_class, node).values() for name in names}
        return [self._classes[storage_class].volumes[name] for name in sorted(names)]

    def _reached(self, storage_class: str, node: Node) -> dict[NodeSelector, set[str]]:
        """Names of the volumes of a counted class that the node can reach, by what they ask of nodes."""
        one = self._classes.get(storage_class)
        if one is None or not one.kinds:
            return {}
        places = [one.at[place] for place in (_ANYWHERE, *node.metadata.labels.items()) if place in one.at]
        found = {affinity: names for there in places for affinity, names in there.items()}
        return {affinity: names for affinity, names in found.items() if existing.is_met(affinity, node)}

    def on(self, node: Node, resources: Iterable[str] | None = None) -> dict[str, int]:
        """Resource -> how many volumes of it are free and can be reached from the node, of these or of all. Which it
        can reach is remembered until it is asked again, or forgotten."""
        counts, here = dict[str, int](), dict[str, dict[NodeSelector, set[str]]]()
        for resource in self.named if resources is None else resources:
            storage_class = self.named[resource][0].storage_class
            if storage_class not in here:
                here[storage_class] = self._reached(storage_class, node)
                self._note_near(node.metadata.name, storage_class, frozenset(here[storage_class]))
            counts[resource] = self._number(resource, here[storage_class])
        return counts

    def _number(self, resource: str, reached: dict[NodeSelector, set[str]]) -> int:
        """How many of these volumes are free and of one of the resource's kinds."""
        key = resource, frozenset(reached)
        if key not in self._counts:
            group = self.named[resource]
            kinds = self._classes[group[0].storage_class].kinds
            near = set().union(*reached.values())
            first, *others = (near & kinds[kind] for kind in group)
            self._counts[key] = len(first.union(*others))
        return self._counts[key]

    def _note_near(self, node: str, storage_class: str, now: frozenset[NodeSelector]) -> None:
        known, one = self._near.setdefault(node, {}), self._classes.get(storage_class)
        before = known.get(storage_class, frozenset())
        if one is None or now == before:
            return
        known[storage_class] = now
        self.revision += 1
        for affinity in now ^ before:
            nodes = one.reached_by.setdefault(affinity, set())
            (nodes.add if affinity in now else nodes.discard)(node)
            (one.wide.add if len(nodes) > 1 else one.wide.discard)(affinity)
            if not nodes:
                del one.reached_by[affinity]

    def forget(self, node: str) -> None:
        """The node is gone."""
        for storage_class in list(self._near.get(node, ())):
            self._note_near(node, storage_class, frozenset())
        self._near.pop(node, None)

    def shared(self, resource: str) -> list[tuple[list[str], int]]:
        """(names of the nodes, number) of free volumes of a resource that the same nodes can reach, several of them."""
        group = self.named[resource]
        one = self._classes[group[0].storage_class]
        free: set[str] = set().union(*(one.kinds[kind] for kind in group))
        numbers = ((affinity, len(free & one.by_nodes.get(affinity, set()))) for affinity in one.wide)
        return sorted((sorted(one.reached_by[affinity]), number) for affinity, number in numbers if number)

    def is_within(self, resource: str, other: str) -> bool:
        """Whether all volumes of a resource are of the other one, too."""
        mine, others = self.named[resource], self.named[other]
        one = self._classes[mine[0].storage_class]
        if others[0].storage_class != mine[0].storage_class:
            return False
        return all(any(kind == wider or one.counts_as(kind, wider) for wider in others) for kind in mine)

    def narrow_first(self, volumes: Sequence[PersistentVolume]) -> list[PersistentVolume]:
        """Volumes of counted classes in order of size, those first of equal ones that the fewest nodes can reach."""
        return sorted(volumes, key=lambda one: (existing.size_of(one.spec.capacity), self._breadth(one)))

    def _breadth(self, volume: PersistentVolume) -> int:
        reached_by = self._classes[volume.spec.storage_class_name].reached_by
        return len(reached_by.get(existing.affinity_of(volume), ()))

    def take_moved(self) -> set[Place]:
        """Where there are other volumes, or free ones, than at the last call."""
        found, self._moved = self._moved, set()
        return found

    def retain(self, resources: Container[str]) -> None:
        """Count only the kinds that are still asked for."""
        self._counts.clear()
        self.revision += 1
        self.named = {name: kinds for name, kinds in self.named.items() if name in resources}
        kept = {kind for kinds in self.named.values() for kind in kinds}
        for one in self._classes.values():
            for kind in one.kinds.keys() - kept:
                one.remove(kind)

    def _note(self, one: _Class, name: str, volume: PersistentVolume) -> None:
        affinity = existing.affinity_of(volume)
        one.by_nodes.setdefault(affinity, set()).add(name)
        for place in _places(volume):
            one.at.setdefault(place, {}).setdefault(affinity, set()).add(name)

    def _take_away(self, one: _Class, name: str, volume: PersistentVolume) -> None:
        affinity = existing.affinity_of(volume)
        one.by_nodes.get(affinity, set()).discard(name)
        if not one.by_nodes.get(affinity):
            one.by_nodes.pop(affinity, None)
        for place in _places(volume):
            there = one.at.get(place, {})
            there.get(affinity, set()).discard(name)
            if not there.get(affinity):
                there.pop(affinity, None)
            if not there:
                one.at.pop(place, None)

    def _sort(self, one: _Class, name: str, volume: PersistentVolume, *, free: bool) -> bool:
        """Find again which kinds the volume suits; whether one of these has its first, or has lost its last."""
        flips, moved = False, False
        for kind, suited in one.kinds.items():
            counts, counted = free and name in one.of_kind[kind], name in suited
            if counts != counted:
                before, moved = bool(suited), True
                (suited.add if counts else suited.discard)(name)
                flips |= before != bool(suited)
        if moved:
            self._moved.update(_places(volume))
        return flips


def _named(kind: Kind) -> str:
    return kind.resource


def _places(volume: PersistentVolume) -> set[Place]:
    """Labels of which a node that can reach the volume has one."""
    terms = existing.affinity_of(volume).node_selector_terms
    found = set[Place]()
    for term in terms:
        found |= _places_of(term)
    return found or {_ANYWHERE}


def _places_of(term: NodeSelectorTerm) -> set[Place]:
    clause = next((one for one in term.match_expressions if one.operator == "In"), None)
    return {(clause.key, value) for value in clause.values} if clause is not None else {_ANYWHERE}
