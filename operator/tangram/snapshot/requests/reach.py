"""What the volumes of a pod ask of a node: what ``volumes`` finds, as a value."""

from dataclasses import dataclass, field

from tangram.api.objects import NodeSelector
from tangram.api.storage import PersistentVolumeClaim
from tangram.snapshot.requests.free_volumes import Kind


@dataclass(frozen=True, slots=True)
class Reach:
    """What a pod's volumes ask of a node."""

    selectors: tuple[NodeSelector, ...] = ()
    """One for each volume that not all nodes can reach."""
    waits_for: str = ""
    """The sentence that says why the pod has to wait for a volume; empty: it need not."""
    being_made: bool = False
    """Whether a volume is made only once the pod's node is known, and is not there yet."""
    made_for: str = ""
    """The node for which such a volume is being made; empty: none has been chosen."""
    to_ask: tuple[str, ...] = ()
    """Names of the claims for which a node has yet to be chosen."""
    made: tuple[str, ...] = ()
    """Names of the claims that the pod shares with others of its gang and whose volumes are being made for a node."""
    by_driver: tuple[tuple[str, int], ...] = ()
    """(storage driver, how many volumes of it the pod has), of drivers of which some node can have only so many."""
    free: tuple[tuple[str, int], ...] = ()
    """(kind of free volumes as a resource, how many of them the pod's claims ask for), as ``FreeVolumes`` counts."""

    @property
    def counted(self) -> tuple[tuple[str, int], ...]:
        """How many volumes count on a node, as a driver's and as free ones."""
        return self.by_driver + self.free


NO_LIMITS = Reach()


@dataclass(slots=True)
class AskedOfNode:
    """What is asked of a node for the claims of a pod."""

    selectors: list[NodeSelector] = field(default_factory=list)
    chosen: set[str] = field(default_factory=set)
    """Nodes for which volumes are being made."""
    to_make: list[PersistentVolumeClaim] = field(default_factory=list)
    """Claims for which volumes can be made."""
    kinds: list[Kind] = field(default_factory=list)
    """Of the claims for which one has to be free."""
    to_ask: list[PersistentVolumeClaim] = field(default_factory=list)
    """Claims for which a node has yet to be chosen."""
    made: list[str] = field(default_factory=list)
    """Names of claims that are shared in a gang and whose volumes are being made."""
    late: bool = False
    """Whether a claim gets its volume once the pod's node is known."""
