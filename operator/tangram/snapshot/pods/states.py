"""The states of a pod in the builder, what can happen to it, and what is done then: all of it in one table.

A pod that waits is in a slot of ``Pending``; one that was sent, is bound or cannot be read though it is bound has a
``Holding`` (``ledger``), and no pod has both. Whatever is shown twice changes nothing the second time.
"""

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType


class State(IntEnum):
    """What is known of a pod."""

    ABSENT = 0
    """Nothing: it has never been shown, it is gone, it has ended, or somebody else has yet to bind it."""
    WAITS = 1
    """It waits for a node."""
    INVALID = 2
    """It waits, and cannot be placed as it is written; its reason says why."""
    SENT = 3
    """A binding has been sent that the watch has not shown yet."""
    BOUND = 4
    """The watch has shown it on its node."""
    UNREADABLE = 5
    """It cannot be read; if it is bound, it may hold any device of its node."""


class Event(IntEnum):
    """What can happen to a pod."""

    SHOWN_WAITING = 0
    """The watch shows it without a node."""
    SHOWN_BOUND = 1
    """The watch shows it on a node."""
    GARBLED_WAITING = 2
    """The watch shows it without a node, and it cannot be read."""
    GARBLED_BOUND = 3
    """The watch shows it on a node, and it cannot be read."""
    SENT = 4
    """A decision to bind it has been sent."""
    FORGOTTEN = 5
    """The decision that was sent did not come to be."""
    GONE = 6
    """It is gone, or has ended."""


class Act(IntEnum):
    """What is done about it."""

    NOTHING = 0
    WAIT = 1
    """Read it, and let it wait: ``WAITS`` or ``INVALID``; ``ABSENT`` if it is not for this scheduler to bind."""
    RENEW = 2
    """Read it again; what was given to it stays."""
    BIND = 3
    """Read it and what it holds: ``BOUND``."""
    CONFIRM = 4
    """``BOUND`` with what was sent if that is what is shown, else as ``BIND``."""
    FOLLOW = 5
    """As ``RENEW`` if all that it asks for and says is what it was, else as ``BIND``."""
    HIDE = 6
    """``UNREADABLE`` without a place."""
    BLOCK = 7
    """``UNREADABLE``, with all devices of its node."""
    SEND = 8
    """``SENT``, with what the decision gives it."""
    TAKE_BACK = 9
    """Wait again, as it was last shown."""
    REMOVE = 10
    """``ABSENT``."""


_NOTHING, _WAIT, _BIND, _HIDE, _BLOCK, _REMOVE = Act.NOTHING, Act.WAIT, Act.BIND, Act.HIDE, Act.BLOCK, Act.REMOVE
# One row for each state; its columns are the events in their order: shown waiting, shown bound, garbled waiting,
# garbled bound, sent, forgotten, gone.
_TABLE = {
    State.ABSENT: (_WAIT, _BIND, _HIDE, _BLOCK, _NOTHING, _NOTHING, _NOTHING),
    State.WAITS: (_WAIT, _BIND, _HIDE, _BLOCK, Act.SEND, _NOTHING, _REMOVE),
    State.INVALID: (_WAIT, _BIND, _HIDE, _BLOCK, _NOTHING, _NOTHING, _REMOVE),
    # What was given to a pod stays counted until the watch shows how its binding ended.
    State.SENT: (Act.RENEW, Act.CONFIRM, _NOTHING, _BLOCK, _NOTHING, Act.TAKE_BACK, _REMOVE),
    State.BOUND: (_WAIT, Act.FOLLOW, _HIDE, _BLOCK, _NOTHING, _NOTHING, _REMOVE),
    State.UNREADABLE: (_WAIT, _BIND, _HIDE, _BLOCK, _NOTHING, _NOTHING, _REMOVE),
}

ACTS: Mapping[State, tuple[Act, ...]] = MappingProxyType(_TABLE)
"""State -> what is done about each event, in the order of ``Event``."""
