"""Node rows: capacity, what is left, devices, and the truth of every clause and taint on each."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np

from tangram import units
from tangram.api.objects import Node, Requirement, Taint, Toleration
from tangram.api.policy import HybridPolicy
from tangram.snapshot.nodes.attached import AttachedVolumes, volumes_of
from tangram.snapshot.nodes.clauses import ClauseTable
from tangram.snapshot.nodes.columns import ResourceColumns
from tangram.snapshot.nodes.inventory import Distances, InventoryTable, NodeDevice
from tangram.snapshot.nodes.rejections import devices_avoided
from tangram.snapshot.nodes.rows import Facts, empty_nodes, facts_of_row, same_to_us
from tangram.snapshot.nodes.taints import TaintTable
from tangram.snapshot.nodes.topologies import TopologyTable
from tangram.snapshot.nodes.usage import Usage, may_overlap
from tangram.snapshot.requests.amounts import resource_units
from tangram.snapshot.requests.matching import AT_RISK, VULNERABLE
from tangram.snapshot.values.growing import grown
from tangram.snapshot.values.hashing import stable_hash
from tangram.snapshot.values.offers import whole_devices

_LEAST = -(1 << 30)
"""What is left of an overfilled device at least: how much more it holds does not matter, and must not wrap around."""


class NodeTable:
    """Keeps ``arrays.Nodes`` true: a node's row is its capacity less the usage of the pods on it."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.columns = ResourceColumns()
        self.models: dict[str, int] = {}
        self.model_names: list[str] = []
        self.clauses = ClauseTable()
        self.taints = TaintTable()
        self.topologies = TopologyTable()
        self.generation = 0
        self._objects: dict[int, Node] = {}
        self._usage: dict[str, dict[str, Usage]] = {}
        self._free_rows: list[int] = []
        self.revision = 0
        """Changes whenever labels, taints, capacity or inventory of any node change, or may have."""
        self._inventory = InventoryTable()
        self._vulnerable: tuple[Taint, ...] = ()
        """What stands on nodes with known holes, as it were."""
        self._odd: set[str] = set()
        """Nodes whose devices are not plainly capacity less usage: unhealthy, overfilled, or held unnamed."""
        self.uncertain: set[str] = set()
        """Those of them of which it is not known what a pod that leaves makes free."""
        self.avoided: dict[str, Mapping[str, int]] = {}
        """Node -> devices that nobody is given for now, as its kubelet rejected pods there (``rejections``)."""
        self.attached = AttachedVolumes(self.columns.of)
        self.arrays = empty_nodes(0, self.columns, 0, self.clauses, self.taints)

    def put(self, node: Node) -> bool:
        """Add or replace a node; True when its devices are others than before, so that ids have to be read again."""
        name = node.metadata.name
        row = self.rows.get(name)
        if row is not None and same_to_us(self._objects[row], node):
            self._objects[row] = node
            return False
        if row is None:
            devices, facts, row = None, None, self._new_row(name)
        else:
            devices, facts = self._devices_of(row), self._facts_of(row)
        self._objects[row], revision = node, int(self.arrays.revision[row])
        self._describe(row, node)
        if self._facts_of(row) == facts:
            self.arrays.revision[row] = revision  # a label that nobody reads, say
        self._recount(row, name)
        return self._devices_of(row) != devices

    def _facts_of(self, row: int) -> Facts:
        return facts_of_row(self.arrays, self.topologies.values, self.clauses.names_of(row), row)

    def _devices_of(self, row: int) -> tuple[tuple[str, ...], int, int]:
        return self.arrays.device_ids[row], int(self.arrays.device_memory[row]), int(self.arrays.model[row])

    def remove(self, name: str) -> None:
        """Forget a node; pods bound to it are kept for when it comes back."""
        row = self.rows.pop(name, None)
        if row is None:
            return
        del self._objects[row]
        arrays = self.arrays
        arrays.present[row] = False
        arrays.capacity[row] = 0
        arrays.free[row] = 0
        arrays.device_count[row] = 0
        arrays.device_free[row] = 0
        arrays.device_memory_free[row] = 0
        arrays.device_ids[row] = ()
        arrays.links[row] = None
        self.clauses.forget_node(row)
        arrays.revision[row] = self._next_revision()
        self._odd.discard(name)
        self.attached.forget(name)
        self.uncertain.discard(name)
        arrays.uncertain[row] = False
        self._free_rows.append(row)

    def set_inventory(self, name: str, devices: tuple[NodeDevice, ...]) -> None:
        """Take the node agent's word for the devices of a node, in index order."""
        if self._inventory.set_devices(name, devices):
            self._describe_again(name)

    def set_links(self, name: str, distances: Distances) -> None:
        """Take the node agent's word for how far a node's devices are from each other."""
        row = self.rows.get(name)
        if self._inventory.set_distances(name, distances) and row is not None:
            self.arrays.links[row] = self._inventory.links(name, int(self.arrays.device_count[row]))
            self.arrays.revision[row] = self._next_revision()

    def set_at_risk(self, name: str, at_risk: bool, vulnerable: bool = False) -> None:
        """Take the node agent's word that a device of a node is likely to fail soon: the node is disliked meanwhile.
        And that its container software has known holes, from which follows what the policy says."""
        if self._inventory.set_at_risk(name, at_risk, vulnerable):
            self._describe_again(name)

    def set_policy(self, policy: HybridPolicy | None) -> None:
        """Follow what the policy says of nodes with known holes."""
        marks = VULNERABLE[policy.spec.placement.vulnerable_nodes if policy is not None else "Use"]
        if marks != self._vulnerable:
            self._vulnerable = marks
            for name in self._inventory.vulnerable:
                self._describe_again(name)

    def set_avoided(self, name: str, devices: Mapping[str, int]) -> None:
        """Give these devices of a node to nobody for now; empty: all can be given again."""
        if devices:
            self.avoided[name] = devices
        else:
            self.avoided.pop(name, None)
        self._describe_again(name)

    def set_volume_limits(self, name: str, limits: Mapping[str, int]) -> None:
        """Take in how many volumes of each storage driver a node can have."""
        if not self.attached.set_limits(name, limits):
            return
        new = sorted(limits.keys() - self.attached.columns.keys())
        self.add_columns(map(volumes_of, new))
        self.attached.columns |= {driver: self.columns.of[volumes_of(driver)] for driver in new}
        for one in list(self.rows) if new else [name]:
            self._describe_again(one)

    def recount_volumes(self, nodes: Iterable[str]) -> None:
        """Count again the volumes of these nodes: what claims and volumes are has become known. Of all nodes those of
        kinds that are counted since the last call."""
        if self.attached.new:
            for name, row in self.rows.items():
                self.attached.describe_new(self._objects[row], self.arrays.capacity[row])
                self._recount(row, name)
            self.attached.new.clear()
        for name in self.rows.keys() & set(nodes) if self.attached.counts else ():
            self.attached.describe(self._objects[self.rows[name]], self.arrays.capacity[self.rows[name]])
            self._recount(self.rows[name], name)

    def find(self, labels: Iterable[tuple[str, str]]) -> set[str]:
        """Names of the nodes that have one of the labels (key, value); of all with the label ("", "")."""
        found = set[str]()
        for key, value in labels:
            rows = self.topologies.rows_of(self.topology(key), value) if key else self.rows.values()
            found.update(self.arrays.names[row] for row in rows)
        return found

    def _describe_again(self, name: str) -> None:
        row = self.rows.get(name)
        if row is not None:
            self._describe(row, self._objects[row])
            self._recount(row, name)

    def add_columns(self, resources: Iterable[str]) -> None:
        """Make the columns of those that are new, all at once, as each time all rows are copied. No node offers them
        then: columns of what a node offers are made with it."""
        new = [resource for resource in dict.fromkeys(resources) if resource not in self.columns.of]
        for resource in new:
            self.columns.add(resource)
        if new:
            self._reallocate()
        for resource in new:
            self.attached.note_new(resource)

    def retain_columns(self, requested: set[str]) -> list[int]:
        """Give back the columns of resources that no node offers and nobody requests; which these are."""
        offered = {name for name, column in self.columns.of.items() if self.arrays.capacity[:, column].any()}
        offered -= self.attached.free.named.keys()
        self.attached.free.retain(requested)
        freed = self.columns.retain(requested | offered | {volumes_of(driver) for driver in self.attached.columns})
        self.arrays.capacity[:, freed] = self.arrays.free[:, freed] = 0
        return freed

    def clause(self, clause: Requirement, *, is_field: bool) -> int:
        """The clause's number as in ``Nodes.hold``, made when it is new."""
        number = self.clauses.number_of(clause, self._objects.items(), is_field=is_field)
        if self.arrays.terms is not self.clauses.values:
            self._rewire()
        return number

    def distinguish(self, tolerations: tuple[Toleration, ...]) -> None:
        """Have a row of its own for every taint whose value one of the tolerations names."""
        new = self.taints.name(tolerations)
        for row, node in self._objects.items() if new else ():
            if any((taint.key, taint.value) in new for taint in node.spec.taints):
                self._describe_taints(row, node)

    def topology(self, key: str) -> int:
        """The row of a topology key in ``topologies``, made when it is new."""
        return self.topologies.row_of(key, ((row, node.metadata.labels) for row, node in self._objects.items()))

    def take(self, node: str, uid: str, usage: Usage) -> None:
        """Count a pod's usage on its node."""
        held = self._usage.get(node)
        if held is None:
            held = self._usage[node] = {}
        odd = uid in held or usage.unknown or node in self._odd
        held[uid] = usage
        row = self.rows.get(node)
        if row is None:
            return
        if odd or (self.attached.columns and self.attached.held_by(uid)) or self._apply(row, usage, -1):
            self._recount(row, node)

    def give_back(self, node: str, uid: str) -> None:
        """Stop counting a pod's usage."""
        held = self._usage.get(node, {})
        usage = held.pop(uid, None)
        if usage is None:
            return
        if not held:
            self._usage.pop(node, None)
        row = self.rows.get(node)
        if row is None:
            return
        if node in self._odd or (self.attached.columns and self.attached.held_by(uid)):
            self._recount(row, node)
        else:
            self._apply(row, usage, 1)

    def facts_of(self, node: str) -> int:
        """The revision of all that is said of the node itself; -1: it is not known."""
        row = self.rows.get(node)
        return int(self.arrays.revision[row]) if row is not None else -1

    def object_of(self, node: str) -> Node | None:
        """The node as it was last shown; None: it is not known."""
        row = self.rows.get(node)
        return self._objects[row] if row is not None else None

    def devices(self, node: str) -> tuple[tuple[str, ...], int]:
        """(ids of the node's devices as annotations give them, MiB of one); none of 0 when the node is not known."""
        row = self.rows.get(node)
        return (self.arrays.device_ids[row], self.arrays.device_memory.item(row)) if row is not None else ((), 0)

    def model_of(self, node: str) -> str:
        """Model of the node's devices; empty without any, or when the node is not known."""
        row = self.rows.get(node)
        model = self.arrays.model.item(row) if row is not None else -1
        return self.model_names[model] if model >= 0 else ""

    def device_memory(self, node: str) -> int:
        """MiB of one device on the node; 0 when unknown."""
        row = self.rows.get(node)
        return self.arrays.device_memory.item(row) if row is not None else 0

    def unusable(self, node: str) -> frozenset[int]:
        """Indices of the node's devices that are broken, or that nobody is given for now."""
        avoided = self.avoided.get(node)
        broken = self._inventory.unhealthy(node)
        return broken if avoided is None else broken | devices_avoided(avoided, self.devices(node)[0])

    def kept_volumes(self, node: str, leaving: Iterable[str]) -> Mapping[int, int]:
        """Column -> how many places for volumes fewer than they request the node gains when these pods leave it."""
        held = self._usage.get(node, {})
        return self.attached.kept(node, {uid: usage.request for uid, usage in held.items()}, leaving)

    def usage_of(self, node: str) -> dict[str, Usage]:
        """Usage on a node by pod uid."""
        return self._usage.get(node, {})

    def _overfilled(self, row: int, device: int) -> bool:
        arrays = self.arrays
        return bool(
            device < arrays.device_count[row]
            and (arrays.device_free[row, device] < 0 or arrays.device_memory_free[row, device] < 0)
        )

    def _apply(self, row: int, usage: Usage, sign: int) -> bool:
        """Count what a pod holds, or with sign 1 no longer; whether one of its devices has less than nothing left."""
        arrays, request, overfilled = self.arrays, usage.request, False
        free = arrays.free[row]
        if request.size < free.size:
            free = free[: request.size]
        if sign > 0:
            free += request
        else:
            free -= request
        if not usage.devices:
            return False
        device_free, memory_free, count = arrays.device_free, arrays.device_memory_free, arrays.device_count.item(row)
        for index, milli, memory in usage.devices:
            if index < count:
                milli_left = device_free.item(row, index) + sign * milli
                memory_left = memory_free.item(row, index) + sign * memory
                if milli_left < 0 or memory_left < 0:
                    milli_left, memory_left, overfilled = max(milli_left, _LEAST), max(memory_left, _LEAST), True
                device_free[row, index], memory_free[row, index] = milli_left, memory_left
        return overfilled

    def recount(self, name: str) -> None:
        """Count a node's pods from nothing, which must change nothing: for checks."""
        self._recount(self.rows[name], name)

    def _recount(self, row: int, name: str) -> None:
        """Set what is left on a node from its capacity and all its pods: known devices first, then the unknown.

        Nothing is left of a device that is unhealthy or holds more than it has.
        """
        arrays = self.arrays
        arrays.free[row] = arrays.capacity[row]
        count, memory = int(arrays.device_count[row]), int(arrays.device_memory[row])
        arrays.device_free[row] = 0
        arrays.device_memory_free[row] = 0
        arrays.device_free[row, :count] = units.MILLI_PER_GPU
        arrays.device_memory_free[row, :count] = memory
        held = self._usage.get(name, {})
        for usage in held.values():
            self._apply(row, usage, -1)
        requests = {uid: usage.request for uid, usage in held.items()} if self.attached.columns else {}
        self.attached.count(name, requests, arrays.capacity[row], arrays.free[row])
        unhealthy = [index for index in self.unusable(name) if index < count]
        unknown = sorted(uid for uid, usage in held.items() if usage.unknown)
        overfilled = any(self._overfilled(row, device) for device in range(count))
        uncertain = overfilled or (bool(unknown) and may_overlap(held.values(), count, unhealthy))
        (self.uncertain.add if uncertain else self.uncertain.discard)(name)
        arrays.uncertain[row] = uncertain
        if not (unhealthy or unknown or overfilled):
            self._odd.discard(name)
            return
        self._odd.add(name)
        arrays.device_free[row, unhealthy] = 0
        arrays.device_memory_free[row, unhealthy] = 0
        np.maximum(arrays.device_free[row], 0, out=arrays.device_free[row])
        np.maximum(arrays.device_memory_free[row], 0, out=arrays.device_memory_free[row])
        for uid in unknown:
            wanted = held[uid].unknown if held[uid].unknown > 0 else count
            order = np.argsort(-arrays.device_free[row, :count], kind="stable")
            for index in order[:wanted]:
                arrays.device_free[row, index] = 0
                arrays.device_memory_free[row, index] = 0

    def _describe(self, row: int, node: Node) -> None:
        """Write everything of a row that does not depend on pods."""
        arrays, name = self.arrays, node.metadata.name
        capacity = whole_devices(node.metadata.labels, self._capacity(node))
        arrays = self.arrays
        arrays.capacity[row] = 0
        for resource, value in capacity.items():
            arrays.capacity[row, self.columns.of[resource]] = value
        self.attached.describe(node, arrays.capacity[row])
        count, model, memory = self._inventory.offered(node, capacity)
        if count > arrays.device_free.shape[1]:
            self._reallocate(devices=count)
            arrays = self.arrays
        arrays.device_count[row] = count
        arrays.device_memory[row] = memory
        arrays.device_ids[row] = self._inventory.ids(name, count)
        arrays.links[row] = self._inventory.links(name, count)
        arrays.avoided[row] = len(devices_avoided(self.avoided.get(name, {}), arrays.device_ids[row]))
        arrays.model[row] = self._model(model) if count else -1
        arrays.isolation[row] = self._inventory.isolation(node) if count else 0
        self.clauses.describe(row, node)
        self.topologies.describe(row, node.metadata.labels)
        self._describe_taints(row, node)
        arrays.present[row] = True
        arrays.revision[row] = self._next_revision()

    def _describe_taints(self, row: int, node: Node) -> None:
        taints, name = node.spec.taints, node.metadata.name
        if self._inventory.is_at_risk(name):
            taints = (*taints, AT_RISK)
        if self._vulnerable and name in self._inventory.vulnerable:
            taints = (*taints, *self._vulnerable)
        if self.taints.describe(row, taints, cordoned=node.spec.unschedulable):
            self._rewire()

    def _model(self, model: str) -> int:
        if model not in self.models:
            self.models[model] = len(self.models)
            self.model_names.append(model)
        return self.models[model]

    def _capacity(self, node: Node) -> dict[str, int]:
        capacity = {}
        for resource, value in node.status.allocatable.items():
            try:
                capacity[resource] = resource_units(resource, value, round_up=False)
            except ValueError:
                capacity[resource] = 0
        self.add_columns(resource for resource, value in capacity.items() if value)
        return {resource: value for resource, value in capacity.items() if resource in self.columns.of}

    def _new_row(self, name: str) -> int:
        if self._free_rows:
            row = self._free_rows.pop()
            self.arrays.names[row] = name
        else:
            row = len(self.arrays.names)
            if row >= len(self.arrays.present):
                self._reallocate(nodes=max(16, row * 2))
            self.arrays.names.append(name)
            self.arrays.device_ids.append(())
            self.arrays.links.append(None)
        self.rows[name] = row
        self.arrays.tie_rank[row] = stable_hash(name)
        return row

    def reserve(self, nodes: int) -> None:
        """Make room for this many nodes at once, so that rows are not renumbered while a first list is read."""
        if nodes > len(self.arrays.present):
            self._reallocate(nodes=nodes)

    def _next_revision(self) -> int:
        self.revision += 1
        return self.revision

    def _reallocate(self, nodes: int = 0, devices: int = 0) -> None:
        """Grow the arrays; whoever remembers things by row has to forget them (``generation``)."""
        old = self.arrays
        nodes = max(nodes, len(old.present))
        devices = max(devices, old.device_free.shape[1])
        self.clauses.widen(nodes)
        self.taints.widen(nodes)
        self.topologies.widen(nodes)
        new = empty_nodes(nodes, self.columns, devices, self.clauses, self.taints)
        # The truth tables have grown by themselves.
        self.arrays = grown(replace(old, terms=new.terms, taints=new.taints, disliked=new.disliked), new)
        self.generation += 1

    def _rewire(self) -> None:
        """Let the arrays point at the truth tables after those grew."""
        self.arrays = replace(
            self.arrays, terms=self.clauses.values, taints=self.taints.values, disliked=self.taints.disliked
        )
