"""Stand-ins for the Go toolchain and for the servers, so that failures can be tested in milliseconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests import waiting

# Answers the two questions asked of it, and "builds" each wanted program as a copy of a script.
FAKE_GO = """#!/bin/sh
case "$1 $2" in
  "env GOVERSION") echo "${FAKE_GO_VERSION:-go1.26.8}"; exit 0;;
  env*) echo "$FAKE_HOME"; exit 0;;
esac
echo "$*" >> "$FAKE_HOME/builds"
[ -z "$FAKE_GO_FAILS" ] || { echo "main.go:1: undefined: x" >&2; exit 1; }
while [ "$1" != "-o" ]; do shift; done
output="$2"; shift 2
for package; do
  name=$(basename "$package")
  [ "$name" != "." ] || name=etcd
  if [ -f "$FAKE_HOME/programs/$name" ]; then cp "$FAKE_HOME/programs/$name" "$output$name"
  else printf '#!/bin/sh\\nexec sleep 600\\n' > "$output$name"; fi
  chmod +x "$output$name"
done
"""


class Workshop:
    """A user's machine with a pretended Go on PATH, and a cache of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.cache = home / "cache"
        self.states = home / "states"
        self.tools = home / "tools"
        (home / "programs").mkdir()
        self.tools.mkdir()
        self.tool("go", FAKE_GO)

    def tool(self, name: str, script: str) -> None:
        """Put a command on PATH."""
        self._script(self.tools / name, script)

    def program(self, name: str, script: str) -> None:
        """Say what the program of that name does once "built"."""
        self._script(self.home / "programs" / name, script)

    @property
    def builds(self) -> list[str]:
        """The arguments of each `go build` so far."""
        file = self.home / "builds"
        return file.read_text().splitlines() if file.exists() else []

    def _script(self, path: Path, text: str) -> None:
        path.write_text(text)
        path.chmod(0o755)


@pytest.fixture
def workshop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workshop:
    made = Workshop(tmp_path)
    monkeypatch.setenv("PATH", f"{made.tools}:/usr/bin:/bin")
    monkeypatch.setenv("FAKE_HOME", str(tmp_path))
    monkeypatch.setenv("TANGRAM_CACHE", str(made.cache))
    monkeypatch.setenv("XDG_STATE_HOME", str(made.states))
    return made


@pytest.fixture
def lines() -> list[str]:
    """Where the progress lines of a test go: pass `lines.append` as the report."""
    return []


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Wait for a condition, with a deadline; fails with the condition's name when it never holds."""
    return waiting.eventually
