"""`tangram top`: what agents report of their GPUs comes first, then what pods' records say."""

import json
from typing import Any

from tests.cli.conftest import Api

from tangram.api import names
from tangram.cluster.paths import GPU_NODES, NAMESPACES, NODES, PODS


def device(index: int, allocated: int, busy: int | None = None) -> dict[str, Any]:
    measured = {} if busy is None else {"utilizationPercent": busy, "memoryUsedMiB": 1024 * (index + 1)}
    return {"uuid": f"GPU-{index}", "index": index, "allocated": allocated, "memoryMiB": 81920, **measured}


def pod(name: str, node: str, record: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    notes = {names.GPUS: json.dumps(record)} if record is not None else {}
    limits = {"limits": {"nvidia.com/gpu": "2"}} if record is None else {}
    containers = [{"name": "main", "resources": limits}]
    metadata = {"name": name, "annotations": notes, "labels": more.pop("labels", {})} | more.pop("metadata", {})
    spec = {"containers": containers, **({"nodeName": node} if node else {})}
    return {"metadata": metadata, "spec": spec, "status": {"phase": "Running", **more}}


def world(api: Api) -> None:
    """a has an agent, which measures one of its two GPUs; b has 4 GPUs and no agent; c has none."""
    for name, allocatable in (("a", {"nvidia.com/gpu": "2"}), ("b", {"nvidia.com/gpu": "4"}), ("c", {"cpu": "8"})):
        labels = {"nvidia.com/gpu.product": "T4"} if name == "b" else {}
        api.put(NODES, {"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}})
    devices = [device(0, 50, 80), device(1, 0)]
    status = {"model": "A100", "health": "Healthy", "devices": devices}
    api.put(GPU_NODES, {"metadata": {"name": "a"}, "status": status})
    half, whole = {"main": [{"id": "GPU-0", "share": 50}]}, {"main": [{"id": "0", "share": 100}]}
    api.put(PODS, pod("train-0", "a", half, labels={names.JOB: "train", names.QUEUE: "research"}))
    api.put(PODS, pod("train-1", "b", whole, labels={names.JOB: "train", names.QUEUE: "research"}))
    api.put(PODS, pod("foreign", "b"), "other")
    api.put(PODS, pod("waits", ""))
    api.put(PODS, pod("over", "b", phase="Succeeded"))


def test_nodes_are_shown_by_what_their_agent_reports_and_else_by_the_pods_records(api: Api) -> None:
    world(api)
    assert api.run("top").output.splitlines() == [
        "NODE   MODEL   GPUS   ALLOCATED   ALLOCATED%   UTILIZATION   HEALTH",
        "b      T4      4      3           75%          -             -",
        "a      A100    2      0.5         25%          80%           Healthy",
    ]
    wide = api.run("top", "nodes", "-o", "wide").output.splitlines()
    assert wide[0].split()[-2:] == ["PODS", "MEMORY"]
    assert wide[2].split()[-2:] == ["1", "1Gi/160Gi"]


def test_what_may_not_be_read_is_not_nought(api: Api) -> None:
    world(api)
    api.refused |= {one.collection(): (403, "forbidden") for one in (PODS, GPU_NODES)}
    assert [line.split() for line in api.run("top").output.splitlines()[1:]] == [
        ["a", "-", "2", "-", "-", "-", "-"],
        ["b", "T4", "4", "-", "-", "-", "-"],
    ]


def test_workloads_are_shown_with_what_their_pods_hold(api: Api) -> None:
    world(api)
    assert api.run("top", "workloads").output.splitlines() == [
        "WORKLOAD            QUEUE      GPUS   PODS   UTILIZATION   NODES",
        "trainingjob/train   research   1.5    2      80%           a, b",
    ]
    everywhere = [line.split()[:3] for line in api.run("top", "workloads", "-A").output.splitlines()[1:]]
    assert everywhere == [["other", "pod/foreign", "default"], ["default", "trainingjob/train", "research"]]
    assert api.run("top", "workloads", "-n", "other", "-o", "name").output == "pod/foreign\n"


def test_a_deployment_is_named_and_not_its_replica_set(api: Api) -> None:
    owner = [{"kind": "ReplicaSet", "name": "chat-5d9", "controller": True}]
    labels = {"pod-template-hash": "5d9"}
    api.put(PODS, pod("chat-5d9-x", "a", labels=labels, metadata={"ownerReferences": owner}))
    assert api.run("top", "workloads", "-o", "name").output == "deployment/chat\n"


def test_a_pod_without_a_queue_is_in_the_one_that_its_namespace_names(api: Api) -> None:
    api.put(PODS, pod("alone", "a", labels={names.QUEUE: "default"}), "team")
    api.put(NAMESPACES, {"metadata": {"name": "team", "labels": {names.QUEUE: "sales"}}})
    for scope in (("-n", "team"), ("-A",)):
        rows = json.loads(api.run("top", "workloads", *scope, "-o", "json").output)["items"]
        assert [one["queue"] for one in rows if one["name"] == "alone"] == ["sales"]
    api.refused["/api/v1/namespaces"] = (403, "no")
    assert "alone   default" in api.run("top", "workloads", "-n", "team").output


def test_programs_get_amounts_as_integers(api: Api) -> None:
    world(api)
    node = json.loads(api.run("top", "-o", "json").output)["items"][1]
    assert (node["name"], node["gpus"], node["allocatedMilli"], node["utilizationPercent"]) == ("a", 2, 500, 80.0)
    template = "jsonpath={.items[*].gpuMilli}"
    assert api.run("top", "workloads", "-A", "-o", template).output == "2000 1500"


def test_an_idle_pool_is_said_to_be_idle(api: Api) -> None:
    assert api.run("top", "workloads").stderr == "No workload holds a GPU.\n"
