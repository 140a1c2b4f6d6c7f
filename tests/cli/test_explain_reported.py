"""Who may read one namespace only gets what the controller and the scheduler have reported there."""

import json
from typing import Any

import pytest
from tests.cli.conftest import Api

from tangram.api import names
from tangram.cluster.paths import NODES, PODS, TRAINING_JOBS
from tangram.errors import ClusterError, Missing

FORBIDDEN = (403, 'nodes is forbidden: User "u" cannot list resource "nodes" at the cluster scope')


def pod(name: str, reason: str = "", node: str = "") -> dict[str, Any]:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason}
    spec = {"schedulerName": "tangram", "containers": [{"name": "main"}], **({"nodeName": node} if node else {})}
    metadata = {"name": name, "labels": {names.JOB: "train"}}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Pending", "conditions": [condition]}}


@pytest.fixture
def tenant(api: Api) -> Api:
    """A server that shows the user the namespace default, where a job waits, and nothing of the cluster."""
    api.refused |= {NODES.collection(): FORBIDDEN, PODS.collection(): FORBIDDEN}
    status = {"phase": "Pending", "reason": "InsufficientGpu", "message": "0/3 nodes are available"}
    api.put(TRAINING_JOBS, {"metadata": {"name": "train"}, "spec": {}, "status": status})
    for number in range(2):
        api.put(PODS, pod(f"train-{number}", "InsufficientGpu: 0/3 nodes are available"))
    api.put(PODS, pod("train-2", node="n0"))
    return api


def test_a_job_is_explained_by_its_status_and_the_conditions_of_its_pods(tenant: Api) -> None:
    done = tenant.run("explain", "tj/train")
    assert (done.exit_code, done.stdout.splitlines()) == (
        0,
        [
            "trainingjob default/train is pending: InsufficientGpu",
            "  0/3 nodes are available",
            "1/3 pods are scheduled",
            "2 pending: InsufficientGpu",
            "  0/3 nodes are available",
        ],
    )
    assert done.stderr == f"Note: {FORBIDDEN[1]}. This is what has been reported; nothing was worked out.\n"


def test_a_pod_is_explained_by_its_condition(tenant: Api) -> None:
    done = tenant.run("explain", "pod/train-1")
    assert done.stdout == "pod default/train-1 is pending: InsufficientGpu\n  0/3 nodes are available\n"
    tenant.put(PODS, pod("new"))
    assert "is pending: WaitingForScheduler" in tenant.run("explain", "pod/new").stdout


def test_programs_get_the_same(tenant: Api) -> None:
    answer = json.loads(tenant.run("explain", "tj/train", "-o", "json").stdout)
    assert (answer["state"], answer["workload"]["phase"], answer["pods"]) == ("reported", "Pending", 3)
    assert answer["reasons"] == [{"reason": "InsufficientGpu", "message": "0/3 nodes are available", "pods": 2}]


def test_names_are_proposed_here_too(tenant: Api) -> None:
    done = tenant.run("explain", "tj/trian")
    assert isinstance(done.exception, Missing)
    assert str(done.exception).endswith('did you mean "train"?')


def test_who_may_not_read_the_namespace_either_is_refused(tenant: Api) -> None:
    tenant.refused[PODS.collection("default")] = FORBIDDEN
    assert isinstance(tenant.run("explain", "tj/train").exception, ClusterError)
    assert isinstance(tenant.run("explain", "train", "-A").exception, ClusterError)
