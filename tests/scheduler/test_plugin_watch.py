"""A plugin that does not come back, or that ends the process, stops nobody but the pods that it may concern."""

import time
from functools import partial

import numpy as np
import pytest
from tests.worlds import START, cluster, pod, policy

from tangram.decide.chosen import Chosen
from tangram.decide.registry import Registry
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.plugin_watch import PluginWatch
from tangram.snapshot.arrays import PluginChoice


class Strange:
    """It has a word about pods of one CPU only, and there it does something that no plugin must do."""

    name = "strange"

    def __init__(self, does) -> None:
        self._does = does

    def concerns(self, view, shapes):
        return view.shapes.request[shapes, 0] == 1000

    def allow(self, view, shape, rows):
        self._does()
        return np.ones(len(rows), np.bool_)


def loop() -> None:
    while True:
        pass


def end() -> None:
    raise SystemExit(3)


def cycle_with(registry, does) -> Cycle:
    registry.add("strange", lambda: Strange(does))
    cycle = Cycle(registry=registry)
    cycle.builder.set_policy(policy(placement={"plugins": [{"name": "strange"}]}))
    for one in cluster("1x8xA100"):
        cycle.builder.put_node(one)
    cycle.observe_pod(None, pod("concerned", cpu=1))
    cycle.observe_pod(None, pod("other", cpu=2))
    return cycle


def catch_everything() -> None:
    """A service that does not answer, asked about each of 50 nodes."""
    for _ in range(50):
        try:
            time.sleep(1)
        except BaseException:  # noqa: BLE001
            continue


@pytest.mark.parametrize(
    ("does", "fault"),
    [
        (
            catch_everything,
            "it has not answered allow for 0.2 s, and is asked no more until the scheduler starts again",
        ),
        (loop, "it has not answered allow for 0.2 s, and is asked no more until the scheduler starts again"),
        (end, "SystemExit: 3"),
    ],
)
def test_a_plugin_that_does_not_come_back_keeps_only_those_waiting_whom_it_concerns(does, fault):
    registry = Registry()
    cycle = cycle_with(registry, does)
    watch = PluginWatch(registry, seconds=0.2)
    watch.start()
    try:
        plans = [cycle.decide(START + second) for second in range(2)]
    finally:
        watch.stop()
    assert [place.pod.name for plan in plans for place in plan.place] == ["other"]
    assert plans[1].faults == (f"strange: {fault}",)


class Made:
    """It takes its time before it is a plugin."""

    name = "strange"

    def __init__(self) -> None:
        loop()

    def score(self, view, shape, rows):
        return np.zeros(len(rows), np.int32)


def test_one_that_is_never_made_holds_up_one_cycle():
    registry = Registry()
    registry.add("strange", Made)
    watch = PluginWatch(registry, seconds=0.2)
    watch.start()
    try:
        chosen = Chosen(registry)
        chosen.begin((PluginChoice("strange"),))
    finally:
        watch.stop()
    sentence = "it has not answered __init__ for 0.2 s, and is asked no more until the scheduler starts again"
    assert chosen.faults == {"strange": sentence}
    assert Chosen(registry).begin((PluginChoice("strange"),))


def test_a_hook_need_not_be_a_function():
    class Partial:
        name = "partial"

        def __init__(self) -> None:
            self.allow = partial(self._allow, True)

        def _allow(self, answer, view, shape, rows):
            return np.full(len(rows), answer)

    registry = Registry()
    registry.add("partial", Partial)
    cycle = Cycle(registry=registry)
    cycle.builder.set_policy(policy(placement={"plugins": [{"name": "partial"}]}))
    cycle.builder.put_node(*cluster("1x8xA100"))
    cycle.observe_pod(None, pod("one", cpu=1))
    plan = cycle.decide(START)
    assert ([place.pod.name for place in plan.place], plan.faults) == (["one"], ())


def test_who_does_not_come_back_is_asked_once(caplog):
    asked = []

    def once() -> None:
        asked.append(1)
        loop()

    registry = Registry()
    cycle = cycle_with(registry, once)
    watch = PluginWatch(registry, seconds=0.2)
    watch.start()
    try:
        for second in range(5):
            cycle.decide(START + second)
    finally:
        watch.stop()
    assert asked == [1]
    assert caplog.messages == ["plugin strange has not answered allow for 0.2 s; nothing is decided"]


def test_who_has_hung_once_and_is_chosen_no_longer_makes_nobody_be_scored_anew():
    registry = Registry()
    chosen, others = Chosen(registry), (PluginChoice("best-fit"),)
    registry.asking.hung["strange"] = "it has not answered"
    assert [chosen.begin(others) for _ in range(2)] == [True, False]
