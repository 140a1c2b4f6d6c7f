"""Numbers made of names."""

import re
from hashlib import blake2b

_INDEX = re.compile(r"-(\d{1,4})(-[a-z0-9]{5})?$")
"""The end of a name that its controller numbers: of a StatefulSet, a TrainingJob or an indexed Job."""
_BELOW, _NUMBER = 25, 14
"""Bits of an order in a gang for what is below the number, and for the number: it has four digits."""


def stable_hash(text: str) -> int:
    """63 bits made of a name: the same on every machine and in every run, unlike ``hash``."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def order_in_gang(gang: str, name: str, controller: str = "") -> int:
    """63 bits by which members of a gang come one after the other, and by their numbers where their names end with one:
    others meet at the first one, and cannot do without it. ``controller``: ``Kind/name`` of who has made it."""
    found = _INDEX.search(name)
    index = int(found[1]) if found is not None else 0
    # A Job puts five characters behind the number: a name without them says nothing of its index.
    numbered = bool(controller) and found is not None and (bool(found[2]) or not controller.startswith("Job/"))
    above = _BELOW + _NUMBER
    return (stable_hash(gang) >> above << above) | index << _BELOW | stable_hash(name) >> (64 - _BELOW) << 1 | numbered


def number_in_gang(order: int) -> int:
    """The number of a member, by what ``order_in_gang`` says of it; 0 also where its name ends with none."""
    return order >> _BELOW & ((1 << _NUMBER) - 1)


def is_numbered(order: int) -> bool:
    """Whether a controller has given the member its number."""
    return bool(order & 1)
