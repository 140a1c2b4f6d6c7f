"""What the members of a gang say of it: a label and annotations become a ``Member``."""

from dataclasses import dataclass
from functools import lru_cache

from tangram import units
from tangram.api import names
from tangram.api.objects import Metadata
from tangram.errors import InvalidInput

_MOST_MEMBERS = 100_000
_MOST_ROLES = 16
_LONGEST_TIMEOUT = 10 * 365 * 24 * 3600
TERMS = (names.GANG_MIN, names.GANG_ROLE_MIN, names.GANG_TIMEOUT, names.TOPOLOGY_REQUIRED, names.TOPOLOGY_PREFERRED)
"""Annotations by which a pod speaks of its gang."""


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """What a member says of its gang; members that say the same have the same object."""

    minimum: int = 1
    roles: tuple[tuple[str, int], ...] = ()
    """(role, members of it that must be bound together)."""
    timeout: int = -1
    """Seconds; 0: never; -1: as the scheduler is set."""
    required: str = ""
    """Level of which all members must share one domain, by name or label; empty: none."""
    preferred: str = ""
    """Level of which they share one if possible; empty: none."""


@dataclass(frozen=True, slots=True)
class Member:
    """A pod as a member of its gang."""

    gang: str
    """``namespace/name``."""
    terms: Terms
    role: str = ""
    owner: str = ""
    """Uid of the controller that the pod belongs to."""
    controller: str = ""
    """``Kind/name`` of that controller; another one of the same name is another life of the gang."""
    created: int = 0
    """When the pod was made, in seconds since the epoch; 0: no matter, as it has no controller."""


def read_member(metadata: Metadata) -> Member | None:
    """The pod's membership; None: it stands alone. Raises ValueError with a sentence naming field and value."""
    label = metadata.labels.get(names.GANG, "")
    if not label:
        return None
    notes = metadata.annotations
    terms = _terms(*(notes.get(name) for name in TERMS))
    gang, role = f"{metadata.namespace}/{label}", metadata.labels.get(names.ROLE, "")
    for owner in metadata.owner_references:
        if owner.controller:
            created = units.timestamp_seconds(metadata.creation_timestamp)
            return Member(gang, terms, role, owner.uid, f"{owner.kind}/{owner.name}", created)
    return Member(gang, terms, role)


@lru_cache(maxsize=4096)
def _terms(
    minimum: str | None, roles: str | None, timeout: str | None, required: str | None, preferred: str | None
) -> Terms:
    found = tuple(sorted(_role_minimums(roles).items())) if roles is not None else ()
    total = _members(names.GANG_MIN, minimum) if minimum is not None else 1
    return Terms(
        max(total, sum(count for _, count in found)), found, _timeout(timeout), required or "", preferred or ""
    )


def _members(annotation: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= _MOST_MEMBERS):
        raise ValueError(f"annotation {annotation}: {text!r} is not allowed; allowed: a whole number from 1 to 100000")
    return int(text)


def _role_minimums(text: str) -> dict[str, int]:
    found: dict[str, int] = {}
    parts = text.split(",")
    for part in parts:
        role, separator, count = (word.strip() for word in part.partition("="))
        if not role or not separator or role in found or len(parts) > _MOST_ROLES:
            allowed = f"up to {_MOST_ROLES} different roles such as launcher=1,worker=4"
            raise ValueError(f"annotation {names.GANG_ROLE_MIN}: {text[:80]!r} is not allowed; allowed: {allowed}")
        found[role] = _members(names.GANG_ROLE_MIN, count)
    return found


def _timeout(text: str | None) -> int:
    if text is None:
        return -1
    try:
        return min(units.duration_seconds(text), _LONGEST_TIMEOUT)
    except InvalidInput as error:
        allowed = f"{error.allowed}, of at most 999999d or 99999999h"
        raise ValueError(f"annotation {names.GANG_TIMEOUT}: {text[:80]!r} is not allowed; allowed: {allowed}") from None
