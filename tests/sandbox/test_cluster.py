"""The real thing: etcd, kube-apiserver, kube-controller-manager and kwok, used as people and tests use them."""

import json
import signal
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from tangram.errors import ClusterError, SandboxError
from tangram.sandbox.cluster import Wish, down, find, find_all, up
from tangram.sandbox.nodes import NodeSpec, create_nodes, parse_nodes

PREFIX = "sandbox.scheduling.example.com"


def pod(name, node, *, annotations=None, namespace="default", **spec):
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "annotations": annotations or {}},
            "spec": {"nodeName": node, "containers": [{"name": "main", "image": "any"}]} | spec,
        }
    )


@pytest.fixture(scope="module")
def gpu_node(sandbox):
    """A node of 8 A100 for the pods of this file."""
    spec = NodeSpec("cluster-test-a100", 96_000, 1_048_576, 8, "A100")
    assert sandbox.create_nodes([spec]) == 1
    yield spec.name
    sandbox.kubectl("delete", "node", spec.name)


def test_versions_are_true(sandbox):
    versions = json.loads(sandbox.kubectl("version", "-o", "json").stdout)

    assert versions["serverVersion"]["gitVersion"] == versions["clientVersion"]["gitVersion"] == "v1.36.3"
    assert sandbox.helm("version", "--template", "{{.Version}}").stdout == "v4.3.1"


def test_a_fake_node_is_ready_at_once_and_untainted(sandbox, gpu_node):
    node = json.loads(sandbox.kubectl("get", "node", gpu_node, "-o", "json").stdout)

    assert {c["type"]: c["status"] for c in node["status"]["conditions"]}["Ready"] == "True"
    assert "taints" not in node["spec"]
    assert node["status"]["allocatable"]["scheduling.example.com/gpu"] == "800"


def test_a_node_without_a_status_is_made_ready_by_kwok_and_one_without_the_annotation_is_not(sandbox):
    for name, annotations in (("bare", {"kwok.x-k8s.io/node": "fake"}), ("real", {})):
        metadata = {"name": name, "annotations": annotations}
        sandbox.kubectl(
            "apply", "-f", "-", input=json.dumps({"apiVersion": "v1", "kind": "Node", "metadata": metadata})
        )

    sandbox.kubectl("wait", "node/bare", "--for=condition=Ready", "--timeout=30s")

    assert "conditions" not in json.loads(sandbox.kubectl("get", "node", "real", "-o", "json").stdout)["status"]
    sandbox.kubectl("delete", "node", "bare", "real")


def test_a_bound_pod_runs_and_a_deleted_one_goes(sandbox, gpu_node):
    init = [{"name": "first", "image": "any"}]
    sandbox.kubectl("create", "-f", "-", input=pod("runs", gpu_node, initContainers=init))

    sandbox.kubectl("wait", "pod/runs", "--for=condition=Ready", "--timeout=30s")
    status = json.loads(sandbox.kubectl("get", "pod", "runs", "-o", "json").stdout)["status"]
    sandbox.kubectl("delete", "pod", "runs", "--timeout=30s")

    assert status["phase"] == "Running"
    assert status["podIP"]
    assert status["containerStatuses"][0]["state"].keys() == {"running"}
    assert status["initContainerStatuses"][0]["state"]["terminated"]["reason"] == "Completed"


@pytest.mark.parametrize(("code", "phase"), [("0", "Succeeded"), ("3", "Failed")])
def test_a_pod_ends_only_when_it_asks_for_it(sandbox, gpu_node, code, phase):
    asks = {f"{PREFIX}/complete-after": "100ms", f"{PREFIX}/exit-code": code}
    sandbox.kubectl("create", "-f", "-", input=pod(f"ends-{code}", gpu_node, annotations=asks))

    sandbox.kubectl("wait", f"pod/ends-{code}", f"--for=jsonpath={{.status.phase}}={phase}", "--timeout=30s")

    path = "jsonpath={.status.containerStatuses[0].state.terminated.exitCode}"
    assert sandbox.kubectl("get", "pod", f"ends-{code}", "-o", path).stdout == code
    sandbox.kubectl("delete", "pod", f"ends-{code}")


def test_a_pod_may_be_slow_to_start_and_slow_to_end(sandbox, gpu_node):
    slow = {f"{PREFIX}/ready-after": "500ms", f"{PREFIX}/terminate-after": "1h"}
    sandbox.kubectl("create", "-f", "-", input=pod("slow", gpu_node, annotations=slow))
    sandbox.kubectl("wait", "pod/slow", "--for=condition=Ready", "--timeout=30s")

    sandbox.kubectl("delete", "pod", "slow", "--wait=false")

    assert sandbox.kubectl("get", "pod", "slow", "-o", "jsonpath={.metadata.deletionTimestamp}").stdout
    sandbox.kubectl("delete", "pod", "slow", "--grace-period=0", "--force")


def test_service_accounts_have_tokens_and_roles_decide(sandbox):
    sandbox.kubectl("create", "namespace", "tokens")
    sandbox.kubectl("create", "serviceaccount", "reader", "--namespace=tokens")
    account = "system:serviceaccount:tokens:reader"
    token = sandbox.kubectl("create", "token", "reader", "--namespace=tokens").stdout.strip()

    question = ("auth", "can-i", "list", "pods", "--namespace=tokens", f"--as={account}")
    assert sandbox.kubectl(*question, check=False).stdout.strip() == "no"
    binding = ("--clusterrole=view", "--serviceaccount=tokens:reader", "--namespace=tokens")
    sandbox.kubectl("create", "rolebinding", "reader", *binding)
    assert sandbox.kubectl(*question).stdout.strip() == "yes"

    request = urllib.request.Request(f"{sandbox.server}/api/v1/namespaces/tokens/pods")
    request.add_header("Authorization", f"Bearer {token}")
    secure = ssl.create_default_context(cafile=str(sandbox.ca_file))
    with urllib.request.urlopen(request, context=secure) as answer:
        assert answer.status == 200
    sandbox.kubectl("delete", "namespace", "tokens", "--timeout=60s")


def test_pods_get_their_service_account_mounted(sandbox, gpu_node):
    sandbox.kubectl("create", "-f", "-", input=pod("mounted", gpu_node))
    path = "jsonpath={.spec.containers[0].volumeMounts[0].mountPath}"

    mounted = sandbox.kubectl("get", "pod", "mounted", "-o", path).stdout
    sandbox.kubectl("delete", "pod", "mounted")

    assert mounted == "/var/run/secrets/kubernetes.io/serviceaccount"


def test_admission_policies_written_in_cel_are_enforced(sandbox, eventually):
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    objects = [
        {
            "kind": "ValidatingAdmissionPolicy",
            "metadata": {"name": "no-foo"},
            "spec": {
                "matchConstraints": {"resourceRules": [rule]},
                "validations": [{"expression": "object.metadata.name != 'foo'", "message": "no foo here"}],
            },
        },
        {
            "kind": "ValidatingAdmissionPolicyBinding",
            "metadata": {"name": "no-foo"},
            "spec": {"policyName": "no-foo", "validationActions": ["Deny"]},
        },
    ]
    for each in objects:
        text = json.dumps({"apiVersion": "admissionregistration.k8s.io/v1"} | each)
        sandbox.kubectl("apply", "-f", "-", input=text)

    def refused():
        return "no foo here" in sandbox.kubectl("create", "configmap", "foo", "--dry-run=server", check=False).stderr

    eventually(refused, "the policy is enforced")
    for each in objects:
        sandbox.kubectl("delete", each["kind"], "no-foo")


async def test_nodes_are_created_once_and_many_at_a_time(sandbox):
    nodes = [NodeSpec(f"many-{i}", 1000, 1024, 1, "T4") for i in range(40)]
    access = (sandbox.server, sandbox.ca_file, sandbox.admin_token)
    before = sandbox.count_nodes()

    assert await create_nodes(*access, nodes[:30]) == 30
    assert await create_nodes(*access, nodes) == 10
    assert sandbox.count_nodes() == before + 40

    sandbox.kubectl("delete", "node", "--wait=false", *(node.name for node in nodes))


def test_a_node_that_the_server_refuses_is_a_clear_error(sandbox):
    with pytest.raises(ClusterError, match=r"metadata\.name: Invalid value") as refused:
        sandbox.create_nodes([NodeSpec("Bad_Name", 1000, 1024)])

    assert refused.value.status == 422


def test_a_failing_command_says_what_and_why(sandbox):
    with pytest.raises(SandboxError, match=r"kubectl get pod nowhere failed: .*not found"):
        sandbox.kubectl("get", "pod", "nowhere")


def test_everything_listens_on_the_loopback_and_wants_credentials(sandbox):
    trusted = ssl.create_default_context(cafile=str(sandbox.ca_file))
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{sandbox.server}/api/v1/nodes", context=trusted)
    refused.value.close()
    assert refused.value.code == 403
    assert sandbox.server.startswith("https://127.0.0.1:")

    database = f"https://127.0.0.1:{sandbox.state.ports['etcd_client']}/version"
    trusted = ssl.create_default_context(cafile=str(sandbox.state_dir / "certificates" / "etcd-ca.crt"))
    with pytest.raises(OSError, match=r"certificate required|reset|closed|EOF"):
        urllib.request.urlopen(database, context=trusted)


@pytest.mark.cluster
def test_two_sandboxes_start_at_once_and_live_side_by_side(sandbox_programs, tmp_path, lines):
    try:
        with ThreadPoolExecutor() as pool:
            first, second = pool.map(lambda name: up(name, state_root=tmp_path, wish=Wish(fsync=False)), ("one", "two"))
        second.create_nodes(parse_nodes("3x1xT4"))

        assert [found.name for found in find_all(state_root=tmp_path)] == ["one", "two"]
        assert (first.count_nodes(), second.count_nodes()) == (0, 3)

        again = up("two", wish=Wish(nodes=parse_nodes("4x1xT4")), state_root=tmp_path, report=lines.append)
        assert again.state == second.state
        assert lines[0] == f"sandbox two is already running at {second.server}"
        assert second.count_nodes() == 4
    finally:
        assert down("one", state_root=tmp_path)
        assert down("two", state_root=tmp_path)
    assert not first.running
    assert not any(process.alive for each in (first, second) for process in each.state.processes)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.cluster
def test_the_command_line_from_foreground_to_status_to_the_end(sandbox_programs, tmp_path, eventually):
    command = [sys.executable, "-c", "from tangram.cli.sandbox import sandbox; sandbox()"]
    place = ["--name", "cli", "--state-dir", str(tmp_path)]

    def run(*arguments):
        return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False)

    assert run("status", *place).returncode == 1
    options = ["--foreground", "--no-fsync", "--nodes", "2x8xH100"]
    with subprocess.Popen([*command, "up", *place, *options], stdout=subprocess.PIPE, text=True) as attached:
        assert attached.stdout.readline() == f"export KUBECONFIG={tmp_path}/cli/kubeconfig\n"
        status = run("status", *place)
        processes = find("cli", state_root=tmp_path).state.processes
        again = run("up", *place)
        attached.send_signal(signal.SIGTERM)

    assert status.returncode == 0
    assert "kubernetes v1.36.3" in status.stdout
    assert all(f"({process.pid})" in status.stdout for process in processes)
    assert again.returncode == 0
    assert "already running" in again.stderr
    assert attached.returncode == 128 + signal.SIGTERM
    assert not any(process.alive for process in processes)
    assert list(tmp_path.iterdir()) == []
    assert run("down", *place).stderr == "there is no sandbox cli\n"


@pytest.mark.cluster
def test_a_sandbox_that_lost_a_server_is_shown_as_stopped_and_started_anew(sandbox_programs, tmp_path, lines):
    from tangram.sandbox.processes import stop

    first = up("hurt", state_root=tmp_path, wish=Wish(fsync=False))
    try:
        stop([process for process in first.state.processes if process.name == "kwok"])
        assert not find("hurt", state_root=tmp_path).running

        second = up("hurt", state_root=tmp_path, wish=Wish(fsync=False), report=lines.append)

        assert lines[0] == "sandbox hurt had stopped: clearing its remains away"
        assert second.running
        assert not any(process.alive for process in first.state.processes)
    finally:
        down("hurt", state_root=tmp_path)
