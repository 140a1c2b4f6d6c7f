"""Metrics worked out at scrape time from the figures of a cycle and counters; nothing is counted on the way."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tangram import units
from tangram.metrics.table import SCHEDULER
from tangram.snapshot.arrays import UNLIMITED, Bool, Float64, Int64
from tangram.snapshot.figures import Figures

_PER_UNIT = {"cpu": 0.001, "memory": float(units.MIB)}
"""What one unit of a queue column is in the unit that is exported."""
_QUEUE_METRICS = tuple(metric.name for metric in SCHEDULER if metric.name.startswith("tangram_queue_"))
Value = float | Mapping[tuple[str, ...], float]


class CycleCounters(Protocol):
    """Counts since the start."""

    cycles: int
    placed: int
    evicted: int
    held: int
    lost: int


@dataclass(frozen=True, slots=True)
class State:
    """What the scheduler knows at the moment of a scrape."""

    figures: Figures | None
    """Of one of the last cycles; None before the first."""
    counters: CycleCounters
    turn_seconds: float
    leads: bool
    responses: Mapping[tuple[str, int], int] = field(default_factory=dict)
    relists: Mapping[str, int] = field(default_factory=dict)
    policy: tuple[str, int] | None = None
    """Name and generation of the policy that decides; None without one."""
    readable: Mapping[str, bool] = field(default_factory=dict)
    """By its name whether all of a policy could be read as it is stored."""


class SchedulerCollector(Collector):
    """Exports ``table.SCHEDULER``."""

    def __init__(self, state: Callable[[], State]) -> None:
        self._state = state

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        """All families."""
        values = metrics(self._state())
        for metric in SCHEDULER:
            kind = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
            family = kind(metric.name, metric.help, labels=metric.labels)
            value = values[metric.name]
            for labels, number in value.items() if isinstance(value, Mapping) else [((), value)]:
                family.add_metric([str(label) for label in labels], number)
            yield family


def metrics(state: State) -> dict[str, Value]:
    """Metric name -> value, or label values -> value."""
    counters, figures = state.counters, state.figures
    gpus = figures.gpus if figures is not None else {}
    return {
        "tangram_gpu_capacity": {(model,): capacity for model, (capacity, _) in gpus.items()},
        "tangram_gpu_allocated": {(model,): allocated for model, (_, allocated) in gpus.items()},
        "tangram_nodes": float(figures.nodes) if figures is not None else 0.0,
        "tangram_pending_pods": float(figures.pending) if figures is not None else 0.0,
        **(queue_figures(figures) if figures is not None else {name: {} for name in _QUEUE_METRICS}),
        "tangram_policy_generation": {} if state.policy is None else {state.policy[:1]: float(state.policy[1])},
        "tangram_policy_last_read_successful": {(name,): float(well) for name, well in state.readable.items()},
        "tangram_scheduling_cycles_total": counters.cycles,
        "tangram_schedule_attempts_total": {
            ("scheduled",): counters.placed, ("unschedulable",): counters.held,
            ("evicted",): counters.evicted, ("lost",): counters.lost,
        },
        "tangram_cycle_seconds": state.turn_seconds,
        "tangram_leader": float(state.leads),
        "tangram_api_responses_total": {(method, str(code)): n for (method, code), n in state.responses.items()},
        "tangram_watch_relists_total": {(name,): n for name, n in state.relists.items()},
    }  # fmt: skip


def queue_figures(figures: Figures) -> dict[str, Value]:
    """The metrics of queues: every queue of the policy, without its single classes."""
    queues = figures.queues
    per_unit = [_PER_UNIT.get(column, 1 / units.MILLI_PER_GPU) for column in queues.columns]
    rows = np.flatnonzero(~queues.is_leaf).tolist()

    def by_queue(amounts: Int64 | Float64, among: Bool) -> dict[tuple[str, ...], float]:
        return {
            (queues.names[row], name): float(amounts[row, column]) * per_unit[column]
            for row in rows
            for column, name in enumerate(queues.columns)
            if among[row, column]
        }

    everything = np.ones(queues.usage.shape, np.bool_)
    pending, running = figures.waiting, figures.bound
    pods: dict[tuple[str, ...], float] = {(queues.names[row], "pending"): float(pending[row]) for row in rows}
    pods |= {(queues.names[row], "running"): float(running[row]) for row in rows}
    return {
        "tangram_queue_used": by_queue(queues.usage, everything),
        "tangram_queue_guarantee": by_queue(queues.guarantee, queues.guarantee > 0),
        "tangram_queue_limit": by_queue(queues.limit, queues.limit < UNLIMITED),
        "tangram_queue_fair_share": by_queue(figures.fair_shares(), everything),
        "tangram_queue_pods": pods,
    }
