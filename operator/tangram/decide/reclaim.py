"""Make room for a claim by evicting lower claims: least damage first, and nothing is evicted for nothing."""

import numpy as np

from tangram.decide import codes
from tangram.decide.devices import choose_devices
from tangram.decide.draft import Draft
from tangram.decide.kernels import fits
from tangram.decide.memory import Memory
from tangram.plan import Evict, Hold
from tangram.snapshot.arrays import PREEMPT, Int32, Int64, Snapshot


def could_help(memory: Memory, shape: int) -> bool:
    """Whether evicting lower classes on nodes of the shape's class would let it run there."""
    return best_victims(memory.view.snapshot, memory, shape) is not None


def make_room(snapshot: Snapshot, memory: Memory, draft: Draft, slot: int) -> None:
    """Evict lower classes for a pod that fits nowhere it may go; the pod waits for them and its place is held."""
    if snapshot.classes.fallback != PREEMPT:
        return
    shape = int(snapshot.pending.shape[slot])
    found = best_victims(snapshot, memory, shape)
    if found is None:
        return
    row, victims = found
    claimant, node = snapshot.pending.names[slot], snapshot.nodes.names[row]
    for victim in victims:
        draft.evict.append(Evict(snapshot.running.names[victim], node, claimant, "lower priority class on its nodes"))
        _give_back(snapshot, memory, row, victim)
    devices = choose_devices(memory, shape, row)
    memory.take(shape, row, tuple(device for ask in devices for device in ask))
    text = f"waits for {len(victims)} pods of lower classes to leave {node}"
    draft.hold.append(Hold(claimant, codes.NAMES[codes.WAITING_FOR_EVICTION], text, nominated_node=node))


def best_victims(snapshot: Snapshot, memory: Memory, shape: int) -> tuple[int, list[int]] | None:
    """(node row, slots of running pods) with the fewest and youngest victims; None when no eviction would help."""
    running, classes = snapshot.running, snapshot.classes
    own = int(snapshot.shapes.priority_class[shape])
    if own < 0 or not len(running.node):
        return None
    weight = np.append(classes.weight, 0)
    lower = weight[snapshot.shapes.priority_class[running.shape]] < weight[own]
    lower &= memory.preferred(shape)[running.node] & (memory.statics(shape)[running.node] == codes.FITS)
    damage = np.zeros(len(lower), np.int64)
    damage[lower] = memory.damage(shape, _int32(np.flatnonzero(lower)))
    best: tuple[tuple[int, int, int, int], int, list[int]] | None = None
    for row in np.unique(running.node[lower]).tolist():
        candidates = np.flatnonzero(lower & (running.node == row))
        order = np.lexsort((-running.started[candidates], damage[candidates]))
        victims = _enough(snapshot, memory, shape, row, _int32(candidates[order]))
        if victims is not None:
            oldest, hurt = -int(running.started[victims].min()), int(damage[victims].sum())
            cost = (hurt, len(victims), oldest, int(snapshot.nodes.tie_rank[row]))
            if best is None or cost < best[0]:
                best = (cost, row, victims)
    return (best[1], best[2]) if best else None


def _enough(snapshot: Snapshot, memory: Memory, shape: int, row: int, order: Int32) -> list[int] | None:
    """The first pods in order whose leaving makes the shape fit, without those that turn out not to be needed."""
    kept, victims = memory.keep(row), list[int]()
    try:
        for victim in order.tolist():
            if _fits(snapshot, memory, shape, row):
                break
            _give_back(snapshot, memory, row, victim)
            victims.append(victim)
        if not _fits(snapshot, memory, shape, row):
            return None
        for victim in victims[::-1]:
            before = memory.keep(row)
            _give_back(snapshot, memory, row, victim, sign=-1)
            if _fits(snapshot, memory, shape, row):
                victims.remove(victim)
            else:
                memory.restore(before)
        return victims
    finally:
        memory.restore(kept)


def _fits(snapshot: Snapshot, memory: Memory, shape: int, row: int) -> bool:
    nodes, shapes = snapshot.nodes, snapshot.shapes
    out = np.zeros(len(nodes.present), np.int8)
    fits(
        np.array([row], np.int32), memory.statics(shape), shapes.request[shape],
        shapes.ask_count[shape], shapes.ask_milli[shape], shapes.ask_memory[shape],
        memory.free, memory.device_free, memory.device_memory_free, nodes.device_count, nodes.device_memory, out,
    )  # fmt: skip
    return bool(out[row] == codes.FITS) and memory.accepts(shape, row)


def _give_back(snapshot: Snapshot, memory: Memory, row: int, victim: int, sign: int = 1) -> None:
    memory.free[row] += sign * snapshot.shapes.request[snapshot.running.shape[victim]]
    for device, milli, mib in snapshot.running.devices[victim]:
        memory.device_free[row, device] += sign * milli
        memory.device_memory_free[row, device] += sign * mib


def _int32(values: Int64) -> Int32:
    return values.astype(np.int32)
