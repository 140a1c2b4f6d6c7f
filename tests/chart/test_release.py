"""A release from installation to removal, by the real helm on a real API server."""

import json
from pathlib import Path

import pytest
import yaml

RELEASE = ("tangram", "--namespace", "tangram-system")
POLICY = {
    "priorityClasses": [
        {"name": "gpu-intensive", "weight": 3, "nodeSelector": {"accelerator": "nvidia-tesla"}},
        {"name": "cpu-bound", "weight": 1},
    ],
    "fallbackStrategy": "best-effort",
}


def names(cluster, kinds: str) -> set[str]:
    return set(cluster.kubectl("get", kinds, "-A", "-o", "name", "--ignore-not-found").stdout.split())


def test_what_is_installed_is_what_was_rendered(release, render):
    """The API server takes every object as it is, and the notes tell the next steps."""
    for o in render():
        if "helm.sh/hook" not in o["metadata"].get("annotations", {}):
            namespace = o["metadata"].get("namespace", "default")
            release.kubectl("get", o["kind"], o["metadata"]["name"], "-n", namespace)
    notes = release.helm("get", "notes", *RELEASE).stdout
    assert (
        "kubectl -n tangram-system rollout status deployment/tangram-scheduler deployment/tangram-controller" in notes
    )
    assert "helm -n tangram-system test tangram" in notes


EVERYTHING = {
    "commonLabels": {"team": "ml"},
    "commonAnnotations": {"note": "example"},
    "networkPolicy": {"enabled": True, "egress": {"apiServer": [{"ipBlock": {"cidr": "10.0.0.1/32"}}]}},
    "flowControl": {"enabled": True},
    "admission": {"exemptNamespaces": ["kube-system"], "devices": {"scope": "cluster"}, "actions": ["Warn", "Audit"]},
    "policy": {"create": True, "name": "shared", "spec": POLICY},
    "extraObjects": [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "{{ .Release.Name }}-extra", "namespace": "tangram-system"},
        }
    ],
    "scheduler": {
        "podDisruptionBudget": {"maxUnavailable": "", "minAvailable": 1},
        "tolerations": [{"operator": "Exists"}],
        "annotations": {"note": "example"},
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    },
    "controller": {"strategy": {"type": "Recreate"}, "podSecurityContext": {"runAsUser": None}},
    "node": {"isolation": "mig", "securityContext": {"runAsGroup": 0}, "serveWholeGPUs": True},
}


def test_the_api_server_knows_every_field_of_every_option(release, render):
    """Strict validation refuses unknown and misspelt fields, which a plain apply would drop silently."""
    rendered = [o for o in render(EVERYTHING, name="trial") if o["kind"] != "CustomResourceDefinition"]
    release.kubectl(
        "apply",
        "--server-side",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
        input=yaml.safe_dump_all(rendered),
    )


def test_pods_meet_the_restricted_pod_security_standard(release, render):
    """The strictest of the standards, enforced by the API server itself on the namespace."""
    release.kubectl("label", "namespace", "tangram-system", "pod-security.kubernetes.io/enforce=restricted")

    def create(spec: dict) -> str:
        metadata = {"name": "example", "namespace": "tangram-system"}
        pod = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
        return release.kubectl("create", "--dry-run=server", "-f", "-", input=pod, check=False).stderr

    specs = [o["spec"]["template"]["spec"] for o in render() if o["kind"] == "Deployment"]
    assert [create(spec) for spec in specs] == ["", ""]
    specs[0]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    assert 'violates PodSecurity "restricted' in create(specs[0])  # the standard was in force


def upgrade(release, chart: Path, values: dict) -> None:
    release.helm(
        "upgrade",
        *RELEASE[:1],
        str(chart),
        *RELEASE[1:],
        "--reset-values",
        "--values",
        "-",
        input=yaml.safe_dump(values),
    )


@pytest.fixture
def own(sandbox, release, chart):
    """The release; afterwards it is as a plain installation leaves it, whatever the test did."""
    yield release
    sandbox.helm("upgrade", "--install", *RELEASE[:1], str(chart), *RELEASE[1:], "--reset-values")


def test_an_upgrade_changes_objects_and_keeps_the_accounts(own, chart):
    accounts = names(own, "serviceaccounts")
    upgrade(own, chart, {"scheduler": {"replicas": 3}, "schedulerName": "other"})
    deployment = json.loads(
        own.kubectl("get", "deployment", "tangram-scheduler", "-n", "tangram-system", "-o", "json").stdout
    )
    assert deployment["spec"]["replicas"] == 3
    assert "--scheduler-name=other" in deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert names(own, "serviceaccounts") == accounts


def test_an_upgrade_brings_new_definitions(own, chart):
    """Helm never upgrades what lies in a chart's crds folder, which is why these are templates."""
    own.kubectl(
        "patch",
        "crd",
        "trainingjobs.scheduling.example.com",
        "--type=json",
        "-p",
        '[{"op": "replace", "path": "/spec/names/shortNames", "value": ["old"]}]',
    )
    own.helm("upgrade", *RELEASE[:1], str(chart), *RELEASE[1:], "--force-conflicts")
    crd = json.loads(own.kubectl("get", "crd", "trainingjobs.scheduling.example.com", "-o", "json").stdout)
    assert crd["spec"]["names"]["shortNames"] != ["old"]


def test_a_policy_comes_with_the_release_and_follows_it(own, chart):
    upgrade(own, chart, {"policy": {"create": True, "name": "shared", "spec": POLICY}})
    upgrade(own, chart, {"policy": {"create": True, "name": "shared", "spec": POLICY | {"fallbackStrategy": "strict"}}})
    policy = json.loads(own.kubectl("get", "hybridpolicy", "shared", "-o", "json").stdout)
    assert policy["spec"]["fallbackStrategy"] == "strict"
    upgrade(own, chart, {})
    assert "hybridpolicy.scheduling.example.com/shared" in names(own, "hybridpolicies")  # as when the release goes
    own.kubectl("delete", "hybridpolicy", "shared")


@pytest.fixture
def bare(own):
    """Neither release nor definitions, as before a first installation."""
    own.helm("uninstall", *RELEASE, "--wait")
    own.kubectl("delete", "crd", "-l", "app.kubernetes.io/part-of=tangram", "--wait", "--timeout=60s")
    return own


def test_no_rollback_and_no_removal_takes_the_policy_along(bare, chart):
    """The revision of the first installation has the policy as a hook and not among its objects: a rollback to it
    deleted the policy with every quota, and so did a removal, although the definition stays."""

    def policy() -> tuple[str, str]:
        found = json.loads(bare.kubectl("get", "hybridpolicy", "shared", "-o", "json").stdout)
        return found["metadata"]["uid"], found["spec"]["fallbackStrategy"]

    values = {"policy": {"create": True, "name": "shared", "spec": POLICY}}
    bare.helm("install", *RELEASE[:1], str(chart), *RELEASE[1:], "--values", "-", input=yaml.safe_dump(values))
    uid, strategy = policy()
    assert strategy == "best-effort"
    upgrade(bare, chart, {"policy": values["policy"] | {"spec": POLICY | {"fallbackStrategy": "strict"}}})
    upgrade(bare, chart, {"policy": values["policy"] | {"spec": POLICY | {"fallbackStrategy": "preempt"}}})
    bare.helm("rollback", *RELEASE, "2")
    assert policy() == (uid, "strict")  # where it is an object of the revision it is rolled back with it
    bare.helm("rollback", *RELEASE, "1")
    assert policy() == (uid, "strict")
    bare.helm("upgrade", *RELEASE[:1], str(chart), *RELEASE[1:], "--reuse-values")
    assert policy() == (uid, "best-effort")  # what the docs say how to have the former one back
    bare.helm("uninstall", *RELEASE)
    assert policy() == (uid, "best-effort")
    bare.helm("install", *RELEASE[:1], str(chart), *RELEASE[1:], "--values", "-", input=yaml.safe_dump(values))
    assert policy() == (uid, "best-effort")
    bare.kubectl("delete", "hybridpolicy", "shared")


def test_fault_16_removal_leaves_users_objects_and_nothing_else(own, chart, root):
    """Definitions stay, and with them what users wrote; an installation afterwards takes them over."""
    own.kubectl("apply", "-f", str(root / "examples" / "policy.yaml"))
    own.helm("uninstall", *RELEASE)
    left = names(
        own,
        "all,sa,roles,rolebindings,clusterroles,clusterrolebindings,pdb,validatingadmissionpolicies,"
        "validatingadmissionpolicybindings",
    )
    assert [name for name in left if "tangram" in name] == []
    assert "hybridpolicy.scheduling.example.com/cpu-memory-balanced" in names(own, "hybridpolicies")
    own.helm("install", *RELEASE[:1], str(chart), *RELEASE[1:])
    own.kubectl("delete", "hybridpolicy", "cpu-memory-balanced")


def test_removal_takes_the_definitions_along_when_told_to(own, chart):
    """And a first installation with a policy works although the API server does not know its kind beforehand."""
    upgrade(own, chart, {"crds": {"keep": False}})
    own.helm("uninstall", *RELEASE, "--wait")
    own.kubectl("wait", "--for=delete", "crd/hybridpolicies.scheduling.example.com", "--timeout=60s")
    values = {"policy": {"create": True, "name": "shared", "spec": POLICY}}
    own.helm("install", *RELEASE[:1], str(chart), *RELEASE[1:], "--values", "-", input=yaml.safe_dump(values))
    assert "hybridpolicy.scheduling.example.com/shared" in names(own, "hybridpolicies")
    upgrade(own, chart, values)
    assert "hybridpolicy.scheduling.example.com/shared" in names(own, "hybridpolicies")
    own.kubectl("delete", "hybridpolicy", "shared")


def test_a_second_release_in_another_namespace_is_refused_before_anything_is_written(own, chart):
    answer = own.helm(
        "install", *RELEASE[:1], str(chart), "--namespace", "elsewhere", "--create-namespace", check=False
    )
    assert answer.returncode != 0
    assert "cannot be imported into the current release" in answer.stderr
    assert own.kubectl("get", "deployments", "-n", "elsewhere", "-o", "name").stdout == ""
