"""Claims that several members of a gang name: they get one volume, and all have to be where that can be reached."""

from collections.abc import Iterable
from typing import NamedTuple

from tangram.api.objects import NodeSelector, NodeSelectorTerm

HOST, ZONE = "kubernetes.io/hostname", "topology.kubernetes.io/zone"
_NODE_NAME = "metadata.name"


class SharedClaim(NamedTuple):
    """A claim of several members of a gang for whose volume no node has been chosen."""

    name: str
    label: str
    """Nodes with one value of this label are where one volume can be reached."""
    must: bool
    """The members have to be there; else it is likely only, as the volume is yet to be made."""
    members: int = 0
    """How many of the gang name it."""


def place_of_all(affinities: Iterable[NodeSelector]) -> str:
    """The node label of which all nodes that can reach one of the volumes have one value, whichever volume it is.
    Empty: one of them can be reached from elsewhere, too, or says in another way where it is."""
    found = {_place(one) for one in affinities}
    return min(found, key=("", HOST, ZONE).index) if found else ""


def _place(affinity: NodeSelector) -> str:
    """The label of one value that the nodes have which can reach a volume; empty: none of those that are known."""
    terms = affinity.node_selector_terms
    for label in (HOST, ZONE) if terms else ():
        values = {_value(term, label) for term in terms}
        if len(values) == 1 and "" not in values:
            return label
    return ""


def _value(term: NodeSelectorTerm, label: str) -> str:
    """The one value of a label that a term allows; empty: it allows several, or any."""
    clauses = [one for one in term.match_expressions if one.key == label]
    clauses += [one for one in term.match_fields if label == HOST and one.key == _NODE_NAME]
    for clause in clauses:
        if clause.operator == "In" and len(clause.values) == 1:
            return str(clause.values[0])
    return ""
