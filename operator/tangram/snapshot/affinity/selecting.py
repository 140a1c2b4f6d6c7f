"""Groups of pods by what makes them one, and whether a pod belongs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tangram.api.objects import LabelSelector, Metadata, Pod, PodAffinityTerm, Requirement, TopologySpreadConstraint
from tangram.snapshot.requests.matching import value_matches

NAMESPACE_NAME = "kubernetes.io/metadata.name"
"""The label that the API server puts on every namespace."""
ANY_ADDRESS = "0.0.0.0"  # noqa: S104 - nothing is bound to: it is what a host port without an address means

Clauses = tuple[Requirement, ...]
NamespaceLabels = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Term:
    """Pods by namespace and labels."""

    namespaces: tuple[str, ...]
    namespace_clauses: Clauses | None
    """Clauses over the labels of further namespaces; None: no further ones."""
    clauses: Clauses | None
    """Clauses over the pod's labels; None: nothing is selected."""

    def selects(self, metadata: Metadata, namespaces: NamespaceLabels) -> bool:
        """Whether the pod is selected."""
        if self.clauses is None or not hold(self.clauses, metadata.labels):
            return False
        if metadata.namespace in self.namespaces:
            return True
        if self.namespace_clauses is None:
            return False
        known = namespaces.get(metadata.namespace) or {NAMESPACE_NAME: metadata.namespace}
        return hold(self.namespace_clauses, known)


@dataclass(frozen=True, slots=True)
class Selection:
    """Pods that all terms select."""

    terms: tuple[Term, ...]
    ignores_terminating: bool = False
    """Pods that are being deleted do not count."""

    def holds(self, metadata: Metadata, namespaces: NamespaceLabels) -> bool:
        """Whether the pod, if it is not being deleted, belongs."""
        return all(term.selects(metadata, namespaces) for term in self.terms)

    @property
    def label(self) -> tuple[str, str] | None:
        """A label that every pod of the group has, to look the group up by; None when there is no such label."""
        for term in self.terms:
            for clause in term.clauses or ():
                if clause.operator == "In" and len(clause.values) == 1:
                    return clause.key, clause.values[0]
        return None


@dataclass(frozen=True, slots=True)
class Carriers:
    """Pods that carry a term about the pods of another group: weight 0 keeps them away, else likes or dislikes them."""

    about: int
    topology: int
    weight: int


@dataclass(frozen=True, slots=True)
class PortUsers:
    """Pods that use a host port; address None: at whichever address."""

    protocol: str
    port: int
    address: str | None


@dataclass(frozen=True, slots=True)
class ClaimUsers:
    """Pods that use a volume claim of which one pod may use it at a time."""

    namespace: str
    claim: str


GroupKey = Selection | Carriers | PortUsers | ClaimUsers


def hold(clauses: Clauses, labels: Mapping[str, str]) -> bool:
    """Whether all clauses hold for the labels."""
    return all(value_matches(clause, labels.get(clause.key)) for clause in clauses)


def clauses_of(selector: LabelSelector | None, more: Iterable[Requirement] = ()) -> Clauses | None:
    """The selector as clauses in one order, so that equal selectors are equal; None selects nothing."""
    if selector is None:
        return None
    plain = [Requirement(key, "In", (value,)) for key, value in selector.match_labels.items()]
    written = [Requirement(one.key, one.operator, tuple(sorted(one.values))) for one in selector.match_expressions]
    found = {(one.key, one.operator, one.values): one for one in (*plain, *written, *more)}
    return tuple(found[key] for key in sorted(found))


def term_of(term: PodAffinityTerm, namespace: str) -> Term:
    """An affinity term of a pod in ``namespace``; without any word on namespaces it means the pod's own."""
    own = (namespace,) if not term.namespaces and term.namespace_selector is None else ()
    return Term(
        tuple(sorted(term.namespaces)) or own,
        None if term.namespace_selector is None else clauses_of(term.namespace_selector),
        clauses_of(term.label_selector),
    )


def spread_clauses(constraint: TopologySpreadConstraint, labels: Mapping[str, str]) -> Clauses | None:
    """The clauses of a spread constraint; ``matchLabelKeys`` take their values from the pod's own labels."""
    keys = [key for key in constraint.match_label_keys if key in labels]
    return clauses_of(constraint.label_selector, [Requirement(key, "In", (labels[key],)) for key in keys])


def host_ports(pod: Pod) -> list[tuple[str, int, str]]:
    """(protocol, port, address) of every host port that the pod uses for as long as it runs."""
    lasting = [one for one in pod.spec.init_containers if one.restart_policy == "Always"]
    ports = [port for container in (*lasting, *pod.spec.containers) for port in container.ports if port.host_port > 0]
    return sorted({(port.protocol or "TCP", port.host_port, port.host_ip or ANY_ADDRESS) for port in ports})


def check_numbers(pod: Pod) -> None:
    """Raise ValueError with a sentence naming field and value for a number that the API server lets nobody write."""
    affinity = pod.spec.affinity
    sides = (affinity.pod_affinity, affinity.pod_anti_affinity) if affinity is not None else ()
    found = [("weight", term.weight, 0, 100) for side in sides if side is not None for term in side.preferred]
    for constraint in pod.spec.topology_spread_constraints:
        found.append(("maxSkew", constraint.max_skew, 1, _MOST))
        found.append(("minDomains", constraint.min_domains or 1, 1, _MOST))
    containers = (*pod.spec.init_containers, *pod.spec.containers)
    found += [("hostPort", port.host_port, 0, 65535) for one in containers for port in one.ports]
    for field, value, least, most in found:
        if not least <= value <= most:
            raise ValueError(f"{field} {value} is not allowed; allowed: {least} to {most}")


_MOST = (1 << 31) - 1
