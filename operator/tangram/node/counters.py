"""What the device plugin counts, and how it is shown to Prometheus."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from tangram.metrics.table import PLUGIN

_BOUNDS = next(metric.buckets for metric in PLUGIN if metric.type == "histogram")


@dataclass(slots=True)
class Durations:
    """A histogram of seconds."""

    buckets: list[int] = field(default_factory=lambda: [0] * (len(_BOUNDS) + 1))
    total: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one duration."""
        self.buckets[sum(seconds > bound for bound in _BOUNDS)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, int]]:
        """(upper bound, number up to it), as Prometheus writes them."""
        bounds = [*map(str, _BOUNDS), "+Inf"]
        return [(bound, sum(self.buckets[: index + 1])) for index, bound in enumerate(bounds)]


@dataclass(slots=True)
class Counters:
    """Counted since the agent started."""

    allocations: Counter[str] = field(default_factory=Counter)
    refusals: Counter[tuple[str, str]] = field(default_factory=Counter)
    guesses: Counter[str] = field(default_factory=Counter)
    registrations: Counter[str] = field(default_factory=Counter)
    mismatches: int = 0
    mismatches_now: int = 0
    listing_failures: int = 0
    call_seconds: dict[tuple[str, str], Durations] = field(default_factory=dict)
    """(resource, call) -> how long the kubelet waited."""
    parts: dict[str, str] = field(default_factory=dict)
    """Part of the agent -> what is wrong with it; empty text: it works."""


class PluginCollector(Collector):
    """Shows the counters at scrape time."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """All metrics of the table. The agent counts on meanwhile, so what grows is copied first."""
        counters = self._counters
        labelled: dict[str, Mapping[Any, float]] = {
            "tangram_node_allocations_total": _by_resource(counters.allocations),
            "tangram_node_refusals_total": dict(counters.refusals),
            "tangram_node_guesses_total": _by_resource(counters.guesses),
            "tangram_node_registrations_total": _by_resource(counters.registrations),
            "tangram_node_mismatches": {(): counters.mismatches_now},
            "tangram_node_mismatches_found_total": {(): counters.mismatches},
            "tangram_node_listing_failures_total": {(): counters.listing_failures},
            "tangram_node_part_healthy": {(part,): not text for part, text in dict(counters.parts).items()},
        }
        for metric in PLUGIN:
            if metric.type == "histogram":
                histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
                for labels, durations in dict(counters.call_seconds).items():
                    histogram.add_metric(labels, durations.cumulative(), durations.total)
                yield histogram
                continue
            made = CounterMetricFamily if metric.type == "counter" else GaugeMetricFamily
            family = made(metric.name, metric.help, labels=metric.labels)
            for label_values, value in labelled[metric.name].items():
                family.add_metric(label_values, value)
            yield family


def _by_resource(counts: Counter[str]) -> dict[tuple[str], int]:
    return {(resource,): count for resource, count in dict(counts).items()}
