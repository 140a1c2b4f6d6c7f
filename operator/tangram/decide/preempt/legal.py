"""Whether the pods of a set may be evicted together: what promises, shares and limits say of it.

A set is legal or not whatever the order in which its units leave, and every part of a legal set is legal, but for what
limits ask to leave.
"""

from typing import NamedTuple

from tangram.decide.jit import kernel
from tangram.decide.queues.balance import Sides, keeps_enough
from tangram.snapshot.arrays import Bool, Int8, Int32, Int64

BY_RANK, BY_CLASS, BY_GUARANTEE, BY_SHARE, IN_KIND = range(5)
"""Why a pod may be evicted: lower in the same queue, of a lower class anywhere, it uses what others are promised, or
its queue has more than its share, where some must not lose more than they get."""
PROTECTED, BORROWED, STRADDLES = range(3)
"""What guarantees say of a set: no; nothing that they cover leaves; of a queue that is above its promise a unit leaves
that is covered in part."""


class Among(NamedTuple):
    """Units that may be evicted. U units, X columns."""

    level: Int32
    queue: Int32
    head: Int32
    amounts: Int64
    """[U, X]"""
    core: Int64
    """[U, X] the same without members that leave with their gang though it could do without them."""
    damage: Int64
    lost: Int64
    size: Int32
    why: Int8
    """[U] by which right; -1: by none."""
    gone: Bool


class Rules(NamedTuple):
    """What a claim may take. Q queue rows without leaves, K ranks, P rows of its path that are at a limit."""

    parent: Int32
    on_path: Bool
    """[Q] rows that the claimant's queue is in."""
    guarantee: Int64
    """[Q, X]"""
    cover: Int64
    """[Q, K, X] what pods of at least a rank use."""
    judged: Bool
    """[5, 2, X] by right and by whether the unit has GPUs: columns in which a guarantee holds it where queues part."""
    unasked: Bool
    """[X] columns that the claimant does not ask for."""
    brings: Int64
    """[X] the most that may leave where some must not lose more than they get."""
    owed_row: Int32
    """[P]"""
    owed: Int64
    """[P, X] what has to leave below each of these rows."""
    tier: Int8
    """[5] of each right."""
    strict: bool
    """Nothing leaves that a guarantee covers in part."""


@kernel
def is_below(row: int, top: int, parent: Int32) -> bool:
    """Whether a queue row is another one or below it."""
    while row >= 0 and row != top:
        row = parent[row]
    return row >= 0


@kernel
def counts(one: int, picked: Int32, among: Among) -> bool:
    """Whether what a picked unit leaves is to be counted: what a gang cannot run without takes everybody along."""
    head = among.head[one]
    if head >= 0 and head != one:
        for other in picked:
            if other == head:
                return False
    return True


@kernel
def lost_below(row: int, level: int, picked: Int32, among: Among, parent: Int32, total: Int64, most: Int64) -> None:
    """What the picked units of a rank (-1: of all) leave below a row, and the most that one of them does, by column.

    Members that a gang can do without go before it: they are not in the most.
    """
    total[:] = 0
    most[:] = 0
    for one in picked:
        if (level < 0 or among.level[one] == level) and is_below(among.queue[one], row, parent):
            if not counts(one, picked, among):
                continue
            for column in range(len(total)):
                total[column] += among.amounts[one, column]
                most[column] = max(most[column], among.core[one, column])


@kernel
def last_promised(picked: Int32, among: Among, rules: Rules, total: Int64, most: Int64) -> int:
    """Whether guarantees let the last of the picked units leave with the others: PROTECTED, BORROWED or STRADDLES.

    Where queues part from the claimant's, the ``judged`` columns of its right count; in queues that both are in, for an
    eviction by rank or class only the columns that the claimant does not ask for.
    """
    one = picked[-1]
    row, level, why, found = among.queue[one], among.level[one], among.why[one], BORROWED
    gpus = 1 if among.amounts[one, 2] > 0 else 0
    while row >= 0:
        summed = False
        for column in range(len(total)):
            if among.amounts[one, column] == 0 or rules.guarantee[row, column] == 0:
                continue
            if rules.on_path[row]:
                if why == BY_GUARANTEE or not rules.unasked[column]:
                    continue
            elif not rules.judged[why, gpus, column]:
                continue
            if not summed:
                lost_below(row, level, picked, among, rules.parent, total, most)
                summed = True
            kept = rules.cover[row, level, column] - total[column]
            if kept < rules.guarantee[row, column]:
                if why != BY_GUARANTEE or rules.strict or kept + most[column] <= rules.guarantee[row, column]:
                    return PROTECTED
                found = STRADDLES
        row = rules.parent[row]
    return found


@kernel
def promised(picked: Int32, among: Among, rules: Rules, total: Int64, most: Int64) -> int:
    """Whether guarantees let the picked units leave, as they do without the last one: PROTECTED, BORROWED or STRADDLES.

    CPUs and memory of units with GPUs may not be judged, but those without GPUs are held by what all leave together.
    """
    worst, last = last_promised(picked, among, rules, total, most), picked[-1]
    if among.amounts[last, 2] == 0:
        return worst
    for place in range(len(picked) - 1):
        if among.amounts[picked[place], 2] == 0 and worst != PROTECTED:
            others = picked.copy()
            others[place], others[-1] = last, picked[place]
            says = last_promised(others, among, rules, total, most)
            worst = says if says != BORROWED else worst
    return worst


@kernel
def shared(picked: Int32, among: Among, rules: Rules, sides: Sides, total: Int64, most: Int64) -> bool:
    """Whether shares let the last of the picked units leave: evictions for other reasons do not ask for them."""
    one = picked[-1]
    if among.why[one] < BY_SHARE:
        return True
    if among.why[one] == IN_KIND:
        for column in range(len(total)):
            given = 0
            for other in picked:
                if among.why[other] == IN_KIND and counts(other, picked, among):
                    given += among.amounts[other, column]
            if given > rules.brings[column]:
                return False
    row = sides.branch[among.queue[one]]
    lost_below(row, among.level[one], picked, among, rules.parent, total, most)
    return keeps_enough(row, rules.cover[row, among.level[one]] - total, sides)


@kernel
def paid(picked: Int32, among: Among, rules: Rules, total: Int64, most: Int64) -> bool:
    """Whether what leaves is enough to keep within all limits."""
    for place in range(len(rules.owed_row)):
        lost_below(rules.owed_row[place], -1, picked, among, rules.parent, total, most)
        for column in range(len(total)):
            if rules.owed[place, column] > total[column]:
                return False
    return True
