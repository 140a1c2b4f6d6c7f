"""Make room for a gang: all of its minimum at once, on places that are free and on ones that evictions make free."""

from tangram.decide.gangs.gang import both, needed_first, needs_of
from tangram.decide.placing import choose
from tangram.decide.preempt.preemption import Preemption
from tangram.decide.reserve.reservation import rows_not_held
from tangram.snapshot.arrays import Bool


def make_room_for_gang(preemption: Preemption, gang: int, members: list[int], near: Bool | None = None) -> bool:
    """Have others evicted for as many members as the gang needs; False, and nothing changed, when it is not enough.

    All places are held until the last victim has left, and then given together. Members beyond the minimum wait.
    ``near`` [N]: node rows on which all of them have to be.
    """
    decision = preemption.decision
    snapshot = decision.snapshot
    needs, role, places = needs_of(snapshot, gang), snapshot.pending.role, list[str]()
    if needs.total <= 0 or not all(preemption.may_ask(slot) for slot in members):
        return False
    order = needed_first(snapshot, tuple(members), needs)
    if not preemption.may_be_enough(list(order[: needs.total])):
        return False
    allowed = both(near, rows_not_held(decision, members))
    with decision.journal.attempt() as attempt:
        for index, slot in enumerate(order):
            if needs.met_by(places) or len(places) + len(members) - index < needs.total:
                break
            if _make_room(preemption, slot, allowed):
                places.append(role[slot])
        if needs.met_by(places):
            attempt.keep()
    return attempt.kept


def _make_room(preemption: Preemption, slot: int, rows: Bool | None) -> bool:
    scores, turns = preemption.decision.scores, preemption.decision.turns
    shape = int(preemption.decision.snapshot.pending.shape[slot])
    if not turns.may_use(shape):
        return False
    allowed = both(rows, turns.rows_within_limits(shape))
    row = None if scores.is_dead(shape) else choose(scores, shape, allowed)
    if row is None:
        return preemption.make(slot, allowed)
    preemption.reserve(slot, row, [])
    return True
