"""Build the programs of the local cluster once, and keep them in the user's cache.

A program lies in ``<cache>/bin/<module>-<version>-<platform>-<hash>/``, the hash being that of everything that decides
what is built (wrapper module files, linker flags). It is built in a temporary folder and moved in by one rename, so
what is there is whole; a file lock lets one build run at a time.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tangram.errors import MissingTool, SandboxError
from tangram.folders import cache_folder
from tangram.sandbox.golang import build_environment, find_go
from tangram.sandbox.places import locked
from tangram.sandbox.recipes import DEFAULT_PROGRAMS, Module, modules_of

Report = Callable[[str], None]
_BUILD_FLAGS = ("-mod=readonly", "-trimpath", "-buildvcs=false")
_SIGN_OF_LIFE_SECONDS = 30


def module_folder(module: Module, cache: Path) -> Path:
    """Where the programs of a module are kept for this platform."""
    digest = hashlib.sha256(" ".join([*_BUILD_FLAGS, module.linker_flags]).encode())
    for file in _sources(module):
        digest.update(f"\n{file.name}\n".encode() + file.read_bytes())
    target = f"{platform.system()}-{platform.machine()}".lower()
    return cache / "bin" / f"{module.name}-{module.version}-{target}-{digest.hexdigest()[:12]}"


def _sources(module: Module) -> list[Path]:
    return [file for file in sorted(module.folder.iterdir()) if file.suffix in {".mod", ".sum", ".go"}]


def program_paths(programs: Sequence[str] = DEFAULT_PROGRAMS, cache: Path | None = None) -> dict[str, Path]:
    """Where each program is, or will be once built."""
    root = cache or cache_folder()
    return {name: module_folder(module, root) / name for module, names in modules_of(programs) for name in names}


def missing_programs(programs: Sequence[str] = DEFAULT_PROGRAMS, cache: Path | None = None) -> tuple[str, ...]:
    """The programs that are not in the cache yet."""
    return tuple(name for name, path in program_paths(programs, cache).items() if not path.exists())


def build(
    programs: Sequence[str] = DEFAULT_PROGRAMS,
    *,
    cache: Path | None = None,
    report: Report = lambda _: None,
) -> dict[str, Path]:
    """Build what is missing of ``programs`` and return the path of each.

    ``report`` gets one line per step, with elapsed seconds. Raises ``MissingTool`` without a Go toolchain, and
    ``SandboxError`` when the disk is too full or the compiler fails; nothing half-built is left behind.
    """
    root = cache or cache_folder()
    paths = program_paths(programs, root)
    if not missing_programs(programs, root):
        return paths
    _make_folder(root)
    with locked(root / "build.lock", lambda: report("another build is running: waiting for it")):
        missing = missing_programs(programs, root)
        if missing:
            begun = time.monotonic()
            go = find_go(root, report)
            _check_disk(go, root, missing)
            for module, names in modules_of(missing):
                _build_module(go, module, names, root, report)
            report(f"built {', '.join(missing)} in {time.monotonic() - begun:.0f} s")
    return paths


def _make_folder(root: Path) -> None:
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SandboxError(f"the cache folder {root} cannot be made: {error.strerror}") from error


def _check_disk(go: Path, root: Path, missing: Sequence[str]) -> None:
    needed = sum(module.disk_mib for module, _ in modules_of(missing))
    answer = subprocess.run(
        [go, "env", "GOCACHE", "GOMODCACHE"],
        capture_output=True,
        text=True,
        env=build_environment(),
        check=False,
    )
    for folder in [root, *(Path(line) for line in answer.stdout.splitlines() if line.startswith("/"))]:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(there).free >> 20
        if free < needed:
            raise SandboxError(
                f"building {', '.join(missing)} needs about {needed} MiB of disk and {folder} has {free} MiB free; "
                "free some, or point TANGRAM_CACHE, GOCACHE and GOMODCACHE at a larger disk"
            )


def _build_module(go: Path, module: Module, names: Sequence[str], root: Path, report: Report) -> None:
    target = module_folder(module, root)
    what = f"{module.name} {module.version} ({', '.join(names)})"
    report(f"building {what}")
    begun = time.monotonic()
    work = root / f"build-{module.name}.{os.getpid()}.part"
    shutil.rmtree(work, ignore_errors=True)
    try:
        source, output = work / "source", work / "bin"
        source.mkdir(parents=True)
        output.mkdir()
        for file in _sources(module):
            shutil.copyfile(file, source / file.name)
        packages = [module.programs[name] for name in names]
        arguments = ["build", *_BUILD_FLAGS, "-ldflags", module.linker_flags, "-o", f"{output}/", *packages]
        _run_go([go, *arguments], source, what, root / f"{module.name}.log", report)
        target.mkdir(parents=True, exist_ok=True)
        for name in names:
            (output / name).replace(target / name)
    except OSError as error:
        raise SandboxError(f"building {what} failed: {error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report(f"built {what} in {time.monotonic() - begun:.0f} s")


def _run_go(command: Sequence[str | Path], folder: Path, what: str, log: Path, report: Report) -> None:
    """Run one go command, keep its words in ``log``, give a sign of life now and then."""
    begun = time.monotonic()
    try:
        with log.open("wb") as output:
            child = subprocess.Popen(
                command,
                cwd=folder,
                env=build_environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
    except OSError as error:
        raise MissingTool(f"{command[0]} does not run: {error.strerror}") from error
    with _killed_on_error(child):
        while True:
            try:
                status = child.wait(timeout=_SIGN_OF_LIFE_SECONDS)
                break
            except subprocess.TimeoutExpired:
                report(f"building {what}: {time.monotonic() - begun:.0f} s")
    if status != 0:
        words = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        reason = " / ".join(words[-2:]) or f"exit status {status}"
        raise SandboxError(f"building {what} failed: {reason} (all of it in {log})")
    log.unlink(missing_ok=True)


@contextlib.contextmanager
def _killed_on_error(child: "subprocess.Popen[bytes]") -> Iterator[None]:
    """Take the compiler and all its children along when the wait is broken off, for example by Ctrl-C."""
    try:
        yield
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        raise
