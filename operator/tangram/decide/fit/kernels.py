"""The loops that every decision runs: what fits, which node is best, which devices, what changed."""

from typing import NamedTuple

import numpy as np

from tangram.decide.codes import (
    FITS,
    GPU_FRAGMENTED,
    INSUFFICIENT_CPU,
    INSUFFICIENT_GPU,
    INSUFFICIENT_GPU_MEMORY,
    INSUFFICIENT_MEMORY,
    INSUFFICIENT_PODS,
    INSUFFICIENT_RESOURCE,
)
from tangram.decide.jit import kernel, lean_kernel
from tangram.snapshot.arrays import CPU, MEMORY, PODS, Bool, Int8, Int32, Int64, Shapes

WHOLE = 1000


class Asked(NamedTuple):
    """What the pods of each shape ask for, as compiled code takes it."""

    request: Int64
    """[S, R]"""
    number: Int32
    """[S, A] devices, as ``Shapes.ask_count``."""
    milli: Int32
    memory: Int32
    counts_devices: Bool
    """[R]"""


class Space(NamedTuple):
    """What is free on each node row, and what the nodes' devices are."""

    free: Int64
    """[N, R]"""
    device_free: Int32
    """[N, D] milli-GPU."""
    device_memory_free: Int32
    """[N, D] MiB."""
    device_count: Int32
    device_memory: Int32


class Codes(NamedTuple):
    """Reason codes of one shape on every node row."""

    static: Int8
    """What labels, taints and models say."""
    out: Int8
    """To be written: what capacity says too."""


class Rows(NamedTuple):
    """What may be other on a node row than it was."""

    free: Int64
    device_free: Int32
    device_memory_free: Int32
    revision: Int64


class Ties(NamedTuple):
    """What decides between node rows that are equally good."""

    device_free: Int32
    """[N, D] milli-GPU left on each device."""
    device_count: Int32
    rank: Int64
    """[N] the node's place in a shuffled order that is always the same."""
    idle_last: bool
    """Those come last of which nobody uses any GPU: nothing has been learned of what idle GPUs are worth."""


def asked_by(shapes: Shapes, counts_devices: Bool) -> Asked:
    """The columns of the shapes that say what fits."""
    return Asked(shapes.request, shapes.ask_count, shapes.ask_milli, shapes.ask_memory, counts_devices)


@lean_kernel
def memory_of(milli: int, asked: int, device_memory: int) -> int:
    """MiB that an ask takes of a device: what it says, else its share of the device."""
    return asked if asked > 0 else milli * device_memory // WHOLE


@lean_kernel
def tightest(free: Int32, memory_free: Int32, count: int, milli: int, memory: int) -> int:
    """The fullest device that still has room; the lowest index among equals; -1 when none has."""
    best = -1
    for device in range(count):
        if free[device] >= milli and memory_free[device] >= memory and (best < 0 or free[device] < free[best]):
            best = device
    return best


@lean_kernel
def fits_one_ask(row: int, shape: int, asked: Asked, space: Space) -> int:
    """FITS, or why the devices of the shape's first ask are not on the node row."""
    wanted, milli = asked.number[shape, 0], asked.milli[shape, 0]
    need = memory_of(milli, asked.memory[shape, 0], space.device_memory[row])
    found, crowded, total = 0, 0, 0
    for device in range(space.device_count[row]):
        left = space.device_free[row, device]
        total += left
        if left >= milli:
            if space.device_memory_free[row, device] >= need:
                found += 1
            else:
                crowded += 1
    if found >= wanted:
        return FITS
    if found + crowded >= wanted:
        return INSUFFICIENT_GPU_MEMORY
    return GPU_FRAGMENTED if total >= wanted * milli else INSUFFICIENT_GPU


@kernel
def fits_many_asks(row: int, shape: int, asked: Asked, space: Space) -> int:
    """FITS, or why the shape's asks do not fit when each, largest first, takes the tightest devices."""
    count, number, milli = space.device_count[row], asked.number[shape], asked.milli[shape]
    left, memory_left = space.device_free[row, :count].copy(), space.device_memory_free[row, :count].copy()
    had = left.sum()
    for ask in np.argsort(-milli, kind="mergesort"):
        need = memory_of(milli[ask], asked.memory[shape, ask], space.device_memory[row])
        for _ in range(number[ask]):
            best = tightest(left, memory_left, count, milli[ask], need)
            if best < 0:
                return GPU_FRAGMENTED if had >= (number * milli).sum() else INSUFFICIENT_GPU
            left[best] -= milli[ask]
            memory_left[best] -= need
    return FITS


@lean_kernel
def short_of(row: int, shape: int, request: Int64, free: Int64, counts_devices: Bool) -> int:
    """FITS, or the code of the first resource of which the node row has too little for the shape."""
    for resource in range(request.shape[1]):
        if request[shape, resource] > 0 and free[row, resource] < request[shape, resource]:
            if resource == CPU:
                return INSUFFICIENT_CPU
            if resource == MEMORY:
                return INSUFFICIENT_MEMORY
            if resource == PODS:
                return INSUFFICIENT_PODS
            return INSUFFICIENT_GPU if counts_devices[resource] else INSUFFICIENT_RESOURCE
    return FITS


@lean_kernel
def why_not_on(row: int, shape: int, asked: Asked, space: Space) -> int:
    """FITS, or the first reason why the node row has too little for the shape; the shape has one ask at most."""
    code = short_of(row, shape, asked.request, space.free, asked.counts_devices)
    if asked.number[shape, 0] == 0 or code not in (FITS, INSUFFICIENT_GPU):
        return code
    device_code = fits_one_ask(row, shape, asked, space)
    return code if device_code == FITS else device_code


@kernel
def fits(rows: Int32, shape: int, asked: Asked, space: Space, codes: Codes) -> None:
    """Write for each row FITS or the first reason why the shape does not fit there."""
    many = asked.number.shape[1] > 1 and asked.number[shape, 1] > 0
    for row in rows:
        code = codes.static[row]
        if code == FITS and not many:
            code = why_not_on(row, shape, asked, space)
        elif code == FITS:
            code = short_of(row, shape, asked.request, space.free, asked.counts_devices)
            if code in (FITS, INSUFFICIENT_GPU):
                device_code = fits_many_asks(row, shape, asked, space)
                code = code if device_code == FITS else device_code
        codes.out[row] = code


@lean_kernel
def goes_first(row: int, other: int, ties: Ties) -> bool:
    """Whether of two equally good rows the one comes first: by rank, after those in use where idle ones come last."""
    if ties.idle_last:
        idle, other_idle = _is_idle(row, ties), _is_idle(other, ties)
        if idle != other_idle:
            return other_idle
    return bool(ties.rank[row] < ties.rank[other])


@lean_kernel
def _is_idle(row: int, ties: Ties) -> bool:
    """Whether nobody uses any GPU of the node row; without GPUs none is idle."""
    return is_idle(row, ties.device_free, ties.device_count)


@lean_kernel
def is_idle(row: int, device_free: Int32, device_count: Int32) -> bool:
    """Whether nobody uses any GPU of the node row; without GPUs none is idle."""
    for device in range(device_count[row]):
        if device_free[row, device] < WHOLE:
            return False
    return bool(device_count[row] > 0)


@lean_kernel
def best_of(score: Int32, last: Bool, rank: Int64) -> int:
    """The row of the highest score, among equals as ``goes_first`` says; -1 when no score is 0 or more.

    ``last`` [N] says which rows come last among equals. Few rows are the best: finding them costs a look at each, and
    nothing else is done for the others.
    """
    most, used, idle = -1, -1, -1
    for row in range(len(score)):
        most = max(most, score[row])
    for row in range(len(score) if most >= 0 else 0):
        if score[row] == most:
            if last[row]:
                idle = row if idle < 0 or rank[row] < rank[idle] else idle
            elif used < 0 or rank[row] < rank[used]:
                used = row
    return used if used >= 0 else idle


@lean_kernel
def best_row(score: Int32, ties: Ties, preferred: Bool) -> tuple[int, int]:
    """The best row among the preferred ones and the best of all; -1 where there is none. Equals: as ``goes_first``."""
    liked, any_row = -1, -1
    for row in range(len(score)):
        value = score[row]
        if value < 0:
            continue
        if any_row < 0 or value > score[any_row] or (
            value == score[any_row] and goes_first(row, any_row, ties)
        ):  # fmt: skip
            any_row = row
        if preferred[row] and (
            liked < 0 or value > score[liked]
            or (value == score[liked] and goes_first(row, liked, ties))
        ):  # fmt: skip
            liked = row
    return liked, any_row


@kernel
def follow(now: Rows, known: Rows, changed: Int32) -> tuple[int, bool, bool]:
    """Copy rows that differ from what is remembered; (how many there were, anything grew, any has a new revision)."""
    count, grew, described = 0, False, False
    for row in range(len(now.revision)):
        # Most rows are as they were: a sum of differences without a branch says so soonest.
        other = now.revision[row] ^ known.revision[row]
        for resource in range(now.free.shape[1]):
            other |= now.free[row, resource] ^ known.free[row, resource]
        for device in range(now.device_free.shape[1]):
            other |= now.device_free[row, device] ^ known.device_free[row, device]
            other |= now.device_memory_free[row, device] ^ known.device_memory_free[row, device]
        if other == 0:
            continue
        if now.revision[row] != known.revision[row]:
            grew = described = True
            known.revision[row] = now.revision[row]
        for resource in range(now.free.shape[1]):
            grew = grew or now.free[row, resource] > known.free[row, resource]
            known.free[row, resource] = now.free[row, resource]
        for device in range(now.device_free.shape[1]):
            grew = grew or now.device_free[row, device] > known.device_free[row, device]
            grew = grew or now.device_memory_free[row, device] > known.device_memory_free[row, device]
            known.device_free[row, device] = now.device_free[row, device]
            known.device_memory_free[row, device] = now.device_memory_free[row, device]
        changed[count] = row
        count += 1
    return count, grew, described
