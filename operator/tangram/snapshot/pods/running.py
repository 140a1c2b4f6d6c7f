"""Running pods as arrays, kept as pods come and go, and what the ones that are leaving will make free."""

from collections.abc import Iterable, Mapping

import numpy as np

from tangram import units
from tangram.api import names
from tangram.api.objects import Pod
from tangram.plan import PodName
from tangram.snapshot.arrays import NOBODY_LEAVES, Int32, Int64, Leaving, Running
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.nodes.usage import Usage
from tangram.snapshot.pods.claim import Spot
from tangram.snapshot.pods.claims import ClaimTable
from tangram.snapshot.pods.pods import PodRow
from tangram.snapshot.values.growing import grown
from tangram.snapshot.values.hashing import order_in_gang, stable_hash

CRITICAL = 2_000_000_000
"""Priority from which on a pod is part of the system: the value of ``system-cluster-critical``."""
_SEVERAL = 2
_MOST_GAINED = 1 << 30
LATE_AFTER = 60
"""Seconds after its deadline at which a pod that is being deleted is no longer expected to leave."""
SYSTEM_NAMESPACE = "kube-system"
"""Where a cluster's own pods are, and tenants have none."""


def never_evicted(pod: Pod) -> bool:
    """Whether the pod belongs to its node or to the system: DaemonSet and static pods, and the system's critical ones,
    are no victims. Pods of any namespace may name a critical PriorityClass, so that alone protects nobody."""
    if pod.spec.priority >= CRITICAL and pod.metadata.namespace == SYSTEM_NAMESPACE:
        return True
    owners = pod.metadata.owner_references
    return bool(owners) and any(owner.kind in ("DaemonSet", "Node") for owner in owners)


def late(row: PodRow, now: int) -> bool:
    """Whether a pod that is being deleted should have been gone long ago; its deletionTimestamp is its deadline."""
    return row.pod is not None and units.timestamp_seconds(row.pod.metadata.deletion_timestamp) + LATE_AFTER < now


class RunningTable:
    """Keeps ``arrays.Running`` true while evictions are possible at all, and costs nothing otherwise."""

    def __init__(self, nodes: NodeTable, pods: Mapping[str, PodRow], scheduler_name: str) -> None:
        self.active = False
        self._nodes, self._pods, self._scheduler_name = nodes, pods, scheduler_name
        self.priorities: set[int] = set()
        """Two of the priorities that pods of ours have, if there are so many."""
        self._slots: dict[str, int] = {}
        self._free: list[int] = []
        self._unstarted: set[int] = set()
        """Slots of pods that are bound and of which their kubelet has not said yet when they started."""
        self._deleted: dict[str, PodRow] = {}
        self.arrays = _empty(0, 1)

    def note_priority(self, pod: Pod) -> None:
        """Take note of a pod's priority: only where there are several can one pod stand above another."""
        if len(self.priorities) < _SEVERAL and pod.spec.scheduler_name == self._scheduler_name:
            self.priorities.add(pod.spec.priority)

    def activate(self, *, needed: bool) -> None:
        """Follow running pods when that is needed or priorities differ, else stop it."""
        active = needed or len(self.priorities) >= _SEVERAL
        if active == self.active:
            return
        self.active = active
        self._slots, self._free, self._deleted = {}, [], {}
        self._unstarted.clear()
        self.arrays = _empty(0, 1)
        for row in self._pods.values() if active else ():
            self.follow(row)

    def follow(self, row: PodRow) -> None:
        """Refresh a pod: it may run, be about to leave, or have left."""
        if not self.active:
            return
        uid = row.name.uid
        if row.node and row.pod is not None and row.pod.metadata.deletion_timestamp:
            self._deleted[uid] = row
        else:
            self._deleted.pop(uid, None)
        if row.runs_here(self._scheduler_name) and row.node in self._nodes.rows and row.pod is not None:
            self._put(row, row.pod)
        else:
            self._remove(uid)

    def follow_on(self, node: str) -> None:
        """Refresh the pods of a node that has come or gone, or whose devices are others."""
        for uid in self._nodes.usage_of(node) if self.active else ():
            if uid in self._pods:
                self.follow(self._pods[uid])

    def drop(self, uid: str) -> None:
        """A pod is gone."""
        self._deleted.pop(uid, None)
        self._remove(uid)

    def running(self, claims: ClaimTable, now: int) -> Running:
        """Pods that run; of these may be evicted which are nobody's victims already and were not refused just now."""
        arrays = self.arrays
        if not self.active:
            return arrays
        if self._unstarted:
            arrays.started[list(self._unstarted)] = now
        arrays.evictable[:] = arrays.present & ~arrays.exempt
        for uid in claims.untouchable(now):
            if uid in self._slots:
                arrays.evictable[self._slots[uid]] = False
        arrays.doomed[:] = False
        arrays.doomed[[self._slots[uid] for uid in claims.victims() if uid in self._slots]] = True
        for node in self._nodes.uncertain:
            row = self._nodes.rows.get(node)
            if row is not None:  # what its pods would leave behind is not known
                arrays.evictable[arrays.node == row] = False
        return arrays

    def stuck(self, claims: ClaimTable, now: int) -> list[str]:
        """A claimant of each claim whose victims do not leave: the request to evict them was lost, or something holds
        them back."""
        found = []
        for claimant, claim in claims.overdue(now):
            pods = [row for row in map(self._pods.get, claim.victims) if row is not None]
            if any(row.pod is not None and (not row.pod.metadata.deletion_timestamp or late(row, now)) for row in pods):
                found.append(claimant)
        return found

    def slots_of(self, places: Iterable[tuple[str, str]]) -> list[tuple[int, int]]:
        """(slot, node row) of those (uid of a pod that waits, node) of which both are there."""
        pods, rows = self._pods, self._nodes.rows
        return [
            (pods[uid].slot, rows[node]) for uid, node in places if uid in pods and pods[uid].slot >= 0 and node in rows
        ]

    def blockers(self, spots: Iterable[Spot], claims: ClaimTable, now: int) -> set[str]:
        """Uids of pods that are leaving nodes on which there is no room for the spots before they are gone."""
        leaving = {uid for uid, row in self._deleted.items() if not late(row, now)} | set(claims.victims())
        if not leaving:
            return set()
        claims.count()
        wanted: dict[str, list[Usage]] = {}
        for spot in spots:
            wanted.setdefault(spot.node, []).append(spot.usage)
        crowded = [node for node, usages in wanted.items() if not self._has_room(node, usages)]
        return {uid for node in crowded for uid in self._nodes.usage_of(node) if uid in leaving}

    def _has_room(self, node: str, usages: Iterable[Usage]) -> bool:
        arrays, row = self._nodes.arrays, self._nodes.rows[node]
        free, device, memory = arrays.free[row].copy(), arrays.device_free[row].copy(), arrays.device_memory_free[row]
        memory = memory.copy()
        asked = np.zeros(len(free), np.bool_)
        for usage in usages:
            free[: len(usage.request)] -= usage.request
            asked[: len(usage.request)] |= usage.request > 0
            for index, milli, mib in usage.devices:
                device[index] -= milli
                memory[index] -= mib
        return not (free[asked] < 0).any() and not (device < 0).any() and not (memory < 0).any()

    def overfilled(self, claims: ClaimTable, now: int) -> list[str]:
        """Nodes that cannot hold what is claimed there even when everybody has left who is about to: others have come,
        or it is not known any more what is there."""
        nodes = [node for node in claims.nodes() if node in self._nodes.rows]
        if not nodes:
            return []
        leaving = {uid for uid, row in self._deleted.items() if not late(row, now)} | set(claims.victims())
        return [node for node in nodes if not self._holds_all(node, leaving, claims)]

    def _holds_all(self, node: str, leaving: set[str], claims: ClaimTable) -> bool:
        if node in self._nodes.uncertain:
            return False
        arrays = self._nodes.arrays
        here = [uid for uid in self._nodes.usage_of(node) if uid in leaving]
        gain = self._gains(1)
        self._add_gain(node, here, claims, (gain[0][0], gain[1][0], gain[2][0]))
        left = arrays.free[self._nodes.rows[node]] + gain[0][0]
        return not any((left[: len(one.request)][one.request > 0] < 0).any() for one in claims.claimed_on(node))

    def leaving(self, claims: ClaimTable, now: int, columns: int) -> Leaving:
        """What nodes gain once everybody has left who is about to, and claimants have come; ``columns`` of queues."""
        if not self._deleted and not claims.victims():
            return NOBODY_LEAVES
        expected = {uid: row for uid, row in self._deleted.items() if not late(row, now)}
        victims = (uid for uid in claims.victims() if uid in self._pods and uid not in self._deleted)
        expected |= {uid: self._pods[uid] for uid in victims}
        found: dict[str, list[str]] = {}
        for uid, row in expected.items():
            found.setdefault(row.node, []).append(uid)
        nodes = sorted({*found, *claims.nodes()} & self._nodes.rows.keys() - self._nodes.uncertain)
        gains = self._gains(len(nodes))
        for node, gain in zip(nodes, zip(*gains, strict=True), strict=True):
            self._add_gain(node, found.get(node, []), claims, gain)
        charges: dict[int, Int64] = {}
        for row in expected.values():
            held = row.holding
            if held is not None and held.charged is not None:
                before = charges.get(held.leaf, np.zeros(columns, np.int64))
                before[: len(held.charged)] += held.charged
                charges[held.leaf] = before
        return Leaving(
            node=np.array([self._nodes.rows[node] for node in nodes], np.int32),
            free=gains[0],
            device=_narrowed(gains[1]),
            memory=_narrowed(gains[2]),
            charges=charges,
        )

    def _gains(self, nodes: int) -> tuple[Int64, Int64, Int64]:
        """([M, R], [M, D], [M, D]) nothing yet that these nodes gain: of resources, devices and their memory."""
        width, devices = self._nodes.arrays.free.shape[1], self._nodes.arrays.device_free.shape[1]
        device, memory = np.zeros((2, nodes, devices), np.int64)
        return np.zeros((nodes, width), np.int64), device, memory

    def _add_gain(
        self, node: str, leaving: Iterable[str], claims: ClaimTable, gain: tuple[Int64, Int64, Int64]
    ) -> None:
        """Add what one node gains."""
        free, device, memory = gain
        broken = self._nodes.unusable(node)
        held = self._nodes.usage_of(node)
        leaving = [uid for uid in leaving if uid in held]
        usages = [(held[uid], 1) for uid in leaving]
        usages += [(usage, 1) for usage in claims.counted_on(node)] + [(usage, -1) for usage in claims.claimed_on(node)]
        for usage, sign in usages:
            free[: len(usage.request)] += sign * usage.request
            for index, milli, mib in usage.devices:
                if index not in broken and index < len(device):
                    device[index] += sign * milli
                    memory[index] += sign * mib
        for column, places in self._nodes.kept_volumes(node, leaving).items():
            free[column] -= places

    def _put(self, row: PodRow, pod: Pod) -> None:
        uid = row.name.uid
        slot = self._slots.get(uid)
        if slot is None:
            slot = self._slots[uid] = self._free.pop() if self._free else self._grow()
        usage = self._nodes.usage_of(row.node)[uid]
        parts = _parts(usage, self._nodes.unusable(row.node))
        if len(parts) > self.arrays.parts.shape[1]:
            self.arrays = grown(self.arrays, _empty(len(self.arrays.present), len(parts)))
        arrays = self.arrays
        arrays.names[slot] = row.name
        arrays.present[slot], arrays.exempt[slot] = True, never_evicted(pod) or bool(usage.unknown)
        arrays.node[slot], arrays.shape[slot] = self._nodes.rows[row.node], row.given_back
        arrays.priority[slot], arrays.gang[slot], arrays.role[slot] = pod.spec.priority, row.gang_row, row.role
        started = units.timestamp_seconds(pod.status.start_time)
        arrays.started[slot] = started
        (self._unstarted.discard if started else self._unstarted.add)(slot)
        arrays.checkpoint[slot] = units.timestamp_seconds(pod.metadata.annotations.get(names.LAST_CHECKPOINT))
        member = row.member
        arrays.tie[slot] = (
            order_in_gang(member.gang, row.name.name, member.controller)
            if member is not None
            else stable_hash(str(row.name))
        )
        arrays.parts[slot] = -1
        arrays.parts[slot, : len(parts)] = np.array(parts, np.int32).reshape(-1, 3)

    def _remove(self, uid: str) -> None:
        slot = self._slots.pop(uid, None)
        if slot is not None:
            self.arrays.present[slot] = False
            self._unstarted.discard(slot)
            self._free.append(slot)

    def _grow(self) -> int:
        slot = len(self.arrays.names)
        if slot >= len(self.arrays.present):
            self.arrays = grown(self.arrays, _empty(max(64, 2 * slot), self.arrays.parts.shape[1]))
        self.arrays.names.append(PodName("", ""))
        self.arrays.role.append("")
        return slot


def _narrowed(amounts: Int64) -> Int32:
    """The same in 32 bits: sums of what pods say they hold may be larger than any device."""
    return np.clip(amounts, -_MOST_GAINED, _MOST_GAINED).astype(np.int32)


def _parts(usage: Usage, broken: frozenset[int]) -> list[tuple[int, int, int]]:
    """What leaves devices that can be given again."""
    return [part for part in usage.devices if part[0] not in broken]


def _empty(slots: int, parts: int) -> Running:
    return Running(
        names=[],
        present=np.zeros(slots, np.bool_),
        exempt=np.zeros(slots, np.bool_),
        evictable=np.zeros(slots, np.bool_),
        doomed=np.zeros(slots, np.bool_),
        node=np.zeros(slots, np.int32),
        shape=np.zeros(slots, np.int32),
        priority=np.zeros(slots, np.int32),
        gang=np.full(slots, -1, np.int32),
        role=[],
        started=np.zeros(slots, np.int64),
        checkpoint=np.zeros(slots, np.int64),
        tie=np.zeros(slots, np.int64),
        parts=np.full((slots, parts, 3), -1, np.int32),
    )
