"""The one place where pods are put into slots and onto nodes and taken away again; everybody who counts them follows.

Nodes, relations, queues, gangs, running pods, departures and claims count what the ``Holding`` of a pod says, and what
they counted is taken back by the same value.
"""

from tangram.snapshot.affinity.relations import RelationTable
from tangram.snapshot.gangs.gangs import GangTable
from tangram.snapshot.gangs.members import Member
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.nodes.rejections import RejectionTable
from tangram.snapshot.pods.claims import ClaimTable
from tangram.snapshot.pods.departures import DepartureTable
from tangram.snapshot.pods.pods import Holding, PodRow
from tangram.snapshot.pods.refusals import RefusalTable
from tangram.snapshot.pods.running import RunningTable
from tangram.snapshot.pods.states import State
from tangram.snapshot.pods.waiting import PendingTable, Wanted
from tangram.snapshot.queues.queues import QueueTable

_ABSENT, _WAITS, _INVALID, _SENT, _BOUND = State.ABSENT, State.WAITS, State.INVALID, State.SENT, State.BOUND


class Ledger:
    """Which pods there are, where they wait, and what they hold."""

    def __init__(
        self, nodes: NodeTable, queues: QueueTable, relations: RelationTable, gangs: GangTable, scheduler_name: str
    ) -> None:
        self.pods: dict[str, PodRow] = {}
        self.pending = PendingTable()
        self.claims = ClaimTable(nodes, queues.reserve)
        self.departures = DepartureTable(nodes)
        self.running = RunningTable(nodes, self.pods, scheduler_name)
        self.refusals, self.rejections = RefusalTable(), RejectionTable(scheduler_name)
        self._nodes, self._queues, self._relations, self._gangs = nodes, queues, relations, gangs

    def wait(self, row: PodRow, wanted: Wanted, member: Member | None) -> None:
        """Let a pod wait for a node; it must not wait or hold anything."""
        if member is not row.member:
            self._join(row, member)
        gang = row.gang_row
        row.shape, row.state, row.slot = wanted.shape, _WAITS, self.pending.add(wanted, gang)
        if gang >= 0:
            self._gangs.arrays.waiting[gang] += 1

    def refuse(self, row: PodRow, obstacle: tuple[str, str], member: Member | None, queue: str) -> None:
        """Let a pod wait in a queue that cannot be placed as it is; it must not wait or hold anything."""
        self._join(row, member)
        slot = self.pending.add_invalid(row.name, obstacle, self._queues.row(queue))
        row.shape, row.state, row.slot = -1, _INVALID, slot

    def hold(self, row: PodRow, state: State, holding: Holding) -> None:
        """Count what a pod holds, instead of what it held before or waited for."""
        uid, before, claims = row.name.uid, row.holding, self.claims
        if row.slot >= 0:
            self._leave_slot(row)
        if claims.held or claims.nominations:
            claims.drop(uid)
        past, member = row.member, holding.member
        if past is not member and past != member:
            row.member, row.gang_row = member, -1 if member is None else self._gangs.join(member)
            self._count(row, before, holding, state)
            if past is not None:
                self._gangs.leave(past)
        else:
            self._count(row, before, holding, state)
        row.state = state
        if self.running.active:
            self.running.follow(row)
        if before is not None and before.node != holding.node:
            claims.left(uid, before.node)
        if claims.held:
            claims.node_changed(holding.node)

    def confirm(self, row: PodRow) -> None:
        """The binding that was sent has been shown: all is counted already, from now on as bound."""
        held = row.holding
        if held is not None and held.charged is not None:
            self._queues.confirm(held.leaf, held.charged)
        row.state, row.place = _BOUND, None
        if self.refusals.known:
            self.refusals.forget(row.name.uid)
        self.departures.moved.add(row.name.uid)

    def release(self, row: PodRow) -> None:
        """Take a pod out of its slot or off its node; it stays a member of its gang."""
        if row.slot >= 0:
            self._leave_slot(row)
        before = row.holding
        if before is not None:
            self._count(row, before, None, _ABSENT)
            self.claims.left(row.name.uid, before.node)
        row.place, row.state = None, _ABSENT

    def hide(self, row: PodRow, member: Member | None) -> None:
        """Remember nothing of a pod but that it exists, and its gang."""
        self.release(row)
        self.claims.drop(row.name.uid)
        self._join(row, member)
        row.pod, row.shape, row.members, row.state = None, -1, (), State.UNREADABLE

    def remove(self, row: PodRow) -> None:
        """Forget a pod."""
        uid, claims = row.name.uid, self.claims
        self.release(row)
        if claims.held or claims.nominations:
            claims.drop(uid)
        if row.member is not None:
            self._join(row, None)
        self.pods.pop(uid, None)
        self.refusals.forget(uid)
        self.departures.gone(uid)

    def forget_charges(self) -> None:
        """Queues count from nothing: nobody has been charged yet. Everybody has to be ``hold`` anew."""
        for row in self.pods.values():
            if row.holding is not None:
                held = row.holding
                row.holding = Holding(held.node, held.usage, held.members, held.member)

    def _leave_slot(self, row: PodRow) -> None:
        if row.gang_row >= 0 and self.pending.arrays.waiting[row.slot]:
            self._gangs.arrays.waiting[row.gang_row] -= 1
        self.pending.remove(row.slot)
        row.slot = -1

    def _join(self, row: PodRow, member: Member | None) -> None:
        """Enter a gang instead of the one before."""
        before = row.member
        if before is member or before == member:
            return
        row.member, row.gang_row = member, -1 if member is None else self._gangs.join(member)
        if before is not None:
            self._gangs.leave(before)

    def _count(self, row: PodRow, before: Holding | None, after: Holding | None, state: State) -> None:
        """Let everybody count a holding instead of the one before, of a pod that comes to be in this state."""
        uid = row.name.uid
        row.holding = after
        self.departures.moved.add(uid)
        if before is not None:
            if after is None or after.node != before.node:
                self.running.drop(uid)
                self._nodes.give_back(before.node, uid)
                self._relations.remove(uid, before.node)
            if before.charged is not None:
                (self._queues.reserve if row.state == _SENT else self._queues.charge)(before.leaf, before.charged, -1)
            if before.member is not None:
                self._gangs.bind(before.member, before.node, -1)
        if after is not None:
            if before is None or before.node != after.node or before.usage != after.usage:
                self._nodes.take(after.node, uid, after.usage)
            if after.members or before is not None:
                self._relations.put(uid, after.node, after.members)
            if after.charged is not None:
                (self._queues.reserve if state == _SENT else self._queues.charge)(after.leaf, after.charged, 1)
            if after.member is not None:
                self._gangs.bind(after.member, after.node, 1)
