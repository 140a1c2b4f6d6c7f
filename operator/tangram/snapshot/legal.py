"""What a legal snapshot is, as code: checked after every step in tests and in the loop's debug mode."""

from collections.abc import Iterator

import numpy as np

from tangram import units
from tangram.plan import Plan
from tangram.snapshot.arrays import WHOLE_ONLY, Snapshot
from tangram.snapshot.build import Builder
from tangram.snapshot.pods.states import State


def broken(snapshot: Snapshot) -> Iterator[str]:
    """Sentences about every invariant that the snapshot breaks.

    A node whose ``free`` is negative is none: whoever else binds pods, or shrinks a node, can bring that about.
    """
    nodes, pending = snapshot.nodes, snapshot.pending
    for row in np.flatnonzero((nodes.free > nodes.capacity).any(axis=1)).tolist():
        yield f"node {nodes.names[row]} has more left than it ever had"
    exists = np.arange(nodes.device_free.shape[1]) < nodes.device_count[:, None]
    for row, device in np.argwhere(~exists & (nodes.device_free != 0)).tolist():
        yield f"node {nodes.names[row]} has no device {device}, yet it is counted"
    most = np.where(exists, units.MILLI_PER_GPU, 0)
    for row, device in np.argwhere((nodes.device_free < 0) | (nodes.device_free > most)).tolist():
        yield f"node {nodes.names[row]} device {device} has {nodes.device_free[row, device]} milli-GPU left"
    memory = np.where(exists, nodes.device_memory[:, None], 0)
    for row, device in np.argwhere((nodes.device_memory_free < 0) | (nodes.device_memory_free > memory)).tolist():
        yield f"node {nodes.names[row]} device {device} has {nodes.device_memory_free[row, device]} MiB left"
    waiting = np.flatnonzero(pending.waiting)
    for slot in waiting[pending.shape[waiting] < 0].tolist():
        yield f"{pending.names[slot]} waits with no request"
    members = np.bincount(pending.gang[waiting][pending.gang[waiting] >= 0], minlength=len(snapshot.gangs.minimum))
    for gang in np.flatnonzero(members != snapshot.gangs.waiting).tolist():
        counted = snapshot.gangs.waiting[gang]
        yield f"gang {snapshot.gangs.names[gang]} has {members[gang]} waiting members, counted as {counted}"
    for gang in np.flatnonzero(snapshot.gangs.bound < 0).tolist():
        yield f"gang {snapshot.gangs.names[gang]} has {snapshot.gangs.bound[gang]} bound members"


def miscounted(builder: Builder) -> Iterator[str]:
    """Sentences about rows that differ from a count of all their pods from nothing."""
    yield from _misplaced(builder)
    yield from _mischarged(builder)
    arrays = builder.nodes.arrays
    for name, row in sorted(builder.nodes.rows.items()):
        before = arrays.free[row].copy(), arrays.device_free[row].copy(), arrays.device_memory_free[row].copy()
        builder.nodes.recount(name)
        after = arrays.free[row], arrays.device_free[row], arrays.device_memory_free[row]
        if not all(np.array_equal(old, new) for old, new in zip(before, after, strict=True)):
            yield f"node {name} was counted as {before}, its pods add up to {after}"
    relations = builder.relations.arrays(builder.shapes.rules, builder.shapes.added)
    for group, (kept, counted) in enumerate(zip(relations.counts, builder.relations.counted_again(), strict=True)):
        if not np.array_equal(kept, counted):
            yield f"group {group} of pods was counted as {kept}, its pods add up to {counted}"


def _misplaced(builder: Builder) -> Iterator[str]:
    """Sentences about pods whose state is not what they hold or wait in."""
    for row in builder.pods.values():
        waits, holds = row.state in (State.WAITS, State.INVALID), row.state in (State.SENT, State.BOUND)
        if waits != (row.slot >= 0) or holds != (row.holding is not None and row.state != State.UNREADABLE):
            yield f"{row.name} is {row.state.name}, in slot {row.slot} and on node {row.node!r}"
        if row.state == State.ABSENT:
            yield f"{row.name} is absent, yet remembered"


def _mischarged(builder: Builder) -> Iterator[str]:
    """Sentences about gangs and queues that count something else than what their pods, and claims, hold."""
    gangs, usage = builder.gangs.arrays, np.zeros_like(builder.queues.arrays.usage)
    unbound = np.zeros_like(usage)
    members = np.zeros(len(gangs.bound), np.int64)
    for row in builder.pods.values():
        held = row.holding
        if held is None:
            continue
        if row.gang_row >= 0 and not builder.gangs.is_past(held.member):
            members[row.gang_row] += 1
        if held.charged is not None:
            usage[held.leaf] += held.charged
            if row.state == State.SENT:
                unbound[held.leaf] += held.charged
    for uid, claim in builder.claims.held.items():
        usage[claim.spots[uid].leaf] += claim.spots[uid].charged
        unbound[claim.spots[uid].leaf] += claim.spots[uid].charged
    for gang in np.flatnonzero(members != gangs.bound).tolist():
        yield f"gang {gangs.names[gang]} has {members[gang]} living bound members, counted as {gangs.bound[gang]}"
    arrays = builder.queues.arrays
    for leaf in np.flatnonzero(arrays.is_leaf & (usage != arrays.usage).any(axis=1)).tolist():
        yield f"queue {arrays.names[leaf]} is charged {arrays.usage[leaf]}, its pods and claims add up to {usage[leaf]}"
    known = builder.queues.unbound
    for leaf in np.flatnonzero(arrays.is_leaf & (unbound != known).any(axis=1)).tolist():
        yield f"of queue {arrays.names[leaf]} {known[leaf]} counts as not bound yet, it is {unbound[leaf]}"


def illegal(plan: Plan, snapshot: Snapshot) -> Iterator[str]:
    """Sentences about what a plan may not do: place a pod twice, a gang in part, or on a node that is not there."""
    seen: set[str] = set()
    gangs: dict[str, int] = {}
    yield from _parted(plan, snapshot)
    there = {snapshot.nodes.names[row] for row in np.flatnonzero(snapshot.nodes.present).tolist()}
    for place in plan.place:
        if place.pod.uid in seen:
            yield f"{place.pod} is placed twice"
        seen.add(place.pod.uid)
        if place.node not in there:
            yield f"{place.pod} is placed on {place.node}, which is not there"
        if place.gang:
            gangs[place.gang] = gangs.get(place.gang, 0) + 1
    rows = {name: row for row, name in enumerate(snapshot.gangs.names) if name}
    for gang, placed in sorted(gangs.items()):
        row = rows[gang]
        if placed < snapshot.gangs.missing(row):
            yield f"gang {gang} is placed in part: {placed} of {snapshot.gangs.missing(row)}"
    victims: set[str] = set()
    claims = {hold.pod for hold in plan.hold if hold.nominated_node} | {place.pod for place in plan.place}
    for evict in plan.evict:
        if evict.pod.uid in victims:
            yield f"{evict.pod} is evicted twice"
        victims.add(evict.pod.uid)
        if evict.claimant is not None and evict.claimant not in claims:
            yield f"{evict.pod} is evicted for {evict.claimant}, which gains no place"


def _parted(plan: Plan, snapshot: Snapshot) -> Iterator[str]:
    """Sentences about parts of devices on nodes that give out whole ones only."""
    nodes = snapshot.nodes
    whole_only = {nodes.names[row] for row in np.flatnonzero(nodes.present & (nodes.isolation & WHOLE_ONLY != 0))}
    for place in plan.place:
        if place.node in whole_only:
            for _, devices in place.devices:
                if any(device.milli < units.MILLI_PER_GPU for device in devices):
                    yield f"{place.pod} gets a part of a device on {place.node}, which gives out whole ones only"


def overfilled(plan: Plan, builder: Builder) -> Iterator[str]:
    """Sentences about what the plan, already counted by the builder, gave away though it was not there."""
    nodes = builder.nodes
    for place in plan.place:
        row = nodes.rows.get(place.node)
        if row is None:
            continue
        held = nodes.usage_of(place.node)
        mine = held[place.pod.uid]
        short = (mine.request > 0) & (nodes.arrays.free[row, : len(mine.request)] < 0)
        for column in np.flatnonzero(short).tolist():
            yield f"{place} leaves {nodes.arrays.free[row, column]} of {nodes.columns.names[column]}"
        for index, _, _ in mine.devices:
            parts = [part for usage in held.values() for part in usage.devices if part[0] == index]
            if sum(milli for _, milli, _ in parts) > units.MILLI_PER_GPU:
                yield f"{place} gives more of device {index} than there is"
            if sum(mib for _, _, mib in parts) > int(nodes.arrays.device_memory[row]):
                yield f"{place} gives more memory of device {index} than there is"
