"""What each queue uses, and which plugins fail, in the status of the policy in force: compared now and then, written
when it is new."""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from tangram.api.common import Amounts, to_object
from tangram.api.policy import HybridPolicy, InForce
from tangram.api.queue import MOST_QUEUES, QueueUse
from tangram.api.tuning import MOST_PLUGINS, PluginFault
from tangram.cluster import writers
from tangram.cluster.paths import HYBRID_POLICIES
from tangram.cluster.rest import Client
from tangram.scheduler.policies import PolicyObject, PolicySource
from tangram.snapshot.arrays import Float64, Int64
from tangram.snapshot.figures import Figures
from tangram.snapshot.queues.past_use import seconds
from tangram.snapshot.queues.queues import DEFAULT_QUEUE

_log = logging.getLogger(__name__)
_MILLI = 1000
_PAST_INTERVAL = 60
"""Seconds between writes for nothing but past use."""
_LONGEST = 1024
"""Characters of what is wrong with a plugin, or the policy, that its status has room for."""


class QueueReporter:
    """Keeps ``status.queues``, ``failedPlugins`` and ``inForce`` of the policy in force true, and of others empty."""

    def __init__(
        self,
        client: Client,
        policies: Callable[[], Iterable[PolicyObject]],
        source: PolicySource,
        figures: Callable[[], Figures | None],
    ) -> None:
        """``policies`` as a watch shows them: what it has not shown yet is written again, which harms nobody."""
        self._client, self._policies, self._source, self._figures = client, policies, source, figures
        self._fault = ""
        self._written = 0
        """When the policy in force was written last, in seconds since the epoch."""
        self._failed: list[dict[str, Any]] = []
        self._changed = asyncio.Event()

    def note_faults(self, faults: Iterable[str]) -> None:
        """Take in which plugins fail by now, each as ``Plan.faults`` says it: compared at once where others do than
        before. Words alone wait for the interval: they may name a pod, or be others in each cycle."""
        parts, before = [one.partition(": ") for one in faults][:MOST_PLUGINS], self._failed
        self._failed = [to_object(PluginFault(name=name, message=text[:_LONGEST])) for name, _, text in parts]
        if [one["name"] for one in self._failed] != [one["name"] for one in before]:
            self._changed.set()

    async def run(self, interval: float, leads: Callable[[], bool]) -> None:
        """Compare every ``interval`` seconds until cancelled; write only as long as this process leads."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._changed.wait()
            self._changed.clear()
            if leads():
                await self.compare()

    async def compare(self) -> int:
        """Write what is new; how many policies were written. What fails is tried again by the next cycle."""
        figures, active = self._figures(), self._source.active
        if figures is None:
            return 0
        uses = queue_uses(figures) if active is not None else []
        written = 0
        for policy in list(self._policies()):
            mine = active is not None and policy.metadata.uid == active.metadata.uid
            wanted, failed = (uses, self._failed) if mine else ([], [])
            in_force = to_object(self._in_force(active)) if mine and active is not None else {}
            same = policy.status.failed_plugins == failed and policy.status.in_force == in_force
            is_old = same and self._is_old(policy.status.queues, wanted, figures.now)
            if policy.metadata.deletion_timestamp or is_old:
                continue
            content = {"queues": wanted or None, "failedPlugins": failed or None, "inForce": in_force or None}
            patch = {"metadata": {"uid": policy.metadata.uid}, "status": content}
            outcome = await writers.patch_status(self._client, HYBRID_POLICIES.path(policy.metadata.name), patch)
            written += outcome.done
            if mine and outcome.done:
                self._written = figures.now
            fault = "" if outcome.done else f"the status of policy {policy.metadata.name}: {outcome.message}"
            if fault and fault != self._fault:
                _log.warning("%s", fault)
            self._fault = fault
        return written

    def _in_force(self, active: HybridPolicy) -> InForce:
        return InForce(generation=active.metadata.generation, message=self._source.problem[:_LONGEST])

    def _is_old(self, written: list[dict[str, Any]], wanted: list[dict[str, Any]], now: int) -> bool:
        """Whether there is nothing new. Past use changes all the time: it alone is written once in a while."""
        if written == wanted:
            return True
        return 0 <= now - self._written < _PAST_INTERVAL and list(map(_present, written)) == list(map(_present, wanted))


def _present(use: dict[str, Any]) -> dict[str, Any]:
    """What a queue uses now."""
    return {name: value for name, value in use.items() if not name.startswith("recent")}


def queue_uses(figures: Figures) -> list[dict[str, Any]]:
    """What every queue uses, as it is written; where there are too many, without an empty default queue."""
    queues = figures.queues
    shares, pending, running = figures.fair_shares(), figures.waiting, figures.bound
    dominant = (queues.usage * figures.share_per_unit).max(axis=1)
    rows = np.flatnonzero(~queues.is_leaf).tolist()
    found = [
        QueueUse(
            name=queues.names[row],
            used=_amounts(queues.columns, queues.usage[row]),
            fair_share=_amounts(queues.columns, np.rint(shares[row])),
            dominant_share_percent=round(100 * float(dominant[row])),
            running=int(running[row]),
            pending=int(pending[row]),
            **seconds(queues, row),
        )
        for row in rows
        if queues.names[row] != DEFAULT_QUEUE or len(rows) <= MOST_QUEUES or running[row] or pending[row]
    ]
    return [to_object(one) for one in found[:MOST_QUEUES]]


def _amounts(columns: tuple[str, ...], amounts: Int64 | Float64) -> Amounts:
    """Amounts of queue columns as quantities."""
    cpu, memory, gpu, *models = (int(amount) for amount in amounts)
    return Amounts(
        cpu=_thousandths(cpu),
        memory=f"{memory}Mi",
        gpu=_thousandths(gpu),
        gpu_models={column[4:]: _thousandths(amount) for column, amount in zip(columns[3:], models, strict=True)},
    )


def _thousandths(amount: int) -> str:
    whole, rest = divmod(amount, _MILLI)
    return f"{amount}m" if rest else str(whole)
