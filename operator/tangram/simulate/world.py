"""A cluster made of values: what the API server, kubelets, controllers and storage drivers do, on a virtual clock.

It gives out what watches give out and takes what the scheduler writes (bindings, evictions, reasons, nodes chosen for
volumes), so the production cycle runs in it unchanged. Whoever tests a loop can let writes fail (``faults``), watches
lag, get lost and be listed again (``watching``), volumes come late or never (``storage``), owners make evicted pods
again, and nodes vanish.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, TypeAlias

from msgspec.structs import replace

from tangram import errors, units
from tangram.api import names
from tangram.api.objects import Condition, ContainerStatus, DeviceShare, Node, Pod, PodStatus, write_gpus
from tangram.api.storage import PersistentVolume, PersistentVolumeClaim
from tangram.plan import Device, Evict, Hold, Place, PodName
from tangram.scheduler.policies import Inventory
from tangram.simulate import storage
from tangram.simulate.answers import Answer
from tangram.simulate.clock import VirtualClock
from tangram.simulate.kubelets import Verdict
from tangram.simulate.provisioner import Provisioner
from tangram.simulate.storage import Driver
from tangram.simulate.watching import Handler, Kind, Watch
from tangram.snapshot.requests.amounts import pod_amounts, resource_units
from tangram.snapshot.requests.touched import ClaimKey

_MILLI_PER_HUNDREDTH = units.MILLI_PER_GPU // units.HUNDREDTHS_PER_GPU

RESIZED_AFTER = 2
"""Seconds that a kubelet takes to resize a container."""
_OVER = ("Succeeded", "Failed")
COLLECTED_AFTER = 40
"""Seconds for which Kubernetes' garbage collector waits for the node that a pod has just been bound to."""
PodKey = tuple[str, str]
"""(namespace, name)."""


_NOT_WRITTEN = frozenset({Answer.CONFLICT, Answer.REFUSED, Answer.LOST})


@dataclass(frozen=True, slots=True)
class ChosenNode:
    """The write that asks for a claim's volume on a node."""

    claim: ClaimKey
    node: str


Write: TypeAlias = Place | Evict | Hold | ChosenNode
Fault = Callable[[Any], Answer | None]
"""Asked before every write, which is a ``Write``; None lets it pass."""


@dataclass(frozen=True, slots=True)
class Owner:
    """A controller that makes its pod again when that is gone before its work is done."""

    template: Pod
    seconds: int
    """From the end of one pod to the next."""
    renames: bool
    """Whether each pod gets a name of its own, as a ReplicaSet's; else it comes back under its name."""
    generation: int = 0


class World:
    """Objects, and what will happen to them."""

    def __init__(
        self,
        nodes: Iterable[Node] = (),
        clock: VirtualClock | None = None,
        *,
        watch_delay: int = 0,
        grace: int = 0,
        fault: Fault | None = None,
    ) -> None:
        self.clock = clock or VirtualClock()
        self.objects: dict[Kind, dict[Any, Any]] = {kind: {} for kind in Kind}
        """By kind and key: (namespace, name) of what is namespaced, else the name."""
        self.nodes: dict[str, Node] = self.objects[Kind.NODE]
        self.pods: dict[PodKey, Pod] = self.objects[Kind.POD]
        self.claims: dict[ClaimKey, PersistentVolumeClaim] = self.objects[Kind.CLAIM]
        self.volumes: dict[str, PersistentVolume] = self.objects[Kind.VOLUME]
        self.inventories: dict[str, Inventory] = self.objects[Kind.INVENTORY]
        self.fault = fault
        self.kubelets: Callable[[Pod], Verdict | None] | None = None
        """Asked about every pod that is bound; None lets it run."""
        self.watch_delay = watch_delay
        """Seconds until a change is seen by those who begin to watch from now on."""
        self.grace = grace
        """Seconds that an evicted or deleted pod that runs takes to leave."""
        self._watches: list[Watch] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._event_count = 0
        self._durations: dict[str, int] = {}
        self._owners: dict[str, Owner] = {}
        """By uid of their pods."""
        self._provisioner = Provisioner(self)
        for node in nodes:
            self._set_node(node.metadata.name, node)

    def watch(self, on_node: Handler, on_pod: Handler, others: Mapping[Kind, Handler] | None = None) -> Watch:
        """Show everything that is there now, nodes first, and every change from now on."""
        handlers = {Kind.NODE: on_node, **(others or {}), Kind.POD: on_pod}
        self._watches = [one for one in self._watches if not one.stopped]
        found = Watch(self, handlers, self.watch_delay)
        self._watches.append(found)
        return found

    def follow(self, handlers: Mapping[Kind, Handler]) -> Watch:
        """A watch of these kinds only."""
        found = Watch(self, handlers, self.watch_delay)
        self._watches.append(found)
        return found

    # What happens to the world

    def submit(self, pod: Pod, at: int | None = None, duration: int | None = None) -> None:
        """Create the pod now or at a later second; it completes ``duration`` seconds after it is bound, or never.

        Raises Conflict (when its time comes) if a pod of the name exists then.
        """
        if at is None or at <= self.clock.now:
            self._create(pod, duration)
        else:
            self.schedule(at, partial(self._create, pod, duration))

    def own(self, namespace: str, name: str, seconds: int, *, renames: bool = False) -> None:
        """Let a pod have an owner, which makes it again when it is evicted or lost, not when it is done or deleted."""
        pod = self.pods[namespace, name]
        again = replace(pod, metadata=replace(pod.metadata, uid="", creation_timestamp=None), status=PodStatus())
        self._owners[pod.metadata.uid] = Owner(again, seconds, renames)

    def end(self, namespace: str, name: str, phase: str = "Succeeded", linger: int = 0) -> None:
        """Let a pod that runs end; it shows how it ended for so long and is then cleaned away."""
        key = (namespace, name)
        pod = self.pods.get(key)
        if pod is not None and pod.spec.node_name:
            self._set_pod(key, replace(pod, status=replace(pod.status, phase=phase)))
            if phase == "Succeeded":
                self._owners.pop(pod.metadata.uid, None)
            self.schedule(self.clock.now + linger, partial(self._vanish, key, pod.metadata.uid))

    def bind_elsewhere(self, namespace: str, name: str, node: str) -> None:
        """Another scheduler binds a pod, without a record of its devices."""
        pod = self.pods.get((namespace, name))
        if pod is not None and not pod.spec.node_name and not pod.metadata.deletion_timestamp and node in self.nodes:
            spec = replace(pod.spec, node_name=node)
            self._set_pod((namespace, name), Pod(pod.metadata, spec, _running(self.clock.now)))

    def resize(self, namespace: str, name: str, cpu: int) -> None:
        """Somebody changes in place how many CPUs a pod's first container asks for.

        The kubelet carries that out a moment later where its node has room for it, and else says that it cannot.
        """
        key = namespace, name
        pod = self.pods.get(key)
        if pod is None or pod.metadata.deletion_timestamp:
            return
        first, *others = pod.spec.containers
        wanted = replace(first.resources, requests={**first.resources.requests, "cpu": cpu})
        new = replace(pod, spec=replace(pod.spec, containers=(replace(first, resources=wanted), *others)))
        if pod.spec.node_name:
            fits = pod_amounts(new)["cpu"] - pod_amounts(pod).get("cpu", 0) <= self._cpu_left(pod.spec.node_name)
            has = ContainerStatus(first.name, first.resources, dict(first.resources.requests))
            refused = () if fits else (Condition("PodResizePending", "True", "Infeasible"),)
            new = replace(new, status=replace(pod.status, container_statuses=(has,), conditions=refused))
            if fits:
                self.schedule(self.clock.now + RESIZED_AFTER, partial(self._carry_out, key, pod.metadata.uid))
        self._set_pod(key, new)

    def _cpu_left(self, node: str) -> int:
        """Milli-cores of a node that none of its pods holds."""
        there = self.nodes.get(node)
        has = resource_units("cpu", there.status.allocatable.get("cpu", 0)) if there is not None else 0
        here = [pod for pod in self.pods.values() if pod.spec.node_name == node and pod.status.phase not in _OVER]
        return has - sum(pod_amounts(pod).get("cpu", 0) for pod in here)

    def _carry_out(self, key: PodKey, uid: str) -> None:
        if self._is(key, uid):
            pod = self.pods[key]
            self._set_pod(key, replace(pod, status=replace(pod.status, container_statuses=(), conditions=())))

    def delete(self, namespace: str, name: str, at: int | None = None) -> None:
        """Delete a pod, and its owner: one that runs takes its grace to leave. One that is not there is no fault."""
        self.schedule(at, partial(self._delete, (namespace, name)))

    def put_node(self, node: Node, at: int | None = None) -> None:
        """Add a node, or change it."""
        self.schedule(at, partial(self._set_node, node.metadata.name, node))

    def remove_node(self, name: str, at: int | None = None) -> None:
        """Take a node away; its pods are collected at once."""
        self.schedule(at, partial(self._lose_node, name))

    def put(self, kind: Kind, key: Any, new: Any) -> None:
        """Set or (None) remove an object that nothing happens to by itself: a policy, an inventory, a claim."""
        self._set(kind, key, new)

    def put_class(self, name: str, driver: Driver) -> None:
        """Add a storage class whose volumes wait for their first consumer."""
        self._provisioner.drivers[name] = driver
        self._set(Kind.STORAGE_CLASS, name, storage.delayed_class(name, local=driver.local))

    def schedule(self, at: int | None, action: Callable[[], None]) -> None:
        """Do something at a later second, or now when that is not later."""
        if at is None or at <= self.clock.now:
            action()
            return
        self._event_count += 1
        heapq.heappush(self._events, (at, self._event_count, action))

    def next_moment(self) -> int | None:
        """The second of the next event; None when nothing more will happen by itself."""
        return self._events[0][0] if self._events else None

    def step(self) -> bool:
        """Go on to the next moment and let all of it happen; False when there is none."""
        moment = self.next_moment()
        if moment is None:
            return False
        self.clock.advance(moment)
        while self._events and self._events[0][0] <= moment:
            heapq.heappop(self._events)[2]()
        return True

    def run(self, until: int) -> None:
        """Let everything happen up to and including a second."""
        while self._events and self._events[0][0] <= until:
            self.step()
        self.clock.advance(until)

    # What the scheduler writes

    def bind(self, place: Place) -> Answer:
        """Bind a pod and record its devices in one write, with its uid as the precondition."""
        injected, who = self.fault(place) if self.fault else None, place.pod
        if injected in _NOT_WRITTEN:
            return injected
        key = (who.namespace, who.name)
        if injected is Answer.GONE:
            self._set_pod(key, None)
        pod = self.pods.get(key)
        if pod is None:
            return Answer.GONE
        metadata = pod.metadata
        if metadata.uid != who.uid or pod.spec.node_name or metadata.deletion_timestamp:
            return Answer.CONFLICT
        if place.devices:
            metadata = replace(metadata, annotations={**metadata.annotations, names.GPUS: _record(place.devices)})
        spec = replace(pod.spec, node_name=place.node)
        self._set(Kind.POD, key, Pod(metadata, spec, _running(self.clock.now)))
        if place.node not in self.nodes:
            self.schedule(self.clock.now + COLLECTED_AFTER, partial(self._collect, place.node))
        elif (verdict := self.kubelets(self.pods[key]) if self.kubelets else None) is not None:
            self._reject(key, verdict)
        elif metadata.uid in self._durations:
            until = self.clock.now + self._durations[metadata.uid]
            self.schedule(until, partial(self._complete, key, metadata.uid))
        return injected or Answer.DONE

    def _reject(self, key: PodKey, verdict: Verdict) -> None:
        """A kubelet does not take a pod: it stays as one that has failed, and its owner makes another one."""
        pod = self.pods[key]
        failed = PodStatus("Failed", verdict.reason, verdict.message, start_time=units.rfc3339(self.clock.now))
        owner = self._owners.pop(pod.metadata.uid, None)
        self._set_pod(key, replace(pod, status=failed))
        if owner is not None:
            self.schedule(self.clock.now + owner.seconds, partial(self._make_again, owner))

    def evict(self, evict: Evict) -> Answer:
        """Ask a pod to leave."""
        injected = self.fault(evict) if self.fault else None
        if injected in _NOT_WRITTEN:
            return injected
        if self.find(evict.pod) is None:
            return Answer.GONE
        self._leave((evict.pod.namespace, evict.pod.name))
        return injected or Answer.DONE

    def report(self, hold: Hold) -> Answer:
        """Write on a pod why it waits, and the node that is made free for it."""
        injected = self.fault(hold) if self.fault else None
        if injected in _NOT_WRITTEN:
            return injected
        pod = self.find(hold.pod)
        if pod is None:
            return Answer.GONE
        condition = Condition("PodScheduled", "False", "Unschedulable", f"{hold.reason}: {hold.message}")
        others = tuple(one for one in pod.status.conditions if one.type != condition.type)
        status = replace(pod.status, conditions=(*others, condition), nominated_node_name=hold.nominated_node)
        if status != pod.status:
            self._set_pod((hold.pod.namespace, hold.pod.name), replace(pod, status=status))
        return injected or Answer.DONE

    def choose_node(self, claim: ClaimKey, node: str) -> Answer:
        """Ask for a claim's volume on a node; it comes in its time, or the choice is given back."""
        return self._answered(ChosenNode(claim, node), partial(self._provisioner.choose_node, claim, node))

    def choose_volume(self, claim: ClaimKey, name: str, node: str) -> Answer:
        """Let a volume that exists be a claim's, for a pod on the node; Kubernetes then binds them."""
        return self._answered(ChosenNode(claim, node), partial(self._provisioner.choose_volume, claim, name))

    def _answered(self, write: ChosenNode, carry_out: Callable[[], Answer]) -> Answer:
        injected = self.fault(write) if self.fault else None
        if injected in _NOT_WRITTEN:
            return injected
        found = carry_out()
        return injected or found if found is Answer.DONE else found

    def find(self, name: PodName) -> Pod | None:
        """The pod as it is, not as a watch has shown it; None when it is gone or another one of that name."""
        pod = self.pods.get((name.namespace, name.name))
        return pod if pod is not None and pod.metadata.uid == name.uid else None

    # How objects change

    def _create(self, pod: Pod, duration: int | None) -> None:
        metadata = pod.metadata
        key = (metadata.namespace, metadata.name)
        if key in self.pods:
            raise errors.Conflict(409, "AlreadyExists", f"pod {metadata.namespace}/{metadata.name} exists already")
        if not metadata.uid or metadata.creation_timestamp is None:
            self._event_count += 1
            uid = metadata.uid or f"{metadata.namespace}/{metadata.name}/{self._event_count}"
            created = metadata.creation_timestamp or units.rfc3339(self.clock.now)
            pod = replace(pod, metadata=replace(metadata, uid=uid, creation_timestamp=created))
        if duration is not None:
            self._durations[pod.metadata.uid] = duration
        self._set(Kind.POD, key, pod)

    def _leave(self, key: PodKey) -> None:
        pod = self.pods.get(key)
        if pod is None or pod.metadata.deletion_timestamp:
            return
        if not pod.spec.node_name or not self.grace:
            self._set_pod(key, None)
            return
        uid, gone = pod.metadata.uid, self.clock.now + self.grace
        self._set_pod(key, replace(pod, metadata=replace(pod.metadata, deletion_timestamp=units.rfc3339(gone))))
        self.schedule(gone, partial(self._vanish, key, uid))

    def _vanish(self, key: PodKey, uid: str) -> None:
        if self._is(key, uid):
            self._set_pod(key, None)

    def _complete(self, key: PodKey, uid: str) -> None:
        """The pod's work is done: it shows so for a moment and is then cleaned away."""
        if self._is(key, uid):
            self.end(*key)

    def _delete(self, key: PodKey) -> None:
        pod = self.pods.get(key)
        if pod is not None:
            self._owners.pop(pod.metadata.uid, None)
            self._leave(key)

    def _make_again(self, owner: Owner) -> None:
        """The next pod of an owner, unless somebody else has taken its name."""
        again, generation = owner.template, owner.generation + 1
        name = f"{again.metadata.name}-{generation}" if owner.renames else again.metadata.name
        key = (again.metadata.namespace, name)
        if key not in self.pods:
            self._create(replace(again, metadata=replace(again.metadata, name=name)), None)
            self._owners[self.pods[key].metadata.uid] = Owner(again, owner.seconds, owner.renames, generation)

    def _lose_node(self, name: str) -> None:
        self._set_node(name, None)
        self._collect(name)

    def _collect(self, node: str) -> None:
        """Remove the pods of a node that is not there."""
        if node in self.nodes:
            return
        for key in [key for key, pod in self.pods.items() if pod.spec.node_name == node]:
            self._set_pod(key, None)

    def _is(self, key: PodKey, uid: str) -> bool:
        pod = self.pods.get(key)
        return pod is not None and pod.metadata.uid == uid

    def _set_pod(self, key: PodKey, new: Pod | None) -> None:
        old = self.pods.get(key) if new is None else None
        self._set(Kind.POD, key, new)
        if old is not None:
            self._durations.pop(old.metadata.uid, None)
            owner = self._owners.pop(old.metadata.uid, None)
            if owner is not None:
                self.schedule(self.clock.now + owner.seconds, partial(self._make_again, owner))
            else:
                self._provisioner.is_gone(old)

    def _set_node(self, name: str, new: Node | None) -> None:
        self._set(Kind.NODE, name, new)

    def _set(self, kind: Kind, key: Any, new: Any) -> None:
        there = self.objects[kind]
        old = there.get(key)
        if new is not None:
            there[key] = new
        elif old is None:
            return
        else:
            del there[key]
        for watch in self._watches:
            watch.show(kind, key, old, new)


@lru_cache(maxsize=16)
def _running(since: int) -> PodStatus:
    return PodStatus("Running", start_time=units.rfc3339(since))


@lru_cache(maxsize=65536)
def _record(devices: tuple[tuple[str, tuple[Device, ...]], ...]) -> str:
    """The reserved annotation; most decisions name devices that an earlier one has named."""
    return write_gpus(
        {
            container: tuple(
                DeviceShare(device.id, device.milli // _MILLI_PER_HUNDREDTH, device.memory_mib) for device in given
            )
            for container, given in devices
        }
    )
