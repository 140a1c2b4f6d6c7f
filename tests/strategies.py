"""Hypothesis worlds: nodes, pods, gangs and policies, small enough to read and odd enough to find faults."""

from typing import Any

from hypothesis import strategies as st
from tests.worlds import container, node, pod, policy, requires

from tangram.api import names
from tangram.api.objects import Node, Pod, Requirement, Taint, Toleration
from tangram.api.policy import HybridPolicy
from tangram.snapshot.nodes.inventory import Distances, NodeDevice

NODE_NAMES = ("n0", "n1", "n2", "n3")
POD_NAMES = tuple(f"p{index}" for index in range(10))
MODELS = ("A100", "H100", "T4")
ISOLATION = ("mps", "time-slice", "exclusive", "mig")
LEVELS = ("rack", "zone", "topology.kubernetes.io/rack", "host", "shelf")
DEDICATED = Taint("dedicated", "NoSchedule", "training")


def zones() -> st.SearchStrategy[dict[str, str]]:
    """Labels of a node."""
    return st.fixed_dictionaries(
        {},
        optional={
            "zone": st.sampled_from(["a", "b"]),
            "rank": st.sampled_from("159"),
            "topology.kubernetes.io/zone": st.sampled_from(["a", "b"]),
            "topology.kubernetes.io/rack": st.sampled_from(["r", "s"]),
        },
    )


@st.composite
def nodes(draw: st.DrawFn, name: str = "") -> Node:
    """A node with zero to four GPUs."""
    return node(
        name or draw(st.sampled_from(NODE_NAMES)),
        draw(st.sampled_from([2, 1, 0, 4])),
        draw(st.sampled_from([*MODELS, ""])),
        cpu=draw(st.sampled_from([64, 8, 2])),
        memory=draw(st.sampled_from(["256Gi", "4Gi"])),
        pods=draw(st.sampled_from([110, 2])),
        labels=draw(zones()),
        taints=draw(st.sampled_from([(), (), (), (), (DEDICATED,)])),
        unschedulable=draw(st.sampled_from([False] * 5 + [True])),
        gpu_memory=draw(st.sampled_from([81920, 40960, 0])),
        extra=draw(st.sampled_from([{}, {}, {"example.com/nic": 2}])),
    )


VALID = [{"gpu": 50}, {"whole": 1}, {"gpu": 30}, {"whole": 2}, {"gpu": 70}, {"gpu": 100}, {"gpu": 200}, {"gpu": 10}, {}]
ODD = [{"gpu": 130}, {"gpu": 30, "whole": 1}, {"whole": 40}, {"whole": "1e15"}, {"gpu": "1e300"}]


def asks() -> st.SearchStrategy[dict[str, int | str]]:
    """Devices of a container, impossible ones now and then."""
    return st.sampled_from(VALID * 4 + ODD)


@st.composite
def pods(draw: st.DrawFn, name: str = "", gangs: bool = True) -> Pod:
    """A waiting pod."""
    name = name or draw(st.sampled_from(POD_NAMES))
    cpu = draw(st.sampled_from(["500m", 1, 4]))
    asked = [draw(asks())] + ([draw(asks())] if draw(st.integers(0, 3)) == 0 else [])
    containers = [container(f"c{index}", cpu=cpu, **ask) for index, ask in enumerate(asked)]
    options: dict[str, Any] = {}
    match draw(st.integers(0, 15)):
        case 5:
            options["selector"] = {"zone": draw(st.sampled_from(["a", "b"]))}
        case 1:
            options["affinity"] = requires(
                [Requirement("zone", draw(st.sampled_from(["In", "NotIn", "Exists", "DoesNotExist"])), ("a",))],
                [Requirement("rank", draw(st.sampled_from(["Gt", "Lt"])), ("4",))],
            )
        case 2:
            options["models"] = draw(st.sampled_from(["A100", "H100|T4"]))
        case 3:
            options["gpu_memory"] = draw(st.sampled_from(["8Gi", "60Gi", "1Pi", "much"]))
        case 6:
            options["annotations"] = {names.GPU_ISOLATION: draw(st.sampled_from([*ISOLATION, "mps|mig", "none"]))}
        case 4:
            options["tolerations"] = [Toleration("dedicated", "Exists")]
        case _:
            pass
    if duration := draw(st.sampled_from(["", "", "5s", "1h", "soon"])):
        options.setdefault("annotations", {})[names.ESTIMATED_DURATION] = duration
    if gangs and draw(st.integers(0, 3)) == 3:
        options["gang"] = draw(st.sampled_from(["g", "h"]))
        options["gang_min"] = draw(st.sampled_from([2, 1, 2, 3, 3, "none"]))
        levels = {names.TOPOLOGY_REQUIRED: st.sampled_from(LEVELS), names.TOPOLOGY_PREFERRED: st.sampled_from(LEVELS)}
        options["annotations"] = options.get("annotations", {}) | draw(st.fixed_dictionaries({}, optional=levels))
    return pod(
        name,
        containers=containers,
        age=draw(st.sampled_from([0, 1, 2, 3, 10_000])),
        priority=draw(st.sampled_from([0, 0, 10])),
        queue=draw(st.sampled_from([""] * 9 + ["research", "serving"])),
        klass=draw(st.sampled_from(["low", "high", "high", "low", "", "nobody"])),
        **options,
    )


CLASSES = [{"name": "high"}, {"name": "low"}, {"name": "nobody"}]
"""Every class that a pod may name."""
QUEUES = [
    {"name": "research", "weight": 2, "limit": {"gpu": "2", "gpuModels": {"A100": "1"}}},
    {"name": "serving", "guarantee": {"gpu": "1"}},
]


def policies() -> st.SearchStrategy[HybridPolicy | None]:
    """Policies of two classes, with each fallback strategy."""
    high = {"name": "high", "weight": 3}
    low = {"name": "low", "weight": 1}
    at_home = {"nodeSelector": {"zone": "a"}}
    return st.one_of(
        st.none(),
        st.just(policy({"name": "high", "weight": 3}, {"name": "low", "weight": 1}, fallback="preempt")),
        st.builds(
            lambda classes, fallback, strategy, queues: policy(
                *classes, fallback=fallback, placement={"strategy": strategy}, queues=queues
            ),
            st.sampled_from([(high, low), (low, high), (high | at_home, low), (high | at_home, low | at_home)]),
            st.sampled_from(["preempt", "strict", "best-effort"]),
            st.sampled_from(["fragmentation", "pack", "spread"]),
            st.sampled_from([[], [], QUEUES, QUEUES[:1]]),
        ),
    )


def inventories() -> st.SearchStrategy[tuple[NodeDevice, ...]]:
    """What a node agent tells of a node's devices; of memory, model and isolation an old one tells nothing."""
    facts = st.tuples(
        st.booleans(),
        st.sampled_from([0, 0, 16 << 10, 80 << 10]),
        st.sampled_from(["", *MODELS]),
        st.sampled_from(["", "", *ISOLATION]),
    )
    return st.lists(facts, max_size=4).map(
        lambda found: tuple(NodeDevice(f"GPU-{index}", *one) for index, one in enumerate(found))
    )


def links() -> st.SearchStrategy[Distances]:
    """What a node agent tells of how far a node's devices are from each other; nothing, now and then."""
    pair = st.sampled_from([1, 8, 20, 40])
    matrix = st.lists(pair, min_size=16, max_size=16).map(
        lambda found: tuple(tuple(found[4 * min(a, b) + max(a, b)] * (a != b) for b in range(4)) for a in range(4))
    )
    return st.one_of(st.just(()), matrix)


UNREADABLE = (
    "",
    "{",
    "[]",
    '{"c0": [{"id": "0", "share": 900}]}',
    '{"c0": []}',
    "{}",
    '{"c0":[{"id":"9","share":30}]}',
)
RESERVED = names.GPUS
