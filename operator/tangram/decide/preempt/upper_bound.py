"""Whether evictions could help at all, asked before anybody looks for victims.

A node has at most what is free there, what it gains from those who leave, and what all those hold whom the pod might
have a right to evict, whoever else may forbid it. Where it does not fit even then no search finds anything. That takes
one pass over the nodes; a search takes many, and the ranks and units of everything that runs.
"""

from collections.abc import Hashable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.decide.fit.kernels import Space, asked_by
from tangram.decide.fit.upper_bounds import most_in_all
from tangram.decide.jit import kernel
from tangram.decide.preempt.gains import Gains
from tangram.decide.preempt.order import Kind, PreemptionRights, may_leave_now
from tangram.snapshot.arrays import Bool, Int32, Int64

_KEPT = 16
"""Kinds of claimants for which sums are kept: they come by priority, and turns go round among queues."""


class Sums(NamedTuple):
    """What pods hold on N node rows."""

    free: Int64
    """[N, R]"""
    device: Int32
    """[N, D] milli-GPU."""
    memory: Int32
    """[N, D] MiB."""


class UpperBound:
    """What nodes could have for pods at most, in one decision. N node rows."""

    def __init__(self, decision: Decision, gains: Gains) -> None:
        self._decision, self._gains = decision, gains
        self._sums: dict[Kind, Sums] = {}
        """What all hold who might have to leave, by for whom."""
        self._space: tuple[Hashable, Space] | None = None
        """(what it was worked out for, what nodes could have), as it was asked for last."""

    @cached_property
    def _rights(self) -> PreemptionRights:
        return PreemptionRights(self._decision.snapshot)

    @cached_property
    def _may_leave(self) -> Int32:
        """Slots of the running pods that can be evicted now, as things were before this decision."""
        return np.flatnonzero(may_leave_now(self._decision.snapshot)).astype(np.int32)

    def most(self, slot: int, allowed: Bool | None, number: int = 1) -> int:
        """How many pods like the one of the waiting slot fit at most, up to ``number``, on the ``allowed`` [N] node
        rows, None: on any."""
        decision, snapshot = self._decision, self._decision.snapshot
        nodes, shape = snapshot.nodes, int(snapshot.pending.shape[slot])
        rows = nodes.present & (decision.scores.statics(shape) == codes.FITS)
        rows = rows if allowed is None else rows & allowed
        return most_in_all(rows, number, shape, asked_by(snapshot.shapes, nodes.counts_devices), self._left(slot))

    def _left(self, slot: int) -> Space:
        """What nodes have once all have left whom the pod might have evicted."""
        pool, gains, rights = self._decision.pool, self._gains, self._rights
        kind = rights.kind(slot)
        key = kind, pool.version, len(gains.touched)
        if self._space is None or self._space[0] != key:
            held, now = self._held(kind), pool.space(self._decision.snapshot.nodes)
            self._space = (
                key,
                now._replace(
                    free=now.free + np.maximum(gains.free, 0) + held.free,
                    device_free=now.device_free + np.maximum(gains.device, 0) + held.device,
                    device_memory_free=now.device_memory_free + np.maximum(gains.memory, 0) + held.memory,
                ),
            )
        return self._space[1]

    def _held(self, kind: Kind) -> Sums:
        """What all those hold whom a pod of the kind might have a right to evict."""
        if kind not in self._sums:
            if len(self._sums) >= _KEPT:
                self._sums.clear()
            snapshot, pool = self._decision.snapshot, self._decision.pool
            running, slots = snapshot.running, self._may_leave
            slots = slots[self._rights.may_evict(kind, slots)]
            free, device = np.zeros_like(pool.free), np.zeros_like(pool.device_free)
            sums = Sums(free, device, np.zeros_like(pool.device_memory_free))
            add_held(slots, running.node, snapshot.shapes.request[running.shape[slots]], running.parts, sums)
            self._sums[kind] = sums
        return self._sums[kind]


@kernel
def add_held(slots: Int32, node: Int32, request: Int64, parts: Int32, sums: Sums) -> None:
    """Add what the pods of these slots hold to the sums of their node rows; ``request`` [len(slots), R]."""
    for place in range(len(slots)):
        slot = slots[place]
        row = node[slot]
        sums.free[row] += request[place]
        for part in range(parts.shape[1]):
            device = parts[slot, part, 0]
            if device >= 0:
                sums.device[row, device] += parts[slot, part, 1]
                sums.memory[row, device] += parts[slot, part, 2]
