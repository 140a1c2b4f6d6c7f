"""Which pods other pods speak of, and how many of them are on each node: counted as pods come and go.

Nothing is kept while no pod has a rule about other pods. The first pod with a rule makes the group that it speaks of;
whoever belongs to the group is found by ``concerned`` before the next snapshot, and from then on as pods are shown.
"""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np

from tangram.api.objects import Pod, PodAffinity, TopologySpreadConstraint
from tangram.snapshot.affinity.selecting import (
    ANY_ADDRESS,
    Carriers,
    ClaimUsers,
    GroupKey,
    PortUsers,
    Selection,
    Term,
    check_numbers,
    host_ports,
    spread_clauses,
    term_of,
)
from tangram.snapshot.arrays import Int32
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.requests.touched import ClaimKey, claims_of
from tangram.snapshot.values.rules import Relations, Rules, Spread, Together

_HARD = "DoNotSchedule"


class RelationTable:
    """Keeps ``rules.Relations`` true."""

    def __init__(self, nodes: NodeTable) -> None:
        self.nodes = nodes
        self.revision = 0
        self._groups: dict[GroupKey, int] = {}
        self._selections: list[Selection | None] = []
        """Per group its selection; None for groups that pods enter by their own word."""
        self._by_label: dict[tuple[str, str], list[int]] = {}
        self._unlabelled: list[int] = []
        self._counts: list[Int32] = []
        self._forbids: list[list[tuple[int, int]]] = []
        self._likes: list[list[tuple[int, int, int]]] = []
        self._namespaces: dict[str, Mapping[str, str]] = {}
        self._on_node: dict[str, dict[str, tuple[int, ...]]] = {}
        self._unmatched: list[int] = []
        self._sole: set[ClaimKey] = set()
        """Volume claims that one pod at a time may use."""
        self._new_sole: set[ClaimKey] = set()
        """Those of them whose users have not been looked for."""
        self._free: list[int] = []

    def concern(self, pod: Pod) -> bool:
        """Whether the pod may have rules about other pods, or be in a group; in many clusters hardly any does."""
        if self._groups or self._sole:
            return True
        spec = pod.spec
        for containers in (spec.containers, spec.init_containers):
            for container in containers:
                if container.ports:
                    return True
        affinity = spec.affinity
        return bool(
            spec.topology_spread_constraints
            or (affinity is not None and (affinity.pod_affinity is not None or affinity.pod_anti_affinity is not None))
        )

    def rules_of(self, pod: Pod) -> Rules | None:
        """The rules about other pods, and the groups, of a pod whom they ``concern``; None without either.

        Raises ValueError with a sentence about a number that is none that the API server would let through.
        """
        check_numbers(pod)
        members: list[int] = []
        spread, wide = self._spread(pod)
        near: list[tuple[int, int, int]] = []
        affinity = pod.spec.affinity
        attracts = affinity.pod_affinity if affinity else None
        repels = affinity.pod_anti_affinity if affinity else None
        together = self._together(pod, attracts, members)
        apart = self._apart(pod, repels, members)
        for side, sign in ((attracts, 1), (repels, -1)):
            near += self._near(pod, side, sign, members)
        ports = self._ports(pod, members)
        members += self._selected(pod)
        sole = self._sole_users(pod, members)
        rules = Rules(tuple(sorted(set(members))), ports, sole, apart, together, spread, wide, tuple(near))
        return rules if rules != _NO_RULES else None

    def members_now(self, pod: Pod, rules: Rules | None) -> tuple[int, ...]:
        """The groups that the pod adds to: without those of the living once it is being deleted."""
        if rules is None:
            return ()
        if not pod.metadata.deletion_timestamp:
            return rules.members
        return tuple(group for group in rules.members if not self._ignores_terminating(group))

    def put(self, uid: str, node: str, members: tuple[int, ...]) -> None:
        """Count a pod on its node, under the groups that it is in now."""
        held = self._on_node.get(node)
        before = held.get(uid, ()) if held else ()
        if before == members:
            return
        if members:
            self._on_node.setdefault(node, {})[uid] = members
        elif held is not None:
            self._drop(node, held, uid)
        self._add(node, before, -1)
        self._add(node, members, 1)

    def remove(self, uid: str, node: str) -> None:
        """Stop counting a pod."""
        held = self._on_node.get(node)
        if held and uid in held:
            before = held[uid]
            self._drop(node, held, uid)
            self._add(node, before, -1)

    def node_appeared(self, node: str) -> None:
        """Count the pods of a node that has just got a row."""
        for members in self._on_node.get(node, {}).values():
            self._add(node, members, 1)

    def node_leaves(self, node: str) -> None:
        """Take the pods of a node out of the counts, before its row is given up; they are kept for its return."""
        for members in self._on_node.get(node, {}).values():
            self._add(node, members, -1)

    def set_namespace(self, name: str, labels: Mapping[str, str] | None) -> bool:
        """Take in a namespace's labels, None when it is gone; True when pods may belong to other groups now."""
        if self._namespaces.get(name) == labels:
            return False
        if labels is None:
            self._namespaces.pop(name, None)
        else:
            self._namespaces[name] = dict(labels)
        return any(
            term.namespace_clauses is not None
            for selection in self._selections
            if selection is not None
            for term in selection.terms
        )

    def set_sole(self, claim: ClaimKey, is_sole: bool) -> None:
        """Take in whether one pod at a time may use a volume claim; what pods use is found by ``take_new``."""
        if is_sole and claim not in self._sole:
            self._sole.add(claim)
            self._new_sole.add(claim)
        elif not is_sole:
            self._sole.discard(claim)
            self._new_sole.discard(claim)

    @property
    def has_new_selectors(self) -> bool:
        """Whether groups were made that known pods may belong to."""
        return bool(self._unmatched or self._new_sole)

    def take_new(self) -> "NewSelectors":
        """The groups that were made since the last call."""
        found = [self._selections[group] for group in self._unmatched]
        sole, self._unmatched, self._new_sole = frozenset(self._new_sole), [], set()
        return NewSelectors([one for one in found if one is not None], self._namespaces, sole)

    def retire(self, rules: Iterable[Rules]) -> set[int]:
        """Look for no more pods of selections that these rules are not about; those groups.

        Pods that are in them have to be related anew before ``retain`` gives the groups back.
        """
        members, about = set[int](), set[int]()
        for one in rules:
            members.update(one.members)
            about |= one.others
        about |= {key.about for key, group in self._groups.items() if group in members and isinstance(key, Carriers)}
        idle = {group for key, group in self._groups.items() if group not in about and isinstance(key, Selection)}
        for group in idle:
            self._selections[group] = None
        self._groups = {key: group for key, group in self._groups.items() if group not in idle}
        self._unmatched = [group for group in self._unmatched if group not in idle]
        self._unlabelled = [group for group in self._unlabelled if group not in idle]
        labelled = ((label, [one for one in groups if one not in idle]) for label, groups in self._by_label.items())
        self._by_label = {label: groups for label, groups in labelled if groups}
        return idle

    @property
    def topologies(self) -> set[int]:
        """The topologies that groups speak of."""
        return {key.topology for key in self._groups if isinstance(key, Carriers)}

    def retain(self, used: set[int]) -> None:
        """Give back all groups but the used ones and those of selections of which pods are looked for."""
        used = used.union(group for key, group in self._groups.items() if isinstance(key, Selection))
        self._groups = {key: group for key, group in self._groups.items() if group in used}
        self._forbids = [[rule for rule in about if rule[0] in used] for about in self._forbids]
        self._likes = [[rule for rule in about if rule[0] in used] for about in self._likes]
        self._free = [group for group in range(len(self._counts)) if group not in used]
        self.revision += 1

    def arrays(self, rules: list[Rules | None], shapes: int) -> Relations:
        """The relations as the snapshot shows them; ``rules`` are those of each shape, ``shapes`` how many there were
        ever."""
        self._make_room()
        topologies = self.nodes.topologies
        return Relations(
            rules,
            self._counts,
            self._forbids,
            self._likes,
            topologies.values,
            topologies.counts,
            self.revision + shapes,
            self._on_node,
        )

    def counted_again(self) -> list[Int32]:
        """Every group's pods per node row, counted from nothing: for checks."""
        fresh = [np.zeros(len(self.nodes.arrays.present), np.int32) for _ in self._counts]
        for node, held in self._on_node.items():
            row = self.nodes.rows.get(node)
            for members in held.values() if row is not None else ():
                for group in members:
                    fresh[group][row] += 1
        return fresh

    def _together(self, pod: Pod, side: PodAffinity | None, members: list[int]) -> Together | None:
        if side is None or not side.required:
            return None
        terms = [term_of(term, pod.metadata.namespace) for term in side.required]
        for written, term in zip(side.required, terms, strict=True):
            members.append(self._carriers(term, written.topology_key, 1))
        group = self._group(Selection(tuple(terms)))
        topologies = dict.fromkeys(self.nodes.topology(term.topology_key) for term in side.required)
        return Together(group, tuple(topologies))

    def _apart(self, pod: Pod, side: PodAffinity | None, members: list[int]) -> tuple[tuple[int, int], ...]:
        out = []
        for written in side.required if side else ():
            term = term_of(written, pod.metadata.namespace)
            members.append(self._carriers(term, written.topology_key, 0))
            out.append((self._group(Selection((term,))), self.nodes.topology(written.topology_key)))
        return tuple(out)

    def _near(
        self, pod: Pod, side: PodAffinity | None, sign: int, members: list[int]
    ) -> Iterator[tuple[int, int, int]]:
        for written in side.preferred if side else ():
            weight = sign * written.weight
            if weight:
                term = term_of(written.pod_affinity_term, pod.metadata.namespace)
                key = written.pod_affinity_term.topology_key
                members.append(self._carriers(term, key, weight))
                yield self._group(Selection((term,))), self.nodes.topology(key), weight

    def _spread(self, pod: Pod) -> tuple[tuple[Spread, ...], tuple[Spread, ...]]:
        hard: list[Spread] = []
        soft: list[Spread] = []
        for constraint in pod.spec.topology_spread_constraints:
            side = hard if constraint.when_unsatisfiable == _HARD else soft
            side.append(self._spread_rule(pod, constraint))
        return tuple(hard), tuple(soft)

    def _spread_rule(self, pod: Pod, constraint: TopologySpreadConstraint) -> Spread:
        clauses = spread_clauses(constraint, pod.metadata.labels)
        # A selector without clauses selects the pod itself, yet kube-scheduler counts no pod for it.
        everything = clauses == ()
        term = Term((pod.metadata.namespace,), None, None if everything else clauses)
        return Spread(
            group=self._group(Selection((term,), ignores_terminating=True)),
            topology=self.nodes.topology(constraint.topology_key),
            max_skew=constraint.max_skew,
            min_domains=constraint.min_domains or 1,
            counts_itself=everything or term.selects(pod.metadata, self._namespaces),
            honor_affinity=constraint.node_affinity_policy != "Ignore",
            honor_taints=constraint.node_taints_policy == "Honor",
        )

    def _ports(self, pod: Pod, members: list[int]) -> tuple[int, ...]:
        conflicts = []
        for protocol, port, address in host_ports(pod):
            anywhere = self._group(PortUsers(protocol, port, None))
            here = self._group(PortUsers(protocol, port, address))
            members += (anywhere, here)
            if address == ANY_ADDRESS:
                conflicts.append(anywhere)
            else:
                conflicts += (here, self._group(PortUsers(protocol, port, ANY_ADDRESS)))
        return tuple(sorted(set(conflicts)))

    def _sole_users(self, pod: Pod, members: list[int]) -> tuple[int, ...]:
        mine = [key for key in claims_of(pod) if key in self._sole] if self._sole and pod.spec.volumes else []
        groups = sorted({self._group(ClaimUsers(*key)) for key in mine})
        members += groups
        return tuple(groups)

    def _selected(self, pod: Pod) -> list[int]:
        """The groups whose selection the pod meets, as if it were not being deleted."""
        candidates = list(self._unlabelled)
        for pair in pod.metadata.labels.items():
            candidates += self._by_label.get(pair, ())
        found = []
        for group in candidates:
            selection = self._selections[group]
            if selection is not None and selection.holds(pod.metadata, self._namespaces):
                found.append(group)
        return found

    def _carriers(self, term: Term, topology_key: str, weight: int) -> int:
        about, topology = self._group(Selection((term,))), self.nodes.topology(topology_key)
        key = Carriers(about, topology, weight)
        known = key in self._groups
        group = self._group(key)
        if not known:
            if weight:
                self._likes[about].append((group, topology, weight))
            else:
                self._forbids[about].append((group, topology))
        return group

    def _group(self, key: GroupKey) -> int:
        group = self._groups.get(key)
        if group is not None:
            return group
        if not self._free:
            self._free.append(len(self._counts))
            self._counts.append(np.zeros(len(self.nodes.arrays.present), np.int32))
            self._forbids.append([])
            self._likes.append([])
            self._selections.append(None)
        group = self._groups[key] = self._free.pop()
        self._selections[group] = key if isinstance(key, Selection) else None
        if isinstance(key, Selection):
            label = key.label
            (self._unlabelled if label is None else self._by_label.setdefault(label, [])).append(group)
            self._unmatched.append(group)
        self.revision += 1
        return group

    def _ignores_terminating(self, group: int) -> bool:
        selection = self._selections[group]
        return selection is not None and selection.ignores_terminating

    def _add(self, node: str, members: tuple[int, ...], sign: int) -> None:
        row = self.nodes.rows.get(node)
        if row is None or not members:
            return
        self._make_room()
        for group in members:
            self._counts[group][row] += sign
        self.revision += 1

    def _drop(self, node: str, held: dict[str, tuple[int, ...]], uid: str) -> None:
        held.pop(uid, None)
        if not held:
            del self._on_node[node]

    def _make_room(self) -> None:
        rows = len(self.nodes.arrays.present)
        if not self._counts or len(self._counts[0]) == rows:
            return
        for group, count in enumerate(self._counts):
            self._counts[group] = np.pad(count, (0, rows - len(count)))


class NewSelectors:
    """Groups that known pods have not been held against yet."""

    def __init__(
        self,
        selections: list[Selection],
        namespaces: Mapping[str, Mapping[str, str]],
        claims: frozenset[ClaimKey] = frozenset(),
    ) -> None:
        self._namespaces, self._claims = namespaces, claims
        self._by_label: dict[tuple[str, str], list[Selection]] = {}
        self._unlabelled: list[Selection] = []
        for selection in selections:
            label = selection.label
            (self._unlabelled if label is None else self._by_label.setdefault(label, [])).append(selection)

    def matches(self, pod: Pod) -> bool:
        """Whether the pod belongs to one of the groups."""
        if self._claims and pod.spec.volumes and not self._claims.isdisjoint(claims_of(pod)):
            return True
        candidates = list(self._unlabelled)
        if self._by_label:
            for pair in pod.metadata.labels.items():
                candidates += self._by_label.get(pair, ())
        return any(selection.holds(pod.metadata, self._namespaces) for selection in candidates)


_NO_RULES = Rules()
