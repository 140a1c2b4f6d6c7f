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
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from tangram.errors import NotReachable
from tangram.node.gpus import Condition, Gpu, Health, Holding, Isolation
from tangram.node.isolation import MPS_ROOT, memory_limit, pipe_directory, possible
from tangram.node.loops import Pauses
from tangram.units import HUNDREDTHS_PER_GPU

_log = logging.getLogger(__name__)

PROGRAM: Final = "nvidia-cuda-mps-control"
_LONGEST_ANSWER: Final = 1 << 16
_UNANSWERED: Final = 3
"""Questions in a row without an answer after which a daemon counts as hung."""
_STARTING: Final = 0.1
"""Seconds between questions to a daemon that starts."""
_UNANSWERED_AT_START: Final = 100
_GRACE: Final = 60.0
"""Seconds for which less must be needed until a ceiling is lowered: what was given out a moment ago is not among the
holdings yet."""


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The most that an MPS server gives any client, whatever the client's own environment says."""

    percent: int = 1
    memory_mib: int = 1

    def over(self, other: "Ceiling") -> "Ceiling":
        """The larger of the two, each for itself."""
        return Ceiling(max(self.percent, other.percent), max(self.memory_mib, other.memory_mib))


class Times(NamedTuple):
    """How long things may take, in seconds."""

    interval: float = 2.0
    """Between two checks of a daemon."""
    patience: float = 5.0
    """Until an answer counts as none."""
    grace: float = _GRACE
    """For which less must be needed until the ceiling is lowered."""


_TIMES = Times()


class Daemon:
    """The MPS control daemon of one GPU.

    ``problem`` says why the GPU has no MPS now; empty: it has. ``held`` is the largest part that a container has of it;
    None: not known yet, so there is no ceiling.
    """

    def __init__(self, uuid: str, program: str, root: Path, pauses: Pauses, times: Times = _TIMES) -> None:
        self.uuid, self.problem = uuid, "its MPS daemon has not started yet"
        self.held: Ceiling | None = None
        self.ceiling: Ceiling | None = None
        self._program, self._pauses = program, pauses
        self._interval, self._patience, self._grace = times
        self._needed_at = time.monotonic()
        self._telling = asyncio.Lock()
        self._servers: frozenset[int] = frozenset()
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
            except Exception as error:  # noqa: BLE001 - whatever it is, the GPU must get a daemon again
                self.problem = f"its MPS daemon is not up: {error}"
                _log.error(
                    "GPU %s: %s", self.uuid, self.problem, exc_info=not isinstance(error, NotReachable | OSError)
                )
            finally:
                # Also when cancelled, and to the end: a daemon that is left behind would hold the GPU.
                await asyncio.shield(self._stop(child))
            await asyncio.sleep(self._pauses.next())

    async def ask(self, command: str) -> str:
        """The daemon's answer to one command; raises NotReachable when there is none."""
        # The command waits in the pipe before the program starts: one that ends without reading it is no error then.
        words, sent = os.pipe()
        try:
            with os.fdopen(sent, "wb") as pipe:
                pipe.write(f"{command}\n".encode())
            process = await asyncio.create_subprocess_exec(
                self._program,
                stdin=words,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                env=self._environment(),
            )
        finally:
            os.close(words)
        try:
            async with asyncio.timeout(self._patience):
                answer, _ = await process.communicate()
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

    async def servers(self) -> frozenset[int]:
        """Process ids of the MPS servers, one for each user that has clients."""
        return _process_ids(await self.ask("get_server_list"))

    async def raise_ceiling(self, needed: Ceiling, whole: Ceiling) -> None:
        """Raise the ceiling where a container needs more; raises NotReachable when the daemon is not known in time.

        Where nothing is known of a ceiling (the daemon may be one of an agent before us) it becomes the ``whole`` GPU.
        A daemon that starts again, or could not be reached, gets it again: the kubelet would refuse the pod for good.
        """
        self._needed_at = time.monotonic()
        why = "its MPS daemon does not answer"
        try:
            async with asyncio.timeout(2 * self._patience):  # a question without an answer is asked once more
                while (problem := await self._obstacle(needed, whole)) is not None:
                    if problem != why:
                        _log.warning("GPU %s: %s; its MPS gets its settings again", self.uuid, problem)
                    why = problem
                    await asyncio.sleep(_STARTING)
        except TimeoutError:
            raise NotReachable(why) from None

    async def _obstacle(self, needed: Ceiling, whole: Ceiling) -> str | None:
        """Why there is no room; None: there is."""
        if self.problem:
            return self.problem
        async with self._telling:
            try:
                await self._send((self.ceiling or self.held or whole).over(needed))
            except NotReachable as error:
                return str(error)
        return None

    async def _adjust(self) -> None:
        """Bring the ceiling down to the largest part that somebody holds, once less has been needed for a while.

        A kubelet that was restarted lists no holders for a moment; what it forgets so is not taken away.
        """
        async with self._telling:
            now = time.monotonic()
            if self.held is None:
                return
            if self.ceiling is not None and self.held.over(self.ceiling) == self.held:
                self._needed_at = now
            if now - self._needed_at < self._grace:
                wanted = self.ceiling.over(self.held) if self.ceiling is not None else None
            else:
                wanted = self.held
            try:
                if wanted is not None:
                    await self._send(wanted)
            except NotReachable as error:
                _log.warning("GPU %s: the ceiling of its MPS stays as it is: %s", self.uuid, error)

    async def _send(self, ceiling: Ceiling) -> None:
        """Send the ceiling to the daemon and its servers, again while others run than have got it.

        They are those of the last check: to ask for them first would be one more program to start, and that takes
        longer than all else that an allocation needs.
        """
        if ceiling == self.ceiling:
            return
        percent, memory = ceiling.percent, f"0 {ceiling.memory_mib}M"
        sent: frozenset[int] | None = None
        while sent != self._servers:
            sent = self._servers
            commands = [
                f"set_default_active_thread_percentage {percent}", f"set_default_device_pinned_mem_limit {memory}",
            ]  # fmt: skip
            for server in sent:
                commands += [f"set_active_thread_percentage {server} {percent}"]
                commands += [f"set_device_pinned_mem_limit {server} {memory}"]
            self._servers = _process_ids(await self.ask("\n".join([*commands, "get_server_list"])))
        self.ceiling = ceiling

    async def _start(self) -> asyncio.subprocess.Process:
        self.ceiling, self._servers, self._needed_at = None, frozenset(), time.monotonic()  # a new daemon has none
        _kill(_leftovers(self._pipes))
        _clear_away(self._pipes)
        for folder in (self._pipes, self._logs):
            folder.mkdir(parents=True, exist_ok=True)
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
                    await self._adjust()
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
            self._servers = await self.servers()
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
        times: Times = _TIMES,
    ) -> None:
        self._pauses, self._program, self._root, self._times = pauses, program, root, times
        self._held: dict[str, Ceiling] = {}
        self._absent = "its MPS daemon has not started yet"
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
            self._absent = f"{self._program} is not there: the NVIDIA container runtime brings it with the driver"
            raise NotReachable(self._absent)
        shm = self._root / "shm"
        shm.mkdir(parents=True, exist_ok=True)
        shm.chmod(0o1777)  # as /dev/shm, which it is for every container with a share
        try:
            while True:
                self._changed.clear()
                await self._end(uuid for uuid in tuple(self._daemons) if uuid not in self._wanted)
                for uuid in self._wanted:
                    if uuid not in self._daemons:
                        daemon = Daemon(uuid, program, self._root, self._pauses(), self._times)
                        daemon.held = self._held.get(uuid)
                        self._daemons[uuid] = daemon, asyncio.create_task(daemon.run(), name=f"mps {uuid}")
                await self._changed.wait()
        finally:
            await asyncio.shield(self._end(tuple(self._daemons)))

    async def raise_ceiling(self, gpu: Gpu, share: int, memory_mib: int) -> None:
        """Let a container with this part of a GPU have it; call before it is given out.

        Raises NotReachable when the GPU is to be shared by MPS and its daemon is not up, also not within its patience.
        """
        if share == HUNDREDTHS_PER_GPU or gpu.uuid not in self._wanted:
            return
        needed, whole = (
            Ceiling(share, memory_limit(gpu, share, memory_mib)),
            Ceiling(HUNDREDTHS_PER_GPU, gpu.memory_mib),
        )
        try:
            if gpu.uuid not in self._daemons:
                raise NotReachable(self._absent)
            await self._daemons[gpu.uuid][0].raise_ceiling(needed, whole)
        except NotReachable as error:
            raise NotReachable(f"GPU {gpu.uuid} cannot be shared now: {error}") from None

    def apply_holdings(self, gpus: Sequence[Gpu], holdings: Sequence[Holding]) -> None:
        """Hold every client to the largest part that a container has of its GPU now.

        A client's own limit is in its environment, which it can change; the server's, which it cannot, is one for all.
        """
        self._held = dict.fromkeys((gpu.uuid for gpu in gpus), Ceiling())
        known = {gpu.uuid: gpu for gpu in gpus}
        for one in holdings:
            if one.uuid in known and one.share < HUNDREDTHS_PER_GPU:
                part = Ceiling(one.share, memory_limit(known[one.uuid], one.share, one.memory_mib))
                self._held[one.uuid] = self._held[one.uuid].over(part)
        for uuid, (daemon, _) in self._daemons.items():
            daemon.held = self._held.get(uuid)

    def problems(self) -> dict[str, str]:
        """By uuid of every GPU that is to have a daemon: what is wrong; empty text: it is up."""
        found = dict.fromkeys(self._wanted, self._absent)
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


def _process_ids(answer: str) -> frozenset[int]:
    return frozenset(int(word) for word in answer.split() if word.isdecimal())


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
