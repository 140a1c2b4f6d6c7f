"""The GPUs that a node offers, as its resources and labels have them; the scheduler counts the same."""

import msgspec
import pytest
from tests.worlds import START

from tangram.api import names
from tangram.api.objects import Node
from tangram.snapshot.build import Builder
from tangram.snapshot.values.offers import offered_gpus, offered_model

SHARED = {"nvidia.com/gpu.replicas": "4", "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-SHARED"}
NOBODY_SAYS = {"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-SHARED"}


def node(labels: dict[str, str], amounts: dict[str, str]) -> Node:
    metadata = {"name": "n", "labels": labels}
    return msgspec.convert(
        {"metadata": metadata, "status": {"allocatable": {"cpu": "8", "pods": "10", **amounts}}}, Node
    )


@pytest.mark.parametrize(
    ("labels", "amounts", "gpus"),
    [
        ({}, {}, 0),
        ({}, {"nvidia.com/gpu": "8"}, 8),
        ({}, {names.FRACTION_RESOURCE: "400"}, 4),
        ({}, {"nvidia.com/gpu": "4", names.FRACTION_RESOURCE: "800"}, 8),
        ({}, {"nvidia.com/gpu": "2", "amd.com/gpu": "4"}, 4),
        (SHARED, {"nvidia.com/gpu": "32"}, 8),
        (NOBODY_SAYS, {"nvidia.com/gpu": "32"}, 0),
        ({}, {"nvidia.com/gpu": "many", "amd.com/gpu": "4"}, 4),
        ({}, {"nvidia.com/gpu": "7900m"}, 7),
        ({}, {"nvidia.com/gpu": "100000"}, 1024),
    ],
)
def test_the_scheduler_and_those_who_only_show_gpus_count_alike(
    labels: dict[str, str], amounts: dict[str, str], gpus: int
) -> None:
    builder = Builder("tangram")
    one = node(labels, amounts)
    builder.put_node(one)
    assert offered_gpus(labels, amounts) == gpus
    assert int(builder.snapshot(START).nodes.device_count[builder.nodes.rows["n"]]) == gpus


def test_the_model_is_that_of_the_gpus_that_are_offered() -> None:
    labels = {"nvidia.com/gpu.product": "A100", "amd.com/gpu.product-name": "MI300"}
    assert offered_model(labels, {"amd.com/gpu": "4"}) == "MI300"
