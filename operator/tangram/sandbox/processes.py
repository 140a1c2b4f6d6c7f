"""Start server processes that outlive their starter, recognise them later, and stop them for certain.

A process is remembered by its id and its start time, so that a later process which happens to get the same id is never
mistaken for it. Each runs in a session of its own: a Ctrl-C meant for the starter does not reach it, and stopping it
stops all its children. Each carries its sandbox's random identity in its environment, by which even a process that was
started and not yet written down is found.
"""

import contextlib
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from tangram.errors import SandboxError

IDENTITY_VARIABLE = "TANGRAM_SANDBOX_ID"
_POLL_SECONDS = 0.02
# Asks the kernel to kill this process when its parent ends, makes sure that has not happened yet, becomes the server.
_TIED_TO_PARENT = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"
    "if os.getppid() != int(sys.argv[1]): sys.exit(1)\n"
    "os.execv(sys.argv[2], sys.argv[2:])\n"
)


class Process(msgspec.Struct, frozen=True):
    """A server process."""

    name: str
    pid: int
    started: str
    """When it started, in the platform's own terms: only good for comparing."""
    log: str

    @property
    def alive(self) -> bool:
        """Whether this very process runs, and not a later one of the same id."""
        return _started(self.pid) == self.started

    def last_words(self, count: int = 3) -> str:
        """The last lines of its log, joined into one."""
        try:
            text = Path(self.log).read_text(errors="replace")
        except OSError:
            return ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " / ".join(line[:300] for line in lines[-count:])


def tied_to_us(command: Sequence[str]) -> Sequence[str]:
    """The command such that the kernel kills it when the thread that starts it ends; as it is where that cannot be
    had, which is on anything but Linux."""
    if platform.system() != "Linux":
        return command
    return (sys.executable, "-I", "-S", "-c", _TIED_TO_PARENT, str(os.getpid()), *command)


def start(
    name: str,
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str],
    keep_log: bool = False,
) -> Process:
    """Start a server with its output in ``log`` and return at once.

    ``keep_log`` lets the output go behind what is there. Raises ``SandboxError`` when the program cannot be started at
    all.
    """
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if keep_log else os.O_TRUNC)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), flags, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    try:
        pid = os.posix_spawn(command[0], list(command), environment, file_actions=actions, setsid=True)
    except OSError as error:
        raise SandboxError(f"{name} cannot be started: {command[0]}: {error.strerror}") from error
    return Process(name, pid, _started(pid, reap=False) or "", str(log))


def process_of(name: str, pid: int, log: str) -> Process | None:
    """The process that runs now under an id; None when there is none."""
    started = _started(pid)
    return Process(name, pid, started, log) if started else None


def stop(processes: Iterable[Process], *, grace_seconds: float = 1.0) -> None:
    """Ask all to end, kill after ``grace_seconds`` those that have not, and return when none runs.

    Raises ``SandboxError`` when one survives even that.
    """
    running = [process for process in processes if process.alive]
    for sent, patience in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, 10.0)):
        for process in running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, sent)
        deadline = time.monotonic() + patience
        while (running := [process for process in running if process.alive]) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if not running:
            return
    names = ", ".join(f"{process.name} (pid {process.pid})" for process in running)
    raise SandboxError(f"cannot be stopped: {names}")


def find_strays(identity: str) -> list[Process]:
    """Processes that carry a sandbox's identity in their environment, known or not. Linux only, elsewhere none."""
    found = []
    for pid, carried in _identities():
        with contextlib.suppress(OSError):  # ended meanwhile
            if carried == identity and os.getpgid(pid) == pid and (stray := process_of("stray", pid, os.devnull)):
                found.append(stray)
    return found


def running_identities() -> set[str]:
    """The identities of all sandboxes of which a process runs. Linux only, elsewhere none."""
    return {identity for _, identity in _identities()}


def _identities() -> Iterator[tuple[int, str]]:
    """Each process that carries a sandbox's identity in its environment."""
    wanted = f"{IDENTITY_VARIABLE}=".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # ended meanwhile, or somebody else's
            for variable in (entry / "environ").read_bytes().split(b"\0"):
                if variable.startswith(wanted):
                    yield int(entry.name), variable.removeprefix(wanted).decode(errors="replace")


def _started(pid: int, *, reap: bool = True) -> str | None:
    """When the process of that id started; None when there is none, or only its remains."""
    if reap:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    if platform.system() == "Linux":
        return _started_linux(pid, reap=reap)
    answer = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
    state, _, started = answer.stdout.strip().partition(" ")
    return None if not started or (reap and state.startswith("Z")) else started.strip()


def _started_linux(pid: int, *, reap: bool) -> str | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(errors="replace")
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    state, threads, start_ticks = fields[0], int(fields[17]), fields[19]
    # Its first thread may be over while others still hold its sockets open, and connections to them are accepted.
    ended = state in {"Z", "X"} and threads <= 1
    return None if reap and ended else f"{boot}:{start_ticks}"
