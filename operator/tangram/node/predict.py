"""Which GPU is likely to fail soon: the rule is a plugin, the default looks for errors and heat that rise."""

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Protocol

from tangram.errors import PluginError

GROUP = "tangram.failure_predictors"
"""Entry-point group of predictors; the default is called ``trend``."""
INTERVAL = 60.0
"""Seconds between samples."""
MOST_SAMPLES = 60
"""Samples that are kept: one hour."""
_FEWEST_SAMPLES = 10
_MANY_XIDS = 3
_MANY_CORRECTED = 50
_RISE_CELSIUS = 10
_NEAR_CELSIUS = 10


@dataclass(frozen=True, slots=True)
class Sample:
    """A GPU at one time; counts go on from sample to sample, None is what the driver does not report."""

    at: float
    """Seconds on a steady clock."""
    corrected: int | None = None
    """Corrected memory errors so far."""
    xids: int = 0
    """XID errors so far that were not an application's own."""
    temperature: int | None = None
    slowdown: int | None = None
    """Temperature at which the GPU makes itself slower."""


class Predictor(Protocol):
    """Says why a GPU is likely to fail soon, from its samples of the last hour, oldest first; empty: it is not.

    Called with every check at a GPU: it is quick, and only computes. An exception counts as "it is not".
    """

    def __call__(self, samples: tuple[Sample, ...]) -> str:
        """The reason, as a person reads it."""
        ...


def trend(samples: tuple[Sample, ...]) -> str:
    """The default: several hardware errors within the hour, corrected errors that come faster, or heat near its limit.

    That corrected memory errors rise before uncorrected ones come is known from field studies of DRAM (Schroeder,
    Pinheiro, Weber: "DRAM Errors in the Wild", SIGMETRICS 2009) and of GPUs (Tiwari et al., HPCA 2015).
    """
    if not samples:
        return ""
    xids = samples[-1].xids - samples[0].xids
    if xids >= _MANY_XIDS:
        return f"{xids} hardware errors (XID) within {_minutes(samples)} minutes"
    if len(samples) < _FEWEST_SAMPLES:
        return ""
    return _corrected_errors(samples) or _heat(samples)


def _corrected_errors(samples: tuple[Sample, ...]) -> str:
    counts = [sample.corrected for sample in samples if sample.corrected is not None]
    if len(counts) < _FEWEST_SAMPLES:
        return ""
    middle = counts[len(counts) // 2]
    before, after = middle - counts[0], counts[-1] - middle
    if after < _MANY_CORRECTED or after < 2 * before:
        return ""
    return f"corrected memory errors rise: {before}, then {after} within {_minutes(samples)} minutes"


def _heat(samples: tuple[Sample, ...]) -> str:
    degrees, limit = [one.temperature for one in samples if one.temperature is not None], samples[-1].slowdown
    if len(degrees) < _FEWEST_SAMPLES or limit is None:
        return ""
    part = len(degrees) // 3
    first, last = sum(degrees[:part]) / part, sum(degrees[-part:]) / part
    if last - first < _RISE_CELSIUS or last < limit - _NEAR_CELSIUS:
        return ""
    return f"temperature rises: {first:.0f}, then {last:.0f} °C, and it becomes slower at {limit} °C"


def _minutes(samples: tuple[Sample, ...]) -> int:
    return max(1, round((samples[-1].at - samples[0].at) / 60))


def predictor(name: str, found: list[EntryPoint] | None = None) -> Predictor:
    """The predictor of that name, built in or from an installed distribution; raises PluginError."""
    points = {"trend": trend} | {point.name: point for point in found or entry_points(group=GROUP)}
    chosen = points.get(name)
    if chosen is None:
        raise PluginError(f"failure predictor {name!r} is unknown; known: {', '.join(sorted(points))}")
    if not isinstance(chosen, EntryPoint):
        return chosen
    try:
        loaded: Predictor = chosen.load()
    except Exception as error:
        raise PluginError(f"failure predictor {name!r} cannot be loaded: {error}") from error
    if not callable(loaded):
        raise PluginError(f"failure predictor {name!r}: {chosen.value} cannot be called")
    return loaded
