"""Pods that wait, as arrays. Axis: P pending slots; those that do not wait are holes."""

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from tangram.plan import DevicesByContainer, PodName

Int64: TypeAlias = npt.NDArray[np.int64]
Int32: TypeAlias = npt.NDArray[np.int32]
Bool: TypeAlias = npt.NDArray[np.bool_]

WAITED_SECONDS = 2
"""Creation times are cut to whole seconds, so that two of them are at least one."""


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """Pods that wait for a node, in slots."""

    names: list[PodName]
    waiting: Bool
    """[P] the slot holds a pod that may be placed now."""
    shape: Int32
    priority: Int32
    """[P] spec.priority."""
    created: Int64
    """[P] seconds since the epoch."""
    tie: Int64
    """[P] breaks ties between pods of the same second, by their names; members of a gang by their numbers."""
    duration: Int64
    """[P] seconds that the pod says it will run; -1: it does not say."""
    gang: Int32
    """[P] gang row; -1: the pod stands alone."""
    role: list[str]
    """Per slot the pod's role in its gang; "" without one."""
    preempts: Bool
    """[P] the pod may have others evicted (preemptionPolicy)."""
    exempt: Bool
    """[P] as ``Running.exempt`` will be: it belongs to its node or to the system."""
    serial: Int64
    """[P] a number that no other pod has had in the slot: nothing is decided from it, but what is known of the pod
    elsewhere can be derived from what was known of one before it."""
    claim: Int32
    """[P] node row on which pods are leaving to make room for this one; -1: none."""
    nominated: Int32
    """[P] node row on which evictions have made room for the pod: it goes first, this once; -1: none."""
    kept: dict[int, DevicesByContainer]
    """Slot -> the devices that are kept for the pod where it has a claim or is nominated."""
    invalid: dict[int, tuple[str, str]]
    """Slot -> (reason, sentence) of pods that cannot be placed now whatever is free; such pods are never waiting."""
    queue: dict[int, int]
    """Slot -> row of its queue, of pods that cannot be placed as they are written (their shape is -1), as far as there
    is such a queue."""
    volumes: dict[int, tuple[str, ...]]
    """Slot -> volume claims for which a node has yet to be chosen, of pods whose volumes are made only once their node
    is known and are not there yet; empty: it has been chosen for all of them."""
    sharing: dict[tuple[str, str], set[int]]
    """(namespace, name) of each of these claims that several pods name -> their slots."""

    def has_waited(self, now: int) -> Bool:
        """[P] whether the pod waits and has done so for at least a second.

        A burst that is placed as it comes is never asked; and whether a pod was seen before makes no difference.
        """
        waited: Bool = self.waiting & (now - self.created >= WAITED_SECONDS)
        return waited
