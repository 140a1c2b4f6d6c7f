"""What no fresh decision can know (refusals, places that are being made free) is read from the pod's own condition, and
evictions that a PodDisruptionBudget will not allow are said beforehand."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace
from tests.worlds import START, bound, cluster, leaving, node, pod, policy, recording

from tangram.api import names
from tangram.api.disruption import BudgetSpec, BudgetStatus, PodDisruptionBudget
from tangram.api.objects import Condition, LabelSelector, Metadata, Pod, PodStatus
from tangram.cli import explain as verb
from tangram.cli import what_if as other_verb
from tangram.cli.main import tangram
from tangram.plan import PodName
from tangram.questions.budgets import exceeded
from tangram.questions.explain import Explanation, explain
from tangram.snapshot import recording as dump
from tangram.snapshot.pods.suspension import SPARES_OTHERS
from tangram.snapshot.recording import Recording

WORDS = "admission denied: no pods on Fridays"
BINDING_REFUSED = f"BindingRefused: the API server did not take its binding: {WORDS}"
EVICTION_REFUSED = "waits for the eviction of default/lo-0, which the API server refuses: violates the budget"
BY_PRIORITY = policy({"name": "gpu", "weight": 3, "nodeSelector": {"a": "b"}}, {"name": "cpu"}, fallback="preempt")
"""Of which pods without a class evict those of class cpu on nodes with the label."""


def saying(waiting: Pod, message: str, nominated: str = "") -> Pod:
    """The pod with a reason that a scheduler has reported on it."""
    condition = Condition("PodScheduled", "False", "Unschedulable", message)
    return replace(waiting, status=PodStatus(conditions=(condition,), nominated_node_name=nominated))


def low(name: str, first: int, count: int = 1, **labels: str) -> Pod:
    """A pod of class cpu that runs on n0."""
    held = bound(pod(name, whole=count, klass="cpu"), "n0", {"main": [(str(first + i), 100) for i in range(count)]})
    return replace(held, metadata=replace(held.metadata, labels=held.metadata.labels | labels))


def budget(name: str, allowed: int, app: str = "lo", **spec: Any) -> PodDisruptionBudget:
    selector = LabelSelector({"app": app})
    return PodDisruptionBudget(Metadata(name, "default"), BudgetSpec(selector, **spec), BudgetStatus(allowed))


def contended(waiting: Iterable[Pod], budgets: Iterable[PodDisruptionBudget] = ()) -> Recording:
    """One node of 2 GPUs, both held by pods of class cpu that give way."""
    nodes = [node("n0", 2, labels={"a": "b"})]
    there = [low("lo-0", 0, app="lo"), low("lo-1", 1, app="lo")]
    return recording(START, nodes, [*there, *waiting], BY_PRIORITY, budgets=list(budgets))


def explained(world: Recording, name: str = "w") -> Explanation:
    return explain(world, next(one for one in world.pods if one.metadata.name == name))


def asked(monkeypatch: pytest.MonkeyPatch, world: Recording, *arguments: str, text: str = "") -> Result:
    """What the command says of a cluster that is as recorded."""
    for module in (verb, other_verb):
        monkeypatch.setattr(module, "read_world", lambda *_: (world, "default"))
    return CliRunner().invoke(tangram, list(arguments), input=text)


def test_a_plugin_that_fails_at_the_schedulers_stands_first_although_the_pod_fits_here() -> None:
    said = (
        "PluginRejected: 0/1 nodes are available: 1 rejected by a plugin; plugin cells of the policy fails, and the pod"
    )
    found = explained(recording(START, cluster("1x2xA100"), [saying(pod("w", whole=1), said)]))
    assert (found.state, found.reason, found.otherwise) == ("waits", "PluginRejected", "it fits on n0")


def test_a_gang_whose_time_is_over_is_not_said_to_be_incomplete_only() -> None:
    said = "GangTimeout: gang default/g has 1 of at least 3 members, after its timeout of 5s"
    waiting = saying(pod("w", whole=1, gang="g", gang_min=3), said)
    found = explained(recording(START, cluster("1x2xA100"), [waiting]))
    assert found.reason == "GangTimeout"
    assert "after its timeout of 5s" in found.message


def test_a_refused_binding_stands_first_although_the_pod_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    world = recording(START, cluster("1x2xA100"), [saying(pod("w", whole=1), BINDING_REFUSED)])
    found = explained(world)
    assert (found.state, found.reason) == ("waits", "BindingRefused")
    assert WORDS in found.message
    assert found.otherwise == "it fits on n0"
    output = asked(monkeypatch, world, "explain", "w").output
    assert output.startswith("pod default/w is pending: BindingRefused\n  the API server did not take its binding")
    assert "  apart from that: it fits on n0\n" in output
    assert "in its next cycle" not in output
    assert "Start:" not in output
    assert "change" not in output


def test_a_pod_that_was_refused_and_does_not_fit_any_more_says_both() -> None:
    held = bound(pod("held", whole=2), "n0", {"main": [("0", 100), ("1", 100)]})
    found = explained(recording(START, cluster("1x2xA100"), [held, saying(pod("w", whole=1), BINDING_REFUSED)]))
    assert found.reason == "BindingRefused"
    assert found.otherwise == "0/1 nodes are available: 1 insufficient free GPUs"
    assert [one.pod.name for one in found.holders] == ["held"]


def test_volumes_that_are_being_made_are_what_the_pod_waits_for() -> None:
    said = "VolumeNotReady: its place on n0 is held until its volumes are there"
    found = explained(recording(START, cluster("1x2xA100"), [saying(pod("w", whole=1), said)]))
    assert (found.state, found.reason) == ("waits", "VolumeNotReady")
    assert found.message == "its place on n0 is held until its volumes are there"


@pytest.mark.parametrize("gone", [True, False])
def test_a_place_that_is_being_made_free_is_where_the_pod_waits_for(gone: bool) -> None:
    """Nothing is proposed: whoever is in the way leaves already."""
    said = "WaitingForEviction: to be placed on n0 once all pods terminating for it or its gang are gone"
    there = [] if gone else [leaving(low("lo-0", 0, 2))]
    world = recording(START, cluster("1x2xA100"), [*there, saying(pod("w", whole=2), said, "n0")])
    found = explained(world)
    assert (found.state, found.reason) == ("waits", "WaitingForEviction")
    assert found.message == "to be placed on n0 once all pods terminating for it or its gang are gone"
    assert found.otherwise == ("it fits on n0" if gone else "")
    assert not found.proposals
    assert not found.examined


def test_a_refused_eviction_stands_before_the_evictions_that_a_fresh_decision_would_ask_for() -> None:
    waiting = saying(pod("w", whole=2, klass="gpu"), f"InsufficientGpu: 0/1 nodes are available; {EVICTION_REFUSED}")
    found = explained(contended([waiting]))
    assert found.reason == "InsufficientGpu"
    assert found.message == f"0/1 nodes are available; {EVICTION_REFUSED}"
    assert found.otherwise == "to be placed on n0 once lo-1, lo-0 are evicted"


def test_for_whom_nobody_is_preempted_yet_as_it_was_refused_stands_first() -> None:
    why = f"as it was refused before, {SPARES_OTHERS} 2026-01-01T00:00:00Z"
    told = f"0/1 nodes are available: 1 insufficient free GPUs; {why}"
    found = explained(contended([saying(pod("w", whole=2, klass="gpu"), f"InsufficientGpu: {told}")]))
    assert (found.reason, found.message) == ("InsufficientGpu", told)
    assert found.otherwise == "to be placed on n0 once lo-1, lo-0 are evicted"


def test_a_refused_eviction_is_repeated_with_the_figures_of_now() -> None:
    held = bound(pod("lo-0", whole=2), "n0", {"main": [("0", 100), ("1", 100)]})
    waiting = saying(pod("w", whole=2), f"InsufficientGpu: no node has room; {EVICTION_REFUSED}")
    found = explained(recording(START, cluster("1x2xA100"), [held, waiting]))
    assert found.message == f"0/1 nodes are available: 1 insufficient free GPUs; {EVICTION_REFUSED}"


def test_what_is_over_is_not_repeated() -> None:
    """The victim is gone; the pod fits; it is bound."""
    refused = f"InsufficientGpu: no node has room; {EVICTION_REFUSED}"
    held = bound(pod("other", whole=2), "n0", {"main": [("0", 100), ("1", 100)]})
    gone = explained(recording(START, cluster("1x2xA100"), [held, saying(pod("w", whole=2), refused)]))
    assert gone.message == "0/1 nodes are available: 1 insufficient free GPUs"
    assert explained(recording(START, cluster("1x2xA100"), [saying(pod("w", whole=2), refused)])).state == "fits"
    placed = bound(saying(pod("w", whole=1), BINDING_REFUSED), "n0", {"main": [("0", 100)]})
    assert explained(recording(START, cluster("1x2xA100"), [placed])).state == "placed"


@pytest.mark.parametrize("message", ["0/3 nodes are available", "Rocket: engine", "InsufficientGpu: 0/1 nodes"])
def test_other_conditions_do_not_count(message: str) -> None:
    world = recording(START, cluster("1x2xA100"), [saying(pod("w", whole=1), message)])
    assert explained(world).state == "fits"


def test_a_file_has_the_reason_and_nobodys_words(tmp_path: Path) -> None:
    world = recording(START, cluster("1x2xA100"), [saying(pod("w", whole=1), BINDING_REFUSED)])
    dump.save(world, tmp_path / "w.json")
    assert "Fridays" not in (tmp_path / "w.json").read_text()
    found = explained(dump.load(tmp_path / "w.json"))
    assert found.reason == "BindingRefused"
    assert found.message.startswith("a file has no messages of conditions")


def test_evictions_that_a_budget_does_not_allow_are_said_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    warning = (
        "Warning: PodDisruptionBudget default/lo allows 1 eviction now, and 2 would be needed (default/lo-0, "
        "default/lo-1): for as long as that is so the API server refuses"
    )
    requests = {names.GPU_RESOURCE: 2}
    new = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "new", "labels": {names.PRIORITY_CLASS: "gpu"}},
        "spec": {"schedulerName": "tangram", "containers": [{"name": "main", "resources": {"requests": requests}}]},
    }
    world = contended([], [budget("lo", 1)])
    found = asked(monkeypatch, world, "what-if", "-f", "-", text=json.dumps(new))
    assert found.exit_code == 10, found.output
    assert warning in found.output
    answer = json.loads(asked(monkeypatch, world, "what-if", "-f", "-", "-o", "json", text=json.dumps(new)).output)
    assert answer["budgets"] == [{"budget": "default/lo", "allowed": 1, "pods": ["default/lo-0", "default/lo-1"]}]
    waiting = contended([pod("w", whole=2, klass="gpu")], [budget("lo", 1)])
    assert warning in asked(monkeypatch, waiting, "explain", "w").output


def leave(*pods: Pod) -> list[PodName]:
    return [PodName("default", one.metadata.name, one.metadata.uid) for one in pods]


def test_a_budget_counts_for_the_pods_that_the_api_server_would_ask_it_about() -> None:
    mine, more, others = low("mine", 0, app="lo"), low("more", 1, app="lo"), low("others", 2, app="hi")
    begins = replace(low("begins", 3, app="lo"), status=PodStatus("Pending"))
    going = leaving(low("going", 4, app="lo"))
    pods = [mine, more, others, begins, going]

    def over(*budgets: PodDisruptionBudget) -> list[tuple[str, int, list[str]]]:
        found = exceeded(recording(START, [], pods, budgets=list(budgets)), leave(*pods))
        return [(one.budget, one.allowed, [pod.name for pod in one.pods]) for one in found]

    assert over(budget("lo", 1)) == [("default/lo", 1, ["mine", "more"])]
    assert over(budget("lo", 2)) == []
    assert over(budget("hi", 0, "hi"), budget("lo", 0)) == [
        ("default/hi", 0, ["others"]),
        ("default/lo", 0, ["mine", "more"]),
    ]
    assert over(budget("lo", 0, unhealthy_pod_eviction_policy="AlwaysAllow")) == []  # they are not ready
    assert over(PodDisruptionBudget(Metadata("none", "default"))) == []
    everybody = PodDisruptionBudget(Metadata("all", "default"), BudgetSpec(LabelSelector()))
    assert over(everybody) == [("default/all", 0, ["mine", "more", "others"])]
    assert over(replace(everybody, metadata=Metadata("all", "elsewhere"))) == []
