"""Which devices of a node are nearest to each other."""

import numpy as np

from tangram.decide.jit import kernel
from tangram.snapshot.arrays import Int32, Int64

_MOST_SETS = 20_000
"""Up to so many sets of devices are all compared (8 of 16 are 12,870); beyond, sets grow device by device."""


@kernel
def nearest(distance: Int32, able: Int32, wanted: int) -> Int32:
    """``wanted`` of the able devices with the least sum of ``distance`` [d, d] between them, in index order.

    Among equal sets the one whose going leaves the other able devices nearest to each other, then the lowest indices.
    """
    count = len(able)
    total = np.zeros(count, np.int64)
    for one in range(count):
        for other in range(count):
            total[one] += distance[able[one], able[other]]
    sets = 1.0
    for step in range(min(wanted, count - wanted)):
        sets = sets * (count - step) / (step + 1)
    chosen = _compare_all(distance, able, total, wanted) if sets <= _MOST_SETS else _grow(distance, able, total, wanted)
    return able[np.sort(chosen)]


@kernel
def _within(distance: Int32, able: Int32, chosen: Int32) -> int:
    """The sum of the distances between the chosen."""
    length = 0
    for place in range(len(chosen)):
        for other in range(place):
            length += distance[able[chosen[place]], able[chosen[other]]]
    return length


@kernel
def _compare_all(distance: Int32, able: Int32, total: Int64, wanted: int) -> Int32:
    """The best of all sets, which are gone through in the order of their indices.

    The distances that remain between the others are all of them, less those of the chosen to anybody, plus those
    between the chosen, which were taken away twice: for equal sets most taken away is least left.
    """
    count = len(able)
    trial = np.arange(wanted).astype(np.int32)
    best, best_length, best_taken = trial.copy(), _within(distance, able, trial), total[trial].sum()
    while True:
        place = wanted - 1
        while place >= 0 and trial[place] == count - wanted + place:
            place -= 1
        if place < 0:
            return best
        trial[place] += 1
        for later in range(place + 1, wanted):
            trial[later] = trial[later - 1] + 1
        length, taken = _within(distance, able, trial), total[trial].sum()
        if length < best_length or (length == best_length and taken > best_taken):
            best, best_length, best_taken = trial.copy(), length, taken


@kernel
def _grow(distance: Int32, able: Int32, total: Int64, wanted: int) -> Int32:
    """The best of the sets that grow from each device by the one that is nearest to those chosen before."""
    count = len(able)
    best, best_length, best_taken = np.zeros(wanted, np.int32), -1, 0
    trial = np.zeros(wanted, np.int32)
    for seed in range(count):
        length, taken = 0, total[seed]
        away = np.zeros(count, np.int64)
        outside = np.ones(count, np.bool_)
        trial[0], last = seed, seed
        for size in range(1, wanted):
            outside[last] = False
            following = -1
            for device in range(count):
                away[device] += distance[able[last], able[device]]
                if outside[device] and (
                    following < 0
                    or away[device] < away[following]
                    or (away[device] == away[following] and total[device] > total[following])
                ):
                    following = device
            trial[size], last = following, following
            length += away[following]
            taken += total[following]
        if best_length < 0 or length < best_length or (length == best_length and taken > best_taken):
            best, best_length, best_taken = trial.copy(), length, taken
    return best
