"""Every metric that tangram exports: name, type, labels, help. Documentation and collectors read this table."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric family."""

    name: str
    type: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


_QUEUE = ("queue", "resource")
_UNITS = "cpu in cores, memory in bytes, gpu and gpu/MODEL in GPUs"

TABLE: tuple[Metric, ...] = (
    Metric("tangram_gpu_capacity", "gauge", "GPUs of the pool, whole devices.", ("model",)),
    Metric("tangram_gpu_allocated", "gauge", "GPUs given to pods, fractions counted as fractions.", ("model",)),
    Metric("tangram_nodes", "gauge", "Nodes known to the scheduler."),
    Metric("tangram_pending_pods", "gauge", "Pods that wait for a node."),
    Metric("tangram_queue_used", "gauge", f"What a queue uses, places held for its pods included; {_UNITS}.", _QUEUE),
    Metric("tangram_queue_guarantee", "gauge", f"What a queue is promised, where anything is; {_UNITS}.", _QUEUE),
    Metric("tangram_queue_limit", "gauge", f"What a queue cannot exceed, where it is limited; {_UNITS}.", _QUEUE),
    Metric(
        "tangram_queue_fair_share", "gauge", f"What a queue would have by guarantees and weights; {_UNITS}.", _QUEUE
    ),
    Metric("tangram_queue_pods", "gauge", "Pods of a queue and below it, pending or running.", ("queue", "state")),
    Metric("tangram_scheduling_cycles_total", "counter", "Scheduling cycles that produced a plan."),
    Metric("tangram_schedule_attempts_total", "counter", "Decisions by result.", ("result",)),
    Metric("tangram_cycle_seconds", "gauge", "Seconds that the last decision took."),
    Metric("tangram_leader", "gauge", "1 while this process holds the Lease."),
    Metric("tangram_api_responses_total", "counter", "Answers of the API server.", ("method", "code")),
    Metric("tangram_watch_relists_total", "counter", "Complete reads of a watched collection.", ("collection",)),
)
