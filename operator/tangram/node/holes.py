"""Holes of container software that let a container out, or give it GPUs, and the versions that mended them: data.

Distributions mend a version without another number: what is below a fixed version by its number may be mended.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

Version = tuple[int, ...]

_NUMBERS = re.compile(r"v?(\d{1,6})\.(\d{1,6})(?:\.(\d{1,6}))?")


@dataclass(frozen=True, slots=True)
class Hole:
    """One hole, and where it is mended."""

    cve: str
    fixed: Mapping[tuple[int, int], int]
    """Series (major, minor) -> patch version that mends it; earlier series are not mended, later ones never had it."""


def _in(**series: int) -> Mapping[tuple[int, int], int]:
    """``_in(v1_17=8)``: mended in 1.17.8."""
    found: dict[tuple[int, int], int] = {}
    for name, patch in series.items():
        major, minor = name.removeprefix("v").split("_")
        found[int(major), int(minor)] = patch
    return MappingProxyType(found)


HOLES: Mapping[str, tuple[Hole, ...]] = MappingProxyType(
    {
        "nvidia-container-toolkit": (
            Hole("CVE-2024-0132", _in(v1_16=2)),
            Hole("CVE-2025-23359", _in(v1_17=4)),
            Hole("CVE-2025-23266", _in(v1_17=8)),
        ),
        "containerd": (
            Hole("CVE-2026-53488", _in(v1_7=33, v2_0=10, v2_1=9, v2_2=5, v2_3=2)),
            Hole("CVE-2026-53492", _in(v2_1=9, v2_2=5, v2_3=2)),
        ),
    }
)
"""Software, as its packages are called -> its holes.

The toolkit's (NVIDIA's bulletins 5582, 5616 and 5659) give a container the host's files or root; containerd's run a
command of an image's label on the host, and give a restored container the CDI devices that its checkpoint names.
"""


def version_of(text: str) -> Version | None:
    """The numbers of a version as people write it, such as ``1.7.28-0ubuntu1`` or ``v2.1.5-k3s1``; None: none."""
    found = _NUMBERS.match(text.strip())
    return tuple(int(one or 0) for one in found.groups()) if found else None


def holes_of(software: str, version: str) -> tuple[str, ...]:
    """A sentence for each hole that a version of some software has by its number."""
    numbers = version_of(version)
    if numbers is None:
        return ()
    found = []
    for hole in HOLES.get(software, ()):
        fixed = _first_fixed(hole, numbers)
        if fixed is not None and numbers < fixed:
            found.append(f"{hole.cve}: {software} {version} is below {'.'.join(map(str, fixed))}")
    return tuple(found)


def _first_fixed(hole: Hole, numbers: Version) -> Version | None:
    """The version of the own series that mends it, or of the next one that has such; None: it is too new for it."""
    series = numbers[0], numbers[1]
    later = [(*one, patch) for one, patch in sorted(hole.fixed.items()) if one >= series]
    return later[0] if later else None
