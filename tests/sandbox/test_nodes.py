"""Fake GPU nodes: the short form people write, and the Node objects it becomes."""

import ipaddress
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.errors import InvalidInput
from tangram.sandbox.nodes import NodeSpec, create_nodes_blocking, node_object, parse_nodes
from tangram.sandbox.shapes import SHAPES, shape_of

GROUPS = st.lists(
    st.tuples(st.integers(1, 20), st.integers(1, 16), st.sampled_from(sorted(SHAPES))), min_size=1, max_size=5
)


def test_the_short_form_names_nodes_gpus_and_model():
    nodes = parse_nodes("2x8xA100, 1x4xt4,1xCPU")

    assert [node.name for node in nodes] == ["a100-0", "a100-1", "t4-0", "cpu-0"]
    assert [node.gpu_count for node in nodes] == [8, 8, 4, 0]
    assert [node.model for node in nodes] == ["A100", "A100", "T4", None]


def test_nothing_asked_for_is_no_nodes():
    assert parse_nodes("") == ()


@given(GROUPS)
def test_every_node_asked_for_is_there_once_and_racks_hold_eight(groups):
    nodes = parse_nodes(",".join(f"{count}x{gpus}x{model}" for count, gpus, model in groups))

    assert len(nodes) == len({node.name for node in nodes}) == sum(count for count, _, _ in groups)
    assert max(Counter(node.rack for node in nodes).values()) <= 8
    assert all(len({node.zone for node in nodes if node.rack == rack}) == 1 for rack in {n.rack for n in nodes})


@pytest.mark.parametrize(
    "text", ["8", "8xA100", "0x8xA100", "8x0xA100", "1x17xT4", "8x8xA100;", "-1x8xA100", "99999x8xT4"]
)
def test_what_is_not_of_that_form_is_refused_with_the_form(text):
    with pytest.raises(InvalidInput, match="--nodes"):
        parse_nodes(text)


def test_an_unknown_model_is_refused_with_the_known_ones():
    with pytest.raises(InvalidInput, match=r"'H101' is not allowed; allowed: A10, A100, .*V100M32"):
        parse_nodes("8x8xH101")


def test_a_node_carries_what_gpu_feature_discovery_and_the_device_plugins_report():
    node = node_object(NodeSpec("gpu-1", 96_000, 1_048_576, 8, "A100", "zone-b", "rack-5"))

    labels = node["metadata"]["labels"]
    assert labels["nvidia.com/gpu.product"] == "NVIDIA-A100-SXM4-80GB"
    assert labels["nvidia.com/gpu.count"] == "8"
    assert labels["nvidia.com/gpu.memory"] == "81920"
    assert labels["nvidia.com/gpu.family"] == "ampere"
    assert labels["nvidia.com/gpu.present"] == "true"
    assert labels["accelerator"] == "nvidia-tesla"
    assert labels["topology.kubernetes.io/zone"] == "zone-b"
    assert labels["topology.kubernetes.io/rack"] == "rack-5"
    assert node["status"]["allocatable"] == {
        "cpu": "96000m",
        "memory": "1048576Mi",
        "ephemeral-storage": "1Ti",
        "pods": "256",
        "nvidia.com/gpu": "8",
        "scheduling.example.com/gpu": "800",
    }
    assert node["metadata"]["annotations"] == {"kwok.x-k8s.io/node": "fake"}
    assert {c["type"]: c["status"] for c in node["status"]["conditions"]}["Ready"] == "True"


def test_a_node_without_gpus_carries_nothing_of_gpus():
    node = node_object(NodeSpec("cpu-1", 32_000, 131_072))

    assert not [label for label in node["metadata"]["labels"] if label.startswith("nvidia.com/")]
    assert "accelerator" not in node["metadata"]["labels"]
    assert set(node["status"]["allocatable"]) == {"cpu", "memory", "ephemeral-storage", "pods"}


@given(st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=30))
def test_a_node_keeps_its_address_and_it_is_a_private_one(name):
    first, second = (node_object(NodeSpec(name, 1, 1))["status"]["addresses"][0]["address"] for _ in range(2))

    assert first == second
    assert ipaddress.ip_address(first) in ipaddress.ip_network("10.32.0.0/11")


@pytest.mark.parametrize("model", sorted(SHAPES))
def test_every_shape_is_whole(model):
    shape = shape_of(model.lower(), "test")

    assert shape.memory_mib >= 15_000
    assert shape.cpu_milli > 0
    assert shape.host_memory_mib > 0
    assert " " not in shape.product + shape.machine + shape.family, "label values hold no blanks"


def test_an_unknown_model_stops_a_creation_before_the_first_request(tmp_path):
    nodes = [NodeSpec("good", 1000, 1024, 1, "T4"), NodeSpec("bad", 1000, 1024, 1, "TPU")]

    with pytest.raises(InvalidInput, match="node bad: model: 'TPU'"):
        create_nodes_blocking("https://127.0.0.1:1", tmp_path / "never-read", "token", nodes)
