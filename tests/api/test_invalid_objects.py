"""What nobody may write: refused by the API server before it is stored, and by the models with the same field named."""

import json

import pytest
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
    answer = definitions.kubectl(
        "create", "--dry-run=server", "-f", "-", input=json.dumps(sample(case.kind, case.patch)), check=False
    )
    assert answer.returncode != 0, answer.stdout
    assert case.reason in answer.stderr
    assert (case.server_field or case.field) in answer.stderr


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
    "generation as text": ("observedGeneration: '1'", "status.observedGeneration", "must be of type integer"),
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
    change = json.dumps({"status": wrong["status"]})
    answer = definitions.kubectl(
        "patch",
        "gpunode",
        "sample",
        "--subresource=status",
        "--type=merge",
        "--patch",
        change,
        "--dry-run=server",
        check=False,
    )
    assert answer.returncode != 0, answer.stdout
    assert reason in answer.stderr
    assert field in answer.stderr


def test_a_field_that_does_not_exist_is_named(definitions) -> None:
    """A misspelt field is not dropped in silence."""
    typo = sample("HybridPolicy", "spec: {fallBackStrategy: strict}")
    with pytest.raises(InvalidInput, match=r"spec\.fallBackStrategy.*no such field"):
        PARSERS["HybridPolicy"](typo, unknown="forbid")
    answer = definitions.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(typo), check=False)
    assert answer.returncode != 0
    assert 'unknown field "spec.fallBackStrategy"' in answer.stderr


CHANGES = {
    "framework": ("spec: {framework: mpi}", "spec.framework", "the framework cannot be changed"),
    "queue of a job that runs": ("spec: {queue: other}", "spec.queue", "only while the job is suspended"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_cannot_be_changed(name: str, definitions) -> None:
    patch, field, reason = CHANGES[name]
    job = sample("TrainingJob", "metadata: {name: steady}")
    definitions.kubectl("apply", "-f", "-", input=json.dumps(job))
    changed = json.dumps(sample("TrainingJob", patch) | {"metadata": {"name": "steady"}})
    answer = definitions.kubectl("apply", "--dry-run=server", "-f", "-", input=changed, check=False)
    assert answer.returncode != 0
    assert f"{field}: Forbidden: {reason}" in answer.stderr or (field in answer.stderr and reason in answer.stderr)
