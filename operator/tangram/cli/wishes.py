"""Manifests that do not exist yet as the pods that would be made of them, by the controllers' own builders."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tangram.api import names
from tangram.api.inference import parse_inference_service
from tangram.api.objects import Pod
from tangram.api.policy import parse_policy
from tangram.api.training import parse_training_job
from tangram.controllers import manifests
from tangram.controllers.rollout import limits_of, split, wanted_replicas
from tangram.errors import InvalidInput, NotReachable
from tangram.snapshot.recording import Recording, bare_pod, wire_policy
from tangram.units import rfc3339

_MOST_PODS = 10_000
_TEMPLATED = {"Job": "parallelism", "Deployment": "replicas", "StatefulSet": "replicas", "ReplicaSet": "replicas"}
"""Kinds of others that make pods from a template, and the field that says how many."""
_GROUPS = {
    "Pod": "", "List": "", "TrainingJob": names.GROUP, "InferenceService": names.GROUP, "HybridPolicy": names.GROUP,
    "Job": "batch", "Deployment": "apps", "StatefulSet": "apps", "ReplicaSet": "apps",
}  # fmt: skip
"""What is understood: by kind, of which API group."""
Manifest = dict[str, Any]
_Maker = tuple[str, str, str]
"""(kind with its group, namespace, name)."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """Pods that would be created, and the world in which they would be."""

    pods: tuple[Pod, ...]
    world: Recording
    """The world without the pods that these replace, under the policy of the files if they hold one."""
    replaced: int = 0
    """Pods that exist of the same names, or made for the same objects."""
    notes: tuple[str, ...] = ()
    """What the answer leaves out."""


def read_wishes(files: tuple[Path, ...], recorded: Recording, namespace: str) -> Wishes:
    """Read all files. Raises NotReachable, or InvalidInput naming file, object, field, value and what is allowed."""
    pods: list[Pod] = []
    world, makers, notes = recorded, set[_Maker](), dict[str, None]()
    surges: dict[_Maker, str] = {}
    for file in files:
        for manifest in _documents(file):
            if note := _left_out(manifest):
                notes[note] = None
                if manifest["kind"] not in _GROUPS:
                    continue
            if manifest["kind"] == "HybridPolicy":
                world = msgspec.structs.replace(
                    world, policy=wire_policy(parse_policy(manifest, unknown="forbid")), prices=None
                )
                continue
            pods += _pods_of(manifest, namespace, recorded)
            metadata, kind = manifest.get("metadata") or {}, manifest["kind"]
            maker = (f"{kind}.{_GROUPS[kind]}", metadata.get("namespace") or namespace, metadata.get("name", ""))
            makers.add(maker)
            if surge := _surge(manifest):
                surges[maker] = surge
            if len(pods) > _MOST_PODS:
                raise InvalidInput(str(file), "pods", len(pods), f"at most {_MOST_PODS} pods at once")
    if not pods:
        raise InvalidInput(", ".join(map(str, files)), "content", "no pods", f"objects of {', '.join(_GROUPS)}")
    named = {(pod.metadata.namespace, pod.metadata.name) for pod in pods}
    if len(named) < len(pods):
        raise InvalidInput(", ".join(map(str, files)), "metadata.name", "used twice", "a name for each object")
    kept = tuple(
        pod
        for pod in world.pods
        if (pod.metadata.namespace, pod.metadata.name) not in named and makers.isdisjoint(_makers(pod))
    )
    stays = {pod.metadata.uid for pod in kept}
    replaced = {maker for pod in world.pods if pod.metadata.uid not in stays for maker in _makers(pod)}
    notes |= dict.fromkeys(text for maker, text in surges.items() if maker in replaced)
    left = msgspec.structs.replace(world, pods=kept)
    return Wishes(tuple(pods), left, len(world.pods) - len(kept), tuple(notes))


def _surge(manifest: Manifest) -> str:
    """What a rollout of the object needs for a while beside its replicas; empty: nothing."""
    if manifest["kind"] != "InferenceService":
        return ""
    service = parse_inference_service(manifest, unknown="forbid")
    name, wanted = service.metadata.name, wanted_replicas(service)
    most = service.spec.strategy.max_surge or "1"
    text = f"a rollout of {name} wants room for maxSurge ({most}) more for a while, and may preempt others for it"
    return text if wanted and limits_of(service, wanted).surge else ""


def _left_out(manifest: Manifest) -> str:
    """What is not judged of an object that is none of pods, or that would hold nothing as it is."""
    kind = manifest["kind"]
    if kind not in _GROUPS:
        return f"objects of the kind {kind} are left out"
    spec = manifest.get("spec") or {}
    policy = spec.get("runPolicy") if isinstance(spec, dict) else None
    if kind == "TrainingJob" and isinstance(policy, dict) and policy.get("suspend") is True:
        name = _mapping(manifest.get("metadata"), kind, "metadata").get("name", "")
        return f"TrainingJob {name} is suspended: this is how it would be once it is resumed"
    return ""


def _makers(pod: Pod) -> Iterator[_Maker]:
    """The objects that the pod was made for, from the one that owns it upwards.

    A Deployment is not named on its pods: the ReplicaSet between them has its name and the hash of the template.
    """
    metadata = pod.metadata
    for owner in metadata.owner_references:
        if owner.controller:
            group = owner.api_version.rpartition("/")[0] if owner.api_version else _GROUPS.get(owner.kind, "")
            yield f"{owner.kind}.{group}", metadata.namespace, owner.name
            deployment = owner.name.removesuffix(f"-{metadata.labels.get('pod-template-hash', '')}")
            if (owner.kind, group) == ("ReplicaSet", "apps") and deployment != owner.name:
                yield "Deployment.apps", metadata.namespace, deployment


def _documents(file: Path) -> Iterator[Manifest]:
    try:
        text = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
        documents = list(yaml.safe_load_all(text))
    except OSError as error:
        raise NotReachable(f"{file}: cannot be read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InvalidInput(str(file), "YAML", " ".join(str(error).split()), "YAML documents") from None
    for document in documents:
        if document is not None:
            yield from _flat(document, str(file))


def _flat(document: Any, where: str) -> Iterator[Manifest]:
    kind = document.get("kind") if isinstance(document, dict) else type(document).__name__
    version = document.get("apiVersion") if isinstance(document, dict) else None
    group = version.rpartition("/")[0] if isinstance(version, str) and version else None
    if kind in _GROUPS and group not in (None, _GROUPS[kind]):
        raise InvalidInput(where, "apiVersion", version, f"{_GROUPS[kind] or 'the core group'} for the kind {kind}")
    if not isinstance(kind, str) or (kind not in _GROUPS and group in (None, names.GROUP)):
        raise InvalidInput(where, "kind", kind, ", ".join(_GROUPS))
    if kind == "List":
        items = document.get("items") or []
        if not isinstance(items, list):
            raise InvalidInput(where, "items", items, "a list of objects")
        for item in items:
            yield from _flat(item, where)
    else:
        yield document


def _mapping(value: Any, where: str, field: str) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise InvalidInput(where, field, value, "a mapping of names to values")
    return dict(value or {})


def _pods_of(manifest: Manifest, namespace: str, recorded: Recording) -> Iterator[Pod]:
    metadata = _mapping(manifest.get("metadata"), manifest["kind"], "metadata")
    metadata.setdefault("namespace", namespace)
    _mapping(metadata.get("annotations"), manifest["kind"], "metadata.annotations")
    _mapping(metadata.get("labels"), manifest["kind"], "metadata.labels")
    manifest = {**manifest, "metadata": metadata}
    where = f"{manifest['kind']} {metadata['namespace']}/{metadata.get('name', '?')}"
    for made in _made_of(manifest, where, recorded.scheduler_name):
        yield _pod(made, where, recorded)


def _made_of(manifest: Manifest, where: str, scheduler: str) -> Iterator[Manifest]:
    kind, metadata = manifest["kind"], manifest["metadata"]
    if kind == "TrainingJob":
        job = parse_training_job(manifest, unknown="forbid")
        gang = manifests.gang_of(job, 0)
        yield from (manifests.job_pod(job, gang, member, scheduler) for member in gang.members)
    elif kind == "InferenceService":
        service = parse_inference_service(manifest, unknown="forbid")
        counts = split(wanted_replicas(service), service.spec.weights())
        for revision in service.spec.revisions:
            for index in range(counts[revision.name]):
                yield manifests.service_pod(service, revision, index, scheduler)
    elif kind == "Pod":
        yield manifest
    else:
        spec = _mapping(manifest.get("spec"), where, "spec")
        count = spec.get(_TEMPLATED[kind], 1)
        if kind == "Job" and isinstance(count, int) and isinstance(spec.get("completions"), int):
            count = min(count, spec["completions"])
        if not isinstance(count, int) or not 0 <= count <= _MOST_PODS:
            raise InvalidInput(where, f"spec.{_TEMPLATED[kind]}", count, f"a whole number up to {_MOST_PODS}")
        template = _mapping(spec.get("template"), where, "spec.template")
        given = _mapping(template.get("metadata"), where, "spec.template.metadata")
        name = metadata.get("name") or metadata.get("generateName", "").rstrip("-")
        for index in range(count):
            named = {"namespace": metadata["namespace"], "name": f"{name}-{index}"}
            yield {"kind": "Pod", "metadata": {**given, **named}, "spec": template.get("spec")}


def _pod(made: Mapping[str, Any], where: str, recorded: Recording) -> Pod:
    metadata = {**made["metadata"]}
    metadata.setdefault("name", metadata.pop("generateName", ""))
    spec = _mapping(made.get("spec"), where, "spec")
    if not metadata["name"]:
        raise InvalidInput(where, "metadata.name", "", "a name")
    scheduler = spec.get("schedulerName")
    if scheduler != recorded.scheduler_name:
        raise InvalidInput(where, "spec.schedulerName", scheduler, f"{recorded.scheduler_name}, who is asked")
    spec.setdefault("priority", _priority(spec, where, recorded))
    spec.pop("nodeName", None)
    notes = _mapping(metadata.get("annotations"), where, "metadata.annotations")
    metadata |= {
        "uid": f"what-if/{metadata['namespace']}/{metadata['name']}",
        "creationTimestamp": rfc3339(recorded.now),
        "annotations": {key: value for key, value in notes.items() if key not in names.RESERVED_ANNOTATIONS},
        "labels": metadata.get("labels") or {},
    }
    try:
        return bare_pod(msgspec.convert({"metadata": metadata, "spec": spec}, Pod))
    except msgspec.ValidationError as error:
        raise InvalidInput(where, "pod", str(error), "a pod as the Kubernetes API knows it") from None


def _priority(spec: Mapping[str, Any], where: str, recorded: Recording) -> int:
    """What admission would make of the pod's priorityClassName."""
    name = spec.get("priorityClassName") or ""
    if not isinstance(name, str):
        raise InvalidInput(where, "spec.priorityClassName", name, "the name of a PriorityClass")
    if name and recorded.priorities and name not in recorded.priorities:
        known = ", ".join(sorted(recorded.priorities))
        raise InvalidInput(where, "spec.priorityClassName", name, f"a PriorityClass that exists: {known}")
    return recorded.priorities.get(name, 0)
