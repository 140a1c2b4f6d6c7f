"""What the agent knows of its node's GPUs, as values; whoever finds them out is a ``Probe``."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class Health(StrEnum):
    """How much work a GPU may get."""

    HEALTHY = "Healthy"
    DEGRADED = "Degraded"
    """It works and keeps its pods, and takes no new ones."""
    UNHEALTHY = "Unhealthy"


class Isolation(StrEnum):
    """How tenants of one GPU are kept apart."""

    MPS = "mps"
    """NVIDIA's Multi-Process Service holds every tenant to its part of the compute and of the memory."""
    TIME_SLICE = "time-slice"
    """The driver lets tenants take turns; nothing limits what one of them takes."""
    EXCLUSIVE = "exclusive"
    """Whole GPUs only."""
    MIG = "mig"
    """Slices that the hardware keeps apart, as an administrator has cut them."""


@dataclass(frozen=True, slots=True)
class Link:
    """A direct way to another GPU of the node: ``type`` is NVLink, PCIe, Host or System, ``lanes`` counts NVLinks."""

    peer: str
    type: str
    lanes: int = 0


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as long as the node is up; what changes from second to second is in ``Reading``."""

    uuid: str
    index: int
    model: str
    memory_mib: int
    numa_node: int = -1
    """-1 when not known."""
    pci_address: str = ""
    minor_number: int = -1
    """N of its device file /dev/nvidiaN; -1 when it has none."""
    compute_capability: tuple[int, int] = (0, 0)
    links: tuple[Link, ...] = ()
    mig: bool = False
    """MIG is enabled: it runs no work as a whole, only in its slices."""
    slices: tuple["Slice", ...] = ()
    """MIG slices, when it is cut into them."""
    name: str = ""
    """The model as the driver spells it, such as NVIDIA A100-SXM4-80GB; ``model`` is what a label can hold of it."""
    parent: str = ""
    """Of a slice that is given out as a device of its own: the uuid of the GPU that it is cut from."""
    cuda: tuple[int, int] = (0, 0)
    """Highest version of CUDA that its driver supports; (0, 0) when not known."""
    virtual: bool = False
    """A part of a GPU that a hypervisor gives to guests (vGPU), or a GPU that it divides so."""
    coherent: bool = False
    """It shares its memory with the CPU (NVLink-C2C, as on Grace): what a program gets of the CPU may lie in it."""
    resource: str = ""
    """Of a device that another vendor's plugin gives out, by ids of its own: the plugin's resource."""

    @property
    def physical(self) -> str:
        """The uuid of the GPU itself, by which its health is known; of a slice, that of its parent."""
        return self.parent or self.uuid


@dataclass(frozen=True, slots=True)
class Slice:
    """One MIG slice of a GPU."""

    uuid: str
    profile: str
    """Such as 1g.10gb."""
    memory_mib: int


@dataclass(frozen=True, slots=True)
class Inventory:
    """The node's GPUs in index order, and the software that drives them."""

    gpus: tuple[Gpu, ...] = ()
    driver_version: str = ""
    cuda_version: str = ""
    unidentified: tuple[str, ...] = ()
    """A sentence for each GPU that the driver counts and that never reported which one it is: it was lost before."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Health of one GPU and the reason, such as an XID and its meaning."""

    health: Health
    reason: str = ""
    at_risk: str = ""
    """Why it is likely to fail soon (a rising trend of errors or heat); empty: it is not."""


@dataclass(frozen=True, slots=True)
class Process:
    """What one process does on a GPU."""

    pid: int
    memory_mib: int
    sm_percent: int | None = None
    """None when the driver does not report."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What one GPU measures at one time; None is what the device or driver does not report."""

    uuid: str
    sm_percent: int | None = None
    memory_percent: int | None = None
    memory_used_mib: int | None = None
    memory_free_mib: int | None = None
    power_watts: float | None = None
    energy_millijoules: int | None = None
    temperature_celsius: int | None = None
    sm_clock_mhz: int | None = None
    memory_clock_mhz: int | None = None
    xid: int | None = None
    """The last XID since the agent started; None: none was seen."""
    ecc_corrected: int | None = None
    ecc_uncorrected: int | None = None
    remapped_rows: int | None = None
    processes: tuple[Process, ...] = ()


@dataclass(frozen=True, slots=True)
class Holding:
    """What one container holds of one GPU, as the kubelet gave it."""

    pod_uid: str
    namespace: str
    pod: str
    container: str
    uuid: str
    share: int
    """Percent of the GPU."""
    memory_mib: int = 0
    """Memory limit; 0: in proportion to the share."""


class Probe(Protocol):
    """How the agent finds its GPUs: one for each vendor that has a library, one for those that only have a resource.

    Calls may block on a driver for seconds: they are made on one thread of their own, never on the event loop.
    """

    def inventory(self) -> Inventory:
        """The GPUs that are there now; raises ProbeFailed when the driver cannot be asked at all."""

    def check(self) -> tuple[Inventory, dict[str, Condition]]:
        """The same with health by uuid, of every GPU ever seen: one that fell off is Unhealthy, not absent."""

    def readings(self) -> tuple[Reading, ...]:
        """Measurements of the GPUs that answer."""

    def watch(self, wake: Callable[[], None]) -> None:
        """Call ``wake``, on any thread, whenever something has happened that a check would see; before all others."""
