"""Tells the holders of a GPU that it has become unfit for work, once for each holder and spell."""

from collections.abc import Callable

from tangram.node.gpus import Health, Holding
from tangram.node.report import Facts

Tell = Callable[[Holding, str], None]


class Alarms:
    """Compares what is true with what was told; ``tell`` gets a holding and a sentence."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._told: frozenset[tuple[str, str]] = frozenset()

    def look(self, facts: Facts) -> None:
        """Tell the pods on unhealthy GPUs that have not been told yet; one that recovers is told again next time."""
        known = {gpu.uuid: gpu for gpu in facts.gpus}
        hit: dict[tuple[str, str], Holding] = {}
        for holding in facts.holdings:
            gpu = known.get(holding.uuid)
            condition = facts.conditions.get(gpu.physical) if gpu is not None else None
            if gpu is None or condition is None or condition.health is not Health.UNHEALTHY:
                continue
            key = holding.pod_uid, gpu.uuid
            if key not in self._told and key not in hit:
                reason = condition.reason or "no reason is known"
                self._tell(holding, f"GPU {gpu.index} ({gpu.uuid}), which the pod holds, is unhealthy: {reason}")
            hit[key] = holding
        self._told = frozenset(hit)
