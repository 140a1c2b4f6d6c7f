"""Plugins: found by entry points, chosen by the policy, and unable to stop placement whatever they do."""

import asyncio
import inspect
import logging
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import EntryPoint
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.budget import examples
from tests.worlds import World, bound, cluster, gang, pod, policy

from tangram.cluster.rest import Client
from tangram.decide import chosen, hooks
from tangram.decide.hooks import HOOKS
from tangram.decide.memory import Memory
from tangram.decide.registry import BUILT_IN, GROUP, Registry
from tangram.errors import PluginError
from tangram.plan import Plan
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.live import LiveScheduler

METHODS = sorted(
    name for hook in HOOKS for name, _ in inspect.getmembers(hook, inspect.isfunction) if not name.startswith("_")
)
CLASSES = ({"name": "high", "weight": 3}, {"name": "low", "weight": 1})
ONLY = {"name": "bid-price", "weight": 0}


def fine(method: str, *arguments: Any) -> Any:
    """An answer that any plugin may give."""
    match method, arguments:
        case "prepare", _:
            return False
        case ("allow", (_, _, rows)) | ("concerns", (_, rows)):
            return np.ones(len(rows), np.bool_)
        case "score" | "damage", (_, _, rows):
            return np.zeros(len(rows), np.int32)
        case "order", (_, slots):
            return np.zeros(len(slots), np.int64)
        case "devices", (view, shape, row):
            return np.argsort(-view.device_free[row], kind="stable")[: view.shapes.ask_count[shape, 0]]
    raise AssertionError(method)


def plugin(name: str = "stranger", **methods: Any) -> type:
    """A plugin class with these methods; each is called with (view, ...), without self."""

    def bind(method: Any) -> Any:
        return lambda _self, *arguments: method(*arguments)

    return type("Stranger", (), {"name": name} | {key: bind(method) for key, method in methods.items()})


def registry(*found: type) -> Registry:
    known = Registry()
    for one in found:
        known.add(one.name, one)
    return known


def using(*names: str, fallback: str = "best-effort") -> Any:
    return policy(*CLASSES, fallback=fallback, placement={"plugins": [{"name": name} for name in names]})


def contended(known: Registry | None = None, *names: str) -> World:
    """Two full nodes and an idle one; a high pod that wants a full one, a gang, and others: every hook has a say."""
    low = [
        bound(pod(f"low-{index}", whole=1, klass="low"), f"n{index // 2}", {"main": [(str(index % 2), 100)]})
        for index in range(4)
    ]
    waiting = [
        pod("high", whole=2, klass="high", age=9, selector={"kubernetes.io/hostname": "n1"}),
        pod("part", gpu=30, klass="low", age=8),
        pod("plain", klass="low"), *gang("crew", 2, gpu=50, klass="low", age=7),
    ]  # fmt: skip
    nodes = cluster("3x2xA100")
    return World(nodes, [*low, *waiting], using(*names, fallback="preempt"), known)


def run(world: World, steps: int = 4) -> list[tuple[Any, Any, Any]]:
    return [(plan.place, plan.evict, plan.hold) for plan in (world.step() for _ in range(steps))]


@cache
def undisturbed() -> list[tuple[Any, Any, Any]]:
    """What happens without any plugin."""
    return run(contended())


def raising(error: type[Exception]) -> Any:
    def method(*_arguments: Any) -> Any:
        raise error("no\nway")

    return method


def writing(*arguments: Any) -> Any:
    """A plugin that would change what it was shown."""
    array = arguments[-1] if isinstance(arguments[-1], np.ndarray) else arguments[0].free
    array[...] = 0


NONSENSE: dict[str, Any] = {
    "None": None, "a number": 7, "text": "x", "a list": [1], "nothing": np.zeros(0), "NaN": np.full(3, np.nan),
    "words": np.array(["a", "b"]), "objects": np.array([None, {}], object), "a table": np.zeros((2, 2), np.int32),
    "a plugin": object(),
}  # fmt: skip
FAULTS: dict[str, Any] = {
    error.__name__: raising(error)
    for error in (ValueError, KeyError, AssertionError, RecursionError, MemoryError, StopIteration, PluginError)
} | {"writes": writing}
ANSWERS = {what: lambda *_, answer=answer: answer for what, answer in NONSENSE.items()}
ONE_OF_EACH_SORT = ("ValueError", "StopIteration", "writes", "None", "NaN", "a table")
"""The others go the same ways through the engine."""


def failing(method: str, what: str) -> Any:
    return pytest.param(method, what, marks=() if what in ONE_OF_EACH_SORT else pytest.mark.slow)


@pytest.mark.parametrize(
    ("method", "what"),
    [failing(method, what) for method in METHODS for what in FAULTS]
    # prepare answers true or false, and nearly everything in Python is either
    + [failing(method, what) for method in METHODS if method != "prepare" for what in ANSWERS],
)
def test_a_plugin_that_fails_is_named_and_all_is_decided_as_if_it_were_not_there(method: str, what: str) -> None:
    world = contended(registry(plugin(**{method: (FAULTS | ANSWERS)[what]})), "stranger")
    faults, seen = set(), []
    for _ in range(4):
        plan = world.step()
        faults |= set(plan.faults)
        seen.append((plan.place, plan.evict, plan.hold))
    assert faults
    assert all(fault.startswith("stranger: ") and "\n" not in fault for fault in faults)
    if method == "allow":
        assert not any(place or evict for place, evict, _ in seen), "where it would have allowed it is not known"
    else:
        assert seen == undisturbed()


def arrays_in(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """All arrays that can be reached from a value, by attributes, items and entries."""
    if id(value) in seen or isinstance(value, str | bytes | int | float | type) or value is None:
        return
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        yield path, value
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from arrays_in(entry, f"{path}[{key}]", seen)
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from arrays_in(entry, f"{path}[{index}]", seen)
    else:
        names = [name for name in dir(value) if not name.startswith("_")]
        for name in names:
            found = getattr(value, name)
            if not callable(found):
                yield from arrays_in(found, f"{path}.{name}", seen)


def test_nothing_that_a_plugin_is_shown_can_be_written_to() -> None:
    found: dict[str, Any] = {}

    def look(method: str) -> Any:
        def call(view: Any, *arguments: Any) -> Any:
            found.update(arrays_in([view, *arguments], method, set()))
            return fine(method, view, *arguments)

        return call

    looking = plugin(**{method: look(method) for method in METHODS})
    world = contended(registry(looking), "stranger")
    world.cycle.builder.set_links("n0", ((0, 1), (1, 0)))
    run(world)
    for name in ("free", "nodes.capacity", "nodes.links[0]", "shapes.popularity", "prices.pod",
                 "snapshot.pending.waiting", "snapshot.running.parts", "snapshot.queues.usage"):  # fmt: skip
        assert f"score[0].{name}" in found
    assert {path.split("[")[0] for path in found} == set(METHODS)
    for path, array in found.items():
        with pytest.raises(ValueError, match=r"read-only|WRITEABLE"):
            array[...] = 0
        assert not array.flags.writeable, path
    for name in ("free", "device_free", "nodes.capacity", "shapes.request", "snapshot.pending.waiting"):
        with pytest.raises(ValueError, match="cannot set WRITEABLE flag to True"):
            found[f"score[0].{name}"].setflags(write=True)


def test_a_number_out_of_range_counts_as_the_nearest_that_is_in_it_and_is_named() -> None:
    def score(view: Any, _shape: int, rows: Any) -> Any:
        return np.array([{"n0": 1, "n1": 2000, "n2": -7}[view.nodes.names[row]] for row in rows])

    def world(score: Any) -> World:
        pods = [pod("a", gpu=10), pod("b", whole=2, age=1), pod("large", whole=8)]
        return World(cluster("3x2xA100"), pods, using("stranger"), registry(plugin(score=score)))

    careless = world(score)
    tidy = world(lambda *arguments: np.clip(score(*arguments), 0, 1000))
    plans = [(careless.step(), tidy.step()) for _ in range(3)]
    assert careless.where == tidy.where
    assert [(one.place, one.hold) for one, _ in plans] == [(one.place, one.hold) for _, one in plans]
    assert plans[0][0].faults == ("stranger: score answered -7 to 2000, cut to 0 to 1000",)


@pytest.mark.parametrize("method", METHODS)
def test_a_plugin_that_fails_in_one_hook_is_out_of_all(method: str) -> None:
    def others(name: str) -> Any:
        return lambda *arguments: fine(name, *arguments)

    # Its answers would turn everything round if they were heard.
    eager = {name: others(name) for name in METHODS} | {
        "score": lambda view, _shape, rows: (1000 - view.nodes.tie_rank[rows] % 1000).astype(np.int32),
        "order": lambda view, slots: -view.snapshot.pending.created[slots],
    }
    without_rules = {name: one for name, one in eager.items() if name != "allow"} | {"prepare": raising(ValueError)}
    assert run(contended(registry(plugin(**without_rules)), "stranger")) == undisturbed()
    world = contended(registry(plugin(**eager | {method: raising(ValueError)})), "stranger")
    assert any(world.step().faults for _ in range(4)), "the hook was not asked"


@settings(max_examples=examples(40), deadline=None)
@given(data=st.data())
def test_whatever_plugins_do_the_invariants_hold_and_remembering_changes_no_answer(data: st.DataObject) -> None:
    """Two worlds side by side, one of which forgets everything before each look."""
    bad_days = {name: data.draw(st.sets(st.integers(0, 3)), name) for name in METHODS}
    methods = data.draw(st.sets(st.sampled_from(METHODS), min_size=1), "methods")
    closed = data.draw(st.integers(0, 3), "closed")

    def make(method: str) -> Any:
        answers = ANSWERS.values() if method != "prepare" else ()  # which would say that nothing has changed
        wrong = data.draw(st.sampled_from([*FAULTS.values(), *answers]), f"wrong {method}")

        def call(view: Any, *arguments: Any) -> Any:
            if view.snapshot.now % 4 in bad_days[method]:
                return wrong(view, *arguments)
            if method == "prepare":  # what is allowed depends on the time
                return True
            if method == "allow":
                return (arguments[-1] + view.snapshot.now) % 4 != closed
            return fine(method, view, *arguments)

        return call

    made = {method: make(method) for method in methods | {"prepare"}}
    world, forgetful = [contended(registry(plugin(**made)), "stranger") for _ in range(2)]
    for _ in range(6):
        forgetful.cycle.memory = Memory(forgetful.registry)
        remembered, fresh = world.step(), forgetful.step()
        assert (remembered.place, remembered.evict) == (fresh.place, fresh.evict)


@settings(max_examples=examples(30), deadline=None)
@given(indices=st.lists(st.integers(-3, 5), max_size=4))
def test_no_choice_of_devices_gives_a_pod_more_or_others_than_there_are(indices: list[int]) -> None:
    known = registry(plugin(devices=lambda *_: np.array(indices, np.int64)))
    world = World(cluster("1x4xA100"), [pod("a", whole=2), pod("b", gpu=40)], using("stranger"), known)
    world.settle()  # checks every invariant
    assert world.waiting == []
    assert len({device for device, _ in world.devices("a")["main"]}) == 2


class TestRulesThatCannotBeAsked:
    """Nothing is placed without the word of a plugin that forbids nodes, or may do so: what is bound stays so."""

    def test_an_unknown_plugin_is_named_every_time_and_nothing_is_placed(self) -> None:
        """Nobody knows what it would have said: it may be a rule whose name is misspelt."""
        world = World(cluster("3x2xA100"), [pod("a", gpu=10)], using("nobody"))
        fault = world.step().faults
        assert fault == world.step().faults
        assert fault[0].startswith("nobody: plugin 'nobody' is unknown; known: best-fit, ")
        assert world.waiting == ["a"]
        world.cycle.builder.set_policy(using())
        assert world.settle().waiting == []

    def test_of_a_class_that_only_scores_it_is_seen_that_it_forbids_nothing(self) -> None:
        class Scores:
            name = "scores"

            def __init__(self, region: str) -> None:
                """Its argument is missing."""

            def score(self, _view: Any, _shape: int, rows: Any) -> Any:
                return np.zeros(len(rows), np.int32)

        world = World(cluster("2x2xA100"), [pod("a", whole=2)], using("scores"), registry(Scores))
        assert world.step().faults[0].startswith("scores: plugin 'scores': args.region")
        assert world.where

    def test_the_reason_names_the_plugin_and_its_fault(self) -> None:
        broken = registry(plugin(allow=raising(ValueError)))
        alone = World(cluster("3x2xA100"), [pod("a", gpu=10)], using("stranger"), broken)
        fails = (
            "; plugin stranger of the policy fails, and the pod is placed nowhere without its word: ValueError: no way"
        )
        (hold,) = alone.step().hold
        assert hold.reason == "PluginRejected"
        assert hold.message == f"0/3 nodes are available: 3 rejected by a plugin{fails}"
        together = World(cluster("3x2xA100"), gang("g", 2, gpu=10), using("stranger"), broken)
        assert all(hold.message.endswith(fails) for hold in together.step().hold)

    @pytest.mark.parametrize(
        "method", [method for method in METHODS if method not in ("concerns", "damage", "devices")]
    )
    def test_only_pods_that_it_concerns_wait(self, method: str) -> None:
        def concerns(view: Any, shapes: Any) -> Any:
            return view.shapes.request[shapes, 0] > 2000

        others = {"allow": lambda *arguments: fine("allow", *arguments), "concerns": concerns}
        known = registry(plugin(**others | {method: raising(ValueError)}))
        pods = [pod("small", cpu=1, age=9), pod("large", cpu=4), pod("last", cpu=1, age=-9)]
        world = World(cluster("2x2xA100"), pods, using("stranger"), known)
        waiting = ["large"]
        if method == "prepare":  # it is out before it could say whom it concerns
            waiting = ["large", "last", "small"]
        assert world.settle().waiting == waiting

    def test_nobody_is_evicted_for_a_pod_that_waits_for_a_plugin(self) -> None:
        low = bound(pod("low", whole=1, klass="low"), "n0", {"main": [("0", 100)]})
        world = World(cluster("1x1xA100"), [low, pod("high", whole=1, klass="high")],
                      using("stranger", fallback="preempt"), registry(plugin(allow=raising(ValueError))))  # fmt: skip
        world.settle()
        assert (world.where, world.evicted) == ({"low": "n0"}, [])

    def test_it_has_its_say_again_once_it_recovers(self) -> None:
        def allow(view: Any, _shape: int, rows: Any) -> Any:
            if view.snapshot.now % 2:
                raise ValueError("no luck today")
            return np.ones(len(rows), np.bool_)

        moody = plugin(prepare=lambda _: True, allow=allow)
        world = World(cluster("1x2xA100"), [pod("a", gpu=10)], using("stranger"), registry(moody))
        world.now &= ~1  # the next look is at an odd second
        assert world.step().faults == ("stranger: ValueError: no luck today",)
        assert world.waiting == ["a"]
        assert world.step().faults == ()
        assert world.where == {"a": "n0"}

    def test_a_question_leaves_out_what_may_be_there_for_the_scheduler(self) -> None:
        """A plugin that is not installed where somebody asks is no fault of the policy."""
        world = World(cluster("1x2xA100"), [pod("a", gpu=10)], using("nobody"), Registry().in_part())
        assert world.step().faults
        assert world.where == {"a": "n0"}


def test_a_policy_chooses_other_plugins_at_run_time() -> None:
    def only(name: str) -> type:
        return plugin(
            f"only-{name}", allow=lambda view, _, rows: np.array([view.nodes.names[row] == name for row in rows])
        )

    world = World(cluster("2x1xA100"), [], using("only-n0"), registry(only("n0"), only("n1")))
    world.add(pod("a", whole=1), pod("b", whole=1))
    world.settle()
    assert world.where in ({"a": "n0"}, {"b": "n0"})
    world.cycle.builder.set_policy(using("only-n1"))
    world.settle()
    assert sorted(world.where.values()) == ["n0", "n1"]


def test_a_filter_is_asked_again_about_pods_that_fitted_nowhere_once_prepare_says_so() -> None:
    opens = plugin(
        prepare=lambda view: True, allow=lambda view, _, rows: np.full(len(rows), view.snapshot.now % 5 == 0)
    )
    world = World(cluster("1x2xA100"), [pod("a", gpu=10)], using("stranger"), registry(opens))
    for _ in range(5):
        world.step()
    assert world.where == {"a": "n0"}


class Clockwork:
    """Forbids everything in every other spell of four seconds, and says once that one has begun."""

    name = "clockwork"

    def __init__(self) -> None:
        self.spell = 0

    def prepare(self, view: Any) -> bool:
        before, self.spell = self.spell, view.snapshot.now // 4
        return bool(before != self.spell)

    def allow(self, _view: Any, _shape: int, rows: Any) -> Any:
        return np.full(len(rows), self.spell % 2 == 0)


def test_a_plugin_that_follows_the_time_is_asked_though_nothing_else_has_happened() -> None:
    """Each look is checked against one that remembers nothing."""
    world = World(cluster("2x2xA100"), [pod("huge", whole=8)], using("clockwork"), registry(Clockwork))
    for number in range(24):
        if number % 5 == 0:
            world.add(pod(f"p{number}", gpu=10))
        world.step()
        assert (len(world.waiting) == 1) or world.now // 4 % 2


def test_nobody_is_evicted_for_a_place_that_a_filter_forbids() -> None:
    shut = plugin(allow=lambda view, _, rows: np.array([view.nodes.names[row] != "n0" for row in rows]))
    low = [bound(pod(f"low-{n}", whole=1, klass="low"), f"n{n}", {"main": [("0", 100)]}) for n in range(2)]
    high = pod("high", whole=1, klass="high")
    world = World(cluster("2x1xA100"), [*low, high], using("stranger", fallback="preempt"), registry(shut))
    world.settle()
    assert [evict.pod.name for evict in world.evicted] == ["low-1"]
    assert world.where["high"] == "n1"


@pytest.mark.parametrize("spared", ["low-0", "low-1", "low-2"])
def test_the_plugin_says_whose_eviction_hurts_most(spared: str) -> None:
    def damage(view: Any, _shape: int, slots: Any) -> Any:
        return np.array([1000 * (view.snapshot.running.names[slot].name == spared) + 1 for slot in slots])

    low = [
        bound(pod(f"low-{n}", whole=1, klass="low"), "n0", {"main": [(str(n), 100)]}, started=100 * n) for n in range(3)
    ]
    high = pod("high", whole=2, klass="high")
    world = World(
        cluster("1x3xA100"), [*low, high], using("stranger", fallback="preempt"), registry(plugin(damage=damage))
    )
    world.settle()
    assert spared in world.where
    assert len(world.evicted) == 2


@pytest.mark.parametrize(
    ("factory", "sentence"),
    [
        (raising(OSError), "plugin 'x' cannot be made: OSError: "),
        (plugin("y", score=None), "plugin 'x' says that its name is 'y'; allowed: 'x'"),
        (plugin("x"), "plugin 'x' extends nothing"),
        (object, "plugin 'x' says that its name is None"),
    ],
    ids=["raises", "other name", "no hooks", "no name"],
)
def test_what_is_no_plugin_is_refused_when_it_is_chosen(factory: Any, sentence: str) -> None:
    known = Registry()
    known.add("x", factory)
    with pytest.raises(PluginError, match=sentence):
        known.create("x")
    world = World(cluster("1x1xA100"), [pod("a", gpu=10)], using("x"), known)
    (fault,) = world.step().faults
    assert sentence in fault
    may_have_a_rule = not isinstance(factory, type)
    assert (world.where == {}) is may_have_a_rule


@pytest.mark.parametrize(
    ("points", "sentence"),
    [
        ([("spread", "collections:Counter")], "plugin 'spread' is registered twice"),
        ([("a", "collections:Counter"), ("a", "collections:deque")], "plugin 'a' is registered twice"),
        ([("a", "no_such_module:Plugin")], "plugin 'a' cannot be loaded: No module named 'no_such_module'"),
        ([("a", "collections:Nothing")], "plugin 'a' cannot be loaded: .*Nothing"),
        ([("a", "string:digits")], "plugin 'a': string:digits is not a class or function"),
    ],
)
def test_a_broken_entry_point_is_refused_at_load(points: list[tuple[str, str]], sentence: str) -> None:
    with pytest.raises(PluginError, match=sentence):
        Registry().add_entry_points([EntryPoint(name, value, GROUP) for name, value in points])


def test_every_door_is_in_the_list_of_hooks() -> None:
    """What ``chosen`` sorts plugins by is all that a plugin can extend; one door is internal, and said to be."""
    asked = re.findall(r"isinstance\(plugin, (\w+)\)", inspect.getsource(chosen))
    assert sorted(asked) == sorted([hook.__name__ for hook in HOOKS] + ["Placer"])
    assert "price.line.Placer" in str(hooks.__doc__)


def test_every_attribute_of_a_plugin_that_is_read_is_declared() -> None:
    source = inspect.getsource(chosen) + inspect.getsource(inspect.getmodule(Registry))  # type: ignore[arg-type]
    read = {*re.findall(r'getattr\(plugin, "(\w+)"', source), "node_labels", "pod_labels"}
    assert read == set(inspect.get_annotations(hooks.Declares))


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_plugin_comes_through_the_same_door(name: str) -> None:
    assert isinstance(Registry().create(name), HOOKS)


async def test_failing_plugins_are_reported_once_in_the_log_and_on_the_policy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Recorded:
        def __init__(self) -> None:
            self.events: list[tuple[str, str, str]] = []

        def record(self, regarding: Any, reason: str, note: str, **_options: Any) -> None:
            self.events.append((f"{regarding.kind}/{regarding.name}", reason, note))

    recorder = Recorded()
    live = LiveScheduler(cast("Client", None), Cycle(), cast("Any", recorder))
    live.policy_source._active = using("stranger")
    caplog.set_level(logging.INFO)
    for faults in ((), ("stranger: ValueError: no",), ("stranger: ValueError: no",), ()):
        live._send(Plan(faults=faults))
        await asyncio.sleep(0)
    assert recorder.events == [("HybridPolicy/default", "PluginFailed", "stranger: ValueError: no")]
    assert caplog.messages == ["plugin stranger: ValueError: no", "all plugins answer again"]


def test_a_gang_in_part_is_not_given_up_while_a_rule_that_cannot_be_asked_keeps_its_member_off() -> None:
    """It could not start again either."""
    world = World(cluster("1x2xA100"), gang("g", 2, whole=1), using(), gang_timeout=60)
    assert len(world.settle().where) == 2
    world.cycle.builder.set_policy(using("mis-spelt"))
    world.delete("g-1")
    world.add(pod("g-1", whole=1, gang="g", gang_min=2, uid="again", age=-10))
    for _ in range(3):
        world.step()
        world.now += 70
    assert world.evicted == []
    world.cycle.builder.set_policy(using())
    assert sorted(world.settle().where) == ["g-0", "g-1"]
