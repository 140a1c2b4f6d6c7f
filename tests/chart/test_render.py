"""What the chart makes of its values: objects that a cluster accepts, or a refusal in plain words."""

from typing import Any

import pytest
import yaml
from tests.documents import LOADER

COMPONENTS = ("scheduler", "controller")
LABELS = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/version", "helm.sh/chart"}


def find(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def test_lint_is_clean(helm, chart):
    answer = helm("lint", "--strict", str(chart))
    assert answer.returncode == 0, answer.stdout + answer.stderr


def test_rendering_twice_gives_the_same_bytes(helm, chart):
    """GitOps tools compare renderings: nothing may be random or dated."""
    assert helm("template", "tangram", str(chart)).stdout == helm("template", "tangram", str(chart)).stdout


def test_every_object_carries_the_standard_labels_and_no_name_is_used_twice(render):
    objects = render()
    for o in objects:
        assert set(o["metadata"]["labels"]) >= LABELS, o["metadata"]["name"]
    names = [(o["kind"], o["metadata"].get("namespace"), o["metadata"]["name"]) for o in objects]
    assert len(names) == len(set(names))


def test_names_follow_the_release(helm, chart):
    text = helm("template", "blue", str(chart), "--namespace", "pool").stdout
    assert "--lease-name=blue-tangram-scheduler" in text
    assert "--lease-namespace=pool" in text
    assert "system:serviceaccount:pool:blue-tangram-scheduler" in text


@pytest.mark.parametrize("component", [*COMPONENTS, "node"])
def test_a_network_policy_lets_nobody_past_the_two_ports_of_any_process(render, component):
    reader = [{"podSelector": {"matchLabels": {"app": "prometheus"}}}]
    policy = find(
        render({"networkPolicy": {"enabled": True, "metricsFrom": reader}}), "NetworkPolicy", f"tangram-{component}"
    )["spec"]
    assert policy["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == component
    assert policy["policyTypes"] == ["Ingress"]
    assert policy["ingress"] == [{"ports": [{"port": "health"}]}, {"ports": [{"port": "metrics"}], "from": reader}]


def test_without_agents_there_is_no_network_policy_for_them(render):
    objects = render({"networkPolicy": {"enabled": True}, "node": {"enabled": False}})
    names = [o["metadata"]["name"] for o in objects if o["kind"] == "NetworkPolicy"]
    assert names == ["tangram-scheduler", "tangram-controller"]


@pytest.mark.parametrize("component", COMPONENTS)
def test_processes_are_two_replicas_that_may_do_nothing_to_their_node(render, component):
    spec = find(render(), "Deployment", f"tangram-{component}")["spec"]
    pod = spec["template"]["spec"]
    assert spec["replicas"] == 2
    assert pod["priorityClassName"] == "system-cluster-critical"
    assert pod["serviceAccountName"] == f"tangram-{component}"
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["requests"]
        assert container["resources"]["limits"]["memory"]
    assert all(set(volume) == {"name", "emptyDir"} for volume in pod["volumes"])


@pytest.mark.parametrize("component", COMPONENTS)
def test_processes_are_started_and_probed_by_the_command_line_they_have(render, component):
    (container,) = find(render(), "Deployment", f"tangram-{component}")["spec"]["template"]["spec"]["containers"]
    assert container["args"] == [
        component,
        "--lease-namespace=tangram-system",
        f"--lease-name=tangram-{component}",
        "--scheduler-name=tangram",
        "--health-port=8080",
        "--metrics-port=8081",
    ]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    assert {p["name"]: p["containerPort"] for p in container["ports"]} == {"health": 8080, "metrics": 8081}


def test_the_agent_is_root_without_any_capability_and_sees_only_what_it_needs_of_its_node(render):
    pod = find(render(), "DaemonSet", "tangram-node")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "runAsUser": 0,
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert pod["hostPID"] is True  # for the use per pod
    assert not {"hostNetwork", "hostIPC"} & set(pod)
    paths = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert paths == {"/var/lib/kubelet/device-plugins", "/var/lib/kubelet/pod-resources", "/run/tangram/mps"}


def test_the_agent_may_see_all_mig_slices_where_it_gives_them_out(render):
    values = {"node": {"isolation": "mig"}}
    (container,) = find(render(values), "DaemonSet", "tangram-node")["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
    assert {"name": "NVIDIA_MIG_MONITOR_DEVICES", "value": "all"} in container["env"]
    assert "NVIDIA_MIG_MONITOR_DEVICES" not in str(find(render(), "DaemonSet", "tangram-node"))


@pytest.mark.parametrize(
    ("values", "strategy"),
    [
        ({}, {"type": "OnDelete"}),
        ({"isolation": "time-slice"}, {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}),
        ({"updateStrategy": "RollingUpdate"}, {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}),
    ],
)
def test_no_upgrade_ends_the_work_on_shared_gpus_unless_it_is_told_to(render, values, strategy):
    """The MPS daemons of a node end with its agent, and the work of their clients with them."""
    assert find(render({"node": values}), "DaemonSet", "tangram-node")["spec"]["updateStrategy"] == strategy


def test_the_agent_needs_no_more_than_the_kubelets_sockets_when_it_measures_no_processes(render):
    plain = {"node": {"perProcessMetrics": False, "isolation": "time-slice"}}
    pod = find(render(plain), "DaemonSet", "tangram-node")["spec"]["template"]["spec"]
    assert "hostPID" not in pod
    paths = {volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume}
    assert paths == {"/var/lib/kubelet/device-plugins", "/var/lib/kubelet/pod-resources"}


@pytest.mark.parametrize("component", COMPONENTS)
def test_selectors_find_their_own_pods_only(render, component):
    objects = render()
    labels = find(objects, "Deployment", f"tangram-{component}")["spec"]["template"]["metadata"]["labels"]
    other = next(c for c in COMPONENTS if c != component)
    others = find(objects, "Deployment", f"tangram-{other}")["spec"]["template"]["metadata"]["labels"]
    for selector in (
        find(objects, "PodDisruptionBudget", f"tangram-{component}")["spec"]["selector"]["matchLabels"],
        find(objects, "Service", f"tangram-{component}-metrics")["spec"]["selector"],
    ):
        assert selector.items() <= labels.items()
        assert not selector.items() <= others.items()


@pytest.mark.parametrize(
    ("image", "reference"),
    [
        ({}, "tangram:0.1.0"),
        ({"tag": "v9"}, "tangram:v9"),
        (
            {"registry": "registry.example.com:5000", "repository": "ml/tangram"},
            "registry.example.com:5000/ml/tangram:0.1.0",
        ),
        ({"tag": "v9", "digest": "sha256:" + "a" * 64}, "tangram@sha256:" + "a" * 64),
    ],
)
def test_image_reference(render, image, reference):
    pods = [o["spec"]["template"]["spec"] for o in render({"image": image}) if o["kind"] == "Deployment"]
    assert {c["image"] for pod in pods for c in [*pod["containers"], *pod.get("initContainers", [])]} == {reference}


def test_own_labels_win_over_common_ones(render):
    objects = render({"commonLabels": {"team": "ml", "app.kubernetes.io/name": "other"}})
    assert {o["metadata"]["labels"]["team"] for o in objects} == {"ml"}
    assert {o["metadata"]["labels"]["app.kubernetes.io/name"] for o in objects} == {"tangram"}


def test_crds_are_the_generated_files_unchanged_but_for_their_metadata(render, chart):
    files = {f.name: yaml.load(f.read_text(), Loader=LOADER) for f in (chart / "files" / "crds").glob("*.yaml")}
    rendered = {o["metadata"]["name"]: o for o in render() if o["kind"] == "CustomResourceDefinition"}
    assert {crd["metadata"]["name"]: crd["spec"] for crd in files.values()} == {
        n: o["spec"] for n, o in rendered.items()
    }
    for o in rendered.values():
        assert o["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_crds_go_with_the_release_when_they_are_not_kept(render):
    for o in render({"crds": {"keep": False}}):
        assert "helm.sh/resource-policy" not in o["metadata"].get("annotations", {})


def test_a_policy_waits_for_its_kind_at_the_first_installation(render):
    values = {"policy": {"create": True, "name": "shared", "spec": {"priorityClasses": [{"name": "a", "weight": 1}]}}}
    first = find(render(values), "HybridPolicy", "shared")
    later = find(render(values, "--api-versions", "scheduling.example.com/v1/HybridPolicy"), "HybridPolicy", "shared")
    assert first["spec"] == later["spec"] == values["policy"]["spec"]
    assert first["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"
    assert "helm.sh/hook" not in later["metadata"]["annotations"]


def test_the_record_of_devices_and_gpunodes_are_guarded_in_exempt_namespaces_too(render):
    objects = render({"admission": {"exemptNamespaces": ["gpu-drivers"]}})
    scopes = {
        o["metadata"]["name"]: o["spec"].get("matchResources")
        for o in objects
        if o["kind"] == "ValidatingAdmissionPolicyBinding"
    }
    exempt = {
        "matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["gpu-drivers"]}]
    }
    assert scopes == {
        "tangram-reserved-annotations": None,
        "tangram-nodes": None,
        "tangram-fractions": {"namespaceSelector": exempt},
        "tangram-devices": {"namespaceSelector": exempt},
        "tangram-workloads": {"namespaceSelector": exempt},
        "tangram-tenants": {"namespaceSelector": exempt},
    }


def test_variables_that_nobody_sees_are_refused_to_shares_to_all_or_to_nobody(render):
    def rule(whom: str) -> str:
        objects = render({"admission": {"devices": {"refuseEnvFrom": whom}}})
        spec = find(objects, "ValidatingAdmissionPolicy", "tangram-devices")["spec"]
        return " ".join(one["expression"] for one in spec["variables"] + spec["validations"])

    assert 'limits[?"scheduling.example.com/gpu"].hasValue() && c.?envFrom' in rule("fractions")
    assert "envFrom" in rule("all")
    assert ".hasValue() && c.?envFrom" not in rule("all")
    assert "envFrom" not in rule("none")


def test_rules_fail_closed(render):
    policies = [o for o in render() if o["kind"] == "ValidatingAdmissionPolicy"]
    assert {o["spec"]["failurePolicy"] for o in policies} == {"Fail"}
    assert not [o for o in render() if "Webhook" in o["kind"]]


REFUSED = [
    # values, words of the message
    ({"replicas": 3}, ["additional properties 'replicas' not allowed"]),
    ({"scheduler": {"replicaCount": 3}}, ["/scheduler", "additional properties 'replicaCount' not allowed"]),
    ({"scheduler": {"replicas": -1}}, ["/scheduler/replicas", "minimum: got -1, want 0"]),
    ({"controller": {"replicas": "2"}}, ["/controller/replicas", "got string, want integer"]),
    ({"controller": {"extraArgs": ["debug"]}}, ["/controller/extraArgs/0", "does not match pattern '^-'"]),
    ({"image": {"digest": "sha256:12"}}, ["/image/digest", "'sha256:12' does not match pattern"]),
    ({"image": {"pullPolicy": "Sometimes"}}, ["/image/pullPolicy", "'Always', 'IfNotPresent', 'Never'"]),
    ({"imagePullSecrets": ["secret"]}, ["/imagePullSecrets/0", "got string, want object"]),
    ({"schedulerName": "Tangram_1"}, ["/schedulerName", "'Tangram_1' does not match pattern"]),
    ({"ports": {"health": 80}}, ["/ports/health", "minimum: got 80, want 1,024"]),
    ({"admission": {"actions": ["Refuse"]}}, ["/admission/actions/0", "'Deny', 'Warn', 'Audit'"]),
    ({"admission": {"devices": {"scope": "some"}}}, ["/admission/devices/scope", "'scheduled', 'cluster'"]),
    ({"admission": {"devices": {"refuseEnvFrom": True}}}, ["/admission/devices/refuseEnvFrom", "'fractions', 'all'"]),
    ({"admission": {"fractions": {"maxDevices": 0}}}, ["/admission/fractions/maxDevices", "minimum: got 0, want 1"]),
    ({"metrics": {"serviceMonitor": {"interval": "often"}}}, ["/metrics/serviceMonitor/interval", "does not match"]),
    ({"flowControl": {"concurrencyShares": 0}}, ["/flowControl/concurrencyShares", "minimum: got 0, want 1"]),
    ({"ports": {"metrics": 8080}}, ["ports.metrics: 8080 is ports.health too"]),
    ({"scheduler": {"serviceAccount": {"create": False}}}, ["scheduler.serviceAccount.name: needed when"]),
    (
        {"scheduler": {"serviceAccount": {"name": "one"}}, "controller": {"serviceAccount": {"name": "one"}}},
        ['controller.serviceAccount.name: "one" is the account of scheduler too'],
    ),
    (
        {"scheduler": {"podDisruptionBudget": {"minAvailable": 1}}},
        ["scheduler.podDisruptionBudget: set exactly one of maxUnavailable and minAvailable"],
    ),
    (
        {"controller": {"podDisruptionBudget": {"maxUnavailable": ""}}},
        ["controller.podDisruptionBudget: set exactly one of maxUnavailable and minAvailable"],
    ),
    (
        {"controller": {"podDisruptionBudget": {"maxUnavailable": "", "minAvailable": 2}}},
        ["controller.podDisruptionBudget.minAvailable: 2 of 2 replicas would let no node be drained"],
    ),
    (
        {"scheduler": {"extraArgs": ["--lease-name=mine"]}},
        ["scheduler.extraArgs: --lease-name=mine is set by the chart"],
    ),
    ({"policy": {"create": True}}, ["policy.spec: needed when policy.create is true"]),
    (
        {"metrics": {"serviceMonitor": {"enabled": True}}},
        ["metrics.serviceMonitor.enabled: the cluster does not know monitoring.coreos.com/v1"],
    ),
    (
        {"metrics": {"serviceMonitor": {"enabled": True}, "service": {"enabled": False}}},
        ["metrics.service.enabled: needed when metrics.serviceMonitor.enabled is true"],
    ),
    ({"admission": {"actions": ["Deny", "Warn"]}}, ["admission.actions: Deny and Warn exclude each other"]),
]  # fmt: skip


@pytest.mark.parametrize(("values", "words"), REFUSED, ids=[str(values)[:60] for values, _ in REFUSED])
def test_wrong_values_are_refused_by_name(helm, chart, values, words):
    answer = helm("template", "tangram", str(chart), values=values)
    assert answer.returncode != 0
    assert answer.stdout == ""
    for word in words:
        assert word in answer.stderr


def test_an_old_cluster_is_refused(helm, chart):
    answer = helm("template", "tangram", str(chart), "--kube-version", "1.29.0")
    assert "chart requires kubeVersion: >=1.30.0-0 which is incompatible with Kubernetes v1.29.0" in answer.stderr
