"""Tables that need more rows keep what they hold."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tangram.snapshot.values.growing import grown


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    names: list[str]
    amounts: npt.NDArray[np.int64]
    parts: npt.NDArray[np.int32]


def empty(rows: int, columns: int) -> Table:
    return Table([], np.zeros(rows, np.int64), np.full((rows, columns), -1, np.int32))


def test_what_a_table_holds_is_in_front_of_the_larger_one() -> None:
    small = Table(["a"], np.array([7]), np.array([[1, 2]], np.int32))
    large = grown(small, empty(2, 3))
    assert large.names is small.names
    assert large.amounts.tolist() == [7, 0]
    assert large.parts.tolist() == [[1, 2, -1], [-1, -1, -1]]
