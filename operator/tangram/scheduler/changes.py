"""What a change of an object means to the scheduler, also of one that cannot be read."""

import msgspec

from tangram.api.objects import Node
from tangram.cluster.wire import DECODE_ERRORS


class _NodeName(msgspec.Struct, frozen=True):
    node_name: str = msgspec.field(default="", name="nodeName")


class _BoundTo(msgspec.Struct, frozen=True):
    spec: _NodeName = _NodeName()


_BOUND_TO = msgspec.json.Decoder(_BoundTo)


def node_of(raw: bytes) -> str:
    """The node to which a pod is bound of which more cannot be read; empty: to none, or not even that can be."""
    try:
        return _BOUND_TO.decode(raw).spec.node_name
    except DECODE_ERRORS:
        return ""


def placement_may_change(old: Node, new: Node) -> bool:
    """Heartbeats change conditions only; those are not worth a cycle at the cluster."""
    return (
        old.spec != new.spec
        or old.metadata.labels != new.metadata.labels
        or old.status.allocatable != new.status.allocatable
    )
