"""`tangram explain` says which version of the policy decides, and what it could not find out."""

import json
from typing import Any

import pytest
from tests.cli.conftest import Api

from tangram.api import names
from tangram.cluster.paths import HYBRID_POLICIES, NAMESPACES, NODES, PODS

RESEARCH = {"matchLabels": {"team": "research"}}


def policy(spec: dict[str, Any], generation: int, in_force: Any) -> dict[str, Any]:
    metadata = {"name": "default", "generation": generation}
    return {"metadata": metadata, "spec": spec, "status": {"inForce": in_force}}


@pytest.fixture
def cluster(api: Api) -> Api:
    """A node with one GPU, and a pod that wants it in a queue of its own namespace."""
    allocatable = {"cpu": "8", "memory": "64Gi", "pods": "100", "nvidia.com/gpu": "1"}
    labels = {"nvidia.com/gpu.product": "A100", "nvidia.com/gpu.memory": "81920"}
    conditions = [{"type": "Ready", "status": "True"}]
    api.put(
        NODES,
        {
            "metadata": {"name": "n0", "labels": labels},
            "status": {"allocatable": allocatable, "conditions": conditions},
        },
    )
    api.put(NAMESPACES, {"metadata": {"name": "default", "labels": {"team": "research"}}})
    main = {"name": "main", "resources": {"requests": {"nvidia.com/gpu": "1"}, "limits": {"nvidia.com/gpu": "1"}}}
    metadata = {"name": "train-0", "labels": {names.QUEUE: "research"}, "creationTimestamp": "2026-01-01T00:00:00Z"}
    api.put(
        PODS,
        {
            "metadata": metadata,
            "spec": {"schedulerName": "tangram", "containers": [main]},
            "status": {"phase": "Pending"},
        },
    )
    api.put(
        HYBRID_POLICIES, policy({"queues": [{"name": "research", "namespaceSelector": RESEARCH}]}, 4, {"generation": 4})
    )
    return api


def explained(api: Api) -> dict[str, Any]:
    done = api.run("explain", "train-0", "-o", "json")
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_where_the_stored_policy_decides_nothing_is_noted(cluster: Api) -> None:
    found = explained(cluster)
    assert (found["state"], found["notes"]) == ("fits", [])
    assert (found["policy"]["generation"], found["policy"]["decidesGeneration"]) == (4, 4)


@pytest.mark.parametrize("lost", [{}, {"placement": {"strategy": "by-moonlight"}}], ids=["readable here", "unreadable"])
def test_a_version_that_the_scheduler_cannot_read_is_named_whether_it_can_be_read_here_or_not(
    cluster: Api, lost: dict[str, Any]
) -> None:
    """The command line may be newer than the scheduler; the last good version is in the scheduler's memory only."""
    spec = {"queues": [{"name": "research", "hold": "Hold"}]} | lost
    problem = "generation 5 cannot be read: no; generation 4 stays in force"
    cluster.put(HYBRID_POLICIES, policy(spec, 5, {"generation": 4, "message": problem}))
    found = explained(cluster)
    (note,) = found["notes"]
    assert note.startswith(
        f"the scheduler decides by generation 4 of policy default: {problem}; this answer was worked"
    )
    assert ("what can be read of generation 5" in note) is bool(lost)
    assert found["policy"]["decidesGeneration"] == 4
    assert f"Warning: {note}" in cluster.run("explain", "train-0").output


@pytest.mark.slow  # the scheduler of the question is started each time
@pytest.mark.parametrize("form", [None, [], "4", {"generation": "4"}, {"generation": True}, {"message": 7}])
def test_a_status_of_another_form_says_nothing_and_breaks_nothing(cluster: Api, form: Any) -> None:
    cluster.objects[HYBRID_POLICIES.path("default")]["status"] = {"inForce": form}
    assert explained(cluster)["policy"]["decides"] == ""


def test_who_may_not_read_namespaces_gets_an_answer_and_hears_what_it_leaves_out(cluster: Api) -> None:
    cluster.refused[NAMESPACES.collection()] = (403, "namespaces is forbidden")
    found = explained(cluster)
    assert found["state"] == "fits", found["message"]
    (note,) = found["notes"]
    assert note.startswith("namespaces may not be read here: this answer leaves out who may use which queue")
