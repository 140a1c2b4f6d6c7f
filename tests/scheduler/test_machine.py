"""Random histories of a cluster: whatever happened, what is true is counted as if it were seen for the first time."""

import msgspec
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests import strategies as worlds
from tests.budget import examples
from tests.worlds import START, bound, leaving, placed, policy

from tangram.api.objects import Node, Pod
from tangram.api.policy import HybridPolicy
from tangram.decide.memory import Memory
from tangram.decide.pipeline import decide
from tangram.plan import Plan
from tangram.scheduler.cycle import Cycle
from tangram.settings import SchedulerSettings
from tangram.snapshot import legal
from tangram.snapshot.build import Builder
from tangram.snapshot.nodes.inventory import Distances, NodeDevice
from tangram.snapshot.nodes.usage import Usage
from tangram.snapshot.pods.claim import Spot

Inventory = tuple[NodeDevice, ...]


class Histories(RuleBasedStateMachine):
    """Everything that watches can show and writers can answer, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.cycle = Cycle(SchedulerSettings(batch=4, debug=True))
        self.nodes: dict[str, Node] = {}
        self.inventories: dict[str, Inventory] = {}
        self.links: dict[str, Distances] = {}
        self.at_risk: set[str] = set()
        self.pods: dict[str, Pod] = {}
        self.unreadable: dict[str, tuple[Pod, str]] = {}
        self.policy: HybridPolicy | None = None
        self.flying: dict[str, object] = {}
        self.victims: list[object] = []
        self.now = START
        self.number = 0

    @initialize(
        found=st.lists(worlds.nodes(), min_size=1, max_size=4),
        pods=st.lists(worlds.pods(), min_size=4, max_size=8),
        policy=worlds.policies(),
    )
    def begin(self, found: list[Node], pods: list[Pod], policy: HybridPolicy | None) -> None:
        for node in found:
            self.node_appears_or_changes(node)
        for one in pods:
            self.pod_appears_or_is_made_again(one)
        self.policy_changes(policy)
        self.everything_held()

    @rule()
    def everything_held(self) -> None:
        """A look whose decisions all hold at once."""
        self.scheduler_looks()
        while self.flying:
            self.binding_ends(held=True)

    @rule(one=worlds.nodes())
    def node_appears_or_changes(self, one: Node) -> None:
        self.nodes[one.metadata.name] = one
        self.cycle.builder.put_node(one)

    @rule(name=st.sampled_from(worlds.NODE_NAMES))
    def node_goes(self, name: str) -> None:
        self.nodes.pop(name, None)
        self.cycle.builder.remove_node(name)

    @rule(name=st.sampled_from(worlds.NODE_NAMES), devices=worlds.inventories())
    def agent_tells(self, name: str, devices: Inventory) -> None:
        self.inventories[name] = devices
        self.cycle.builder.set_inventory(name, devices)

    @rule(name=st.sampled_from(worlds.NODE_NAMES), distances=worlds.links())
    def agent_tells_links(self, name: str, distances: Distances) -> None:
        self.links[name] = distances
        self.cycle.builder.set_links(name, distances)

    @rule(name=st.sampled_from(worlds.NODE_NAMES), at_risk=st.booleans())
    def agent_tells_a_risk(self, name: str, at_risk: bool) -> None:
        (self.at_risk.add if at_risk else self.at_risk.discard)(name)
        self.cycle.builder.set_at_risk(name, at_risk)

    @rule(policy=worlds.policies())
    def policy_changes(self, policy: HybridPolicy | None) -> None:
        self.policy = policy
        self.cycle.builder.set_policy(policy)

    @rule(one=worlds.pods())
    def pod_appears_or_is_made_again(self, one: Pod) -> None:
        """Under the same name with a new uid, as a Job's controller or a person does."""
        self.number += 1
        metadata = msgspec.structs.replace(one.metadata, uid=f"{one.metadata.name}-{self.number}")
        old = self.named(one.metadata.name)
        self.change(old, msgspec.structs.replace(one, metadata=metadata))

    @rule(one=worlds.pods(), name=st.sampled_from(worlds.POD_NAMES))
    def waiting_pod_changes(self, one: Pod, name: str) -> None:
        """Labels and annotations of a waiting pod may change (a gate was removed, a class was set)."""
        old = self.named(name)
        if old is not None and not old.spec.node_name and old.metadata.uid not in self.flying:
            metadata = msgspec.structs.replace(one.metadata, name=name, uid=old.metadata.uid)
            self.change(old, msgspec.structs.replace(one, metadata=metadata))

    @rule(name=st.sampled_from(worlds.POD_NAMES))
    def pod_goes(self, name: str) -> None:
        old = self.named(name)
        if old is not None:
            self.change(old, None)

    @rule(name=st.sampled_from(worlds.POD_NAMES), end=st.sampled_from(["Succeeded", "Failed"]))
    def pod_ends(self, name: str, end: str) -> None:
        old = self.named(name)
        if old is not None:
            status = msgspec.structs.replace(old.status, phase=end)
            self.cycle.observe_pod(old, msgspec.structs.replace(old, status=status))
            self.forget(old)

    @rule(
        name=st.sampled_from(worlds.POD_NAMES),
        where=st.sampled_from(worlds.NODE_NAMES),
        annotation=st.one_of(st.none(), st.sampled_from(worlds.UNREADABLE)),
    )
    def somebody_else_binds(self, name: str, where: str, annotation: str | None) -> None:
        """Another scheduler, or a person with spec.nodeName: with no record of devices, or with one nobody can read."""
        old = self.named(name)
        if old is not None and not old.spec.node_name:
            self.change(old, bound(old, where, annotation))

    @rule(name=st.sampled_from(worlds.POD_NAMES))
    def kubelet_writes_a_status(self, name: str) -> None:
        old = self.named(name)
        if old is not None:
            self.change(old, msgspec.structs.replace(old, status=msgspec.structs.replace(old.status, message="so")))

    @rule(name=st.sampled_from(worlds.POD_NAMES))
    def pod_is_resized_in_place(self, name: str) -> None:
        old = self.named(name)
        if old is not None and old.spec.node_name:
            first, *others = old.spec.containers
            requests = first.resources.requests | {"cpu": "750m"}
            resources = msgspec.structs.replace(first.resources, requests=requests)
            containers = (msgspec.structs.replace(first, resources=resources), *others)
            spec = msgspec.structs.replace(old.spec, containers=containers)
            self.change(old, msgspec.structs.replace(old, spec=spec))

    @rule(name=st.sampled_from(worlds.POD_NAMES), where=st.sampled_from(worlds.NODE_NAMES))
    def pod_cannot_be_decoded(self, name: str, where: str) -> None:
        old = self.named(name)
        if old is not None and old.metadata.uid not in self.flying:
            where = old.spec.node_name or where
            self.forget(old)
            self.unreadable[old.metadata.uid] = (old, where)
            self.cycle.builder.put_unreadable_pod(old.metadata, where)

    @precondition(lambda self: self.unreadable)
    @rule()
    def unreadable_pod_goes(self) -> None:
        uid = min(self.unreadable)
        del self.unreadable[uid]
        self.cycle.builder.remove_pod(uid)

    @rule()
    def scheduler_looks(self) -> None:
        self.now += 7
        for place in self.look().place:
            self.flying[place.pod.uid] = place
        for evict in self.cycle.last_plan.evict:
            self.victims.append(evict)

    @precondition(lambda self: self.flying)
    @rule(held=st.booleans())
    def binding_ends(self, held: bool) -> None:
        uid, place = next(iter(self.flying.items()))
        del self.flying[uid]
        self.cycle.place_ended(place, held=held)
        if held:
            self.change(self.pods[uid], placed(self.pods[uid], place))

    @precondition(lambda self: self.victims)
    @rule(how=st.sampled_from(["gone", "leaving", "refused", "lost"]))
    def eviction_ends(self, how: str) -> None:
        evict = self.victims.pop(0)
        old = self.pods.get(evict.pod.uid)
        if how == "refused":
            self.cycle.eviction_failed(evict)
        elif old is not None and how != "lost":
            self.change(old, leaving(old) if how == "leaving" else None)

    def named(self, name: str) -> Pod | None:
        return next((one for one in self.pods.values() if one.metadata.name == name), None)

    def change(self, old: Pod | None, new: Pod | None) -> None:
        if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
            self.forget(old)
        if new is not None:
            self.pods[new.metadata.uid] = new
            if new.spec.node_name:
                self.flying.pop(new.metadata.uid, None)
        self.cycle.observe_pod(old, new)

    def forget(self, old: Pod) -> None:
        self.pods.pop(old.metadata.uid, None)
        self.flying.pop(old.metadata.uid, None)

    def look(self) -> Plan:
        """A look with a memory of all that was, which must decide what one without any memory decides."""
        snapshot = self.cycle._priced(self.cycle.builder.snapshot(self.now))
        afresh = decide(snapshot, Memory(), self.cycle.reporter.known())
        plan = self.cycle.decide(self.now)
        assert str(plan) == str(afresh)
        assert plan == afresh
        return plan

    @invariant()
    def counts_are_right(self) -> None:
        assert list(legal.miscounted(self.cycle.builder)) == []
        assert list(legal.broken(self.cycle.builder.snapshot(self.now))) == []

    @invariant()
    def seen_for_the_first_time_it_is_the_same(self) -> None:
        assert described(self.cycle.builder, self.now) == described(self.from_scratch(), self.now)

    def from_scratch(self) -> Builder:
        """A builder that has seen only what is there now, pods first: as after a restart."""
        builder = Builder(batch=4)
        for one in self.pods.values():
            builder.put_pod(one)
        for uid, (old, where) in self.unreadable.items():
            builder.put_unreadable_pod(msgspec.structs.replace(old.metadata, uid=uid), where)
        for one in reversed(self.nodes.values()):
            builder.put_node(one)
        for name, devices in self.inventories.items():
            builder.set_inventory(name, devices)
        for name, distances in self.links.items():
            builder.set_links(name, distances)
        for name in self.at_risk:
            builder.set_at_risk(name, True)
        # what is in flight was decided when its queue and its class existed
        builder.set_policy(policy(*worlds.CLASSES, queues=worlds.QUEUES))
        for place in self.flying.values():
            builder.overlay(place)
        builder.set_policy(self.policy)
        known = self.cycle.builder.claims.held.values()
        for claim in {id(claim): claim for claim in known}.values():
            spots = {uid: self.same_spot(builder, uid, spot) for uid, spot in claim.spots.items()}
            builder.claims.hold(spots, claim.victims, claim.since)
        return builder

    def same_spot(self, builder: Builder, uid: str, spot: Spot) -> Spot:
        """A claimed place in the columns and rows of another builder."""
        asked = zip(self.cycle.builder.nodes.columns.names, spot.usage.request, strict=False)
        held = {name: amount for name, amount in asked if amount}
        builder.nodes.add_columns(held)
        columns = {builder.nodes.columns.of[name]: amount for name, amount in held.items()}
        amounts = np.zeros(builder.nodes.columns.width, np.int64)
        amounts[list(columns)] = list(columns.values())
        shape = builder.pods[uid].shape
        charged = builder.queues.amounts(builder.shapes.arrays, shape, builder.nodes.model_of(spot.node))
        leaf = int(builder.shapes.arrays.leaf[shape])
        return Spot(spot.place, Usage(amounts, spot.usage.devices), leaf, charged)


def described(builder: Builder, now: int) -> dict[str, object]:
    """A snapshot in names instead of rows."""
    snapshot = builder.snapshot(now)
    nodes, pending, gangs = snapshot.nodes, snapshot.pending, snapshot.gangs
    found: dict[str, object] = {}
    for row in np.flatnonzero(nodes.present).tolist():
        count = int(nodes.device_count[row])
        found[f"node {nodes.names[row]}"] = (
            {name: int(free) for name, free in zip(snapshot.resources, nodes.free[row], strict=True) if free},
            nodes.device_free[row, :count].tolist(),
            nodes.device_memory_free[row, :count].tolist(),
            nodes.device_ids[row],
            snapshot.models[nodes.model[row]] if count else "",
        )
    for slot, pod_name in enumerate(pending.names):
        if pending.waiting[slot] or slot in pending.invalid:
            gang = int(pending.gang[slot]) if slot not in pending.invalid else -1
            claim = int(pending.claim[slot])
            found[f"pod {pod_name}"] = (
                pending.invalid.get(slot),
                int(pending.priority[slot]),
                int(pending.created[slot]),
                gangs.names[gang] if gang >= 0 else "",
                nodes.names[claim] if claim >= 0 else "",
            )
    queues = snapshot.queues
    for row in np.flatnonzero(queues.usage.any(axis=1)).tolist():
        found[f"queue {queues.names[row]}"] = queues.usage[row].tolist()
    for name, row in builder.gangs.rows.items():
        found[f"gang {name}"] = tuple(int(column[row]) for column in (gangs.minimum, gangs.bound, gangs.waiting))
    return found


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=examples(25), stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
