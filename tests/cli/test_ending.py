"""An error is one line on standard error and status 1, wrong usage 2: whatever the terminal, pipe, locale or disk."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from tests.sources import SOURCES

from tangram.cli import ending
from tangram.cli.main import program_name
from tangram.errors import TangramError

FULL = Path("/dev/full")
needs_a_full_disk = pytest.mark.skipif(not FULL.exists(), reason="there is no /dev/full here: Linux has one")


def tangram(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    environment = os.environ | {"PYTHONPATH": str(SOURCES)} | options.pop("env", {})
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run([sys.executable, "-m", "tangram", *arguments], env=environment, check=False, **options)


@pytest.mark.slow  # a process each
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("explain", "w", "--from", "no-such-file"), 1, "error: no-such-file: cannot be read"),
        (("sandbox", "status", "--name", "none", "--state-dir", "/nonexistent"), 1, "error: there is no sandbox none"),
        (("explian", "w"), 2, 'error: unknown command "explian"; did you mean "explain"? (see \'tangram --help\')'),
        (("sandbox", "ups"), 2, "error: No such command 'ups'"),
        (("explain", "w", "--form", "x"), 2, "error: No such option '--form'"),
        (("plugin", "check"), 2, "error: Missing argument"),
    ],
)
def test_an_error_is_one_line_and_its_status(arguments: tuple[str, ...], code: int, says: str) -> None:
    done = tangram(*arguments)
    assert (done.returncode, done.stdout) == (code, b"")
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(says)


@pytest.mark.parametrize("arguments", [(), ("sandbox",)])
def test_a_command_that_needs_another_one_shows_its_help(arguments: tuple[str, ...]) -> None:
    done = tangram(*arguments)
    assert done.returncode == 2
    assert done.stderr.startswith(b"Usage: tangram")


@pytest.mark.slow  # a process each, as the next
@pytest.mark.parametrize("unbuffered", ["", "1"])
@needs_a_full_disk
def test_an_answer_for_which_the_disk_has_no_room_is_an_error(unbuffered: str) -> None:
    with FULL.open("wb") as full:
        done = tangram("crds", stdout=full, env={"PYTHONUNBUFFERED": unbuffered})
    line = b"error: standard output cannot be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, line)


@needs_a_full_disk
def test_an_error_that_cannot_be_written_keeps_its_status() -> None:
    with FULL.open("wb") as full:
        assert tangram("explian", stderr=full).returncode == 2


@pytest.mark.slow  # a process each
def test_a_reader_that_has_seen_enough_is_no_error_to_speak_of() -> None:
    """As in ``tangram crds | head -1``, where the reader is gone before the first byte comes."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = tangram("crds", stdout=writing)
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.slow
@pytest.mark.parametrize("encoding", [{}, {"PYTHONIOENCODING": "ascii"}], ids=["utf-8", "ascii asked for"])
@pytest.mark.parametrize("locale", ["C", "POSIX", "no_SUCH.latin"])
def test_no_locale_makes_a_name_unprintable(locale: str, encoding: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "größe-µ"
    env = {"LC_ALL": locale, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} | encoding
    done = tangram("crds", "--write", os.fsdecode(bytes(target)), env=env)
    assert (done.returncode, done.stderr) == (0, b"")
    if not encoding:
        assert str(target).encode() in done.stdout


def failing(error: BaseException) -> click.Command:
    @click.command()
    def fails() -> None:
        raise error

    return fails


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (TangramError("two\n  lines\x1b[2J"), "error: two lines?[2J\n"),
        (PermissionError(13, "Permission denied", "/etc/x"), "error: /etc/x: Permission denied\n"),
        (click.FileError("x", "too large"), "error: Could not open file 'x': too large\n"),
    ],
)
def test_what_a_message_holds_cannot_make_it_more_than_a_line(
    error: Exception, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending.run(failing(error), "tangram", ()) == 1
    assert capsys.readouterr().err == line


def test_an_interrupted_command_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert ending.run(failing(KeyboardInterrupt()), "tangram", ()) == 130
    assert capsys.readouterr().err.strip() == ""


def test_a_fault_of_the_program_keeps_its_traceback() -> None:
    for fault in (ZeroDivisionError(), OSError(5, "Input/output error")):
        with pytest.raises(type(fault)):
            ending.run(failing(fault), "tangram", ())


@pytest.mark.parametrize("chosen", [0, 7])
def test_a_verb_chooses_its_own_status(chosen: int) -> None:
    assert ending.run(failing(SystemExit(chosen)), "tangram", ()) == chosen


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/usr/bin/tangram", "tangram"),
        ("/x/tangram/__main__.py", "tangram"),
        ("/usr/bin/kubectl-tangram", "kubectl tangram"),
    ],
)
def test_the_command_is_named_as_it_was_called(path: str, name: str) -> None:
    assert program_name(path) == name
