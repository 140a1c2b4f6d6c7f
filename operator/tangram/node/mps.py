"""One MPS control daemon for each GPU: started, watched, started again when it ends, stopped.

NVIDIA's documentation of the Multi-Process Service has the commands and variables used here. A daemon of one GPU has
device 0 and no other, and the fault of one GPU's server leaves the tenants of the other GPUs alone. The pipe's folder
is mounted into containers, so nothing that lies in it is believed: not its pid file either.
"""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Final

from tangram.errors import NotReachable
from tangram.node.gpus import Condition, Gpu, Health, Isolation
from tangram.node.isolation import MPS_ROOT, pipe_directory, possible
from tangram.node.loops import Pauses

_log = logging.getLogger(__name__)

PROGRAM: Final = "nvidia-cuda-mps-control"
_LONGEST_ANSWER: Final = 1 << 16
_UNANSWERED: Final = 3
"""Questions in a row without an answer after which a daemon counts as hung."""
_STARTING: Final = 0.1
"""Seconds between questions to a daemon that starts."""
_UNANSWERED_AT_START: Final = 100


class Daemon:
    """The MPS control daemon of one GPU.

    ``problem`` says why the GPU has no MPS now; empty: it has. ``interval`` is the time between two looks, ``patience``
    the time that an answer may take, both in seconds.
    """

    def __init__(
        self, uuid: str, program: str, root: Path, pauses: Pauses, interval: float = 2.0, patience: float = 5.0
    ) -> None:
        self.uuid, self.problem = uuid, "its MPS daemon has not started yet"
        self.starts = 0
        self._program, self._pauses = program, pauses
        self._interval, self._patience = interval, patience
        self._pipes = Path(pipe_directory(uuid, PurePosixPath(root)))
        self._logs = self._pipes.parent / "log"

    async def run(self) -> None:
        """Keep the daemon up until cancelled, then stop it."""
        while True:
            child = None
            try:
                if not await self._answers():
                    child = await self._start()
                await self._watch(child)
            except (NotReachable, OSError) as error:
                self.problem = f"its MPS daemon is not up: {error}"
                _log.error("GPU %s: %s", self.uuid, self.problem)
            finally:
                # Also when cancelled, and to the end: a daemon that is left behind would hold the GPU.
                await asyncio.shield(self._stop(child))
            await asyncio.sleep(self._pauses.next())

    async def ask(self, command: str) -> str:
        """The daemon's answer to one command; raises NotReachable when there is none."""
        process = await asyncio.create_subprocess_exec(
            self._program,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=self._environment(),
        )
        try:
            async with asyncio.timeout(self._patience):
                answer, _ = await process.communicate(f"{command}\n".encode())
        except TimeoutError:
            raise NotReachable(f"{command}: no answer") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        text = answer[:_LONGEST_ANSWER].decode("utf-8", "replace").strip()
        if process.returncode:
            raise NotReachable(f"{command}: {text[:200] or f'exit code {process.returncode}'}")
        return text

    async def servers(self) -> tuple[int, ...]:
        """Process ids of the MPS servers, one for each user that has clients."""
        return tuple(int(word) for word in (await self.ask("get_server_list")).split() if word.isdigit())

    async def _start(self) -> asyncio.subprocess.Process:
        _kill(_leftovers(self._pipes))
        _clear_away(self._pipes)
        for folder in (self._pipes, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
        self.starts += 1
        return await asyncio.create_subprocess_exec(
            self._program,
            "-f",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env=self._environment(),
            start_new_session=True,
        )

    async def _watch(self, child: asyncio.subprocess.Process | None) -> None:
        """Returns never: raises NotReachable when the daemon has ended or answers no more.

        Without a child the daemon is one that an agent before us has left: its tenants go on.
        """
        ended = asyncio.ensure_future(child.wait()) if child else asyncio.get_running_loop().create_future()
        unanswered = 0
        try:
            while True:
                if await self._answers():
                    unanswered, self.problem = 0, ""
                    self._pauses.reset()
                else:
                    unanswered += 1
                if unanswered >= (_UNANSWERED if not self.problem else _UNANSWERED_AT_START):
                    raise NotReachable(f"it does not answer, {self._last_words()}")
                pause = self._interval if not self.problem else min(self._interval, _STARTING)
                done, _ = await asyncio.wait({ended}, timeout=pause)
                if done:
                    raise NotReachable(f"it ended with code {ended.result()}, {self._last_words()}")
        finally:
            ended.cancel()

    async def _answers(self) -> bool:
        try:
            await self.ask("get_server_list")
        except NotReachable:
            return False
        return True

    async def _stop(self, child: asyncio.subprocess.Process | None) -> None:
        self.problem = self.problem or "its MPS daemon is being stopped"
        with contextlib.suppress(NotReachable, OSError):
            await self.ask("quit -t 1")  # servers that still have clients get one second
        _kill(_leftovers(self._pipes))
        if child is not None:
            if child.returncode is None:
                child.kill()
            await child.wait()

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "CUDA_VISIBLE_DEVICES": self.uuid,
            "CUDA_MPS_PIPE_DIRECTORY": str(self._pipes),
            "CUDA_MPS_LOG_DIRECTORY": str(self._logs),
        }

    def _last_words(self) -> str:
        try:
            with (self._logs / "control.log").open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 1000))
                lines = log.read().decode("utf-8", "replace").split("\n")
        except OSError:
            return "and has no log"
        return f"its log ends with: {' / '.join(line.strip() for line in lines if line.strip())[-300:]}"


class Daemons:
    """The daemons of all GPUs that are to be shared by MPS.

    ``pauses`` makes the pauses between starts of one daemon. A GPU whose daemon is not up takes no new work.
    """

    def __init__(
        self,
        pauses: Callable[[], Pauses],
        program: str = PROGRAM,
        root: Path = Path(MPS_ROOT),
        interval: float = 2.0,
        patience: float = 5.0,
    ) -> None:
        self._pauses, self._program, self._root = pauses, program, root
        self._interval, self._patience = interval, patience
        self._daemons: dict[str, tuple[Daemon, asyncio.Task[None]]] = {}
        self._wanted: tuple[str, ...] = ()
        self._changed = asyncio.Event()

    def want(self, mode: Isolation, gpus: Sequence[Gpu]) -> None:
        """Have a daemon for each of these GPUs where the mode and the GPU allow it, and for no other."""
        shared = tuple(gpu.uuid for gpu in gpus if possible(mode, gpu)[0] is Isolation.MPS)
        if shared != self._wanted:
            self._wanted = shared
            self._changed.set()

    async def run(self) -> None:
        """Keep the wanted daemons up until cancelled, then stop them all."""
        program = shutil.which(self._program)
        if program is None:
            raise NotReachable(f"{self._program} is not there: the NVIDIA container runtime brings it with the driver")
        shm = self._root / "shm"
        shm.mkdir(parents=True, exist_ok=True)
        shm.chmod(0o1777)  # as /dev/shm, which it is for every container with a share
        try:
            while True:
                self._changed.clear()
                await self._end(uuid for uuid in tuple(self._daemons) if uuid not in self._wanted)
                for uuid in self._wanted:
                    if uuid not in self._daemons:
                        daemon = Daemon(uuid, program, self._root, self._pauses(), self._interval, self._patience)
                        self._daemons[uuid] = daemon, asyncio.create_task(daemon.run(), name=f"mps {uuid}")
                await self._changed.wait()
        finally:
            await asyncio.shield(self._end(tuple(self._daemons)))

    def problems(self) -> dict[str, str]:
        """By uuid of every GPU that is to have a daemon: what is wrong; empty text: it is up."""
        found = dict.fromkeys(self._wanted, "its MPS daemon has not started yet")
        return found | {uuid: self._daemons[uuid][0].problem for uuid in self._wanted if uuid in self._daemons}

    def conditions(self, seen: Mapping[str, Condition]) -> dict[str, Condition]:
        """Health as seen by the probe, and Degraded where only the daemon is missing."""
        found = dict(seen)
        for uuid, problem in self.problems().items():
            condition = seen.get(uuid, Condition(Health.HEALTHY))
            if problem and condition.health is Health.HEALTHY:
                found[uuid] = Condition(Health.DEGRADED, problem, condition.at_risk)
        return found

    async def _end(self, uuids: Iterable[str]) -> None:
        tasks = [self._daemons.pop(uuid)[1] for uuid in uuids]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _clear_away(pipes: Path) -> None:
    """Empty the folder of what a daemon that is gone has left; the folder stays, for containers have it mounted."""
    for path in pipes.iterdir() if pipes.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _kill(pids: Iterable[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _leftovers(pipes: Path) -> list[int]:
    """Processes of an MPS daemon at this folder, and of its servers, by their environment as the kernel has it."""
    mark = f"CUDA_MPS_PIPE_DIRECTORY={pipes}".encode()
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):  # ended meanwhile, or not ours to look at
                command = (process / "cmdline").read_bytes()
                if b"nvidia-cuda-mps-" in command and mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append(int(process.name))
    return found
