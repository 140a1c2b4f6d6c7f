"""What a legal snapshot is, as code: checked after every step in tests and in the loop's debug mode."""

from collections.abc import Iterator

import numpy as np

from tangram import units
from tangram.plan import Plan
from tangram.snapshot.arrays import Snapshot
from tangram.snapshot.build import Builder


def broken(snapshot: Snapshot) -> Iterator[str]:
    """Sentences about every invariant that the snapshot breaks: no node and no device holds more than it has."""
    nodes = snapshot.nodes
    for row in np.flatnonzero(nodes.present & (nodes.free < 0).any(axis=1)).tolist():
        column = int(np.argmin(nodes.free[row]))
        yield f"node {nodes.names[row]} is overfilled: {snapshot.resources[column]} {nodes.free[row, column]}"
    exists = np.arange(nodes.device_free.shape[1]) < nodes.device_count[:, None]
    for row, device in np.argwhere(exists & (nodes.device_free < 0)).tolist():
        yield f"node {nodes.names[row]} device {device} holds more than {units.MILLI_PER_GPU} milli-GPU"
    for row, device in np.argwhere(exists & (nodes.device_memory_free < 0)).tolist():
        yield f"node {nodes.names[row]} device {device} holds more memory than it has"
    for row, device in np.argwhere(~exists & (nodes.device_free != 0)).tolist():
        yield f"node {nodes.names[row]} has no device {device}, yet it is counted"


def miscounted(builder: Builder) -> Iterator[str]:
    """Sentences about rows that differ from a count of all their pods from nothing."""
    arrays = builder.nodes.arrays
    for name, row in sorted(builder.nodes.rows.items()):
        before = arrays.free[row].copy(), arrays.device_free[row].copy(), arrays.device_memory_free[row].copy()
        builder.nodes.recount(name)
        after = arrays.free[row], arrays.device_free[row], arrays.device_memory_free[row]
        if not all(np.array_equal(old, new) for old, new in zip(before, after, strict=True)):
            yield f"node {name} was counted as {before}, its pods add up to {after}"


def illegal(plan: Plan, snapshot: Snapshot) -> Iterator[str]:
    """Sentences about what a plan may not do: place a pod twice, a gang in part, or on a node that is not there."""
    seen: set[str] = set()
    gangs: dict[str, int] = {}
    for place in plan.place:
        if place.pod.uid in seen:
            yield f"{place.pod} is placed twice"
        seen.add(place.pod.uid)
        if place.node not in snapshot.nodes.names:
            yield f"{place.pod} is placed on {place.node}, which is not there"
        if place.gang:
            gangs[place.gang] = gangs.get(place.gang, 0) + 1
    for gang, placed in sorted(gangs.items()):
        row = snapshot.gangs.names.index(gang)
        if placed + snapshot.gangs.bound[row] < snapshot.gangs.minimum[row]:
            yield f"gang {gang} is placed in part: {placed} of {snapshot.gangs.minimum[row]}"
    claims = {hold.pod for hold in plan.hold if hold.nominated_node} | {place.pod for place in plan.place}
    for evict in plan.evict:
        if evict.claimant not in claims:
            yield f"{evict.pod} is evicted for {evict.claimant}, which gains no place"
