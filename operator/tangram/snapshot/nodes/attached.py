"""How many volumes of each storage driver a node can have, and which it has: a resource that is counted by names. And
how many volumes it can reach that exist and are free."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping

import numpy as np

from tangram.api.objects import Node
from tangram.snapshot.arrays import Int64, Shapes
from tangram.snapshot.requests.free_volumes import FreeVolumes
from tangram.snapshot.values.pending import Pending
from tangram.snapshot.values.volumes import VolumesOfKind

_UNLIMITED = 1 << 40
"""Volumes of a driver that a node can have which does not say how many."""


def volumes_of(driver: str) -> str:
    """What the volumes of a storage driver are called as a resource."""
    return f"attachable-volumes-csi-{driver}"


class AttachedVolumes:
    """Places for volumes on nodes; nothing is counted while no node has a limit."""

    def __init__(self, columns: Mapping[str, int]) -> None:
        """``columns``: the column of each resource, whenever it is asked for."""
        self._column_of = columns
        self.free = FreeVolumes()
        self._free_on: dict[str, dict[str, int]] = {}
        """Node -> kind of free volumes as a resource -> how many of them it can reach."""
        self.new: list[str] = []
        """Kinds, as resources, that have a column and are not in the rows of nodes yet."""
        self.columns: dict[str, int] = {}
        """Storage driver -> the column in which its volumes are counted, of drivers of which a node has a limit."""
        self.held_by: Callable[[str], Collection[tuple[str, str]]] = lambda _: ()
        """(driver, handle) of the volumes of such drivers that a pod, by its uid, has."""
        self._limits: dict[str, dict[str, int]] = {}
        self._shared: dict[str, frozenset[tuple[str, str]]] = {}
        """Node -> (driver, handle) of the volumes that several of its pods have."""
        self._moved: set[str] = set()
        self._shared_volumes: dict[int, VolumesOfKind] = {}
        self._shared_key: tuple[object, ...] = ()
        """What these were found for: they hold until a volume, or which nodes reach it, changes."""

    def set_limits(self, node: str, limits: Mapping[str, int]) -> bool:
        """Take in how many volumes of each driver a node can have. False when that is nothing new."""
        some = {driver: min(max(number, 0), _UNLIMITED) for driver, number in limits.items()}
        if self._limits.get(node, {}) == some:
            return False
        self._limits[node] = some
        return True

    def take_moved(self) -> dict[str, frozenset[tuple[str, str]]]:
        """Node -> the volumes that several of its pods have, of nodes where pods or volumes have come or gone since the
        last call: who leaves alone gives no place of theirs back."""
        moved, self._moved = self._moved, set()
        return {node: self._shared.get(node, frozenset()) for node in moved}

    def kept(self, node: str, requests: Mapping[str, Int64], leaving: Iterable[str]) -> Mapping[int, int]:
        """Column -> how many places fewer than they request these pods give back to a node when they leave it together:
        others there have the same volumes. ``requests``: of all its pods."""
        if node not in self._shared:
            return {}
        going = set(leaving) & requests.keys()
        stay = {one for uid in requests.keys() - going for one in self.held_by(uid)}
        freed = {one for uid in going for one in self.held_by(uid)} - stay
        asked = {column: sum(_at(requests[uid], column) for uid in going) for column in self.columns.values()}
        return {
            column: asked[column] - sum(one[0] == driver for one in freed) for driver, column in self.columns.items()
        }

    @property
    def counts(self) -> bool:
        """Whether any volumes are counted."""
        return bool(self.columns or self.free.named)

    def describe(self, node: Node, capacity: Int64) -> None:
        """Write a node's limits into its row, and find again which free volumes it can reach."""
        name = node.metadata.name
        for driver, column in self.columns.items():
            capacity[column] = self._limits.get(name, {}).get(driver, _UNLIMITED)
        self._free_on[name] = self.free.on(node)
        for resource in self.free.named:
            if resource in self._column_of:
                capacity[self._column_of[resource]] = _UNLIMITED

    def note_new(self, resource: str) -> None:
        """A resource has got a column: a kind of volumes is written into all nodes' rows later, with others."""
        if resource in self.free.named:
            self.new.append(resource)

    def describe_new(self, node: Node, capacity: Int64) -> None:
        """Write into a node's row what it can reach of the kinds that are new."""
        kinds = [resource for resource in self.new if resource in self.free.named and resource in self._column_of]
        self._free_on.setdefault(node.metadata.name, {}).update(self.free.on(node, kinds))
        for resource in kinds:
            capacity[self._column_of[resource]] = _UNLIMITED

    def shared(self, pending: Pending, shapes: Shapes, rows: Mapping[str, int]) -> dict[int, VolumesOfKind]:
        """As ``Snapshot.shared_volumes``; ``rows``: the row of each node."""
        if not self.free.named:
            return {}
        wanted = set(np.flatnonzero(shapes.request[np.unique(pending.shape[pending.waiting])].any(axis=0)).tolist())
        asked = [resource for resource in self.free.named if self._column_of.get(resource, -1) in wanted]
        key = self.free.revision, tuple((resource, self._column_of[resource]) for resource in asked)
        if key != self._shared_key:
            self._shared_key, self._shared_volumes = key, {}
            for resource in asked:
                groups = [
                    (np.array(sorted(rows[node] for node in nodes if node in rows), np.int32), number)
                    for nodes, number in self.free.shared(resource)
                ]
                narrower = [one for one in asked if one != resource and self.free.is_within(one, resource)]
                if groups:
                    columns = tuple(self._column_of[one] for one in narrower)
                    self._shared_volumes[self._column_of[resource]] = VolumesOfKind(tuple(groups), columns)
        return self._shared_volumes

    def forget(self, node: str) -> None:
        """The node is gone."""
        self.free.forget(node)
        self._free_on.pop(node, None)
        self._shared.pop(node, None)

    def count(self, node: str, requests: Mapping[str, Int64], capacity: Int64, free: Int64) -> None:
        """Set what is left of a node's places, by what its pods, and who claims places there, request; a volume that
        several of its pods have counts once. Of free volumes those are left that nobody there still has to get."""
        for resource, number in self._free_on.get(node, {}).items():
            if resource in self._column_of:
                free[self._column_of[resource]] -= _UNLIMITED - number
        if not self.columns:
            return
        by_name = {uid: self.held_by(uid) for uid in requests}
        held = {one for names in by_name.values() for one in names}
        if len(held) < sum(map(len, by_name.values())):
            times = Counter(one for names in by_name.values() for one in names)
            self._shared[node] = frozenset(one for one, number in times.items() if number > 1)
            self._moved.add(node)
        elif self._shared.pop(node, None):
            self._moved.add(node)
        others = [request for uid, request in requests.items() if not by_name[uid]]
        for driver, column in self.columns.items():
            claimed = sum(int(request[column]) for request in others if column < len(request))
            free[column] = capacity[column] - sum(one[0] == driver for one in held) - claimed


def _at(request: Int64, column: int) -> int:
    return int(request[column]) if column < len(request) else 0
