"""The real process against a real API server: what users type, and what they then see."""

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.controllers.builders import job_object, revision, role, service_object
from tests.controllers.conftest import Cluster, Controller, starting
from tests.controllers.test_identity import GPUS, RICH

from tangram.node.gpus import Condition, Gpu, Health, Holding
from tangram.node.report import Facts, status_of, with_status
from tangram.sandbox.cluster import Sandbox


@pytest.fixture(scope="module")
def controller(installed: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    """One controller for all tests of this file."""
    with starting(installed, tmp_path_factory.mktemp("controller")) as start:
        yield start("--no-leader-election")


def test_a_job_from_apply_to_complete(cluster: Cluster, controller: Controller) -> None:
    job = cluster.running_job(role("worker", 3, gpus={"count": 2}))
    assert job["status"]["ready"] == "3/3"
    assert sorted(entry["node"] for entry in job["status"]["placement"]) == ["controllers-0", "controllers-1"]
    cluster.wait_for("tj", "train", "Ready")
    assert "finalizers" not in job["metadata"]
    assert "annotations" not in job["metadata"] or not any("kopf" in key for key in job["metadata"]["annotations"])
    for number in range(3):
        cluster.finish(f"train-worker-{number}")
    cluster.wait_for("tj", "train", "Complete")
    job = cluster.get("tj", "train")
    assert job["status"]["observedGeneration"] == job["metadata"]["generation"]
    assert job["status"]["completionTime"]


def test_a_failed_replica_restarts_the_gang_and_the_limit_ends_it(cluster: Cluster, controller: Controller) -> None:
    cluster.running_job(runPolicy={"backoffLimit": 1})
    first = {name: pod["metadata"]["uid"] for name, pod in cluster.list("pods").items()}
    cluster.finish("train-worker-1", code=1)

    def again() -> bool:
        status = cluster.get("tj", "train")["status"]
        return status["phase"] == "Running" and status["restarts"] == 1

    cluster.until(again, "the second attempt")
    second = {name: pod["metadata"]["uid"] for name, pod in cluster.list("pods").items()}
    assert set(first) == set(second)
    assert not set(first.values()) & set(second.values())
    cluster.finish("train-worker-0", code=1)
    cluster.wait_for("tj", "train", "Failed")
    assert cluster.get("tj", "train")["status"]["reason"] == "BackoffLimitExceeded"
    about = ("get", "events", "--field-selector", "involvedObject.name=train")
    cluster.until(lambda: "Restarting" in cluster.kubectl(*about, check=False), "the event")


def test_an_evicted_replica_restarts_the_gang_uncounted(cluster: Cluster, controller: Controller) -> None:
    cluster.running_job()
    cluster.kubectl("delete", "pod", "train-worker-0", "--wait=false")

    def again() -> bool:
        status = cluster.get("tj", "train")["status"]
        return status["phase"] == "Running" and status["uncountedRestarts"] == 1

    cluster.until(again, "the second attempt")
    assert cluster.get("tj", "train")["status"]["restarts"] == 0


def test_a_gpu_that_fails_under_a_job_is_told_by_the_job(cluster: Cluster, controller: Controller) -> None:
    """In the words of the node's agent, which has written them into its GPUNode."""
    cluster.running_job()
    pod = cluster.get("pod", "train-worker-1")
    node, uid = pod["spec"]["nodeName"], pod["metadata"]["uid"]
    facts = Facts(
        node,
        gpus=(Gpu("GPU-c", 3, "H100", 81559),),
        conditions={"GPU-c": Condition(Health.UNHEALTHY, "XID 79: GPU has fallen off the bus")},
        holdings=(Holding(uid, cluster.namespace, "train-worker-1", "main", "GPU-c", 100),),
    )

    def write(facts: Facts) -> None:
        told = json.dumps({"status": status_of(facts, None, "2026-11-21T12:00:00Z")})
        cluster.kubectl("patch", "gpunode", node, "--subresource=status", "--type=merge", "-p", told)

    cluster.kubectl("create", "-f", "-", text=json.dumps(with_status(node, {})))
    try:
        write(facts)
        cluster.wait_for("tj", "train", "GpusHealthy=false")
        told = cluster.get("tj", "train")["status"]["message"]
        assert told == (f"pod train-worker-1: GPU 3 (GPU-c) of {node} is unhealthy: XID 79: GPU has fallen off the bus")
        write(replace(facts, conditions={}))
        cluster.wait_for("tj", "train", "GpusHealthy=true")
    finally:
        cluster.kubectl("delete", "gpunode", node)


def test_a_job_is_suspended_and_resumed(cluster: Cluster, controller: Controller) -> None:
    cluster.running_job()
    cluster.kubectl("patch", "tj", "train", "--type=merge", "-p", '{"spec":{"runPolicy":{"suspend":true}}}')
    cluster.wait_for("tj", "train", "Suspended")
    cluster.until(lambda: not cluster.list("pods"), "the pods to go")
    cluster.kubectl("patch", "tj", "train", "--type=merge", "-p", '{"spec":{"runPolicy":{"suspend":false}}}')
    cluster.phase("tj", "train", "Running")


def test_kubectl_scale_resizes_an_elastic_job(cluster: Cluster, controller: Controller) -> None:
    elastic = {"role": "worker", "replicas": 2, "minReplicas": 1, "maxReplicas": 4}
    cluster.running_job(role("worker"), elastic=elastic)
    cluster.kubectl("scale", "tj", "train", "--replicas=4")
    cluster.until(lambda: cluster.get("tj", "train")["status"]["ready"] == "4/4", "four workers")
    cluster.kubectl("scale", "tj", "train", "--replicas=1")
    cluster.until(lambda: list(cluster.list("pods")) == ["train-worker-0"], "one worker")
    assert cluster.get("tj", "train")["status"]["uncountedRestarts"] == 0


def test_an_ended_job_goes_by_itself_when_its_time_is_over(cluster: Cluster, controller: Controller) -> None:
    cluster.running_job(role("main"), runPolicy={"ttlAfterFinished": "1s"})
    cluster.finish("train-main-0")
    cluster.until(lambda: not cluster.list("tj") and not cluster.list("pods"), "the job to be deleted")


def test_a_service_is_ready_scales_and_rolls_out_without_losing_a_replica(
    cluster: Cluster, controller: Controller
) -> None:
    cluster.apply(service_object(replicas=2))
    cluster.wait_for("infer", "chat", "Ready")
    cluster.kubectl("scale", "infer", "chat", "--replicas=3")
    cluster.until(lambda: cluster.get("infer", "chat")["status"]["ready"] == "3/3", "three replicas")
    cluster.apply(service_object(revision(image="registry.test/serve:2"), replicas=3))

    def rolled() -> bool:
        pods = cluster.list("pods").values()
        serving = [
            pod
            for pod in pods
            if "deletionTimestamp" not in pod["metadata"]
            and any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", ()))
        ]
        assert len(serving) >= 3, "a replica was missing during the rollout"
        images = {pod["spec"]["containers"][0]["image"] for pod in pods}
        return images == {"registry.test/serve:2"} and len(serving) == 3

    cluster.until(rolled, "the rollout")
    cluster.wait_for("infer", "chat", "Ready")
    budget = cluster.get("pdb", "chat")
    assert budget["spec"]["maxUnavailable"] == 1
    endpoints = cluster.kubectl("get", "svc", "chat", "chat-v1", "-o", "name")
    assert endpoints.split() == ["service/chat", "service/chat-v1"]


def test_replicas_that_another_version_made_stay(cluster: Cluster, controller: Controller) -> None:
    """Compared with what the API server has made of them: defaults, a token's volume, amounts in other words."""
    rich = {"name": "v1", "template": RICH, "gpus": GPUS}
    cluster.apply(service_object(rich, replicas=2, port=8000))
    cluster.wait_for("infer", "chat", "Ready")
    before = {pod["metadata"]["uid"] for pod in cluster.list("pods").values()}
    cluster.kubectl("label", "pods", "--all", "scheduling.example.com/template-hash=a0bc88780c", "--overwrite")
    cluster.kubectl("scale", "infer", "chat", "--replicas=3")
    cluster.until(lambda: cluster.get("infer", "chat")["status"]["ready"] == "3/3", "three replicas")
    cluster.wait_for("infer", "chat", "Ready")
    after = {pod["metadata"]["uid"] for pod in cluster.list("pods").values()}
    assert before < after
    assert len(after) == 3


def test_a_service_waits_for_its_model_and_starts_when_the_job_is_complete(
    cluster: Cluster, controller: Controller
) -> None:
    cluster.apply(service_object(replicas=1, **{"from": {"trainingJob": "train"}}))
    cluster.until(lambda: reason(cluster, "infer", "chat") == "ModelMissing", "the job to be missed")
    cluster.running_job(role("main"))
    cluster.until(lambda: reason(cluster, "infer", "chat") == "WaitingForModel", "the job to be waited for")
    cluster.finish("train-main-0")
    cluster.wait_for("infer", "chat", "Ready")


def reason(cluster: Cluster, kind: str, name: str) -> str:
    return str(cluster.get(kind, name).get("status", {}).get("reason", ""))


def test_why_a_pod_waits_is_why_its_job_waits(cluster: Cluster, controller: Controller) -> None:
    waiting = role("worker", 2)
    waiting["template"]["metadata"] = {"annotations": {"test/place": "never"}}
    cluster.apply(job_object(waiting))
    cluster.until(lambda: len(cluster.list("pods")) == 2, "the pods")
    waits = (
        '{"status":{"conditions":[{"type":"PodScheduled","status":"False","reason":"Unschedulable",'
        '"message":"InsufficientGpu: 0 of 2 nodes have 1 free GPU"}]}}'
    )
    for name in cluster.list("pods"):
        cluster.kubectl("patch", "pod", name, "--subresource=status", "-p", waits)
    cluster.until(lambda: reason(cluster, "tj", "train") == "InsufficientGpu", "the reason")
    message = cluster.get("tj", "train")["status"]["message"]
    assert message == "0 of 2 nodes have 1 free GPU (2 of 2 waiting pods)"


def test_what_the_server_refuses_is_shown_and_healed(cluster: Cluster, controller: Controller) -> None:
    taken = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat", "namespace": cluster.namespace}}
    cluster.apply({**taken, "spec": {"ports": [{"port": 1}]}}, service_object())
    cluster.wait_for("infer", "chat", "Stalled")
    assert "the name chat is taken" in cluster.get("infer", "chat")["status"]["message"]
    cluster.kubectl("delete", "svc", "chat")
    cluster.wait_for("infer", "chat", "Ready")


def test_a_typing_error_in_a_template_is_told_in_the_servers_words(cluster: Cluster, controller: Controller) -> None:
    wrong = role("worker")
    wrong["template"]["spec"]["containers"][0]["enviroment"] = [{"name": "A", "value": "1"}]
    cluster.apply(job_object(wrong))
    cluster.wait_for("tj", "train", "Stalled")
    status = cluster.get("tj", "train")["status"]
    assert status["reason"] == "CreateRefused"
    assert 'unknown field "spec.containers[0].enviroment"' in status["message"]
    cluster.apply(job_object(role("worker")))
    cluster.phase("tj", "train", "Running")


def test_what_the_server_warns_of_is_an_event(cluster: Cluster, controller: Controller) -> None:
    warns = "pod-security.kubernetes.io/warn=restricted"
    cluster.sandbox.kubectl("label", "namespace", cluster.namespace, warns)
    cluster.running_job(role("worker"))
    about = ("get", "events", "--field-selector", "involvedObject.kind=TrainingJob,reason=ServerWarning", "-o", "json")
    cluster.until(lambda: "would violate PodSecurity" in cluster.kubectl(*about), "the warning")


def test_replicas_go_although_a_service_cannot_be_created(cluster: Cluster, controller: Controller) -> None:
    taken = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "chat", "namespace": cluster.namespace}}
    cluster.apply({**taken, "spec": {"ports": [{"port": 1}]}}, service_object(replicas=3))
    cluster.wait_for("infer", "chat", "Stalled")
    cluster.until(lambda: len(cluster.list("pods")) == 3, "three replicas")
    cluster.kubectl("scale", "infer", "chat", "--replicas=1")
    cluster.until(lambda: len(cluster.list("pods")) == 1, "two replicas to go")


def test_a_budget_that_a_user_writes_takes_the_place_of_the_services(cluster: Cluster, controller: Controller) -> None:
    cluster.apply(service_object())
    cluster.until(lambda: "chat" in cluster.list("pdb"), "the service's budget")
    selector = {"matchLabels": {"scheduling.example.com/service": "chat"}}
    theirs = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "theirs"}}
    cluster.apply({**theirs, "spec": {"minAvailable": 1, "selector": selector}})
    cluster.until(lambda: list(cluster.list("pdb")) == ["theirs"], "the service's budget to go")
    cluster.kubectl("delete", "pdb", "theirs")
    cluster.until(lambda: list(cluster.list("pdb")) == ["chat"], "the service's budget to come back")


def test_policies_say_which_is_in_force_and_what_their_classes_match(cluster: Cluster, controller: Controller) -> None:
    cluster.kubectl("apply", "-f", "examples/policy.yaml")
    try:
        cluster.wait_for("hp", "cpu-memory-balanced", "Active")
        policy = cluster.get("hp", "cpu-memory-balanced")
        (ready,) = [item for item in policy["status"]["conditions"] if item["type"] == "Ready"]
        assert ready["status"] == "True"
        assert "gpu-intensive: 2 nodes with 16 GPUs" in ready["message"]
        other = {**policy, "metadata": {"name": "default"}, "status": None}
        cluster.apply(other)
        cluster.wait_for("hp", "default", "Active")
        cluster.wait_for("hp", "cpu-memory-balanced", "Active=False")
    finally:
        cluster.kubectl("delete", "hp", "--all")


def test_nothing_is_left_of_what_was_deleted(cluster: Cluster, controller: Controller) -> None:
    """Last in this file: the garbage collector notices new kinds only within half a minute."""
    cluster.running_job()
    cluster.apply(service_object(replicas=2))
    cluster.wait_for("infer", "chat", "Ready")
    cluster.kubectl("delete", "tj/train", "infer/chat", "--wait=true")
    cluster.until(lambda: not cluster.list("pods") and not cluster.list("svc"), "garbage collection")
