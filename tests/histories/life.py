"""Lives through a history from its beginning to its rest, and says what was found."""

import traceback

from tests.histories import checks
from tests.histories.findings import Count, Finding
from tests.histories.history import End, History
from tests.histories.stage import Stage
from tests.worlds import START

from tangram.scheduler.cycle import BrokenInvariantError

_PATIENCE, _FOR_VOLUMES = 1200, 1000
"""Seconds after the last thing that happens, within which refusals are over, and the longest pause after one, gangs are
given up and all is quiet; and how many more where volumes never come: places are held for them for a while."""
_IDLE = 10
"""Seconds between cycles that nothing asks for: a live scheduler has them every few seconds."""
_PAUSES = (1, 2, 5, 10, 20, 40, 62, 63, 70, 130, 200, 300, 450, 560)
"""Seconds after the last thing that happens at which a cycle is made in any case."""
_QUIET = 330
"""Seconds without a decision that something moves, after which a world is at rest."""


def live(history: History, *, verbose: bool = False) -> list[Finding]:
    """What must never be, and was."""
    stage = Stage(history, verbose)
    try:
        _live(stage)
    except BrokenInvariantError:
        pass  # it has been noted
    except Exception as error:  # noqa: BLE001 whatever a world raises is counted
        stage.note(Count.EXCEPTIONS, f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}")
    return stage.findings


def _live(stage: Stage) -> None:
    world, steps = stage.world, checks.Steps()
    last = max((second for second, _ in stage.history.actions), default=0)
    steps.begin(stage)
    stage.settle()
    steps.end(stage)
    cleaned_away = max(
        (second + action.linger for second, action in stage.history.actions if isinstance(action, End)), default=0
    )
    end = START + max(last, cleaned_away) + _PATIENCE + _FOR_VOLUMES * bool(stage.history.drivers)
    for second in (*range(_IDLE, last, _IDLE), *(last + pause for pause in _PAUSES)):
        world.schedule(START + second, stage.wake)
    while (moment := world.next_moment()) is not None and moment <= end:
        world.step()
        steps.begin(stage)
        if stage.chance.randrange(100) < stage.history.fresh and checks.may_compare(stage) and not checks.learns(stage):
            fresh = checks.fresh_plan(stage)
            checks.compare(stage, stage.decide_once(), fresh)
        stage.settle()
        steps.end(stage)
    world.run(end)
    if stage.moved > end - _QUIET and not stage.tireless:
        stage.note(Count.RESTLESS, f"something was moved {end - stage.moved} seconds before the end")
        return
    checks.at_rest(stage)
