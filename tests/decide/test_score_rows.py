"""Room for scores belongs to what waits; ``World.step`` compares each plan with one that is made without a memory."""

import random

import pytest
from tests.worlds import World, cluster, pod

from tangram.decide import score_rows, scores
from tangram.decide.score_rows import ScoreRows
from tangram.decide.scores import Scores
from tangram.snapshot.pods import shapes

KEPT = 4


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows are given back sooner than in production, and those of requests later."""
    monkeypatch.setattr(score_rows, "KEPT", KEPT)
    monkeypatch.setattr(scores, "KEPT", KEPT)
    monkeypatch.setattr(score_rows, "_FEWEST", 2)
    monkeypatch.setattr(shapes, "_FEW", 10_000)


def known(world: World) -> Scores:
    found = world.cycle.memory._known
    assert found is not None
    return found[1]


def rows(world: World) -> ScoreRows:
    return known(world)._rows


def test_requests_that_were_placed_long_ago_take_no_room_over_all_nodes() -> None:
    world = World(cluster("8x8xA100"), batch=4)
    world.add(*(pod(f"p{number}", cpu=f"{number + 1}m") for number in range(60)))
    while world.step().place:
        pass
    world.step()
    assert len(rows(world).of) >= 60
    assert len(rows(world).score) <= 4 * KEPT
    assert not [one for one in world.live.values() if not one.spec.node_name]


def test_a_request_that_waits_keeps_its_row() -> None:
    """And so its scores, which need not be worked out again."""
    world = World(cluster("1x1xA100"), [pod(f"waits-{number}", whole=2, cpu=f"{number}m") for number in range(6)])
    world.step()
    shape = world.cycle.builder.pods["uid-waits-0"].shape
    for number in range(20):
        world.add(pod(f"p{number}", cpu=f"{number + 10}m"))
        world.step()
        assert rows(world).of[shape] >= 0
        assert known(world)._cursor[shape] >= 0


@pytest.mark.parametrize("seed", range(3))
def test_rows_that_come_and_go_change_no_plan(seed: int) -> None:
    chance = random.Random(seed)
    likes = [{}, {"kubernetes.io/hostname": "n1"}, {"zone": "a"}]
    world = World(cluster("3x4xA100", labels={"zone": "a"}), batch=3)
    for number in range(120):
        asked = {"whole": chance.randrange(1, 5)} if chance.random() < 0.5 else {"gpu": chance.randrange(10, 90, 10)}
        cpu = f"{chance.randrange(1, 60)}m"
        world.add(pod(f"p{number}", **asked, cpu=cpu, selector=chance.choice(likes)))
        while len(world.live) > 14:
            world.delete(chance.choice(list(world.live.values())).metadata.name)
        world.step()
    assert len(rows(world).of) > 60
    assert len(rows(world).score) <= 32
