"""Settings of the processes: frozen values, one sentence each; the command line fills them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tangram.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class BorderSettings:
    """How tangram talks to the API server."""

    concurrency: int = 64
    """Connections kept open for writes: more than the API server can use at once only adds queueing."""
    request_timeout: float = 30.0
    """Seconds until a single request is given up."""
    watch_inactivity: float = 70.0
    """Seconds without an event or a bookmark after which a watch counts as dead and is listed again."""
    retries: int = 5
    """Attempts at a write that meets 429, 5xx or a broken connection."""
    token_refresh: float = 60.0
    """Seconds after which a token file is read again, because projected tokens rotate."""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """Leader election by a coordination.k8s.io Lease."""

    duration: float = 15.0
    """Seconds after the last renewal at which another replica may take the Lease."""
    renew_deadline: float = 10.0
    """Seconds without a successful renewal after which the holder stops writing; below ``duration``."""
    retry_period: float = 2.0
    """Seconds between renewals, and between attempts after one that failed."""
    read_period: float = 0.25
    """Seconds between reads of a replica that waits; at most ``retry_period``. What it sees late it takes over late."""


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """The scheduler's cycle."""

    scheduler_name: str = "tangram"
    """Pods with this ``spec.schedulerName`` are ours to place."""
    idle_interval: float = 5.0
    """Seconds between scheduling cycles when no event asks for one."""
    batch_delay: float = 0.005
    """Seconds to wait after an event for its neighbours, so that a burst is one cycle."""
    batch: int = 256
    """Pods placed per cycle, and pods evicted after which it ends; writes of one batch run while the next is
    decided."""
    evictions: int = 4096
    """Pods evicted per cycle at most; a gang that would need more than that at once waits."""
    gang_timeout: int = 60
    """Seconds after which a gang that is bound in part, and cannot be completed, is evicted whole, and after which one
    whose members are not all there says so; 0: never. The annotation ``gang-timeout`` of a gang goes before it."""
    reservation_delay: int = 3600
    """Seconds that the first pod or gang in line is pending before nodes are reserved for it, where too few pods
    declare a duration; where enough do, declared durations are honoured for 24 times as long, and for 168 times while
    no pod overruns its own. -1: nothing is reserved for anybody."""
    queue_status_interval: float = 5.0
    """Seconds between checks whether ``queues`` and ``failedPlugins`` of a policy's status are old; 0: never."""
    debug: bool = False
    """Check the invariants of every snapshot and plan; slow, for tests and for finding faults."""


DECIDING: Mapping[str, tuple[int, int]] = {
    "batch": (1, 100_000),
    "evictions": (1, 1_000_000),
    "gang_timeout": (0, 10**9),
    "reservation_delay": (-1, 10**9),
}
"""Settings on which the scheduler's decisions depend, each with its least and largest value; its name comes on top."""


def deciding(settings: SchedulerSettings) -> dict[str, int]:
    """Those settings that decisions depend on, as plain values for others to read."""
    return {name: getattr(settings, name) for name in DECIDING}


def decided_by(scheduler_name: str, found: Mapping[str, int]) -> SchedulerSettings:
    """The settings of a scheduler that published ``found``; what it did not publish has its default.

    Names of later versions are ignored. Raises InvalidInput for a value out of range.
    """
    known: dict[str, Any] = {name: found[name] for name in DECIDING if name in found}
    for name, value in known.items():
        least, most = DECIDING[name]
        if not least <= value <= most:
            raise InvalidInput(f"settings of scheduler {scheduler_name}", name, value, f"{least} to {most}")
    return SchedulerSettings(scheduler_name=scheduler_name, **known)


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """The agent on a GPU node."""

    scheduler_name: str = "tangram"
    """Only pods with this ``spec.schedulerName`` get GPUs."""
    patience: float = 3.0
    """Seconds that an allocation waits for a pod that the kubelet has seen before our watch; the kubelet admits no
    other pod meanwhile."""
    socket_interval: float = 1.0
    """Seconds between checks of the kubelet's folder: a restarted kubelet is found within this time."""
    report_patience: float = 10.0
    """Seconds that a starting agent keeps its devices from the kubelet until the GPUNode names them: a scheduler that
    knows the devices of an earlier mode would place pods on them, which the agent then has to refuse."""
    stream_timeout: float = 5.0
    """Seconds after a registration within which the kubelet must listen to our devices, else we register again."""
    probe_interval: float = 5.0
    """Seconds between checks of the GPUs' health; an XID error is looked at at once."""
    reading_interval: float = 15.0
    """Seconds between measurements of the GPUs: the driver answers many of them by asking the GPU itself."""
    driver_patience: float = 30.0
    """Seconds after which a driver that has not answered is taken to hang; it is waited for without asking again."""
    leftover_patience: float = 10.0
    """Seconds that an allocation waits for processes of a pod that is gone to leave the GPU; the kubelet admits no
    other pod meanwhile."""
    failure_predictor: str = "trend"
    """Who says that a GPU is likely to fail soon: an entry point of the group ``tangram.failure_predictors``."""
    compare_interval: float = 15.0
    """Seconds between comparisons of what containers hold with what their records say; new allocations ask for one at
    once."""
    memory_overcommit_percent: int = 100
    """Part of a GPU's memory that its tenants may be promised; ``sharing.memoryOvercommitPercent`` of the policy."""
    numa_topology: bool = False
    """Report to the kubelet the GPUs' NUMA nodes. With a topology manager policy other than ``none`` the kubelet then
    chooses the NUMA node itself, and pods whose record names a GPU of another one are refused."""
