"""What each container uses of the GPUs it holds, from what the driver says of processes.

Drivers measure power and energy for a device, not for a process. On a shared device a container's part is estimated:
its part of the multiprocessor time that all processes were measured at (as Kepler divides a device's power). What a
device draws while nobody computes is nobody's; a container that holds a whole device has all of it, measured.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tangram.node.gpus import Gpu, Holding, Process, Reading
from tangram.node.isolation import memory_limit
from tangram.node.processes import Owner, Processes
from tangram.units import HUNDREDTHS_PER_GPU


@dataclass(frozen=True, slots=True)
class Usage:
    """What one container uses of one GPU; None is what is not known."""

    holding: Holding
    memory_limit_mib: int
    memory_used_mib: int | None = None
    sm_percent: int | None = None
    power_watts: float | None = None
    energy_joules: float | None = None
    """Since the agent first saw the container on this GPU."""


@dataclass(frozen=True, slots=True)
class Stray:
    """What processes use of one GPU that belong to no container which holds a part of it."""

    processes: int = 0
    memory_mib: int = 0


@dataclass(frozen=True, slots=True)
class Shares:
    """One measurement, taken apart."""

    usages: tuple[Usage, ...] = ()
    strays: Mapping[str, Stray] = field(default_factory=dict)
    """By uuid of the GPU; empty when processes cannot be distinguished."""
    blindness: str = "nothing has been read yet"
    """Why processes cannot be distinguished; empty when they can."""


Key = tuple[str, str, str]
"""Pod uid, container, uuid of the device."""


class Meter:
    """Takes measurements apart, and adds up the energy from one to the next."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes
        self._joules: dict[Key, float] = {}
        self._millijoules: dict[str, int] = {}
        self._read_at: float | None = None

    def measure(
        self,
        gpus: Sequence[Gpu],
        readings: Sequence[Reading],
        holdings: Sequence[Holding],
        containers: Mapping[str, str],
        at: float,
    ) -> Shares:
        """Usage of every holding; ``containers`` maps container ids to names, ``at`` is a steady clock in seconds.

        Nothing is remembered of containers that hold nothing any more.
        """
        blindness = self._processes.blindness()
        read = {reading.uuid: reading for reading in readings}
        spent = self._spent(readings, at)
        usages, strays = list[Usage](), dict[str, Stray]()
        for gpu in gpus:
            here = [one for one in holdings if one.uuid in {gpu.uuid, *(part.uuid for part in gpu.slices)}]
            reading = read.get(gpu.uuid)
            found = None
            if reading is not None and not blindness:
                found = self._by_container(reading.processes, here, containers)
                nobodys = found.get(None, [])
                strays[gpu.uuid] = Stray(len(nobodys), sum(process.memory_mib for process in nobodys))
            usages += [self._usage(gpu, one, reading, found, spent.get(gpu.uuid)) for one in here]
        alive = {_key(one) for one in holdings}
        self._joules = {key: joules for key, joules in self._joules.items() if key in alive}
        return Shares(tuple(usages), strays, blindness)

    def _by_container(
        self, processes: Sequence[Process], here: Sequence[Holding], containers: Mapping[str, str]
    ) -> dict[Key | None, list[Process]]:
        found: dict[Key | None, list[Process]] = defaultdict(list)
        for process in processes:
            owner = self._processes.owner(process.pid)
            found[_holder(owner, here, containers)].append(process)
        return found

    def _usage(
        self,
        gpu: Gpu,
        holding: Holding,
        reading: Reading | None,
        found: Mapping[Key | None, list[Process]] | None,
        spent: float | None,
    ) -> Usage:
        key = _key(holding)
        memory = sm = part = None
        if reading is not None and holding.share == HUNDREDTHS_PER_GPU and holding.uuid == gpu.uuid:
            memory, sm, part = reading.memory_used_mib, reading.sm_percent, 1.0
        elif found is not None:
            memory = sum(process.memory_mib for process in found.get(key, ()))
            sm, part = _sm_of(found, key)
        if part is not None and spent is not None:
            self._joules[key] = self._joules.get(key, 0.0) + spent * part
        power = reading.power_watts if reading is not None else None
        return Usage(
            holding=holding,
            memory_limit_mib=_limit(gpu, holding),
            memory_used_mib=memory,
            sm_percent=sm,
            power_watts=power * part if power is not None and part is not None else None,
            energy_joules=self._joules.get(key),
        )

    def _spent(self, readings: Sequence[Reading], at: float) -> dict[str, float]:
        """Joules that each GPU has taken since the last measurement: by its own counter, else power times time."""
        passed = at - self._read_at if self._read_at is not None else 0.0
        spent = {}
        for reading in readings:
            now = reading.energy_millijoules
            if now is not None:
                before = self._millijoules.get(reading.uuid, now)
                # A counter that went back was reset with its driver: what it shows is what came since.
                spent[reading.uuid] = (now - before if before <= now else now) / 1000
            elif reading.power_watts is not None:
                spent[reading.uuid] = reading.power_watts * passed
        self._read_at = at
        self._millijoules |= {
            reading.uuid: reading.energy_millijoules for reading in readings if reading.energy_millijoules is not None
        }
        return spent


def _key(holding: Holding) -> Key:
    return holding.pod_uid, holding.container, holding.uuid


def _holder(owner: Owner | None, here: Sequence[Holding], containers: Mapping[str, str]) -> Key | None:
    """The holding a process belongs to: by its container, else by its pod where that leaves no choice."""
    if owner is None:
        return None
    of_pod = [one for one in here if one.pod_uid == owner.pod_uid]
    named = [one for one in of_pod if one.container == containers.get(owner.container_id)]
    chosen = named or (of_pod if owner.container_id not in containers else [])
    return _key(chosen[0]) if len(chosen) == 1 else None


def _sm_of(found: Mapping[Key | None, list[Process]], key: Key) -> tuple[int | None, float | None]:
    """Percent of the multiprocessors, and the part of all that was used; None where the driver reports no process."""
    measured = [process.sm_percent for group in found.values() for process in group if process.sm_percent is not None]
    own = [process.sm_percent for process in found.get(key, ())]
    if any(sm is None for sm in own) or (not measured and any(found.values())):
        return None, None
    used = sum(sm for sm in own if sm is not None)
    return used, used / sum(measured) if sum(measured) else 0.0


def _limit(gpu: Gpu, holding: Holding) -> int:
    for part in gpu.slices:
        if part.uuid == holding.uuid:
            return part.memory_mib
    return memory_limit(gpu, holding.share, holding.memory_mib)
