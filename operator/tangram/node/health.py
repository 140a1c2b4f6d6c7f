"""How a GPU is, from what is seen of it over time: pure, a value for each probe and a value that remembers.

A GPU that does not answer, that the driver wants reset, or that had an error of that kind is Unhealthy. One that works
but is better left alone is Degraded: it keeps its pods and takes no new ones. Recovery is not taken on trust: a GPU
that was away, or that had an error which passes, has to be quiet for a while first.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tangram.node.gpus import Condition, Health
from tangram.node.predict import INTERVAL, MOST_SAMPLES, Predictor, Sample
from tangram.node.xids import Effect, xid

QUIET_SECONDS = 60.0
"""A GPU that was away or reset is quiet for so long before it takes new work."""
QUIET_SECONDS = 600.0
"""After an error that passes, a GPU takes no new work for so long."""
_COOLED_BY = 5
_HOTTEST_CELSIUS = 95
"""Counts as too hot where the driver does not report a limit."""


@dataclass(frozen=True, slots=True)
class Signs:
    """One probe of a GPU; None is what the driver does not report."""

    at: float
    """Seconds on a steady clock."""
    absent: str = ""
    """Why it does not answer; empty: it does."""
    xids: tuple[int, ...] = ()
    """XID errors since the last probe."""
    reloaded: bool = False
    """The driver was loaded again since the last probe, which resets every GPU."""
    corrected: int | None = None
    uncorrected: int | None = None
    """Memory errors since the driver was loaded or the GPU reset."""
    remap_pending: bool = False
    remap_failed: bool = False
    temperature: int | None = None
    slowdown: int | None = None
    shutdown: int | None = None
    recovery: str | None = None
    """What the driver wants done, such as "reset"; empty: nothing; None: it does not report."""


@dataclass(frozen=True, slots=True)
class History:
    """What has to be remembered of a GPU from one probe to the next."""

    away: bool = False
    fault: str = ""
    """The error that only a reset cures."""
    fault_at: float = 0.0
    caution: str = ""
    """The error that passes."""
    quiet_at: float = 0.0
    """When ``caution`` is over."""
    hot: bool = False
    xids: int = 0
    """XID errors so far that were not an application's own."""
    samples: tuple[Sample, ...] = ()


def remember(history: History, signs: Signs) -> History:
    """The history after one more probe."""
    if signs.absent:
        history = replace(history, away=True)
    elif history.away or (signs.reloaded and history.fault):  # only a reset or a reload brings a GPU back
        text = "it is back after it was gone" if history.away else f"it was reset after {history.fault}"
        history = replace(history, away=False, fault="", caution=text, quiet_at=signs.at + QUIET_SECONDS)
    for number in signs.xids:
        history = _after_xid(history, number, signs.at)
    if history.fault and signs.recovery == "" and signs.at >= history.fault_at + QUIET_SECONDS:
        history = replace(history, fault="")  # the driver knows better than a table
    if history.caution and signs.at >= history.quiet_at:
        history = replace(history, caution="")
    if signs.absent:
        return history
    return replace(history, hot=_is_hot(history, signs), samples=_sampled(history, signs))


def _after_xid(history: History, number: int, at: float) -> History:
    known = xid(number)
    text = f"XID {number}: {known.meaning}"
    if known.effect is Effect.APPLICATION:
        return history
    history = replace(history, xids=history.xids + 1)
    if known.effect is Effect.RESET:
        return replace(history, fault=text, fault_at=at)
    if known.effect is Effect.CAUTION:
        return replace(history, caution=text, quiet_at=at + QUIET_SECONDS)
    return history


def _is_hot(history: History, signs: Signs) -> bool:
    """Cooling down takes a few degrees more than heating up did, so that health does not flicker at the limit."""
    if signs.temperature is None:
        return False
    return signs.temperature >= _limit(signs) - (_COOLED_BY if history.hot else 0)


def _limit(signs: Signs) -> int:
    return signs.slowdown if signs.slowdown is not None else _HOTTEST_CELSIUS


def _sampled(history: History, signs: Signs) -> tuple[Sample, ...]:
    """The samples with this probe's, when it is time for one; counts that fall are those of a GPU that was reset."""
    samples = history.samples
    if samples and signs.at < samples[-1].at + INTERVAL and history.xids == samples[-1].xids:
        return samples
    if samples and (signs.corrected or 0) < (samples[-1].corrected or 0):
        samples = ()
    new = Sample(signs.at, signs.corrected, history.xids, signs.temperature, signs.slowdown)
    return (*samples, new)[-MOST_SAMPLES:]


def judge(history: History, signs: Signs, predict: Predictor) -> Condition:
    """How the GPU is, with the worst that is known as the reason; ``history`` includes the probe."""
    for reason in _unfit(history, signs):
        return Condition(Health.UNHEALTHY, reason)
    at_risk = predict(history.samples)
    for reason in _doubtful(history, signs):
        return Condition(Health.DEGRADED, reason, at_risk)
    return Condition(Health.HEALTHY, "", at_risk)


def _unfit(history: History, signs: Signs) -> Iterator[str]:
    if signs.absent:
        yield f"{signs.absent} (after {history.fault})" if history.fault else signs.absent
    if history.fault:
        yield f"{history.fault}; it has to be reset"
    if signs.recovery:
        yield f"the driver asks for: {signs.recovery}"
    if signs.remap_failed:
        yield "a memory row could not be remapped; the GPU has to be replaced"
    if signs.temperature is not None and signs.shutdown is not None and signs.temperature >= signs.shutdown:
        yield f"so hot that it shuts down ({signs.shutdown} °C)"


def _doubtful(history: History, signs: Signs) -> Iterator[str]:
    if history.caution:
        yield history.caution
    if signs.remap_pending:
        yield "a memory row is to be remapped: it has to be reset when it is idle"
    if signs.uncorrected:
        yield f"{signs.uncorrected} uncorrected memory errors since it was last reset"
    if history.hot:
        yield f"too hot: it has reached {_limit(signs)} °C"  # the limit, for what is measured would change the reason
