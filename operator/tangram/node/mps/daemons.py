"""The agent's side of MPS: which GPUs are to have a daemon, how the daemons are, and what they hold clients to.

The daemons are another process's (``supervisor``), which goes on when the agent ends. What passes between the two lies
in files of the root folder that no container has mounted; the pipe of a GPU, which containers have, is not believed.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from tangram.errors import NotReachable
from tangram.node.gpus import Condition, Gpu, Health, Holding, Isolation
from tangram.node.isolation import MPS_ROOT, memory_limit, possible
from tangram.node.loops import rings_within
from tangram.node.mps import supervisor
from tangram.node.mps.control import Ceiling, Control, Reported, Times
from tangram.units import HUNDREDTHS_PER_GPU

_log = logging.getLogger(__name__)

_NO_SUPERVISOR: Final = "the MPS supervisor does not run on this node"
_TIMES: Final = Times()


class Daemons:
    """MPS as a way to share GPUs. A GPU whose daemon is not up takes no new work.

    ``notice`` is told of each ceiling that somebody else has changed: uuid and a sentence.
    """

    def __init__(
        self,
        program: str = supervisor.PROGRAM,
        root: Path = Path(MPS_ROOT),
        times: Times = _TIMES,
        notice: Callable[[str, str], None] = lambda _uuid, _text: None,
    ) -> None:
        self._program, self._root, self._times, self._notice = program, root, times, notice
        self._held: dict[str, Ceiling] = {}
        self._absent = "its MPS daemon has not started yet"
        self._controls: dict[str, tuple[Control, asyncio.Task[None]]] = {}
        self._wanted: tuple[str, ...] | None = None
        self._numbers: dict[str, int] = {}
        self._changed = asyncio.Event()
        self._noticed: dict[str, int] = {}

    @property
    def mode(self) -> Isolation:
        """What this implements."""
        return Isolation.MPS

    def want(self, gpus: Sequence[Gpu]) -> None:
        """Have a daemon for each of these GPUs that allows it, and for no other."""
        shared = tuple(gpu.uuid for gpu in gpus if possible(Isolation.MPS, gpu)[0] is Isolation.MPS)
        if shared != self._wanted:
            self._wanted = shared
            self._changed.set()

    async def run(self) -> None:
        """Follow what the supervisor says, until cancelled; the daemons go on after that."""
        program = shutil.which(self._program)
        if program is None:
            self._absent = f"{self._program} is not there: the NVIDIA container runtime brings it with the driver"
            raise NotReachable(self._absent)
        try:
            while True:
                self._changed.clear()
                if self._wanted is not None:
                    self._write(self._wanted)
                    await self._end(uuid for uuid in tuple(self._controls) if uuid not in self._wanted)
                    for uuid in self._wanted:
                        if uuid not in self._controls:
                            self._begin(uuid, program)
                self._poll()
                await rings_within(self._changed, self._times.poll)
        finally:
            await asyncio.shield(self._end(tuple(self._controls)))

    def _begin(self, uuid: str, program: str) -> None:
        control = Control(uuid, program, self._root / uuid, self._times)
        control.held = self._held.get(uuid)
        running = control.run(lambda: self._ask_for_another(uuid))
        self._controls[uuid] = control, asyncio.create_task(running, name=f"mps {uuid}")

    def _write(self, wanted: Iterable[str]) -> None:
        """Say which daemons there are to be. Their numbers are those of an agent before us: daemons that run go on."""
        before: dict[str, int] = {}
        with contextlib.suppress(OSError, ValueError):
            before = supervisor.read_wanted((self._root / supervisor.WANTED).read_text("ascii"))
        self._numbers = {uuid: self._numbers.get(uuid, before.get(uuid, 1)) for uuid in wanted}
        if self._numbers != before:
            self._root.mkdir(parents=True, exist_ok=True)
            supervisor.write_whole(str(self._root / supervisor.WANTED), supervisor.wanted_text(self._numbers))

    def _ask_for_another(self, uuid: str) -> None:
        self._numbers[uuid] += 1
        self._changed.set()

    def _poll(self) -> None:
        """Take what the supervisor says of the daemons, and tell of ceilings that had been changed."""
        said = self._said()
        for uuid, (control, _) in self._controls.items():
            control.report(said.get(uuid, Reported(problem=control.problem or "its MPS daemon is started again")))
            if control.ceilings_put_back > self._noticed.get(uuid, 0):
                self._noticed[uuid] = control.ceilings_put_back
                self._notice(uuid, "somebody has changed the ceiling of its MPS; it was put back")

    def _said(self) -> dict[str, Reported]:
        if not _is_locked(self._root / supervisor.LOCK):
            return dict.fromkeys(self._controls, Reported(problem=_NO_SUPERVISOR))
        try:
            lines = (self._root / supervisor.STATE).read_text("utf-8").splitlines()
        except (OSError, ValueError):
            return {}
        found = {}
        for line in lines:
            uuid, number, pid, servers, problem = (*line.split("\t", 4), "", "", "", "")[:5]
            if number == str(self._numbers.get(uuid)) and pid.isdecimal():
                known = frozenset(int(word) for word in servers.split(",") if word.isdecimal())
                found[uuid] = Reported(int(pid), known, problem)
        return found

    async def admit(self, gpu: Gpu, share: int, memory_mib: int) -> None:
        """Let a container with this part of a GPU have it; call before it is given out.

        Raises NotReachable when the GPU is to be shared by MPS and its daemon is not up, also not within its patience.
        """
        if share == HUNDREDTHS_PER_GPU or gpu.uuid not in (self._wanted or ()):
            return
        needed, whole = (
            Ceiling(share, memory_limit(gpu, share, memory_mib)),
            Ceiling(HUNDREDTHS_PER_GPU, gpu.memory_mib),
        )
        try:
            if gpu.uuid not in self._controls:
                raise NotReachable(self._absent)
            await self._controls[gpu.uuid][0].raise_ceiling(needed, whole)
        except NotReachable as error:
            raise NotReachable(f"GPU {gpu.uuid} cannot be shared now: {error}") from None

    def apply_holdings(self, gpus: Sequence[Gpu], holdings: Sequence[Holding]) -> None:
        """Hold every client to the largest part that a container has of its GPU now.

        A client's own limit is in its environment, which it can change; the server's is one for all.
        """
        self._held = dict.fromkeys((gpu.uuid for gpu in gpus), Ceiling())
        known = {gpu.uuid: gpu for gpu in gpus}
        for one in holdings:
            if one.uuid in known and one.share < HUNDREDTHS_PER_GPU:
                part = Ceiling(one.share, memory_limit(known[one.uuid], one.share, one.memory_mib))
                self._held[one.uuid] = self._held[one.uuid].over(part)
        for uuid, (control, _) in self._controls.items():
            control.held = self._held.get(uuid)

    def problems(self) -> dict[str, str]:
        """By uuid of every GPU that is to have a daemon: what is wrong; empty text: it is up."""
        wanted = self._wanted or ()
        found = dict.fromkeys(wanted, self._absent)
        return found | {uuid: self._controls[uuid][0].problem for uuid in wanted if uuid in self._controls}

    def servers(self) -> frozenset[int]:
        """Processes of MPS itself on the GPUs, as numbers of the host."""
        return frozenset(pid for control, _ in self._controls.values() for pid in control.reported.servers)

    def ceilings_put_back(self) -> dict[str, int]:
        """By uuid: how often somebody else had changed what the daemon holds clients to."""
        return {uuid: control.ceilings_put_back for uuid, (control, _) in self._controls.items()}

    def conditions(self, seen: Mapping[str, Condition]) -> dict[str, Condition]:
        """Health as seen by the probe, and Degraded where only the daemon is missing."""
        found = dict(seen)
        for uuid, problem in self.problems().items():
            condition = seen.get(uuid, Condition(Health.HEALTHY))
            if problem and condition.health is Health.HEALTHY:
                found[uuid] = Condition(Health.DEGRADED, problem, condition.at_risk)
        return found

    async def _end(self, uuids: Iterable[str]) -> None:
        tasks = [self._controls.pop(uuid)[1] for uuid in uuids]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def forget_wanted(root: Path) -> None:
    """Have no daemon any more, on a node that is shared in another way now."""
    with contextlib.suppress(FileNotFoundError):
        if (root / supervisor.WANTED).read_bytes():
            supervisor.write_whole(str(root / supervisor.WANTED), "")


def _is_locked(path: Path) -> bool:
    """Whether a supervisor runs: it holds this lock for as long as it does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
