"""What kubectl makes of the kinds: columns, explanations, scaling, selection, waiting."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from tests.api.samples import sample

NAMESPACE = "kubectl-tests"


@pytest.fixture(scope="module")
def cluster(definitions) -> Iterator[Any]:
    """Two jobs in different queues, one of them elastic, and a service, each with a status."""
    definitions.kubectl("create", "namespace", NAMESPACE)

    def put(kind: str, name: str, spec: str, status: str) -> None:
        written = sample(kind, f"metadata: {{name: {name}}}\nspec: {spec}\nstatus: {status}")
        definitions.kubectl("apply", "-n", NAMESPACE, "-f", "-", input=json.dumps(written))
        patch = json.dumps({"status": written["status"]})
        definitions.kubectl(
            "patch", "-n", NAMESPACE, kind, name, "--subresource=status", "--type=merge", "--patch", patch
        )

    since = "lastTransitionTime: '2026-01-01T00:00:00Z'"
    put(
        "TrainingJob",
        "fixed",
        "{queue: a}",
        "{phase: Complete, ready: 0/2, gpus: '2', reason: Done, restarts: 1, observedGeneration: 1,"
        f" conditions: [{{type: Complete, status: 'True', reason: Done, {since}}}]}}",
    )
    put(
        "TrainingJob",
        "elastic",
        "{queue: b, elastic: {role: worker, replicas: 4, maxReplicas: 8}}",
        "{phase: Pending, ready: 0/4, gpus: '4', reason: InsufficientGpu, replicas: 4, selector: app=elastic}",
    )
    put(
        "InferenceService",
        "chat",
        "{replicas: 3, autoscale: {metric: rps, target: 5, max: 9}}",
        "{phase: Ready, ready: 3/3, gpus: '0.9', replicas: 3, selector: app=chat,"
        f" conditions: [{{type: Ready, status: 'True', reason: Serving, {since}}}]}}",
    )
    shadowed = f"{{conditions: [{{type: Active, status: 'False', reason: Shadowed, {since}}}]}}"
    put("HybridPolicy", "columns", "{fallbackStrategy: strict}", shadowed)
    put("GPUNode", "columns", "REMOVED", "{gpus: 8, model: T4, allocated: '2.5', free: '5.5', health: Degraded}")
    yield definitions
    definitions.kubectl("delete", "namespace", NAMESPACE, "--wait=false")
    definitions.kubectl("delete", "hybridpolicy/columns", "gpunode/columns")


def get(cluster: Any, *arguments: str) -> str:
    return cluster.kubectl("get", "-n", NAMESPACE, *arguments).stdout


@pytest.mark.parametrize(
    ("short", "kind"),
    [
        ("hp", "hybridpolicy"), ("hpol", "hybridpolicy"), ("tj", "trainingjob"), ("tjob", "trainingjob"),
        ("infer", "inferenceservice"), ("gn", "gpunode"), ("gpun", "gpunode"),
    ],
)  # fmt: skip
def test_short_names(short: str, kind: str, cluster) -> None:
    assert get(cluster, short, "-o", "name").startswith(f"{kind}.scheduling.example.com/")


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        (
            "tj/fixed",
            {"PHASE": "Complete", "READY": "0/2", "QUEUE": "a", "GPUS": "2", "RESTARTS": "1"},
        ),
        ("tj/elastic", {"PHASE": "Pending", "QUEUE": "b", "GPUS": "4", "REASON": "InsufficientGpu"}),
        ("infer/chat", {"PHASE": "Ready", "READY": "3/3", "GPUS": "0.9"}),
        ("hp/columns", {"ACTIVE": "False", "FALLBACK": "strict", "PLACEMENT": "bid-price"}),
        ("gn/columns", {"MODEL": "T4", "GPUS": "8", "ALLOCATED": "2.5", "FREE": "5.5", "HEALTH": "Degraded"}),
    ],
)
def test_columns(name: str, columns: dict[str, str], cluster) -> None:
    head, row = get(cluster, name).splitlines()
    starts = {title: head.index(title) for title in head.split()}
    assert {title: row[starts[title] :].split()[0] for title in columns} == columns
    assert "AGE" in starts


def test_wide_columns(cluster) -> None:
    assert "FRAMEWORK" in get(cluster, "tj", "-o", "wide")
    assert "FRAMEWORK" not in get(cluster, "tj")


def test_categories(cluster) -> None:
    ours = get(cluster, "tangram", "-o", "name").split()
    assert {name.partition(".")[0] for name in ours} == {"hybridpolicy", "trainingjob", "inferenceservice", "gpunode"}
    assert "scheduling.example.com" not in get(cluster, "all", "-o", "name")


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("spec.queue=a", ["fixed"]),
        ("spec.queue=b,status.phase=Pending", ["elastic"]),
        ("spec.queue!=a", ["elastic"]),
        ("status.reason=InsufficientGpu", ["elastic"]),
        ("spec.queue=c", []),
    ],
)
def test_field_selectors(selector: str, names: list[str], cluster) -> None:
    found = get(cluster, "tj", "--field-selector", selector, "-o", "name").split()
    assert found == [f"trainingjob.scheduling.example.com/{name}" for name in names]


def scale_of(cluster: Any, path: str) -> dict[str, Any]:
    url = f"/apis/scheduling.example.com/v1/namespaces/{NAMESPACE}/{path}/scale"
    return json.loads(cluster.kubectl("get", "--raw", url).stdout)


@pytest.mark.parametrize(
    ("name", "path", "field", "selector"),
    [
        ("inferenceservice/chat", "inferenceservices/chat", "{.spec.replicas}", "app=chat"),
        ("trainingjob/elastic", "trainingjobs/elastic", "{.spec.elastic.replicas}", "app=elastic"),
    ],
)
def test_scale(name: str, path: str, field: str, selector: str, cluster) -> None:
    """kubectl and autoscalers read and write the number of replicas without knowing the kind."""
    cluster.kubectl("scale", "-n", NAMESPACE, name, "--replicas=5")
    assert get(cluster, name, "-o", f"jsonpath={field}") == "5"
    assert scale_of(cluster, path)["status"]["selector"] == selector
    assert scale_of(cluster, path)["spec"]["replicas"] == 5


def test_scale_stays_inside_the_job_s_range(cluster) -> None:
    answer = cluster.kubectl("scale", "-n", NAMESPACE, "trainingjob/elastic", "--replicas=9", check=False)
    assert answer.returncode != 0
    assert "replicas must be from minReplicas to maxReplicas" in answer.stderr


def test_a_job_of_fixed_size_cannot_be_scaled(cluster) -> None:
    answer = cluster.kubectl("scale", "-n", NAMESPACE, "trainingjob/fixed", "--replicas=3", check=False)
    assert answer.returncode != 0
    assert "spec.elastic.role: Required value" in answer.stderr


def test_an_autoscaler_can_point_at_a_service(cluster) -> None:
    """The API server accepts an HPA for the kind; what it needs is the scale subresource above."""
    target = ("apiVersion=scheduling.example.com/v1", "kind=InferenceService")
    cluster.kubectl("autoscale", "-n", NAMESPACE, "inferenceservice/chat", "--min=1", "--max=3", "--cpu=70%")
    kind = get(cluster, "hpa/chat", "-o", "jsonpath={.spec.scaleTargetRef.kind}")
    cluster.kubectl("delete", "-n", NAMESPACE, "hpa/chat")
    assert f"kind={kind}" in target


@pytest.mark.parametrize(("name", "condition"), [("trainingjob/fixed", "Complete"), ("inferenceservice/chat", "Ready")])
def test_wait(name: str, condition: str, cluster) -> None:
    cluster.kubectl("wait", "-n", NAMESPACE, name, f"--for=condition={condition}", "--timeout=10s")


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("hybridpolicies.spec.fallbackStrategy", ["best-effort takes any node that fits", "ENUM"]),
        ("trainingjobs.spec.roles.gpus.share", ["Percent of one GPU"]),
        ("inferenceservices.spec.autoscale", ["cpu_utilization", "idleAfter", "target"]),
        ("gpunodes.status.devices.isolation", ["time-slice only lets them take turns"]),
        ("trainingjobs", ["all together or wait all together"]),
    ],
)
def test_explain(path: str, words: list[str], cluster) -> None:
    text = " ".join(cluster.kubectl("explain", path, "--api-version=scheduling.example.com/v1").stdout.split())
    assert all(word in text for word in words), text


def test_server_side_apply_owns_single_items(cluster) -> None:
    """Two writers can each own a class of one policy, because lists are keyed by name."""
    for writer, name in (("first", "a"), ("second", "b")):
        part = sample("HybridPolicy", f"metadata: {{name: shared}}\nspec: {{priorityClasses: [{{name: {name}}}]}}")
        cluster.kubectl("apply", "--server-side", f"--field-manager={writer}", "-f", "-", input=json.dumps(part))
    names = get(cluster, "hp/shared", "-o", "jsonpath={.spec.priorityClasses[*].name}")
    cluster.kubectl("delete", "hp/shared")
    assert names.split() == ["a", "b"]
