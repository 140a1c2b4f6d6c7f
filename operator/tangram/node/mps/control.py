"""The control channel of one MPS daemon: questions with an end, and the ceiling that its servers hold clients to.

Whatever answers may be a tenant's: root in a container can send the same commands as the agent, and a socket can be
anybody's. So answers are cut, questions have a limit, and what is read never leads to more questions than it should.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from tangram.errors import NotReachable
from tangram.node.loops import rings_within

_log = logging.getLogger(__name__)

_LONGEST_ANSWER: Final = 1 << 16
_UNANSWERED: Final = 3
"""Questions in a row without an answer after which a daemon counts as hung."""
_STARTING: Final = 0.1
"""Seconds between questions to a daemon that starts."""
_UNANSWERED_AT_START: Final = 100
_ROUNDS: Final = 2
"""In which servers get a ceiling that started while others were sent it."""
_GRACE: Final = 60.0
_MEMORY = re.compile(r"([0-9]{1,12})([KMGT]?)B?")
_MIB_OF: Final[Mapping[str, float]] = {"": 2.0**-20, "K": 2.0**-10, "M": 1.0, "G": 2.0**10, "T": 2.0**20}


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

    interval: float = 10.0
    """Between two checks of a daemon."""
    patience: float = 5.0
    """Until an answer counts as none."""
    grace: float = _GRACE
    """For which less must be needed until the ceiling is lowered: what was given out a moment ago is not among the
    holdings yet."""
    poll: float = 0.5
    """Between two readings of what the supervisor says."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What the supervisor says of a daemon."""

    pid: int = 0
    """0: there is none."""
    servers: frozenset[int] = frozenset()
    """Its descendants, whom it has started for its clients."""
    problem: str = ""


class Control:
    """The control channel of the daemon of one GPU.

    ``problem`` says why the GPU has no MPS now; empty: it has. ``held`` is the largest part that a container has of it;
    None: not known yet, so there is no ceiling.
    """

    def __init__(self, uuid: str, program: str, folder: Path, times: Times) -> None:
        self.uuid, self.problem = uuid, "its MPS daemon has not started yet"
        self.reported = Reported()
        self.held: Ceiling | None = None
        self.ceiling: Ceiling | None = None
        self.ceilings_put_back = 0
        """How often somebody else had changed the ceiling."""
        self._program, self._folder, self._times = program, folder, times
        self._needed_at = self._broken_at = time.monotonic()
        self._sending = asyncio.Lock()
        self._changed = asyncio.Event()

    def report(self, reported: Reported) -> None:
        """Take what the supervisor says; another daemon than before has no ceiling yet."""
        if reported.pid != self.reported.pid:
            self.ceiling = None
            self._break("its MPS daemon has not answered yet")
            self._changed.set()
        self.reported = reported

    async def run(self, ask_for_another: Callable[[], None]) -> None:
        """Ask again and again until cancelled; a daemon that does not answer is to be replaced by another one."""
        unanswered = 0
        while True:
            self._changed.clear()
            if not self.reported.pid:
                unanswered = 0
                self._break(self.reported.problem or "its MPS daemon has not started yet")
            elif await self._answers():
                unanswered, self.problem = 0, ""
                await self._adjust()
            else:
                unanswered += 1
                if unanswered >= (_UNANSWERED if not self.problem else _UNANSWERED_AT_START):
                    unanswered = 0
                    self._break("its MPS daemon does not answer")
                    _log.error("GPU %s: %s, and is to be started again", self.uuid, self.problem)
                    ask_for_another()
            pause = self._times.interval if not self.problem else min(self._times.interval, _STARTING)
            await rings_within(self._changed, pause)

    def _break(self, problem: str) -> None:
        if not self.problem:
            self._broken_at = time.monotonic()
        self.problem = problem

    async def ask(self, command: str) -> str:
        """The daemon's answer to one command, or to several, one a line; raises NotReachable when there is none."""
        first = command.partition("\n")[0]
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
                start_new_session=True,
                env={**os.environ, "CUDA_MPS_PIPE_DIRECTORY": str(self._folder / "pipe")},
            )
        finally:
            os.close(words)
        try:
            async with asyncio.timeout(self._times.patience):
                answer = await _beginning(process)
                if len(answer) <= _LONGEST_ANSWER:
                    await process.wait()
        except TimeoutError:
            raise NotReachable(f"{first}: no answer") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        if len(answer) > _LONGEST_ANSWER:
            raise NotReachable(f"{first}: the answer is longer than any of a daemon")
        text = answer.decode("utf-8", "replace").strip()
        if process.returncode:
            raise NotReachable(f"{first}: {text[:200] or f'exit code {process.returncode}'}")
        return text

    async def raise_ceiling(self, needed: Ceiling, whole: Ceiling) -> None:
        """Raise the ceiling where a container needs more; raises NotReachable when the daemon is not known in time.

        Where nothing is known of a ceiling (the daemon may have one of an agent before us) it becomes the ``whole``
        GPU. The kubelet would refuse the pod for good, and admits no other one meanwhile: so a daemon that has just
        broken is waited for, and one that has been broken for longer is not.
        """
        self._needed_at = time.monotonic()
        most = 2 * self._times.patience  # a question without an answer is asked once more
        left = most if not self.problem else most - (time.monotonic() - self._broken_at)
        why = self.problem or "its MPS daemon does not answer"
        try:
            async with asyncio.timeout(max(0.0, left)):
                while (problem := await self._obstacle(needed, whole)) is not None:
                    if problem != why:
                        _log.warning("GPU %s: %s; its MPS gets its settings again", self.uuid, problem)
                    why = problem
                    await asyncio.sleep(_STARTING)
        except TimeoutError:
            self._break(why)
            self._changed.set()
            raise NotReachable(why) from None

    async def _obstacle(self, needed: Ceiling, whole: Ceiling) -> str | None:
        """Why there is no room; None: there is."""
        if self.problem:
            return self.problem
        async with self._sending:
            try:
                await self._send((self.ceiling or self.held or whole).over(needed))
            except NotReachable as error:
                return str(error)
        return None

    async def _answers(self) -> bool:
        """Whether the daemon answers. Where somebody has changed its ceiling there is none until it is sent again."""
        async with self._sending:
            ceiling, servers = self.ceiling, sorted(self.reported.servers)
            questions = ["get_default_active_thread_percentage", "get_default_device_pinned_mem_limit 0"]
            for server in servers:
                questions += [f"get_active_thread_percentage {server}", f"get_device_pinned_mem_limit {server} 0"]
            try:
                answer = await self.ask("\n".join(questions))
            except NotReachable:
                return False
            found = _ceilings(answer.splitlines())
            if ceiling is not None and any(one != ceiling for one in found):
                self.ceilings_put_back += 1
                self.ceiling = None
                other = next(one for one in found if one != ceiling)
                _log.error(
                    "GPU %s: somebody has changed the ceiling of its MPS from %s %% and %s MiB to %s %% and %s MiB",
                    self.uuid, ceiling.percent, ceiling.memory_mib, other.percent, other.memory_mib,
                )  # fmt: skip
                await self._put_back(ceiling)
            return True

    async def _put_back(self, ceiling: Ceiling) -> None:
        try:
            await self._send(ceiling)
        except NotReachable as error:
            _log.warning("GPU %s: the ceiling of its MPS could not be put back: %s", self.uuid, error)

    async def _adjust(self) -> None:
        """Bring the ceiling down to the largest part that somebody holds, once less has been needed for a while.

        A kubelet that was restarted lists no holders for a moment; what it forgets so is not taken away.
        """
        async with self._sending:
            now = time.monotonic()
            if self.held is None:
                return
            if self.ceiling is not None and self.held.over(self.ceiling) == self.held:
                self._needed_at = now
            if now - self._needed_at < self._times.grace:
                wanted = self.ceiling.over(self.held) if self.ceiling is not None else None
            else:
                wanted = self.held
            try:
                if wanted is not None:
                    await self._send(wanted)
            except NotReachable as error:
                _log.warning("GPU %s: the ceiling of its MPS stays as it is: %s", self.uuid, error)

    async def _send(self, ceiling: Ceiling) -> None:
        """Send the ceiling to the daemon and its servers, those that have started since the last report too."""
        if ceiling == self.ceiling:
            return
        percent, memory = ceiling.percent, f"0 {ceiling.memory_mib}M"
        servers, sent = set(self.reported.servers), set[int]()
        for _ in range(_ROUNDS):
            commands = [
                f"set_default_active_thread_percentage {percent}", f"set_default_device_pinned_mem_limit {memory}",
            ]  # fmt: skip
            for server in sorted(servers - sent):
                commands += [f"set_active_thread_percentage {server} {percent}"]
                commands += [f"set_device_pinned_mem_limit {server} {memory}"]
            sent |= servers
            answer = await self.ask("\n".join([*commands, "get_server_list"]))
            servers = {pid for pid in _process_ids(answer) if pid in sent or _parent_of(pid) == self.reported.pid}
            if servers <= sent:
                break
        self.ceiling = ceiling


async def _beginning(process: asyncio.subprocess.Process) -> bytes:
    """What a process writes, of which no more than a little too much is read."""
    assert process.stdout is not None
    parts, length = list[bytes](), 0
    while length <= _LONGEST_ANSWER and (part := await process.stdout.read(_LONGEST_ANSWER)):
        parts.append(part)
        length += len(part)
    return b"".join(parts)


def _ceilings(lines: Sequence[str]) -> list[Ceiling]:
    """Pairs of a percentage and a limit, in the order asked; what cannot be read is nobody's ceiling."""
    found = []
    for percent, memory in zip(lines[::2], lines[1::2], strict=False):
        try:
            share = float(percent)
        except ValueError:
            continue
        match = _MEMORY.fullmatch(memory.strip().upper())
        if match is not None and 0 < share <= 100:
            found.append(Ceiling(round(share), round(int(match[1]) * _MIB_OF[match[2]])))
    return found


def _process_ids(answer: str) -> frozenset[int]:
    last = answer.split()[-1000:]
    return frozenset(int(word) for word in last if word.isdecimal() and len(word) < 8)


def _parent_of(pid: int) -> int:
    """The parent of a process, 0 when it is not seen: an answer may name any process of the node."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return int(stat.rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return 0
