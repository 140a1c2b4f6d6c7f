"""What the models of TrainingJob and InferenceService answer beyond their fields."""

from pathlib import Path

import pytest
import yaml
from tests.api.samples import sample

from tangram.api.common import parse, to_object
from tangram.api.inference import InferenceService, parse_inference_service
from tangram.api.training import TrainingJob, parse_training_job

ELASTIC = "spec: {elastic: {role: worker, replicas: 4, minReplicas: 2, maxReplicas: 8}}"


def job(patch: str = "") -> TrainingJob:
    return parse_training_job(sample("TrainingJob", patch))


def service(patch: str = "") -> InferenceService:
    return parse_inference_service(sample("InferenceService", patch))


@pytest.mark.parametrize(
    ("gpus", "hundredths", "milli"),
    [
        ("{count: 4}", 400, 4000),
        ("{count: REMOVED, share: 30}", 30, 300),
        ("{count: REMOVED, share: 200}", 200, 2000),
        ("{count: REMOVED, memory: 8Gi}", 1, 10),
    ],
)
def test_gpus_of_a_replica(gpus: str, hundredths: int, milli: int) -> None:
    request = job(f"spec: {{roles: {{0: {{gpus: {gpus}}}}}}}").spec.roles[0].gpus
    assert (request.hundredths(), request.milli()) == (hundredths, milli)


def test_size_of_a_fixed_and_of_an_elastic_job() -> None:
    fixed, elastic = job().spec, job(ELASTIC).spec
    assert (fixed.replicas_of(fixed.roles[0]), fixed.gang_min()) == (2, 2)
    assert (elastic.replicas_of(elastic.roles[0]), elastic.gang_min()) == (4, 2)


@pytest.mark.parametrize(
    ("rule", "role", "code", "expected"),
    [
        ("{codes: [3, 42], action: Fail}", "worker", 42, True),
        ("{codes: [3, 42], action: Fail}", "worker", 41, False),
        ("{range: {first: 128, last: 255}, action: Restart}", "worker", 128, True),
        ("{range: {first: 128, last: 255}, action: Restart}", "worker", 127, False),
        ("{codes: [1], action: Fail, roles: [worker]}", "worker", 1, True),
        ("{codes: [1], action: Fail, roles: [worker]}", "ps", 1, False),
    ],
)
def test_exit_code_rules(rule: str, role: str, code: int, expected: bool) -> None:
    (parsed,) = job(f"spec: {{exitCodeRules: [{rule}]}}").spec.exit_code_rules
    assert parsed.matches(role, code) is expected


def test_weights_of_revisions() -> None:
    assert service().spec.weights() == {"v1": 100}
    template = "{spec: {containers: [{name: c}]}}"
    two = f"spec: {{revisions: [{{name: v1, weight: 100, template: {template}}}, {{name: v2, template: {template}}}]}}"
    assert service(two).spec.weights() == {"v1": 100, "v2": 0}


def test_template_is_kept_as_it_was_written() -> None:
    written = sample("TrainingJob", "spec: {roles: {0: {template: {spec: {hostIPC: true, x-unknown: [1, {a: b}]}}}}}")
    assert parse_training_job(written).spec.roles[0].template == written["spec"]["roles"][0]["template"]


@pytest.mark.parametrize("kind", ["TrainingJob", "InferenceService"])
def test_written_and_read_again_it_is_the_same(kind: str) -> None:
    model = {"TrainingJob": TrainingJob, "InferenceService": InferenceService}[kind]
    read = parse(model, sample(kind))
    assert parse(model, to_object(read)) == read


def test_fields_of_a_newer_version_do_not_disturb() -> None:
    assert job("spec: {fieldOfTheFuture: 1, roles: {0: {alsoNew: {a: b}}}}").spec == job().spec


EXAMPLES = [*sorted((Path(__file__).parents[2] / "examples").glob("**/*.yaml"))]


def test_every_service_of_the_examples_is_asked_on_a_port_that_its_containers_name() -> None:
    documents = [one for path in EXAMPLES for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]
    services = [parse_inference_service(one) for one in documents if one.get("kind") == "InferenceService"]
    assert len(services) >= 4
    for found in services:
        for revision in found.spec.revisions:
            [ports] = [one["ports"] for one in revision.template["spec"]["containers"] if "ports" in one]
            assert found.spec.port in [one["containerPort"] for one in ports], found.metadata.name
