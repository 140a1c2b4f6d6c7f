"""What is lacking is named once, in one wording, and only who has some of it is named as its holder."""

from collections.abc import Iterable

import pytest
from click.testing import CliRunner
from tests.worlds import START, bound, cluster, container, node, pod, policy, recording

from tangram.api.objects import Pod
from tangram.cli import explain as verb
from tangram.cli.main import tangram
from tangram.questions.explain import Explanation, explain
from tangram.snapshot.recording import Recording

NIC = {"example.com/nic": 2}
NOT_OFFERED = "insufficient extended resources (such as no node offers)"


def held(name: str, where: str, *, whole: int = 0, **asked: object) -> Pod:
    made = pod(name, containers=[container(whole=whole, **asked)])  # type: ignore[arg-type]
    return bound(made, where, {"main": [(str(index), 100) for index in range(whole)]} if whole else None)


def asking(**asked: object) -> Pod:
    return pod("w", containers=[container(**asked)])  # type: ignore[arg-type]


def world(pods: Iterable[Pod], **queue: object) -> Recording:
    chosen = policy(queues=[{"name": "default", **queue}]) if queue else None
    return recording(START, [node("n0", 4, cpu=64, memory="64Gi", pods=3, extra=NIC)], pods, chosen)


def explained(recorded: Recording) -> Explanation:
    return explain(recorded, next(one for one in recorded.pods if one.metadata.name == "w"))


def printed(monkeypatch: pytest.MonkeyPatch, recorded: Recording) -> str:
    monkeypatch.setattr(verb, "read_world", lambda *_: (recorded, "default"))
    return CliRunner().invoke(tangram, ["explain", "w", "--no-estimate"]).output


THERE = [held("gpus", "n0", whole=3), held("cpus", "n0", cpu=60), held("nics", "n0", extra=NIC)]


@pytest.mark.parametrize(
    ("pods", "asked", "lacking", "holders"),
    [
        (THERE[:2], {"whole": 2}, "gpu", [("gpus", 3000)]),
        (THERE[:2], {"cpu": 20}, "cpu", [("cpus", 60_000), ("gpus", 1000)]),
        (THERE[:2], {"memory": "63Gi"}, "memory", [("cpus", 1024), ("gpus", 1024)]),
        (THERE, {}, "pods", [("cpus", 1), ("gpus", 1), ("nics", 1)]),
        ([THERE[0], THERE[2]], {"extra": {"example.com/nic": 1}}, "example.com/nic", [("nics", 2)]),
    ],
)
def test_who_holds_some_of_what_is_lacking_is_named(
    pods: list[Pod], asked: dict[str, object], lacking: str, holders: list[tuple[str, int]]
) -> None:
    found = explained(world([*pods, asking(**asked)]))
    assert found.lacking == lacking
    assert [(one.pod.name, one.amount) for one in found.holders] == holders
    assert found.held == sum(amount for _, amount in holders)


@pytest.mark.parametrize("asked", [{"extra": {"example.com/fpga": 1}}, {"whole": 5}, {"cpu": 65}])
def test_nobody_holds_what_no_node_has(asked: dict[str, object]) -> None:
    found = explained(world([*THERE[:2], asking(**asked)]))
    assert found.reason == "ExceedsNodeCapacity"
    assert found.holders == ()


def test_holders_of_a_full_queue_hold_what_its_limit_is_on() -> None:
    found = explained(world([*THERE[:2], asking(cpu=2)], limit={"cpu": "62"}))
    assert (found.reason, found.lacking) == ("QueueLimit", "cpu")
    assert [(one.pod.name, one.amount) for one in found.holders] == [("cpus", 60_000), ("gpus", 1000)]


def test_the_table_has_the_words_and_the_numbers_of_the_sentence() -> None:
    """Also where a label is missing on nodes that are too small in any case."""
    asked = pod("w", containers=[container(extra={"example.com/fpga": 1})], selector={"disk": "ssd"})
    nodes = [*cluster("2x1xA100"), node("n2", 1)]
    found = explained(recording(START, nodes, [asked]))
    assert found.message == f"the pod exceeds the capacity of every node: 3 {NOT_OFFERED}"
    assert [(one.nodes, one.sentence) for one in found.losses] == [(3, NOT_OFFERED)]
    found = explained(world([*THERE[:2], asking(cpu=200)]))
    assert found.message == "the pod exceeds the capacity of every node: 1 insufficient CPU"
    assert [(one.nodes, one.sentence) for one in found.losses] == [(1, "insufficient CPU")]


def test_amounts_are_said_in_the_unit_of_what_is_lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    output = printed(monkeypatch, world([*THERE[:2], asking(cpu=64)]))
    assert "\nHolders of what it needs: 2 pods with 61 CPUs\n" in output
    assert [line.split()[:5] for line in output.splitlines() if line.startswith("  default/")] == [
        ["default/cpus", "n0", "60", "CPUs", "0"],
        ["default/gpus", "n0", "1", "CPU", "3"],
    ]
    assert "wait until default/gpus, default/cpus on n0 (61 CPUs) end or are evicted" in output or (
        "wait until default/cpus, default/gpus on n0 (61 CPUs) end or are evicted" in output
    )
    assert "\nHolders of what it needs: 3 pods\n" in printed(monkeypatch, world([*THERE, asking()]))
    one = printed(monkeypatch, world([THERE[2], asking(extra={"example.com/nic": 1})]))
    assert "\nHolders of what it needs: 1 pod with 2 example.com/nic\n" in one


def test_one_is_not_many(monkeypatch: pytest.MonkeyPatch) -> None:
    ahead = pod("first", age=9, containers=[container(whole=1)])
    full = [held("gpus", "n0", whole=4)]
    output = printed(monkeypatch, world([*full, ahead, asking(whole=1)]))
    assert "Queue position: 2 of 2; ahead of it are requests for 1 GPU: 1 pod of queue default (1 GPU)\n" in output
