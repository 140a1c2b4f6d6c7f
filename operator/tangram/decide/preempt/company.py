"""Whom a claimant has to be near, among those whom it could have evicted: it needs one of them to stay."""

from collections.abc import Iterator

from tangram.decide.decision import Decision
from tangram.snapshot.arrays import Int32

_MOST = 4
"""Units that are tried singly."""


def to_spare(decision: Decision, shape: int, victims: list[int], unit: Int32) -> Iterator[frozenset[int]]:
    """Units to leave out, one set after the other, where a shape may not come once all these victims, slots, have gone:
    each of those that it has to be near, and then all of them. ``unit`` [V] is that of each running slot."""
    running, nodes, neighbours = decision.snapshot.running, decision.snapshot.nodes, decision.pool.neighbours
    near = [
        int(unit[one])
        for one in victims
        if neighbours.is_company(
            shape, running.names[one], nodes.names[int(running.node[one])], int(running.shape[one])
        )
    ]
    found = list(dict.fromkeys(near))
    yield from (frozenset({one}) for one in found[:_MOST])
    if len(found) > 1:
        yield frozenset(found)
