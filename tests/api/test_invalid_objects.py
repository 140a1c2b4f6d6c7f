"""What nobody may write: refused by the API server before it is stored, and by the models with the same field named."""

import json

import pytest
import yaml
from tests.api.cluster import create, fields, send
from tests.api.invalid.case import Case
from tests.api.invalid.jobs import JOBS
from tests.api.invalid.policies import POLICIES
from tests.api.invalid.services import SERVICES
from tests.api.samples import PARSERS, sample

from tangram.errors import InvalidInput

CASES = (*POLICIES, *JOBS, *SERVICES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_models_name_the_field_and_what_is_allowed(case: Case) -> None:
    with pytest.raises(InvalidInput) as refusal:
        PARSERS[case.kind](sample(case.kind, case.patch))
    assert refusal.value.field == case.field
    assert case.allowed in refusal.value.allowed
    assert str(refusal.value).startswith(f"{case.kind} ")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_api_server_names_the_field_and_the_reason(case: Case, definitions) -> None:
    answer = create(definitions, sample(case.kind, case.patch))
    assert (answer["kind"], answer.get("reason")) == ("Status", "Invalid"), answer
    assert case.reason in answer["message"]
    # a rule about the whole object cannot point at metadata: it says so in its words
    assert (case.server_field or case.field) in fields(answer) or f"{case.field}:" in answer["message"]


def test_kubectl_shows_the_same_words(definitions) -> None:
    wrong = json.dumps(sample("TrainingJob", "spec: {roles: {0: {gpus: {count: REMOVED, share: 130}}}}"))
    answer = definitions.kubectl("create", "--dry-run=server", "-f", "-", input=wrong, check=False)
    assert answer.returncode != 0
    assert "spec.roles[0].gpus.share: Invalid value: share is in percent of a GPU" in answer.stderr


STATUS = {
    "health that does not exist": ("health: Poorly", "status.health", "Unsupported value"),
    "device given out twice over": (
        "devices: [{uuid: a, index: 0, model: T4, memoryMiB: 1, health: Healthy, allocated: 130}]",
        "status.devices[0].allocated",
        "should be less than or equal to 100",
    ),
    "two devices of one uuid": (
        "devices: [&d {uuid: a, index: 0, model: T4, memoryMiB: 1, health: Healthy}, *d]",
        "status.devices[1]",
        "Duplicate value",
    ),
    "number as text": ("gpus: '1'", "status.gpus", "must be of type integer"),
    "condition without a reason": (
        "conditions: [{type: Ready, status: 'True', reason: '', lastTransitionTime: '2026-01-01T00:00:00Z'}]",
        "status.conditions[0].reason",
        "should be at least 1 chars long",
    ),
}


@pytest.mark.parametrize("name", STATUS)
def test_status_is_checked_too(name: str, definitions) -> None:
    patch, field, reason = STATUS[name]
    wrong = sample("GPUNode", "status: {" + patch + "}")
    with pytest.raises(InvalidInput) as refusal:
        PARSERS["GPUNode"](wrong)
    assert refusal.value.field.startswith(field)

    definitions.kubectl("apply", "-f", "-", input=json.dumps(sample("GPUNode")))
    change = {"status": wrong["status"]}
    answer = send(definitions, "PATCH", "gpunodes/sample/status", change, "application/merge-patch+json")
    assert reason in answer["message"]
    assert field in fields(answer)


def test_a_field_that_does_not_exist_is_named(definitions) -> None:
    """A misspelt field is not dropped in silence."""
    typo = sample("HybridPolicy", "spec: {fallBackStrategy: strict}")
    with pytest.raises(InvalidInput, match=r'unknown field "spec\.fallBackStrategy"'):
        PARSERS["HybridPolicy"](typo, unknown="forbid")
    assert 'unknown field "spec.fallBackStrategy"' in create(definitions, typo)["message"]


CHANGES = {
    "framework": ("spec: {framework: mpi}", "spec.framework", "the framework cannot be changed"),
    "queue of a job that runs": ("spec: {queue: other}", "spec.queue", "only while the job is suspended"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_cannot_be_changed(name: str, definitions) -> None:
    patch, field, reason = CHANGES[name]
    definitions.kubectl("apply", "-f", "-", input=json.dumps(sample("TrainingJob", "metadata: {name: steady}")))
    path = "namespaces/default/trainingjobs/steady"
    answer = send(definitions, "PATCH", path, yaml.safe_load(patch), "application/merge-patch+json")
    assert reason in answer["message"]
    assert field in fields(answer)


def test_a_suspended_job_may_change_its_queue(definitions) -> None:
    stopped = sample("TrainingJob", "metadata: {name: stopped}\nspec: {runPolicy: {suspend: true}}")
    definitions.kubectl("apply", "-f", "-", input=json.dumps(stopped))
    change = {"spec": {"queue": "other", "runPolicy": {"suspend": False}}}
    path = "namespaces/default/trainingjobs/stopped"
    answer = send(definitions, "PATCH", path, change, "application/merge-patch+json")
    assert answer["spec"]["queue"] == "other"


def test_limits_are_high_enough_for_a_large_company(definitions) -> None:
    """256 queues on 8 levels with 32 GPU models each stay inside the API server's budget for rules."""
    models = {f"MODEL-{number}": number + 1 for number in range(32)}
    amounts = {"cpu": "64", "memory": "1Ti", "gpu": "8.5", "gpuModels": models}
    queues = [
        {"name": f"q{number}", "guarantee": amounts, "limit": amounts}
        | ({"parent": f"q{number - 32}"} if number >= 32 else {})
        for number in range(256)
    ]
    large = sample("HybridPolicy") | {"spec": {"queues": queues}}
    assert len(PARSERS["HybridPolicy"](large).spec.queues) == 256
    assert create(definitions, large)["kind"] == "HybridPolicy"
