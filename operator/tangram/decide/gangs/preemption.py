"""Make room for a gang: all of its minimum at once, on places that are free and on ones that evictions make free."""

from tangram.decide.draft import Draft
from tangram.decide.gangs.gang import both, needed_first, needs_of
from tangram.decide.placing import choose
from tangram.decide.preempt.preemption import Room
from tangram.decide.queues.fairness import Turns
from tangram.decide.reserve.reservation import rows_not_held
from tangram.decide.scores import Memory
from tangram.snapshot.arrays import Bool, Snapshot


def make_room_for_gang(
    snapshot: Snapshot,
    memory: Memory,
    draft: Draft,
    turns: Turns,
    room: Room,
    gang: int,
    members: list[int],
    near: Bool | None = None,
) -> bool:
    """Have others evicted for as many members as the gang needs; False, and nothing changed, when it is not enough.

    All places are held until the last victim has left, and then given together. Members beyond the minimum wait.
    ``near`` [N]: node rows on which all of them have to be.
    """
    needs, role, places = needs_of(snapshot, gang), snapshot.pending.role, list[str]()
    if needs.total <= 0 or not all(room.may_ask(slot) for slot in members):
        return False
    alive = [shape for shape in dict.fromkeys(snapshot.pending.shape[members].tolist()) if not memory.is_dead(shape)]
    order = needed_first(snapshot, tuple(members), needs)
    if not room.may_be_enough(list(order[: needs.total])):
        return False
    allowed = both(near, rows_not_held(snapshot, draft, members))
    room.begin()
    for index, slot in enumerate(order):
        if needs.met_by(places) or len(places) + len(members) - index < needs.total:
            break
        if _make_room(snapshot, memory, turns, room, slot, allowed):
            places.append(role[slot])
    if needs.met_by(places):
        room.keep()
        return True
    room.take_back()
    memory.forget_dead(alive)
    return False


def _make_room(snapshot: Snapshot, memory: Memory, turns: Turns, room: Room, slot: int, rows: Bool | None) -> bool:
    shape = int(snapshot.pending.shape[slot])
    if not turns.may_use(shape):
        return False
    allowed = both(rows, turns.rows_within_limits(shape))
    row = None if memory.is_dead(shape) else choose(memory, shape, allowed)
    if row is None:
        return room.make(slot, allowed)
    room.reserve(slot, row, [])
    return True
