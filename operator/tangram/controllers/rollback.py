"""A rollout whose new template does not work, and the way back to the template that did. Pure.

The rules of this file:

- What the replicas are made from is remembered when none is of an older template and each revision that has a share
  of them has *served*. One that has no share, and of which no replica ever served, is remembered with the weight 0: no
  way leads to it, and it is a new one when it gets a share.
- The status holds that: who may edit a service, or what belongs to it, may not write it, so nobody chooses where a
  rollback leads. A status that is lost or cannot be read leads nowhere.
- A template has served when a replica of it has been ready for ``SERVED_SECONDS``. What makes one crash later is no
  rollout that does not work.
- A replica of a new template that has not served, and that is not ready after ``MOST_RESTARTS`` restarts of a
  container, says that the template does not work. The rollout is stopped: the service is what it was when that was
  remembered, and the replicas of the new template give their places, and their GPUs, back.
- While a service is paused and no replica of its new template has been made, it is what is remembered, too.
- Which template failed is in the status, so that it is not tried again; another template, or another port, queue or
  class, begins another rollout, and whoever takes its share away (a canary back at weight 0) has seen it.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tangram.api import names
from tangram.api.common import to_object
from tangram.api.inference import (
    LONGEST_SPEC,
    FailedRollout,
    InferenceService,
    Proven,
    Revision,
    parse_inference_service,
)
from tangram.api.views import PodView
from tangram.controllers.identity import template_hash
from tangram.controllers.observed import ObservedService
from tangram.controllers.reasons import crash_of
from tangram.controllers.rollout import Replicas, split, wanted_replicas
from tangram.controllers.sameness import is_made_from
from tangram.errors import InvalidInput

FORMER_MEMORY = f"{names.GROUP}/last-ready"
"""Annotation of a service's Service in which an earlier version remembered what had been ready."""
MOST_RESTARTS = 3
"""Restarts of a container after which a replica that is not ready counts as one that does not work."""
SERVED_SECONDS = 60
"""Seconds for which a replica has to be ready without a break for its template to have served."""
_MADE_FROM = ("revisions", "port", "queue", "priorityClass")


@dataclass(frozen=True, slots=True)
class Aim:
    """What the pods of a service are to be made from."""

    service: InferenceService
    """The service as its spec has it, or as it was when it last worked."""
    failed: FailedRollout | None = None
    """Why it is the latter, when a rollout has failed."""
    held: bool = False
    """Whether it is the latter because the service is paused."""
    withheld: tuple[str, ...] = ()
    """Names of further revisions that are new in the spec, and held back with what failed."""


def with_former_memory(observed: ObservedService) -> ObservedService:
    """A service with what an earlier version remembered of it in an annotation of its Service. Whoever may edit
    Services could write that, so it is believed only where replicas that are there were made from it."""
    own = next((one for one in observed.services if one.name == observed.service.metadata.name), None)
    text = own.metadata.annotations.get(FORMER_MEMORY, "") if own is not None else ""
    last = remembered(observed.service, Proven(spec=text[:LONGEST_SPEC])) if observed.status.proven is None else None
    if last is None:
        return observed
    weights = last.spec.weights()
    for revision in last.spec.revisions:
        made = (is_made_from(last, revision, pod, observed.whole) for pod in observed.pods)
        if weights[revision.name] and not any(made):
            return observed
    return replace(observed, status=observed.status.model_copy(update={"proven": Proven(spec=memory_of(last))}))


def aim_of(observed: ObservedService, now: float) -> Aim:
    """What the service is to be at ``now``: its spec, unless a template of it has been seen not to work."""
    service = observed.service
    last = remembered(service, observed.status.proven)
    if last is None:
        return Aim(service)
    failed = observed.status.failed_rollout
    if failed is None or not set(failed.templates) & _hashes(service, wanted=True):
        failed = _failure(observed, _known(observed, last, now))
    held = failed is None and service.spec.paused and _is_before(observed, last, now)
    withheld = () if failed is None else _withheld(service, last, failed)
    return Aim(last if failed is not None or held else service, failed, held, withheld)


def _withheld(service: InferenceService, last: InferenceService, failed: FailedRollout) -> tuple[str, ...]:
    """The other revisions that are to be something else as well, and wait with the one that failed: another template,
    another weight, or none."""
    hashes = {one.name: template_hash(service, one) for one in service.spec.revisions}
    former = {one.name: template_hash(last, one) for one in last.spec.revisions}
    weights = service.spec.weights()
    wanted = {name: weights[name] for name, text in hashes.items() if text not in failed.templates}
    before = {name: one for name, one in last.spec.weights().items() if one and (name in wanted or name not in weights)}
    changed = {name for name, one in wanted.items() if one and (name not in before or hashes[name] != former[name])}
    notes = dict.fromkeys(before.keys() - wanted.keys(), " (removed)")
    notes |= {name: f" (weight {wanted[name]})" for name in _moved(wanted, before) - changed}
    return tuple(name + notes.get(name, "") for name in {**hashes, **former} if name in changed or name in notes)


def _moved(wanted: Mapping[str, int], before: Mapping[str, int]) -> set[str]:
    """Revisions that are to have another weight, but for what they give to those that failed."""
    changes = {name: wanted[name] - weight for name, weight in before.items() if name in wanted}
    gone = sum(weight for name, weight in before.items() if name not in wanted)
    given = 100 - sum(wanted.values()) - gone
    alike = max(changes.values(), default=0) <= 0 and -sum(changes.values()) <= given
    return {name for name, change in changes.items() if change and not (alike and wanted[name])}


def proven_by(observed: ObservedService, aim: Aim, groups: Iterable[Replicas], now: float) -> Proven | None:
    """What is to be remembered of what works."""
    service, before = observed.service, observed.status.proven
    last = remembered(service, before)
    known = _known(observed, last, now)
    text = "" if before is None else before.spec
    if aim.service is service and _has_taken_over(service, groups, known):
        last = _without_untried(service, known)
        text = memory_of(last)
    implied = _working(last) if text else set()
    templates = tuple(sorted((known & _hashes(service)) - implied))
    return Proven(templates=templates, spec=text) if templates or text else None


def until_served(observed: ObservedService, proven: Proven | None, now: float) -> float | None:
    """Seconds until another template will have served, where that is not known yet; None when none is about to."""
    known = _working(remembered(observed.service, proven)) | (set() if proven is None else set(proven.templates))
    waits = (
        pod.ready_since + SERVED_SECONDS - now
        for pod in observed.pods
        if pod.ready and (revision := _made_from(observed, pod)) is not None
        and template_hash(observed.service, revision) not in known
    )  # fmt: skip
    return min(waits, default=None)


def made_from(service: InferenceService) -> dict[str, Any]:
    """The parts of a service's spec that its pods and Services are made from."""
    spec = to_object(service.spec)
    return {key: spec[key] for key in _MADE_FROM if key in spec} | {
        "revisions": [_written(revision) for revision in service.spec.revisions]
    }


def memory_of(service: InferenceService) -> str:
    """What the service is made from as text; empty where it is longer than the status holds."""
    # Text and no object: a status is written by merge patches, in which null means that a field is to go.
    text = json.dumps(made_from(service), sort_keys=True, separators=(",", ":"))
    return text if len(text) <= LONGEST_SPEC else ""


def remembered(service: InferenceService, proven: Proven | None) -> InferenceService | None:
    """The service as it was when it last worked; None when that is not known, or cannot be read any more."""
    if proven is None or not proven.spec:
        return None
    spec = {key: value for key, value in to_object(service.spec).items() if key not in _MADE_FROM}
    try:
        whole = {**to_object(service), "spec": {**spec, **json.loads(proven.spec)}, "status": None}
        return parse_inference_service(whole)
    except (ValueError, TypeError, InvalidInput):  # another version has written it
        return None


def _has_taken_over(service: InferenceService, groups: Iterable[Replicas], known: set[str]) -> bool:
    """Whether no replica is of an older template, and each revision that has a share works."""
    groups = tuple(groups)
    shares = [group.revision for group in groups if group.revision is not None and group.desired]
    return (
        bool(shares)
        and not any(group.old for group in groups)
        and all(template_hash(service, revision) in known for revision in shares)
    )


def _known(observed: ObservedService, last: InferenceService | None, now: float) -> set[str]:
    """Hashes of templates that have served: they are remembered, or it is seen now."""
    service = observed.service
    before = set() if observed.status.proven is None else set(observed.status.proven.templates)
    steady = (pod for pod in observed.pods if pod.ready and now - pod.ready_since >= SERVED_SECONDS)
    found = (_made_from(observed, pod) for pod in steady)
    seen = {template_hash(service, one) for one in found if one is not None}
    return _working(last) | before & _hashes(service) | seen


def _working(last: InferenceService | None) -> set[str]:
    """Hashes of the templates that what is remembered says to have served: those with a weight."""
    if last is None:
        return set()
    weights = last.spec.weights()
    return {template_hash(last, revision) for revision in last.spec.revisions if weights[revision.name]}


def _without_untried(service: InferenceService, known: set[str]) -> InferenceService:
    """The service with no weight for revisions that have no share of the replicas, and whose template is not known."""
    weights = service.spec.weights()
    shares = split(wanted_replicas(service), weights)
    tried = {
        one.name: weights[one.name]
        for one in service.spec.revisions
        if shares[one.name] or template_hash(service, one) in known
    }
    if not any(tried.values()) or sum(tried.values()) == sum(weights.values()):
        return service
    left = split(sum(weights.values()), tried)
    revisions = tuple(one.model_copy(update={"weight": left.get(one.name, 0)}) for one in service.spec.revisions)
    return service.model_copy(update={"spec": service.spec.model_copy(update={"revisions": revisions})})


def _made_from(observed: ObservedService, pod: PodView) -> Revision | None:
    """The revision of the spec that the pod was made from; None: of none as it is now."""
    name = pod.label(names.REVISION)
    revision = next((one for one in observed.service.spec.revisions if one.name == name), None)
    same = revision is not None and is_made_from(observed.service, revision, pod, observed.whole)
    return revision if same else None


def _is_before(observed: ObservedService, last: InferenceService, now: float) -> bool:
    """Whether the spec asks for something new of which there is no replica yet."""
    service = observed.service
    same = (made_from(service), made_from(_without_untried(service, _known(observed, last, now))))
    new = _pieces(service) - _pieces(last)
    there = (_made_from(observed, pod) for pod in observed.pods)
    return made_from(last) not in same and not any(
        (one.name, template_hash(service, one)) in new for one in there if one is not None
    )


def _written(revision: Revision) -> dict[str, Any]:
    # The template as it is: an explicit null in it is not the same text as none.
    return {**to_object(revision), "template": revision.template}


def _pieces(service: InferenceService) -> set[tuple[str, str]]:
    """Name and hash of each revision; several revisions may have one template."""
    return {(revision.name, template_hash(service, revision)) for revision in service.spec.revisions}


def _hashes(service: InferenceService, *, wanted: bool = False) -> set[str]:
    """Hashes of the templates; ``wanted``: of those with a weight."""
    weights = service.spec.weights()
    return {key for name, key in _pieces(service) if weights[name] or not wanted}


def _failure(observed: ObservedService, work: set[str]) -> FailedRollout | None:
    """The rollout that a replica shows not to work; None while there is hope, or nothing new is rolled out.

    ``work`` are the hashes of templates that are known to work.
    """
    wanted = _hashes(observed.service, wanted=True)
    for pod in sorted(observed.pods, key=lambda item: item.name):
        crash = crash_of(pod)
        if crash is None or crash.restarts < MOST_RESTARTS or pod.terminating:
            continue
        revision = _made_from(observed, pod)
        key = "" if revision is None else template_hash(observed.service, revision)
        if key in wanted and key not in work:
            return FailedRollout(templates=(key,), message=str(crash))
    return None
