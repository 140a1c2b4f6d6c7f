"""What a HybridPolicy says about itself: whether it is in force, and what its classes match now."""

from typing import Any

import msgspec
import pytest
from tests.controllers.builders import NOW

from tangram.api.policy import parse_policy
from tangram.api.views import NodeView
from tangram.controllers.actions import SetStatus
from tangram.controllers.observed import ObservedPolicies, StoredPolicy
from tangram.controllers.policy import reconcile

CLASSES = [
    {"name": "gpu-intensive", "weight": 3, "nodeSelector": {"accelerator": "nvidia-tesla"}},
    {"name": "cpu-bound", "weight": 1},
]


def policy(name: str, created: str = "2026-01-01T00:00:00Z", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.example.com/v1",
        "kind": "HybridPolicy",
        "metadata": {"name": name, "uid": f"uid-{name}", "generation": 2, "creationTimestamp": created},
        "spec": {"priorityClasses": CLASSES, **spec},
    }


def node(name: str, **labels: str) -> NodeView:
    manifest = {"metadata": {"name": name, "labels": labels}, "status": {"allocatable": {"nvidia.com/gpu": "8"}}}
    return msgspec.convert(manifest, NodeView)


def observed(*raws: dict[str, Any], nodes: tuple[NodeView, ...] | None = ()) -> ObservedPolicies:
    return ObservedPolicies(tuple(StoredPolicy(raw, parse_policy({**raw, "status": None})) for raw in raws), nodes)


def conditions(view: ObservedPolicies) -> dict[str, dict[str, tuple[str, str, str]]]:
    """Policy -> condition -> (status, reason, message)."""
    found = {}
    for action in reconcile(view, NOW):
        assert isinstance(action, SetStatus)
        assert action.change["observedGeneration"] == 2
        listed = action.change["conditions"]
        found[action.ref.name] = {item["type"]: (item["status"], item["reason"], item["message"]) for item in listed}
    return found


def test_a_policy_says_how_many_nodes_and_gpus_each_class_matches() -> None:
    nodes = (node("a", accelerator="nvidia-tesla"), node("b", accelerator="nvidia-tesla"), node("c"))
    ready = conditions(observed(policy("default"), nodes=nodes))["default"]["Ready"]
    assert ready == ("True", "Valid", "gpu-intensive: 2 nodes with 16 GPUs; cpu-bound: any node")


def test_a_class_without_nodes_is_told_and_no_fault() -> None:
    ready = conditions(observed(policy("default"), nodes=(node("c"),)))["default"]["Ready"]
    assert ready == ("True", "Valid", "gpu-intensive: no node now; cpu-bound: any node")


def test_a_queue_that_names_a_model_which_no_node_has_is_told_so() -> None:
    model = "nvidia.com/gpu.product"
    queues = [
        {"name": "sales", "guarantee": {"gpuModels": {"A100": 4}}},
        {"name": "vision", "limit": {"gpuModels": {"A10O": 4, "T4": 1}}},
    ]
    wished = policy("default", queues=queues)
    nodes = (node("a", **{model: "NVIDIA-A100-SXM4-80GB"}), node("b", **{model: "Tesla-T4"}))
    ready = conditions(observed(wished, nodes=nodes))["default"]["Ready"]
    assert ready[2].endswith("; queue vision: no node now has GPUs of the model A10O")
    for unknown in (None, (), (*nodes, node("without a label"))):
        assert "model" not in conditions(observed(wished, nodes=unknown))["default"]["Ready"][2]


def test_the_policy_named_default_is_in_force_and_the_others_are_shadowed() -> None:
    found = conditions(observed(policy("older", "2020-01-01T00:00:00Z"), policy("default")))
    assert found["default"]["Active"][:2] == ("True", "InForce")
    assert found["older"]["Active"][:2] == ("False", "Shadowed")
    assert "policy 'default' takes precedence" in found["older"]["Active"][2]


def test_without_a_default_the_oldest_is_in_force() -> None:
    found = conditions(observed(policy("b", "2020-01-01T00:00:00Z"), policy("a", "2021-01-01T00:00:00Z")))
    assert found["b"]["Active"][0] == "True"


def test_a_policy_with_a_plugin_that_fails_is_not_ready_and_is_stuck_until_somebody_changes_it() -> None:
    """The scheduler knows, and says so in the status; what it said of a policy that is not in force is old."""
    broken = {"failedPlugins": [{"name": "acme-spot", "message": "ValueError: args.most: 'x' is not allowed"}]}
    found = conditions(
        observed(policy("default") | {"status": broken}, policy("older", "2020-01-01T00:00:00Z") | {"status": broken}),
    )
    said = ("PluginFailed", "plugin acme-spot: ValueError: args.most: 'x' is not allowed")
    assert found["default"]["Ready"] == ("False", *said)
    assert found["default"]["Stalled"] == ("True", *said)
    assert found["older"]["Ready"][:2] == ("True", "Valid")


def overcommitted(*queues: dict[str, Any]) -> tuple[str, str, str]:
    return conditions(observed(policy("default", queues=list(queues))))["default"]["Overcommitted"]


def test_queues_that_are_guaranteed_more_than_the_queue_above_them_are_named() -> None:
    found = overcommitted(
        {"name": "research", "guarantee": {"gpu": "8", "cpu": "100"}},
        {"name": "vision", "parent": "research", "guarantee": {"gpu": "6", "cpu": "50"}},
        {"name": "speech", "parent": "research", "guarantee": {"gpu": "4.5"}},
    )
    text = "queue research is guaranteed 8 GPUs, but the queues below it are guaranteed 10.5 GPUs together"
    assert found == ("True", "GuaranteesExceedParent", f"{text} (vision 6 GPUs, speech 4.5 GPUs)")


def test_a_guarantee_beyond_a_limit_further_up_is_named() -> None:
    found = overcommitted(
        {"name": "top", "limit": {"gpuModels": {"H100": "1"}, "memory": "8Gi"}},
        {"name": "middle", "parent": "top"},
        {"name": "low", "parent": "middle", "guarantee": {"gpuModels": {"H100": "2"}, "memory": "8Gi"}},
    )
    assert found[2] == "queue top is limited to 1 H100 GPU, but queue middle below it is guaranteed 2 H100 GPUs"


@pytest.mark.parametrize("amount", ["0", "2"])
def test_guarantees_below_a_queue_that_names_no_amounts_are_all_right(amount: str) -> None:
    found = overcommitted({"name": "top"}, {"name": "low", "parent": "top", "guarantee": {"gpu": amount}})
    assert found == (
        "False",
        "GuaranteesFit",
        "no guarantees exceed what the queue above has; those at the top are not compared with the pool",
    )


def test_the_same_view_writes_nothing_twice() -> None:
    raw = policy("default")
    (action,) = reconcile(observed(raw), NOW)
    assert isinstance(action, SetStatus)
    assert reconcile(observed({**raw, "status": dict(action.change)}), NOW + 60) == ()


def test_a_policy_that_cannot_be_used_says_why_and_is_not_in_force() -> None:
    broken = {**policy("default"), "spec": {"fallbackStrategy": "hope"}}
    view = ObservedPolicies((StoredPolicy(broken, None, "spec.fallbackStrategy: 'hope'"),))
    found = conditions(view)["default"]
    assert found["Stalled"] == ("True", "InvalidSpec", "spec.fallbackStrategy: 'hope'")
    assert found["Ready"][0] == "False"


def test_fields_that_nothing_acts_on_are_named_while_they_are_set() -> None:
    pools = [{"name": "hot", "tier": "hot", "nodeSelector": {"pool": "hot"}}]
    before = policy("default", pools=pools, prices={"currency": "EUR"})
    (action,) = reconcile(observed(before), NOW)
    assert isinstance(action, SetStatus)
    [said] = [one for one in action.change["conditions"] if one["type"] == "FieldsWithoutEffect"]
    assert (said["status"], said["reason"]) == ("True", "NotInEffect")
    assert said["message"] == (
        "spec.pools[].name, spec.pools[].tier, spec.pools[].nodeSelector: pools neither steer placement nor reserve "
        "GPUs yet; spec.prices.currency: no costs are computed yet"
    )
    after = policy("default") | {"status": dict(action.change)}
    (action,) = reconcile(ObservedPolicies((StoredPolicy(after, parse_policy({**after, "status": None})),), ()), NOW)
    assert isinstance(action, SetStatus)
    assert "FieldsWithoutEffect" not in [one["type"] for one in action.change["conditions"]]


def test_a_policy_that_is_in_force_though_it_cannot_be_read_goes_before_others() -> None:
    said = "generation 7 cannot be read: ...; generation 5 stays in force"
    broken = policy("default") | {"status": {"inForce": {"generation": 5, "message": said}}}
    other = policy("older", "2020-01-01T00:00:00Z")
    view = ObservedPolicies(
        (StoredPolicy(broken, None, "cannot be read"), StoredPolicy(other, parse_policy(other))), ()
    )
    found = conditions(view)
    assert found["default"]["Stalled"] == ("True", "InvalidSpec", said)
    assert found["older"]["Active"] == ("False", "Shadowed", "not in effect: policy 'default' takes precedence")


def test_a_policy_of_which_nothing_is_in_force_leaves_it_to_others() -> None:
    broken, other = policy("default"), policy("older", "2020-01-01T00:00:00Z")
    view = ObservedPolicies(
        (StoredPolicy(broken, None, "cannot be read"), StoredPolicy(other, parse_policy(other))), ()
    )
    assert conditions(view)["older"]["Active"][:2] == ("True", "InForce")
