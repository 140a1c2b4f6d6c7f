"""The settings that a scheduler decides by, as an annotation on its Lease: for those who ask how it decides."""

import contextlib
from collections.abc import Iterable
from typing import Any

import msgspec

from tangram import __version__
from tangram.api import names
from tangram.api.objects import Metadata, Struct
from tangram.cluster.wire import DECODE_ERRORS
from tangram.errors import InvalidInput
from tangram.settings import DECIDING, SchedulerSettings, decided_by, deciding


class _Who(Struct, frozen=True):
    scheduler_name: str
    version: str = "not published"


def publishing(settings: SchedulerSettings) -> dict[str, str]:
    """The annotation that a scheduler with these settings writes on its Lease."""
    who = {"schedulerName": settings.scheduler_name, "version": __version__}
    return {names.SCHEDULER_SETTINGS: msgspec.json.encode(who | deciding(settings)).decode()}


def versions(leases: Iterable[Metadata]) -> dict[str, str]:
    """Scheduler name -> the version that it has published; several that differ stand beside each other."""
    found: dict[str, set[str]] = {}
    for lease in leases:
        with contextlib.suppress(*DECODE_ERRORS):
            said = msgspec.json.decode(lease.annotations.get(names.SCHEDULER_SETTINGS, ""), type=_Who)
            found.setdefault(said.scheduler_name, set()).add(said.version)
    return {name: ", ".join(sorted(said)) for name, said in sorted(found.items())}


def scheduler_of(lease: Metadata) -> str:
    """Name of the scheduler that has published something on the Lease; empty: none has."""
    try:
        return msgspec.json.decode(lease.annotations.get(names.SCHEDULER_SETTINGS, ""), type=_Who).scheduler_name
    except DECODE_ERRORS:
        return ""


def published(leases: Iterable[Metadata], scheduler_name: str) -> dict[str, int] | None:
    """What the scheduler of this name has published on one of the Leases.

    None: nothing that can be used, or Leases that disagree. Anybody who may create a Lease can write such an
    annotation, and which of two is the scheduler's own cannot be seen.
    """
    found = [one for lease in leases if (one := _read(lease, scheduler_name)) is not None]
    return found[0] if found and all(one == found[0] for one in found) else None


def _read(lease: Metadata, scheduler_name: str) -> dict[str, int] | None:
    try:
        plain: Any = msgspec.json.decode(lease.annotations.get(names.SCHEDULER_SETTINGS, ""))
        if plain.pop("schedulerName") != scheduler_name:
            return None
        known = msgspec.convert({name: plain[name] for name in DECIDING if name in plain}, dict[str, int])
        return deciding(decided_by(scheduler_name, known))
    except (*DECODE_ERRORS, InvalidInput, AttributeError, KeyError, TypeError):
        return None
