"""Gangs: as many members as fit, at least the minimum in all and of each role, or none."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.decide.gangs.capacity import may_hold
from tangram.decide.placing import choose, commit
from tangram.decide.reserve.reservation import rows_not_held
from tangram.plan import Cause, Evict
from tangram.snapshot.arrays import CPU, Bool, Snapshot

_MOST_ORDERS = 12
"""Orders of a gang's members that are tried at most."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a gang lacks: members in all, and (role, members) of single roles."""

    total: int
    roles: tuple[tuple[str, int], ...]

    def spare(self, roles: list[str]) -> dict[str, int]:
        """Role -> how many of these members can do without a place, "" for all together; negative: too few exist."""
        there = Counter(roles)
        return {"": len(roles) - self.total} | {role: there[role] - lack for role, lack in self.roles}

    def met_by(self, roles: list[str]) -> bool:
        """Whether members of these roles are enough."""
        return min(self.spare(roles).values()) >= 0


def needs_of(snapshot: Snapshot, gang: int) -> Needs:
    """What the gang lacks now."""
    gangs = snapshot.gangs
    roles = tuple(sorted(gangs.role_missing(gang).items())) if gangs.role_minimum[gang] else ()
    return Needs(gangs.missing(gang), roles)


def place_gang(decision: Decision, gang: int, members: list[int], allowed: Bool | None = None) -> int:
    """Place as many members as fit, at least the minimums, or none; the code that says how it went. Where others have
    turns too, no more than the minimums.

    Tried, and rolled back when too few fit. ``allowed`` [N]: node rows that may be used. Nobody is evicted: where the
    policy preempts, a gang takes any nodes that fit.
    """
    snapshot, scores = decision.snapshot, decision.scores
    needs, pending = needs_of(snapshot, gang), snapshot.pending
    roles = [pending.role[slot] for slot in members]
    if min(needs.spare(roles).values()) < 0:
        return _incomplete(snapshot, gang)
    shapes = pending.shape[members].tolist()
    key = (needs, *zip(roles if needs.roles else shapes, shapes, strict=True))
    not_held, over_limit, state = rows_not_held(decision, members), False, state_of_room(decision, shapes)
    held_back = (*key, b"" if not_held is None else not_held.tobytes())
    for known in map(scores.hopeless_gangs.get, (key, held_back) if allowed is None else (key,)):
        if known is not None and known[0] in (scores.state, state):
            return known[1]
    if allowed is None and has_no_room(decision, members, needs):
        return codes.GANG_UNSCHEDULABLE
    free = _try_orders(decision, members, needs, both(allowed, not_held), keep=True)
    if free.whole:
        return codes.FITS
    if not_held is not None:
        anywhere = _try_orders(decision, members, needs, allowed, keep=False)
        if anywhere.whole:
            if allowed is None:
                scores.hopeless_gangs[held_back] = scores.state, codes.RESERVED
            return codes.RESERVED
        over_limit = anywhere.over_limit
    over_limit |= free.over_limit
    code = codes.QUEUE_LIMIT if over_limit else codes.GANG_UNSCHEDULABLE
    if allowed is None:
        scores.hopeless_gangs[key] = state, code
    return code


def has_no_room(decision: Decision, members: list[int], needs: Needs) -> bool:
    """Whether room, and no limit, keeps the gang from fitting wherever its members go, by a quick test: remembered
    until there may be more room on any node."""
    scores, pending = decision.scores, decision.snapshot.pending
    shapes = pending.shape[members].tolist()
    if decision.journal.is_open or any(map(decision.turns.is_limited, set(shapes))):
        return False
    key = (needs, *zip((pending.role[slot] for slot in members), shapes, strict=True))
    if scores.too_large.get(key) == scores.freed:
        return True
    if may_hold(decision, members, needs.total, needs.roles):
        return False
    scores.too_large[key] = scores.freed
    return True


def state_of_room(decision: Decision, shapes: list[int]) -> tuple[int, int]:
    """While this is what it was, members of these shapes that did not fit together do not fit now, for the same reason:
    ``Scores.state_of_room``, but that of a queue with a limit which reason it is depends on what the queue uses."""
    scores = decision.scores
    return scores.state if any(map(decision.turns.is_limited, set(shapes))) else scores.state_of_room(shapes)


def needed_members(snapshot: Snapshot, gang: int, members: list[int]) -> list[int]:
    """Of the waiting members of a gang those that it needs to be whole; none when it is."""
    needs = needs_of(snapshot, gang)
    return list(needed_first(snapshot, tuple(members), needs)[: max(0, needs.total)])


def release_overdue(decision: Decision) -> None:
    """Evict what is bound of gangs that were bound in part for longer than their timeout and are not whole even now,
    unless others are leaving to make them whole, or a rule that cannot be asked keeps their members off: nothing could
    start again then, and what runs goes on.

    Half a gang holds GPUs and does nothing. Kubernetes can bind pods only one by one, so a binding that fails or a node
    that is lost can leave one behind (KAI-Scheduler calls it a stale gang).
    """
    snapshot, draft = decision.snapshot, decision.draft
    gangs, pending = snapshot.gangs, snapshot.pending
    if not gangs.overdue:
        return
    claimed = set(pending.gang[pending.waiting & (pending.claim >= 0)].tolist())
    claimed |= {int(pending.gang[slot]) for slot in draft.claimants}
    claimed |= _kept_off(decision)
    leaving = {evict.pod for evict in draft.evict}
    for gang, members in sorted(gangs.overdue.items()):
        tried = gang in draft.gang_codes or not gangs.waiting[gang]
        if not tried or gang in claimed:
            continue
        name, missing = gangs.names[gang], gangs.missing(gang)
        reason = f"gang {name} has lacked {missing} of its members for {gangs.timeout[gang]}s"
        draft.add_evictions(
            Evict(pod, node, None, reason, name, Cause.GANG_TIMEOUT) for pod, node in members if pod not in leaving
        )
        draft.note_gang(gang, codes.GANG_TIMEOUT)


def _kept_off(decision: Decision) -> set[int]:
    """The overdue gangs of which a waiting member is not placed because a plugin that forbids nodes fails."""
    snapshot, plugins = decision.snapshot, decision.scores.plugins
    if not plugins.faults:
        return set()
    pending = snapshot.pending
    slots = np.flatnonzero(pending.waiting & np.isin(pending.gang, list(snapshot.gangs.overdue))).tolist()
    return {int(pending.gang[slot]) for slot in slots if plugins.failing(int(pending.shape[slot]))}


def _incomplete(snapshot: Snapshot, gang: int) -> int:
    """The code of a gang whose members are not all there."""
    gangs = snapshot.gangs
    since, timeout = int(gangs.since[gang]), int(gangs.timeout[gang])
    waited = snapshot.now - since if since else 0
    return codes.GANG_TIMEOUT if timeout and waited >= timeout else codes.GANG_INCOMPLETE


def _try_orders(decision: Decision, members: list[int], needs: Needs, allowed: Bool | None, *, keep: bool) -> "_Found":
    """Place the members on the allowed rows in one order after the other until enough have places; all is rolled back
    but what is to be kept."""
    known = [tuple(members), largest_first(decision.snapshot, members), fewest_nodes_first(decision, members)]
    orders, over_limit = Orders(decision, known, _MOST_ORDERS), False
    found = _Found(whole=False, over_limit=False, missed=-1)
    for order in orders:
        with decision.journal.attempt() as attempt:
            found = _try_members(decision, in_order(decision, order, needs), needs, allowed)
            if found.whole and keep:
                attempt.commit()
        over_limit |= found.over_limit
        if found.whole:
            break
        orders.prefer(found.missed)
    return replace(found, over_limit=over_limit)


class Orders:
    """Orders in which the members of a gang are tried, one after the other: each takes the place that suits it best,
    which may be the only one of another.

    The members of which one found no place come first in the next order (Joslin and Clements, "Squeaky Wheel
    Optimization", 1999).
    """

    def __init__(self, decision: Decision, orders: list[tuple[int, ...]], most: int) -> None:
        """``most``: orders that are tried at most."""
        self._decision, self._shape, self._most = decision, decision.snapshot.pending.shape, most
        self._orders = without_like(decision, orders)
        self._last: tuple[int, ...] = ()

    def __iter__(self) -> Iterator[tuple[int, ...]]:
        """Each order once, also those that come meanwhile."""
        for number in range(self._most):
            if number == len(self._orders):
                return
            self._last = self._orders[number]
            yield self._last

    def prefer(self, slot: int) -> None:
        """The member of this slot, and after it those that ask for the same, are to come first."""
        shape = self._shape
        order = tuple(sorted(self._last, key=lambda one: (one != slot, shape[one] != shape[slot])))
        self._orders = without_like(self._decision, [*self._orders, order])


def without_like(decision: Decision, orders: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """The orders without those that differ from an earlier one only by members who are alike."""
    pending, reach = decision.snapshot.pending, decision.draft.reach
    kind = {
        slot: (int(pending.shape[slot]), pending.role[slot], reach[slot].tobytes() if slot in reach else b"")
        for slot in orders[0]
    }
    found = dict[tuple[tuple[int, str, bytes], ...], tuple[int, ...]]()
    for order in orders:
        found.setdefault(tuple(kind[slot] for slot in order), order)
    return list(found.values())


def fewest_nodes_first(decision: Decision, members: list[int]) -> tuple[int, ...]:
    """The order in which those members come first that the fewest nodes suit; others keep theirs."""
    scores, reach, shape = decision.scores, decision.draft.reach, decision.snapshot.pending.shape
    shapes = set(shape[members].tolist())
    if len(shapes) == 1 and reach.keys().isdisjoint(members):
        return tuple(members)
    suited: dict[int, Bool] = {one: scores.statics(one) == codes.FITS for one in shapes}
    number = {slot: int(np.count_nonzero(suited[int(shape[slot])] & reach.get(slot, True))) for slot in members}
    return tuple(sorted(members, key=number.__getitem__))


def largest_first(snapshot: Snapshot, members: list[int]) -> tuple[int, ...]:
    """The order in which unequal members fit best; equal ones keep theirs."""
    return tuple(sorted(members, key=lambda slot: tuple(-one for one in _size(snapshot, slot))))


def smallest_first(snapshot: Snapshot, members: list[int]) -> tuple[int, ...]:
    """The order in which the first members ask for least; equal ones keep theirs."""
    return tuple(sorted(members, key=lambda slot: _size(snapshot, slot)))


def _size(snapshot: Snapshot, slot: int) -> tuple[int, int]:
    shapes, shape = snapshot.shapes, int(snapshot.pending.shape[slot])
    return shapes.gpu_milli(shape), int(shapes.request[shape, CPU])


def needed_first(snapshot: Snapshot, members: tuple[int, ...], needs: Needs) -> tuple[int, ...]:
    """The members, those that a role lacks in front, so that nobody takes the place of one that is needed."""
    if not needs.roles or needs.total >= len(members):
        return members
    left, needed, further = dict(needs.roles), list[int](), list[int]()
    for slot in members:
        role = snapshot.pending.role[slot]
        if left.get(role, 0) > 0:
            left[role] -= 1
            needed.append(slot)
        else:
            further.append(slot)
    return *needed, *further


def in_order(decision: Decision, members: tuple[int, ...], needs: Needs) -> tuple[int, ...]:
    """The members, those in front who have to come, then those that a role lacks."""
    order, anchors = needed_first(decision.snapshot, members, needs), decision.draft.anchors
    return tuple(sorted(order, key=lambda slot: slot not in anchors)) if anchors else order


@dataclass(frozen=True, slots=True)
class _Found:
    """How it went with members that were placed for a trial."""

    whole: bool
    """The minimums are met."""
    over_limit: bool
    """A limit was in the way."""
    missed: int
    """The slot of the last member without a place; -1: all have one."""


def _try_members(decision: Decision, members: tuple[int, ...], needs: Needs, allowed: Bool | None) -> _Found:
    """Place the members one by one on the allowed rows; stops when too few can be placed."""
    pending, scores, turns = decision.snapshot.pending, decision.scores, decision.turns
    spare, over_limit = needs.spare([pending.role[slot] for slot in members]), False
    roles, missed = list[str](), -1
    for slot in members:
        if turns.ranked and needs.total > 0 and needs.met_by(roles):
            break  # who is not needed has a turn of his own
        shape = int(pending.shape[slot])
        row = None
        if not turns.may_use(shape):
            over_limit = True
        elif not scores.is_dead(shape):
            near, limits = both(allowed, decision.draft.reach.get(slot)), turns.rows_within_limits(shape)
            row = choose(scores, shape, both(near, limits))
            over_limit |= row is None and limits is not None and choose(scores, shape, near) is not None
        if row is not None:
            commit(decision, slot, row)
            roles.append(pending.role[slot])
            continue
        missed = slot
        if slot in decision.draft.anchors:
            return _Found(whole=False, over_limit=over_limit, missed=missed)
        for role in {"", pending.role[slot]} & spare.keys():
            spare[role] -= 1
        if min(spare.values()) < 0:
            return _Found(whole=False, over_limit=over_limit, missed=missed)
    return _Found(bool(roles), over_limit, missed)


def both(one: Bool | None, other: Bool | None) -> Bool | None:
    """[N] node rows that both masks allow; None: all."""
    if one is None or other is None:
        return other if one is None else one
    return np.asarray(one & other, np.bool_)
