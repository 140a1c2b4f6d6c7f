"""Gangs that have been bound in part for too long: whom to evict of them."""

from types import SimpleNamespace
from typing import Any

from tests.worlds import START

from tangram.snapshot.pods.pods import find_overdue


def member(name: str, gang: int, *, runs: bool = True) -> Any:
    return SimpleNamespace(name=name, node="n0", gang_row=gang, member=name, runs_here=lambda _: runs)


def test_all_pods_are_looked_through_once_however_many_gangs_are_overdue() -> None:
    """At scale there are tens of thousands of pods, and a node that is lost makes many gangs overdue at once."""
    gangs: Any = SimpleNamespace(
        arrays=SimpleNamespace(overdue={7: (("of an earlier second", "n1"),)}),
        check=lambda *_: [0, 1, 2],
        is_past=lambda name: name == "done",
    )
    pods = [
        member("b", 0),
        member("a", 0),
        member("c", 1),
        member("done", 1),
        member("e", 3),
        member("w", 2, runs=False),
    ]
    find_overdue(gangs, iter(pods), "tangram", START)
    assert gangs.arrays.overdue == {0: (("a", "n0"), ("b", "n0")), 1: (("c", "n0"),), 2: ()}
