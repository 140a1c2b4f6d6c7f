"""Doing what a reconcile asked for: the one place where the controllers write.

Actions are done in their order; neighbours that create or delete are done together. After one that fails nothing more
is done: the next reconcile decides again. What the server refuses (a quota, a rule, a name that is taken) takes a
change elsewhere, for which nothing else waits: after a refused creation only further ones are left out.
"""

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tangram import errors
from tangram.api import names
from tangram.api.objects import Metadata
from tangram.api.views import OwnedView, controller_of
from tangram.cluster import objects
from tangram.cluster.events import Recorder, Regarding
from tangram.cluster.outcome import Outcome, Result
from tangram.cluster.paths import INFERENCE_SERVICES, TRAINING_JOBS, Resource
from tangram.cluster.permit import ALWAYS, Permit
from tangram.cluster.rest import Client
from tangram.cluster.writers import patch_status
from tangram.controllers.actions import Action, Create, Delete, Patch, RecordEvent, Ref, Requeue, SetStatus
from tangram.controllers.observed import MANAGED_BY
from tangram.controllers.reasons import Why

_log = logging.getLogger(__name__)

CONCURRENCY = 16
"""Creations or deletions of one object's pods that are on their way at a time."""
_FOUND_BY = (MANAGED_BY, names.JOB, names.SERVICE)
"""Labels by which our watches and lists find what we have made."""


@dataclass(frozen=True, slots=True)
class Applied:
    """How far the actions came."""

    done: int = 0
    """Writes that succeeded."""
    requeue: float | None = None
    """Seconds after which the reconcile wants to run again."""
    refused: str = ""
    """The server's words when it would not let something be created, or done: it takes a change elsewhere."""
    failed: str = ""
    """What went wrong in a way that another attempt may heal; empty when nothing did."""
    owner: Mapping[str, Any] | None = None
    """The object for which all this was done, as the last write to it has left it; None when there was none."""


class Applier:
    """Applies actions of one reconcile while ``permit`` holds, which is of the term in which it began."""

    def __init__(self, client: Client, recorder: Recorder | None, permit: Permit = ALWAYS) -> None:
        self._client, self._recorder, self._permit = client.under(lambda: permit), recorder, permit

    async def apply(self, actions: Sequence[Action]) -> Applied:
        """Do the actions; see the rules above."""
        requeue = min((action.seconds for action in actions if isinstance(action, Requeue)), default=None)
        done, refused, full = 0, "", False
        owner: Mapping[str, Any] | None = None
        for group in _neighbours(actions):
            creates = isinstance(group[0], Create)
            if creates and full:
                continue
            outcomes = await self._together(group)
            done += sum(outcome.done for outcome in outcomes)
            _say(group, outcomes)
            bad = [outcome for outcome in outcomes if outcome.result is not Result.DONE]
            refused = refused or next((item.message for item in bad if item.result is Result.REFUSED), "")
            full = full or (creates and bool(bad))
            failed = next((item for item in bad if item.result is not Result.REFUSED), None)
            if isinstance(group[0], SetStatus) and bad:  # what follows would be forgotten, or done twice
                failed = failed or bad[0]
            if failed is not None:
                return Applied(done, requeue, refused, failed.message or failed.result)
            if _is_to_owner(group[0]) and not bad:
                owner = outcomes[-1].object()
        return Applied(done, requeue, refused, owner=owner)

    async def _together(self, group: Sequence[Action]) -> list[Outcome]:
        if len(group) == 1:
            return [await self._one(group[0])]
        limit = asyncio.Semaphore(CONCURRENCY)

        async def one(action: Action) -> Outcome:
            async with limit:
                return await self._one(action)

        return await asyncio.gather(*(one(action) for action in group))

    async def _one(self, action: Action) -> Outcome:
        if isinstance(action, RecordEvent):
            self._record_event(action)
            return Outcome(Result.DONE)
        work = self._work(action)
        if work is None:
            return Outcome(Result.DONE)
        outcome = await work
        if not outcome.done and not self._permit.holds:
            return Outcome(Result.FAILED, "the Lease is not held any more")
        if outcome.done or outcome.result is Result.CONFLICT:  # a conflict only means: reconcile again
            _log.debug("%s: %s", action, outcome.result)
        else:
            _log.warning("%s: %s: %s", action, outcome.result, outcome.message)
        return outcome

    def _work(self, action: Action) -> Awaitable[Outcome] | None:
        match action:
            case Create():
                return self._create(action)
            case Delete():
                return self._delete(action)
            case Patch(ref=ref, content=content):
                return self._patch(ref, dict(content))
            case SetStatus():
                return self._set_status(action)
        return None

    async def _create(self, action: Create) -> Outcome:
        outcome = await objects.create(self._client, action.manifest, strict=True)
        for warning in outcome.warnings:
            self._record_event(RecordEvent(action.owner, Why.SERVER_WARNING, f"{action.kind}: {warning}", warning=True))
        if outcome.result is Result.CONFLICT:
            return await self._is_ours(action, outcome)
        if outcome.result is Result.GONE:  # the namespace
            return Outcome(Result.FAILED, outcome.message)
        return outcome

    async def _is_ours(self, action: Create, conflict: Outcome) -> Outcome:
        """Whether the object that has the name is the one that we wanted to create."""
        metadata = action.manifest["metadata"]
        owner = metadata["ownerReferences"][0]["uid"]
        resource = objects.resource_for(action.manifest)
        try:
            where = metadata["name"], metadata["namespace"]
            there = await objects.get_as(self._client, resource, *where, kind=OwnedView)
        except errors.TangramError as error:
            return Outcome(Result.FAILED, str(error))
        if there is None:
            return Outcome(Result.FAILED, conflict.message)
        found = controller_of(there.metadata)
        if found is not None and found.uid == owner:
            return self._is_seen(resource, action, there.metadata)
        if there.metadata.deletion_timestamp is not None:
            return _is_leaving(resource, there.metadata)
        other = "somebody else" if found is None else f"{found.kind} {found.name}"
        text = f"the name {metadata['name']} is taken: a {resource.kind} of {other} has it"
        if found is None and _lost_label(action, there.metadata) is None:
            delete = f"kubectl delete {resource.kind.lower()} -n {metadata['namespace']} {metadata['name']}"
            text = f"{resource.kind} {metadata['name']} was left behind by a {action.owner.resource.kind} of this name "
            text += f"that was deleted with --cascade=orphan: delete it ({delete})"
        return Outcome(Result.REFUSED, text)

    def _is_seen(self, resource: Resource, action: Create, there: Metadata) -> Outcome:
        """Whether an object of ours still has the labels by which it is found."""
        lost = _lost_label(action, there)
        if lost is None:
            return Outcome(Result.DONE)
        if there.deletion_timestamp is not None:
            return _is_leaving(resource, there)
        text = f"{resource.kind} {there.name} has lost its label {lost}: put it back, or delete it"
        return Outcome(Result.REFUSED, text)

    async def _delete(self, action: Delete) -> Outcome:
        ref, version = action.ref, action.resource_version
        path = ref.resource.path(ref.name, ref.namespace)
        outcome = await objects.delete(self._client, path, uid=ref.uid, resource_version=version)
        if not self._permit.holds:
            return outcome
        # Gone, or another object under the same name: either way this one is no more. One that has changed since it
        # was judged is still there.
        over = (Result.GONE,) if version else (Result.GONE, Result.CONFLICT)
        return Outcome(Result.DONE) if outcome.result in over else outcome

    async def _patch(self, ref: Ref, content: dict[str, object]) -> Outcome:
        # With the uid in it a patch of an object that was created again is refused instead of done to a stranger.
        metadata = {**_as_dict(content.get("metadata")), "uid": ref.uid}
        content = {**content, "metadata": metadata}
        return await objects.patch(self._client, ref.resource.path(ref.name, ref.namespace), content)

    async def _set_status(self, action: SetStatus) -> Outcome:
        metadata = {"uid": action.ref.uid}
        if action.resource_version:
            metadata["resourceVersion"] = action.resource_version
        path = _path(action.ref.resource, action.ref)
        return await patch_status(self._client, path, {"metadata": metadata, "status": dict(action.change)})

    def _record_event(self, action: RecordEvent) -> None:
        if self._recorder is None:
            return
        ref = action.ref
        about = Regarding(ref.resource.api_version, ref.resource.kind, ref.name, ref.namespace, ref.uid)
        self._recorder.record(about, action.reason, action.note, action="Reconciling", warning=action.warning)


def _say(group: Sequence[Action], outcomes: Sequence[Outcome]) -> None:
    """One line for what was created or deleted, however much it was."""
    if not isinstance(group[0], Create | Delete) or not any(outcome.done for outcome in outcomes):
        return
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    _log.info("%s%s", group[0], more)


def _is_leaving(resource: Resource, there: Metadata) -> Outcome:
    """What has the name gives it back soon: nobody has to do anything."""
    return Outcome(Result.FAILED, f"{resource.kind} {there.name} is being deleted, and has the name until it is gone")


def _lost_label(action: Create, there: Metadata) -> str | None:
    """The first label by which what is to be created would be found, and what is there is not."""
    labels = action.manifest["metadata"]["labels"]
    lost = (key for key in _FOUND_BY if key in labels and there.labels.get(key) != labels[key])
    return next((f"{key}={labels[key]}" for key in lost), None)


def _is_to_owner(action: Action) -> bool:
    """Whether the action writes to the object for which the reconcile was."""
    return isinstance(action, SetStatus | Patch) and action.ref.resource in (TRAINING_JOBS, INFERENCE_SERVICES)


def _as_dict(value: object) -> dict[str, object]:
    return dict(value) if isinstance(value, dict) else {}


def _path(resource: Resource, ref: Ref) -> str:
    return resource.path(ref.name, ref.namespace)


def _neighbours(actions: Iterable[Action]) -> Iterable[list[Action]]:
    """Actions in order, those that may be done together in one list."""
    alone = itertools.count(1)

    def group(action: Action) -> int:
        # The headless Service of a gang comes with its pods: they cannot start without each other anyway.
        return {Create: -1, Delete: -2}.get(type(action)) or next(alone)

    for _, together in itertools.groupby(actions, group):
        yield list(together)
