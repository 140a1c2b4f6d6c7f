"""A real kubelet and a real containerd run real containers, outlive each other, and leave nothing behind."""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from tangram.errors import SandboxError
from tangram.sandbox import confines, realnode
from tangram.sandbox.cluster import Wish, down, find, up
from tangram.sandbox.image import IMAGE
from tangram.sandbox.places import write_private
from tangram.sandbox.processes import find_strays


def pod(name, script, **spec):
    container = {"name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", script]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "nodeName": "real-node",
            "containers": [container],
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0,
        }
        | spec,
    }


@pytest.fixture
def run_pod(real_cluster):
    """Create a pod and wait for it; it is gone after the test."""
    names = []

    def run(name, script, *, until="condition=Ready", **spec):
        begun = time.monotonic()
        real_cluster.kubectl("create", "-f", "-", input=json.dumps(pod(name, script, **spec)))
        names.append(name)
        real_cluster.kubectl("wait", f"pod/{name}", f"--for={until}", "--timeout=60s")
        print(f"pod {name}: {until} after {time.monotonic() - begun:.2f} s")

    yield run
    if names:
        real_cluster.kubectl("delete", "pod", *names, "--timeout=60s")


def status_of(cluster, name):
    return json.loads(cluster.kubectl("get", "pod", name, "-o", "json").stdout)["status"]


def container_of(cluster, name):
    (container,) = status_of(cluster, name)["containerStatuses"]
    return container["containerID"], container["restartCount"], sorted(container["state"])


def test_the_node_is_ready_and_tells_what_it_is(real_cluster, real_node):
    node = json.loads(real_cluster.kubectl("get", "node", real_node.name, "-o", "json").stdout)

    conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
    addresses = {each["type"]: each["address"] for each in node["status"]["addresses"]}
    assert conditions["Ready"] == "True"
    assert addresses["InternalIP"] == real_node.address
    assert node["status"]["nodeInfo"]["kubeletVersion"] == "v1.36.3"
    assert node["status"]["nodeInfo"]["containerRuntimeVersion"].startswith("containerd://")
    assert int(node["status"]["capacity"]["cpu"]) == os.cpu_count()
    assert "taints" not in node["spec"]
    assert real_cluster.state.versions["containerd"] in node["status"]["nodeInfo"]["containerRuntimeVersion"]


def test_a_pod_runs_with_an_address_a_token_a_log_and_a_shell(real_cluster, run_pod):
    run_pod("runs", "echo hello; exec sleep 3600")

    assert status_of(real_cluster, "runs")["podIP"].startswith("10.88.")
    assert real_cluster.kubectl("logs", "runs").stdout == "hello\n"
    token = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
    assert real_cluster.kubectl("exec", "runs", "--", "cat", token).stdout == "default"


def test_a_container_that_fails_is_seen_with_its_exit_code(real_cluster, run_pod):
    run_pod("fails", "echo goodbye; exit 3", until="jsonpath={.status.phase}=Failed")

    (container,) = status_of(real_cluster, "fails")["containerStatuses"]
    assert container["state"]["terminated"]["exitCode"] == 3
    assert real_cluster.kubectl("logs", "fails").stdout == "goodbye\n"


def test_a_container_above_its_memory_limit_is_killed(real_cluster, run_pod):
    limited = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", "tail -c 200m /dev/zero"],
        "resources": {"limits": {"memory": "16Mi"}},
    }
    run_pod("greedy", "", until="jsonpath={.status.phase}=Failed", containers=[limited])

    (container,) = status_of(real_cluster, "greedy")["containerStatuses"]
    assert container["state"]["terminated"]["exitCode"] == 137


def test_two_pods_and_the_machine_reach_each_other(real_cluster, real_node, run_pod):
    run_pod("serves", "echo served > /tmp/index.html; exec httpd -f -p 8000 -h /tmp")
    run_pod("asks", "exec sleep 3600")
    run_pod("asks-from-the-machine", "exec sleep 3600", hostNetwork=True)
    address = status_of(real_cluster, "serves")["podIP"]

    for name in ("asks", "asks-from-the-machine"):
        answer = real_cluster.kubectl("exec", name, "--", "wget", "-q", "-O-", f"http://{address}:8000/index.html")
        assert answer.stdout == "served\n"
    assert status_of(real_cluster, "asks-from-the-machine")["podIP"] == real_node.address


@pytest.mark.parametrize("server", realnode.SERVERS)
@pytest.mark.parametrize("way", ["stop", "kill"])
def test_containers_outlive_the_kubelet_and_containerd(real_cluster, real_node, run_pod, server, way):
    name = f"outlives-{way}-{server}"
    run_pod(name, "exec sleep 3600")
    before = container_of(real_cluster, name)

    getattr(real_node, way)(server)
    begun = time.monotonic()
    real_node.start(server)
    print(f"{server} answers {time.monotonic() - begun:.2f} s after its start")
    run_pod(f"after-{name}", "exec sleep 3600")

    assert container_of(real_cluster, name) == before
    assert before[2] == ["running"]
    assert name not in real_cluster.kubectl("get", "events", "--field-selector=reason=Killing", "-o", "name").stdout


def test_the_command_line_sees_the_restarted_servers(real_cluster, real_node):
    real_node.restart("kubelet")

    again = find(real_cluster.name, state_root=real_cluster.state_dir.parent)

    assert again.running
    assert {process.name for process in again.state.processes} >= {"kubelet", "containerd", "node-init"}


def test_a_static_pod_runs_and_is_mirrored(real_cluster, real_node, eventually):
    shown = ("get", "pod", "static-real-node", "--ignore-not-found", "-o", "name")
    manifest = pod("static", "echo static; exec sleep 3600", automountServiceAccountToken=False)
    del manifest["spec"]["nodeName"]
    file = real_node.manifests / "static.json"
    write_private(file, json.dumps(manifest))
    try:
        eventually(lambda: "static" in printed(real_node, "default_static-real-node_*"), "it runs", seconds=60)
        eventually(lambda: real_cluster.kubectl(*shown).stdout == "pod/static-real-node\n", "it is shown", seconds=60)
    finally:
        file.unlink()
    eventually(lambda: real_cluster.kubectl(*shown).stdout == "", "it is gone", seconds=60)


def printed(node, pods):
    return "".join(file.read_text() for file in node.layout.pod_logs.glob(f"{pods}/main/*.log"))


def test_the_machines_own_settings_and_mounts_are_left_alone(real_node):
    settings = [Path("/proc/sys") / name for name in ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")]

    inside = real_node.run("cat", *map(str, settings)).split()

    assert inside == ["1", "10", "1"], "what a kubelet wants"
    assert str(real_node.layout.folder) not in Path("/proc/self/mountinfo").read_text()
    assert "/var/lib/kubelet" not in Path("/proc/self/mountinfo").read_text()


def test_a_failing_command_within_says_what_and_why(real_node):
    with pytest.raises(SandboxError, match=r"ls /nowhere failed: .*No such file"):
        real_node.run("ls", "/nowhere")


@pytest.fixture
def short_path():
    with tempfile.TemporaryDirectory(prefix="tangram-") as folder:
        yield Path(folder)


@pytest.mark.parametrize("killed", [(), ("kubelet", "containerd"), ("node-init",), ("node", "kubelet")], ids="+".join)
def test_down_leaves_nothing_whatever_was_killed_before(node_programs, short_path, killed):
    begun = time.monotonic()
    cluster = up("gone", state_root=short_path, wish=Wish(real_node=True, fsync=False, tied_to_parent=True))
    print(f"\nup with a real node after {time.monotonic() - begun:.2f} s")
    identity = cluster.state.identity
    confined = confines.confines_name(identity)
    try:
        cluster.kubectl("create", "-f", "-", input=json.dumps(pod("left", "exec sleep 3600")))
        cluster.kubectl("wait", "pod/left", "--for=condition=Ready", "--timeout=60s")
        groups = [root / confined for root in confines.cgroup_roots()]
        assert all(group.is_dir() for group in groups)
        inside = members(groups)
        assert len(inside) >= 2, "the pause container and the pod's own"
        for process in cluster.state.processes:
            if process.name in killed:
                os.kill(process.pid, 9)
    finally:
        begun = time.monotonic()
        assert down("gone", state_root=short_path)
        print(f"down after {time.monotonic() - begun:.2f} s")

    assert find_strays(identity) == []
    assert not any(Path(f"/proc/{pid}").exists() for pid in inside)
    assert not any(group.exists() for group in groups)
    assert not (Path("/sys/class/net") / confined).exists()
    assert list(short_path.iterdir()) == []
    assert not down("gone", state_root=short_path)


def members(groups):
    """Processes in control groups and all below them."""
    files = (file for group in groups for file in group.rglob("cgroup.procs"))
    return {int(pid) for file in files for pid in file.read_text().split()}


STARTER = """
import sys
from pathlib import Path
from tangram.sandbox.cluster import Wish, up
wish = Wish(real_node=True, fsync=False, tied_to_parent=True)
cluster = up("tied", wish, state_root=Path(sys.argv[1]))
print(cluster.state.identity, flush=True)
sys.stdin.read()
"""


def test_what_a_killed_test_run_leaves_is_cleared_by_the_next(node_programs, short_path, eventually):
    command = [sys.executable, "-c", STARTER, str(short_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        identity = starter.stdout.readline().strip()
        starter.kill()
    eventually(lambda: find_strays(identity) == [], "the node has ended with its starter")
    link = Path("/sys/class/net") / confines.confines_name(identity)
    shutil.rmtree(short_path / "tied")
    left = link.exists()  # unless another test's node was quicker to clear it away

    up("next", state_root=short_path, wish=Wish(real_node=True, fsync=False, tied_to_parent=True))
    assert down("next", state_root=short_path)

    assert left
    assert not link.exists()
    assert not any((root / link.name).exists() for root in confines.cgroup_roots())


def test_a_real_node_is_added_to_a_sandbox_that_runs_whatever_came_of_earlier_tries(
    node_programs, short_path, monkeypatch, lines
):
    def try_and_break(error=None, *, killed=False):
        def arguments(_):
            if error:
                raise error
            return ["--no-such-option"]

        with monkeypatch.context() as broken:
            broken.setattr(realnode, "kubelet_arguments", arguments)
            if killed:
                broken.setattr(realnode, "_take_away", lambda folder, state: state)
            up("late", state_root=short_path, wish=Wish(real_node=True, tied_to_parent=True))

    plain = up("late", state_root=short_path, wish=Wish(fsync=False, tied_to_parent=True))
    link = Path("/sys/class/net") / confines.confines_name(plain.state.identity)
    try:
        with pytest.raises(SandboxError, match="started without a real node"):
            _ = plain.real_node
        with pytest.raises(SandboxError, match=r"kubelet died at start: .*no-such-option"):
            try_and_break()
        with pytest.raises(KeyboardInterrupt):
            try_and_break(KeyboardInterrupt())
        left = find("late", state_root=short_path)
        assert left.running
        assert left.state.processes == plain.state.processes
        assert not link.exists()
        with pytest.raises(SystemError):
            try_and_break(SystemError(), killed=True)
        assert link.exists()

        cluster = up("late", state_root=short_path, wish=Wish(real_node=True, tied_to_parent=True), report=lines.append)
        again = up("late", state_root=short_path, wish=Wish(real_node=True, tied_to_parent=True))

        assert "real node real-node is Ready" in lines[-1]
        assert again.state.processes == cluster.state.processes
    finally:
        down("late", state_root=short_path)


def test_a_machine_that_cannot_have_a_real_node_says_why(tmp_path, monkeypatch):
    with monkeypatch.context() as other:
        other.setattr(platform, "system", lambda: "Darwin")
        assert realnode.why_not() == "a real node needs Linux: this is Darwin"
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    with monkeypatch.context() as user:
        user.setattr(os, "geteuid", lambda: 1000)
        assert "needs root" in realnode.why_not()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(realnode, "_USER_IDS", tmp_path / "uid_map")
    (tmp_path / "uid_map").write_text("0 1000 1\n")
    assert "within a user namespace only" in realnode.why_not()
    (tmp_path / "uid_map").write_text("         0          0 4294967295\n")
    with monkeypatch.context() as bare:
        bare.setattr(realnode, "cgroup_roots", list)
        assert "none are mounted and writable" in realnode.why_not()
    monkeypatch.setattr(realnode, "cgroup_roots", lambda: [Path("/sys/fs/cgroup")])
    with monkeypatch.context() as confined:
        confined.setattr(realnode.namespaces, "why_not", lambda: "it may not make namespaces (unshare failed)")
        assert realnode.why_not() == (
            "a real node needs namespaces of its own: it may not make namespaces (unshare failed)"
        )
    monkeypatch.setattr(realnode.namespaces, "why_not", lambda: None)
    monkeypatch.setattr(realnode, "missing_packages", lambda: ("runc",))
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert realnode.why_not() == "a real node needs runc: not installed, and there is no apt-get to fetch them"


def test_a_state_folder_with_too_long_a_path_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr(realnode, "why_not", lambda: None)
    with pytest.raises(SandboxError, match=r"too long a path for a real node's sockets .* shorter --state-dir"):
        up("long", state_root=tmp_path / ("x" * 60), wish=Wish(real_node=True))


def test_asking_for_what_cannot_be_had_is_one_line_and_starts_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(realnode, "why_not", lambda: "a real node needs root")

    with pytest.raises(SandboxError, match="a real node needs root"):
        up("none", state_root=tmp_path, wish=Wish(real_node=True))

    assert list(tmp_path.iterdir()) == []
