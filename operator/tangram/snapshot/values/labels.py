"""Labels that plugins read: which they are, and their values as columns of small numbers."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Int32: TypeAlias = npt.NDArray[np.int32]
Bool: TypeAlias = npt.NDArray[np.bool_]

NO_LABEL = -1
"""The code of a row that does not have the label."""


@dataclass(frozen=True, slots=True)
class Reads:
    """Keys of the labels that plugins read."""

    node_labels: tuple[str, ...] = ()
    pod_labels: tuple[str, ...] = ()


NO_READS = Reads()


@dataclass(frozen=True, slots=True, eq=False)
class LabelColumn:
    """One label: a code for each row, and what the codes mean. Codes hold for one decision and mean nothing later."""

    codes: Int32
    """[N] by node row, or [S] by pod shape; -1: it does not have the label."""
    numbers: Mapping[str, int]
    """Value -> its code, of those that a node has which is there, or a pod that waits."""
    values: Mapping[int, str]
    """Code -> the value."""

    def value(self, row: int) -> str | None:
        """The label's value in a row; None: it does not have the label."""
        return self.values.get(int(self.codes[row]))

    def among(self, rows: Int32, wanted: Collection[str]) -> Bool:
        """[len(rows)] whether the label's value is one of these."""
        found: Bool = self.mapped(rows, dict.fromkeys(wanted, 1)) == 1
        return found

    def mapped(self, rows: Int32, numbers: Mapping[str, int], otherwise: int = 0) -> Int32:
        """[len(rows)] the number that stands for the label's value; ``otherwise`` where none does."""
        table = np.full(max(self.values, default=NO_LABEL) + 2, otherwise, np.int32)
        for value, number in numbers.items():
            code = self.numbers.get(value)
            if code is not None:
                table[code] = number
        found: Int32 = table[self.codes[rows]]  # the last entry stands for NO_LABEL
        return found


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The labels that the plugins in force read, by key; empty while none reads any."""

    nodes: Mapping[str, LabelColumn] = field(default_factory=dict)
    """Columns of [N]."""
    pods: Mapping[str, LabelColumn] = field(default_factory=dict)
    """Columns of [S]; rows of pods that have a place have no labels, as those are known by amounts alone."""


NO_LABELS = Labels()
