"""How tenants of a GPU are kept apart: what nodes report and what pods accept, as bits that one AND compares.

A node has the bits of all modes that its devices are given out in, and a pod goes only where all of them suit it: an
agent's healthy devices all share or all do not, so nothing is lost by not looking at each.
"""

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Final

from tangram.api import names
from tangram.snapshot.arrays import EXCLUSIVE, MIG, MPS, OTHER, SHARING, TIME_SLICE, WHOLE_ONLY

_BITS: Final = {"mps": MPS, "time-slice": TIME_SLICE, "exclusive": EXCLUSIVE, "mig": MIG}
MODES: Final = tuple(_BITS)
"""The modes that an agent knows, and that a pod may name."""
_ALL = SHARING | WHOLE_ONLY | OTHER


def reported_bits(modes: Iterable[str]) -> int:
    """Bits of the modes that an agent reports of devices; a mode that is not known is ``OTHER``."""
    return reduce(or_, (_BITS.get(mode, OTHER) for mode in modes), 0)


def read_modes(text: str) -> int:
    """Bits of the modes that a pod accepts, as its annotation names them; 0: it does not say.

    Raises ValueError naming annotation, value and what is allowed.
    """
    modes = [mode.strip() for mode in text.replace(",", "|").split("|")] if text else []
    if not all(mode in _BITS for mode in modes):
        allowed = f"one or several of {', '.join(_BITS)}, such as mps|time-slice"
        raise ValueError(f"annotation {names.GPU_ISOLATION}: {text[:80]!r} is not allowed; allowed: {allowed}")
    return reported_bits(modes)


def unfit_bits(accepted: int, *, parts: bool, whole: bool) -> int:
    """Bits of the modes in which a pod cannot run that asks for ``parts`` of GPUs, for ``whole`` ones, or for both.

    A part is given out where GPUs are shared only. A whole GPU has no other tenant wherever it is, so of the modes
    that share a pod that asks for whole ones accepts all: what it says is whether it takes GPUs, MIG slices, or both.
    Where none is reported is only for pods that do not say. Raises ValueError when a part can be had in no mode
    that the pod accepts.
    """
    unfit = 0
    if parts and accepted and not accepted & SHARING:
        raise ValueError(
            f"annotation {names.GPU_ISOLATION}: a part of a GPU is asked for; allowed: mps, time-slice, or both"
        )
    if parts:
        unfit |= _ALL & ~(accepted & SHARING) if accepted else WHOLE_ONLY
    if whole and accepted & WHOLE_ONLY:
        unfit |= OTHER | (WHOLE_ONLY & ~accepted) | (0 if accepted & EXCLUSIVE else SHARING)
    return unfit
