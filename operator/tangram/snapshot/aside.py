"""Pods that could not be taken in: each counts as one that cannot be decoded, and is tried again when it changes."""

from collections.abc import Callable

from tangram.api.objects import Pod
from tangram.snapshot.pods.lifecycle import Lifecycle
from tangram.snapshot.pods.pods import PodRow
from tangram.snapshot.pods.states import Event
from tangram.snapshot.values.faults import FaultTable, Subject

_BLOCKS = "it cannot be scheduled, and where it runs it may hold any GPU of its node until it changes"


class Aside:
    """The pods that are set aside, and whatever else is: ``faults`` names all of it."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self.faults = FaultTable()
        self.pods: dict[str, Pod] = {}
        """By uid, as they were last shown."""
        self._lifecycle = lifecycle

    def put(self, pod: Pod, error: Exception) -> None:
        """Set a pod aside."""
        metadata, node = pod.metadata, pod.spec.node_name
        self.faults.note(Subject("Pod", metadata.name, metadata.namespace, metadata.uid), error, _BLOCKS)
        event = Event.GARBLED_BOUND if node else Event.GARBLED_WAITING
        self._lifecycle.happens(event, metadata.uid, (metadata, node))
        self.pods[metadata.uid] = pod

    def take_back(self, uid: str) -> None:
        """A pod has been taken in, or is gone."""
        pod = self.pods.pop(uid, None)
        if pod is not None:
            self.faults.clear(Subject("Pod", pod.metadata.name, pod.metadata.namespace, uid))

    def guarded(self, row: PodRow, refresh: Callable[[PodRow], None]) -> None:
        """Refresh a pod, and set it aside where that raises."""
        pod = row.pod
        try:
            refresh(row)
        except Exception as error:
            if pod is None:
                raise
            self.put(pod, error)
