"""What the scheduler writes, byte for byte, and what it makes of lost answers."""

import json

import pytest
from tests.cluster.fake import answer, cut, pod, status

from tangram import errors, plan
from tangram.api import names
from tangram.api.objects import Condition, Metadata, Pod, PodStatus, read_gpus
from tangram.cluster import writers
from tangram.cluster.outcome import Result

NAME = plan.PodName("team", "train-0", "uid-1")
PATH = "/api/v1/namespaces/team/pods/train-0"
BINDING = f"{PATH}/binding"
PLACE = plan.Place(
    NAME,
    "node-7",
    (
        ("main", (plan.Device("GPU-a", 0, 300, 24576), plan.Device("GPU-b", 1, 1000))),
        ("side", (plan.Device("3", 3, 10),)),
    ),
)


async def test_a_binding_carries_the_devices_and_the_uid(api, client):
    api.on("POST", BINDING, answer({"status": "Success"}, 201))
    assert (await writers.bind(client, PLACE)).done
    body = api.seen[0].json()
    assert (body["apiVersion"], body["kind"]) == ("v1", "Binding")
    assert body["target"] == {"apiVersion": "v1", "kind": "Node", "name": "node-7"}
    assert {k: body["metadata"][k] for k in ("name", "namespace", "uid")} == {
        "name": "train-0",
        "namespace": "team",
        "uid": "uid-1",
    }
    shares = read_gpus(body["metadata"]["annotations"][names.GPUS])
    assert [(d.id, d.share, d.memory_mib) for d in shares["main"]] == [("GPU-a", 30, 24576), ("GPU-b", 100, 0)]
    assert [(d.id, d.share) for d in shares["side"]] == [("3", 1)]


async def test_a_pod_without_devices_gets_no_annotation(api, client):
    api.on("POST", BINDING, answer({}, 201))
    await writers.bind(client, plan.Place(NAME, "node-7"))
    assert "annotations" not in api.seen[0].json()["metadata"]


@pytest.mark.parametrize("milli", [0, 5, 305, 1010, -10])
def test_a_share_that_the_annotation_cannot_hold_is_refused_before_anything_is_sent(milli):
    place = plan.Place(NAME, "n", (("main", (plan.Device("GPU-a", 0, milli),)),))
    with pytest.raises(errors.InvalidInput, match=f"team/train-0: milli of device GPU-a: {milli}"):
        writers.gpus_annotation(place)


def bound(node="node-7", uid="uid-1", annotation=None):
    thing = pod("train-0", 9, uid, "team", nodeName=node)
    thing["metadata"]["annotations"] = {names.GPUS: annotation or writers.gpus_annotation(PLACE)}
    return thing


TAKEN = status(409, "Conflict", 'pod train-0 is already assigned to node "node-7"')


async def test_a_binding_whose_answer_was_lost_is_done(api, client):
    api.on("POST", BINDING, cut(), TAKEN)
    api.on("GET", PATH, answer(bound()))
    assert (await writers.bind(client, PLACE)).done


@pytest.mark.parametrize(
    "found",
    [bound(node="node-8"), bound(uid="uid-2"), bound(annotation='{"main":[]}')],
    ids=["another node", "another pod of that name", "other devices"],
)
async def test_a_pod_that_was_bound_otherwise_is_a_conflict(api, client, found):
    api.on("POST", BINDING, TAKEN)
    api.on("GET", PATH, answer(found))
    ended = await writers.bind(client, PLACE)
    assert ended.result is Result.CONFLICT
    assert "already assigned" in ended.message


async def test_a_budget_that_says_no_is_an_answer_and_is_not_asked_again(api, client):
    causes = [{"reason": "DisruptionBudget", "message": "The disruption budget b needs 1 healthy pods"}]
    api.on("POST", f"{PATH}/eviction", status(429, "TooManyRequests", "would violate the budget", causes=causes))
    ended = await writers.evict(client, plan.Evict(NAME, "node-7", NAME, "because"), grace_seconds=5)
    assert (ended.result, ended.message) == (Result.REFUSED, "would violate the budget")
    assert len(api.seen) == 1
    assert api.seen[0].json()["deleteOptions"] == {"preconditions": {"uid": "uid-1"}, "gracePeriodSeconds": 5}


async def test_a_throttled_eviction_is_repeated(api, client):
    api.on("POST", f"{PATH}/eviction", status(429, "TooManyRequests", "please try again later"), answer({}, 201))
    assert (await writers.evict(client, plan.Evict(NAME, "node-7", NAME, "because"))).done


HOLD = plan.Hold(NAME, "InsufficientGpu", "0 of 3 nodes have 2 free GPUs.", nominated_node="node-7")


async def test_why_a_pod_waits_is_written_as_autoscalers_want_it(api, client):
    api.on("PATCH", f"{PATH}/status", answer({}))
    assert (await writers.pod_unschedulable(client, HOLD, since="2026-01-01T00:00:00Z")).done
    assert api.seen[0].headers["Content-Type"] == "application/strategic-merge-patch+json"
    assert json.loads(api.seen[0].body) == {
        "metadata": {"uid": "uid-1"},
        "status": {
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "InsufficientGpu: 0 of 3 nodes have 2 free GPUs.",
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                }
            ],
            "nominatedNodeName": "node-7",
        },
    }


def test_a_status_that_says_so_already_is_recognised():
    condition = Condition("PodScheduled", "False", "Unschedulable", f"{HOLD.reason}: {HOLD.message}")
    waiting = Pod(Metadata("train-0"), status=PodStatus(conditions=(condition,), nominated_node_name="node-7"))
    assert writers.says_already(waiting, HOLD)
    assert not writers.says_already(Pod(Metadata("train-0")), HOLD)
