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
        116,  # a replica of an older template is ready, and the controller's view says that it is not
    ],
)
def test_what_was_found_once_is_not_found_again(seed: int) -> None:
    assert live(draw(seed)) == []


def test_a_controller_that_deletes_what_it_has_not_seen_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the version of the pod as a precondition one is deleted that has become ready since it was judged."""
    delete = objects.delete

    async def blindly(*arguments: Any, **more: Any) -> Any:
        return await delete(*arguments, **more | {"resource_version": ""})

    monkeypatch.setattr(apply.objects, "delete", blindly)
    assert Count.TAKEN in {one.count for one in live(draw(116))}
