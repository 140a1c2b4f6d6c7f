"""Labels that plugins read: as columns, part of what pods are told apart by, and free while nobody reads any."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.budget import examples
from tests.decide.test_plugins import plugin, registry
from tests.worlds import World, cluster, node, pod, policy

from tangram.api.objects import Node, Pod
from tangram.snapshot.values.labels import NO_LABELS

CELL, TEAM = "example.com/cell", "example.com/team"


def labelled(one: Any, **labels: str) -> Any:
    """A pod or a node with more labels."""
    keys = {"cell": CELL, "team": TEAM}
    added = {keys.get(name, name): value for name, value in labels.items()}
    return msgspec.structs.replace(
        one, metadata=msgspec.structs.replace(one.metadata, labels=one.metadata.labels | added)
    )


def cells() -> list[Node]:
    return [labelled(node("n0"), cell="a"), labelled(node("n1"), cell="b"), node("n2")]


def reading(**methods: Any) -> type:
    found = plugin(**methods)
    found.node_labels, found.pod_labels = (CELL,), (TEAM,)  # type: ignore[attr-defined]
    return found


def own_cell(view: Any, shape: int, rows: Any) -> Any:
    team = view.pod_label(TEAM).value(shape)
    return view.node_label(CELL).among(rows, [team] if team is not None else ["a", "b"])


def using(*names: str) -> Any:
    return policy(placement={"plugins": [{"name": name} for name in names]})


def test_columns_have_a_code_for_each_row_and_a_value_for_each_code() -> None:
    pods = [labelled(pod("x", gpu=30), team="red"), labelled(pod("y", gpu=30), team="blue"), pod("z", gpu=30)]
    world = World(cells(), pods, using("stranger"), registry(reading(score=lambda *_: None)))
    view, pending = world.view, world.view.snapshot.pending
    rows = np.array([view.nodes.names.index(name) for name in ("n2", "n1", "n0")], np.int32)
    cell, team = view.node_label(CELL), view.pod_label(TEAM)
    assert [cell.value(int(row)) for row in rows] == [None, "b", "a"]
    assert cell.among(rows, ["a", "c"]).tolist() == [False, False, True]
    assert cell.mapped(rows, {"b": 7, "c": 9}, 3).tolist() == [3, 7, 3]
    shape = {pending.names[slot].name: pending.shape[slot] for slot in np.flatnonzero(pending.waiting)}
    assert {name: team.value(row) for name, row in shape.items()} == {"x": "red", "y": "blue", "z": None}
    assert len(team.codes) == len(view.shapes.priority_class)
    for column in (cell, team):
        with pytest.raises(ValueError, match="read-only"):
            column.codes[0] = 1
        with pytest.raises(TypeError):
            column.numbers["new"] = 1  # type: ignore[index]


def test_values_that_no_node_and_no_waiting_pod_has_any_more_are_not_shown() -> None:
    """A rule that cannot read one of them would fail for good, whatever is mended."""
    pods = [labelled(pod("x", gpu=30), team="red"), labelled(pod("y", whole=9), team="blue")]
    world = World(cells(), pods, using("stranger"), registry(reading(score=lambda *_: None)))
    assert (set(world.view.node_label(CELL).numbers), set(world.view.pod_label(TEAM).numbers)) == (
        {"a", "b"},
        {"red", "blue"},
    )
    world.cycle.builder.put_node(labelled(world.nodes[0], cell="c"))
    world.cycle.observe_pod(pods[1], None)
    assert (set(world.view.node_label(CELL).numbers), set(world.view.pod_label(TEAM).numbers)) == ({"b", "c"}, {"red"})
    world.cycle.builder.remove_node("n1")
    assert set(world.view.node_label(CELL).numbers) == {"c"}
    assert world.view.node_label(CELL).mapped(np.arange(3, dtype=np.int32), {"b": 1, "c": 2}).tolist() == [2, 0, 0]


def shapes_of(world: World) -> int:
    pending = world.view.snapshot.pending
    return len(set(pending.shape[pending.waiting].tolist()))


def test_pods_are_told_apart_by_a_label_while_a_plugin_reads_it_and_no_longer() -> None:
    pods = [labelled(pod(f"p{number}", whole=9), team=f"t{number % 3}") for number in range(6)]
    world = World(cells(), pods, using(), registry(reading(allow=own_cell), plugin("other", score=own_cell)))
    for names, shapes in (((), 1), (("stranger",), 3), (("other",), 1), (("stranger", "other"), 3), ((), 1)):
        world.cycle.builder.set_policy(using(*names))
        assert shapes_of(world) == shapes, names
    world.cycle.builder.set_policy(using("stranger"))
    world.add(labelled(pods[0], team="t1", unread="x"), labelled(pods[3], unread="y"), pod("plain", whole=9))
    assert shapes_of(world) == 4


def test_nothing_is_kept_of_labels_while_no_plugin_reads_any() -> None:
    pods = [labelled(pod(f"p{number}", gpu=30), team=f"t{number}") for number in range(2)]
    world = World(cells(), pods, using("stranger"), registry(plugin(score=lambda *_: np.zeros(0))))
    builder = world.cycle.builder
    assert builder.snapshot(world.now).labels is NO_LABELS
    assert [type(key) for key in builder.shapes.keys] == [bytes]
    assert CELL not in builder.nodes.topologies.keys


def test_a_rule_by_label_follows_the_labels_of_nodes_and_of_pods() -> None:
    """Each step is checked against a scheduler that remembers nothing."""
    world = World(cells(), [], using("stranger"), registry(reading(allow=own_cell)))
    world.add(*(labelled(pod(f"red-{number}", gpu=10), team="a") for number in range(2)))
    assert not world.step().faults
    assert world.where == {"red-0": "n0", "red-1": "n0"}

    late = labelled(pod("late", gpu=10), team="c")
    world.add(late)
    world.step()
    assert world.reason("late") == "PluginRejected"
    world.cycle.builder.put_node(labelled(world.nodes[2], cell="c"))
    world.step()
    assert world.where["late"] == "n2"

    moves = labelled(pod("moves", gpu=10), team="d")
    world.add(moves)
    world.step()
    world.add(labelled(moves, team="b"))
    world.step()
    assert world.where["moves"] == "n1"

    world.cycle.builder.put_node(labelled(world.nodes[0], cell="gone"))
    world.add(labelled(pod("lost", gpu=10), team="a"))
    world.step()
    assert world.waiting == ["lost"]
    world.cycle.builder.remove_node("n1")
    world.cycle.builder.put_node(labelled(node("n1"), cell="a"))
    world.step()
    assert world.where["lost"] == "n1"


def test_codes_are_right_however_rows_and_values_come_and_go() -> None:
    """Rows of shapes and of nodes are given back and used again."""
    world = World([labelled(node("n0", 0), cell="v0")], [], using("stranger"), registry(reading(allow=own_cell)))
    builder = world.cycle.builder
    for number in range(700):
        builder.remove_node("n0")
        builder.put_node(labelled(node("n0", 0), cell=f"v{number}"))
        world.add(labelled(pod("p", cpu=1 + number % 3, uid=f"uid-{number}"), team=f"v{number}"))
        if number % 50 == 0:
            world.step()
            assert world.where == {"p": "n0"}
        else:
            builder.snapshot(world.now)
        world.delete("p")
    view = world.view
    assert len(view.pod_label(TEAM).numbers) < 600
    assert len(view.node_label(CELL).numbers) < 200
    builder.set_policy(using())
    for number in range(1100):
        world.add(pod("p", cpu=f"{number + 1}m", uid=f"uid-{number}"))
        builder.snapshot(world.now)
        world.delete("p")
    assert CELL not in builder.nodes.topologies.keys


@pytest.mark.parametrize("kind", ["node", "pod"])
def test_a_label_that_no_plugin_declares_cannot_be_read(kind: str) -> None:
    def score(view: Any, _shape: int, rows: Any) -> Any:
        getattr(view, f"{kind}_label")("hidden")
        return np.zeros(len(rows), np.int32)

    world = World(cells(), [pod("a", gpu=10)], using("stranger"), registry(reading(score=score)))
    known = {"node": CELL, "pod": TEAM}[kind]
    fault = f"stranger: label 'hidden' is not read; allowed: those that {kind}_labels of a plugin names ({known})"
    assert world.step().faults == (fault,)
    assert world.where


@pytest.mark.parametrize("declared", ["team", 7, (1,), {"team"}])
def test_what_is_declared_has_to_be_keys(declared: Any) -> None:
    wrong = reading(allow=own_cell)
    wrong.pod_labels = declared  # type: ignore[attr-defined]
    world = World(cells(), [pod("a", gpu=10)], using("stranger"), registry(wrong))
    (fault,) = world.step().faults
    sentence = f"plugin 'stranger': pod_labels: {declared!r} is not allowed; allowed: a tuple of label keys"
    assert fault == f"stranger: {sentence}"
    assert not world.where


def concerned(view: Any, shapes: Any) -> Any:
    return view.pod_label(TEAM).codes[shapes] >= 0


def lines(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many pods each call of compiled code has placed, from now on."""
    found, chosen = list[int](), world.cycle.memory._plugins
    place_line = chosen.place_line

    def spy(*arguments: Any) -> Any:
        answer = place_line(*arguments)
        found.append(answer[0] if answer else 0)
        return answer

    monkeypatch.setattr(chosen, "place_line", spy)
    return found


@pytest.mark.parametrize("method", ["allow", "score", "devices"])
def test_pods_that_a_rule_does_not_concern_are_placed_in_one_go(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = set[str | None]()

    def rule(view: Any, shape: int, rows: Any) -> Any:
        asked.add(view.pod_label(TEAM).value(shape))
        answers = {"allow": np.ones, "score": np.zeros, "devices": lambda *_: np.zeros(0, np.int32)}
        return answers[method](np.size(rows), np.bool_ if method == "allow" else np.int32)

    pods: list[Pod] = [pod(f"p{number}", gpu=10, age=2 * number) for number in range(12)]
    pods[5] = labelled(pods[5], team="a")
    world = World(cluster("3x2xA100"), pods, using("stranger"), registry(reading(concerns=concerned, **{method: rule})))
    placed = lines(world, monkeypatch)
    assert not world.step().faults
    assert not world.waiting
    assert placed == [6, 5]
    assert asked == {"a"}


def test_a_plugin_that_does_not_say_whom_it_concerns_concerns_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(cells(), [pod("a", gpu=10)], using("stranger"), registry(reading(allow=lambda v, s, rows: rows >= 0)))
    placed = lines(world, monkeypatch)
    world.step()
    assert world.where
    assert placed == []


def test_a_plugin_without_a_rule_that_fails_does_not_slow_the_strategy(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry(reading(score=lambda *_: None, prepare=lambda _view: 1 // 0))
    world = World(cells(), [pod("a", gpu=10), pod("b", gpu=10)], using("stranger"), known)
    placed = lines(world, monkeypatch)
    assert world.step().faults
    assert placed == [2]


def test_whom_a_plugin_concerns_may_change_from_cycle_to_cycle() -> None:
    """Even then nothing that was worked out with the rule outlives it; each step is checked by ``World``."""

    def concerns(view: Any, shapes: Any) -> Any:
        return np.full(len(shapes), view.snapshot.now % 3 != 0)

    known = registry(reading(concerns=concerns, allow=lambda _view, _shape, rows: np.zeros(len(rows), np.bool_)))
    world = World(cells(), [], using("stranger"), known)
    for number in range(16):
        if number % 4 == 0:
            world.add(pod(f"p{number}", gpu=10))
        world.step()
        assert not world.waiting or world.now % 3


@pytest.mark.parametrize("answer", [None, 1, np.ones(1, np.bool_), np.zeros(4, np.int32)])
def test_a_plugin_that_cannot_say_whom_it_concerns_may_concern_all(answer: Any) -> None:
    known = registry(reading(concerns=lambda *_: answer, allow=lambda _view, _shape, rows: rows < 0))
    world = World(cells(), [pod("a", gpu=10)], using("stranger"), known)
    (fault,) = world.step().faults
    assert fault.startswith("stranger: concerns answered ")
    assert "allowed: a bool array of shape (32,)" in fault
    assert not world.where, "whom its rule concerns is not known"


@settings(max_examples=examples(60), deadline=None)
@given(
    teams=st.lists(st.sampled_from(["a", "b", ""]), min_size=1, max_size=16),
    asks=st.lists(st.sampled_from([10, 30, 60, 100]), min_size=16, max_size=16),
    order=st.permutations(range(16)),
)
def test_a_plugin_that_says_whom_it_concerns_changes_no_answer_by_that(
    teams: list[str], asks: list[int], order: list[int]
) -> None:
    """The same rule for the same pods, once with the compiled line for all others and once without it."""

    def allow(view: Any, shape: int, rows: Any) -> Any:
        team = view.pod_label(TEAM).value(shape)
        return view.node_label(CELL).among(rows, [team]) if team else np.ones(len(rows), np.bool_)

    def score(view: Any, shape: int, rows: Any) -> Any:
        wanted = {"b": 900, "a": 40} if view.pod_label(TEAM).value(shape) else {}
        return view.node_label(CELL).mapped(rows, wanted)

    pods = [pod(f"p{number}", gpu=asks[number], age=order[number]) for number in range(len(teams))]
    pods = [labelled(one, team=team) if team else one for one, team in zip(pods, teams, strict=True)]
    rule = {"allow": allow, "score": score}
    nodes = [labelled(node(f"n{number}", 2), cell="ab"[number % 2]) for number in range(3)]
    one, other = (
        World(nodes, pods, using("stranger"), registry(reading(**rule | concern)), batch=5)
        for concern in ({"concerns": concerned}, {})
    )
    for _ in range(4):
        assert one.step() == other.step()
