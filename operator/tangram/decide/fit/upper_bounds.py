"""How many equal pods a node could hold at most: quick, never too few, and never fewer where more is free."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tangram.decide.fit.kernels import Asked, Space, memory_of
from tangram.decide.jit import kernel
from tangram.snapshot.arrays import Bool, Int64


class Group(NamedTuple):
    """Equal pods that are to be placed with others."""

    shape: int
    number: int
    rows: Bool
    """[N] node rows that they may use."""


@kernel
def most_on(row: int, most: int, shape: int, asked: Asked, space: Space) -> int:
    """How many pods of a shape a node row holds at most, up to ``most``; each ask is counted as if it were alone."""
    room = most
    for resource in range(asked.request.shape[1]):
        if asked.request[shape, resource] > 0:
            room = min(room, space.free[row, resource] // asked.request[shape, resource])
    for ask in range(asked.number.shape[1]):
        if asked.number[shape, ask] > 0 and room > 0:
            milli, parts = asked.milli[shape, ask], 0
            need = memory_of(milli, asked.memory[shape, ask], space.device_memory[row])
            for device in range(space.device_count[row]):
                part = space.device_free[row, device] // milli
                part = min(part, space.device_memory_free[row, device] // need) if need > 0 else part
                parts += max(part, 0)  # a device that holds too much takes nothing from the others
            room = min(room, parts // asked.number[shape, ask])
    return max(room, 0)


@kernel
def most_in_all(rows: Bool, most: int, shape: int, asked: Asked, space: Space) -> int:
    """How many pods of a shape these node rows [N] hold at most together, up to ``most``."""
    total = 0
    for row in range(len(rows)):
        if rows[row] and total < most:
            total += most_on(row, most - total, shape, asked, space)
    return total


@kernel
def copies(fitting: Bool, most: int, shape: int, asked: Asked, space: Space) -> Int64:
    """[N] as ``most_on``, of the fitting nodes; 0 for the others."""
    out = np.zeros(len(fitting), np.int64)
    for row in range(len(fitting)):
        if fitting[row]:
            out[row] = most_on(row, most, shape, asked, space)
    return out


def most_together(groups: Sequence[Group], asked: Asked, space: Space) -> tuple[list[int], int]:
    """(how many pods of each group fit at most if the nodes are all for it; milli-GPU on the nodes that hold any)."""
    held = [copies(one.rows, one.number, one.shape, asked, space) for one in groups]
    used = np.any([one > 0 for one in held], axis=0)
    left = int(np.maximum(space.device_free[used], 0).sum(dtype=np.int64))
    return [min(one.number, int(there.sum())) for one, there in zip(groups, held, strict=True)], left
