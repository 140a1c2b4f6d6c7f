"""Where the sandbox keeps what it builds and what it runs, and the locks on both."""

import contextlib
import fcntl
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from tangram.errors import InvalidInput
from tangram.folders import xdg_folder

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")


def default_state_root() -> Path:
    """``$XDG_STATE_HOME/tangram/sandbox``, else ``~/.local/state/tangram/sandbox``."""
    return xdg_folder("XDG_STATE_HOME", ".local/state") / "tangram" / "sandbox"


def check_name(name: str) -> str:
    """The sandbox's name as it is; raises ``InvalidInput`` when it cannot name a folder and a cluster."""
    if not _NAME.fullmatch(name):
        allowed = "1 to 40 lower case letters, digits and inner hyphens"
        raise InvalidInput("sandbox", "--name", name, allowed)
    return name


@contextlib.contextmanager
def locked(path: Path, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold an exclusive lock on a file between processes, and remove the file when done.

    ``on_wait`` is called once when somebody else holds it. The lock ends with the process, however it ends.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path, on_wait)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # while still held, so that nobody can hold the removed file
        os.close(descriptor)


def _acquire(path: Path, on_wait: Callable[[], None]) -> int:
    waited = False
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not waited:
                    on_wait()
                waited = True
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_same_file(descriptor, path):  # the last holder may have removed what was waited for
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    held = os.fstat(descriptor)
    return (held.st_dev, held.st_ino) == (there.st_dev, there.st_ino)


def write_private(path: Path, content: str | bytes) -> None:
    """Write a file that only its owner may read, in one step: readers see the old content or the new, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
    temporary.replace(path)
