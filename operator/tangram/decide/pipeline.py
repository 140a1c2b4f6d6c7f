"""``decide(snapshot, memory) -> Plan``: order the queue, place what fits, say why the rest waits."""

from collections.abc import Iterator
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tangram.decide import codes, reasons, reclaim
from tangram.decide.draft import Draft
from tangram.decide.fairness import Turns
from tangram.decide.gang import both, needed_members, release_overdue
from tangram.decide.memory import Memory
from tangram.decide.placing import choose, commit, place_line
from tangram.decide.reservation import count_held, reserve, rows_not_held
from tangram.decide.topology import domain_to_wait_for, place_near
from tangram.plan import Plan
from tangram.snapshot.arrays import PREEMPT, Bool, Int32, Snapshot


def decide(snapshot: Snapshot, memory: Memory | None = None) -> Plan:
    """The plan for what is true now. Pure: the same snapshot gives the same plan, with or without ``memory``."""
    memory = memory or Memory()
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
    slots = np.flatnonzero(pending.waiting).astype(np.int32)
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
            _place_run(snapshot, memory, draft, turns, run)
        elif gang < 0 and run[0] not in given:
            _place_one(snapshot, memory, draft, turns, int(run[0]))
        elif gang in members:
            _place_together(snapshot, memory, draft, turns, gang, members.pop(gang))


def _runs(turns: Turns, slots: Int32, plain: Bool) -> Iterator[tuple[Int32, bool]]:
    """Slots whose turn it is, and whether they are plain: as many plain ones at once as do not change whose turn it is.

    ``slots`` are in order of priority and age; ``plain`` [len(slots)].
    """
    if turns.fixed:
        ends = (np.flatnonzero(~(plain[1:] & plain[:-1])) + 1).tolist()
        for begin, end in pairwise([0, *ends, len(slots)]):
            if begin < end:
                yield slots[begin:end], bool(plain[begin])
        return
    plain_slots = frozenset(slots[plain].tolist())
    for slot in turns:
        yield np.array([slot], np.int32), slot in plain_slots


def _place_run(snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, run: Int32) -> None:
    """Place plain pods, in one go as far as nothing but the pool decides about them."""
    evicts = snapshot.classes.fallback == PREEMPT
    while len(run) and len(draft.place) < snapshot.batch:
        rows: list[int] = []
        shape = int(snapshot.pending.shape[run[0]])
        unlimited = turns.fixed or (turns.may_use(shape) and turns.rows_within_limits(shape) is None)
        if unlimited and draft.reservation is None:
            left = snapshot.batch - len(draft.place)
            rows = place_line(snapshot, memory, draft.place, run, left, patient=not evicts)
        if not rows:
            _place_one(snapshot, memory, draft, turns, int(run[0]))
        elif not turns.fixed and rows[0] >= 0:
            turns.charge(shape, rows[0])
        run = run[max(1, len(rows)) :]


def _place_nominated(snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, slots: Int32) -> set[int]:
    """Give the pods for which others were evicted their places before anybody else is asked; the slots so placed."""
    nominated, given = snapshot.pending.nominated[slots], set[int]()
    for slot, row in zip(slots[nominated >= 0].tolist(), nominated[nominated >= 0].tolist(), strict=True):
        shape = int(snapshot.pending.shape[slot])
        allowed = turns.rows_within_limits(shape)
        if turns.may_use(shape) and (allowed is None or allowed[row]) and memory.fits_on(shape, row):
            commit(snapshot, memory, draft.place, slot, row)
            turns.charge(shape, row)
            given.add(slot)
    return given


def _place_together(
    snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, gang: int, members: list[int]
) -> None:
    """Place a gang, or note why it waits and hold nodes for it when it is the first in line."""
    code = place_near(snapshot, memory, draft, turns, gang, members)
    if code in (codes.GANG_CANNOT_PLACE, codes.TOPOLOGY_DOMAIN_FULL):
        needed = needed_members(snapshot, gang, members)
        masks = [turns.rows_within_limits(shape) for shape in set(snapshot.pending.shape[needed].tolist())]
        masks.append(domain_to_wait_for(snapshot, memory, gang, needed))
        reserve(snapshot, memory, draft, needed, reduce(both, masks, None))
    if code != codes.FITS:
        draft.gang_codes[gang] = code


def _place_one(snapshot: Snapshot, memory: Memory, draft: Draft, turns: Turns, slot: int) -> None:
    """Place a pod that stands alone, or make room for it where the policy allows that."""
    shape, evicts = int(snapshot.pending.shape[slot]), snapshot.classes.fallback == PREEMPT
    if shape in draft.over_limit:
        return
    if not turns.may_use(shape):
        draft.over_limit.add(shape)
        return
    limits, not_held = turns.rows_within_limits(shape), rows_not_held(snapshot, draft, [slot])
    if memory.is_dead(shape) and (not evicts or shape in memory.hopeless):
        reserve(snapshot, memory, draft, [slot], limits)
        return
    if not_held is not None and shape in draft.held_back:
        return
    claims, allowed = bool(snapshot.pending.claim[slot] >= 0), both(limits, not_held)
    found = choose(memory, shape, allowed, evicts=evicts, claims=claims)
    if found is not None:
        commit(snapshot, memory, draft.place, slot, found)
        turns.charge(shape, found)
        if not_held is not None:
            count_held(snapshot, draft, shape, found)
    elif not (evicts and not claims and reclaim.make_room(snapshot, memory, draft, slot, allowed)):
        _wait(snapshot, memory, draft, slot, limits, held=not_held is not None)


def _wait(snapshot: Snapshot, memory: Memory, draft: Draft, slot: int, limits: Bool | None, *, held: bool) -> None:
    """Note why a pod that stands alone does not fit, and hold nodes for it when it is the first in line."""
    shape = int(snapshot.pending.shape[slot])
    if held and choose(memory, shape, limits) is not None:
        draft.held_back.add(shape)
    elif limits is not None and not memory.is_dead(shape):
        draft.over_limit.add(shape)
    else:
        reserve(snapshot, memory, draft, [slot], limits)
