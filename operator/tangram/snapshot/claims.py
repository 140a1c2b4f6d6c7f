"""Places that are being made free: what an eviction was for stays reserved until the pod that asked for it is there.

A claim holds what its pod will need and what its victims do not hold any more, so that a node with a claim is never
counted as fuller than it will be, and nobody else takes what the victims leave behind.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tangram.snapshot.nodes import NodeTable, Usage

GIVEN_UP_AFTER = 60
"""Seconds after which a victim that does not even begin to leave was never evicted: the claim is given up."""
SPARED_FOR = 30
"""Seconds for which a pod whose eviction was refused is not chosen again."""
_KEY = "claim/"


@dataclass(slots=True)
class Claim:
    """A place that is being made free for a pod."""

    node: str
    usage: Usage
    """What the pod will hold."""
    victims: set[str]
    """Uids of the pods that have not left yet."""
    since: int
    """When the evictions were decided, in seconds since the epoch."""


class ClaimTable:
    """Claims by the uid of the pod that they are for."""

    def __init__(self, nodes: NodeTable) -> None:
        self._nodes = nodes
        self._claims: dict[str, Claim] = {}
        self._claimant_of: dict[str, str] = {}
        self._spared: dict[str, int] = {}
        self.nominations: dict[str, str] = {}
        """Claimant uid -> node, for claims whose victims are all gone: good for one decision, made before others."""

    def hold(self, claimant: str, node: str, usage: Usage, victims: Iterable[str], now: int) -> None:
        """Reserve a place that evictions will make free."""
        self.drop(claimant)
        claim = self._claims[claimant] = Claim(node, usage, set(victims), now)
        for victim in claim.victims:
            self._claimant_of[victim] = claimant
        self._count(claimant, claim)

    def drop(self, claimant: str) -> None:
        """Give a claim up, or end it because its pod has been placed."""
        self.nominations.pop(claimant, None)
        claim = self._claims.pop(claimant, None)
        if claim is None:
            return
        for victim in claim.victims:
            self._claimant_of.pop(victim, None)
        self._nodes.give_back(claim.node, _KEY + claimant)

    def left(self, victim: str) -> None:
        """A pod has left its node; the last victim of a claim leaves the place to the claimant."""
        self._spared.pop(victim, None)
        claimant = self._claimant_of.pop(victim, None)
        if claimant is None:
            return
        claim = self._claims[claimant]
        claim.victims.discard(victim)
        if claim.victims:
            self._count(claimant, claim)
        else:
            self.drop(claimant)
            self.nominations[claimant] = claim.node

    def node_changed(self, node: str) -> None:
        """What the pods on a node hold has been counted anew; claims on a node that is gone are given up."""
        for claimant, claim in list(self._claims.items()):
            if claim.node == node:
                if node in self._nodes.rows:
                    self._count(claimant, claim)
                else:
                    self.drop(claimant)

    def spare(self, victim: str, now: int) -> None:
        """The pod's eviction was refused: leave it alone for a while."""
        self._spared[victim] = now + SPARED_FOR

    def may_evict(self, uid: str, now: int) -> bool:
        """Whether the pod is nobody's victim already and has not just been refused."""
        if uid in self._claimant_of:
            return False
        until = self._spared.get(uid)
        if until is not None and until <= now:
            del self._spared[uid]
            until = None
        return until is None

    def overdue(self, now: int) -> list[tuple[str, Claim]]:
        """(claimant, claim) of claims that are old enough to ask whether their victims leave at all."""
        return [(uid, claim) for uid, claim in self._claims.items() if now - claim.since >= GIVEN_UP_AFTER]

    def live(self) -> list[tuple[str, str]]:
        """(claimant, node) of every claim whose victims have not all left."""
        return [(claimant, claim.node) for claimant, claim in self._claims.items()]

    def _count(self, claimant: str, claim: Claim) -> None:
        held = self._nodes.usage_of(claim.node)
        amounts = claim.usage.request.copy()
        parts = {index: (milli, mib) for index, milli, mib in claim.usage.devices}
        for usage in (held[victim] for victim in claim.victims if victim in held):
            width = min(len(amounts), len(usage.request))
            amounts[:width] -= usage.request[:width]
            for index, milli, mib in usage.devices:
                if index in parts:
                    parts[index] = parts[index][0] - milli, parts[index][1] - mib
        devices = tuple((index, max(milli, 0), max(mib, 0)) for index, (milli, mib) in sorted(parts.items()))
        self._nodes.take(claim.node, _KEY + claimant, Usage(np.maximum(amounts, 0), devices))
