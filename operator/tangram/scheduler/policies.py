"""What the scheduler reads of tangram's own kinds: the policy in force and the inventory of each node."""

import logging
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from tangram import errors
from tangram.api import names
from tangram.api.objects import Metadata, Struct
from tangram.api.policy import HybridPolicy, PolicyStatus, active_policy, parse_policy
from tangram.api.queue import MOST_QUEUES, QueueUse
from tangram.api.salvage import read_what_can_be
from tangram.cluster.mirror import Change
from tangram.snapshot.nodes.inventory import Distances, NodeDevice

_log = logging.getLogger(__name__)
_LENGTHS = {"NVLink": 10, "PCIe": 20, "Host": 30, "System": 40}
"""How long a way between two devices counts; each NVLink lane makes it one shorter."""


class StoredStatus(Struct, frozen=True):
    """A HybridPolicy's status, as much as the scheduler writes of it; another version may have written another form."""

    queues: Any = msgspec.field(default_factory=list)
    failed_plugins: Any = msgspec.field(default_factory=list, name="failedPlugins")
    in_force: Any = msgspec.field(default_factory=dict, name="inForce")


class PolicyObject(Struct, frozen=True):
    """A HybridPolicy as it comes over the wire; pydantic reads its spec."""

    metadata: Metadata
    spec: dict[str, Any] = msgspec.field(default_factory=dict)
    status: StoredStatus = StoredStatus()


class LinkEntry(Struct, frozen=True):
    """A direct way from one device to another."""

    peer: str
    type: str = "System"
    lanes: int = 0


class DeviceEntry(Struct, frozen=True):
    """One device of a GPUNode's status."""

    uuid: str
    index: int
    health: str = "Healthy"
    health_reason: str = msgspec.field(default="", name="healthReason")
    last_transition_time: str = msgspec.field(default="", name="lastTransitionTime")
    at_risk: str = msgspec.field(default="", name="atRisk")
    links: tuple[LinkEntry, ...] = ()
    numa_node: int = msgspec.field(default=-1, name="numaNode")
    model: str = ""
    memory_mib: int = msgspec.field(default=0, name="memoryMiB")
    isolation: str = ""


def said_in_force(stored: Iterable[PolicyObject]) -> tuple[PolicyObject, int, str] | None:
    """The policy by which the scheduler says that it decides, with the generation, and why not as it is stored."""
    for found in stored:
        said = found.status.in_force if isinstance(found.status.in_force, dict) else {}
        generation, message = said.get("generation"), said.get("message")
        if type(generation) is int and generation > 0:
            return found, generation, message if isinstance(message, str) else ""
    return None


class InventoryStatus(Struct, frozen=True):
    """A GPUNode's status, as much as placement needs."""

    devices: tuple[DeviceEntry, ...] = ()
    heartbeat_time: str = msgspec.field(default="", name="heartbeatTime")
    known_holes: tuple[str, ...] = msgspec.field(default=(), name="knownHoles")


class Inventory(Struct, frozen=True):
    """A GPUNode."""

    metadata: Metadata
    status: InventoryStatus = InventoryStatus()


def node_devices(inventory: Inventory | None) -> tuple[NodeDevice, ...]:
    """The devices in index order; none without an inventory."""
    if inventory is None:
        return ()
    devices = sorted(inventory.status.devices, key=lambda device: device.index)
    return tuple(
        NodeDevice(one.uuid, one.health == "Healthy", one.memory_mib, one.model, one.isolation) for one in devices
    )


def same_to_placement(old: Inventory, new: Inventory) -> bool:
    """Whether nothing that placement goes by has changed: not the time of the last report, say."""
    return old.status.devices == new.status.devices and old.status.known_holes == new.status.known_holes


def has_device_at_risk(inventory: Inventory | None) -> bool:
    """Whether a device is likely to fail soon."""
    return inventory is not None and any(device.at_risk for device in inventory.status.devices)


def has_known_holes(inventory: Inventory | None) -> bool:
    """Whether the container software has known holes."""
    return inventory is not None and bool(inventory.status.known_holes)


def link_distances(inventory: Inventory | None) -> Distances:
    """How far the devices are from each other, in index order; empty when not reported, or when all are equally far.

    By the shortest way that either end reports: NVLink (the more lanes the nearer), one PCIe switch, one CPU, across
    CPUs. Where no way is reported, devices of one NUMA node are one CPU's.
    """
    if inventory is None:
        return ()
    devices = sorted(inventory.status.devices, key=lambda device: device.index)
    near = {(device.uuid, link.peer): _length(link) for device in devices for link in device.links}

    def between(one: DeviceEntry, other: DeviceEntry) -> int:
        same_cpu = one.numa_node == other.numa_node >= 0
        unreported = _LENGTHS["Host"] if same_cpu else _LENGTHS["System"]
        reported = [near[way] for way in ((one.uuid, other.uuid), (other.uuid, one.uuid)) if way in near]
        return min(reported, default=unreported)

    found = tuple(tuple(0 if one is other else between(one, other) for other in devices) for one in devices)
    return found if len({length for row in found for length in row if length}) > 1 else ()


def _length(link: LinkEntry) -> int:
    """From 1 upwards; a way that nobody knows is the longest."""
    if link.type == "NVLink":
        return max(1, _LENGTHS["NVLink"] - max(0, link.lanes))
    return _LENGTHS.get(link.type, _LENGTHS["System"])


class PolicySource:
    """Follows the policies and says which one is in force.

    One that can no longer be read stays in force as it was last read: without it guarantees and limits would be gone
    for everybody. Where none has been read before, as after a restart, what can be read of it counts.
    """

    def __init__(self, use: Callable[[HybridPolicy | None], None]) -> None:
        self._use = use
        self._policies: dict[str, HybridPolicy] = {}
        self._last_whole: dict[str, HybridPolicy] = {}
        """By its name a policy as it was when all of it could be read."""
        self._unreadable: dict[str, tuple[str, int]] = {}
        """By its name uid and generation of a policy that could not be read as a whole."""
        self._problems: dict[str, str] = {}
        """By its name what is wrong with a policy that is not in force as it is stored."""
        self._active: HybridPolicy | None = None
        self._synced = False

    @property
    def active(self) -> HybridPolicy | None:
        """The policy in force as it is read, with what its status says of the queues."""
        return self._active

    @property
    def readable(self) -> dict[str, bool]:
        """By its name whether all of a policy could be read, as it is stored."""
        return {name: name not in self._unreadable for name in {*self._policies, *self._unreadable}}

    @property
    def problem(self) -> str:
        """Why the policy in force is not used as it is stored, and what is used instead; empty: it is."""
        return self._problems.get(self._active.metadata.name, "") if self._active is not None else ""

    def take(self, change: Change, old: PolicyObject | None, new: PolicyObject | None) -> bool:
        """Take in a change; True when another policy, or another spec, is in force now."""
        if change == "synced":
            self._synced = True
        elif new is not None:
            self._read(new)
        elif old is not None:
            for known in (self._policies, self._last_whole, self._problems, self._unreadable):
                known.pop(old.metadata.name, None)
        if not self._synced:
            return False
        active = active_policy(self._policies.values())
        before, self._active = self._active, active
        if _spec(active) == _spec(before):
            return False
        self._use(active)
        return True

    def _read(self, found: PolicyObject) -> None:
        name, generation = found.metadata.name, found.metadata.generation
        metadata = {key: value for key, value in msgspec.to_builtins(found.metadata).items() if value not in (None, "")}
        obj = {"apiVersion": names.API_VERSION, "kind": "HybridPolicy", "metadata": metadata, "spec": found.spec}
        status = _readable(found.status)
        try:
            self._policies[name] = self._last_whole[name] = parse_policy(obj | {"status": status})
            self._problems.pop(name, None)
            self._unreadable.pop(name, None)
            return
        except errors.InvalidInput as error:
            fault = f"generation {generation} cannot be read: {error}"
        version = found.metadata.uid, generation
        if self._unreadable.get(name) == version:  # its status has changed, and nothing else
            if name in self._policies:
                self._policies[name] = _with_status(self._policies[name], status)
            return
        self._unreadable[name] = version
        last = self._last_whole.get(name)
        if last is not None and last.metadata.uid == found.metadata.uid:
            problem = f"{fault}; generation {last.metadata.generation} stays in force"
        else:
            last, without = _in_part(obj)
            problem = f"{fault}; it is in force without {without}" if last is not None else f"{fault}; it is not used"
        self._problems[name] = problem
        if last is None:
            self._policies.pop(name, None)
        else:
            self._policies[name] = _with_status(last, status)
        _log.error("policy %s: %s", name, problem)


def _with_status(policy: HybridPolicy, status: dict[str, Any]) -> HybridPolicy:
    return policy.model_copy(update={"status": PolicyStatus.model_validate(status, strict=False)})


def _in_part(obj: dict[str, Any]) -> tuple[HybridPolicy | None, str]:
    """What can be read of a policy of which no version has been read before, and what cannot; None: nothing."""
    try:
        policy, lost = read_what_can_be(obj)
    except errors.InvalidInput:
        return None, ""
    return (None if "spec" in lost else policy), ", ".join(lost)


def _spec(policy: HybridPolicy | None) -> object:
    return policy.spec if policy is not None else None


def _readable(status: StoredStatus) -> dict[str, Any]:
    """What can be read of a status, the first entry of each name: it does not decide whether a policy can be used."""
    found: dict[str, dict[str, Any]] = {}
    for one in status.queues if isinstance(status.queues, list) else ():
        try:
            name = QueueUse.model_validate(one).name
        except ValueError:
            continue
        found.setdefault(name, one)
    return {"queues": list(found.values())[:MOST_QUEUES]}
