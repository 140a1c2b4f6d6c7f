"""Why pods wait: one dominant reason and a sentence, written once per reason and not once per cycle."""

from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from tangram import units
from tangram.decide import codes, shortage
from tangram.decide.decision import Decision
from tangram.decide.fit.kernels import Codes, Space, asked_by, fits
from tangram.decide.gangs import topology
from tangram.decide.gangs.gang import needed_members, needs_of
from tangram.decide.preempt.words import waits_for
from tangram.decide.queues.balance import kept_back
from tangram.decide.queues.fairness import charge_of
from tangram.decide.reported import Reported
from tangram.plan import Hold
from tangram.snapshot.arrays import STRICT, UNLIMITED, Bool, Int8, Int32, Snapshot

_AT_MOST = 1000
"""Reasons written in one cycle: the rest follow in the next ones."""
_GOES_AWAY = np.isin(np.arange(len(codes.NAMES)), (codes.FITS, *codes.OCCUPIED))
"""By code whether a node may take a pod once others have left it."""
_UNITS = {"cpu": "CPUs", "memory": "GiB of memory", "gpu": "GPUs"}
"""Of the columns of queues that come before those of single GPU models."""


FAILS = "of the policy fails"
"""What is said of a plugin without whose word a pod is placed nowhere."""


def holds(decision: Decision, reported: Reported | None = None, *, full: bool = False) -> list[Hold]:
    """Why pods wait: all that do, or with ``reported`` the news only, of which some may follow in the next cycles.

    ``full``: the batch was full before everybody had a turn, so that of pods that fit nowhere the next cycle knows."""
    snapshot, draft = decision.snapshot, decision.draft
    pending, most = snapshot.pending, _AT_MOST if reported is not None else len(snapshot.pending.waiting)
    known = reported if reported is not None else _nothing(len(pending.waiting))
    out = [
        Hold(pending.names[slot], reason, why)
        for slot, (reason, why) in pending.invalid.items()
        if known.code[slot] != codes.NAMES.index(reason) or known.sentence.get(slot) != why
    ]
    out = sorted(out, key=lambda hold: hold.pod)[:most]
    if np.count_nonzero(pending.waiting) == len(draft.placed):
        return out  # nobody waits any more
    volumes_first = [place.pod.uid for claim in draft.claims if claim.volumes for place in claim.places]
    going = {*(one.place.pod.uid for one in draft.placed), *volumes_first}
    out += _claims(snapshot, known, going)
    behind = decision.rivals.behind()
    out += _behind(snapshot, known, {slot: why for slot, why in behind.items() if pending.names[slot].uid not in going})
    slots = np.flatnonzero(pending.waiting & (pending.claim < 0)).astype(np.int32)
    if others := [*draft.claimants, *behind, *decision.rivals.put_off(draft)]:
        slots = slots[~np.isin(slots, others)]
    return out + _of_slots(decision, _Asked(slots, known, going, most, full)) if len(slots) else out


Sentences: TypeAlias = dict[tuple[int, int], str]
"""(gang row, or -1, and shape) -> why such pods wait."""


def renewed(decision: Decision, reported: Reported, known: Sentences) -> list[Hold]:
    """What is said otherwise now of pods that are due, where all others wait for what has been reported of them.

    ``known``: what has been found by the same decision, to be added to.
    """
    due = np.array(sorted(reported.due), np.int32)
    slots = due[(decision.snapshot.pending.waiting & (decision.snapshot.pending.claim < 0))[due]]
    if others := [*decision.draft.claimants, *decision.rivals.behind()]:
        slots = slots[~np.isin(slots, others)]
    asked = _Asked(slots, reported, set(), _AT_MOST, full=False, sentences=known)
    return _of_slots(decision, asked) if len(slots) else []


def _nothing(slots: int) -> Reported:
    return Reported(np.full(slots, -1, np.int8), np.full(slots, -1, np.int32), {})


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """Of whom to say why they wait."""

    slots: Int32
    known: Reported
    going: set[str]
    """Uids of pods that get a place in this cycle."""
    most: int
    full: bool
    """Not everybody has had a turn."""
    sentences: Sentences = field(default_factory=dict)

    def may_have_changed(self, code: Int8) -> Bool:
        """[S] for which of the slots there may be another reason, or sentence, than was reported; ``code`` [S]."""
        found: Bool = code != self.known.code[self.slots]
        return found | np.isin(self.slots, list(self.known.due)) if self.known.due else found


def _of_slots(decision: Decision, asked: _Asked) -> list[Hold]:
    """Why the pods of the slots wait for which nobody leaves."""
    snapshot, gang_codes, slots = decision.snapshot, decision.draft.gang_codes, asked.slots
    pending = snapshot.pending
    shape_code = _shapes(decision, slots, full=asked.full)
    code = shape_code[pending.shape[slots]]
    alone_or_failed = pending.gang[slots] < 0
    if gang_codes:
        of_gang_row = np.full(len(snapshot.gangs.names) + 1, -1, np.int8)
        of_gang_row[list(gang_codes)] = list(gang_codes.values())
        of_gangs = of_gang_row[pending.gang[slots]]
        code, alone_or_failed = np.where(of_gangs >= 0, of_gangs, code), alone_or_failed | (of_gangs >= 0)
    unreported = slots[(code > 0) & asked.may_have_changed(code) & alone_or_failed]
    if not len(unreported):
        return []
    order = np.lexsort([pending.tie[unreported], pending.created[unreported]])
    out: list[Hold] = []
    for slot in [slot for slot in unreported[order].tolist() if pending.names[slot].uid not in asked.going][
        : asked.most
    ]:
        gang, shape = int(pending.gang[slot]), int(pending.shape[slot])
        found = gang_codes[gang] if gang >= 0 else int(shape_code[shape])
        text = asked.sentences.get((gang, shape), "")
        if not text:
            one = gang_sentence(decision, gang, shape) if gang >= 0 else _sentence_of(decision, shape, found)
            text = asked.sentences[gang, shape] = one
        if slot in asked.known.refused and (said := _still_said(decision, shape, *asked.known.refused[slot])):
            text = f"{text}; {said}"
        if found != asked.known.code[slot] or text != asked.known.sentence.get(slot):
            name = snapshot.gangs.names[gang] if gang >= 0 else ""
            out.append(Hold(pending.names[slot], codes.NAMES[found], text, name))
    return out


def _still_said(decision: Decision, shape: int, row: int, sentence: str) -> str:
    """A sentence about an eviction that was refused on a node row (-1: any); empty: the node is not for the shape any
    more, be it empty, as it has been cordoned, say."""
    if row < 0:
        return sentence
    decision.scores.scores(shape)
    return "" if decision.scores.reasons(shape)[row] in (*codes.STATIC, codes.NO_NODES) else sentence


def _sentence_of(decision: Decision, shape: int, code: int) -> str:
    """The message for pods of a shape that stand alone, by the reason that was found."""
    if code == codes.RESERVED:
        return held_sentence(decision)
    if code == codes.QUEUE_LIMIT:
        return limit_sentence(decision, [shape], "the pod asks")
    return sentence(decision, shape)


def _shapes(decision: Decision, slots: Int32, *, full: bool) -> Int8:
    """[S] reason code, -1: none, of the shapes of waiting slots."""
    snapshot, scores, draft = decision.snapshot, decision.scores, decision.draft
    code: Int8 = np.full(len(snapshot.shapes.priority_class), -1, np.int8)
    shapes = snapshot.pending.shape[slots]
    # A full batch ends a cycle before everybody's turn: the next one has these reasons.
    for shape in [] if full else np.unique(shapes[scores.dead_shapes()[shapes]]).tolist():
        if not decision.turns.may_use(shape):  # whether before or after its turn, if it had one, must not matter
            draft.note_over_limit(shape)
            continue
        known = scores.why_not.get(shape)
        if known is None or known[0] != scores.state:
            known = scores.why_not[shape] = (scores.state, why_not(decision, shape)[0])
        code[shape] = known[1]
    for shape in sorted(draft.held_back):
        code[shape] = codes.RESERVED
    for shape in [] if full else sorted(draft.over_limit):
        code[shape] = codes.QUEUE_LIMIT
    return code


def _claims(snapshot: Snapshot, known: Reported, going: set[str]) -> list[Hold]:
    """The reason of pods for which others are leaving already."""
    pending, name = snapshot.pending, codes.NAMES[codes.WAITING_FOR_EVICTION]
    said = (known.code == codes.WAITING_FOR_EVICTION) & (known.node == pending.claim)
    found = []
    for slot in np.flatnonzero(pending.waiting & (pending.claim >= 0) & ~said).tolist():
        node = snapshot.nodes.names[int(pending.claim[slot])]
        if pending.names[slot].uid not in going:
            found.append(Hold(pending.names[slot], name, waits_for(node), nominated_node=node))
    return sorted(found, key=lambda hold: hold.pod)


def _behind(snapshot: Snapshot, known: Reported, behind: dict[int, tuple[str, int]]) -> list[Hold]:
    """The reason of pods that name a claim of one for whom others leave."""
    names, reason, found = snapshot.pending.names, codes.NAMES[codes.VOLUME_NOT_READY], list[Hold]()
    for slot, (claim, first) in behind.items():
        why = f"claim {claim} is also named by {names[first]}, which comes first: its node decides where the volume is"
        if known.code[slot] != codes.VOLUME_NOT_READY or known.sentence.get(slot) != why:
            found.append(Hold(names[slot], reason, why))
    return sorted(found, key=lambda hold: hold.pod)


def why_not(decision: Decision, shape: int) -> tuple[int, Int8]:
    """(dominant reason code, why each node that is there does not take it) for a shape that fits nowhere."""
    snapshot, scores = decision.snapshot, decision.scores
    present = snapshot.nodes.present
    scores.scores(shape)
    found: Int8 = scores.reasons(shape)[present]
    if not len(found):
        return codes.NO_NODES, found
    empty = when_empty(decision, shape)[present]
    able = empty == codes.FITS
    if not np.count_nonzero(able):
        return codes.EXCEEDS_NODE_CAPACITY, empty
    if snapshot.classes.fallback == STRICT and scores.has_class_nodes(shape):
        elsewhere = ~scores.preferred(shape)[present] & (found == codes.FITS)
        found[elsewhere] = codes.NODE_SELECTOR_MISMATCH
        if elsewhere.any() and not np.isin(found[able], codes.STATIC).all():
            return codes.CLASS_NODES_FULL, found
    return dominant(found[able]), found


def sentence(decision: Decision, shape: int) -> str:
    """The message for pods of a shape that fits nowhere."""
    code, found = why_not(decision, shape)
    if code == codes.NO_NODES:
        return "the cluster has no nodes"
    if code == codes.EXCEEDS_NODE_CAPACITY:
        return f"the pod exceeds the capacity of every node: {_counted(decision, shape, found, empty=True)}"
    text = f"0/{len(found)} nodes are available: {_counted(decision, shape, found)}"
    if code == codes.CLASS_NODES_FULL:
        return f"{text}; only nodes that its priority class does not prefer have room"
    return "; ".join([text, *_whats_more(decision, shape, found)])


def _whats_more(decision: Decision, shape: int, found: Int8) -> list[str]:
    """What is to be said beside how many nodes do not take a pod of the shape; ``found``: why each that is there."""
    return [
        *_who_fails(decision, shape, found),
        *_emptiest_domains(decision, shape, found),
        *_nobody_leaves(decision, shape, found),
    ]


def _who_fails(decision: Decision, shape: int, found: Int8) -> list[str]:
    """The plugins that forbid nodes, or may do so, and fail."""
    if codes.PLUGIN_REJECTED not in found:
        return []
    plugins = decision.scores.plugins
    return [
        f"plugin {name} {FAILS}, and the pod is placed nowhere without its word: {plugins.faults[name]}"
        for name in plugins.failing(shape)
    ]


_KEPT_OFF = {
    "nodeAffinityPolicy": "do not match the pod's node selector or affinity",
    "nodeTaintsPolicy": "have taints that the pod does not tolerate",
}
"""By policy of a topology spread constraint what is true of nodes that count towards the skew unless it is Honor."""


def _emptiest_domains(decision: Decision, shape: int, found: Int8) -> list[str]:
    """What makes the emptiest domains of a pod's topology spread constraints ones that it can never use; nothing where
    no such constraint is in the way. ``found``: why each node that is there does not take it."""
    if codes.TOPOLOGY_SPREAD not in found:
        return []
    unusable, nodes = decision.pool.neighbours.out_of_reach(decision.scores.view, shape), decision.snapshot.nodes.names
    return [
        f"the nodes of the emptiest domain (such as {nodes[row]}) {_KEPT_OFF[policy]}, and count towards the skew "
        f"unless {policy} is Honor"
        for policy, row in unusable
    ]


def _nobody_leaves(decision: Decision, shape: int, found: Int8) -> list[str]:
    """What keeps others from being evicted for a pod of the shape; nothing where no eviction would make it fit.

    ``found``: why each node that is there does not take it."""
    snapshot = decision.snapshot
    large_enough = when_empty(decision, shape)[snapshot.nodes.present] == codes.FITS
    if not _GOES_AWAY[found[large_enough]].any():
        return []
    parts = kept_back(snapshot, shape), _uncertain(snapshot, shape), shortage.avoided(snapshot, shape)
    return [part for part in parts if part]


def _uncertain(snapshot: Snapshot, shape: int) -> str:
    """On how many nodes nobody can be evicted for a pod that asks for GPUs; empty: on none, or nobody can anywhere."""
    nodes = snapshot.nodes
    count = np.count_nonzero(nodes.uncertain & nodes.present) if len(nodes.uncertain) else 0
    if not count or not snapshot.shapes.ask_count[shape].any() or not snapshot.running.present.any():
        return ""
    where = "1 node, where it is unknown which GPUs its pods hold" if count == 1 else (
        f"{count} nodes, where it is unknown which GPUs their pods hold"
    )  # fmt: skip
    return f"preemption is not possible on {where}"


def _counted(decision: Decision, shape: int, found: Int8, *, empty: bool = False) -> str:
    return ", ".join(f"{part.nodes} {part.sentence}" for part in shortage.parts(decision, shape, found, empty=empty))


def dominant(able: Int8) -> int:
    """The reason to name first, of those of the nodes that are large enough: the commonest that time can change, else
    the commonest."""
    counts = np.bincount(able, minlength=len(codes.NAMES)).tolist()
    there = [code for code in range(1, len(counts)) if counts[code]]
    moving = [code for code in there if code not in codes.STATIC]
    return max(moving or there or [codes.NO_NODES], key=counts.__getitem__)  # of equally common ones the first


def when_empty(decision: Decision, shape: int) -> Int8:
    """[N] why the shape would not fit on each node row if nothing else were there and labels did not matter."""
    snapshot, scores = decision.snapshot, decision.scores
    known = scores.when_empty.get(shape)
    if known is not None:
        return known
    nodes, shapes = snapshot.nodes, snapshot.shapes
    rows = np.flatnonzero(nodes.present).astype(np.int32)
    exists = np.arange(nodes.device_free.shape[1]) < nodes.device_count[:, None]
    out: Int8 = np.zeros(len(nodes.present), np.int8)
    devices = np.where(exists, 1000, 0).astype(np.int32)
    memory = np.where(exists, nodes.device_memory[:, None], 0).astype(np.int32)
    space = Space(nodes.capacity, devices, memory, nodes.device_count, nodes.device_memory)
    fits(rows, shape, asked_by(shapes, nodes.counts_devices), space, Codes(out, out))
    scores.when_empty[shape] = out
    return out


def limit_sentence(decision: Decision, shapes: list[int], who_asks: str) -> str:
    """Which limits pods of the shapes would exceed together, by what the queues use by now: of single GPU models only
    where no other limit is in the way."""
    queues = decision.snapshot.queues
    asked = _asked_of_queues(decision, shapes)
    over = [
        (row, column)
        for row, amounts in asked.items()
        for column, amount in enumerate(amounts)
        if amount and decision.turns.used(row)[column] + amount > queues.limit[row, column]
    ]
    limited = [(row, column) for row in asked for column in np.flatnonzero(queues.limit[row] < UNLIMITED).tolist()]
    of_models = len(_UNITS)
    found = []
    # A pod whose turn came when others were in the way, who have been rolled back since, is told of all limits.
    for row, column in [one for one in over if one[1] < of_models] or over or limited:
        name, limit, amount = queues.columns[column], int(queues.limit[row, column]), asked[row][column]
        used = f"{_amount(name, decision.turns.used(row)[column])} of {_amount(name, limit)} {_unit(name)}"
        wanted = f"{who_asks} for {_amount(name, amount)}"
        more = f" {_unit(name)}, more than the limit" if amount > limit else ""
        found.append(f"queue {queues.names[row]} uses {used}, and {wanted}{more}")
    return "; ".join(found)


def _asked_of_queues(decision: Decision, shapes: list[int]) -> dict[int, list[int]]:
    """Queue row -> [X] what pods of the shapes would use of it together, of every GPU model that they may get."""
    snapshot, queues = decision.snapshot, decision.snapshot.queues
    asked: dict[int, list[int]] = {}
    for shape in shapes:
        models = snapshot.shapes.models[shape] or range(len(snapshot.models))
        charges = [charge_of(snapshot, shape, model) for model in (-1, *models)]
        row, most = int(snapshot.shapes.leaf[shape]), np.max(charges, axis=0).tolist()
        while row >= 0:
            before = asked.get(row, [0] * len(most))
            asked[row] = [one + other for one, other in zip(before, most, strict=True)]
            row = int(queues.parent[row])
    return asked


def held_sentence(decision: Decision) -> str:
    """Why nodes with room are not for a pod: somebody who came before it needs them."""
    held = decision.draft.reservation
    if held is None:
        return ""
    nodes = f"{len(held.rows)} {'node is' if len(held.rows) == 1 else 'nodes are'} reserved for {held.whose}"
    if held.start:
        when = (
            "starts once enough pods have ended; until then only pods with a shorter estimated-duration may run there"
        )
        return f"{nodes}, which is first in line and {when}"
    return f"{nodes}, which is first in line and has been pending for a long time"


def _amount(column: str, amount: int) -> str:
    """An amount of a queue's column in the unit of ``_unit``."""
    return f"{amount / (units.MIB_PER_GIB if column == 'memory' else units.MILLI_PER_GPU):g}"


def _unit(column: str) -> str:
    return _UNITS.get(column, f"{column[4:]} GPUs")


def gang_sentence(decision: Decision, gang: int, shape: int) -> str:
    """A sentence for the members of a gang that waits."""
    snapshot, scores = decision.snapshot, decision.scores
    gangs, code = snapshot.gangs, decision.draft.gang_codes[gang]
    if code == codes.RESERVED:
        return held_sentence(decision)
    name, missing = gangs.names[gang], _without_a_place(decision, gang)
    if code == codes.TOPOLOGY_DOMAIN_FULL:
        return topology.sentence(decision, gang)
    if code == codes.QUEUE_LIMIT and missing <= 1:
        return limit_sentence(decision, [shape], "the pod asks")
    if code == codes.QUEUE_LIMIT:
        slots = np.flatnonzero(snapshot.pending.waiting & (snapshot.pending.gang == gang)).tolist()
        shapes = snapshot.pending.shape[needed_members(snapshot, gang, slots)].tolist()
        return f"gang {name} needs {missing} pods at once; {limit_sentence(decision, shapes, 'they ask')}"
    if code == codes.GANG_INCOMPLETE:
        return _who_lacks(snapshot, gang)
    if code == codes.GANG_TIMEOUT:
        gone = "; its bound members are evicted" if gangs.bound[gang] else ""
        have, least = int(gangs.bound[gang] + gangs.finished[gang]), int(gangs.minimum[gang])
        complete = have + gangs.waiting[gang] >= least  # then it is their places that are missing
        lacks = f"gang {name} has {have} of at least {least} members bound" if complete else _who_lacks(snapshot, gang)
        return f"{lacks}, after its timeout of {gangs.timeout[gang]}s{gone}"
    if missing <= 1:
        return sentence(decision, shape)
    scores.scores(shape)
    found = scores.reasons(shape)[snapshot.nodes.present]
    able = f"{np.count_nonzero(found == codes.FITS)}/{len(found)} nodes can run one of them"
    counted = f": {text}" if (text := _counted(decision, shape, found)) else ""
    more = _whats_more(decision, shape, found)
    return "; ".join([f"gang {name} needs {missing} pods at once", f"{able}{counted}", *more])


def _without_a_place(decision: Decision, gang: int) -> int:
    """Members that have yet to get a place together for the gang to be whole; 0 or less: it is, and each further one
    waits for itself. Who gets a place now, or holds one, is not among them."""
    snapshot, draft = decision.snapshot, decision.draft
    pending, needs, placed = snapshot.pending, needs_of(snapshot, gang), draft.going
    slots = np.flatnonzero(pending.waiting & (pending.gang == gang)).tolist()
    held = (slot for slot in slots if pending.claim[slot] >= 0 or slot in draft.claimants or slot in placed)
    spare = needs.spare([pending.role[slot] for slot in held])
    return max(-spare.pop(""), sum(max(0, -number) for number in spare.values()))


def _who_lacks(snapshot: Snapshot, gang: int) -> str:
    """How many members a gang needs and has, in all and of the roles that lack some."""
    gangs = snapshot.gangs
    exist = int(gangs.waiting[gang] + gangs.bound[gang] + gangs.finished[gang])
    sentence = f"gang {gangs.names[gang]} has {exist} of at least {int(gangs.minimum[gang])} members"
    lacking = [f"{lack} of role {role}" for role, lack in sorted(gangs.role_missing(gang).items())]
    return f"{sentence}; not bound yet: {', '.join(lacking)}" if lacking else sentence
