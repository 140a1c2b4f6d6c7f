"""What has been worked out for the shapes that wait, remembered from one decision to the next.

A remembered score holds as long as its node's row equals the row it was computed from: the pool's log shows every shape
which rows to look at again. Nothing here changes an answer; forgetting everything means work that is done again.
"""

from collections.abc import Hashable, Iterable
from functools import partial

import numpy as np

from tangram.decide import codes
from tangram.decide.chosen import Chosen
from tangram.decide.fit.kernels import Codes, asked_by, fits
from tangram.decide.fit.statics import preferences, static_codes
from tangram.decide.hooks import View
from tangram.decide.journal import Restore
from tangram.decide.pool import Followed, Pool
from tangram.decide.price.line import Known, Line, LinePool
from tangram.decide.score_rows import KEPT, ScoreRows
from tangram.snapshot.arrays import PREEMPT, STRICT, UNLIMITED, Bool, Int8, Int32, Int64, Snapshot
from tangram.snapshot.values.rules import Rules

_LOG_LIMIT = 1 << 20
_FEW_ROWS = 32


class Scores:
    """Per shape the verdict and score of every node row."""

    def __init__(self, snapshot: Snapshot, pool: Pool, plugins: Chosen) -> None:
        rows = len(snapshot.nodes.present)
        self.plugins = plugins
        self.snapshot = snapshot
        """What is true; whoever is no stranger reads it here."""
        self.view = View(snapshot, pool.free, pool.device_free, pool.device_memory_free)
        """The same as plugins are shown it."""
        self.freed = 0
        """Grows when capacity may have grown; what did not fit before cannot fit until it does."""
        self.hopeless_gangs: dict[Hashable, tuple[tuple[int, int], int]] = {}
        """What was needed, role and shape of each member in order, and for gangs that are held back the nodes that are
        not held -> (``state``, or ``state_of_room``, code) when they did not fit together."""
        self.too_large: dict[Hashable, int] = {}
        """What was needed, role and shape of each member in order -> ``freed`` when all nodes had too little of it."""
        self.vain: dict[Hashable, tuple[int, int, int]] = {}
        """Pods for whom nobody who says when it ends leaves enough -> (``freed``, ``promises``, version of the
        neighbours where they have rules about them) when that was found."""
        self.promises = 0
        """Grows when more may be free than before once all have ended who say when."""
        self.promised: tuple[Int64, Int32, Int32] | None = None
        """[N, R], [N, D], [N, D] what is free then, as it was last worked out."""
        self.promised_of: tuple[Snapshot, int] | None = None
        """(snapshot, version of the pool) that it was worked out of."""
        self.when_empty: dict[int, Int8] = {}
        """Shape -> [N] why it would not fit on each node row if nothing else were there, where that has been asked."""
        self.why_not: dict[int, tuple[tuple[int, int], int]] = {}
        """Shape -> (``state``, reason code) when it was last asked why it fits nowhere."""
        self._pool = pool
        self._renewed = 0
        self._known_faults = 0
        self._classes = snapshot.classes
        self._queues = b""
        self._selected: tuple[Bool, Int32] | None = None
        """([C + 1, N] node rows that each class selects, at last all; per class its row there). None: not known yet."""
        self._links: tuple[Int32, Int32] | None = None
        self._verdicts: dict[int, tuple[int, Int8]] = {}
        """Shape -> (version, [N] what its rules about other pods say of every node row)."""
        self._cursor = np.zeros(0, np.int64)
        """[S] how far the shape has read the log; -1: not at all."""
        self._stale = np.zeros(0, np.bool_)
        """[S] the scores are those of before a plugin said that none holds any more; the codes do hold."""
        self._dead = np.zeros(0, np.int64)
        """[S] ``freed`` when the shape was found to fit nowhere."""
        self._dead_version = np.zeros(0, np.int64)
        """[S] the version of the neighbours then, which counts for shapes with rules about other pods."""
        self._rows = ScoreRows(rows)
        self._statics_known = np.zeros(0, np.bool_)
        """[S] the shape's statics, and what it likes, have been worked out."""
        self._plain = np.zeros(0, np.int8)
        """[S] 1: of the nodes nothing but capacity and the plugins' scores bears on the shape, and it has one ask at
        most; 0: else; -1: not known yet."""
        self._liked: dict[int, Int32] = {}
        """Shape -> [N] what preferences about nodes add to the score, where they add anything."""
        self._all_rows = np.arange(rows, dtype=np.int32)
        self._probe = np.zeros(rows, np.int8)

    def observe(self, snapshot: Snapshot, followed: Followed) -> None:
        """Take in a snapshot whose rows the pool has taken over."""
        pool = self._pool
        if self.plugins.begin(snapshot.scores):
            self._start_over()
        self._known_faults = len(self.plugins.faults)
        if followed.described or snapshot.classes is not self._classes:
            self._classes = snapshot.classes
            self._statics_known[:] = False
            self._plain[:] = -1
            self._liked = {}
            self._selected = self._links = None
            self.when_empty = {}
            self._verdicts = {}
            self._start_over()
        self.freed += followed.grew
        self._add_shapes(len(snapshot.shapes.priority_class))
        self._follow_queues(snapshot)
        self.snapshot = snapshot
        self.ask_plugins(snapshot)
        self._drop_faulty()
        kept = (self.state, self._room)
        self.hopeless_gangs = {key: found for key, found in self.hopeless_gangs.items() if found[0] in kept}
        self.too_large = {key: freed for key, freed in self.too_large.items() if freed == self.freed}
        self.vain = {key: found for key, found in self.vain.items() if found[0] == self.freed}
        if self._rows.crowded:
            self._give_back(snapshot)
        if pool.log.length > _LOG_LIMIT:
            pool.log.clear()
            self._cursor[:] = -1

    def ask_plugins(self, snapshot: Snapshot) -> bool:
        """Show plugins what is true now, of the same rows; whether anything that they have said no longer holds."""
        pool = self._pool
        self.view = View(snapshot, pool.free, pool.device_free, pool.device_memory_free, self.view)
        stale, changed = self.plugins.prepare(self.view), self.plugins.ask_concerns(self.view)
        if stale:
            self._stale[:] = True
        if concerned := bool(len(changed)) and bool(np.count_nonzero(changed)):
            self._cursor[np.flatnonzero(changed)] = -1
        other = stale or concerned
        if other:
            self._renewed += 1
            self.freed += self.plugins.filters
        return other

    @property
    def state(self) -> tuple[int, int]:
        """What everything that is worked out here comes from; it is another one whenever any of that may be other."""
        return self._pool.version, self._renewed

    @property
    def _room(self) -> tuple[int, int]:
        return -1, self.freed

    def state_of_room(self, shapes: Iterable[int]) -> tuple[int, int]:
        """What does not change before pods of these shapes, too many to fit now, can fit: ``freed`` where all are
        equal and nothing but room decides about them, as each takes the room of one wherever it goes; else ``state``.
        """
        kinds = set(shapes)
        shape = min(kinds)
        more = len(kinds) > 1 or bool(self.snapshot.shapes.ask_count[shape, 1:].any())
        if more or self.plugins.filters or self._pool.neighbours.concern(shape) or self._pool.journal.is_open:
            return self.state
        return self._room

    def scores(self, shape: int) -> Int32:
        """[N] the shape's score on every node row, -1 where it does not fit; only changed rows are worked out."""
        self._drop_faulty()
        cursor, log = self._cursor[shape], self._pool.log
        if cursor < 0 or self._stale[shape] or not self._statics_known[shape]:
            self.statics(shape)
            self._evaluate(shape, self._all_rows)
        elif cursor < log.length:
            rows = log.since(cursor)
            # A row that is there twice is worked out twice, which is cheaper than looking for it while rows are few.
            self._evaluate(shape, rows if len(rows) < _FEW_ROWS else np.unique(rows))
        while self._drop_faulty():
            self._evaluate(shape, self._all_rows)
        self._cursor[shape], self._stale[shape] = log.length, False
        score: Int32 = self._rows.score[self._rows.of[shape]]
        rules = self._pool.neighbours.rules(shape)
        if rules is not None:
            score = score.copy()
            score[self._verdict(shape, rules) != codes.FITS] = -1
            good = np.flatnonzero(score >= 0).astype(np.int32)
            liked = self._pool.neighbours.preferences(self.view, shape, rules, good)
            if liked is not None:
                score[good] += liked.astype(np.int32)
        return score

    def reasons(self, shape: int) -> Int8:
        """[N] the reason code of every node row for the shape, as of the last ``scores``."""
        code: Int8 = self._rows.code[self._rows.of[shape]]
        rules = self._pool.neighbours.rules(shape)
        return code if rules is None else np.where(code == codes.FITS, self._verdict(shape, rules), code)

    def fitting(self, shape: int) -> Bool:
        """[N] node rows on which the shape fits, whatever its rules about other pods say."""
        self.scores(shape)
        return np.asarray(self._rows.code[self._rows.of[shape]] == codes.FITS, np.bool_)

    def fits_on(self, shape: int, row: int) -> bool:
        """Whether the shape fits on one row of the pool as it is now."""
        rules = self._pool.neighbours.rules(shape)
        if rules is not None and self._verdict(shape, rules)[row] != codes.FITS:
            return False
        return bool(len(self._fitting(shape, np.array([row], np.int32), self._probe)))

    def preferred(self, shape: int) -> Bool:
        """[N] node rows that the shape's priority class selects; all of them without a selector."""
        masks, row_of = self._class_nodes()
        mask: Bool = masks[row_of[self.snapshot.shapes.priority_class[shape]]]
        return mask

    def has_class_nodes(self, shape: int) -> bool:
        """Whether the shape's class has a selector at all."""
        masks, row_of = self._class_nodes()
        return bool(row_of[self.snapshot.shapes.priority_class[shape]] < len(masks) - 1)

    def devices(self, shape: int, row: int) -> Int32 | None:
        """The devices that a plugin chooses; None when no plugin has an opinion."""
        return self.plugins.devices(self.view, shape, row)

    def order(self, slots: Int32) -> Int64 | None:
        """What a plugin says of the order; None when no plugin has an opinion."""
        first = self.plugins.order(self.view, slots)
        self._drop_faulty()
        return first

    def damage(self, shape: int, slots: Int32) -> Int64:
        """[len(slots)] what plugins say of evicting each running slot for the shape."""
        return self.plugins.damage(self.view, shape, slots)

    def plain(self, shapes: Int32) -> Bool:
        """[len(shapes)] whether pods of each shape can be placed by ``place_line``."""
        if self.plugins.placer is None:
            return np.zeros(len(shapes), np.bool_)
        for shape in dict.fromkeys(shapes[self._plain[shapes] < 0].tolist()):
            one_ask = not self.snapshot.shapes.ask_count[shape, 1:].any()
            self._plain[shape] = one_ask and preferences(self.view, shape) is None
        plain: Bool = (self._plain[shapes] > 0) & ~self.plugins.concerned(shapes)
        bound = self._pool.neighbours.bound
        if len(bound):
            plain &= ~np.isin(shapes, bound)
        if len(shared := self._pool.shared.columns):
            plain &= ~self.snapshot.shapes.request[shapes][:, shared].any(axis=1)
        if self.snapshot.classes.fallback == PREEMPT:
            masks, row_of = self._class_nodes()
            plain &= row_of[self.snapshot.shapes.priority_class[shapes]] == len(masks) - 1
        return plain

    def place_line(self, shapes: Int32, most: int, *, patient: bool) -> tuple[list[int], list[list[int]]]:
        """Place plain pods one after the other, ``most`` of them at most, as if each had been asked for alone.

        (node row of each that was decided, -1: it fits nowhere; its devices, -1 after the last). Without ``patient``
        the first that fits nowhere is not decided, nor is any after it. Not within an attempt: the compiled loop keeps
        no journal.
        """
        pool, nodes, log = self._pool, self.snapshot.nodes, self._pool.log
        assert not pool.journal.is_open
        self._drop_faulty()
        placer = self.plugins.placer
        if placer is None:
            return [], []
        shapes = self._ready(shapes, most)
        log.reserve(len(shapes))
        masks, row_of = self._class_nodes()
        classes = row_of[self.snapshot.shapes.priority_class]
        rows, devices = np.empty(len(shapes), np.int32), np.empty((len(shapes), pool.device_free.shape[1]), np.int32)
        line = Line(
            shapes, masks, classes, not self.snapshot.prices.any_known, self.snapshot.classes.fallback == STRICT,
            self.freed, log.length, most, patient, placer[1], rows, devices, pool.scratch,
        )  # fmt: skip
        left = LinePool(
            pool.free, pool.device_free, pool.device_memory_free, log.changes,
            nodes.device_count, nodes.device_memory, nodes.model, nodes.tie_rank, pool.last,
            *self._distances(),
        )  # fmt: skip
        kept = self._rows
        known = Known(
            kept.of, kept.statics, kept.code, kept.score, self._cursor, self._stale, self._dead, log.rows
        )  # fmt: skip
        asked = asked_by(self.snapshot.shapes, nodes.counts_devices)
        done = self.plugins.place_line(placer[0], line, left, asked, known)
        if done is None:
            return [], []
        pool.written(done[1])
        return rows[: done[0]].tolist(), devices[: done[0]].tolist()

    def is_dead(self, shape: int) -> bool:
        """Whether the shape fitted nowhere and nothing has happened since that could let it fit."""
        neighbours = self._pool.neighbours
        if self._dead[shape] != self.freed or not neighbours.concern(shape):
            return bool(self._dead[shape] == self.freed)
        return int(self._dead_version[shape]) >= neighbours.changed(shape)

    def set_dead(self, shape: int) -> None:
        """Remember that the shape fits nowhere now."""
        self._pool.journal.keep(("dead", shape), self._copy_dead, shape)
        self._dead[shape], self._dead_version[shape] = self.freed, self._pool.neighbours.version

    def dead_shapes(self) -> Bool:
        """[S] shapes that fitted nowhere and for which nothing has happened since that could let them fit."""
        dead: Bool = self._dead == self.freed
        neighbours = self._pool.neighbours
        bound, helped = neighbours.bound, neighbours.helped
        if not len(bound):
            return dead
        dead[bound[self._dead_version[bound] < neighbours.seen_version]] = False
        for shape in helped[dead[helped]].tolist():
            dead[shape] = self._dead_version[shape] >= neighbours.changed(shape)
        return dead

    def hopeless(self, slots: Int32) -> Bool:
        """[len(slots)] waiting pods that fitted nowhere, and that nothing can let fit that a decision places."""
        shapes, dead = self.snapshot.pending.shape[slots], self.dead_shapes()
        found: Bool = dead[shapes]
        if len(self._pool.neighbours.bound) and found.any():
            given = ~found | (self.snapshot.pending.nominated[slots] >= 0)
            some = np.unique(shapes[found]).tolist(), np.unique(shapes[given]).tolist()
            dead[self._pool.neighbours.may_come_to_fit(*some)] = False
            found = dead[shapes]
        return found

    def statics(self, shape: int) -> Int8:
        """[N] reason codes from labels, taints and models alone."""
        row = self._rows.take(shape)
        if not self._statics_known[shape]:
            self._rows.statics[row] = static_codes(self.view, shape)
            liked = preferences(self.view, shape) if self._plain[shape] < 1 else None
            if liked is not None:
                self._liked[shape] = liked
            self._statics_known[shape] = True
        statics: Int8 = self._rows.statics[row]
        return statics

    @property
    def faults(self) -> dict[str, str]:
        """Plugins that are out for the cycle, and why."""
        return self.plugins.faults

    def _distances(self) -> tuple[Int32, Int32]:
        """([N] which distances hold between a row's devices, -1: not reported; [K, D, D] all different distances)."""
        if self._links is None:
            kinds: dict[bytes, tuple[int, Int32]] = {}
            kind = np.full(len(self._pool.free), -1, np.int32)
            for row, known in enumerate(self.snapshot.nodes.links):
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
            selectors = self.snapshot.classes.selector
            masks = [self.snapshot.nodes.hold(selector) for selector in selectors]
            row_of = [row if selector else len(selectors) for row, selector in enumerate(selectors)]
            everywhere = np.ones(len(self.snapshot.nodes.present), np.bool_)
            # The class -1, none, leads to the last entry.
            self._selected = np.array([*masks, everywhere]), np.array([*row_of, len(selectors)], np.int32)
        return self._selected

    def _copy_dead(self, shape: int) -> Restore:
        return partial(self._put_back_dead, shape, int(self._dead[shape]), int(self._dead_version[shape]))

    def _put_back_dead(self, shape: int, freed: int, version: int) -> None:
        self._dead[shape], self._dead_version[shape] = freed, version

    def _follow_queues(self, snapshot: Snapshot) -> None:
        """Where what queues use or may use is other than it was, pods below a limit may have another reason to wait."""
        queues = snapshot.queues
        now = queues.usage.tobytes() + queues.limit.tobytes()
        if now == self._queues:
            return
        self._queues = now
        self._renewed += 1
        if np.count_nonzero(queues.limit < UNLIMITED):
            limited = np.append((queues.limit < UNLIMITED).any(axis=1), values=False)
            for row, parent in enumerate(queues.parent.tolist()):
                limited[row] |= limited[parent]  # the last row, where -1 leads to, has no limit
            self._dead[: len(snapshot.shapes.leaf)][limited[snapshot.shapes.leaf]] = -1

    def _drop_faulty(self) -> bool:
        """Forget what was worked out with the help of plugins that have failed since the last cycle."""
        if len(self.plugins.faults) == self._known_faults:
            return False
        self._known_faults = len(self.plugins.faults)
        self._start_over()
        return True

    def _verdict(self, shape: int, rules: Rules) -> Int8:
        """[N] what rules about other pods say of the shape on every node row."""
        known, neighbours = self._verdicts.get(shape), self._pool.neighbours
        if known is None or known[0] != neighbours.version:
            known = self._verdicts[shape] = neighbours.version, neighbours.codes(self.view, shape, rules)
        return known[1]

    def _start_over(self) -> None:
        """Work every score out again; and, as labels or filters may say something else, try what did not fit again."""
        self._cursor[:] = -1
        self.freed += 1
        self._renewed += 1

    def _fitting(self, shape: int, rows: Int32, code: Int8) -> Int32:
        """Those of the rows on which the shape fits; writes the reason of each row into ``code``."""
        nodes = self.snapshot.nodes
        asked, space = asked_by(self.snapshot.shapes, nodes.counts_devices), self._pool.space(nodes)
        fits(rows, shape, asked, space, Codes(self.statics(shape), code))
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
        mine = self._rows.take(shape)
        good, score = self._fitting(shape, rows, self._rows.code[mine]), self._rows.score[mine]
        score[rows] = -1
        if len(good):
            liked = self._liked.get(shape)
            given = self.plugins.score(self.view, shape, good)
            score[good] = given if liked is None else given + liked[good]

    def _ready(self, shapes: Int32, most: int) -> Int32:
        """As many of a line's shapes as are worth a row each, with their statics."""
        shapes = shapes[: max(most, KEPT)]
        for shape in dict.fromkeys(shapes[~self._statics_known[shapes]].tolist()):
            self.statics(shape)
        return shapes

    def _give_back(self, snapshot: Snapshot) -> None:
        """Forget what was worked out on all node rows for shapes that have no row any more."""
        pending, waits = snapshot.pending, np.zeros(len(self._cursor), np.bool_)
        waits[pending.shape[pending.waiting]] = True
        gone = self._rows.give_back(waits, self._cursor)
        self._cursor[gone], self._statics_known[gone] = -1, False
        for shape in gone.tolist():
            for known in (self._liked, self._verdicts, self.when_empty, self.why_not):
                known.pop(shape, None)

    def _add_shapes(self, shapes: int) -> None:
        known = len(self._cursor)
        if shapes <= known:
            return
        more = shapes - known
        self._rows.add_shapes(more)
        self._cursor = np.concatenate([self._cursor, np.full(more, -1, np.int64)])
        self._stale = np.concatenate([self._stale, np.zeros(more, np.bool_)])
        self._dead = np.concatenate([self._dead, np.full(more, -1, np.int64)])
        self._dead_version = np.concatenate([self._dead_version, np.zeros(more, np.int64)])
        self._statics_known = np.concatenate([self._statics_known, np.zeros(more, np.bool_)])
        self._plain = np.concatenate([self._plain, np.full(more, -1, np.int8)])
