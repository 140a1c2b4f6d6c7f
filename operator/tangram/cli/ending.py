"""How the command line ends: an error is one line on standard error and an exit status, whatever goes wrong, and a
reader that has seen enough is no error."""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

import click

from tangram.errors import TangramError

COMPLETE_VARIABLE = "_TANGRAM_COMPLETE"
"""Environment variable by which a shell asks for completions."""
_INTERRUPTED = 130


class _Unwritable(OSError):
    """Standard output takes no more."""


class _Output(io.TextIOWrapper):
    """Standard output that says of an error that it is its own."""

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise _Unwritable(error.errno, error.strerror) from None

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise _Unwritable(error.errno, error.strerror) from None


def run(command: click.Command, program: str, arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0 done, 1 an error, 2 wrong usage, 130 interrupted, or what the
    verb itself chose. ``arguments``: those of the process where none are given."""
    with _utf8():
        try:
            code = _invoke(command, program, arguments)
            if sys.stdout is not None:  # closed by whoever started this
                sys.stdout.flush()
        except click.Abort:
            return _INTERRUPTED
        except click.exceptions.NoArgsIsHelpError as error:
            error.show()
            return error.exit_code
        except click.ClickException as error:
            return _fail(_sentence(error), error.exit_code)
        except TangramError as error:
            return _fail(str(error))
        except _Unwritable as error:
            _give_up(sys.stdout)
            return 1 if error.errno == errno.EPIPE else _fail(f"standard output cannot be written: {error.strerror}")
        except OSError as error:
            if error.filename is None:  # nothing that the user has named: a fault of the program, with its traceback
                raise
            return _fail(f"{error.filename}: {error.strerror}")
        return code


def _invoke(command: click.Command, program: str, arguments: Sequence[str] | None) -> int:
    try:
        code = command.main(arguments, prog_name=program, complete_var=COMPLETE_VARIABLE, standalone_mode=False)
    except SystemExit as leave:
        if isinstance(leave.code, str):
            return _fail(leave.code)
        return leave.code or 0
    return code if isinstance(code, int) else 0


def _sentence(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    where = f" (see '{context.command_path} --help')" if context is not None else ""
    return error.format_message().rstrip(".") + where


def print_error(message: str) -> None:
    """Print one line on standard error, without what could move the cursor of a terminal; one that is broken too is
    given up."""
    line = " ".join(message.split())
    line = "".join(letter if letter.isprintable() else "?" for letter in line)
    try:
        click.echo(f"error: {line}", err=True)
    except OSError:
        _give_up(sys.stderr)


def _fail(message: str, code: int = 1) -> int:
    print_error(message)
    return code


def _give_up(stream: TextIO) -> None:
    """Let what is left in the buffer go nowhere: Python would fail once more, in its own words, when it ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def _utf8() -> Iterator[None]:
    """Write UTF-8 whatever the locale, as kubectl does, and bytes that are none as they came."""
    given = sys.stdout
    if not isinstance(given, io.TextIOWrapper):
        yield
        return
    chosen = "PYTHONIOENCODING" in os.environ
    encoding, errors = (given.encoding, "backslashreplace") if chosen else ("utf-8", "surrogateescape")
    output = _Output(given.buffer, encoding, errors)
    output.reconfigure(line_buffering=given.line_buffering, write_through=given.write_through)
    sys.stdout = output
    try:
        yield
    finally:
        sys.stdout = given
        with contextlib.suppress(OSError):
            output.detach()  # else the buffer would be closed with it
