"""Why pods wait: one dominant reason and a sentence, written once per reason and not once per look."""

import numpy as np

from tangram.decide import codes
from tangram.decide.draft import Draft
from tangram.decide.kernels import fits
from tangram.decide.memory import Memory
from tangram.plan import Hold
from tangram.snapshot.arrays import STRICT, UNLIMITED, Int8, Snapshot

_AT_MOST = 1000
"""Reasons written in one cycle: the rest follow in the next ones."""


def holds(snapshot: Snapshot, memory: Memory, draft: Draft) -> list[Hold]:
    """Reasons for the pods that wait and have not been told this reason yet."""
    pending, gang_codes = snapshot.pending, draft.gang_codes
    out = [
        Hold(pending.names[slot], reason, why)
        for slot, (reason, why) in sorted(pending.invalid.items())
        if pending.told[slot] != codes.NAMES.index(reason)
    ][:_AT_MOST]
    slots = np.flatnonzero(pending.waiting)
    if not len(slots):
        return out
    shape_code = np.full(len(snapshot.shapes.priority_class), -1, np.int8)
    sentences: dict[int, str] = {}
    for shape in np.unique(pending.shape[slots][memory.dead_shapes()[pending.shape[slots]]]).tolist():
        shape_code[shape], sentences[shape] = why_not(snapshot, memory, shape)
    for shape in sorted(draft.over_limit):
        shape_code[shape], sentences[shape] = codes.QUEUE_LIMIT, limit_sentence(snapshot, shape)
    code = shape_code[pending.shape[slots]]
    for gang, gang_code in gang_codes.items():
        code[pending.gang[slots] == gang] = gang_code
    alone_or_failed = (pending.gang[slots] < 0) | np.isin(pending.gang[slots], list(gang_codes))
    untold = slots[(code > 0) & (code != pending.told[slots]) & alone_or_failed]
    order = np.lexsort([pending.tie[untold], pending.created[untold]])
    placed = {place.pod for place in draft.place}
    for slot in [slot for slot in untold[order].tolist() if pending.names[slot] not in placed][:_AT_MOST]:
        gang, shape = int(pending.gang[slot]), int(pending.shape[slot])
        if gang >= 0:
            text = gang_sentence(snapshot, memory, gang, gang_codes[gang], shape)
            out.append(Hold(pending.names[slot], codes.NAMES[gang_codes[gang]], text, snapshot.gangs.names[gang]))
        else:
            out.append(Hold(pending.names[slot], codes.NAMES[shape_code[shape]], sentences[shape]))
    return out


def why_not(snapshot: Snapshot, memory: Memory, shape: int) -> tuple[int, str]:
    """(dominant reason code, sentence) for a shape that fits nowhere."""
    present = snapshot.nodes.present
    total = int(present.sum())
    if not total:
        return codes.NO_NODES, "there are no nodes"
    memory.scores(shape)
    found = memory.reasons(shape)[present].copy()
    if snapshot.classes.fallback == STRICT and memory.has_class_nodes(shape):
        outside = ~memory.preferred(shape)[present]
        found[outside & (found == codes.FITS)] = codes.NODE_SELECTOR_MISMATCH
    counts = np.bincount(found, minlength=len(codes.NAMES))
    parts = [
        f"{count} {codes.SENTENCES[code]}"
        for code, count in sorted(enumerate(counts.tolist()), key=lambda item: (-item[1], item[0]))
        if count and code in codes.SENTENCES
    ]
    sentence = f"0 of {total} nodes fit: {', '.join(parts)}"
    never = never_fits(snapshot, memory, shape)
    if never is not None:
        return codes.NEVER_FITS, f"no node could hold this pod even when empty: {never}"
    return dominant(counts.tolist()), sentence


def dominant(counts: list[int]) -> int:
    """The reason to name first: the commonest among nodes that could be freed, else the commonest of all."""
    moving = [code for code in range(1, len(counts)) if counts[code] and code not in codes.STATIC]
    among = moving or [code for code in codes.STATIC if counts[code]] or [codes.NO_NODES]
    return max(among, key=lambda code: (counts[code], -code))


def never_fits(snapshot: Snapshot, memory: Memory, shape: int) -> str | None:
    """The sentence of why no node could ever hold the shape; None when some empty node could."""
    nodes, shapes = snapshot.nodes, snapshot.shapes
    rows = np.flatnonzero(nodes.present).astype(np.int32)
    exists = np.arange(nodes.device_free.shape[1]) < nodes.device_count[:, None]
    out: Int8 = np.zeros(len(nodes.present), np.int8)
    fits(
        rows, memory.statics(shape), shapes.request[shape],
        shapes.ask_count[shape], shapes.ask_milli[shape], shapes.ask_memory[shape],
        nodes.capacity, np.where(exists, 1000, 0).astype(np.int32),
        np.where(exists, nodes.device_memory[:, None], 0).astype(np.int32),
        nodes.device_count, nodes.device_memory, out,
    )  # fmt: skip
    if (out[rows] == codes.FITS).any():
        return None
    counts = np.bincount(out[rows], minlength=len(codes.NAMES)).tolist()
    return ", ".join(
        f"{count} {codes.SENTENCES[code].replace('free ', '')}"
        for code, count in enumerate(counts)
        if count and code in codes.SENTENCES
    )


def limit_sentence(snapshot: Snapshot, shape: int) -> str:
    """Which queue on the way up is at which limit."""
    queues, row = snapshot.queues, int(snapshot.shapes.leaf[shape])
    found = []
    while row >= 0:
        for column, name in enumerate(queues.columns):
            limit = int(queues.limit[row, column])
            if limit < UNLIMITED:
                found.append(f"queue {queues.names[row]} uses {queues.usage[row, column]} of {limit} {_unit(name)}")
        row = int(queues.parent[row])
    return "; ".join(found)


def _unit(column: str) -> str:
    return {"cpu": "milli-CPU", "memory": "MiB of memory", "gpu": "milli-GPU"}.get(column, f"milli-GPU of {column[4:]}")


def gang_sentence(snapshot: Snapshot, memory: Memory, gang: int, code: int, shape: int) -> str:
    """A sentence for the members of a gang that waits."""
    gangs = snapshot.gangs
    name, minimum, bound = gangs.names[gang], int(gangs.minimum[gang]), int(gangs.bound[gang])
    if code == codes.QUEUE_LIMIT:
        return f"gang {name} needs {minimum - bound} members at once; {limit_sentence(snapshot, shape)}"
    if code == codes.GANG_INCOMPLETE:
        return f"gang {name} needs {minimum} members, {int(gangs.waiting[gang]) + bound} exist"
    counts = np.bincount(memory.reasons(shape)[snapshot.nodes.present], minlength=len(codes.NAMES))
    parts = [
        f"{count} {codes.SENTENCES[c]}" for c, count in enumerate(counts.tolist()) if count and c in codes.SENTENCES
    ]
    fitting = f"; now {', '.join(parts)}" if parts else ""
    return f"gang {name} needs {minimum - bound} nodes at once for its members and they do not fit together{fitting}"
