"""`tangram queues`: the tree of the policy in force, with what the scheduler has reported of it."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tests.cli.conftest import Api

from tangram.cli.queues import as_plain, show
from tangram.cluster.paths import HYBRID_POLICIES
from tangram.errors import ClusterError, Missing
from tangram.questions.queue_tree import other_version, policy_in_force, queue_rows
from tangram.snapshot.queues.queues import DEFAULT_QUEUE

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


def test_amounts_of_single_models_stand_beside_those_of_all(api: Api) -> None:
    promised = [
        {"name": "sales", "guarantee": {"gpu": "8", "gpuModels": {"A100": "2500m"}}, "limit": {"gpuModels": {"T4": 4}}}
    ]
    api.put(HYBRID_POLICIES, policy(reported=False) | {"spec": {"queues": promised}})
    assert api.run("queues", "sales").stdout.splitlines() == [
        "QUEUE   GPUS   GUARANTEE      LIMIT   FAIR-SHARE   RUNNING   PENDING   HOLD",
        "sales   -      8 (A100 2.5)   T4 4    -            -         -         -",
    ]
    found = json.loads(api.run("queues", "sales", "-o", "json").stdout)["items"][0]
    assert (found["guarantee"], found["limit"]) == (promised[0]["guarantee"], {"gpuModels": {"T4": "4"}})


def test_models_of_which_a_queue_uses_nothing_are_not_shown(api: Api) -> None:
    one = policy()
    one["status"]["queues"][2]["used"]["gpuModels"] = {"A100": "1", "T4": "0"}
    one["status"]["queues"][2]["fairShare"]["gpuModels"] = {"T4": "0"}
    api.put(HYBRID_POLICIES, one)
    rows = [line.split("   ") for line in api.run("queues", "sales").stdout.splitlines()]
    assert [cell.strip() for cell in rows[1] if cell.strip()][:5] == ["sales", "1 (A100 1)", "-", "-", "4"]


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
    assert (
        done.stderr
        == "No HybridPolicy is in force: there is no queue but default, and workloads that name another one wait.\n"
    )
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


# Policies that another version has stored.


def stored(*queues: Any, status: Any = None) -> dict[str, Any]:
    return {"metadata": {"name": "default", "generation": 5}, "spec": {"queues": list(queues)}, "status": status or {}}


def test_a_queue_whose_parent_does_not_exist_stands_at_the_top(api: Api) -> None:
    api.put(HYBRID_POLICIES, stored({"name": "a", "parent": "gone"}, {"name": "b", "parent": "a"}))
    lines = api.run("queues").stdout.splitlines()[1:]
    assert [line.rstrip().partition("   ")[0] for line in lines] == ["a", "  b", "default"]


def test_queues_in_a_circle_are_shown(api: Api) -> None:
    api.put(HYBRID_POLICIES, stored({"name": "a", "parent": "b"}, {"name": "b", "parent": "a"}))
    assert sorted(api.run("queues", "-o", "name").stdout.split()) == ["queue/a", "queue/b", "queue/default"]


def test_a_hold_that_is_not_known_is_shown_as_it_is_written_and_holds_those_below(api: Api) -> None:
    api.put(HYBRID_POLICIES, stored({"name": "a", "hold": "HoldUntil"}, {"name": "b", "parent": "a", "hold": "Hold"}))
    holds = {line.split()[0]: line.split()[-1] for line in api.run("queues").stdout.splitlines()[1:]}
    assert holds == {"a": "HoldUntil", "b": "HoldUntil", "default": "-"}


def test_that_another_version_decides_is_said(api: Api) -> None:
    problem = "generation 5 cannot be read: no; generation 4 stays in force"
    api.put(HYBRID_POLICIES, stored({"name": "a"}, status={"inForce": {"generation": 4, "message": problem}}))
    assert api.run("queues").stderr.splitlines()[0] == (
        f"Note: the scheduler decides by generation 4 of policy default, and this is generation 5: {problem}"
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9**20) | st.sampled_from(["", "a", "b", "default", "True", "1Gi"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["name", "parent", "hold", "limit", "guarantee", "gpu", "memory", "weight", "used", "fairShare", "running",
             "type", "status", "generation", "message"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
PARTS = st.fixed_dictionaries({}, optional={"queues": JSON, "conditions": JSON, "inForce": JSON})


@given(st.lists(st.tuples(PARTS | JSON, PARTS | JSON), max_size=3))
def test_whatever_is_stored_is_shown(parts: list[tuple[Any, Any]]) -> None:
    policies = [
        {"metadata": {"name": f"p{number}", "generation": 1}, "spec": spec, "status": status}
        for number, (spec, status) in enumerate(parts)
    ]
    policy = policy_in_force(policies)
    rows = queue_rows(policy)
    assert len({row.name for row in rows}) == len(rows)
    assert DEFAULT_QUEUE in {row.name for row in rows}
    assert isinstance(other_version(policy), str)
    show(rows, wide=True)
    assert as_plain(rows)["items"]


@pytest.mark.parametrize("amount", ["1e400", "9" * 50, "-1", "much", True, None, [1], {}], ids=str)
@pytest.mark.parametrize("resource", ["gpu", "cpu", "memory"])
def test_an_amount_that_cannot_be_read_counts_as_not_written(resource: str, amount: object) -> None:
    queues = [{"name": "a", "limit": {resource: amount}, "guarantee": {"gpu": "1"}}]
    row = queue_rows({"metadata": {"name": "p"}, "spec": {"queues": queues}})[0]
    assert (row.limit, row.guarantee) == ({}, {"gpu": 1000})


def test_queues_may_stand_as_deep_as_the_policy_says() -> None:
    queues = [{"name": f"q{number}", "parent": f"q{number - 1}"} for number in range(3000)]
    rows = queue_rows({"metadata": {"name": "p"}, "spec": {"queues": queues}})
    assert [(row.name, row.depth) for row in rows[:-1]] == [(f"q{depth}", depth) for depth in range(3000)]
