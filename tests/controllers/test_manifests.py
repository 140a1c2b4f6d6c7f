"""The pods and Services that jobs and services are made of."""

from typing import Any

import pytest
from tests.controllers.builders import job, revision, role, service, template

from tangram.api import names
from tangram.controllers import amounts, identity, manifests
from tangram.errors import InvalidInput

Pod = dict[str, Any]


def job_pods(*roles: dict[str, Any], **spec: Any) -> list[Pod]:
    parsed = job(*roles, **spec)
    gang = manifests.gang_of(parsed, 0)
    return [manifests.job_pod(parsed, gang, member) for member in gang.members]


def limits(pod: Pod) -> dict[str, Any]:
    resources = pod["spec"]["containers"][0].get("resources", {})
    assert resources.get("limits") == resources.get("requests"), "GPUs cannot be overcommitted"
    found: dict[str, Any] = resources.get("limits", {})
    return found


def test_a_pod_of_a_job_says_everything_that_the_scheduler_asks_for() -> None:
    first, second = job_pods(queue="research", priorityClass="gold", estimatedDuration="3h")
    assert second["metadata"]["name"] == "train-worker-1"
    assert second["metadata"]["labels"] == {
        names.JOB: "train",
        names.ROLE: "worker",
        names.INDEX: "1",
        names.GANG: "train",
        names.QUEUE: "research",
        names.PRIORITY_CLASS: "gold",
        "app.kubernetes.io/managed-by": "tangram",
    }
    assert first["metadata"]["annotations"][names.GANG_MIN] == "2"
    assert first["metadata"]["annotations"][names.ESTIMATED_DURATION] == "3h"
    assert first["spec"]["schedulerName"] == "tangram"
    assert first["spec"]["restartPolicy"] == "Never"
    assert (first["spec"]["hostname"], first["spec"]["subdomain"]) == ("train-worker-0", "train-gang")


def test_a_pod_goes_with_its_owner_and_needs_no_right_to_set_finalizers() -> None:
    (owner,) = job_pods()[0]["metadata"]["ownerReferences"]
    assert owner["uid"] == "uid-job"
    assert (owner["controller"], owner["blockOwnerDeletion"]) == (True, False)


@pytest.mark.parametrize(
    ("gpus", "expected", "annotations"),
    [
        ({"count": 8}, {"nvidia.com/gpu": "8"}, {}),
        ({"count": 2, "resource": "amd.com/gpu"}, {"amd.com/gpu": "2"}, {}),
        ({"share": 30, "memory": "8Gi"}, {"scheduling.example.com/gpu": "30"}, {names.GPU_MEMORY: "8Gi"}),
        ({"memory": "8Gi"}, {"scheduling.example.com/gpu": "1"}, {names.GPU_MEMORY: "8Gi"}),
        ({"share": 30, "isolation": ["mps"]}, {"scheduling.example.com/gpu": "30"}, {names.GPU_ISOLATION: "mps"}),
        ({"count": 1, "models": ["H100", "A100"]}, {"nvidia.com/gpu": "1"}, {names.GPU_MODELS: "H100,A100"}),
    ],
)
def test_gpus_of_a_replica_become_resources_and_annotations(
    gpus: dict[str, Any], expected: dict[str, str], annotations: dict[str, str]
) -> None:
    (pod,) = job_pods(role("main", gpus=gpus))
    assert limits(pod) == expected
    assert annotations.items() <= pod["metadata"]["annotations"].items()


def test_the_rest_of_a_container_stays_as_it_was_written() -> None:
    spec = template()
    spec["spec"]["containers"][0] |= {
        "resources": {"limits": {"cpu": "4"}, "requests": {"cpu": "4"}},
        "env": [{"name": "RANK", "value": "mine"}, {"name": "MODE", "value": "fast"}],
    }
    (pod,) = job_pods({"name": "main", "template": spec, "gpus": {"count": 1}})
    assert limits(pod) == {"cpu": "4", "nvidia.com/gpu": "1"}
    env = {entry["name"]: entry["value"] for entry in pod["spec"]["containers"][0]["env"]}
    assert env["RANK"] == "mine", "what a user writes wins"
    assert env["MODE"] == "fast"
    assert env["WORLD_SIZE"] == "1"
    assert "resources" not in template()["spec"]["containers"][0]


def test_nobody_can_bring_a_record_of_devices_along() -> None:
    forged = {**template(), "metadata": {"annotations": {names.GPUS: "{}", "note": "kept"}, "labels": {"app": "x"}}}
    (pod,) = job_pods({"name": "main", "template": forged})
    assert names.GPUS not in pod["metadata"]["annotations"]
    assert pod["metadata"]["annotations"]["note"] == "kept"
    assert pod["metadata"]["labels"]["app"] == "x"


def test_gpus_for_a_container_that_is_not_there_are_refused_by_name() -> None:
    with pytest.raises(InvalidInput, match=r"team/train: spec.roles\[0\]: gpus.container: 'gpu'.*main"):
        job_pods(role("main", gpus={"count": 1, "container": "gpu"}))


def test_an_elastic_gang_needs_only_its_minimum() -> None:
    elastic = {"role": "worker", "replicas": 4, "minReplicas": 2, "maxReplicas": 8}
    pods = job_pods(role("master"), role("worker"), elastic=elastic)
    assert len(pods) == 5
    assert pods[0]["metadata"]["annotations"][names.GANG_MIN] == "3"
    assert pods[0]["metadata"]["annotations"][names.GANG_ROLE_MIN] == "master=1,worker=2"


def test_names_of_replicas_resolve_before_they_are_ready() -> None:
    headless = manifests.job_service(job())
    assert headless["metadata"]["name"] == "train-gang"
    assert headless["spec"]["clusterIP"] == "None"
    assert headless["spec"]["publishNotReadyAddresses"] is True
    assert headless["spec"]["selector"] == {names.JOB: "train"}


def test_the_mpi_launcher_gets_its_host_files_without_another_object() -> None:
    launcher, worker = job_pods(role("launcher"), role("worker"), framework="mpi")
    (volume,) = launcher["spec"]["volumes"]
    paths = {item["path"]: item["fieldRef"]["fieldPath"] for item in volume["downwardAPI"]["items"]}
    for path, field in paths.items():
        annotation = field.removeprefix("metadata.annotations['").removesuffix("']")
        assert launcher["metadata"]["annotations"][annotation], path
    assert launcher["spec"]["containers"][0]["volumeMounts"][0]["mountPath"] == "/etc/tangram"
    assert "volumes" not in worker["spec"]


def test_host_files_that_are_longer_than_annotations_may_be_are_refused() -> None:
    """Every pod of such a job would be created but the one that starts the others."""
    parsed = job(role("launcher"), role("worker", 5000), framework="mpi")
    gang = manifests.gang_of(parsed, 0)
    with pytest.raises(InvalidInput, match="bytes for 5001 replicas"):
        manifests.job_pod(parsed, gang, gang.leader)


def test_replicas_of_a_service_are_found_by_its_services() -> None:
    parsed = service(revision("v1", weight=90), revision("v2", weight=10), port=9000)
    pod = manifests.service_pod(parsed, parsed.spec.revisions[1], 0)
    main, first, second = manifests.service_services(parsed)
    assert main["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert second["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert not first["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    assert main["spec"]["ports"][0]["targetPort"] == 9000
    assert pod["spec"]["restartPolicy"] == "Always"


def test_a_template_hash_changes_with_what_pods_are_made_from_and_with_nothing_else() -> None:
    one, same, other = service(replicas=1), service(replicas=9), service(revision(image="registry.test/serve:2"))
    hashes = [identity.template_hash(item, item.spec.revisions[0]) for item in (one, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(("milli", "text"), [(0, "0"), (300, "0.30"), (2500, "2.50"), (8000, "8")])
def test_gpus_are_written_for_people(milli: int, text: str) -> None:
    assert amounts.gpu_text(milli) == text


def served(template: dict[str, Any]) -> dict[str, Any]:
    """The spec of a replica whose template is this one, for port 8000."""
    made = service({"name": "v1", "template": {"spec": template}}, port=8000)
    spec: dict[str, Any] = manifests.service_pod(made, made.spec.revisions[0], 0)["spec"]
    return spec


PROBE = {"tcpSocket": {"port": 8000}, "periodSeconds": 5}


def test_a_replica_is_ready_when_its_port_answers_unless_its_template_says_when() -> None:
    plain = {"name": "main", "image": "x"}
    assert served({"containers": [plain]})["containers"][0]["readinessProbe"] == PROBE
    own = {"httpGet": {"path": "/health", "port": 1}}
    kept = served({"containers": [plain, {"name": "side", "image": "x", "readinessProbe": own}]})["containers"]
    assert [container.get("readinessProbe") for container in kept] == [None, own]


def test_the_probe_is_of_the_container_that_declares_the_port() -> None:
    proxy = {"name": "proxy", "image": "x", "ports": [{"containerPort": 8000}]}
    made = served({"containers": [{"name": "main", "image": "x"}, proxy]})["containers"]
    assert [container.get("readinessProbe") for container in made] == [None, PROBE]


def test_replicas_prefer_nodes_of_their_own_unless_their_template_says_how_to_spread() -> None:
    containers = [{"name": "main", "image": "x"}]
    (rule,) = served({"containers": containers})["topologySpreadConstraints"]
    assert (rule["topologyKey"], rule["whenUnsatisfiable"]) == ("kubernetes.io/hostname", "ScheduleAnyway")
    assert rule["labelSelector"] == {"matchLabels": {names.SERVICE: "chat"}}
    own = {**rule, "topologyKey": "topology.kubernetes.io/zone"}
    assert served({"containers": containers, "topologySpreadConstraints": [own]})["topologySpreadConstraints"] == [own]
    apart = {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}}
    assert "topologySpreadConstraints" not in served({"containers": containers, "affinity": apart})


def test_no_pod_gets_a_variable_for_each_service_unless_its_template_asks_for_them() -> None:
    parsed = job()
    gang = manifests.gang_of(parsed, 0)
    assert manifests.job_pod(parsed, gang, gang.members[0])["spec"]["enableServiceLinks"] is False
    assert served({"containers": [{"name": "main", "image": "x"}]})["enableServiceLinks"] is False
    asked = served({"containers": [{"name": "main", "image": "x"}], "enableServiceLinks": True})
    assert asked["enableServiceLinks"] is True
