"""The loops that every decision runs: what fits, which node is best, which devices, what changed."""

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
from tangram.decide.jit import kernel
from tangram.snapshot.arrays import CPU, MEMORY, PODS, Bool, Int8, Int32, Int64

WHOLE = 1000


@kernel
def memory_of(milli: int, asked: int, device_memory: int) -> int:
    """MiB that an ask takes of a device: what it says, else its share of the device."""
    return asked if asked > 0 else milli * device_memory // WHOLE


@kernel
def tightest(free: Int32, memory_free: Int32, count: int, milli: int, memory: int) -> int:
    """The fullest device that still has room; the lowest index among equals; -1 when none has."""
    best = -1
    for device in range(count):
        if free[device] >= milli and memory_free[device] >= memory and (best < 0 or free[device] < free[best]):
            best = device
    return best


@kernel
def fits_one_ask(
    free: Int32, memory_free: Int32, count: int, device_memory: int, wanted: int, milli: int, memory: int
) -> int:
    """FITS, or why ``wanted`` devices with ``milli`` left on each are not on the node."""
    need = memory_of(milli, memory, device_memory)
    found, crowded, total = 0, 0, 0
    for device in range(count):
        total += free[device]
        if free[device] >= milli:
            if memory_free[device] >= need:
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


@kernel
def short_of(request: Int64, free: Int64, counts_devices: Bool) -> int:
    """FITS, or the code of the first resource of which the row has too little."""
    for resource in range(len(request)):
        if request[resource] > 0 and free[resource] < request[resource]:
            if resource == CPU:
                return INSUFFICIENT_CPU
            if resource == MEMORY:
                return INSUFFICIENT_MEMORY
            if resource == PODS:
                return INSUFFICIENT_PODS
            return INSUFFICIENT_GPU if counts_devices[resource] else INSUFFICIENT_RESOURCE
    return FITS


@kernel
def fits(
    rows: Int32, static_code: Int8, request: Int64, counts_devices: Bool,
    ask_count: Int32, ask_milli: Int32, ask_memory: Int32,
    free: Int64, device_free: Int32, device_memory_free: Int32, device_count: Int32, device_memory: Int32,
    out: Int8,
) -> None:  # fmt: skip
    """Write for each row FITS or the first reason why the shape does not fit there."""
    wants_devices = ask_count[0] > 0
    one_ask = len(ask_count) == 1 or ask_count[1] == 0
    for row in rows:
        code = static_code[row]
        if code == FITS:
            code = short_of(request, free[row], counts_devices)
        if wants_devices and code in (FITS, INSUFFICIENT_GPU):
            if one_ask:
                device_code = fits_one_ask(
                    device_free[row], device_memory_free[row], device_count[row], device_memory[row],
                    ask_count[0], ask_milli[0], ask_memory[0],
                )  # fmt: skip
            else:
                device_code = fits_many_asks(
                    device_free[row], device_memory_free[row], device_count[row], device_memory[row],
                    ask_count, ask_milli, ask_memory,
                )  # fmt: skip
            if device_code != FITS:
                code = device_code
        out[row] = code


@kernel
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
) -> tuple[int, bool]:  # fmt: skip
    """Copy rows that differ from what is remembered; how many there were, and whether anything grew."""
    count, grew = 0, False
    for row in range(len(revision)):
        differs = revision[row] != known_revision[row]
        if differs:
            grew = True
            known_revision[row] = revision[row]
        for resource in range(free.shape[1]):
            if free[row, resource] != known_free[row, resource]:
                differs = True
                grew = grew or free[row, resource] > known_free[row, resource]
                known_free[row, resource] = free[row, resource]
        for device in range(device_free.shape[1]):
            if (
                device_free[row, device] != known_device_free[row, device]
                or device_memory_free[row, device] != known_memory_free[row, device]
            ):
                differs = True
                grew = (
                    grew
                    or device_free[row, device] > known_device_free[row, device]
                    or device_memory_free[row, device] > known_memory_free[row, device]
                )
                known_device_free[row, device] = device_free[row, device]
                known_memory_free[row, device] = device_memory_free[row, device]
        if differs:
            changed[count] = row
            count += 1
    return count, grew
