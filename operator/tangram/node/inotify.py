"""To hear at once of what is made and removed in a folder, by Linux' inotify(7)."""

import asyncio
import ctypes
import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Final, Self

_CREATE, _DELETE, _MOVED_FROM, _MOVED_TO = 0x100, 0x200, 0x40, 0x80
_CHANGES: Final = _CREATE | _DELETE | _MOVED_FROM | _MOVED_TO
_MOST_BYTES: Final = 1 << 16


class FolderWatch:
    """Calls ``changed`` on the loop after every change in a folder, while it is entered.

    Without inotify (another system, no instance left of ``fs.inotify.max_user_instances``, no such folder) nothing is
    called: ``problem`` says why, and whoever asks has to look from time to time all the same.
    """

    def __init__(self, folder: Path, changed: Callable[[], None]) -> None:
        self.problem = ""
        self._folder, self._changed = folder, changed
        self._file = -1

    def __enter__(self) -> Self:
        """Begin."""
        try:
            self._file = _watched(self._folder)
        except OSError as error:
            self.problem = f"{self._folder} cannot be watched: {error.strerror or error}"
        else:
            asyncio.get_running_loop().add_reader(self._file, self._read)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End."""
        if self._file >= 0:
            asyncio.get_running_loop().remove_reader(self._file)
            os.close(self._file)
            self._file = -1

    def _read(self) -> None:
        os.read(self._file, _MOST_BYTES)  # what it was does not matter: whoever is called looks at the folder
        self._changed()


def _watched(folder: Path) -> int:
    """A file that can be read when something has changed in the folder; raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "inotify_init1"):
        raise OSError(0, "this system has no inotify")
    file: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if file < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if libc.inotify_add_watch(file, os.fsencode(folder), ctypes.c_uint32(_CHANGES)) < 0:
        number = ctypes.get_errno()
        os.close(file)
        raise OSError(number, os.strerror(number))
    return file
