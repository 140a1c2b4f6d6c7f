"""Alerts: on metrics that exist, with labels that they have, and words for whoever is woken."""

import re

import pytest
import yaml

from tangram.metrics.table import TABLE

OF_THE_TARGET = {"namespace", "service", "pod"}
"""Labels that the Prometheus operator adds to what it scrapes."""
WORDS_OF_PROMQL = {"absent", "and", "by", "on", "rate", "sum"}


@pytest.fixture(scope="module")
def rules(render):
    values = {"metrics": {"prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}}}}
    objects = render(values, "--api-versions", "monitoring.coreos.com/v1", name="blue")
    (found,) = [o for o in objects if o["kind"] == "PrometheusRule"]
    assert found["metadata"]["labels"]["release"] == "prometheus"
    (group,) = found["spec"]["groups"]
    return group["rules"]


def test_alerts_are_about_metrics_that_exist(rules):
    labels = {row.metric.name: set(row.metric.labels) for row in TABLE}
    for rule in rules:
        named = re.findall(r"(tangram_[a-z_]+)(?:\{([^}]*)\})?", rule["expr"])
        assert named, rule["alert"]
        for metric, matchers in named:
            assert metric in labels, rule["alert"]
            matched = set(re.findall(r"([a-zA-Z_]+)=", matchers))
            assert matched <= labels[metric] | OF_THE_TARGET, rule["alert"]
        kept = {label for metric, _ in named for label in labels[metric]} | OF_THE_TARGET
        told = set(re.findall(r"\$labels\.([a-zA-Z_]+)", str(rule["annotations"])))
        assert told <= kept, rule["alert"]


def test_alerts_are_about_this_release(rules):
    text = yaml.safe_dump(rules)
    assert 'service="blue-tangram-scheduler-metrics"' in text
    assert "Lease blue-tangram-controller" in text
    assert not re.search("NAMESPACE|FULLNAME", text)


def test_whoever_is_woken_learns_what_is_wrong_and_where_to_look(rules):
    for rule in rules:
        assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert set(rule["annotations"]) == {"summary", "description"}
