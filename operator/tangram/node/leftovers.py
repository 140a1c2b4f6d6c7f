"""Processes that are still on a GPU though nobody holds it for them: the pod is gone, and they have not ended.

After a forced deletion the kubelet and the scheduler no longer know the pod while its processes end, which takes until
their grace is over, or for ever in a driver that waits for a GPU after an XID. Whoever got the whole GPU would meet
foreign memory. So it is not given out, for ``HOLD_SECONDS`` at most: a process that stays longer (a monitor of the
host's, say) was there before and will be there after.
"""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from tangram.api.objects import DeviceShare
from tangram.node.gpus import Condition, Gpu, Health, Holding, Reading
from tangram.node.isolation import memory_limit
from tangram.node.processes import Processes
from tangram.units import HUNDREDTHS_PER_GPU

HOLD_SECONDS = 120.0
_CERTAIN_SECONDS = 1.0
"""A process that is seen for so long is no container's whose allocation is only just known."""
_MPS = "nvidia-cuda-mps"
"""How the kernel abbreviates the names of MPS's server and control daemon."""
_MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Leftover:
    """One process."""

    pid: int
    memory_mib: int
    pod_uid: str
    """Of the pod that it was started in; empty when in none."""
    since: float
    """When it was first found, on a steady clock."""


class Leftovers:
    """Knows since when each has been there; ``clock`` is a steady clock in seconds."""

    def __init__(self, processes: Processes, clock: Callable[[], float]) -> None:
        self._processes, self._clock = processes, clock
        self._since: dict[tuple[str, int], float] = {}
        self._seen: set[str] = set()
        """GPUs that have been looked at before."""

    def find(self, readings: Iterable[Reading], holdings: Sequence[Holding]) -> dict[str, tuple[Leftover, ...]]:
        """Those of each GPU, by its uuid, for which it is held back; nothing where processes cannot be distinguished.

        ``holdings`` are complete: a process of a pod that is not among them is nobody's. While the kubelet lists a pod
        that our watch does not show yet, its processes would look like that, so nothing is said.
        """
        holders = {one.pod_uid for one in holdings}
        if "" in holders or self._processes.blindness():
            return {}
        found = {one.uuid: self._on(one, holders) for one in readings}
        self._seen |= found.keys()
        there = {(uuid, one.pid) for uuid, them in found.items() for one in them}
        self._since = {key: at for key, at in self._since.items() if key in there or key[0] not in found}
        now = self._clock()
        held = {uuid: tuple(one for one in them if now < one.since + HOLD_SECONDS) for uuid, them in found.items()}
        return {uuid: them for uuid, them in held.items() if them}

    def shown(
        self, conditions: Mapping[str, Condition], gpus: Iterable[Gpu], found: Mapping[str, tuple[Leftover, ...]]
    ) -> dict[str, Condition]:
        """The conditions with GPUs that are held back as Degraded ones, so that placement waits for them."""
        now, result = self._clock(), dict(conditions)
        for gpu in gpus:
            them = [one for one in found.get(gpu.uuid, ()) if now >= one.since + _CERTAIN_SECONDS]
            before = conditions.get(gpu.uuid, Condition(Health.HEALTHY))
            if them and before.health is Health.HEALTHY:
                result[gpu.uuid] = replace(before, health=Health.DEGRADED, reason=f"StillInUse: {described(them)}")
        return result

    def _on(self, reading: Reading, holders: Collection[str]) -> list[Leftover]:
        found = []
        for process in reading.processes:
            if not self._processes.is_there(process.pid) or self._processes.name(process.pid).startswith(_MPS):
                continue
            owner = self._processes.owner(process.pid)
            pod_uid = owner.pod_uid if owner is not None else ""
            if pod_uid not in holders:
                # What is in no pod and was there before us stays: it is the host's.
                began = self._clock() if pod_uid or reading.uuid in self._seen else -math.inf
                since = self._since.setdefault((reading.uuid, process.pid), began)
                found.append(Leftover(process.pid, process.memory_mib, pod_uid, since))
        return found


def in_the_way(gpu: Gpu, share: DeviceShare, reading: Reading | None, them: Sequence[Leftover]) -> str:
    """Why a part of a GPU cannot be given out because of them; empty: it can.

    A whole GPU has to be free of them; for a part there has to be the memory that it may take.
    """
    if not them or gpu.parent:  # which slice of a GPU a process is on is not known
        return ""
    wanted = memory_limit(gpu, share.share, share.memory_mib)
    free = reading.memory_free_mib if reading is not None else None
    if share.share < HUNDREDTHS_PER_GPU and (free is None or wanted <= free):
        return ""
    return f"is still in use: {described(them)}"


def described(them: Sequence[Leftover]) -> str:
    """A sentence about processes, for people."""
    named = ", ".join(f"{one.pid}{f' of pod {one.pod_uid}' if one.pod_uid else ''}" for one in them[:_MOST_NAMED])
    more = f" and {len(them) - _MOST_NAMED} more" if len(them) > _MOST_NAMED else ""
    return f"processes {named}{more} have {sum(one.memory_mib for one in them)} MiB of it, and nobody holds it for them"
