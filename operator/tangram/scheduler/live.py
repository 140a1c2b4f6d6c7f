"""The cycle on a real cluster: watches feed it, its plans become writes, and every write's end is told back to it.

One event loop, no threads: a decision takes milliseconds and everything else is waiting for the network. While the
writes of one batch are on their way the next batch is decided.
"""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable
from functools import partial

import msgspec

from tangram import errors
from tangram.api import names
from tangram.api.objects import Node, Pod
from tangram.cluster import paths, writers
from tangram.cluster.events import Recorder, Regarding
from tangram.cluster.lease import Lease
from tangram.cluster.mirror import Change, Undecodable
from tangram.cluster.outcome import Outcome, Result
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch
from tangram.plan import Evict, Hold, Place, Plan
from tangram.scheduler import set_aside
from tangram.scheduler.cycle import Cycle
from tangram.scheduler.dependencies import Surroundings
from tangram.scheduler.jobs import FinishedWork
from tangram.scheduler.policies import (
    Inventory,
    PolicyObject,
    PolicySource,
    has_device_at_risk,
    link_distances,
    node_devices,
)
from tangram.scheduler.queue_status import QueueReporter
from tangram.scheduler.rescue import Rescue
from tangram.scheduler.takeover import Takeover
from tangram.snapshot.requests.volumes import ClaimKey
from tangram.units import duration_seconds

_log = logging.getLogger(__name__)

_HOLD_WRITERS = 8
"""Connections that tell pods why they wait: few, because bindings come first."""
_MOST_REPORTS = 4096
"""Bindings of one burst that are told by Events; the annotation on the pod tells of all of them."""
_END_SECONDS = 3.0
"""How long the end waits for the answers to writes; without them the Lease is not given up but left to end."""
_AGAIN_SECONDS = 0.1
"""How long a new holder waits before it asks again whether it knows what the last one wrote."""
_OPTIONAL_SECONDS = 3.0
"""How long the start waits for kinds without which scheduling works too."""
_POD = msgspec.json.Decoder(Pod)


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
        self._client = client.only_while(lambda: self.leads) if lease is not None else client
        self._recorder, self._lease, self._clock = recorder, lease, clock
        self._wake = asyncio.Event()
        self._writes: asyncio.Queue[Place | Evict] = asyncio.Queue()
        self._writing = 0
        self._room = asyncio.Event()
        self._bound: deque[Place] = deque(maxlen=_MOST_REPORTS)
        self._holds: dict[str, Hold] = {}
        self._some_holds = asyncio.Event()
        self._ending = False
        self._early: list[Callable[[], None]] | None = []
        """What was heard of pods before their nodes and surroundings were known; None: they are."""
        self._unreadable: dict[tuple[str, str], str] = {}
        self._faults: tuple[str, ...] = ()
        self._rescue = Rescue()
        self._policies = PolicySource(cycle.builder.set_policy)
        watch = client
        self.pods = ListWatch(
            watch,
            paths.PODS.collection(),
            Pod,
            self._on_pod,
            field_selector="status.phase!=Succeeded,status.phase!=Failed",
            on_undecodable=self._on_unreadable_pod,
            at_once=True,  # counting the pods of a large cluster takes as long as they take to come
        )
        self.finished = ListWatch(
            watch,
            paths.PODS.collection(),
            Pod,
            self._on_finished_pod,
            label_selector=names.GANG,
            field_selector="status.phase=Succeeded",
        )
        self.work = FinishedWork(client, cycle.builder, self._wake.set)
        self.nodes = ListWatch(watch, paths.NODES.collection(), Node, self._on_node)
        self.policies = ListWatch(watch, paths.HYBRID_POLICIES.collection(), PolicyObject, self._on_policy)
        self.surroundings = Surroundings(self._client, cycle.builder, self._wake.set)
        self.inventories = ListWatch(watch, paths.GPU_NODES.collection(), Inventory, self._on_inventory)
        self._takeover: Takeover | None = None
        if lease is not None:
            lease.on_acquired = self._wake.set
            self._takeover = Takeover(self._client, lease, self.pods, cycle.settings.scheduler_name)

    @property
    def watches(self) -> tuple[ListWatch[Node], ListWatch[Pod], ListWatch[PolicyObject], ListWatch[Inventory]]:
        """All watches, the ones that scheduling cannot do without first."""
        return self.nodes, self.pods, self.policies, self.inventories

    @property
    def synced(self) -> bool:
        """Whether nodes and pods are known."""
        return self._early is None and self.nodes.synced.is_set() and self.pods.synced.is_set()

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
            await self.nodes.synced.wait()
            for number, run in enumerate(self.surroundings.runs()):
                group.create_task(run, name=f"watch-surroundings-{number}")
            around = {"kind of tangram's own": self.policies.synced, "GPU inventory": self.inventories.synced}
            around |= self.surroundings.synced
            await asyncio.gather(*(self._wait_a_moment(what, synced) for what, synced in around.items()))
            self._hear_early()
            group.create_task(self.finished.run(), name="watch-finished-members")
            group.create_task(self.work.jobs.run(), name="watch-jobs")
            if self._lease is not None:
                group.create_task(self._lease.run(), name="lease")
            await self.pods.synced.wait()
            for number in range(self._client.settings.concurrency):
                group.create_task(self._write_in_turn(), name=f"write-{number}")
            for number in range(_HOLD_WRITERS):
                group.create_task(self._tell_in_turn(), name=f"tell-{number}")
            group.create_task(self._decide_in_turn(), name="decide")
            group.create_task(self._report_queues(), name="report-queues")
            try:
                await asyncio.Event().wait()
            finally:
                await self._end_writes()

    async def _end_writes(self) -> None:
        """Begin no write any more, and wait for those on their way: whoever gets the Lease next must see them."""
        self._ending = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_END_SECONDS):
                while self._writing:
                    self._room.clear()
                    await self._room.wait()
        if self._writing and self._lease is not None:
            self._lease.leave()

    async def _report_queues(self) -> None:
        policies, cycle = self._policies, self.cycle
        reporter = QueueReporter(
            self._client, self.policies.objects.values, lambda: policies.active, lambda: cycle.figures
        )
        if cycle.settings.queue_status_interval:
            await reporter.run(cycle.settings.queue_status_interval, lambda: self.leads)

    def _hear_early(self) -> None:
        """Take in the pods that have come by now: their devices can be counted only on nodes that are known."""
        early, self._early = self._early, None
        for hear in early or ():
            hear()

    async def _wait_a_moment(self, what: str, synced: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(_OPTIONAL_SECONDS):
                await synced.wait()
        except TimeoutError:
            _log.warning("no %s can be watched yet (are the CRDs and the rights there?); scheduling without", what)

    async def _decide_in_turn(self) -> None:
        loop = asyncio.get_running_loop()
        settings = self.cycle.settings
        while True:
            # Not wait_for: before Python 3.12 it may swallow a cancellation that meets a wake-up.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(settings.idle_interval):
                    await self._wake.wait()
                await asyncio.sleep(settings.settle)
            self._wake.clear()
            self.last_turn = loop.time()
            self._forget_unreadable()
            if not self.leads:
                continue
            if self._takeover is not None and not await self._takeover.complete():
                loop.call_later(_AGAIN_SECONDS, self._wake.set)
                continue
            while await self._turn():
                self.last_turn = loop.time()
            self._rescue_stranded()

    def _rescue_stranded(self) -> None:
        """Send away who is on a GPU that failed, if the policy in force says so."""
        policy = self._policies.active
        after = policy.spec.rescheduling.evict_from_unhealthy_after if policy is not None else None
        if after is not None:
            now = int(self._clock())
            for evict in self._rescue.due(now, duration_seconds(after), self.pods.objects.values()):
                self._writes.put_nowait(evict)

    async def _turn(self) -> bool:
        """One decision; True when there may be more to place at once."""
        while self._writes.qsize() >= self.cycle.settings.batch:
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
        for place in plan.place:
            self._holds.pop(place.pod.uid, None)
            self._writes.put_nowait(place)
        for evict in plan.evict:
            self._writes.put_nowait(evict)
        for hold in plan.hold:
            self._holds[hold.pod.uid] = hold
        if plan.hold:
            self._some_holds.set()

    def _report_faults(self, faults: tuple[str, ...]) -> None:
        """Name the plugins that are out when others are out than before: in the log, and on the policy in force."""
        self._faults = faults
        for fault in faults:
            _log.error("plugin %s", fault)
        if not faults:
            _log.info("all plugins answer again")
        elif policy := self._policies.active:
            about = Regarding(names.API_VERSION, "HybridPolicy", policy.metadata.name, uid=policy.metadata.uid)
            self._recorder.record(about, "PluginFailed", "skipped: " + "; ".join(faults), warning=True)

    async def _write_in_turn(self) -> None:
        """One of the writers: bindings and evictions in the order of their decisions."""
        while True:
            action = await self._writes.get()
            self._writing += 1
            try:
                await (self._bind(action) if isinstance(action, Place) else self._evict(action))
            finally:
                self._writing -= 1
            self._room.set()
            if not self._writing and self._writes.empty():
                self._report_bound()

    async def _bind(self, place: Place) -> None:
        claims = self._claims_first(place)
        if claims and self.leads:
            # The pod is bound in a later turn, when its volumes are there; until then its place is not held.
            heard = await self.surroundings.ask_for_volumes(claims, place.node)
            self.cycle.settle(place, held=False)
            if not heard:
                await asyncio.sleep(1.0)
                self._wake.set()
            return
        if not self.leads:
            outcome = Outcome(Result.CONFLICT, "the lease is lost")
        else:
            outcome = await writers.bind(self._client, place)
        if outcome.result is Result.FAILED:
            held = await self._read_back(place)
        else:
            held = outcome.done
        self.cycle.settle(place, held=held)
        if held:
            self._bound.append(place)
            return
        if outcome.result is Result.REFUSED:
            _log.warning("binding of %s: refused: %s", place, outcome.message)
            await asyncio.sleep(1.0)  # a rule that says no will say it again: do not ask in a tight loop
        self._wake.set()

    def _claims_first(self, place: Place) -> list[ClaimKey]:
        """Claims of the pod whose volumes are made only once its node is known."""
        pod = self.pods.objects.get((place.pod.namespace, place.pod.name))
        return self.cycle.builder.volumes_to_make(pod) if pod is not None and pod.spec.volumes else []

    def _report_bound(self) -> None:
        """Tell of bindings by Events, once no binding is on its way: in a burst they would cost it half its rate."""
        while self._bound:
            place = self._bound.popleft()
            about = Regarding("v1", "Pod", place.pod.name, place.pod.namespace, place.pod.uid)
            self._recorder.record(about, "Scheduled", f"Assigned {place}", action="Binding")

    async def _read_back(self, place: Place) -> bool:
        """Find out how a binding ended whose answer was lost: until that is known its devices stay taken."""
        pause = 0.5
        while True:
            try:
                body = await self._client.request("GET", paths.PODS.path(place.pod.name, place.pod.namespace))
                pod = _POD.decode(body)
            except errors.NotFound:
                return False
            except (errors.TangramError, msgspec.MsgspecError) as error:
                _log.warning("binding of %s: the outcome is unknown: %s", place, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, 30.0)
                continue
            return pod.metadata.uid == place.pod.uid and pod.spec.node_name == place.node

    async def _evict(self, evict: Evict) -> None:
        outcome = await writers.evict(self._client, evict) if self.leads else Outcome(Result.CONFLICT)
        if outcome.result in (Result.REFUSED, Result.FAILED):
            _log.warning("%s: %s", evict, outcome.message)
            self.cycle.eviction_failed(evict)
        elif outcome.done:
            about = Regarding("v1", "Pod", evict.pod.name, evict.pod.namespace, evict.pod.uid)
            alone = names.Reason.GANG_TIMEOUT if evict.gang else "GpuUnhealthy"
            reason = "Preempted" if evict.claimant is not None else alone
            self._recorder.record(about, str(reason), evict.note, action="Preempting", warning=True)
        self._wake.set()

    async def _tell_in_turn(self) -> None:
        """Write reasons on waiting pods, the latest one for each, when there is nothing better to do."""
        while True:
            await self._some_holds.wait()
            if not self._holds:
                self._some_holds.clear()
                continue
            uid = next(iter(self._holds))
            await self._tell(self._holds.pop(uid))

    async def _tell(self, hold: Hold) -> None:
        pod = self.pods.objects.get((hold.pod.namespace, hold.pod.name))
        if pod is None or pod.metadata.uid != hold.pod.uid or pod.spec.node_name or not self.leads:
            return
        if writers.says_already(pod, hold):
            return
        outcome = await writers.pod_unschedulable(self._client, hold)
        if outcome.done:
            about = Regarding("v1", "Pod", hold.pod.name, hold.pod.namespace, hold.pod.uid)
            self._recorder.record(about, "FailedScheduling", f"{hold.reason}: {hold.message}", warning=True)
        elif outcome.result is Result.FAILED:
            self.cycle.untell(hold)

    def _on_pod(self, change: Change, old: Pod | None, new: Pod | None) -> None:
        if self._early is not None:
            self._early.append(partial(self._on_pod, change, old, new))
            return
        if change == "synced":
            self._wake.set()
            return
        self.cycle.observe_pod(old, new)
        # A binding that we made ourselves frees nothing and asks for nothing: no need to look at the cluster for it.
        if new is None or not new.spec.node_name or new.metadata.deletion_timestamp:
            self._wake.set()

    def _on_finished_pod(self, change: Change, old: Pod | None, new: Pod | None) -> None:
        """A member of a gang has ended with success, or is gone after that; the other watch does not say which."""
        if change != "synced":
            self.cycle.observe_pod(old, new)
            self._wake.set()

    def _on_unreadable_pod(self, fault: Undecodable) -> None:
        if self._early is not None:
            self._early.append(partial(self._on_unreadable_pod, fault))
            return
        if fault.metadata is None or fault.change == "deleted":
            return
        try:
            node = _BOUND_TO.decode(fault.raw).spec.node_name
        except msgspec.MsgspecError:
            node = ""
        self.cycle.builder.put_unreadable_pod(fault.metadata, node)
        self._unreadable[fault.metadata.namespace, fault.metadata.name] = fault.metadata.uid

    def _forget_unreadable(self) -> None:
        """An unreadable pod that is gone, or can be read now, blocks its node no longer."""
        for key in [key for key in self._unreadable if key not in self.pods.undecodable]:
            uid = self._unreadable.pop(key)
            self.cycle.builder.remove_pod(uid)
            pod = self.pods.objects.get(key)
            if pod is not None:
                self.cycle.observe_pod(None, pod)

    def _on_node(self, change: Change, old: Node | None, new: Node | None) -> None:
        if new is not None:
            self.cycle.builder.put_node(new)
        elif old is not None:
            self.cycle.builder.remove_node(old.metadata.name)
        if old is None or new is None or _placement_may_change(old, new):
            self._wake.set()

    def _on_policy(self, change: Change, old: PolicyObject | None, new: PolicyObject | None) -> None:
        if self._policies.take(change, old, new):
            self._wake.set()
        elif not self.leads:  # who leads has counted further than what was written
            queues = self.cycle.builder.queues
            queues.past.recall(self._policies.active, queues.arrays)

    def _on_inventory(self, _change: Change, old: Inventory | None, new: Inventory | None) -> None:
        known = new or old
        if known is None or (old is not None and new is not None and old.status == new.status):
            return  # measurements are not read here, and need no look at the cluster
        name, builder = known.metadata.name, self.cycle.builder
        builder.set_inventory(name, node_devices(new))
        builder.set_links(name, link_distances(new))
        builder.set_at_risk(name, has_device_at_risk(new))
        self._rescue.heed(name, new, int(self._clock()))
        self._wake.set()


def _placement_may_change(old: Node, new: Node) -> bool:
    """Heartbeats change conditions only; those are not worth a look at the cluster."""
    return (
        old.spec != new.spec
        or old.metadata.labels != new.metadata.labels
        or old.status.allocatable != new.status.allocatable
    )


class _NodeName(msgspec.Struct, frozen=True):
    node_name: str = msgspec.field(default="", name="nodeName")


class _BoundTo(msgspec.Struct, frozen=True):
    spec: _NodeName = _NodeName()


_BOUND_TO = msgspec.json.Decoder(_BoundTo)
LEASE_NAME = f"{names.SCHEDULER_NAME}-scheduler"
