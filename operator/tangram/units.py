"""Quantities and integers: the one place where text becomes numbers.

Inside tangram everything is an integer: CPU in milli-cores, memory in MiB (requests rounded up, capacity rounded
down, so that rounding can never overfill a node), GPUs in milli-GPU (1000 = one whole device), time in seconds.
"""

import re
from datetime import UTC, datetime
from functools import lru_cache

from tangram.errors import InvalidInput

MILLI_PER_GPU = 1000
HUNDREDTHS_PER_GPU = 100
MIB = 1 << 20
MIB_PER_GIB = 1024

_SUFFIX = {
    "n": (1, 10**9), "u": (1, 10**6), "m": (1, 1000), "": (1, 1),
    "k": (10**3, 1), "M": (10**6, 1), "G": (10**9, 1), "T": (10**12, 1), "P": (10**15, 1), "E": (10**18, 1),
    "Ki": (1 << 10, 1), "Mi": (1 << 20, 1), "Gi": (1 << 30, 1),
    "Ti": (1 << 40, 1), "Pi": (1 << 50, 1), "Ei": (1 << 60, 1),
}  # fmt: skip
_QUANTITY = re.compile(
    r"([+-]?)(?=\.?\d)(\d{0,40})(?:\.(\d{0,18}))?(?:[eE]([+-]?\d{1,2})|(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei))?",
    re.ASCII,
)
_LARGEST = 1 << 62


def quantity(text: object, unit_numerator: int = 1, unit_denominator: int = 1, *, round_up: bool = True) -> int:
    """Read a Kubernetes quantity as an integer count of a unit worth ``numerator/denominator``.

    ``quantity("1500m", 1, 1000)`` is 1500 milli-cores, ``quantity("2Gi", MIB)`` is 2048 MiB.
    Raises ValueError for anything that the Kubernetes API would not accept as a non-negative quantity, and for
    values past 2**62 (nothing real is that large; such a number would only overflow later).
    """
    match = _QUANTITY.fullmatch(str(text))
    if match is None or match[1] == "-":
        raise ValueError(f"{text!r} is not a non-negative quantity")
    fraction = match[3] or ""
    numerator, denominator = int(match[2] + fraction), 10 ** len(fraction)
    if match[4] is not None:
        exponent = int(match[4])
        numerator *= int(10 ** max(exponent, 0))
        denominator *= int(10 ** max(-exponent, 0))
    else:
        scale_up, scale_down = _SUFFIX[match[5] or ""]
        numerator, denominator = numerator * scale_up, denominator * scale_down
    numerator, denominator = numerator * unit_denominator, denominator * unit_numerator
    value: int = -(-numerator // denominator) if round_up else numerator // denominator
    if value >= _LARGEST:
        raise ValueError(f"{text!r} is larger than anything real")
    return value


def cpu_milli(text: object, *, round_up: bool = True) -> int:
    """CPU quantity as milli-cores."""
    return quantity(text, 1, 1000, round_up=round_up)


def memory_mib(text: object, *, round_up: bool = True) -> int:
    """Memory quantity as MiB."""
    return quantity(text, MIB, round_up=round_up)


def gpu_share(hundredths: object) -> tuple[int, int]:
    """Read ``names.FRACTION_RESOURCE`` (percent of a GPU) as ``(devices, milli-GPU of each)``.

    30 is ``(1, 300)``, 100 is ``(1, 1000)``, 400 is ``(4, 1000)``. Raises ValueError between whole multiples above 100.
    """
    value = quantity(hundredths)
    if value == 0:
        return 0, 0
    if value <= HUNDREDTHS_PER_GPU:
        return 1, value * MILLI_PER_GPU // HUNDREDTHS_PER_GPU
    if value % HUNDREDTHS_PER_GPU:
        raise ValueError(f"{value} percent: above 100 only multiples of 100 (whole GPUs) are allowed")
    return value // HUNDREDTHS_PER_GPU, MILLI_PER_GPU


_DURATION = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,8})h)?(?:(\d{1,9})m)?(?:(\d{1,10})s)?", re.ASCII)


def duration_seconds(text: object, where: str = "duration") -> int:
    """Read ``1d2h3m4s`` (any part may be missing, at least one is there) as seconds; raises InvalidInput."""
    match = _DURATION.fullmatch(str(text).strip())
    if match is None or not any(match.groups()):
        raise InvalidInput(where, "duration", text, "a duration such as 90s, 15m, 2h30m or 3d")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


@lru_cache(maxsize=1024)
def timestamp_seconds(text: str | None) -> int:
    """RFC 3339 time as seconds since the epoch; 0 for one that is missing, unreadable or earlier (it is untrusted)."""
    if not text:
        return 0
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        return 0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0, int(moment.timestamp()))


_DAY = 24 * 3600
_DIGITS = tuple(f"{number:02}" for number in range(60))


def rfc3339(seconds: float) -> str:
    """Seconds since the epoch as the RFC 3339 text that Kubernetes writes (UTC, whole seconds)."""
    day, second = divmod(int(seconds), _DAY)
    return f"{_date(day)}T{_DIGITS[second // 3600]}:{_DIGITS[second // 60 % 60]}:{_DIGITS[second % 60]}Z"


@lru_cache(maxsize=64)
def _date(day: int) -> str:
    """The date that is so many days after the epoch."""
    return datetime.fromtimestamp(day * _DAY, UTC).date().isoformat()
