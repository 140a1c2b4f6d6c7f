"""What has been reported of pods that wait, and what is news beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from tangram.decide import codes
from tangram.plan import Hold
from tangram.snapshot.arrays import Int8, Int32, Int64, Snapshot


@dataclass(frozen=True, slots=True, eq=False)
class Reported:
    """What has been reported of the pods in slots, so that it is not said again; nothing else follows from it."""

    code: Int8
    """[P] the reason code; -1: none yet."""
    node: Int32
    """[P] node row that is being made free for the pod; -1: none."""
    sentence: dict[int, str]
    """Slot -> what was said of the pod last."""
    due: frozenset[int] = frozenset()
    """Slots of which it was said long ago: it is said anew where the sentence is another one by now."""
    since: Int64 = field(default_factory=lambda: np.zeros(0, np.int64))
    """[P] when it was said, or found to be so still, in seconds since the epoch."""
    refused: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Slot -> a node row, and a sentence about an eviction there for the pod that the API server refuses."""


def of_those_that_give_way(
    snapshot: Snapshot, sentences: Mapping[int, str], reported: Reported | None = None
) -> list[Hold]:
    """Why pods wait that give way, by slot; of those of whom it is ``reported`` only where it is due, and another pod's
    doing by now."""
    names, code = snapshot.pending.names, codes.WAITING_FOR_TURN
    return [
        Hold(names[slot], codes.NAMES[code], why)
        for slot, why in sorted(sentences.items(), key=lambda entry: names[entry[0]])
        if reported is None
        or reported.code[slot] != code
        or (slot in reported.due and reported.sentence.get(slot) != why)
    ]
