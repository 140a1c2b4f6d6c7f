"""A machine within the machine: own process ids and own mounts, and nothing left of either once its init has ended.

The kernel ends every process of a process-id namespace with the namespace's first process, and drops a mount
namespace's mounts with its last process (pid_namespaces(7), mount_namespaces(7)). So a node's containers, however
they were started, go when the init goes, and its mounts were never seen outside.
"""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tangram.errors import SandboxError
from tangram.sandbox.processes import Process, process_of, start, stop, tied_to_us

TOOLS = ("unshare", "nsenter", "setsid", "mount")
_SHELL = "/bin/sh"
_READY = "the namespaces are ready"
_PATIENCE_SECONDS = 30.0
_EXEC_SECONDS = 5.0
_POLL_SECONDS = 0.02

# The first process: prepares the mounts, then collects the remains of processes whose parent has ended.
# A kubelet tunes the kernel of its machine; here it finds files of its own with the values it wants.
_INIT = f"""set -e
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /var/log
mount --bind "$1" /var/lib/kubelet
for setting in vm/overcommit_memory=1 vm/panic_on_oom=0 kernel/panic=10 kernel/panic_on_oops=1 \\
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
  file="/run/sysctl/${{setting%%=*}}"
  mkdir -p "${{file%/*}}"
  echo "${{setting#*=}}" > "$file"
  mount --bind "$file" "/proc/sys/${{setting%%=*}}"
done
mount --make-rshared /
trap 'exit 0' TERM
echo "{_READY}"
while :; do sleep 2147483647 & wait; done
"""


def why_not() -> str | None:
    """Why this process may not make namespaces on this machine; None when it may."""
    if absent := [tool for tool in TOOLS if not shutil.which(tool)]:
        return f"{', '.join(absent)} (of util-linux) is not installed"
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "true"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    return None if answer.returncode == 0 else f"it may not make namespaces ({answer.stderr.strip()})"


def open_namespaces(
    kubelet_folder: Path, log: Path, *, environment: Mapping[str, str], tied_to_parent: bool
) -> list[Process]:
    """Make the namespaces and return what holds them: their maker and, last, their init.

    ``kubelet_folder`` is seen within as ``/var/lib/kubelet``; ``/run`` and ``/var/log`` are empty there. Raises
    ``SandboxError`` when the kernel refuses.
    """
    Path("/var/lib/kubelet").mkdir(parents=True, exist_ok=True)  # somewhere to mount on
    command = [_tool("unshare"), "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
    init = [_tool("setsid"), _SHELL, "-c", _INIT, "init", str(kubelet_folder)]
    making: Sequence[str] = [*command, *init]
    maker = start("node", tied_to_us(making) if tied_to_parent else making, log, environment=environment)
    try:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while _READY not in maker.last_words(1):
            _check_waiting(maker, deadline)
        return [maker, _wait_for_child(maker, "node-init", _SHELL, maker.log, deadline)]
    except BaseException:
        stop([maker], grace_seconds=0)
        raise


def start_inside(
    init: Process, name: str, command: Sequence[str], log: Path, *, environment: Mapping[str, str]
) -> Process:
    """Start a server within the namespaces; it ends with them at the latest.

    Raises ``SandboxError`` when the namespaces are gone or the program cannot be started.
    """
    # Forked once more within, so that it becomes the init's child and the init is notified when it ends.
    daemon = [_tool("setsid"), "--fork", *command]
    door = start(name, [*_entrance(init), *daemon], log, environment=environment, keep_log=True)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while door.alive:
        _check_waiting(init, deadline)
    return _wait_for_child(init, name, command[0], str(log), time.monotonic() + _EXEC_SECONDS)


def run_inside(
    init: Process, command: Sequence[str], *, environment: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end within the namespaces."""
    return subprocess.run(
        [*_entrance(init), *command], capture_output=True, text=True, check=False, env=environment, timeout=60
    )


def _entrance(init: Process) -> list[str]:
    return [_tool("nsenter"), f"--target={init.pid}", "--mount", "--pid", "--"]


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise SandboxError(f"{name} (of util-linux) is not installed")
    return path


def _children(parent: Process) -> list[int]:
    try:
        return [int(pid) for pid in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
    except OSError:
        return []


def _wait_for_child(parent: Process, name: str, program: str, log: str, deadline: float) -> Process:
    """The child that runs ``program``, once it does."""
    while True:
        for pid in _children(parent):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/exe").samefile(program) and (child := process_of(name, pid, log)):
                    return child
        if time.monotonic() > deadline:
            words = Process(name, 0, "", log).last_words()
            raise SandboxError(f"{name} died at start: {words or f'its log {log} is empty'}")
        time.sleep(_POLL_SECONDS)


def _check_waiting(process: Process, deadline: float) -> None:
    if not process.alive:
        raise SandboxError(f"{process.name} died at start: {process.last_words() or f'{process.log} is empty'}")
    if time.monotonic() > deadline:
        raise SandboxError(f"{process.name} has not started after {_PATIENCE_SECONDS:.0f} s")
    time.sleep(_POLL_SECONDS)
