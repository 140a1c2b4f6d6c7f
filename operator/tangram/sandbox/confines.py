"""What a real node gets of this machine that outlives processes: control groups and a bridge, under its own name."""

import os
import re
import subprocess
import time
from pathlib import Path

from tangram.errors import SandboxError
from tangram.sandbox.node_files import NodeNetwork
from tangram.sandbox.places import locked
from tangram.sandbox.processes import running_identities

_CGROUPS = Path("/sys/fs/cgroup")
_ROUTES = Path("/proc/net/route")
_LOCK = Path("/run/tangram-sandbox.lock")
_LINKS = Path("/sys/class/net")
_NAME = re.compile("tangram-[0-9a-f]{7}")
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.02


def confines_name(identity: str) -> str:
    """Name of a node's bridge and of its control groups: a link's name has at most 15 characters."""
    return f"tangram-{identity[:7]}"


def cgroup_roots() -> list[Path]:
    """Where control groups can be made: the one tree of version 2, or each of version 1."""
    if (_CGROUPS / "cgroup.controllers").exists():
        found = [_CGROUPS]
    elif _CGROUPS.is_dir():
        found = sorted({entry.resolve() for entry in _CGROUPS.iterdir() if (entry / "cgroup.procs").exists()})
    else:
        found = []
    return [root for root in found if os.access(root, os.W_OK)]


def make_cgroups(identity: str) -> str:
    """Make the group in which the kubelet makes those of its pods, in every tree, and return its name."""
    name = confines_name(identity)
    for root in cgroup_roots():
        try:
            (root / name).mkdir(exist_ok=True)
        except OSError as error:
            raise SandboxError(f"the control group {root / name} cannot be made: {error.strerror}") from error
    return name


def make_bridge(identity: str, busybox: Path) -> NodeNetwork:
    """Make the node's bridge with an address of a network that is free here.

    Raises ``SandboxError`` when the kernel refuses, or no network is free.
    """
    name = confines_name(identity)
    with locked(_LOCK):
        _remove_orphans(busybox)
        network = NodeNetwork(name, _free_third_byte())
        _ip(busybox, "link", "add", name, "type", "bridge")
        _ip(busybox, "addr", "add", f"{network.address}/24", "dev", name)
        _ip(busybox, "link", "set", name, "up")
    return network


def _free_third_byte() -> int:
    """Of 10.88.N.0/24: the lowest N that no route has."""
    lines = _ROUTES.read_text().splitlines()[1:]
    taken = {int(line.split()[1], 16).to_bytes(4, "little") for line in lines}
    for number in range(256):
        if bytes((10, 88, number, 0)) not in taken:
            return number
    raise SandboxError("all networks from 10.88.0.0/24 to 10.88.255.0/24 are taken on this machine")


def remove_confines(identity: str, busybox: Path) -> None:
    """Remove bridge and control groups of a node whose processes have ended; what is not there is no error.

    Raises ``SandboxError`` when something still uses them.
    """
    with locked(_LOCK):
        _remove(confines_name(identity), busybox)


def _remove_orphans(busybox: Path) -> None:
    """Remove what sandboxes left that were killed and never taken down: those of which no process lives."""
    folders = [path for parent in (_LINKS, *cgroup_roots()) for path in parent.glob("tangram-*")]
    names = {folder.name for folder in folders if _NAME.fullmatch(folder.name)}
    for name in names - {confines_name(identity) for identity in running_identities()}:
        _remove(name, busybox)


def _remove(name: str, busybox: Path) -> None:
    if (_LINKS / name).exists():
        _ip(busybox, "link", "del", name)
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for root in cgroup_roots():
        for folder, _, _ in os.walk(root / name, topdown=False):
            _remove_group(Path(folder), deadline)


def _remove_group(group: Path, deadline: float) -> None:
    """A group whose last process has just ended is busy for a moment longer."""
    while True:
        try:
            group.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise SandboxError(f"the control group {group} cannot be removed: {error.strerror}") from error
            time.sleep(_POLL_SECONDS)
        else:
            return


def _ip(busybox: Path, *arguments: str) -> None:
    """The ``ip`` command: busybox's, or the machine's should the cache have been emptied meanwhile."""
    command = [*([str(busybox)] if busybox.exists() else []), "ip", *arguments]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise SandboxError(f"{command[0]} cannot be started: {error.strerror}") from error
    if answer.returncode != 0:
        raise SandboxError(f"ip {' '.join(arguments)} failed: {answer.stderr.strip()}")
