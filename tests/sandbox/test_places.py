"""Folders, names and locks."""

import contextlib
import subprocess
import sys
import threading

import pytest

from tangram.errors import InvalidInput
from tangram.folders import cache_folder
from tangram.sandbox.places import check_name, default_state_root, locked, write_private


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.delenv("TANGRAM_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/tangram"

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg/tangram"

    monkeypatch.setenv("TANGRAM_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


def test_the_state_folder_follows_the_desktop_standard(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_STATE_HOME", "not/absolute, so to be ignored")
    assert default_state_root() == tmp_path / ".local/state/tangram/sandbox"

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    assert default_state_root() == tmp_path / "xdg/tangram/sandbox"


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a b", "x" * 41])
def test_a_name_that_cannot_be_a_folder_and_a_cluster_is_refused(name):
    with pytest.raises(InvalidInput, match="--name"):
        check_name(name)


INCREMENT = """
import sys
from pathlib import Path
from tangram.sandbox.places import locked
lock, counter = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(50):
    with locked(lock):
        counter.write_text(str(int(counter.read_text()) + 1))
"""


def test_a_lock_lets_one_process_in_at_a_time_although_its_file_comes_and_goes(tmp_path):
    lock, counter = tmp_path / "lock", tmp_path / "counter"
    counter.write_text("0")
    with contextlib.ExitStack() as workers:
        for _ in range(3):
            workers.enter_context(subprocess.Popen([sys.executable, "-c", INCREMENT, lock, counter]))

    assert counter.read_text() == "150"
    assert not lock.exists()


def test_who_waits_for_a_lock_is_told_once(tmp_path):
    told = threading.Event()
    with locked(tmp_path / "lock"):
        waiter = threading.Thread(target=lambda: _enter(tmp_path / "lock", told.set))
        waiter.start()
        assert told.wait(10)
    waiter.join(10)
    assert not waiter.is_alive()


def _enter(lock, on_wait):
    with locked(lock, on_wait):
        pass


def test_secrets_are_readable_by_their_owner_only_and_replaced_whole(tmp_path):
    secret = tmp_path / "token"
    write_private(secret, "first")
    write_private(secret, b"second")

    assert secret.read_text() == "second"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [secret]
