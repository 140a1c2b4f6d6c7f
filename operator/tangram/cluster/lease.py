"""Leader election with a Lease: at most one replica writes.

The rules of this file:

- Nobody's wall clock is trusted. A Lease is free when *we* have seen it unchanged for its whole duration, by a clock
  that also counts the time in which this machine was suspended.
- The holder counts from *before* it sent its last successful renewal, and stops at ``renew_deadline``; others count
  from *after* they saw that renewal, and wait for ``duration``, which is longer. So ``held`` turns False before another
  replica can take the Lease, even when this process was stopped in between.
- Every write has the Lease's resourceVersion as its precondition, and leaves fields of others alone.
- What is written elsewhere is written under a ``Permit`` of the term in which it was decided.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec

from tangram import errors
from tangram.cluster.paths import LEASES
from tangram.cluster.permit import Permit
from tangram.cluster.rest import MERGE_PATCH, ONCE, Client, Sending
from tangram.settings import LeaseSettings

_log = logging.getLogger(__name__)

_RELEASE_SECONDS = 3.0
Clock = Callable[[], float]


class _Spec(msgspec.Struct, frozen=True, rename="camel"):
    holder_identity: str | None = None
    lease_duration_seconds: int | None = None
    lease_transitions: int | None = None


class _Metadata(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Record(msgspec.Struct, frozen=True):
    metadata: _Metadata
    spec: _Spec = _Spec()

    @property
    def holder(self) -> str:
        return self.spec.holder_identity or ""


_RECORD = msgspec.json.Decoder(_Record)


def steady_clock() -> float:
    """Seconds that pass even while the machine is suspended, and that nobody can set."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


@dataclass(frozen=True, slots=True)
class Candidate:
    """Who takes part in which election."""

    namespace: str
    name: str
    """Of the Lease."""
    identity: str
    """Must differ between processes, not only between machines."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    """Written on the Lease with every renewal, so that others can read what its holder publishes about itself."""


class Lease:
    """One replica's part in an election; ``await run()`` takes part until it is cancelled, and then gives the Lease up.

    ``on_acquired`` is called when the Lease has become ours, ``on_lost`` once for each loss that was not our own wish:
    stop writing. ``transitions`` counts the changes of holder that the Lease records. ``holder`` is who holds the Lease
    as far as we have seen.
    """

    def __init__(
        self,
        client: Client,
        candidate: Candidate,
        settings: LeaseSettings | None = None,
        *,
        clock: Clock = steady_clock,
    ) -> None:
        self.settings = settings or LeaseSettings()
        self.identity = candidate.identity
        self.transitions = 0
        self.terms = 0
        """How often this process has come to hold the Lease."""
        self.on_acquired: Callable[[], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.last_error: str | None = None
        self._client, self._name, self._namespace = client, candidate.name, candidate.namespace
        self._annotations = dict(candidate.annotations)
        self._clock = clock
        self._record: _Record | None = None
        self._seen_at = 0.0
        self._renewed_at: float | None = None
        """When the renewal was sent that made the Lease ours, or kept it so; None: it is not, and that is known."""
        self._attempted_at = self._succeeded_at = clock()
        self._acquired = asyncio.Event()
        self._random = random.Random()  # noqa: S311 - spreads load, guards no secret
        _check(self.settings, candidate.name)

    @property
    def held(self) -> bool:
        """Whether we may write now. Ask right before each write; it needs no event loop to turn False in time."""
        return self._renewed_at is not None and self._time_left() > 0

    def permit(self) -> Permit:
        """The right to write in the term that lasts now; none while the Lease is not held."""
        epoch = self.terms
        return Permit(epoch, lambda: self._time_left() if self._renewed_at is not None and epoch == self.terms else 0.0)

    def stuck(self) -> str | None:
        """Why nothing is known of the Lease any more; None while it is asked for as often as it should be."""
        silence = self._clock() - self._attempted_at
        if silence <= self.settings.duration + 3 * self.settings.retry_period:
            return None
        return f"the Lease {self._namespace}/{self._name} has not been asked for in {silence:.0f} s"

    def failing(self) -> str | None:
        """Why this process could not take the Lease if it were free; None while the API server answers its attempts."""
        if self.last_error is None or self._clock() - self._succeeded_at < self.settings.renew_deadline:
            return None
        return f"the Lease {self._namespace}/{self._name} cannot be asked for: {self.last_error}"

    @property
    def outlived(self) -> bool:
        """Whether we have held the Lease for longer than it was ours, and have not noticed: we were stopped."""
        return self._renewed_at is not None and not self.held

    def leave(self) -> None:
        """Hold the Lease no longer and let it end by itself: a write of ours may still be on its way."""
        self._renewed_at = None
        self._acquired.clear()

    @property
    def holder(self) -> str:
        """Identity of the last holder seen, empty when none."""
        return self._record.holder if self._record is not None else ""

    async def wait_held(self) -> None:
        """Wait until the Lease is ours."""
        while not self.held:
            self._notice_loss()
            await self._acquired.wait()

    async def run(self) -> None:
        """Take part until cancelled; server trouble costs the Lease at worst, never this call."""
        _log.info("lease %s/%s: taking part as %s", self._namespace, self._name, self.identity)
        try:
            while True:
                self._attempted_at = self._clock()
                self._notice_loss()  # a term that is over leaves an attempt no time
                try:
                    async with asyncio.timeout(max(0.0, self._time_left())):
                        await self._step()
                    self.last_error, self._succeeded_at = None, self._clock()
                except (errors.TangramError, msgspec.MsgspecError, TimeoutError) as error:
                    if self._is_outdated(error):
                        self._record = None  # somebody wrote or deleted it in between: look again soon
                        await asyncio.sleep(self._random.uniform(0.0, 0.1))
                        continue
                    self._complain(str(error) or "the API server does not answer in time")
                self._notice_loss()
                await asyncio.sleep(self._pause())
        finally:
            await self._release()

    def _is_outdated(self, error: Exception) -> bool:
        return self._record is not None and isinstance(error, errors.Conflict | errors.NotFound)

    def _complain(self, text: str) -> None:
        if self.last_error is None:  # once per trouble, not once per attempt
            _log.warning("lease %s/%s: %s", self._namespace, self._name, text)
        self.last_error = text

    def _time_left(self) -> float:
        """Seconds that an attempt may take: the holder must be done when its time is over."""
        if self._renewed_at is None:
            return self.settings.renew_deadline
        return self._renewed_at + self.settings.renew_deadline - self._clock()

    def _pause(self) -> float:
        if self._renewed_at is not None:
            return min(self.settings.retry_period, max(0.0, self._time_left()))
        period = self.settings.retry_period
        if self._record is not None and self._record.holder and self.last_error is None:
            # A renewal that is seen late makes its holder look alive for longer; its end is known to the moment.
            left = self._seen_at + self._promised(self._record) - self._clock()
            period = max(0.0, min(period, self.settings.read_period, left))
        # Candidates spread out, so that they do not meet at the API server each time.
        return period * self._random.uniform(1.0, 1.2)

    async def _step(self) -> None:
        """One attempt to renew or to take the Lease."""
        before = self._clock()
        if self._record is None or self._record.holder != self.identity:
            await self._read()
            before = self._clock()
        record = self._record
        if record is None:
            await self._write("POST", LEASES.collection(self._namespace), self._body(0, taken=True), before)
        elif record.holder == self.identity:
            transitions = record.spec.lease_transitions or 0
            await self._write("PATCH", self._path, self._body(transitions, record=record), before)
        elif not record.holder or before - self._seen_at >= self._promised(record):
            transitions = (record.spec.lease_transitions or 0) + 1
            await self._write("PATCH", self._path, self._body(transitions, record=record, taken=True), before)
        else:
            self._end_term()

    def _promised(self, record: _Record) -> float:
        """Seconds for which the holder may count on the Lease: what it wrote, and never less than our own setting."""
        return max(self.settings.duration, float(record.spec.lease_duration_seconds or 0))

    async def _read(self) -> None:
        try:
            record = _RECORD.decode(await self._client.request("GET", self._path, sending=ONCE))
        except errors.NotFound:
            self._record = None
            return
        if self._record is None or record.metadata != self._record.metadata:
            self._seen_at = self._clock()
        self._record = record
        self.transitions = record.spec.lease_transitions or 0

    async def _write(self, method: str, path: str, body: dict[str, Any], before: float) -> None:
        content_type = MERGE_PATCH if method == "PATCH" else "application/json"
        answer = await self._client.request(
            method, path, body=msgspec.json.encode(body), sending=Sending(content_type, attempts=1)
        )
        self._record = _RECORD.decode(answer)
        self._seen_at = self._clock()
        self.transitions = self._record.spec.lease_transitions or 0
        if self._clock() - before >= self.settings.renew_deadline:
            return  # we were stopped in between: it holds for others only, until it is renewed
        fresh = self._renewed_at is None
        self._renewed_at = before
        if fresh:
            _log.info("lease %s/%s: held by us, %s", self._namespace, self._name, self.identity)
            self.terms += 1
            self._acquired.set()
            if self.on_acquired is not None:
                self.on_acquired()

    def _body(self, transitions: int, *, record: _Record | None = None, taken: bool = False) -> dict[str, Any]:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec: dict[str, Any] = {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self.settings.duration)),
            "renewTime": now,
            "leaseTransitions": transitions,
        }
        if taken:
            spec["acquireTime"] = now
        metadata: dict[str, Any] = {"annotations": self._annotations} if self._annotations else {}
        if record is not None:
            return {"metadata": metadata | {"resourceVersion": record.metadata.resource_version}, "spec": spec}
        metadata |= {"name": self._name, "namespace": self._namespace}
        return {"apiVersion": LEASES.api_version, "kind": LEASES.kind, "metadata": metadata, "spec": spec}

    def _notice_loss(self) -> None:
        """Report a loss once: the time is over, whoever notices it first."""
        if self._renewed_at is not None and not self.held:
            self._end_term()

    def _end_term(self) -> None:
        if self._renewed_at is None:
            return
        self._renewed_at = None
        self._acquired.clear()
        _log.warning("lease %s/%s: lost; holder now: %s", self._namespace, self._name, self.holder or "nobody")
        if self.on_lost is not None:
            self.on_lost()

    async def _release(self) -> None:
        """Give the Lease up, so that the next holder need not wait for its end."""
        held, self._renewed_at = self.held, None
        self._acquired.clear()
        if not held or self._record is None:
            return
        body = self._body(self.transitions, record=self._record)
        body["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
        try:
            async with asyncio.timeout(_RELEASE_SECONDS):
                await self._client.request(
                    "PATCH",
                    self._path,
                    body=msgspec.json.encode(body),
                    sending=Sending(MERGE_PATCH, attempts=1),
                )
        except (errors.TangramError, TimeoutError) as error:
            _log.warning("lease %s/%s: could not be given up: %s", self._namespace, self._name, error)

    @property
    def _path(self) -> str:
        return LEASES.path(self._name, self._namespace)


def _check(settings: LeaseSettings, name: str) -> None:
    if not 0 < settings.retry_period < settings.renew_deadline < settings.duration:
        raise errors.InvalidInput(
            f"lease {name}",
            "retry_period, renew_deadline, duration",
            (settings.retry_period, settings.renew_deadline, settings.duration),
            "0 < retry_period < renew_deadline < duration",
        )
