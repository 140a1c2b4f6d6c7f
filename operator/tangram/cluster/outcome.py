"""How a write ended, as a value.

Expected answers (somebody was faster, the object is gone, a budget says no) are not exceptions: they happen all day on
a busy cluster, and the next cycle decides what to do about them.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec

from tangram import errors
from tangram.cluster.rest import DISRUPTION_BUDGET


class Result(StrEnum):
    """How a write ended."""

    DONE = "done"
    """It is now true in the cluster."""
    CONFLICT = "conflict"
    """A precondition no longer holds, or the name is taken: look again, then decide again."""
    GONE = "gone"
    """The object does not exist any more."""
    REFUSED = "refused"
    """The server says no to this very request (a budget, a quota, a rule, missing rights)."""
    FAILED = "failed"
    """No answer, or a fault of the server: the same request may work later."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a write ended, with the server's own words."""

    result: Result
    message: str = ""
    body: bytes = b""
    """The server's answer, when ``done``."""
    retry_after: float = 0.0
    """Seconds after which the server wants to be asked again, when it said so."""
    warnings: tuple[str, ...] = ()
    """The server's warnings about what was written, where the caller has asked for them."""

    @property
    def done(self) -> bool:
        """Whether the write is now true in the cluster."""
        return self.result is Result.DONE

    def object(self) -> dict[str, Any]:
        """The server's answer as a plain object."""
        content: dict[str, Any] = msgspec.json.decode(self.body)
        return content


async def outcome(answer: Awaitable[bytes]) -> Outcome:
    """Wait for a request and return how it ended."""
    try:
        return Outcome(Result.DONE, body=await answer)
    except errors.TangramError as error:
        return outcome_of(error)


def outcome_of(error: errors.TangramError) -> Outcome:
    """The outcome that an error of a request means."""
    match error:
        case errors.Conflict():
            result = Result.CONFLICT
        case errors.NotFound() | errors.Gone():
            result = Result.GONE
        case errors.TooManyRequests(reason=reason):
            result = Result.REFUSED if reason == DISRUPTION_BUDGET else Result.FAILED
        case errors.ClusterError(status=status) if 400 <= status < 500 and status not in (401, 408):
            result = Result.REFUSED
        case _:
            result = Result.FAILED
    asked = error.retry_after if isinstance(error, errors.TooManyRequests) else 0.0
    return Outcome(result, str(error), retry_after=asked)
