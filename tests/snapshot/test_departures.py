"""When pods will end, as far as is known: the same for a scheduler that has just started."""

import pytest
from msgspec.structs import replace
from tests.worlds import START, World, bound, cluster, leaving, pod

from tangram.api import names
from tangram.api.objects import Pod, PodStatus
from tangram.snapshot.arrays import UNLIMITED


def unstarted(one: Pod) -> Pod:
    """Bound, and its kubelet has not said yet that it runs."""
    return replace(one, status=PodStatus())


def ends(world: World, now: int) -> list[tuple[int, int]]:
    """(started, ends) of everything that will end."""
    found = world.cycle.builder.snapshot(now).departures
    assert found is not None
    pairs = zip(found.started[found.present].tolist(), found.ends[found.present].tolist(), strict=True)
    return sorted((started - START, end - START if end < UNLIMITED else -1) for started, end in pairs)


MINUTE = pod("p", whole=1, annotations={names.ESTIMATED_DURATION: "1m"})


@pytest.mark.parametrize(
    ("one", "expected"),
    [
        (bound(MINUTE, "n0", started=START), [(0, 60)]),
        (unstarted(bound(MINUTE, "n0")), [(500, 560)]),
        (unstarted(bound(pod("p", whole=1), "n0")), [(500, -1)]),
        (leaving(bound(MINUTE, "n0", started=START - 10)), [(-10, 0)]),
        (leaving(unstarted(bound(MINUTE, "n0"))), [(0, 0)]),
    ],
)
def test_when_a_pod_ends_does_not_depend_on_when_that_was_first_asked(
    one: Pod, expected: list[tuple[int, int]]
) -> None:
    world = World(cluster("1x1xA100"), [one, pod("waits", whole=1, age=60)])
    ends(world, START + 100)
    assert ends(world, START + 500) == expected
    world.start_again()
    assert ends(world, START + 500) == expected


def test_of_pods_that_come_and_go_while_nobody_waits_nothing_is_kept() -> None:
    world = World(cluster("1x8xA100"))
    for number in range(9):
        world.add(bound(pod(f"p{number}", whole=1), "n0", {"main": [("0", 100)]}))
        world.delete(f"p{number}")
    assert world.cycle.builder.departures.moved == set()
