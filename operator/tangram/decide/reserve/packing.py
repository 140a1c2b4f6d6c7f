"""How many pods fit where once others have gone: the loops behind reservations."""

from typing import NamedTuple

import numpy as np

from tangram.decide.codes import FITS
from tangram.decide.fit.kernels import Asked, Space, memory_of, short_of, tightest
from tangram.decide.jit import kernel
from tangram.snapshot.arrays import Bool, Int32, Int64


class Held(NamedTuple):
    """What pods hold, by slot; columns as in ``arrays.Departures``."""

    node: Int32
    shape: Int32
    milli: Int32
    memory: Int32


class Wanted(NamedTuple):
    """Equal pods that are to be placed together."""

    shape: int
    number: int
    rows: Bool
    """[N] node rows that they may use."""
    out: Int32
    """[N] to be written: how many of them fit on each of the rows, 0 for the others."""


class Ends(NamedTuple):
    """When pods leave."""

    order: Int64
    """Slots in the order in which they leave."""
    moment: Int64
    """By slot."""
    held: Held


@kernel
def place_copies(row: int, shape: int, most: int, space: Space, asked: Asked) -> int:
    """Put as many pods of a shape on a node row as fit, ``most`` at most; how many they are."""
    order = np.argsort(-asked.milli[shape], kind="mergesort")
    count, size = space.device_count[row], space.device_memory[row]
    for placed in range(most):
        if short_of(row, shape, asked.request, space.free, asked.counts_devices) != FITS:
            return placed
        devices, memory = space.device_free[row].copy(), space.device_memory_free[row].copy()
        for ask in order:
            milli = asked.milli[shape, ask]
            need = memory_of(milli, asked.memory[shape, ask], size)
            for _ in range(asked.number[shape, ask]):
                best = tightest(devices, memory, count, milli, need)
                if best < 0:
                    return placed
                devices[best] -= milli
                memory[best] -= need
        space.free[row] -= asked.request[shape]
        space.device_free[row] = devices
        space.device_memory_free[row] = memory
    return most


@kernel
def copies_of(row: int, shape: int, most: int, space: Space, asked: Asked) -> int:
    """How many pods of a shape fit on a node row together, ``most`` at most; nothing changes."""
    free, devices = space.free[row].copy(), space.device_free[row].copy()
    memory = space.device_memory_free[row].copy()
    found = place_copies(row, shape, most, space, asked)
    space.free[row] = free
    space.device_free[row] = devices
    space.device_memory_free[row] = memory
    return found


@kernel
def copies_on(wanted: Wanted, space: Space, asked: Asked) -> int:
    """Write how many of the pods fit on each of the rows; the sum."""
    total = 0
    for row in range(len(wanted.rows)):
        wanted.out[row] = copies_of(row, wanted.shape, wanted.number, space, asked) if wanted.rows[row] else 0
        total += wanted.out[row]
    return total


@kernel
def leave(slots: Int64, held: Held, asked: Asked, space: Space) -> None:
    """Let the pods of these slots leave their node rows."""
    width = min(held.milli.shape[1], space.device_free.shape[1])
    for slot in slots:
        row = held.node[slot]
        space.free[row] += asked.request[held.shape[slot]]
        for device in range(width):
            space.device_free[row, device] += held.milli[slot, device]
            space.device_memory_free[row, device] += held.memory[slot, device]


@kernel
def wait_for(wanted: Wanted, first: int, ends: Ends, space: Space, asked: Asked) -> int:
    """Let pods leave in order, from the ``first``, until all that are wanted fit together.

    How many of the order have left then, -1 when all leave in vain; ``out`` holds how many fit on each row.
    """
    total, gone, order = copies_on(wanted, space, asked), first, ends.order
    while total < wanted.number:
        if gone == len(order):
            return -1
        moment = ends.moment[order[gone]]
        while gone < len(order) and ends.moment[order[gone]] == moment:
            leave(order[gone : gone + 1], ends.held, asked, space)
            row = ends.held.node[order[gone]]
            if wanted.rows[row]:
                total -= wanted.out[row]
                wanted.out[row] = copies_of(row, wanted.shape, wanted.number, space, asked)
                total += wanted.out[row]
            gone += 1
    return gone
