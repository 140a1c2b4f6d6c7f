"""The life of a TrainingJob: what to do next, from what is seen now. Pure; the same view gives the same answer.

The rules of this file:

- All replicas exist together: a gang that has lost a member it needs, or of which one failed, starts again as a whole.
- The number of the attempt is ``restarts + uncountedRestarts`` of the status, and each pod carries that for which it
  was made. The status is written before anything is deleted: a crash in between loses nothing and counts
  nothing twice, and pods that are left of what was suspended are never joined by new ones.
- New pods are created only when every pod of an earlier attempt is gone, because names are the same.
- Failed pods of the last attempt stay until the pause before the next one is over; their end is the clock of the pause,
  and their logs can be read for so long.
- What a status remembers and cannot be read, or is lost, is asked about and never guessed.
- Nothing is concluded from pods of a local copy, or from what it lacks, before the server has been asked (``Confirm``).
"""

from dataclasses import replace

from tangram import errors
from tangram.api import names
from tangram.api.common import to_object
from tangram.api.phases import TRAINING_JOB, ConditionType, JobPhase, condition, ended_as
from tangram.api.training import TrainingJob, TrainingStatus
from tangram.api.views import PodView
from tangram.cluster.paths import PODS, TRAINING_JOBS
from tangram.controllers import accounting, manifests
from tangram.controllers.actions import Action, Confirm, Create, Delete, Patch, RecordEvent, Ref, Requeue, SetStatus
from tangram.controllers.job_status import Said, describe, progress_of, with_phase
from tangram.controllers.observed import ObservedJob
from tangram.controllers.reasons import Why
from tangram.controllers.status import (
    Conditions,
    advance,
    change_status,
    failure_events,
    failures_of,
    ref_of,
    shorten,
    unreadable,
)
from tangram.controllers.verdict import (
    Members,
    Verdict,
    attempt_number,
    attempt_of,
    broken,
    judge,
    shows_to_have_run,
    sort_out,
    success_roles,
)
from tangram.units import duration_seconds, rfc3339, timestamp_seconds

_MOST_PAUSE = 300.0
_MOST_BELIEVED = 99_999
"""Attempts that a job may have had by what its pods say; what says more was not written by us."""
_FINAL = (JobPhase.COMPLETE, JobPhase.FAILED)
_MEMORY = {
    "restarts", "uncountedRestarts", "resumes", "suspendedAttempt", "suspendedReplicas", "startedAttempt", "startTime",
    "completionTime", "gpuSeconds", "held", "accountedTime",
}  # fmt: skip
"""What a status alone remembers; the rest, the phase too, is worked out afresh."""
_REMEMBERED = "restarts"
"""In every status that we have written from pods."""
_TO_CORRECT = (
    "nothing is done for the job until it can be: by a controller of the version that wrote it, or once it is "
    "corrected (kubectl edit --subresource=status)"
)
_TO_RUN_AGAIN = (
    "the job has run before, and its status is lost, as after a restored backup: whether it has ended is not known; to "
    f"have it run again: kubectl annotate trainingjob/{{}} {names.STARTED}-"
)


def reconcile(observed: ObservedJob, now: float) -> tuple[Action, ...]:
    """What to do for the job at ``now`` (seconds since the epoch)."""
    job, status = observed.job, observed.status
    if job.metadata.deletion_timestamp is not None:
        return ()  # what it owns goes with it
    fault = unreadable(TrainingStatus, observed.stored, _MEMORY)
    ended = status.completion_time is not None or ended_as(status.conditions) is not None
    if fault and not ended:  # of one that has ended nothing has to be decided
        return _ask(observed, Why.STATUS_UNREADABLE, f"{fault}; {_TO_CORRECT}", now)
    observed = _not_behind_its_pods(observed)
    return _after_the_end(observed, now) if ended else _before_the_end(observed, now)


def _before_the_end(observed: ObservedJob, now: float) -> tuple[Action, ...]:
    job, status = observed.job, observed.status
    attempt = attempt_number(status)
    cut, suspend = _is_cut(observed, attempt), job.spec.run_policy.suspend
    if cut and not suspend and not observed.fresh:  # what is left of the gang, a late copy may not show
        return (Confirm(),)
    running = _was_running(observed, attempt) or shows_to_have_run(observed.pods, attempt)
    members = sort_out(job, observed.pods, attempt, running=running)
    verdict = _verdict(observed, members, cut, now)
    if _is_lost(observed) and (verdict is None or verdict.ending != "complete"):
        return _ask(observed, Why.STATUS_LOST, _TO_RUN_AGAIN.format(job.metadata.name), now)
    if verdict is None or verdict.ending not in ("complete", "fail"):
        if suspend:
            return _suspend(observed, cut, now)
        if cut and _is_incomplete(job, status, members):
            return _resume(observed, now)
    if cut:
        forgotten = status.model_copy(update={"suspended_attempt": None, "suspended_replicas": None})
        observed = replace(observed, status=forgotten)
    if verdict is None and running:
        verdict = broken(job, members, observed.failures)
    return _go_on(observed, members, now) if verdict is None else _carry_out(observed, members, verdict, now)


def _verdict(observed: ObservedJob, members: Members, cut: bool, now: float) -> Verdict | None:
    """What the ends of pods mean for the job, and its deadline; ``cut``: a suspension may have deleted some of them."""
    job, status = observed.job, observed.status
    judged = judge(job, members, status.restarts, placed=_placed_before(job, status) if cut else 1)
    if cut and judged is not None and judged.ending != "complete":
        judged = None  # the peers of pods that a suspension has deleted may fail for it
    return judged if _in_time(job, status, members, judged) else _deadline(job, status, now) or judged


def _carry_out(observed: ObservedJob, members: Members, verdict: Verdict, now: float) -> tuple[Action, ...]:
    if not observed.fresh:  # what looks like a failure may have been a success since
        return (Confirm(),)
    if verdict.ending in ("complete", "fail"):
        return _end(observed, members, verdict, now)
    return _restart(observed, members, verdict, now)


def _is_cut(observed: ObservedJob, attempt: int) -> bool:
    """Whether a suspension may have deleted pods of the attempt, and nobody has resumed the job since.

    Another version of the controller may have resumed it, in the same attempt, or may have suspended it without keeping
    in mind which attempt that was.
    """
    status = observed.status
    found = condition(status.conditions, ConditionType.SUSPENDED)
    if found is None or found.status != "True":
        return False
    if status.suspended_attempt is None:
        return "resumes" not in observed.stored and names.STARTED in observed.job.metadata.annotations
    return status.suspended_attempt == attempt


def _placed_before(job: TrainingJob, status: TrainingStatus) -> int:
    """Replicas of the elastic role that had a place when the suspension began; all wanted ones where nobody knows."""
    elastic = job.spec.elastic
    if elastic is None:
        return 1
    return elastic.replicas if status.suspended_replicas is None else status.suspended_replicas


def _is_incomplete(job: TrainingJob, status: TrainingStatus, members: Members) -> bool:
    """Whether the suspension has deleted replicas that the gang cannot do without."""
    elastic = job.spec.elastic
    if any(pod.terminating for pod in members.leaving):
        return True
    if any(elastic is None or role.name != elastic.role for role, _ in members.missing):
        return True
    if elastic is None:
        return False
    there = sum(pod.label(names.ROLE) == elastic.role for pod in (*members.current, *members.leaving))
    return there < _placed_before(job, status)


def _resume(observed: ObservedJob, now: float) -> tuple[Action, ...]:
    """Begin the next attempt, where the suspension has deleted pods. It may not have deleted all of them: those that
    are left belong to the attempt before."""
    status = observed.status
    changed = {
        "uncounted_restarts": status.uncounted_restarts + 1,
        "resumes": status.resumes + 1,
        "suspended_attempt": attempt_number(status),
        "suspended_replicas": None,
    }
    observed = replace(observed, status=status.model_copy(update=changed))
    members = sort_out(observed.job, observed.pods, attempt_number(observed.status), running=False)
    return _go_on(observed, members, now)


def _is_lost(observed: ObservedJob) -> bool:
    """Whether a job that has run before has no status, and no pod that would go on."""
    ran = names.STARTED in observed.job.metadata.annotations and _REMEMBERED not in observed.stored
    return ran and all(pod.ended for pod in observed.pods)


def _was_running(observed: ObservedJob, attempt: int) -> bool:
    """Whether the gang of the attempt has run, as the status remembers it. One that was written before there was a
    ``startedAttempt``, or is stored by a definition without it, has only its phase to say so."""
    status = observed.status
    if "startedAttempt" not in observed.stored:
        return status.phase is JobPhase.RUNNING
    return status.started_attempt == attempt


def _ask(observed: ObservedJob, reason: str, message: str, now: float) -> tuple[Action, ...]:
    """Do nothing but say what a person has to decide; what is stored of the status stays as it is."""
    job = observed.job
    conditions = Conditions(observed.status.conditions, job.metadata.generation, now)
    conditions.set(ConditionType.READY, False, reason, message)
    conditions.set(ConditionType.RECONCILING, False, reason, message)
    conditions.set(ConditionType.STALLED, True, reason, message)
    said = {"conditions": [to_object(one) for one in conditions.value], "reason": reason, "message": shorten(message)}
    change = {key: value for key, value in said.items() if observed.stored.get(key) != value}
    if not change:
        return ()
    ref = ref_of(TRAINING_JOBS, job.metadata)
    return SetStatus(ref, change, job.metadata.resource_version), RecordEvent(ref, reason, message, warning=True)


def _not_behind_its_pods(observed: ObservedJob) -> ObservedJob:
    """With the attempt that its pods were made for, where the status knows of fewer: one that was lost, say. Else
    pods of a gang that runs would count as those of an earlier attempt."""
    status = observed.status
    said = (number for pod in observed.pods if (number := attempt_of(pod)) <= _MOST_BELIEVED)
    lacking = max(said, default=0) - attempt_number(status)
    if lacking <= 0:
        return observed
    more = status.model_copy(update={"uncounted_restarts": status.uncounted_restarts + lacking})
    return replace(observed, status=more)


def _mark_as_started(observed: ObservedJob) -> tuple[Patch, ...]:
    """Write on the job itself that it has begun: a backup may bring it back without its status."""
    metadata = observed.job.metadata
    if names.STARTED in metadata.annotations:
        return ()
    content = {"metadata": {"annotations": {names.STARTED: "true"}}}
    return (Patch(ref_of(TRAINING_JOBS, metadata), content),)


def pause_before(attempt: int) -> float:
    """Seconds between a failure and the start of attempt number ``attempt``: 1, 2, 4 ... up to five minutes."""
    return 0.0 if attempt <= 0 else min(_MOST_PAUSE, 2.0 ** min(attempt - 1, 20))


def _pause(status: TrainingStatus) -> float:
    """Seconds before the start of the present attempt; none after a suspension, which is nobody's failure."""
    attempt = attempt_number(status)
    return 0.0 if status.suspended_attempt == attempt - 1 else pause_before(attempt - status.resumes)


def _deadline(job: TrainingJob, status: TrainingStatus, now: float) -> Verdict | None:
    left = _time_left(job, status, now)
    if left is None or left > 0:
        return None
    limit = job.spec.run_policy.active_deadline
    return Verdict("fail", Why.DEADLINE, f"the job did not end within {limit} of its start")


def _in_time(job: TrainingJob, status: TrainingStatus, members: Members, judged: Verdict | None) -> bool:
    """Whether the job is complete and was before its deadline, however late that is seen."""
    if judged is None or judged.ending != "complete":
        return False
    roles = success_roles(job)
    ends = [pod.ended_at for pod in members.current if pod.ended and pod.label(names.ROLE) in roles]
    if status.start_time is None or not all(ends):  # when one ended is not known
        return False
    left = _time_left(job, status, max(ends))
    return left is None or left >= 0


def _time_left(job: TrainingJob, status: TrainingStatus, now: float) -> float | None:
    limit = job.spec.run_policy.active_deadline
    if limit is None or status.start_time is None:
        return None
    return timestamp_seconds(status.start_time) + duration_seconds(limit) - now


def _go_on(observed: ObservedJob, members: Members, now: float) -> tuple[Action, ...]:
    """Create what is missing, remove what is too much, and say how far the job is."""
    job, status = observed.job, observed.status
    attempt = attempt_number(status)
    stale, wait = _remove_stale(members, _pause(status), now)
    try:
        creations = _creations(observed, members, attempt)
    except errors.InvalidInput as error:
        return _write(observed, members, Said(JobPhase.PENDING, Why.INVALID_SPEC, str(error), stalled=True), now)
    extra = tuple(_delete(pod, "the role has fewer replicas now") for pod in members.leaving if not pod.terminating)
    failures = failures_of(members.current, observed.failures)
    phase, reason, message = progress_of(job, members, status, attempt, failures)
    if observed.refused:
        reason, message = Why.REFUSED.value, observed.refused
    written = _write(observed, members, Said(phase, reason, message, bool(observed.refused)), now)
    waits = [wait, _time_left(job, status, now), accounting.next_settlement(_account_of(observed, members, now), now)]
    return (*written, *stale, *extra, *_mark_as_started(observed), *creations, *_requeue(waits))


def _creations(observed: ObservedJob, members: Members, attempt: int) -> tuple[Create, ...]:
    job = observed.job
    found: list[Create] = []
    if manifests.gang_service_name(job.metadata.name) not in {service.name for service in observed.services}:
        found.append(Create(manifests.job_service(job)))
    if members.stale or not members.missing:
        return tuple(found)
    elastic = job.spec.elastic
    done = {pod.label(names.ROLE) for pod in members.current if pod.status.phase == "Succeeded"}
    wanted = {
        (role.name, index)
        for role, index in members.missing
        if not (elastic is not None and role.name == elastic.role and role.name in done)
    }
    gang = manifests.gang_of(job, attempt)
    found += [
        Create(manifests.job_pod(job, gang, member, observed.scheduler_name))
        for member in gang.members
        if (member.role, member.index) in wanted
    ]
    return tuple(found)


def _remove_stale(members: Members, pause: float, now: float) -> tuple[tuple[Delete, ...], float | None]:
    """Deletions of pods from before, and the seconds until the next of them is due."""
    due: list[Delete] = []
    wait: float | None = None
    for pod in members.stale:
        left = pod.finished + pause - now if pod.ended else 0.0
        if pod.terminating:
            continue
        if left <= 0:
            due.append(_delete(pod, "it belongs to an earlier attempt"))
        else:
            wait = left if wait is None else min(wait, left)
    return tuple(due), wait


def _suspend(observed: ObservedJob, cut: bool, now: float) -> tuple[Action, ...]:
    """Stop what runs; ``cut``: that has begun before. Pods that have ended hold nothing, and go when no other can end
    any more: one that does so before it is deleted may be what completes the job."""
    job = observed.job
    there = [pod for pod in observed.pods if not pod.terminating]
    going = [pod for pod in there if not pod.ended] or there
    if not observed.fresh and ((going and not cut) or any(pod.ended for pod in going)):
        return (Confirm(),)
    deletions = tuple(_delete(pod, "the job is suspended") for pod in going)
    leaving = Members((), observed.pods, (), ())
    message = "the job is suspended; set spec.runPolicy.suspend to false to go on"
    changed: dict[str, object] = {"started_attempt": None}
    attempt, elastic = attempt_number(observed.status), job.spec.elastic
    if not cut and (own := [pod for pod in observed.pods if attempt_of(pod) == attempt]):
        placed = [pod for pod in own if not pod.terminating and (pod.bound or pod.ended)]
        changed["suspended_attempt"] = attempt
        changed["suspended_replicas"] = elastic and sum(pod.label(names.ROLE) == elastic.role for pod in placed)
    status = observed.status.model_copy(update=changed)
    written = _write(observed, leaving, Said(JobPhase.SUSPENDED, Why.SUSPENDED, message), now, status)
    return (*written, *deletions, *_requeue([_time_left(job, observed.status, now)]))


def _restart(observed: ObservedJob, members: Members, verdict: Verdict, now: float) -> tuple[Action, ...]:
    status = observed.status
    counted = verdict.ending == "restart"
    status = status.model_copy(
        update={
            "restarts": status.restarts + counted,
            "uncounted_restarts": status.uncounted_restarts + (not counted),
        }
    )
    # Pods that still run hold GPUs for nothing: they go at once, whatever the pause before the next attempt.
    deletions = [
        _delete(pod, "the gang starts again")
        for pod in (*members.current, *members.leaving)
        if not pod.terminating and not pod.ended
    ]
    said = Said(JobPhase.RESTARTING, verdict.reason, verdict.message)
    written = _write(observed, members, said, now, status)
    return (*written, *deletions, Requeue(_pause(status)))


def _end(observed: ObservedJob, members: Members, verdict: Verdict, now: float) -> tuple[Action, ...]:
    status = observed.status
    phase = JobPhase.COMPLETE if verdict.ending == "complete" else JobPhase.FAILED
    said = Said(phase, verdict.reason, verdict.message)
    status = status.model_copy(update={"completion_time": rfc3339(now)})
    written = _write(observed, members, said, now, status)
    return (*written, *_clean_up(observed), *_requeue([_lifetime_left(observed.job, status, now)]))


def _after_the_end(observed: ObservedJob, now: float) -> tuple[Action, ...]:
    job, status = observed.job, observed.status
    left = _lifetime_left(job, status, now)
    if left is not None and left <= 0:
        return (Delete(ref_of(TRAINING_JOBS, job.metadata), "its time after the end is over"),)
    members = Members(tuple(observed.pods), (), (), ())
    closed = describe(observed.job, status, members, _account_of(observed, members, now), ended=True)
    kept = (*_MEMORY, "phase", "conditions")
    unread = {field for field in kept if unreadable(TrainingStatus, observed.stored, {field})}
    written = change_status(TRAINING_JOBS, job.metadata, observed.stored, closed, unread)
    return (*written, *_mark_as_started(observed), *_clean_up(observed), *_requeue([left]))


def _lifetime_left(job: TrainingJob, status: TrainingStatus, now: float) -> float | None:
    limit = job.spec.run_policy.ttl_after_finished
    if limit is None or status.completion_time is None:
        return None
    return timestamp_seconds(status.completion_time) + duration_seconds(limit) - now


def _clean_up(observed: ObservedJob) -> tuple[Delete, ...]:
    policy = observed.job.spec.run_policy.clean_pod_policy
    if policy == "None":
        return ()
    return tuple(
        _delete(pod, "the job has ended")
        for pod in observed.pods
        if not pod.terminating and (policy == "All" or not pod.ended)
    )


def _write(
    observed: ObservedJob,
    members: Members,
    said: Said,
    now: float,
    status: TrainingStatus | None = None,
) -> tuple[Action, ...]:
    """The status for a phase, with an Event when the phase is another one than before."""
    job, old = observed.job, observed.status
    step = advance(TRAINING_JOB, old.phase, said.phase, JobPhase.PENDING)
    account = _account_of(observed, members, now, closing=said.phase in _FINAL)
    new = describe(job, status or old, members, account, ended=False)
    failures = failures_of(members.current, observed.failures)
    new = with_phase(new, job, replace(said, phase=step), now, failures)
    written = change_status(TRAINING_JOBS, job.metadata, observed.stored, new)
    ref = ref_of(TRAINING_JOBS, job.metadata)
    events = failure_events(ref, old.conditions, failures)
    if written and step != old.phase:
        warning = step in (JobPhase.FAILED, JobPhase.RESTARTING)
        events = (RecordEvent(ref, str(step), f"{said.reason}: {said.message}", warning), *events)
    return (*written, *events)


def _account_of(observed: ObservedJob, members: Members, now: float, *, closing: bool = False) -> accounting.Account:
    status = observed.status
    account = accounting.Account(status.gpu_seconds, status.held, status.accounted_time)
    holders = members.current + members.leaving + members.stale if not closing else ()
    other = accounting.unseen(account, observed.pods, now)
    return accounting.accrue(account, accounting.held_milli(holders), now, other, closing=closing)


def _requeue(waits: "list[float | None]") -> tuple[Requeue, ...]:
    due = [wait for wait in waits if wait is not None]
    return (Requeue(max(0.1, min(due))),) if due else ()


def _delete(pod: PodView, reason: str) -> Delete:
    """Delete a pod as it was judged: one that has ended meanwhile may be what completes the job."""
    ref = Ref(PODS, pod.name, pod.metadata.namespace, pod.metadata.uid)
    return Delete(ref, reason, pod.metadata.resource_version)
