"""A line of pods that stand alone, placed one after the other without leaving compiled code in between.

The loop over the line belongs to the plugin that scores, as only it can score without being asked from Python; what
every such loop needs is here. Answers are those of asking for scores, row and devices pod by pod.
"""

from typing import NamedTuple, Protocol, runtime_checkable

from tangram.decide.codes import FITS
from tangram.decide.fit.kernels import WHOLE, Asked, Space, Ties, best_of, best_row, is_idle, memory_of, why_not_on
from tangram.decide.fit.links import nearest
from tangram.decide.jit import kernel, lean_kernel
from tangram.snapshot.arrays import Bool, Int8, Int32, Int64


class LinePool(NamedTuple):
    """What is left on each node row, which placing writes to, and what does not change within a cycle."""

    free: Int64
    device_free: Int32
    device_memory_free: Int32
    changes: Int64
    """[N] grows whenever anything of the row changes."""
    device_count: Int32
    device_memory: Int32
    model: Int32
    tie_rank: Int64
    last: Bool
    """[N] scratch: the row comes last among equals, as ``mark_last`` says and ``take`` keeps true."""
    link: Int32
    """[N] the row of ``distance`` that holds between the node's devices; -1: their distances are not reported."""
    distance: Int32
    """[K, D, D]"""


class Known(NamedTuple):
    """What has been worked out for each shape of the line on each node row, and which rows changed since."""

    row_of: Int32
    """[S] the shape's row in the next three."""
    statics: Int8
    """[K, N] reason codes from labels, taints and models."""
    code: Int8
    """[K, N] reason codes."""
    score: Int32
    """[K, N] -1 where the shape does not fit."""
    cursor: Int64
    """[S] how far the shape has read ``log``; -1: not at all."""
    stale: Bool
    """[S] the shape's scores are void, wherever it fits."""
    dead: Int64
    """[S] ``Line.freed`` when the shape was found to fit nowhere."""
    log: Int32
    """Rows in the order in which they changed; has room for one more row for each pod of the line."""


class Line(NamedTuple):
    """The pods to place, and where the answers go."""

    shape: Int32
    """[L] the shape of each pod."""
    preferred: Bool
    """[C + 1, N] the node rows that each class selects; the last row is for shapes without such a class: all."""
    chosen_class: Int32
    """[S] row of ``preferred``."""
    idle_last: bool
    """As in ``Ties``."""
    strict: bool
    """Pods of a class with a selector wait rather than run elsewhere."""
    freed: int
    log_length: int
    most: int
    """Stop after so many placements."""
    patient: bool
    """Go on after a pod that fits nowhere; otherwise stop before it."""
    weight: int
    """What a score counts for."""
    row: Int32
    """[L] out: the node row that each pod got; -1: none."""
    device: Int32
    """[L, D] out: the devices that it got there; -1 after the last."""
    scratch: Int32
    """[N]"""


class Work(NamedTuple):
    """A line with all that it is placed by."""

    line: Line
    pool: LinePool
    asked: Asked
    known: Known


class Turn(NamedTuple):
    """Whose turn it is in a line, and what was found for it."""

    place: int
    """Of the pod in the line."""
    shape: int
    row: int
    """Of the node."""


@runtime_checkable
class Placer(Protocol):
    """A score plugin that places a line by itself: asked when no other plugin has a say about nodes and devices."""

    name: str

    def place_line(self, line: Line, pool: LinePool, asked: Asked, known: Known) -> tuple[int, int]:
        """(pods decided, rows in the log), with the same answers as its ``score`` and ``devices`` give."""


@lean_kernel
def rows_to_score(shape: int, log_length: int, work: Work, out: Int32) -> int:
    """Say of the rows that have changed whether the shape fits, and write those that are to be scored; how many.

    They are the rows that have changed, or all where its scores are void; where it does not fit is among them too, and
    a row may be there twice.
    """
    known = work.known
    count = _unseen(shape, known, log_length, out)
    for index in range(count):
        _rescore(out[index], shape, work.pool, work.asked, known)
    known.cursor[shape] = log_length
    if known.stale[shape]:
        known.stale[shape] = False
        code, count = known.code[known.row_of[shape]], 0
        for row in range(len(out)):
            out[count] = row
            count += code[row] == FITS
    return count


@lean_kernel
def _unseen(shape: int, known: Known, log_length: int, out: Int32) -> int:
    """Write the rows of which the shape has not seen the latest; how many they are. A row may be there twice."""
    rows, cursor = len(out), int(known.cursor[shape])
    if cursor < 0 or log_length - cursor >= rows:
        for row in range(rows):
            out[row] = row
        return rows
    for index in range(log_length - cursor):
        out[index] = known.log[cursor + index]
    return log_length - cursor


@lean_kernel
def _rescore(row: int, shape: int, pool: LinePool, asked: Asked, known: Known) -> None:
    """Write down whether the shape fits on the row, or why not."""
    mine = known.row_of[shape]
    code = known.statics[mine, row]
    if code == FITS:
        space = Space(pool.free, pool.device_free, pool.device_memory_free, pool.device_count, pool.device_memory)
        code = why_not_on(row, shape, asked, space)
    known.code[mine, row] = code
    if code != FITS:
        known.score[mine, row] = -1


@lean_kernel
def mark_last(line: Line, pool: LinePool) -> None:
    """Find out which rows come last among equals: none, or those on which nobody uses any GPU."""
    for row in range(len(pool.last)):
        pool.last[row] = line.idle_last and is_idle(row, pool.device_free, pool.device_count)


@lean_kernel
def pick(shape: int, line: Line, pool: LinePool, known: Known) -> int:
    """The best row under the fallback strategy of the shape's class; -1: it has to wait."""
    chosen, score = line.chosen_class[shape], known.score[known.row_of[shape]]
    if chosen == len(line.preferred) - 1:
        return int(best_of(score, pool.last, pool.tie_rank))
    ties = Ties(pool.device_free, pool.device_count, pool.tie_rank, line.idle_last)
    liked, any_row = best_row(score, ties, line.preferred[chosen])
    return int(liked if liked >= 0 or line.strict else any_row)


@lean_kernel
def idle_devices(index: int, row: int, need: int, line: Line, pool: LinePool) -> int:
    """Write the devices that nobody uses and that have ``need`` MiB for the pod at ``index``; how many they are."""
    found = 0
    for device in range(pool.device_count[row]):
        if pool.device_free[row, device] >= WHOLE and pool.device_memory_free[row, device] >= need:
            line.device[index, found] = device
            found += 1
    return found


@kernel
def choose_whole(turn: Turn, line: Line, pool: LinePool, asked: Asked) -> None:
    """Give the pod whole devices: those nearest to each other where that is known, else the first."""
    index, shape, row = turn
    count = asked.number[shape, 0]
    need = memory_of(WHOLE, asked.memory[shape, 0], pool.device_memory[row])
    found = idle_devices(index, row, need, line, pool)
    if pool.link[row] >= 0 and 0 < count < found:
        line.device[index, :count] = nearest(pool.distance[pool.link[row]], line.device[index, :found].copy(), count)


@lean_kernel
def take(turn: Turn, log_length: int, work: Work) -> None:
    """Count the pod on the row and on the devices that were chosen for it there."""
    index, shape, row = turn
    line, pool, asked, known = work
    milli = asked.milli[shape, 0]
    need = memory_of(milli, asked.memory[shape, 0], pool.device_memory[row])
    for place in range(asked.number[shape, 0]):
        device = line.device[index, place]
        pool.device_free[row, device] -= milli
        pool.device_memory_free[row, device] -= need
    for resource in range(asked.request.shape[1]):
        pool.free[row, resource] -= asked.request[shape, resource]
    pool.last[row] = pool.last[row] and is_idle(row, pool.device_free, pool.device_count)
    pool.changes[row] += 1
    known.log[log_length] = row
    line.row[index] = row
