"""The objects that jobs and services consist of, made by pure functions from the parsed kinds.

What a user wrote into a pod template stays, except for what makes the pod ours: scheduler, labels, GPUs, restarts.
"""

import copy
from collections.abc import Mapping
from typing import Any

from tangram.api import names
from tangram.api.common import GpuRequest, Metadata
from tangram.api.inference import InferenceService, Revision
from tangram.api.objects import LARGEST_ANNOTATIONS, Resources, annotation_bytes
from tangram.api.training import Role, TrainingJob
from tangram.controllers.actions import Manifest
from tangram.controllers.amounts import container_amounts, held_milli, replica_milli
from tangram.controllers.identity import gang_shape, template_hash
from tangram.controllers.observed import MANAGED_BY, MANAGER
from tangram.controllers.rendezvous import HOST_FILES, Gang, Member, environment, host_files, ranked
from tangram.errors import InvalidInput
from tangram.units import MILLI_PER_GPU

_HOST_FILES = {"hostfile": names.HOSTFILE, "hostfile.hydra": names.HOSTFILE_HYDRA}
"""Annotation in which each file stands."""
SERVICE_PORT = 80


def owned_by(api_version: str, kind: str, metadata: Metadata) -> list[dict[str, Any]]:
    """The owner reference by which the object goes when its owner goes.

    ``blockOwnerDeletion`` is off: it would need the right to set finalizers, and nobody waits for it.
    """
    return [
        {
            "apiVersion": api_version,
            "kind": kind,
            "name": metadata.name,
            "uid": metadata.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }
    ]


# Pods in general.


def _pod(template: Mapping[str, Any], gpus: GpuRequest | None, scheduler: str, where: str) -> Manifest:
    """A pod from a template, with its GPUs; ``where`` names the template's owner in errors. Raises InvalidInput."""
    given = template.get("metadata") or {}
    annotations = {
        key: value for key, value in (given.get("annotations") or {}).items() if key not in names.RESERVED_ANNOTATIONS
    }
    spec = copy.deepcopy(dict(template["spec"]))
    spec["schedulerName"] = scheduler
    # A variable per Service of the namespace: nobody reads them, and with thousands a container does not start.
    spec.setdefault("enableServiceLinks", False)
    if gpus is not None:
        _give_gpus(spec, gpus, where)
        if gpus.memory is not None:
            annotations[names.GPU_MEMORY] = gpus.memory
        if gpus.models:
            annotations[names.GPU_MODELS] = ",".join(gpus.models)
        if gpus.isolation:
            annotations[names.GPU_ISOLATION] = ",".join(gpus.isolation)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"labels": dict(given.get("labels") or {}), "annotations": annotations},
        "spec": spec,
    }


def _give_gpus(spec: dict[str, Any], gpus: GpuRequest, where: str) -> None:
    containers = spec["containers"]
    chosen = next((item for item in containers if gpus.container in (None, item["name"])), None)
    if chosen is None:
        known = ", ".join(item["name"] for item in containers)
        raise InvalidInput(where, "gpus.container", gpus.container, f"one of the template's containers: {known}")
    resources = dict(chosen.get("resources") or {})
    if gpus.count is not None:
        amount = {gpus.resource: str(gpus.count)}
    else:
        amount = {names.FRACTION_RESOURCE: str(gpus.hundredths())}
    # Extended resources cannot be overcommitted: requests and limits must be the same.
    for side in ("requests", "limits"):
        resources[side] = {**(resources.get(side) or {}), **amount}
    chosen["resources"] = resources


def template_milli(template: Mapping[str, Any], gpus: GpuRequest | None) -> int:
    """GPUs that a pod of the template holds, in milli-GPU, with those of all its containers."""
    spec = {**template["spec"], "containers": [dict(one) for one in template["spec"]["containers"]]}
    if gpus is not None and any(gpus.container in (None, one["name"]) for one in spec["containers"]):
        _give_gpus(spec, gpus, "")
    return held_milli(
        map(_resources, spec["containers"]),
        ((_resources(one), one.get("restartPolicy") == "Always") for one in spec.get("initContainers") or ()),
    )


def _resources(container: Mapping[str, Any]) -> Resources:
    return Resources(container_amounts(container, "requests"), container_amounts(container, "limits"))


def _add_environment(spec: dict[str, Any], variables: Mapping[str, str]) -> None:
    """Add variables to every container; what the user wrote there wins."""
    for container in spec["containers"]:
        written = list(container.get("env") or ())
        known = {entry.get("name") for entry in written}
        # Ours first: a variable may use those above it.
        container["env"] = [
            {"name": name, "value": value} for name, value in variables.items() if name not in known
        ] + written


# Training.


def gang_service_name(job: str) -> str:
    """Name of the headless Service that gives the job's replicas their names in DNS."""
    return f"{job}-gang"


def job_pod_name(job: str, role: str, index: int) -> str:
    """Name of a replica's pod, the same after every restart."""
    return f"{job}-{role}-{index}"


def processes_of(role: Role) -> int:
    """Processes that a replica runs: one per whole GPU, one on a fraction or without GPUs."""
    return max(1, replica_milli(role.template, role.gpus) // MILLI_PER_GPU)


def gang_of(job: TrainingJob, attempt: int) -> Gang:
    """All replicas of a job by rank."""
    name, namespace, spec = job.metadata.name, job.metadata.namespace, job.spec
    domain = f"{gang_service_name(name)}.{namespace}.svc"
    roles = {role.name: role for role in spec.roles}
    places = [(roles[role], index) for role in ranked(roles) for index in range(spec.replicas_of(roles[role]))]
    members = tuple(
        Member(role.name, index, rank, f"{job_pod_name(name, role.name, index)}.{domain}", processes_of(role))
        for rank, (role, index) in enumerate(places)
    )
    elastic = spec.elastic
    if elastic is None:
        return Gang(spec.framework, name, job.metadata.uid, members, attempt=attempt)
    fixed = sum(role.replicas for role in spec.roles if role.name != elastic.role)
    span = (fixed + elastic.min_replicas, fixed + elastic.max_replicas)
    return Gang(spec.framework, name, job.metadata.uid, members, span, attempt)


def job_labels(job: TrainingJob) -> dict[str, str]:
    """Labels of everything that a job owns."""
    return {names.JOB: job.metadata.name, MANAGED_BY: MANAGER}


def job_service(job: TrainingJob) -> Manifest:
    """The headless Service of a job. Names resolve before the replicas are ready, because they find each other then."""
    metadata = job.metadata
    port = gang_of(job, 0).port
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": gang_service_name(metadata.name),
            "namespace": metadata.namespace,
            "labels": job_labels(job),
            "ownerReferences": owned_by(job.api_version, job.kind, metadata),
        },
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {names.JOB: metadata.name},
            "ports": [{"name": "rendezvous", "port": port, "targetPort": port, "protocol": "TCP"}],
        },
    }


def job_pod(job: TrainingJob, gang: Gang, member: Member, scheduler: str = names.SCHEDULER_NAME) -> Manifest:
    """The pod of one replica.

    Raises InvalidInput when the role asks for something that its template does not have, or when what the pod is to be
    told of its fellows makes its annotations longer than Kubernetes takes.
    """
    metadata, spec = job.metadata, job.spec
    place, role = next((place, role) for place, role in enumerate(spec.roles) if role.name == member.role)
    name = job_pod_name(metadata.name, member.role, member.index)
    where = f"TrainingJob {metadata.namespace}/{metadata.name}: spec.roles[{place}]"
    pod = _pod(role.template, role.gpus, scheduler, where)
    labels, annotations = pod["metadata"]["labels"], pod["metadata"]["annotations"]
    pod["metadata"] |= {
        "name": name,
        "namespace": metadata.namespace,
        "ownerReferences": owned_by(job.api_version, job.kind, metadata),
    }
    labels |= {
        **job_labels(job),
        names.ROLE: member.role,
        names.INDEX: str(member.index),
        names.GANG: metadata.name,
        **_tenancy(spec.queue, spec.priority_class),
    }
    annotations |= {
        names.GANG_MIN: str(spec.gang_min()),
        names.ATTEMPT: str(gang.attempt),
        names.GANG_SHAPE: gang_shape(job),
    }
    optional = {
        names.GANG_ROLE_MIN: role_minimums(job),
        names.ESTIMATED_DURATION: spec.estimated_duration,
        names.TOPOLOGY_REQUIRED: spec.topology.required if spec.topology else None,
        names.TOPOLOGY_PREFERRED: spec.topology.preferred if spec.topology else None,
    }
    annotations |= {key: value for key, value in optional.items() if value is not None}
    pod["spec"] |= {
        "restartPolicy": "Never",
        "hostname": name,
        "subdomain": gang_service_name(metadata.name),
    }
    variables = environment(gang, member)
    if spec.checkpoint is not None and spec.checkpoint.path is not None:
        variables["TANGRAM_CHECKPOINT_PATH"] = spec.checkpoint.path
    _add_environment(pod["spec"], variables)
    if member is gang.leader:
        _add_host_files(pod, host_files(gang))
    size = annotation_bytes(annotations)
    if size > LARGEST_ANNOTATIONS:
        value = f"{size} bytes for {len(gang.members)} replicas"
        raise InvalidInput(where, f"annotations of pod {name}", value, f"{LARGEST_ANNOTATIONS} bytes")
    return pod


def role_minimums(job: TrainingJob) -> str | None:
    """The annotation with the minimum of each role; None for a job of one role."""
    spec = job.spec
    return ",".join(f"{role.name}={spec.role_min(role)}" for role in spec.roles) if len(spec.roles) > 1 else None


def _add_host_files(pod: Manifest, files: Mapping[str, str]) -> None:
    """Give the pod small files through its own annotations, so that no further object is needed."""
    if not files:
        return
    pod["metadata"]["annotations"] |= {_HOST_FILES[name]: text for name, text in files.items()}
    items = [
        {"path": name, "fieldRef": {"fieldPath": f"metadata.annotations['{_HOST_FILES[name]}']"}} for name in files
    ]
    spec = pod["spec"]
    spec["volumes"] = [*(spec.get("volumes") or ()), {"name": "tangram-hosts", "downwardAPI": {"items": items}}]
    for container in spec["containers"]:
        mount = {"name": "tangram-hosts", "mountPath": HOST_FILES, "readOnly": True}
        container["volumeMounts"] = [*(container.get("volumeMounts") or ()), mount]


def _tenancy(queue: str, priority_class: str | None) -> dict[str, str]:
    labels = {names.QUEUE: queue}
    if priority_class is not None:
        labels[names.PRIORITY_CLASS] = priority_class
    return labels


# Inference.


def service_selector(service: str) -> dict[str, str]:
    """Labels of all replicas of a service."""
    return {names.SERVICE: service}


def service_pod_name(service: str, revision: str, index: int) -> str:
    """Name of a replica's pod."""
    return f"{service}-{revision}-{index}"


def revision_of_pod(service: str, name: str) -> str:
    """The revision of which a pod of the service is a replica, by its name; empty where that is no replica's."""
    stem, _, index = name.rpartition("-")
    return stem.removeprefix(f"{service}-") if index.isdecimal() and stem.startswith(f"{service}-") else ""


def service_pod(
    service: InferenceService, revision: Revision, index: int, scheduler: str = names.SCHEDULER_NAME
) -> Manifest:
    """The pod of one replica. Raises InvalidInput as ``job_pod`` does."""
    metadata, spec = service.metadata, service.spec
    where = f"InferenceService {metadata.namespace}/{metadata.name}: spec.revisions[{spec.revisions.index(revision)}]"
    pod = _pod(revision.template, revision.gpus, scheduler, where)
    pod["metadata"]["labels"] |= {
        **service_selector(metadata.name),
        MANAGED_BY: MANAGER,
        names.REVISION: revision.name,
        names.INDEX: str(index),
        names.TEMPLATE_HASH: template_hash(service, revision),
        **_tenancy(spec.queue, spec.priority_class),
    }
    pod["metadata"] |= {
        "name": service_pod_name(metadata.name, revision.name, index),
        "namespace": metadata.namespace,
        "ownerReferences": owned_by(service.api_version, service.kind, metadata),
    }
    pod["spec"]["restartPolicy"] = "Always"
    _add_readiness(pod["spec"], spec.port)
    _spread(pod["spec"], service_selector(metadata.name))
    _add_environment(
        pod["spec"],
        {"TANGRAM_SERVICE": metadata.name, "TANGRAM_REVISION": revision.name, "TANGRAM_PORT": str(spec.port)},
    )
    return pod


def _add_readiness(spec: dict[str, Any], port: int) -> None:
    """Have a replica count as ready when its port answers, where the template does not say when it is.

    The probe is of the container that declares the port, else of the first one.
    """
    containers = spec["containers"]
    if any("readinessProbe" in container for container in containers):
        return
    declares = (
        container
        for container in containers
        if any(one.get("containerPort") == port for one in container.get("ports") or ())
    )
    next(declares, containers[0])["readinessProbe"] = {"tcpSocket": {"port": port}, "periodSeconds": 5}


def _spread(spec: dict[str, Any], selector: Mapping[str, str]) -> None:
    """Prefer another node for each replica, where the template does not say how they are to be spread."""
    if spec.get("topologySpreadConstraints") or (spec.get("affinity") or {}).get("podAntiAffinity"):
        return
    spec["topologySpreadConstraints"] = [
        {
            "maxSkew": 1,
            "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": dict(selector)},
        }
    ]


def service_budget(service: InferenceService, may_be_away: int = 1) -> Manifest:
    """The PodDisruptionBudget of a service: so many of its replicas may be away, the one to be evicted included."""
    metadata = service.metadata
    selector = service_selector(metadata.name)
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "labels": {**selector, MANAGED_BY: MANAGER},
            "ownerReferences": owned_by(service.api_version, service.kind, metadata),
        },
        "spec": {"maxUnavailable": may_be_away, "selector": {"matchLabels": selector}},
    }


def service_services(service: InferenceService) -> list[Manifest]:
    """The Service of all replicas, and one for each revision."""
    metadata, spec = service.metadata, service.spec
    wanted = [(metadata.name, service_selector(metadata.name))]
    for revision in spec.revisions:
        selector = {**service_selector(metadata.name), names.REVISION: revision.name}
        wanted.append((f"{metadata.name}-{revision.name}", selector))
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {
                "name": name,
                "namespace": metadata.namespace,
                "labels": {**selector, MANAGED_BY: MANAGER},
                "ownerReferences": owned_by(service.api_version, service.kind, metadata),
            },
            "spec": {
                "selector": selector,
                "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": spec.port, "protocol": "TCP"}],
            },
        }
        for name, selector in wanted
    ]
