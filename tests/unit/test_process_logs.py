"""What the processes log, and in which form: for people, or for a collector that reads one JSON object a line."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from tangram.cli.main import tangram

PROCESSES = ("scheduler", "controller", "node")
SCRIPT = (
    "import logging; from tangram.cli.processes import set_up_logging; set_up_logging({form!r}, {level!r}); "
    "logging.getLogger('a').debug('detail'); logging.getLogger('a').info('line'); logging.getLogger('a').error('fault')"
)


def logged(form: str, level: str) -> list[str]:
    script = SCRIPT.format(form=form, level=level)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("level", "lines"),
    [("debug", ["detail", "line", "fault"]), ("info", ["line", "fault"]), ("error", ["fault"])],
)
def test_nothing_below_the_level_is_logged(level: str, lines: list[str]) -> None:
    assert [line.rsplit(" ", 1)[1] for line in logged("text", level)] == lines


def test_a_line_of_json_says_when_how_bad_where_and_what() -> None:
    (line,) = logged("json", "error")
    found = json.loads(line)
    assert (found["levelname"], found["name"], found["message"]) == ("ERROR", "a", "fault")
    assert "asctime" in found


@pytest.mark.parametrize("process", PROCESSES)
def test_a_level_that_does_not_exist_is_refused_with_those_that_do(process: str) -> None:
    answer = CliRunner().invoke(tangram, [process, "--log-level", "loud"])
    assert answer.exit_code == 2
    assert "'loud' is not one of 'debug', 'info', 'warning', 'error'" in answer.output
