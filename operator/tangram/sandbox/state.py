"""What is written down about a sandbox, so that a later command finds it again."""

from pathlib import Path

import msgspec

from tangram.errors import SandboxError
from tangram.sandbox.places import write_private
from tangram.sandbox.processes import Process

FILE = "state.json"


class State(msgspec.Struct, frozen=True):
    """The record of one sandbox; replaced as a whole on every change."""

    name: str
    provider: str
    """``local`` or ``kind``."""
    identity: str
    """Random text that every process of this sandbox carries in its environment."""
    created: str
    """UTC, ISO 8601."""
    server: str = ""
    """URL of the API server; empty while starting."""
    ready: bool = False
    """Whether the start has come to its end."""
    programs: dict[str, str] = msgspec.field(default_factory=dict)
    """Program name to path."""
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    real_node: str = ""
    """Name of the node with a kubelet; empty without one."""
    ports: dict[str, int] = msgspec.field(default_factory=dict)
    processes: list[Process] = msgspec.field(default_factory=list)

    @property
    def dead(self) -> list[Process]:
        """Servers that should run and do not."""
        return [process for process in self.processes if not process.alive]


def save_state(folder: Path, state: State) -> None:
    """Write the record down, readers seeing the old or the new one."""
    write_private(folder / FILE, msgspec.json.encode(state))


def load_state(folder: Path) -> State | None:
    """The record of the sandbox in ``folder``; None when there is none.

    Raises ``SandboxError`` when there is one that cannot be read.
    """
    try:
        text = (folder / FILE).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SandboxError(f"{folder / FILE} cannot be read: {error.strerror}") from error
    try:
        return msgspec.json.decode(text, type=State)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SandboxError(f"{folder / FILE} is not the record of a sandbox: {error}") from error
