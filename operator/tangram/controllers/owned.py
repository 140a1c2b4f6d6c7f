"""The pods and Services of each job and service, as watches report them."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

from tangram.api.objects import Metadata
from tangram.api.views import controller_of


class Owned(Protocol):
    """What has an owner."""

    @property
    def metadata(self) -> Metadata:
        """Names the object and its owners."""
        ...


T = TypeVar("T", bound=Owned)


class OwnedBy(Generic[T]):
    """Objects by their controlling owner.

    An owner is known by namespace and uid. An owner reference holds in its own namespace only, and anybody who may
    create pods somewhere can write one with the uid of a job elsewhere: such an object is never that job's.
    """

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], dict[str, T]] = defaultdict(dict)

    def put(self, old: T | None, new: T | None) -> None:
        """Note a change: ``old`` is no more, ``new`` is so now."""
        if old is not None:
            for owner in _owners(old):
                self._of[owner].pop(old.metadata.uid, None)
                if not self._of[owner]:
                    del self._of[owner]
        if new is not None:
            for owner in _owners(new):
                self._of[owner][new.metadata.uid] = new

    def of(self, namespace: str, uid: str) -> tuple[T, ...]:
        """What the owner with this uid, in this namespace, has."""
        return tuple(self._of.get((namespace, uid), {}).values())

    def __len__(self) -> int:
        """How many owners have something."""
        return len(self._of)


def _owners(thing: Owned) -> Iterator[tuple[str, str]]:
    owner = controller_of(thing.metadata)
    if owner is not None:
        yield thing.metadata.namespace, owner.uid
