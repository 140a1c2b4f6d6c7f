"""Pods that kubelets rejected for their devices: where nobody is placed for a while, and whose pods wait meanwhile.

All of it follows from the rejected pods, which stay as objects until they are collected: a process that has just
started finds the same, as far as they are still there. Without rejections nothing here costs anything.

A device where a pod was rejected is given to nobody for a while, and all devices of a node where two pods that shared
none were; longer with each further rejection there. The pods of an owner (a ReplicaSet, a job) wait for a while, too,
longer with each of them that is rejected, wherever that is: what is wrong may be the pod. So one owner alone can keep
no device from others for long, and none can make pods without end.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from msgspec.structs import replace

from tangram.api import names
from tangram.api.objects import FailedPod, Pod, Struct, read_gpus
from tangram.snapshot.requests.request import DEVICE_RESOURCES
from tangram.units import rfc3339, timestamp_seconds

FIRST_PAUSE, LONGEST_PAUSE = 10, 600
"""Seconds for which a device is given to nobody after a rejection, doubled by each further one, and at most."""
LONGEST_ALONE = 60
"""Seconds at most where all rejections are of one owner's pods."""
FIRST_WAIT, LONGEST_WAIT = 1, 300
"""Seconds for which the pods of an owner wait after one of them was rejected, doubled by each further one, at most."""
REMEMBERED = 3600
"""Seconds after which a rejection counts no more."""
EVERY = frozenset({"*"})
"""All devices of a node."""

_REASONS = frozenset({"UnexpectedAdmissionError", "TopologyAffinityError", "PodLevelTopologyAffinityError"})
"""What kubelets call it when they cannot give a pod its devices."""
_OUT_OF = "OutOf"
"""They begin so where it is a resource of which they have too little; its name follows."""
_MOST = 64
"""Rejections that are kept of one node, and of one owner; those before them change nothing that matters."""
_MOST_WORDS = 300


class Rejection(Struct, frozen=True):
    """One pod that was rejected."""

    node: str
    devices: tuple[str, ...]
    """As its record names them; empty where it has none."""
    owner: str
    """Uid of the controller that makes such pods; empty: nobody does."""
    at: int
    """Seconds since the epoch."""
    words: str
    """Of the kubelet."""


class Wait(NamedTuple):
    """Why and how long the pods of an owner wait."""

    until: int
    sentence: str


def rejection_of(pod: Pod | FailedPod) -> Rejection | None:
    """What is to be remembered of a pod that has failed; None: its kubelet did not reject it, or not for devices.

    When that was is known by the clocks of two machines: the node's, and the API server's by which it was created.
    """
    status, metadata = pod.status, pod.metadata
    if status.phase != "Failed" or not pod.spec.node_name or not _is_about_devices(status.reason):
        return None
    try:
        record = read_gpus(metadata.annotations.get(names.GPUS, "{}"))
    except ValueError:
        record = {}
    devices = dict.fromkeys(share.id for shares in record.values() for share in shares)
    named = tuple(one for one in devices if one in status.message and not one.isdecimal())
    at = max(timestamp_seconds(status.start_time), timestamp_seconds(metadata.creation_timestamp))
    owner = next((one.uid for one in metadata.owner_references if one.controller), "")
    return Rejection(pod.spec.node_name, named or tuple(devices), owner, at, status.message[:_MOST_WORDS])


def _is_about_devices(reason: str) -> bool:
    return reason in _REASONS or (reason.startswith(_OUT_OF) and reason.removeprefix(_OUT_OF) in DEVICE_RESOURCES)


class RejectionTable:
    """Rejections, and what follows from them as of the last ``refresh``."""

    def __init__(self, scheduler_name: str) -> None:
        self._scheduler_name = scheduler_name
        self.avoided: dict[str, dict[str, int]] = {}
        """Node -> device, or the one of ``EVERY``, -> the second until which it is given to nobody."""
        self.waits: dict[str, Wait] = {}
        """Owner -> why its pods wait."""
        self.next_end = 0
        """When the next of these ends; 0: none is in force."""
        self._known: dict[str, Rejection] = {}
        """By uid of the pod, the earlier ones first."""
        self._is_new = False
        self._valid = (0, 0)
        """From which second until which what follows from them is as it is."""

    def note(self, pod: Pod | FailedPod) -> bool:
        """Take in a pod that has failed; whether a kubelet rejected it. Those of other schedulers are no matter of
        ours."""
        ours = pod.spec.scheduler_name == self._scheduler_name and pod.metadata.uid not in self._known
        found = rejection_of(pod) if ours else None
        if found is not None:
            self._known[pod.metadata.uid] = found
            self._is_new = True
        return found is not None

    def recall(self, known: Mapping[str, Rejection]) -> None:
        """Take in what somebody else knows, by uid of the pod."""
        self._known |= known
        self._is_new = bool(self._known)

    def refresh(self, now: int) -> bool:
        """Find again what is in force; whether anything may have changed."""
        if not self._known or not (self._is_new or not self._valid[0] <= now < self._valid[1]):
            return False
        # What a clock that was ahead has noted was now at the latest.
        dated = [(uid, one if one.at <= now else replace(one, at=now)) for uid, one in self._known.items()]
        self._known = {
            uid: one for uid, one in sorted(dated, key=lambda entry: (entry[1].at, entry[0]))
            if one.at > now - REMEMBERED
        }  # fmt: skip
        self._is_new = False
        self.avoided, self.waits = _avoided(self._known.values(), now), _waits(self._known.values(), now)
        ends = [end for of_node in self.avoided.values() for end in of_node.values()]
        ends += [one.until for one in self.waits.values()]
        self.next_end = min(ends, default=0)
        forgotten = min((one.at + REMEMBERED for one in self._known.values()), default=0)
        self._valid = now, min([*ends, forgotten])
        return True


def _avoided(known: Iterable[Rejection], now: int) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for node, of_node in _grouped((one.node, one) for one in known if one.devices).items():
        of_devices = _grouped((device, one) for one in of_node for device in one.devices)
        if _are_apart(of_node):
            of_devices |= dict.fromkeys(EVERY, of_node)
        ends = {device: _pause_end(of_device) for device, of_device in of_devices.items()}
        if in_force := {device: end for device, end in ends.items() if end > now}:
            found[node] = in_force
    return found


def _waits(known: Iterable[Rejection], now: int) -> dict[str, Wait]:
    found: dict[str, Wait] = {}
    for owner, of_owner in _grouped((one.owner, one) for one in known if one.owner).items():
        end, last = _end(of_owner, FIRST_WAIT, LONGEST_WAIT), of_owner[-1]
        if end > now:
            who = "a pod" if len(of_owner) == 1 else f"{len(of_owner)} pods"
            said = f"the kubelet rejected {who} of the same owner, on {last.node} lastly"
            words = f": {last.words}" if last.words else ""
            found[owner] = Wait(end, f"{said}{words}; the next one is tried at {rfc3339(end)}")
    return found


def _grouped(entries: Iterable[tuple[str, Rejection]]) -> dict[str, list[Rejection]]:
    found: dict[str, list[Rejection]] = {}
    for key, one in entries:
        found.setdefault(key, []).append(one)
    return {key: of_key[-_MOST:] for key, of_key in found.items()}


def _are_apart(of_node: list[Rejection]) -> bool:
    """Whether two of them share no device."""
    first = set(of_node[0].devices)
    common = first.intersection(*(one.devices for one in of_node))
    return not common and any(set(one.devices).isdisjoint(other.devices) for one in of_node for other in of_node)


def _pause_end(rejections: list[Rejection]) -> int:
    alone = len({one.owner for one in rejections}) == 1
    return _end(rejections, FIRST_PAUSE, LONGEST_ALONE if alone else LONGEST_PAUSE)


def _end(rejections: list[Rejection], first: int, longest: int) -> int:
    """When it is over what the rejections lead to; one during a pause was decided before it and makes it no longer."""
    pause = end = 0
    for one in rejections:
        if one.at >= end:
            pause = min(2 * pause, longest) if pause else first
            end = one.at + pause
    return end


def devices_avoided(avoided: Mapping[str, int], ids: tuple[str, ...]) -> frozenset[int]:
    """Indices of a node's devices, by what ``avoided`` says of it."""
    if not EVERY.isdisjoint(avoided):
        return frozenset(range(len(ids)))
    return frozenset(index for index, one in enumerate(ids) if one in avoided)
