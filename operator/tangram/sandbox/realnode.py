"""A real node in a sandbox: kubelet and containerd on this machine, running real containers.

::

    cluster = up("mine", Wish(real_node=True))
    node = cluster.real_node
    node.restart("kubelet")
    node.device_plugins           # where a device plugin on this machine puts its socket

The node has process ids, mounts, control groups and a bridge of its own, so that several sandboxes may have one at the
same time, and so that nothing is left when it ends.
"""

import contextlib
import os
import platform
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tangram.errors import NotReachable, SandboxError
from tangram.sandbox import namespaces
from tangram.sandbox.client import free_ports, get
from tangram.sandbox.confines import cgroup_roots, make_bridge, make_cgroups, remove_confines
from tangram.sandbox.image import write_image
from tangram.sandbox.node_files import (
    RUNTIME_SOCKET,
    NodeLayout,
    containerd_arguments,
    kubelet_arguments,
    node_address,
    write_configuration,
)
from tangram.sandbox.packages import missing_packages
from tangram.sandbox.processes import IDENTITY_VARIABLE, Process, find_strays, stop
from tangram.sandbox.servers import REAL_NODE, Layout
from tangram.sandbox.state import State, load_state, save_state

Report = Callable[[str], None]
SERVERS = ("containerd", "kubelet")
_PROCESSES = ("node", "node-init", *SERVERS)
_USER_IDS = Path("/proc/self/uid_map")
_LONGEST_SOCKET_PATH = 107
_PATIENCE_SECONDS = 120.0
_STOP_SECONDS = 10.0
_POLL_SECONDS = 0.05


def why_not() -> str | None:
    """Why this machine cannot have a real node, in one line; None when it can, as far as is known before trying."""
    if platform.system() != "Linux":
        return f"a real node needs Linux: this is {platform.system()}"
    if os.geteuid() != 0:
        return "a real node needs root: kubelet and containerd mount file systems and make containers"
    if _USER_IDS.read_text().split() != ["0", "0", str(2**32 - 1)]:
        return "a real node needs root: this root is one within a user namespace only"
    if not cgroup_roots():
        return "a real node needs control groups: none are mounted and writable under /sys/fs/cgroup"
    if reason := namespaces.why_not():
        return f"a real node needs namespaces of its own: {reason}"
    if (missing := missing_packages()) and not shutil.which("apt-get"):
        return f"a real node needs {', '.join(missing)}: not installed, and there is no apt-get to fetch them"
    return None


def check(folder: Path) -> None:
    """Raise ``SandboxError`` when a sandbox in ``folder`` cannot have a real node."""
    if reason := why_not():
        raise SandboxError(reason)
    layout = NodeLayout(folder)
    longest = max(len(str(path)) for path in (layout.pod_resources, layout.device_plugins / "kubelet.sock"))
    if longest > _LONGEST_SOCKET_PATH:
        raise SandboxError(
            f"{folder} is too long a path for a real node's sockets by {longest - _LONGEST_SOCKET_PATH} characters: "
            "choose a shorter --state-dir"
        )


@dataclass(frozen=True)
class RealNode:
    """A handle on the real node of a sandbox; it holds nothing open."""

    layout: NodeLayout
    name: str = REAL_NODE
    """Of the Node object."""

    @property
    def device_plugins(self) -> Path:
        """``/var/lib/kubelet/device-plugins`` of the node, as seen from outside of it."""
        return self.layout.device_plugins

    @property
    def pod_resources(self) -> Path:
        """Socket of the kubelet's pod-resources API, as seen from outside of the node."""
        return self.layout.pod_resources

    @property
    def address(self) -> str:
        """The node's address, that of its pods on the host's network too; only this machine reaches it."""
        return node_address(self.layout)

    @property
    def manifests(self) -> Path:
        """Folder of static pods."""
        return self.layout.manifests

    def start(self, server: str) -> None:
        """Start ``kubelet`` or ``containerd`` and return once it answers; one that runs is left as it is.

        Raises ``SandboxError`` when it dies or does not answer in time.
        """
        state = self._state
        if self._process(server) is not None:
            return
        arguments = containerd_arguments(self.layout) if server == "containerd" else kubelet_arguments(self.layout)
        command = [state.programs[server], *arguments]
        log = self.layout.log(server)
        process = namespaces.start_inside(self._init, server, command, log, environment=_environment(state))
        self._note([*(other for other in state.processes if other.name != server), process])
        _wait(server, lambda: self._answers(server, process.pid), [process])

    def stop(self, server: str) -> None:
        """Stop a server as an upgrade of it does; containers go on."""
        self._end(server, _STOP_SECONDS)

    def kill(self, server: str) -> None:
        """Kill a server as a crash does; containers go on."""
        self._end(server, 0)

    def restart(self, server: str) -> None:
        """Stop a server, start it, and return once it answers."""
        self.stop(server)
        self.start(server)

    def run(self, *command: str) -> str:
        """What a command prints that runs inside the node, such as ``ctr --namespace k8s.io tasks list``.

        Raises ``SandboxError`` when it fails.
        """
        answer = namespaces.run_inside(self._init, command, environment=_environment(self._state))
        if answer.returncode != 0:
            raise SandboxError(f"{' '.join(command)} failed: {answer.stderr.strip() or answer.stdout.strip()}")
        return answer.stdout

    @property
    def _state(self) -> State:
        state = load_state(self.layout.folder)
        if state is None or not state.real_node:
            raise SandboxError(f"the sandbox in {self.layout.folder} has no real node any more")
        return state

    @property
    def _init(self) -> Process:
        return next(process for process in self._state.processes if process.name == "node-init")

    def _process(self, server: str) -> Process | None:
        return next((one for one in self._state.processes if one.name == server and one.alive), None)

    def _end(self, server: str, grace_seconds: float) -> None:
        if process := self._process(server):
            stop([process], grace_seconds=grace_seconds)

    def _answers(self, server: str, pid: int) -> bool:
        """Whether this very process answers on all of its sockets: its predecessor may do so while it ends."""
        if server == "containerd":
            return _listener(Path(f"/proc/{self._init.pid}/root{RUNTIME_SOCKET}")) == pid
        return all(_listener(one) == pid for one in (self.pod_resources, self.device_plugins / "kubelet.sock"))

    def _note(self, processes: list[Process]) -> None:
        save_state(self.layout.folder, msgspec.structs.replace(self._state, processes=processes))


def add(folder: Path, programs: Mapping[str, Path], *, tied_to_parent: bool, report: Report) -> None:
    """Add the real node to the running sandbox in ``folder``, unless it has one, and return when it is Ready.

    Whatever ends the start takes the node away again. Raises ``SandboxError``.
    """
    state = load_state(folder)
    if state is None or {process.name for process in state.processes}.issuperset(_PROCESSES):
        return
    if state.real_node:  # whoever began to add it was killed
        state = _take_away(folder, state)
    begun = time.monotonic()
    paths = state.programs | {name: str(path) for name, path in programs.items()}
    versions = state.versions | {"containerd": _version(programs["containerd"])}
    state = msgspec.structs.replace(state, real_node=REAL_NODE, programs=paths, versions=versions)
    save_state(folder, state)
    try:
        _start(folder, state, programs, tied_to_parent=tied_to_parent)
    except BaseException:
        _take_away(folder, load_state(folder) or state)
        raise
    report(f"real node {REAL_NODE} is Ready after {time.monotonic() - begun:.1f} s")


def _start(folder: Path, state: State, programs: Mapping[str, Path], *, tied_to_parent: bool) -> None:
    layout = NodeLayout(folder)
    layout.make_folders()
    write_image(programs["busybox"], layout.image)
    network = make_bridge(state.identity, programs["busybox"])
    cgroup = make_cgroups(state.identity)
    (port,) = free_ports(1)
    write_configuration(layout, network, cgroup, port, programs)
    opened = namespaces.open_namespaces(
        layout.kubelet, layout.log("node"), environment=_environment(state), tied_to_parent=tied_to_parent
    )
    save_state(folder, msgspec.structs.replace(state, processes=[*state.processes, *opened]))
    node = RealNode(layout)
    node.start("containerd")
    # Unpacked here, since the first pod would have to wait for it.
    node.run("ctr", "--namespace=k8s.io", "images", "import", "--snapshotter=native", str(layout.image))
    node.start("kubelet")
    current = load_state(folder) or state
    _wait("kubelet", lambda: _is_ready(folder, current.server, port), current.processes)


def _is_ready(folder: Path, server: str, port: int) -> bool:
    """Whether the kubelet that listens on ``port``, and no earlier one, says that the node is Ready."""
    layout = Layout(folder)
    authority, token = layout.certificates / "ca.crt", layout.admin_token.read_text()
    with contextlib.suppress(NotReachable):
        status, body = get(server, f"/api/v1/nodes/{REAL_NODE}", ca_file=authority, credentials=token)
        status = msgspec.json.decode(body)["status"] if status == 200 else {}
        ready = any(each["type"] == "Ready" and each["status"] == "True" for each in status.get("conditions", ()))
        return ready and status["daemonEndpoints"]["kubeletEndpoint"]["Port"] == port
    return False


def _take_away(folder: Path, state: State) -> State:
    """Back to a sandbox without a real node; its Node object stays, as that of a machine that has been switched off."""
    others = [process for process in state.processes if process.name not in _PROCESSES]
    known = {process.pid for process in others}
    stop((stray for stray in find_strays(state.identity) if stray.pid not in known), grace_seconds=0)
    remove_remains(state)
    for left in (NodeLayout(folder).kubelet, NodeLayout(folder).containerd, NodeLayout(folder).files):
        shutil.rmtree(left, ignore_errors=True)
    state = msgspec.structs.replace(state, real_node="", processes=others)
    save_state(folder, state)
    return state


def remove_remains(state: State) -> None:
    """Remove what a real node whose processes have ended leaves on the machine; no error where there was none."""
    if state.real_node:
        remove_confines(state.identity, Path(state.programs["busybox"]))


def _environment(state: State) -> dict[str, str]:
    """Just what is needed: with ``sbin`` on its path the kubelet would change the machine's firewall."""
    folders = dict.fromkeys(str(Path(state.programs[name]).parent) for name in ("containerd", "runc"))
    return {"PATH": os.pathsep.join([*folders, "/usr/bin", "/bin"]), IDENTITY_VARIABLE: state.identity}


def _version(containerd: Path) -> str:
    """The third word of what it says, after the program's and the maker's names, without the distribution's mark."""
    answer = subprocess.run([containerd, "--version"], capture_output=True, text=True, check=False)
    words = answer.stdout.split()
    if answer.returncode != 0 or len(words) < 3:
        raise SandboxError(f"{containerd} does not run: {answer.stderr.strip() or answer.stdout.strip()}")
    return words[2].partition("~")[0].removeprefix("v")


def _listener(address: Path) -> int | None:
    """Id of the process that accepts connections there; None when none does."""
    with socket.socket(socket.AF_UNIX) as one:
        try:
            one.connect(str(address))
            pid, _, _ = struct.unpack(
                "3i", one.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            )
        except OSError:
            return None
    return int(pid)


def _wait(name: str, ready: Callable[[], bool], processes: list[Process]) -> None:
    """Ask until ``ready``, while all of ``processes`` live."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while not ready():
        for process in processes:
            if not process.alive:
                raise SandboxError(f"{process.name} died at start: {process.last_words() or 'its log is empty'}")
        if time.monotonic() > deadline:
            words = next((process.last_words() for process in processes if process.name == name), "")
            raise SandboxError(f"{name} is not ready after {_PATIENCE_SECONDS:.0f} s: {words}")
        time.sleep(_POLL_SECONDS)
