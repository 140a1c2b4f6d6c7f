"""What the chart makes of its values: objects that a cluster accepts, or a refusal in plain words."""

from typing import Any

import click
import pytest
import yaml
from tests.documents import LOADER

from tangram import __version__
from tangram.cli.main import tangram
from tangram.settings import SchedulerSettings

pytestmark = pytest.mark.slow  # a helm each

COMPONENTS = ("scheduler", "controller")
LABELS = {"app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/version", "helm.sh/chart"}


def find(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    (found,) = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found


def test_lint_is_clean(helm, chart):
    answer = helm("lint", "--strict", str(chart))
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "[INFO]" not in answer.stdout  # not even a recommendation


def test_who_finds_the_chart_finds_who_makes_it_and_how_to_use_it(helm, chart):
    about = yaml.safe_load(helm("show", "chart", str(chart)).stdout)
    assert about["home"].startswith("https://")
    assert about["icon"].endswith(".svg")
    assert about["sources"]
    assert about["maintainers"][0]["name"]
    assert "helm install tangram" in helm("show", "readme", str(chart)).stdout


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
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert policy["ingress"] == [{"ports": [{"port": "health"}]}, {"ports": [{"port": "metrics"}], "from": reader}]


@pytest.mark.parametrize("component", [*COMPONENTS, "node"])
def test_a_network_policy_lets_processes_reach_the_api_server_and_names_only(render, component):
    values = {"enabled": True, "egress": {"apiServer": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}}
    policy = find(render({"networkPolicy": values}), "NetworkPolicy", f"tangram-{component}")["spec"]
    server, names = policy["egress"]
    assert server == {"ports": [{"port": 443}, {"port": 6443}], "to": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}
    assert {one["port"] for one in names["ports"]} == {53, 5353}
    policy = find(render({"networkPolicy": {"enabled": True}}), "NetworkPolicy", f"tangram-{component}")["spec"]
    assert policy["egress"][0] == {"ports": [{"port": 443}, {"port": 6443}]}
    closed = {"networkPolicy": {"enabled": True, "egress": {"enabled": False}}}
    assert "egress" not in find(render(closed), "NetworkPolicy", f"tangram-{component}")["spec"]


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
        "--log-level=info",
        "--log-format=text",
        "--metrics-access=token",
        "--lease-duration=15",
        "--lease-renew-deadline=10",
        "--lease-retry-period=2",
        *(["--batch=256", "--gang-timeout=60", "--reservation-delay=3600"] if component == "scheduler" else []),
    ]
    assert container["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "health"}
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "health"}
    assert {p["name"]: p["containerPort"] for p in container["ports"]} == {"health": 8080, "metrics": 8081}


@pytest.mark.parametrize("component", [*COMPONENTS, "node"])
def test_every_option_that_the_chart_gives_is_one_of_the_process_with_its_own_default(render, component):
    """So that whoever sets nothing has the same process by the chart as by hand."""
    kind = "DaemonSet" if component == "node" else "Deployment"
    (container,) = find(render(), kind, f"tangram-{component}")["spec"]["template"]["spec"]["containers"]
    command = tangram.get_command(click.Context(tangram), component)
    defaults = {name: one.default for one in command.params for name in one.opts}
    for option in container["args"][1:]:
        name, _, value = option.partition("=")
        assert name in defaults, option
        if name not in ("--lease-namespace",):
            default = defaults[name] if name != "--batch" else SchedulerSettings().batch
            assert value in (str(default), f"{default:g}" if isinstance(default, float) else ""), option


def openshift_refuses(pod: dict[str, Any]) -> list[str]:
    """What OpenShift's restricted-v2 has against a pod, which every account there may use."""
    context, faults = pod.get("securityContext", {}), []
    faults += [key for key in ("hostNetwork", "hostPID", "hostIPC") if pod.get(key)]
    faults += [key for key in ("runAsUser", "runAsGroup", "fsGroup", "supplementalGroups") if key in context]
    safe = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    faults += [one["name"] for one in pod["volumes"] if not set(one) - {"name"} <= safe]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        own = container["securityContext"]
        faults += [key for key in ("runAsUser", "runAsGroup", "privileged") if key in own]
        faults += [] if own["allowPrivilegeEscalation"] is False else ["allowPrivilegeEscalation"]
        faults += [] if own["capabilities"] == {"drop": ["ALL"]} else ["capabilities"]
        faults += [] if own["seccompProfile"] == {"type": "RuntimeDefault"} else ["seccompProfile"]
    return faults


@pytest.mark.parametrize("component", COMPONENTS)
def test_openshift_gives_the_processes_users_of_its_own(render, component):
    openshift = ("--api-versions", "security.openshift.io/v1")

    def pod(values: dict[str, Any], *arguments: str) -> dict[str, Any]:
        return find(render(values, *arguments), "Deployment", f"tangram-{component}")["spec"]["template"]["spec"]

    assert openshift_refuses(pod({}, *openshift)) == []
    assert openshift_refuses(pod({})) == ["runAsUser", "runAsGroup", "fsGroup"]
    nothing = {component: {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}}}
    assert openshift_refuses(pod(nothing)) == []
    mine = {component: {"podSecurityContext": {"runAsUser": 1000}}}
    assert pod(mine, *openshift)["securityContext"]["runAsUser"] == 1000


@pytest.mark.parametrize("component", COMPONENTS)
def test_an_upgrade_spreads_the_new_pods_and_not_those_that_it_ends(render, component):
    pod = find(render(), "Deployment", f"tangram-{component}")["spec"]["template"]["spec"]
    assert [one["matchLabelKeys"] for one in pod["topologySpreadConstraints"]] == [["pod-template-hash"]]


def test_no_pod_has_variables_of_other_services(render):
    pods = [o["spec"] if o["kind"] == "Pod" else o["spec"]["template"]["spec"]
            for o in render() if o["kind"] in ("Pod", "Deployment", "DaemonSet")]  # fmt: skip
    assert [pod["enableServiceLinks"] for pod in pods] == [False] * 6


def test_a_strategy_without_surge_has_no_numbers_of_one_with(render):
    spec = find(render({"controller": {"strategy": {"type": "Recreate"}}}), "Deployment", "tangram-controller")["spec"]
    assert spec["strategy"] == {"type": "Recreate"}


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
    kubelet, own = {"/var/lib/kubelet/device-plugins", "/var/lib/kubelet/pod-resources"}, {"/run/tangram/mps"}
    assert paths == kubelet | own | {"/etc/cdi", "/var/run/cdi", "/usr"}
    [container] = pod["containers"]
    assert {"name": "host-usr", "mountPath": "/host/usr", "readOnly": True} in container["volumeMounts"]


def test_the_agent_may_see_all_mig_slices_where_it_gives_them_out(render):
    values = {"node": {"isolation": "mig"}}
    (container,) = find(render(values), "DaemonSet", "tangram-node")["spec"]["template"]["spec"]["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["SYS_ADMIN"]}
    assert {"name": "NVIDIA_MIG_MONITOR_DEVICES", "value": "all"} in container["env"]
    assert "NVIDIA_MIG_MONITOR_DEVICES" not in str(find(render(), "DaemonSet", "tangram-node"))


@pytest.mark.parametrize(
    ("values", "strategy"),
    [
        ({}, {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}),
        ({"maxUnavailable": 1}, {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}),
        ({"updateStrategy": "OnDelete"}, {"type": "OnDelete"}),
    ],
)
def test_agents_are_replaced_by_an_upgrade_as_they_are_told_to(render, values, strategy):
    assert find(render({"node": values}), "DaemonSet", "tangram-node")["spec"]["updateStrategy"] == strategy


def test_no_upgrade_ends_the_work_on_shared_gpus(render):
    """The MPS daemons of a node are those of a DaemonSet of their own, whose pods are replaced by hand."""
    spec = find(render(), "DaemonSet", "tangram-mps")["spec"]
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == ["mps", "--shared-memory=1Gi", "--multi-user"]
    assert container["securityContext"] == {"runAsUser": 0, "privileged": True, "readOnlyRootFilesystem": True}
    assert pod["hostPID"] is True
    assert pod["automountServiceAccountToken"] is False
    (mount,) = (one for one in container["volumeMounts"] if one["name"] == "mps")
    assert mount["mountPropagation"] == "Bidirectional"


@pytest.mark.parametrize("values", [{"isolation": "time-slice"}, {"isolation": "mig"}, {"enabled": False}])
def test_without_mps_there_are_no_daemons(render, values):
    assert not [one for one in render({"node": values}) if one["metadata"]["name"] == "tangram-mps"]


def test_the_agent_needs_no_more_than_the_kubelets_sockets_when_it_measures_no_processes(render):
    plain = {
        "node": {
            "perProcessMetrics": False, "isolation": "time-slice", "deviceInjection": "env", "readHostVersions": False
        }
    }  # fmt: skip
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
        ({}, f"tangram:{__version__}"),
        ({"tag": "v9"}, "tangram:v9"),
        (
            {"registry": "registry.example.com:5000", "repository": "ml/tangram"},
            f"registry.example.com:5000/ml/tangram:{__version__}",
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
    devices = scopes.pop("tangram-devices")["namespaceSelector"]["matchExpressions"]
    assert scopes.pop("tangram-device-annotations")["namespaceSelector"]["matchExpressions"] == devices
    assert {"tangram-system", "kube-system", "gpu-operator", "gpu-drivers"} <= set(devices[0]["values"])
    assert devices[1] == {
        "key": "pod-security.kubernetes.io/enforce", "operator": "NotIn", "values": ["privileged"]
    }  # fmt: skip
    assert scopes == {
        "tangram-reserved-annotations": None,
        "tangram-nodes": None,
        "tangram-fractions": {"namespaceSelector": exempt},
        "tangram-workloads": {"namespaceSelector": exempt},
        "tangram-templates": None,
        "tangram-tenants": {"namespaceSelector": exempt},
    }


@pytest.mark.parametrize(("version", "expected"), [("v1", "v1"), ("v1beta1", "v1beta1"), ("v1alpha1", None)])
def test_variables_are_voided_where_the_api_server_can_set_them(render, version, expected):
    kind = f"admissionregistration.k8s.io/{version}/MutatingAdmissionPolicy"
    made = [o for o in render(None, "--api-versions", kind) if o["kind"].startswith("MutatingAdmission")]
    assert {o["apiVersion"] for o in made} == ({f"admissionregistration.k8s.io/{expected}"} if expected else set())
    assert len(made) == (4 if expected else 0)
    assert not [o for o in render() if o["kind"].startswith("MutatingAdmission")]
    off = {"admission": {"devices": {"voidUnasked": False}}}
    assert not [o for o in render(off, "--api-versions", kind) if o["kind"].startswith("MutatingAdmission")]


def test_a_volume_at_dev_shm_is_refused_where_mps_needs_it(render):
    def rule(isolation: str) -> str:
        objects = render({"node": {"isolation": isolation}})
        return str(find(objects, "ValidatingAdmissionPolicy", "tangram-devices")["spec"]["validations"])

    assert "/dev/shm" in rule("mps")
    assert "/dev/shm" not in rule("time-slice")


def test_variables_that_nobody_sees_are_refused_to_shares_to_all_or_to_nobody(render):
    def rule(whom: str) -> str:
        objects = render({"admission": {"devices": {"refuseEnvFrom": whom}}})
        spec = find(objects, "ValidatingAdmissionPolicy", "tangram-devices")["spec"]
        return " ".join(one["expression"] for one in spec["variables"] + spec["validations"])

    assert 'limits[?"scheduling.example.com/gpu"].hasValue() && c.?envFrom' in rule("fractions")
    assert "envFrom" in rule("all")
    assert ".hasValue() && c.?envFrom" not in rule("all")
    assert "envFrom" not in rule("none")


def test_fault_19_rules_fail_closed(render):
    policies = [o for o in render() if o["kind"] == "ValidatingAdmissionPolicy"]
    warning = "tangram-templates"  # refuses nothing
    assert {o["spec"]["failurePolicy"] for o in policies if o["metadata"]["name"] != warning} == {"Fail"}
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
    (
        {"scheduler": {"lease": {"duration": 8}}},
        ["scheduler.lease: duration 8, renewDeadline 10 and retryPeriod 2 must each be larger than the next"],
    ),
    (
        {"node": {"isolation": "mig", "deviceInjection": "device-nodes"}},
        ["node.deviceInjection: device-nodes cannot give slices out"],
    ),
    (
        {"node": {"extraArgs": ["--serve-whole-gpus"]}},
        ["node.extraArgs: --serve-whole-gpus is set by the chart; use the value made for it"],
    ),
    ({"log": {"level": "loud"}}, ["/log/level", "'debug', 'info', 'warning', 'error'"]),
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
