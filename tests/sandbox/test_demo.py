"""A demo that was kept ends by one command."""

import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tangram.cli import demo
from tangram.errors import TangramError
from tangram.sandbox.processes import IDENTITY_VARIABLE

NAMES = {"create": "token-of-the-account", "config": '{"contexts": [{"context": {}}]}'}


def test_its_processes_carry_the_identity_by_which_the_sandbox_ends_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: dict[str, Any] = {}
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: started.update(options, command=command))
    sandbox: Any = SimpleNamespace(
        state_dir=tmp_path,
        state=SimpleNamespace(identity="abc123"),
        kubectl=lambda verb, *_, **__: SimpleNamespace(stdout=NAMES[verb]),
    )
    demo.start(sandbox, "scheduler")
    assert started["env"][IDENTITY_VARIABLE] == "abc123"
    assert started["start_new_session"]


@pytest.mark.parametrize(
    ("system", "end"),
    [("Linux", "tangram sandbox down --name demo"), ("Darwin", "kill 7 8; tangram sandbox down --name demo")],
)
def test_one_command_is_shown_where_it_finds_them(monkeypatch: pytest.MonkeyPatch, system: str, end: str) -> None:
    monkeypatch.setattr(demo.platform, "system", lambda: system)
    processes: Any = [SimpleNamespace(pid=7), SimpleNamespace(pid=8)]
    assert demo.end_of("demo", processes) == end


def test_it_works_once_both_processes_hold_their_leases(tmp_path: Path) -> None:
    holders = ["", "scheduler-a\n\n", "scheduler-a\ncontroller-b\n"]
    sandbox: Any = SimpleNamespace(state_dir=tmp_path, kubectl=lambda *_: SimpleNamespace(stdout=holders.pop(0)))
    processes: Any = [SimpleNamespace(poll=lambda: None), SimpleNamespace(poll=lambda: None)]
    assert [demo.leading(sandbox, processes) for _ in range(3)] == [False, False, True]


def test_a_process_that_has_ended_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "scheduler.log").write_text("error: no cluster\n")
    sandbox: Any = SimpleNamespace(state_dir=tmp_path)
    processes: Any = [SimpleNamespace(poll=lambda: 1, returncode=1), SimpleNamespace(poll=lambda: None)]
    with pytest.raises(TangramError, match="tangram scheduler ended with 1: error: no cluster"):
        demo.leading(sandbox, processes)
