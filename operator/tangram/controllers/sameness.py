"""Whether a pod that another version of the controller has made is what this one would make: compared by value.

The API server and admission webhooks add to a pod (defaults, volumes of service accounts, sidecars), so a pod is the
same when everything that would be written is in it. What was taken out of a template is seen where nobody adds
anything: commands, arguments, liveness probes, node selectors. In doubt a pod counts as the same: an upgrade restarts
nothing.
"""

from collections.abc import Mapping
from typing import Any

from tangram.api import names
from tangram.api.inference import InferenceService, Revision
from tangram.api.training import TrainingJob
from tangram.api.views import PodView
from tangram.controllers import manifests
from tangram.controllers.amounts import milli_of, replica_milli
from tangram.controllers.identity import gang_shape, is_foreign, template_hash
from tangram.errors import InvalidInput
from tangram.units import quantity

_KEYS = ("name", "mountPath", "devicePath", "containerPort")
"""By what entries of a list are known: the first of these that the entry has."""
_NOBODY_ADDS_TO_PODS = ("nodeSelector", "hostNetwork", "runtimeClassName")
_NOBODY_ADDS_TO_CONTAINERS = ("command", "args", "livenessProbe", "startupProbe", "lifecycle", "workingDir")
_GPU_ANNOTATIONS = (names.GPU_MEMORY, names.GPU_MODELS, names.GPU_ISOLATION)
_OURS = ("TANGRAM_SERVICE", "TANGRAM_REVISION")
"""Variables that say nothing about the template; another version may add others."""


def fits_shape(job: TrainingJob, pod: PodView) -> bool:
    """Whether a pod was made for the gang that the job asks for now."""
    annotations = pod.metadata.annotations
    text = annotations.get(names.GANG_SHAPE, "")
    if not is_foreign(text):
        return text == gang_shape(job)
    role = next((role for role in job.spec.roles if role.name == pod.label(names.ROLE)), None)
    asked = milli_of(container.resources for container in pod.spec.containers)
    return (
        role is not None
        and asked == replica_milli(role.template, role.gpus)
        and annotations.get(names.GANG_MIN) == str(job.spec.gang_min())
        and annotations.get(names.GANG_ROLE_MIN) == manifests.role_minimums(job)
    )


def is_made_from(
    service: InferenceService, revision: Revision, pod: PodView, whole: Mapping[str, Mapping[str, Any]]
) -> bool:
    """Whether a replica was made from the revision as it is now.

    ``whole`` are the pods of other versions as the server has them, by uid.
    """
    text = pod.label(names.TEMPLATE_HASH)
    if not is_foreign(text):
        return text == template_hash(service, revision)
    there = whole.get(pod.metadata.uid)
    return there is not None and _is_same(service, revision, there)


def _is_same(service: InferenceService, revision: Revision, there: Mapping[str, Any]) -> bool:
    try:
        made = manifests.service_pod(service, revision, 0)
    except InvalidInput:
        return False
    wanted, spec = made["metadata"], _without_additions(made["spec"], revision.template["spec"])
    labels, annotations = there["metadata"].get("labels") or {}, there["metadata"].get("annotations") or {}
    not_compared = {names.TEMPLATE_HASH, names.INDEX}
    return (
        labels.get(names.PRIORITY_CLASS) == wanted["labels"].get(names.PRIORITY_CLASS)
        and all(annotations.get(key) == wanted["annotations"].get(key) for key in _GPU_ANNOTATIONS)
        and contains(annotations, wanted["annotations"])
        and contains(labels, {key: value for key, value in wanted["labels"].items() if key not in not_compared})
        and contains(there["spec"], spec)
        and _lacks_nothing(there["spec"], spec)
    )


def _without_additions(spec: Mapping[str, Any], written: Mapping[str, Any]) -> dict[str, Any]:
    """The spec without what the controller puts into pods by its own: another version puts other things."""
    ours = {"schedulerName", "enableServiceLinks", "topologySpreadConstraints"} - written.keys()
    containers = []
    for container, template in zip(spec["containers"], written["containers"], strict=True):
        probe = {"readinessProbe"} - template.keys()
        kept = {key: value for key, value in container.items() if key not in probe}
        kept["env"] = [entry for entry in container.get("env", ()) if entry.get("name") not in _OURS]
        containers.append(kept)
    return {key: value for key, value in spec.items() if key not in ours} | {"containers": containers}


def _lacks_nothing(there: Mapping[str, Any], spec: Mapping[str, Any]) -> bool:
    """Whether the pod has nothing that has been taken out of the template, where nobody else puts anything."""
    known = {container["name"]: container for container in there["containers"]}
    return not any(there.get(key) and not spec.get(key) for key in _NOBODY_ADDS_TO_PODS) and not any(
        known[container["name"]].get(key) and not container.get(key)
        for container in spec["containers"]
        for key in _NOBODY_ADDS_TO_CONTAINERS
    )


def contains(there: Any, wanted: Any) -> bool:
    """Whether all that is wanted is there as Kubernetes stores it: with more beside it, and amounts spelt otherwise."""
    if wanted is None or wanted in ({}, [], ""):
        return True
    if isinstance(wanted, Mapping):
        return isinstance(there, Mapping) and all(contains(there.get(key), value) for key, value in wanted.items())
    if isinstance(wanted, list | tuple):
        return isinstance(there, list | tuple) and _has_entries(there, wanted)
    return bool(there == wanted) or _is_amount(there, wanted) or (there is None and wanted in (False, 0))


def _has_entries(there: list[Any] | tuple[Any, ...], wanted: list[Any] | tuple[Any, ...]) -> bool:
    if not all(isinstance(entry, Mapping) for entry in wanted):
        return list(there) == list(wanted)
    for entry in wanted:
        key = next((key for key in _KEYS if key in entry), None)
        same = [one for one in there if key is None or one.get(key) == entry[key]]
        if not any(contains(one, entry) for one in same):
            return False
    return True


def _is_amount(there: Any, wanted: Any) -> bool:
    """Whether two spellings are of one quantity: 0.5 and 500m."""
    if isinstance(there, bool) or isinstance(wanted, bool):
        return False
    try:
        return quantity(there, 1, 10**6) == quantity(wanted, 1, 10**6)
    except ValueError:
        return False
