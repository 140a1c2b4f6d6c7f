"""The cycle on a real cluster: watches feed it, its plans become writes, and every write's end is reported back to it.

One event loop, no threads: a decision takes milliseconds, seldom a second, and everything else is waiting for the
network. While the writes of one batch are on their way the next batch is decided.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from tangram.api import names
from tangram.api.objects import Node, Pod
from tangram.cluster import paths
from tangram.cluster.events import Recorder, Regarding
from tangram.cluster.lease import Lease
from tangram.cluster.mirror import Change, Undecodable
from tangram.cluster.outcome import Outcome, Result
from tangram.cluster.permit import ALWAYS, NEVER, Permit
from tangram.cluster.readiness import Readiness
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch, Options
from tangram.plan import Hold, Plan, PodName
from tangram.scheduler import requests, set_aside
from tangram.scheduler.changes import node_of, placement_may_change
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.dependencies import Surroundings
from tangram.scheduler.drain import Drain
from tangram.scheduler.ended import EndedPods
from tangram.scheduler.follow_ups import Record, RunCycle, VictimStays
from tangram.scheduler.jobs import FinishedWork
from tangram.scheduler.policies import (
    Inventory,
    PolicyObject,
    PolicySource,
    has_device_at_risk,
    has_known_holes,
    link_distances,
    node_devices,
    same_to_placement,
)
from tangram.scheduler.queue_status import QueueReporter
from tangram.scheduler.rescue import Rescue
from tangram.scheduler.takeover import Takeover
from tangram.scheduler.writes import LEASE_LOST, Action, Writes, is_write
from tangram.snapshot.pods.pods import same_to_us
from tangram.snapshot.pods.states import State
from tangram.snapshot.requests.amounts import amounts_key
from tangram.units import duration_seconds

_log = logging.getLogger(__name__)

_REPORT_WRITERS = 8
"""Connections that report to pods why they wait: few, because bindings come first."""
_END_SECONDS = 3.0
"""How long the end waits for the answers to writes; without them the Lease is not given up but left to end."""
_AGAIN_SECONDS = 0.1
"""How long a new holder waits before it asks again whether it knows what the last one wrote."""


class LiveScheduler:
    """One scheduler process; ``await run()`` until cancelled. Without a ``lease`` it always writes."""

    def __init__(
        self,
        client: Client,
        cycle: Cycle,
        recorder: Recorder,
        lease: Lease | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.cycle = cycle
        cycle.keeps_figures = True
        self.last_turn = 0.0
        """The event loop's time of the last completed turn, for liveness."""
        self.turn_seconds = 0.0
        """How long the last decision took."""
        self._client = client.under(lambda: self._permit) if lease is not None else client
        self._recorder, self._lease, self._clock = recorder, lease, clock
        self._wake = asyncio.Event()
        self._writes = Writes(cycle.holds, cycle.was_refused)
        self._something = {False: asyncio.Event(), True: asyncio.Event()}
        """Set when there is something to write, or something to report."""
        self._room = asyncio.Event()
        self._due = 0.0
        """When, by the event loop, the writers have been asked to look for what is to be tried again."""
        self._permit = ALWAYS if lease is None else NEVER
        """The right to write what was decided in the term in which the last decision was made."""
        self._ending = False
        self._deferred: list[Callable[[], None]] | None = []
        """What was heard of pods before their nodes and surroundings were known; None: they are."""
        self._unreadable: dict[tuple[str, str], str] = {}
        self._faults: tuple[str, ...] = ()
        self._rescue = Rescue()
        self._drain = Drain(cycle.settings.scheduler_name, cycle.builder.shapes.access.counted_in)
        self.policy_source = policies = PolicySource(cycle.builder.set_policy)
        watch = client
        self.pods = ListWatch(
            watch,
            paths.PODS.collection(),
            Pod,
            self._on_pod,
            Options(
                field_selector="status.phase!=Succeeded,status.phase!=Failed",
                on_undecodable=self._on_unreadable_pod,
                at_once=True,  # counting the pods of a large cluster takes as long as they take to come
            ),
        )
        self.ended = EndedPods(client, cycle, self._wake.set)
        self.work = FinishedWork(client, cycle.builder, self._wake.set)
        self.nodes = ListWatch(watch, paths.NODES.collection(), Node, self._on_node)
        self.policies = ListWatch(watch, paths.HYBRID_POLICIES.collection(), PolicyObject, self._on_policy)
        self._status = QueueReporter(self._client, self.policies.objects.values, policies, lambda: cycle.figures)
        self.surroundings = Surroundings(self._client, cycle.builder, self._wake.set)
        self.inventories = ListWatch(watch, paths.GPU_NODES.collection(), Inventory, self._on_inventory)
        self._readiness = Readiness(client, paths.PODS, lease)
        self._takeover: Takeover | None = None
        if lease is not None:
            lease.on_acquired, lease.on_lost = self._wake.set, self._wake_writers
            self._takeover = Takeover(self._client, lease, self.pods, cycle.settings.scheduler_name)

    @property
    def watches(self) -> tuple[ListWatch[Node], ListWatch[Pod], ListWatch[PolicyObject], ListWatch[Inventory]]:
        """All watches, the ones that scheduling cannot do without first."""
        return self.nodes, self.pods, self.policies, self.inventories

    @property
    def synced(self) -> bool:
        """Whether nodes and pods are known."""
        return self._deferred is None and self.nodes.synced.is_set() and self.pods.synced.is_set()

    def unhealthy(self, silence: float) -> str | None:
        """What is wrong with this process; ``silence``: seconds after which a watch or the cycle counts as dead."""
        now = asyncio.get_running_loop().time()
        if self._lease is not None and (stuck := self._lease.stuck()):
            return stuck
        for watch in (self.nodes, self.pods):
            if watch.synced.is_set() and now - watch.last_activity > silence:
                return f"no event or bookmark on a watch: {watch.last_error or 'unknown reason'}"
        if self.last_turn and now - self.last_turn > silence:
            return "no scheduling cycle has completed recently"
        return None

    def unready(self) -> str | None:
        """Why this process could not decide and write now, or take over from the one that does; None: it could."""
        if not self.synced:
            return "nodes and pods are not listed yet"
        return self._readiness.problem or (self._lease.failing() if self._lease is not None else None)

    @property
    def leads(self) -> bool:
        """Whether this process may write now."""
        return not self._ending and (self._lease is None or self._lease.held)

    async def run(self) -> None:
        """Watch, decide and write until cancelled; a fault in any part ends all of it, so that a restart heals it."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.nodes.run(), name="watch-nodes")
            group.create_task(self.pods.run(), name="watch-pods")
            group.create_task(self.policies.run(), name="watch-policies")
            group.create_task(self.inventories.run(), name="watch-inventories")
            group.create_task(self.ended.failed.run(), name="watch-failed")
            await self.nodes.synced.wait()
            for number, run in enumerate(self.surroundings.runs()):
                group.create_task(run, name=f"watch-surroundings-{number}")
            around: tuple[ListWatch[Any], ...] = (self.policies, self.inventories, self.ended.failed)
            around += self.surroundings.watches
            await asyncio.gather(*(_answer_of(watch) for watch in around))
            self._replay_deferred()
            group.create_task(self.ended.finished.run(), name="watch-finished-members")
            group.create_task(self.work.jobs.run(), name="watch-jobs")
            if self._lease is not None:
                group.create_task(self._lease.run(), name="lease")
            group.create_task(self._readiness.run(), name="readiness")
            await self.pods.synced.wait()
            for number in range(self._client.settings.concurrency):
                group.create_task(self._write_in_turn(report=False), name=f"write-{number}")
            for number in range(_REPORT_WRITERS):
                group.create_task(self._write_in_turn(report=True), name=f"report-{number}")
            group.create_task(self._decide_in_turn(), name="decide")
            group.create_task(self._report_queues(), name="report-queues")
            try:
                await asyncio.Event().wait()
            finally:
                await self._end_writes()

    async def _end_writes(self) -> None:
        """Begin no write any more, and wait for those on their way: whoever gets the Lease next must see them."""
        self._ending = True
        self._permit = NEVER
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                while self._writes.in_flight:
                    self._room.clear()
                    await self._room.wait()
        if self._writes.in_flight and self._lease is not None:
            self._lease.leave()

    async def _report_queues(self) -> None:
        if interval := self.cycle.settings.queue_status_interval:
            await self._status.run(interval, lambda: self.leads)

    def _replay_deferred(self) -> None:
        """Take in the pods that have come by now: their devices can be counted only on nodes that are known."""
        deferred, self._deferred = self._deferred, None
        for replay in deferred or ():
            replay()

    async def _decide_in_turn(self) -> None:
        loop = asyncio.get_running_loop()
        settings = self.cycle.settings
        while True:
            # Not wait_for: before Python 3.12 it may swallow a cancellation that meets a wake-up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._idle_seconds()):
                    await self._wake.wait()
                await asyncio.sleep(settings.batch_delay)
            self._wake.clear()
            self.last_turn = loop.time()
            self._forget_unreadable()
            if not self.leads:
                self.cycle.pass_time(int(self._clock()))
                continue
            if self._lease is not None:
                await self._begin_term(self._lease.permit())
            if self._takeover is not None and not await self._takeover.complete():
                loop.call_later(_AGAIN_SECONDS, self._wake.set)
                continue
            while await self._turn():
                self.last_turn = loop.time()
            self._evict_by_policy()

    async def _begin_term(self, permit: Permit) -> None:
        """Decide and write in this term from now on; nothing that was decided in an earlier one is written in it."""
        if permit.epoch == self._permit.epoch:
            return
        self._permit = NEVER
        self._writes.end_term()
        while self._writes.writing or self._writes.backlog:
            self._room.clear()
            self._wake_writers()
            await self._room.wait()
        self._permit = NEVER if self._ending else permit
        self.cycle.reporter.forget_all()  # another process may have reported something else meanwhile

    def _wake_writers(self) -> None:
        for event in self._something.values():
            event.set()

    def _idle_seconds(self) -> float:
        """How long to wait for an event before the next cycle."""
        settings, moment = self.cycle.settings, self.cycle.next_cycle_at
        if not (moment and self.leads):
            return settings.idle_interval
        return min(settings.idle_interval, max(settings.batch_delay, moment - self._clock()))

    def _evict_by_policy(self) -> None:
        """Send away who is on a GPU that failed, or in a queue that is drained, if the policy in force says so."""
        policy, now, pods = self.policy_source.active, int(self._clock()), self.pods.objects.values()
        after = policy.spec.rescheduling.evict_from_unhealthy_after if policy is not None else None
        due = self._drain.due(now, self.cycle.builder.shapes.access.drained(), pods)
        if after is not None:
            due += self._rescue.due(asyncio.get_running_loop().time(), duration_seconds(after), pods)
        for evict in due:
            self._writes.evict(evict)
        if due:
            self._something[False].set()

    async def _turn(self) -> bool:
        """One decision; True when there may be more to place at once."""
        while self._writes.backlog >= self.cycle.settings.batch:
            self._room.clear()
            await self._room.wait()
        before = time.perf_counter()
        plan = self.cycle.decide(int(self._clock()))
        self.turn_seconds = time.perf_counter() - before
        self._send(plan)
        await asyncio.sleep(0)
        return plan.again and self.leads

    def _send(self, plan: Plan) -> None:
        set_aside.report(self.cycle.take_faults(), self._recorder)
        if plan.faults != self._faults:
            self._report_faults(plan.faults)
        self._writes.send(plan)
        self._wake_writers()

    def _report_faults(self, faults: tuple[str, ...]) -> None:
        """Name the plugins that are out when others are out than before: in the log, and on the policy in force."""
        self._faults = faults
        self._status.note_faults(faults)
        for fault in faults:
            _log.error("plugin %s", fault)
        if not faults:
            _log.info("all plugins answer again")
        else:
            self._report_policy("PluginFailed", "; ".join(faults))

    def _report_policy(self, reason: str, message: str) -> None:
        """A warning on the policy in force."""
        if policy := self.policy_source.active:
            about = Regarding(names.API_VERSION, "HybridPolicy", policy.metadata.name, uid=policy.metadata.uid)
            self._recorder.record(about, reason, message, warning=True)

    async def _write_in_turn(self, *, report: bool) -> None:
        """One of the writers: it carries out what comes next and does what follows from it."""
        while True:
            action = self._writes.next(asyncio.get_running_loop().time(), report=report)
            if action is None:
                self._room.set()  # what was left may be wanted no more
                self._wait_for_what_is_late()
                self._something[report].clear()
                await self._something[report].wait()
                continue
            if self._permit.holds or not is_write(action):
                volumes, now = self.cycle.builder.volumes, self._clock()
                outcome = await requests.carry_out(self._client, action, self._known, volumes, now)
            else:
                outcome = LEASE_LOST
            self._follow(action, outcome)
            self._room.set()

    def _follow(self, action: Action, outcome: Outcome) -> None:
        if outcome.result in (Result.REFUSED, Result.FAILED) and not isinstance(action, Hold):
            _log.warning("%s: %s: %s", action, outcome.result, outcome.message)
        now = asyncio.get_running_loop().time()
        for what in self._writes.ended(action, outcome, now):
            match what:
                case Record():
                    for carried_out in what.actions:
                        requests.record(self._recorder, carried_out)
                case RunCycle():
                    self._at(what.at, self._wake)
                case VictimStays(evict, refused) if refused:
                    requests.record_refusal(self._recorder, evict, refused)
                    self.cycle.follow(what)
                case _:
                    self.cycle.follow(what)
        self._wait_for_what_is_late()

    def _wait_for_what_is_late(self) -> None:
        """Have the writers look for work when the next action is to be repeated."""
        due, now = self._writes.due, asyncio.get_running_loop().time()
        if due is not None and not now < self._due <= due:
            self._due = due
            for event in self._something.values():
                self._at(due, event)

    def _at(self, moment: float, event: asyncio.Event) -> None:
        """Set an event at a time of the event loop, which no clock that is set back makes wait."""
        loop = asyncio.get_running_loop()
        if moment <= loop.time():
            event.set()
        else:
            loop.call_at(moment, event.set)

    def _known(self, name: PodName) -> Pod | None:
        """The pod as the watch has shown it last; None when it is gone or another one has its name."""
        pod = self.pods.objects.get((name.namespace, name.name))
        return pod if pod is not None and pod.metadata.uid == name.uid else None

    def _on_pod(self, change: Change, old: Pod | None, new: Pod | None) -> None:
        if self._deferred is not None:
            self._deferred.append(partial(self._on_pod, change, old, new))
            return
        if change == "synced":
            self._wake.set()
            return
        self.cycle.observe_pod(old, new)
        # A binding that we made ourselves frees nothing and asks for nothing, nor does a reason that we wrote on a pod.
        if new is None or new.metadata.deletion_timestamp:
            wakes = True
        elif new.spec.node_name:
            wakes = old is not None and amounts_key(old) != amounts_key(new)  # it is resized
        else:
            wakes = old is None or not same_to_us(old, new)
        if wakes:
            self._wake.set()

    def _on_unreadable_pod(self, fault: Undecodable) -> None:
        if self._deferred is not None:
            self._deferred.append(partial(self._on_unreadable_pod, fault))
            return
        if fault.metadata is None or fault.change == "deleted":
            return
        self.cycle.builder.put_unreadable_pod(fault.metadata, node_of(fault.raw))
        self._unreadable[fault.metadata.namespace, fault.metadata.name] = fault.metadata.uid

    def _forget_unreadable(self) -> None:
        """An unreadable pod that is gone, or can be read now, blocks its node no longer.

        One that has been read since then may have been given its place already, which it keeps.
        """
        for key in [key for key in self._unreadable if key not in self.pods.undecodable]:
            row = self.cycle.builder.pods.get(self._unreadable.pop(key))
            if row is None or row.state != State.UNREADABLE:
                continue
            self.cycle.builder.remove_pod(row.name.uid)
            pod = self.pods.objects.get(key)
            if pod is not None:
                self.cycle.observe_pod(None, pod)

    def _on_node(self, change: Change, old: Node | None, new: Node | None) -> None:
        if new is not None:
            self.cycle.builder.put_node(new)
        elif old is not None:
            self.cycle.builder.remove_node(old.metadata.name)
        if old is None or new is None or placement_may_change(old, new):
            self._wake.set()

    def _on_policy(self, change: Change, old: PolicyObject | None, new: PolicyObject | None) -> None:
        before = self.policy_source.problem
        changed = self.policy_source.take(change, old, new)
        if (problem := self.policy_source.problem) and problem != before:
            self._report_policy("PolicyUnreadable", problem)
        if changed:
            self._wake.set()
        elif not self.leads:  # who leads has counted further than what was written
            self.cycle.builder.recall_past_use(self.policy_source.active)

    def _on_inventory(self, _change: Change, old: Inventory | None, new: Inventory | None) -> None:
        known = new or old
        if known is None:
            return
        name, builder = known.metadata.name, self.cycle.builder
        self._rescue.observe(name, new, asyncio.get_running_loop().time(), self._client.server_clock.now())
        if old is not None and new is not None and same_to_placement(old, new):
            return  # measurements are not read here, and need no cycle
        builder.set_inventory(name, node_devices(new))
        builder.set_links(name, link_distances(new))
        builder.set_at_risk(name, has_device_at_risk(new), has_known_holes(new))
        self._wake.set()


async def _answer_of(watch: ListWatch[Any]) -> None:
    """Wait until it is known what there is of a kind without which scheduling works too. However long that takes: an
    API server that is slow, as many are after a failover, says nothing of what there is."""
    await watch.answered.wait()
    if not watch.synced.is_set():
        _log.warning("%s (are the CRDs and the rights there?); scheduling without", watch.last_error)
