"""``decide(snapshot, memory) -> Plan``: order the queue, place what fits, say why the rest waits."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from tangram.decide import codes
from tangram.decide.ahead import Made, with_foresight
from tangram.decide.decision import Decision
from tangram.decide.devices import kept_devices
from tangram.decide.draft import Draft
from tangram.decide.gangs.gang import both, needs_of, release_overdue
from tangram.decide.gangs.preemption import exchange_overdue
from tangram.decide.gangs.together import Together
from tangram.decide.gangs.topology import is_near, place_near
from tangram.decide.memory import Memory
from tangram.decide.placing import choose, commit, fitting_node, place_line
from tangram.decide.preempt.order import may_stand_above
from tangram.decide.preempt.preemption import Preemption
from tangram.decide.queues.fairness import Turns
from tangram.decide.queues.ranking import Dead
from tangram.decide.queues.units import InOrder
from tangram.decide.reasons import holds, renewed
from tangram.decide.reported import Reported, of_those_that_give_way
from tangram.decide.reserve.reservation import is_held_back, may_reserve, reserve, rows_not_held
from tangram.decide.rest import Rest, rest_of
from tangram.decide.rivals import Rivals
from tangram.decide.scores import Scores
from tangram.decide.volumes import hold_for_volumes
from tangram.plan import Hold, Plan
from tangram.snapshot.arrays import PREEMPT, Bool, Int32, Snapshot

_ALWAYS, _ONCE, _LAST = np.int8(Dead.ALWAYS), np.int8(Dead.ONCE), np.int8(Dead.LAST)


def decide(snapshot: Snapshot, memory: Memory | None = None, reported: Reported | None = None) -> Plan:
    """The plan for what is true now. Pure: the same snapshot gives the same plan, with or without ``memory``.

    ``reported`` leaves reasons out of ``Plan.hold`` that have been reported already, and changes nothing else.
    """
    memory = memory or Memory()
    if memory.rest is not None and memory.rest.goes_on(snapshot):
        return Plan(hold=_unreported(memory.rest, snapshot, reported))
    memory.rest, first = None, snapshot
    if snapshot.departures is not None and not may_reserve(snapshot):
        # Then nobody needs a trial who is known to fit nowhere, which counts where thousands wait.
        snapshot = replace(snapshot, departures=None)
    made, yielding = with_foresight(snapshot, memory, _make)
    decision = made.preemption.decision
    draft = decision.draft
    again = made.again or bool(yielding.evictions and draft.placed)
    draft.add_holds(holds(decision, reported, full=made.full))
    if not again:  # else the next decision, which follows at once, has a place or another reason for them
        draft.add_holds(of_those_that_give_way(snapshot, yielding.sentences(snapshot), reported))
    plugins = decision.scores.plugins
    changes = draft.placed or draft.evict or draft.claims or draft.provision or again
    if made.asked and not (changes or plugins.clipped or plugins.faults or made.preemption.cut_short):
        memory.rest = rest_of(decision, first, yielding)
    faults = tuple(f"{name}: {text}" for name, text in sorted((plugins.clipped | plugins.faults).items()))
    place, claims = tuple([one.place for one in draft.placed]), tuple(draft.claims)
    return Plan(place, tuple(draft.evict), claims, tuple(draft.provision), tuple(draft.hold), faults, again)


def _unreported(rest: Rest, snapshot: Snapshot, reported: Reported | None) -> tuple[Hold, ...]:
    """Why pods wait, at rest: what has not been reported yet, or is due again and said otherwise now."""
    decision = rest.decision(snapshot)
    give_way = partial(of_those_that_give_way, snapshot, rest.yielding.sentences(snapshot))
    if reported is None:
        return (*holds(decision), *give_way())
    due = rest.not_compared(reported.due, reported.since)
    if rest.has_said(reported.code, reported.refused):
        still = replace(reported, due=due)
        return (*renewed(decision, still, rest.sentences), *give_way(still)) if due else ()
    found = (*holds(decision, reported), *give_way(reported))
    if not found:
        rest.note_said(reported.code, reported.refused)
    return found


def _make(snapshot: Snapshot, memory: Memory) -> Made:
    """Place what fits, and make room where there is a right to that."""
    decision, slots = begin(snapshot, memory)
    draft, began = decision.draft, decision.pool.neighbours.version
    preemption = Preemption(decision)
    _place_all(preemption, slots)
    again, full = _may_place_more(decision, began), _is_full(decision)
    evicts = len(draft.evict) >= snapshot.batch
    hold_for_volumes(snapshot, draft)
    # Places that are only held until volumes exist make nobody's turn come sooner.
    again = evicts or (again and bool(draft.placed))
    exchange_overdue(preemption)
    release_overdue(decision)
    return Made(preemption, full=full, again=again, asked=bool(len(slots)))


def begin(snapshot: Snapshot, memory: Memory) -> tuple[Decision, Int32]:
    """A decision in which nothing has been decided yet, and the slots whose turns are to come, as ``in_order``."""
    pool, scores = memory.observe(snapshot)
    line = in_order(snapshot, scores, pool.neighbours.helped)
    draft = Draft(pool.journal)
    turns = Turns(snapshot, line, pool.journal, partial(fitting_node, scores), lambda: draft.at_limit)
    return Decision(snapshot, pool, scores, turns, draft, Rivals(snapshot.pending)), line.slots


def _may_place_more(decision: Decision, began: int) -> bool:
    """Whether another decision at once may place more: this one placed a whole batch; or somebody about whom others
    have rules, and some that have rules still wait and may have been asked about before. ``began``: the version of the
    neighbours then."""
    snapshot, neighbours, placed = decision.snapshot, decision.pool.neighbours, decision.draft.placed
    if not placed or len(placed) >= snapshot.batch or neighbours.version == began:
        return len(placed) >= snapshot.batch
    pending = snapshot.pending
    waiting = np.flatnonzero(pending.waiting & np.isin(pending.shape, neighbours.bound))
    return not decision.draft.going.issuperset(waiting.tolist())


def in_order(snapshot: Snapshot, scores: Scores, helped: Int32) -> InOrder:
    """Waiting pods that may fit, or whose turn means something though they do not, first come first: plugin's order,
    then priority, age, name. ``helped``: shapes that may fit because others have been placed."""
    pending = snapshot.pending
    slots = pending.waiting.nonzero()[0].astype(np.int32)
    if not len(slots):
        return InOrder(slots, np.zeros(0, np.int8))
    first, known = scores.order(slots), scores.hopeless(slots)
    dead = np.where(pending.gang[slots] >= 0, _ALWAYS, _LAST)
    dead[may_stand_above(snapshot, slots)] = _ALWAYS
    if snapshot.departures is not None:
        dead[(dead == _LAST) & pending.has_waited(snapshot.now)[slots]] = _ONCE
    hopeful = (~known | (dead != _LAST)).nonzero()[0]
    # Where others wait in other queues these would come last, and then fit by what has been placed before; but whether
    # others wait is not known of those who are known to fit nowhere.
    dead[np.isin(pending.shape[slots], helped)] = _ALWAYS
    keys: list[npt.NDArray[Any]] = [pending.tie[slots], pending.created[slots], -pending.priority[slots]]
    if first is not None:
        keys.append(first)
    ordered = _by_number(snapshot, slots, hopeful[np.lexsort([key[hopeful] for key in keys])], first)
    if snapshot.departures is not None:
        later = known[ordered] & (dead[ordered] == _ONCE) & (pending.claim[slots[ordered]] < 0)
        ordered = ordered[_has_a_turn(pending.shape[slots[ordered]], later)]
    return InOrder(slots[ordered], dead[ordered])


def _by_number(
    snapshot: Snapshot, slots: Int32, ordered: npt.NDArray[np.intp], first: npt.NDArray[Any] | None
) -> npt.NDArray[np.intp]:
    """The same indices into the slots, where members of a gang that come at different times have changed places: the
    lowest number goes to the first place that any of them has.

    Others meet at the first one: when it has to start again it comes before those that have been pending for longer.
    """
    pending = snapshot.pending
    places = np.flatnonzero(pending.gang[slots[ordered]] >= 0)
    members = slots[ordered[places]]
    gang, created = pending.gang[members], pending.created[members]
    oldest = np.full(len(snapshot.gangs.minimum), created.max(initial=0))
    youngest = np.zeros_like(oldest)
    np.minimum.at(oldest, gang, created)
    np.maximum.at(youngest, gang, created)
    mixed = (oldest < youngest)[gang]
    if not mixed.any():
        return ordered
    places, members = places[mixed], members[mixed]
    alike: list[npt.NDArray[Any]] = [pending.priority[members], pending.gang[members]]
    if first is not None:
        alike.append(first[ordered[places]])
    found = ordered.copy()
    found[places[np.lexsort([places, *alike])]] = ordered[places[np.lexsort([pending.tie[members], *alike])]]
    return found


def _has_a_turn(shape: Int32, waits: Bool) -> Bool:
    """[S] all but those that come after another one of their shape for which nodes would be held, as for these.

    ``waits`` [S]: who is known to fit nowhere and has no claim. All [S], in order.
    """
    later, once = waits.copy(), np.flatnonzero(waits)
    _, firsts = np.unique(shape[once], return_index=True)
    later[once[firsts]] = False
    return ~later


def _place_all(preemption: Preemption, slots: Int32) -> None:
    decision = preemption.decision
    pending = decision.snapshot.pending
    given = _place_nominated(preemption, slots)
    together = Together(preemption, slots, given)
    alone = pending.gang[slots] < 0
    if given:
        alone &= ~np.isin(slots, list(given))
    plain_slots = alone & decision.scores.plain(pending.shape[slots])
    if decision.rivals.slots:
        plain_slots &= ~np.isin(slots, decision.rivals.slots)
    for run, plain in _runs(decision.turns, slots, plain_slots):
        if _is_full(decision):
            return
        first = int(run[0])
        if plain:
            _place_run(preemption, run)
        elif pending.gang[first] >= 0:
            together.turn(first)
        elif first not in given:
            _place_one(preemption, first)


def _is_full(decision: Decision) -> bool:
    """Whether the decision ends here, so that what it has decided is written while the next one is made."""
    return max(len(decision.draft.placed), len(decision.draft.evict)) >= decision.snapshot.batch


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


def _place_run(preemption: Preemption, run: Int32) -> None:
    """Place plain pods, in one go as far as nothing but the pool decides about them."""
    decision = preemption.decision
    snapshot, draft, turns = decision.snapshot, decision.draft, decision.turns
    evicts = bool(np.count_nonzero(snapshot.running.present))
    choosy = evicts or snapshot.departures is not None  # then the first that fits nowhere decides about those after it
    while len(run) and not _is_full(decision):
        rows: list[int] = []
        shape = int(snapshot.pending.shape[run[0]])
        unlimited = turns.fixed or (turns.may_use(shape) and turns.rows_within_limits(shape) is None)
        if unlimited and draft.reservation is None and not (choosy and decision.scores.is_dead(shape)):
            rows = place_line(decision, run, snapshot.batch - len(draft.placed), patient=not choosy)
        if not rows:
            _place_one(preemption, int(run[0]))
        elif turns.counts:
            for slot, row in zip(run.tolist(), rows, strict=False):
                if row >= 0:
                    turns.charge(int(snapshot.pending.shape[slot]), row)
        run = run[max(1, len(rows)) :]


def _place_nominated(preemption: Preemption, slots: Int32) -> set[int]:
    """Give the pods for which others were evicted their places before anybody else is asked; the slots so placed, or
    for which the places are held on.

    Members of a gang for which all places were held together get them together. Where it is not known of all what was
    held for them, the others go wherever they fit.
    """
    decision, given = preemption.decision, set[int]()
    pending = decision.snapshot.pending
    nominated = slots[pending.nominated[slots] >= 0]
    if not len(nominated):
        return given
    alone = nominated[pending.gang[nominated] < 0].tolist()
    given.update(
        slot
        for slot in alone
        if _take_place(decision, slot) or (_is_limited(decision, slot) and _keep_place(preemption, slot))
    )
    gangs: dict[int, list[int]] = {}
    for slot in nominated[pending.gang[nominated] >= 0].tolist():
        gangs.setdefault(int(pending.gang[slot]), []).append(slot)
    for gang, members in gangs.items():
        given.update(_place_nominated_gang(preemption, gang, members, slots[pending.gang[slots] == gang].tolist()))
    return given


def _place_nominated_gang(preemption: Preemption, gang: int, members: list[int], waiting: list[int]) -> set[int]:
    """The same for a gang of which these members have places; ``waiting``: all that wait."""
    decision = preemption.decision
    pending, needs, first = decision.snapshot.pending, needs_of(decision.snapshot, gang), len(decision.draft.claims)
    with decision.journal.attempt() as attempt:
        placed = [slot for slot in members if _take_place(decision, slot)]
        limited = any(_is_limited(decision, slot) for slot in members if slot not in placed)
        if needs.met_by([pending.role[slot] for slot in placed]):
            attempt.commit()
            return set(placed)
    if any(slot not in pending.kept for slot in members):
        before = len(decision.draft.placed)
        fits = place_near(decision, gang, waiting) == codes.FITS
        return {one.slot for one in decision.draft.placed[before:]} if fits else set()
    with decision.journal.attempt() as attempt:
        if limited and needs.met_by([pending.role[slot] for slot in members if _keep_place(preemption, slot)]):
            decision.draft.join_claims(first)
            attempt.commit()
            return decision.draft.claimants & set(members)
    return set()


def _keep_place(preemption: Preemption, slot: int) -> bool:
    return preemption.keep_place(slot, int(preemption.decision.snapshot.pending.nominated[slot]))


def _is_limited(decision: Decision, slot: int) -> bool:
    """Whether limits keep a pod from the place that has been made free for it."""
    shape, row = int(decision.snapshot.pending.shape[slot]), int(decision.snapshot.pending.nominated[slot])
    allowed = decision.turns.rows_within_limits(shape)
    return not decision.turns.may_use(shape) or (allowed is not None and not allowed[row])


def _take_place(decision: Decision, slot: int) -> bool:
    snapshot = decision.snapshot
    shape, row = int(snapshot.pending.shape[slot]), int(snapshot.pending.nominated[slot])
    if _is_limited(decision, slot) or not decision.scores.fits_on(shape, row):
        return False
    if not is_near(decision, int(snapshot.pending.gang[slot]), row):
        return False
    commit(decision, slot, row, kept_devices(decision, slot, row))
    return True


def _place_one(preemption: Preemption, slot: int) -> None:
    """Place a pod that stands alone, or make room for it where it has a right to that."""
    decision = preemption.decision
    snapshot, scores, turns, draft = decision.snapshot, decision.scores, decision.turns, decision.draft
    shape = int(snapshot.pending.shape[slot])
    if decision.rivals.come_first((slot,), draft):
        return
    held_back = is_held_back(decision, slot)
    if shape in draft.at_limit or ((held_back or shape in draft.over_limit) and not preemption.may_ask(slot)):
        return
    if (
        draft.reservation is not None
        and scores.is_dead(shape)
        and turns.may_use(shape)
        and not preemption.may_ask(slot)
    ):
        return  # another pod of the shape has been looked at, and nodes are held for one that came before
    limits, not_held = turns.rows_within_limits(shape), rows_not_held(decision, [slot])
    if not turns.may_use(shape):
        if not preemption.make(slot, not_held):
            _note_over_limit(preemption, slot)
        return
    allowed, found = both(limits, not_held), None
    if not scores.is_dead(shape) and not held_back:
        found = choose(scores, shape, allowed, partial(_prefers_to_preempt, preemption, slot, not_held))
    if found is not None:
        commit(decision, slot, found)
        if not_held is not None:
            draft.count_held(found, snapshot.shapes.request[shape])
    elif not preemption.make(slot, not_held) and snapshot.pending.claim[slot] < 0:
        _wait(preemption, slot, limits, held=not_held is not None)


def _prefers_to_preempt(preemption: Preemption, slot: int, allowed: Bool | None) -> bool:
    """Whether the pod waits for evictions on nodes of its class, though others have room for it."""
    snapshot = preemption.decision.snapshot
    claims = bool(snapshot.pending.claim[slot] >= 0)
    return snapshot.classes.fallback == PREEMPT and (claims or preemption.could_help(slot, allowed))


def _note_over_limit(preemption: Preemption, slot: int) -> None:
    """Note that the queue of a pod, which no eviction helps, is at a limit. Others that ask for the same need no turn
    then, unless this one may have nobody evicted and one of them may."""
    decision = preemption.decision
    shape = int(decision.snapshot.pending.shape[slot])
    may_be_helped = not preemption.may_ask(slot) and preemption.may_any_ask(shape)
    (decision.draft.note_over_limit if may_be_helped else decision.draft.note_at_limit)(shape)


def _wait(preemption: Preemption, slot: int, limits: Bool | None, *, held: bool) -> None:
    """Note why a pod that stands alone does not fit, and hold nodes for it when it is the first in line."""
    decision = preemption.decision
    scores, draft = decision.scores, decision.draft
    shape = int(decision.snapshot.pending.shape[slot])
    if shape in draft.held_back or (held and not scores.is_dead(shape) and choose(scores, shape, limits) is not None):
        draft.note_held_back(shape)
    elif limits is not None and not scores.is_dead(shape) and choose(scores, shape) is not None:
        _note_over_limit(preemption, slot)
    else:
        reserve(decision, [slot], limits)
