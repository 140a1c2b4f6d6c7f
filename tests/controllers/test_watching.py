"""What the health of a controller knows of its watches."""

import asyncio
from typing import cast

from tests.virtual_time import VirtualClock, VirtualLoop

from tangram.cluster.paths import TRAINING_JOBS
from tangram.cluster.rest import Client
from tangram.controllers.watching import KINDS, STREAM_SECONDS, Ears


def test_what_is_asked_once_at_the_start_is_no_watch_that_could_fall_silent() -> None:
    """kopf reads which groups and kinds there are, and never again: after four minutes a controller that was well
    counted as dead, and was started again."""
    clock = VirtualClock()

    async def scene() -> None:
        ears = Ears(cast("Client", None), lambda *_: None)
        for path in ("/api", "/apis", "/apis/scheduling.example.com/v1"):
            ears.answered(path)
        assert not ears.listening.is_set()
        for _ in range(10):
            for kind in KINDS:
                ears.answered(kind.collection())
            assert ears.listening.is_set()
            assert ears.silent() is None
            clock.stop(STREAM_SECONDS)

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(scene())


def test_a_watch_that_shows_no_sign_of_life_is_named() -> None:
    clock = VirtualClock()

    async def scene() -> None:
        ears = Ears(cast("Client", None), lambda *_: None)
        for kind in KINDS:
            ears.answered(kind.collection())
        clock.stop(300.0)
        for kind in KINDS[1:]:
            ears.answered(kind.collection())
        silent = ears.silent()
        assert silent is not None
        assert silent.startswith(f"the watch of {TRAINING_JOBS.collection()} is silent for 300 s")

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(scene())
