"""Node labels and what gangs say to domains: nodes with equal values of the labels of a level and of all wider ones."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from tangram.api import names
from tangram.api.objects import NodeSelector
from tangram.api.policy import HybridPolicy
from tangram.api.topology import DEFAULT_LEVELS, TopologyLevel
from tangram.snapshot.arrays import Int32
from tangram.snapshot.gangs.gangs import GangTable
from tangram.snapshot.gangs.members import Member
from tangram.snapshot.gangs.reach import ReachTable
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.nodes.topologies import NOWHERE
from tangram.snapshot.requests.reaching import HOST
from tangram.snapshot.requests.shared_claims import SharedClaim
from tangram.snapshot.values.levels import NO_TOPOLOGY, SharedReach, Topology

_USUAL = "topology.kubernetes.io/zone"
"""Gangs that say nothing stay within one zone if possible; where the policy's levels know no zones, within one domain
of the widest level."""


class DomainTable:
    """Keeps ``levels.Topology`` true."""

    def __init__(self, nodes: NodeTable, gangs: GangTable) -> None:
        self._nodes = nodes
        self._gangs = gangs
        self._levels: tuple[TopologyLevel, ...] = ()
        self.topologies: tuple[int, ...] = ()
        """Per level the row of its label in ``NodeTable.topologies``."""
        self._seen = (-1, -1)
        self._divided = NO_TOPOLOGY
        self._reach = ReachTable(nodes)
        self.set_policy(None)

    def set_policy(self, policy: HybridPolicy | None) -> None:
        """Follow the policy's levels."""
        levels = DEFAULT_LEVELS if policy is None else policy.spec.topology_levels
        if levels != self._levels:
            self._levels = levels
            self.topologies = tuple(self._nodes.topology(level.label) for level in levels)
            self._seen = (-1, -1)

    def unknown(self, member: Member | None) -> str:
        """The sentence that says which level a gang's member names in vain; empty when all levels are known."""
        if member is None:
            return ""
        terms = member.terms
        for key, word in ((names.TOPOLOGY_REQUIRED, terms.required), (names.TOPOLOGY_PREFERRED, terms.preferred)):
            if word and self._level(word) < 0:
                allowed = ", ".join(level.name for level in self._levels) or "none, as the policy has no topologyLevels"
                return f"annotation {key}: level {word[:80]!r} is unknown; allowed: {allowed}, or its label"
        return ""

    def topology(self, shared: Mapping[int, Sequence[SharedClaim]]) -> Topology:
        """What is true now; nothing while no gang waits. ``shared``: by gang row the claims that its members share,
        those first whose volumes are there."""
        gangs = self._gangs.arrays
        if not (self._levels or shared) or not self._gangs.rows or not np.count_nonzero(gangs.waiting):
            return NO_TOPOLOGY
        seen = (self._nodes.revision, self._nodes.generation)
        if seen != self._seen:
            self._seen, self._divided = seen, self._divide()
            self._reach.forget()
        required, preferred = dict[int, int](), dict[int, int]()
        for gang in sorted(self._gangs.with_levels):
            if gangs.waiting[gang]:
                said = self._gangs.levels_said(gang)
                required[gang] = max(self._level(word) for word, _ in said)
                preferred[gang] = max(self._level(word) for _, word in said)
        divided, claims, some = self._divided, dict[int, str](), dict[int, tuple[SharedReach, ...]]()
        volumes = dict[int, tuple[tuple[str, int], ...]]()
        for gang, named in shared.items():
            if not gangs.waiting[gang]:
                continue
            found, divided = self._reaches_of(named, required.get(gang, NOWHERE), divided)
            alone = len(found) == 1 and len(found[0].levels) == 1
            if alone and named[0].members >= gangs.waiting[gang] and not gangs.bound[gang]:
                [required[gang]], claims[gang] = found[0].levels, found[0].claim
            elif found:
                some[gang] = found
            made = self._level(HOST) if any(claim.is_made for claim in named) else NOWHERE
            if looked_for := tuple(claim.volumes for claim in named if claim.volumes is not None):
                volumes[gang] = looked_for
            nearest = next((one.levels[0] for one in found if one.levels), made)
            preferred[gang] = max(nearest, preferred.get(gang, NOWHERE))
        in_part = np.flatnonzero((gangs.waiting > 0) & (gangs.bound > 0)).tolist()
        taken = {gang: self._rows_of(self._gangs.places[gang]) for gang in in_part}
        asked = replace(divided, required=required, preferred=preferred, claims=claims, shared=some)
        return replace(asked, volumes=volumes, taken=taken)

    def _reaches_of(
        self, named: Sequence[SharedClaim], within: int, divided: Topology
    ) -> tuple[tuple[SharedReach, ...], Topology]:
        """Where the volumes of these claims may be reached, as far as they are there, and the topology with that."""
        found = list[SharedReach]()
        for claim in named:
            if claim.node:
                found.append(SharedReach(claim.name, (), self._nodes.rows.get(claim.node, NOWHERE)))
            elif claim.reaches:
                levels, divided = self._levels_of(claim.reaches, within, divided)
                found.append(SharedReach(claim.name, levels))
        return tuple(found), divided

    def _levels_of(
        self, reaches: tuple[NodeSelector, ...], within: int, divided: Topology
    ) -> tuple[tuple[int, ...], Topology]:
        """Further levels, narrower than all others, and the topology with them: nodes that reach one of the volumes,
        and are in one domain of the level ``within`` (-1: of any)."""
        found = list[int]()
        for domain in self._reach.divisions(reaches):
            level, divided = self._level_of(_narrowed(domain, divided, within), divided)
            found.append(level)
        return tuple(found), divided

    def _level_of(self, domain: Int32, divided: Topology) -> tuple[int, Topology]:
        """The further level with these domains, and the topology with it."""
        alike = (
            level for level in range(len(self._levels), len(divided.domain)) if (divided.domain[level] == domain).all()
        )
        found = next(alike, None)
        if found is not None:
            return found, divided
        names = (*divided.names, self._reach.names(domain))
        return len(divided.domain), replace(divided, domain=np.vstack([divided.domain, domain]), names=names)

    def _level(self, word: str) -> int:
        """The level that a word means, by its name or its label; -1: there is none."""
        for level, one in enumerate(self._levels):
            if word in (one.name, one.label):
                return level
        return -1

    def _rows_of(self, nodes: Iterable[str]) -> Int32:
        return np.array(sorted(self._nodes.rows[node] for node in nodes if node in self._nodes.rows), np.int32)

    def _divide(self) -> Topology:
        """Number the domains of every level from the labels of the nodes that are there."""
        present, topologies = self._nodes.arrays.present, self._nodes.topologies
        domain = np.full((len(self._levels), len(present)), NOWHERE, np.int32)
        found: list[tuple[str, ...]] = []
        alike = np.zeros(len(present), np.int64)
        for level, topology in enumerate(self.topologies):
            place = topologies.values[topology]
            alike = alike * (topologies.counts[topology] + 1) + place + 1
            alike = np.unique(alike, return_inverse=True)[1]
            labelled = np.flatnonzero(present & (place != NOWHERE))
            _, first, domain[level, labelled] = np.unique(alike[labelled], return_index=True, return_inverse=True)
            values = topologies.names(topology)
            declared = [values[number] for number in place[labelled[first]].tolist()]
            wider = [
                found[level - 1][domain[level - 1, row]] if level and domain[level - 1, row] != NOWHERE else ""
                for row in labelled[first].tolist()
            ]
            found.append(_distinct(declared, wider))
        return Topology(
            levels=tuple(level.name for level in self._levels),
            labels=tuple(level.label for level in self._levels),
            domain=domain,
            names=tuple(found),
            usual=max(0, self._level(_USUAL)) if self._levels else NOWHERE,
        )


def _narrowed(domain: Int32, divided: Topology, within: int) -> Int32:
    """The same domains, each within one domain of a level; -1: of any."""
    if within == NOWHERE:
        return domain
    wider, both = divided.domain[within], np.full_like(domain, NOWHERE)
    inside = np.flatnonzero((domain != NOWHERE) & (wider != NOWHERE))
    pairs = wider[inside].astype(np.int64) * (int(domain.max(initial=0)) + 1) + domain[inside]
    both[inside] = np.unique(pairs, return_inverse=True)[1]
    return both


def _distinct(declared: list[str], wider: list[str]) -> tuple[str, ...]:
    """Names of domains: their label's value, with the name of the wider domain where several have the same."""
    often = Counter(declared)
    return tuple(
        f"{above}/{value}" if often[value] > 1 and above else value
        for value, above in zip(declared, wider, strict=True)
    )
