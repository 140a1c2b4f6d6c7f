"""Servers outlive their starter, are recognised later, and are stopped for certain."""

import os
import platform
import signal
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tangram.errors import SandboxError
from tangram.sandbox.processes import IDENTITY_VARIABLE, Process, find_strays, start, stop

ENVIRONMENT = {"PATH": "/usr/bin:/bin"}
linux_only = pytest.mark.skipif(platform.system() != "Linux", reason="reads /proc: only on Linux")


def shell(script, tmp_path, **more):
    return start("server", ["/bin/sh", "-c", script], tmp_path / "log", environment=ENVIRONMENT, **more)


def test_a_started_server_lives_until_it_is_stopped(tmp_path):
    server = shell("exec sleep 600", tmp_path)
    try:
        assert server.alive
    finally:
        stop([server])
    assert not server.alive


def test_a_server_that_ends_by_itself_is_not_alive_and_its_last_words_are_kept(tmp_path, eventually):
    server = shell("echo one; echo two >&2; echo; echo three; echo four", tmp_path)

    eventually(lambda: not server.alive, "the server has ended")
    assert server.last_words() == "two / three / four"


def test_a_process_that_got_the_id_of_an_earlier_one_is_left_alone(tmp_path):
    server = shell("exec sleep 600", tmp_path)
    earlier = msgspec.structs.replace(server, started="long ago")
    try:
        assert not earlier.alive
        stop([earlier])
        assert server.alive
    finally:
        stop([server])


def test_a_server_that_will_not_end_is_killed_with_its_children(tmp_path, eventually):
    server = shell("trap '' TERM; sleep 600 & echo $!; while true; do sleep 1; done", tmp_path)
    eventually(lambda: (tmp_path / "log").read_text() != "", "the child is started")
    child = int((tmp_path / "log").read_text())

    stop([server], grace_seconds=0.2)

    assert not server.alive
    eventually(lambda: not _runs(child), "the child is gone too")


def _runs(pid: int) -> bool:
    answer = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return answer.stdout.strip() != "" and not answer.stdout.strip().startswith("Z")


def test_stopping_what_is_gone_is_no_error(tmp_path):
    server = shell("exec sleep 600", tmp_path)
    stop([server])
    stop([server])
    stop([])


def test_a_program_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(SandboxError, match=r"server cannot be started: /no/such/program: No such file"):
        start("server", ["/no/such/program"], tmp_path / "log", environment=ENVIRONMENT)


@linux_only
def test_a_server_that_nobody_wrote_down_is_found_by_its_identity(tmp_path, eventually):
    marked = ENVIRONMENT | {IDENTITY_VARIABLE: "abc123"}
    server = start("server", ["/bin/sleep", "600"], tmp_path / "log", environment=marked)
    try:
        # A program that has just begun has no environment yet, for a moment.
        eventually(lambda: [stray.pid for stray in find_strays("abc123")] == [server.pid], "it is found")
        assert find_strays("abc12") == []
    finally:
        stop(find_strays("abc123"))
    assert not server.alive


STARTER = """
import sys
from pathlib import Path
from tangram.sandbox.processes import start, tied_to_us
sleep = ["/bin/sleep", "600"]
server = start("s", tied_to_us(sleep) if sys.argv[2] == "tied" else sleep, Path(sys.argv[1]), environment={})
import msgspec
print(msgspec.json.encode(server).decode(), flush=True)
sys.stdin.read()
"""


@linux_only
@pytest.mark.parametrize("how", ["tied", "free"])
def test_a_tied_server_ends_with_its_parent_and_a_free_one_does_not(tmp_path, how, eventually):
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, tmp_path / "log", how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with starter:
        server = msgspec.json.decode(starter.stdout.readline(), type=Process)
        assert server.alive
        os.kill(starter.pid, signal.SIGKILL)
    try:
        if how == "tied":
            eventually(lambda: not server.alive, "the server has ended with its parent")
        else:
            assert server.alive
    finally:
        stop([server])


OUTLIVED = """
import ctypes, socket, sys, threading, time
server = socket.socket(socket.AF_UNIX)
server.bind(sys.argv[1])
server.listen()
threading.Thread(target=time.sleep, args=(60,)).start()
print("listens", flush=True)
ctypes.CDLL(None).pthread_exit(None)
"""


@linux_only
def test_a_process_runs_as_long_as_one_of_its_threads_holds_its_sockets(tmp_path, eventually):
    """Whoever is told too early that it has ended still reaches it, and takes it for its successor."""
    address = tmp_path / "socket"
    server = start("server", [sys.executable, "-c", OUTLIVED, str(address)], tmp_path / "log", environment=ENVIRONMENT)
    try:
        stat = Path(f"/proc/{server.pid}/stat")
        eventually(lambda: ") Z " in stat.read_text(), "the first thread is over")
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(address))

        assert server.alive
    finally:
        stop([server], grace_seconds=0)

    assert not server.alive
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(OSError, match="refused"):
        client.connect(str(address))
