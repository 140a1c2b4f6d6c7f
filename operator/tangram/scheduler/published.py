"""The settings that a scheduler decides by, as an annotation on its Lease: for those who ask how it decides."""

from collections.abc import Iterable
from typing import Any

import msgspec

from tangram.api import names
from tangram.api.objects import Metadata
from tangram.cluster.wire import DECODE_ERRORS
from tangram.errors import InvalidInput
from tangram.settings import DECIDING, SchedulerSettings, decided_by, deciding


def publishing(settings: SchedulerSettings) -> dict[str, str]:
    """The annotation that a scheduler with these settings writes on its Lease."""
    text = msgspec.json.encode({"schedulerName": settings.scheduler_name} | deciding(settings)).decode()
    return {names.SCHEDULER_SETTINGS: text}


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
