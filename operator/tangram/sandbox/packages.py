"""The programs of a real node that are not Go modules of ours to build: found on PATH, else out of Debian packages.

Nothing is installed: a package is downloaded by ``apt-get``, which checks its signature, and unpacked into
``<cache>/debian/<package>_<version>_<architecture>/`` by one rename, so what is there is whole.
"""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from tangram.errors import MissingTool
from tangram.folders import cache_folder
from tangram.sandbox.places import locked

Report = Callable[[str], None]
PACKAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "containerd": ("containerd", "containerd-shim-runc-v2", "ctr"),
        "runc": ("runc",),
        "containernetworking-plugins": ("bridge", "host-local", "loopback"),
        "busybox-static": ("busybox",),
    }
)
"""Debian package to the programs that are needed of it."""
_SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")
_CNI_FOLDERS = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
_UNPACKED_FOLDERS = ("usr/bin", "usr/sbin", "usr/lib/cni", "bin", "sbin")
_DOWNLOAD_SECONDS = 300
_LOADER_WITHIN_BYTES = 4096


def find_programs(cache: Path | None = None) -> dict[str, Path]:
    """Where each program is that can be found now; a package counts only when all its programs are there."""
    root = cache or cache_folder()
    found: dict[str, Path] = {}
    for package, programs in PACKAGES.items():
        for folders in (_installed(package), *_unpacked(package, root)):
            paths = {name: shutil.which(name, path=folders) for name in programs}
            if all(path and _usable(name, Path(path)) for name, path in paths.items()):
                found |= {name: Path(path) for name, path in paths.items() if path}
                break
    return found


def missing_packages(cache: Path | None = None) -> tuple[str, ...]:
    """The packages whose programs are neither installed nor in the cache."""
    found = find_programs(cache)
    return tuple(package for package, programs in PACKAGES.items() if not found.keys() >= set(programs))


def fetch(cache: Path | None = None, report: Report = lambda _: None) -> dict[str, Path]:
    """Fetch what is missing and return the path of each program.

    Raises ``MissingTool``, saying what to install, where there is no ``apt-get`` or it does not deliver.
    """
    root = cache or cache_folder()
    if missing_packages(root):
        root.mkdir(parents=True, exist_ok=True)
        with locked(root / "packages.lock", lambda: report("another fetch of packages is running: waiting for it")):
            if missing := missing_packages(root):
                report(f"fetching the Debian packages {', '.join(missing)} into {root / 'debian'}")
                _fetch(missing, root)
    if missing := missing_packages(root):
        raise _cannot(missing, "the packages hold other programs than expected")
    return find_programs(root)


def _installed(package: str) -> str:
    """Search path for what the machine itself has."""
    if package == "containernetworking-plugins":
        return os.pathsep.join(_CNI_FOLDERS)  # "bridge" on PATH is iproute2's
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_SYSTEM_FOLDERS])


def _unpacked(package: str, root: Path) -> Iterator[str]:
    """Search path within each unpacked version of a package, the newest fetched first."""
    versions = [folder for folder in (root / "debian").glob(f"{package}_*") if not folder.name.endswith(".part")]
    for folder in sorted(versions, key=lambda one: one.stat().st_mtime, reverse=True):
        yield os.pathsep.join(str(folder / below) for below in _UNPACKED_FOLDERS)


def _usable(name: str, path: Path) -> bool:
    """Only a busybox without a dynamic loader runs in an image that holds nothing else."""
    if name != "busybox":
        return True
    with path.open("rb") as file:
        return b"/ld-" not in file.read(_LOADER_WITHIN_BYTES)


def _fetch(packages: tuple[str, ...], root: Path) -> None:
    work = root / f"debian.{os.getpid()}.part"
    shutil.rmtree(work, ignore_errors=True)
    try:
        work.mkdir()
        _download(packages, work)
        for archive in work.glob("*.deb"):
            unpacked = work / archive.stem
            _run(["dpkg-deb", "--extract", str(archive), str(unpacked)], work, packages)
            target = root / "debian" / archive.stem
            target.parent.mkdir(exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            unpacked.rename(target)
    except OSError as error:
        raise _cannot(packages, str(error)) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _download(packages: tuple[str, ...], work: Path) -> None:
    """Download by the machine's package lists; where these are absent or out of date, by fresh ones of our own."""
    command = ["apt-get", "--quiet", "--option", "APT::Sandbox::User=root"]
    try:
        _run([*command, "download", *packages], work, packages)
    except MissingTool:
        lists = work / "lists"
        (lists / "partial").mkdir(parents=True)
        command += ["--option", f"Dir::State::lists={lists}", "--option", f"Dir::Cache={work / 'apt-cache'}"]
        _run([*command, "update"], work, packages)
        _run([*command, "download", *packages], work, packages)


def _run(command: list[str], folder: Path, packages: tuple[str, ...]) -> None:
    try:
        answer = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=_DOWNLOAD_SECONDS,
        )
    except OSError as error:
        raise _cannot(packages, f"{command[0]}: {error.strerror}") from error
    except subprocess.TimeoutExpired:
        raise _cannot(packages, f"{command[0]} has not ended after {_DOWNLOAD_SECONDS} s") from None
    if answer.returncode != 0:
        lines = [line.strip() for line in answer.stderr.splitlines() if line.strip()]
        words = [line for line in lines if line.startswith("E:")] or lines
        raise _cannot(packages, " / ".join(words[-2:]) or f"{command[0]}: exit status {answer.returncode}")


def _cannot(packages: tuple[str, ...], reason: str) -> MissingTool:
    programs = ", ".join(program for package in packages for program in PACKAGES[package])
    return MissingTool(
        f"a real node needs {programs}: not installed, and the Debian packages {', '.join(packages)} cannot be had "
        f"({reason}); install them by your system's package manager and run again"
    )
