"""What the controllers count about their own work, for Prometheus."""

from collections.abc import Callable
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tangram.metrics.table import LEADER, RECONCILE_QUEUE, RECONCILE_SECONDS, RECONCILES, Metric

M = TypeVar("M", Counter, Gauge, Histogram)


class Figures:
    """Counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._reconciles = self._of(Counter, RECONCILES)
        self._seconds = self._of(Histogram, RECONCILE_SECONDS, buckets=RECONCILE_SECONDS.buckets)
        self._waiting = self._of(Gauge, RECONCILE_QUEUE)
        self._leader = self._of(Gauge, LEADER)

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        """Count one reconcile."""
        self._reconciles.labels(kind, result).inc()
        self._seconds.labels(kind).observe(seconds)

    def follow(self, leads: Callable[[], bool], waiting: dict[str, Callable[[], int]]) -> None:
        """Read these at scrape time."""
        self._leader.set_function(lambda: float(leads()))
        for kind, length in waiting.items():
            self._waiting.labels(kind).set_function(length)

    def _of(self, kind: type[M], metric: Metric, **more: Any) -> M:
        return kind(metric.name, metric.help, metric.labels, registry=self.registry, **more)
