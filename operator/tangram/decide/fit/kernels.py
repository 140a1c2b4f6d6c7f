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
def fits_one_ask(
    row: int, device_free: Int32, device_memory_free: Int32, count: int, device_memory: int,
    wanted: int, milli: int, memory: int,
) -> int:  # fmt: skip
    """FITS, or why ``wanted`` devices with ``milli`` left on each are not on the node row."""
    need = memory_of(milli, memory, device_memory)
    found, crowded, total = 0, 0, 0
    for device in range(count):
        left = device_free[row, device]
        total += left
        if left >= milli:
            if device_memory_free[row, device] >= need:
                found += 1
            else:
                crowded += 1
    if found >= wanted:
        return FITS
    if found + crowded >= wanted:
        return INSUFFICIENT_GPU_MEMORY
    return GPU_FRAGMENTED if total >= wanted * milli else INSUFFICIENT_GPU


@kernel
def fits_many_asks(
    free: Int32, memory_free: Int32, count: int, device_memory: int,
    ask_count: Int32, ask_milli: Int32, ask_memory: Int32,
) -> int:  # fmt: skip
    """FITS, or why the asks do not fit when each, largest first, takes the tightest devices."""
    left, memory_left = free[:count].copy(), memory_free[:count].copy()
    total = (ask_count * ask_milli).sum()
    for ask in np.argsort(-ask_milli, kind="mergesort"):
        need = memory_of(ask_milli[ask], ask_memory[ask], device_memory)
        for _ in range(ask_count[ask]):
            best = tightest(left, memory_left, count, ask_milli[ask], need)
            if best < 0:
                return GPU_FRAGMENTED if free[:count].sum() >= total else INSUFFICIENT_GPU
            left[best] -= ask_milli[ask]
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
def why_not_on(
    row: int, shape: int, asked: Asked,
    free: Int64, device_free: Int32, device_memory_free: Int32, device_count: Int32, device_memory: Int32,
) -> int:  # fmt: skip
    """FITS, or the first reason why the node row has too little for the shape; the shape has one ask at most."""
    code = short_of(row, shape, asked.request, free, asked.counts_devices)
    if asked.number[shape, 0] == 0 or code not in (FITS, INSUFFICIENT_GPU):
        return code
    device_code = fits_one_ask(
        row, device_free, device_memory_free, device_count[row], device_memory[row],
        asked.number[shape, 0], asked.milli[shape, 0], asked.memory[shape, 0],
    )  # fmt: skip
    return code if device_code == FITS else device_code


@kernel
def fits(
    rows: Int32, shape: int, static_code: Int8, asked: Asked,
    free: Int64, device_free: Int32, device_memory_free: Int32, device_count: Int32, device_memory: Int32,
    out: Int8,
) -> None:  # fmt: skip
    """Write for each row FITS or the first reason why the shape does not fit there."""
    many = asked.number.shape[1] > 1 and asked.number[shape, 1] > 0
    for row in rows:
        code = static_code[row]
        if code == FITS and not many:
            code = why_not_on(row, shape, asked, free, device_free, device_memory_free, device_count, device_memory)
        elif code == FITS:
            code = short_of(row, shape, asked.request, free, asked.counts_devices)
            if code in (FITS, INSUFFICIENT_GPU):
                device_code = fits_many_asks(
                    device_free[row], device_memory_free[row], device_count[row], device_memory[row],
                    asked.number[shape], asked.milli[shape], asked.memory[shape],
                )  # fmt: skip
                code = code if device_code == FITS else device_code
        out[row] = code


@lean_kernel
def best_of(score: Int32, tie_rank: Int64) -> int:
    """The row of the highest score, among equals the one of the lowest rank; -1 when no score is 0 or more."""
    most, best = -1, -1
    for row in range(len(score)):
        most = max(most, score[row])
    if most >= 0:
        for row in range(len(score)):
            if score[row] == most and (best < 0 or tie_rank[row] < tie_rank[best]):
                best = row
    return best


@lean_kernel
def best_row(score: Int32, tie_rank: Int64, preferred: Bool) -> tuple[int, int]:
    """The best row among the preferred ones and the best of all; -1 where there is none. Equal scores: lowest rank."""
    liked, any_row = -1, -1
    for row in range(len(score)):
        value = score[row]
        if value < 0:
            continue
        if any_row < 0 or value > score[any_row] or (value == score[any_row] and tie_rank[row] < tie_rank[any_row]):
            any_row = row
        if preferred[row] and (
            liked < 0 or value > score[liked] or (value == score[liked] and tie_rank[row] < tie_rank[liked])
        ):
            liked = row
    return liked, any_row


@kernel
def follow(
    free: Int64, device_free: Int32, device_memory_free: Int32, revision: Int64,
    known_free: Int64, known_device_free: Int32, known_memory_free: Int32, known_revision: Int64,
    changed: Int32,
) -> tuple[int, bool, bool]:  # fmt: skip
    """Copy rows that differ from what is remembered; (how many there were, anything grew, any has a new revision)."""
    count, grew, described = 0, False, False
    for row in range(len(revision)):
        # Most rows are as they were: a sum of differences without a branch says so soonest.
        other = revision[row] ^ known_revision[row]
        for resource in range(free.shape[1]):
            other |= free[row, resource] ^ known_free[row, resource]
        for device in range(device_free.shape[1]):
            other |= device_free[row, device] ^ known_device_free[row, device]
            other |= device_memory_free[row, device] ^ known_memory_free[row, device]
        if other == 0:
            continue
        if revision[row] != known_revision[row]:
            grew = described = True
            known_revision[row] = revision[row]
        for resource in range(free.shape[1]):
            grew = grew or free[row, resource] > known_free[row, resource]
            known_free[row, resource] = free[row, resource]
        for device in range(device_free.shape[1]):
            grew = grew or device_free[row, device] > known_device_free[row, device]
            grew = grew or device_memory_free[row, device] > known_memory_free[row, device]
            known_device_free[row, device] = device_free[row, device]
            known_memory_free[row, device] = device_memory_free[row, device]
        changed[count] = row
        count += 1
    return count, grew, described
