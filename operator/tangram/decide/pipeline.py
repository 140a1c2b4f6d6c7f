"""``decide(snapshot, memory) -> Plan``: order the queue, place what fits, say why the rest waits."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tangram.decide import codes, reasons
from tangram.decide.draft import Draft
from tangram.decide.gangs.gang import both, needed_members, needs_of, release_overdue
from tangram.decide.gangs.preemption import make_room_for_gang
from tangram.decide.gangs.topology import domain_to_wait_for, is_near, place_near
from tangram.decide.placing import choose, commit, place_line
from tangram.decide.preempt.order import may_stand_above
from tangram.decide.preempt.preemption import Room
from tangram.decide.queues.fairness import Turns
from tangram.decide.reserve.reservation import count_held, is_held_back, may_reserve, reserve, rows_not_held
from tangram.decide.scores import KeptRow, Memory
from tangram.plan import Place, Plan
from tangram.snapshot.arrays import PREEMPT, Bool, Int32, Snapshot


def decide(snapshot: Snapshot, memory: Memory | None = None) -> Plan:
    """The plan for what is true now. Pure: the same snapshot gives the same plan, with or without ``memory``."""
    memory = memory or Memory()
    if snapshot.departures is not None and not may_reserve(snapshot):
        # Then nobody needs a look who is known to fit nowhere, which counts where thousands wait.
        snapshot = replace(snapshot, departures=None)
    memory.observe(snapshot)
    draft = Draft()
    _place_all(snapshot, memory, draft, in_order(snapshot, memory))
    release_overdue(snapshot, draft)
    draft.hold.extend(reasons.holds(snapshot, memory, draft))
    faults = tuple(f"{name}: {text}" for name, text in sorted(memory.faults.items()))
    return Plan(tuple(draft.place), tuple(draft.evict), tuple(draft.hold), faults)


def in_order(snapshot: Snapshot, memory: Memory) -> Int32:
    """Slots of waiting pods that may fit, first come first: plugin's order, then priority, age, name."""
    pending = snapshot.pending
    slots = pending.waiting.nonzero()[0].astype(np.int32)
    if not len(slots):
        return slots
    first = memory.order(slots)
    if snapshot.departures is None:
        hopeful = _hopeful(snapshot, memory, slots)
        slots, first = slots[hopeful], first if first is None else first[hopeful]
    keys: list[npt.NDArray[Any]] = [pending.tie[slots], pending.created[slots], -pending.priority[slots]]
    if first is not None:
        keys.append(first)
    ordered: Int32 = slots[np.lexsort(keys)]
    return ordered if snapshot.departures is None else _with_first_in_line(snapshot, memory, ordered)


def _hopeful(snapshot: Snapshot, memory: Memory, slots: Int32) -> Bool:
    """[len(slots)] which of the pods may fit."""
    pending = snapshot.pending
    hopeful: Bool = ~memory.dead_shapes()[pending.shape[slots]] | (pending.gang[slots] >= 0)
    hopeful |= may_stand_above(snapshot, slots)
    return hopeful


def _with_first_in_line(snapshot: Snapshot, memory: Memory, slots: Int32) -> Int32:
    """The pods that may fit and, of the others, the first of each shape that has been told to wait: it may be the one
    for which nodes are held."""
    pending, wanted = snapshot.pending, _hopeful(snapshot, memory, slots)
    told = np.flatnonzero(~wanted & (pending.told[slots] >= 0))
    _, firsts = np.unique(pending.shape[slots[told]], return_index=True)
    wanted[told[firsts]] = True
    found: Int32 = slots[wanted]
    return found


def _place_all(snapshot: Snapshot, memory: Memory, draft: Draft, slots: Int32) -> None:
    pending, turns = snapshot.pending, Turns(snapshot, slots)
    room = Room(snapshot, memory, draft, turns)
    given = _place_nominated(snapshot, memory, draft, turns, slots)
    members: dict[int, list[int]] = {}
    for slot in slots[pending.gang[slots] >= 0].tolist():
        members.setdefault(int(pending.gang[slot]), []).append(slot)
    alone = pending.gang[slots] < 0
    if given:
        alone &= ~np.isin(slots, list(given))
    if snapshot.departures is not None:
        alone &= pending.told[slots] < 0  # who has waited may be the first in line, which is looked at one by one
    for run, plain in _runs(turns, slots, alone & memory.plain(pending.shape[slots])):
        if len(draft.place) >= snapshot.batch:
            return
        gang = int(pending.gang[run[0]])
        if plain:
            _place_run(snapshot, memory, draft, turns, room, run)
        elif gang < 0 and run[0] not in given:
            _place_one(snapshot, memory, draft, turns, room, int(run[0]))
        elif gang in members and given.isdisjoint(members[gang]):
            _place_together(snapshot, memory, draft, turns, room, gang, members.pop(gang))


def _runs(turns: Turns, slots: Int32, plain: Bool) -> Iterator[tuple[Int32, bool]]:
    """Slots whose turn it is, and whether they are plain: as many plain ones at once as do not change whose turn it is.

    ``slots`` are in order of priority and age; ``plain`` [len(slots)].
    """
    if turns.fixed:
        ends = ((~(plain[1:] & plain[:-1])).nonzero()[0] + 1).tolist()
        for begin, end in pairwise([0, *ends, len(slots)]):
            if begin < end:
                yield slots[begin:end], bool(plain[begin])
        return
    plain_slots = frozenset(slots[plain].tolist())
    for slot in turns:
        yield np.array([slot], np.int32), slot in plain_slots


def _place_run(snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, room: Room, run: Int32) -> None:
    """Place plain pods, in one go as far as nothing but the pool decides about them."""
    evicts = bool(np.count_nonzero(snapshot.running.present))
    while len(run) and len(draft.place) < snapshot.batch:
        rows: list[int] = []
        shape = int(snapshot.pending.shape[run[0]])
        unlimited = turns.fixed or (turns.may_use(shape) and turns.rows_within_limits(shape) is None)
        if unlimited and draft.reservation is None and not (evicts and memory.is_dead(shape)):
            left = snapshot.batch - len(draft.place)
            rows = place_line(snapshot, memory, draft.place, run, left, patient=not evicts)
        if not rows:
            _place_one(snapshot, memory, draft, turns, room, int(run[0]))
        elif turns.counts:
            for slot, row in zip(run.tolist(), rows, strict=False):
                if row >= 0:
                    turns.charge(int(snapshot.pending.shape[slot]), row)
        run = run[max(1, len(rows)) :]


def _place_nominated(snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, slots: Int32) -> set[int]:
    """Give the pods for which others were evicted their places before anybody else is asked; the slots so placed.

    Members of a gang for which all places were held together get them together.
    """
    pending, given = snapshot.pending, set[int]()
    nominated = slots[pending.nominated[slots] >= 0]
    if not len(nominated):
        return given
    alone = nominated[pending.gang[nominated] < 0].tolist()
    for slot in alone:
        if _take_place(snapshot, memory, draft.place, turns, slot):
            given.add(slot)
    gangs: dict[int, list[int]] = {}
    for slot in nominated[pending.gang[nominated] >= 0].tolist():
        gangs.setdefault(int(pending.gang[slot]), []).append(slot)
    for gang, members in gangs.items():
        kept, usage, placed = dict[int, KeptRow](), turns.keep(), list[Place]()
        for slot in members:
            row = int(pending.nominated[slot])
            kept.setdefault(row, memory.keep(row))
            if _take_place(snapshot, memory, placed, turns, slot):
                given.add(slot)
        if needs_of(snapshot, gang).met_by([pending.role[slot] for slot in members if slot in given]):
            draft.place.extend(placed)
            continue
        for row_kept in kept.values():
            memory.restore(row_kept)
        turns.restore(usage)
        given.difference_update(members)
    return given


def _take_place(snapshot: Snapshot, memory: Memory, place: list[Place], turns: Turns, slot: int) -> bool:
    shape, row = int(snapshot.pending.shape[slot]), int(snapshot.pending.nominated[slot])
    allowed = turns.rows_within_limits(shape)
    if not turns.may_use(shape) or (allowed is not None and not allowed[row]) or not memory.fits_on(shape, row):
        return False
    if not is_near(snapshot, int(snapshot.pending.gang[slot]), row):
        return False
    commit(snapshot, memory, place, slot, row)
    turns.charge(shape, row)
    return True


def _place_together(
    snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, room: Room, gang: int, members: list[int]
) -> None:
    """Place a gang, or make room for it, or note why it waits and hold nodes for it when it is the first in line."""
    code = place_near(snapshot, memory, draft, turns, gang, members)
    cannot = code in (codes.GANG_CANNOT_PLACE, codes.TOPOLOGY_DOMAIN_FULL)
    if cannot and not (snapshot.pending.claim[members] >= 0).any():
        needed = needed_members(snapshot, gang, members)
        near = domain_to_wait_for(snapshot, memory, gang, needed)
        if make_room_for_gang(snapshot, memory, draft, turns, room, gang, members, near):
            return
        limits = [turns.rows_within_limits(shape) for shape in set(snapshot.pending.shape[needed].tolist())]
        reserve(snapshot, memory, draft, needed, reduce(both, limits, near))
    if code != codes.FITS:
        draft.gang_codes[gang] = code


def _place_one(snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, room: Room, slot: int) -> None:
    """Place a pod that stands alone, or make room for it where it has a right to that."""
    shape = int(snapshot.pending.shape[slot])
    held_back = is_held_back(snapshot, draft, slot)
    if shape in draft.over_limit or (held_back and not room.may_ask(slot)):
        return
    if draft.reservation is not None and memory.is_dead(shape) and turns.may_use(shape) and not room.may_ask(slot):
        return  # another pod of the shape has been looked at, and nodes are held for one that came before
    limits, not_held = turns.rows_within_limits(shape), rows_not_held(snapshot, draft, [slot])
    if not turns.may_use(shape):
        if not room.make(slot, not_held):
            draft.over_limit.add(shape)
        return
    allowed, found = both(limits, not_held), None
    if not memory.is_dead(shape) and not held_back:
        found = choose(memory, shape, allowed, partial(_waits_at_home, snapshot, room, slot, not_held))
    if found is not None:
        commit(snapshot, memory, draft.place, slot, found)
        turns.charge(shape, found)
        if not_held is not None:
            count_held(snapshot, draft, shape, found)
    elif not room.make(slot, not_held) and snapshot.pending.claim[slot] < 0:
        _wait(snapshot, memory, draft, slot, limits, held=not_held is not None)


def _waits_at_home(snapshot: Snapshot, room: Room, slot: int, allowed: Bool | None) -> bool:
    """Whether the pod waits for evictions on nodes of its class, though others have room for it."""
    claims = bool(snapshot.pending.claim[slot] >= 0)
    return snapshot.classes.fallback == PREEMPT and (claims or room.could_help(slot, allowed))


def _wait(snapshot: Snapshot, memory: Memory, draft: Draft, slot: int, limits: Bool | None, *, held: bool) -> None:
    """Note why a pod that stands alone does not fit, and hold nodes for it when it is the first in line."""
    shape = int(snapshot.pending.shape[slot])
    if shape in draft.held_back or (held and not memory.is_dead(shape) and choose(memory, shape, limits) is not None):
        draft.held_back.add(shape)
    elif limits is not None and not memory.is_dead(shape) and choose(memory, shape) is not None:
        draft.over_limit.add(shape)
    else:
        reserve(snapshot, memory, draft, [slot], limits)
