"""Shells and kubectl complete verbs, options and values."""

import os
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner
from tests.sources import ROOT, SOURCES

from tangram.cli import completion
from tangram.cli.main import VERBS, tangram


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_can_read_the_script(shell: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(tangram, ["completion", shell])
    assert "_TANGRAM_COMPLETE" in done.output
    if shutil.which(shell):
        (tmp_path / "script").write_text(done.output)
        subprocess.run([shell, "-n", str(tmp_path / "script")], check=True)


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
def test_bash_asks_the_command_itself(tmp_path: Path) -> None:
    """What the script does: call the command with what has been typed in variables."""
    environment = {"_TANGRAM_COMPLETE": "bash_complete", "COMP_WORDS": "tangram ex", "COMP_CWORD": "1"}
    environment = os.environ | environment | {"PYTHONPATH": str(SOURCES)}
    asked = [sys.executable, "-m", "tangram"]
    done = subprocess.run(asked, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["plain,explain"]


@pytest.mark.parametrize(
    ("typed", "says", "directive"),
    [
        (["ex"], ["explain"], ":4"),
        ([""], list(VERBS), ":4"),
        (["queues", "-o", "w"], ["wide"], ":4"),
        (["queues", "--kubec"], ["--kubeconfig"], ":4"),
        (["top", "work"], ["workloads"], ":4"),
        (["explain", "--from", ""], [], ":0"),
    ],
)
def test_kubectl_is_answered_as_it_asks(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    typed: list[str],
    says: list[str],
    directive: str,
) -> None:
    """One proposal a line, with its help behind a tab, and a directive at the end: 4 no files, 0 files too."""
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-tangram", *typed])
    completion.for_kubectl()
    *lines, last = capsys.readouterr().out.splitlines()
    proposed = [line.partition("\t")[0] for line in lines]
    assert [one for one in proposed if not one.startswith("-") or says == [one]] == says
    assert last == directive


def test_every_program_of_the_package_is_there() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == {"tangram", "kubectl-tangram", "kubectl_complete-tangram"}
    for place in scripts.values():
        module, _, attribute = place.partition(":")
        assert callable(getattr(import_module(module), attribute))
