"""A history as a value: a small cluster, and what happens in it when; all of it follows from its kind and seed."""

from dataclasses import dataclass
from typing import Any

from tangram.api.objects import Node, Pod
from tangram.simulate.storage import Driver
from tangram.simulate.watching import Kind


@dataclass(frozen=True, slots=True)
class Submit:
    """Pods arrive; an owner makes them again after ``again`` seconds, each with ``claim`` as its own volume's class."""

    pods: tuple[Pod, ...]
    duration: int | None = None
    again: int | None = None
    renames: bool = False
    claim: str = ""
    size: str = ""
    """Of the volume."""


@dataclass(frozen=True, slots=True)
class Delete:
    """Somebody deletes a pod and its owner."""

    name: str


@dataclass(frozen=True, slots=True)
class End:
    """A pod that runs ends."""

    name: str
    phase: str
    linger: int


@dataclass(frozen=True, slots=True)
class BindElsewhere:
    """Another scheduler binds its pod."""

    name: str
    node: str


@dataclass(frozen=True, slots=True)
class Resize:
    """Somebody changes in place how many CPUs a pod asks for."""

    name: str
    cpu: int


@dataclass(frozen=True, slots=True)
class PutNode:
    """A node is added or changed."""

    node: Node


@dataclass(frozen=True, slots=True)
class RemoveNode:
    """A node vanishes."""

    name: str


@dataclass(frozen=True, slots=True)
class Inventories:
    """A node's agent reports so many devices, of which some are unhealthy."""

    node: str
    devices: int
    unhealthy: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SetPolicy:
    """Another policy is in force; None: none is."""

    spec: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Refuse:
    """Bindings, evictions or reports of pods are refused for so many seconds."""

    what: str
    names: tuple[str, ...]
    seconds: int


@dataclass(frozen=True, slots=True)
class Accidents:
    """How the next writes end."""

    answers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lag:
    """Watches of some kinds are late from now on."""

    kinds: tuple[Kind, ...]
    seconds: int


@dataclass(frozen=True, slots=True)
class Lose:
    """Watches are lost for so many seconds, then listed again."""

    kinds: tuple[Kind, ...]
    seconds: int


@dataclass(frozen=True, slots=True)
class Restart:
    """The scheduler dies; the next one starts from a list in another order.

    ``lands`` percent of what the old one decides last still reach the API server, before the list.
    """

    order: int
    lands: int | None = None
    """None: the old one decides nothing more."""


Write = Refuse | Accidents
Object = Submit | Delete | End | BindElsewhere | Resize | PutNode | RemoveNode | Inventories | SetPolicy
Action = Object | Write | Lag | Lose | Restart


@dataclass(frozen=True, slots=True)
class History:
    """One cluster's life."""

    kind: str
    seed: int
    nodes: tuple[Node, ...]
    spec: dict[str, Any] | None
    """Of the policy at the beginning."""
    settings: dict[str, Any]
    """Of the scheduler."""
    grace: int
    drivers: dict[str, Driver]
    actions: tuple[tuple[int, Action], ...]
    """(seconds since the beginning, what happens), in order."""
    fresh: int = 0
    """In so many percent of the moments a new process is asked for its opinion."""
    disks: tuple[tuple[str, str], ...] = ()
    """(node, size) of local volumes."""
    attaches: tuple[tuple[str, int], ...] = ()
    """(node, how many volumes of a driver it can have), of nodes that say so."""
