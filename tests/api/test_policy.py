"""The pure questions that other rooms ask of a HybridPolicy."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.api.samples import sample

from tangram.api.policy import HybridPolicy, active_policy, class_of, names_accelerator, parse_policy
from tangram.errors import InvalidInput


def test_the_sample_of_the_documentation() -> None:
    """docs/api.md and examples/policy.yaml show the same object, and it means what it says."""
    example = (ROOT / "examples" / "policy.yaml").read_text()
    assert example in (ROOT / "docs" / "api.md").read_text()
    shown = parse_policy(yaml.safe_load(example), unknown="forbid")
    assert [(item.name, item.weight) for item in shown.spec.priority_classes] == [
        ("gpu-intensive", 3),
        ("cpu-bound", 1),
    ]
    assert shown.spec.fallback_strategy == "best-effort"
    assert class_of(shown, None, wants_gpu=True).name == "gpu-intensive"
    assert class_of(shown, None, wants_gpu=False).name == "cpu-bound"


def test_the_words_of_the_interface_need_no_models() -> None:
    """The node agent and the snapshot read names and projections without loading pydantic."""
    look = "import sys, tangram.api.names, tangram.api.objects; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], check=False).returncode == 0


def policy(name: str, created: str) -> HybridPolicy:
    return parse_policy(sample("HybridPolicy", f"metadata: {{name: {name}, creationTimestamp: '{created}'}}"))


ROOT = Path(__file__).parents[2]
OLD, NEW = "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"


def test_the_policy_named_default_is_in_force_however_young() -> None:
    assert active_policy([policy("a", OLD), policy("default", NEW)]).metadata.name == "default"


def test_else_the_oldest_then_the_first_by_name() -> None:
    assert active_policy([policy("a", NEW), policy("b", OLD)]).metadata.name == "b"
    assert active_policy([policy("b", OLD), policy("a", OLD)]).metadata.name == "a"


def test_without_policies_none_is_in_force() -> None:
    assert active_policy([]) is None


@given(st.permutations([policy("a", NEW), policy("b", OLD), policy("c", OLD), policy("default", NEW)]))
def test_the_order_of_a_list_has_no_say(policies: list[HybridPolicy]) -> None:
    assert active_policy(policies).metadata.name == "default"
    assert active_policy([item for item in policies if item.metadata.name != "default"]).metadata.name == "b"


ANY_NODE = "spec: {priorityClasses: [{name: plain}, {name: tesla, nodeSelector: {accelerator: nvidia-tesla}}]}"
NO_ACCELERATOR = "spec: {priorityClasses: [{name: ssd, nodeSelector: {disk: ssd}}, {name: plain}]}"
ONLY_ACCELERATOR = "spec: {priorityClasses: [{name: tesla, nodeSelector: {accelerator: nvidia-tesla}}]}"


@pytest.mark.parametrize(
    ("classes", "named", "wants_gpu", "expected"),
    [
        ("", None, True, "gpu-intensive"),
        ("", None, False, "cpu-bound"),
        ("", "cpu-bound", True, "cpu-bound"),
        ("", "unknown", True, None),
        (ANY_NODE, None, True, "tesla"),
        (ANY_NODE, None, False, "plain"),
        (NO_ACCELERATOR, None, True, "plain"),
        (NO_ACCELERATOR, None, False, "ssd"),
        (ONLY_ACCELERATOR, None, False, None),
        ("spec: {priorityClasses: []}", None, True, None),
    ],
)
def test_class_of_a_workload(classes: str, named: str | None, wants_gpu: bool, expected: str | None) -> None:
    found = class_of(parse_policy(sample("HybridPolicy", classes)), named, wants_gpu)
    assert (found.name if found else None) == expected


def test_class_without_any_policy() -> None:
    assert class_of(None, None, True) is None


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ({"accelerator": "nvidia-tesla"}, True),
        ({"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"}, True),
        ({"cloud.google.com/gke-accelerator": "nvidia-l4"}, True),
        ({"node.kubernetes.io/npu.chip.name": "910B"}, True),
        ({"nvidia.com/gpu.present": "false"}, False),
        ({"gpu-free-zone": ""}, False),
        ({"topology.kubernetes.io/zone": "a"}, False),
        ({"amplifier": "gpu"}, False),
        ({}, False),
    ],
)
def test_a_selector_that_names_an_accelerator(selector: dict[str, str], expected: bool) -> None:
    assert names_accelerator(selector) is expected


def test_an_error_says_which_object_and_how_many_faults() -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse_policy(sample("HybridPolicy", "spec: {fallbackStrategy: maybe, sharing: {maxTenantsPerGPU: 0}}"))
    assert str(refusal.value) == (
        "HybridPolicy sample: spec.fallbackStrategy: 'maybe' is not allowed; "
        "allowed: 'best-effort', 'strict' or 'preempt' (and 1 more faults)"
    )


@pytest.mark.parametrize("wreck", [{}, {"spec": None}, {"metadata": []}, {"metadata": None, "spec": []}])
def test_wreckage_is_refused_with_the_same_kind_of_error(wreck: dict) -> None:
    with pytest.raises(InvalidInput):
        parse_policy(wreck)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    )
)
def test_no_spec_whatever_makes_parsing_fail_otherwise(spec: object) -> None:
    """Anything that YAML can say is either read or refused with InvalidInput."""
    with contextlib.suppress(InvalidInput):
        parse_policy(sample("HybridPolicy") | {"spec": spec})


def test_amounts_are_integers_inside() -> None:
    queue = "{name: a, limit: {cpu: 500m, memory: 1Gi, gpu: '2.5', gpuModels: {T4: 1}}}"
    limit = parse_policy(sample("HybridPolicy", f"spec: {{queues: [{queue}]}}")).spec.queues[0].limit
    assert limit.milli() == {"cpu": 500, "memory": 1024, "gpu": 2500, "gpu/T4": 1000}
