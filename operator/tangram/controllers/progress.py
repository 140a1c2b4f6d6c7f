"""Since when a service has not come nearer to what its spec asks for, as a Deployment's progress deadline counts it."""

from dataclasses import replace

from tangram.api.phases import ServicePhase
from tangram.controllers.observed import ObservedService
from tangram.controllers.reasons import Why
from tangram.controllers.rollout import Replicas
from tangram.controllers.service_status import State
from tangram.units import duration_seconds, rfc3339, timestamp_seconds

_ON_THE_WAY = (ServicePhase.PENDING, ServicePhase.PROGRESSING)
_WAITS = (Why.WAITING_FOR_MODEL, Why.ROLLOUT_PAUSED)
"""Reasons of who is not expected to come nearer."""


def with_deadline(observed: ObservedService, groups: list[Replicas], state: State, now: float) -> State:
    """The state with the time of the last progress, and stalled where that is longer ago than the deadline.

    Progress is another spec, one more replica of the present template, one more that is ready, one fewer of an older
    template. A service that was ready and has lost replicas since has no deadline.
    """
    if state.stalled or state.phase not in _ON_THE_WAY or state.reason in _WAITS:
        return state
    since = observed.status.progress_time
    if since is None or _came_nearer(observed, groups):
        since = rfc3339(now)
    state = replace(state, progress_time=since)
    left = time_left(observed, state, now)
    if left is None or left > 0:
        return state
    limit = observed.service.spec.progress_deadline
    text = f"no progress for {limit}: {state.message}"
    return replace(state, stalled=True, stuck=(Why.PROGRESS_DEADLINE, text))


def time_left(observed: ObservedService, state: State, now: float) -> float | None:
    """Seconds until the state counts as stalled; None when it never does."""
    if state.progress_time is None:
        return None
    limit = duration_seconds(observed.service.spec.progress_deadline)
    return timestamp_seconds(state.progress_time) + limit - now


def _came_nearer(observed: ObservedService, groups: list[Replicas]) -> bool:
    before = observed.status
    updated = sum(len(group.fresh) for group in groups)
    outdated = sum(len(group.old) for group in groups)
    return (
        before.observed_generation != observed.service.metadata.generation
        or updated > before.updated_replicas
        or sum(group.ready() for group in groups) > before.ready_replicas
        or outdated < before.replicas - before.updated_replicas
    )
