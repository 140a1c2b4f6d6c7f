"""No value is without effect: each one, changed alone, changes what is installed, and each one is described."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

VALUES = Path(__file__).parents[2] / "charts" / "tangram" / "values.yaml"

PROCESS: dict[str, Any] = {
    "replicas": 3,
    "lease.duration": 20,
    "lease.renewDeadline": 12.5,
    "lease.retryPeriod": 1,
    "extraArgs": ["--no-leader-election"],
    "extraEnv": [{"name": "A", "value": "b"}],
    "extraVolumes": [{"name": "certificate", "secret": {"secretName": "a"}}],
    "extraVolumeMounts": [{"name": "certificate", "mountPath": "/certificate"}],
    "podSecurityContext.runAsNonRoot": None,
    "podSecurityContext.runAsUser": 1000,
    "podSecurityContext.runAsGroup": None,
    "podSecurityContext.fsGroup": None,
    "podSecurityContext.seccompProfile.type": "Unconfined",
    "securityContext.allowPrivilegeEscalation": None,
    "securityContext.capabilities.drop": ["NET_RAW"],
    "securityContext.readOnlyRootFilesystem": False,
    "securityContext.runAsNonRoot": None,
    "securityContext.seccompProfile.type": "Unconfined",
    "annotations": {"a": "b"},
    "strategy.type": "Recreate",
    "strategy.rollingUpdate.maxUnavailable": 1,
    "strategy.rollingUpdate.maxSurge": "50%",
    "resources": {"limits": {"memory": "3Gi"}},
    "podAnnotations": {"a": "b"},
    "podLabels": {"a": "b"},
    "priorityClassName": "",
    "nodeSelector": {"a": "b"},
    "tolerations": [{"operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 2}],
    "terminationGracePeriodSeconds": 5,
    "serviceAccount.create": False,
    "serviceAccount.name": "other",
    "serviceAccount.annotations": {"a": "b"},
    "podDisruptionBudget.enabled": False,
    "podDisruptionBudget.maxUnavailable": "50%",
    "podDisruptionBudget.minAvailable": 1,
}

NODE: dict[str, Any] = {
    "enabled": False,
    "isolation": "time-slice",
    "deviceInjection": "cdi",
    "serveWholeGPUs": True,
    "memoryOvercommitPercent": 150,
    "numaTopology": True,
    "failurePredictor": "ours",
    "perProcessMetrics": False,
    "securityContext": {"runAsGroup": 0},
    "metricsAccess": "open",
    "kubeletRoot": "/data/kubelet",
    "readHostVersions": False,
    "runtimeClassName": "nvidia",
    "updateStrategy": "OnDelete",
    "maxUnavailable": 3,
    "mps.sharedMemory": "2Gi",
    "mps.multiUser": False,
    "mps.resources": {"limits": {"memory": "8Gi"}},
    "mps.securityContext": {"runAsGroup": 0},
    "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms": [
        {"matchExpressions": [{"key": "a", "operator": "Exists"}]}
    ],
    "tolerations": [],
    "extraArgs": ["--mps-root=/run/other"],
    **{
        name: PROCESS[name]
        for name in (
            "extraEnv",
            "extraVolumes",
            "extraVolumeMounts",
            "podSecurityContext.seccompProfile.type",
            "annotations",
            "resources",
            "podAnnotations",
            "podLabels",
            "priorityClassName",
            "nodeSelector",
            "terminationGracePeriodSeconds",
            "serviceAccount.create",
            "serviceAccount.name",
            "serviceAccount.annotations",
        )
    },
}

OTHER: dict[str, Any] = {
    "nameOverride": "other",
    "fullnameOverride": "other",
    "commonLabels": {"a": "b"},
    "commonAnnotations": {"a": "b"},
    "image.registry": "registry.example.com",
    "image.repository": "other",
    "image.tag": "v9",
    "image.digest": "sha256:" + "0" * 64,
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "a"}],
    "crds.enabled": False,
    "crds.keep": False,
    "rbac.create": False,
    "rbac.aggregate": False,
    "schedulerName": "other",
    "log.level": "debug",
    "log.format": "json",
    "scheduler.batch": 1_000_000 // 16,
    "scheduler.gangTimeout": 2_592_000,
    "scheduler.reservationDelay": -1,
    **{f"{process}.{path}": value for process in ("scheduler", "controller") for path, value in PROCESS.items()},
    **{f"node.{path}": value for path, value in NODE.items()},
    "ports.health": 9090,
    "ports.metrics": 9091,
    "admission.enabled": False,
    "admission.actions": ["Audit"],
    "admission.exemptNamespaces": ["kube-system"],
    "admission.reserved.enabled": False,
    "admission.reserved.extraUsers": ["restore"],
    "admission.fractions.enabled": False,
    "admission.fractions.requireScheduler": False,
    "admission.fractions.maxDevices": 8,
    "admission.fractions.wholeDeviceResources": ["nvidia.com/gpu"],
    "admission.devices.enabled": False,
    "admission.devices.scope": "scheduled",
    "admission.devices.exemptNamespaces": ["gpu-operator"],
    "admission.devices.exemptPrivileged": False,
    "admission.devices.voidUnasked": False,
    "admission.devices.refuseEnvFrom": "all",
    "admission.nodes.enabled": False,
    "admission.workloads.enabled": False,
    "admission.templates.enabled": False,
    "admission.tenants.enabled": False,
    "admission.tenants.policy": "pool",
    "metrics.access": "open",
    "metrics.service.enabled": False,
    "metrics.service.annotations": {"a": "b"},
    "metrics.serviceMonitor.enabled": True,
    "metrics.serviceMonitor.interval": "1m",
    "metrics.serviceMonitor.labels": {"a": "b"},
    "metrics.serviceMonitor.tokenSecret": "scraper",
    "metrics.prometheusRule.enabled": True,
    "metrics.prometheusRule.labels": {"a": "b"},
    "metrics.dashboards.enabled": True,
    "metrics.dashboards.labels.grafana_dashboard": "yes",
    "metrics.dashboards.annotations": {"a": "b"},
    "metrics.podMonitor.enabled": True,
    "metrics.podMonitor.interval": "1m",
    "metrics.podMonitor.labels": {"a": "b"},
    "metrics.podMonitor.tokenSecret": "scraper",
    **{
        f"metrics.{monitor}.{path}": value
        for monitor in ("serviceMonitor", "podMonitor")
        for path, value in {
            "scrapeTimeout": "5s",
            "relabelings": [{"targetLabel": "a", "replacement": "b"}],
            "metricRelabelings": [{"action": "labeldrop", "regex": "UUID"}],
        }.items()
    },
    "networkPolicy.enabled": True,
    "networkPolicy.metricsFrom": [{"podSelector": {}}],
    "networkPolicy.egress.enabled": False,
    "networkPolicy.egress.apiServer": [{"ipBlock": {"cidr": "10.0.0.1/32"}}],
    "networkPolicy.egress.apiServerPorts": [16443],
    "networkPolicy.egress.extra": [{"to": [{"podSelector": {}}]}],
    "flowControl.enabled": True,
    "flowControl.concurrencyShares": 7,
    "flowControl.matchingPrecedence": 7,
    "policy.create": True,
    "policy.name": "other",
    "policy.spec": {"fallbackStrategy": "strict"},
    "tests.enabled": False,
    "tests.gpuShare": 50,
    "extraObjects": [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "{{ .Release.Name }}-x"}}],
}
"""A different value for each one of values.yaml."""

CONTEXT: dict[str, dict[str, Any]] = {
    "crds.enabled": {"crds.enabled": True},
    "crds.keep": {"crds.enabled": True},
    "scheduler.serviceAccount.create": {"scheduler.serviceAccount.name": "given"},
    "controller.serviceAccount.create": {"controller.serviceAccount.name": "given"},
    "node.serviceAccount.create": {"node.serviceAccount.name": "given"},
    "scheduler.podDisruptionBudget.minAvailable": {"scheduler.podDisruptionBudget.maxUnavailable": ""},
    "controller.podDisruptionBudget.minAvailable": {"controller.podDisruptionBudget.maxUnavailable": ""},
    "metrics.serviceMonitor.interval": {"metrics.serviceMonitor.enabled": True},
    "metrics.serviceMonitor.labels": {"metrics.serviceMonitor.enabled": True},
    "metrics.podMonitor.interval": {"metrics.podMonitor.enabled": True},
    "metrics.podMonitor.labels": {"metrics.podMonitor.enabled": True},
    "metrics.prometheusRule.labels": {"metrics.prometheusRule.enabled": True},
    "metrics.dashboards.labels.grafana_dashboard": {"metrics.dashboards.enabled": True},
    "metrics.dashboards.annotations": {"metrics.dashboards.enabled": True},
    "metrics.podMonitor.tokenSecret": {"metrics.podMonitor.enabled": True},
    "metrics.serviceMonitor.tokenSecret": {"metrics.serviceMonitor.enabled": True},
    "networkPolicy.metricsFrom": {"networkPolicy.enabled": True},
    **{
        f"networkPolicy.egress.{path}": {"networkPolicy.enabled": True}
        for path in ("enabled", "apiServer", "apiServerPorts", "extra")
    },
    **{
        f"metrics.{monitor}.{path}": {f"metrics.{monitor}.enabled": True}
        for monitor in ("serviceMonitor", "podMonitor")
        for path in ("scrapeTimeout", "relabelings", "metricRelabelings")
    },
    "flowControl.concurrencyShares": {"flowControl.enabled": True},
    "flowControl.matchingPrecedence": {"flowControl.enabled": True},
    "policy.create": {"policy.spec": {"fallbackStrategy": "best-effort"}},
    "policy.name": {"policy.create": True, "policy.spec": {"fallbackStrategy": "best-effort"}},
    "policy.spec": {"policy.create": True},
}
"""Other values without which one can have no effect."""


def leaves(values: dict[str, Any], prefix: str = "") -> list[str]:
    paths: list[str] = []
    for key, value in values.items():
        deeper = isinstance(value, dict) and value and key != "resources"
        paths += leaves(value, f"{prefix}{key}.") if deeper else [prefix + key]
    return paths


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, value in flat.items():
        *parents, last = path.split(".")
        place = tree
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return tree


def test_the_table_names_every_value_and_no_other():
    assert sorted(leaves(yaml.safe_load(VALUES.read_text()))) == sorted(OTHER)


def template(helm, chart, flat: dict[str, Any]):
    flat = {"crds.enabled": False} | flat  # they are most of what helm would have to write each time
    kinds = ("monitoring.coreos.com/v1", "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy")
    known = [argument for kind in kinds for argument in ("--api-versions", kind)]
    return helm("template", "tangram", str(chart), *known, values=nested(flat))


@pytest.fixture(scope="module")
def defaults(helm, chart):
    """What comes of values.yaml as it is."""
    return template(helm, chart, {})


@pytest.mark.slow  # a helm for each value
@pytest.mark.parametrize("path", OTHER)
def test_value_changes_what_is_installed(helm, chart, defaults, path):
    changed = template(helm, chart, CONTEXT.get(path, {}) | {path: OTHER[path]})
    assert changed.returncode == 0, changed.stderr
    if path == "policy.spec":  # has no default to compare with
        assert "fallbackStrategy: strict" in changed.stdout
        return
    assert changed.stdout != (template(helm, chart, CONTEXT[path]) if path in CONTEXT else defaults).stdout


KUBERNETES = {
    "requests", "limits", "type", "rollingUpdate", "runAsNonRoot", "runAsUser", "runAsGroup", "fsGroup",
    "seccompProfile", "allowPrivilegeEscalation", "capabilities", "readOnlyRootFilesystem",
}  # fmt: skip
"""Fields of Kubernetes' own, which are described with the value that holds them."""


def test_every_value_is_described():
    lines = VALUES.read_text().splitlines()
    for number, line in enumerate(lines):
        name, _, rest = line.strip().partition(":")
        if rest.strip() and not line.strip().startswith(("#", "-")) and name not in KUBERNETES:
            assert lines[number - 1].lstrip().startswith("#"), f"line {number + 1}: {line}"


def test_the_schema_is_strict_at_every_level():
    """A typing error in the name of a value is refused at any depth that is the chart's own."""
    schema = json.loads((VALUES.parent / "values.schema.json").read_text())

    def check(part: dict[str, Any], where: str) -> None:
        for name, child in part.get("properties", {}).items():
            check(child, f"{where}.{name}")
        if "properties" in part:
            assert part["additionalProperties"] is False, where

    check(schema, "values")
    check(schema["definitions"]["process"], "process")


@pytest.mark.parametrize(
    "path",
    ["tests", "node", "metrics.dashboards", "admission", "node.isolation", "scheduler.lease", "ports.health", "policy"],
)
def test_a_value_that_is_taken_away_is_missed_in_one_sentence(helm, chart, path):
    """As by ``--set node=null``, or by the values of an earlier version that did not have it."""
    answer = helm("template", "tangram", str(chart), values=nested({path: None}))
    assert answer.returncode != 0
    assert f"missing property '{path.rpartition('.')[2]}'" in answer.stderr
    assert "nil pointer" not in answer.stderr
