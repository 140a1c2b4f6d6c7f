"""How writes to a simulated cluster end."""

from enum import StrEnum


class Answer(StrEnum):
    """How a write ended, as the writer sees it."""

    DONE = "done"
    CONFLICT = "conflict"
    """Somebody changed the object first."""
    GONE = "gone"
    """The pod does not exist (any more)."""
    REFUSED = "refused"
    """A rule forbids it: an admission policy, a PodDisruptionBudget."""
    LOST = "lost"
    """The request never arrived and no answer came."""
    UNANSWERED = "unanswered"
    """The write took effect and no answer came."""
