"""Tables of rows that need more of them."""

from dataclasses import fields, replace
from typing import Any, TypeVar

import numpy as np

Table = TypeVar("Table")


def grown(table: Table, larger: Table) -> Table:
    """An empty ``larger`` table with all that a smaller one holds: its arrays in front, everything else as it is.

    Both are dataclasses of one kind; no array of the larger one has a shorter axis.
    """
    old: Any = table
    kept: dict[str, object] = {}
    for column in fields(old):
        before, after = getattr(old, column.name), getattr(larger, column.name)
        if isinstance(before, np.ndarray):
            after[tuple(map(slice, before.shape))] = before
        else:
            kept[column.name] = before
    new: Any = larger
    made: Table = replace(new, **kept)
    return made
