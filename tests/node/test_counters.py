"""What the device plugin counts is shown to Prometheus, under the names of the documented table."""

import sys
import threading

from prometheus_client import CollectorRegistry, generate_latest

from tangram.metrics.table import PLUGIN
from tangram.node.counters import Counters, Durations, PluginCollector


def test_all_figures_are_shown() -> None:
    counters = Counters(mismatches=2, mismatches_now=1, parts={"probe": "", "pods": "silent"})
    counters.allocations["r"] += 3
    counters.refusals["r", "Overfilled"] += 1
    durations = counters.call_seconds["r", "Allocate"] = Durations()
    for seconds in (0.0005, 0.004, 9.0):
        durations.add(seconds)
    registry = CollectorRegistry()
    registry.register(PluginCollector(counters))
    shown = generate_latest(registry).decode()

    for metric in PLUGIN:
        assert f"# HELP {metric.name} {metric.help}" in shown
    for line in (
        'tangram_node_allocations_total{resource="r"} 3.0',
        'tangram_node_refusals_total{reason="Overfilled",resource="r"} 1.0',
        "tangram_node_mismatches 1.0",
        "tangram_node_mismatches_found_total 2.0",
        'tangram_node_part_healthy{part="pods"} 0.0',
        'tangram_node_call_seconds_bucket{call="Allocate",le="0.005",resource="r"} 2.0',
        'tangram_node_call_seconds_count{call="Allocate",resource="r"} 3.0',
    ):
        assert line in shown


def test_a_scrape_stands_whatever_is_counted_beside_it() -> None:
    """Scrapes are rendered on a thread of their own while the agent goes on counting."""
    counters, ended = Counters(), threading.Event()
    registry = CollectorRegistry()
    registry.register(PluginCollector(counters))

    def count() -> None:
        number = 0
        while not ended.is_set():
            number = number % 100 + 1
            if number == 1:
                for counted in (counters.allocations, counters.refusals, counters.call_seconds, counters.parts):
                    counted.clear()
            counters.allocations[str(number)] += 1
            counters.refusals["r", str(number)] += 1
            counters.call_seconds["r", str(number)] = Durations()
            counters.parts[str(number)] = ""

    counting, before = threading.Thread(target=count), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    counting.start()
    try:
        for _ in range(20):
            generate_latest(registry)
    finally:
        ended.set()
        counting.join()
        sys.setswitchinterval(before)
