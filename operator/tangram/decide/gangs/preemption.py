"""Make room for a gang: all of its minimum at once, on places that are free and on ones that evictions make free."""

from collections import Counter

import numpy as np

from tangram.decide.gangs.gang import (
    Orders,
    both,
    fewest_nodes_first,
    in_order,
    largest_first,
    needed_first,
    needs_of,
    smallest_first,
    without_like,
)
from tangram.decide.placing import choose
from tangram.decide.preempt.claim import ANY, Terms
from tangram.decide.preempt.preemption import Preemption
from tangram.decide.queues.fairness import charges_of
from tangram.decide.reserve.reservation import rows_not_held
from tangram.snapshot.arrays import Bool

_RETRIES = 4
"""Units that are left out, one after the other, where the cheapest victims do not make room for the whole gang."""
_MOST_ORDERS = 8
"""Orders in which its members are tried at most."""


def make_room_for_gang(preemption: Preemption, gang: int, members: list[int], near: Bool | None = None) -> bool:
    """Have others evicted for as many members as the gang needs; False, and nothing changed, when it is not enough.

    All places are held until the last victim has left, and then given together. Members beyond the minimum ask one by
    one for what their queue is promised, and for nothing else. ``near`` [N]: node rows on which all have to be.
    """
    decision = preemption.decision
    needs = needs_of(decision.snapshot, gang)
    if (decision.snapshot.pending.claim[members] >= 0).any() or not any(map(preemption.may_ask, members)):
        return False  # those that have no right to it themselves may find a place that is free
    allowed = both(near, rows_not_held(decision, members))
    if needs.total <= 0:
        grown = [preemption.make(slot, allowed, Terms(growing=True)) for slot in members]
        return any(grown)
    if not _may_have_places(preemption, members, needs.total, allowed):
        return False
    orders = [tuple(members)]
    if len(members) > needs.total:  # who is needed is not said then, and what is least is first to be covered
        orders.append(smallest_first(decision.snapshot, members))
    orders += [largest_first(decision.snapshot, members), fewest_nodes_first(decision, members)]
    known = without_like(decision, [in_order(decision, order, needs) for order in orders])
    trying = Orders(decision, known, _MOST_ORDERS)
    for number, order in enumerate(trying):
        retries = _RETRIES if number < len(known) else 0
        missed = _claim(preemption, in_order(decision, order, needs), needs.total, allowed, retries)
        if missed is None:
            return True
        if missed >= 0:
            trying.prefer(missed)
    return False


def _may_have_places(preemption: Preemption, members: list[int], needed: int, allowed: Bool | None) -> bool:
    """Whether so many of the members may have places that are free or could be made free; a quick test. Those that
    share a claim have them where they are tried."""
    groups: dict[bytes, tuple[Bool | None, list[int]]] = {}
    for slot in members:
        reach = preemption.decision.draft.reach.get(slot)
        groups.setdefault(b"" if reach is None else reach.tobytes(), (reach, []))[1].append(slot)
    found = 0
    for reach, slots in groups.values():
        places = preemption.places(slots, both(allowed, reach))
        if places < needed - (len(members) - len(slots)):
            return False
        found += places
    return found >= needed


def _claim(
    preemption: Preemption, order: tuple[int, ...], needed: int, allowed: Bool | None, retries: int
) -> int | None:
    """Have others evicted for so many of the members, in this order; None: it is done, else the slot of the first for
    whom there was no room, or -1. ``retries``: how often it is tried without one of those that had to leave."""
    first = order[:needed]
    with preemption.together(charges_of(preemption.decision.snapshot, first)[-1]):
        if not preemption.may_be_enough(list(first), allowed):
            return -1
        straddles = preemption.may_straddle(list(first))
    taken: list[int] = []
    terms = Terms(strict=True)
    missed = _make_room_for_all(preemption, order, allowed, terms, taken)
    if missed is None:
        return None
    for unit in preemption.precedence.units_of(taken)[:retries]:
        if _make_room_for_all(preemption, order, allowed, terms._replace(banned=frozenset({unit})), []) is None:
            return None
    if straddles and _make_room_for_all(preemption, order, allowed, ANY, []) is None:
        return None
    return missed


def exchange_overdue(preemption: Preemption) -> None:
    """Let waiting members of the roles that a gang lacks take the places of members that it can spare, in gangs that
    have been bound in part for longer than their timeout: that costs less than to begin anew."""
    decision = preemption.decision
    gangs, pending = decision.snapshot.gangs, decision.snapshot.pending
    for gang in sorted(gangs.overdue):
        slots = np.flatnonzero(pending.waiting & (pending.gang == gang)).tolist()
        missing = gangs.role_missing(gang)
        total = int(gangs.minimum[gang] - gangs.bound[gang] - gangs.finished[gang])
        if gang not in decision.draft.gang_codes or total > 0 or not missing or (pending.claim[slots] >= 0).any():
            continue
        order = sorted(slots, key=lambda slot: (-int(pending.priority[slot]), pending.tie[slot]))
        coming = needed_first(decision.snapshot, tuple(order), needs_of(decision.snapshot, gang))
        with decision.journal.attempt() as attempt:
            if _exchange(preemption, gang, list(coming[: sum(missing.values())])):
                attempt.commit()


def _exchange(preemption: Preemption, gang: int, coming: list[int]) -> bool:
    """Whether all of these waiting members have got the place of another one."""
    snapshot = preemption.decision.snapshot
    running, role, missing = snapshot.running, snapshot.pending.role, snapshot.gangs.role_missing(gang)
    if Counter(role[slot] for slot in coming) != Counter(missing):
        return False
    if (running.gang[preemption.victims] == gang).any():
        return False  # others have some of it evicted by this decision
    there = snapshot.gangs.role_bound[gang]
    finished, minimum = snapshot.gangs.role_finished[gang], snapshot.gangs.role_minimum[gang]
    spare = {one: count + finished.get(one, 0) - minimum.get(one, 0) for one, count in there.items()}
    members = preemption.precedence.may_leave_alone(np.flatnonzero(running.present & (running.gang == gang)).tolist())
    leaving = [slot for slot in members if running.evictable[slot] and not running.doomed[slot]]
    for slot in coming:
        reason = f"gang {snapshot.gangs.names[gang]} lacks a member of role {role[slot]} and has one to spare"
        for victim in leaving:
            one = running.role[victim]
            if spare.get(one, 0) > 0 and preemption.take_place_of(slot, victim, reason):
                spare[one] -= 1
                leaving.remove(victim)
                break
        else:
            return False
    return True


def _make_room_for_all(
    preemption: Preemption, order: tuple[int, ...], allowed: Bool | None, terms: Terms, taken: list[int]
) -> int | None:
    """Make room for members in this order until the gang has as many as it needs; None: it has, else the slot of the
    first for whom there was none, or -1. ``taken`` becomes the slots of the pods that would have left."""
    decision, places, before = preemption.decision, list[str](), len(preemption.victims)
    missed = -1
    claims_before = len(decision.draft.claims)
    pending = decision.snapshot.pending
    needs, charges = needs_of(decision.snapshot, int(pending.gang[order[0]])), charges_of(decision.snapshot, order)
    with decision.journal.attempt() as attempt:
        for index, slot in enumerate(order):
            if needs.met_by(places) or len(places) + len(order) - index < needs.total:
                break
            missing = charges[min(index + needs.total - len(places), len(order))] - charges[index]
            with preemption.together(missing):
                if _make_room(preemption, slot, allowed, terms):
                    places.append(pending.role[slot])
                    continue
                missed = slot if missed < 0 else missed
                if slot in decision.draft.anchors:
                    break
        taken.extend(preemption.victims[before:])
        if needs.met_by(places) and _can_come(preemption, order, claims_before):
            decision.draft.join_claims(claims_before)
            attempt.commit()
    return None if attempt.committed else missed


def _can_come(preemption: Preemption, order: tuple[int, ...], claims_before: int) -> bool:
    """Whether the members for whom places have been claimed since there were so many claims can come there, one after
    the other, once all victims are gone: each near whom it has to be near, who may be one of the others."""
    decision = preemption.decision
    snapshot, neighbours, running = decision.snapshot, decision.pool.neighbours, decision.snapshot.running
    shape = {snapshot.pending.names[slot]: int(snapshot.pending.shape[slot]) for slot in order}
    if all(neighbours.near_company(one) is None for one in set(shape.values())):
        return True
    rows = {name: row for row, name in enumerate(snapshot.nodes.names)}
    places = [place for claim in decision.draft.claims[claims_before:] for place in claim.places]
    leaving = [(running.names[one], int(running.node[one]), int(running.shape[one])) for one in preemption.victims]
    return neighbours.can_come(
        [(shape[place.pod], rows[place.node]) for place in places],
        [(name, snapshot.nodes.names[row], row, other) for name, row, other in leaving],
    )


def _make_room(preemption: Preemption, slot: int, rows: Bool | None, terms: Terms) -> bool:
    """A place for one member: a free one within the limits, else one that evictions make free, also of its limits."""
    scores, turns = preemption.decision.scores, preemption.decision.turns
    shape = int(preemption.decision.snapshot.pending.shape[slot])
    rows = both(rows, preemption.decision.draft.reach.get(slot))
    free = turns.may_use(shape) and not scores.is_dead(shape)
    row = choose(scores, shape, both(rows, turns.rows_within_limits(shape))) if free else None
    if row is None:
        return preemption.make(slot, rows, terms)
    preemption.reserve(slot, row, [])
    return True
