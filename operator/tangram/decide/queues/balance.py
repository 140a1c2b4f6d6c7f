"""Which of two queues has more of the pool for its weight: when one takes from the other though neither is owed it.

Two queues are compared where they part: the two rows with one parent above which the tree is common to both. With the
pod that it asks for, the claimant's row may not have more than the other keeps: neither in its weighted dominant share
nor in what the claim is about (GPUs; of pods without GPUs, CPU and memory, and then it has fewer GPUs too). Of the
other row only pods of at least the victims' rank count, so that no low pod can take what a queue has only high ones
for. The idea is that of Kueue's ``LessThanOrEqualToFinalShare`` and of KAI-Scheduler's reclaim by fair share.

Why nothing goes in circles. For a row of the tree and a rank let U be the share of GPUs of its pods of at least that
rank, and after it, for ties, the share of CPU and memory of those without GPUs. Sort all U of one level of the tree,
smallest first. Then every such eviction makes the list of the level where the queues part larger by the order of
words in a dictionary: what grows is below the claimant's new share T and what shrinks stays at T or above. So does an
eviction by rank: all that shrinks contains the claimant and stays above what grows, U of the claimant's rank. New pods
only make U grow. Levels above the one where the queues part must not lose either, if the rows that both queues are in
have others beside them: there victims are lower than the claimant (U of its rank grows), or it takes no more than it
brings. The lists, from the top of the tree down, have no circle, and guarantees, which are compared before them, lose
nothing to such evictions. Where classes evict each other, only equal classes share evenly: all of this holds for
the heaviest class by itself, then for the next one.
"""

from typing import NamedTuple

import numpy as np

from tangram.decide.jit import kernel
from tangram.decide.queues.fairness import Turns, charge_of, share_per_unit
from tangram.decide.queues.rights import least_runtime
from tangram.snapshot.arrays import Bool, Float64, Int32, Int64, Snapshot

_GPU = 2
_EQUAL = 1e-12
"""Shares that differ by less, relatively, are equal but for rounding: amounts and weights are whole numbers."""


class Sides(NamedTuple):
    """The claimant's side and the other one where queues part. Q queue rows, X columns."""

    branch: Int32
    """[Q] the row in which the queue is where it parts from the claimant's; -1: one of them is within the other."""
    part: Float64
    """[Q, X] what one unit of a column counts for the row's share."""
    mine: Float64
    """[Q, X] by ``branch``, the parts that the claimant's side beside it has, with the pod."""
    gpus: bool
    """Whether the claim is for GPUs."""


class Tree:
    """What comparing queues needs of the tree, the same for all claims of one decision."""

    def __init__(self, snapshot: Snapshot) -> None:
        queues = snapshot.queues
        self._parent: list[int] = queues.parent[~queues.is_leaf].tolist()  # leaves follow the queues
        self._share_per_unit = share_per_unit(snapshot)
        shapes, pending = snapshot.shapes, snapshot.pending
        asks = np.zeros(len(queues.names), np.bool_)
        asks[shapes.leaf[pending.shape[np.flatnonzero(pending.waiting)]]] = True
        busy = asks | queues.usage.any(axis=1)
        for row in range(len(busy) - 1, -1, -1):
            if queues.parent[row] >= 0:
                busy[queues.parent[row]] |= busy[row]
        self._busy = busy

    def sides(self, own: int, *, gpus: bool) -> tuple[Sides, list[tuple[int, Int64]]]:
        """The sides seen from a claimant's queue row, not weighed yet, and by rows that the queue is in the ones beside
        them."""
        count, path = len(self._parent), self.path(own)
        branch = np.full(count, -1, np.int32)
        for row, above in enumerate(self._parent if path else ()):
            if row not in path and above != own:
                branch[row] = row if above < 0 or above in path else branch[above]
        parent, others = np.array(self._parent), np.unique(branch[branch >= 0])
        part = self._share_per_unit[:count]
        return Sides(branch, part, np.zeros_like(part), gpus), [
            (row, others[parent[others] == parent[row]].astype(np.int64)) for row in path
        ]

    def weigh(self, sides: Sides, beside: list[tuple[int, Int64]], asked: Int64, turns: Turns) -> None:
        """Fill in what the claimant's sides have with one more pod that asks for so much."""
        for row, others in beside:
            sides.mine[others] = (np.array(turns.used(row), np.int64) + asked) * self._share_per_unit[row]

    def crowded(self, own: int) -> set[int]:
        """Rows that the queue is in beside which, or beside whose ancestors, others have or want something."""
        found: set[int] = set()
        for row in reversed(list(self.path(own))):
            above = self._parent[row]
            beside = (other for other, parent in enumerate(self._parent) if parent == above and other != row)
            if above in found or any(self._busy[other] for other in beside):
                found.add(row)
        return found

    def parent(self, row: int) -> int:
        """The row above; -1: none."""
        return self._parent[row]

    def path(self, row: int) -> list[int]:
        """A row and those above it; none for -1."""
        found = []
        while row >= 0:
            found.append(row)
            row = self._parent[row]
        return found


def behind(snapshot: Snapshot) -> Bool:
    """[Q + 1, 2] whether a row, or one above it, has less than one beside it, by what pods without and with GPUs ask
    for: a quick test, which may say yes too often. The last row is for pods without a queue."""
    queues = snapshot.queues
    have = queues.usage * share_per_unit(snapshot)
    share = have.max(axis=1)
    out = np.zeros((len(share) + 1, 2), np.bool_)
    for parent in np.unique(queues.parent[~queues.is_leaf]).tolist():
        rows = np.flatnonzero((queues.parent == parent) & ~queues.is_leaf)
        most = np.where(queues.reclaimable[rows], share[rows], -1.0)
        for kind, columns in enumerate((have[rows, :_GPU], have[rows, _GPU:])):
            amount = columns.sum(axis=1)
            more = (most > share[rows, None] * (1 - _EQUAL) - _EQUAL) & (amount > amount[:, None] * (1 + _EQUAL))
            out[rows, kind] = more.any(axis=1) | out[parent, kind]
    return out


@kernel
def no_more(mine: Float64, theirs: Float64) -> bool:
    """Whether one side's largest part, or the sum of its parts where these are equal, is at most the other's."""
    one, other = mine.max(), theirs.max()
    if one < other * (1 - _EQUAL):
        return True
    return bool(one <= other * (1 + _EQUAL) and mine.sum() <= theirs.sum() * (1 + _EQUAL))


@kernel
def keeps_enough(row: int, kept: Int64, sides: Sides) -> bool:
    """Whether a side, by its row, that keeps so much [X] has at least what the claimant's has."""
    theirs, mine = kept * sides.part[row], sides.mine[row]
    if mine.max() > theirs.max() * (1 + _EQUAL):
        return False
    if sides.gpus:
        return no_more(mine[_GPU:], theirs[_GPU:])
    fewer = mine[_GPU:].max() < theirs[_GPU:].max() * (1 - _EQUAL) or theirs[_GPU:].max() == mine[_GPU:].max() == 0
    return fewer and no_more(mine[:_GPU], theirs[:_GPU])


def kept_back(snapshot: Snapshot, shape: int) -> str:
    """Which queues have what a pod of the shape could take back, were it not for ``reclaimable`` or ``minRuntime``."""
    queues, running, shapes = snapshot.queues, snapshot.running, snapshot.shapes
    leaf, slots = int(shapes.leaf[shape]), np.flatnonzero(running.present)
    if leaf < 0 or not len(slots) or queues.is_leaf.sum() >= len(queues.names) - 1:
        return ""
    tree, own = Tree(snapshot), int(queues.parent[leaf])
    asked = charge_of(snapshot, shape, -1)
    sides, beside = tree.sides(own, gpus=bool(asked[_GPU]))
    kind = slice(_GPU, None) if asked[_GPU] else slice(0, _GPU)
    promised, have = queues.guarantee[:, kind], queues.usage * share_per_unit(snapshot)
    path = tree.path(own)
    after = queues.usage[:, kind] + asked[kind]
    owed = any(promised[row].any() and _within(after[row], promised[row]) for row in path)
    mine = {int(other): ((queues.usage[row] + asked) * sides.part[row]).max() for row, some in beside for other in some}
    leaves = shapes.leaf[running.shape[slots]]
    slots, queue = slots[leaves >= 0], queues.parent[leaves[leaves >= 0]]
    young = snapshot.now - running.started[slots] < least_runtime(queues)[queue]
    found = []
    for row in np.unique(queue).tolist():
        branch = int(sides.branch[row])
        borrows = owed and row not in path and not _within(queues.usage[row, kind], promised[row])
        if not borrows and (branch < 0 or mine[branch] > have[branch].max()):
            continue
        beside_own = [one for one in tree.path(row) if one not in path]
        if any(promised[one].any() and _within(queues.usage[one, kind], promised[one]) for one in beside_own):
            continue  # what is promised is nobody else's to take, reclaimable or not
        if not all(queues.reclaimable[one] for one in beside_own):
            found.append(f"queue {queues.names[row]} is above its fair share, but not reclaimable")
        elif young[queue == row].all():
            found.append(
                f"queue {queues.names[row]} is above its fair share, but its pods have run for less than minRuntime"
            )
    return "; ".join(found)


def _within(used: Int64, promised: Int64) -> bool:
    """Whether the amounts are within what is promised, as far as anything is."""
    return bool((used <= promised)[promised > 0].all()) if (promised > 0).any() else not used.any()
