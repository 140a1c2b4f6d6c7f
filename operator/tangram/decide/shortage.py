"""Nodes by why they do not take a pod, in words: of extended resources and volumes, which it is."""

from typing import NamedTuple

import numpy as np

from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.snapshot.arrays import CPU, MEMORY, PODS, Int8, Int64, Snapshot
from tangram.snapshot.nodes.columns import NOT_OFFERED

_VOLUMES_OF, _FREE_VOLUMES = "attachable-volumes-csi-", "free-volumes-"
_FREE = "free "


class Part(NamedTuple):
    """Nodes with one reason not to take a pod."""

    code: int
    nodes: int
    sentence: str
    """What stands after the number."""


def parts(decision: Decision, shape: int, found: Int8, *, empty: bool = False) -> list[Part]:
    """The nodes that are there by why they do not take a pod of the shape, the commonest reason first.

    ``found``: the code of each; ``empty``: as it would be if nothing were on them."""
    counts = np.bincount(found, minlength=len(codes.NAMES)).tolist()
    out = [
        Part(code, count, codes.SENTENCES[code])
        for code, count in enumerate(counts)
        if count and code in codes.SENTENCES and code != codes.INSUFFICIENT_RESOURCE
    ]
    if counts[codes.INSUFFICIENT_RESOURCE]:
        rows = np.flatnonzero(decision.snapshot.nodes.present)[found == codes.INSUFFICIENT_RESOURCE]
        named: dict[str, int] = {}
        for column, count in lacking(decision, shape, rows, empty=empty):
            said = _sentence(decision.snapshot.resources[column])
            named[said] = named.get(said, 0) + count  # kinds of volumes of one class have the same words
        out += [Part(codes.INSUFFICIENT_RESOURCE, count, said) for said, count in named.items()]
    if empty:
        out = [part._replace(sentence=part.sentence.replace(_FREE, "")) for part in out]
    return sorted(out, key=lambda part: (-part.nodes, part.code, part.sentence))


def lacking(decision: Decision, shape: int, rows: Int64, *, empty: bool = False) -> list[tuple[int, int]]:
    """(column, number of the node rows) of the first resource, but for CPU, memory and pods, of which a node row has
    too little."""
    snapshot, request = decision.snapshot, decision.snapshot.shapes.request[shape]
    asked = np.flatnonzero(request > 0)
    asked = asked[~np.isin(asked, (CPU, MEMORY, PODS))]
    if not len(asked):
        return []
    amounts = snapshot.nodes.capacity if empty else decision.pool.free
    first = np.zeros(len(rows), np.int64)
    for index in reversed(range(len(asked))):  # few columns and many rows: a reduction over rows costs ten times that
        first[amounts[rows, asked[index]] < request[asked[index]]] = index
    counts = np.bincount(first, minlength=len(asked)).tolist()
    return [(int(column), count) for column, count in zip(asked, counts, strict=True) if count]


def avoided(snapshot: Snapshot, shape: int) -> str:
    """How many GPUs nobody is given for now; empty: none, or the shape asks for none."""
    nodes = snapshot.nodes
    count = int(nodes.avoided[nodes.present].sum()) if len(nodes.avoided) else 0
    if not count or not snapshot.shapes.ask_count[shape].any():
        return ""
    who = "1 GPU is" if count == 1 else f"{count} GPUs are"
    return f"{who} given to nobody for now, as kubelets rejected pods there"


def _sentence(name: str) -> str:
    if name == NOT_OFFERED:
        return "insufficient extended resources (such as no node offers)"
    if name.startswith(_VOLUMES_OF):
        return f"insufficient {_FREE}attachments for volumes of driver {name.removeprefix(_VOLUMES_OF)}"
    if name.startswith(_FREE_VOLUMES):
        return f"insufficient {_FREE}persistent volumes of class {name.removeprefix(_FREE_VOLUMES).partition('/')[0]}"
    return f"insufficient {_FREE}{name}"
