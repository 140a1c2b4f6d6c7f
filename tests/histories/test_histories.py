"""The harness itself: histories are what their seed says, and shrink to what matters."""

import pytest
from tests.histories.drawing import KINDS, draw
from tests.histories.findings import Count, Finding
from tests.histories.history import Delete, Submit
from tests.histories.life import live
from tests.histories.shrink import shrink


def test_a_seed_is_a_history():
    assert [draw(seed) for seed in range(20)] == [draw(seed) for seed in range(20)]
    assert {draw(seed).kind for seed in range(100)} == set(KINDS)


def test_all_pods_of_a_known_world_are_there_from_the_beginning():
    for seed in range(20):
        history = draw(seed, "known")
        assert {second for second, _ in history.actions} == {0}
        assert all(isinstance(action, Submit) for _, action in history.actions)


def test_shrinking_drops_what_is_not_needed():
    history = next(
        one for one in map(draw, range(1000)) if any(isinstance(action, Delete) for _, action in one.actions)
    )

    def deletes(one):
        found = any(isinstance(action, Delete) for _, action in one.actions)
        return [Finding(Count.STARVED, 0, "")] if found else []

    smallest = shrink(history, deletes)
    assert [type(action) for _, action in smallest.actions] == [Delete]
    assert len(smallest.nodes) == 1
    assert smallest.spec is None


_LONG_KINDS = ("all", "policies", "restarts", "volumes", "nodes")


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[pytest.mark.slow] * (kind in _LONG_KINDS)) for kind in KINDS]
)
def test_what_holds_once_holds_over_time(kind, seed):
    assert live(draw(seed, kind)) == []


@pytest.mark.slow
def test_a_batch_of_places_that_are_only_held_for_volumes_does_not_keep_the_scheduler_busy():
    """Two pods whose volumes do not exist yet are a whole batch."""
    assert live(draw(3018)) == []


def test_a_pod_that_is_cleaned_away_late_and_made_again_is_no_unrest():
    assert live(draw(60240)) == []


_LONG = [
    pytest.param(seed, marks=pytest.mark.slow)
    for seed in (
        15000457,
        15001971,
        21002802,
        22000658,
        37000001,
        39000766,
        1001551,
        1002554,
        2001663,
        2005081,
        5000209,
        5004182,
        7030002,
        7052782,
        7054141,
        7054754,
        7056670,
        7058819,
    )
]


@pytest.mark.parametrize("seed", [7052175, *_LONG])
def test_histories_that_have_found_something_find_nothing(seed):
    """Devices of which the kubelet knows fewer than the agent; a fifth decision that takes back what the first gave;
    a member that its gang exchanges when others have it evicted; a set of victims that is legal in one order only;
    a pod on a node that is held from the next second on;
    a member that its gang needs once another one is evicted; a claim of one that would be evicted once it has come; a
    place held for volumes by which another pod fits; a right that arises by who is placed; a node of which it is known
    again what its pods hold; an eviction that is refused for ever; company that a claimant must not lose; a pod for
    which nothing would be free, though it gives way for nobody's good; one that brings a right for which others wait; a
    claim that counts on who leaves for another one; a right by what is placed where others have left."""
    assert live(draw(seed)) == []
