"""What labels, taints, models and isolation say of a shape on every node: worked out once, until a node changes."""

import numpy as np

from tangram.decide import codes
from tangram.decide.fit.kernels import WHOLE
from tangram.decide.hooks import View
from tangram.snapshot.arrays import CORDON, EXCLUSIVE, SHARING, WHOLE_ONLY, Bool, Int8, Int32

PREFERENCE = 500
"""What preferences of one kind can add to a score, for each unit of the plugins' weights: half of what a plugin can
say. A preference outweighs the usual difference between two nodes that fit and is outweighed by an extreme one."""

SPARED = 10
"""In a pool with nodes that share and nodes that do not, the latter get so many times less than a preference for whole
GPUs: enough to leave nodes that share to parts wherever another is about as good."""


def static_codes(view: View, shape: int) -> Int8:
    """[N] reason codes of the shape on every node row, before any capacity is looked at."""
    nodes, shapes = view.nodes, view.shapes
    out = np.zeros(len(nodes.present), np.int8)
    models = shapes.models[shape]
    if models:
        out[~np.isin(nodes.model, models)] = codes.GPU_MODEL_MISMATCH
    unfit = nodes.isolation & shapes.unfit_isolation[shape]
    if unfit.any():
        out[unfit != 0] = codes.ISOLATION_MISMATCH
        wants_parts = bool((shapes.ask_milli[shape] % WHOLE).any())
        out[(unfit & WHOLE_ONLY != 0) & wants_parts] = codes.SHARING_NOT_ALLOWED
    if shapes.required[shape]:
        out[~affinity_holds(view, shape)] = codes.NODE_SELECTOR_MISMATCH
    for volume in shapes.reachable[shape]:
        out[~_any_holds(view, volume)] = codes.VOLUME_MISMATCH
    bad = _unwelcome(view, shape, disliked=False)
    if len(bad):
        out[nodes.taints[bad].any(axis=0)] = codes.TAINT_NOT_TOLERATED
    if not shapes.tolerated[shape, CORDON]:
        out[nodes.taints[CORDON]] = codes.NODE_UNSCHEDULABLE
    out[~nodes.present] = codes.NO_NODES
    return out


def affinity_holds(view: View, shape: int) -> Bool:
    """[N] whether the node selector and the required node affinity hold."""
    required = view.shapes.required[shape]
    return _any_holds(view, required) if required else np.ones(len(view.nodes.present), np.bool_)


def _any_holds(view: View, alternatives: tuple[tuple[int, ...], ...]) -> Bool:
    """[N] whether all clauses of one of the alternatives hold."""
    holds = np.zeros(len(view.nodes.present), np.bool_)
    for alternative in alternatives:
        holds |= view.nodes.hold(alternative)
    return holds


def taints_tolerated(view: View, shape: int) -> Bool:
    """[N] whether the shape tolerates every taint that keeps pods away; a cordon is no taint."""
    kept_out: Bool = np.any(view.nodes.taints[_unwelcome(view, shape, disliked=False)], axis=0)
    return ~kept_out


def preferences(view: View, shape: int) -> Int32 | None:
    """[N] what preferred node affinity, the order of models and taints of effect PreferNoSchedule add to the score, and
    that whole GPUs are rather taken where GPUs are not shared; None: nothing anywhere.

    Scaled as kube-scheduler scales, though over all nodes: the most liked one gets all of ``PREFERENCE``, and so does
    one without unwelcome taints, or with GPUs of the model that is liked most.
    """
    nodes, preferred, bad = view.nodes, view.shapes.preferred[shape], _unwelcome(view, shape, disliked=True)
    wants_whole, ranks = _wants_whole(view, shape), view.shapes.model_ranks[shape]
    if not (preferred or len(bad) or wants_whole or ranks):
        return None
    out = np.zeros(len(nodes.present), np.int64)
    if preferred:
        for weight, clauses in preferred:
            out += weight * (nodes.hold(clauses) & nodes.present)
        out = out * scale(view) // max(1, int(out.max(initial=0)))
    if len(bad):
        found = nodes.taints[bad].sum(axis=0, dtype=np.int64) * nodes.present
        most = int(found.max(initial=0))
        if most:
            out += (most - found) * scale(view) // most
    for model, rank in zip(view.shapes.models[shape], ranks, strict=False):
        out[nodes.present & (nodes.model == model)] += (max(ranks) - rank) * scale(view) // max(ranks)
    if wants_whole:
        alone = nodes.present & (nodes.isolation == EXCLUSIVE)
        if alone.any() and (nodes.present & (nodes.isolation & SHARING != 0)).any():
            out[alone] += scale(view) // SPARED
    return out.astype(np.int32) if out.any() else None


def _wants_whole(view: View, shape: int) -> bool:
    """Whether the shape asks for whole GPUs and for nothing else of them."""
    milli = view.shapes.ask_milli[shape]
    return bool(milli.any()) and not (milli % WHOLE).any()


def scale(view: View) -> int:
    """The most that preferences of one kind can add to a score."""
    return PREFERENCE * max(1, sum(choice.weight for choice in view.choices))


def _unwelcome(view: View, shape: int, *, disliked: bool) -> Int32:
    """Rows of taints that the shape does not tolerate, of the ones that are disliked or of the ones that forbid."""
    nodes, tolerated = view.nodes, view.shapes.tolerated[shape]
    known = min(len(nodes.taints), len(tolerated))
    kind = np.zeros(known, np.bool_)
    kind[: len(nodes.disliked)] = nodes.disliked[:known]
    kind = kind == disliked
    kind[CORDON] = False
    found: Int32 = (kind & ~tolerated[:known]).nonzero()[0].astype(np.int32)
    return found
