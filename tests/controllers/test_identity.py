"""An upgrade of the controller restarts nothing: what a pod was made from is compared, and not how that is written."""

import copy
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.controllers.builders import job, job_object, revision, role, service, service_object
from tests.controllers.world import World

from tangram.api import names
from tangram.api.common import GpuRequest
from tangram.api.inference import InferenceService, Revision
from tangram.api.training import TrainingJob
from tangram.controllers import identity, manifests, rollback, sameness
from tangram.controllers.actions import Create, Delete
from tangram.controllers.amounts import replica_milli
from tangram.controllers.identity import gang_shape, template_hash

RICH: dict[str, Any] = {
    "metadata": {"labels": {"app": "llm"}, "annotations": {"team": "nlp"}},
    "spec": {
        "containers": [
            {
                "name": "main",
                "image": "registry.test/serve:1",
                "args": ["--port", "8000"],
                "env": [{"name": "A", "value": "1"}],
                "ports": [{"containerPort": 8000}],
                "resources": {"limits": {"cpu": 0.5, "memory": "1Gi"}},
                "volumeMounts": [{"name": "cache", "mountPath": "/cache"}],
                "livenessProbe": {"tcpSocket": {"port": 8000}},
            }
        ],
        "nodeSelector": {"pool": "a"},
        "tolerations": [{"key": "gpu", "operator": "Exists"}],
        "volumes": [{"name": "cache", "emptyDir": {}}],
    },
}
GPUS = {"share": 40, "memory": "10Gi", "models": ["A100"]}


def rich(**spec: Any) -> dict[str, Any]:
    """A service that uses what templates are made of."""
    return service_object({"name": "v1", "template": copy.deepcopy(RICH), "gpus": GPUS}, replicas=2, port=8000, **spec)


# The hashes themselves.


def test_the_hashes_of_known_objects_are_these() -> None:
    """Another hash here restarts users' pods, or has all of them compared by value: decide it, and raise VERSION."""
    plain, of_rich = service(), service(*rich()["spec"]["revisions"], port=8000, queue="ads", priorityClass="gold")
    elastic = {"role": "worker", "replicas": 2, "minReplicas": 1, "maxReplicas": 4}
    two_roles = job(role("master"), role("worker", 3, gpus={"count": 2}))
    assert template_hash(plain, plain.spec.revisions[0]) == "v1-d0214abe70"
    assert template_hash(of_rich, of_rich.spec.revisions[0]) == "v1-d59bdcda7b"
    assert gang_shape(job()) == "v1-433414bf8d"
    assert gang_shape(two_roles) == "v1-799cedd62c"
    assert gang_shape(job(role("worker"), elastic=elastic)) == "v1-6e0dbc1973"


def test_a_default_that_is_written_out_changes_no_hash() -> None:
    """The API server writes defaults into what it stores, those of fields that a later version adds too."""
    short = service(revision(gpus={"count": 1}))
    long = service(revision(gpus={"count": 1, "models": [], "isolation": [], "resource": "nvidia.com/gpu"}), port=8080)
    assert template_hash(short, short.spec.revisions[0]) == template_hash(long, long.spec.revisions[0])


def test_a_field_that_a_later_version_adds_changes_no_hash() -> None:
    class Later(GpuRequest):
        """GPUs with one field more."""

        partition: str = "any"

    one = service(revision(gpus={"count": 1}))
    later = one.spec.revisions[0].model_copy(update={"gpus": Later(count=1)})
    assert template_hash(one, later) == template_hash(one, one.spec.revisions[0])


# From one version to another.


def old_hash_of(value: Any) -> str:
    """As hashes were before they had a version."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def old_template_hash(made: InferenceService, item: Revision) -> str:
    gpus = None if item.gpus is None else item.gpus.model_dump(mode="json")
    written = {"template": item.template, "gpus": gpus, "port": made.spec.port, "queue": made.spec.queue}
    return old_hash_of({**written, "priorityClass": made.spec.priority_class})


def old_gang_shape(made: TrainingJob) -> str:
    elastic = made.spec.elastic
    varies = elastic.role if elastic is not None else None
    roles = [
        [one.name, None if one.name == varies else one.replicas, replica_milli(one.template, one.gpus)]
        for one in made.spec.roles
    ]
    bounds = None if elastic is None else [elastic.role, elastic.min_replicas, elastic.max_replicas]
    return old_hash_of({"roles": roles, "elastic": bounds})


def with_hashes_of(version: str) -> tuple[Callable[..., str], Callable[..., str]]:
    """The two hashes in the form of a version; the empty one is the form from before there were versions."""
    if not version:
        return old_template_hash, old_gang_shape

    def relabelled(hashed: Callable[..., str]) -> Callable[..., str]:
        return lambda *what: f"{version}-{hashed(*what)[::-1]}"

    return relabelled(old_template_hash), relabelled(old_gang_shape)


@pytest.fixture(params=["", "v0", "v2"], ids=["before versions", "an older version", "a newer version"])
def other_version(request: pytest.FixtureRequest) -> Iterator[Callable[[World], World]]:
    """Lets a controller of another version run a world: its hashes, and without what this one adds to pods."""

    def run(world: World) -> World:
        templates, shapes = with_hashes_of(request.param)
        with pytest.MonkeyPatch.context() as patch:
            for module in (identity, manifests, sameness, rollback):
                patch.setattr(module, "template_hash", templates, raising=False)
                patch.setattr(module, "gang_shape", shapes, raising=False)
            patch.setattr(sameness, "is_foreign", lambda _: False)
            patch.setattr(manifests, "_add_readiness", lambda *_: None)
            patch.setattr(manifests, "_spread", lambda *_: None)
            world.start()
        for pod in world.pods.values():
            del pod["spec"]["enableServiceLinks"]
            hashes = (
                pod["metadata"]["labels"].get(names.TEMPLATE_HASH, ""),
                pod["metadata"]["annotations"].get(names.GANG_SHAPE, ""),
            )
            assert not any(text.startswith(identity.VERSION) for text in hashes)
        return world

    return run


ELASTIC = {"role": "worker", "replicas": 2, "minReplicas": 1, "maxReplicas": 4}
OBJECTS = {
    "service": service_object(replicas=3),
    "service with everything": rich(queue="ads", priorityClass="gold"),
    "two revisions": service_object(revision(weight=50), revision("v2", weight=50, gpus={"count": 1}), replicas=4),
    "job": job_object(),
    "job of two roles": job_object(role("master"), role("worker", 3, gpus={"share": 50})),
    "elastic job": job_object(role("master"), role("worker", gpus={"count": 2}), elastic=ELASTIC),
}


@pytest.mark.parametrize("raw", OBJECTS.values(), ids=OBJECTS)
def test_an_upgrade_or_a_rollback_touches_no_pod(raw: dict[str, Any], other_version: Callable[[World], World]) -> None:
    world = other_version(World(raw))
    before = copy.deepcopy(world.pods)
    for _ in range(10):
        touched = [action for action in world.round() if isinstance(action, Create | Delete)]
        assert [str(action) for action in touched if "PodDisruptionBudget" not in str(action)] == []
        world.pass_seconds(600)
    assert world.pods == before
    assert world.status["phase"] in ("Ready", "Running")


def test_a_job_that_waits_is_not_made_again_either(other_version: Callable[[World], World]) -> None:
    world = other_version(World(job_object()))
    for pod in world.pods.values():
        pod["spec"].pop("nodeName")
        pod.pop("status")
    world.raw["status"]["phase"] = "Pending"
    before = set(world.pods)
    assert not [action for action in world.round() if isinstance(action, Create | Delete)]
    assert set(world.pods) == before


@pytest.mark.parametrize(
    "change",
    [
        {"image": "registry.test/serve:2"},
        {"args": ["--port", "9000"]},
        {"args": None},
        {"env": [{"name": "A", "value": "2"}]},
        {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "1"}]},
        {"resources": {"limits": {"cpu": "501m", "memory": "1Gi"}}},
        {"livenessProbe": None},
        {"volumeMounts": [{"name": "cache", "mountPath": "/other"}]},
    ],
    ids=str,
)
def test_a_template_that_was_changed_meanwhile_is_rolled_out(
    change: dict[str, Any], other_version: Callable[[World], World]
) -> None:
    world = other_version(World(rich()))
    template = copy.deepcopy(RICH)
    (container,) = template["spec"]["containers"]
    container |= change
    template["spec"]["containers"] = [{key: value for key, value in container.items() if value is not None}]
    world.edit(revisions=[{"name": "v1", "template": template, "gpus": GPUS}])
    assert [str(action) for action in world.round() if isinstance(action, Create) and action.kind == "Pod"]


@pytest.mark.parametrize(
    "spec",
    [
        {"port": 9000},
        {"queue": "other"},
        {"priorityClass": "gold"},
        {"revisions": [{"name": "v1", "template": RICH, "gpus": {**GPUS, "share": 50}}]},
        {"revisions": [{"name": "v1", "template": RICH, "gpus": {"share": 40, "memory": "10Gi"}}]},
    ],
    ids=["port", "queue", "class", "share", "models"],
)
def test_another_port_queue_class_or_gpus_make_other_pods(
    spec: dict[str, Any], other_version: Callable[[World], World]
) -> None:
    world = other_version(World(rich()))
    world.edit(**spec)
    assert [str(action) for action in world.round() if isinstance(action, Create) and action.kind == "Pod"]


@pytest.mark.parametrize("roles", [[role("worker", 3, gpus={"count": 1})], [role("worker", 2, gpus={"count": 2})]])
def test_a_job_that_was_resized_meanwhile_starts_again(
    roles: list[dict[str, Any]], other_version: Callable[[World], World]
) -> None:
    world = other_version(World(job_object()))
    world.edit(roles=roles)
    world.round()
    assert (world.status["phase"], world.status["reason"]) == ("Restarting", "Resized")


def test_the_label_of_a_hash_is_one_that_kubernetes_takes() -> None:
    one = service()
    label = template_hash(one, one.spec.revisions[0])
    assert re.fullmatch("[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", label)
