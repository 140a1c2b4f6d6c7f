"""Machine code is kept for exactly the sources that it was made of."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba import njit

from tangram import kernel_cache

KERNEL = "from tangram.decide import (\n    codes,\n)\nfrom tangram.decide.jit import kernel\n"


def checkout(root: Path, constant: str = "FITS = 0", other: str = "") -> Path:
    """A package with a kernel, what it imports (``deeper`` by way of ``codes``), and something that it does not."""
    files = {
        "decide/kernels.py": KERNEL,
        "decide/codes.py": "    from tangram.deeper import FITS\n",
        "decide/jit.py": "import numba\n",
        "deeper.py": constant,
        "other.py": other,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture
def digest(monkeypatch):
    def of(root: Path) -> str:
        monkeypatch.setattr(kernel_cache, "_PACKAGE", root)
        return kernel_cache.digest(root / "decide/kernels.py")

    return of


def test_two_checkouts_of_the_same_content_share_it(tmp_path, digest):
    assert digest(checkout(tmp_path / "a")) == digest(checkout(tmp_path / "b", other="x = 1"))


def test_a_change_in_a_file_that_the_kernel_imports_in_two_steps_makes_it_anew(tmp_path, digest):
    assert digest(checkout(tmp_path / "a")) != digest(checkout(tmp_path / "b", constant="FITS = 1"))


def test_a_folder_that_cannot_be_written_to_costs_time_and_nothing_else(tmp_path):
    (tmp_path / "file").write_text("no folder")
    locator = kernel_cache.Locator(Path(kernel_cache.__file__), 1)
    locator._path = tmp_path / "file" / "kernels"

    locator.ensure_cache_path()

    assert Path(locator.get_cache_path()).is_dir()


def test_what_nobody_has_used_for_a_month_goes(tmp_path):
    old, new = tmp_path / ("a" * 24), tmp_path / ("b" * 24)
    old.mkdir()
    (old / "kernels.nbi").write_bytes(b"")
    os.utime(old, (0, 0))

    kernel_cache._make(new)

    assert [each.name for each in tmp_path.iterdir()] == [new.name]


def test_what_another_process_is_removing_is_no_reason_to_compile_anew(tmp_path, monkeypatch):
    old, new = tmp_path / ("a" * 24), tmp_path / ("b" * 24)
    old.mkdir()
    (old / "kernels.nbi").write_bytes(b"")
    os.utime(old, (0, 0))
    iterdir = Path.iterdir

    def raced(folder):
        found = list(iterdir(folder))
        (folder / "kernels.nbi").unlink()
        folder.rmdir()
        return found

    monkeypatch.setattr(Path, "iterdir", raced)
    kernel_cache._make(new)
    assert new.is_dir()


CALL = "from tangram.decide.fit.kernels import memory_of; print(memory_of.stats.cache_path)"


def test_kernels_are_kept_in_the_cache_folder_by_their_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("TANGRAM_CACHE", str(tmp_path))
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)

    printed = subprocess.run([sys.executable, "-c", CALL], capture_output=True, text=True, check=True).stdout

    assert Path(printed.strip()).parent == tmp_path / "kernels"


def test_two_processes_that_compile_at_once_never_take_the_code_of_one_for_that_of_the_other(tmp_path, monkeypatch):
    """Both have read the index when it was empty; the first one's code is written after the other's index."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    first, second, third = (kernel_cache.kept(lambda: njit(cache=True)(half)) for _ in range(3))
    late = []
    files = first._cache._cache_file
    written = files._save_data
    monkeypatch.setattr(files, "_save_data", lambda *data: late.append(data))
    monkeypatch.setattr(second._cache._cache_file, "_load_index", dict)

    assert first(3) == 1.5
    assert second(2.5) == 1.25
    for data in late:
        written(*data)

    assert third(2.5) == 1.25
    assert third(3) == 1.5


def half(number):
    return number / 2
