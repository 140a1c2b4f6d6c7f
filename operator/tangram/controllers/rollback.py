"""A rollout whose new template does not work, and the way back to the template that did. Pure.

The rules of this file:

- When all replicas of a service are ready, what they are made from is remembered in an annotation of its Service.
- A replica of a template that has not been ready before, and that is not ready after ``MOST_RESTARTS`` restarts of a
  container, says that the template does not work. The rollout is stopped: the service is what it was when it was last
  ready, and the replicas of the new template give their places, and their GPUs, back.
- While a service is paused and no replica of its new template has been made, it is what it was when it was last ready.
- Which template failed is in the status, so that it is not tried again; another template, or another port, queue or
  class, begins another rollout.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tangram.api import names
from tangram.api.common import to_object
from tangram.api.inference import FailedRollout, InferenceService, Revision, parse_inference_service
from tangram.api.objects import LARGEST_ANNOTATIONS, annotation_bytes
from tangram.controllers.identity import template_hash
from tangram.controllers.observed import TEMPLATE, ObservedService, PodView, ServiceView
from tangram.controllers.reasons import crash_of
from tangram.errors import InvalidInput

LAST_READY = f"{names.GROUP}/last-ready"
"""Annotation on a service's Service: what its replicas were made from when all of them were last ready, as JSON."""
MOST_RESTARTS = 3
"""Restarts of a container after which a replica that is not ready counts as one that does not work."""
_MADE_FROM = ("revisions", "port", "queue", "priorityClass")


@dataclass(frozen=True, slots=True)
class Aim:
    """What the pods of a service are to be made from."""

    service: InferenceService
    """The service as its spec has it, or as it was when it was last ready."""
    failed: FailedRollout | None = None
    """Why it is the latter, when a rollout has failed."""
    held: bool = False
    """Whether it is the latter because the service is paused."""


def aim_of(observed: ObservedService) -> Aim:
    """What the service is to be: its spec, unless a template of it has been seen not to work."""
    service = observed.service
    last = remembered(service, observed.services)
    if last is None:
        return Aim(service)
    failed = observed.status.failed_rollout
    if failed is None or not set(failed.templates) & set(_hashes(service)):
        failed = _failure(service, last, observed.pods)
    held = failed is None and service.spec.paused and _is_before(service, last, observed.pods)
    return Aim(last if failed is not None or held else service, failed, held)


def made_from(service: InferenceService) -> dict[str, Any]:
    """The parts of a service's spec that its pods and Services are made from."""
    spec = to_object(service.spec)
    return {key: spec[key] for key in _MADE_FROM if key in spec} | {
        "revisions": [_written(revision) for revision in service.spec.revisions]
    }


def memory_of(service: InferenceService) -> str:
    """The text of ``LAST_READY``; empty where it is longer than an annotation may be."""
    text = json.dumps(made_from(service), sort_keys=True, separators=(",", ":"))
    return text if annotation_bytes({LAST_READY: text}) <= LARGEST_ANNOTATIONS // 2 else ""


def remembered(service: InferenceService, services: Iterable[ServiceView]) -> InferenceService | None:
    """The service as it was when it was last ready; None when that is not known, or cannot be read any more."""
    own = next((item for item in services if item.name == service.metadata.name), None)
    text = own.metadata.annotations.get(LAST_READY) if own is not None else None
    if not text:
        return None
    spec = {key: value for key, value in to_object(service.spec).items() if key not in _MADE_FROM}
    try:
        whole = {**to_object(service), "spec": {**spec, **json.loads(text)}, "status": None}
        return parse_inference_service(whole)
    except (ValueError, TypeError, InvalidInput):  # somebody has written into the annotation
        return None


def _is_before(service: InferenceService, last: InferenceService, pods: Iterable[PodView]) -> bool:
    """Whether the spec asks for something new of which there is no replica yet."""
    new = _hashes(service).keys() - _hashes(last).keys()
    return made_from(service) != made_from(last) and not any(pod.label(TEMPLATE) in new for pod in pods)


def _written(revision: Revision) -> dict[str, Any]:
    # The template as it is: an explicit null in it is not the same text as none.
    return {**to_object(revision), "template": revision.template}


def _hashes(service: InferenceService) -> dict[str, str]:
    """Revision by the hash of its template."""
    return {template_hash(service, revision): revision.name for revision in service.spec.revisions}


def _failure(service: InferenceService, last: InferenceService, pods: Iterable[PodView]) -> FailedRollout | None:
    """The rollout that a replica shows not to work; None while there is hope, or nothing new is rolled out."""
    new = {key: name for key, name in _hashes(service).items() if key not in _hashes(last)}
    for pod in sorted(pods, key=lambda item: item.name):
        key = pod.label(TEMPLATE)
        crash = crash_of(pod)
        broken = crash is not None and crash.restarts >= MOST_RESTARTS and not pod.ready and not pod.terminating
        if crash is not None and broken and new.get(key) == pod.label(names.REVISION):
            return FailedRollout(templates=(key,), message=str(crash))
    return None
