"""The chosen plugins, asked one by one: who raises, or gives an answer that is none, is out for the cycle.

Strangers' code runs here and nowhere else, so that nothing it does can stop placement.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from tangram.decide.fit.kernels import Asked
from tangram.decide.hooks import Concerns, Devices, Filter, Order, Prepare, Score, Victims, View
from tangram.decide.price.line import Known, Line, LinePool, Placer
from tangram.decide.registry import Registry
from tangram.errors import PluginError
from tangram.snapshot.arrays import Bool, Int32, Int64, PluginChoice

BEST, MOST_DAMAGE = 1000, 1_000_000
_FAULT_LENGTH = 300

Answer = TypeVar("Answer")


@dataclass(slots=True)
class _Roles:
    """The plugins by what they extend, sorted out once because asking a protocol is slow."""

    prepare: list[Prepare] = field(default_factory=list)
    concerns: list[Concerns] = field(default_factory=list)
    filters: list[Filter] = field(default_factory=list)
    scores: list[tuple[Score, int]] = field(default_factory=list)
    devices: list[Devices] = field(default_factory=list)
    placers: list[tuple[Placer, int]] = field(default_factory=list)
    saying: set[str] = field(default_factory=set)
    """Names of those with a say about nodes and devices."""
    order: list[Order] = field(default_factory=list)
    victims: list[tuple[Victims, int]] = field(default_factory=list)
    concerned: dict[str, Bool] = field(default_factory=dict)
    """Plugin -> [S] whether it has a say about nodes and devices for the shape; those that do not say so have one."""

    def add(self, plugin: object, weight: int) -> None:
        if isinstance(plugin, Prepare):
            self.prepare.append(plugin)
        if isinstance(plugin, Concerns):
            self.concerns.append(plugin)
        if isinstance(plugin, Filter):
            self.filters.append(plugin)
        if isinstance(plugin, Score):
            self.scores.append((plugin, weight))
        if isinstance(plugin, Devices):
            self.devices.append(plugin)
        if isinstance(plugin, (Filter, Score, Devices)):
            self.saying.add(plugin.name)
        if isinstance(plugin, Placer):
            self.placers.append((plugin, weight))
        if isinstance(plugin, Order):
            self.order.append(plugin)
        if isinstance(plugin, Victims):
            self.victims.append((plugin, weight))


class Chosen:
    """The plugins of the policy in force; ``faults`` says which are out for the rest of the cycle, and why.

    Nothing is placed without the word of one that forbids nodes, or may do so: see ``failing``.
    Who answers with numbers out of range is only named: the nearest number in it counts, and all are worked out again
    in the next cycle, so that he is named in each.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.faults: dict[str, str] = {}
        self.clipped: dict[str, str] = {}
        """Plugins whose numbers were out of their range in this cycle, and which; they are asked all the same."""
        self._missing: dict[str, str] = {}
        self._unseen: frozenset[str] = frozenset()
        """Those of the missing that may forbid nodes."""
        self._choices: tuple[PluginChoice, ...] | None = None
        self._roles = _Roles()

    def begin(self, choices: tuple[PluginChoice, ...]) -> bool:
        """Begin a cycle with these plugins; True when others have a say than had in the last one.

        A plugin that cannot be had is named in ``faults`` in every cycle.
        """
        chosen = {choice.name for choice in choices}
        hung = {name: why for name, why in self.registry.asking.hung.items() if name in chosen}
        changed = choices != self._choices or self.faults != self._missing | hung or bool(self.clipped)
        if choices != self._choices:
            self._roles, self._missing, self._choices = _Roles(), {}, choices
            for choice in choices:
                try:
                    self._roles.add(self.registry.create(choice.name, choice.args), choice.weight)
                except PluginError as error:
                    self._missing[choice.name] = str(error)
            self._unseen = frozenset(filter(self.registry.may_forbid, self._missing))
        self.faults, self.clipped = self._missing | hung, {}
        return changed

    def forget(self) -> None:
        """Make all plugins anew at the next ``begin``: what they remember by row is void."""
        self._choices = None

    @property
    def filters(self) -> bool:
        """Whether any plugin forbids nodes, or may do so."""
        return bool(self._roles.filters or self._unseen)

    @property
    def reorder(self) -> bool:
        """Whether any plugin has a say about the order."""
        return bool(self._roles.order)

    def prepare(self, view: View) -> bool:
        """Let plugins look at the pool; True when scores given earlier no longer hold."""
        stale = [self._ask(plugin.name, bool, plugin.prepare, view) for plugin in self._roles.prepare]
        return any(answer is not False for answer in stale)

    def ask_concerns(self, view: View) -> Bool:
        """[S] shapes about whose nodes and devices others have a say now than had when this was last asked."""
        if not self._roles.concerns:
            return np.zeros(0, np.bool_)
        shapes = _read_only(np.arange(len(view.shapes.priority_class), dtype=np.int32))
        changed, concerned = np.zeros(len(shapes), np.bool_), self._roles.concerned
        for plugin in self._roles.concerns:
            answer = self._ask(plugin.name, _mask("concerns", len(shapes)), plugin.concerns, view, shapes)
            if answer is None:
                concerned.pop(plugin.name, None)  # what it said before is not what a new process knows
            else:
                before = concerned.get(plugin.name, answer[:0])
                changed[: len(before)] |= answer[: len(before)] != before
                concerned[plugin.name] = answer.copy()
        return changed

    def concerned(self, shapes: Int32) -> Bool:
        """[len(shapes)] whether a plugin that says whom it concerns has a say about the nodes and devices of each."""
        found = np.zeros(len(shapes), np.bool_)
        for mask in self._roles.concerned.values():
            found |= mask[shapes]
        return found

    def _has_a_say(self, name: str, shape: int) -> bool:
        mask = self._roles.concerned.get(name)
        return mask is None or bool(mask[shape])

    def failing(self, shape: int) -> list[str]:
        """The plugins without whose word about the shape nothing is placed: they are out, and forbid nodes or may do
        so."""
        if not self.faults:
            return []
        forbid = self._unseen | {plugin.name for plugin in self._roles.filters}
        return [name for name in sorted(self.faults.keys() & forbid) if self._has_a_say(name, shape)]

    def allowed(self, view: View, shape: int, rows: Int32) -> Int32:
        """Those of the rows that every filter allows; none while one with a say about the shape fails."""
        if self.failing(shape):
            return rows[:0]
        for plugin in self._roles.filters:
            if not len(rows):
                break
            if not self._has_a_say(plugin.name, shape):
                continue
            answer = self._ask(plugin.name, _mask("allow", len(rows)), plugin.allow, view, shape, rows)
            if answer is None:
                return rows[:0]
            if not answer.all():
                rows = _read_only(rows[answer])
        return rows

    def score(self, view: View, shape: int, rows: Int32) -> Int32:
        """[len(rows)] the weighted sum of all scores."""
        total = np.zeros(len(rows), np.int32)
        for plugin, weight in self._roles.scores:
            if not self._has_a_say(plugin.name, shape):
                continue
            read = self._numbers(plugin.name, "score", len(rows), BEST)
            answer = self._ask(plugin.name, read, plugin.score, view, shape, rows)
            if answer is not None:
                total += weight * answer.astype(np.int32, copy=False)
        return total

    def devices(self, view: View, shape: int, row: int) -> Int32 | None:
        """The devices that the last of the plugins with an opinion chooses; None when no plugin has one.

        The policy's strategy comes first in the list, so that a plugin that is named beside it is asked before it.
        """
        for plugin in reversed(self._roles.devices):
            if not self._has_a_say(plugin.name, shape):
                continue
            answer = self._ask(plugin.name, _indices, plugin.devices, view, shape, row)
            if answer is not None:
                return answer
        return None

    @property
    def placer(self) -> tuple[Placer, int] | None:
        """Who places whole lines of the shapes that are not ``concerned``, and its weight: the only plugin with a say
        about nodes and devices beside those that say whom they concern, if it can."""
        roles = self._roles
        fail = self.faults.keys() - {plugin.name for plugin in roles.filters}
        others = (roles.saying - fail | self._unseen) - roles.concerned.keys()
        return next((found for found in roles.placers if others == {found[0].name}), None)

    def place_line(
        self, placer: Placer, line: Line, pool: LinePool, asked: Asked, known: Known
    ) -> tuple[int, int] | None:
        """(pods decided, rows in the log) by the ``placer``; None when it fails."""
        return self._ask(placer.name, _pair, placer.place_line, line, pool, asked, known)

    def order(self, view: View, slots: Int32) -> Int64 | None:
        """What the last of the plugins with an opinion says of the order; None when no plugin has one."""
        for plugin in reversed(self._roles.order):
            answer = self._ask(plugin.name, _places(len(slots)), plugin.order, view, _read_only(slots))
            if answer is not None:
                return answer
        return None

    @property
    def judge_victims(self) -> bool:
        """Whether any plugin has a say in who is evicted."""
        return bool(self._roles.victims)

    def damage(self, view: View, shape: int, slots: Int32) -> Int64:
        """[len(slots)] the weighted sum of what plugins say of evicting each running slot; 0 when none does."""
        total = np.zeros(len(slots), np.int64)
        for plugin, weight in self._roles.victims:
            read = self._numbers(plugin.name, "damage", len(slots), MOST_DAMAGE)
            answer = self._ask(plugin.name, read, plugin.damage, view, shape, _read_only(slots))
            if answer is not None:
                total += weight * answer.astype(np.int64)
        return total

    def _numbers(self, name: str, hook: str, count: int, most: int) -> Callable[[object], Int32 | Int64]:
        """Numbers from 0 to ``most``; the nearest of these counts for one that is not, and the plugin is named."""

        def read(answer: object) -> Int32 | Int64:
            if not isinstance(answer, np.ndarray) or answer.dtype.kind not in "iu" or answer.shape != (count,):
                raise _refused(hook, answer, f"an integer array of shape ({count},)")
            if not count or (answer.min() >= 0 and answer.max() <= most):
                return answer
            self.clipped.setdefault(name, f"{hook} answered {answer.min()} to {answer.max()}, cut to 0 to {most}")
            found: Int32 | Int64 = np.clip(answer, 0, most)
            return found

        return read

    def _ask(
        self, name: str, read: Callable[[object], Answer], hook: Callable[..., object], *arguments: object
    ) -> Answer | None:
        """The plugin's answer as ``read`` understands it; None when the plugin is out."""
        if name in self.faults:
            return None
        try:
            strange = name in self.registry.strangers
            return read(self.registry.asking.call(name, hook, *arguments) if strange else hook(*arguments))
        except PluginError as error:
            self.faults[name] = _one_line(str(error))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's plugin must not stop placement
            self.faults[name] = _one_line(f"{type(error).__name__}: {error}")
        return None


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_FAULT_LENGTH]


def _read_only(rows: Int32) -> Int32:
    rows.setflags(write=False)
    return rows


def _mask(hook: str, count: int) -> Callable[[object], Bool]:
    def read(answer: object) -> Bool:
        if isinstance(answer, np.ndarray) and answer.dtype == np.bool_ and answer.shape == (count,):
            return answer
        raise _refused(hook, answer, f"a bool array of shape ({count},)")

    return read


def _places(count: int) -> Callable[[object], Int64]:
    def read(answer: object) -> Int64:
        if isinstance(answer, np.ndarray) and answer.dtype.kind in "iu" and answer.shape == (count,):
            return answer
        raise _refused("order", answer, f"an integer array of shape ({count},)")

    return read


def _pair(answer: object) -> tuple[int, int]:
    match answer:
        case (int(decided), int(rows)):
            return decided, rows
    raise _refused("place_line", answer, "a pair of integers")


def _indices(answer: object) -> Int32:
    if isinstance(answer, np.ndarray) and answer.dtype.kind in "iu" and answer.ndim == 1:
        return answer
    raise _refused("devices", answer, "an integer array of one dimension")


def _refused(hook: str, answer: object, allowed: str) -> PluginError:
    found = f"a {answer.dtype} array of shape {answer.shape}" if isinstance(answer, np.ndarray) else repr(answer)
    return PluginError(f"{hook} answered {found}; allowed: {allowed}")
