"""Claims that several members of a gang name: they get one volume, and all have to be where that can be reached."""

from collections.abc import Mapping
from typing import NamedTuple

from tangram.api.objects import NodeSelector
from tangram.api.storage import PersistentVolumeClaim
from tangram.snapshot.requests.provisioning import is_bound
from tangram.snapshot.requests.touched import ClaimKey


class SharedClaim(NamedTuple):
    """A claim of several members of a gang whose volume is not there."""

    name: str
    reaches: tuple[NodeSelector, ...]
    """The nodes that can reach one of the volumes that it may get, for each such set of nodes. None: its volume is yet
    to be made, or one of them can be reached from everywhere."""
    is_made: bool
    """Its volume is yet to be made: nobody knows where it will be reached."""
    node: str = ""
    """The node that has been chosen for its volume; empty: none has been."""
    volumes: tuple[str, int] | None = None
    """Its storage class, and how many free volumes suit; None: one has been chosen, or will be made."""
    members: int = 0
    """How many of the gang name it."""


class SharedClaims:
    """Which claims these are, and of which classes: their volumes are looked for and not counted."""

    def __init__(self, claims: Mapping[ClaimKey, PersistentVolumeClaim]) -> None:
        self._claims = claims
        self.keys: set[ClaimKey] = set()
        """Those that several members of one gang name."""
        self._classes: set[str] | None = None
        """Classes of those of them that have no volume; None: to be found anew."""

    def note(self, key: ClaimKey, together: bool) -> bool:
        """Whether several members of one gang name the claim. False: that is nothing new."""
        if together == (key in self.keys):
            return False
        self.keys ^= {key}
        self._classes = None
        return True

    def has_changed(self, key: ClaimKey) -> bool:
        """A claim is another one now; whether it is one of these."""
        if key not in self.keys:
            return False
        self._classes = None
        return True

    def are_of(self, storage_class: str) -> bool:
        """Whether one of them is looking for a volume of the class."""
        if self._classes is None:
            there = (self._claims.get(key) for key in self.keys)
            self._classes = {
                one.spec.storage_class_name or "" for one in there if one is not None and not is_bound(one)
            }
        return storage_class in self._classes
