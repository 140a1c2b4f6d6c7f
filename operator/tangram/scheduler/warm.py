"""Compile the kernels before the first decision is asked for.

A kernel that is compiled in the middle of a cycle holds the process for seconds, up to a minute on a busy machine, and
the Lease is lost meanwhile. So every way from Python into a kernel is gone here once, in small scenes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tangram.api import names
from tangram.api.objects import Container, Metadata, Node, NodeStatus, Pod, PodSpec, PodStatus, Resources
from tangram.api.policy import parse_policy
from tangram.decide.price import pricing
from tangram.scheduler.cycle import Cycle

Amounts = dict[str, str | int | float]

_FRACTION: Amounts = {names.FRACTION_RESOURCE: "30"}
_WHOLE: Amounts = {names.GPU_RESOURCE: "2"}
_CPU: Amounts = {"cpu": "1"}
_LINKED_GPUS = 8
_ZONE, _ZONE_LABEL = "zone", "topology.kubernetes.io/zone"
_NOW = 1_700_000_000


def warm_kernels() -> None:
    """Go every way into a kernel once: each is compiled, or read from the cache."""
    _place()
    _preempt()
    _place_by_other_plugins()


def _place() -> None:
    """Fractions, whole GPUs that are linked, several containers, a gang in one zone, and some that fit nowhere."""
    cycle = Cycle()
    cycle.builder.put_node(_node("n", _LINKED_GPUS))
    cycle.builder.set_links("n", tuple((1,) * _LINKED_GPUS for _ in range(_LINKED_GPUS)))
    asked: Sequence[Sequence[Amounts]] = (
        [_FRACTION], [_WHOLE], [_CPU], [_FRACTION, _FRACTION], [_WHOLE, _FRACTION],
        [{"cpu": "1000"}], [{names.GPU_RESOURCE: str(_LINKED_GPUS)}],
    )  # fmt: skip
    for number, amounts in enumerate(asked):
        cycle.observe_pod(None, _pod(f"p{number}", amounts))
    for number in range(2):
        together = {names.GANG_MIN: "2", names.TOPOLOGY_REQUIRED: _ZONE}
        cycle.observe_pod(None, _pod(f"g{number}", [_FRACTION], {names.GANG: "g"}, together))
    for moment in (0, 1, 2 * cycle.settings.reservation_delay):  # one that waits has a reason first, then a reservation
        cycle.decide(moment)
        pricing.learn(cycle.builder.snapshot(moment))


def _preempt() -> None:
    """A node whose GPUs are held by pods that a waiting one may evict: of a lower class, or borrowing."""
    classes = [{"name": "high", "weight": 3}, {"name": "low", "weight": 1}]
    queues = [{"name": "own", "guarantee": {"gpu": "2"}}, {"name": "other"}]
    by_class = {names.PRIORITY_CLASS: "low"}, {names.PRIORITY_CLASS: "high"}, {"priorityClasses": classes}
    by_queue = {names.QUEUE: "other"}, {names.QUEUE: "own"}, {"queues": queues}
    held = ('{"main": [{"id": "0", "share": 100}]}', *['{"main": [{"id": "1", "share": 50}]}'] * 2)
    for low, high, spec in (by_class, by_queue):
        cycle = Cycle()
        cycle.builder.set_policy(_policy({"fallbackStrategy": "preempt"} | spec))
        cycle.builder.put_node(_node("n", 2))
        for number, devices in enumerate(held):
            amount: Amounts = {names.FRACTION_RESOURCE: "50"} if number else {names.GPU_RESOURCE: "1"}
            cycle.observe_pod(None, _pod(f"low-{number}", [amount], low, {names.GPUS: devices}, node="n"))
        cycle.observe_pod(None, _pod("high", [_WHOLE], high))
        cycle.decide(_NOW)


def _place_by_other_plugins() -> None:
    """Those that a policy may name: the one in force may change at any time."""
    for plugin in ("fragmentation", "binpack", "spread"):
        cycle = Cycle()
        weights = [{"name": "bid-price", "weight": 0}, {"name": plugin, "weight": 1}]
        cycle.builder.set_policy(_policy({"placement": {"plugins": weights}}))
        cycle.builder.put_node(_node("n", 2))
        for number, amount in enumerate((_FRACTION, _WHOLE)):
            cycle.observe_pod(None, _pod(f"p{number}", [amount]))
        cycle.decide(_NOW)


def _policy(spec: Mapping[str, Any]) -> Any:
    metadata = {"name": "default"}
    return parse_policy({"apiVersion": names.API_VERSION, "kind": "HybridPolicy", "metadata": metadata, "spec": spec})


def _node(name: str, gpus: int) -> Node:
    allocatable: dict[str, str | int | float] = {
        "cpu": 64, "memory": "64Gi", "pods": 110, names.GPU_RESOURCE: gpus, names.FRACTION_RESOURCE: 100 * gpus
    }  # fmt: skip
    labels = {"nvidia.com/gpu.product": "A100", _ZONE_LABEL: "a"}
    return Node(Metadata(name, labels=labels), status=NodeStatus(allocatable=allocatable))


def _pod(
    name: str,
    asked: Sequence[Amounts],
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    node: str = "",
) -> Pod:
    containers = tuple(
        Container(f"c{index}" if index else "main", Resources(requests=dict(amounts), limits=dict(amounts)))
        for index, amounts in enumerate(asked)
    )
    metadata = Metadata(name, "default", uid=name, labels=dict(labels or {}), annotations=dict(annotations or {}))
    spec = PodSpec(containers=containers, scheduler_name=names.SCHEDULER_NAME, node_name=node)
    return Pod(metadata, spec, PodStatus(phase="Running" if node else "Pending"))
