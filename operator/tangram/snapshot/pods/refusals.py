"""Pods that are not tried for a while, because the API server did not take what was decided about them.

Like every scheduler's back-off this is memory of the process: after a restart the first refusal comes again.
"""

from dataclasses import dataclass, replace

FIRST_PAUSE, LONGEST_PAUSE = 1, 300
"""Seconds until a pod is tried again after the first refusal, doubled by each further one, and at most."""
SPARES_FOR, SPARES_LONGER = 60, 3600
"""Seconds for which nobody is evicted for a pod after its first refusal, and after each further one: others would lose
their work for a place that it cannot have."""
_MOST_WORDS = 1000


@dataclass(frozen=True, slots=True)
class Refusal:
    """The last refusal of a pod."""

    tries: int
    until: int
    """The second, since the epoch, from which on the pod is tried again."""
    evicts_from: int
    """The second from which on others may be evicted for it; until then it takes free places only."""
    reason: str
    """One of plan.Reason."""
    words: str
    """What the server said."""


class RefusalTable:
    """Refusals by uid, until the pod is bound, gone or another one than was refused."""

    def __init__(self) -> None:
        self.known: dict[str, Refusal] = {}
        """By uid of each pod that was refused when it was last tried, whether it is being tried again or not."""

    def refuse(self, uid: str, reason: str, words: str, now: int) -> None:
        """Note that what was decided about a pod was not taken."""
        before = self.known.get(uid)
        tries = before.tries + 1 if before is not None else 1
        until, evicts_from = now + _pause(tries), now + _spares(tries)
        self.known[uid] = Refusal(tries, until, evicts_from, reason, words[:_MOST_WORDS])

    def rebase(self, now: int) -> None:
        """The clock was ahead: nobody waits for longer from now on than the pause that the last refusal gave."""
        for uid, one in self.known.items():
            until, evicts_from = now + _pause(one.tries), now + _spares(one.tries)
            self.known[uid] = replace(one, until=min(one.until, until), evicts_from=min(one.evicts_from, evicts_from))

    def forget(self, uid: str) -> None:
        """The pod is bound, gone, or asks for something else now."""
        self.known.pop(uid, None)

    def in_force(self, now: int) -> list[tuple[str, Refusal]]:
        """(uid, refusal) of the pods that are not tried yet."""
        return [(uid, one) for uid, one in self.known.items() if one.until > now]

    def sparing(self, now: int) -> list[str]:
        """Uids of the pods for which nobody is evicted yet."""
        return [uid for uid, one in self.known.items() if one.evicts_from > now]

    def next_end(self, now: int) -> int:
        """When the next pod is tried again, or may have others evicted again; 0: none waits for that."""
        ends = (end for one in self.known.values() for end in (one.until, one.evicts_from))
        return min((end for end in ends if end > now), default=0)


def _pause(tries: int) -> int:
    """Seconds."""
    return min(FIRST_PAUSE << min(tries - 1, 20), LONGEST_PAUSE)


def _spares(tries: int) -> int:
    """Seconds."""
    return SPARES_FOR if tries == 1 else SPARES_LONGER
