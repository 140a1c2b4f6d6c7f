"""What is remembered from one decision to the next: nothing but work that need not be done again.

A remembered score holds as long as its node's row equals the row it was computed from; ``follow`` finds the rows that
differ and the log tells every shape which rows to look at again. Forgetting everything changes no answer.
"""

from collections.abc import Hashable, Iterable
from typing import TypeAlias, TypeVar

import numpy as np

from tangram.decide import codes
from tangram.decide.chosen import Chosen
from tangram.decide.fit.kernels import asked_by, fits, follow
from tangram.decide.fit.neighbours import KeptCounts, Neighbours
from tangram.decide.fit.statics import preferences, static_codes
from tangram.decide.hooks import View
from tangram.decide.price.line import Known, Line, Pool
from tangram.decide.registry import Registry
from tangram.decide.row_log import RowLog
from tangram.snapshot.arrays import PREEMPT, STRICT, UNLIMITED, Bool, Int8, Int32, Int64, Snapshot
from tangram.snapshot.values.rules import Rules

_LOG_LIMIT = 1 << 20
Numbers = TypeVar("Numbers", Int32, Int64)
_FEW_ROWS = 32
KeptRow = tuple[int, Int64, Int32, Int32, KeptCounts]
"""A node row as it was: row, what is left of resources, of devices, of device memory, and who is on it."""

Part: TypeAlias = tuple[int, int, int]
"""(device index, milli, MiB)."""


class Memory:
    """Scratch copy of what is left in the pool, and per shape the verdict and score of every node row."""

    view: View
    free: Int64
    device_free: Int32
    device_memory_free: Int32
    revision: Int64
    _changed: Int32
    _all_rows: Int32
    _log: RowLog
    _selected: tuple[Bool, Int32] | None
    """([C + 1, N] node rows that each class selects, at last all; per class its row there). None: not known yet."""
    _links: tuple[Int32, Int32] | None
    _cursor: Int64
    _stale: Bool
    """[S] the scores are those of before a plugin said that none holds any more; the codes do hold."""
    _dead: Int64
    _score: Int32
    _code: Int8
    _probe: Int8
    _statics: Int8
    _statics_known: Bool
    _plain: Bool
    """[S] nothing but capacity and the plugins' scores speaks of the shape's nodes, and it has one ask at most."""
    _liked: list[Int32 | None]
    """Per shape what preferences about nodes add to the score; None: nothing."""

    def __init__(self, registry: Registry | None = None) -> None:
        self.plugins = Chosen(registry or Registry())
        self.neighbours = Neighbours()
        self._verdicts: dict[int, tuple[int, Int8]] = {}
        """Shape -> (version, [N] what its rules about other pods say of every node row)."""
        self.look_again = False
        """A placement of this cycle may let a pod fit that was looked at before it."""
        self._known_faults = 0
        self.freed = 0
        """Grows when capacity may have grown; what did not fit before cannot fit until it does."""
        self._dimensions: tuple[int, ...] = ()
        self._classes: object = None
        self._queue_usage = b""
        self.changes = 0
        """Grows whenever anything changed at all."""
        self.dead_gangs: dict[Hashable, int] = {}
        """What was needed, and role and shape of each member in order -> ``changes`` when they did not fit together."""
        self.when_empty: dict[int, Int8] = {}
        """Shape -> [N] why it would not fit on each node row if nothing else were there, where that has been asked."""
        self.why_not: dict[int, tuple[int, int]] = {}
        """Shape -> (``changes``, reason code) when it was last asked why it fits nowhere."""

    def observe(self, snapshot: Snapshot) -> View:
        """Take in a snapshot; the returned view is scratch that ``take`` and ``restore`` change."""
        nodes = snapshot.nodes
        dimensions = (snapshot.generation, *nodes.free.shape, *nodes.device_free.shape)
        if dimensions != self._dimensions:
            self._forget(snapshot)
            self._dimensions = dimensions
        if self.plugins.begin(snapshot.scores):
            self._start_over()
        self._known_faults = len(self.faults)
        if self._follow(snapshot) or snapshot.classes is not self._classes:
            self._classes = snapshot.classes
            self._statics_known[:] = False
            self._selected = self._links = None
            self.when_empty = {}
            self._verdicts = {}
            self._start_over()
        self._room_for_shapes(len(snapshot.shapes.priority_class), len(nodes.present))
        if self.neighbours.observe(snapshot):
            self._revive()
        self.look_again = False
        self.view = View(
            snapshot, _read_only(self.free), _read_only(self.device_free), _read_only(self.device_memory_free)
        )
        if self.plugins.prepare(self.view):
            self._stale[:] = True
            self.changes += 1
            if self.plugins.filters:
                self.freed += 1
        self._heed_faults()
        if self._log.length > _LOG_LIMIT:
            self._log.clear()
            self._cursor[:] = -1
        return self.view

    def _follow(self, snapshot: Snapshot) -> bool:
        """Find the rows that are not as they were left, and whether anything may fit that did not.

        True when labels, taints, capacity or inventory of any node are others than they were.
        """
        nodes = snapshot.nodes
        count, grew, described = follow(
            nodes.free, nodes.device_free, nodes.device_memory_free, nodes.revision,
            self.free, self.device_free, self.device_memory_free, self.revision, self._changed,
        )  # fmt: skip
        if count:
            self._log.note_all(self._changed[:count])
            self.changes += 1
        usage = snapshot.queues.usage.tobytes()
        if usage != self._queue_usage:
            self._queue_usage = usage
            self.changes += 1
            grew = grew or bool((snapshot.queues.limit < UNLIMITED).any())  # what waits at a limit is told so
        if grew:
            self.freed += 1
            self.changes += 1
        return described

    def scores(self, shape: int) -> Int32:
        """[N] the shape's score on every node row, -1 where it does not fit; only changed rows are worked out."""
        self._heed_faults()
        cursor = self._cursor[shape]
        if cursor < 0 or self._stale[shape] or not self._statics_known[shape]:
            self.statics(shape)
            self._evaluate(shape, self._all_rows)
        elif cursor < self._log.length:
            rows = self._log.since(cursor)
            # A row that is there twice is worked out twice, which is cheaper than looking for it while rows are few.
            self._evaluate(shape, rows if len(rows) < _FEW_ROWS else np.unique(rows))
        while self._heed_faults():
            self._evaluate(shape, self._all_rows)
        self._cursor[shape], self._stale[shape] = self._log.length, False
        score: Int32 = self._score[shape]
        rules = self.neighbours.rules(shape)
        if rules is not None:
            score = score.copy()
            score[self._verdict(shape, rules) != codes.FITS] = -1
            good = np.flatnonzero(score >= 0).astype(np.int32)
            liked = self.neighbours.preferences(self.view, shape, rules, good)
            if liked is not None:
                score[good] += liked.astype(np.int32)
        return score

    def reasons(self, shape: int) -> Int8:
        """[N] the reason code of every node row for the shape, as of the last ``scores``."""
        code: Int8 = self._code[shape]
        rules = self.neighbours.rules(shape)
        return code if rules is None else np.where(code == codes.FITS, self._verdict(shape, rules), code)

    def fitting(self, shape: int) -> Bool:
        """[N] node rows on which the shape fits, whatever its rules about other pods say."""
        self.scores(shape)
        return np.asarray(self._code[shape] == codes.FITS, np.bool_)

    def preferred(self, shape: int) -> Bool:
        """[N] node rows that the shape's priority class selects; all of them without a selector."""
        masks, row_of = self._class_nodes()
        mask: Bool = masks[row_of[self.view.shapes.priority_class[shape]]]
        return mask

    def has_class_nodes(self, shape: int) -> bool:
        """Whether the shape's class has a selector at all."""
        masks, row_of = self._class_nodes()
        return bool(row_of[self.view.shapes.priority_class[shape]] < len(masks) - 1)

    def devices(self, shape: int, row: int) -> Int32 | None:
        """The devices that a plugin chooses; None when no plugin has an opinion."""
        return self.plugins.devices(self.view, shape, row)

    def order(self, slots: Int32) -> Int64 | None:
        """What a plugin says of the order; None when no plugin has an opinion."""
        first = self.plugins.order(self.view, slots)
        self._heed_faults()
        return first

    def damage(self, shape: int, slots: Int32) -> Int64:
        """[len(slots)] what plugins say of evicting each running slot for the shape."""
        return self.plugins.damage(self.view, shape, slots)

    def take(self, shape: int, row: int, devices: Iterable[Part]) -> None:
        """Count a placement: (device, milli, MiB) of each device."""
        self.free[row] -= self.view.shapes.request[shape]
        for device, milli, mib in devices:
            self.device_free[row, device] -= milli
            self.device_memory_free[row, device] -= mib
        if self.neighbours.take(shape, row):
            self._revive()
        self.changes += 1
        self._log.note(row)

    def plain(self, shapes: Int32) -> Bool:
        """[len(shapes)] whether pods of each shape can be placed by ``place_line``."""
        if self.plugins.placer is None:
            return np.zeros(len(shapes), np.bool_)
        unknown = shapes[~self._statics_known[shapes]]
        for shape in dict.fromkeys(unknown.tolist()):
            self.statics(shape)
        plain = self._plain[shapes]
        if self.view.snapshot.classes.fallback == PREEMPT:
            masks, row_of = self._class_nodes()
            plain &= row_of[self.view.shapes.priority_class[shapes]] == len(masks) - 1
        return plain

    def place_line(self, shapes: Int32, most: int, *, patient: bool) -> tuple[list[int], list[list[int]]]:
        """Place plain pods one after the other, ``most`` of them at most, as if each had been asked for alone.

        (node row of each that was decided, -1: it fits nowhere; its devices, -1 after the last). Without ``patient``
        the first that fits nowhere is not decided, nor is any after it.
        """
        placer, nodes, log = self.plugins.placer, self.view.nodes, self._log
        self._heed_faults()
        if placer is None:
            return [], []
        log.reserve(len(shapes))
        masks, row_of = self._class_nodes()
        classes = row_of[self.view.shapes.priority_class]
        rows, devices = np.empty(len(shapes), np.int32), np.empty((len(shapes), self.device_free.shape[1]), np.int32)
        line = Line(
            shapes, masks, classes, self.view.snapshot.classes.fallback == STRICT, self.freed, log.length,
            most, patient, placer[1], rows, devices, self._changed,
        )  # fmt: skip
        pool = Pool(
            self.free, self.device_free, self.device_memory_free, log.changes,
            nodes.device_count, nodes.device_memory, nodes.model, nodes.tie_rank, *self._distances(),
        )  # fmt: skip
        known = Known(self._statics, self._code, self._score, self._cursor, self._stale, self._dead, log.rows)
        done = self.plugins.place_line(line, pool, asked_by(self.view.shapes, nodes.counts_devices), known)
        if done is None:
            return [], []
        self.changes += done[1] - log.length
        log.length = done[1]
        return rows[: done[0]].tolist(), devices[: done[0]].tolist()

    def _distances(self) -> tuple[Int32, Int32]:
        """([N] which distances hold between a row's devices, -1: nobody told; [K, D, D] all different distances)."""
        if self._links is None:
            kinds: dict[bytes, tuple[int, Int32]] = {}
            kind = np.full(len(self.free), -1, np.int32)
            for row, known in enumerate(self.view.nodes.links):
                if known is not None:
                    kind[row], _ = kinds.setdefault(known.tobytes(), (len(kinds), known))
            width = max((len(known) for _, known in kinds.values()), default=0)
            distance = np.zeros((len(kinds), width, width), np.int32)
            for number, known in kinds.values():
                distance[number, : len(known), : len(known)] = known
            self._links = kind, distance
        return self._links

    def _class_nodes(self) -> tuple[Bool, Int32]:
        if self._selected is None:
            selectors, terms = self.view.snapshot.classes.selector, self.view.nodes.terms
            masks = [terms[list(selector)].all(axis=0) for selector in selectors]
            row_of = [row if selector else len(selectors) for row, selector in enumerate(selectors)]
            everywhere = np.ones(len(self.view.nodes.present), np.bool_)
            # The class -1, none, leads to the last entry.
            self._selected = np.array([*masks, everywhere]), np.array([*row_of, len(selectors)], np.int32)
        return self._selected

    def claim(self, shape: int, before: KeptRow, devices: Iterable[Part]) -> None:
        """Reserve room on a row from which victims have been taken since ``before``: they have not left it yet.

        What counts as free afterwards is free both now and once the claimant has come in the victims' stead.
        """
        row, free, device_free, device_memory_free, _ = before
        self.take(shape, row, devices)
        np.minimum(self.free[row], free, out=self.free[row])
        np.minimum(self.device_free[row], device_free, out=self.device_free[row])
        np.minimum(self.device_memory_free[row], device_memory_free, out=self.device_memory_free[row])

    def keep(self, row: int) -> KeptRow:
        """A copy of a row, for ``restore``."""
        free, devices, memory = self.free[row], self.device_free[row], self.device_memory_free[row]
        return row, free.copy(), devices.copy(), memory.copy(), self.neighbours.keep(row)

    def restore(self, kept: KeptRow) -> None:
        """Put a row back as it was kept."""
        row, self.free[row], self.device_free[row], self.device_memory_free[row], counts = kept
        if self.neighbours.restore(row, counts):
            self._revive()
        self._log.note(row)

    def is_dead(self, shape: int) -> bool:
        """Whether the shape fitted nowhere and nothing has been freed since."""
        return bool(self._dead[shape] == self.freed)

    def set_dead(self, shape: int) -> None:
        """Remember that the shape fits nowhere now."""
        self._dead[shape] = self.freed

    def forget_dead(self, shapes: Iterable[int]) -> None:
        """Take ``set_dead`` back for shapes that were tried on a scratch that has been dropped."""
        for shape in shapes:
            self._dead[shape] = -1

    def statics(self, shape: int) -> Int8:
        """[N] reason codes from labels, taints and models alone."""
        if not self._statics_known[shape]:
            self._statics[shape] = static_codes(self.view, shape)
            self._liked[shape] = preferences(self.view, shape)
            self._statics_known[shape] = True
            one_ask = not self.view.shapes.ask_count[shape, 1:].any()
            self._plain[shape] = one_ask and self._liked[shape] is None and not self.neighbours.concern(shape)
        statics: Int8 = self._statics[shape]
        return statics

    def dead_shapes(self) -> Bool:
        """[S] shapes that fitted nowhere and for which nothing has been freed since."""
        dead: Bool = self._dead == self.freed
        return dead

    @property
    def faults(self) -> dict[str, str]:
        """Plugins that are out for the cycle, and why."""
        return self.plugins.faults

    def _heed_faults(self) -> bool:
        """Forget what was worked out with the help of plugins that have failed since the last look."""
        if len(self.faults) == self._known_faults:
            return False
        self._known_faults = len(self.faults)
        self._start_over()
        return True

    def fits_on(self, shape: int, row: int) -> bool:
        """Whether the shape fits on one row of the scratch as it is now."""
        rules = self.neighbours.rules(shape)
        if rules is not None and self._verdict(shape, rules)[row] != codes.FITS:
            return False
        return bool(len(self._fitting(shape, np.array([row], np.int32), self._probe)))

    def _verdict(self, shape: int, rules: Rules) -> Int8:
        """[N] what rules about other pods say of the shape on every node row."""
        known = self._verdicts.get(shape)
        if known is None or known[0] != self.neighbours.version:
            known = self._verdicts[shape] = (
                self.neighbours.version,
                self.neighbours.codes(self.view, shape, rules),
            )
        return known[1]

    def _revive(self) -> None:
        """Try shapes with rules about other pods again: who is where has changed."""
        bound = self.neighbours.bound
        self.look_again |= bool((self._dead[bound] == self.freed).any())
        self._dead[bound] = -1
        self.changes += 1

    def _start_over(self) -> None:
        """Work every score out again; and, as labels or filters may say something else, try what did not fit again."""
        self._cursor[:] = -1
        self.freed += 1
        self.changes += 1

    def _fitting(self, shape: int, rows: Int32, code: Int8) -> Int32:
        """Those of the rows on which the shape fits; writes the reason of each row into ``code``."""
        shapes, nodes = self.view.shapes, self.view.nodes
        fits(
            rows, shape, self.statics(shape), asked_by(shapes, nodes.counts_devices),
            self.free, self.device_free, self.device_memory_free, nodes.device_count, nodes.device_memory, code,
        )  # fmt: skip
        fitting: Int32 = rows[code[rows] == codes.FITS]
        if not len(fitting):
            return fitting
        fitting.setflags(write=False)
        good = self.plugins.allowed(self.view, shape, fitting)
        if len(good) < len(fitting):
            code[fitting] = codes.PLUGIN_REJECTED
            code[good] = codes.FITS
        return good

    def _evaluate(self, shape: int, rows: Int32) -> None:
        good, score = self._fitting(shape, rows, self._code[shape]), self._score[shape]
        score[rows] = -1
        if len(good):
            liked = self._liked[shape]
            told = self.plugins.score(self.view, shape, good)
            score[good] = told if liked is None else told + liked[good]

    def _forget(self, snapshot: Snapshot) -> None:
        nodes = snapshot.nodes
        self.free = np.full_like(nodes.free, -(1 << 62))
        self.device_free = np.full_like(nodes.device_free, -1)
        self.device_memory_free = np.full_like(nodes.device_memory_free, -1)
        self.revision = np.full_like(nodes.revision, -1)
        rows = len(nodes.present)
        self._changed = np.zeros(rows, np.int32)
        self._log = RowLog(rows)
        self._selected = self._links = None
        self.when_empty = {}
        self._cursor = np.zeros(0, np.int64)
        self._stale = np.zeros(0, np.bool_)
        self._dead = np.zeros(0, np.int64)
        self._verdicts = {}
        self.neighbours = Neighbours()
        self._score = np.zeros((0, rows), np.int32)
        self._code = np.zeros((0, rows), np.int8)
        self._statics = np.zeros((0, rows), np.int8)
        self._statics_known = np.zeros(0, np.bool_)
        self._plain = np.zeros(0, np.bool_)
        self._liked = []
        self._all_rows = np.arange(rows, dtype=np.int32)
        self.dead_gangs, self.why_not = {}, {}
        self.plugins.forget()
        self._probe = np.zeros(rows, np.int8)

    def _room_for_shapes(self, shapes: int, rows: int) -> None:
        known = len(self._cursor)
        if shapes <= known:
            return
        more = shapes - known
        self._liked += [None] * more
        self._cursor = np.concatenate([self._cursor, np.full(more, -1, np.int64)])
        self._stale = np.concatenate([self._stale, np.zeros(more, np.bool_)])
        self._dead = np.concatenate([self._dead, np.full(more, -1, np.int64)])
        self._statics_known = np.concatenate([self._statics_known, np.zeros(more, np.bool_)])
        self._plain = np.concatenate([self._plain, np.zeros(more, np.bool_)])
        self._score = np.concatenate([self._score, np.full((more, rows), -1, np.int32)])
        self._code = np.concatenate([self._code, np.zeros((more, rows), np.int8)])
        self._statics = np.concatenate([self._statics, np.zeros((more, rows), np.int8)])


def _read_only(array: Numbers) -> Numbers:
    """The same memory without the right to write."""
    view = array[:]
    view.setflags(write=False)
    return view
