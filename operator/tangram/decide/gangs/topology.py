"""Gangs whose members belong near each other: within one domain of a level of topology (a rack, a zone).

A required level is kept to or the gang waits. A preferred one is given up level by level, from narrow to wide. Among
the domains that may hold the gang the one with the least left over is tried first, so that large ones stay whole.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice, product
from typing import NamedTuple

import numpy as np

from tangram.decide import codes
from tangram.decide.decision import Decision
from tangram.decide.gangs.apart import NOWHERE
from tangram.decide.gangs.capacity import Capacity, Domains, able_when_empty, asked_of, capacity_for
from tangram.decide.gangs.gang import both, has_no_room, needed_members, needs_of, place_gang, state_of_room
from tangram.decide.placing import choose, commit
from tangram.decide.reserve.departing import with_placed
from tangram.decide.reserve.reservation import rows_not_held, untouched_first
from tangram.snapshot.arrays import Bool, Int32, Int64, Snapshot
from tangram.snapshot.values.levels import SharedReach

NONE = -1
_TRIES = 8
"""Domains of a preferred level that are tried: a wish is not worth more."""
_REACHES = 64
"""Volumes' reaches that are tried for a gang of which only some members need to be there."""
_COMBINATIONS = _REACHES**2
"""Reaches of several claims that are looked at together: of three claims there could be a quarter of a million."""


def place_near(decision: Decision, gang: int, members: list[int]) -> int:
    """Place the gang as ``place_gang`` does, within one domain of its levels; the code that says how it went."""
    snapshot, scores = decision.snapshot, decision.scores
    required, levels = _levels(snapshot, gang)
    needs = needs_of(snapshot, gang)
    roles = [snapshot.pending.role[slot] for slot in members]
    are_there = min(needs.spare(roles).values()) >= 0
    if are_there and gang in snapshot.topology.shared:
        return _place_where_some_reach(decision, gang, members)
    if not levels or not are_there:
        return place_gang(decision, gang, members)
    shapes, held = snapshot.pending.shape[members].tolist(), frozenset(_held(snapshot, gang, required))
    key = (needs, required, held, *zip(roles, shapes, strict=True))
    known = scores.hopeless_gangs.get(key)
    state = state_of_room(decision, shapes)
    if required != NONE and known is not None and known[0] in (scores.state, state):
        return known[1]
    if has_no_room(decision, members, needs):
        return codes.GANG_UNSCHEDULABLE if required == NONE else codes.TOPOLOGY_DOMAIN_FULL
    capacity, found = capacity_for(decision, members, within_limits=True), set[int]()
    for level in levels:
        least, tries = (max(needs.total, 1), None) if level == required else (len(members), _TRIES)
        domain = _within(snapshot, level, required)
        domains = capacity.over(domain, _count(snapshot, level))
        able = _able(snapshot, gang, level, domains, least)
        able.sort(key=lambda number: bool(domains.holds[number] < len(members)))  # all of them may come in time
        for number in able[:tries]:
            code = place_gang(decision, gang, members, domain == number)
            if code == codes.FITS:
                return code
            found.add(code)
    if required == NONE:
        return place_gang(decision, gang, members)
    if codes.RESERVED in found:
        return codes.RESERVED
    limited = codes.QUEUE_LIMIT in found or not all(map(decision.turns.may_use, shapes))
    code = codes.QUEUE_LIMIT if limited else codes.TOPOLOGY_DOMAIN_FULL
    scores.hopeless_gangs[key] = state, code
    return code


def _place_where_some_reach(decision: Decision, gang: int, members: list[int]) -> int:
    """Place a gang of which some members share a claim: those within the nodes that reach one volume."""
    codes_found = set[int]()
    for allowed in within_reach(decision, gang, members):
        code = place_gang(decision, gang, members, allowed)
        if code == codes.FITS:
            return code
        codes_found.add(code)
    return max(codes_found & {codes.RESERVED, codes.QUEUE_LIMIT}, default=codes.GANG_UNSCHEDULABLE)


def within_reach(decision: Decision, gang: int, members: list[int]) -> Iterator[Bool]:
    """[N] nodes where a gang may be of which some members share claims, for each volume that they may get: those first
    where there is room for all of them, then those that most nodes reach. While it is tried there, those members may be
    only where they reach that volume."""
    snapshot, reach, anchors = decision.snapshot, decision.draft.reach, decision.draft.anchors
    required = snapshot.topology.required.get(gang, NONE)
    wider = snapshot.topology.domain[required] if required != NONE else np.zeros(len(snapshot.nodes.present), np.int32)
    held, shared = _held(snapshot, gang, required), snapshot.topology.shared[gang]
    sharing = [_sharing(snapshot, one, members) for one in shared]
    least = needs_of(snapshot, gang).total - len(members)
    choices = list[list[_Choice]]()
    for one, slots in zip(shared, sharing, strict=True):
        if one.row >= 0:
            taken = snapshot.topology.taken.get(gang, ())
            there = np.asarray(wider == wider[one.row], np.bool_)
            choices.append([_Choice(there)] if one.row in taken else _on_the_row(snapshot, slots, there, one.row))
        else:
            choices.append([_Choice(rows) for rows in _reaches(decision, one, slots, least + len(slots))])
    tried = 0
    for chosen in islice(product(*choices), _COMBINATIONS):
        rows = [one.rows for one in chosen]
        numbers = {int(wider[np.argmax(one)]) for one in rows}  # each is within one domain of the required level
        number = numbers.pop()
        near = _near(sharing, rows)
        for choice in chosen:
            if choice.slot >= 0:
                near[choice.slot] = np.asarray(near[choice.slot] & choice.at, np.bool_)
        if numbers or number == NOWHERE or held - {number} or not all(one.any() for one in near.values()):
            continue
        reach |= near
        anchors |= {choice.slot for choice in chosen} - {-1}
        try:
            yield np.asarray(wider == number, np.bool_)
        finally:
            reach.clear()
            anchors.clear()
        tried += 1
        if tried == _REACHES:
            return


class _Choice(NamedTuple):
    """Where members that share a claim may be."""

    rows: Bool
    """[N]"""
    slot: int = -1
    """Of the one of them who has to be ``at`` certain node rows; -1: nobody has to."""
    at: Bool = np.zeros(0, np.bool_)
    """[N]"""


def _on_the_row(snapshot: Snapshot, sharing: list[int], rows: Bool, row: int) -> list[_Choice]:
    """The choices where one of those who share a claim is on a node row, one for each of a kind, and the others on any
    of the ``rows``."""
    first = {int(snapshot.pending.shape[slot]): slot for slot in reversed(sharing)}
    at = np.zeros(len(rows), np.bool_)
    at[row] = True
    return [_Choice(rows, slot, at) for slot in first.values()] or [_Choice(rows)]


def _near(sharing: Iterable[list[int]], rows: Iterable[Bool]) -> dict[int, Bool]:
    """Slot -> [N] node rows where it reaches the volumes of all claims that it shares."""
    found = dict[int, Bool]()
    for slots, there in zip(sharing, rows, strict=True):
        for slot in slots:
            found[slot] = np.asarray(found[slot] & there, np.bool_) if slot in found else there
    return found


def _sharing(snapshot: Snapshot, shared: SharedReach, members: list[int]) -> list[int]:
    """Those of the members that name the claim."""
    claim = snapshot.pending.names[members[0]].namespace, shared.claim
    users = snapshot.pending.sharing.get(claim, set[int]())
    return [slot for slot in members if slot in users]


def _reaches(decision: Decision, shared: SharedReach, sharing: list[int], least: int) -> list[Bool]:
    """[N] each: nodes that reach one volume for those who share its claim, and that could hold so many of them."""
    snapshot, found = decision.snapshot, list[tuple[bool, int, int, int]]()
    capacity = capacity_for(decision, sharing, within_limits=True) if sharing else None
    for level in shared.levels:
        domain, count = snapshot.topology.domain[level], _count(snapshot, level)
        sizes, able = np.bincount(domain[domain != NOWHERE], minlength=count), np.ones(count, np.bool_)
        lacks = [False] * count
        if capacity is not None:
            able = able_when_empty(decision, sharing, max(least, 1), domain, count)
            whole = np.bincount(domain[domain != NOWHERE], capacity.whole[domain != NOWHERE], count)
            able &= whole >= max(least, 1) * int(capacity.asked.min())
            lacks = (capacity.over(domain, count).holds < len(sharing)).tolist()
        numbers = np.flatnonzero(able & (sizes > 0)).tolist()
        found += [(lacks[number], -int(sizes[number]), level, number) for number in numbers]
    chosen = sorted(found)[:_REACHES]
    return [np.asarray(snapshot.topology.domain[level] == number, np.bool_) for _, _, level, number in chosen]


def reach_to_wait_for(decision: Decision, gang: int, members: list[int]) -> dict[int, Bool]:
    """Slot -> [N] node rows where those members had best wait whom a gang needs of which some share claims: these where
    they reach one volume of each, and all within one domain of the required level. Chosen as in
    ``domain_to_wait_for``; empty: nothing will do, or nobody is needed. ``members``: all that wait."""
    snapshot, needed = decision.snapshot, needed_members(decision.snapshot, gang, members)
    if not needed:
        return {}
    capacity, departures = capacity_for(decision, needed), with_placed(decision)
    emptiest = np.lexsort((capacity.tie_rank, -capacity.free))
    order = emptiest if departures is None else untouched_first(departures, capacity.tie_rank)
    whole, shapes = np.where(capacity.usable, capacity.whole, 0)[order], snapshot.pending.shape
    asked = [(slot, asked_of(snapshot, int(shapes[slot]), capacity.with_gpus)) for slot in needed]
    soonest, found = len(order) + 1, dict[int, Bool]()
    for allowed in within_reach(decision, gang, needed):
        near = {slot: allowed & decision.draft.reach.get(slot, True) for slot in needed}
        together = Counter[bytes]()
        for slot, amount in asked:
            together[near[slot].tobytes()] += amount
        wanted = [(allowed.tobytes(), together.total()), *together.items()]
        last = max(_enough_after(whole * np.frombuffer(rows, np.bool_)[order], amount) for rows, amount in wanted)
        if last < soonest:
            soonest, found = last, near
    return found


def _enough_after(amounts: Int64, wanted: int) -> int:
    """How many of the amounts make up what is wanted; more than there are: all are too little."""
    return int(np.searchsorted(np.cumsum(amounts), wanted)) + 1


def place_further(decision: Decision, gang: int, slot: int, rows: Int32) -> int | None:
    """Place one more member of a gang that got what it needs in this decision, on the node ``rows``, as near to those
    as it can be; its node row, None: it does not fit."""
    snapshot, scores, turns = decision.snapshot, decision.scores, decision.turns
    shape = int(snapshot.pending.shape[slot])
    if not turns.may_use(shape) or scores.is_dead(shape):
        return None
    allowed = both(turns.rows_within_limits(shape), rows_not_held(decision, [slot]))
    allowed = both(allowed, _reached_so_far(decision, gang, slot))
    required, levels = _levels(snapshot, gang)
    masks = []
    for level in levels:
        domain = snapshot.topology.domain[level]
        numbers = set(domain[rows].tolist())
        if len(numbers) == 1 and NOWHERE not in numbers:
            masks.append(both(allowed, np.asarray(domain == numbers.pop(), np.bool_)))
    for mask in masks if required != NONE else [*masks, allowed]:
        row = choose(scores, shape, mask)
        if row is not None:
            commit(decision, slot, row)
            return row
    return None


def _reached_so_far(decision: Decision, gang: int, slot: int) -> Bool | None:
    """[N] nodes that reach volumes which the members placed in this decision reach that share claims with the one of
    the slot; None: it shares none with them."""
    snapshot, found = decision.snapshot, None
    placed = {one.slot: one.row for one in decision.draft.placed if snapshot.pending.gang[one.slot] == gang}
    for shared in snapshot.topology.shared.get(gang, ()) if placed else ():
        rows = [placed[one] for one in _sharing(snapshot, shared, list(placed))]
        if shared.row >= 0 or not rows or not _sharing(snapshot, shared, [slot]):
            continue
        near = np.zeros(len(snapshot.nodes.present), np.bool_)
        for level in shared.levels:
            domain = snapshot.topology.domain[level]
            if domain[rows[0]] != NOWHERE and (domain[rows] == domain[rows[0]]).all():
                near |= domain == domain[rows[0]]
        found = both(found, near)
    return found


def _levels(snapshot: Snapshot, gang: int) -> tuple[int, tuple[int, ...]]:
    """(required level or -1, levels to try from narrow to wide, the required one last).

    A gang that says nothing tries the usual levels, as far as they distinguish nodes.
    """
    topology = snapshot.topology
    required, preferred = topology.required.get(gang, NONE), topology.preferred.get(gang, NONE)
    if required == NONE and preferred == NONE:
        usual = range(topology.usual, NONE, -1)
        return NONE, tuple(level for level in usual if len(topology.names[level]) > 1)
    return required, tuple(range(max(preferred, required), max(required, 0) - 1, -1))


def _held(snapshot: Snapshot, gang: int, level: int) -> set[int]:
    """Domains of the level that the gang's bound members are in; -1 among them: one is in none."""
    rows = snapshot.topology.taken.get(gang)
    return set() if rows is None or level == NONE else set(snapshot.topology.domain[level, rows].tolist())


def _within(snapshot: Snapshot, level: int, required: int) -> Int32:
    """[N] domain of each node at the level, -1 also for nodes that are in no domain of the required level."""
    domains = snapshot.topology.domain
    found: Int32 = domains[level].copy()
    if required != NONE:
        found[domains[required] == NOWHERE] = NOWHERE
    return found


def _count(snapshot: Snapshot, level: int) -> int:
    return len(snapshot.topology.names[level])


def _able(snapshot: Snapshot, gang: int, level: int, domains: Domains, least: int) -> list[int]:
    """Domains of the level that may hold ``least`` members, best first; where some are bound, theirs or none."""
    held = _held(snapshot, gang, level)
    if len(held) > 1 or NOWHERE in held:
        return []
    able = domains.holds >= least
    if held:
        able &= np.isin(np.arange(len(able)), list(held))
    return domains.in_order(able)


def is_near(decision: Decision, gang: int, row: int) -> bool:
    """Whether a node row is where the gang's members that are bound, or placed by the decision, need the others to be;
    of no gang (-1) any is."""
    snapshot = decision.snapshot
    level = snapshot.topology.required.get(gang, NONE)
    if level == NONE:
        return True
    domain, pending = snapshot.topology.domain[level], snapshot.pending
    placed = {int(domain[one.row]) for one in decision.draft.placed if pending.gang[one.slot] == gang}
    number = int(domain[row])
    return number != NOWHERE and _held(snapshot, gang, level) | placed <= {number}


def domain_to_wait_for(decision: Decision, gang: int, members: list[int]) -> Bool | None:
    """[N] nodes of the domain for which the gang had best wait, or be made room in; None: it may be anywhere.

    Of the nodes on which no pod has been placed for longest, the first domain that has enough of them. While these are
    held nothing new goes there, so it stays the same domain. Where nothing is ever held, of the emptiest nodes.
    ``members``: all that wait.
    """
    snapshot, needed = decision.snapshot, needed_members(decision.snapshot, gang, members)
    level = snapshot.topology.required.get(gang, NONE)
    if level == NONE:
        return None
    domain = snapshot.topology.domain[level]
    if not needed:  # it has what it needs, and each further member goes where the others are
        held = _held(snapshot, gang, level)
        return np.asarray(np.isin(domain, list(held)) & (len(held) == 1), np.bool_) if held else None
    able = _able_when_empty(decision, gang, members)
    if held := _held(snapshot, gang, level):
        able &= np.isin(np.arange(len(able)), list(held)) if len(held) == 1 else False
    if not able.any():
        return np.zeros(len(domain), np.bool_)
    capacity, found = capacity_for(decision, needed), Counter[int]()
    asked = int((capacity.wanted * capacity.asked).sum())
    departures, emptiest = with_placed(decision), np.lexsort((capacity.tie_rank, -capacity.free))
    order = emptiest if departures is None else untouched_first(departures, capacity.tie_rank)
    possible = capacity.usable & (domain != NOWHERE) & able[domain]
    for row in order[possible[order]].tolist():
        number = int(domain[row])
        found[number] += int(capacity.whole[row])
        if found[number] >= asked:
            return np.asarray(domain == number, np.bool_)
    return np.zeros(len(domain), np.bool_)


def domains_to_ask(decision: Decision, gang: int, members: list[int], first: Bool | None) -> Iterator[Bool | None]:
    """[N] nodes of each domain in which the gang can be made room, one after the other; None: it may be anywhere.

    The ``first`` is the one that it had best wait for, without rows where there is none; then the others that are large
    enough, the roomiest before. ``members``: all that wait.
    """
    if first is None or first.any():
        yield first
    snapshot = decision.snapshot
    level = snapshot.topology.required.get(gang, NONE)
    if first is None or level == NONE or _held(snapshot, gang, level):
        return
    domain, count = snapshot.topology.domain[level], _count(snapshot, level)
    able = _able_when_empty(decision, gang, members)
    if not able.any():
        return
    capacity = capacity_for(decision, needed_members(snapshot, gang, members))
    rows = np.flatnonzero((domain != NOWHERE) & capacity.usable & ~first)
    whole = np.bincount(domain[rows], capacity.whole[rows], count)
    domains = capacity.over(domain, count)
    asked = int((capacity.wanted * capacity.asked).sum())
    for number in np.lexsort((domains.tie_rank, -domains.free)).tolist():
        if whole[number] >= max(asked, 1) and able[number]:
            yield np.asarray(domain == number, np.bool_)


def _able_when_empty(decision: Decision, gang: int, members: list[int]) -> Bool:
    """[D] domains of the required level that could hold as many of the waiting members as are needed, as far as their
    rules about each other go."""
    topology = decision.snapshot.topology
    level, least = topology.required[gang], needs_of(decision.snapshot, gang).total
    return able_when_empty(decision, members, least, topology.domain[level], len(topology.names[level]))


def sentence(decision: Decision, gang: int) -> str:
    """Why a gang that must be within one domain waits: what it needs there, and what the best domain has."""
    snapshot = decision.snapshot
    topology, pending = snapshot.topology, snapshot.pending
    level = topology.required[gang]
    claim, count = topology.claims.get(gang), _count(snapshot, level)
    word = topology.levels[level] if claim is None else ""
    members = np.flatnonzero(pending.waiting & (pending.gang == gang)).tolist()
    capacity, missing = capacity_for(decision, members), max(1, needs_of(snapshot, gang).total)
    begun = f"gang {snapshot.gangs.names[gang]} needs {_amount(capacity, missing)} "
    begun += f"within one {word}" if claim is None else f"where one volume for claim {claim} can be reached"
    held = _held(snapshot, gang, level)
    if len(held) > 1 or NOWHERE in held:
        return f"{begun}, but its bound members are in different ones"
    if not count:
        why = f"has the label {topology.labels[level]}" if claim is None else "reaches any"
        return f"{begun}, but no node {why}"
    domains = capacity.over(topology.domain[level], count)
    best = next(iter(held)) if held else _roomiest(domains)
    which = f"{word} {topology.names[level][best]}".lstrip()
    where = f"its other members run in {which}, which" if held else f"the best candidate is {which}, which"
    unit = "GPUs" if capacity.with_gpus else "CPUs"
    return f"{begun}; {where} has {domains.free[best] / 1000:g} free {unit} and room for {domains.holds[best]}"


def _amount(capacity: Capacity, missing: int) -> str:
    """How many members at least, and what those ask for where that follows from their number."""
    members = f"{missing} member{'s' * (missing > 1)}"
    if not capacity.with_gpus or (len(capacity.wanted) > 1 and missing < capacity.members):
        return members
    asked = int((capacity.wanted * capacity.asked).sum()) * missing // capacity.members
    return f"{asked / 1000:g} GPUs for {members}"


def _roomiest(domains: Domains) -> int:
    """The domain that holds most members, then the one with most that is free."""
    return int(np.lexsort((domains.tie_rank, -domains.free, -domains.holds))[0])
