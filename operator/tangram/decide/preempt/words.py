"""What is said to those who have to leave, and to those who wait for them."""

from collections.abc import Sequence

from tangram.decide.preempt.legal import BY_CLASS, BY_GUARANTEE, BY_SHARE, IN_KIND
from tangram.decide.preempt.search import Search
from tangram.snapshot.arrays import PREEMPT, Snapshot

_SHOWN = 3
"""Pods that are named to the one that waits for them."""


def why(snapshot: Snapshot, slot: int, victim: int, search: Search) -> str:
    """By which right the waiting pod of a slot has a running one evicted that was found in a search."""
    queues, shapes, running = snapshot.queues, snapshot.shapes, snapshot.running
    reason = search.reason(victim)
    if reason == BY_GUARANTEE:
        return f"queue {queues.names[search.entitled]} reclaims its guarantee"
    if reason in (BY_SHARE, IN_KIND):
        own, other = search.sides(victim)
        return f"queue {queues.names[own]} is below its fair share and queue {queues.names[other]} above"
    shape, theirs = int(snapshot.pending.shape[slot]), int(running.shape[victim])
    differ = shapes.priority_class[shape] != shapes.priority_class[theirs]
    if reason == BY_CLASS or (differ and snapshot.classes.fallback == PREEMPT):
        return f"{_class_of(snapshot, shape)} preempts {_class_of(snapshot, theirs)}"
    return f"its priority {running.priority[victim]} is lower than {snapshot.pending.priority[slot]} in the same queue"


def _class_of(snapshot: Snapshot, shape: int) -> str:
    """The priority class of a shape with its weight."""
    classes, row = snapshot.classes, int(snapshot.shapes.priority_class[shape])
    return f"class {classes.names[row]} (weight {classes.weight[row]})" if row >= 0 else "no class"


def waits_for(node: str, victims: Sequence[str] = ()) -> str:
    """The message for a pod while others make room for it."""
    if not victims:
        return f"to be placed on {node} once all pods terminating for it or its gang are gone"
    named = ", ".join(victims[:_SHOWN]) + (f" and {len(victims) - _SHOWN} more" if len(victims) > _SHOWN else "")
    return f"to be placed on {node} once {named} {'are' if len(victims) > 1 else 'is'} evicted"
