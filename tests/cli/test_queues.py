"""`tangram queues`: the tree of the policy in force, with what the scheduler has reported of it."""

import json
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Api

from tangram.cluster.paths import HYBRID_POLICIES
from tangram.errors import ClusterError, Missing

QUEUES = [
    {"name": "research", "guarantee": {"gpu": "8", "cpu": "64"}, "limit": {"gpu": "16"}, "weight": 3},
    {"name": "sales"},
    {"name": "vision", "parent": "research", "guarantee": {"gpu": "2500m"}},
]


def use(name: str, gpu: str, pending: int = 0) -> dict[str, Any]:
    amounts = {"cpu": "12", "memory": "2048Mi", "gpu": gpu}
    shares = {"fairShare": {"gpu": "4"}, "dominantSharePercent": 25}
    return {"name": name, "used": amounts, "running": 2, "pending": pending, **shares}


def policy(name: str = "default", *, reported: bool = True, active: str = "True") -> dict[str, Any]:
    uses = [use("default", "0"), use("research", "3500m", 4), use("sales", "1"), use("vision", "3", 4)]
    conditions = [{"type": "Active", "status": active}]
    status = {"conditions": conditions, **({"queues": uses} if reported else {})}
    return {"metadata": {"name": name}, "spec": {"queues": QUEUES}, "status": status}


def test_queues_stand_below_their_parents_with_what_they_use(api: Api) -> None:
    api.put(HYBRID_POLICIES, policy())
    done = api.run("queues")
    assert done.output.splitlines() == [
        "QUEUE      GPUS   GUARANTEE   LIMIT   FAIR-SHARE   RUNNING   PENDING   HOLD",
        "research   3.5    8           16      4            2         4         -",
        "  vision   3      2.5         -       4            2         4         -",
        "sales      1      -           -       4            2         0         -",
        "default    0      -           -       4            2         0         -",
    ]
    wide = api.run("queues", "-o", "wide").output.splitlines()
    assert wide[0].split()[8:] == [
        "WEIGHT", "SHARE", "CPU", "CPU-GUARANTEE", "CPU-LIMIT", "MEMORY", "MEMORY-GUARANTEE", "MEMORY-LIMIT",
    ]  # fmt: skip
    assert wide[1].split()[8:] == ["3", "25%", "12", "64", "-", "2Gi", "-", "-"]


def test_a_held_queue_holds_those_below_it(api: Api) -> None:
    held = [QUEUES[0] | {"hold": "HoldAndDrain"}, QUEUES[1], QUEUES[2] | {"hold": "Hold"}]
    api.put(HYBRID_POLICIES, policy() | {"spec": {"queues": held}})
    holds = {line.split()[0]: line.split()[-1] for line in api.run("queues").output.splitlines()[1:]}
    assert holds == {"research": "HoldAndDrain", "vision": "HoldAndDrain", "sales": "-", "default": "-"}


def test_a_queue_is_shown_with_those_below_it(api: Api) -> None:
    api.put(HYBRID_POLICIES, policy())
    assert api.run("queues", "research", "-o", "name").output == "queue/research\nqueue/vision\n"
    assert api.run("queues", "vision").output.splitlines()[1].startswith("vision ")


def test_programs_get_the_same_as_json_yaml_and_by_a_template(api: Api) -> None:
    api.put(HYBRID_POLICIES, policy())
    answer = json.loads(api.run("queues", "-o", "json").output)
    assert yaml.safe_load(api.run("queues", "-o", "yaml").output) == answer
    assert [one["name"] for one in answer["items"]] == ["research", "vision", "sales", "default"]
    assert answer["items"][1] == {
        "name": "vision",
        "parent": "research",
        "weight": 1,
        "hold": "None",
        "guarantee": {"gpu": "2500m"},
        "limit": {},
        "used": {"cpu": "12", "memory": "2048Mi", "gpu": "3"},
        "fairShare": {"gpu": "4"},
        "dominantSharePercent": 25,
        "running": 2,
        "pending": 4,
    }
    assert api.run("queues", "-o", "jsonpath={.items[?(@.pending>0)].name}").output == "research vision"


def test_what_nobody_has_reported_is_not_nought(api: Api) -> None:
    api.put(HYBRID_POLICIES, policy(reported=False))
    done = api.run("queues")
    assert done.stderr == "The scheduler has not reported yet what the queues use.\n"
    assert done.stdout.splitlines()[1].split() == ["research", "-", "8", "16", "-", "-", "-", "-"]
    assert json.loads(api.run("queues", "-o", "json").stdout)["items"][0]["used"] is None


def test_the_policy_in_force_is_shown(api: Api) -> None:
    api.put(HYBRID_POLICIES, {"metadata": {"name": "a"}, "spec": {"queues": [{"name": "x"}]}})
    api.put(HYBRID_POLICIES, policy(active="False"))
    assert "research" in api.run("queues").output, "no word of the controller: the one named default"
    api.put(HYBRID_POLICIES, policy("b") | {"spec": {"queues": [{"name": "y"}]}})
    assert api.run("queues", "-o", "name").stdout.startswith("queue/y\n")


def test_without_a_policy_there_is_the_default_queue(api: Api) -> None:
    done = api.run("queues")
    assert done.stderr == "No HybridPolicy is in force: all workloads are in the queue default.\n"
    assert done.stdout.splitlines()[1].split()[0] == "default"


def test_a_misspelt_queue_is_answered_with_the_nearest(api: Api) -> None:
    api.put(HYBRID_POLICIES, policy())
    done = api.run("queues", "reserch")
    assert isinstance(done.exception, Missing)
    assert str(done.exception) == 'queue "reserch" not found; did you mean "research"?'


def test_who_may_not_read_policies_gets_the_server_s_sentence(api: Api) -> None:
    api.refused[HYBRID_POLICIES.collection()] = (403, "hybridpolicies is forbidden: User u cannot list")
    done = api.run("queues")
    assert isinstance(done.exception, ClusterError)
    assert "User u cannot list" in str(done.exception)


@pytest.mark.parametrize("form", ["xml", "jsonpath", "jsonpath={.a", "jsonpath={foo}"])
def test_a_form_that_does_not_exist_is_wrong_usage(api: Api, form: str) -> None:
    assert api.run("queues", "-o", form).exit_code == 2
