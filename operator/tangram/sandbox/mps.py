"""A FAKE ``nvidia-cuda-mps-control``: the command line of NVIDIA's daemon, and nothing behind it.

It listens, keeps what it is sent, and starts real (idle) processes as its servers, so that starting, watching, killing
and stopping daemons can be tried on a machine without a GPU. It shares no GPU and limits nobody. Commands and answers
follow the tool's manual page and NVIDIA's documentation of the Multi-Process Service.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tangram.sandbox import mps_client

NAME = "nvidia-cuda-mps-control"
KNOWN = "TANGRAM_FAKE_MPS"
"""Variable whose words change the fake: ``one-user`` makes it one of a driver that does not know ``-M``."""
_SERVER = ("/bin/sh", "-c", 'test -S "$1" && exec sleep 1000000', "nvidia-cuda-mps-server")


def install(folder: Path) -> Path:
    """Write the fake as an executable of the real one's name into a folder and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / NAME
    code = "import sys; from tangram.sandbox.mps import main; sys.exit(main(sys.argv[2:]))"
    source = Path(__file__).resolve().parents[2]
    program.write_text(
        "#!/bin/sh\n# A fake of tangram's sandbox. It controls no GPU.\n"
        f"[ $# = 0 ] && exec {sys.executable} -I -S {mps_client.__file__} {NAME}\n"
        f"PYTHONPATH={source} exec {sys.executable} -S -c '{code}' {NAME} \"$@\"\n"
    )
    program.chmod(0o755)
    return program


def main(arguments: list[str]) -> int:
    """``-d`` and ``-f`` start the daemon, ``-v`` says what this is; ``mps_client`` is it without an argument."""
    pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))  # noqa: S108 - the tool's own default
    match arguments:
        case ["-v"]:
            print("a fake of tangram's sandbox; it controls no GPU")
        case ["-d"] | ["-f"] | ["-f", "-M"] if "one-user" not in os.environ.get(KNOWN, "") or "-M" not in arguments:
            return _start(pipes, background=arguments == ["-d"], several="-M" in arguments)
        case _:
            print(f"usage: {NAME} [-d | -f | -v] [-M]", file=sys.stderr)
            return 1
    return 0


def _start(pipes: Path, *, background: bool, several: bool) -> int:
    control = socket.socket(socket.AF_UNIX)
    try:
        control.bind(str(pipes / "control"))
        (pipes / "control").chmod(0o666)
    except OSError:
        print("An instance of this daemon is already running")
        return 1
    control.listen()
    if background and os.fork():
        return 0
    if background:
        os.setsid()
    Daemon(pipes, several=several).serve(control)
    return 0


class Daemon:
    """What the fake keeps. ``several``: its servers serve clients of several users at once."""

    def __init__(self, pipes: Path, *, several: bool) -> None:
        self._pipes, self._several = pipes, several
        self._log = Path(os.environ.get("CUDA_MPS_LOG_DIRECTORY", pipes)) / "control.log"
        self._servers: dict[int, subprocess.Popen[bytes]] = {}
        self._percentages: dict[str, str] = {"default": "100.0"}
        self._limits: dict[tuple[str, str], str] = {}
        self._ends, self._user = False, 0

    def serve(self, control: socket.socket) -> None:
        """Answer until asked to quit."""
        (self._pipes / f"{NAME}.pid").write_text(f"{os.getpid()}\n")
        devices = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
        self._write(f"THIS IS A FAKE that controls no GPU. Starting control daemon for devices {devices}")
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        try:
            while not self._ends:
                asker, _ = control.accept()
                with asker, contextlib.suppress(OSError):
                    command = asker.makefile().read().strip()
                    self._write(f"Cmd:{command}")
                    asker.sendall(self._answer(command.split()).encode())
        finally:
            for server in self._servers.values():
                server.kill()
                server.wait()
            (self._pipes / "control").unlink(missing_ok=True)
            (self._pipes / f"{NAME}.pid").unlink(missing_ok=True)

    def _write(self, line: str) -> None:
        with self._log.open("a") as log:
            log.write(f"[{time.strftime('%Y-%m-%d %H:%M:%S')} Control {os.getpid()}] {line}\n")

    def _answer(self, words: list[str]) -> str:
        match words:
            case ["quit", *_]:
                self._ends = True
                return ""
            case ["start_server", "-uid", user] if user.isdigit():
                return self._start_server(int(user))
            case ["get_server_list"]:
                return "\n".join(map(str, self._running()))
            case ["get_client_list", _] | ["get_device_client_list", *_] | ["ps"]:
                return ""
            case [command, *values]:
                return self._setting(command, values)
        return ""

    def _start_server(self, user: int) -> str:
        """A server keeps the defaults of its start; those that are set later are for the next one. It runs as the user
        of its clients, and finds the daemon by the folder of pipes, which that user has to be able to pass."""
        if self._running() and not self._several and user != self._user:
            return f"the server of user {self._user} has clients; user {user} has to wait"
        try:
            server = subprocess.Popen((*_SERVER, str(self._pipes / "control")), user=user)
        except OSError as error:
            self._write(f"Failed to start a server for user {user}: {error.strerror}")
            return f"no server: {error.strerror}"
        self._user = user
        self._servers[server.pid] = server
        self._percentages[str(server.pid)] = self._percentages["default"]
        defaults = {device: value for (whose, device), value in self._limits.items() if whose == "default"}
        self._limits |= {(str(server.pid), device): value for device, value in defaults.items()}
        return ""

    def _setting(self, command: str, values: list[str]) -> str:
        match command, values:
            case "set_default_active_thread_percentage", [percentage]:
                return self._set_percentage("default", percentage)
            case "set_active_thread_percentage", [pid, percentage] if pid in map(str, self._running()):
                return self._set_percentage(pid, percentage)
            case "get_default_active_thread_percentage", []:
                return self._percentages["default"]
            case "get_active_thread_percentage", [pid]:
                return self._percentages.get(pid, f"{pid}: no such server")
            case "set_default_device_pinned_mem_limit", [device, value]:
                self._limits["default", device] = value
                return ""
            case "set_device_pinned_mem_limit", [pid, device, value] if pid in map(str, self._running()):
                self._limits[pid, device] = value
                return ""
            case "get_default_device_pinned_mem_limit", [device]:
                return self._limits.get(("default", device), "0G")
            case "get_device_pinned_mem_limit", [pid, device]:
                return self._limits.get((pid, device), "0G")
        return f"{command}: unknown command or argument"

    def _set_percentage(self, whose: str, text: str) -> str:
        try:
            percentage = float(text)
        except ValueError:
            return f"{text}: not a number"
        if not 0 < percentage <= 100:
            return f"{text}: not within 0 and 100"
        self._percentages[whose] = str(percentage)
        return self._percentages[whose]

    def _running(self) -> list[int]:
        return [pid for pid, server in self._servers.items() if server.poll() is None]
