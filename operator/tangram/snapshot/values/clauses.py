"""Where clauses about nodes hold."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Named(NamedTuple):
    """A clause that gives nodes by name."""

    names: tuple[tuple[str, str], ...]
    """(label or field, value)."""
    rows: tuple[int, ...]
    """Node rows that have one of the names."""
    elsewhere: bool
    """It holds on all other rows, instead of on these."""


def all_hold(terms: npt.NDArray[np.bool_], named: Sequence[Named], clauses: Iterable[int]) -> npt.NDArray[np.bool_]:
    """[N] where all of the clauses hold, which are numbered as ``Nodes.hold`` says; ``terms`` [T, N]."""
    out = np.ones(terms.shape[1], np.bool_)
    for clause in clauses:
        if clause >= 0:
            out &= terms[clause]
        elif clause == -1:
            out[:] = False
        else:
            names, here = named[-2 - clause], np.zeros(len(out), np.bool_)
            here[list(names.rows)] = True
            out &= here ^ names.elsewhere
    return out
