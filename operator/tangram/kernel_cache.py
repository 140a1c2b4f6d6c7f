"""Where the machine code of kernels is kept: under a name made of all sources that went into it.

numba by itself looks at the kernel's own file only, and keeps the code beside it. But a kernel takes in the kernels,
constants and bundles of other files: once one of these changes, the old code still runs, or cannot be loaded. Here the
folder is named by the content of the kernel's file and of every file of tangram that it imports, in however many
steps. So a change makes new code; checkouts with the same content share it; and it is written file by file in one step
each, so that what another process has half written is never read.
"""

import contextlib
import functools
import hashlib
import os
import re
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from numba import config

from tangram.folders import cache_folder

_PACKAGE = Path(__file__).parent
_IMPORT = re.compile(r"^\s*from\s+(tangram[\w.]*)\s+import\s+(\([^)]*\)|[^\n]*)", re.MULTILINE)
_KEPT_SECONDS = 30 * 24 * 3600
_NAME_LENGTH = 24
T = TypeVar("T")


def kept(compile_one: Callable[[], T]) -> T:
    """What ``compile_one`` returns, a dispatcher whose code is kept as this module says."""
    before = config.CACHE_LOCATOR_CLASSES
    config.CACHE_LOCATOR_CLASSES = f"{__name__}.Locator"
    try:
        made = compile_one()
    finally:
        config.CACHE_LOCATOR_CLASSES = before
    files = getattr(getattr(made, "_cache", None), "_cache_file", None)
    if files is not None:  # none where numba is told not to compile
        files._data_name_pattern = files._data_name_pattern.replace("{number", f"{uuid.uuid4().hex}.{{number")
    return made


class Locator:
    """Shows numba where the code of one function is, and for which sources it was made."""

    def __init__(self, source: Path, line: int) -> None:
        self._line, self._digest = line, digest(source)
        self._path = folder() / self._digest[:_NAME_LENGTH]

    @classmethod
    def from_function(cls, function: Callable[..., object], source: str) -> "Locator":
        """The locator of a function of a file."""
        return cls(Path(source), function.__code__.co_firstlineno)

    def ensure_cache_path(self) -> None:
        """Make the folder; where it cannot be written to, this process has one of its own, and compiles anew."""
        try:
            _make(self._path)
        except OSError:
            self._path = Path(tempfile.mkdtemp(prefix="tangram-kernels-"))

    def get_cache_path(self) -> str:
        """The folder of the code."""
        return str(self._path)

    def get_source_stamp(self) -> str:
        """What the code was made for."""
        return self._digest

    def get_disambiguator(self) -> str:
        """What distinguishes functions of one name in one file."""
        return str(self._line)


def folder() -> Path:
    """``$NUMBA_CACHE_DIR``, else ``kernels`` in tangram's cache folder."""
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    return Path(chosen) if chosen else cache_folder() / "kernels"


@functools.cache
def digest(source: Path) -> str:
    """A name for the content of a file and of all files of tangram that it imports, directly or not."""
    found, new = {source}, [source]
    while new:
        imported = _imports(new.pop()) - found
        found |= imported
        new += imported
    summed = hashlib.sha256()
    for name, content in sorted((_name(path), _content(path)) for path in found):
        summed.update(f"{name} {content}\n".encode())
    return summed.hexdigest()


@functools.cache
def _imports(source: Path) -> frozenset[Path]:
    found = set()
    for module, imported in _IMPORT.findall(source.read_text(encoding="utf-8")):
        place = _PACKAGE.joinpath(*module.split(".")[1:])
        inner = (place / name for name in re.findall(r"\w+", imported)) if place.is_dir() else ()
        found |= {file for one in (place, *inner) if (file := one.with_suffix(".py")).is_file()}
    return frozenset(found)


def _name(path: Path) -> str:
    """The same in every checkout, for files of tangram."""
    return str(path.relative_to(_PACKAGE)) if path.is_relative_to(_PACKAGE) else path.name


@functools.cache
def _content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _make(path: Path) -> None:
    """Make a folder, mark it as used, and remove others that nobody has used for a month."""
    if not path.exists():
        path.mkdir(parents=True, exist_ok=True)
        _remove_unused(path.parent)
    tempfile.TemporaryFile(dir=path).close()  # also the mark: it changes the time of the folder


def _remove_unused(parent: Path) -> None:
    oldest = time.time() - _KEPT_SECONDS
    for other in parent.glob("[0-9a-f]" * _NAME_LENGTH):
        with contextlib.suppress(OSError):  # another process may be removing it, or have begun to use it
            if other.stat().st_mtime < oldest:
                for file in other.iterdir():
                    file.unlink(missing_ok=True)
                other.rmdir()
