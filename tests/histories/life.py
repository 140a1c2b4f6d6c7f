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
_PAUSES = (1, 2, 5, 10, 20, 40, 62, 63, 70, 130, 200)
_LATER = 60
"""Seconds after the last thing that happens at which a cycle is made in any case, and between those after them: also at
rest a live scheduler makes one every few seconds."""
_AFTER = (_IDLE, 62, 130)
"""Seconds after each decision that moves something at which a cycle is made in any case."""
_QUIET = 330
"""Seconds without a decision that something moves, after which a world is at rest."""
_LONGEST = 2 * 3600
"""Seconds after the end for which pauses that refusals give are waited for: the longest is an hour."""


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
    later = range(last + _PAUSES[-1], end - START, _LATER)
    for second in (*range(_IDLE, last, _IDLE), *(last + pause for pause in _PAUSES), *later):
        world.schedule(START + second, stage.wake)
    _until(stage, steps, end)
    limit = end + _LONGEST * (bool(stage.faults.met or stage.denied) and not stage.refuses_for_ever)
    while (later := _end_of_pauses(stage)) > end and later <= limit:
        end = later
        _until(stage, steps, end)
    if stage.moved > end - _QUIET and not stage.tireless:
        stage.note(Count.RESTLESS, f"something was moved {end - stage.moved} seconds before the end")
        return
    checks.at_rest(stage)


def _until(stage: Stage, steps: checks.Steps, end: int) -> None:
    """Let the world go on to a second, and compare whatever is decided with what a new process would decide."""
    world = stage.world
    while (moment := world.next_moment()) is not None and moment <= end:
        world.step()
        steps.begin(stage)
        if stage.chance.randrange(100) < stage.history.fresh and checks.may_compare(stage) and not checks.learns(stage):
            fresh = checks.fresh_plan(stage)
            checks.compare(stage, stage.decide_once(), fresh)
        stage.settle()
        steps.end(stage)
        for pause in _AFTER if stage.moved == world.clock.now else ():
            world.schedule(stage.moved + pause, stage.wake)
    world.run(end)


def _end_of_pauses(stage: Stage) -> int:
    """Until when whoever stays away after a refusal comes back, and all is quiet again."""
    return max(stage.loop.cycle.next_cycle_at, stage.moved) + _QUIET + 1
