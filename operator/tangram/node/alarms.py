"""Reports to the holders of a GPU that it has become unfit for work, once for each holder and spell."""

from collections.abc import Callable

from tangram.node.gpus import Health, Holding
from tangram.node.report import Facts

Report = Callable[[Holding, str], None]


class Alarms:
    """Compares what is true with what was reported; ``report`` gets a holding and a sentence."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._reported: frozenset[tuple[str, str]] = frozenset()

    def check(self, facts: Facts) -> None:
        """Report unhealthy GPUs once to the pods on them; one that recovers is reported again next time."""
        known = {gpu.uuid: gpu for gpu in facts.gpus}
        hit: dict[tuple[str, str], Holding] = {}
        for holding in facts.holdings:
            gpu = known.get(holding.uuid)
            condition = facts.conditions.get(gpu.physical) if gpu is not None else None
            if gpu is None or condition is None or condition.health is not Health.UNHEALTHY:
                continue
            key = holding.pod_uid, gpu.uuid
            if key not in self._reported and key not in hit:
                reason = condition.reason or "no reason is known"
                self._report(holding, f"GPU {gpu.index} ({gpu.uuid}), which the pod holds, is unhealthy: {reason}")
            hit[key] = holding
        self._reported = frozenset(hit)
