"""From the text of /proc/PID/cgroup to pod and container: every layout, and texts that mean harm."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tangram.node.processes import Owner, Processes, owner_in

UID = "b41f2f7e-3a6e-4d8e-9a57-0c2f5b0d7c11"
OTHER = "00000000-3a6e-4d8e-9a57-0c2f5b0d7c11"
SNAKE = UID.replace("-", "_")
CONTAINER = "3f" * 32
STATIC = "d0c8a3f1" * 4
OWNER = Owner(UID, CONTAINER)

LAYOUTS = {
    "v2 systemd containerd": (
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SNAKE}.slice/cri-containerd-{CONTAINER}.scope"
    ),
    "v2 systemd containerd guaranteed": (
        f"0::/kubepods.slice/kubepods-pod{SNAKE}.slice/cri-containerd-{CONTAINER}.scope"
    ),
    "v2 systemd cri-o": (
        f"0::/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{SNAKE}.slice/crio-{CONTAINER}.scope"
    ),
    "v2 systemd cri-o, group of crun": (
        f"0::/kubepods.slice/kubepods-pod{SNAKE}.slice/crio-{CONTAINER}.scope/container"
    ),
    "v2 systemd cri-dockerd": f"0::/kubepods.slice/kubepods-pod{SNAKE}.slice/docker-{CONTAINER}.scope",
    "v2 cgroupfs": f"0::/kubepods/burstable/pod{UID}/{CONTAINER}",
    "v2 cgroupfs guaranteed": f"0::/kubepods/pod{UID}/{CONTAINER}",
    "v2 cgroupfs cri-o": f"0::/kubepods/besteffort/pod{UID}/crio-{CONTAINER}",
    "v2 seen from a namespace of the agent": f"0::/../../../kubepods/burstable/pod{UID}/{CONTAINER}",
    "v2 cgroupfs, agent and tenant of one class": f"0::/../../pod{UID}/{CONTAINER}",
    "v2 cgroupfs, agent burstable, tenant besteffort": f"0::/../../../besteffort/pod{UID}/{CONTAINER}",
    "v2 cgroupfs, agent burstable, tenant guaranteed": f"0::/../../../pod{UID}/{CONTAINER}",
    "v2 cgroupfs, agent guaranteed, tenant burstable": f"0::/../../burstable/pod{UID}/{CONTAINER}",
    "v2 cgroupfs cri-o, agent and tenant of one class": f"0::/../../pod{UID}/crio-{CONTAINER}",
    "v2 systemd, agent and tenant of one class": (
        f"0::/../../kubepods-burstable-pod{SNAKE}.slice/cri-containerd-{CONTAINER}.scope"
    ),
    "v2 systemd, agent burstable, tenant guaranteed": (
        f"0::/../../../kubepods-pod{SNAKE}.slice/cri-containerd-{CONTAINER}.scope"
    ),
    "v2 systemd cri-o with crun, agent burstable, tenant besteffort": (
        f"0::/../../../../kubepods-besteffort.slice/kubepods-besteffort-pod{SNAKE}.slice/crio-{CONTAINER}.scope/container"
    ),
    "v2, agent as a service of the host in a namespace of its own": (
        f"0::/../../kubepods/burstable/pod{UID}/{CONTAINER}"
    ),
    "v1 cgroupfs in a namespace of the agent": (
        f"12:memory:/../../pod{UID}/{CONTAINER}\n1:name=systemd:/../../pod{UID}/{CONTAINER}\n0::/"
    ),
    "v2 systemd in the container": (
        f"0::/kubepods.slice/kubepods-pod{SNAKE}.slice/cri-containerd-{CONTAINER}.scope/init.scope"
    ),
    "v2 kind": (
        f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
        f"kubelet-kubepods-burstable-pod{SNAKE}.slice/cri-containerd-{CONTAINER}.scope"
    ),
    "v2 kubelet in docker": f"0::/docker/{'ab' * 32}/kubelet/kubepods/burstable/pod{UID}/{CONTAINER}",
    "v2 below a group of the kubelet's own": f"0::/machine-cf7a1e0/kubepods/burstable/pod{UID}/{CONTAINER}",
    "v1 cgroupfs": f"12:memory:/kubepods/pod{UID}/{CONTAINER}\n11:cpu,cpuacct:/kubepods/pod{UID}/{CONTAINER}",
    "v1 systemd": (
        f"4:devices:/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SNAKE}.slice/cri-containerd-{CONTAINER}.scope"
    ),
    "v1 containerd told cgroupfs by a kubelet of systemd": (
        f"9:devices:/system.slice/containerd.service/kubepods-burstable-pod{SNAKE}.slice:cri-containerd:{CONTAINER}"
    ),
    "hybrid: only version 1 has the pod": f"1:name=systemd:/kubepods/pod{UID}/{CONTAINER}\n0::/system.slice",
    "hybrid: the first lines lead nowhere": f"0::/\n13:misc:/\n2:cpu:/kubepods/pod{UID}/{CONTAINER}",
}


@pytest.mark.parametrize("text", LAYOUTS.values(), ids=LAYOUTS)
def test_every_layout_names_pod_and_container(text: str) -> None:
    assert owner_in(text) == OWNER
    assert owner_in(text + "\n") == OWNER


def test_a_static_pod_has_a_hash_for_a_uid() -> None:
    assert owner_in(f"0::/kubepods/burstable/pod{STATIC}/{CONTAINER}") == Owner(STATIC, CONTAINER)


def test_a_process_at_the_pod_itself_has_no_container() -> None:
    assert owner_in(f"0::/kubepods.slice/kubepods-pod{SNAKE}.slice") == Owner(UID)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0::/",
        "0::/system.slice/containerd.service",
        "0::/user.slice/user-1000.slice/session-3.scope",
        f"0::/docker/{CONTAINER}",
        "no colons at all",
        "::",
        "0::",
        f"0::/pod{UID}/{CONTAINER}",  # not of a kubelet
        f"0::/../{CONTAINER}",  # another container of the agent's own pod
        "0::/../../../../init.scope",
        f"0::/../../../../system.slice/some.service/pod{UID}/{CONTAINER}",  # beside the kubelet's groups
        f"0::/burstable/pod{UID}/{CONTAINER}",
        f"0::/home/mykubepodsfolder/pod{UID}/{CONTAINER}",
        "0::/kubepods/podUPPER-CASE/x",
        f"0::/kubepods/pod{UID[:-1]}/{CONTAINER}",
        f"0::/kubepods/pod{UID}0/{CONTAINER}",
    ],
)
def test_what_belongs_to_no_pod(text: str) -> None:
    assert owner_in(text) is None


@pytest.mark.parametrize(
    "below",
    [
        f"pod{OTHER}/{'00' * 32}",
        f"kubepods.slice/kubepods-pod{OTHER.replace('-', '_')}.slice/cri-containerd-{'00' * 32}.scope",
        f"kubepods/pod{OTHER}",
    ],
)
def test_a_tenant_that_names_its_own_groups_like_another_pod_stays_itself(below: str) -> None:
    assert owner_in(f"0::/kubepods/pod{UID}/{CONTAINER}/{below}") == OWNER


def test_a_tenant_beside_the_agent_that_names_its_own_groups_like_another_pod_stays_itself() -> None:
    assert owner_in(f"0::/../../pod{UID}/{CONTAINER}/../pod{OTHER}/{'00' * 32}") == OWNER
    assert owner_in(f"0::/../../../besteffort/pod{UID}/{CONTAINER}/kubepods/pod{OTHER}/{'00' * 32}") == OWNER


def test_a_path_with_a_line_break_cannot_speak_before_the_true_one() -> None:
    """The kernel writes a newline in a group's name as \\012; the tenant's part comes after the pod's own anyway."""
    assert owner_in(f"0::/kubepods/pod{UID}/{CONTAINER}/x\n0::/kubepods/pod{OTHER}/{CONTAINER}") == OWNER


@given(st.text(max_size=300))
def test_no_text_raises(text: str) -> None:
    assert owner_in(text) is None or len(owner_in(text).pod_uid) in (32, 36)  # type: ignore[union-attr]


def proc(root: Path, **files: str | bytes) -> Processes:
    for pid, text in files.items():
        folder = root / pid.removeprefix("p")
        folder.mkdir()
        (folder / "cgroup").write_bytes(text if isinstance(text, bytes) else text.encode())
    return Processes(root)


def test_processes_are_looked_up_by_number(tmp_path: Path) -> None:
    processes = proc(tmp_path, p7=LAYOUTS["v2 cgroupfs"], p8="0::/init.scope", p9=b"\xff\x00" * 1_000_000)
    assert processes.owner(7) == OWNER
    assert processes.owner(8) is None
    assert processes.owner(9) is None
    assert processes.owner(10) is None  # has ended
    assert processes.owner(-1) is None


_CGROUP = Path("/sys/fs/cgroup")
_UNIFIED = _CGROUP / "unified"
_HIERARCHIES = {"v2": _UNIFIED if _UNIFIED.exists() else _CGROUP, "v1": _CGROUP / "pids"}
_WHERE = {
    "cgroupfs": {
        "burstable": f"kubepods/burstable/pod{{uid}}/{CONTAINER}",
        "besteffort": f"kubepods/besteffort/pod{{uid}}/{CONTAINER}",
        "guaranteed": f"kubepods/pod{{uid}}/{CONTAINER}",
    },
    "systemd": {
        "burstable": (
            "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{snake}.slice/"
            f"cri-containerd-{CONTAINER}.scope"
        ),
        "guaranteed": f"kubepods.slice/kubepods-pod{{snake}}.slice/cri-containerd-{CONTAINER}.scope",
    },
}
"""Driver -> class of the pod -> its group, as kubelets make it."""
_LOOK = "import sys; from tangram.node.processes import Processes as P; print(P().owner(int(sys.argv[1])))"


@contextmanager
def groups(hierarchy: Path) -> Iterator[Path]:
    """A group of our own in the hierarchy; skips where none can be made or namespaces of groups cannot."""
    root = hierarchy / f"tangram-test-{os.getpid()}"
    if subprocess.run(["unshare", "-C", "true"], capture_output=True, check=False).returncode:
        pytest.skip("SKIPPED: cgroup namespaces cannot be made here (root and util-linux are needed)")
    if not (hierarchy / "cgroup.procs").exists():
        pytest.skip(f"SKIPPED: no control groups at {hierarchy}")
    try:
        root.mkdir()
    except OSError as error:
        pytest.skip(f"SKIPPED: no control group can be made in {hierarchy}: {error}")
    try:
        yield root
    finally:
        for folder in sorted((path for path in root.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        root.rmdir()


@pytest.mark.parametrize("hierarchy", _HIERARCHIES)
@pytest.mark.parametrize(
    ("driver", "agent", "tenant"), [(d, a, t) for d, kinds in _WHERE.items() for a in kinds for t in kinds]
)
def test_fault_25_a_tenant_is_found_from_inside_a_real_container_s_namespace(
    hierarchy: str, driver: str, agent: str, tenant: str
) -> None:
    with groups(_HIERARCHIES[hierarchy]) as root:
        own = root / _WHERE[driver][agent].format(uid=OTHER, snake=OTHER.replace("-", "_"))
        others = root / _WHERE[driver][tenant].format(uid=UID, snake=SNAKE)
        own.mkdir(parents=True)
        others.mkdir(parents=True)
        sleeper = subprocess.Popen(["sleep", "60"])
        try:
            (others / "cgroup.procs").write_text(str(sleeper.pid))
            command = ["unshare", "-C", sys.executable, "-c", _LOOK, str(sleeper.pid)]
            join = f'echo $$ > {own}/cgroup.procs; exec "$@"'
            looked = subprocess.run(["sh", "-c", join, "sh", *command], capture_output=True, text=True, check=True)
        finally:
            sleeper.kill()
            sleeper.wait()
        assert looked.stdout.strip() == repr(OWNER)


def test_own_process_can_be_looked_at_for_real() -> None:
    assert Processes().owner(os.getpid()) == owner_in(Path("/proc/self/cgroup").read_text())


def test_without_the_host_s_process_numbers_the_agent_says_that_it_is_blind(tmp_path: Path) -> None:
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").touch()  # some other inode: a namespace of its own
    assert Processes(tmp_path).blindness() == "the agent does not share the host's PID namespace"
    assert "/proc cannot be read" in Processes(tmp_path / "missing").blindness()
