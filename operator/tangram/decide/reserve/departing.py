"""When those give back what they hold who have been placed just now."""

from dataclasses import replace

import numpy as np

from tangram.decide.decision import Decision
from tangram.decide.devices import parts_of
from tangram.plan import DevicesByContainer
from tangram.snapshot.arrays import UNLIMITED, Departures, Snapshot

Given = tuple[int, int, DevicesByContainer]
"""(slot, node row, devices) of a waiting pod that gets a place."""


def with_placed(decision: Decision) -> Departures | None:
    """The departures, with the pods that the decision places: what is held for others depends on these no less than
    it will in the next decision."""
    given = [(one.slot, one.row, one.place.devices) for one in decision.draft.placed]
    return joined(decision.snapshot.departures, decision.snapshot, given)


def joined(departures: Departures | None, snapshot: Snapshot, given: list[Given]) -> Departures | None:
    """The departures with pods that start now."""
    if departures is None or not given:
        return departures
    slots, duration, count = [slot for slot, _, _ in given], snapshot.pending.duration, len(given)
    width = departures.milli.shape[1]
    milli, memory = np.zeros((count, width), np.int32), np.zeros((count, width), np.int32)
    for index, (slot, row, devices) in enumerate(given):
        for device, part, mib in parts_of(snapshot, slot, row, devices):
            milli[index, device] += part
            memory[index, device] += mib
    ends = np.where(duration[slots] >= 0, snapshot.now + duration[slots], UNLIMITED)
    return replace(
        departures,
        present=np.append(departures.present, np.ones(count, np.bool_)),
        node=np.append(departures.node, np.array([row for _, row, _ in given], np.int32)),
        shape=np.append(departures.shape, snapshot.pending.shape[slots]),
        started=np.append(departures.started, np.full(count, snapshot.now)),
        ends=np.append(departures.ends, ends),
        milli=np.concatenate([departures.milli, milli]),
        memory=np.concatenate([departures.memory, memory]),
        leaving=np.append(departures.leaving, np.zeros(count, np.bool_)),
    )
