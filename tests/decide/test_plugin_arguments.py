"""What a policy gives a plugin, and what a plugin says of itself, is checked before it is used."""

from importlib.metadata import EntryPoint
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import pytest
from tests.worlds import World, cluster, pod, policy

from tangram.decide.hooks import INTERFACE
from tangram.decide.registry import GROUP, Registry
from tangram.errors import PluginError
from tangram.simulate.policy import check_plugins


class Only:
    """Nodes of one name, and a few more arguments of all kinds."""

    name = "only"

    def __init__(
        self,
        node: str,
        cells: dict[str, str] | None = None,
        limit: Annotated[int, msgspec.Meta(ge=1, le=9)] = 1,
        mode: Literal["hard", "soft"] = "hard",
        regions: tuple[str, ...] = (),
        share: float = 0.5,
    ) -> None:
        if share > 1:
            raise ValueError(f"args.share: {share} is not allowed; allowed: at most 1")
        self.node, self.said = node, (cells, limit, mode, regions, share)

    def allow(self, view: Any, _shape: int, rows: Any) -> Any:
        return np.array([view.nodes.names[row] == self.node for row in rows], np.bool_)


def create(args: dict[str, Any] | None = None) -> Any:
    known = Registry()
    known.add("only", Only)
    return known.create("only", msgspec.json.encode(args or {}).decode())


def test_a_plugin_is_made_with_the_arguments_of_the_policy() -> None:
    every = {"cells": {"a": "b"}, "limit": 9, "mode": "soft", "regions": ["x", "y"], "share": 1}
    assert create({"node": "n1"} | every).said == ({"a": "b"}, 9, "soft", ("x", "y"), 1.0)
    known = Registry()
    known.add("only", Only)

    def using(node: str) -> Any:
        return policy(placement={"plugins": [{"name": "only", "args": {"node": node}}]})

    world = World(cluster("2x1xA100"), [pod("a", gpu=50)], using("n1"), known)
    assert world.step().faults == ()
    world.cycle.builder.set_policy(using("n0"))
    world.add(pod("b", gpu=50))
    world.step()
    assert world.where == {"a": "n1", "b": "n0"}


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({}, "args.node: None is not allowed; allowed: text; it has no default"),
        (
            {"node": "n", "nodes": 7},
            "args.nodes: 7 is not allowed; allowed: the arguments node, cells, limit, mode, regions, share",
        ),
        ({"node": 7}, "args.node: 7 is not allowed; allowed: text (Expected `str`, got `int`)"),
        (
            {"node": "n", "cells": {"a": 1}},
            "args.cells: {'a': 1} is not allowed; allowed: a map of text to text or null (Expected `str`, got `int` ",
        ),
        (
            {"node": "n", "limit": 10},
            "args.limit: 10 is not allowed; allowed: a whole number (Expected `int` <= 9)",
        ),
        ({"node": "n", "mode": "x"}, "args.mode: 'x' is not allowed; allowed: one of 'hard', 'soft' "),
        ({"node": "n", "regions": "x"}, "args.regions: 'x' is not allowed; allowed: a list of text "),
        ({"node": "n", "share": "x"}, "args.share: 'x' is not allowed; allowed: a number "),
    ],
)
def test_arguments_that_a_plugin_does_not_take_are_refused(args: dict[str, Any], sentence: str) -> None:
    with pytest.raises(PluginError) as caught:
        create(args)
    assert str(caught.value).startswith(f"plugin 'only': {sentence}")


def test_what_the_plugin_itself_refuses_is_said_in_its_words() -> None:
    with pytest.raises(PluginError, match=r"plugin 'only' cannot be made: ValueError: args.share: 2.0 is not allowed"):
        create({"node": "n", "share": 2})


def test_a_built_in_plugin_takes_no_arguments() -> None:
    with pytest.raises(PluginError, match=r"plugin 'binpack': args.x: 1 is not allowed; allowed: no arguments"):
        Registry().create("binpack", '{"x":1}')


def test_wrong_arguments_are_a_fault() -> None:
    known = Registry()
    known.add("only", Only)
    chosen = policy(placement={"plugins": [{"name": "only", "args": {"node": 7}}]})
    world = World(cluster("2x1xA100"), [pod("a", gpu=50)], chosen, known)
    (fault,) = world.step().faults
    assert fault.startswith("only: plugin 'only': args.node: 7 is not allowed; allowed: text")
    assert not world.where, "it has a rule, and what it would have forbidden is not known"
    with pytest.raises(PluginError, match=r"HybridPolicy default: plugin 'only': args.node: 7 is not allowed"):
        check_plugins(chosen, known)


def test_the_interface_that_a_plugin_was_written_for_is_checked_when_it_is_loaded() -> None:
    class Newer:
        name = "newer"
        interface = INTERFACE + 1

        def score(self, *_: Any) -> Any:
            return np.zeros(0)

    sentence = f"plugin 'newer': interface: {INTERFACE + 1} is not allowed; allowed: {INTERFACE}, "
    known = Registry()
    known.add("newer", lambda: Newer())
    with pytest.raises(PluginError, match=sentence):
        known.create("newer")
    found = type("Found", (EntryPoint,), {"load": lambda _: Newer})
    with pytest.raises(PluginError, match=sentence):
        Registry().add_entry_points([found("newer", "m:Newer", GROUP)])
