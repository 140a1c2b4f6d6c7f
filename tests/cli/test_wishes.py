"""Objects of files as the pods that would be made of them, and whom these would replace."""

import json
from pathlib import Path
from typing import Any

from msgspec.structs import replace
from tests.controllers.builders import job_object, revision, service_object
from tests.worlds import START, bound, cluster, pod, recording

from tangram.api.objects import OwnerReference, Pod
from tangram.cli.wishes import Wishes, read_wishes


def owned(name: str, kind: str, owner: str, *, controller: bool = True, **labels: str) -> Pod:
    made = bound(pod(name, whole=1), "n0", {"main": [("0", 100)]})
    reference = OwnerReference(kind, owner, f"uid-{owner}", controller)
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


def test_a_job_replaces_its_pods_though_it_has_other_roles_now(tmp_path: Path) -> None:
    there = owned("train-master-0", "TrainingJob", "train"), owned("train-master-1", "TrainingJob", "train2")
    assert remaining(wishes(tmp_path, job_object(), *there)) == ["train-master-1"]


def test_a_deployment_is_known_by_its_replica_sets(tmp_path: Path) -> None:
    template = {"spec": {"schedulerName": "tangram", "containers": [{"name": "main"}]}}
    wished = {"kind": "Deployment", "metadata": {"name": "web"}, "spec": {"template": template}}
    there = (
        owned("web-7d9-a", "ReplicaSet", "web-7d9", pod_template_hash="7d9"),
        owned("web-api-7d9-b", "ReplicaSet", "web-api-7d9", pod_template_hash="7d9"),
        owned("seen-by-web", "ReplicaSet", "web-7d9", controller=False, pod_template_hash="7d9"),
    )
    assert remaining(wishes(tmp_path, wished, *there)) == ["web-api-7d9-b", "seen-by-web"]
