"""Dashboards: on metrics that exist, with labels that they have, loaded by whoever looks for their label."""

import json
import re
from pathlib import Path

import pytest
from tests.chart.test_rules import OF_THE_TARGET

from tangram.metrics.table import TABLE

BOARDS = sorted((Path(__file__).parents[2] / "charts/tangram/files/dashboards").glob("*.json"))
CLASHING = {"namespace", "pod", "container"}
"""Labels that a target has, too: Prometheus keeps those of the target, and calls the metric's exported_LABEL."""
LABELS = {row.metric.name: set(row.metric.labels) for row in TABLE}
METRIC = re.compile(r"\b(tangram_[a-z_]+|DCGM_FI_[A-Z_]+)(?:\{([^}]*)\})?")


def panels(path):
    return [one for one in json.loads(path.read_text())["panels"] if one["type"] != "row"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_panels_ask_for_metrics_that_exist_by_labels_that_they_have(path):
    for panel in panels(path):
        for target in panel["targets"]:
            named = METRIC.findall(target["expr"])
            assert named, panel["title"]
            for name, matchers in named:
                metric = name.removesuffix("_bucket")
                assert metric in LABELS, panel["title"]
                assert set(re.findall(r"(\w+)[=!]~?", matchers)) <= LABELS[metric] | OF_THE_TARGET, panel["title"]
            own = {label for name, _ in named for label in LABELS[name.removesuffix("_bucket")]}
            kept = (own - CLASHING) | {f"exported_{label}" for label in own & CLASHING} | OF_THE_TARGET
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]


@pytest.mark.parametrize("path", BOARDS, ids=lambda path: path.stem)
def test_a_board_can_be_loaded_by_any_grafana(path):
    """It names no data source of its own, and panels neither overlap nor share an id."""
    board = json.loads(path.read_text())
    assert {one["uid"] for panel in panels(path) for one in (panel["datasource"],)} == {"${datasource}"}
    cells = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])


def test_the_chart_ships_them_when_asked_to(render):
    boards = {"labels": {"grafana_dashboard": "yes"}, "annotations": {"grafana_folder": "GPUs"}}
    values = {"metrics": {"dashboards": {"enabled": True} | boards}}
    found = [one for one in render(values) if one["kind"] == "ConfigMap"]
    assert len(found) == len(BOARDS) >= 2
    for one in found:
        ((name, text),) = one["data"].items()
        (path,) = [path for path in BOARDS if name.endswith(path.name)]
        assert json.loads(text) == json.loads(path.read_text())
        assert one["metadata"]["labels"]["grafana_dashboard"] == "yes"
        assert one["metadata"]["annotations"]["grafana_folder"] == "GPUs"
    assert not [one for one in render() if one["kind"] == "ConfigMap"]
