"""Reservations: who waits first for GPUs is not starved by smaller ones that always fit somewhere.

EASY backfilling (Lifka, "The ANL/IBM SP scheduling system", 1995) on nodes: when the first pod or gang in line does not
fit, the time is worked out at which enough running pods will have ended for it, by what they say of their duration, and
nodes are held for it. Whoever comes after it may go before it where that does not matter: on other nodes, or anywhere
when it says that it will have ended by then. So, if nobody runs longer than said, the first in line starts no later
than was worked out when it came to be first.

Where too few say how long they run, nodes are kept free for it once it has waited for ``Departures.delay``; once it has
waited for ``PATIENCE`` times as long words count only while nobody on the nodes in question has broken his, and after
``MOST_PATIENCE`` times as long not at all: then they are kept free in any case. Held are then nodes on which all pods
started before that moment, those first that are free soonest, and nothing new goes there. Whichever of them are chosen
later, their pods all started before that moment; so a gang of equal members that is the first in line starts at the
latest when the pods that ran then have ended. (If others were first at that moment, and have filled too many nodes
since, the moment is the one at which it came to be the first.)
"""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from tangram.decide.decision import Decision
from tangram.decide.draft import Reservation
from tangram.decide.fit.kernels import Space, asked_by
from tangram.decide.fit.upper_bounds import Group
from tangram.decide.reserve.departing import with_placed
from tangram.decide.reserve.packing import Ends, Held, Wanted, copies_on, leave, place_copies, wait_for
from tangram.decide.reserve.vain import Vain, rows_for
from tangram.snapshot.arrays import UNLIMITED, Bool, Departures, Int32, Int64, Snapshot

PATIENCE = 24
"""Delays for which declared durations are honoured, once enough pods declare one."""
MOST_PATIENCE = 7 * PATIENCE
"""Delays for which it is trusted where everybody on the nodes in question has kept it."""
OVERRUN = 10
"""A pod that has run longer than it said is expected to run for another tenth of that."""


def may_reserve(snapshot: Snapshot) -> bool:
    """Whether nodes may be held for anybody at all: pods are to leave and, if none says when, somebody has waited long
    for that."""
    departures, pending = snapshot.departures, snapshot.pending
    if departures is None or not departures.present.any():
        return False
    if (departures.ends[departures.present] < UNLIMITED).any():
        return True
    waited = pending.has_waited(snapshot.now)
    return bool((snapshot.now - pending.created[waited] >= departures.delay).any())


def rows_not_held(decision: Decision, slots: list[int]) -> Bool | None:
    """[N] node rows on which the pods of the slots delay nobody who goes before them; None: all."""
    held, snapshot = decision.draft.reservation, decision.snapshot
    if held is None:
        return None
    pending, shapes = snapshot.pending, snapshot.shapes
    if all(ends_in_time(snapshot, held, slot) for slot in slots):
        return None
    found = np.ones(len(snapshot.nodes.present), np.bool_)
    found[held.rows] = False
    if held.start and len(slots) == 1 and not shapes.ask_count[pending.shape[slots[0]], 0]:
        found[held.rows] = (held.spare >= shapes.request[pending.shape[slots[0]]]).all(axis=1)
    return found


def ends_in_time(snapshot: Snapshot, held: Reservation, slot: int) -> bool:
    """Whether the pod, started now, will have ended by its declared duration when the first in line can start."""
    duration = int(snapshot.pending.duration[slot])
    return duration >= 0 and snapshot.now + duration <= held.start


def is_held_back(decision: Decision, slot: int) -> bool:
    """Whether another pod of the shape has been held back and this one ends no sooner."""
    held, snapshot = decision.draft.reservation, decision.snapshot
    if held is None or int(snapshot.pending.shape[slot]) not in decision.draft.held_back:
        return False
    return not ends_in_time(snapshot, held, slot)


def reserve(
    decision: Decision, slots: list[int], allowed: Bool | None = None, where: Mapping[int, Bool] = MappingProxyType({})
) -> None:
    """Hold nodes for the pods of the slots, which do not fit now, if they are the first that have waited.

    ``allowed`` [N]: node rows on which their queue is within its limits; ``where``: slot -> [N] those where this one
    may be, for slots that may not be wherever the others may. Nothing is held for what asks for no GPUs, for
    what would not fit even when all that ends has ended, for what resources do not keep from fitting, and where nobody
    is, or waits, whom the pods have to be near.
    """
    snapshot, draft, pending = decision.snapshot, decision.draft, decision.snapshot.pending
    if snapshot.departures is None or draft.reservation is not None or not slots:
        return
    if not pending.has_waited(snapshot.now)[slots].all():
        return
    groups = _groups(decision, slots, allowed, where)
    key = tuple((one.shape, one.number, one.rows.tobytes()) for one in groups)
    asks = any(snapshot.shapes.ask_count[one.shape, 0] for one in groups)
    if not asks or not draft.try_to_reserve(key):
        return
    departures = with_placed(decision)
    assert departures is not None
    waits_since, delay = int(pending.created[slots].min()), departures.delay
    waited, vain = snapshot.now - waits_since, Vain(decision, departures, groups)
    words_count = waited < MOST_PATIENCE * delay and not vain.is_known()
    if not words_count and waited < delay:
        return
    future = _Future(decision, departures)
    found = future.soonest(groups) if words_count else None
    if future.is_vain:
        vain.note()
    if found is not None and waited >= PATIENCE * delay and _has_overrun(departures, found[1], snapshot.now):
        found = None
    if found is None and waited >= delay:
        since = max(patience for patience in (1, PATIENCE, MOST_PATIENCE) if waited >= patience * delay)
        found = future.kept_free(groups, waits_since + since * delay)
    if found is not None:
        first = slots[0]
        gang = int(pending.gang[first])
        name = f"gang {snapshot.gangs.names[gang]}" if gang >= 0 else f"pod {pending.names[first]}"
        draft.hold_nodes(Reservation(name, *found))


def _groups(decision: Decision, slots: list[int], allowed: Bool | None, where: Mapping[int, Bool]) -> list[Group]:
    """Equal pods and the node rows that they may use: those first that may use the fewest, of these the largest."""
    snapshot, counted = decision.snapshot, Counter[tuple[int, bytes]]()
    everywhere = np.ones(len(snapshot.nodes.present), np.bool_) if allowed is None else allowed
    for slot in slots:
        counted[int(snapshot.pending.shape[slot]), (everywhere & where.get(slot, True)).tobytes()] += 1
    found = [Group(shape, number, np.frombuffer(rows, np.bool_)) for (shape, rows), number in counted.items()]
    return sorted(found, key=lambda one: (one.rows.sum(), -snapshot.shapes.gpu_milli(one.shape), one.shape))


def _has_overrun(departures: Departures, rows: Int64, now: int) -> bool:
    """Whether a pod on the node rows has run longer than it said, by more than it is expected to."""
    here = departures.present & (departures.ends < UNLIMITED) & np.isin(departures.node, rows)
    ends, started = departures.ends[here], departures.started[here]
    return bool((ends + (ends - started) // OVERRUN < now).any())


def untouched_first(departures: Departures, tie_rank: Int64) -> Int64:
    """[N] node rows, those first on which no pod has been placed for longest."""
    return np.lexsort((tie_rank, _newest(departures, len(tie_rank))))


def _newest(departures: Departures, rows: int) -> Int64:
    """[N] when the newest pod of each node row started; 0: none is there."""
    found, slots = np.zeros(rows, np.int64), np.flatnonzero(departures.present)
    np.maximum.at(found, departures.node[slots], departures.started[slots])
    return found


class _Future:
    """A scratch of what is free, on which pods leave and others are put in their stead."""

    def __init__(self, decision: Decision, departures: Departures, allowed: Bool | None = None) -> None:
        """``allowed`` [N]: node rows that may be used; None: all that the groups may use."""
        snapshot, pool = decision.snapshot, decision.pool
        nodes = snapshot.nodes
        self._decision, self._snapshot, self._departures, self._allowed = decision, snapshot, departures, allowed
        self._asked = asked_by(snapshot.shapes, nodes.counts_devices)
        self._running = Held(departures.node, departures.shape, departures.milli, departures.memory)
        free, devices, sizes = pool.free.copy(), pool.device_free.copy(), pool.device_memory_free.copy()
        self._space = Space(free, devices, sizes, nodes.device_count, nodes.device_memory)
        self._held = np.zeros_like(free)
        self.is_vain = False
        """The pods were found not to fit even once all have ended who say when."""

    def soonest(self, groups: list[Group]) -> tuple[int, Int64, Int64] | None:
        """(start, rows, spare) when enough pods have ended as they said; None: too few say so, or nobody has to end."""
        departures, now = self._departures, self._snapshot.now
        slots = np.flatnonzero(departures.present & (departures.ends < UNLIMITED))
        ends = departures.ends.copy()
        late = slots[ends[slots] <= now]
        ends[late] = now + np.maximum(1, (ends[late] - departures.started[late]) // OVERRUN)
        order, gone = slots[np.argsort(ends[slots], kind="stable")].astype(np.int64), 0
        leaving = Ends(order, ends, self._running)
        for group in groups:
            now_free = self._copies(group)
            out = now_free.copy()
            gone = wait_for(
                Wanted(group.shape, group.number, self._rows(group), out), gone, leaving, self._space, self._asked
            )
            if gone < 0:
                self.is_vain = True
                return None
            # As few nodes as possible, and of equal ones those that nobody could use until then anyway.
            self._put(group, np.lexsort((self._snapshot.nodes.tie_rank, now_free, -out)))
        return self._outcome(int(ends[order[gone - 1]])) if gone else None

    def kept_free(self, groups: list[Group], since: int) -> tuple[int, Int64, Int64] | None:
        """(0, rows, spare), the start being unknown: of nodes whose pods all started by then those free soonest.

        Where these are too few, as many nodes as are needed count, those first whose newest pod is the oldest.
        """
        departures = self._departures
        if self._on(None)._put_all(groups, np.arange(len(self._held))):
            return None  # it is not resources that keep the pods from fitting
        running, newest = np.flatnonzero(departures.present), _newest(departures, len(self._held))
        order = untouched_first(departures, self._snapshot.nodes.tie_rank)
        for untouched in (newest <= since, None):
            emptied = self._on(untouched)
            leave(running, self._running, self._asked, emptied._space)
            if emptied._put_all(groups, order):
                break
        else:
            return None
        if untouched is None:
            untouched = newest <= newest[emptied._held.any(axis=1)].max()
        soonest = self._on(untouched).soonest(groups)
        return emptied._outcome(0) if soonest is None else (0, *soonest[1:])

    def _on(self, rows: Bool | None) -> "_Future":
        """The same scratch as it was in the beginning, with fewer rows that may be used."""
        return _Future(self._decision, self._departures, rows)

    def _put_all(self, groups: list[Group], order: Int64) -> bool:
        """Put the pods on rows in this order; False when they do not all fit."""
        return not any(self._put(group, order) for group in groups)

    def _put(self, group: Group, order: Int64) -> int:
        """Put the pods on rows in this order; how many do not fit."""
        room, (shape, count, _) = self._copies(group), group
        for row in order[room[order] > 0].tolist():
            placed = place_copies(row, shape, count, self._space, self._asked)
            self._held[row] += placed * self._snapshot.shapes.request[shape]
            count -= placed
            if not count:
                break
        return count

    def _copies(self, group: Group) -> Int32:
        """[N] how many of the pods fit on each row now, all of them at most."""
        out = np.zeros(len(self._held), np.int32)
        copies_on(Wanted(group.shape, group.number, self._rows(group), out), self._space, self._asked)
        return out

    def _outcome(self, start: int) -> tuple[int, Int64, Int64]:
        rows = np.flatnonzero(self._held.any(axis=1))
        return start, rows, self._space.free[rows]

    def _rows(self, group: Group) -> Bool:
        """[N] rows that the pods may use as far as labels, taints, models, their class, limits and those go that they
        have to be near."""
        shape, rows = group.shape, rows_for(self._decision, group.shape, group.rows)
        rows = rows if self._allowed is None else rows & self._allowed
        neighbours, pending = self._decision.pool.neighbours, self._snapshot.pending
        near = neighbours.near_company(shape, first=False)
        if near is None or neighbours.awaits_company(shape, np.unique(pending.shape[pending.waiting]).tolist()):
            return rows
        return rows & near
