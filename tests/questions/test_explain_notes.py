"""What nobody is refused for, and may not be meant so, stands beside the answer."""

import json

import msgspec
import pytest
from click.testing import CliRunner, Result
from tests.worlds import START, bound, cluster, pod, policy, recording

from tangram.api import names
from tangram.api.objects import Metadata, Namespace
from tangram.cli import explain as verb
from tangram.cli import what_if as other_verb
from tangram.cli.main import tangram
from tangram.questions.explain import explain
from tangram.questions.what_if import judge
from tangram.snapshot.recording import PolicyVersion, Recording

NO_CLASS = "the policy has no class 'gpu-intensiv' (label scheduling.example.com/priority-class)"


def asked(monkeypatch: pytest.MonkeyPatch, world: Recording, *arguments: str, text: str = "") -> Result:
    for module in (verb, other_verb):
        monkeypatch.setattr(module, "read_world", lambda *_: (world, "default"))
    return CliRunner().invoke(tangram, list(arguments), input=text)


@pytest.mark.parametrize("state", ["waits", "placed"])
def test_a_class_that_the_policy_does_not_have_is_named_whatever_becomes_of_the_pod(
    monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    one = pod("w", whole=1, klass="gpu-intensiv")
    one = bound(one, "n0", {"main": [("0", 100)]}) if state == "placed" else one
    world = recording(START, cluster("1x2xA100"), [one], policy({"name": "gpu-intensive"}))
    assert explain(world, world.pods[0]).state == state
    assert f"  Warning: {NO_CLASS}" in asked(monkeypatch, world, "explain", "w").output


LAB = Namespace(Metadata("default", labels={names.QUEUE: "research"}))


def test_holders_and_changes_name_the_queue_of_the_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pods name none: the holder stood in no queue, and the change was one "instead of default"."""
    holds = bound(pod("holds", whole=2), "n0", {"main": [("0", 100), ("1", 100)]})
    limited = policy(queues=[{"name": "research", "limit": {"gpu": 2}}, {"name": "sales"}])
    world = recording(START, cluster("1x4xA100"), [holds, pod("w", whole=1)], limited, namespaces=[LAB])
    found = explain(world, next(one for one in world.pods if one.metadata.name == "w"))
    assert [one.queue for one in found.holders] == ["research"]
    changes = [one.change.text for one in found.proposals if one.change.kind == "another-queue"]
    assert changes == [f"use queue sales instead of research, which the label {names.QUEUE} of namespace default names"]


def test_a_queue_that_is_not_there_is_said_to_be_named_by_the_namespace() -> None:
    """Nothing in the pod names it, and the sentence sent its owner to look there."""
    world = recording(START, cluster("1x4xA100"), [pod("w", whole=1)], policy(queues=[{"name": "x"}]), namespaces=[LAB])
    found = explain(world, world.pods[0])
    by = f"the label {names.QUEUE} of namespace default"
    assert found.message == f"queue 'research', which {by} names, does not exist; allowed: default, x"
    assert f"the policy has no queue 'research' ({by})" in found.notes
    assert {one.change.text for one in found.proposals} == {f"use queue x instead of research, which {by} names"}


def test_gpus_that_no_node_offers_are_named_and_not_replaced_by_parts_of_others() -> None:
    one = pod("w", extra={"amd.com/gpu": 1})
    world = recording(START, cluster("1x4xA100"), [one], policy(queues=[]))
    found = explain(world, world.pods[0])
    assert any(note.startswith("no node offers amd.com/gpu; ") for note in found.notes), found
    assert not [one.change.text for one in found.proposals if one.change.kind == "fewer-gpus"]


def test_a_duration_that_cannot_be_read_is_said() -> None:
    one = pod("w", whole=1, annotations={names.ESTIMATED_DURATION: "soon"})
    world = recording(START, cluster("1x2xA100"), [one])
    (note,) = explain(world, world.pods[0]).notes
    assert note == "annotation scheduling.example.com/estimated-duration: 'soon' cannot be read, and counts as none"


def test_guarantees_beyond_the_pool_are_said() -> None:
    queues = [{"name": "huge", "guarantee": {"gpu": 3}}, {"name": "more", "guarantee": {"gpu": 2}}]
    full = bound(pod("full", whole=4), "n0", {"main": [(str(index), 100) for index in range(4)]})
    world = recording(START, cluster("1x4xA100"), [full, pod("w", whole=1)], policy(queues=queues))
    (note,) = explain(world, world.pods[1]).notes
    assert note == (
        "the queues at the top are guaranteed 5 GPUs together, and the pool has 4 GPUs: not all of it can be reclaimed"
    )
    fits = recording(START, cluster("2x4xA100"), [full, pod("w", whole=1)], policy(queues=queues))
    assert explain(fits, fits.pods[1]).notes == ()


def test_a_plugin_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = policy(placement={"plugins": [{"name": "acme-spot"}]})
    world = recording(START, cluster("1x2xA100"), [pod("w", whole=1)], chosen)
    (note,) = explain(world, world.pods[0]).notes
    assert note.startswith("plugin acme-spot: ")
    assert note.endswith("; this answer was worked out without it")
    manifest = {
        "kind": "Pod",
        "metadata": {"name": "new", "labels": {names.PRIORITY_CLASS: "gpu-intensiv"}},
        "spec": {"schedulerName": "tangram", "containers": [{"name": "main"}]},
    }
    output = asked(monkeypatch, world, "what-if", "-f", "-", text=json.dumps(manifest)).output
    assert "  Warning: plugin acme-spot: " in output
    assert f"  Warning: {NO_CLASS}" in output
    assert judge(world, (pod("x"), pod("y"))).notes == (note,)


KEPT = "generation 7 cannot be read: no; generation 5 stays in force"
PART = "generation 7 cannot be read: no; it is in force without spec.placement"


@pytest.mark.parametrize(
    ("version", "note"),
    [
        (PolicyVersion("default", 7), None),
        (PolicyVersion("default", 7, decides="default", decides_generation=7), None),
        (PolicyVersion("default", 7, True, "default", 7, PART), f"policy default: {PART}"),
        (PolicyVersion("default", 7, True, message=PART), f"policy default: {PART}"),
        (
            PolicyVersion("default", 7, True, "default", 5, KEPT),
            (
                f"the scheduler decides by generation 5 of policy default: {KEPT}; this answer was worked out by "
                "what can be read of generation 7 of policy default, which is stored"
            ),
        ),
        (
            PolicyVersion("default", 7, False, "default", 5, KEPT),
            (
                f"the scheduler decides by generation 5 of policy default: {KEPT}; this answer was worked out by "
                "generation 7 of policy default, which is stored"
            ),
        ),
        (
            PolicyVersion("default", 7, False, "other", 2),
            (
                "the scheduler decides by generation 2 of policy other; this answer was worked out by generation 7 of "
                "policy default, which is stored"
            ),
        ),
        (
            PolicyVersion("", 0, True, "default", 5, KEPT),
            (
                f"the scheduler decides by generation 5 of policy default: {KEPT}; this answer was worked out without "
                "a policy"
            ),
        ),
    ],
)
def test_which_version_of_the_policy_decides_is_said_where_it_is_not_the_stored_one(
    version: PolicyVersion, note: str | None
) -> None:
    world = recording(START, cluster("1x2xA100"), [pod("w", whole=1)], policy())
    found = explain(msgspec.structs.replace(world, policy_version=version), world.pods[0]).notes
    assert found == (() if note is None else (note,))
