"""Objects for the tests of the controllers, as a user would write them, and pods as a cluster would show them."""

from typing import Any

import msgspec

from tangram.api.inference import InferenceService, parse_inference_service
from tangram.api.training import TrainingJob, parse_training_job
from tangram.api.views import PodView
from tangram.units import rfc3339

NOW = 1_800_000_000.0
"""When the tests take place."""


def template(**spec: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "main", "image": "registry.test/train:1"}], **spec}}


def role(name: str, replicas: int = 1, **more: Any) -> dict[str, Any]:
    return {"name": name, "replicas": replicas, "template": template(), **more}


def job_object(*roles: dict[str, Any], name: str = "train", framework: str = "pytorch", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.example.com/v1",
        "kind": "TrainingJob",
        "metadata": {"name": name, "namespace": "team", "uid": "uid-job", "generation": 1, "resourceVersion": "1"},
        "spec": {"framework": framework, "roles": list(roles or (role("worker", 2, gpus={"count": 1}),)), **spec},
    }


def job(*roles: dict[str, Any], **more: Any) -> TrainingJob:
    return parse_training_job(job_object(*roles, **more))


def revision(name: str = "v1", image: str = "registry.test/serve:1", **more: Any) -> dict[str, Any]:
    return {"name": name, "template": {"spec": {"containers": [{"name": "main", "image": image}]}}, **more}


def service_object(*revisions: dict[str, Any], name: str = "chat", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "scheduling.example.com/v1",
        "kind": "InferenceService",
        "metadata": {"name": name, "namespace": "team", "uid": "uid-svc", "generation": 1, "resourceVersion": "1"},
        "spec": {"revisions": list(revisions or (revision(),)), **spec},
    }


def service(*revisions: dict[str, Any], **more: Any) -> InferenceService:
    return parse_inference_service(service_object(*revisions, **more))


def condition(kind: str, status: str, reason: str = "", message: str = "", when: float = NOW) -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": rfc3339(when)}


def waits_for(code: str, sentence: str = "no node has it", when: float = NOW) -> list[dict[str, Any]]:
    """Conditions of a pod that the scheduler has not placed."""
    return [condition("PodScheduled", "False", "Unschedulable", f"{code}: {sentence}", when)]


def ended(code: int, reason: str = "", when: float = NOW) -> list[dict[str, Any]]:
    """Container statuses of a pod that has ended."""
    how = {"exitCode": code, "reason": reason or ("Completed" if code == 0 else "Error"), "finishedAt": rfc3339(when)}
    return [{"name": "main", "state": {"terminated": how}}]


def view(manifest: dict[str, Any]) -> PodView:
    """What the controllers see of a pod."""
    return msgspec.convert(manifest, PodView)


def gang_pod(name: str, *, namespace: str, uid: str, owner: str, phase: str) -> PodView:
    """A pod that names the TrainingJob with the uid ``owner`` as its own."""
    reference = {"apiVersion": "scheduling.example.com/v1", "kind": "TrainingJob", "name": "train", "uid": owner}
    metadata = {"name": name, "namespace": namespace, "uid": uid, "ownerReferences": [reference | {"controller": True}]}
    return view({"metadata": metadata, "status": {"phase": phase}})
