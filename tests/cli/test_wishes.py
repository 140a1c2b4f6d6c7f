"""Objects of files as the pods that would be made of them, and whom these would replace."""

import json
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from tests.controllers.builders import job_object, revision, service_object
from tests.worlds import START, bound, cluster, pod, recording

from tangram.api import names
from tangram.api.objects import OwnerReference, Pod
from tangram.cli.wishes import Wishes, read_wishes
from tangram.errors import InvalidInput

TEMPLATE = {"spec": {"schedulerName": "tangram", "containers": [{"name": "main"}]}}


def owned(name: str, kind: str, owner: str, *, controller: bool = True, api_version: str = "", **labels: str) -> Pod:
    made = bound(pod(name, whole=1), "n0", {"main": [("0", 100)]})
    reference = OwnerReference(kind, owner, f"uid-{owner}", controller, api_version)
    more = {key.replace("_", "-"): value for key, value in labels.items()}
    metadata = replace(
        made.metadata, namespace="team", labels=made.metadata.labels | more, owner_references=(reference,)
    )
    return replace(made, metadata=metadata)


def wishes(folder: Path, wished: dict[str, Any], *there: Pod) -> Wishes:
    file = folder / "wish.json"
    file.write_text(json.dumps(wished))
    return read_wishes((file,), recording(START, cluster("1x8xA100"), list(there)), "team")


def remaining(found: Wishes) -> list[str]:
    return [one.metadata.name for one in found.world.pods]


def test_a_service_replaces_its_own_pods_of_earlier_revisions(tmp_path: Path) -> None:
    there = (
        owned("chat-v1-0", "InferenceService", "chat"),
        owned("chat-v1-1", "InferenceService", "chat"),
        owned("chat-job-0", "TrainingJob", "chat"),
        owned("other-v1-0", "InferenceService", "other"),
    )
    found = wishes(tmp_path, service_object(revision("v2", gpus={"count": 1})), *there)
    assert remaining(found) == ["chat-job-0", "other-v1-0"]
    assert found.replaced == 2
    assert found.notes == (
        "a rollout of chat wants room for maxSurge (1) more for a while, and may preempt others for it",
    )
    assert wishes(tmp_path, service_object(strategy={"maxSurge": 0, "maxUnavailable": 1}), *there).notes == ()
    assert wishes(tmp_path, service_object()).notes == ()


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"replicas": 0}, False),
        ({"replicas": 0, "autoscale": {"metric": "rps", "target": 1, "min": 2, "max": 4}}, True),
        ({"replicas": 2, "autoscale": {"metric": "rps", "target": 1, "min": 0, "max": 4}}, True),
        ({"replicas": 0, "autoscale": {"metric": "rps", "target": 1, "min": 0, "max": 4}}, False),
        ({"replicas": 2, "paused": True}, False),
        ({"replicas": 2, "strategy": {"maxSurge": "0%", "maxUnavailable": 1}}, False),
        ({"replicas": 2, "strategy": {"maxSurge": "25%"}}, True),
    ],
    ids=str,
)
def test_a_rollout_wants_room_for_a_surge_where_there_are_replicas(
    tmp_path: Path, spec: dict[str, Any], told: bool
) -> None:
    # A service without replicas makes no pods: beside it stands one that does.
    file = tmp_path / "other.json"
    file.write_text(json.dumps(job_object()))
    wished = tmp_path / "wish.json"
    wished.write_text(json.dumps(service_object(**spec)))
    there = [owned("chat-v1-0", "InferenceService", "chat")]
    found = read_wishes((wished, file), recording(START, cluster("1x8xA100"), there), "team")
    assert bool(found.notes) == told


def test_a_job_replaces_its_pods_though_it_has_other_roles_now(tmp_path: Path) -> None:
    there = owned("train-master-0", "TrainingJob", "train"), owned("train-master-1", "TrainingJob", "train2")
    assert remaining(wishes(tmp_path, job_object(), *there)) == ["train-master-1"]


def test_a_deployment_is_known_by_its_replica_sets(tmp_path: Path) -> None:
    wished = {"kind": "Deployment", "metadata": {"name": "web"}, "spec": {"template": TEMPLATE}}
    there = (
        owned("web-7d9-a", "ReplicaSet", "web-7d9", pod_template_hash="7d9"),
        owned("web-api-7d9-b", "ReplicaSet", "web-api-7d9", pod_template_hash="7d9"),
        owned("seen-by-web", "ReplicaSet", "web-7d9", controller=False, pod_template_hash="7d9"),
    )
    assert remaining(wishes(tmp_path, wished, *there)) == ["web-api-7d9-b", "seen-by-web"]


def test_an_object_of_another_group_is_another_one(tmp_path: Path) -> None:
    """A pod of a Volcano Job of the same name is nobody's who is replaced, and holds what it holds."""
    foreign = owned("x-other", "Job", "x", api_version="batch.volcano.sh/v1alpha1")
    own = owned("x-1", "Job", "x", api_version="batch/v1")
    wished = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": {"template": TEMPLATE}}
    assert remaining(wishes(tmp_path, wished, foreign, own)) == ["x-other"]
    with pytest.raises(InvalidInput, match=r"apiVersion: 'batch.volcano.sh/v1alpha1' is not allowed; allowed: batch"):
        wishes(tmp_path, wished | {"apiVersion": "batch.volcano.sh/v1alpha1"})


def test_what_is_no_matter_of_scheduling_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "x"}}
    job = job_object(runPolicy={"suspend": True})
    found = wishes(tmp_path, {"kind": "List", "items": [quota, job, quota]})
    assert len(found.pods) == 2
    assert found.notes == (
        "objects of the kind ResourceQuota are left out",
        "TrainingJob train is suspended: this is how it would be once it is resumed",
    )


def test_a_job_has_no_more_pods_at_a_time_than_completions(tmp_path: Path) -> None:
    spec = {"parallelism": 5, "completions": 2, "template": TEMPLATE}
    assert len(wishes(tmp_path, {"kind": "Job", "metadata": {"generateName": "x-"}, "spec": spec}).pods) == 2


@pytest.mark.parametrize(
    ("wished", "field"),
    [
        ({"kind": "Pod", "metadata": ["x"]}, "metadata"),
        ({"kind": "Pod", "metadata": {"name": "x"}, "spec": "foo"}, "spec"),
        ({"kind": "Pod", "metadata": {"name": "x", "annotations": ["a"]}}, "metadata.annotations"),
        ({"kind": "List", "items": 5}, "items"),
        ({"kind": "Deployment", "metadata": {"name": "x"}, "spec": 7}, "spec"),
        ({"kind": "Job", "metadata": {"name": "x"}, "spec": {"template": {"metadata": 3}}}, "spec.template.metadata"),
        ({"kind": "Pod", "metadata": {"name": "x"}, "spec": {"priorityClassName": ["a"], "schedulerName": "tangram"}},
         "spec.priorityClassName"),
        ({"apiVersion": names.API_VERSION, "kind": "TrainingJbo"}, "kind"),
    ],
)  # fmt: skip
def test_an_object_of_another_form_is_refused_with_the_field(
    tmp_path: Path, wished: dict[str, Any], field: str
) -> None:
    with pytest.raises(InvalidInput, match=rf"{field}: .* is not allowed"):
        wishes(tmp_path, wished)
