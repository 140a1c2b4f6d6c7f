"""Make room for a claim by evicting lower claims: least damage first, and nothing is evicted for nothing."""

import numpy as np

from tangram.decide import codes
from tangram.decide.devices import choose_devices, decision
from tangram.decide.draft import Draft
from tangram.decide.memory import Memory
from tangram.plan import Evict, Hold
from tangram.snapshot.arrays import Bool, Int32, Int64, Snapshot


def could_help(memory: Memory, shape: int) -> bool:
    """Whether evicting lower classes on nodes of the shape's class would let it run there."""
    return best_victims(memory.view.snapshot, memory, shape) is not None


def make_room(snapshot: Snapshot, memory: Memory, draft: Draft, slot: int, allowed: Bool | None = None) -> bool:
    """Evict lower classes for a pod that fits nowhere it may go; the pod waits for them and its place is held.

    ``allowed`` [N]: node rows on which the pod's queue is within its limits. False when no eviction would help.
    """
    if len(draft.evict) >= snapshot.batch:
        return False
    shape = int(snapshot.pending.shape[slot])
    found = best_victims(snapshot, memory, shape, allowed)
    if found is None:
        return False
    row, victims = found
    claimant, node = snapshot.pending.names[slot], snapshot.nodes.names[row]
    before = memory.keep(row)
    for victim in victims:
        draft.evict.append(Evict(snapshot.running.names[victim], node, claimant, "lower priority class on its nodes"))
        _give_back(snapshot, memory, row, victim)
    memory.spoken_for.update(victims)
    devices = choose_devices(memory, shape, row)
    memory.claim(shape, before, [device for ask in devices for device in ask])
    draft.claimants.add(slot)
    claim = decision(snapshot, slot, row, devices)
    draft.hold.append(Hold(claimant, codes.NAMES[codes.WAITING_FOR_EVICTION], sentence(node), "", node, claim))
    return True


def sentence(node: str) -> str:
    """What a pod is told while others make room for it."""
    return f"pods of lower priority classes are leaving {node} to make room"


def best_victims(
    snapshot: Snapshot, memory: Memory, shape: int, allowed: Bool | None = None
) -> tuple[int, list[int]] | None:
    """(node row, slots of running pods) with the fewest and youngest victims; None when no eviction would help."""
    running, classes = snapshot.running, snapshot.classes
    own = int(snapshot.shapes.priority_class[shape])
    if own < 0 or not len(running.node) or shape in memory.hopeless:
        return None
    weight = np.append(classes.weight, 0)
    lower = weight[snapshot.shapes.priority_class[running.shape]] < weight[own]
    lower &= memory.preferred(shape)[running.node] & (memory.statics(shape)[running.node] == codes.FITS)
    lower[list(memory.spoken_for)] = False
    if allowed is not None:
        lower &= allowed[running.node]
    damage = np.zeros(len(lower), np.int64)
    damage[lower] = memory.damage(shape, _int32(np.flatnonzero(lower)))
    best: tuple[tuple[int, int, int, int], int, list[int]] | None = None
    for row in np.unique(running.node[lower]).tolist():
        candidates = np.flatnonzero(lower & (running.node == row))
        order = np.lexsort((-running.started[candidates], damage[candidates]))
        victims = _enough(snapshot, memory, shape, row, _int32(candidates[order]))
        if victims:
            oldest, hurt = -int(running.started[victims].min()), int(damage[victims].sum())
            cost = (hurt, len(victims), oldest, int(snapshot.nodes.tie_rank[row]))
            if best is None or cost < best[0]:
                best = (cost, row, victims)
    if best is None:
        memory.hopeless.add(shape)
        return None
    return best[1], best[2]


def _enough(snapshot: Snapshot, memory: Memory, shape: int, row: int, order: Int32) -> list[int] | None:
    """The first pods in order whose leaving makes the shape fit, without those that turn out not to be needed."""
    kept, victims = memory.keep(row), list[int]()
    try:
        for victim in order.tolist():
            if memory.fits_on(shape, row):
                break
            _give_back(snapshot, memory, row, victim)
            victims.append(victim)
        if not memory.fits_on(shape, row):
            return None
        for victim in victims[::-1]:
            before = memory.keep(row)
            _give_back(snapshot, memory, row, victim, sign=-1)
            if memory.fits_on(shape, row):
                victims.remove(victim)
            else:
                memory.restore(before)
        return victims
    finally:
        memory.restore(kept)


def _give_back(snapshot: Snapshot, memory: Memory, row: int, victim: int, sign: int = 1) -> None:
    memory.free[row] += sign * snapshot.shapes.request[snapshot.running.shape[victim]]
    for device, milli, mib in snapshot.running.devices[victim]:
        memory.device_free[row, device] += sign * milli
        memory.device_memory_free[row, device] += sign * mib


def _int32(values: Int64) -> Int32:
    return values.astype(np.int32)
