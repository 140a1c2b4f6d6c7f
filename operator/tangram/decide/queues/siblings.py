"""The queues below one parent, and which of them is next.

What a queue has before and after its next pod is an interval of shares. Who is after the pod at most where another is
before it would take back what that one got first, so it goes first. Among those whose intervals overlap nobody would:
of them, whoever has used least in the past goes first, so that weights count over time also where only one can have
its turn at a time. The rule is that of an interval order, and changing one queue costs a logarithm of their number.
"""

import heapq
from typing import NamedTuple

from tangram.decide.queues.rights import Share


class Key(NamedTuple):
    """What a queue's place among its siblings is made of. The smaller, the earlier."""

    group: tuple[int, int, int]
    """Compared before anything else."""
    before: float
    """The most that the queue could keep of its dominant share if, with the pod, others took something back."""
    after: Share
    """Its share with the next pod."""
    past: float
    """Its weighted dominant share of past use."""
    position: int
    """The pod's place in order of priority and age: no two have the same."""

    @property
    def choice(self) -> tuple[tuple[int, int, int], float, Share, int]:
        """Orders queues whose intervals overlap."""
        return self.group, self.past, self.after, self.position

    @property
    def least(self) -> tuple[tuple[int, int, int], Share, int]:
        """Orders by the share with the pod alone."""
        return self.group, self.after, self.position


class Siblings:
    """Children of one row by number, each with a key."""

    def __init__(self) -> None:
        self._keys: dict[int, Key] = {}
        self._least: list[tuple[tuple[int, int, int], Share, int, int]] = []
        """(group, share with the pod, position, child): the first one sets who overlaps."""
        self._early: list[tuple[tuple[int, int, int], float, int, int]] = []
        """(group, share before it, position, child) of those that have not been found to overlap."""
        self._ready: list[tuple[tuple[tuple[int, int, int], float, Share, int], int]] = []
        """(choice, child) of those that have overlapped once."""

    def __len__(self) -> int:
        return len(self._keys)

    def put(self, child: int, key: Key | None) -> None:
        """Give a child another key; None: it has nothing to offer any more."""
        if self._keys.get(child) == key:
            return
        if key is None:
            del self._keys[child]
            return
        self._keys[child] = key
        heapq.heappush(self._least, (key.group, key.after, key.position, child))
        heapq.heappush(self._early, (key.group, key.before, key.position, child))

    def first(self) -> tuple[int, Key] | None:
        """The child whose turn it is, with its key; None: there is none."""
        least = self._cheapest() if self._keys else None
        if least is None:
            return None
        _, key = least
        self._let_in(key)
        while self._ready:
            choice, other = self._ready[0]
            known = self._keys.get(other)
            if known is None or known.choice != choice:
                heapq.heappop(self._ready)
            elif known.group > key.group:
                break
            elif known.before < key.after[0]:
                return (other, known) if choice < key.choice else least
            else:
                heapq.heappop(self._ready)
                heapq.heappush(self._early, (known.group, known.before, known.position, other))
        return least

    def least_beside(self, child: int) -> Key | None:
        """The key with the smallest share with its pod of all others, in the first group that they have."""
        aside = []
        found = self._cheapest()
        while found is not None and found[0] == child:
            aside.append(heapq.heappop(self._least))
            found = self._cheapest()
        for entry in aside[:1]:
            heapq.heappush(self._least, entry)
        return found[1] if found is not None else None

    def _cheapest(self) -> tuple[int, Key] | None:
        """The child with the smallest share with its pod in the first group."""
        while self._least:
            group, after, position, child = self._least[0]
            key = self._keys.get(child)
            if key is not None and (key.group, key.after, key.position) == (group, after, position):
                return child, key
            heapq.heappop(self._least)
        return None

    def _let_in(self, least: Key) -> None:
        """Take up those that overlap with the first."""
        while self._early:
            group, before, position, child = self._early[0]
            key = self._keys.get(child)
            current = key is not None and (key.group, key.before, key.position) == (group, before, position)
            if current and (group, before) >= (least.group, least.after[0]):
                return
            heapq.heappop(self._early)
            if key is not None and current:
                heapq.heappush(self._ready, (key.choice, child))
