"""What a node agent tells of its node's GPUs in the GPUNode, beside what the node's labels tell."""

import msgspec
import pytest
from tests.worlds import START, World, bound, node, pod, policy

from tangram.api import names
from tangram.api.objects import Node
from tangram.errors import InvalidInput
from tangram.scheduler.policies import Inventory, node_devices
from tangram.snapshot import legal
from tangram.snapshot.build import Builder
from tangram.snapshot.nodes.inventory import InventoryTable, NodeDevice


def gpu_node(*devices: tuple[int, str]) -> tuple[NodeDevice, ...]:
    """What is read of a GPUNode whose devices have this memory and model."""
    told = [
        {"uuid": f"GPU-{index}", "index": index, "model": model, "memoryMiB": mib, "health": "Healthy"}
        for index, (mib, model) in reversed(list(enumerate(devices)))
    ]
    return node_devices(msgspec.convert({"metadata": {"name": "n0"}, "status": {"devices": told}}, Inventory))


def described(there: Node, *devices: tuple[int, str]) -> tuple[str, int]:
    """(model, MiB of one device) of a node about which a GPUNode tells."""
    builder = Builder()
    builder.put_node(there)
    builder.set_inventory("n0", gpu_node(*devices))
    return builder.nodes.model_of("n0"), builder.nodes.device_memory("n0")


def test_a_pod_that_asks_for_gpu_memory_is_placed_where_only_the_agent_tells_it() -> None:
    world = World([node("n0", 2, model="")], [pod("a", gpu=30, gpu_memory="24Gi")])
    assert world.settle().waiting == ["a"], "nobody tells how much memory there is"
    world.cycle.builder.set_inventory("n0", gpu_node((16 << 10, "T4"), (16 << 10, "T4")))
    assert world.settle().waiting == ["a"], "too little"
    world.cycle.builder.set_inventory("n0", gpu_node((80 << 10, "A100"), (80 << 10, "A100")))
    assert world.settle().where == {"a": "n0"}


def test_a_pod_that_names_models_is_placed_where_only_the_agent_tells_the_model() -> None:
    world = World([node("n0", 1, model="")], [pod("a", gpu=30, models="H100|A100")])
    assert world.settle().waiting == ["a"]
    world.cycle.builder.set_inventory("n0", gpu_node((80 << 10, "A100")))
    assert world.settle().where == {"a": "n0"}


@pytest.mark.parametrize(
    ("there", "devices", "found"),
    [
        pytest.param(node("n0", 1, "A100", gpu_memory=40960), [(81_920, "H100")], ("A100", 81_920), id="both tell"),
        pytest.param(node("n0", 1, "A100", gpu_memory=40960), [(0, "")], ("A100", 40_960), id="only labels tell"),
        pytest.param(node("n0", 1, ""), [(81_920, "H100")], ("H100", 81_920), id="only the agent tells"),
        pytest.param(node("n0", 1, ""), [(0, "")], ("unknown", 0), id="nobody tells"),
        pytest.param(node("n0", 2, ""), [(81_920, "H100"), (0, "H100")], ("H100", 81_920), id="one is not known"),
        pytest.param(node("n0", 2, ""), [(81_920, "H100"), (16_384, "T4")], ("unknown", 16_384), id="unlike devices"),
        pytest.param(node("n0", 1, gpu_memory=40960), [(1 << 40, "")], ("A100", 40_960), id="no device has that much"),
        pytest.param(node("n0", 1, gpu_memory=40960), [(-5, "")], ("A100", 40_960), id="less than nothing"),
    ],
)
def test_the_driver_is_believed_about_memory_and_the_label_about_the_model(
    there: Node, devices: list[tuple[int, str]], found: tuple[str, int]
) -> None:
    assert described(there, *devices) == found


def test_labels_count_again_when_the_gpu_node_is_gone() -> None:
    builder = Builder()
    builder.put_node(node("n0", 1, gpu_memory=40960))
    builder.set_inventory("n0", gpu_node((81_920, "A100")))
    builder.set_inventory("n0", node_devices(None))
    assert builder.nodes.device_memory("n0") == 40_960


def test_running_pods_hold_their_part_of_the_memory_that_the_agent_tells_later() -> None:
    builder = Builder()
    builder.put_node(node("n0", 1, gpu_memory=40960))
    builder.put_pod(bound(pod("a", gpu=50), "n0", {"main": [("0", 50)]}))
    builder.set_inventory("n0", gpu_node((10_000, "A100")))
    assert builder.snapshot(START).nodes.device_memory_free[builder.nodes.rows["n0"], 0] == 5000
    assert list(legal.miscounted(builder)) == []


def test_a_limit_of_a_model_counts_pods_on_nodes_of_which_the_agent_tells_the_model() -> None:
    queue = {"name": "q", "limit": {"gpuModels": {"A100": "500m"}}}
    world = World([node("n0", 1, model="")], [pod("a", gpu=30, queue="q")], policy(queues=[queue]))
    assert world.settle().where == {"a": "n0"}
    world.cycle.builder.set_inventory("n0", gpu_node((81_920, "A100")))
    world.add(pod("b", gpu=30, queue="q"), pod("c", gpu=20, queue="q", age=-1))
    assert world.settle().waiting == ["b"]


@pytest.mark.parametrize(
    "ids",
    [
        pytest.param(("GPU-a", "GPU-a"), id="one uuid twice"),
        pytest.param(("", "GPU-b"), id="no uuid"),
        pytest.param(("1",), id="the index of a device that is not reported"),
    ],
)
def test_a_node_gives_out_nothing_by_a_report_that_does_not_tell_its_devices_apart(ids: tuple[str, ...]) -> None:
    world = World([node("n0", 2)], [pod("a", whole=1), pod("b", whole=1)])
    world.cycle.builder.set_inventory("n0", tuple(NodeDevice(one, True) for one in ids))
    assert world.settle().waiting == ["a", "b"]
    [fault] = world.cycle.take_faults()
    assert "GPUNode n0: status.devices[].uuid" in fault.sentence
    world.cycle.builder.set_inventory("n0", (NodeDevice("GPU-a", True), NodeDevice("GPU-b", True)))
    assert world.settle().where == {"a": "n0", "b": "n0"}


def shared_node(**labels: str) -> Node:
    """A node whose 2 GPUs NVIDIA's plugin offers 4 times each."""
    told = {"nvidia.com/gpu.product": "A100-SHARED"} | {f"nvidia.com/gpu.{key}": value for key, value in labels.items()}
    return node("n0", 0, labels=told, extra={names.GPU_RESOURCE: 8})


@pytest.mark.parametrize(
    ("labels", "gpus"),
    [
        pytest.param({"replicas": "4"}, 2, id="offered four times"),
        pytest.param({"replicas": "1"}, 0, id="shared, and nobody says how often"),
        pytest.param({}, 0, id="nor here"),
        pytest.param({"replicas": "none"}, 0, id="nor here, in words"),
        pytest.param({"replicas": "1", "product": "A100"}, 8, id="not shared"),
        pytest.param({"replicas": "0", "product": "A100"}, 8, id="not shared, cut in slices elsewhere"),
        pytest.param({"product": "A100"}, 8, id="no labels of sharing"),
    ],
)
def test_gpus_that_another_plugin_shares_are_not_so_many_whole_ones(labels: dict[str, str], gpus: int) -> None:
    world = World([shared_node(**labels)], [pod(f"p{number}", whole=1, cpu=0) for number in range(9)]).settle()
    assert len(world.where) == gpus
    assert world.cycle.builder.snapshot(START).nodes.device_count[0] == gpus


def test_a_pod_that_wants_a_gpu_in_no_shared_mode_stays_off_one_that_another_plugin_shares() -> None:
    alone = {names.GPU_ISOLATION: "mps"}
    for strategy, reason in (("time-slicing", "IsolationMismatch"), ("mps", "")):
        there = shared_node(**{"replicas": "4", "sharing-strategy": strategy})
        there = node("n0", 0, labels=there.metadata.labels, extra={names.GPU_RESOURCE: 8, names.FRACTION_RESOURCE: 200})
        world = World([there], [pod("p", gpu=30, annotations=alone)]).settle()
        assert world.reason("p") == reason if reason else world.where == {"p": "n0"}


@pytest.mark.parametrize("distances", [((0, 1 << 40), (1 << 40, 0)), ((0, -1), (-1, 0)), ((0, 1),)])
def test_what_is_no_distance_between_devices_is_refused_by_name(distances: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(InvalidInput, match=r"GPUNode n0: links: .* is not allowed; allowed: "):
        InventoryTable().set_distances("n0", distances)
