"""A cluster made of values: what the API server, the kubelets and the pod garbage collector do, on a virtual clock.

It gives out what a watch gives out (nodes and pods as they change) and takes what the scheduler writes (bindings and
evictions), so the production cycle runs in it unchanged. Whoever tests a loop can let writes fail, answers get lost,
watches lag and nodes vanish. Reasons are not written back on waiting pods.
"""

import heapq
from collections.abc import Callable, Iterable
from enum import StrEnum
from functools import lru_cache, partial

from msgspec.structs import replace

from tangram import errors, units
from tangram.api import names
from tangram.api.objects import DeviceShare, Node, Pod, PodStatus, write_gpus
from tangram.plan import Device, Evict, Place, PodName
from tangram.simulate.clock import VirtualClock

_MILLI_PER_HUNDREDTH = units.MILLI_PER_GPU // units.HUNDREDTHS_PER_GPU

PodKey = tuple[str, str]
"""(namespace, name)."""


class Answer(StrEnum):
    """How a write ended, as the writer sees it."""

    DONE = "done"
    CONFLICT = "conflict"
    """Somebody changed the object first."""
    GONE = "gone"
    """The pod does not exist (any more)."""
    REFUSED = "refused"
    """A rule forbids it: an admission policy, a PodDisruptionBudget."""
    LOST = "lost"
    """The request never arrived and no answer came."""
    UNANSWERED = "unanswered"
    """The write took effect and no answer came."""


_NOT_WRITTEN = frozenset({Answer.CONFLICT, Answer.REFUSED, Answer.LOST})

Fault = Callable[[Place | Evict], Answer | None]
"""Asked before every write; None lets it pass."""
OnNode = Callable[[Node | None, Node | None], None]
"""(old, new); new None: it is gone."""
OnPod = Callable[[Pod | None, Pod | None], None]
"""(old, new); new None: it is gone."""


class World:
    """Nodes and pods, and what will happen to them."""

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
        self.nodes: dict[str, Node] = {}
        self.pods: dict[PodKey, Pod] = {}
        self.fault = fault
        self.watch_delay = watch_delay
        """Seconds until a change is seen by those who watch."""
        self.grace = grace
        """Seconds that an evicted or deleted pod that runs takes to leave."""
        self._watchers: list[tuple[OnNode, OnPod]] = []
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._event_count = 0
        self._durations: dict[str, int] = {}
        for node in nodes:
            self._set_node(node.metadata.name, node)

    def watch(self, on_node: OnNode, on_pod: OnPod) -> None:
        """Tell of everything that is there now, nodes first, and of every change from now on."""
        for node in self.nodes.values():
            on_node(None, node)
        for pod in self.pods.values():
            on_pod(None, pod)
        self._watchers.append((on_node, on_pod))

    # What happens to the world

    def submit(self, pod: Pod, at: int | None = None, duration: int | None = None) -> None:
        """Create the pod now or at a later second; it completes ``duration`` seconds after it is bound, or never.

        Raises Conflict (when its time comes) if a pod of the name exists then.
        """
        self.schedule(at, partial(self._create, pod, duration))

    def delete(self, namespace: str, name: str, at: int | None = None) -> None:
        """Delete a pod: one that runs takes its grace to leave. A pod that is not there is nothing to delete."""
        self.schedule(at, partial(self._leave, (namespace, name)))

    def put_node(self, node: Node, at: int | None = None) -> None:
        """Add a node, or change it."""
        self.schedule(at, partial(self._set_node, node.metadata.name, node))

    def remove_node(self, name: str, at: int | None = None) -> None:
        """Take a node away; its pods are collected at once."""
        self.schedule(at, partial(self._lose_node, name))

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
        injected = self.fault(place) if self.fault else None
        if injected in _NOT_WRITTEN:
            return injected
        key = (place.pod.namespace, place.pod.name)
        if injected is Answer.GONE:
            self._set_pod(key, None)
        pod = self.pods.get(key)
        if pod is None:
            return Answer.GONE
        metadata = pod.metadata
        if metadata.uid != place.pod.uid or pod.spec.node_name or metadata.deletion_timestamp:
            return Answer.CONFLICT
        if place.devices:
            metadata = replace(metadata, annotations={**metadata.annotations, names.GPUS: _record(place.devices)})
        spec = replace(pod.spec, node_name=place.node)
        self._set_pod(key, Pod(metadata, spec, _running(self.clock.now)))
        if place.node not in self.nodes:
            self._collect(place.node)
        elif metadata.uid in self._durations:
            until = self.clock.now + self._durations[metadata.uid]
            self.schedule(until, partial(self._complete, key, metadata.uid))
        return injected or Answer.DONE

    def evict(self, evict: Evict) -> Answer:
        """Ask a pod to leave."""
        injected = self.fault(evict) if self.fault else None
        if injected in _NOT_WRITTEN:
            return injected
        if self.find(evict.pod) is None:
            return Answer.GONE
        self._leave((evict.pod.namespace, evict.pod.name))
        return injected or Answer.DONE

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
        self._set_pod(key, pod)

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
            pod = self.pods[key]
            self._set_pod(key, replace(pod, status=replace(pod.status, phase="Succeeded")))
            self._set_pod(key, None)

    def _lose_node(self, name: str) -> None:
        self._set_node(name, None)
        self._collect(name)

    def _collect(self, node: str) -> None:
        """Remove the pods of a node that is not there."""
        for key in [key for key, pod in self.pods.items() if pod.spec.node_name == node]:
            self._set_pod(key, None)

    def _is(self, key: PodKey, uid: str) -> bool:
        pod = self.pods.get(key)
        return pod is not None and pod.metadata.uid == uid

    def _set_pod(self, key: PodKey, new: Pod | None) -> None:
        old = self.pods.get(key)
        if new is not None:
            self.pods[key] = new
        elif old is None:
            return
        else:
            del self.pods[key]
            self._durations.pop(old.metadata.uid, None)
        if not self.watch_delay:
            for _, on_pod in self._watchers:
                on_pod(old, new)
            return
        for _, on_pod in self._watchers:
            self.schedule(self.clock.now + self.watch_delay, partial(on_pod, old, new))

    def _set_node(self, name: str, new: Node | None) -> None:
        old = self.nodes.get(name)
        if new is not None:
            self.nodes[name] = new
        elif old is None:
            return
        else:
            del self.nodes[name]
        for on_node, _ in self._watchers:
            self.schedule(self.clock.now + self.watch_delay, partial(on_node, old, new))


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
