"""The one table of metrics: each process exports what the table says that it does, and nothing else."""

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.registry import Collector

from tangram.controllers.figures import Figures
from tangram.metrics.collector import SchedulerCollector, State, metrics
from tangram.metrics.table import TABLE
from tangram.node.counters import Counters, PluginCollector
from tangram.node.exporter import Exporter
from tangram.node.processes import Processes
from tangram.scheduler.cycle import Counters as CycleCounters


def scheduler() -> list[Collector]:
    return [SchedulerCollector(lambda: State(None, CycleCounters(), 0.0, leads=False))]


def controller() -> list[Collector]:
    return [Figures().registry]


def node() -> list[Collector]:
    return [Exporter("n", Processes(), lambda: 0.0), PluginCollector(Counters())]


def exported(collectors: list[Collector | CollectorRegistry]) -> dict[str, str]:
    """Name, as the table writes it, and type."""
    found = {}
    for collector in collectors:
        for family in collector.collect():
            kind = "untyped" if family.type == "unknown" else family.type
            found[f"{family.name}_total" if kind == "counter" else family.name] = kind
    return found


@pytest.mark.parametrize("process", [scheduler, controller, node])
def test_a_process_exports_the_rows_that_name_it(process) -> None:
    told = {row.metric.name: row.metric.type for row in TABLE if process.__name__ in row.owners}
    assert exported(process()) == told


def test_no_name_has_two_meanings() -> None:
    names = [row.metric.name for row in TABLE]
    assert len(names) == len(set(names))


def test_which_version_of_the_policy_decides_and_whether_the_stored_one_could_be_read() -> None:
    state = State(
        None, CycleCounters(), 0.0, leads=True, policy=("default", 4), readable={"default": False, "other": True}
    )
    values = metrics(state)
    assert values["tangram_policy_generation"] == {("default",): 4.0}
    assert values["tangram_policy_last_read_successful"] == {("default",): 0.0, ("other",): 1.0}
