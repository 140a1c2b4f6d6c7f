"""Nodes and what their agents report, on their way into the tables; who looks at a node follows.

A node that cannot be taken in, or of which its agent reports what cannot be, is absent until that changes.
"""

from collections.abc import Callable, Mapping

from tangram.api.objects import Node
from tangram.snapshot.affinity.relations import RelationTable
from tangram.snapshot.aside import Aside
from tangram.snapshot.nodes.inventory import Distances, NodeDevice
from tangram.snapshot.nodes.nodes import NodeTable
from tangram.snapshot.pods.ledger import Ledger
from tangram.snapshot.pods.lifecycle import Lifecycle
from tangram.snapshot.pods.pods import PodRow
from tangram.snapshot.values.faults import Subject

_ABSENT = "the node counts as absent until it changes"


class NodeIntake:
    """Takes in nodes; level, not edge: the same node twice changes nothing."""

    def __init__(
        self, nodes: NodeTable, relations: RelationTable, ledger: Ledger, lifecycle: Lifecycle, aside: Aside
    ) -> None:
        self._nodes, self._relations, self._lifecycle, self._aside = nodes, relations, lifecycle, aside
        self._pods, self._running, self._claims = ledger.pods, ledger.running, ledger.claims
        self._rejections = ledger.rejections
        self._garbled: dict[str, set[str]] = {}
        """Node -> which of its agent's reports cannot be taken in."""
        self._hidden: dict[str, Node] = {}
        """The nodes themselves, as far as they have been shown."""
        self._moved: set[str] = set()

    def take_moved(self, now: int) -> set[str]:
        """The nodes that have come or gone since the last call; what kubelets have rejected takes effect."""
        if self._rejections.refresh(now):
            self._avoid(self._rejections.avoided)
        found, self._moved = self._moved, set()
        return found

    def put(self, node: Node) -> None:
        """A node was added or changed."""
        name = node.metadata.name
        if name in self._garbled:
            self._hidden[name] = node
            return
        known = name in self._nodes.rows
        try:
            self._put(node)
        except Exception as error:  # noqa: BLE001 - whatever it is, one node must not end the scheduler
            self._aside.faults.note(Subject("Node", name), error, _ABSENT)
            if known:
                self._leaves(name)
            else:
                self._nodes.remove(name)  # nobody has counted anything there yet
            return
        self._aside.faults.clear(Subject("Node", name))

    def remove(self, name: str) -> None:
        """A node is gone."""
        self._hidden.pop(name, None)
        self._aside.faults.clear(Subject("Node", name))
        self._leaves(name)

    def set_inventory(self, name: str, devices: tuple[NodeDevice, ...]) -> None:
        """The node agent reports the devices of a node, in index order."""

        def take() -> None:
            before = self._nodes.facts_of(name)
            self._nodes.set_inventory(name, devices)
            if self._nodes.facts_of(name) != before:
                self._claims.reconsider(name)
            self._count_again(name)

        self._take_report(name, "devices", take)

    def set_links(self, name: str, distances: Distances) -> None:
        """The node agent reports how far the devices of a node are from each other."""
        self._take_report(name, "links", lambda: self._nodes.set_links(name, distances))

    def set_at_risk(self, name: str, at_risk: bool, vulnerable: bool) -> None:
        """The node agent reports whether a device of a node is likely to fail soon, and whether its container software
        has known holes."""
        self._take_report(name, "health", lambda: self._nodes.set_at_risk(name, at_risk, vulnerable))

    def _avoid(self, devices: Mapping[str, Mapping[str, int]]) -> None:
        """Give these devices to nobody, by node, and all others as before."""
        for name in sorted(devices.keys() | self._nodes.avoided.keys()):
            if self._nodes.avoided.get(name, {}) != devices.get(name, {}):
                self._nodes.set_avoided(name, devices.get(name, {}))
                self._claims.reconsider(name)
                self._count_again(name)

    def _take_report(self, name: str, part: str, take: Callable[[], None]) -> None:
        about = Subject("GPUNode", name)
        garbled = self._garbled.get(name, set())
        try:
            take()
        except Exception as error:  # noqa: BLE001 - one agent must not end the scheduler
            self._aside.faults.note(about, error, _ABSENT)
            node = self._nodes.object_of(name)
            if node is not None:
                self._hidden[name] = node
            self._garbled[name] = garbled | {part}
            self._leaves(name)
            return
        if part not in garbled:
            return
        garbled.discard(part)
        if not garbled:
            del self._garbled[name]
            self._aside.faults.clear(about)
            node = self._hidden.pop(name, None)
            if node is not None:
                self.put(node)

    def _put(self, node: Node) -> None:
        name = node.metadata.name
        before = self._nodes.facts_of(name)
        devices_changed = self._nodes.put(node)
        if before < 0:
            self._moved.add(name)
            self._relations.node_appeared(name)
        elif self._nodes.facts_of(name) != before:
            self._claims.reconsider(name)
        if devices_changed:
            self._count_again(name)
        elif before < 0:
            self._running.follow_on(name)

    def _leaves(self, name: str) -> None:
        self._moved.add(name)
        self._relations.node_leaves(name)
        self._nodes.remove(name)
        self._on(name, self._lifecycle.charge_again)  # nobody knows any more what model it has
        self._running.follow_on(name)
        self._claims.node_changed(name)

    def _count_again(self, name: str) -> None:
        """Read the devices of the pods on a node again, now that it is known what the ids mean."""
        self._on(name, self._lifecycle.count_again)
        self._running.follow_on(name)
        self._claims.node_changed(name)

    def _on(self, name: str, refresh: Callable[[PodRow], None]) -> None:
        """Refresh every pod of a node."""
        for uid in list(self._nodes.usage_of(name)):
            row = self._pods.get(uid)
            if row is not None:
                self._aside.guarded(row, refresh)
