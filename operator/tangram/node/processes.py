"""Which container a process of the node belongs to, by its control group.

The path names the pod's uid and the container's id in all layouts that kubelets and runtimes make: control groups
version 1, 2 and both at once, drivers systemd and cgroupfs, containerd, CRI-O and cri-dockerd, and a kubelet that runs
in a container itself. The outermost pod of a path counts: groups below it can be made and named by the tenant.

The kernel writes paths relative to the reader's cgroup namespace (cgroup_namespaces(7)), and runtimes give a container
one of its own where version 2 is all there is. So an agent in a pod reads ``/../../pod<uid>/<container>`` of a pod of
its own class: what the driver cgroupfs calls ``kubepods`` is above both, and is not named.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_UID = re.compile(
    r"(?:^|-)pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
    r"(?:\.slice)?(?::[a-z-]+:([0-9a-f]{64}))?$"
)
_CONTAINER = re.compile(r"(?:^|[-:])([0-9a-f]{64})(?:\.scope)?$")
_KUBEPODS = re.compile(r"(?:^|-)kubepods(?:[.-]|$)")
_CLASSES: Final = ("besteffort", "burstable")
"""Groups of the driver cgroupfs between ``kubepods`` and the pods of one quality of service."""
_INITIAL_NAMESPACE: Final = 0xEFFFFFFC
"""The inode of the first PID namespace, PROC_PID_INIT_INO in Linux' include/linux/proc_ns.h."""
_LONGEST = 1 << 16
"""Bytes read of a control group file; real ones have a few hundred."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a process is; ``container_id`` is empty where the path ends at the pod."""

    pod_uid: str
    container_id: str = ""


def owner_in(cgroup: str) -> Owner | None:
    """The owner that the text of a /proc/PID/cgroup names; None for a process of no pod.

    A line is ``hierarchy:controllers:path``. The first line that names a pod decides: version 1 repeats the path for
    each controller, and where both versions are mounted some lines lead nowhere.
    """
    for line in cgroup.splitlines():
        parts = line.split(":", 2)
        if len(parts) == 3 and (owner := _owner_of_path(parts[2])):
            return owner
    return None


def _owner_of_path(path: str) -> Owner | None:
    elements = [element for element in path.split("/") if element]
    below_kubepods, beside_us = False, elements[:1] == [".."]
    for position, element in enumerate(elements):
        below_kubepods = below_kubepods or bool(_KUBEPODS.search(element))
        pod = _UID.search(element)
        if pod is None or not (below_kubepods or beside_us):
            beside_us = beside_us and (element == ".." or element in _CLASSES)
            continue
        inside = _CONTAINER.search(elements[position + 1]) if position + 1 < len(elements) else None
        return Owner(pod[1].replace("_", "-"), pod[2] or (inside[1] if inside else ""))
    return None


class Processes:
    """The processes of the node, as the agent sees them in its own /proc."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc

    def blindness(self) -> str:
        """Why the node's processes cannot be distinguished, or an empty text when they can.

        Drivers name processes by their number on the host. In a PID namespace of its own the agent would find nothing
        under that number, or somebody else.
        """
        try:
            namespace = (self._proc / "self/ns/pid").stat().st_ino
        except OSError as error:
            return f"/proc cannot be read: {error.strerror or error}"
        return "" if namespace == _INITIAL_NAMESPACE else "the agent does not share the host's PID namespace"

    def is_there(self, pid: int) -> bool:
        """Whether a process has not ended: it is there, and of its threads not only the one that waits to be reaped."""
        folder = self._proc / str(int(pid))
        try:
            state = (folder / "stat").read_bytes()[:_LONGEST].rpartition(b")")[2].split()[:1]
            return state not in ([b"Z"], [b"X"]) or sum(1 for _ in (folder / "task").iterdir()) > 1
        except OSError:
            return False

    def name(self, pid: int) -> str:
        """What the kernel calls a process, 15 letters at most; empty when it has ended."""
        try:
            return (self._proc / str(int(pid)) / "comm").read_bytes()[:_LONGEST].decode("utf-8", "replace").strip()
        except OSError:
            return ""

    def owner(self, pid: int) -> Owner | None:
        """Whose a process is; None when it has ended, belongs to no pod, or cannot be looked at."""
        try:
            with (self._proc / str(int(pid)) / "cgroup").open("rb") as file:
                text = file.read(_LONGEST)
        except OSError:
            return None
        return owner_in(text.decode("utf-8", "replace"))
