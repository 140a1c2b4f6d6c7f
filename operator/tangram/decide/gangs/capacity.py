"""How many members of a gang each domain could hold: an upper bound from one pass over the nodes, without a trial."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.decide.fit.kernels import WHOLE, asked_by
from tangram.decide.fit.statics import preferences
from tangram.decide.fit.upper_bounds import Group, copies, most_together
from tangram.decide.gangs.apart import NOWHERE, Rule, rules_among
from tangram.snapshot.arrays import CPU, STRICT, Bool, Int32, Int64, Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Domains:
    """What D domains could do for one gang."""

    holds: Int64
    """[D] members that fit at most."""
    on_preferred: Bool
    """[D] all members may fit on nodes that their priority classes prefer."""
    liked: Int64
    """[D] what the members' preferences say of the nodes on average."""
    left: Int64
    """[D] what is free on nodes that hold a member."""
    free: Int64
    """[D] what is free on all nodes that the members may use."""
    tie_rank: Int64
    """[D] the least of its nodes."""

    def in_order(self, able: Bool) -> list[int]:
        """Those domains, best first: holds most, where the classes prefer to run, most liked, least left over."""
        found = np.flatnonzero(able)
        keys = (self.tie_rank, self.left, -self.liked, ~self.on_preferred, -self.holds)
        ordered: list[int] = found[np.lexsort([key[found] for key in keys])].tolist()
        return ordered


@dataclass(frozen=True, slots=True, eq=False)
class Capacity:
    """What is left for the members of one gang, who have K shapes; amounts in milli-GPU, without GPUs in milli-CPU."""

    wanted: Int64
    """[K] members of each shape."""
    asked: Int64
    """[K] what one member of each shape asks for."""
    copies: Int64
    """[K, N] members of each shape that a node holds if it gets no others."""
    preferred: Bool
    """[K, N] nodes that the shape's priority class prefers."""
    liked: Int32
    """[K, N] what the shape's preferences say of each node."""
    open_to: Bool
    """[K, N] nodes that labels and taints open to the shape."""
    rules: tuple[Rule, ...]
    """Those that keep members from each other, or spread them."""
    free: Int64
    """[N] what is free of each node."""
    whole: Int64
    """[N] what each node has."""
    tie_rank: Int64
    """[N] as ``Nodes.tie_rank``."""
    with_gpus: bool
    """Whether any member asks for GPUs."""

    @property
    def members(self) -> int:
        """How many members wait."""
        return int(self.wanted.sum())

    @property
    def usable(self) -> Bool:
        """[N] nodes that labels and taints open to a member."""
        return np.asarray(self.open_to.any(axis=0), np.bool_)

    def over(self, domain: Int32, count: int) -> Domains:
        """The room in each domain; ``domain`` [N] is each node's, of ``count``, or -1.

        All members fit only where there is enough of the amount for all shapes together, and no more than the rules
        that keep them from each other allow.
        """
        rows = np.flatnonzero(domain != NOWHERE)
        place = domain[rows]

        def total(values: Int64) -> Int64:
            return np.bincount(place, values[rows], count).astype(np.int64)

        copies = np.stack([total(row) for row in self.copies])
        on_preferred = np.stack([total(row) for row in self.copies * self.preferred])
        holds = _within(self.rules, self.copies, np.minimum(copies, self.wanted[:, None]), domain)
        left = total(np.where(self.copies.any(axis=0), self.free, 0))
        short = left < int((self.wanted * self.asked).sum())
        tie_rank = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(tie_rank, place, self.tie_rank[rows])
        return Domains(
            holds=np.where(short, np.minimum(holds, self.members - 1), holds),
            on_preferred=np.all(on_preferred >= self.wanted[:, None], axis=0),
            liked=total((self.copies * self.liked).sum(axis=0)) // np.maximum(copies.sum(axis=0), 1),
            left=left,
            free=total(np.where(self.usable, self.free, 0)),
            tie_rank=tie_rank,
        )


def capacity_for(decision: Decision, members: list[int], *, within_limits: bool = False) -> Capacity:
    """What is left for these waiting slots; ``within_limits``: on nodes that the limits of their queues leave open."""
    snapshot, scores, pool = decision.snapshot, decision.scores, decision.pool
    nodes, shapes = snapshot.nodes, snapshot.shapes
    counted = sorted(Counter(snapshot.pending.shape[members].tolist()).items())
    with_gpus = any(shapes.ask_count[shape, 0] for shape, _ in counted)
    asked, space, found = asked_by(shapes, nodes.counts_devices), pool.space(nodes), []
    for shape, wanted in counted:
        fitting, within = scores.fitting(shape), decision.turns.rows_within_limits(shape) if within_limits else None
        if within is not None:
            fitting = fitting & within
        if snapshot.classes.fallback == STRICT:
            fitting = fitting & scores.preferred(shape)
        closed = pool.neighbours.closed(shape)
        if closed is not None:
            fitting = fitting & ~closed
        held = copies(fitting, wanted, shape, asked, space)
        found.append(held)
    nothing = np.zeros(len(nodes.present), np.int32)
    kinds = [shape for shape, _ in counted]
    return Capacity(
        wanted=np.array([wanted for _, wanted in counted], np.int64),
        asked=np.array([asked_of(snapshot, shape, with_gpus) for shape in kinds], np.int64),
        copies=np.stack(found),
        preferred=np.stack([scores.preferred(shape) for shape in kinds]),
        liked=np.stack(
            [nothing if wish is None else wish for wish in (preferences(scores.view, shape) for shape in kinds)]
        ),
        open_to=np.stack([scores.statics(shape) == codes.FITS for shape in kinds]),
        rules=rules_among(pool.neighbours, scores.view, kinds),
        free=pool.device_free.sum(axis=1, dtype=np.int64) if with_gpus else pool.free[:, CPU],
        whole=WHOLE * nodes.device_count.astype(np.int64) if with_gpus else nodes.capacity[:, CPU],
        tie_rank=nodes.tie_rank,
        with_gpus=with_gpus,
    )


def able_when_empty(decision: Decision, members: list[int], least: int, domain: Int32, count: int) -> Bool:
    """[count] domains that could hold ``least`` of these waiting slots, as far as their rules about each other go,
    whatever room there is and whoever leaves. ``domain`` as in ``Capacity.over``."""
    scores, counted = decision.scores, sorted(Counter(decision.snapshot.pending.shape[members].tolist()).items())
    rules = rules_among(decision.pool.neighbours, scores.view, [shape for shape, _ in counted])
    if not rules:
        return np.ones(count, np.bool_)
    wanted = np.array([wanted for _, wanted in counted], np.int64)
    open_to = np.stack([scores.statics(shape) == codes.FITS for shape, _ in counted]) & (domain != NOWHERE)
    held = np.zeros((len(wanted), count), np.int64)
    for number, rows in enumerate(open_to):
        held[number, domain[rows]] = wanted[number]
    most = _within(tuple(rule.when_empty() for rule in rules), open_to * wanted[:, None], held, domain)
    return np.asarray(most >= least, np.bool_)


def _within(rules: tuple[Rule, ...], each: Int64, held: Int64, domain: Int32) -> Int64:
    """[D] how many of the members that each domain has room for the rules between them let it hold at most; as
    ``Apart.most``."""
    found: Int64 = held.sum(axis=0)
    for rule in rules:
        found = np.minimum(found, rule.most(each, held, domain))
    return found


def may_hold(decision: Decision, members: list[int], total: int, roles: tuple[tuple[str, int], ...]) -> bool:
    """Whether all nodes together may hold ``total`` of the waiting members, and so many of each of the roles.

    By an upper bound: each shape is counted as if it had the nodes to itself, beside the sum of what all ask for. Where
    it says no, it says no until there is more of anything on any node.
    """
    snapshot, scores, pool = decision.snapshot, decision.scores, decision.pool
    nodes, shapes, pending = snapshot.nodes, snapshot.shapes, snapshot.pending
    kinds = Counter(zip((pending.role[slot] for slot in members), pending.shape[members].tolist(), strict=True))
    wanted = Counter(pending.shape[members].tolist())
    rows = {shape: nodes.present & (scores.statics(shape) == codes.FITS) for shape in wanted}
    if snapshot.classes.fallback == STRICT:
        rows = {shape: open_to & scores.preferred(shape) for shape, open_to in rows.items()}
    groups = [Group(shape, count, rows[shape]) for shape, count in wanted.items()]
    held, left = most_together(groups, asked_by(shapes, nodes.counts_devices), pool.space(nodes))
    room = dict(zip(wanted, held, strict=True))
    if sum(held) < total:
        return False
    for role, lack in roles:
        if sum(min(count, room[shape]) for (one, shape), count in kinds.items() if one == role) < lack:
            return False
    least = sorted(shapes.gpu_milli(shape) for shape in wanted.elements())[: max(total, 0)]
    return sum(least) <= left


def asked_of(snapshot: Snapshot, shape: int, with_gpus: bool) -> int:
    """milli-GPU of one pod of the shape; milli-CPU in a gang without GPUs."""
    shapes = snapshot.shapes
    if with_gpus:
        return shapes.gpu_milli(shape)
    return int(shapes.request[shape, CPU])
