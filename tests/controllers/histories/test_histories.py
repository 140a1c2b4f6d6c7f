"""Random histories of the controllers, a few of each kind: ``python -m tests.controllers.histories`` has more.

The harness is judged too: it finds a controller that lacks what keeps it from doing things twice.
"""

from typing import Any

import pytest
from tests.budget import seeds
from tests.controllers.histories.drawing import KINDS, draw
from tests.controllers.histories.findings import Count
from tests.controllers.histories.life import live

from tangram.cluster import objects
from tangram.controllers import apply
from tangram.controllers import live as controllers


def test_a_seed_is_a_history() -> None:
    assert draw(7) == draw(7)
    assert {draw(seed).kind for seed in range(100)} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_no_pod_is_duplicated_lost_or_run_again(kind: str) -> None:
    for seed in seeds(2):
        assert live(draw(seed, kind)) == [], f"seed {seed}"


@pytest.mark.parametrize(
    "seed",
    [
        32,  # a job is suspended in the second in which its last pod ends
        20149,  # a pod has failed, and the success of another one is not seen yet
        20401,  # a process takes over whose watch does not show the pods of the last one
        116,  # a replica of an older template is ready, and the controller's view says that it is not
    ],
)
def test_what_was_found_once_is_not_found_again(seed: int) -> None:
    assert live(draw(seed)) == []


def test_a_controller_that_deletes_what_it_has_not_seen_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither asked for, nor with its version as a precondition: a pod that has become ready since is deleted."""
    delete = objects.delete

    async def blindly(*arguments: Any, **more: Any) -> Any:
        return await delete(*arguments, **more | {"resource_version": ""})

    monkeypatch.setattr(apply.objects, "delete", blindly)
    monkeypatch.setattr(controllers, "touches_pods", lambda _actions: False)
    assert Count.TAKEN in {one.count for one in live(draw(116))}


def test_a_controller_that_does_not_ask_which_pods_there_are_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its predecessor has made some that its own watch does not show."""
    monkeypatch.setattr(controllers, "touches_pods", lambda _actions: False)
    assert Count.DUPLICATED in {one.count for one in live(draw(20401))}
