"""Runs the MPS control daemons of a node, and nothing else: what ends here ends the CUDA work of every tenant.

A process of its own, so that agents may be replaced, crash or be killed while tenants go on. It is started by its path
with ``python -I -S``, imports nothing of ours and next to nothing of Python, listens to nobody and reads nothing that a
tenant can write. All that it does follows from two files in the root folder, which no container has mounted:

- ``wanted``, which the agent writes: a line for each GPU with its uuid and a number. Another number means that the
  daemon of that GPU is to be started again.
- ``state``, which it writes itself: a line for each GPU with uuid, number, pid of the daemon (0: none), pids of its
  servers, and what is wrong.

It is the reaper of its descendants, so servers that a daemon leaves behind become its own children and are ended as
such: no process of the node is searched for. Commands and variables of the daemon are those of NVIDIA's documentation
of the Multi-Process Service; ``-M`` is that of drivers whose servers take clients of several users
(kubernetes-sigs/dra-driver-nvidia-gpu, pull request 1153).
"""

import os
import signal
import sys
import time

TYPE_CHECKING = False  # typing would be the largest import
if TYPE_CHECKING:
    from typing import Any

WANTED, STATE, LOCK = "wanted", "state", "supervisor.lock"
PROGRAM = "nvidia-cuda-mps-control"
_SEPARATOR = "\t"
_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
_LONGEST_UUID = 100
_MOST_GPUS = 64
_SOON = 2.0
"""Seconds within which a daemon that ends has not been up."""
_WELL = 60.0
"""Seconds that a daemon must be up until the next pause is a short one again."""
_LONGEST_PAUSE = 30.0
_LAST_SECONDS = 5.0
"""Seconds in which daemons have to end when the supervisor does."""
_SIGNALS = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_PR_SET_CHILD_SUBREAPER, _CLONE_NEWNS = 36, 0x00020000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_SLAVE, _MNT_DETACH = 2, 4, 8, 4096, 16384, 1 << 19, 2


class Options:
    """What a supervisor is started with."""

    def __init__(self, root: str, program: str, shared_memory: int, multi_user: bool, interval: float) -> None:
        self.root, self.program = root, program
        self.shared_memory = shared_memory
        """Bytes of the /dev/shm that the tenants of one GPU have together; 0: it is not mounted, nor limited."""
        self.multi_user = multi_user
        self.interval = interval
        """Seconds between two looks at what is wanted."""


class Daemon:
    """The control daemon of one GPU."""

    def __init__(self, uuid: str, number: int) -> None:
        self.uuid, self.number = uuid, number
        self.pid, self.started = 0, 0.0
        self.problem = "its MPS daemon has not started yet"
        self.ending = False
        """Whether it has been killed and has not ended yet: a process that is stuck in the driver takes its time."""
        self.not_before, self.pause = 0.0, 0.0
        self.one_user = False
        """Whether this driver's daemon does not know ``-M``."""
        self.servers: tuple[int, ...] = ()


class Supervisor:
    """Keeps the daemons of ``wanted`` up until it is asked to end."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._daemons: dict[str, Daemon] = {}
        self._wanted_text = ""
        self._written: str | None = None
        self._libc = _libc()

    def run(self) -> int:
        """The exit code, once SIGTERM or SIGINT has come and all daemons have ended."""
        os.makedirs(self._options.root, 0o755, exist_ok=True)
        self._lock = _locked(os.path.join(self._options.root, LOCK))
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        while True:
            self._follow()
            self._write()
            came = signal.sigtimedwait(_SIGNALS, self._options.interval)
            if came is not None and came.si_signo in (signal.SIGTERM, signal.SIGINT):
                break
            self._reap()
        for daemon in self._daemons.values():
            self._end(daemon, "the MPS supervisor was asked to end")
        limit = time.monotonic() + _LAST_SECONDS
        while any(daemon.pid for daemon in self._daemons.values()) and time.monotonic() < limit:
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)
            self._reap()
        self._write()
        return 0

    def _follow(self) -> None:
        wanted = self._read_wanted()
        for uuid, number in wanted.items():
            self._daemons.setdefault(uuid, Daemon(uuid, number))
        for uuid, daemon in list(self._daemons.items()):
            number = wanted.get(uuid, -1)
            if daemon.number != number:
                daemon.number = number
                self._end(daemon, "its MPS daemon did not answer, and is started again")
            if daemon.pid:
                daemon.servers = _descendants(daemon.pid)
            elif number < 0:
                self._unmount(uuid)
                del self._daemons[uuid]
            elif time.monotonic() >= daemon.not_before:
                self._start(daemon)

    def _read_wanted(self) -> "dict[str, int]":
        """What the agent wants; as before while its file cannot be read."""
        try:
            with open(os.path.join(self._options.root, WANTED), encoding="ascii") as file:
                self._wanted_text = file.read(1 << 16)
        except FileNotFoundError:
            self._wanted_text = ""
        except (OSError, ValueError):
            pass
        found = read_wanted(self._wanted_text)
        return dict(list(found.items())[:_MOST_GPUS])

    def _start(self, daemon: Daemon) -> None:
        folder = os.path.join(self._options.root, daemon.uuid)
        try:
            self._prepare(folder)
            daemon.pid, daemon.started = os.fork(), time.monotonic()
        except OSError as error:
            daemon.problem = f"its MPS daemon cannot start: {error.filename or 'fork'}: {error.strerror}"
            self._wait_longer(daemon)
            return
        if not daemon.pid:
            self._become(daemon, folder)
        daemon.problem, daemon.ending, daemon.servers = "", False, ()

    def _prepare(self, folder: str) -> None:
        """Folders that servers of every user can pass, of which what a daemon before has left is gone."""
        for name in ("pipe", "log", "shm"):
            os.makedirs(os.path.join(folder, name), 0o755, exist_ok=True)
        os.chmod(folder, 0o755)
        os.chmod(os.path.join(folder, "log"), 0o777)  # a server writes as the user of its clients
        pipe, shm = os.path.join(folder, "pipe"), os.path.join(folder, "shm")
        for name in os.listdir(pipe):
            os.unlink(os.path.join(pipe, name))
        if self._options.shared_memory and not os.path.ismount(shm):
            size = f"size={self._options.shared_memory},nr_inodes=65536,mode=1777"
            self._call("mount", b"tmpfs", shm, b"tmpfs", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC, size.encode())
        elif not self._options.shared_memory:
            os.chmod(shm, 0o1777)

    def _become(self, daemon: Daemon, folder: str) -> None:
        """Become the daemon, in a session and, with /dev/shm of its own, a mount namespace of its own."""
        try:
            os.setsid()
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            if self._options.shared_memory:
                self._call("unshare", _CLONE_NEWNS)
                self._call("mount", b"none", "/", None, _MS_REC | _MS_SLAVE, None)
                self._call("mount", os.path.join(folder, "shm").encode(), "/dev/shm", None, _MS_BIND, None)  # noqa: S108
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            environment = {
                **os.environ,
                "CUDA_VISIBLE_DEVICES": daemon.uuid,
                "CUDA_MPS_PIPE_DIRECTORY": os.path.join(folder, "pipe"),
                "CUDA_MPS_LOG_DIRECTORY": os.path.join(folder, "log"),
            }
            flags = ["-M"] if self._options.multi_user and not daemon.one_user else []
            os.execvpe(self._options.program, [self._options.program, "-f", *flags], environment)
        except OSError as error:
            os._exit(error.errno if error.errno and error.errno < 126 else 126)
        finally:
            os._exit(126)

    def _reap(self) -> None:
        """Take note of everybody who has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for daemon in self._daemons.values():
                if daemon.pid == pid:
                    self._ended(daemon, status)

    def _ended(self, daemon: Daemon, status: int) -> None:
        code = os.waitstatus_to_exitcode(status)
        soon = time.monotonic() - daemon.started < _SOON
        if not daemon.ending:
            how = f"ended with code {code}" if code >= 0 else f"was ended by signal {-code}"
            logs = os.path.join(self._options.root, daemon.uuid, "log")
            daemon.problem = f"its MPS daemon {how}, {_last_words(logs)}"
            if soon and code > 0 and self._options.multi_user:
                daemon.one_user = True  # perhaps a driver that does not know -M
            self._wait_longer(daemon)
        for pid in _children():  # servers that it has left
            if pid in daemon.servers or _session_of(pid) == daemon.pid:
                _kill(pid)
        daemon.pid, daemon.servers, daemon.ending = 0, (), False

    def _wait_longer(self, daemon: Daemon) -> None:
        now = time.monotonic()
        well = daemon.started and now - daemon.started >= _WELL
        daemon.pause = min(_LONGEST_PAUSE, max(self._options.interval, 2 * daemon.pause if not well else 0.0))
        daemon.not_before = now + daemon.pause

    def _end(self, daemon: Daemon, problem: str) -> None:
        """End a daemon with its servers, whatever they are doing; it is waited for elsewhere."""
        daemon.problem, daemon.not_before = problem, 0.0
        if daemon.pid and not daemon.ending:
            daemon.ending, daemon.servers = True, _descendants(daemon.pid)
            for pid in (daemon.pid, *daemon.servers):
                _kill(pid)

    def _unmount(self, uuid: str) -> None:
        shm = os.path.join(self._options.root, uuid, "shm")
        if os.path.ismount(shm):
            self._libc.umount2(shm.encode(), _MNT_DETACH)

    def _call(self, name: str, *arguments: object) -> None:
        encoded = [one.encode() if isinstance(one, str) else one for one in arguments]
        if getattr(self._libc, name)(*encoded):
            import ctypes

            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), name)

    def _write(self) -> None:
        """Say how the daemons are, where that is something new."""
        text = "".join(map(_state_line, self._daemons.values()))
        if text != self._written:
            write_whole(os.path.join(self._options.root, STATE), text)
            self._written = text


def read_wanted(text: str) -> "dict[str, int]":
    """Uuid of each wanted GPU -> number of the daemon; lines that are none are left out."""
    found = {}
    for line in text.splitlines():
        uuid, _, number = line.partition(_SEPARATOR)
        if is_uuid(uuid) and number.isdecimal() and len(number) < 10:
            found[uuid] = int(number)
    return found


def wanted_text(wanted: "dict[str, int]") -> str:
    """The content of ``wanted``."""
    return "".join(f"{uuid}{_SEPARATOR}{number}\n" for uuid, number in wanted.items())


def _state_line(daemon: Daemon) -> str:
    fields = (daemon.uuid, daemon.number, daemon.pid, ",".join(map(str, daemon.servers)))
    return _SEPARATOR.join((*map(str, fields), " ".join(daemon.problem.split()))) + "\n"


def is_uuid(text: str) -> bool:
    """Whether a text is a uuid that may be the name of a folder."""
    return 0 < len(text) <= _LONGEST_UUID and text[0] != "-" and _LETTERS.issuperset(text)


def write_whole(path: str, text: str) -> None:
    """Replace a file in one step."""
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(f"{path}.new", path)


def _descendants(pid: int) -> "tuple[int, ...]":
    """Children of a process and theirs, as the kernel lists them (proc_pid_children(5))."""
    if not pid:
        return ()
    found: list[int] = []
    waiting = [pid]
    while waiting and len(found) < 1000:
        parent = waiting.pop()
        try:
            with open(f"/proc/{parent}/task/{parent}/children", encoding="ascii") as file:
                children = [int(word) for word in file.read().split()]
        except OSError:
            children = []
        found += children
        waiting += children
    return tuple(sorted(found))


def _session_of(pid: int) -> int:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return 0


def _children() -> "list[int]":
    with open("/proc/thread-self/children", encoding="ascii") as file:
        return [int(word) for word in file.read().split()]


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _last_words(logs: str) -> str:
    try:
        descriptor = os.open(os.path.join(logs, "control.log"), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return "and has no log"
    try:
        size = os.fstat(descriptor).st_size
        text = os.pread(descriptor, 600, max(0, size - 600)).decode("utf-8", "replace")
    finally:
        os.close(descriptor)
    return "its log ends with: " + " / ".join(line.strip() for line in text.split("\n") if line.strip())[-300:]


def _locked(path: str) -> int:
    """The lock of the one supervisor of a node, held until the process ends. Raises BlockingIOError: another has it."""
    import fcntl

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor


def _libc() -> "Any":
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def main(arguments: "list[str]") -> int:
    """``ROOT PROGRAM BYTES MULTI-USER SECONDS``; exit code 1 when another supervisor has the node."""
    root, program, shared_memory, multi_user, interval = arguments
    try:
        options = Options(root, program, int(shared_memory), multi_user == "true", float(interval))
        return Supervisor(options).run()
    except BlockingIOError:
        print(f"another supervisor serves {root}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
