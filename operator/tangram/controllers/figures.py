"""What the controllers count about their own work, for Prometheus."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class Figures:
    """Counters of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._reconciles = Counter(
            "tangram_reconciles_total", "Looks at an object by result.", ["kind", "result"], registry=self.registry
        )
        self._seconds = Histogram(
            "tangram_reconcile_seconds",
            "Seconds from the start of a reconcile to its last write.",
            ["kind"],
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0),
            registry=self.registry,
        )
        self._waiting = Gauge(
            "tangram_reconcile_queue", "Names that wait to be reconciled.", ["kind"], registry=self.registry
        )
        self._leader = Gauge("tangram_leader", "1 while this process holds the Lease.", registry=self.registry)

    def reconciled(self, kind: str, result: str, seconds: float) -> None:
        """Count one reconcile."""
        self._reconciles.labels(kind, result).inc()
        self._seconds.labels(kind).observe(seconds)

    def follow(self, leads: Callable[[], bool], waiting: dict[str, Callable[[], int]]) -> None:
        """Read these at scrape time."""
        self._leader.set_function(lambda: float(leads()))
        for kind, length in waiting.items():
            self._waiting.labels(kind).set_function(length)
