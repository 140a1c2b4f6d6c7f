"""How many pods of batch Jobs are done, as the Jobs themselves say: that stays true when somebody deletes the pods."""

from collections.abc import Callable

from tangram.api.objects import Job
from tangram.cluster import paths
from tangram.cluster.mirror import Change
from tangram.cluster.rest import Client
from tangram.cluster.watch import ListWatch
from tangram.snapshot.build import Builder


class FinishedWork:
    """Keeps the builder's count of what Jobs have done true; ``changed`` is called when a gang may be whole now.

    All Jobs are watched, as none says whether its pods are a gang; of each, only how many of its pods have ended with
    success is kept by the builder. Without the right to watch them, finished pods count for as long as they are there.
    """

    def __init__(self, client: Client, builder: Builder, changed: Callable[[], None]) -> None:
        self._builder, self._changed = builder, changed
        self.jobs = ListWatch(client, paths.JOBS.collection(), Job, self._on_job)

    def _on_job(self, _change: Change, old: Job | None, new: Job | None) -> None:
        if old is not None and (new is None or new.metadata.uid != old.metadata.uid):
            self._builder.set_completed(old.metadata.uid, 0)
        if new is not None and (old is None or old.status != new.status or old.metadata.uid != new.metadata.uid):
            self._builder.set_completed(new.metadata.uid, new.status.succeeded)
            self._changed()
