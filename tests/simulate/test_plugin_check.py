"""``tangram plugin check``: a plugin that does what it must not do is found out, and one that does not is not."""

import itertools
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tangram.cli.main import tangram
from tangram.decide import registry as registry_module
from tangram.decide.registry import BUILT_IN, GROUP, Registry
from tangram.simulate.plugin_check import Report, check

EXAMPLE = Path(__file__).parents[2] / "examples" / "custom-plugin"
EXAMPLES = {
    "team-cells": ("team_cells:TeamCells", {"cells": {"vision": "cell-7"}}),
    "cheap-region": ("cheap_region:CheapRegion", {"regions": ["north", "west"]}),
    "gpu-reserve": ("gpu_reserve:GpuReserve", {}),
}
WORLDS = 4


def found_in(**methods: Any) -> Report:
    """The report on a plugin with these methods and attributes."""
    made = type("Stranger", (), {"name": "stranger"} | methods)
    known = Registry()
    known.add("stranger", made)
    return check(known, "stranger", {}, WORLDS)


def by_time(_self: Any, view: Any, _shape: int, rows: Any) -> Any:
    return np.full(len(rows), view.snapshot.now % 1000, np.int32)


def by_other_rows(_self: Any, view: Any, _shape: int, rows: Any) -> Any:
    return np.full(len(rows), view.free[:, 0].sum() // 1000 % 1000, np.int32)


def by_who_waits(_self: Any, view: Any, _shape: int, rows: Any) -> Any:
    return np.full(len(rows), view.snapshot.pending.waiting.sum() * 100 < 300, np.bool_)


def by_row(_self: Any, _view: Any, _shape: int, rows: Any) -> Any:
    return (rows * 100 % 1000).astype(np.int32)


def by_turn(turns: Any = itertools.count()) -> Any:  # noqa: B008 - one for all calls is the point
    return lambda _self, _view, _shape, rows: np.full(len(rows), next(turns) % 1000, np.int32)


def far_out(_self: Any, _view: Any, _shape: int, rows: Any) -> Any:
    return np.where(rows == rows[0], 5000, 0)


def writing(_self: Any, view: Any, _shape: int, rows: Any) -> Any:
    view.nodes.capacity[:] = 0
    return np.zeros(len(rows), np.int32)


def forcing(_self: Any, view: Any, _shape: int, rows: Any) -> Any:
    capacity = view.nodes.capacity.base.obj  # what lies behind the view
    capacity[:] //= 2
    return np.zeros(len(rows), np.int32)


def undeclared(_self: Any, view: Any, _shape: int, rows: Any) -> Any:
    return view.node_label("hidden").mapped(rows, {})


def first_in_the_list(_self: Any, _view: Any, slots: Any) -> Any:
    return -slots.astype(np.int64)


LOOKS = "what is remembered differs from what is worked out anew: it looks at something that it does not declare"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("methods", "finding"),
    [
        ({"score": by_time}, LOOKS),
        ({"score": by_other_rows}, LOOKS),
        ({"allow": by_who_waits}, LOOKS),
        ({"score": by_time, "prepare": lambda *_: False}, LOOKS),
        ({"score": by_row}, "answers depend on the order of rows"),
        ({"score": by_turn()}, "answers differ from one time to the next"),
        ({"score": far_out}, "score answered 0 to 5000, cut to 0 to 1000"),
        ({"score": writing}, "ValueError: assignment destination is read-only"),
        ({"score": forcing}, "it writes to what it is shown"),
        ({"score": undeclared}, "label 'hidden' is not read; allowed: those that node_labels of a plugin names (none)"),
        ({"allow": lambda *_: True}, "allow answered True; allowed: a bool array of shape "),
        ({"score": lambda *_: 1 // 0}, "ZeroDivisionError: "),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else str(value)[:24],
)
def test_what_a_plugin_must_not_do_is_found(methods: dict[str, Any], finding: str) -> None:
    found = found_in(**methods).findings
    assert any(what.startswith(finding) for what in found), found


@pytest.mark.slow  # plays a pool through
def test_a_finding_says_of_which_pod_on_which_node_and_what_had_happened() -> None:
    (what, where), *_ = found_in(score=by_time).findings.items()
    assert what.startswith(LOOKS)
    assert where.startswith("pod with cpu ")
    assert ": node n" in where
    assert " scored " in where
    assert where.endswith(" seconds")


@pytest.mark.slow  # plays a pool through
def test_a_plugin_that_says_when_earlier_answers_no_longer_hold_is_clean() -> None:
    found = found_in(score=by_time, prepare=lambda *_: True)
    assert found.findings == {}
    assert (found.worlds, found.cycles > 50) == (WORLDS, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BUILT_IN, *EXAMPLES])
def test_built_in_plugins_and_the_examples_are_clean(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    known = Registry()
    known.add_entry_points([EntryPoint(one, where, GROUP) for one, (where, _) in EXAMPLES.items()])
    found = check(known, name, EXAMPLES.get(name, ("", {}))[1], WORLDS, seed=7)
    assert found.findings == {}
    assert found.tally.doubts() == []


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(EXAMPLE)
    points = [EntryPoint(name, where, GROUP) for name, (where, _) in EXAMPLES.items()]
    points.append(EntryPoint("hasty", f"{__name__}:Hasty", GROUP))
    monkeypatch.setattr(registry_module, "entry_points", lambda **_: points)
    monkeypatch.setattr(EntryPoint, "load", lambda self: Hasty if self.name == "hasty" else _load(self))


def _load(point: EntryPoint, load: Any = EntryPoint.load) -> Any:
    return load(point)


class Hasty:
    """A plugin that looks at the time."""

    name = "hasty"
    score = by_time


def run(*arguments: str) -> Result:
    return CliRunner().invoke(tangram, ["plugin", "check", *arguments, "--worlds", "2"])


@pytest.mark.slow  # plays a pool through
@pytest.mark.usefixtures("installed")
def test_the_command_says_so_and_ends_with_0_1_or_2(tmp_path: Path) -> None:
    clean = run("team-cells", "--policy", str(EXAMPLE / "policy.yaml"))
    assert clean.exit_code == 0, clean.output
    assert clean.output.startswith("plugin team-cells: 2 worlds, 48 cycles\n  concerns: asked ")
    assert clean.output.endswith("\nnothing found\n")

    found = run("hasty")
    assert found.exit_code == 1
    assert f"\nfound: {LOOKS}" in found.output
    assert "\n       first: pod with " in found.output
    assert found.output.endswith(" findings\n")

    for arguments, sentence in {
        ("nobody",): "error: plugin 'nobody' is unknown; known: best-fit, ",
        ("team-cells",): "error: plugin 'team-cells': args.cells: None is not allowed; allowed: a map of text to text",
        ("hasty", "--policy", str(tmp_path / "none")): "none: cannot be read",
    }.items():
        failed = run(*arguments)
        assert failed.exit_code == 2
        assert sentence in failed.output
    assert CliRunner().invoke(tangram, ["plugin", "check", "hasty", "--worlds", "0"]).exit_code == 2


def test_a_policy_that_does_not_name_the_plugin_has_no_arguments_for_it() -> None:
    found = run("spread", "--policy", str(EXAMPLE / "policy.yaml"))
    assert found.exit_code == 2
    assert "allowed: a list that names spread" in found.output
