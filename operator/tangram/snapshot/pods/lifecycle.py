"""What is done about pods when something happens to them: ``states`` says when, ``ledger`` counts it."""

from collections.abc import Callable
from typing import TypeAlias

from tangram import units
from tangram.api.objects import Metadata, Pod
from tangram.plan import Place, PodName
from tangram.snapshot.gangs.members import Member
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.nodes.usage import Usage
from tangram.snapshot.pods.departures import estimated_duration
from tangram.snapshot.pods.ledger import Ledger
from tangram.snapshot.pods.pods import Holding, PodRow, same_but_for_its_place, same_to_us
from tangram.snapshot.pods.reading import PodReader, Reading
from tangram.snapshot.pods.running import never_evicted
from tangram.snapshot.pods.shapes import ShapeTable
from tangram.snapshot.pods.states import ACTS, Act, Event, State
from tangram.snapshot.pods.usage import anything, usage_of_place, usage_of_pod
from tangram.snapshot.pods.waiting import Wanted

Said: TypeAlias = Pod | Place | tuple[Metadata, str] | None
"""What comes with an event: the pod, the decision, or (metadata, node) of a pod that cannot be read."""


_ABSENT, _SENT, _BOUND = State.ABSENT, State.SENT, State.BOUND


class Lifecycle:
    """Takes pods from state to state."""

    def __init__(
        self, ledger: Ledger, reader: PodReader, shapes: ShapeTable, nodes: NodeTable, scheduler_name: str
    ) -> None:
        self._ledger, self._reader, self._shapes, self._nodes = ledger, reader, shapes, nodes
        self._scheduler_name = scheduler_name
        self._pods = ledger.pods
        acts: dict[Act, Callable[..., None]] = {
            Act.NOTHING: lambda uid, row, said: None,
            Act.WAIT: self._wait,
            Act.RENEW: self._renew,
            Act.BIND: self._bind,
            Act.CONFIRM: self._confirm,
            Act.FOLLOW: self._follow,
            Act.HIDE: self._hide,
            Act.BLOCK: self._hide,
            Act.SEND: self._send,
            Act.TAKE_BACK: self._take_back,
            Act.REMOVE: self._remove,
        }
        self._acts = tuple(tuple(acts[act] for act in ACTS[state]) for state in State)

    def happens(self, event: Event, uid: str, said: Said = None) -> None:
        """Do what the table says; ``said`` is what comes with the event."""
        row = self._pods.get(uid)
        self._acts[_ABSENT if row is None else row.state][event](uid, row, said)

    def refresh(self, row: PodRow) -> None:
        """Read a pod again: what its words mean has changed, but not what it was given."""
        pod, held = row.pod, row.holding
        if pod is None:
            return
        if held is None:
            self._wait(row.name.uid, row, pod)
            return
        reading, usage = self._reader.read(pod), held.usage
        if row.place is None and reading.shape not in (row.shape, -1):
            usage = self._usage_of_pod(pod, reading.shape, held.node)  # more of what it requests may be offered by now
        row.shape, row.members = reading.shape, reading.members
        self._ledger.hold(row, row.state, self._holding(row, held.node, usage, reading.member))

    def count_again(self, row: PodRow) -> None:
        """Count anew what a pod holds: its node's devices are others than before."""
        held = row.holding
        if held is not None:
            usage = self._usage(row, held.node)
            self._ledger.hold(row, row.state, self._holding(row, held.node, usage, row.member))

    def charge_again(self, row: PodRow) -> None:
        """Charge a pod's queue anew for what it holds: its queue, or what its node is, are others than before."""
        held = row.holding
        if held is not None:
            self._ledger.hold(row, row.state, self._holding(row, held.node, held.usage, row.member))

    def _wait(self, uid: str, row: PodRow | None, pod: Pod) -> None:
        spec = pod.spec
        if spec.scheduler_name != self._scheduler_name or pod.metadata.deletion_timestamp or spec.scheduling_gates:
            if row is not None:  # it does not wait for us, or no more
                self._ledger.remove(row)
            return
        reading = self._reader.read(pod)
        obstacle = self._reader.obstacle(pod, reading)
        shape = reading.shape if obstacle is None else -1
        if row is None:
            row = self._new(pod, reading)
        else:
            self._ledger.release(row)
            if self._ledger.refusals.known and row.pod is not None and not same_to_us(row.pod, pod):
                self._ledger.refusals.forget(uid)
            if row.shape != shape and not self._keeps_its_place(row, pod, reading):
                self._ledger.claims.give_up(uid)
        row.pod, row.members = pod, reading.members
        if obstacle is not None:
            self._ledger.refuse(row, obstacle, reading.member, self._shapes.access.queue_of(pod.metadata))
            return
        created = units.timestamp_seconds(pod.metadata.creation_timestamp)
        member = reading.member
        role, gang = (member.role, member.gang) if member is not None else ("", "")
        preempts = spec.preemption_policy != "Never"
        volumes = reading.reach.to_ask if reading.reach.being_made else None
        duration = estimated_duration(pod) if pod.metadata.annotations else -1
        wanted = Wanted(
            row.name,
            shape,
            spec.priority,
            created,
            role,
            preempts,
            never_evicted(pod),
            duration,
            volumes,
            gang,
            reading.reach.made,
        )
        self._ledger.wait(row, wanted, member)
        if spec.priority not in self._ledger.running.priorities:
            self._ledger.running.note_priority(pod)

    def _keeps_its_place(self, row: PodRow, pod: Pod, reading: Reading) -> bool:
        """Whether the place that is held for a pod stays, though it asks for something else: volumes do that while they
        are made (``Suspension`` says for how long), and ones that have been chosen for it while others leave. A pod
        that asks for something else itself chooses anew."""
        claims, uid = self._ledger.claims, row.name.uid
        held, reach = claims.held.get(uid), reading.reach
        chosen = uid in claims.promised and reading.shape >= 0 and not (reach.waits_for or reach.free)
        if row.pod is None or not (chosen or (held is not None and held.volumes)):
            return False
        return row.pod is pod or same_to_us(row.pod, pod)

    def _new(self, pod: Pod, reading: Reading) -> PodRow:
        name = PodName(pod.metadata.namespace, pod.metadata.name, pod.metadata.uid)
        row = self._pods[name.uid] = PodRow(name)
        if reading.shape >= 0 and pod.spec.scheduler_name == self._scheduler_name:
            self._shapes.arrived(reading.shape)
        return row

    def _bind(self, uid: str, row: PodRow | None, pod: Pod) -> None:
        reading, node = self._reader.read(pod), pod.spec.node_name
        usage = self._usage_of_pod(pod, reading.shape, node)
        if row is None:
            row = self._new(pod, reading)
        row.pod, row.place = pod, None
        row.shape, row.members = reading.shape, reading.members
        self._ledger.hold(row, _BOUND, self._holding(row, node, usage, reading.member))
        if self._ledger.refusals.known:
            self._ledger.refusals.forget(uid)
        if pod.spec.priority not in self._ledger.running.priorities:
            self._ledger.running.note_priority(pod)

    def _follow(self, uid: str, row: PodRow, pod: Pod) -> None:
        if row.node == pod.spec.node_name and row.pod is not None and same_to_us(row.pod, pod):
            self._go_on(uid, row, pod)
        else:
            self._bind(uid, row, pod)

    def _confirm(self, uid: str, row: PodRow, pod: Pod) -> None:
        """What was sent is what has come to be, unless the watch shows something else."""
        node, held = pod.spec.node_name, row.holding
        if (
            held is not None
            and held.node == node
            and row.pod is not None
            and same_but_for_its_place(row.pod, pod)
            and row.shape >= 0
            and held.leaf == self._shapes.arrays.leaf.item(row.shape)
            and held.usage
            == usage_of_pod(pod, self._shapes.amounts[row.shape], self._shapes.requests[row.shape], self._nodes, node)
        ):
            self._ledger.confirm(row)
            row.shape = self._reader.placed(pod, row.shape)
            self._go_on(uid, row, pod)
        else:
            self._bind(uid, row, pod)

    def _renew(self, uid: str, row: PodRow, pod: Pod) -> None:
        if row.pod is not None and same_to_us(row.pod, pod):
            self._go_on(uid, row, pod)
        else:
            row.pod = pod
            self.refresh(row)

    def _go_on(self, uid: str, row: PodRow, pod: Pod) -> None:
        """Take in a pod that asks for and says what it did: it may have started, or be about to be deleted."""
        before, row.pod = row.pod, pod
        if before is None or before.metadata.deletion_timestamp != pod.metadata.deletion_timestamp:
            self.refresh(row)
            return
        if before.status.start_time != pod.status.start_time:
            self._ledger.departures.moved.add(uid)
        if self._ledger.running.active:
            self._ledger.running.follow(row)

    def _hide(self, uid: str, row: PodRow | None, said: tuple[Metadata, str]) -> None:
        metadata, node = said
        if row is None:
            row = self._pods[uid] = PodRow(PodName(metadata.namespace, metadata.name, uid))
        member = self._reader.member(metadata)
        self._ledger.hide(row, member)
        if node:
            self._ledger.hold(row, State.UNREADABLE, Holding(node, anything(), member=member))

    def _send(self, uid: str, row: PodRow, place: Place) -> None:
        shape = row.shape
        usage = usage_of_place(place, self._shapes.amounts[shape], self._shapes.requests[shape], self._nodes)
        row.place = place
        self._ledger.hold(row, _SENT, self._holding(row, place.node, usage, row.member))

    def _take_back(self, uid: str, row: PodRow, said: Said) -> None:
        pod = row.pod
        if pod is not None:
            self._wait(uid, row, pod)

    def _remove(self, uid: str, row: PodRow, said: Said) -> None:
        self._ledger.remove(row)

    def _usage(self, row: PodRow, node: str) -> Usage:
        """What a pod holds that has its place."""
        if row.place is not None and row.shape >= 0:
            return self.usage_of_place(row.place, row.shape)
        return anything() if row.pod is None else self._usage_of_pod(row.pod, row.shape, node)

    def _usage_of_pod(self, pod: Pod, shape: int, node: str) -> Usage:
        if shape < 0:
            return anything()
        return usage_of_pod(pod, self._shapes.amounts[shape], self._shapes.requests[shape], self._nodes, node)

    def usage_of_place(self, place: Place, shape: int) -> Usage:
        """What a pod of the shape will hold by a decision."""
        return usage_of_place(place, self._shapes.amounts[shape], self._shapes.requests[shape], self._nodes)

    def _holding(self, row: PodRow, node: str, usage: Usage, member: Member | None) -> Holding:
        shape, shapes, leaf = row.shape, self._shapes, self._leaf(row)
        if leaf < 0:
            return Holding(node, usage, row.members, member)
        model = self._nodes.model_of(node) if shapes.queues.counts_models else ""
        charged = shapes.queues.amounts(shapes.arrays, shape, model)
        return Holding(node, usage, row.members, member, leaf, charged)

    def _leaf(self, row: PodRow) -> int:
        """The row of class and queue that a pod is charged to; -1: none. Where its shape is of a queue that is not for
        it, as its label was written while its binding is under way, it is charged to the one it will be counted in."""
        shapes, shape, namespace = self._shapes, row.shape, row.name.namespace
        leaf: int = shapes.arrays.leaf.item(shape) if shape >= 0 else -1
        if leaf < 0 or row.pod is None or shapes.access.may_use_queue(shapes.requests[shape].queue, namespace):
            return leaf
        queue = shapes.access.counted_in(row.pod.metadata)
        may = shapes.access.may_use_queue(queue, namespace)
        return shapes.queues.leaf(queue, shapes.arrays.priority_class.item(shape)) if may else -1
