"""Whatever goes wrong at start is told in one line, and nothing stays behind: no process, no file."""

import signal
import socket
import subprocess
import sys

import pytest

from tangram.errors import InvalidInput, SandboxError
from tangram.sandbox.cluster import Wish, down, find, find_all, up
from tangram.sandbox.nodes import NodeSpec
from tangram.sandbox.processes import IDENTITY_VARIABLE, start
from tangram.sandbox.state import FILE

pytestmark = pytest.mark.slow  # starts and ends processes


def assert_nothing_left(root):
    assert find_all(state_root=root) == []
    assert not root.exists() or list(root.iterdir()) == []
    assert not processes_mentioning(root)


def processes_mentioning(root):
    listed = subprocess.run(["ps", "-eo", "stat=,args="], capture_output=True, text=True, check=True).stdout
    return [
        line for line in listed.splitlines() if str(root) in line and not line.startswith("Z") and "pytest" not in line
    ]


def test_a_server_that_dies_at_start_is_named_with_its_last_words(workshop, tmp_path):
    workshop.program("etcd", "#!/bin/sh\necho 'wal: crc mismatch' >&2\nexit 1\n")

    with pytest.raises(SandboxError, match=r"etcd died at start: wal: crc mismatch$"):
        up("one", state_root=tmp_path / "root")

    assert_nothing_left(tmp_path / "root")


def test_a_server_that_cannot_be_executed_is_named(workshop, tmp_path):
    workshop.program("etcd", "\x00\x01 no program\n")

    with pytest.raises(SandboxError, match=r"etcd cannot be started: .*Exec format error"):
        up("one", state_root=tmp_path / "root")

    assert_nothing_left(tmp_path / "root")


def test_ports_lost_to_somebody_else_are_tried_again_with_others(workshop, tmp_path, lines):
    workshop.program(
        "etcd", f"#!/bin/sh\necho \"$*\" >> {tmp_path}/starts\necho 'bind: address already in use'\nexit 1\n"
    )

    with pytest.raises(SandboxError, match="etcd died at start: bind: address already in use"):
        up("one", state_root=tmp_path / "root", report=lines.append)

    starts = (tmp_path / "starts").read_text().splitlines()
    assert len(starts) == len(set(starts)) == 5
    assert lines.count("a port was taken by somebody else meanwhile: trying others") == 4
    assert_nothing_left(tmp_path / "root")


def test_a_port_that_was_asked_for_and_is_taken_is_named(workshop, tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(SandboxError, match=f"port {port} cannot be used .*: choose another with --port"):
            up("one", state_root=tmp_path / "root", wish=Wish(port=port))

    assert_nothing_left(tmp_path / "root")


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        ({"provider": "minikube"}, "--provider"),
        ({"port": 70000}, "--port"),
        ({"programs": ["kube-proxy"]}, "--with"),
        ({"provider": "kind", "port": 6443}, "--port"),
        ({"nodes": [NodeSpec("n", 1, 1, 1, "TPU")]}, "model"),
    ],
)
def test_a_choice_that_cannot_be_had_is_refused_before_anything_starts(workshop, tmp_path, choice, named):
    with pytest.raises(InvalidInput, match=named):
        up("one", state_root=tmp_path / "root", wish=Wish(**choice))

    assert workshop.builds == []
    assert not (tmp_path / "root").exists()


def test_a_folder_of_somebody_else_is_not_touched(workshop, tmp_path):
    (tmp_path / "root" / "one").mkdir(parents=True)
    (tmp_path / "root" / "one" / "thesis.txt").write_text("years of work")

    with pytest.raises(SandboxError, match="is not empty and not a sandbox"):
        up("one", state_root=tmp_path / "root")
    assert down("one", state_root=tmp_path / "root") is False

    assert (tmp_path / "root" / "one" / "thesis.txt").read_text() == "years of work"


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / FILE).write_text('{"name": 7}')

    with pytest.raises(SandboxError, match=r"state\.json is not the record of a sandbox"):
        find("one", state_root=tmp_path)


COMMAND = [sys.executable, "-c", "from tangram.cli.sandbox import sandbox; sandbox()", "up"]


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 1), (signal.SIGTERM, 143)])
def test_breaking_off_a_start_takes_everything_along(workshop, tmp_path, eventually, sent, status):
    """The stand-in etcd never answers, so the start is surely still waiting when the signal comes."""
    root = tmp_path / "root"
    # A shell's background job, and so CI, hands an ignored SIGINT down; somebody at a keyboard does not.
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    with subprocess.Popen([*COMMAND, "--state-dir", root], stderr=subprocess.PIPE, text=True, **heeding) as starting:
        eventually(lambda: bool((found := find(state_root=root)) and found.state.processes), "etcd is started")
        starting.send_signal(sent)
        starting.communicate(timeout=120)

    assert starting.returncode == status
    assert_nothing_left(root)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc: only on Linux")
def test_even_a_killed_start_leaves_nothing_that_down_does_not_find(workshop, tmp_path, eventually):
    root = tmp_path / "root"
    with subprocess.Popen([*COMMAND, "--state-dir", root], stderr=subprocess.PIPE, text=True) as starting:
        eventually(lambda: bool((found := find(state_root=root)) and found.state.processes), "etcd is started")
        starting.kill()
    server = find(state_root=root).state.processes[0]
    marked = {IDENTITY_VARIABLE: find(state_root=root).state.identity}
    stray = start("started, not yet written down", ["/bin/sleep", "600"], tmp_path / "log", environment=marked)
    assert server.alive

    assert down(state_root=root) is True

    assert not server.alive
    assert not stray.alive
    assert [path.name for path in root.iterdir() if path.suffix != ".lock"] == []
