"""A few numbers about a cluster at the end of a cycle, for reports: a snapshot is a view that changes, this stays."""

from dataclasses import dataclass, replace

import numpy as np

from tangram import units
from tangram.snapshot.arrays import Float64, Int32, Int64, Queues, Snapshot
from tangram.snapshot.queues.shares import asked_by_queue, bound_pods, fair_shares, waiting_pods


@dataclass(frozen=True, slots=True, eq=False)
class Figures:
    """What reports and metrics are made of. Axes as in ``arrays``: Q queue rows, X queue columns."""

    now: int
    """Seconds since the epoch."""
    nodes: int
    pending: int
    """Pods that wait, those included that are not to be tried for now or as they are."""
    gpus: dict[str, tuple[float, float]]
    """Model -> (GPUs that exist, GPUs that are given away); only models of which there are any."""
    queues: Queues
    asked: Int64
    """[Q, X] what waiting pods ask for."""
    waiting: Int32
    """[Q] pods that wait in each queue and below it."""
    bound: Int32
    """[Q] pods that are bound in each queue and below it."""
    capacity: tuple[float, ...]
    """[X] what the pool has."""
    share_per_unit: Float64
    """[Q, X] what one unit of a column counts for a queue's weighted share."""

    def fair_shares(self) -> Float64:
        """[Q, X] the fair share of each column, worked out when somebody asks."""
        return fair_shares(self.queues, self.asked, self.capacity)


def figures_of(snapshot: Snapshot, share_per_unit: Float64) -> Figures:
    """What is true now, in arrays that nobody changes any more; ``share_per_unit`` as in ``Figures``."""
    queues = snapshot.queues
    return Figures(
        now=snapshot.now,
        nodes=int(np.count_nonzero(snapshot.nodes.present)),
        pending=int(np.count_nonzero(snapshot.pending.waiting)) + len(snapshot.pending.invalid),
        gpus=_gpus_by_model(snapshot),
        queues=replace(queues, usage=queues.usage.copy(), recent=queues.recent.copy(), pods=queues.pods.copy()),
        asked=asked_by_queue(snapshot),
        waiting=waiting_pods(snapshot),
        bound=bound_pods(queues),
        capacity=tuple(snapshot.capacity().tolist()),
        share_per_unit=share_per_unit,
    )


def _gpus_by_model(snapshot: Snapshot) -> dict[str, tuple[float, float]]:
    nodes = snapshot.nodes
    found: dict[str, tuple[float, float]] = {}
    for row, model in enumerate(snapshot.models):
        of_model = nodes.present & (nodes.model == row)
        devices = int(nodes.device_count[of_model].sum())
        if devices:
            free = float(np.sum(nodes.device_free[of_model], dtype=np.int64)) / units.MILLI_PER_GPU
            found[model] = float(devices), devices - free
    return found
