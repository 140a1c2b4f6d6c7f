"""Pods that have ended and still matter: finished members of gangs, and those that kubelets rejected."""

from collections.abc import Callable

from tangram.api import names
from tangram.api.objects import FailedPod, Pod
from tangram.cluster import paths
from tangram.cluster.mirror import Change
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch, Options
from tangram.scheduler.cycle import Cycle


class EndedPods:
    """Keeps a cycle's view of them true; ``changed`` is called when that makes a decision worth while.

    The watch of all pods leaves out those that have ended, and so does not say which way a pod went.
    """

    def __init__(self, client: Client, cycle: Cycle, changed: Callable[[], None]) -> None:
        self._cycle, self._changed = cycle, changed
        collection = paths.PODS.collection()
        finished = Options(label_selector=names.GANG, field_selector="status.phase=Succeeded")
        self.finished = ListWatch(client, collection, Pod, self._on_finished, finished)
        ours = f"spec.schedulerName={cycle.settings.scheduler_name}"
        failed = Options(field_selector=f"{ours},status.phase=Failed")
        self.failed = ListWatch(client, collection, FailedPod, self._on_failed, failed)

    def _on_finished(self, change: Change, old: Pod | None, new: Pod | None) -> None:
        """A member of a gang has ended with success, or is gone after that."""
        if change != "synced":
            self._cycle.observe_pod(old, new)
            self._changed()

    def _on_failed(self, _change: Change, _old: FailedPod | None, new: FailedPod | None) -> None:
        """One that was rejected counts for a while, also when somebody deletes it."""
        if new is not None and self._cycle.builder.suspension.rejections.note(new):
            self._changed()
