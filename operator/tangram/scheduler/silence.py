"""Whether a scheduler still gives signs of life, by its Lease: for those who ask what it decides.

What is worked out on a copy of the cluster says nothing of whether anybody decides so on the cluster itself.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from tangram.api.objects import Metadata, Struct
from tangram.scheduler.published import scheduler_of
from tangram.units import timestamp_seconds

_MARGIN = 15
"""Seconds that a renewal may be late by the API server's clock: it renews several times in the Lease's duration."""
_OWN_MARGIN = 300
"""The same where one of the two times is that of another clock."""
_LEAST_DURATION = 15
"""Seconds for which a Lease counts at least: one that was given up has a duration of one."""


class _Written(Struct, frozen=True):
    time: str | None = None


class _LeaseMetadata(Metadata, frozen=True):
    managed_fields: tuple[_Written, ...] = ()
    """When the API server took in what was written, by its own clock."""


class _LeaseSpec(Struct, frozen=True):
    renew_time: str | None = None
    lease_duration_seconds: int | None = None


class PublishedLease(Struct, frozen=True):
    """A Lease as far as it says who has renewed it when."""

    metadata: _LeaseMetadata
    spec: _LeaseSpec = _LeaseSpec()

    @property
    def duration(self) -> int:
        """Seconds from a renewal to the end."""
        return max(_LEAST_DURATION, self.spec.lease_duration_seconds or 0)


@dataclass(frozen=True, slots=True)
class Now:
    """What time it is, in seconds since the epoch."""

    here: float
    server: float = 0.0
    """By the API server's clock; 0: it has not said."""


def silence(leases: Iterable[PublishedLease], scheduler_name: str, now: Now) -> str:
    """A sentence when the scheduler of this name has renewed no Lease for longer than it is late by accident; empty
    when it has, or when it cannot be known: no Lease that may be read says that it is the scheduler's."""
    own = [lease for lease in leases if scheduler_of(lease.metadata) == scheduler_name]
    found = [_overdue(lease, now) for lease in own]
    if not found or None in found:
        return ""
    seconds, lease = min(((late or 0, lease) for late, lease in zip(found, own, strict=True)), key=lambda one: one[0])
    return (
        f"scheduler {scheduler_name} does not work: it has not renewed its Lease {lease.metadata.namespace}/"
        f"{lease.metadata.name} for {seconds}s (it ends after {lease.duration}s). Until one does nothing is started or "
        "evicted, and what is reported is of that time"
    )


def silences(leases: Iterable[PublishedLease], now: Now) -> list[str]:
    """The sentences of all schedulers that have published something on a Lease."""
    known = list(leases)
    names_of_all = sorted({name for lease in known if (name := scheduler_of(lease.metadata))})
    return [sentence for name in names_of_all if (sentence := silence(known, name, now))]


def _overdue(lease: PublishedLease, now: Now) -> int | None:
    """For how many seconds a Lease has not been renewed; None: that is no sign of anything."""
    written = max((timestamp_seconds(one.time) for one in lease.metadata.managed_fields), default=0)
    if now.server and written:
        renewed, moment, margin = written, now.server, _MARGIN
    else:
        renewed, moment, margin = timestamp_seconds(lease.spec.renew_time), now.server or now.here, _OWN_MARGIN
    if not renewed or moment <= renewed + lease.duration + margin:
        return None
    return int(moment - renewed)
