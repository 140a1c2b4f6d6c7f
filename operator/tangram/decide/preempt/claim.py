"""Who asks, and whom it may have evicted: by which right each unit may go, and the rules that a set has to keep."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tangram.decide.preempt.legal import BY_CLASS, BY_GUARANTEE, BY_RANK, BY_SHARE, IN_KIND, Among, Rules
from tangram.decide.preempt.order import PreemptionOrder, rank
from tangram.decide.queues.balance import Sides, Tree
from tangram.decide.queues.fairness import charge_of
from tangram.decide.queues.rights import GPU, Owed, kinds
from tangram.snapshot.arrays import PREEMPT, Bool, Int8, Int64, Snapshot


class Terms(NamedTuple):
    """How far a claim goes."""

    growing: bool = False
    """A member beyond what its gang needs: it claims what its queue is promised, and nothing else."""
    strict: bool = False
    """Nobody leaves whom a guarantee covers in part."""
    banned: frozenset[int] = frozenset()
    """Units that are left out."""


ANY = Terms()


@dataclass(frozen=True, slots=True)
class Claimant:
    """Everything about a waiting pod that decides whom it may have evicted."""

    shape: int
    priority: int
    gang: int
    """Its gang row: no pod makes room for its own gang by evicting it."""
    model: int
    """GPU model of the nodes to look at; -1: all of them."""
    entitled: int
    """Queue row that its guarantee is of; -1: none."""
    within: tuple[bool, ...]
    """Per column whether that row is within its promise with the pod."""
    owed: Owed
    """What has to leave below rows that its queue is in: for their limits, or so that it stays within the promise."""
    combined: bool
    """It is within the promise only when pods of its own queue leave too."""
    on_preferred_nodes: bool
    """Look only at nodes that its class prefers."""
    terms: Terms
    allowed: bytes = b""
    """[N] node rows that it may go to at all, as a mask's bytes; empty: all."""
    wide: bool = False
    """What is owed may leave other nodes than the one that it goes to."""

    def is_modest(self, asked: Int64) -> bool:
        """Whether the queue of one who is ``combined`` gives up no more than the pod asks for, [X]: it does not borrow.
        What it had borrowed it would only borrow again."""
        _, due = self.owed[-1]
        return bool((np.array(due) <= asked).all())


class Entitlement(NamedTuple):
    """What one claimant may take. U units."""

    own: int
    """Queue row of the claimant; -1: none."""
    asked: Int64
    """[X]"""
    why: Int8
    """[U] right by which each unit may be evicted; -1: by none."""
    rules: Rules
    sides: Sides
    beside: list[tuple[int, Int64]]
    """Rows that the queue is in, and the ones beside them."""


def entitlement_of(snapshot: Snapshot, precedence: PreemptionOrder, tree: Tree, who: Claimant) -> Entitlement:
    """The claim of one claimant; its sides are not weighed yet."""
    leaf = int(snapshot.shapes.leaf[who.shape])
    own = int(snapshot.queues.parent[leaf]) if leaf >= 0 else -1
    asked = charge_of(snapshot, who.shape, who.model)
    sides, beside = tree.sides(own, gpus=bool(asked[GPU]))
    like = _like(snapshot, precedence, who, own, asked)
    why = precedence.reasons.get(like)
    if why is None:
        shared = _shared(snapshot, precedence, tree, who, sides)
        why = precedence.reasons[like] = _reasons(snapshot, precedence, who, own, shared)
    return Entitlement(own, asked, why, _rules(snapshot, precedence, who, own, asked), sides, beside)


def among(precedence: PreemptionOrder, claim: Entitlement, damage: Int64) -> Among:
    """The units as compiled code takes them; ``damage`` [U] as plugins say."""
    units = precedence.units
    return Among(
        units.level,
        units.queue,
        units.head,
        units.amounts,
        units.core,
        damage,
        units.lost,
        units.size,
        claim.why,
        units.gone,
    )


def _rules(snapshot: Snapshot, precedence: PreemptionOrder, who: Claimant, own: int, asked: Int64) -> Rules:
    queues, count = snapshot.queues, len(precedence.cover)
    on_path = np.zeros(count, np.bool_)
    on_path[list(precedence.path(own))] = True
    kind = kinds(asked)
    judged = np.ones((5, 2, len(asked)), np.bool_)
    if asked[GPU]:  # GPUs before CPU and memory, but not for a queue that has more of these than it is promised
        judged[BY_GUARANTEE, 0] = ~kind & ~np.array(who.within, np.bool_)
        judged[BY_GUARANTEE, 1] = kind
    tier = np.zeros(5, np.int8)
    if who.entitled >= 0:
        tier[[BY_CLASS, BY_SHARE, IN_KIND]] = 2
        tier[BY_RANK] = 0 if who.combined else 2
    return Rules(
        parent=queues.parent[:count],
        on_path=on_path,
        guarantee=queues.guarantee[:count],  # leaves are promised nothing
        cover=precedence.cover,
        judged=judged,
        unasked=asked == 0,
        brings=np.where(kind, asked, np.iinfo(np.int64).max),
        owed_row=np.array([row for row, _ in who.owed], np.int32),
        owed=np.array([amounts for _, amounts in who.owed], np.int64).reshape(-1, len(asked)),
        tier=tier,
        strict=who.terms.strict,
    )


def _like(snapshot: Snapshot, precedence: PreemptionOrder, who: Claimant, own: int, asked: Int64) -> Hashable:
    """What the reasons depend on beside what runs: all of the claimant that ``_reasons`` and ``_shared`` look at."""
    asks = bool(snapshot.shapes.ask_count[who.shape, 0]), bool(asked[GPU]), bool(asked[kinds(asked)].any())
    gang = who.gang if who.gang in precedence.gangs else -1
    return own, _weight(snapshot, who), who.priority, who.entitled, gang, asks, who.terms.growing, who.terms.banned


def _reasons(snapshot: Snapshot, precedence: PreemptionOrder, who: Claimant, own: int, shared: Int64) -> Int8:
    """[U] why each unit may be evicted; -1: it may not. ``shared`` [V] is what shares say of each pod. What has been
    evicted meanwhile counts along: ``Units.gone`` says so."""
    back, reclaimable = _taken_back(snapshot, precedence, who, own)
    rows = precedence.queue
    weight = _weight(snapshot, who)
    mine, theirs = rank(snapshot, np.array([weight]), np.array([who.priority])), _ranks(snapshot, precedence)
    outright = back[rows] & (bool(snapshot.shapes.ask_count[who.shape, 0]) | (precedence.amounts[:, GPU] == 0))
    same = (rows == own) & (theirs < mine)
    beneath = (rows != own) & (precedence.weight < weight) & reclaimable[rows]
    beneath &= snapshot.classes.fallback == PREEMPT
    others = np.where(same, BY_RANK, np.where(beneath, BY_CLASS, np.where(reclaimable[rows], shared, -1)))
    found = np.where(outright, BY_GUARANTEE, -1 if who.terms.growing else others)
    of_gang = snapshot.running.gang[: len(rows)]
    found[(of_gang == who.gang) & (who.gang >= 0)] = -1
    least = np.full(len(rows), IN_KIND, np.int8)
    most = np.full(len(rows), -1, np.int8)
    slots = np.flatnonzero(precedence.ran)
    np.minimum.at(least, precedence.unit[slots], found[slots].astype(np.int8))
    np.maximum.at(most, precedence.unit[slots], found[slots].astype(np.int8))
    out: Int8 = np.where((least == most) & precedence.units.whole, least, np.int8(-1)).astype(np.int8)
    out[list(who.terms.banned)] = -1
    return out


def _shared(snapshot: Snapshot, precedence: PreemptionOrder, tree: Tree, who: Claimant, sides: Sides) -> Int64:
    """[V] the right by which each pod may go if its queue has more than its share; -1: none."""
    leaf = int(snapshot.shapes.leaf[who.shape])
    own, asked = int(snapshot.queues.parent[leaf]) if leaf >= 0 else -1, charge_of(snapshot, who.shape, who.model)
    rows, gpus = precedence.queue, precedence.amounts[:, GPU] > 0
    if not asked[kinds(asked)].any():
        return np.full(len(rows), -1, np.int64)
    weight = _weight(snapshot, who)
    above = rank(snapshot, np.array([weight]), np.array([who.priority])) - _ranks(snapshot, precedence)
    others, crowded = np.append(sides.branch, -1)[rows], tree.crowded(own)
    possible = (others >= 0) & (gpus <= bool(asked[GPU]))
    if snapshot.classes.fallback == PREEMPT:
        possible &= precedence.weight == weight
    within = np.array([tree.parent(row) in crowded for row in range(len(sides.branch))] + [False])
    strictly = within[others] & (above <= 0)
    in_kind = strictly & (above == 0) & (gpus == bool(asked[GPU]))
    return np.where(possible & ~strictly, BY_SHARE, np.where(possible & in_kind, IN_KIND, -1))


def _weight(snapshot: Snapshot, who: Claimant) -> int:
    return int(np.append(snapshot.classes.weight, 0)[snapshot.shapes.priority_class[who.shape]])


def _ranks(snapshot: Snapshot, precedence: PreemptionOrder) -> Int64:
    return rank(snapshot, precedence.weight, precedence.priority)


def _taken_back(snapshot: Snapshot, precedence: PreemptionOrder, who: Claimant, own: int) -> tuple[Bool, Bool]:
    """[Q + 1] queue rows outside the claimant's promised part of the tree that may be taken from by it; and rows
    that may be taken from at all. The last is for pods whose queue is gone."""
    queues, path = snapshot.queues, set(precedence.path(own))
    inside = np.zeros(len(queues.names) + 1, np.bool_)
    reclaimable = np.ones(len(queues.names) + 1, np.bool_)
    for row, parent in enumerate(queues.parent.tolist()):
        inside[row] = row == who.entitled or (parent >= 0 and inside[parent])
        if row not in path:
            reclaimable[row] = queues.reclaimable[row] and (parent < 0 or reclaimable[parent])
    return (reclaimable & ~inside) if who.entitled >= 0 else np.zeros_like(inside), reclaimable
